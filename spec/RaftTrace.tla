------------------------------ MODULE RaftTrace ------------------------------
(***************************************************************************)
(* Is a recorded run a behaviour of Raft.tla? As in WalrusTrace.tla, each  *)
(* event names an action, and the action with the recorded values must be  *)
(* enabled and lead to the recorded role, term, commit index and end of    *)
(* the log.                                                                *)
(*                                                                         *)
(* The spec takes term, vote and a follower's entries to be durable at     *)
(* once, because a crash in between is as if the message had not come. In  *)
(* a recorded run they are in memory first; `Persist` says when they are   *)
(* durable, and only then does anything count that they were reported for: *)
(* a request for votes, a vote, an acknowledgement. So here `persisted`    *)
(* and `matched` follow at Persist, and `Restart` takes back what was not  *)
(* durable, or a part of it.                                               *)
(*                                                                         *)
(* What a run may do that the model may not is allowed here and nowhere    *)
(* else:                                                                   *)
(*   - pre-votes are granted by one server after the other (`granted`),    *)
(*     and a request to campaign, or a snapshot, arrives late;             *)
(*   - a candidate that can win no more calls itself a follower (the model *)
(*     has no such step, because nothing depends on it);                   *)
(*   - a follower learns what is committed before its own copy is durable; *)
(*   - a server that was removed joins anew, with an empty directory.      *)
(***************************************************************************)
EXTENDS Raft, FollowTrace

VARIABLES
    sure,                \* sure[n]: the term and the vote that are durable
    agreed,              \* agreed[n][T]: n has taken entries up to here from T's leader, maybe not durably
    granted,             \* granted[n]: the servers that would have granted n a pre-vote in its term
    counted,             \* counted[n]: the servers whose votes n has counted, as a candidate
    heard,               \* heard[T][n]: the leader of T has heard that n has so much
    offered,             \* offered[T]: the leader of T had a snapshot up to here
    had                  \* had[n][T]: the last index at which n ever had an entry of term T

followed == <<sure, agreed, granted, counted, heard, offered, had>>
traceVars == <<vars, which, l, followed>>

Same == UNCHANGED vars
Role(e) == IF e.role = "Learner" THEN "Follower" ELSE e.role

-----------------------------------------------------------------------------
\* The cluster was founded by the servers whose log was not empty at their first start. The simulator's
\* clusters are founded with a few entries more, as if they had been committed.
FoundingLog(w) == [i \in 1..FoundedLength[w] |-> IF i = 1 THEN Entry(1, Founders[w], {}) ELSE Command(1)]

TraceInit ==
    /\ AtTheBeginning
    /\ current_term = [n \in Node |-> IF n \in Founders[which] THEN 1 ELSE 0]
    /\ log = [n \in Node |-> IF n \in Founders[which] THEN FoundingLog(which) ELSE <<>>]
    /\ committed = [i \in 1..FoundedLength[which] |->
                        [entry |-> FoundingLog(which)[i], term |-> 1, held_by |-> Founders[which]]]
    /\ voted_for = [n \in Node |-> None]
    /\ role = [n \in Node |-> "Follower"]
    /\ commit_index = [n \in Node |-> Len(log[n])]
    /\ base = [n \in Node |-> 0]
    /\ persisted = [n \in Node |-> Len(log[n])]
    /\ requests = {}
    /\ votes = {}
    /\ leader_of = [t \in Terms |-> None]
    /\ leader_log = [t \in Terms |-> <<>>]
    /\ leader_commit = [t \in Terms |-> 0]
    /\ matched = [t \in Terms |-> [n \in Node |-> 0]]
    /\ elections = {}
    /\ budget = [restarts |-> MaxRestarts, changes |-> MaxChanges, snapshots |-> MaxSnapshots,
                 step_downs |-> MaxStepDowns]
    /\ sure = [n \in Node |-> [term |-> current_term[n], vote |-> None]]
    /\ agreed = [n \in Node |-> [t \in Terms |-> 0]]
    /\ granted = [n \in Node |-> {}]
    /\ counted = [n \in Node |-> {}]
    /\ heard = [t \in Terms |-> [n \in Node |-> 0]]
    /\ offered = [t \in Terms |-> 0]
    /\ had = [n \in Node |-> [t \in Terms |-> IF t = 1 THEN Len(log[n]) ELSE 0]]

-----------------------------------------------------------------------------
\* What is durable.
SureVote(v) ==
    \/ sure[v.voter].term > v.term
    \/ sure[v.voter].term = v.term /\ sure[v.voter].vote = v.candidate
SureRequest(r) == sure[r.candidate].term >= r.term

\* Two logs that agree before index i agree up to here.
RECURSIVE CommonFrom(_, _, _)
CommonFrom(a, b, i) ==
    IF i <= Min(Len(a), Len(b)) /\ a[i].term = b[i].term THEN CommonFrom(a, b, i + 1) ELSE i - 1

\* So much of the log is as it was before the event.
Common(e) ==
    LET n == e.node
        before == CASE e.ev = "AcceptAppendEntriesRequest" -> e.prev_log_index
                    [] e.ev = "InstallSnapshot" -> commit_index[n]
                    [] e.ev = "Restart" -> persisted[n]
                    [] OTHER -> Len(log[n])
    IN IF log'[n] = log[n] THEN Len(log[n]) ELSE CommonFrom(log[n], log'[n], before + 1)

