---------------------------- MODULE WalrusTrace ----------------------------
(***************************************************************************)
(* Is a recorded run a behaviour of Walrus.tla? `python -m walrus.tlc      *)
(* trace` writes the run as module TraceData and has TLC walk along it.    *)
(*                                                                         *)
(* Each event names an action; the action with the recorded values must be *)
(* enabled, and lead to the recorded state: the length of the copy that it *)
(* concerns, how much of that is durable, whether it is fenced, whether it *)
(* is sure. `l` is the next event. Two kinds of step are not recorded and  *)
(* are taken just before the event that cannot be without them: the commit *)
(* of a command that some node applied first, and the crash before a       *)
(* restart. So there is hardly anything to search. All invariants are      *)
(* checked on the way: the cheap ones in each state, those that read every *)
(* entry now and then.                                                     *)
(*                                                                         *)
(* A run is finer than the spec in these places:                           *)
(*   - a sync, and the answer that waits for it, are events of their own   *)
(*     (`Synced`; `Report`, `AnswerFence`, `AnswerCopy`): FsyncEach is     *)
(*     TRUE here for every run, and what --fsync decides is only what a    *)
(*     power loss may take;                                                *)
(*   - commands have their index in Raft's log, so that all nodes are held *)
(*     to one order (`commands`, `applied`).                               *)
(* What a run may do that the model may not is allowed here and nowhere    *)
(* else: a leader's cursor may go back to the committed one (its memory    *)
(* was given back while it was idle), and a fence answered by a damaged    *)
(* copy shows what of it can be read.                                      *)
(***************************************************************************)
EXTENDS Walrus, FollowTrace

VARIABLES
    commands,            \* commands[i]: the command at index i of Raft's log, as the first node applied it
    applied,             \* applied[n]: so many of them n has applied in this start
    seen,                \* seen[n][t][g]: the committed cursor as n knows it
    noted,               \* noted[n]: {<<t, s, length>>}: fences that n has noted, and may answer
    ran,                 \* {<<n, t, s>>}: which node began to recover what
    knew,                \* knew[n][t]: the most segments of t that n ever knew of
    leaving,             \* the members that are on their way out
    voters               \* of Raft's cluster: only these are given copies

followed == <<commands, applied, seen, noted, ran, knew, leaving, voters>>
traceVars == <<vars, which, l, followed>>

Same == UNCHANGED vars
Begin == Begins[which]

\* Values of an event that name a segment.
T(e) == e.topic
S(e) == e.segment

\* A command as it was applied, whichever node did.
Command(e) == [field \in DOMAIN e \ {"node"} |-> e[field]]
Applied == {"RegisterTopic", "Seal", "CommitCursors", "SetReplicas", "Announce", "Join", "MarkLeaving",
            "RemoveNode", "Voters", "Nothing"}

\* Cursors of an event, as a list of <<topic, group, segment, offset>>: where the one of (t, g) is put.
PlacedAt(cursors, t, g, otherwise) ==
    LET hits == {i \in DOMAIN cursors : cursors[i][1] = t /\ cursors[i][2] = g}
    IN IF hits = {} THEN otherwise
       ELSE LET i == CHOOSE i \in hits : TRUE IN <<cursors[i][3], cursors[i][4]>>

\* What a start finds of a copy: <<topic, segment, length, fenced>>.
Found(copies, t, s) ==
    LET hits == {i \in DOMAIN copies : copies[i][1] = t /\ copies[i][2] = s}
    IN IF hits = {} THEN <<t, s, 0, FALSE>> ELSE copies[CHOOSE i \in hits : TRUE]

\* The most that n ever told about its copy, to any node.
Told(n, t, s) ==
    LET said == {matched[n][t][s]}
                \cup {a.length : a \in {b \in answers \cup copied :
                                           b.node = n /\ b.topic = t /\ b.segment = s}}
    IN CHOOSE most \in said : \A other \in said : other <= most

\* The copy with so many entries, of which there can be only one.
Entries(t, s, length) ==
    [i \in 1..length |-> [writer |-> Segment(t, s).leader, incarnation |-> Segment(t, s).incarnation,
                          index |-> i]]

\* A node's copies, each made anew by this operator.
Copies(Value(_, _)) == [t \in Topic |-> [s \in Segments |-> Value(t, s)]]

-----------------------------------------------------------------------------
\* Commits. A command is committed when the first node applies it; its index comes next.

Opens(e) == announced[e.leader] = e.incarnation

CommitSeal(e) ==
    \E p \in proposals :
        /\ p.topic = T(e) /\ p.segment = S(e) /\ p.count = e.count
        /\ SealWith(p, e.leader, e.replicas)
        /\ \A g \in Group :
              LET kept == Earlier(metadata[T(e)].cursors[g], <<S(e), e.count>>)
              IN metadata'[T(e)].cursors[g] = PlacedAt(e.cursors, T(e), g, kept)

\* Only forward, and only to where a leader had said that all before it is confirmed.
MayMove(t, g, place) ==
    \/ place = metadata[t].cursors[g]
    \/ /\ [topic |-> t, group |-> g, position |-> place] \in moves
       /\ InBounds(t, place)
       /\ Before(metadata[t].cursors[g], place)

CommitMoves(e) ==
    LET place(t, g) == PlacedAt(e.cursors, t, g, metadata[t].cursors[g]) IN
    /\ \A t \in Topic, g \in Group : MayMove(t, g, place(t, g))
    /\ metadata' = [t \in Topic |-> [metadata[t] EXCEPT !.cursors = [g \in Group |-> place(t, g)]]]
    /\ UNCHANGED <<members, announced, nodeVars, copyVars, writerVars, recoveryVars, repairVars,
                   readerVars, proposals, sealed_as, budget>>

\* As ProposeReplicas and SetReplicas in one step: what comes in, and a majority of the new set, have shown
\* that they hold all of it.
CommitReplicas(e) ==
    LET old == Replicas(T(e), S(e))
        new == e.replicas
        whole == {n \in new : <<n, T(e), S(e)>> \in proofs}
        least == Min(Begin.factor, Cardinality((members \cap voters) \ leaving))
    IN
    /\ Sealed(T(e), S(e))
    /\ new # old
    /\ new \subseteq members
    /\ new \ old \subseteq whole
    /\ Majority(whole, new)
    /\ Cardinality(new) >= Min(least, Cardinality(old))
    /\ metadata' = [metadata EXCEPT ![T(e)].segments[S(e)].replicas = new]
    /\ UNCHANGED <<members, announced, nodeVars, copyVars, writerVars, recoveryVars, repairVars,
                   readerVars, proposals, sealed_as, budget>>

\* The same start is announced again and again until that shows; an earlier one never after a later one.
CommitAnnounce(e) ==
    IF announced[e.of] = e.incarnation THEN e.of \in members /\ Same
    ELSE Announce(e.of) /\ announced'[e.of] = e.incarnation

CommitMembers(new) ==
    /\ members' = new
    /\ UNCHANGED <<metadata, announced, nodeVars, copyVars, writerVars, recoveryVars, repairVars,
                   readerVars, proposals, sealed_as, budget>>

Commit(e) ==
    CASE e.ev = "RegisterTopic" -> Opens(e) /\ RegisterTopic(T(e), e.leader, e.replicas)
      [] e.ev = "Seal" -> Opens(e) /\ CommitSeal(e)
      [] e.ev = "CommitCursors" -> CommitMoves(e)
      [] e.ev = "SetReplicas" -> CommitReplicas(e)
      [] e.ev = "Announce" -> CommitAnnounce(e)
      [] e.ev = "Join" -> CommitMembers(members \cup {e.of})
      [] e.ev = "RemoveNode" -> ~Needed(e.of) /\ CommitMembers(members \ {e.of})
      [] OTHER -> Same

\* Steps that are not recorded, taken when the next event `e` needs them.
HiddenCommit(e) ==
    /\ e.ev \in Applied
    /\ e.index = Len(commands) + 1
    /\ Commit(e)
    /\ commands' = Append(commands, Command(e))
    /\ leaving' = CASE e.ev = "MarkLeaving" -> leaving \cup {e.of}
                    [] e.ev = "RemoveNode" -> leaving \ {e.of}
                    [] OTHER -> leaving
    /\ voters' = IF e.ev = "Voters" THEN e.voters ELSE voters
    /\ UNCHANGED <<applied, seen, noted, ran, knew>>

HiddenCrash(e) == e.ev \in {"Restart", "Rejoin"} /\ Crash(e.node) /\ UNCHANGED followed

-----------------------------------------------------------------------------
\* Applying.

\* The committed cursors of t as n knows them after the event.
SeenAfter(e, t, g) ==
    LET before == seen[e.node][t][g]
        kept == IF e.ev = "Seal" /\ T(e) = t THEN Earlier(before, <<S(e), e.count>>) ELSE before
    IN IF e.ev \in {"Seal", "CommitCursors", "Snapshot", "SnapshotTopics"}
       THEN PlacedAt(e.cursors, t, g, kept)
       ELSE IF e.ev \in {"Restart", "Rejoin"} THEN Start
       ELSE before

\* As Apply, for any number of topics: n knows new[t] segments of each.
ApplyTo(e, new) ==
    LET n == e.node
        moved(t) == new[t] > view[n][t]
        leads(t) == IsLeader(n, t, new[t])
        place(t, g) == IF ~moved(t) THEN reading[n][t][g]
                       ELSE IF leads(t) THEN KeepUp(n, t, g, SeenAfter(e, t, g)) ELSE NoPosition
        waits(t, g) == \/ ~moved(t)
                       \/ leads(t) /\ lease[n][t] > 0 /\ place(t, g) = reading[n][t][g]
    IN
    /\ \A t \in Topic : new[t] >= view[n][t]
    /\ view' = [view EXCEPT ![n] = new]
    /\ lease' = [lease EXCEPT ![n] = [t \in Topic |->
          IF ~moved(t) THEN @[t] ELSE IF leads(t) THEN new[t] ELSE 0]]
    /\ reading' = [reading EXCEPT ![n] = [t \in Topic |-> [g \in Group |-> place(t, g)]]]
    /\ handed' = [handed EXCEPT ![n] = [t \in Topic |-> [g \in Group |->
          IF waits(t, g) THEN @[t][g] ELSE NoPosition]]]
    /\ UNCHANGED <<committedVars, checkpoint, up, incarnation, heard, copyVars, writerVars, recoveryVars,
                   repairVars, given, received, moves, delivered, proposals, sealed_as, budget>>

