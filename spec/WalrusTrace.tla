---------------------------- MODULE WalrusTrace ----------------------------
(***************************************************************************)
(* Is a recorded run a behaviour of Walrus.tla? `python -m walrus.tlc      *)
(* trace` writes the run as module TraceData and has TLC walk along it.    *)
(*                                                                         *)
(* Each event names an action, and the action with the recorded values     *)
(* must be enabled; `l` is the next event. Steps that runs need not record *)
(* (a proposal, the commit that some node applied first, the crash before  *)
(* a restart) are taken just before the event that cannot be without them, *)
(* so there is hardly anything to search. All invariants are checked on    *)
(* the way: the cheap ones in each state, those that read every entry now  *)
(* and then.                                                               *)
(*                                                                         *)
(* What a run may do that the model may not is allowed here and nowhere    *)
(* else: it hands entries out again that a client did not confirm (Deliver *)
(* may begin anywhere, and DeliveredIsPrefix says whether it skipped), and *)
(* it applies again after a restart what it had applied before.            *)
(***************************************************************************)
EXTENDS Walrus, FollowTrace

traceVars == <<vars, which, l>>

Same == UNCHANGED vars

\* Values of an event that name a segment.
T(e) == e.topic
S(e) == e.segment

AddProposal(t, s, count) ==
    /\ proposals' = proposals \cup {[topic |-> t, segment |-> s, count |-> count, cursors |-> StartCursors]}
    /\ UNCHANGED <<committedVars, nodeVars, copyVars, writerVars, recoveryVars, repairVars, readerVars,
                   sealed_as, budget>>

Proposed(t, s, count) == \E p \in proposals : p.topic = t /\ p.segment = s /\ p.count = count

\* A seal that was not recorded as proposed: the writer's, with everything acknowledged, or that of a
\* recovery.
MayPropose(t, s, count) ==
    \/ /\ <<t, s>> \in sealing
       /\ count = acked[t][s] /\ count = Len(stream[t][s])
    \/ /\ [topic |-> t, segment |-> s, count |-> count] \in decided
       /\ Majority({a.node : a \in {b \in answers \cup copied :
                       b.topic = t /\ b.segment = s /\ b.length >= count}}, Replicas(t, s))

-----------------------------------------------------------------------------
\* Steps that are not recorded, taken when the next event `e` needs them.
Opens(e) == announced[e.leader] = e.incarnation

HiddenRegister(e) ==
    /\ e.ev = "RegisterTopic" /\ Known(T(e)) = 0 /\ Opens(e)
    /\ RegisterTopic(T(e), e.leader, e.replicas)

HiddenPropose(e) ==
    /\ e.ev = "Seal" /\ Known(T(e)) = S(e) /\ ~Proposed(T(e), S(e), e.count)
    /\ MayPropose(T(e), S(e), e.count)
    /\ AddProposal(T(e), S(e), e.count)

HiddenSeal(e) ==
    /\ e.ev = "Seal" /\ Known(T(e)) = S(e) /\ Opens(e)
    /\ LET ready == {q \in proposals : q.topic = T(e) /\ q.segment = S(e) /\ q.count = e.count}
           chosen == [(CHOOSE q \in ready : TRUE) EXCEPT !.cursors = StartCursors]
       IN ready # {} /\ SealWith(chosen, e.leader, e.replicas)

HiddenRecovering(e) ==
    /\ e.ev = "Fence" /\ <<T(e), S(e)>> \notin recovering /\ S(e) <= Known(T(e))
    /\ recovering' = recovering \cup {<<T(e), S(e)>>}
    /\ UNCHANGED <<committedVars, nodeVars, copyVars, writerVars, answers, decided, copied, forced,
                   repairVars, readerVars, proposals, sealed_as, budget>>

HiddenSure(e) ==
    /\ e.ev = "Fence" /\ e.sure /\ unsure[e.node][T(e)][S(e)] > 0
    /\ BecomeSure(e.node, T(e), S(e))

HiddenCrash(e) == e.ev = "Restart" /\ Crash(e.node)

Hidden(e) ==
    \/ HiddenRegister(e) \/ HiddenPropose(e) \/ HiddenSeal(e)
    \/ HiddenRecovering(e) \/ HiddenSure(e) \/ HiddenCrash(e)

-----------------------------------------------------------------------------
\* Events.
ApplyUpTo(n, t, s) == IF view[n][t] >= s THEN up[n] /\ Same ELSE Apply(n, t, s)

OnRegisterTopic(e) ==
    /\ Known(T(e)) >= 1
    /\ Segment(T(e), 1).leader = e.leader
    /\ Segment(T(e), 1).incarnation = e.incarnation
    /\ ApplyUpTo(e.node, T(e), 1)

