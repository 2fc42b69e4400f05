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
(* `matched`, `answers`, `decided`, `copied`, `proposals`): taking one out *)
(* is never needed, losing one is not taking the step that reads it, and a *)
(* node that dies in the middle of something simply takes no further step. *)
(* That is also why a recovery has no state of its own: it is what its     *)
(* messages say, any node may run one, and two at once are two choices     *)
(* made from the same answers.                                             *)
(*                                                                         *)
(* The disk. `Crash` (kill -9) loses no byte: the kernel has them all.     *)
(* `PowerLoss` cuts copies back: with FsyncEach to no less than what was   *)
(* synced, which is all that was ever reported; without it to anything.    *)
(*                                                                         *)
(* Variables marked PROOF are history: no action reads them to decide.     *)
(* `Bug` plants one bug ("none": the protocol as it is); see Mutants in    *)
(* docs/model-checking.md. Names of actions and invariants are the code's, *)
(* by the table in docs/spec-map.md.                                       *)
(***************************************************************************)
EXTENDS Naturals, Sequences, FiniteSets, TLC

CONSTANTS
    Node, Topic,
    Group,               \* consumer groups; {} leaves cursors and delivery out
    ReplicationFactor,
    MaxSegments,         \* per topic
    MaxEntries,          \* per segment: the writer takes no more
    SealAt,              \* the writer may roll over from this many entries on
    FsyncEach,           \* TRUE: acknowledge only what is synced (--fsync each)
    Leases,              \* TRUE: leases expire and are renewed; FALSE: they always hold
    MaxCrashes, MaxPowerLosses, MaxExpiries, MaxReplicaChanges,
    Bug

VARIABLES
    \* What Raft has committed.
    metadata,     \* metadata[t]: [segments, sealed_total, cursors]
    announced,    \* announced[n]: the incarnation of n that the metadata knows
    \* Each node.
    view,         \* view[n][t]: how many of t's segments n knows of
    up, incarnation,
    heard,        \* heard[n]: n has heard from a Raft leader within lease_ttl
    lease,        \* lease[n][t]: the segment that n believes to lead, or 0
    log,          \* log[n][t][s]: n's copy of the segment
    synced,       \* synced[n][t][s]: so many entries survive a power loss
    fenced,       \* fenced[n]: {<<t, s>>} for which n refuses the writer; durable
    unsure,       \* unsure[n][t][s]: 0, or the length that makes n's shortened copy whole
    reading,      \* reading[n][t][g]: the leader's volatile cursor, or NoPosition
    \* The writers.
    sealing,      \* {<<t, s>>}: the writer takes nothing more
    acked,        \* acked[t][s]: the writer's commit_index: told to clients
    \* Messages in flight.
    stream,       \* stream[t][s][i]: the entries that a writer ever sent as its i-th
    matched,      \* matched[n][t][s]: the length that n has told the writer
    recovering,   \* {<<t, s>>}: fences are under way
    answers,      \* answers to fences: [node, topic, segment, length, sure]
    decided,      \* recoveries that chose a count: [topic, segment, count]
    copied,       \* answers to copies: [node, topic, segment, length]
    proposals,    \* seals on their way through Raft: [topic, segment, count, cursors]
    moves,        \* cursor commits on their way through Raft: [topic, group, position]
    \* History and budgets.
    sealed_as,    \* PROOF sealed_as[t][s]: the first count that was committed, or NoCount
    delivered,    \* PROOF delivered[t][g]: what the group was given, redeliveries removed
    budget        \* what may still go wrong, so that the state space is finite

committedVars == <<metadata, announced>>
nodeVars == <<view, up, incarnation, heard, lease>>
copyVars == <<log, synced, fenced, unsure>>
writerVars == <<sealing, acked, stream, matched>>
recoveryVars == <<recovering, answers, decided, copied>>
readerVars == <<reading, moves, delivered>>
vars == <<committedVars, nodeVars, copyVars, writerVars, recoveryVars, readerVars,
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
MaxOf(S) == CHOOSE x \in S : \A y \in S : y <= x
MinOf(S) == CHOOSE x \in S : \A y \in S : x <= y
Majority(S, of) == Cardinality(S) * 2 > Cardinality(of)

Before(p, q) == p[1] < q[1] \/ (p[1] = q[1] /\ p[2] < q[2])
Later(p, q) == IF Before(p, q) THEN q ELSE p

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

\* The node is the leader that this segment was opened for, in the same process start.
IsLeader(n, t, s) ==
    /\ up[n]
    /\ Segment(t, s).leader = n
    /\ Segment(t, s).incarnation = incarnation[n]

OpenedSegment(n, replicas, cursors) ==
    [leader |-> n, incarnation |-> announced[n], replicas |-> replicas,
     count |-> NoCount, cursors |-> cursors]

StartCursors == [g \in Group |-> Start]

\* The set of batches of `count` entries that the network can hand to a copy of length `from`.
\* A frame of the code holds many entries; the model checks with count = 1, traces use more.
Batches(t, s, from, count) ==
    IF from + count > Len(stream[t][s]) THEN {}
    ELSE IF count = 1 THEN {<<e>> : e \in stream[t][s][from + 1]}
    ELSE {[i \in 1..count |-> CHOOSE e \in stream[t][s][from + i] : TRUE]}

-----------------------------------------------------------------------------
Init ==
    /\ metadata = [t \in Topic |-> [segments |-> <<>>, sealed_total |-> 0, cursors |-> StartCursors]]
    /\ announced = [n \in Node |-> 0]
    /\ view = [n \in Node |-> [t \in Topic |-> 0]]
    /\ up = [n \in Node |-> TRUE]
    /\ incarnation = [n \in Node |-> 0]
    /\ heard = [n \in Node |-> TRUE]
    /\ lease = [n \in Node |-> [t \in Topic |-> 0]]
    /\ log = [n \in Node |-> [t \in Topic |-> [s \in Segments |-> <<>>]]]
    /\ synced = [n \in Node |-> [t \in Topic |-> [s \in Segments |-> 0]]]
    /\ fenced = [n \in Node |-> {}]
    /\ unsure = [n \in Node |-> [t \in Topic |-> [s \in Segments |-> 0]]]
    /\ reading = [n \in Node |-> [t \in Topic |-> [g \in Group |-> NoPosition]]]
    /\ sealing = {}
    /\ acked = [t \in Topic |-> [s \in Segments |-> 0]]
    /\ stream = [t \in Topic |-> [s \in Segments |-> <<>>]]
    /\ matched = [n \in Node |-> [t \in Topic |-> [s \in Segments |-> 0]]]
    /\ recovering = {}
    /\ answers = {}
    /\ decided = {}
    /\ copied = {}
    /\ proposals = {}
    /\ moves = {}
    /\ sealed_as = [t \in Topic |-> [s \in Segments |-> NoCount]]
    /\ delivered = [t \in Topic |-> [g \in Group |-> <<>>]]
    /\ budget = [crashes |-> MaxCrashes, power_losses |-> MaxPowerLosses,
                 expiries |-> MaxExpiries, replica_changes |-> MaxReplicaChanges]

-----------------------------------------------------------------------------
\* Metadata: the commands that Raft commits, and the nodes that apply them.

\* A topic is created: its first segment opens at some node, with some replica set. Which ones is
\* placement, and placement is never a matter of safety: any choice is allowed.
RegisterTopic(t, n, replicas) ==
    /\ Known(t) = 0
    /\ n \in replicas
    /\ metadata' = [metadata EXCEPT ![t].segments = <<OpenedSegment(n, replicas, StartCursors)>>]
    /\ UNCHANGED <<announced, nodeVars, copyVars, writerVars, recoveryVars, readerVars,
                   proposals, sealed_as, budget>>

\* A proposed seal is committed. It closes the segment at its count and opens the next one at some
\* node, in the incarnation that the metadata knows of it: one command, so there is always exactly one open
\* segment. The compare (`segment` is still the open one) is what lets one of two seals win; a
\* refused seal changes nothing and is not a step. The proposer of the code also names the next leader and the replicas; here
\* they are chosen at the commit, which allows the same outcomes. The leader's own seal carries its cursors, which only move forward.
SealWith(p, n, replicas) ==
    LET t == p.topic
        s == p.segment
        cursors == [g \in Group |-> Later(metadata[t].cursors[g], p.cursors[g])]
        closed == [Segment(t, s) EXCEPT !.count = p.count]
        added == IF Bug = "TotalMissesSeal" /\ p.count # acked[t][s] THEN acked[t][s] ELSE p.count
    IN
    /\ n \in replicas
    /\ s <= Known(t)
    /\ \/ IsOpen(t, s)
       \/ Bug = "SealWithoutCompare"
    /\ s < MaxSegments
    /\ metadata' = [metadata EXCEPT ![t] =
          [segments |-> IF IsOpen(t, s)
                        THEN Append([@.segments EXCEPT ![s] = closed], OpenedSegment(n, replicas, cursors))
                        ELSE [@.segments EXCEPT ![s] = closed],
           sealed_total |-> IF IsOpen(t, s) THEN @.sealed_total + added
                            ELSE (@.sealed_total + p.count) - Segment(t, s).count,
           cursors |-> cursors]]
    /\ sealed_as' = [sealed_as EXCEPT ![t][s] = IF @ = NoCount THEN p.count ELSE @]
    /\ UNCHANGED <<announced, nodeVars, copyVars, writerVars, recoveryVars, readerVars,
                   proposals, budget>>