Opened(e) == IF e.ev = "Seal" THEN S(e) + 1 ELSE 1

OnApplied(e) ==
    /\ up[e.node]
    /\ applied[e.node] = e.index - 1
    /\ e.index <= Len(commands)
    /\ commands[e.index] = Command(e)
    /\ IF e.ev \in {"RegisterTopic", "Seal"}
       THEN ApplyTo(e, [view[e.node] EXCEPT ![T(e)] = Opened(e)])
       ELSE Same

\* So many segments of t were open at an index of the log.
OpenedUpTo(index, t) ==
    Cardinality({i \in 1..index : commands[i].ev \in {"RegisterTopic", "Seal"} /\ commands[i].topic = t})

\* The end of a snapshot has all topics; each turn before it has some, and moves the view of these alone.
OnSnapshot(e) ==
    LET told(t) == {i \in DOMAIN e.topics : e.topics[i][1] = t}
        part == e.ev = "SnapshotTopics"
        new == [t \in Topic |-> IF told(t) # {} THEN e.topics[CHOOSE i \in told(t) : TRUE][2]
                                ELSE IF part THEN view[e.node][t] ELSE 0]
    IN
    /\ up[e.node]
    /\ applied[e.node] < e.index /\ e.index <= Len(commands)
    /\ \A t \in Topic : told(t) # {} \/ ~part => new[t] = OpenedUpTo(e.index, t)
    /\ ApplyTo(e, new)