\* A snapshot brought the node up to the segment that was open when it was taken.
OnSnapshot(e) == S(e) <= Known(T(e)) /\ ApplyUpTo(e.node, T(e), S(e))

OnSeal(e) ==
    LET t == T(e)
        s == S(e)
    IN
    /\ Known(t) > s
    /\ Segment(t, s).count = e.count
    /\ Segment(t, s + 1).leader = e.leader
    /\ Segment(t, s + 1).incarnation = e.incarnation
    /\ view[e.node][t] >= s
    /\ ApplyUpTo(e.node, t, s + 1)

OnCommitCursors(e) ==
    /\ up[e.node]
    /\ metadata' = [metadata EXCEPT ![T(e)].cursors[e.group] = Later(@, <<S(e), e.offset>>)]
    /\ UNCHANGED <<members, announced, nodeVars, copyVars, writerVars, recoveryVars, repairVars,
                   readerVars, proposals, sealed_as, budget>>

\* What comes in holds all of the segment, and so does a majority; and the set does not shrink by more than
\* the one node that leaves. (A node that applies the command again finds it applied.)
OnSetReplicas(e) ==
    LET old == Replicas(T(e), S(e))
        new == e.replicas
        whole == {n \in new : Intact(n, T(e), S(e)) >= Segment(T(e), S(e)).count}
    IN
    /\ Sealed(T(e), S(e))
    /\ IF old = new THEN Same
       ELSE /\ new \ old \subseteq whole
            /\ Majority(whole, new)
            /\ Cardinality(new) + 1 >= Cardinality(old)
            /\ metadata' = [metadata EXCEPT ![T(e)].segments[S(e)].replicas = new]
            /\ UNCHANGED <<members, announced, nodeVars, copyVars, writerVars, recoveryVars, repairVars,
                           readerVars, proposals, sealed_as, budget>>

OnAnnounce(e) ==
    IF announced[e.of] >= e.incarnation THEN Same
    ELSE Announce(e.of) /\ announced'[e.of] = e.incarnation

OnFence(e) ==
    LET n == e.node
        t == T(e)
        s == S(e)
        answer == [node |-> n, topic |-> t, segment |-> s, length |-> e.length, sure |-> e.sure]
    IN
    /\ up[n]
    /\ <<t, s>> \in recovering
    /\ e.length = Length(n, t, s)
    /\ e.sure => unsure[n][t][s] = 0
    /\ fenced' = [fenced EXCEPT ![n] = @ \cup {<<t, s>>}]
    /\ answers' = answers \cup {answer}
    /\ UNCHANGED <<committedVars, nodeVars, log, synced, damaged, unsure, writerVars, recovering, decided,
                   copied, forced, repairVars, readerVars, proposals, sealed_as, budget>>

OnRecover(e) ==
    IF [topic |-> T(e), segment |-> S(e), count |-> e.count] \in decided THEN Same
    ELSE /\ Recover(T(e), S(e))
         /\ [topic |-> T(e), segment |-> S(e), count |-> e.count] \in decided'

OnCopyTail(e) ==
    \E from \in Node :
        \/ <<T(e), S(e)>> \in fenced[e.node] /\ CopyTailFrom(e.node, from, T(e), S(e), e.length)
        \/ view[e.node][T(e)] > S(e) /\ RepairFrom(e.node, from, T(e), S(e), e.length)

OnProposeSeal(e) ==
    IF Proposed(T(e), S(e), e.count) THEN Same
    ELSE ProposeSeal(e.node, T(e), S(e)) /\ acked[T(e)][S(e)] = e.count

OnRecoverySeal(e) ==
    IF Proposed(T(e), S(e), e.count) THEN Same
    ELSE /\ [topic |-> T(e), segment |-> S(e), count |-> e.count] \in decided
         /\ RecoverySealAt(T(e), S(e), e.count)

OnDeliver(e) ==
    LET n == e.node
        t == T(e)
        s == S(e)
        d == [segment |-> s, start |-> e.start, end |-> e.start + e.count]
    IN
    /\ up[n]
    /\ lease[n][t] > 0
    /\ d.end <= Readable(n, t, s)
    /\ \E m \in IF s = view[n][t] THEN {n} ELSE Replicas(t, s) : d.end <= Length(m, t, s)
    /\ delivered' = [delivered EXCEPT ![t][e.group] = Deduplicated(@, d)]
    /\ UNCHANGED <<committedVars, nodeVars, copyVars, writerVars, recoveryVars, repairVars, reading,
                   handed, given, received, moves, proposals, sealed_as, budget>>