\* Any proposal for the topic may be the one that Raft commits next.
Seal(t, n, replicas) ==
    \E p \in proposals : p.topic = t /\ SealWith(p, n, replicas)

\* A node applies commands (or installs a snapshot that holds several) and from then on acts on
\* what they say. If the segment that is now the last was opened for this very process start, the node
\* holds the lease for it and starts to read where the metadata that it has applied has the cursors: as they were when
\* the segment opened, or as they were committed since.
Apply(n, t, s) ==
    /\ up[n]
    /\ view[n][t] < s /\ s <= Known(t)
    /\ view' = [view EXCEPT ![n][t] = s]
    /\ LET leads == IsLeader(n, t, s)
       IN /\ lease' = [lease EXCEPT ![n][t] =
                IF leads THEN s
                ELSE IF Bug = "LeaseOutlivesSegment" THEN @ ELSE 0]
          /\ IF leads
             THEN \E cursors \in {Segment(t, s).cursors, metadata[t].cursors} :
                    reading' = [reading EXCEPT ![n][t] = cursors]
             ELSE reading' = [reading EXCEPT ![n][t] = [g \in Group |-> NoPosition]]
    /\ UNCHANGED <<committedVars, up, incarnation, heard, copyVars, writerVars, recoveryVars,
                   moves, delivered, proposals, sealed_as, budget>>

\* A node that has started tells the metadata its new incarnation. Only segments opened later are its
\* to lead; one opened for its former self stays leaderless and is recovered.
Announce(n) ==
    /\ up[n]
    /\ announced[n] # incarnation[n]
    /\ announced' = [announced EXCEPT ![n] = incarnation[n]]
    /\ UNCHANGED <<metadata, nodeVars, copyVars, writerVars, recoveryVars, readerVars,
                   proposals, sealed_as, budget>>

-----------------------------------------------------------------------------
\* Leases. They keep a writer that is cut off from writing into the void; no invariant needs them.

\* A node has not heard from a Raft leader for lease_ttl. Time is not modelled: a lease may
\* run out at any moment, and fences may come before it does.
ExpireLease(n) ==
    /\ Leases
    /\ up[n] /\ heard[n]
    /\ budget.expiries > 0
    /\ heard' = [heard EXCEPT ![n] = FALSE]
    /\ budget' = [budget EXCEPT !.expiries = @ - 1]
    /\ UNCHANGED <<committedVars, view, up, incarnation, lease, copyVars, writerVars, recoveryVars, readerVars,
                   proposals, sealed_as>>

