------------------------------ MODULE Delivery ------------------------------
(***************************************************************************)
(* Work queues: RECEIVE, ACK, NACK, EXTEND and SEEK for one consumer group *)
(* of one topic. An entry is handed out, stays out until it is acknowledged*)
(* or its visibility timeout ends, and is handed out again in that case.   *)
(* Once an ACK is answered OK, the group never gets that entry again.      *)
(*                                                                         *)
(* What this module builds on. Walrus.tla gives the topic: its acknowledged*)
(* entries have one order, which is `Pos` here, and its open segment has   *)
(* one leader after another, which are the owners 1, 2, 3, ... here. A Seal*)
(* of Walrus.tla is a record "own" here: it ends one owner and begins the  *)
(* next. Raft (Raft.tla) gives the committed log, of which each owner has  *)
(* applied a prefix, its `view`. So two owners at once are an ordinary     *)
(* thing: the earlier one has not heard yet that it is no owner any more.  *)
(* Instead of the records, `history` keeps the states that they made: an   *)
(* owner knows the state after the records that it has applied.            *)
(*                                                                         *)
(* What is committed, per group: a low-water mark (all below is done), the *)
(* entries done above it, and a generation, which rises with each SEEK.    *)
(* Merging two such states is a join: the later mark and the union of the  *)
(* rest. So a commit that comes late, twice, or from an earlier owner does *)
(* no harm, and a SEEK is the only way back: it begins a generation, and   *)
(* commits of an earlier one are void.                                     *)
(*                                                                         *)
(* What is volatile, at the owner: what is out, and what was acknowledged  *)
(* but is not committed yet. A healthy Seal carries both; a failover       *)
(* forgets them, and what was out comes again.                             *)
(*                                                                         *)
(* May it answer? An OK to an ACK is a promise about every later owner.    *)
(* So it needs the commit in the owner's own view, and a lease: while an   *)
(* owner holds one no later owner serves. Without it a later owner whose   *)
(* view lacks the commit may be handing the entry out.                     *)
(*                                                                         *)
(* The lease is a ReadIndex that lasts. An owner asks which records are    *)
(* committed, and serves once it has applied them, until a time that is    *)
(* counted from the asking. So each record that ends its ownership comes   *)
(* after the asking, and a successor that waits for the length of a lease  *)
(* after it applied that record outwaits it, however long messages travel. *)
(* Contact with the Raft leader alone is not enough: a heartbeat reaches a *)
(* former owner before the Seal that ended it does, and it would go on     *)
(* behind the back of its successor. An owner that seals hands out nothing *)
(* more, so its successor does not wait for that lease.                    *)
(*                                                                         *)
(* Raft commits a proposal at any later time, again, or never. What an     *)
(* owner proposes of its ACKs only grows, so a late proposal is one of a   *)
(* part of them, and `CommitGroup` may commit any part. Only a Seal says   *)
(* something that changes (what is out), so Seals wait in `seals`.         *)
(*                                                                         *)
(* Left out: time (a visibility timeout may end at any moment, and a late  *)
(* ACK counts), the order of replies, several groups (they share nothing), *)
(* and how an entry is read.                                               *)
(***************************************************************************)
EXTENDS Naturals, Sequences, FiniteSets, TLC

CONSTANTS
    Entries,          \* how many acknowledged entries the topic has
    MaxOwners,        \* how many leaders its open segment has, one after the other
    MaxSeeks,         \* how often the group is moved by SEEK
    Window,           \* entries between the mark and the highest one handed out
    DeadLetters,      \* TRUE: an entry may be given up to the dead-letter topic
    MaxRecords        \* a bound for planted bugs; the protocol as it is stays below

VARIABLES
    history,          \* history[k]: the committed state after k - 1 records
    seals,            \* Seals on their way: committed at any later time, or never
    view,             \* view[o]: the owner o knows history[view[o]]
    lease,            \* lease[o]: how much history there was when o asked for its lease; 0: none
    sealing,          \* sealing[o]: o hands out nothing more
    out,              \* out[o]: {<<generation, entry>>} with a consumer
    noted,            \* noted[o]: {<<generation, entry>>} acknowledged at o
    held,             \* PROOF {<<generation, entry>>} that a consumer has ever had
    finished,         \* PROOF those for which a consumer has sent an ACK
    dead,             \* entries in the dead-letter topic, acknowledged there
    promised,         \* {<<generation, entry>>} whose ACK was answered OK
    redelivered       \* PROOF one of these was handed out again

ownerVars == <<view, lease, sealing>>
consumerVars == <<out, noted, held, finished, dead, promised, redelivered>>
vars == <<history, seals, ownerVars, consumerVars>>

Pos == 1..Entries
Owners == 1..MaxOwners
Generations == 0..MaxSeeks

Max(a, b) == IF a > b THEN a ELSE b

-----------------------------------------------------------------------------
(* What one more record makes of the committed state.                      *)

RECURSIVE Normal(_, _)
Normal(low, done) ==          \* the mark moves over what is done right above it
    IF low + 1 \in done
    THEN Normal(low + 1, done)
    ELSE [low |-> low, done |-> {p \in done : p > low}]

Join(state, record) ==
    LET merged == Normal(Max(state.low, record.low), state.done \cup record.done)
    IN  [state EXCEPT !.low = merged.low, !.done = merged.done]

Step(state, record) ==
    CASE record.kind = "ack" ->
            IF record.generation = state.generation THEN Join(state, record) ELSE state
      [] record.kind = "own" ->               \* a Seal: only of the open segment
            IF record.from # state.owner THEN state
            ELSE LET next == [state EXCEPT !.owner = @ + 1, !.handed = record.out]
                 IN  IF record.generation = state.generation THEN Join(next, record) ELSE next
      [] record.kind = "seek" ->              \* compare-and-set, by the generation
            IF record.generation = state.generation
            THEN [state EXCEPT !.generation = @ + 1, !.low = record.to, !.done = {}, !.base = record.to]
            ELSE state

\* `base`: where the last SEEK went; `handed`: what the last Seal handed on.
Beginning == [generation |-> 0, low |-> 0, done |-> {}, owner |-> 1, base |-> 0, handed |-> {}]

Committed == history[Len(history)]
View(o) == history[view[o]]
Of(o, S) == {x[2] : x \in {y \in S : y[1] = View(o).generation}}   \* those of o's generation

IsDone(state, p) == p <= state.low \/ p \in state.done

\* The lease is answered: what was committed when it was asked for is applied here.
Serves(o) == lease[o] # 0 /\ view[o] >= lease[o] /\ View(o).owner = o

\* Whether o may serve some day with the question that it has asked: it was the owner then.
MayServe(o) == lease[o] # 0 /\ history[lease[o]].owner = o

-----------------------------------------------------------------------------
Init ==
    /\ history = <<Beginning>> /\ seals = {}
    /\ view = [o \in Owners |-> 1]
    /\ lease = [o \in Owners |-> 0]
    /\ sealing = [o \in Owners |-> FALSE]
    /\ out = [o \in Owners |-> {}] /\ noted = [o \in Owners |-> {}]
    /\ held = {} /\ finished = {} /\ dead = {} /\ promised = {} /\ redelivered = FALSE

(* Consumers.                                                              *)

CanHandOut(o, p) ==
    /\ Serves(o)
    /\ ~sealing[o]
    /\ ~IsDone(View(o), p)
    /\ <<View(o).generation, p>> \notin noted[o] \cup out[o]
    /\ p <= View(o).low + Window

\* RECEIVE: the owner hands out an entry that is neither done nor out.
Receive(o, p) ==
    LET delivery == <<View(o).generation, p>> IN
    /\ CanHandOut(o, p)
    /\ out' = [out EXCEPT ![o] = @ \cup {delivery}]
    /\ held' = held \cup {delivery}
    /\ redelivered' = (redelivered \/ (/\ delivery \in promised
                                       /\ delivery[1] = Committed.generation))
    /\ UNCHANGED <<history, seals, ownerVars, noted, finished, dead, promised>>