\* So much of n's log is durable once it has become another, of which the first `same` entries are as they
\* were.
StillDurable(n, same) == Min(persisted[n], same)

\* Of what n took from the leader of its term up to `index`, so much may be acknowledged at once.
AckedAtOnce(n, index, durable) == IF sure[n].term = current_term[n] THEN Min(index, durable) ELSE 0

-----------------------------------------------------------------------------
\* A step that is not recorded.

\* A candidate that cannot win any more, or that met a leader, follows.
GiveUp(e) ==
    /\ role[e.node] \in {"PreCandidate", "Candidate"}
    /\ Role(e) = "Follower" /\ e.ev # "Restart"
    /\ role' = [role EXCEPT ![e.node] = "Follower"]
    /\ UNCHANGED <<current_term, voted_for, logVars, voteVars, leaderVars, elections, committed, budget>>

-----------------------------------------------------------------------------
\* Events.
OnPreVote(e) == IF role[e.node] = "PreCandidate" THEN Same ELSE PreVote(e.node)

OnTimeout(e) ==
    LET n == e.node IN
    /\ IF e.transfer
       THEN /\ role[n] # "Leader" /\ current_term[n] > 0
            /\ leader_of[current_term[n]] \notin {None, n}
       ELSE role[n] = "PreCandidate" /\ Quorum(granted[n], VotersOf(n))
    /\ Campaign(n)

OnRequestVote(e) ==
    LET n == e.node
        asked == {r \in requests : r.term = current_term[n] /\ r.candidate = e.sender /\ SureRequest(r)}
        may == /\ voted_for[n] \in {None, e.sender}
               /\ log[n] # <<>>
               /\ \E r \in asked : AtLeast(r.last_term, r.last_index, log[n])
    IN
    /\ asked # {}
    /\ e.granted = may
    /\ IF e.granted /\ voted_for[n] = None
       THEN HandleRequestVoteRequest(n) /\ voted_for'[n] = e.sender
       ELSE Same

OnVote(e) ==
    /\ e.granted => \E v \in votes : /\ v.term = current_term[e.node]
                                     /\ v.candidate = e.node
                                     /\ v.voter = e.sender
                                     /\ SureVote(v)
    /\ Same

OnUpdateTerm(e) ==
    /\ \E r \in requests : r.term = e.current_term /\ SureRequest(r)
    /\ UpdateTerm(e.node, e.current_term)

OnBecomeLeader(e) ==
    /\ e.node \in counted[e.node]
    /\ Quorum(counted[e.node], VotersOf(e.node))
    /\ BecomeLeader(e.node)