\* It hears from a Raft leader again.
RenewLease(n) ==
    /\ Leases
    /\ up[n] /\ ~heard[n]
    /\ heard' = [heard EXCEPT ![n] = TRUE]
    /\ UNCHANGED <<committedVars, view, up, incarnation, lease, copyVars, writerVars, recoveryVars, readerVars,
                   proposals, sealed_as, budget>>

-----------------------------------------------------------------------------
\* Writing

\* May node n originate entries in segment s of t, by all that it knows? Lease, fence and seal are
\* compared in the same step as the append, never before waiting for something.
MayWrite(n, t, s) ==
    /\ up[n] /\ heard[n] /\ s > 0
    /\ \/ lease[n][t] = s
       \/ /\ Bug = "LeaderResumesAfterRestart"
          /\ view[n][t] = s /\ Segment(t, s).leader = n
       \/ /\ Bug = "OpenBeforeSeal"
          /\ lease[n][t] + 1 = s /\ lease[n][t] > 0 /\ <<t, s - 1>> \in sealing
       \/ /\ Bug = "AnyoneWrites"
          /\ view[n][t] = s /\ n \in Replicas(t, s)
    /\ <<t, s>> \notin fenced[n] \/ Bug = "WriterIgnoresFence"
    /\ <<t, s>> \notin sealing \/ Bug = "AppendsWhileSealing"

\* The leader appends `count` entries to its own copy and sends them to the other replicas, without
\* waiting for anything. They are in flight from now on: `stream` keeps what was ever sent as the i-th entry.
LeaderAppend(n, t, s, count) ==
    LET from == Length(n, t, s)
        entries == [i \in 1..count |-> Entry(n, from + i)]
    IN
    /\ MayWrite(n, t, s)
    /\ from + count <= MaxEntries
    /\ log' = [log EXCEPT ![n][t][s] = @ \o entries]
    /\ stream' = [stream EXCEPT ![t][s] =
          [i \in 1..Max(Len(@), from + count) |->
              (IF i <= Len(@) THEN @[i] ELSE {})
              \cup (IF i > from /\ i <= from + count THEN {entries[i - from]} ELSE {})]]
    /\ matched' = IF FsyncEach /\ Bug # "AckBeforeFsync" THEN matched
                  ELSE [matched EXCEPT ![n][t][s] = Max(@, from + count)]
    /\ UNCHANGED <<committedVars, nodeVars, synced, fenced, unsure, sealing, acked,
                   recoveryVars, readerVars, proposals, sealed_as, budget>>

\* A replica takes a frame: only if it is the next in order (of a frame that overlaps, the rest), and never for a
\* segment that it is fenced for or knows to be sealed. Without FsyncEach it answers with its length at once.
ReplicaAppend(n, t, s, count) ==
    /\ up[n] /\ s > 0
    /\ view[n][t] = s
    /\ n \in Replicas(t, s)
    /\ n # Segment(t, s).leader
    /\ <<t, s>> \notin fenced[n] \/ Bug = "NoFenceCheck"
    /\ \E from \in CASE Bug = "NoGapCheck" -> Length(n, t, s)..MaxEntries
                     [] Bug = "NoDuplicateCheck" -> 0..Length(n, t, s)
                     [] OTHER -> {Length(n, t, s)} :
       \E batch \in Batches(t, s, from, count) :
          /\ Length(n, t, s) + count <= MaxEntries
          /\ log' = [log EXCEPT ![n][t][s] = @ \o batch]
          /\ matched' = IF FsyncEach /\ Bug # "AckBeforeFsync" THEN matched
                        ELSE [matched EXCEPT ![n][t][s] = Max(@, Length(n, t, s) + count)]
    /\ UNCHANGED <<committedVars, nodeVars, synced, fenced, unsure, sealing, acked, stream,
                   recoveryVars, readerVars, proposals, sealed_as, budget>>

