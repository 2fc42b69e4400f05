-------------------------------- MODULE Raft --------------------------------
(***************************************************************************)
(* The consensus core of Walrus: Raft with PreVote, snapshots, learners    *)
(* and membership changes of one server at a time. Variables and actions   *)
(* are named as in the paper's Figure 2 and in the code (walrus/raft.py).  *)
(*                                                                         *)
(* The network. What was sent may arrive at any later time, again, or      *)
(* never. All that a leader of term T ever sends are slices of its log,    *)
(* which only grows while it leads: `leader_log[T]` stands for all its     *)
(* AppendEntries at once, `leader_commit[T]` for all the commit indexes in *)
(* them, `matched[T][n]` for all the answers of n, and `votes` for all     *)
(* ballots. A late, doubled or lost message is a slice that is taken late, *)
(* twice or not at all.                                                    *)
(*                                                                         *)
(* The disk. A server answers only when what it answers for is durable, so *)
(* term, vote and a follower's entries change and become durable in one    *)
(* step: a crash in between is indistinguishable from the message not      *)
(* having arrived. Only a leader sends entries before it has written them; *)
(* `persisted` says how far it has, and it counts itself only that far.    *)
(*                                                                         *)
(* `log` is the whole log. Up to `base` only a snapshot is kept of it,     *)
(* which holds the same state and the membership, so the model keeps the   *)
(* entries for the invariants but does not let a leader send them.         *)
(*                                                                         *)
(* Left out: time. PreVote, CheckQuorum and leader stickiness decide when  *)
(* elections are held, and here they may be held at any time.              *)
(***************************************************************************)
EXTENDS Naturals, Sequences, FiniteSets, TLC

CONSTANTS
    Node,
    InitVoters,          \* the servers that the cluster was founded with
    InitLearners,
    MaxTerm, MaxLog,
    MaxRestarts,
    MaxChanges,          \* of the membership
    MaxSnapshots,
    None, Bug

VARIABLES
    current_term, voted_for, role, log, commit_index,
    base,                \* base[n]: the log up to here is a snapshot
    persisted,           \* persisted[n]: so many of n's entries are durable
    \* Messages.
    requests,            \* vote requests: [term, candidate, last_term, last_index]
    votes,               \* granted: [term, voter, candidate]
    leader_of,           \* leader_of[T], or None
    leader_log,          \* leader_log[T]: slices of it are in flight
    leader_commit,       \* leader_commit[T]: the highest commit index that it sent
    matched,             \* matched[T][n]: the highest index that n has acknowledged to it
    \* History and budgets.
    elections,           \* PROOF {<<T, n>>}: everyone who ever became leader
    committed,           \* PROOF what was ever committed, in order: [entry, term, held_by]
    budget

serverVars == <<current_term, voted_for, role>>
logVars == <<log, commit_index, base, persisted>>
voteVars == <<requests, votes>>
leaderVars == <<leader_of, leader_log, leader_commit, matched>>
vars == <<serverVars, logVars, voteVars, leaderVars, elections, committed, budget>>

-----------------------------------------------------------------------------
Terms == 1..MaxTerm
Min(a, b) == IF a < b THEN a ELSE b
Max(a, b) == IF a > b THEN a ELSE b
Quorum(S, voters) == Cardinality(S \cap voters) * 2 > Cardinality(voters)

Entry(term, voters, learners) == [term |-> term, voters |-> voters, learners |-> learners]
Command(term) == Entry(term, {}, {})          \* and the no-op of a new leader
IsMembership(e) == e.voters # {}

LastTerm(l) == IF l = <<>> THEN 0 ELSE l[Len(l)].term
TermAt(l, i) == IF i = 0 THEN 0 ELSE l[i].term
AtLeast(term, index, l) == term > LastTerm(l) \/ (term = LastTerm(l) /\ index >= Len(l))

\* The membership in force is the newest in the log, committed or not. A server whose log is empty
\* knows of no cluster: it is passive, and neither votes nor stands.
MembershipIndexes(l) == {i \in 1..Len(l) : IsMembership(l[i])}
MembershipIndex(l) ==
    IF MembershipIndexes(l) = {} THEN 0
    ELSE CHOOSE i \in MembershipIndexes(l) : \A j \in MembershipIndexes(l) : j <= i
Voters(l) == IF MembershipIndex(l) = 0 THEN {} ELSE l[MembershipIndex(l)].voters
Learners(l) == IF MembershipIndex(l) = 0 THEN {} ELSE l[MembershipIndex(l)].learners
VotersOf(n) == Voters(log[n])

\* A server may be elected by the membership in force, or was by the one before, while it does not know that the newer
\* one is committed: it may be the only one whose log is complete enough to commit its own removal (dissertation section 4.2.2).
Electable(n) ==
    LET newest == MembershipIndex(log[n]) IN
    \/ n \in VotersOf(n)
    \/ newest > commit_index[n] /\ n \in Voters(SubSeq(log[n], 1, newest - 1))

\* The cluster was founded by one entry that all first voters have, and have committed.
Founding == Entry(1, InitVoters, InitLearners)
InitMembers == InitVoters \cup InitLearners

Init ==
    /\ current_term = [n \in Node |-> IF n \in InitMembers THEN 1 ELSE 0]
    /\ voted_for = [n \in Node |-> None]
    /\ role = [n \in Node |-> "Follower"]
    /\ log = [n \in Node |-> IF n \in InitMembers THEN <<Founding>> ELSE <<>>]
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
    /\ committed = <<[entry |-> Founding, term |-> 1, held_by |-> InitVoters]>>
    /\ budget = [restarts |-> MaxRestarts, changes |-> MaxChanges, snapshots |-> MaxSnapshots]

-----------------------------------------------------------------------------
\* Elections (paper section 5.2, dissertation section 9.6)

\* The election timer ran out: a voter canvasses. Nobody's term changes.
PreVote(n) ==
    /\ role[n] \in {"Follower", "Candidate"}
    /\ Electable(n)
    /\ role' = [role EXCEPT ![n] = "PreCandidate"]
    /\ UNCHANGED <<current_term, voted_for, logVars, voteVars, leaderVars, elections, committed, budget>>

\* Who would vote for it, as a canvass asks.
Willing(n) == {m \in Node : /\ current_term[m] <= current_term[n] + 1
                            /\ log[m] # <<>>
                            /\ AtLeast(LastTerm(log[n]), Len(log[n]), log[m])}

\* It begins an election.
Stand(n) ==
    LET t == current_term[n] + 1 IN
    /\ t <= MaxTerm
    /\ Electable(n)
    /\ current_term' = [current_term EXCEPT ![n] = t]
    /\ voted_for' = [voted_for EXCEPT ![n] = n]
    /\ role' = [role EXCEPT ![n] = "Candidate"]
    /\ requests' = requests \cup {[term |-> t, candidate |-> n, last_term |-> LastTerm(log[n]), last_index |-> Len(log[n])]}
    /\ votes' = votes \cup {[term |-> t, voter |-> n, candidate |-> n]}
    /\ UNCHANGED <<logVars, leaderVars, elections, committed, budget>>

\* It stands in a new term, with its own vote: after a canvass that a majority would grant, or because
\* its leader, whose log it holds completely, told it to (leadership transfer, dissertation section 3.10).
Timeout(n) ==
    LET told == /\ role[n] = "Follower" /\ current_term[n] > 0
                /\ leader_of[current_term[n]] \notin {None, n}
                /\ matched[current_term[n]][n] = Len(leader_log[current_term[n]])
    IN
    /\ (role[n] = "PreCandidate" /\ Quorum(Willing(n), VotersOf(n))) \/ told
    /\ Stand(n)

\* A server votes once a term, for a log at least as complete as its own (section 5.4.1).
HandleRequestVoteRequest(n) ==
    \E r \in requests :
        /\ r.term = current_term[n]
        /\ r.candidate # n
        /\ log[n] # <<>>
        /\ voted_for[n] \in {None, r.candidate} \/ (Bug = "VotesTwice" /\ role[n] = "Follower")
        /\ AtLeast(r.last_term, r.last_index, log[n]) \/ Bug = "VoteWithoutLogCheck"
        /\ [term |-> r.term, voter |-> n, candidate |-> r.candidate] \notin votes
        /\ voted_for' = [voted_for EXCEPT ![n] = r.candidate]
        /\ votes' = votes \cup {[term |-> r.term, voter |-> n, candidate |-> r.candidate]}
        /\ role' = [role EXCEPT ![n] = IF @ = "PreCandidate" THEN "Follower" ELSE @]
        /\ UNCHANGED <<current_term, requests, logVars, leaderVars, elections, committed, budget>>

\* A message of a newer term turns whoever gets it into a follower of that term.
UpdateTerm(n, t) ==
    /\ t > current_term[n]
    /\ leader_of[t] # None \/ \E r \in requests : r.term = t
    /\ current_term' = [current_term EXCEPT ![n] = t]
    /\ voted_for' = [voted_for EXCEPT ![n] = None]
    /\ role' = [role EXCEPT ![n] = "Follower"]
    /\ UNCHANGED <<logVars, voteVars, leaderVars, elections, committed, budget>>

\* A candidate with the votes of a majority leads its term.
BecomeLeader(n) ==
    LET t == current_term[n]
        ballots == {v \in votes : v.candidate = n /\ (v.term = t \/ Bug = "OldBallotsCount")}
    IN
    /\ role[n] = "Candidate"
    /\ Quorum({v.voter : v \in ballots}, VotersOf(n))
    /\ role' = [role EXCEPT ![n] = "Leader"]
    /\ leader_of' = [leader_of EXCEPT ![t] = n]
    /\ leader_log' = [leader_log EXCEPT ![t] = log[n]]
    /\ leader_commit' = [leader_commit EXCEPT ![t] = commit_index[n]]
    /\ elections' = elections \cup {<<t, n>>}
    /\ UNCHANGED <<current_term, voted_for, logVars, voteVars, matched, committed, budget>>

\* A leader that no majority answers gives up (dissertation section 6.2); so does a candidate that meets a leader.
CheckQuorumFailed(n) ==
    /\ \/ role[n] = "Leader"
       \/ role[n] \in {"Candidate", "PreCandidate"} /\ current_term[n] > 0 /\ leader_of[current_term[n]] # None
    /\ role' = [role EXCEPT ![n] = "Follower"]
    /\ UNCHANGED <<current_term, voted_for, logVars, voteVars, leaderVars, elections, committed, budget>>

-----------------------------------------------------------------------------
\* Replication (paper section 5.3)

Appended(n, entry) ==
    /\ log' = [log EXCEPT ![n] = IF Bug = "LeaderOverwrites" /\ Len(@) > commit_index[n] /\ @[Len(@)].term < current_term[n]
                                 THEN SubSeq(@, 1, Len(@) - 1) \o <<entry>>
                                 ELSE Append(@, entry)]
    /\ leader_log' = [leader_log EXCEPT ![current_term[n]] = log'[n]]

