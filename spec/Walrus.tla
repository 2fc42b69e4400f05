------------------------------- MODULE Walrus -------------------------------
(***************************************************************************)
(* The data plane of Walrus: how entries get into a topic, stay in it, and *)
(* come out again, whatever crashes, lags or comes late.                   *)
(*                                                                         *)
(* A topic is a list of segments, numbered from 1. All but the last are    *)
(* sealed: their count is metadata and never changes. The last is open and *)
(* has one leader, in one incarnation (process start), which alone         *)
(* originates entries. Changing the leader means sealing the segment and   *)
(* opening the next, so the segment number is the fencing token.           *)
(*                                                                         *)
(* Raft (Raft.tla) appears here only as what it gives: `metadata`, which   *)
(* changes one committed command at a time, and for each node a `view` of  *)
(* it, which may be old. Nothing here reads the view of another node, and  *)
(* a node acts on its view only, so a stale leader that still believes is  *)
(* an ordinary thing. A Raft log interleaves the topics' commands; nothing *)
(* depends on the interleaving, so each node's views of different topics   *)
(* lag independently here, which is more than the code can do.             *)
(*                                                                         *)
(* The network. A message that was sent once may arrive at any later time, *)
(* again, or never. So messages are sets that only grow (`stream`,         *)
(* `matched`, `answers`, `decided`, `copied`, `proposals`, `given`):       *)
(* taking one out is never needed, losing one is not taking the step that  *)
(* reads it, and a node that dies in the middle of something simply takes  *)
(* no further step. That is also why a recovery has no state of its own:   *)
(* it is what its messages say, any node may run one, and two at once are  *)
(* two choices made from the same answers.                                 *)
(*                                                                         *)
(* The disk. `Crash` (kill -9) loses no byte: the kernel has them all.     *)
(* `LosePower` cuts copies back: with FsyncEach to no less than what was   *)
(* synced, which is all that was ever reported; without it to anything.    *)
(* `Damage` makes the rest of a copy unreadable, from some entry on.       *)
(*                                                                         *)
(* Left out: time, the choice of the next leader and of replica sets (any  *)
(* that are large enough are allowed), payloads, and the order of one      *)
(* client's appends across segments, which is Order.tla.                   *)
(*                                                                         *)
(* Variables marked PROOF are history: no action reads them to decide.     *)
(* Names of actions and invariants are the code's, by the table in         *)
(* docs/spec-map.md. walrus/tlc/mutants.py has the bugs that each          *)
(* configuration must refuse.                                              *)
(***************************************************************************)
EXTENDS Naturals, Sequences, FiniteSets, TLC

CONSTANTS
    Node, Topic,
    Group,               \* consumer groups; {} leaves cursors and delivery out
    ReplicationFactor,
    MaxSegments,         \* per topic
    MaxEntries,          \* per segment: the writer takes no more
    SealAt,              \* the writer may roll over from this many entries on
    WriteTo,             \* segments above this number stay empty
    MayLead,             \* the nodes that segments are opened at
    Begun,               \* TRUE: a behaviour begins when all topics are registered, and all nodes know it
    FsyncEach,           \* TRUE: acknowledge only what is synced (--fsync each)
    Faults,              \* which of "crash", "death", "expiry", "removal", "force", "replicas" happen,
    MaxFaults,           \* and how many of them
    Losses,              \* which of "power", "damage", "decay" happen,
    MaxLosses,           \* and how many of them
    Chores               \* which of "recovery" (of a healthy leader's segment), "checkpoint" and
                         \* "commit" (of cursors, besides those in a seal) there are

VARIABLES
    \* What Raft has committed.
    metadata,     \* metadata[t]: [segments, sealed_total, cursors]
    members,      \* the nodes that are members of the cluster
    announced,    \* announced[n]: the incarnation of n that the metadata knows
    \* Each node.
    view,         \* view[n][t]: how many of t's segments n knows of
    checkpoint,   \* checkpoint[n][t]: how many n knows of from the beginning of any later start
    up, incarnation,
    heard,        \* heard[n]: n has heard from a Raft leader within lease_ttl
    lease,        \* lease[n][t]: the segment that n believes to lead, or 0
    \* Its copies.
    log,          \* log[n][t][s]: n's copy of the segment
    synced,       \* synced[n][t][s]: so many entries survive a power loss
    damaged,      \* damaged[n][t][s]: the first entry that cannot be read, or 0
    unsure,       \* unsure[n][t][s]: 0, or the length that makes n's shortened copy whole
    fenced,       \* fenced[n]: {<<t, s>>} for which n refuses the writer; durable
    \* The writers.
    sealing,      \* {<<t, s>>}: the writer takes nothing more
    acked,        \* acked[t][s]: the writer's commit_index: told to clients
    stream,       \* stream[t][s][i]: the entries that a writer ever sent as its i-th
    matched,      \* matched[n][t][s]: the length that n has told the writer
    \* Recoveries, and seals on their way through Raft.
    recovering,   \* {<<t, s>>}: fences are under way
    answers,      \* answers to fences: [node, topic, segment, length, sure]
    decided,      \* recoveries that chose a count: [topic, segment, count]
    copied,       \* answers to copies: [node, topic, segment, length]
    proposals,    \* seals: [topic, segment, count, cursors]
    \* Replica sets of sealed segments.
    proofs,       \* {<<n, t, s>>}: n has shown that its copy is whole
    changes,      \* changes on their way through Raft: [topic, segment, old, new, directories]
    directory,    \* directory[n]: which directory the member n keeps its copies in
    \* Readers.
    reading,      \* reading[n][t][g]: the leader's volatile cursor, or NoPosition
    handed,       \* handed[n][t][g]: where the unconfirmed delivery begins, or NoPosition
    given,        \* deliveries on their way: [topic, group, segment, start, end]
    received,     \* those of them that reached a client
    moves,        \* cursor commits on their way through Raft: [topic, group, position]
    delivered,    \* PROOF delivered[t][g]: what the group was given, redeliveries removed, or was lost
    \* History and budgets.
    sealed_as,    \* PROOF sealed_as[t][s]: the first count that was committed, or NoCount
    forced,       \* PROOF {<<t, s>>}: an operator gave up what only unsure copies may have
    budget        \* what may still go wrong, so that the state space is finite

committedVars == <<metadata, members, announced>>
nodeVars == <<view, checkpoint, up, incarnation, heard, lease>>
copyVars == <<log, synced, damaged, unsure, fenced>>
writerVars == <<sealing, acked, stream, matched>>
recoveryVars == <<recovering, answers, decided, copied, forced>>
repairVars == <<proofs, changes, directory>>
readerVars == <<reading, handed, given, received, moves, delivered>>
vars == <<committedVars, nodeVars, copyVars, writerVars, recoveryVars, repairVars, readerVars,
          proposals, sealed_as, budget>>

-----------------------------------------------------------------------------
\* Values

Segments == 1..MaxSegments
NoCount == MaxEntries + 1            \* "no count yet"; above every count, so that MIN works
NoPosition == <<0, 0>>
Start == <<1, 0>>                    \* positions are <<segment, offset>>: the next entry to read
Never == MaxEntries + 1              \* a length that no copy reaches

Entry(n, i) == [writer |-> n, incarnation |-> incarnation[n], index |-> i]

Min(a, b) == IF a < b THEN a ELSE b
Max(a, b) == IF a > b THEN a ELSE b
Majority(S, of) == Cardinality(S) * 2 > Cardinality(of)

Before(p, q) == p[1] < q[1] \/ (p[1] = q[1] /\ p[2] < q[2])
Later(p, q) == IF Before(p, q) THEN q ELSE p
Earlier(p, q) == IF Before(p, q) THEN p ELSE q

RECURSIVE SumCounts(_)
SumCounts(segments) ==
    IF segments = <<>> THEN 0 ELSE Head(segments).count + SumCounts(Tail(segments))

\* The metadata, as committed and as a node sees it.
Known(t) == Len(metadata[t].segments)
Segment(t, s) == metadata[t].segments[s]
IsOpen(t, s) == s = Known(t)
Sealed(t, s) == s <= Known(t) /\ Segment(t, s).count # NoCount
Replicas(t, s) == Segment(t, s).replicas
Length(n, t, s) == Len(log[n][t][s])

\* How much of a copy can be read.
Intact(n, t, s) == IF damaged[n][t][s] = 0 THEN Length(n, t, s) ELSE damaged[n][t][s] - 1

\* The node is the leader that this segment was opened for, in the same process start.
IsLeader(n, t, s) ==
    /\ up[n]
    /\ Segment(t, s).leader = n
    /\ Segment(t, s).incarnation = incarnation[n]

OpenedSegment(n, replicas, cursors) ==
    [leader |-> n, incarnation |-> announced[n], replicas |-> replicas,
     count |-> NoCount, cursors |-> cursors]

StartCursors == [g \in Group |-> Start]
NoCursors == [t \in Topic |-> [g \in Group |-> NoPosition]]

\* A value for each topic and segment, and for each node, topic and segment.
PerSegment(value) == [t \in Topic |-> [s \in Segments |-> value]]
PerCopy(value) == [n \in Node |-> PerSegment(value)]

\* The batches of `count` entries that the network can hand to a copy of length `from`. A frame of the
\* code holds many entries; the model checks with count = 1, traces use more.
Batches(t, s, from, count) ==
    IF from + count > Len(stream[t][s]) THEN {}
    ELSE IF count = 1 THEN {<<e>> : e \in stream[t][s][from + 1]}
    ELSE {[i \in 1..count |-> CHOOSE e \in stream[t][s][from + i] : TRUE]}

-----------------------------------------------------------------------------
\* The beginning: nothing is there; or, where RegisterTopic is not what a configuration is about, each
\* topic's first segment is open and all nodes know it.
First == CHOOSE n \in MayLead : TRUE
FirstReplicas == CHOOSE replicas \in SUBSET Node :
    First \in replicas /\ Cardinality(replicas) = ReplicationFactor

Init ==
    /\ members = Node
    /\ announced = [n \in Node |-> 0]
    /\ metadata = [t \in Topic |->
          [segments |-> IF Begun THEN <<OpenedSegment(First, FirstReplicas, StartCursors)>> ELSE <<>>,
           sealed_total |-> 0, cursors |-> StartCursors]]
    /\ view = [n \in Node |-> [t \in Topic |-> Known(t)]]
    /\ checkpoint = [n \in Node |-> [t \in Topic |-> 0]]
    /\ up = [n \in Node |-> TRUE]
    /\ incarnation = [n \in Node |-> 0]
    /\ heard = [n \in Node |-> TRUE]
    /\ lease = [n \in Node |-> [t \in Topic |-> IF Begun /\ n = First THEN 1 ELSE 0]]
    /\ log = PerCopy(<<>>)
    /\ synced = PerCopy(0)
    /\ damaged = PerCopy(0)
    /\ unsure = PerCopy(0)
    /\ fenced = [n \in Node |-> {}]
    /\ sealing = {}
    /\ acked = PerSegment(0)
    /\ stream = PerSegment(<<>>)
    /\ matched = PerCopy(0)
    /\ recovering = {}
    /\ answers = {}
    /\ decided = {}
    /\ copied = {}
    /\ proposals = {}
    /\ proofs = {}
    /\ changes = {}
    /\ directory = [n \in Node |-> 0]
    /\ reading = [n \in Node |-> [t \in Topic |->
          [g \in Group |-> IF Begun /\ n = First THEN Start ELSE NoPosition]]]
    /\ handed = [n \in Node |-> NoCursors]
    /\ given = {}
    /\ received = {}
    /\ moves = {}
    /\ delivered = [t \in Topic |-> [g \in Group |-> <<>>]]
    /\ sealed_as = PerSegment(NoCount)
    /\ forced = {}
    /\ budget = [faults |-> MaxFaults, losses |-> MaxLosses]

MayFail(fault) == fault \in Faults /\ budget.faults > 0
Failed == budget' = [budget EXCEPT !.faults = @ - 1]
MayLose(loss) == loss \in Losses /\ budget.losses > 0
Lost == budget' = [budget EXCEPT !.losses = @ - 1]

-----------------------------------------------------------------------------
\* Metadata: the commands that Raft commits, and the nodes that apply them.

\* A segment opens with all the replicas that it should have, or with all members: the leader of Raft
\* looks at the membership at the place in its log where the command goes.
Enough(replicas) == Cardinality(replicas) >= Min(ReplicationFactor, Cardinality(members))

\* A topic is created: its first segment opens at some node, with some replica set. Which ones is
\* placement, and placement is never a matter of safety: any choice of enough nodes is allowed.
RegisterTopic(t, n, replicas) ==
    /\ Known(t) = 0
    /\ n \in replicas
    /\ replicas \subseteq members
    /\ Enough(replicas)
    /\ metadata' = [metadata EXCEPT ![t].segments = <<OpenedSegment(n, replicas, StartCursors)>>]
    /\ UNCHANGED <<members, announced, nodeVars, copyVars, writerVars, recoveryVars, repairVars,
                   readerVars, proposals, sealed_as, budget>>

\* A proposed seal is committed. It closes the segment at its count and opens the next one at some
\* node, in the incarnation that the metadata knows of it: one command, so there is always exactly one
\* open segment. The compare (`segment` is still the open one) is what lets one of two seals win; a
\* refused seal changes nothing and is not a step. The proposer of the code also names the next leader
\* and the replicas; here they are chosen at the commit, which allows the same outcomes. The leader's
\* own seal carries its cursors, which only move forward. A cursor beyond the count (an operator gave
\* up what it had read) goes back to the end.
SealWith(p, n, replicas) ==
    LET t == p.topic
        s == p.segment
        kept(g) == Earlier(metadata[t].cursors[g], <<s, p.count>>)
        cursors == [g \in Group |-> Later(kept(g), p.cursors[g])]
        closed == [Segment(t, s) EXCEPT !.count = p.count]
    IN
    /\ IsOpen(t, s)
    /\ s < MaxSegments
    /\ n \in replicas
    /\ replicas \subseteq members
    /\ Enough(replicas)
    /\ metadata' = [metadata EXCEPT ![t] =
          [segments |-> Append([@.segments EXCEPT ![s] = closed], OpenedSegment(n, replicas, cursors)),
           sealed_total |-> @.sealed_total + p.count,
           cursors |-> cursors]]
    /\ sealed_as' = [sealed_as EXCEPT ![t][s] = IF @ = NoCount THEN p.count ELSE @]
    /\ UNCHANGED <<members, announced, nodeVars, copyVars, writerVars, recoveryVars, repairVars,
                   readerVars, proposals, budget>>

\* Any proposal for the topic may be the one that Raft commits next.
Seal(t, n, replicas) ==
    \E p \in proposals : p.topic = t /\ SealWith(p, n, replicas)

\* Where a leader's cursor stands when the metadata has brought it to another segment: it goes on, if
\* it led the segment before, too, unless others moved the committed cursor past it in between; and
\* it leaves a place that a recovery gave up.
KeepUp(n, t, g, committed) ==
    LET p == reading[n][t][g]
        end == Segment(t, p[1]).count
    IN IF lease[n][t] = 0 \/ p = NoPosition \/ Before(p, committed) THEN committed
       ELSE IF p[2] > end THEN <<p[1] + 1, 0>>
       ELSE p

\* A node applies commands (or installs a snapshot that holds several) and from then on acts on what
\* they say. If the segment that is now the last was opened for this very process start, the node holds
\* the lease for it and reads on from where the metadata that it has applied has the cursors: as they
\* were when the segment opened, or as they were committed since.
Apply(n, t, s) ==
    /\ up[n]
    /\ view[n][t] < s
    /\ s <= Known(t)
    /\ view' = [view EXCEPT ![n][t] = s]
    /\ IF IsLeader(n, t, s)
       THEN \E cursors \in {Segment(t, s).cursors, metadata[t].cursors} :
              LET now == [g \in Group |-> KeepUp(n, t, g, cursors[g])]
                  waits(g) == lease[n][t] > 0 /\ now[g] = reading[n][t][g]
              IN /\ lease' = [lease EXCEPT ![n][t] = s]
                 /\ reading' = [reading EXCEPT ![n][t] = now]
                 /\ handed' = [handed EXCEPT ![n][t] =
                       [g \in Group |-> IF waits(g) THEN @[g] ELSE NoPosition]]
       ELSE /\ lease' = [lease EXCEPT ![n][t] = 0]
            /\ reading' = [reading EXCEPT ![n][t] = [g \in Group |-> NoPosition]]
            /\ handed' = [handed EXCEPT ![n][t] = [g \in Group |-> NoPosition]]
    /\ UNCHANGED <<committedVars, checkpoint, up, incarnation, heard, copyVars, writerVars, recoveryVars,
                   repairVars, given, received, moves, delivered, proposals, sealed_as, budget>>

\* A node that has started tells the metadata its new incarnation; what an earlier start of it said may
\* be committed first, but never last. Only segments opened later are the new start's to lead; one
\* opened for its former self stays leaderless and is recovered.
Announce(n) ==
    /\ n \in members
    /\ \E number \in 0..incarnation[n] :
          /\ announced[n] < number
          /\ announced' = [announced EXCEPT ![n] = number]
    /\ UNCHANGED <<metadata, members, nodeVars, copyVars, writerVars, recoveryVars, repairVars,
                   readerVars, proposals, sealed_as, budget>>

\* Some segment still names the node as a replica.
Needed(n) == \E t \in Topic : \E s \in 1..Known(t) : n \in Replicas(t, s)

\* A node that was asked to leave is forgotten, once no segment needs it.
RemoveNode(n) ==
    /\ MayFail("removal")
    /\ n \in members
    /\ members # {n}
    /\ ~Needed(n)
    /\ members' = members \ {n}
    /\ Failed
    /\ UNCHANGED <<metadata, announced, nodeVars, copyVars, writerVars, recoveryVars, repairVars,
                   readerVars, proposals, sealed_as>>

\* Its id joins again, with another, empty directory. Connections belong to a directory, so what the
\* former one sent arrives no more. What it proved stays in changes on their way; they name it.
Rejoin(n) ==
    /\ n \notin members
    /\ members' = members \cup {n}
    /\ up' = [up EXCEPT ![n] = TRUE]
    /\ incarnation' = [incarnation EXCEPT ![n] = @ + 1]
    /\ announced' = [announced EXCEPT ![n] = incarnation'[n]]
    /\ view' = [view EXCEPT ![n] = [t \in Topic |-> 0]]
    /\ checkpoint' = [checkpoint EXCEPT ![n] = [t \in Topic |-> 0]]
    /\ heard' = [heard EXCEPT ![n] = TRUE]
    /\ lease' = [lease EXCEPT ![n] = [t \in Topic |-> 0]]
    /\ log' = [log EXCEPT ![n] = PerSegment(<<>>)]
    /\ synced' = [synced EXCEPT ![n] = PerSegment(0)]
    /\ damaged' = [damaged EXCEPT ![n] = PerSegment(0)]
    /\ unsure' = [unsure EXCEPT ![n] = PerSegment(0)]
    /\ fenced' = [fenced EXCEPT ![n] = {}]
    /\ matched' = [matched EXCEPT ![n] = PerSegment(0)]
    /\ answers' = {a \in answers : a.node # n}
    /\ copied' = {a \in copied : a.node # n}
    /\ proofs' = {p \in proofs : p[1] # n}
    /\ directory' = [directory EXCEPT ![n] = @ + 1]
    /\ reading' = [reading EXCEPT ![n] = NoCursors]
    /\ handed' = [handed EXCEPT ![n] = NoCursors]
    /\ UNCHANGED <<metadata, sealing, acked, stream, recovering, decided, forced, given, received,
                   moves, delivered, proposals, changes, sealed_as, budget>>

-----------------------------------------------------------------------------
\* Leases. They keep a writer that is cut off from writing into the void; no invariant needs them.

\* A node has not heard from a Raft leader for lease_ttl. Time is not modelled: a lease may run out at
\* any moment, and fences may come before it does.
ExpireLease(n) ==
    /\ MayFail("expiry")
    /\ up[n]
    /\ heard[n]
    /\ heard' = [heard EXCEPT ![n] = FALSE]
    /\ Failed
    /\ UNCHANGED <<committedVars, view, checkpoint, up, incarnation, lease, copyVars, writerVars,
                   recoveryVars, repairVars, readerVars, proposals, sealed_as>>

\* It hears from a Raft leader again.
RenewLease(n) ==
    /\ up[n]
    /\ ~heard[n]
    /\ heard' = [heard EXCEPT ![n] = TRUE]
    /\ UNCHANGED <<committedVars, view, checkpoint, up, incarnation, lease, copyVars, writerVars,
                   recoveryVars, repairVars, readerVars, proposals, sealed_as, budget>>

-----------------------------------------------------------------------------
\* Writing

\* May node n originate entries in segment s of t, by all that it knows? Lease, fence and seal are
\* compared in the same step as the append, never before waiting for something.
MayWrite(n, t, s) ==
    /\ up[n]
    /\ heard[n]
    /\ s > 0
    /\ lease[n][t] = s
    /\ <<t, s>> \notin fenced[n]
    /\ <<t, s>> \notin sealing

\* The leader appends `count` entries to its own copy and sends them to the other replicas, without
\* waiting for anything. They are in flight from now on: `stream` keeps what was ever sent as the i-th
\* entry.
LeaderAppend(n, t, s, count) ==
    LET from == Length(n, t, s)
        entries == [i \in 1..count |-> Entry(n, from + i)]
        sent(i) == (IF i <= Len(stream[t][s]) THEN stream[t][s][i] ELSE {})
                   \cup (IF i > from /\ i <= from + count THEN {entries[i - from]} ELSE {})
    IN
    /\ MayWrite(n, t, s)
    /\ from + count <= MaxEntries
    /\ log' = [log EXCEPT ![n][t][s] = @ \o entries]
    /\ stream' = [stream EXCEPT ![t][s] = [i \in 1..Max(Len(@), from + count) |-> sent(i)]]
    /\ matched' = IF FsyncEach THEN matched ELSE [matched EXCEPT ![n][t][s] = Max(@, from + count)]
    /\ UNCHANGED <<committedVars, nodeVars, synced, damaged, unsure, fenced, sealing, acked,
                   recoveryVars, repairVars, readerVars, proposals, sealed_as, budget>>

\* A replica takes a frame: only if it is the next in order (of a frame that overlaps, the rest), and
\* never for a segment that it is fenced for or knows to be sealed. Without FsyncEach it answers with
\* its length at once.
ReplicaAppend(n, t, s, count) ==
    /\ up[n]
    /\ s > 0
    /\ view[n][t] = s
    /\ n \in Replicas(t, s)
    /\ n # Segment(t, s).leader
    /\ <<t, s>> \notin fenced[n]
    /\ \E batch \in Batches(t, s, Length(n, t, s), count) :
          /\ log' = [log EXCEPT ![n][t][s] = @ \o batch]
          /\ matched' = IF FsyncEach THEN matched
                        ELSE [matched EXCEPT ![n][t][s] = Max(@, Length(n, t, s) + count)]
    /\ UNCHANGED <<committedVars, nodeVars, synced, damaged, unsure, fenced, sealing, acked, stream,
                   recoveryVars, repairVars, readerVars, proposals, sealed_as, budget>>

\* With FsyncEach: the sync of a copy is done, and the replica (the writer's own node is one) tells the
\* writer. A fenced replica tells nothing any more: its copy may have been extended by a recovery, and
\* an entry that is there only because it was copied must not count towards an acknowledgement.
Report(n, t, s) ==
    /\ FsyncEach
    /\ up[n]
    /\ s <= Known(t)
    /\ matched[n][t][s] < Length(n, t, s)
    /\ n \in Replicas(t, s)
    /\ <<t, s>> \notin fenced[n]
    /\ synced' = [synced EXCEPT ![n][t][s] = Length(n, t, s)]
    /\ matched' = [matched EXCEPT ![n][t][s] = Length(n, t, s)]
    /\ UNCHANGED <<committedVars, nodeVars, log, damaged, unsure, fenced, sealing, acked, stream,
                   recoveryVars, repairVars, readerVars, proposals, sealed_as, budget>>

\* The writer acknowledges `count` entries in all, a majority of the replica set having reported that
\* many. Never once its own node is fenced or it has seen the segment sealed: with the outcome unknown
\* it stays silent.
Ack(n, t, s, count) ==
    /\ up[n]
    /\ s > 0
    /\ lease[n][t] = s
    /\ <<t, s>> \notin fenced[n]
    /\ acked[t][s] < count
    /\ count <= Length(n, t, s)
    /\ Majority({m \in Replicas(t, s) : matched[m][t][s] >= count}, Replicas(t, s))
    /\ acked' = [acked EXCEPT ![t][s] = count]
    /\ UNCHANGED <<committedVars, nodeVars, copyVars, sealing, stream, matched, recoveryVars, repairVars,
                   readerVars, proposals, sealed_as, budget>>

-----------------------------------------------------------------------------
\* Rollover

\* The threshold is reached: the writer takes nothing more for this segment. Appends that wait go back
\* to the nodes that have the clients, which send them on to the next segment.
BeginSeal(n, t, s) ==
    /\ up[n]
    /\ s > 0
    /\ lease[n][t] = s
    /\ <<t, s>> \notin sealing
    /\ Length(n, t, s) >= SealAt
    /\ s < MaxSegments
    /\ sealing' = sealing \cup {<<t, s>>}
    /\ UNCHANGED <<committedVars, nodeVars, copyVars, acked, stream, matched, recoveryVars, repairVars,
                   readerVars, proposals, sealed_as, budget>>

\* All that it appended is acknowledged: the count is final.
AllAcknowledged(n, t, s) == <<t, s>> \in sealing /\ acked[t][s] = Length(n, t, s)

\* The seal is proposed, with the cursors, once all that was handed out is confirmed.
ProposeSeal(n, t, s) ==
    /\ up[n]
    /\ s > 0
    /\ lease[n][t] = s
    /\ AllAcknowledged(n, t, s)
    /\ <<t, s>> \notin fenced[n]
    /\ \A g \in Group : handed[n][t][g] = NoPosition
    /\ proposals' = proposals \cup
          {[topic |-> t, segment |-> s, count |-> acked[t][s], cursors |-> reading[n][t]]}
    /\ UNCHANGED <<committedVars, nodeVars, copyVars, writerVars, recoveryVars, repairVars, readerVars,
                   sealed_as, budget>>

-----------------------------------------------------------------------------
\* Failover: fence, recover, seal. By any node, also by two at once, also while the leader is well.

LeaderGone(t, s) == ~IsLeader(Segment(t, s).leader, t, s)

\* A node that believes s to be open starts to recover it: fences are on their way from now on, and may
\* arrive long after the segment is sealed.
StartRecovery(r, t, s) ==
    /\ up[r]
    /\ s > 0
    /\ view[r][t] = s
    /\ s < MaxSegments
    /\ "recovery" \in Chores \/ LeaderGone(t, s)
    /\ <<t, s>> \notin recovering
    /\ recovering' = recovering \cup {<<t, s>>}
    /\ UNCHANGED <<committedVars, nodeVars, copyVars, writerVars, answers, decided, copied, forced,
                   repairVars, readerVars, proposals, sealed_as, budget>>

\* A copy that a power loss may have shortened, or that cannot be read to its end, proves nothing by
\* its length.
Sure(n, t, s) == unsure[n][t][s] = 0 /\ damaged[n][t][s] = 0

\* A replica notes the fence durably, refuses the writer from then on, and answers with its length: one
\* step. The answer leaves when the note and everything appended before it are durable, so a frame that
\* passed the fence check and still waits for its sync is in that length.
Fence(n, t, s) ==
    LET answer == [node |-> n, topic |-> t, segment |-> s, length |-> Intact(n, t, s),
                   sure |-> Sure(n, t, s)]
    IN
    /\ <<t, s>> \in recovering
    /\ up[n]
    /\ n \in Replicas(t, s)
    /\ <<t, s>> \notin fenced[n] \/ answer \notin answers
    /\ fenced' = [fenced EXCEPT ![n] = @ \cup {<<t, s>>}]
    /\ answers' = answers \cup {answer}
    /\ synced' = IF FsyncEach THEN [synced EXCEPT ![n][t][s] = Length(n, t, s)] ELSE synced
    /\ UNCHANGED <<committedVars, nodeVars, log, damaged, unsure, writerVars, recovering, decided, copied,
                   forced, repairVars, readerVars, proposals, sealed_as, budget>>

\* Do the nodes that gave these answers suffice to know every acknowledged entry? A majority of sure
\* copies shares a node with every majority that acknowledged; failing that, all replicas answered.
Suffices(replies, replicas) ==
    LET nodes == {a.node : a \in replies}
        certain == {a.node : a \in {b \in replies : b.sure}}
    IN \/ Majority(certain, replicas)
       \/ nodes = replicas

\* The answers to the fences of one segment that are no longer than `length`.
AnswersUpTo(t, s, length) ==
    {a \in answers : a.topic = t /\ a.segment = s /\ a.length <= length}

\* Recovery chooses the count: the longest of the lengths answered. An entry that was never
\* acknowledged may survive; an acknowledged one always does. (Whichever answers it happens to have,
\* the longest is some answer `a`, and those that are no longer suffice.)
Recover(t, s) ==
    /\ \E a \in answers :
          /\ a.topic = t
          /\ a.segment = s
          /\ Suffices(AnswersUpTo(t, s, a.length), Replicas(t, s))
          /\ [topic |-> t, segment |-> s, count |-> a.length] \notin decided
          /\ decided' = decided \cup {[topic |-> t, segment |-> s, count |-> a.length]}
    /\ UNCHANGED <<committedVars, nodeVars, copyVars, writerVars, recovering, answers, copied, forced,
                   repairVars, readerVars, proposals, sealed_as, budget>>

\* RECOVER: an operator has it end with the copies that answered, a majority at least. What was
\* acknowledged may be missing from then on; everything else still holds.
ForceRecover(t, s) ==
    /\ MayFail("force")
    /\ \E a \in answers :
          /\ a.topic = t
          /\ a.segment = s
          /\ Majority({b.node : b \in AnswersUpTo(t, s, a.length)}, Replicas(t, s))
          /\ [topic |-> t, segment |-> s, count |-> a.length] \notin decided
          /\ decided' = decided \cup {[topic |-> t, segment |-> s, count |-> a.length]}
    /\ forced' = forced \cup {<<t, s>>}
    /\ Failed
    /\ UNCHANGED <<committedVars, nodeVars, copyVars, writerVars, recovering, answers, copied,
                   repairVars, readerVars, proposals, sealed_as>>

\* n's copy with the entries of another one, from its own end up to `upto`.
Extended(n, from, t, s, upto) ==
    log[n][t][s] \o SubSeq(log[from][t][s], Length(n, t, s) + 1, upto)

\* A fenced replica extends its copy up to a count that a recovery chose, from a copy that has more.
\* Copying passes the fence, only ever extends a copy, and is answered when it is durable and can be
\* read. It may stop half-way, and go on later from another copy. (The copy read from may be on a node
\* that has died since: its answer was on the way.)
CopyTailFrom(n, from, t, s, upto) ==
    LET answer == [node |-> n, topic |-> t, segment |-> s, length |-> upto] IN
    /\ up[n]
    /\ n # from
    /\ n \in Replicas(t, s)
    /\ from \in Replicas(t, s)
    /\ \E c \in decided : c.topic = t /\ c.segment = s /\ c.count >= upto
    /\ Length(n, t, s) < upto
    /\ upto <= Intact(from, t, s)
    /\ log' = [log EXCEPT ![n][t][s] = Extended(n, from, t, s, upto)]
    /\ synced' = IF FsyncEach THEN [synced EXCEPT ![n][t][s] = upto] ELSE synced
    /\ copied' = IF damaged[n][t][s] = 0 THEN copied \cup {answer} ELSE copied
    /\ UNCHANGED <<committedVars, nodeVars, damaged, unsure, fenced, writerVars, recovering, answers,
                   decided, forced, repairVars, readerVars, proposals, sealed_as, budget>>

\* From whichever copy has more, as far as it likes to go.
CopyTail(n, t, s) ==
    /\ <<t, s>> \in fenced[n]
    /\ \E c \in decided : c.topic = t /\ c.segment = s
    /\ \E from \in Node, upto \in 1..MaxEntries : CopyTailFrom(n, from, t, s, upto)

\* A majority has told the recovery that it holds the count: it may be sealed. Two recoveries may
\* propose different counts; Seal lets one win and both report that one.
RecoverySealAt(t, s, count) ==
    LET holders == {a.node : a \in {b \in answers \cup copied :
                        b.topic = t /\ b.segment = s /\ b.length >= count}}
        p == [topic |-> t, segment |-> s, count |-> count, cursors |-> StartCursors]
    IN
    /\ Majority(holders, Replicas(t, s))
    /\ p \notin proposals
    /\ proposals' = proposals \cup {p}
    /\ UNCHANGED <<committedVars, nodeVars, copyVars, writerVars, recoveryVars, repairVars, readerVars,
                   sealed_as, budget>>

\* Any count that was chosen may be proposed once that holds for it.
RecoverySeal(t, s) == \E c \in decided : c.topic = t /\ c.segment = s /\ RecoverySealAt(t, s, c.count)

-----------------------------------------------------------------------------
\* Sealed segments: replicas catch up, and replica sets change.

\* A replica of a sealed segment that has less than the count fetches the rest from a copy that has it;
\* so does a node that is to become one. Entries beyond the count (a deposed leader's tail) are never
\* copied and never read.
RepairFrom(n, from, t, s, upto) ==
    /\ up[n]
    /\ n # from
    /\ from \in Replicas(t, s)
    /\ n \in Replicas(t, s) \/ "replicas" \in Faults
    /\ Length(n, t, s) < upto
    /\ upto <= Segment(t, s).count
    /\ upto <= Intact(from, t, s)
    /\ log' = [log EXCEPT ![n][t][s] = Extended(n, from, t, s, upto)]
    /\ synced' = IF FsyncEach THEN [synced EXCEPT ![n][t][s] = upto] ELSE synced
    /\ unsure' = [unsure EXCEPT ![n][t][s] = IF upto = Segment(t, s).count THEN 0 ELSE @]
    /\ UNCHANGED <<committedVars, nodeVars, damaged, fenced, writerVars, recoveryVars, repairVars,
                   readerVars, proposals, sealed_as, budget>>

\* From whichever copy has more.
Repair(n, t, s) ==
    /\ view[n][t] > s
    /\ \E from \in Node, upto \in 1..MaxEntries : RepairFrom(n, from, t, s, upto)

\* A damaged copy of a sealed segment is made anew beside the old one, and takes its place when it is
\* whole.
Replace(n, t, s) ==
    /\ up[n]
    /\ view[n][t] > s
    /\ damaged[n][t][s] > 0
    /\ \E from \in Replicas(t, s) :
          /\ n # from
          /\ Segment(t, s).count <= Intact(from, t, s)
          /\ log' = [log EXCEPT ![n][t][s] = SubSeq(log[from][t][s], 1, Segment(t, s).count)]
    /\ synced' = IF FsyncEach THEN [synced EXCEPT ![n][t][s] = Segment(t, s).count] ELSE synced
    /\ damaged' = [damaged EXCEPT ![n][t][s] = 0]
    /\ unsure' = [unsure EXCEPT ![n][t][s] = 0]
    /\ UNCHANGED <<committedVars, nodeVars, fenced, writerVars, recoveryVars, repairVars, readerVars,
                   proposals, sealed_as, budget>>

\* A node that is asked whether its copy is whole reads it and answers.
Prove(n, t, s) ==
    /\ "replicas" \in Faults
    /\ up[n]
    /\ Sealed(t, s)
    /\ Segment(t, s).count <= Intact(n, t, s)
    /\ <<n, t, s>> \notin proofs
    /\ proofs' = proofs \cup {<<n, t, s>>}
    /\ UNCHANGED <<committedVars, nodeVars, copyVars, writerVars, recoveryVars, changes, directory,
                   readerVars,
                   proposals, sealed_as, budget>>

\* The Raft leader proposes another replica set for a sealed segment. What comes in has proved that its
\* copy is whole, and so has a majority of the new set. The set does not get smaller than it has to be.
\* That segment's own set decides every majority, so an open segment's never changes.
ProposeReplicas(t, s, new) ==
    LET old == Replicas(t, s)
        whole == {n \in new : <<n, t, s>> \in proofs}
    IN
    /\ MayFail("replicas")
    /\ Sealed(t, s)
    /\ new # old
    /\ new \subseteq members
    /\ new \ old \subseteq whole
    /\ Majority(whole, new)
    /\ Cardinality(new) >= Min(ReplicationFactor, Cardinality(members))
    /\ changes' = changes \cup {[topic |-> t, segment |-> s, old |-> old, new |-> new,
                               directories |-> [n \in new |-> directory[n]]]}
    /\ Failed
    /\ UNCHANGED <<committedVars, nodeVars, copyVars, writerVars, recoveryVars, proofs, directory,
                   readerVars, proposals, sealed_as>>

\* It is committed, if the set is still the one that it was made for, and its members are those that
\* proved their copies: one that came back under its id with an empty directory is not.
SetReplicas(t, s) ==
    /\ \E c \in changes :
          /\ c.topic = t
          /\ c.segment = s
          /\ c.old = Replicas(t, s)
          /\ c.new \subseteq members
          /\ \A n \in c.new : c.directories[n] = directory[n]
          /\ metadata' = [metadata EXCEPT ![t].segments[s].replicas = c.new]
    /\ UNCHANGED <<members, announced, nodeVars, copyVars, writerVars, recoveryVars, repairVars,
                   readerVars, proposals, sealed_as, budget>>

-----------------------------------------------------------------------------
\* Reading

\* The same place, moved past sealed segments that end there: a chain of empty ones in one step.
RECURSIVE Advance(_, _, _)
Advance(t, known, p) ==
    IF p[1] < known /\ p[2] >= Segment(t, p[1]).count
    THEN Advance(t, known, <<p[1] + 1, 0>>)
    ELSE p

\* How many entries of segment s the leader n may give to readers: of a sealed one its count, of the
\* open one what it has acknowledged.
Readable(n, t, s) ==
    CASE s < view[n][t] -> Segment(t, s).count
      [] s = view[n][t] -> acked[t][s]
      [] OTHER -> 0

\* A delivery, as far as it is under way: the entries of one segment from `start` up to `end`.
Delivery(t, g, from, to) == [topic |-> t, group |-> g, segment |-> to[1], start |-> from[2], end |-> to[2]]

\* The leader of the open segment hands `count` entries out and moves its volatile cursor. They may be
\* read from any copy that holds them. At most one delivery of a group waits to be confirmed: else a
\* later one could reach a client, and the one before it, lost, would come after. And not when the
\* cursors are about to go into a seal. A deposed leader may still do this: its entries are acknowledged
\* ones, so that is a redelivery at worst.
HandOut(n, t, g, count) ==
    LET p == Advance(t, view[n][t], reading[n][t][g])
        end == <<p[1], p[2] + count>>
    IN
    /\ up[n]
    /\ lease[n][t] > 0
    /\ reading[n][t][g] # NoPosition
    /\ handed[n][t][g] = NoPosition
    /\ ~AllAcknowledged(n, t, lease[n][t])
    /\ end[2] <= Readable(n, t, p[1])
    /\ \E m \in Replicas(t, p[1]) : end[2] <= Intact(m, t, p[1])
    /\ given' = given \cup {Delivery(t, g, p, end)}
    /\ handed' = [handed EXCEPT ![n][t][g] = p]
    /\ reading' = [reading EXCEPT ![n][t][g] = end]
    /\ UNCHANGED <<committedVars, nodeVars, copyVars, writerVars, recoveryVars, repairVars, received,
                   moves, delivered, proposals, sealed_as, budget>>

\* Entries given once more are left out: what remains must be the topic's order.
Deduplicated(seen, d) ==
    seen \o SelectSeq([i \in 1..d.end - d.start |-> <<d.segment, d.start + i>>],
                      LAMBDA e : \A i \in 1..Len(seen) : seen[i] # e)

\* A delivery reaches a client, now or long after.
Deliver(t, g) ==
    /\ \E d \in given \ received :
          /\ d.topic = t
          /\ d.group = g
          /\ received' = received \cup {d}
          /\ delivered' = [delivered EXCEPT ![t][g] = Deduplicated(@, d)]
    /\ UNCHANGED <<committedVars, nodeVars, copyVars, writerVars, recoveryVars, repairVars, reading,
                   handed, given, moves, proposals, sealed_as, budget>>

\* Entries that every replica says it cannot give, because they were lost on all of them, are stepped
\* over. A replica that does not answer may have them, and then the group waits. (What a replica said
\* counts for a moment only; here it is what it has now.) What is lost for good counts as delivered:
\* the rest must still be the topic's order.
StepOver(n, t, g) ==
    LET p == Advance(t, view[n][t], reading[n][t][g])
        s == p[1]
        end == Readable(n, t, s)
        gives(m) == Intact(m, t, s) > p[2]
    IN
    /\ up[n]
    /\ lease[n][t] > 0
    /\ reading[n][t][g] # NoPosition
    /\ handed[n][t][g] = NoPosition
    /\ p[2] < end
    /\ \A m \in Replicas(t, s) : up[m] /\ ~gives(m)
    /\ reading' = [reading EXCEPT ![n][t][g] = <<s, end>>]
    /\ delivered' = IF \E m \in Replicas(t, s) : gives(m) THEN delivered
                    ELSE [delivered EXCEPT ![t][g] =
                             Deduplicated(@, [segment |-> s, start |-> p[2], end |-> end])]
    /\ UNCHANGED <<committedVars, nodeVars, copyVars, writerVars, recoveryVars, repairVars, handed,
                   given, received, moves, proposals, sealed_as, budget>>

\* The leader hears that it did.
Confirm(n, t, g) ==
    /\ up[n]
    /\ handed[n][t][g] # NoPosition
    /\ Delivery(t, g, handed[n][t][g], reading[n][t][g]) \in received
    /\ handed' = [handed EXCEPT ![n][t][g] = NoPosition]
    /\ UNCHANGED <<committedVars, nodeVars, copyVars, writerVars, recoveryVars, repairVars, reading,
                   given, received, moves, delivered, proposals, sealed_as, budget>>

\* It does not, or hears that the client is gone: the entries are handed out again.
Rewind(n, t, g) ==
    /\ up[n]
    /\ handed[n][t][g] # NoPosition
    /\ reading' = [reading EXCEPT ![n][t][g] = handed[n][t][g]]
    /\ handed' = [handed EXCEPT ![n][t][g] = NoPosition]
    /\ UNCHANGED <<committedVars, nodeVars, copyVars, writerVars, recoveryVars, repairVars, given,
                   received, moves, delivered, proposals, sealed_as, budget>>

\* All before this place is known to have reached a client.
Confirmed(n, t, g) == IF handed[n][t][g] # NoPosition THEN handed[n][t][g] ELSE reading[n][t][g]

\* The confirmed position goes to Raft, to be committed some time later.
ProposeCursors(n, t, g) ==
    LET move == [topic |-> t, group |-> g, position |-> Confirmed(n, t, g)] IN
    /\ "commit" \in Chores
    /\ up[n]
    /\ lease[n][t] > 0
    /\ move.position \notin {NoPosition, Start}
    /\ move \notin moves
    /\ moves' = moves \cup {move}
    /\ UNCHANGED <<committedVars, nodeVars, copyVars, writerVars, recoveryVars, repairVars, reading,
                   handed, given, received, delivered, proposals, sealed_as, budget>>

\* A cursor may stand there, as far as the metadata can tell.
InBounds(t, p) == p[1] <= Known(t) /\ p[2] <= Segment(t, p[1]).count

\* It is committed, but only forward: the old cursor of a node that was deposed, or a commit that was
\* overtaken, changes nothing.
CommitCursors(t, g) ==
    /\ \E m \in moves :
          /\ m.topic = t
          /\ m.group = g
          /\ InBounds(t, m.position)
          /\ Before(metadata[t].cursors[g], m.position)
          /\ metadata' = [metadata EXCEPT ![t].cursors[g] = m.position]
    /\ UNCHANGED <<members, announced, nodeVars, copyVars, writerVars, recoveryVars, repairVars,
                   readerVars, proposals, sealed_as, budget>>

-----------------------------------------------------------------------------
\* Faults

\* What a process forgets when it dies: what it knew of the metadata (it reads Raft's log again when it
\* starts), its leases, its cursors. Not its copies, nor its fences.
Forget(n) ==
    /\ up' = [up EXCEPT ![n] = FALSE]
    /\ view' = [view EXCEPT ![n] = [t \in Topic |-> 0]]
    /\ lease' = [lease EXCEPT ![n] = [t \in Topic |-> 0]]
    /\ heard' = [heard EXCEPT ![n] = TRUE]
    /\ reading' = [reading EXCEPT ![n] = NoCursors]
    /\ handed' = [handed EXCEPT ![n] = NoCursors]
    /\ UNCHANGED <<checkpoint, incarnation, fenced>>

\* kill -9. The kernel still has every byte that was written. Or the machine is gone for good ("death").
Crash(n) ==
    /\ MayFail("crash") \/ MayFail("death")
    /\ up[n]
    /\ Failed
    /\ Forget(n)
    /\ UNCHANGED <<committedVars, log, synced, damaged, unsure, writerVars, recoveryVars, repairVars,
                   given, received, moves, delivered, proposals, sealed_as>>

\* The length at which n's copy of (t, s), shortened now, will again hold all that it ever reported: for
\* a sealed segment the count, for an open one what its writer has now, which a replica learns from
\* frames sent on connections made after its restart. A writer's own copy never gets there, nor one
\* without a live writer.
WholeAt(n, t, s) ==
    LET w == Segment(t, s).leader
    IN IF Sealed(t, s) THEN Segment(t, s).count
       ELSE IF w # n /\ IsLeader(w, t, s) THEN Length(w, t, s)
       ELSE Never

\* The power fails: each copy comes back with some prefix, at least with what was synced. Without
\* FsyncEach that may be less than the node once reported, so its copies of known segments are unsure
\* from now on.
PowerLoss(n, lengths) ==
    /\ up[n]
    /\ \A t \in Topic, s \in Segments : synced[n][t][s] <= lengths[t][s]
    /\ \A t \in Topic, s \in Segments : lengths[t][s] <= Length(n, t, s)
    /\ Forget(n)
    /\ log' = [log EXCEPT ![n] = [t \in Topic |-> [s \in Segments |-> SubSeq(@[t][s], 1, lengths[t][s])]]]
    /\ damaged' = [damaged EXCEPT ![n] = [t \in Topic |-> [s \in Segments |->
          IF @[t][s] > lengths[t][s] THEN 0 ELSE @[t][s]]]]
    /\ unsure' = IF FsyncEach THEN unsure
                 ELSE [unsure EXCEPT ![n] = [t \in Topic |-> [s \in Segments |->
                          IF s <= Known(t) THEN Max(@[t][s], WholeAt(n, t, s)) ELSE @[t][s]]]]
    /\ UNCHANGED <<committedVars, synced, writerVars, recoveryVars, repairVars, given, received, moves,
                   delivered, proposals, sealed_as>>