\* With FsyncEach: the sync of a copy is done, and the replica (the writer's own node is one) tells the writer. A
\* fenced replica tells nothing any more: its copy may have been extended by a recovery, and an
\* entry that is there only because it was copied must not count towards an acknowledgement.
Report(n, t, s) ==
    /\ FsyncEach \/ Bug = "FencedReplicaReports"
    /\ up[n]
    /\ matched[n][t][s] < Length(n, t, s)
    /\ s <= Known(t) /\ n \in Replicas(t, s)
    /\ <<t, s>> \notin fenced[n] \/ Bug = "FencedReplicaReports"
    /\ synced' = [synced EXCEPT ![n][t][s] = Length(n, t, s)]
    /\ matched' = [matched EXCEPT ![n][t][s] = Length(n, t, s)]
    /\ UNCHANGED <<committedVars, nodeVars, log, fenced, unsure, sealing, acked, stream,
                   recoveryVars, readerVars, proposals, sealed_as, budget>>

\* The writer acknowledges `count` entries in all, a majority of the replica set having reported
\* that many. Never once its own node is fenced or it has seen the segment sealed: with the outcome unknown it stays silent.
Ack(n, t, s, count) ==
    /\ up[n] /\ s > 0
    /\ lease[n][t] = s \/ (Bug = "LeaderResumesAfterRestart" /\ view[n][t] = s /\ Segment(t, s).leader = n)
    /\ <<t, s>> \notin fenced[n] \/ Bug \in {"WriterIgnoresFence", "FencedReplicaReports"}
    /\ acked[t][s] < count /\ count <= Length(n, t, s)
    /\ LET holders == {m \in Replicas(t, s) : matched[m][t][s] >= count}
       IN Majority(holders, Replicas(t, s)) \/ (Bug = "AckByMinority" /\ holders # {})
    /\ acked' = [acked EXCEPT ![t][s] = count]
    /\ UNCHANGED <<committedVars, nodeVars, copyVars, sealing, stream, matched,
                   recoveryVars, readerVars, proposals, sealed_as, budget>>

-----------------------------------------------------------------------------
\* Rollover

\* The threshold is reached: the writer takes nothing more for this segment. Appends that wait go back to the
\* nodes that have the clients, which send them on to the next segment.
BeginSeal(n, t, s) ==
    /\ up[n] /\ s > 0
    /\ lease[n][t] = s
    /\ <<t, s>> \notin sealing
    /\ Length(n, t, s) >= SealAt
    /\ s < MaxSegments
    /\ sealing' = sealing \cup {<<t, s>>}
    /\ UNCHANGED <<committedVars, nodeVars, copyVars, acked, stream, matched,
                   recoveryVars, readerVars, proposals, sealed_as, budget>>

\* All that it appended is acknowledged: the count is final. The cursors go along.
ProposeSeal(n, t, s) ==
    /\ up[n] /\ s > 0
    /\ lease[n][t] = s
    /\ <<t, s>> \in sealing
    /\ <<t, s>> \notin fenced[n]
    /\ acked[t][s] = Length(n, t, s)
    /\ proposals' = proposals \cup
          {[topic |-> t, segment |-> s, count |-> acked[t][s], cursors |-> reading[n][t]]}
    /\ UNCHANGED <<committedVars, nodeVars, copyVars, writerVars, recoveryVars, readerVars,
                   sealed_as, budget>>

-----------------------------------------------------------------------------
\* Failover: fence, recover, seal. By any node, also by two at once, also while the leader is well.

\* A node that believes s to be open starts to recover it: fences are on their way from now on, and
\* may arrive long after the segment is sealed.
StartRecovery(r, t, s) ==
    /\ up[r]
    /\ view[r][t] = s /\ s > 0 /\ s < MaxSegments
    /\ <<t, s>> \notin recovering
    /\ recovering' = recovering \cup {<<t, s>>}
    /\ UNCHANGED <<committedVars, nodeVars, copyVars, writerVars, answers, decided, copied,
                   readerVars, proposals, sealed_as, budget>>

\* A replica notes the fence durably, refuses the writer from then on, and answers with its length:
\* one step. The answer leaves when the note and everything appended before it are durable, so a frame that passed the
\* fence check and still waits for its sync is in that length. `sure` is FALSE for a copy that a power loss may have shortened.
Fence(n, t, s) ==
    LET early == Bug = "ReadThenFence" /\ <<t, s>> \notin fenced[n]
        old == {a \in answers : a.node = n /\ a.topic = t /\ a.segment = s}
    IN
    /\ recovering # {}
    /\ up[n]
    /\ <<t, s>> \in recovering
    /\ n \in Replicas(t, s)
    /\ \/ /\ Bug = "ReadThenFence"      \* the length is read first and the fence noted later
          /\ IF old = {}
             THEN /\ answers' = answers \cup {[node |-> n, topic |-> t, segment |-> s,
                                 length |-> Length(n, t, s), sure |-> unsure[n][t][s] = 0]}
                  /\ UNCHANGED fenced
             ELSE /\ fenced' = [fenced EXCEPT ![n] = @ \cup {<<t, s>>}]
                  /\ UNCHANGED answers
       \/ /\ Bug # "ReadThenFence"
          /\ fenced' = [fenced EXCEPT ![n] = @ \cup {<<t, s>>}]
          /\ answers' = answers \cup {[node |-> n, topic |-> t, segment |-> s,
                            length |-> Length(n, t, s), sure |-> unsure[n][t][s] = 0]}
    /\ synced' = IF FsyncEach THEN [synced EXCEPT ![n][t][s] = Length(n, t, s)] ELSE synced
    /\ <<fenced', answers'>> # <<fenced, answers>>
    /\ UNCHANGED <<committedVars, nodeVars, log, unsure, writerVars, recovering, decided, copied,
                   readerVars, proposals, sealed_as, budget>>

\* Do the nodes that gave these answers suffice to know every acknowledged entry? A majority of sure copies shares a
\* node with every majority that acknowledged; failing that, all replicas answered.
Suffices(replies, replicas) ==
    LET nodes == {a.node : a \in replies}
        certain == {a.node : a \in {b \in replies : b.sure}}
    IN CASE Bug = "MinorityFence" -> nodes # {}
         [] Bug = "UnsureCountsAsSure" -> Majority(nodes, replicas)
         [] OTHER -> Majority(certain, replicas) \/ nodes = replicas

\* Recovery chooses the count: the longest of the lengths answered. An entry that was never acknowledged
\* may survive; an acknowledged one always does. (Whichever answers it happens to have, the longest is
\* some answer `a`, and those that are no longer suffice.)
Recover(t, s) ==
    /\ recovering # {}
    /\ <<t, s>> \in recovering
    /\ \E a \in answers :
          /\ a.topic = t /\ a.segment = s
          /\ LET choice == [topic |-> t, segment |-> s, count |-> a.length]
                 replies == {b \in answers :
                     /\ b.topic = t /\ b.segment = s
                     /\ IF Bug = "ShortestCopyWins" THEN b.length >= a.length ELSE b.length <= a.length
                     /\ Bug = "ReadThenFence" => <<t, s>> \in fenced[b.node]}
             IN /\ choice \notin decided
                /\ a \in replies
                /\ Suffices(replies, Replicas(t, s))
                /\ decided' = decided \cup {choice}
    /\ UNCHANGED <<committedVars, nodeVars, copyVars, writerVars, recovering, answers, copied,
                   readerVars, proposals, sealed_as, budget>>

