---------------------------- MODULE DeliveryTrace ----------------------------
(***************************************************************************)
(* Is what a recorded run did to one consumer group a behaviour of         *)
(* Delivery.tla? `python -m walrus.tlc trace` takes each group that is     *)
(* read with RECEIVE out of the run (trace_delivery.py): its entries are   *)
(* numbered through all segments, and the leader of segment o is the owner *)
(* o. An event is one step of one entry, or a record of this group that a  *)
(* node applied, with the state that it made.                              *)
(*                                                                         *)
(* Each event names an action, which must be enabled with the recorded     *)
(* values. Two kinds of step are not recorded, and are taken just before   *)
(* the event that cannot be without them: the commit of a record that some *)
(* node applied first, and the leases.                                     *)
(*                                                                         *)
(* A lease runs out by a clock, which is not recorded. What it is for is   *)
(* an order, and that is held against the spec: an owner has a lease from  *)
(* when it first hands out or answers, and loses it when a later one does  *)
(* so; another one would show it the Seal that ended it. An owner that     *)
(* seals keeps its lease: its successor does not wait for that.            *)
(*                                                                         *)
(* A run is coarser than the spec in these places:                         *)
(*   - a node applies several records of the group at once: a snapshot;    *)
(*   - an owner that follows itself keeps what it has in hand: in the spec *)
(*     it takes over what its Seal says, to which Return and AckEntry lead *)
(*     right afterwards;                                                   *)
(*   - a dead letter is appended and noted in one step (NoteDead), and an  *)
(*     entry on its way there is out (Withhold), as if it had been handed  *)
(*     out once more;                                                      *)
(*   - an ACK is answered by the generation that there is: what a SEEK     *)
(*     passed over meanwhile is done.                                      *)
(* What a run may do that the model may not: an entry that no replica has  *)
(* any more counts as given up (StepOver), as an entry of another topic    *)
(* does that was out too often.                                            *)
(***************************************************************************)
EXTENDS Delivery, FollowTrace

VARIABLES
    indexes              \* indexes[k]: where in Raft's log the record is that made history[k]

traceVars == <<vars, which, l, indexes>>

Same == UNCHANGED vars

Applied == {"CommitGroups", "MoveGroup", "Seal", "Snapshot"}
Serving == {"Receive", "Withhold", "Answer"}

Delivery(e) == <<e.generation, e.entry>>

\* Entries that are with consumers, as a state says it: without those that are done meanwhile.
NotDone(state, S) == {p \in S : ~IsDone(state, p)}
HandedOn(state) == NotDone(state, {d[2] : d \in {x \in state.handed : x[1] = state.generation}})

\* What a node recorded of the group, having applied a record.
Tells(e, state) ==
    /\ e.generation = state.generation
    /\ e.low = state.low
    /\ e.done = state.done
    /\ e.ev = "Seal" => state.owner = e.from + 1 /\ NotDone(state, e.out) = HandedOn(state)

-----------------------------------------------------------------------------
\* Commits: by the first node that applies the record. One that changes nothing is left out of `history`.

\* Only what one owner has noted: a part of that, or all.
CommitNoted(e) ==
    LET more == {p \in Pos : (p <= e.low \/ p \in e.done) /\ ~IsDone(Committed, p)} IN
    /\ \E o \in Owners : \A p \in more : <<e.generation, p>> \in noted[o]
    /\ Commit(Acknowledged(e.generation, more))
    /\ UNCHANGED seals

CommitSeek(e) ==
    /\ Commit([kind |-> "seek", generation |-> e.generation - 1, to |-> e.low])
    /\ UNCHANGED seals

HiddenCommit(e) ==
    /\ e.ev \in Applied
    /\ e.index > indexes[Len(indexes)]
    /\ ~Tells(e, Committed)
    /\ CASE e.ev = "CommitGroups" -> CommitNoted(e)
         [] e.ev = "MoveGroup" -> CommitSeek(e)
         [] e.ev = "Seal" -> IF e.recovered THEN RecoverySeal(e.from) ELSE SealWithGroups(e.from)
         [] OTHER -> FALSE
    /\ Tells(e, history'[Len(history')])
    /\ indexes' = Append(indexes, e.index)

\* An owner needs a lease, and there is none of a later owner that is not itself about to end.
HiddenLease(e) ==
    LET o == e.owner IN
    /\ e.ev \in Serving
    /\ o \in Owners
    /\ lease[o] = 0
    /\ sealing[o] \/ \A other \in Owners : other > o => lease[other] = 0
    /\ lease' = [other \in Owners |->
          IF other = o THEN view[o]
          ELSE IF other > o \/ sealing[other] THEN lease[other]
          ELSE 0]
    /\ UNCHANGED <<history, seals, view, sealing, consumerVars, indexes>>