\* Any prefix may be left of each copy.
LosePower(n) ==
    /\ MayLose("power")
    /\ Lost
    /\ \E lengths \in [Topic -> [Segments -> 0..MaxEntries]] : PowerLoss(n, lengths)

\* The process starts again, as another incarnation. It begins with what its last checkpoint knew.
Restart(n) ==
    /\ ~up[n]
    /\ "death" \notin Faults
    /\ up' = [up EXCEPT ![n] = TRUE]
    /\ incarnation' = [incarnation EXCEPT ![n] = @ + 1]
    /\ view' = [view EXCEPT ![n] = checkpoint[n]]
    /\ UNCHANGED <<committedVars, checkpoint, heard, lease, copyVars, writerVars, recoveryVars, repairVars,
                   readerVars, proposals, sealed_as, budget>>

\* An unsure copy has caught up with its writer: what it once reported is there again. Not while it is
\* fenced: then it hears nothing from the writer. (A frame that was sent before the restart proves
\* nothing.)
BecomeSure(n, t, s) ==
    /\ up[n]
    /\ unsure[n][t][s] > 0
    /\ Length(n, t, s) >= unsure[n][t][s]
    /\ ~Sealed(t, s)
    /\ <<t, s>> \notin fenced[n]
    /\ unsure' = [unsure EXCEPT ![n][t][s] = 0]
    /\ UNCHANGED <<committedVars, nodeVars, log, synced, damaged, fenced, writerVars, recoveryVars,
                   repairVars, readerVars, proposals, sealed_as, budget>>