\* The leader appends an entry and may send it at once, before it is on its own disk (dissertation section 10.2.1).
\* The no-op of a new leader is one too.
ClientRequest(n) ==
    /\ role[n] = "Leader"
    /\ Len(log[n]) < MaxLog
    /\ Appended(n, Command(current_term[n]))
    /\ UNCHANGED <<serverVars, commit_index, base, persisted, voteVars, leader_of, leader_commit, matched,
                   elections, committed, budget>>

\* What the leader appended is on its disk.
Persist(n) ==
    /\ persisted[n] < Len(log[n])
    /\ persisted' = [persisted EXCEPT ![n] = Len(log[n])]
    /\ UNCHANGED <<serverVars, log, commit_index, base, voteVars, leaderVars, elections, committed, budget>>

\* Requests that the leader of its term sent or may have sent, and whose predecessor it holds.
MayTake(n, prev, last) ==
    LET t == current_term[n] IN
    /\ t > 0
    /\ leader_of[t] \notin {None, n}
    /\ prev <= last /\ last <= Len(leader_log[t])
    /\ prev <= Len(log[n])
    /\ TermAt(log[n], prev) = TermAt(leader_log[t], prev) \/ Bug = "NoPrevCheck"

\* Its log with the entries from prev + 1 to last of the leader's. Entries are compared before anything is cut off: an old
\* request must not remove what a later one added.
Merged(n, prev, last) ==
    LET sent == leader_log[current_term[n]]
        conflict == \E i \in prev + 1..Min(last, Len(log[n])) : log[n][i].term # sent[i].term
    IN IF conflict \/ last > Len(log[n]) \/ Bug = "CutWithoutCompare"
       THEN SubSeq(log[n], 1, prev) \o SubSeq(sent, prev + 1, last)
       ELSE log[n]