\* A fenced replica extends its copy up to a count that a recovery chose, from a copy that has more. Copying passes
\* the fence, only ever extends a copy, and is answered when it is durable. It may stop half-way, and go on later from
\* another copy. (The copy read from may be on a node that has died since: its answer was on the way.)
CopyTailFrom(n, from, t, s, upto) ==
    LET have == Length(n, t, s)
        keep == IF Bug = "CopyTruncates" THEN 0 ELSE have
        count == IF Bug = "CopyTruncates" THEN MinOf({c.count : c \in decided}) ELSE upto
    IN
    /\ up[n]
    /\ n # from /\ n \in Replicas(t, s) /\ from \in Replicas(t, s)
    /\ \E c \in decided : c.topic = t /\ c.segment = s /\ c.count >= upto
    /\ IF Bug = "CopyTruncates" THEN have # count ELSE have < upto
    /\ count <= Length(from, t, s)
    /\ log' = [log EXCEPT ![n][t][s] = SubSeq(@, 1, keep) \o SubSeq(log[from][t][s], keep + 1, count)]
    /\ synced' = IF FsyncEach THEN [synced EXCEPT ![n][t][s] = count] ELSE synced
    /\ copied' = copied \cup {[node |-> n, topic |-> t, segment |-> s, length |-> count]}
    /\ UNCHANGED <<committedVars, nodeVars, fenced, unsure, writerVars, recovering, answers, decided,
                   readerVars, proposals, sealed_as, budget>>

\* From whichever copy has more, as far as it likes to go.
CopyTail(n, t, s) ==
    /\ decided # {}
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
    /\ Majority(holders, Replicas(t, s)) \/ Bug \in {"SealBeforeCopy", "ShortestCopyWins"}
    /\ p \notin proposals
    /\ proposals' = proposals \cup {p}
    /\ UNCHANGED <<committedVars, nodeVars, copyVars, writerVars, recoveryVars, readerVars,
                   sealed_as, budget>>

\* Any count that was chosen may be proposed once that holds for it.
RecoverySeal(t, s) == \E c \in decided : c.topic = t /\ c.segment = s /\ RecoverySealAt(t, s, c.count)

\* A replica of a sealed segment that has less than the count fetches the rest from a copy that has it. Entries
\* beyond the count (a deposed leader's tail) are never copied and never read.
RepairFrom(n, from, t, s, upto) ==
    /\ up[n]
    /\ from \in Replicas(t, s) /\ n # from
    /\ n \in Replicas(t, s) \/ budget.replica_changes > 0
    /\ Length(n, t, s) < upto
    /\ upto <= Segment(t, s).count
    /\ upto <= Length(from, t, s)
    /\ log' = [log EXCEPT ![n][t][s] = @ \o SubSeq(log[from][t][s], Length(n, t, s) + 1, upto)]
    /\ synced' = IF FsyncEach THEN [synced EXCEPT ![n][t][s] = upto] ELSE synced
    /\ unsure' = [unsure EXCEPT ![n][t][s] = IF upto = Segment(t, s).count THEN 0 ELSE @]
    /\ UNCHANGED <<committedVars, nodeVars, fenced, writerVars, recoveryVars, readerVars,
                   proposals, sealed_as, budget>>

\* From whichever copy has more.
Repair(n, t, s) ==
    /\ view[n][t] > s
    /\ Length(n, t, s) < Segment(t, s).count
    /\ \E from \in Node, upto \in 1..MaxEntries : RepairFrom(n, from, t, s, upto)

\* The replica set of a sealed segment changes: a node that holds all of it comes in, and one may go, as long as a
\* majority of the new set is whole. That segment's own set decides every majority, so an open segment's never changes.
SetReplicas(t, s, replicas) ==
    LET whole == {n \in replicas : Length(n, t, s) >= Segment(t, s).count}
    IN
    /\ budget.replica_changes > 0
    /\ Sealed(t, s)
    /\ replicas # Replicas(t, s)
    /\ Cardinality(replicas) = Cardinality(Replicas(t, s))
    /\ Cardinality(replicas \ Replicas(t, s)) = 1
    /\ replicas \ Replicas(t, s) \subseteq whole \/ Bug = "ReplicaBeforeCopy"
    /\ Majority(whole, replicas) \/ Bug = "ReplicaBeforeCopy"
    /\ metadata' = [metadata EXCEPT ![t].segments[s].replicas = replicas]
    /\ budget' = [budget EXCEPT !.replica_changes = @ - 1]
    /\ UNCHANGED <<announced, nodeVars, copyVars, writerVars, recoveryVars, readerVars,
                   proposals, sealed_as>>

-----------------------------------------------------------------------------
\* Reading

\* The same place, moved past sealed segments that end there: a chain of empty ones in one step.
EndOf(t, s) ==
    CASE Bug = "ReaderSkipsTail" -> Min(acked[t][s], Segment(t, s).count)
      [] Bug = "ReadPastSeal" -> MaxOf({Length(n, t, s) : n \in Replicas(t, s)})
      [] OTHER -> Segment(t, s).count

RECURSIVE Advance(_, _, _)
Advance(t, known, p) ==
    IF p[1] < known /\ p[2] >= EndOf(t, p[1])
    THEN Advance(t, known, <<p[1] + 1, 0>>)
    ELSE p

\* How many entries of segment s the leader n may give to readers: of a sealed one its count, of the
\* open one what it has acknowledged.
Readable(n, t, s) ==
    CASE s < view[n][t] -> IF Bug = "ReadPastSeal" THEN MaxEntries ELSE Segment(t, s).count
      [] s = view[n][t] -> IF Bug = "ReadUnacknowledged" THEN Length(n, t, s) ELSE acked[t][s]
      [] OTHER -> 0

\* Entries given once more are left out: what remains must be the topic's order.
Deduplicated(given, entries) ==
    LET new == SelectSeq(entries, LAMBDA e : \A i \in 1..Len(given) : given[i] # e)
    IN given \o new

\* The leader of the open segment gives `count` entries to a client of the group and moves its volatile cursor. Sealed
\* segments are read from any copy that holds them, the open one from the leader's own. A deposed leader may still do
\* this: its entries are acknowledged ones, so that is a redelivery at worst.
Deliver(n, t, g, count) ==
    LET p == Advance(t, view[n][t], reading[n][t][g])
        s == p[1]
        offset == p[2]
    IN
    /\ up[n]
    /\ lease[n][t] > 0
    /\ reading[n][t][g] # NoPosition
    /\ offset + count <= Readable(n, t, s)
    /\ \E m \in IF s = view[n][t] THEN {n} ELSE Replicas(t, s) :
          /\ offset + count <= Length(m, t, s)
          /\ delivered' = [delivered EXCEPT ![t][g] = Deduplicated(@,
                [i \in 1..count |-> <<s, offset + i, log[m][t][s][offset + i]>>])]
    /\ reading' = [reading EXCEPT ![n][t][g] = <<s, offset + count>>]
    /\ UNCHANGED <<committedVars, nodeVars, copyVars, writerVars, recoveryVars, moves,
                   proposals, sealed_as, budget>>