\* An entry of a copy cannot be read any more, nor can what follows it. What "decays" is on sealed
\* segments, and may be lost on all replicas.
Damage(n, t, s) ==
    /\ MayLose("damage") \/ (MayLose("decay") /\ Sealed(t, s))
    /\ damaged[n][t][s] = 0
    /\ \E i \in 1..Length(n, t, s) : damaged' = [damaged EXCEPT ![n][t][s] = i]
    /\ Lost
    /\ UNCHANGED <<committedVars, nodeVars, log, synced, unsure, fenced, writerVars, recoveryVars,
                   repairVars, readerVars, proposals, sealed_as>>

\* Raft's journal of the node begins with a snapshot of what it knows now, in every later start.
Checkpoint(n) ==
    /\ "checkpoint" \in Chores
    /\ up[n]
    /\ view[n] # checkpoint[n]
    /\ checkpoint' = [checkpoint EXCEPT ![n] = view[n]]
    /\ UNCHANGED <<committedVars, view, up, incarnation, heard, lease, copyVars, writerVars, recoveryVars,
                   repairVars, readerVars, proposals, sealed_as, budget>>

\* The notes of fences on segments that it will then know to be sealed are dropped: it refuses a sealed
\* segment's frames without them.
ForgetFence(n, t, s) ==
    /\ up[n]
    /\ <<t, s>> \in fenced[n]
    /\ s < checkpoint[n][t]
    /\ fenced' = [fenced EXCEPT ![n] = @ \ {<<t, s>>}]
    /\ UNCHANGED <<committedVars, nodeVars, log, synced, damaged, unsure, writerVars, recoveryVars,
                   repairVars, readerVars, proposals, sealed_as, budget>>