\* It takes them; so many of its entries are durable then, and up to `acked` it has told the leader.
TakeEntries(n, merged, durable, acked) ==
    /\ role' = [role EXCEPT ![n] = "Follower"]
    /\ log' = [log EXCEPT ![n] = merged]
    /\ persisted' = [persisted EXCEPT ![n] = durable]
    /\ matched' = [matched EXCEPT ![current_term[n]][n] = Max(@, acked)]
    /\ UNCHANGED <<current_term, voted_for, commit_index, base, voteVars, leader_of, leader_log,
                   leader_commit, elections, committed, budget>>

\* A follower takes a slice of its leader's log whose predecessor it holds, and answers once it is durable.
AcceptAppendEntriesRequest(n, prev, last) ==
    /\ MayTake(n, prev, last)
    /\ LET merged == Merged(n, prev, last) IN
       /\ merged # log[n] \/ last > matched[current_term[n]][n] \/ role[n] \in {"Candidate", "PreCandidate"}
       /\ TakeEntries(n, merged, IF Bug = "AckBeforePersist" THEN Min(persisted[n], Len(merged)) ELSE Len(merged), last)

\* The commit rule (section 5.4.2): a majority of the voters holds the entry durably, the leader through its own disk, and
\* the entry is of the leader's own term. Counting copies of an older entry is Figure 8's mistake.
AdvanceCommitIndex(n, index) ==
    LET t == current_term[n]
        holders == {m \in Node : IF m = n THEN persisted[n] >= index \/ Bug = "LeaderCountsUnwritten"
                                          ELSE matched[t][m] >= index}
    IN
    /\ role[n] = "Leader"
    /\ commit_index[n] < index /\ index <= Len(log[n])
    /\ log[n][index].term = t \/ Bug = "CommitOldTerm"
    /\ \/ Quorum(holders, VotersOf(n))
       \/ Bug = "CommitByMinority" /\ holders # {}
       \/ Bug = "LearnersCount" /\ Cardinality(holders) * 2 > Cardinality(VotersOf(n))
    /\ commit_index' = [commit_index EXCEPT ![n] = index]
    /\ leader_commit' = [leader_commit EXCEPT ![t] = index]
    /\ committed' = committed \o
          [i \in 1..Max(0, index - Min(index, Len(committed))) |->
              [entry |-> log[n][Len(committed) + i], term |-> t, held_by |-> holders \cap VotersOf(n)]]
    /\ UNCHANGED <<serverVars, log, base, persisted, voteVars, leader_of, leader_log, matched, elections, budget>>