OnPowerLoss(e) ==
    LET lost(t, s) == {i \in DOMAIN e.lengths : e.lengths[i][1] = t /\ e.lengths[i][2] = s}
        left(t, s) ==
            IF lost(t, s) # {} THEN e.lengths[CHOOSE i \in lost(t, s) : TRUE][3]
            ELSE IF e.all THEN 0 ELSE Length(e.node, t, s)
    IN
    /\ \A t \in Topic, s \in Segments : left(t, s) <= Length(e.node, t, s)
    /\ Forget(e.node)
    /\ log' = [log EXCEPT ![e.node] =
          [t \in Topic |-> [s \in Segments |-> SubSeq(@[t][s], 1, left(t, s))]]]
    /\ unsure' = IF EachIsSynced THEN unsure
                 ELSE [unsure EXCEPT ![e.node] = [t \in Topic |-> [s \in Segments |->
                          IF s <= Known(t) THEN Max(@[t][s], WholeAt(e.node, t, s)) ELSE @[t][s]]]]
    /\ UNCHANGED <<committedVars, synced, damaged, writerVars, recoveryVars, repairVars, given, received,
                   moves, delivered, proposals, sealed_as, budget>>

\* A process that starts after a crash finds each of its copies as long as it was, or longer: what it wrote
\* last may not have been recorded. (After a power loss PowerLoss has the lengths.)
FindsAll(e) ==
    Has(e, "lengths") => \A i \in DOMAIN e.lengths :
        LET t == e.lengths[i][1]
            s == e.lengths[i][2]
        IN t \in Topic /\ s \in Segments => Length(e.node, t, s) <= e.lengths[i][3]

Taken(e) ==
    CASE e.ev = "LeaderAppend" ->
            e.start = Length(e.node, T(e), S(e)) /\ LeaderAppend(e.node, T(e), S(e), e.count)
      [] e.ev = "ReplicaAppend" ->
            e.start = Length(e.node, T(e), S(e)) /\ ReplicaAppend(e.node, T(e), S(e), e.count)
      [] e.ev = "Report" -> up[e.node] /\ e.length <= Length(e.node, T(e), S(e)) /\ Same
      [] e.ev = "Ack" -> Ack(e.node, T(e), S(e), e.count)
      [] e.ev = "Grant" -> up[e.node] /\ lease[e.node][T(e)] = S(e) /\ Same
      [] e.ev = "BeginSeal" -> BeginSeal(e.node, T(e), S(e))
      [] e.ev = "ProposeSeal" -> OnProposeSeal(e)
      [] e.ev = "StartRecovery" ->
            IF <<T(e), S(e)>> \in recovering THEN Same ELSE StartRecovery(e.node, T(e), S(e))
      [] e.ev = "Fence" -> OnFence(e)
      [] e.ev = "Recover" -> OnRecover(e)
      [] e.ev = "CopyTail" -> OnCopyTail(e)
      [] e.ev = "RecoverySeal" -> OnRecoverySeal(e)
      [] e.ev = "Deliver" -> OnDeliver(e)
      [] e.ev = "ProposeCursors" -> up[e.node] /\ Same
      [] e.ev = "RegisterTopic" -> OnRegisterTopic(e)
      [] e.ev = "Seal" -> OnSeal(e)
      [] e.ev = "Snapshot" -> OnSnapshot(e)
      [] e.ev = "CommitCursors" -> OnCommitCursors(e)
      [] e.ev = "SetReplicas" -> OnSetReplicas(e)
      [] e.ev = "Announce" -> OnAnnounce(e)
      [] e.ev = "Crash" -> Crash(e.node)
      [] e.ev = "PowerLoss" -> OnPowerLoss(e)
      [] e.ev = "Restart" -> FindsAll(e) /\ Restart(e.node)
      [] e.ev = "Sure" ->
            IF unsure[e.node][T(e)][S(e)] = 0 THEN Same ELSE BecomeSure(e.node, T(e), S(e))
      [] OTHER -> FALSE

TraceInit == Init /\ AtTheBeginning

TraceNext ==
    /\ l <= Len(Trace)
    /\ UNCHANGED which
    /\ \/ Taken(Trace[l]) /\ l' = l + 1
       \/ Hidden(Trace[l]) /\ UNCHANGED l

TraceSpec == TraceInit /\ [][TraceNext]_traceVars

\* The invariants that read every entry, now and then and at the end.
Contents == NowAndThen => SingleWriter /\ SeqOrder /\ PrefixAgree /\ DeliveredIsPrefix
=============================================================================