-----------------------------------------------------------------------------
ReplicaSets == {replicas \in SUBSET Node : Cardinality(replicas) \in 1..ReplicationFactor}
Writes(n, t) == IF lease[n][t] <= WriteTo THEN lease[n][t] ELSE 0

\* TLC names a step after the definition whose quantifiers range over constants, so quantifiers over
\* messages are inside the actions. Where only one segment can be meant, it is named here (the one that
\* the node leads or believes to be open) instead of trying them all.
Next ==
    \/ \E t \in Topic, n \in MayLead, replicas \in ReplicaSets : RegisterTopic(t, n, replicas)
    \/ \E t \in Topic, n \in MayLead, replicas \in ReplicaSets : Seal(t, n, replicas)
    \/ \E n \in Node, t \in Topic, s \in Segments : Apply(n, t, s)
    \/ \E n \in Node : Announce(n)
    \/ \E n \in Node : RemoveNode(n)
    \/ \E n \in Node : Rejoin(n)
    \/ \E n \in Node : ExpireLease(n)
    \/ \E n \in Node : RenewLease(n)
    \/ \E n \in Node, t \in Topic : LeaderAppend(n, t, Writes(n, t), 1)
    \/ \E n \in Node, t \in Topic : ReplicaAppend(n, t, view[n][t], 1)
    \/ \E n \in Node, t \in Topic, s \in Segments : Report(n, t, s)
    \/ \E n \in Node, t \in Topic : \E count \in 1..MaxEntries : Ack(n, t, lease[n][t], count)
    \/ \E n \in Node, t \in Topic : BeginSeal(n, t, lease[n][t])
    \/ \E n \in Node, t \in Topic : ProposeSeal(n, t, lease[n][t])
    \/ \E n \in Node, t \in Topic : StartRecovery(n, t, view[n][t])
    \/ \E n \in Node, t \in Topic, s \in Segments : Fence(n, t, s)
    \/ \E t \in Topic, s \in Segments : Recover(t, s)
    \/ \E t \in Topic, s \in Segments : ForceRecover(t, s)
    \/ \E n \in Node, t \in Topic, s \in Segments : CopyTail(n, t, s)
    \/ \E t \in Topic, s \in Segments : RecoverySeal(t, s)
    \/ \E n \in Node, t \in Topic, s \in Segments : Repair(n, t, s)
    \/ \E n \in Node, t \in Topic, s \in Segments : Replace(n, t, s)
    \/ \E n \in Node, t \in Topic, s \in Segments : Prove(n, t, s)
    \/ \E t \in Topic, s \in Segments : \E new \in SUBSET Node : ProposeReplicas(t, s, new)
    \/ \E t \in Topic, s \in Segments : SetReplicas(t, s)
    \/ \E n \in Node, t \in Topic, g \in Group : HandOut(n, t, g, 1)
    \/ \E t \in Topic, g \in Group : Deliver(t, g)
    \/ \E n \in Node, t \in Topic, g \in Group : StepOver(n, t, g)
    \/ \E n \in Node, t \in Topic, g \in Group : Confirm(n, t, g)
    \/ \E n \in Node, t \in Topic, g \in Group : Rewind(n, t, g)
    \/ \E n \in Node, t \in Topic, g \in Group : ProposeCursors(n, t, g)
    \/ \E t \in Topic, g \in Group : CommitCursors(t, g)
    \/ \E n \in Node : Crash(n)
    \/ \E n \in Node : LosePower(n)
    \/ \E n \in Node : Restart(n)
    \/ \E n \in Node, t \in Topic, s \in Segments : BecomeSure(n, t, s)
    \/ \E n \in Node, t \in Topic, s \in Segments : Damage(n, t, s)
    \/ \E n \in Node : Checkpoint(n)
    \/ \E n \in Node, t \in Topic, s \in Segments : ForgetFence(n, t, s)