\* It learns that so much is committed, where its log is known to agree with the leader's up to `agreed`.
LearnUpTo(n, index, agreed) ==
    LET t == current_term[n] IN
    /\ t > 0
    /\ role[n] = "Follower"
    /\ commit_index[n] < index
    /\ index <= Min(leader_commit[t], agreed)
    /\ commit_index' = [commit_index EXCEPT ![n] = index]
    /\ UNCHANGED <<serverVars, log, base, persisted, voteVars, leaderVars, elections, committed, budget>>

\* A follower learns what is committed, as far as its log is known to agree with the leader's.
LearnCommitIndex(n, index) ==
    /\ current_term[n] > 0
    /\ LearnUpTo(n, index, matched[current_term[n]][n])

-----------------------------------------------------------------------------
\* Snapshots (paper section 7)

\* The state machine's snapshot replaces the log up to what is applied.
CompactLog(n, index) ==
    /\ budget.snapshots > 0
    /\ base[n] < index
    /\ index <= commit_index[n] \/ (Bug = "SnapshotUncommitted" /\ index <= Len(log[n]))
    /\ base' = [base EXCEPT ![n] = index]
    /\ commit_index' = [commit_index EXCEPT ![n] = Max(@, index)]
    /\ budget' = [budget EXCEPT !.snapshots = @ - 1]
    /\ UNCHANGED <<serverVars, log, persisted, voteVars, leaderVars, elections, committed>>