OnClientRequest(e) ==
    LET n == e.node IN
    /\ e.index = Len(log[n]) + 1
    /\ (e.kind = "NOOP") = (LastTerm(log[n]) # current_term[n])
    /\ IF e.kind = "MEMBERSHIP"
       THEN <<e.voters, e.learners>> \in NextMemberships(n) /\ ChangeMembershipTo(n, e.voters, e.learners)
       ELSE ClientRequest(n)

OnPersist(e) ==
    LET n == e.node
        acked(t) == IF e.persisted_term >= t THEN Min(agreed[n][t], e.persisted_index) ELSE 0
    IN
    /\ persisted[n] <= e.persisted_index /\ e.persisted_index <= Len(log[n])
    /\ sure[n].term <= e.persisted_term /\ e.persisted_term <= current_term[n]
    /\ e.persisted_term = current_term[n] => e.persisted_vote \in {None, voted_for[n]}
    /\ persisted' = [persisted EXCEPT ![n] = e.persisted_index]
    /\ matched' = [t \in Terms |-> [matched[t] EXCEPT ![n] = Max(@, acked(t))]]
    /\ UNCHANGED <<serverVars, log, commit_index, base, voteVars, leader_of, leader_log, leader_commit,
                   elections, committed, budget>>

OnAccept(e) ==
    LET n == e.node
        prev == e.prev_log_index
        last == e.match_index
    IN
    /\ MayTake(n, prev, last)
    /\ e.sender = leader_of[current_term[n]]
    /\ LET merged == Merged(n, prev, last)
           same == IF merged = log[n] THEN Len(merged) ELSE CommonFrom(log[n], merged, prev + 1)
           durable == StillDurable(n, same)
       IN
       /\ e.added = Len(merged) - same
       /\ TakeEntries(n, merged, durable, AckedAtOnce(n, last, durable))

\* An answer, of a follower that holds what it says.
OnResponse(e) ==
    /\ role[e.node] = "Leader"
    /\ e.success => e.match_index <= matched[current_term[e.node]][e.sender]
    /\ Same

\* The spec counts what followers have acknowledged; a leader counts what it has heard of that.
OnAdvance(e) ==
    LET n == e.node
        holds(m) == IF m = n THEN persisted[n] >= e.commit_index
                    ELSE heard[current_term[n]][m] >= e.commit_index
    IN
    /\ Quorum({m \in Node : holds(m)}, VotersOf(n))
    /\ AdvanceCommitIndex(n, e.commit_index)

\* From a request, or from a snapshot of what it has anyway.
OnLearn(e) ==
    LET n == e.node
        t == current_term[n]
        index == e.commit_index
    IN
    /\ t > 0
    /\ LearnUpTo(n, index, IF index <= offered[t] /\ Holds(n, index, leader_log[t]) THEN index
                           ELSE agreed[n][t])

OnInstallSnapshot(e) ==
    LET n == e.node
        t == current_term[n]
    IN
    /\ t > 0
    /\ leader_of[t] \notin {None, n} /\ e.sender = leader_of[t]
    /\ e.index <= offered[t]
    /\ LET durable == StillDurable(n, commit_index[n])
       IN TakeSnapshot(n, e.index, leader_log[t], durable, AckedAtOnce(n, e.index, durable))

\* It comes back with what was durable, and perhaps with more of what it had.
OnRestart(e) ==
    LET n == e.node
        from == IF e.last_log_term <= 1 THEN FoundingLog(which) ELSE leader_log[e.last_log_term]
        kept == SubSeq(from, 1, e.last_log_index)
        vote == [term |-> e.current_term, voter |-> n, candidate |-> e.voted_for]
    IN
    /\ IF e.last_log_index = 0 THEN TRUE ELSE e.last_log_index <= had[n][e.last_log_term]
    /\ persisted[n] <= Len(kept)
    /\ SubSeq(kept, 1, persisted[n]) = SubSeq(log[n], 1, persisted[n])
    /\ sure[n].term <= e.current_term /\ e.current_term <= current_term[n]
    /\ IF e.current_term = sure[n].term /\ sure[n].vote # None THEN e.voted_for = sure[n].vote
       ELSE e.voted_for # None => vote \in votes
    /\ e.commit_index <= base[n]
    /\ current_term' = [current_term EXCEPT ![n] = e.current_term]
    /\ voted_for' = [voted_for EXCEPT ![n] = e.voted_for]
    /\ role' = [role EXCEPT ![n] = "Follower"]
    /\ log' = [log EXCEPT ![n] = kept]
    /\ commit_index' = [commit_index EXCEPT ![n] = e.commit_index]
    /\ base' = [base EXCEPT ![n] = e.commit_index]
    /\ persisted' = [persisted EXCEPT ![n] = Len(kept)]
    /\ requests' = {r \in requests :
          r.candidate = n => r.term < e.current_term \/ (r.term = vote.term /\ vote.candidate = n)}
    /\ votes' = {v \in votes : v.voter = n => v.term < e.current_term \/ v = vote}
    /\ UNCHANGED <<leaderVars, elections, committed, budget>>