\* The visibility timeout ends, the consumer gives it back, or its connection is gone.
Return(o) ==
    \E delivery \in out[o] :
        /\ out' = [out EXCEPT ![o] = @ \ {delivery}]
        /\ UNCHANGED <<history, seals, ownerVars, noted, held, finished, dead, promised, redelivered>>

\* A consumer acknowledges what it had, at a node that believes to be the owner.
AckEntry(o, p) ==
    LET delivery == <<View(o).generation, p>> IN
    /\ View(o).owner = o
    /\ delivery \in held
    /\ delivery \notin noted[o]
    /\ noted' = [noted EXCEPT ![o] = @ \cup {delivery}]
    /\ out' = [out EXCEPT ![o] = @ \ {delivery}]
    /\ finished' = finished \cup {delivery}
    /\ UNCHANGED <<history, seals, ownerVars, held, dead, promised, redelivered>>

\* An entry that was handed out too often: appended to the dead-letter topic first.
AppendDead(o, p) ==
    /\ DeadLetters
    /\ <<View(o).generation, p>> \in out[o]
    /\ p \notin dead
    /\ Serves(o)
    /\ dead' = dead \cup {p}
    /\ UNCHANGED <<history, seals, ownerVars, out, noted, held, finished, promised, redelivered>>

\* Then it is done for the group: twice in the dead-letter topic is possible, lost is not.
NoteDead(o, p) ==
    LET delivery == <<View(o).generation, p>> IN
    /\ DeadLetters
    /\ delivery \in out[o]
    /\ p \in dead
    /\ noted' = [noted EXCEPT ![o] = @ \cup {delivery}]
    /\ out' = [out EXCEPT ![o] = @ \ {delivery}]
    /\ UNCHANGED <<history, seals, ownerVars, held, finished, dead, promised, redelivered>>