\* A snapshot of the log `from` up to `index`. If its log holds the snapshot's last entry, a server keeps its log and only
\* learns that so much is committed.
Holds(n, index, from) == index <= Len(log[n]) /\ TermAt(log[n], index) = TermAt(from, index)

TakeSnapshot(n, index, from, durable, acked) ==
    /\ index > commit_index[n]
    /\ log' = [log EXCEPT ![n] = IF Holds(n, index, from) /\ Bug # "SnapshotReplacesLog" THEN @ ELSE SubSeq(from, 1, index)]
    /\ base' = [base EXCEPT ![n] = index]
    /\ commit_index' = [commit_index EXCEPT ![n] = index]
    /\ persisted' = [persisted EXCEPT ![n] = Min(durable, Len(log'[n]))]
    /\ matched' = [matched EXCEPT ![current_term[n]][n] = Max(@, acked)]
    /\ role' = [role EXCEPT ![n] = "Follower"]
    /\ UNCHANGED <<current_term, voted_for, voteVars, leader_of, leader_log, leader_commit, elections, committed, budget>>

\* A follower that is too far behind takes the leader's snapshot.
InstallSnapshot(n) ==
    LET t == current_term[n] IN
    /\ t > 0
    /\ leader_of[t] \notin {None, n}
    /\ role[leader_of[t]] = "Leader" /\ current_term[leader_of[t]] = t
    /\ LET index == base[leader_of[t]] IN TakeSnapshot(n, index, log[leader_of[t]], MaxLog, index)

-----------------------------------------------------------------------------
\* Membership (dissertation sections 4.1 and 4.2)

\* One server at a time: a learner is added, a learner that has the entry which made it one becomes a voter, a voter a learner, or
\* a server is removed.
\* Not while a change is uncommitted, and not before an entry of the leader's own term is committed.
NextMemberships(n) ==
    LET voters == Voters(log[n])
        learners == Learners(log[n])
        t == current_term[n]
    IN {<<voters, learners \cup {m}>> : m \in Node \ (voters \cup learners)}
       \cup {<<voters \cup {m}, learners \ {m}>> : m \in {l \in learners : matched[t][l] >= MembershipIndex(log[n])}}
       \cup {<<voters \ {m}, learners \cup {m}>> : m \in voters}
       \cup {<<voters \ {m}, learners \ {m}>> : m \in voters \cup learners}

ChangeMembershipTo(n, voters, learners) ==
    /\ role[n] = "Leader"
    /\ budget.changes > 0
    /\ Len(log[n]) < MaxLog
    /\ voters # {}
    /\ MembershipIndex(log[n]) <= commit_index[n] \/ Bug = "ChangeWhilePending"
    /\ TermAt(log[n], commit_index[n]) = current_term[n] \/ Bug = "ChangeBeforeOwnCommit"
    /\ Appended(n, Entry(current_term[n], voters, learners))
    /\ budget' = [budget EXCEPT !.changes = @ - 1]
    /\ UNCHANGED <<serverVars, commit_index, base, persisted, voteVars, leader_of, leader_commit, matched,
                   elections, committed>>

\* Which of them is asked for is the operator's choice.
ChangeMembership(n) ==
    /\ budget.changes > 0
    /\ role[n] = "Leader"
    /\ \E next \in NextMemberships(n) : ChangeMembershipTo(n, next[1], next[2])