\* By all that is committed, n is no member. Or it was removed and is a learner again, and the server that
\* was taken in has not started yet: n's log is that of the former one, which got nothing after its removal.
Removed(n) ==
    LET known(upto) == [i \in 1..upto |-> committed[i].entry]
        without == {i \in 1..Len(committed) : n \notin Voters(known(i)) \cup Learners(known(i))}
    IN /\ n \notin Voters(known(Len(committed)))
       /\ \E i \in without : Len(log[n]) <= i

\* It was removed, and starts in an empty directory: under its id, another server. Connections belong to a
\* directory, so what the former one sent arrives no more. What was committed must stay in the copies that
\* there are without it.
JoinsAnew(e) ==
    /\ e.ev = "Restart"
    /\ e.last_log_index = 0 /\ e.current_term = 0 /\ e.voted_for = None
    /\ log[e.node] # <<>>
    /\ Removed(e.node)

OnJoinAnew(e) ==
    LET n == e.node
        holders(i) == {m \in Node \ {n} : /\ persisted[m] >= i /\ Len(log[m]) >= i
                                         /\ log[m][i] = committed[i].entry}
    IN
    /\ current_term' = [current_term EXCEPT ![n] = 0]
    /\ voted_for' = [voted_for EXCEPT ![n] = None]
    /\ role' = [role EXCEPT ![n] = "Follower"]
    /\ log' = [log EXCEPT ![n] = <<>>]
    /\ commit_index' = [commit_index EXCEPT ![n] = 0]
    /\ base' = [base EXCEPT ![n] = 0]
    /\ persisted' = [persisted EXCEPT ![n] = 0]
    /\ requests' = {r \in requests : r.candidate # n}
    /\ matched' = [t \in Terms |-> [matched[t] EXCEPT ![n] = 0]]
    /\ committed' = [i \in 1..Len(committed) |-> [committed[i] EXCEPT !.held_by = holders(i)]]
    /\ UNCHANGED <<votes, leader_of, leader_log, leader_commit, elections, budget>>

Taken(e) ==
    CASE e.ev = "PreVote" -> OnPreVote(e)
      [] e.ev = "Timeout" -> OnTimeout(e)
      [] e.ev = "HandleRequestVoteRequest" -> OnRequestVote(e)
      [] e.ev = "HandleRequestVoteResponse" -> OnVote(e)
      [] e.ev = "UpdateTerm" -> OnUpdateTerm(e)
      [] e.ev = "BecomeLeader" -> OnBecomeLeader(e)
      [] e.ev = "CheckQuorumFailed" -> role[e.node] = "Leader" /\ CheckQuorumFailed(e.node)
      [] e.ev = "ClientRequest" -> OnClientRequest(e)
      [] e.ev = "Persist" -> OnPersist(e)
      [] e.ev = "AcceptAppendEntriesRequest" -> OnAccept(e)
      [] e.ev = "AdvanceCommitIndex" -> OnAdvance(e)
      [] e.ev = "HandleAppendEntriesResponse" -> OnResponse(e)
      [] e.ev = "HandleInstallSnapshotResponse" -> OnResponse(e)
      [] e.ev = "LearnCommitIndex" -> OnLearn(e)
      [] e.ev = "CompactLog" -> CompactLog(e.node, e.index)
      [] e.ev = "InstallSnapshot" -> OnInstallSnapshot(e)
      [] e.ev = "StepDown" -> StepDown(e.node)
      [] e.ev = "Restart" -> IF JoinsAnew(e) THEN OnJoinAnew(e) ELSE OnRestart(e)
      [] OTHER -> FALSE

