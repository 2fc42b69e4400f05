---------------------------- MODULE PublishTrace ----------------------------
(***************************************************************************)
(* Is what a recorded run did to the numbered entries of one topic a       *)
(* behaviour of Publish.tla? `python -m walrus.tlc trace` takes each topic *)
(* that producers publish to out of the run (trace_publish.py). An event   *)
(* is one step of one entry at one writer; an acknowledgement; or a Seal,  *)
(* a snapshot or a Grant, with the table that a node has then.             *)
(*                                                                         *)
(* Each event names an action, which must be enabled with the recorded     *)
(* values. A log of the spec has the numbered entries alone, so a place in *)
(* a segment is looked up in `places`. All steps are recorded.             *)
(*                                                                         *)
(* A run is finer than the spec in these places:                           *)
(*   - a segment ends in one step there; here its former writer appends    *)
(*     and acknowledges, until it hears of that: what it appends is in no  *)
(*     topic, and what it acknowledges is what the recovery has kept;      *)
(*   - a repetition waits for what it repeats (`Held`), and not for what   *)
(*     its producer appended since;                                        *)
(*   - where the table is full, applying a recovery's Seal drops producers *)
(*     too: a told table may be without some, if it is full (`Tells`).     *)
(***************************************************************************)
EXTENDS Publish, FollowTrace

CONSTANTS
    Bound                \* how many producers a table has at most

VARIABLES
    places               \* places[s][i]: where in segment s the entry log[s][i] is, counted from 0

traceVars == <<vars, which, l, places>>

Same == UNCHANGED vars

Stamp(e) == <<e.producer, e.number>>

\* How many numbered entries there are before a place.
Before(s, place) == Cardinality({i \in DOMAIN places[s] : places[s][i] < place})

KnownIn(known) == {p \in Producers : known[p] # Unknown}

\* A table, as a node recorded it.
Says(known) == {<<p, known[p].next - 1>> : p \in KnownIn(known)}
Tells(e, known) ==
    \/ e.producers = Says(known)
    \/ e.producers \subseteq Says(known) /\ Cardinality(e.producers) = Bound

\* The writer of s may say OK to an entry that it has had before: the entry is acknowledged.
Held(s, f) ==
    IF \E i \in DOMAIN log[s] : log[s][i] = f
    THEN \E i \in 1..acked[s] : log[s][i] = f
    ELSE f[2] < begun[s][f[1]].next

-----------------------------------------------------------------------------
\* As PubAppend, at a writer that has not heard yet that its segment has ended.
AppendPastTheEnd(s, f) ==
    /\ UnderWay(f)
    /\ f[2] = table[s][f[1]].next
    /\ log' = [log EXCEPT ![s] = Append(@, f)]
    /\ table' = [table EXCEPT ![s][f[1]] = [next |-> f[2] + 1, segment |-> s, end |-> Len(log[s]) + 1]]
    /\ UNCHANGED <<dropped, answered, opened, acked, count, begun>>

OnAppend(e) ==
    LET s == e.segment IN
    /\ s <= opened
    /\ Before(s, e.place) = Len(log[s]) /\ e.place < e.length
    /\ IF s = opened THEN PubAppend(Stamp(e)) ELSE AppendPastTheEnd(s, Stamp(e))
    /\ places' = [places EXCEPT ![s] = Append(@, e.place)]

\* A number that leaves a gap, or of a producer for which there is no room.
OnRefuse(e) ==
    LET known == table[e.segment] IN
    /\ e.segment <= opened
    /\ \/ e.number > known[e.producer].next
       \/ e.number = 0 /\ known[e.producer] = Unknown /\ Cardinality(KnownIn(known)) >= Bound
    /\ Same

OnDrop(e) ==
    /\ e.segment = opened
    /\ Cardinality(KnownIn(table[opened])) > Bound
    /\ Drop(e.producer)

OnAck(e) ==
    LET s == e.segment
        n == Before(s, e.count)
    IN
    /\ s <= opened
    /\ IF n = acked[s] THEN Same
       ELSE IF s = opened THEN Ack(n)
       ELSE /\ acked[s] < n /\ n <= count[s]
            /\ acked' = [acked EXCEPT ![s] = n]
            /\ answered' = answered \cup {log[s][i] : i \in 1..n}
            /\ UNCHANGED <<dropped, opened, log, count, begun, table>>

\* OK to what was new, with its place: it has been answered, as far as the spec has it, with its Ack.
OnAnswer(e) ==
    /\ e.segment <= opened
    /\ \E i \in 1..acked[e.segment] : log[e.segment][i] = Stamp(e) /\ places[e.segment][i] = e.place
    /\ Same

\* As Repeat, of what is acknowledged itself.
OnRepeat(e) ==
    LET s == e.segment
        f == Stamp(e)
    IN
    /\ s <= opened
    /\ f[2] < table[s][f[1]].next
    /\ Held(s, f)
    /\ answered' = answered \cup {f}
    /\ UNCHANGED <<dropped, opened, log, acked, count, begun, table>>

\* The first node that applies a Seal commits it; all others come to the same table.
OnSeal(e) ==
    LET s == e.segment
        n == Before(s, e.count)
    IN
    /\ s <= opened
    /\ IF s < opened THEN n = count[s] /\ Same
       ELSE IF e.recovered THEN RecoverWithTable(n)
       ELSE n = Len(log[s]) /\ SealWithTable
    /\ Tells(e, begun'[s + 1])

\* A snapshot of the metadata; or a writer that begins, with this table.
OnBegun(e) == e.segment <= opened /\ Tells(e, begun[e.segment]) /\ Same

Taken(e) ==
    IF e.ev = "PubAppend" THEN OnAppend(e)
    ELSE /\ CASE e.ev = "RefusePub" -> OnRefuse(e)
              [] e.ev = "DropProducer" -> OnDrop(e)
              [] e.ev = "Ack" -> OnAck(e)
              [] e.ev = "AnswerPub" -> OnAnswer(e)
              [] e.ev = "Repeat" -> OnRepeat(e)
              [] e.ev = "Seal" -> OnSeal(e)
              [] e.ev \in {"Snapshot", "Grant"} -> OnBegun(e)
              [] OTHER -> FALSE
         /\ UNCHANGED places

-----------------------------------------------------------------------------
TraceInit == AtTheBeginning /\ Init /\ places = [s \in Segments |-> <<>>]

TraceNext == l <= Last /\ Taken(Event) /\ Onward

TraceSpec == TraceInit /\ [][TraceNext]_traceVars

Sound ==
    /\ Keeps("TypeOK", TypeOK, l - 1)
    /\ NowAndThen =>
         /\ Keeps("NoDuplicateAppend", NoDuplicateAppend, l - 1)
         /\ Keeps("RepeatOkImpliesAcked", RepeatOkImpliesAcked, l - 1)
         /\ Keeps("NumbersWithoutGap", NumbersWithoutGap, l - 1)
    /\ Reached
=============================================================================