(* Owners and Raft.                                                        *)

\* A record that changes nothing is left out: no view can tell.
Commit(record) ==
    /\ Len(history) <= MaxRecords
    /\ Step(Committed, record) # Committed
    /\ history' = Append(history, Step(Committed, record))
    /\ UNCHANGED <<ownerVars, consumerVars>>

Acknowledged(generation, done) == [kind |-> "ack", generation |-> generation, low |-> 0, done |-> done]

\* Raft commits some of what an owner has proposed of its ACKs.
CommitGroup(o, generation) ==
    \E done \in SUBSET {p \in Pos : <<generation, p>> \in noted[o]} :
        /\ done # {}
        /\ Commit(Acknowledged(generation, done))
        /\ UNCHANGED seals

\* A consumer, or an operator, moves the group. Any node may propose it.
Seek(to) ==
    /\ Committed.generation < MaxSeeks
    /\ Commit([kind |-> "seek", generation |-> Committed.generation, to |-> to])
    /\ UNCHANGED seals

\* An owner that is about to roll over hands out nothing more.
BeginSeal(o) ==
    /\ o < MaxOwners
    /\ View(o).owner = o
    /\ ~sealing[o]
    /\ sealing' = [sealing EXCEPT ![o] = TRUE]
    /\ UNCHANGED <<history, seals, view, lease, consumerVars>>

\* A healthy rollover: the Seal carries what is done and what is out.
ProposeSeal(o) ==
    /\ sealing[o]
    /\ View(o).owner = o
    /\ seals' = seals \cup
           {[kind |-> "own", from |-> o, generation |-> View(o).generation, low |-> View(o).low,
             done |-> View(o).done \cup Of(o, noted[o]), out |-> out[o]]}
    /\ UNCHANGED <<history, ownerVars, consumerVars>>

\* Raft commits it: the next owner begins with what it hands on.
SealWithGroups(o) ==
    \E seal \in seals :
        /\ seal.from = o
        /\ Commit(seal)
        /\ UNCHANGED seals