-----------------------------------------------------------------------------
\* Copies and their writers.

OnSynced(e) ==
    /\ up[e.node]
    /\ e.length <= Length(e.node, T(e), S(e))
    /\ synced' = [synced EXCEPT ![e.node][T(e)][S(e)] = Max(@, e.length)]
    /\ UNCHANGED <<committedVars, nodeVars, log, damaged, unsure, fenced, writerVars, recoveryVars,
                   repairVars, readerVars, proposals, sealed_as, budget>>

OnReport(e) ==
    /\ up[e.node]
    /\ S(e) <= Known(T(e))
    /\ e.node \in Replicas(T(e), S(e))
    /\ <<T(e), S(e)>> \notin fenced[e.node]
    /\ e.told <= synced[e.node][T(e)][S(e)]
    /\ matched' = [matched EXCEPT ![e.node][T(e)][S(e)] = Max(@, e.told)]
    /\ UNCHANGED <<committedVars, nodeVars, copyVars, sealing, acked, stream, recoveryVars, repairVars,
                   readerVars, proposals, sealed_as, budget>>

\* The writer counts what it has heard, and no replica has heard less than it said.
OnAck(e) ==
    LET told == {e.heard[i][1] : i \in {j \in DOMAIN e.heard : e.heard[j][2] >= e.count}}
        own == IF e.durable >= e.count THEN {e.node} ELSE {}
    IN
    /\ lease[e.node][T(e)] = S(e)
    /\ \A i \in DOMAIN e.heard : e.heard[i][2] <= matched[e.heard[i][1]][T(e)][S(e)]
    /\ Majority((told \cup own) \cap Replicas(T(e), S(e)), Replicas(T(e), S(e)))
    /\ Ack(e.node, T(e), S(e), e.count)