Spec == Init /\ [][Next]_vars

-----------------------------------------------------------------------------
\* What must always hold. Names as in the simulator and the tests.

TypeOK ==
    /\ members \subseteq Node
    /\ \A t \in Topic :
          /\ Len(metadata[t].segments) <= MaxSegments
          /\ \A s \in 1..Known(t) :
                /\ Segment(t, s).leader \in Node
                /\ Replicas(t, s) \subseteq Node
                /\ Segment(t, s).count \in 0..NoCount
                /\ Segment(t, s).incarnation \in Nat
          /\ \A s \in Segments : acked[t][s] \in 0..MaxEntries
    /\ \A n \in Node :
          /\ up[n] \in BOOLEAN /\ heard[n] \in BOOLEAN
          /\ incarnation[n] \in Nat
          /\ announced[n] \in 0..incarnation[n]
          /\ fenced[n] \subseteq Topic \X Segments
          /\ \A t \in Topic :
                /\ view[n][t] \in 0..MaxSegments
                /\ up[n] => checkpoint[n][t] <= view[n][t]
                /\ lease[n][t] \in 0..MaxSegments
                /\ \A s \in Segments :
                      /\ Length(n, t, s) <= MaxEntries
                      /\ synced[n][t][s] \in 0..Length(n, t, s)
                      /\ damaged[n][t][s] \in 0..Length(n, t, s)
                      /\ matched[n][t][s] \in 0..MaxEntries
                      /\ unsure[n][t][s] \in 0..Never

