------------------------------- MODULE Order -------------------------------
(***************************************************************************)
(* The order of one client's PUTs to one topic, across rollovers and       *)
(* failovers: what Walrus.tla leaves out.                                  *)
(*                                                                         *)
(* The node that has the client (the origin, broker/router.py) sends its   *)
(* entries in forwards to the writer of the open segment                   *)
(* (replicas/replication.py). The writer answers how many it took, once    *)
(* they are acknowledged, and hands back the rest.                         *)
(*                                                                         *)
(* The rules of the origin:                                                *)
(*   - outcomes are answered in order (`Settle`);                          *)
(*   - what was handed back is refused when a later forward was written:   *)
(*     it was overtaken on its way, and could only come behind that one;   *)
(*   - an outcome that is not known is answered so, and never sent again;  *)
(*   - forwards go to one segment at a time, in order, and only when       *)
(*     nothing waits that was handed back (`Send`, `TakeBack`). That rule  *)
(*     is for the sake of few refusals: without it the others still keep   *)
(*     the order, and TLC finds nothing.                                   *)
(* The rules of the writer (broker/lifecycle.py has the last):             *)
(*   - it takes a forward once, and none that a later one has overtaken:   *)
(*     a process remembers the last number that it has seen;               *)
(*   - sealing, it takes nothing more, and hands back;                     *)
(*   - a forward for a segment that is over is handed back only by the     *)
(*     process that led it, and only if it has not seen it.                *)
(*                                                                         *)
(* A segment is one writer's, in one process. A healthy writer seals what  *)
(* it acknowledged; a recovery seals anything between that and all that    *)
(* there is.                                                               *)
(*                                                                         *)
(* The network delays, repeats, loses and reorders: `forwards` and         *)
(* `replies` only grow.                                                    *)
(*                                                                         *)
(* Left out: time (an outcome may be given up as unknown at any moment),   *)
(* copies of segments (Walrus.tla), and more than one client: origins      *)
(* number their forwards each for itself, and share nothing.               *)
(***************************************************************************)
EXTENDS Naturals, Sequences, FiniteSets, TLC

CONSTANTS
    Entries,             \* the client sends 1, 2, ..., Entries
    MaxSegments,
    MaxCount,            \* of a segment's entries
    LedBy,               \* LedBy = 1: one process leads all segments; 2: two take turns
    MaxTimeouts          \* what the origin gives up: outcomes, or entries that it has not sent

VARIABLES
    \* The origin.
    waiting,             \* entries that are not sent, in order
    sent,                \* forwards without an answer to the client: [request, segment, entries, outcome]
    returned,            \* entries that were handed back, in order
    closed,              \* the last segment that is known to take nothing more
    request,             \* the number of the last forward
    known,               \* how many segments the origin knows of
    answered,            \* answered[e]: "none", "ok", "unknown" or "refused"
    \* The segments and their writers.
    opened,              \* how many segments there are; the last one is open
    log,                 \* log[s]: what its writer appended
    acked,               \* acked[s]: of that, so many are acknowledged
    count,               \* count[s]: of a sealed segment, or NoCount
    recovered,           \* the segments that were sealed by a recovery
    sealing,             \* the segments whose writer takes nothing more
    taken,               \* forwards that wait for their acknowledgement: [f, taken, end]
    seen,                \* seen[p]: the last forward that process p has seen
    \* Messages.
    forwards, replies,
    budget

origin == <<waiting, sent, returned, closed, request, known, answered>>
writer == <<opened, log, acked, count, recovered, sealing, taken, seen>>
vars == <<origin, writer, forwards, replies, budget>>

-----------------------------------------------------------------------------
Segments == 1..MaxSegments
NoCount == MaxCount + 1
NoOutcome == [taken |-> 0, acked |-> FALSE, refused |-> FALSE, known |-> FALSE]
Unknown(n) == [taken |-> n, acked |-> FALSE, refused |-> FALSE, known |-> TRUE]
Process(s) == IF LedBy = 1 THEN 1 ELSE s % 2

Min(a, b) == IF a < b THEN a ELSE b
Max(a, b) == IF a > b THEN a ELSE b

RECURSIVE OrderFrom(_)
OrderFrom(s) ==
    IF s > opened THEN <<>>
    ELSE SubSeq(log[s], 1, IF count[s] = NoCount THEN Len(log[s]) ELSE count[s]) \o OrderFrom(s + 1)

Init ==
    /\ waiting = [i \in 1..Entries |-> i]
    /\ sent = <<>>
    /\ returned = <<>>
    /\ closed = 0
    /\ request = 0
    /\ known = 1
    /\ answered = [e \in 1..Entries |-> "none"]
    /\ opened = 1
    /\ log = [s \in Segments |-> <<>>]
    /\ acked = [s \in Segments |-> 0]
    /\ count = [s \in Segments |-> NoCount]
    /\ recovered = {}
    /\ sealing = {}
    /\ taken = {}
    /\ seen = [p \in {0, 1} |-> 0]
    /\ forwards = {}
    /\ replies = {}
    /\ budget = MaxTimeouts

-----------------------------------------------------------------------------
\* The origin

\* What was handed back goes to the front once nothing is on its way.
TakeBack ==
    /\ sent = <<>>
    /\ returned # <<>>
    /\ waiting' = returned \o waiting
    /\ returned' = <<>>
    /\ UNCHANGED <<sent, closed, request, known, answered, writer, forwards, replies, budget>>

\* The next entries go to the open segment's writer: in order, to one segment at a time, and not before
\* what was handed back.
Send(n) ==
    LET f == [request |-> request + 1, segment |-> known, entries |-> SubSeq(waiting, 1, n)] IN
    /\ n <= Len(waiting)
    /\ known > closed
    /\ returned = <<>>
    /\ sent # <<>> => sent[Len(sent)].segment = known
    /\ request' = request + 1
    /\ sent' = Append(sent, f @@ [outcome |-> NoOutcome])
    /\ forwards' = forwards \cup {f}
    /\ waiting' = SubSeq(waiting, n + 1, Len(waiting))
    /\ UNCHANGED <<returned, closed, known, answered, writer, replies, budget>>

\* An answer arrives, and counts if the outcome is not known yet.
Outcome ==
    \E r \in replies, i \in 1..Len(sent) :
        /\ sent[i].request = r.request
        /\ ~sent[i].outcome.known
        /\ sent' = [sent EXCEPT ![i].outcome =
              [taken |-> r.taken, acked |-> TRUE, refused |-> r.refused, known |-> TRUE]]
        /\ UNCHANGED <<waiting, returned, closed, request, known, answered, writer, forwards, replies,
                       budget>>

\* The origin waits no longer: the deadline is over, or the connection.
GiveUp ==
    /\ budget > 0
    /\ \E i \in 1..Len(sent) :
          /\ ~sent[i].outcome.known
          /\ sent' = [sent EXCEPT ![i].outcome = Unknown(Len(sent[i].entries))]
    /\ budget' = budget - 1
    /\ UNCHANGED <<waiting, returned, closed, request, known, answered, writer, forwards, replies>>

\* It applies that a segment was sealed. After a recovery no answer will come any more.
Learn ==
    LET lost(f) == ~f.outcome.known /\ f.segment \in recovered /\ f.segment <= known IN
    /\ known < opened
    /\ known' = known + 1
    /\ sent' = [i \in 1..Len(sent) |->
          IF lost(sent[i]) THEN [sent[i] EXCEPT !.outcome = Unknown(Len(sent[i].entries))] ELSE sent[i]]
    /\ UNCHANGED <<waiting, returned, closed, request, answered, writer, forwards, replies, budget>>