\* A leader that is not a voter any more leaves when its removal is committed.
LeaveOffice(n) ==
    /\ role[n] = "Leader"
    /\ n \notin VotersOf(n)
    /\ MembershipIndex(log[n]) <= commit_index[n]
    /\ role' = [role EXCEPT ![n] = "Follower"]
    /\ UNCHANGED <<current_term, voted_for, logVars, voteVars, leaderVars, elections, committed, budget>>

-----------------------------------------------------------------------------
\* A server crashes and starts again with what its disk has: of what a leader had not written yet, any part.
Restart(n) ==
    /\ budget.restarts > 0
    /\ budget' = [budget EXCEPT !.restarts = @ - 1]
    /\ role' = [role EXCEPT ![n] = "Follower"]
    /\ voted_for' = IF Bug = "VoteForgotten" THEN [voted_for EXCEPT ![n] = None] ELSE voted_for
    /\ IF Bug = "TermForgotten"
       THEN current_term' = [current_term EXCEPT ![n] = Max(1, LastTerm(log[n]))]
       ELSE UNCHANGED current_term
    /\ \E length \in persisted[n]..Len(log[n]) : log' = [log EXCEPT ![n] = SubSeq(@, 1, length)]
    /\ commit_index' = [commit_index EXCEPT ![n] = base[n]]
    /\ persisted' = [persisted EXCEPT ![n] = Len(log'[n])]
    /\ UNCHANGED <<base, voteVars, leaderVars, elections, committed>>

-----------------------------------------------------------------------------
Indexes == 0..MaxLog

\* Requests are taken with one entry or none (a heartbeat): one with more does at once what several of these do.
Next ==
    \/ \E n \in Node : PreVote(n)
    \/ \E n \in Node : Timeout(n)
    \/ \E n \in Node : HandleRequestVoteRequest(n)
    \/ \E n \in Node, t \in Terms : UpdateTerm(n, t)
    \/ \E n \in Node : BecomeLeader(n)
    \/ \E n \in Node : CheckQuorumFailed(n)
    \/ \E n \in Node : ClientRequest(n)
    \/ \E n \in Node : Persist(n)
    \/ \E n \in Node, last \in Indexes : \E prev \in {Max(last, 1) - 1, last} : AcceptAppendEntriesRequest(n, prev, last)
    \/ \E n \in Node, index \in Indexes : AdvanceCommitIndex(n, index)
    \/ \E n \in Node, index \in Indexes : LearnCommitIndex(n, index)
    \/ \E n \in Node, index \in Indexes : CompactLog(n, index)
    \/ \E n \in Node : InstallSnapshot(n)
    \/ \E n \in Node : ChangeMembership(n)
    \/ \E n \in Node : LeaveOffice(n)
    \/ \E n \in Node : Restart(n)

Spec == Init /\ [][Next]_vars

\* A state that Init leads to: one server has been elected in term 2, by all. Deep planted bugs are looked for from here.
InitLed ==
    \E first \in {CHOOSE n \in InitVoters : TRUE} :
        /\ current_term = [n \in Node |-> IF n \in InitMembers THEN 2 ELSE 0]
        /\ voted_for = [n \in Node |-> IF n \in InitVoters THEN first ELSE None]
        /\ role = [n \in Node |-> IF n = first THEN "Leader" ELSE "Follower"]
        /\ log = [n \in Node |-> IF n \in InitMembers THEN <<Founding>> ELSE <<>>]
        /\ commit_index = [n \in Node |-> Len(log[n])]
        /\ base = [n \in Node |-> 0]
        /\ persisted = [n \in Node |-> Len(log[n])]
        /\ requests = {[term |-> 2, candidate |-> first, last_term |-> 1, last_index |-> 1]}
        /\ votes = {[term |-> 2, voter |-> n, candidate |-> first] : n \in InitVoters}
        /\ leader_of = [t \in Terms |-> IF t = 2 THEN first ELSE None]
        /\ leader_log = [t \in Terms |-> IF t = 2 THEN <<Founding>> ELSE <<>>]
        /\ leader_commit = [t \in Terms |-> IF t = 2 THEN 1 ELSE 0]
        /\ matched = [t \in Terms |-> [n \in Node |-> 0]]
        /\ elections = {<<2, first>>}
        /\ committed = <<[entry |-> Founding, term |-> 1, held_by |-> InitVoters]>>
        /\ budget = [restarts |-> MaxRestarts, changes |-> MaxChanges, snapshots |-> MaxSnapshots]

