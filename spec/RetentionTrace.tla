---------------------------- MODULE RetentionTrace ----------------------------
(***************************************************************************)
(* Is what a recorded run did to one topic name a behaviour of             *)
(* Retention.tla? `python -m walrus.tlc trace` takes each topic of which   *)
(* segments were dropped out of the run (trace_retention.py). The replica  *)
(* of the spec is one process start of one node; each is followed by       *)
(* itself, beside one group. The group's mark is the segment in which its  *)
(* next entry is, or will be.                                              *)
(*                                                                         *)
(* The events are the commands of the topic in the order of Raft's log, as *)
(* the first node recorded them that applied them (the Seal that ends the  *)
(* topic is EndTopic); what the topic's writers did, wherever they are:    *)
(* Put, for entries that one appended and acknowledged then or later,      *)
(* and Stop, where one proposed its Seal, or a recovery had fenced enough  *)
(* copies; and what the replica did: Apply, up to an index of the log;     *)
(* Take, and CopyTail, for entries that it took; Drop, for room that it    *)
(* gave back; Read, for entries that it handed out.                        *)
(*                                                                         *)
(* What clients ask for is not recorded. What they meant, numbers say:     *)
(* none is used twice, so a command names one life only.                   *)
(*                                                                         *)
(* What a run may do that the model may not: the replica gives room back a *)
(* moment after it applied the Trim, but before it does anything else that *)
(* concerns the topic; a mark moves over several segments at once; a start *)
(* finds copies of segments that it has not applied yet.                   *)
(* Protection is a setting that changes, so the constant is FALSE here,    *)
(* and the invariant is held to what is set (`unprotected`).               *)
(***************************************************************************)
EXTENDS Retention, FollowTrace

VARIABLES
    indexes,             \* indexes[k]: where in Raft's log the command is that made history[k]
    protects,            \* whether protect_groups is set, by what is committed
    unprotected,         \* a Trim took what a protected group was not done with
    rests                \* the replica is done with what it applied last

followed == <<indexes, protects, unprotected, rests>>
traceVars == <<vars, which, l, followed>>

Same == UNCHANGED vars

\* A segment of which there is nothing any more, and never will be.
IsGone(state, n) == n < (IF IsThere(state) THEN state.first ELSE state.next)

-----------------------------------------------------------------------------
\* Commands. One that changes nothing that the spec has is left out of `history`.

Committing(e, state) == IF state = Committed THEN Same ELSE Become(state) /\ UNCHANGED proof

\* The mark rises, to a segment that is retained; it may stand anywhere while the group is not known.
Marked(e, state) == IF e.mark = 0 THEN state ELSE [state EXCEPT !.mark = e.mark]
MayMark(e, state) == e.mark = 0 \/ (state.mark <= e.mark /\ e.mark \in Retained(state))

OnRegister(e) ==
    LET after == Registered(Committed, [number |-> e.number]) IN
    /\ Keeps("NoAckAfterDelete", ~Committed.deleting, l - 1)
    /\ after # Committed
    /\ Committing(e, after)

\* The next segment opens, or the topic ends: only what is to be deleted does.
OnSeal(e) ==
    LET after == SealedOne(Committed, e.segment) IN
    /\ after # Committed
    /\ Keeps("NoAckAfterDelete", e.ev = "EndTopic" => e.segment \in stopped, l - 1)
    /\ e.segment \in stopped
    /\ IsThere(after) = (e.ev = "Seal")
    /\ MayMark(e, after)
    /\ Become(Marked(e, after))
    /\ sealed' = sealed \cup {e.segment}
    /\ UNCHANGED <<trimmed, missed, misled, lost>>

OnTrim(e) ==
    /\ Keeps("TrimmedIsSealed", e.first <= Committed.current, l - 1)
    /\ Trim(e.old, e.first)
    /\ Keeps("MarkInBounds", e.mark # 0 => e.mark = history'[Len(history')].mark, l - 1)

OnDelete(e) ==
    LET after == Deleted(Committed, [number |-> e.born]) IN
    /\ after # Committed
    /\ Become(after)
    /\ UNCHANGED proof

\* The group is done with more.
OnMoved(e) ==
    /\ IsThere(Committed)
    /\ MayMark(e, Committed)
    /\ Committing(e, Marked(e, Committed))

\* A SEEK may lead back.
OnSeek(e) ==
    /\ IsThere(Committed)
    /\ e.generation = Committed.generation + 1
    /\ e.mark \in Retained(Committed)
    /\ Committing(e, [Committed EXCEPT !.generation = e.generation, !.mark = e.mark])

Commands == {"RegisterTopic", "Seal", "EndTopic", "Trim", "DeleteTopic", "CommitCursors", "CommitGroups",
             "MoveGroup", "ConfigureTopic"}

OnCommand(e) ==
    /\ CASE e.ev = "RegisterTopic" -> OnRegister(e)
         [] e.ev \in {"Seal", "EndTopic"} -> OnSeal(e)
         [] e.ev = "Trim" -> OnTrim(e)
         [] e.ev = "DeleteTopic" -> OnDelete(e)
         [] e.ev \in {"CommitCursors", "CommitGroups"} -> OnMoved(e)
         [] e.ev = "MoveGroup" -> OnSeek(e)
         [] OTHER -> Same
    /\ indexes' = IF history' = history THEN indexes ELSE Append(indexes, e.index)
    /\ protects' = IF e.ev \in {"RegisterTopic", "ConfigureTopic"} THEN e.protects ELSE protects
    /\ unprotected' = (unprotected \/ (e.ev = "Trim" /\ protects /\ e.mark # 0 /\ missed' # missed))
    /\ UNCHANGED rests

-----------------------------------------------------------------------------
\* Writers.

OnPut(e) ==
    /\ Keeps("NoAckAfterDelete", e.segment \notin gone, l - 1)
    /\ e.segment \in Opened(Committed) \ stopped
    /\ Same

\* It may propose again, and more than one recovery may fence.
OnStop(e) ==
    /\ e.segment \in Opened(Committed)
    /\ stopped' = stopped \cup {e.segment}
    /\ UNCHANGED <<history, asked, frames, copy, gone, proof>>

-----------------------------------------------------------------------------
\* The replica.

\* As Apply, of all commands up to that index, but for what it gives back.
OnApply(e) ==
    LET k == Cardinality({i \in DOMAIN indexes : indexes[i] <= e.index}) IN
    /\ history' = SubSeq(history, k, Len(history))
    /\ indexes' = SubSeq(indexes, k, Len(indexes))
    /\ e.first # 0 => history[k].first = e.first
    /\ rests' = FALSE
    /\ UNCHANGED <<asked, frames, copy, stopped, gone, proof, protects, unprotected>>

Life(n) == (CHOOSE frame \in frames : frame.number = n).life

Holds(n) ==
    /\ copy' = [copy EXCEPT ![n] = Life(n)]
    /\ UNCHANGED <<history, asked, frames, stopped, gone, proof>>

\* A frame, of the segment that is open in its view. The first one is the spec's Take.
OnTake(e) ==
    /\ IsThere(View) /\ e.segment = View.current
    /\ IF copy[e.segment] = 0 THEN Take ELSE Same

\* What it copies from another replica is of any segment that is not gone: of one, too, that its view will
\* come to, for a recovery that another node runs.
OnCopyTail(e) == ~IsGone(View, e.segment) /\ Holds(e.segment)

OnDrop(e) ==
    /\ copy[e.segment] # 0
    /\ IsGone(View, e.segment)
    /\ copy' = [copy EXCEPT ![e.segment] = 0]
    /\ UNCHANGED <<history, asked, frames, stopped, gone, proof>>

\* What a start finds: of segments that its view will come to, and of those that are gone by then.
OnFound(e) ==
    /\ copy' = [n \in Numbers |-> IF n \in e.segments THEN Life(n) ELSE 0]
    /\ UNCHANGED <<history, asked, frames, stopped, gone, proof>>

OnStep(e) ==
    /\ CASE e.ev = "Put" -> OnPut(e)
         [] e.ev = "Stop" -> OnStop(e)
         [] e.ev = "Take" -> OnTake(e)
         [] e.ev = "CopyTail" -> OnCopyTail(e)
         [] e.ev = "Drop" -> OnDrop(e)
         [] e.ev = "Found" -> OnFound(e)
         [] e.ev = "Read" -> e.segment \in Retained(View) /\ Same
         [] OTHER -> FALSE
    /\ rests' = IF e.ev \in {"Put", "Stop"} THEN rests ELSE e.ev \in {"Take", "CopyTail", "Read"}
    /\ UNCHANGED <<indexes, protects, unprotected>>

-----------------------------------------------------------------------------
TraceInit ==
    /\ AtTheBeginning
    /\ Init
    /\ indexes = <<0>>
    /\ protects = FALSE /\ unprotected = FALSE /\ rests = FALSE

TraceNext ==
    /\ l <= Last
    /\ IF Event.ev \in Commands THEN OnCommand(Event)
       ELSE IF Event.ev = "Apply" THEN OnApply(Event)
       ELSE OnStep(Event)
    /\ Onward

TraceSpec == TraceInit /\ [][TraceNext]_traceVars

\* A replica at rest holds nothing of what is gone: so nothing of an earlier life, either.
HoldsNothingGone == rests => \A n \in Numbers : copy[n] # 0 => ~IsGone(View, n)

Sound ==
    /\ Keeps("TypeOK", TypeOK, l - 1)
    /\ Keeps("TrimmedIsSealed", TrimmedIsSealed, l - 1)
    /\ Keeps("TrimmedStaysTrimmed", TrimmedStaysTrimmed, l - 1)
    /\ Keeps("ProtectedUntilAcked", ~unprotected, l - 1)
    /\ Keeps("SkippedIsCounted", SkippedIsCounted, l - 1)
    /\ Keeps("MarkInBounds", MarkInBounds, l - 1)
    /\ Keeps("SpaceIsGivenBack", HoldsNothingGone, l - 1)
    /\ Reached
=============================================================================