\* Its cursor goes to Raft, to be committed some time later.
ProposeCursors(n, t, g) ==
    LET p == reading[n][t][g]
        ahead == Bug = "CursorBeforeDelivery" /\ p[2] < Readable(n, t, p[1])
        m == [topic |-> t, group |-> g, position |-> IF ahead THEN <<p[1], p[2] + 1>> ELSE p]
    IN
    /\ up[n]
    /\ lease[n][t] > 0
    /\ p # NoPosition /\ m.position # Start
    /\ m \notin moves
    /\ moves' = moves \cup {m}
    /\ UNCHANGED <<committedVars, nodeVars, copyVars, writerVars, recoveryVars, reading, delivered,
                   proposals, sealed_as, budget>>

\* It is committed, but only forward: the old cursor of a node that was deposed, or a commit that was
\* overtaken, changes nothing.
CommitCursors(t, g) ==
    /\ \E m \in moves :
          /\ m.topic = t /\ m.group = g
          /\ \/ Before(metadata[t].cursors[g], m.position)
             \/ Bug = "StaleCursor" /\ metadata[t].cursors[g] # m.position
          /\ metadata' = [metadata EXCEPT ![t].cursors[g] = m.position]
    /\ UNCHANGED <<announced, nodeVars, copyVars, writerVars, recoveryVars, readerVars,
                   proposals, sealed_as, budget>>

-----------------------------------------------------------------------------
\* Faults

\* What a process forgets when it dies: what it knew of the metadata (it reads Raft's log again when it
\* starts), its leases, its cursors. Not its copies, nor its fences.
Forget(n) ==
    /\ up' = [up EXCEPT ![n] = FALSE]
    /\ view' = [view EXCEPT ![n] = [t \in Topic |-> 0]]
    /\ lease' = [lease EXCEPT ![n] = [t \in Topic |-> 0]]
    /\ heard' = [heard EXCEPT ![n] = ~Leases]
    /\ reading' = [reading EXCEPT ![n] = [t \in Topic |-> [g \in Group |-> NoPosition]]]
    /\ fenced' = IF Bug = "FenceForgottenAtRestart" THEN [fenced EXCEPT ![n] = {}] ELSE fenced

\* kill -9. The kernel still has every byte that was written.
Crash(n) ==
    /\ budget.crashes > 0
    /\ up[n]
    /\ budget' = [budget EXCEPT !.crashes = @ - 1]
    /\ Forget(n)
    /\ UNCHANGED <<committedVars, incarnation, log, synced, unsure, writerVars, recoveryVars, moves,
                   delivered, proposals, sealed_as>>

\* The length at which n's copy of (t, s), shortened now, will again hold all that it ever reported: for a sealed
\* segment the count, for an open one what its writer has now, which a replica learns from frames sent on
\* connections made after its restart. A writer's own copy never gets there, nor one without a live writer.
WholeAt(n, t, s) ==
    LET w == Segment(t, s).leader
    IN IF Sealed(t, s) THEN Segment(t, s).count
       ELSE IF w # n /\ IsLeader(w, t, s) THEN Length(w, t, s)
       ELSE Never

\* The power fails: each copy comes back with some prefix, at least with what was synced. Without
\* FsyncEach that may be less than the node once reported, so its copies of known segments are unsure from now on.
PowerLoss(n, lengths) ==
    /\ up[n]
    /\ budget.power_losses > 0
    /\ \A t \in Topic, s \in Segments :
          lengths[t][s] >= synced[n][t][s] /\ lengths[t][s] <= Length(n, t, s)
    /\ budget' = [budget EXCEPT !.power_losses = @ - 1]
    /\ Forget(n)
    /\ log' = [log EXCEPT ![n] = [t \in Topic |-> [s \in Segments |-> SubSeq(@[t][s], 1, lengths[t][s])]]]
    /\ unsure' = IF FsyncEach THEN unsure
                 ELSE [unsure EXCEPT ![n] = [t \in Topic |-> [s \in Segments |->
                          IF s <= Known(t) THEN Max(@[t][s], WholeAt(n, t, s)) ELSE @[t][s]]]]
    /\ UNCHANGED <<committedVars, incarnation, synced, writerVars, recoveryVars, moves,
                   delivered, proposals, sealed_as>>

\* Any prefix may be left of each copy.
LosePower(n) ==
    /\ budget.power_losses > 0
    /\ \E lengths \in [Topic -> [Segments -> 0..MaxEntries]] : PowerLoss(n, lengths)

\* The process starts again, as another incarnation.
Restart(n) ==
    /\ ~up[n]
    /\ up' = [up EXCEPT ![n] = TRUE]
    /\ incarnation' = [incarnation EXCEPT ![n] = @ + 1]
    /\ UNCHANGED <<committedVars, view, heard, lease, copyVars, writerVars, recoveryVars, readerVars,
                   proposals, sealed_as, budget>>

\* An unsure copy has caught up with its writer: what it once reported is there again. Not while it is fenced:
\* then it hears nothing from the writer. (A frame that was sent before the restart proves nothing: see the bug.)
BecomeSure(n, t, s) ==
    /\ ~FsyncEach
    /\ up[n]
    /\ unsure[n][t][s] > 0
    /\ ~Sealed(t, s)
    /\ <<t, s>> \notin fenced[n]
    /\ \/ Length(n, t, s) >= unsure[n][t][s]
       \/ Bug = "OldFrameMakesSure" /\ Length(n, t, s) > 0
    /\ unsure' = [unsure EXCEPT ![n][t][s] = 0]
    /\ UNCHANGED <<committedVars, nodeVars, log, synced, fenced, writerVars, recoveryVars, readerVars,
                   proposals, sealed_as, budget>>