\* Two servers have led in turn, as in Figure 8: the first appended an entry in term 2 that nobody else has, the
\* second was elected in term 3 by all others. The first one's entry is a change of the membership where changes are
\* allowed; otherwise the second has appended one, too.
First == CHOOSE n \in InitVoters : TRUE
Second == CHOOSE n \in InitVoters \ {First} : TRUE
Third == CHOOSE n \in InitVoters \ {First, Second} : TRUE
LedBy(n) == IF n = First THEN 2 ELSE 3
InitTurns ==
    LET mine == <<Founding, IF MaxChanges = 0 THEN Command(2) ELSE Entry(2, InitVoters \ {Third}, {})>>
        theirs == IF MaxChanges = 0 THEN <<Founding, Command(3)>> ELSE <<Founding>>
    IN
    /\ current_term = [n \in Node |-> LedBy(n)]
    /\ voted_for = [n \in Node |-> IF n = First THEN First ELSE Second]
    /\ role = [n \in Node |-> IF n = Second THEN "Leader" ELSE "Follower"]
    /\ log = [n \in Node |-> IF n = First THEN mine ELSE IF n = Second THEN theirs ELSE <<Founding>>]
    /\ commit_index = [n \in Node |-> 1]
    /\ base = [n \in Node |-> 0]
    /\ persisted = [n \in Node |-> Len(log[n])]
    /\ requests = {[term |-> 2, candidate |-> First, last_term |-> 1, last_index |-> 1],
                   [term |-> 3, candidate |-> Second, last_term |-> 1, last_index |-> 1]}
    /\ votes = {[term |-> 2, voter |-> n, candidate |-> First] : n \in Node}
               \cup {[term |-> 3, voter |-> n, candidate |-> Second] : n \in Node \ {First}}
    /\ leader_of = [t \in Terms |-> IF t = 2 THEN First ELSE IF t = 3 THEN Second ELSE None]
    /\ leader_log = [t \in Terms |-> IF t = 2 THEN mine ELSE IF t = 3 THEN theirs ELSE <<>>]
    /\ leader_commit = [t \in Terms |-> IF t \in {2, 3} THEN 1 ELSE 0]
    /\ matched = [t \in Terms |-> [n \in Node |-> 0]]
    /\ elections = {<<2, First>>, <<3, Second>>}
    /\ committed = <<[entry |-> Founding, term |-> 1, held_by |-> InitVoters]>>
    /\ budget = [restarts |-> MaxRestarts, changes |-> Min(MaxChanges, 1), snapshots |-> MaxSnapshots]

TurnsSpec == InitTurns /\ [][Next]_vars

\* A constraint: they go on taking turns, one candidate at a time, and nobody but a leader learns what is committed.
TakeTurns ==
    /\ \A r \in requests : r.candidate = (IF r.term % 2 = 0 THEN First ELSE Second)
    /\ Cardinality({n \in Node : role[n] \in {"PreCandidate", "Candidate"}}) <= 1
    /\ \A n \in Node \ {First, Second} : role[n] = "Follower"
    /\ \A n \in Node : commit_index[n] > 1 => role[n] = "Leader"

LedSpec == InitLed /\ [][Next]_vars

-----------------------------------------------------------------------------
TypeOK ==
    \A n \in Node :
        /\ current_term[n] \in 0..MaxTerm
        /\ voted_for[n] \in Node \cup {None}
        /\ role[n] \in {"Follower", "PreCandidate", "Candidate", "Leader"}
        /\ Len(log[n]) <= MaxLog
        /\ base[n] <= commit_index[n] /\ commit_index[n] <= MaxLog
        /\ persisted[n] <= MaxLog
        /\ role[n] = "Leader" => leader_of[current_term[n]] # None