\* A cursor's place, behind sealed segments that end there.
SamePlace(n, t, p, q) == Advance(t, view[n][t], p) = Advance(t, view[n][t], q)

OnProposeSeal(e) ==
    LET n == e.node
        t == T(e)
        hits(g) == {i \in DOMAIN e.cursors : e.cursors[i][1] = g}
        place(g) == IF hits(g) = {} THEN Start
                    ELSE LET i == CHOOSE i \in hits(g) : TRUE IN <<e.cursors[i][2], e.cursors[i][3]>>
        seal == [topic |-> t, segment |-> S(e), count |-> e.count, cursors |-> [g \in Group |-> place(g)]]
    IN
    /\ up[n]
    /\ lease[n][t] = S(e)
    /\ AllAcknowledged(n, t, S(e)) /\ acked[t][S(e)] = e.count
    /\ <<t, S(e)>> \notin fenced[n]
    /\ \A g \in Group : /\ handed[n][t][g] = NoPosition
                        /\ hits(g) # {} => SamePlace(n, t, place(g), reading[n][t][g])
    /\ proposals' = proposals \cup {seal}
    /\ UNCHANGED <<committedVars, nodeVars, copyVars, writerVars, recoveryVars, repairVars, readerVars,
                   sealed_as, budget>>

OnSure(e) ==
    LET n == e.node IN
    IF unsure[n][T(e)][S(e)] = 0 THEN up[n] /\ Same
    ELSE /\ up[n]
         /\ ~Sealed(T(e), S(e))
         /\ Length(n, T(e), S(e)) >= unsure[n][T(e)][S(e)]
         /\ unsure' = [unsure EXCEPT ![n][T(e)][S(e)] = 0]
         /\ UNCHANGED <<committedVars, nodeVars, log, synced, damaged, fenced, writerVars, recoveryVars,
                        repairVars, readerVars, proposals, sealed_as, budget>>

-----------------------------------------------------------------------------
\* Recoveries and repairs.

OnStartRecovery(e) ==
    IF <<T(e), S(e)>> \in recovering THEN up[e.node] /\ view[e.node][T(e)] = S(e) /\ Same
    ELSE StartRecovery(e.node, T(e), S(e))

\* The fence is noted. (A writer that is told of it notes it, too.)
OnFence(e) ==
    /\ up[e.node]
    /\ <<T(e), S(e)>> \in recovering \/ lease[e.node][T(e)] = S(e)
    /\ e.node \in Replicas(T(e), S(e)) \/ Sealed(T(e), S(e))
    /\ fenced' = [fenced EXCEPT ![e.node] = @ \cup {<<T(e), S(e)>>}]
    /\ UNCHANGED <<committedVars, nodeVars, log, synced, damaged, unsure, writerVars, recoveryVars,
                   repairVars, readerVars, proposals, sealed_as, budget>>

\* Its answer leaves, when the note and the entries are durable: with the length at which it was noted.
OnAnswerFence(e) ==
    LET n == e.node
        length == e.answer[2]
        whole == <<T(e), S(e), length>> \in noted[n]
        part == \E x \in noted[n] : x[1] = T(e) /\ x[2] = S(e) /\ length < x[3]
    IN
    /\ up[n]
    /\ e.answer[1] = n
    /\ <<T(e), S(e)>> \in fenced[n]
    /\ length <= synced[n][T(e)][S(e)]
    /\ whole \/ (part /\ ~e.answer[3])
    /\ e.answer[3] => unsure[n][T(e)][S(e)] = 0
    /\ answers' = answers \cup
          {[node |-> n, topic |-> T(e), segment |-> S(e), length |-> length, sure |-> e.answer[3]]}
    /\ damaged' = IF whole THEN damaged ELSE [damaged EXCEPT ![n][T(e)][S(e)] = length + 1]
    /\ UNCHANGED <<committedVars, nodeVars, log, synced, unsure, fenced, writerVars, recovering, decided,
                   copied, forced, repairVars, readerVars, proposals, sealed_as, budget>>