\* The state that the event led to, as it was recorded.
AsRecorded(e) ==
    /\ role'[e.node] = Role(e)
    /\ current_term'[e.node] = e.current_term
    /\ commit_index'[e.node] = e.commit_index
    /\ Len(log'[e.node]) = e.last_log_index
    /\ LastTerm(log'[e.node]) = e.last_log_term

-----------------------------------------------------------------------------
\* What is followed besides the spec's variables.
SureAfter(e) ==
    CASE e.ev = "Persist" -> [term |-> e.persisted_term, vote |-> e.persisted_vote]
      [] e.ev = "Restart" -> [term |-> e.current_term, vote |-> e.voted_for]
      [] OTHER -> sure[e.node]

AgreedAfter(e) ==
    LET n == e.node
        upto(index) == [t \in Terms |-> IF t = current_term[n] THEN Max(agreed[n][t], index)
                                        ELSE Min(agreed[n][t], Common(e))]
    IN
    CASE e.ev = "AcceptAppendEntriesRequest" -> upto(e.match_index)
      [] e.ev = "InstallSnapshot" -> upto(e.index)
      [] e.ev = "LearnCommitIndex" -> upto(e.commit_index)
      [] e.ev = "Restart" -> [t \in Terms |-> 0]
      [] OTHER -> agreed[n]

HadAfter(e) ==
    LET n == e.node
        new == Common(e) + 1..Len(log'[n])
        last(t) == LET those == {i \in new : log'[n][i].term = t}
                   IN IF those = {} THEN 0 ELSE CHOOSE i \in those : \A j \in those : j <= i
    IN IF JoinsAnew(e) THEN [t \in Terms |-> 0]
       ELSE IF log'[n] = log[n] THEN had[n]
       ELSE [t \in Terms |-> Max(had[n][t], last(t))]

\* Its own vote counts when it is durable, that of another when it hears of it.
CountedAfter(e) ==
    LET n == e.node IN
    CASE e.ev \in {"Timeout", "Restart"} -> {}
      [] e.ev = "Persist" ->
            IF role[n] = "Candidate" /\ e.persisted_term = current_term[n] THEN counted[n] \cup {n}
            ELSE counted[n]
      [] e.ev = "HandleRequestVoteResponse" /\ e.granted -> counted[n] \cup {e.sender}
      [] OTHER -> counted[n]

\* Requests for pre-votes and their answers may arrive late, even in the next round of the term.
GrantedAfter(n) ==
    IF current_term'[n] # current_term[n] THEN {}
    ELSE IF granted[n] = {} /\ role'[n] # "PreCandidate" THEN {}
    ELSE granted[n] \cup Willing(n)'

HeardAfter(e) ==
    LET t == e.current_term IN
    IF e.ev \in {"HandleAppendEntriesResponse", "HandleInstallSnapshotResponse"} /\ e.success
    THEN [heard EXCEPT ![t][e.sender] = Max(@, e.match_index)]
    ELSE IF JoinsAnew(e) THEN [u \in Terms |-> [heard[u] EXCEPT ![e.node] = 0]]
    ELSE heard

Follow(e) ==
    /\ heard' = HeardAfter(e)
    /\ sure' = [sure EXCEPT ![e.node] = SureAfter(e)]
    /\ agreed' = [agreed EXCEPT ![e.node] = AgreedAfter(e)]
    /\ had' = [had EXCEPT ![e.node] = HadAfter(e)]
    /\ counted' = [counted EXCEPT ![e.node] = CountedAfter(e)]
    /\ granted' = [n \in Node |-> GrantedAfter(n)]
    /\ offered' = [t \in Terms |->
          LET n == leader_of'[t] IN
          IF n # None /\ role'[n] = "Leader" /\ current_term'[n] = t THEN Max(offered[t], base'[n])
          ELSE offered[t]]

TraceNext ==
    /\ l <= Last
    /\ \/ Taken(Event) /\ AsRecorded(Event) /\ Follow(Event) /\ Onward
       \/ GiveUp(Event) /\ UNCHANGED <<which, l, followed>>

TraceSpec == TraceInit /\ [][TraceNext]_traceVars

\* The invariants; those that read every entry now and then and at the end.
Sound ==
    /\ Keeps("TypeOK", TypeOK, l - 1)
    /\ Keeps("ElectionSafety", ElectionSafety, l - 1)
    /\ Keeps("LogMatching", NowAndThen => LogMatching, l - 1)
    /\ Keeps("LeaderCompleteness", NowAndThen => LeaderCompleteness, l - 1)
    /\ Keeps("StateMachineSafety", NowAndThen => StateMachineSafety, l - 1)
    /\ Keeps("CommittedNeverLost", NowAndThen => CommittedNeverLost, l - 1)
    /\ Reached

SoundStep == Keeps("LeaderAppendOnly", AppendsOnly, l)
=============================================================================