\* A failover: a recovery seals the segment; what was volatile at the owner is lost.
RecoverySeal(o) ==
    /\ Committed.owner = o
    /\ o < MaxOwners
    /\ Commit([kind |-> "own", from |-> o, generation |-> Committed.generation,
               low |-> 0, done |-> {}, out |-> {}])
    /\ UNCHANGED seals

\* A node applies the next record; a new owner takes over what the Seal handed on.
Apply(o) ==
    /\ view[o] < Len(history)
    /\ view' = [view EXCEPT ![o] = @ + 1]
    /\ LET after == history[view[o] + 1]
       IN  out' = [out EXCEPT ![o] =
               IF after.owner = o /\ View(o).owner # o THEN after.handed ELSE @]
    /\ UNCHANGED <<history, seals, lease, sealing, noted, held, finished, dead, promised, redelivered>>

\* An owner asks for its lease, once each earlier owner has certainly ended: its lease is over, or it is
\* sealing, or its question came too late to make it an owner.
AskForLease(o) ==
    /\ lease[o] = 0
    /\ View(o).owner = o
    /\ \A other \in Owners \ {o} : sealing[other] \/ ~MayServe(other)
    /\ lease' = [lease EXCEPT ![o] = Len(history)]
    /\ UNCHANGED <<history, seals, view, sealing, consumerVars>>

\* It ends at any time, before it is answered, too.
LoseLease(o) ==
    /\ lease[o] # 0
    /\ lease' = [lease EXCEPT ![o] = 0]
    /\ UNCHANGED <<history, seals, view, sealing, consumerVars>>

\* OK to the ACKs that are committed in the owner's own view, while it holds the lease.
Answer(o) ==
    LET ready == {d \in noted[o] : d[1] = View(o).generation /\ IsDone(View(o), d[2])} IN
    /\ Serves(o)
    /\ ~(ready \subseteq promised)
    /\ promised' = promised \cup (ready \cap finished)
    /\ UNCHANGED <<history, seals, ownerVars, out, noted, held, finished, dead, redelivered>>

Next ==
    \/ \E o \in Owners, p \in Pos : Receive(o, p)
    \/ \E o \in Owners : Return(o)
    \/ \E o \in Owners, p \in Pos : AckEntry(o, p)
    \/ \E o \in Owners, p \in Pos : AppendDead(o, p)
    \/ \E o \in Owners, p \in Pos : NoteDead(o, p)
    \/ \E o \in Owners, generation \in Generations : CommitGroup(o, generation)
    \/ \E to \in 0..Entries : Seek(to)
    \/ \E o \in Owners : BeginSeal(o)
    \/ \E o \in Owners : ProposeSeal(o)
    \/ \E o \in Owners : SealWithGroups(o)
    \/ \E o \in Owners : RecoverySeal(o)
    \/ \E o \in Owners : Apply(o)
    \/ \E o \in Owners : AskForLease(o)
    \/ \E o \in Owners : LoseLease(o)
    \/ \E o \in Owners : Answer(o)

Spec == Init /\ [][Next]_vars

-----------------------------------------------------------------------------
(* What must always hold. Names as in the simulator and the tests.         *)

TypeOK ==
    /\ Len(history) <= MaxRecords + 1
    /\ \A o \in Owners : view[o] <= Len(history) /\ lease[o] <= Len(history) /\ out[o] \subseteq held
    /\ promised \subseteq finished /\ finished \subseteq held
    /\ Committed.owner \in Owners

\* After OK to an ACK the group never gets the entry again (unless a SEEK says so).
AckedNotRedelivered == ~redelivered

\* Each entry below the mark, or done above it, was acknowledged by a consumer, dead-lettered, or
\* passed over by a SEEK.
NothingSkipped ==
    \A p \in Pos : (p > Committed.base /\ IsDone(Committed, p)) =>
        <<Committed.generation, p>> \in finished \/ p \in dead

