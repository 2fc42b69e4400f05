----------------------------- MODULE FollowTrace -----------------------------
(***************************************************************************)
(* What WalrusTrace.tla and RaftTrace.tla have in common: a place in a     *)
(* recorded run, and how TLC says how far it came. `python -m walrus.tlc   *)
(* trace` writes the runs as module TraceData.                             *)
(***************************************************************************)
EXTENDS Naturals, Sequences, TLC, TraceData

VARIABLES
    which,               \* which of the runs
    l                    \* its next event

Trace == Traces[which]
Has(e, field) == field \in DOMAIN e

AtTheBeginning == which \in 1..Len(Traces) /\ l = 1

\* Never FALSE: prints how far each trace was followed. Registers are per worker, and there is one.
Reached ==
    \/ l <= TLCGet(which)
    \/ TLCSet(which, l) /\ PrintT(<<"REACHED", which, l - 1>>)

\* Now and then, and at the end: when invariants are checked that read every entry.
NowAndThen == l % 25 = 0 \/ l > Len(Trace)

\* Violated in the state just before the event that cannot be explained: its counterexample shows that state.
NotStuck == ~(which = StuckTrace /\ l = StuckAt)

ASSUME \A i \in 1..Len(Traces) : TLCSet(i, 0)
=============================================================================