-----------------------------------------------------------------------------
Writes(n, t) ==
    CASE Bug = "OpenBeforeSeal" /\ lease[n][t] > 0 /\ <<t, lease[n][t]>> \in sealing -> lease[n][t] + 1
      [] Bug \in {"LeaderResumesAfterRestart", "AnyoneWrites"} -> view[n][t]
      [] OTHER -> lease[n][t]
Acks(n, t) == IF Bug = "LeaderResumesAfterRestart" THEN view[n][t] ELSE lease[n][t]
ReplicaSets == {replicas \in SUBSET Node : Cardinality(replicas) = ReplicationFactor}

\* TLC names a step after the definition whose quantifiers range over constants, so quantifiers over
\* messages are inside the actions. Where only one segment can be meant, it is named here (the one that the node leads
\* or believes to be open) instead of trying them all.
Next ==
    \/ \E t \in Topic, n \in Node, replicas \in ReplicaSets : RegisterTopic(t, n, replicas)
    \/ \E t \in Topic, n \in Node, replicas \in ReplicaSets : Seal(t, n, replicas)
    \/ \E n \in Node, t \in Topic, s \in Segments : Apply(n, t, s)
    \/ \E n \in Node : Announce(n)
    \/ \E n \in Node : ExpireLease(n)
    \/ \E n \in Node : RenewLease(n)
    \/ \E n \in Node, t \in Topic : LeaderAppend(n, t, Writes(n, t), 1)
    \/ \E n \in Node, t \in Topic : ReplicaAppend(n, t, view[n][t], 1)
    \/ \E n \in Node, t \in Topic, s \in Segments : Report(n, t, s)
    \/ \E n \in Node, t \in Topic : \E count \in 1..MaxEntries : Ack(n, t, Acks(n, t), count)
    \/ \E n \in Node, t \in Topic : BeginSeal(n, t, lease[n][t])
    \/ \E n \in Node, t \in Topic : ProposeSeal(n, t, lease[n][t])
    \/ \E n \in Node, t \in Topic : StartRecovery(n, t, view[n][t])
    \/ \E n \in Node, t \in Topic, s \in Segments : Fence(n, t, s)
    \/ \E t \in Topic, s \in Segments : Recover(t, s)
    \/ \E n \in Node, t \in Topic, s \in Segments : CopyTail(n, t, s)
    \/ \E t \in Topic, s \in Segments : RecoverySeal(t, s)
    \/ \E n \in Node, t \in Topic, s \in Segments : Repair(n, t, s)
    \/ \E t \in Topic, s \in Segments, replicas \in ReplicaSets : SetReplicas(t, s, replicas)
    \/ \E n \in Node, t \in Topic, g \in Group : Deliver(n, t, g, 1)
    \/ \E n \in Node, t \in Topic, g \in Group : ProposeCursors(n, t, g)
    \/ \E t \in Topic, g \in Group : CommitCursors(t, g)
    \/ \E n \in Node : Crash(n)
    \/ \E n \in Node : LosePower(n)
    \/ \E n \in Node : Restart(n)
    \/ \E n \in Node, t \in Topic, s \in Segments : BecomeSure(n, t, s)

Spec == Init /\ [][Next]_vars

-----------------------------------------------------------------------------
\* What must always hold. Names as in the simulator and the tests.

TypeOK ==
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
                /\ lease[n][t] \in 0..MaxSegments
                /\ \A s \in Segments :
                      /\ Len(log[n][t][s]) <= MaxEntries
                      /\ synced[n][t][s] \in 0..Length(n, t, s)
                      /\ matched[n][t][s] \in 0..MaxEntries
                      /\ unsure[n][t][s] \in 0..Never

\* Metadata, copies and cursors talk about the same topics and segments. Every topic's segments but
\* the last are sealed, the last is open.
DomainConsistency ==
    \A t \in Topic :
        /\ \A s \in 1..Known(t) : (Segment(t, s).count = NoCount) <=> (s = Known(t))
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

\* A majority of the replicas holds `count` entries. Copies that lost power without having synced are
\* excused, but not all of them: at least one copy is really there.
HeldByMajority(t, s, count) ==
    LET holders == {n \in Replicas(t, s) : Length(n, t, s) >= count}
        excused == {n \in Replicas(t, s) : unsure[n][t][s] > 0}
    IN count > 0 => holders # {} /\ Majority(holders \cup excused, Replicas(t, s))

\* An acknowledged entry is on a majority of its replicas, and below the count if sealed.
AckedDurable ==
    \A t \in Topic : \A s \in 1..Known(t) :
        /\ acked[t][s] <= Segment(t, s).count
        /\ HeldByMajority(t, s, acked[t][s])

\* No copy holds entries of a segment that is not open or sealed yet.
NoWritesPastOpen ==
    \A t \in Topic, s \in Segments : s > Known(t) => \A n \in Node : log[n][t][s] = <<>>

\* A sealed count never changes, and a majority of the replicas holds that many entries.
SealedStable ==
    \A t \in Topic : \A s \in 1..Known(t) :
        Sealed(t, s) => /\ Segment(t, s).count = sealed_as[t][s]
                        /\ HeldByMajority(t, s, Segment(t, s).count)

\* The cumulative offset is the sum of the sealed counts.
LastSealedIsSum ==
    \A t \in Topic : Known(t) > 0 =>
        metadata[t].sealed_total = SumCounts(SubSeq(metadata[t].segments, 1, Known(t) - 1))

\* The topic's leader is the leader of its open segment: it is one of its replicas, and whoever
\* believes to lead the topic leads the segment that is open in its view, in the incarnation it was opened for.
OpenLeaderMatchesMap ==
    \A t \in Topic :
        /\ Known(t) > 0 => Segment(t, Known(t)).leader \in Replicas(t, Known(t))
        /\ \A n \in Node : lease[n][t] > 0 =>
              lease[n][t] = view[n][t] /\ IsLeader(n, t, lease[n][t])