\* By a node that began it, from answers that were given, of replicas: the longest of them.
OnRecover(e) ==
    LET used == {[node |-> e.answers[i][1], topic |-> T(e), segment |-> S(e), length |-> e.answers[i][2],
                  sure |-> e.answers[i][3]] : i \in DOMAIN e.answers}
        nodes == {a.node : a \in used}
        enough == Suffices(used, Replicas(T(e), S(e)))
    IN
    /\ up[e.node]
    /\ <<e.node, T(e), S(e)>> \in ran
    /\ used \subseteq answers
    /\ nodes \subseteq Replicas(T(e), S(e)) /\ Majority(nodes, Replicas(T(e), S(e)))
    /\ enough \/ e.forced
    /\ \E a \in used : a.length = e.count
    /\ \A a \in used : a.length <= e.count
    /\ decided' = decided \cup {[topic |-> T(e), segment |-> S(e), count |-> e.count]}
    /\ forced' = IF enough THEN forced ELSE forced \cup {<<T(e), S(e)>>}
    /\ UNCHANGED <<committedVars, nodeVars, copyVars, writerVars, recovering, answers, copied,
                   repairVars, readerVars, proposals, sealed_as, budget>>

\* For a recovery, as far as it decided; or of a sealed segment, up to its count.
OnCopyTail(e) ==
    LET n == e.node
        t == T(e)
        s == S(e)
        sources == {m \in Replicas(t, s) \ {n} : Intact(m, t, s) >= e.length}
        whole == Sealed(t, s) /\ e.length >= Segment(t, s).count
    IN
    /\ up[n]
    /\ Length(n, t, s) < e.length
    /\ \/ /\ <<t, s>> \in fenced[n]
          /\ \E c \in decided : c.topic = t /\ c.segment = s /\ c.count >= e.length
       \/ Sealed(t, s) /\ e.length <= Segment(t, s).count
    /\ sources # {}
    /\ log' = [log EXCEPT ![n][t][s] = Extended(n, CHOOSE m \in sources : TRUE, t, s, e.length)]
    /\ unsure' = IF whole THEN [unsure EXCEPT ![n][t][s] = 0] ELSE unsure
    /\ UNCHANGED <<committedVars, nodeVars, synced, damaged, fenced, writerVars, recoveryVars, repairVars,
                   readerVars, proposals, sealed_as, budget>>

\* To the recovery, or to the Raft leader that asked for proof.
OnAnswerCopy(e) ==
    LET n == e.node IN
    /\ up[n]
    /\ e.copied <= synced[n][T(e)][S(e)]
    /\ copied' = copied \cup {[node |-> n, topic |-> T(e), segment |-> S(e), length |-> e.copied]}
    /\ proofs' = IF Sealed(T(e), S(e)) /\ e.copied >= Segment(T(e), S(e)).count
                 THEN proofs \cup {<<n, T(e), S(e)>>} ELSE proofs
    /\ UNCHANGED <<committedVars, nodeVars, copyVars, writerVars, recovering, answers, decided, forced,
                   changes, directory, readerVars, proposals, sealed_as, budget>>

OnRecoverySeal(e) ==
    /\ up[e.node]
    /\ <<e.node, T(e), S(e)>> \in ran
    /\ [topic |-> T(e), segment |-> S(e), count |-> e.count] \in decided
    /\ LET held == {a.node : a \in {b \in answers \cup copied :
                       b.topic = T(e) /\ b.segment = S(e) /\ b.length >= e.count}}
       IN Majority(held \cap Replicas(T(e), S(e)), Replicas(T(e), S(e)))
    /\ proposals' = proposals \cup
          {[topic |-> T(e), segment |-> S(e), count |-> e.count, cursors |-> StartCursors]}
    /\ UNCHANGED <<committedVars, nodeVars, copyVars, writerVars, recoveryVars, repairVars, readerVars,
                   sealed_as, budget>>

\* A damaged copy of a sealed segment was made anew.
OnReplace(e) ==
    LET n == e.node
        sources == {m \in Replicas(T(e), S(e)) \ {n} : Intact(m, T(e), S(e)) >= e.length}
    IN
    /\ up[n]
    /\ Sealed(T(e), S(e)) /\ e.length = Segment(T(e), S(e)).count
    /\ e.length = 0 \/ sources # {}
    /\ log' = [log EXCEPT ![n][T(e)][S(e)] = Entries(T(e), S(e), e.length)]
    /\ synced' = [synced EXCEPT ![n][T(e)][S(e)] = e.length]
    /\ damaged' = [damaged EXCEPT ![n][T(e)][S(e)] = 0]
    /\ unsure' = [unsure EXCEPT ![n][T(e)][S(e)] = 0]
    /\ UNCHANGED <<committedVars, nodeVars, fenced, writerVars, recoveryVars, repairVars, readerVars,
                   proposals, sealed_as, budget>>