\* The oldest forward's outcome is known, and answered. What was handed back before it is refused if
\* this one was written: behind it, it would be out of order.
Settle ==
    LET f == sent[1]
        out == f.outcome
        wrote == SubSeq(f.entries, 1, out.taken)
        rest == SubSeq(f.entries, out.taken + 1, Len(f.entries))
        overtaken == IF out.taken > 0 THEN returned ELSE <<>>
        In(e, list) == \E i \in 1..Len(list) : list[i] = e
    IN
    /\ sent # <<>>
    /\ out.known
    /\ sent' = Tail(sent)
    /\ closed' = IF out.refused THEN Max(closed, f.segment) ELSE closed
    /\ returned' = (IF out.taken > 0 THEN <<>> ELSE returned) \o rest
    /\ answered' = [e \in 1..Entries |->
          IF In(e, wrote) THEN (IF out.acked THEN "ok" ELSE "unknown")
          ELSE IF In(e, overtaken) THEN "refused"
          ELSE answered[e]]
    /\ UNCHANGED <<waiting, request, known, writer, forwards, replies, budget>>

\* What waited too long and was never sent is refused, once all that was sent is settled.
Expire ==
    /\ budget > 0
    /\ sent = <<>>
    /\ returned \o waiting # <<>>
    /\ LET first == Head(returned \o waiting) IN answered' = [answered EXCEPT ![first] = "refused"]
    /\ returned' = IF returned = <<>> THEN returned ELSE Tail(returned)
    /\ waiting' = IF returned = <<>> THEN Tail(waiting) ELSE waiting
    /\ budget' = budget - 1
    /\ UNCHANGED <<sent, closed, request, known, writer, forwards, replies>>

-----------------------------------------------------------------------------
\* The writers

Reply(f, n) == [request |-> f.request, taken |-> n, refused |-> n < Len(f.entries)]

\* A forward reaches the writer of the open segment, which takes what fits, or nothing if it is sealing.
Take ==
    \E f \in forwards :
        LET s == f.segment
            n == IF s \in sealing THEN 0 ELSE Min(Len(f.entries), MaxCount - Len(log[s]))
            end == Len(log[s]) + n
        IN
        /\ s = opened
        /\ f.request > seen[Process(s)]
        /\ seen' = [seen EXCEPT ![Process(s)] = f.request]
        /\ log' = [log EXCEPT ![s] = @ \o SubSeq(f.entries, 1, n)]
        /\ IF n = 0
           THEN replies' = replies \cup {Reply(f, 0)} /\ UNCHANGED taken
           ELSE taken' = taken \cup {[f |-> f, taken |-> n, end |-> end]} /\ UNCHANGED replies
        /\ UNCHANGED <<origin, opened, acked, count, recovered, sealing, forwards, budget>>