\* Metadata, copies and cursors talk about the same topics, segments and members. Every topic's
\* segments but the last are sealed, the last is open.
DomainConsistency ==
    \A t \in Topic :
        /\ \A s \in 1..Known(t) : (Segment(t, s).count = NoCount) <=> (s = Known(t))
        /\ \A s \in 1..Known(t) : Replicas(t, s) \subseteq members
        /\ \A s \in Segments : s > Known(t) => acked[t][s] = 0 /\ <<t, s>> \notin sealing
        /\ \A n \in Node : view[n][t] <= Known(t) /\ lease[n][t] <= view[n][t]
        /\ \A p \in proposals : p.topic = t => p.segment <= Known(t)

\* Only the segment's leader, in the incarnation it was opened for, ever originates entries in it.
SingleWriter ==
    \A t \in Topic : \A s \in 1..Known(t) : \A n \in Node : \A i \in 1..Length(n, t, s) :
        /\ log[n][t][s][i].writer = Segment(t, s).leader
        /\ log[n][t][s][i].incarnation = Segment(t, s).incarnation

\* Entries are numbered in the order their writer took them, on every copy.
SeqOrder ==
    \A n \in Node, t \in Topic, s \in Segments : \A i \in 1..Length(n, t, s) : log[n][t][s][i].index = i