-----------------------------------------------------------------------------
\* Readers.

OnHandOut(e) ==
    LET n == e.node
        t == T(e)
        g == e.group
        from == <<S(e), e.start>>
        to == <<S(e), e.start + e.count>>
    IN
    /\ up[n]
    /\ lease[n][t] > 0
    /\ handed[n][t][g] = NoPosition
    /\ from \in {Advance(t, view[n][t], reading[n][t][g]), Advance(t, view[n][t], seen[n][t][g])}
    /\ to[2] <= Readable(n, t, S(e))
    /\ \E m \in Replicas(t, S(e)) : to[2] <= Intact(m, t, S(e))
    /\ given' = given \cup {Delivery(t, g, from, to)}
    /\ handed' = [handed EXCEPT ![n][t][g] = from]
    /\ reading' = [reading EXCEPT ![n][t][g] = to]
    /\ UNCHANGED <<committedVars, nodeVars, copyVars, writerVars, recoveryVars, repairVars, received,
                   moves, delivered, proposals, sealed_as, budget>>

\* It reached a client, and the leader has heard so.
OnConfirm(e) ==
    LET n == e.node
        t == T(e)
        g == e.group
        d == Delivery(t, g, handed[n][t][g], reading[n][t][g])
    IN
    /\ up[n]
    /\ handed[n][t][g] # NoPosition
    /\ reading[n][t][g] = <<S(e), e.offset>>
    /\ received' = received \cup {d}
    /\ delivered' = [delivered EXCEPT ![t][g] = Deduplicated(@, d)]
    /\ handed' = [handed EXCEPT ![n][t][g] = NoPosition]
    /\ UNCHANGED <<committedVars, nodeVars, copyVars, writerVars, recoveryVars, repairVars, reading, given,
                   moves, proposals, sealed_as, budget>>

OnRewind(e) ==
    LET n == e.node
        place == <<S(e), e.offset>>
    IN
    /\ up[n]
    /\ lease[n][T(e)] > 0
    /\ place \in {handed[n][T(e)][e.group], seen[n][T(e)][e.group]}
    /\ reading' = [reading EXCEPT ![n][T(e)][e.group] = place]
    /\ handed' = [handed EXCEPT ![n][T(e)][e.group] = NoPosition]
    /\ UNCHANGED <<committedVars, nodeVars, copyVars, writerVars, recoveryVars, repairVars, given,
                   received, moves, delivered, proposals, sealed_as, budget>>

OnProposeCursors(e) ==
    LET n == e.node
        t == T(e)
        place == <<S(e), e.offset>>
    IN
    /\ up[n]
    /\ lease[n][t] > 0
    /\ SamePlace(n, t, place, Confirmed(n, t, e.group))
    /\ moves' = moves \cup {[topic |-> t, group |-> e.group, position |-> place]}
    /\ UNCHANGED <<committedVars, nodeVars, copyVars, writerVars, recoveryVars, repairVars, reading,
                   handed, given, received, delivered, proposals, sealed_as, budget>>

-----------------------------------------------------------------------------
\* The world.

\* With --fsync each nothing is lost that was synced; else anything. A copy that comes back with less than
\* it once told is unsure.
OnPowerLoss(e) ==
    LET n == e.node
        left(t, s) == Found(e.copies, t, s)[3]
        short(t, s) == s <= Known(t) /\ left(t, s) < Told(n, t, s)
    IN
    /\ \A t \in Topic, s \in Segments :
          /\ left(t, s) <= Length(n, t, s)
          /\ Begin.fsync_each => synced[n][t][s] <= left(t, s)
    /\ Forget(n)
    /\ log' = [log EXCEPT ![n] = Copies(LAMBDA t, s : SubSeq(log[n][t][s], 1, left(t, s)))]
    /\ synced' = [synced EXCEPT ![n] = Copies(LAMBDA t, s : Min(synced[n][t][s], left(t, s)))]
    /\ damaged' = [damaged EXCEPT ![n] = Copies(LAMBDA t, s :
          IF damaged[n][t][s] > left(t, s) THEN 0 ELSE damaged[n][t][s])]
    /\ unsure' = [unsure EXCEPT ![n] = Copies(LAMBDA t, s :
          IF short(t, s) THEN Max(unsure[n][t][s], WholeAt(n, t, s)) ELSE unsure[n][t][s])]
    /\ UNCHANGED <<committedVars, writerVars, recoveryVars, repairVars, given, received, moves, delivered,
                   proposals, sealed_as, budget>>