\* At most one leader can be elected in a term.
ElectionSafety == \A e, f \in elections : e[1] = f[1] => e[2] = f[2]

\* A leader never overwrites or removes entries of its log.
LeaderAppendOnly ==
    [][\A n \in Node :
          (role[n] = "Leader" /\ role'[n] = "Leader" /\ current_term'[n] = current_term[n]) =>
              Len(log[n]) <= Len(log'[n]) /\ SubSeq(log'[n], 1, Len(log[n])) = log[n]]_vars

\* If two logs hold an entry with the same index and term, they are identical up to there.
LogMatching ==
    \A n, m \in Node : n # m =>
        \A i \in 1..Min(Len(log[n]), Len(log[m])) :
            log[n][i].term = log[m][i].term => SubSeq(log[n], 1, i) = SubSeq(log[m], 1, i)

\* An entry committed in a term is in the logs of the leaders of all later terms.
LeaderCompleteness ==
    \A t \in Terms : leader_of[t] # None =>
        \A i \in 1..Len(committed) : committed[i].term < t =>
            i <= Len(leader_log[t]) /\ leader_log[t][i] = committed[i].entry

\* No two servers ever apply different entries at one index.
StateMachineSafety ==
    \A n \in Node : \A i \in 1..commit_index[n] :
        i <= Len(log[n]) => i <= Len(committed) /\ log[n][i] = committed[i].entry

\* What was committed stays: a majority held it, and each of its copies still does.
CommittedNeverLost ==
    \A i \in 1..Len(committed) :
        /\ committed[i].held_by # {}
        /\ \A n \in committed[i].held_by : i <= Len(log[n]) /\ log[n][i] = committed[i].entry

-----------------------------------------------------------------------------
\* Probes: each must be violated.
ProbeTwoLeaders == \A n, m \in Node : role[n] = "Leader" /\ role[m] = "Leader" => n = m
ProbeCommit == Len(committed) < 3
ProbeOverwritten == \A n \in Node, t \in Terms : matched[t][n] > 0 =>
    matched[t][n] <= Len(log[n]) /\ log[n][matched[t][n]].term = leader_log[t][matched[t][n]].term
ProbeSnapshotInstalled == \A n \in Node : base[n] <= 0 \/ current_term[n] = 0 \/ leader_of[current_term[n]] = n \/ matched[current_term[n]][n] # base[n]
ProbeChange == \A n \in Node : log[n] = <<>> \/ Voters(log[n]) = InitVoters
ProbeLeaderRemoved == \A n \in Node : role[n] = "Leader" => n \in Voters(log[n])
ProbeTailLost == \A t \in Terms : leader_of[t] = None \/ Len(log[leader_of[t]]) >= Len(leader_log[t])

\* Liveness. With faults and terms used up an election may be split for good, which time (random timeouts) prevents and
\* which is not modelled; so what is checked is that a leader which stays gets everything committed that it appended.
StaysLeader(n) == <>[](role[n] = "Leader")
Fairness ==
    \A n \in Node :
        /\ WF_vars(Persist(n))
        /\ \A t \in Terms : WF_vars(UpdateTerm(n, t))
        /\ WF_vars(\E last \in 1..MaxLog : last > matched[Max(1, current_term[n])][n] /\ AcceptAppendEntriesRequest(n, last - 1, last))
        /\ WF_vars(\E index \in Indexes : AdvanceCommitIndex(n, index))
        /\ WF_vars(\E index \in Indexes : LearnCommitIndex(n, index))
        /\ WF_vars(InstallSnapshot(n))
LiveSpec == Spec /\ Fairness

CommitProgress == \A n \in Node :
    StaysLeader(n) => <>[](role[n] # "Leader" \/ TermAt(log[n], Len(log[n])) # current_term[n] \/ commit_index[n] = Len(log[n]))

Symmetry == Permutations(InitVoters)
=============================================================================