\* Any two copies of a segment agree up to the shorter one.
PrefixAgree ==
    \A n, m \in Node, t \in Topic, s \in Segments :
        \A i \in 1..Min(Length(n, t, s), Length(m, t, s)) : log[n][t][s][i] = log[m][t][s][i]

\* A majority of the replicas holds `count` entries. Copies that lost power without having synced, and
\* damaged ones, are excused; but never so many that they were a majority themselves, unless a
\* configuration is about the loss of them all.
HeldByMajority(t, s, count) ==
    LET holders == {n \in Replicas(t, s) : Intact(n, t, s) >= count}
        excused == {n \in Replicas(t, s) \ holders : ~Sure(n, t, s)}
    IN count > 0 => /\ Majority(holders \cup excused, Replicas(t, s))
                    /\ ~Majority(excused, Replicas(t, s)) \/ "decay" \in Losses

\* An acknowledged entry is on a majority of its replicas, and below the count if sealed. An operator
\* who forces a recovery gives that up.
AckedDurable ==
    \A t \in Topic : \A s \in 1..Known(t) :
        \/ <<t, s>> \in forced
        \/ /\ acked[t][s] <= Segment(t, s).count
           /\ HeldByMajority(t, s, acked[t][s])

\* No copy holds entries of a segment that is not open or sealed yet.
NoWritesPastOpen ==
    \A t \in Topic, s \in Segments : s > Known(t) => \A n \in Node : log[n][t][s] = <<>>

\* A sealed count never changes, and a majority of the replicas holds that many entries.
SealedStable ==
    \A t \in Topic : \A s \in 1..Known(t) :
        Sealed(t, s) => /\ Segment(t, s).count = sealed_as[t][s]
                        /\ HeldByMajority(t, s, Segment(t, s).count)