-----------------------------------------------------------------------------
\* As Apply, of any number of records; `owner`: what the node is of the group's topic after that, or 0.
OnApplied(e) ==
    LET o == e.owner
        k == Cardinality({i \in DOMAIN indexes : indexes[i] <= e.index})
        begins == history[k].owner = o /\ View(o).owner # o
        keeps == begins /\ e.keeps
    IN
    /\ Tells(e, history[k])
    /\ IF o = 0 THEN Same
       ELSE /\ k >= view[o]
            /\ view' = [view EXCEPT ![o] = k]
            /\ out' = [out EXCEPT ![o] =
                  IF keeps THEN out[o - 1] ELSE IF begins THEN history[k].handed ELSE @]
            /\ noted' = [noted EXCEPT ![o] = IF keeps THEN noted[o - 1] ELSE @]
            /\ UNCHANGED <<history, seals, lease, sealing, held, finished, dead, promised, redelivered>>

OnReceive(e) == View(e.owner).generation = e.generation /\ Receive(e.owner, e.entry)

OnReturn(e) ==
    /\ Delivery(e) \in out[e.owner]
    /\ out' = [out EXCEPT ![e.owner] = @ \ {Delivery(e)}]
    /\ UNCHANGED <<history, seals, ownerVars, noted, held, finished, dead, promised, redelivered>>

\* Once more of what is noted changes nothing.
OnAckEntry(e) ==
    /\ View(e.owner).owner = e.owner
    /\ View(e.owner).generation = e.generation
    /\ IF Delivery(e) \in noted[e.owner] THEN Same ELSE AckEntry(e.owner, e.entry)

\* Done without a consumer: it is in the dead-letter topic, or on no replica any more.
GivenUp(e) ==
    /\ View(e.owner).owner = e.owner
    /\ View(e.owner).generation = e.generation
    /\ dead' = dead \cup {e.entry}
    /\ noted' = [noted EXCEPT ![e.owner] = @ \cup {Delivery(e)}]
    /\ out' = [out EXCEPT ![e.owner] = @ \ {Delivery(e)}]
    /\ UNCHANGED <<history, seals, ownerVars, held, finished, promised, redelivered>>

OnNoteDead(e) == Delivery(e) \in out[e.owner] /\ GivenUp(e)

OnAnswer(e) ==
    /\ Serves(e.owner)
    /\ View(e.owner).generation = e.generation
    /\ \A p \in e.entries : IsDone(View(e.owner), p)
    /\ promised' = promised \cup ({<<e.generation, p>> : p \in e.entries} \cap finished)
    /\ UNCHANGED <<history, seals, ownerVars, out, noted, held, finished, dead, redelivered>>

\* BeginSeal and ProposeSeal in one: with all that is noted, and all that is out.
OnProposeSeal(e) ==
    LET o == e.owner IN
    /\ View(o).owner = o
    /\ e.noted = NotDone(View(o), Of(o, noted[o]))
    /\ NotDone(View(o), e.out) = NotDone(View(o), Of(o, out[o]))
    /\ sealing' = [sealing EXCEPT ![o] = TRUE]
    /\ seals' = seals \cup
           {[kind |-> "own", from |-> o, generation |-> View(o).generation, low |-> View(o).low,
             done |-> View(o).done \cup Of(o, noted[o]), out |-> out[o]]}
    /\ UNCHANGED <<history, view, lease, consumerVars>>

Taken(e) ==
    IF e.ev \in Applied THEN OnApplied(e)
    ELSE /\ e.owner \in Owners
         /\ CASE e.ev = "Receive" -> OnReceive(e)
              [] e.ev = "Withhold" -> OnReceive(e)
              [] e.ev = "Return" -> OnReturn(e)
              [] e.ev = "AckEntry" -> OnAckEntry(e)
              [] e.ev = "NoteDead" -> OnNoteDead(e)
              [] e.ev = "StepOver" -> GivenUp(e)
              [] e.ev = "Answer" -> OnAnswer(e)
              [] e.ev = "ProposeSeal" -> OnProposeSeal(e)
              [] OTHER -> FALSE

-----------------------------------------------------------------------------
TraceInit == AtTheBeginning /\ Init /\ indexes = <<0>>

TraceNext ==
    /\ l <= Last
    /\ \/ Taken(Event) /\ UNCHANGED indexes /\ Onward
       \/ (HiddenCommit(Event) \/ HiddenLease(Event)) /\ UNCHANGED <<which, l>>

TraceSpec == TraceInit /\ [][TraceNext]_traceVars

Sound ==
    /\ Keeps("TypeOK", TypeOK, l - 1)
    /\ Keeps("AckedNotRedelivered", AckedNotRedelivered, l - 1)
    /\ Keeps("NothingSkipped", NothingSkipped, l - 1)
    /\ Keeps("OutIsBounded", OutIsBounded, l - 1)
    /\ Keeps("SealHandsOn", SealHandsOn, l - 1)
    /\ Keeps("PromisedIsCommitted", PromisedIsCommitted, l - 1)
    /\ Reached

\* MarkOnlyRises, of one step.
SoundStep ==
    Keeps("MarkOnlyRises",
          \/ Committed'.generation # Committed.generation
          \/ \A p \in Pos : IsDone(Committed, p) => IsDone(Committed', p),
          l - 1)
=============================================================================