\* A process that starts finds each copy as it was left, and all of that is durable then. (What a real one
\* wrote last may not have been recorded: then it finds more.) It has every fence that it answered, unless
\* its checkpoint knew that the segment is sealed.
OnRestart(e) ==
    LET n == e.node
        length(t, s) == Found(e.copies, t, s)[3]
        fences == {x \in Topic \X Segments : Found(e.copies, x[1], x[2])[4]}
        answered(x) == \E a \in answers : a.node = n /\ a.topic = x[1] /\ a.segment = x[2]
        late(t, s) == length(t, s) > Length(n, t, s)
        entries(t, s) == IF late(t, s) THEN Entries(t, s, length(t, s)) ELSE log[n][t][s]
        sent(t, s) == IF late(t, s) /\ Segment(t, s).leader = n
                      THEN [i \in 1..length(t, s) |-> {Entries(t, s, i)[i]}] ELSE stream[t][s]
    IN
    /\ \A t \in Topic, s \in Segments :
          /\ Length(n, t, s) <= length(t, s)
          /\ late(t, s) => /\ ~Begin.exact /\ s <= Known(t)
                           /\ Segment(t, s).leader = n \/ length(t, s) <= Len(stream[t][s])
    /\ fences \subseteq fenced[n]
    /\ \A x \in fenced[n] \ fences :
          ~answered(x) \/ (Sealed(x[1], x[2]) /\ knew[n][x[1]] > x[2])
    /\ e.incarnation = incarnation[n] + 1
    /\ ~up[n]
    /\ up' = [up EXCEPT ![n] = TRUE]
    /\ incarnation' = [incarnation EXCEPT ![n] = e.incarnation]
    /\ log' = [log EXCEPT ![n] = Copies(entries)]
    /\ synced' = [synced EXCEPT ![n] = Copies(length)]
    /\ stream' = Copies(sent)
    /\ fenced' = [fenced EXCEPT ![n] = fences]
    /\ UNCHANGED <<committedVars, view, checkpoint, heard, lease, damaged, unsure, sealing, acked, matched,
                   recoveryVars, repairVars, readerVars, proposals, sealed_as, budget>>

\* Another, empty directory under an id that was removed.
OnRejoin(e) ==
    LET n == e.node IN
    /\ e.copies = <<>>
    /\ ~up[n]
    /\ ~Needed(n)
    /\ up' = [up EXCEPT ![n] = TRUE]
    /\ incarnation' = [incarnation EXCEPT ![n] = e.incarnation]
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
    /\ UNCHANGED <<committedVars, view, checkpoint, heard, lease, sealing, acked, stream, recovering,
                   decided, forced, changes, readerVars, proposals, sealed_as, budget>>

-----------------------------------------------------------------------------
Taken(e) ==
    CASE e.ev = "LeaderAppend" ->
            e.start = Length(e.node, T(e), S(e)) /\ LeaderAppend(e.node, T(e), S(e), e.count)
      [] e.ev = "ReplicaAppend" ->
            e.start = Length(e.node, T(e), S(e)) /\ ReplicaAppend(e.node, T(e), S(e), e.count)
      [] e.ev = "Synced" -> OnSynced(e)
      [] e.ev = "Report" -> OnReport(e)
      [] e.ev = "Ack" -> OnAck(e)
      [] e.ev = "Sure" -> OnSure(e)
      [] e.ev = "Grant" -> up[e.node] /\ lease[e.node][T(e)] = S(e) /\ Same
      [] e.ev = "BeginSeal" -> BeginSeal(e.node, T(e), S(e))
      [] e.ev = "ProposeSeal" -> OnProposeSeal(e)
      [] e.ev = "StartRecovery" -> OnStartRecovery(e)
      [] e.ev = "Fence" -> OnFence(e)
      [] e.ev = "AnswerFence" -> OnAnswerFence(e)
      [] e.ev = "Recover" -> OnRecover(e)
      [] e.ev = "CopyTail" -> OnCopyTail(e)
      [] e.ev = "AnswerCopy" -> OnAnswerCopy(e)
      [] e.ev = "RecoverySeal" -> OnRecoverySeal(e)
      [] e.ev = "Replace" -> OnReplace(e)
      [] e.ev = "HandOut" -> OnHandOut(e)
      [] e.ev = "Confirm" -> OnConfirm(e)
      [] e.ev = "Rewind" -> OnRewind(e)
      [] e.ev = "ProposeCursors" -> OnProposeCursors(e)
      [] e.ev \in Applied -> OnApplied(e)
      [] e.ev \in {"Snapshot", "SnapshotTopics"} -> OnSnapshot(e)
      [] e.ev = "Crash" -> Crash(e.node)
      [] e.ev = "PowerLoss" -> OnPowerLoss(e)
      [] e.ev = "Restart" -> OnRestart(e)
      [] e.ev = "Rejoin" -> OnRejoin(e)
      [] OTHER -> FALSE