\* A sealed segment has no fewer replicas than it should, unless it was written with fewer.
ReplicasKept ==
    [][\A t \in Topic : \A s \in 1..Known(t) :
          Cardinality(Replicas(t, s)') >=
              Min(Cardinality(Replicas(t, s)), Min(ReplicationFactor, Cardinality(members)))]_vars

\* A segment opens with no fewer replicas than it should have.
EnoughReplicas ==
    [][\A t \in Topic : Known(t)' > Known(t) =>
          Cardinality(Replicas(t, Known(t))') >= Min(ReplicationFactor, Cardinality(members))]_vars

\* The cumulative offset is the sum of the sealed counts.
LastSealedIsSum ==
    \A t \in Topic : Known(t) > 0 =>
        metadata[t].sealed_total = SumCounts(SubSeq(metadata[t].segments, 1, Known(t) - 1))

\* The topic's leader is the leader of its open segment: it is one of its replicas, and a node that
\* believes to lead the topic leads the segment that is open in its view, in the incarnation it was
\* opened for.
OpenLeaderMatchesMap ==
    \A t \in Topic :
        /\ Known(t) > 0 => Segment(t, Known(t)).leader \in Replicas(t, Known(t))
        /\ \A n \in Node : lease[n][t] > 0 =>
              lease[n][t] = view[n][t] /\ IsLeader(n, t, lease[n][t])

\* A cursor never points past its segment, nor past the acknowledged entries; and a committed one never
\* falls behind the place where it was when the open segment opened. (Only a node that does not know of
\* a forced seal yet may still stand beyond it.)
PositionInBounds(t, p) ==
    /\ p[1] <= Max(1, Known(t))
    /\ Known(t) = 0 => p = Start
    /\ Known(t) > 0 => p[2] <= (IF Sealed(t, p[1]) THEN Segment(t, p[1]).count ELSE acked[t][p[1]])

CursorInBounds ==
    \A t \in Topic, g \in Group :
        /\ PositionInBounds(t, metadata[t].cursors[g])
        /\ Known(t) > 0 => ~Before(metadata[t].cursors[g], Segment(t, Known(t)).cursors[g])
        /\ \A n \in Node : LET p == reading[n][t][g] IN
              \/ p = NoPosition
              \/ PositionInBounds(t, p)
              \/ <<t, p[1]>> \in forced /\ p[1] = view[n][t] /\ p[2] <= acked[t][p[1]]

\* The topic's order as far as it is settled: what is sealed, and what is acknowledged of the open
\* segment. (Sealed entries may be settled without ever having been acknowledged.)
RECURSIVE OrderFrom(_, _)
OrderFrom(t, s) ==
    IF s > Known(t) THEN <<>>
    ELSE LET count == IF Sealed(t, s) THEN Segment(t, s).count ELSE acked[t][s]
         IN [i \in 1..count |-> <<s, i>>] \o OrderFrom(t, s + 1)

\* What a group was given, redeliveries removed, is a prefix of the topic's order (what was lost on all
\* replicas before it could be given counts as given). And no cursor is ahead of that, or a crash would
\* leave a gap: neither the committed one, nor what a leader takes to be confirmed. (An operator who
\* gives up entries that were delivered gives that up, too.)
DeliveredIsPrefix ==
    \A t \in Topic, g \in Group :
        LET order == OrderFrom(t, 1)
            had == delivered[t][g]
            cursors == {metadata[t].cursors[g]} \cup {Confirmed(n, t, g) : n \in Node}
            passed(i, p) == order[i][1] < p[1] \/ (order[i][1] = p[1] /\ order[i][2] <= p[2])
        IN \/ \E s \in Segments : <<t, s>> \in forced
           \/ /\ Len(had) <= Len(order)
              /\ \A i \in 1..Len(had) : had[i] = order[i]
              /\ \A i \in (Len(had) + 1)..Len(order) : \A p \in cursors : ~passed(i, p)

-----------------------------------------------------------------------------
\* Probes: each must be violated, or the spec cannot do what it is about.

ProbeRollover ==
    \A t \in Topic : \A p \in proposals : p.topic = t => p.count = 0 \/ <<t, p.segment>> \in recovering
ProbeTwoRecoveries ==
    \A c, d \in decided : c.topic = d.topic /\ c.segment = d.segment => c = d
ProbeTwoSeals ==
    \A p, q \in proposals : p.topic = q.topic /\ p.segment = q.segment => p.count = q.count
ProbeUnackedSurvives ==
    \A t \in Topic : \A s \in 1..Known(t) : Sealed(t, s) => Segment(t, s).count <= acked[t][s]
ProbeDeposedTail ==
    \A t \in Topic : \A s \in 1..Known(t) :
        Sealed(t, s) => \A n \in Node : Length(n, t, s) <= Segment(t, s).count
ProbeStaleLeader == \A t \in Topic, n \in Node : lease[n][t] > 0 => lease[n][t] = Known(t)
ProbeLeadsTwice ==
    \A t \in Topic : \A s, z \in 1..Known(t) :
        s # z => Segment(t, s).leader # Segment(t, z).leader \/ Segment(t, z).count = NoCount
ProbePartialTail ==
    \A c \in decided, n \in Node :
        n \in Replicas(c.topic, c.segment) =>
            Length(n, c.topic, c.segment) = 0 \/ Length(n, c.topic, c.segment) >= c.count
ProbeEmptyChain ==
    \A t \in Topic : \A s \in 1..Known(t) : (s > 1 /\ Sealed(t, s)) =>
        Segment(t, s).count > 0 \/ Segment(t, s - 1).count > 0
ProbeRedelivery == \A n \in Node, t \in Topic, g \in Group :
    LET d == Delivery(t, g, handed[n][t][g], reading[n][t][g])
        had == delivered[t][g]
    IN handed[n][t][g] = NoPosition \/ Len(had) < 2 \/ <<d.segment, d.start + 1>> # had[1]
ProbeSteppedOver == \A t \in Topic, g \in Group : \A i \in 1..Len(delivered[t][g]) :
    \E d \in received : d.segment = delivered[t][g][i][1] /\ d.end >= delivered[t][g][i][2]
ProbeSealedWithCursors ==
    \A t \in Topic, g \in Group : \A s \in 1..Known(t) : Segment(t, s).cursors[g] = Start
ProbeUnsureWaits == \A a \in answers : a.sure
ProbeSureAgain ==
    \A n \in Node, t \in Topic, s \in Segments :
        unsure[n][t][s] = 0 \/ unsure[n][t][s] > Length(n, t, s)
ProbeGrown == \A t \in Topic : \A s \in 1..Known(t) : Cardinality(Replicas(t, s)) <= ReplicationFactor
ProbeShrunk == \A c \in changes :
    Cardinality(c.new) >= Cardinality(c.old) \/ Replicas(c.topic, c.segment) # c.new
ProbeRejoined == \A n \in Node : n \notin members \/ announced[n] = 0 \/ "crash" \in Faults
ProbeReplaced == \A n \in Node, t \in Topic, s \in Segments : budget.losses > 0 \/ ~Sure(n, t, s)
ProbeGivenUp == \A t \in Topic : \A s \in 1..Known(t) : Segment(t, s).count >= acked[t][s]
ProbeFenceForgotten == \A n \in Node : \A t \in Topic : \A s \in Segments :
    s < checkpoint[n][t] /\ <<t, s>> \in recovering => <<t, s>> \in fenced[n]

-----------------------------------------------------------------------------
\* Liveness, once faults stop (the budgets run out). Every step that a healthy cluster takes by itself
\* is fair: messages that are sent again and again arrive, what Raft was asked to commit is committed,
\* processes are started again, and a segment is recovered when, and only when, its leader is gone.
\* A minority of the replicas holds up nothing: where no more than that can crash, they may stay down.
\* Appends need no fairness: clients may be idle. A leader may give a delivery up (Rewind) at any time, but
\* not each time: hence the strong fairness of Confirm.

Failover(r, t, s) == s = Known(t) /\ LeaderGone(t, s) /\ StartRecovery(r, t, s)

SealSomewhere(t, s) ==
    \E n \in MayLead, replicas \in ReplicaSets :
        up[n] /\ announced[n] = incarnation[n] /\ s = Known(t) /\ Seal(t, n, replicas)

Fairness ==
    /\ \A n \in Node :
          /\ WF_vars(Announce(n))
          /\ WF_vars(RenewLease(n))
          /\ WF_vars(MaxFaults * 2 >= ReplicationFactor /\ Restart(n))
    /\ \A n \in Node, t \in Topic :
          WF_vars(\E s \in Segments : Apply(n, t, s) /\ s = Known(t))
    /\ \A n \in Node, t \in Topic, s \in Segments :
          /\ WF_vars(ReplicaAppend(n, t, s, 1))
          /\ WF_vars(Report(n, t, s))
          /\ WF_vars(\E count \in 1..MaxEntries : Ack(n, t, s, count))
          /\ WF_vars(BeginSeal(n, t, s) /\ Length(n, t, s) = MaxEntries)
          /\ WF_vars(ProposeSeal(n, t, s))
          /\ WF_vars(Failover(n, t, s))
          /\ WF_vars(Fence(n, t, s))
          /\ WF_vars(CopyTail(n, t, s))
          /\ WF_vars(Repair(n, t, s))
    /\ \A t \in Topic, s \in Segments :
          /\ WF_vars(Recover(t, s))
          /\ WF_vars(RecoverySeal(t, s))
          /\ WF_vars(SealSomewhere(t, s))
    /\ \A t \in Topic, g \in Group :
          /\ WF_vars(Deliver(t, g))
          /\ \A n \in Node : WF_vars(HandOut(n, t, g, 1)) /\ SF_vars(Confirm(n, t, g))

LiveSpec == Spec /\ Fairness

\* A full segment is sealed.
RolloverProgress ==
    \A t \in Topic, s \in 1..(MaxSegments - 1) :
        (\E n \in Node : s = Known(t) /\ Length(n, t, s) = MaxEntries) ~> Sealed(t, s)

\* A dead leader is replaced.
FailoverProgress ==
    \A t \in Topic, s \in 1..(MaxSegments - 1) :
        (s = Known(t) /\ LeaderGone(t, s)) ~> Sealed(t, s)

\* What is acknowledged is delivered; but where the bound on segments leaves the last one without a
\* leader for good, no node can.
Stuck(t) == Known(t) = MaxSegments /\ LeaderGone(t, MaxSegments)
ReadProgress ==
    \A t \in Topic, g \in Group, i \in 1..(MaxSegments * MaxEntries) :
        (Len(OrderFrom(t, 1)) >= i) ~> (Len(delivered[t][g]) >= i \/ Stuck(t))

\* A bound for what would be too wide: what is lost is lost when all entries have been sent.
LostLate == budget.losses = MaxLosses \/ \A t \in Topic : Len(stream[t][1]) = MaxEntries

\* Nodes that do the same are interchangeable: those that never lead, and, where a behaviour does not
\* begin with one of them as the leader, those that may. (Where it does, either all that never lead are
\* among the first replicas, or none is.) For safety only: symmetry is not sound for liveness.
Symmetry ==
    (IF Cardinality(Node \ MayLead) > 1 THEN Permutations(Node \ MayLead) ELSE {})
    \cup (IF Begun THEN {} ELSE Permutations(MayLead))
=============================================================================
