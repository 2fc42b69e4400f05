----------------------------- MODULE FollowTrace -----------------------------
(***************************************************************************)
(* What the specs of recorded runs have in common (WalrusTrace.tla,        *)
(* RaftTrace.tla, ...): a place in a run, and how TLC says how far it came.*)
(* `python -m walrus.tlc trace` writes the runs as module TraceData.       *)
(*                                                                         *)
(* Runs that begin alike share that: run w is another run up to its event  *)
(* Shared[w], which has w among its Forks, and goes on with the events     *)
(* whose numbers are in Traces[w]. So a hundred variants of a run cost     *)
(* little more than the run.                                               *)
(***************************************************************************)
EXTENDS Naturals, Sequences, TLC, TraceData

VARIABLES
    which,               \* which of the runs
    l                    \* its next event

Event == Events[Traces[which][l - Shared[which]]]
Last == Shared[which] + Len(Traces[which])
Has(e, field) == field \in DOMAIN e

AtTheBeginning == which \in Roots /\ l = 1

\* The event was taken: this run goes on, and so do those that leave it here. They leave it with the event,
\* and not after it: a step that is not recorded is taken for this run's next event, and they have another.
Onward ==
    /\ l' = l + 1
    /\ which' \in {which} \cup {w \in Forks[which] : Shared[w] = l}

\* Never FALSE: prints how far each trace was followed. Registers are per worker, and there is one.
Reached ==
    \/ l <= TLCGet(which)
    \/ TLCSet(which, l) /\ PrintT(<<"REACHED", which, l - 1>>)

\* An invariant of a run. A run that breaks one is told, and followed no further. (In an action TLC would
\* take both sides of a disjunction.)
Keeps(name, holds, events) == IF holds THEN TRUE ELSE PrintT(<<"BROKEN", which, events, name>>) /\ FALSE

\* Now and then, and at the end: when invariants are checked that read every entry.
NowAndThen == l % 25 = 0 \/ l > Last

\* Violated in the state just before the event that cannot be explained: its counterexample shows that state.
NotStuck == ~(which = StuckTrace /\ l = StuckAt)

ASSUME \A w \in 1..Len(Traces) : TLCSet(w, 0)
=============================================================================