\* The state of the copy that the event led to, as it was recorded.
AsRecorded(e) ==
    Has(e, "durable") =>
        /\ Len(log'[e.node][T(e)][S(e)]) = e.length
        /\ e.durable <= synced'[e.node][T(e)][S(e)]
        /\ e.fenced = (<<T(e), S(e)>> \in fenced'[e.node])
        /\ e.sure /\ ~Sealed(T(e), S(e)) => unsure'[e.node][T(e)][S(e)] = 0

-----------------------------------------------------------------------------
\* What is followed besides the spec's variables.
AppliedAfter(e) ==
    CASE e.ev \in Applied \cup {"Snapshot"} -> e.index
      [] e.ev \in {"Restart", "Rejoin"} -> 0
      [] OTHER -> applied[e.node]

NotedAfter(e) ==
    CASE e.ev = "Fence" -> noted[e.node] \cup {<<T(e), S(e), e.length>>}
      [] e.ev \in {"Restart", "Rejoin"} -> {}
      [] OTHER -> noted[e.node]

Follow(e) ==
    /\ applied' = [applied EXCEPT ![e.node] = AppliedAfter(e)]
    /\ seen' = [seen EXCEPT ![e.node] = [t \in Topic |-> [g \in Group |-> SeenAfter(e, t, g)]]]
    /\ noted' = [noted EXCEPT ![e.node] = NotedAfter(e)]
    /\ ran' = IF e.ev = "StartRecovery" THEN ran \cup {<<e.node, T(e), S(e)>>}
              ELSE IF e.ev \in {"Restart", "Rejoin"} THEN {x \in ran : x[1] # e.node}
              ELSE ran
    /\ knew' = [knew EXCEPT ![e.node] = [t \in Topic |->
          IF e.ev = "Rejoin" THEN 0 ELSE Max(@[t], view'[e.node][t])]]
    /\ UNCHANGED <<commands, leaving, voters>>

TraceInit ==
    /\ AtTheBeginning
    /\ Init
    /\ commands = <<>>
    /\ applied = [n \in Node |-> 0]
    /\ seen = [n \in Node |-> [t \in Topic |-> StartCursors]]
    /\ noted = [n \in Node |-> {}]
    /\ ran = {}
    /\ knew = [n \in Node |-> [t \in Topic |-> 0]]
    /\ leaving = {}
    /\ voters = Node

TraceNext ==
    /\ l <= Last
    /\ \/ Taken(Event) /\ AsRecorded(Event) /\ Follow(Event) /\ Onward
       \/ (HiddenCommit(Event) \/ HiddenCrash(Event)) /\ UNCHANGED <<which, l>>

TraceSpec == TraceInit /\ [][TraceNext]_traceVars

\* The cheap invariants in each state, those that read every entry now and then and at the end.
Sound ==
    /\ Keeps("TypeOK", TypeOK, l - 1)
    /\ Keeps("DomainConsistency", DomainConsistency, l - 1)
    /\ Keeps("AckedDurable", AckedDurable, l - 1)
    /\ Keeps("NoWritesPastOpen", NoWritesPastOpen, l - 1)
    /\ Keeps("SealedStable", SealedStable, l - 1)
    /\ Keeps("LastSealedIsSum", LastSealedIsSum, l - 1)
    /\ Keeps("OpenLeaderMatchesMap", OpenLeaderMatchesMap, l - 1)
    /\ Keeps("CursorInBounds", CursorInBounds, l - 1)
    /\ Keeps("SingleWriter", NowAndThen => SingleWriter, l - 1)
    /\ Keeps("SeqOrder", NowAndThen => SeqOrder, l - 1)
    /\ Keeps("PrefixAgree", NowAndThen => PrefixAgree, l - 1)
    /\ Keeps("DeliveredIsPrefix", NowAndThen => DeliveredIsPrefix, l - 1)
    /\ Reached
=============================================================================