\* A forward comes to a process that led its segment, which is over. If the process has not seen it, it
\* was not written; if it has, or led it not, nothing is said.
HandBack ==
    \E f \in forwards :
        LET p == Process(f.segment) IN
        /\ f.segment < opened
        /\ f.request > seen[p]
        /\ seen' = [seen EXCEPT ![p] = f.request]
        /\ replies' = replies \cup {Reply(f, 0)}
        /\ UNCHANGED <<origin, opened, log, acked, count, recovered, sealing, taken, forwards, budget>>

\* A majority has so much: what was taken up to there is answered.
Ack(s, n) ==
    LET done == {w \in taken : w.f.segment = s /\ w.end <= n} IN
    /\ s = opened
    /\ acked[s] < n
    /\ n <= Len(log[s])
    /\ acked' = [acked EXCEPT ![s] = n]
    /\ taken' = taken \ done
    /\ replies' = replies \cup {Reply(w.f, w.taken) : w \in done}
    /\ UNCHANGED <<origin, opened, log, count, recovered, sealing, seen, forwards, budget>>

\* The writer takes nothing more.
BeginSeal(s) ==
    /\ s = opened
    /\ s < MaxSegments
    /\ s \notin sealing
    /\ sealing' = sealing \cup {s}
    /\ UNCHANGED <<origin, opened, log, acked, count, recovered, taken, seen, forwards, replies, budget>>

Ended(s, n) ==
    /\ count' = [count EXCEPT ![s] = n]
    /\ opened' = s + 1
    /\ taken' = {w \in taken : w.f.segment # s}

\* A healthy rollover: all is acknowledged.
Seal(s) ==
    /\ s = opened
    /\ s \in sealing
    /\ acked[s] = Len(log[s])
    /\ Ended(s, acked[s])
    /\ UNCHANGED <<origin, log, acked, recovered, sealing, seen, forwards, replies, budget>>

\* A recovery: the writer learns of it at the same moment, or answers nothing any more.
Recover(s, n) ==
    /\ s = opened
    /\ s < MaxSegments
    /\ acked[s] <= n
    /\ n <= Len(log[s])
    /\ Ended(s, n)
    /\ recovered' = recovered \cup {s}
    /\ UNCHANGED <<origin, log, acked, sealing, seen, forwards, replies, budget>>

-----------------------------------------------------------------------------
Next ==
    \/ TakeBack
    \/ \E n \in 1..2 : Send(n)
    \/ Outcome
    \/ GiveUp
    \/ Learn
    \/ Settle
    \/ Expire
    \/ Take
    \/ HandBack
    \/ \E s \in Segments, n \in 1..MaxCount : Ack(s, n)
    \/ \E s \in Segments : BeginSeal(s)
    \/ \E s \in Segments : Seal(s)
    \/ \E s \in Segments, n \in 0..MaxCount : Recover(s, n)

Spec == Init /\ [][Next]_vars

-----------------------------------------------------------------------------
TypeOK ==
    /\ known \in 1..opened
    /\ closed \in 0..opened
    /\ \A s \in Segments : acked[s] <= Len(log[s]) /\ Len(log[s]) <= MaxCount
    /\ \A e \in 1..Entries : answered[e] \in {"none", "ok", "unknown", "refused"}

Place(e) == {i \in 1..Len(OrderFrom(1)) : OrderFrom(1)[i] = e}

\* No entry is in the log twice.
NoDuplicate == \A e \in 1..Entries : Cardinality(Place(e)) <= 1

\* Entries are in the log in the order in which they were sent.
ProducerOrder ==
    LET order == OrderFrom(1) IN \A i, j \in 1..Len(order) : i < j => order[i] <= order[j]

\* What was answered OK is in the log, for good; what was refused is not, and never will be.
AnswersAreTrue ==
    \A e \in 1..Entries :
        /\ answered[e] = "ok" => Place(e) # {}
        /\ answered[e] = "refused" => Place(e) = {}

\* Answers are given in order: no later entry is answered while an earlier one is not.
AnsweredInOrder ==
    \A e, f \in 1..Entries : e < f /\ answered[f] # "none" => answered[e] # "none"

-----------------------------------------------------------------------------
\* Probes: each must be violated, or the spec cannot do what it is about.
ProbeHandedBack == \A e \in 1..Entries : answered[e] # "ok" \/ Place(e) = {} \/ Len(log[1]) # 0
ProbeOvertaken == \A e \in 1..Entries : answered[e] # "refused" \/ budget < MaxTimeouts
ProbeUnknownWritten == \A e \in 1..Entries : answered[e] # "unknown" \/ Place(e) = {}
ProbeUnknownLost == \A e \in 1..Entries : answered[e] # "unknown" \/ Place(e) # {}
ProbeSplit == \A w \in taken : w.taken = Len(w.f.entries)
=============================================================================
