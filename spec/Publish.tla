------------------------------ MODULE Publish ------------------------------
(***************************************************************************)
(* Exactly-once appends: PUB <topic> <producer> <sequence> <payload>. A    *)
(* producer numbers its entries 0, 1, 2, ... and sends one as often as it  *)
(* likes, until it is answered OK; the topic has it once.                  *)
(*                                                                         *)
(* The writer of the open segment keeps a table: the last number of each   *)
(* producer, and where that entry ends. It appends the number that comes   *)
(* next, answers one that it has had before, once that is acknowledged,    *)
(* and refuses one that leaves a gap.                                      *)
(*                                                                         *)
(* Where the table comes from. Each entry in the log has its stamp, the    *)
(* producer and the number, so a log says its table. A healthy Seal hands  *)
(* on the writer's; a recovery computes it from what it keeps, all of it   *)
(* and nothing more: with less, an entry that was kept would be appended   *)
(* again; with more, one that was lost would be answered OK.               *)
(*                                                                         *)
(* The table is bounded. A producer may be dropped from it once nothing of *)
(* it is under way any more; the code waits for an hour without it. If a   *)
(* recovery brings it back, no harm is done: a dropped producer does not   *)
(* begin again under its name.                                             *)
(*                                                                         *)
(* What this module builds on. Walrus.tla shows that a recovery keeps what *)
(* is acknowledged, and that a former writer acknowledges nothing: here a  *)
(* segment ends in one step. A former writer may still answer.             *)
(*                                                                         *)
(* The network delays, repeats, loses and reorders: what was sent may      *)
(* arrive at any later time, at any writer, any number of times.           *)
(*                                                                         *)
(* Left out: time, the way from the client to the writer (Order.tla), and  *)
(* entries without a stamp, which concern no table.                        *)
(***************************************************************************)
EXTENDS Naturals, Sequences, FiniteSets, TLC

CONSTANTS
    Producers,        \* their names
    Entries,          \* each has entries 0, 1, ..., Entries - 1
    MaxSegments,
    MaxDrops          \* how many producers are dropped from a table

VARIABLES
    dropped,          \* producers of which nothing is under way any more, nor ever will be
    answered,         \* {<<p, n>>} answered OK
    opened,           \* how many segments there are; the last one is open
    log,              \* log[s]: the stamps <<p, n>> of what its writer appended
    acked,            \* acked[s]: of that, so much is acknowledged
    count,            \* count[s]: of a sealed segment, or NoCount
    begun,            \* begun[s][p]: what the Seal of the segment before s says of p
    table             \* table[s][p]: what the writer of s knows of p

vars == <<dropped, answered, opened, log, acked, count, begun, table>>

-----------------------------------------------------------------------------
Segments == 1..MaxSegments
Stamps == Producers \X (0..Entries - 1)
NoCount == Cardinality(Producers) * Entries + 1

\* The number that comes next, and where the last entry ends.
Unknown == [next |-> 0, segment |-> 0, end |-> 0]
EmptyTable == [p \in Producers |-> Unknown]

\* The table after the stamps of segment s, from number i on.
RECURSIVE TableAfter(_, _, _, _)
TableAfter(known, s, stamps, i) ==
    IF i > Len(stamps) THEN known
    ELSE TableAfter([known EXCEPT ![stamps[i][1]] = [next |-> stamps[i][2] + 1, segment |-> s, end |-> i]],
                    s, stamps, i + 1)

\* All that a producer sends is under way from the beginning: it may arrive late, and before what it follows.
UnderWay(f) == f[1] \notin dropped

Init ==
    /\ dropped = {}
    /\ answered = {}
    /\ opened = 1
    /\ log = [s \in Segments |-> <<>>]
    /\ acked = [s \in Segments |-> 0]
    /\ count = [s \in Segments |-> NoCount]
    /\ begun = [s \in Segments |-> EmptyTable]
    /\ table = [s \in Segments |-> EmptyTable]

-----------------------------------------------------------------------------
\* The writer of the open segment appends what comes next; a producer that it does not know begins with 0.
PubAppend(f) ==
    LET s == opened
        known == table[s][f[1]]
    IN
    /\ UnderWay(f)
    /\ f[2] = known.next
    /\ log' = [log EXCEPT ![s] = Append(@, f)]
    /\ table' = [table EXCEPT ![s][f[1]] = [next |-> f[2] + 1, segment |-> s, end |-> Len(log[s]) + 1]]
    /\ UNCHANGED <<dropped, answered, opened, acked, count, begun>>

\* A writer, a former one too, has had it before, and all of that producer's entries are acknowledged.
Repeat(s, f) ==
    LET known == table[s][f[1]] IN
    /\ s <= opened
    /\ UnderWay(f)
    /\ f \notin answered
    /\ f[2] < known.next
    /\ known.segment = s => known.end <= acked[s]
    /\ answered' = answered \cup {f}
    /\ UNCHANGED <<dropped, opened, log, acked, count, begun, table>>

\* A majority has so much: what was appended up to there is answered.
Ack(n) ==
    LET s == opened IN
    /\ acked[s] < n
    /\ n <= Len(log[s])
    /\ acked' = [acked EXCEPT ![s] = n]
    /\ answered' = answered \cup {log[s][i] : i \in 1..n}
    /\ UNCHANGED <<dropped, opened, log, count, begun, table>>

\* The open segment is sealed at n entries, and the next one begins with this table.
Ended(n, known) ==
    /\ count' = [count EXCEPT ![opened] = n]
    /\ opened' = opened + 1
    /\ begun' = [begun EXCEPT ![opened + 1] = known]
    /\ table' = [table EXCEPT ![opened + 1] = known]

\* A healthy rollover: all is acknowledged, and the Seal carries the writer's table.
SealWithTable ==
    LET s == opened IN
    /\ s < MaxSegments
    /\ acked[s] = Len(log[s])
    /\ Ended(Len(log[s]), table[s])
    /\ UNCHANGED <<dropped, answered, log, acked>>

\* A recovery keeps n entries, and the table is what they say. A producer that the writer had dropped may
\* be back in it: what the segment began with knew it.
RecoverWithTable(n) ==
    LET s == opened IN
    /\ s < MaxSegments
    /\ acked[s] <= n
    /\ n <= Len(log[s])
    /\ Ended(n, TableAfter(begun[s], s, SubSeq(log[s], 1, n), 1))
    /\ UNCHANGED <<dropped, answered, log, acked>>

\* A producer that has been idle for so long that nothing of it is under way, whatever was answered.
Drop(p) ==
    /\ Cardinality(dropped) < MaxDrops
    /\ table[opened][p] # Unknown
    /\ dropped' = dropped \cup {p}
    /\ table' = [table EXCEPT ![opened][p] = Unknown]
    /\ UNCHANGED <<answered, opened, log, acked, count, begun>>

Next ==
    \/ \E f \in Stamps : PubAppend(f)
    \/ \E s \in Segments, f \in Stamps : Repeat(s, f)
    \/ \E n \in 1..NoCount : Ack(n)
    \/ SealWithTable
    \/ \E n \in 0..NoCount : RecoverWithTable(n)
    \/ \E p \in Producers : Drop(p)

Spec == Init /\ [][Next]_vars

-----------------------------------------------------------------------------
(* What must always hold. Names as in the simulator and the tests.         *)

TypeOK ==
    /\ \A s \in Segments : acked[s] <= Len(log[s]) /\ Len(log[s]) < NoCount
    /\ answered \subseteq Stamps
    /\ dropped \subseteq Producers

RECURSIVE OrderFrom(_)
OrderFrom(s) ==
    IF s > opened THEN <<>>
    ELSE SubSeq(log[s], 1, IF count[s] = NoCount THEN Len(log[s]) ELSE count[s]) \o OrderFrom(s + 1)

Kept == {OrderFrom(1)[i] : i \in 1..Len(OrderFrom(1))}

\* Each number of a producer is in the topic at most once.
NoDuplicateAppend == Len(OrderFrom(1)) = Cardinality(Kept)

\* What was answered OK, the first time or as a repetition, is acknowledged: it stays, whatever happens.
RepeatOkImpliesAcked ==
    \A f \in answered : \E s \in 1..opened :
        \E i \in 1..(IF count[s] = NoCount THEN acked[s] ELSE count[s]) : log[s][i] = f

\* A producer's entries are in the topic in the order of their numbers, and none is left out.
NumbersWithoutGap ==
    LET order == OrderFrom(1) IN
    \A i \in 1..Len(order) :
        order[i][2] > 0 => \E j \in 1..(i - 1) : order[j] = <<order[i][1], order[i][2] - 1>>

\* A bound for what would be too wide: an entry or two in each segment, and few that recoveries lose.
Short == \A s \in Segments : Len(log[s]) <= 2
\* Producers that do the same are interchangeable.
Symmetry == Permutations(Producers)

-----------------------------------------------------------------------------
\* Probes: each must be violated, or the spec cannot do what it is about.
ProbeRepeatAfterRecovery ==
    \A f \in answered, s \in Segments :
        ~(count[s] # NoCount /\ \E i \in acked[s] + 1..count[s] : log[s][i] = f)
ProbeLostAndSentAgain ==
    \A s \in Segments : count[s] = NoCount \/ \A i \in count[s] + 1..Len(log[s]) : log[s][i] \notin answered
ProbeDroppedComesBack == \A p \in dropped : table[opened][p] = Unknown
-----------------------------------------------------------------------------
(* Liveness: a PUB that is repeated is answered, once segments stop changing hands (there are so many   *)
(* of them). A producer sends what has no answer again and again, so it arrives at the writer of the    *)
(* open segment, which appends it, or has had it before. Seals, recoveries and drops need not happen. A *)
(* producer is dropped after an hour of silence, so it waits for no answer.                             *)

Arrive(f) == PubAppend(f) \/ Repeat(opened, f)

Fairness ==
    /\ \A f \in Stamps : WF_vars(Arrive(f))
    /\ WF_vars(\E n \in 1..NoCount : Ack(n))

LiveSpec == Spec /\ Fairness

EveryPubAnswered == \A f \in Stamps : <>(f \in answered \/ f[1] \in dropped)
=============================================================================