\* A cursor never points past its segment, nor past the acknowledged entries; and a committed one never
\* falls behind the place where it was when the open segment opened.
PositionInBounds(t, p) ==
    /\ p[1] <= Max(1, Known(t))
    /\ Known(t) = 0 => p = Start
    /\ Known(t) > 0 => p[2] <= (IF Sealed(t, p[1]) THEN Segment(t, p[1]).count ELSE acked[t][p[1]])

CursorInBounds ==
    \A t \in Topic, g \in Group :
        /\ PositionInBounds(t, metadata[t].cursors[g])
        /\ Known(t) > 0 => ~Before(metadata[t].cursors[g], Segment(t, Known(t)).cursors[g])
        /\ \A n \in Node : reading[n][t][g] # NoPosition => PositionInBounds(t, reading[n][t][g])

\* The topic's order as far as it is settled: what is sealed, and what is acknowledged of the open segment.
\* (Sealed entries may be settled without ever having been acknowledged.)
RECURSIVE OrderFrom(_, _)
OrderFrom(t, s) ==
    IF s > Known(t) THEN <<>>
    ELSE LET count == IF Sealed(t, s) THEN Segment(t, s).count ELSE acked[t][s]
             longest == CHOOSE n \in Replicas(t, s) : \A m \in Replicas(t, s) : Length(m, t, s) <= Length(n, t, s)
         IN [i \in 1..Min(count, Length(longest, t, s)) |-> <<s, i, log[longest][t][s][i]>>] \o OrderFrom(t, s + 1)

\* What a group was given, redeliveries removed, is a prefix of the topic's order; and no cursor is
\* ahead of what was delivered, or a crash would leave a gap.
DeliveredIsPrefix ==
    \A t \in Topic, g \in Group :
        LET order == OrderFrom(t, 1)
            given == delivered[t][g]
            cursor == metadata[t].cursors[g]
        IN /\ Len(given) <= Len(order)
           /\ \A i \in 1..Len(given) : given[i] = order[i]
           /\ \A i \in 1..Len(order) :
                 (order[i][1] < cursor[1] \/ (order[i][1] = cursor[1] /\ order[i][2] <= cursor[2])) => i <= Len(given)

-----------------------------------------------------------------------------
\* Probes: each must be violated, or the spec cannot do what it is about.

ProbeRollover == \A t \in Topic : \A p \in proposals : p.topic = t => p.count = 0 \/ <<t, p.segment>> \in recovering
ProbeTwoRecoveries == \A c, d \in decided : c.topic = d.topic /\ c.segment = d.segment => c = d
ProbeTwoSeals == \A p, q \in proposals : p.topic = q.topic /\ p.segment = q.segment => p.count = q.count
ProbeUnackedSurvives == \A t \in Topic : \A s \in 1..Known(t) : Sealed(t, s) => Segment(t, s).count = acked[t][s]
ProbeDeposedTail == \A t \in Topic : \A s \in 1..Known(t) : Sealed(t, s) => \A n \in Node : Length(n, t, s) <= Segment(t, s).count
ProbeStaleLeader == \A t \in Topic, n \in Node : lease[n][t] > 0 => lease[n][t] = Known(t)
ProbeRedelivery == \A t \in Topic, g \in Group, n \in Node :
    reading[n][t][g] = NoPosition \/ delivered[t][g] = <<>> \/ ~Before(reading[n][t][g], Later(Start, <<delivered[t][g][Len(delivered[t][g])][1], delivered[t][g][Len(delivered[t][g])][2]>>))
ProbeUnsureWaits == \A a \in answers : a.sure
ProbeSureAgain == \A n \in Node, t \in Topic, s \in Segments : unsure[n][t][s] = 0 \/ unsure[n][t][s] > Length(n, t, s)

-----------------------------------------------------------------------------
\* Liveness, once faults stop (the budgets run out). Every step that a healthy cluster takes by itself is
\* fair: messages that are sent again and again arrive, what Raft was asked to commit is committed, processes
\* are started again, and a segment is recovered when, and only when, its leader is gone. Appends need no fairness: clients may be idle.

LeaderGone(t, s) == ~IsLeader(Segment(t, s).leader, t, s)

Failover(r, t, s) == s = Known(t) /\ LeaderGone(t, s) /\ StartRecovery(r, t, s)

Fairness ==
    /\ \A n \in Node : WF_vars(Announce(n)) /\ WF_vars(Restart(n)) /\ WF_vars(RenewLease(n))
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
          /\ WF_vars(\E n \in Node, replicas \in ReplicaSets : up[n] /\ announced[n] = incarnation[n] /\ s = Known(t) /\ Seal(t, n, replicas))
    /\ \A n \in Node, t \in Topic, g \in Group : WF_vars(Deliver(n, t, g, 1))

LiveSpec == Spec /\ Fairness

\* A full segment is sealed.
RolloverProgress ==
    \A t \in Topic, s \in 1..(MaxSegments - 1) :
        (\E n \in Node : s = Known(t) /\ Length(n, t, s) = MaxEntries) ~> Sealed(t, s)

\* A dead leader is replaced.
FailoverProgress ==
    \A t \in Topic, s \in 1..(MaxSegments - 1) :
        (s = Known(t) /\ LeaderGone(t, s)) ~> Sealed(t, s)

\* What is acknowledged is delivered; where the bound on segments leaves the last one without a leader for good, nobody can.
Stuck(t) == Known(t) = MaxSegments /\ LeaderGone(t, MaxSegments)
ReadProgress ==
    \A t \in Topic, g \in Group, i \in 1..(MaxSegments * MaxEntries) :
        (Len(OrderFrom(t, 1)) >= i) ~> (Len(delivered[t][g]) >= i \/ Stuck(t))

Symmetry == Permutations(Node)
=============================================================================