\* At most `Window` entries are out, each within the window above the mark.
OutIsBounded ==
    \A o \in Owners : \A p \in Of(o, out[o]) : p <= View(o).low + Window

\* A healthy rollover forgets nothing that is out, so it redelivers nothing.
SealHandsOn ==
    \A seal \in seals : {d \in out[seal.from] : d[1] = seal.generation} \subseteq seal.out

\* What was promised is committed.
PromisedIsCommitted ==
    \A d \in promised : d[1] = Committed.generation => IsDone(Committed, d[2])

\* The mark of a generation never falls, and what is done stays done.
MarkOnlyRises ==
    [][\/ Committed'.generation # Committed.generation
       \/ \A p \in Pos : IsDone(Committed, p) => IsDone(Committed', p)]_vars

-----------------------------------------------------------------------------
(* Statements that a configuration must violate, or it never gets there.   *)

\* An entry is out at one owner while an earlier one still has it out.
ProbeRedelivery ==
    \A o, other \in Owners : o # other => out[o] \cap out[other] \cap held = {}

\* An owner that does not know its end yet still holds a lease.
ProbeStaleOwner == \A o \in Owners : Serves(o) => Committed.owner = o

\* A successor serves while its predecessor, which sealed, does so too.
ProbeServesAtOnce == \A o, other \in Owners : Serves(o) /\ Serves(other) => o = other

\* A later entry is done before an earlier one.
ProbeHole == Committed.done = {}

\* A group goes back to what was promised.
ProbeGoesBack == \A d \in promised : d[1] = Committed.generation \/ d[2] <= Committed.base

\* A Seal hands on an entry that is out.
ProbeHandedOn == Committed.handed = {}

\* An entry is given up.
ProbeGivenUp == \A p \in dead : ~IsDone(Committed, p)

-----------------------------------------------------------------------------
(* A bound for what would be too wide: no node lags by more than one record.                            *)
KeepsUp == \A o \in Owners : view[o] + 1 >= Len(history)

-----------------------------------------------------------------------------
(* Liveness: once faults stop, consumers that acknowledge finish the queue. The budgets of owners and   *)
(* seeks are finite, so from some point on there is one owner. It keeps the lease from then on: to lose *)
(* it is a fault, and only an owner that is none any more must lose it.                                 *)

Deposed(o) == LoseLease(o) /\ Committed.owner # o

LiveNext ==
    \/ \E o \in Owners, p \in Pos : Receive(o, p)
    \/ \E o \in Owners : Return(o)
    \/ \E o \in Owners, p \in Pos : AckEntry(o, p)
    \/ \E o \in Owners, generation \in Generations : CommitGroup(o, generation)
    \/ \E o \in Owners : BeginSeal(o)
    \/ \E o \in Owners : ProposeSeal(o)
    \/ \E o \in Owners : SealWithGroups(o)
    \/ \E o \in Owners : RecoverySeal(o)
    \/ \E o \in Owners : Apply(o)
    \/ \E o \in Owners : AskForLease(o)
    \/ \E o \in Owners : Deposed(o)
    \/ \E o \in Owners : Answer(o)

\* Raft commits all that an owner has proposed.
CommitAll(o, generation) ==
    /\ Commit(Acknowledged(generation, {p \in Pos : <<generation, p>> \in noted[o]}))
    /\ UNCHANGED seals

Fairness ==
    /\ \A o \in Owners :
          /\ WF_vars(Apply(o)) /\ WF_vars(AskForLease(o)) /\ WF_vars(Deposed(o))
          /\ WF_vars(\E generation \in Generations : CommitAll(o, generation))
          /\ WF_vars(ProposeSeal(o) /\ seals' # seals) /\ WF_vars(SealWithGroups(o))
          /\ \A p \in Pos : SF_vars(Receive(o, p)) /\ SF_vars(AckEntry(o, p))

LiveSpec == Init /\ [][LiveNext]_vars /\ Fairness

EveryEntryAcked == <>[](Committed.low = Entries)
=============================================================================
