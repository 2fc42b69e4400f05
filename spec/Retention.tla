------------------------------ MODULE Retention ------------------------------
(***************************************************************************)
(* Retention, deletion and registration anew, for one topic name: sealed   *)
(* segments are dropped from the head (Trim), a topic is deleted with all  *)
(* it has (Delete), and a topic of the same name is registered later.      *)
(*                                                                         *)
(* What this module builds on, and how it refines it. Walrus.tla gives a   *)
(* topic its segments 1, 2, 3, ..., of which only the last is open, and    *)
(* Raft.tla the one order of committed commands. A *life* of a name is one *)
(* topic of Walrus.tla: segment n of a life that was born at number b is   *)
(* segment n - b + 1 of that topic, and a Seal here is a Seal there. Trim  *)
(* hides what is below `first` and changes nothing above. So with Trim and *)
(* Delete left out each behaviour is one of Walrus.tla's metadata. Marks   *)
(* and generations of a group are those of Delivery.tla, one entry to a    *)
(* segment, so that a mark is a segment number.                            *)
(*                                                                         *)
(* Numbers are never used twice. A life leaves a tombstone: the number at  *)
(* which the next one is born. So the number in a frame, a receipt or a    *)
(* proposal says which life it belongs to, however late it comes, and no   *)
(* message needs another field.                                            *)
(*                                                                         *)
(* A DELETE only marks the life (`deleting`). What ends it is the Seal of  *)
(* its open segment, as at any rollover or failover: that Seal opens no    *)
(* next segment, and leaves the tombstone. So a writer that has not heard  *)
(* of the deletion needs no care of its own. Walrus.tla shows what is used *)
(* here: a Seal is proposed once the writer has stopped (its ProposeSeal), *)
(* or a majority of the copies is fenced (its Fence), and no entry that is *)
(* sent later is acknowledged in that segment. Stop is either of the two.  *)
(* Put is a LeaderAppend and its Ack in one: an entry comes to a writer    *)
(* that has not stopped, however far behind that is, and is acknowledged.  *)
(* (What came before Stop may be acknowledged later, even after the end:   *)
(* its PUT overlapped the DELETE.) DELETE is answered once the life has    *)
(* ended. REGISTER may be asked for before that, since no number is given  *)
(* any more; it commits only then.                                         *)
(*                                                                         *)
(* Raft commits a proposal at any later time, again, or never. So whatever *)
(* is proposed stays proposed (`asked`), and what keeps a late one from    *)
(* doing harm is a comparison where it is applied. Trim may be proposed    *)
(* with any numbers at all: who plans it needs no care, only apply does.   *)
(*                                                                         *)
(* Left out: why a segment is trimmed (entries, bytes, age: a decision of  *)
(* the Raft leader that safety does not rest on), several groups, readers  *)
(* of trimmed segments (they get an error or the entry, both are true),    *)
(* and the leases of those that hand out entries (Delivery.tla has them).  *)
(***************************************************************************)
EXTENDS Naturals, Sequences, FiniteSets, TLC

CONSTANTS
    MaxNumber,        \* segments of all lives together
    MaxLives,         \* how often the name is registered
    MaxSeeks,         \* SEEKs that are asked for
    MaxLag,           \* committed commands that the replica has not applied
    Protect           \* the setting protect_groups

VARIABLES
    history,          \* the state that the replica has applied, and those committed since, in order
    asked,            \* commands that clients have asked for: committed at any later time, or never
    frames,           \* frames on their way: they name a segment, and PROOF the life they are of
    copy,             \* copy[n]: the life whose entry the replica's copy of segment n holds; 0: none
    stopped,          \* segments whose writer has stopped for good, or of whose copies a majority is fenced
    sealed,           \* PROOF numbers of segments that were ever sealed
    trimmed,          \* PROOF numbers of segments that were ever trimmed
    gone,             \* PROOF numbers of segments that went with their topic
    missed,           \* PROOF segments that were trimmed before the group was done with them
    misled,           \* PROOF a command changed another life than the one it was asked for
    lost              \* PROOF an entry is acknowledged in a segment that had gone when it was sent

vars == <<history, asked, frames, copy, stopped, sealed, trimmed, gone, missed, misled, lost>>
proof == <<sealed, trimmed, missed, misled, lost>>

Numbers == 1..MaxNumber
Max(a, b) == IF a > b THEN a ELSE b

Committed == history[Len(history)]
View == history[1]
IsThere(state) == state.first # 0
Retained(state) == IF IsThere(state) THEN state.first..state.current ELSE {}
Opened(state) == 1..(IF IsThere(state) THEN state.current ELSE state.next - 1)

\* `first` is 0 while there is no topic; `next`: the tombstone, where the next life is born.
Beginning == [life |-> 0, born |-> 0, first |-> 0, current |-> 0, next |-> 1, deleting |-> FALSE,
              mark |-> 0, generation |-> 0, skipped |-> 0]

-----------------------------------------------------------------------------
(* What a command makes of the committed state. One that compares and does *)
(* not find what it was made for changes nothing.                          *)

Registered(state, command) ==
    IF ~IsThere(state) /\ command.number = state.next
    THEN [state EXCEPT !.life = @ + 1, !.born = state.next, !.first = state.next, !.current = state.next,
                       !.mark = state.next, !.generation = 0, !.skipped = 0]
    ELSE state

\* The end of a topic that is to be deleted is the Seal of its open segment.
Ended(state) == [state EXCEPT !.first = 0, !.next = state.current + 1, !.deleting = FALSE]

SealedOne(state, number) ==
    IF IsThere(state) /\ number = state.current
    THEN IF state.deleting THEN Ended(state) ELSE [state EXCEPT !.current = @ + 1]
    ELSE state

MayTrim(state, from, first) ==
    /\ IsThere(state)
    /\ from = state.first
    /\ from < first
    /\ first <= state.current                       \* the open segment stays
    /\ ~Protect \/ first <= state.mark              \* looked at here, where no SEEK can come between

TrimmedTo(state, from, first) ==
    IF MayTrim(state, from, first)
    THEN [state EXCEPT !.first = first,
                       !.mark = Max(@, first),
                       !.skipped = @ + (Max(state.mark, first) - state.mark)]
    ELSE state

\* A mark, and no more: its writer may not have heard of that.
Deleted(state, command) ==
    IF IsThere(state) /\ command.number = state.born
    THEN [state EXCEPT !.deleting = TRUE]
    ELSE state

\* A SEEK to what is trimmed goes to the first segment there is; one of an earlier life goes nowhere.
Moved(state, command) ==
    IF IsThere(state) /\ command.generation = state.generation /\ command.number >= state.born
    THEN [state EXCEPT !.generation = @ + 1, !.mark = Max(command.number, state.first)]
    ELSE state

Step(state, command) ==
    CASE command.kind = "register" -> Registered(state, command)
      [] command.kind = "delete" -> Deleted(state, command)
      [] command.kind = "seek" -> Moved(state, command)

-----------------------------------------------------------------------------
Init ==
    /\ history = <<Beginning>>
    /\ asked = {} /\ frames = {}
    /\ copy = [n \in Numbers |-> 0]
    /\ stopped = {}
    /\ sealed = {} /\ trimmed = {} /\ gone = {} /\ missed = {} /\ misled = FALSE /\ lost = FALSE

(* Clients ask. `life` is a PROOF field: the life that the client meant.   *)

Ask(command) ==
    /\ command \notin asked
    /\ asked' = asked \cup {command}
    /\ UNCHANGED <<history, frames, copy, stopped, gone, proof>>

\* REGISTER names the number that the life is to be born with: the tombstone, or what it will be.
AskToRegister ==
    LET number == IF IsThere(Committed) THEN Committed.current + 1 ELSE Committed.next IN
    /\ ~IsThere(Committed) \/ Committed.deleting
    /\ Committed.life < MaxLives
    /\ number <= MaxNumber
    /\ Ask([kind |-> "register", number |-> number, generation |-> 0, life |-> Committed.life + 1])

\* DELETE names the number that the life was born with.
AskToDelete ==
    /\ IsThere(Committed)
    /\ Ask([kind |-> "delete", number |-> Committed.born, generation |-> 0, life |-> Committed.life])

\* SEEK names a place, and the generation that it is to end.
AskToSeek ==
    \E to \in Retained(Committed) :
        /\ Cardinality({c \in asked : c.kind = "seek"}) < MaxSeeks
        /\ Ask([kind |-> "seek", number |-> to, generation |-> Committed.generation,
                 life |-> Committed.life])

(* Raft commits. From then on there are frames of the open segment, and they stay on their way. A topic *)
(* that ends takes with it all that it had.                                                             *)

Become(state) ==
    /\ state # Committed
    /\ Len(history) <= MaxLag
    /\ history' = Append(history, state)
    /\ frames' = frames \cup
           IF IsThere(state) THEN {[number |-> state.current, life |-> state.life]} ELSE {}
    /\ gone' = gone \cup IF IsThere(state) /\ state.life = Committed.life THEN {} ELSE Retained(Committed)
    /\ UNCHANGED <<asked, copy, stopped>>

\* What a client has asked for, at any later time, and again.
CommitAsked ==
    \E command \in asked :
        LET after == Step(Committed, command) IN
        /\ Become(after)
        /\ misled' = (misled \/ after.life # command.life)
        /\ UNCHANGED <<sealed, trimmed, missed, lost>>

\* The open segment is sealed, and the next one opens; or the topic ends with it.
Seal ==
    /\ IsThere(Committed)
    /\ Committed.current \in stopped
    /\ Committed.deleting \/ Committed.current < MaxNumber
    /\ Become(SealedOne(Committed, Committed.current))
    /\ sealed' = sealed \cup {Committed.current}
    /\ UNCHANGED <<trimmed, missed, misled, lost>>

\* The group is done with its next segment.
Acknowledge ==
    /\ IsThere(Committed)
    /\ Committed.mark < Committed.current
    /\ Become([Committed EXCEPT !.mark = @ + 1])
    /\ UNCHANGED proof

\* Proposed by a Raft leader that may know little: with any numbers.
Trim(from, first) ==
    LET after == TrimmedTo(Committed, from, first)
        dropped == Retained(Committed) \ Retained(after) IN
    /\ Become(after)
    /\ trimmed' = trimmed \cup dropped
    /\ missed' = missed \cup {n \in dropped : n >= Committed.mark}
    /\ UNCHANGED <<sealed, misled, lost>>

(* Writers. What one has applied is not asked: it may be behind, or cut off with a valid lease.         *)

\* The writer of a segment stops for good, or a majority of its copies is fenced.
Stop ==
    \E n \in Opened(Committed) \ stopped :
        /\ stopped' = stopped \cup {n}
        /\ UNCHANGED <<history, asked, frames, copy, gone, proof>>

\* An entry is sent to one that has not, and will be acknowledged.
Put ==
    \E n \in Opened(Committed) \ stopped :
        /\ lost' = (lost \/ n \in gone)
        /\ UNCHANGED <<history, asked, frames, copy, stopped, gone, sealed, trimmed, missed, misled>>

(* A replica.                                                              *)

\* The replica takes a frame of a segment that is open in its view.
Take ==
    \E frame \in frames :
        /\ IsThere(View)
        /\ frame.number = View.current
        /\ copy[frame.number] = 0
        /\ copy' = [copy EXCEPT ![frame.number] = frame.life]
        /\ UNCHANGED <<history, asked, frames, stopped, gone, proof>>

\* It applies the next command, and gives back the space of what is retained no more.
Apply ==
    /\ Len(history) > 1
    /\ history' = Tail(history)
    /\ copy' = [n \in Numbers |-> IF n \in Retained(history[2]) THEN copy[n] ELSE 0]
    /\ UNCHANGED <<asked, frames, stopped, gone, proof>>

Next ==
    \/ AskToRegister
    \/ AskToDelete
    \/ AskToSeek
    \/ CommitAsked
    \/ Seal
    \/ Acknowledge
    \/ \E from, first \in Numbers \cup {MaxNumber + 1} : Trim(from, first)
    \/ Stop
    \/ Put
    \/ Take
    \/ Apply

Spec == Init /\ [][Next]_vars

-----------------------------------------------------------------------------
(* What must always hold. Names as in the simulator and the tests.         *)

TypeOK ==
    /\ Len(history) <= MaxLag + 1
    /\ copy \in [Numbers -> 0..MaxLives]
    /\ Committed.life <= MaxLives

\* Only sealed segments are ever trimmed.
TrimmedIsSealed == trimmed \subseteq sealed

\* What was trimmed, or went with its topic, is never there again.
TrimmedStaysTrimmed == (trimmed \cup gone) \cap Retained(Committed) = {}

\* No entry is acknowledged in a topic that was gone when it was sent.
NoAckAfterDelete == ~lost

\* With protect_groups nothing is trimmed that a group is not done with.
ProtectedUntilAcked == Protect => missed = {}

\* Without it, what a group misses is counted.
SkippedIsCounted ==
    IsThere(Committed) => Committed.skipped = Cardinality({n \in missed : n >= Committed.born})

\* A group stands where there is something to read, or will be.
MarkInBounds == IsThere(Committed) => Committed.mark \in Retained(Committed)

\* Every entry in a copy is of the topic that the replica knows.
NoFrameOfAnOldTopic == \A n \in Numbers : copy[n] # 0 => copy[n] = View.life

\* A copy that is not retained takes no room.
SpaceIsGivenBack == \A n \in Numbers : copy[n] # 0 => n \in Retained(View)

\* A late DELETE, REGISTER or SEEK changes no later topic of that name.
OnlyWhatWasMeant == ~misled

-----------------------------------------------------------------------------
(* Statements that a configuration must violate, or it never gets there.   *)

ProbeTrims == trimmed = {}
ProbeSecondLife == Committed.life < 2 \/ ~IsThere(Committed)
ProbeMissed == missed = {}
ProbeOldFrame == \A frame \in frames : frame.life = Committed.life \/ ~IsThere(Committed)
-----------------------------------------------------------------------------
(* Liveness. The limit is so low that every sealed segment is over it. A Raft leader that stays knows   *)
(* what is committed, and plans with it (walrus/broker/retention.py): with protect_groups no further    *)
(* than the group is. What was proposed is committed, the replica applies it, and a group that protects *)
(* a topic gets on; without the setting it need not. Of a topic that is to be deleted the writer stops, *)
(* or a recovery fences its copies, and the Seal is committed. Clients need ask for nothing, and other  *)
(* Seals need not happen.                                                                               *)

TrimPlanned ==
    /\ IsThere(Committed)
    /\ Trim(Committed.first, IF Protect THEN Committed.mark ELSE Committed.current)

Fairness ==
    /\ WF_vars(TrimPlanned)
    /\ WF_vars(Protect /\ Acknowledge)
    /\ WF_vars(CommitAsked)
    /\ WF_vars(Committed.deleting /\ Stop)
    /\ WF_vars(Committed.deleting /\ Seal)
    /\ WF_vars(Apply)

LiveSpec == Spec /\ Fairness

\* What is over the limit is trimmed, as soon as the group allows it.
OverLimitIsTrimmed == []<>(Committed.first # 0 => Committed.first = Committed.current)

\* A topic is deleted if someone asked for that.
DeletedInTheEnd ==
    []<>~(IsThere(Committed) /\ \E c \in asked : c.kind = "delete" /\ c.life = Committed.life)

\* What was trimmed, or went with its topic, takes no room in the end, and never again.
RoomComesBack == <>[](\A n \in trimmed \cup gone : copy[n] = 0)
=============================================================================
