-------------------------------- MODULE Raft --------------------------------
(***************************************************************************)
(* The consensus core of Walrus: Raft with pre-votes, snapshots, learners  *)
(* and membership changes of one server at a time. Variables and actions   *)
(* are named as in the paper's Figure 2 and in the code (walrus/raft.py).  *)
(*                                                                         *)
(* The network. A message that was sent may arrive at any later time,      *)
(* again, or never. All that a leader of term T ever sends are slices of   *)
(* its log, which only grows while it leads: `leader_log[T]` stands for    *)
(* all its AppendEntries at once, `leader_commit[T]` for all the commit    *)
(* indexes in them, `matched[T][n]` for all the answers of n, and `votes`  *)
(* for all votes. A late, repeated or lost message is a slice that is      *)
(* taken late, twice or not at all.                                        *)
(*                                                                         *)
(* The disk. A server answers only when what it answers for is durable, so *)
(* term, vote and a follower's entries change and become durable in one    *)
(* step: a crash in between is indistinguishable from the message not      *)
(* having arrived. Only a leader sends entries before it has written them; *)
(* `persisted` says how far it has, and it counts itself only that far.    *)
(*                                                                         *)
(* `log` is the whole log. Up to `base` a server keeps a snapshot instead, *)
(* which holds the same state and the membership. The model keeps those    *)
(* entries for the invariants, and lets them arrive: they may have been    *)
(* sent before the leader made the snapshot.                               *)
(*                                                                         *)
(* Left out: time. CheckQuorum and leader stickiness decide when elections *)
(* are held, and here they may be held at any time. A pre-vote only makes  *)
(* elections rarer, so most configurations leave it out, too.              *)
(*                                                                         *)
(* Every bound is a constant. What each configuration is for stands in it; *)
(* walrus/tlc/mutants.py has the bugs that it must refuse.                 *)
(***************************************************************************)
EXTENDS Naturals, Sequences, FiniteSets, TLC

CONSTANTS
    Node,
    InitVoters,          \* the servers that the cluster was founded with
    InitLearners,
    MayCampaign,         \* the servers whose election timers run out
    PreVotes,            \* TRUE: an election is held only after a successful pre-vote
    Begun,               \* how many terms have passed when a behaviour begins, see InitAt
    MaxTerm, MaxLog,
    Commands,            \* FALSE: leaders append no-ops and changes of the membership only
    MaxRestarts,
    MaxChanges,          \* of the membership
    Changes,             \* the kinds of change that are asked for: "add", "promote", "demote", "remove"
    MaxSnapshots,
    MaxStepDowns,        \* of leaders that no majority answers
    None

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
    elections,           \* PROOF {<<T, n>>}: every server that ever became leader
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
\* knows of no cluster: it is passive, and neither votes nor campaigns.
MembershipIndexes(l) == {i \in 1..Len(l) : IsMembership(l[i])}
MembershipIndex(l) ==
    IF MembershipIndexes(l) = {} THEN 0
    ELSE CHOOSE i \in MembershipIndexes(l) : \A j \in MembershipIndexes(l) : j <= i
Voters(l) == IF MembershipIndex(l) = 0 THEN {} ELSE l[MembershipIndex(l)].voters
Learners(l) == IF MembershipIndex(l) = 0 THEN {} ELSE l[MembershipIndex(l)].learners
VotersOf(n) == Voters(log[n])

\* A server may be elected by the membership in force, or by the one before while it does not know
\* that the newer one is committed: it may be the only one whose log is complete enough to commit its
\* own removal (dissertation section 4.2.2).
Electable(n) ==
    LET newest == MembershipIndex(log[n]) IN
    \/ n \in VotersOf(n)
    \/ newest > commit_index[n] /\ n \in Voters(SubSeq(log[n], 1, newest - 1))

-----------------------------------------------------------------------------
\* The beginning. The cluster was founded by one entry that all first members have, and have committed.
\* What needs several elections is deep below that, and a search that begins there spends its time on
\* the way. So a configuration may begin when `Begun` terms have passed in which two servers led in turn:
\*    1  nothing has happened
\*    2  the first one was elected, by all
\*    3  it appended an entry that no other server has; the second one was elected by all others
\*    4  that one has appended an entry, too; the first one was elected again, by all but the second:
\*       Figure 8 (c)
\* A leader that was deposed has not heard of it. Where the membership may change, the first one's entry
\* removes a third server, and the second one's is not there. Each of these states is reached from the
\* one before (ProbeBegins).
First == CHOOSE n \in MayCampaign : TRUE
Second == CHOOSE n \in MayCampaign \ {First} : TRUE
Third == CHOOSE n \in InitVoters \ {First, Second} : TRUE
LedBy(t) == IF t % 2 = 0 THEN First ELSE Second

Founding == Entry(1, InitVoters, InitLearners)
InitMembers == InitVoters \cup InitLearners

LogAt(begun, n) ==
    CASE n \notin InitMembers -> <<>>
      [] n = First /\ begun >= 3 ->
            <<Founding, IF MaxChanges = 0 THEN Command(2) ELSE Entry(2, InitVoters \ {Third}, InitLearners)>>
      [] n = Second /\ begun >= 3 /\ MaxChanges = 0 -> <<Founding, Command(3)>>
      [] OTHER -> <<Founding>>

TermOf(begun, n) ==
    CASE n \notin InitMembers -> 0
      [] n = First /\ begun = 3 -> 2
      [] n = Second /\ begun = 4 -> 3
      [] OTHER -> begun

\* The voters that elected the leader of term t: all, but not the one that led before.
Electors(t) == InitVoters \ (IF t = 2 THEN {} ELSE {LedBy(t - 1)})

InitAt(begun) ==
    LET led == {t \in Terms : 2 <= t /\ t <= begun}
        stood(t) == Len(IF t <= 3 THEN <<Founding>> ELSE LogAt(begun, LedBy(t)))
    IN
    /\ current_term = [n \in Node |-> TermOf(begun, n)]
    /\ voted_for = [n \in Node |-> LET t == TermOf(begun, n) IN
                       IF t < 2 \/ n \notin InitVoters THEN None ELSE LedBy(t)]
    /\ role = [n \in Node |-> IF TermOf(begun, n) >= 2 /\ n = LedBy(TermOf(begun, n)) THEN "Leader"
                             ELSE "Follower"]
    /\ log = [n \in Node |-> LogAt(begun, n)]
    /\ commit_index = [n \in Node |-> Min(1, Len(log[n]))]
    /\ base = [n \in Node |-> 0]
    /\ persisted = [n \in Node |-> Len(log[n])]
    /\ requests = {[term |-> t, candidate |-> LedBy(t), last_term |-> IF t = 4 THEN 2 ELSE 1,
                    last_index |-> stood(t)] : t \in led}
    /\ votes = UNION {{[term |-> t, voter |-> n, candidate |-> LedBy(t)] : n \in Electors(t)} : t \in led}
    /\ leader_of = [t \in Terms |-> IF t \in led THEN LedBy(t) ELSE None]
    /\ leader_log = [t \in Terms |-> IF t \in led THEN LogAt(begun, LedBy(t)) ELSE <<>>]
    /\ leader_commit = [t \in Terms |-> IF t \in led THEN 1 ELSE 0]
    /\ matched = [t \in Terms |-> [n \in Node |-> 0]]
    /\ elections = {<<t, LedBy(t)>> : t \in led}
    /\ committed = <<[entry |-> Founding, term |-> 1, held_by |-> InitVoters]>>
    /\ budget = [restarts |-> MaxRestarts, snapshots |-> MaxSnapshots, step_downs |-> MaxStepDowns,
                 changes |-> IF begun >= 3 THEN Min(MaxChanges, 1) ELSE MaxChanges]

Init == InitAt(Begun)

-----------------------------------------------------------------------------
\* Elections (paper section 5.2, dissertation section 9.6)

\* The election timer ran out: a voter asks for pre-votes. No server's term changes.
PreVote(n) ==
    /\ PreVotes
    /\ n \in MayCampaign
    /\ role[n] \in {"Follower", "Candidate"}
    /\ Electable(n)
    /\ role' = [role EXCEPT ![n] = "PreCandidate"]
    /\ UNCHANGED <<current_term, voted_for, logVars, voteVars, leaderVars, elections, committed, budget>>

\* The servers that would grant n a pre-vote.
Willing(n) == {m \in Node : /\ current_term[m] <= current_term[n] + 1
                            /\ log[m] # <<>>
                            /\ AtLeast(LastTerm(log[n]), Len(log[n]), log[m])}

\* A server campaigns in a new term, with its own vote.
Campaign(n) ==
    LET t == current_term[n] + 1 IN
    /\ t <= MaxTerm
    /\ Electable(n)
    /\ current_term' = [current_term EXCEPT ![n] = t]
    /\ voted_for' = [voted_for EXCEPT ![n] = n]
    /\ role' = [role EXCEPT ![n] = "Candidate"]
    /\ requests' = requests \cup
          {[term |-> t, candidate |-> n, last_term |-> LastTerm(log[n]), last_index |-> Len(log[n])]}
    /\ votes' = votes \cup {[term |-> t, voter |-> n, candidate |-> n]}
    /\ UNCHANGED <<logVars, leaderVars, elections, committed, budget>>

\* The leader, whose log n holds completely, told it to campaign (leadership transfer, dissertation
\* section 3.10).
ToldToStand(n) ==
    /\ role[n] = "Follower"
    /\ current_term[n] > 0
    /\ leader_of[current_term[n]] \notin {None, n}
    /\ matched[current_term[n]][n] = Len(leader_log[current_term[n]])

\* An election begins: a majority granted the pre-vote, or the leader asked for it. Without pre-votes
\* a server campaigns as soon as its timer runs out.
Timeout(n) ==
    /\ n \in MayCampaign
    /\ role[n] # "Leader"
    /\ \/ ~PreVotes
       \/ role[n] = "PreCandidate" /\ Quorum(Willing(n), VotersOf(n))
       \/ ToldToStand(n)
    /\ Campaign(n)

\* A server votes once a term, for a log at least as complete as its own (section 5.4.1).
HandleRequestVoteRequest(n) ==
    \E r \in requests :
        /\ r.term = current_term[n]
        /\ r.candidate # n
        /\ log[n] # <<>>
        /\ voted_for[n] \in {None, r.candidate}
        /\ AtLeast(r.last_term, r.last_index, log[n])
        /\ [term |-> r.term, voter |-> n, candidate |-> r.candidate] \notin votes
        /\ voted_for' = [voted_for EXCEPT ![n] = r.candidate]
        /\ votes' = votes \cup {[term |-> r.term, voter |-> n, candidate |-> r.candidate]}
        /\ role' = [role EXCEPT ![n] = IF @ = "PreCandidate" THEN "Follower" ELSE @]
        /\ UNCHANGED <<current_term, requests, logVars, leaderVars, elections, committed, budget>>

\* A message of a newer term turns its receiver into a follower of that term.
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
        given == {v \in votes : v.candidate = n /\ v.term = t}
    IN
    /\ role[n] = "Candidate"
    /\ Quorum({v.voter : v \in given}, VotersOf(n))
    /\ role' = [role EXCEPT ![n] = "Leader"]
    /\ leader_of' = [leader_of EXCEPT ![t] = n]
    /\ leader_log' = [leader_log EXCEPT ![t] = log[n]]
    /\ leader_commit' = [leader_commit EXCEPT ![t] = commit_index[n]]
    /\ elections' = elections \cup {<<t, n>>}
    /\ UNCHANGED <<current_term, voted_for, logVars, voteVars, matched, committed, budget>>

\* A leader that no majority answers steps down (dissertation section 6.2).
CheckQuorumFailed(n) ==
    /\ budget.step_downs > 0
    /\ role[n] = "Leader"
    /\ role' = [role EXCEPT ![n] = "Follower"]
    /\ budget' = [budget EXCEPT !.step_downs = @ - 1]
    /\ UNCHANGED <<current_term, voted_for, logVars, voteVars, leaderVars, elections, committed>>

-----------------------------------------------------------------------------
\* Replication (paper section 5.3)

Appended(n, entry) ==
    /\ log' = [log EXCEPT ![n] = Append(@, entry)]
    /\ leader_log' = [leader_log EXCEPT ![current_term[n]] = log'[n]]

\* The leader appends an entry and may send it at once, before it is on its own disk (dissertation
\* section 10.2.1). The no-op of a new leader is one too: its first entry.
ClientRequest(n) ==
    /\ role[n] = "Leader"
    /\ Len(log[n]) < MaxLog
    /\ Commands \/ LastTerm(log[n]) # current_term[n]
    /\ Appended(n, Command(current_term[n]))
    /\ UNCHANGED <<serverVars, commit_index, base, persisted, voteVars, leader_of, leader_commit, matched,
                   elections, committed, budget>>

\* What the leader appended is on its disk.
Persist(n) ==
    /\ persisted[n] < Len(log[n])
    /\ persisted' = [persisted EXCEPT ![n] = Len(log[n])]
    /\ UNCHANGED <<serverVars, log, commit_index, base, voteVars, leaderVars, elections, committed, budget>>

\* The requests that the leader of n's term sent or may have sent, and whose predecessor n holds.
MayTake(n, prev, last) ==
    LET t == current_term[n] IN
    /\ t > 0
    /\ leader_of[t] \notin {None, n}
    /\ prev <= last
    /\ last <= Len(leader_log[t])
    /\ prev <= Len(log[n])
    /\ TermAt(log[n], prev) = TermAt(leader_log[t], prev)

\* Its log with the entries from prev + 1 to last of the leader's. Entries are compared before anything
\* is cut off: an old request must not remove what a later one added.
Merged(n, prev, last) ==
    LET sent == leader_log[current_term[n]]
        conflict == \E i \in prev + 1..Min(last, Len(log[n])) : log[n][i].term # sent[i].term
    IN IF conflict \/ last > Len(log[n])
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

\* A follower takes a slice of its leader's log whose predecessor it holds, and answers once it is
\* durable. (The condition in the middle keeps a slice that changes nothing from being a step.)
AcceptAppendEntriesRequest(n, prev, last) ==
    /\ MayTake(n, prev, last)
    /\ LET merged == Merged(n, prev, last) IN
       /\ \/ merged # log[n]
          \/ last > matched[current_term[n]][n]
          \/ role[n] \in {"Candidate", "PreCandidate"}
       /\ TakeEntries(n, merged, Len(merged), last)

\* The servers that hold the leader's entry at `index` durably, by all that the leader knows. Its own
\* copy counts once it is on its own disk.
Holders(n, index) ==
    {m \in Node : IF m = n THEN persisted[n] >= index ELSE matched[current_term[n]][m] >= index}

\* The commit rule (section 5.4.2): a majority of the voters holds the entry durably, and the entry is
\* of the leader's own term. Counting copies of an older entry is Figure 8's mistake.
AdvanceCommitIndex(n, index) ==
    LET t == current_term[n]
        new == [i \in 1..Max(0, index - Len(committed)) |->
                   [entry |-> log[n][Len(committed) + i], term |-> t,
                    held_by |-> Holders(n, index) \cap VotersOf(n)]]
    IN
    /\ role[n] = "Leader"
    /\ commit_index[n] < index
    /\ index <= Len(log[n])
    /\ log[n][index].term = t
    /\ Quorum(Holders(n, index), VotersOf(n))
    /\ commit_index' = [commit_index EXCEPT ![n] = index]
    /\ leader_commit' = [leader_commit EXCEPT ![t] = index]
    /\ committed' = committed \o new
    /\ UNCHANGED <<serverVars, log, base, persisted, voteVars, leader_of, leader_log, matched,
                   elections, budget>>

\* A follower learns that so much is committed, where its log is known to agree with the leader's up
\* to `agreed`.
LearnUpTo(n, index, agreed) ==
    LET t == current_term[n] IN
    /\ t > 0
    /\ role[n] = "Follower"
    /\ commit_index[n] < index
    /\ index <= leader_commit[t]
    /\ index <= agreed
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
    /\ index <= commit_index[n]
    /\ base' = [base EXCEPT ![n] = index]
    /\ budget' = [budget EXCEPT !.snapshots = @ - 1]
    /\ UNCHANGED <<serverVars, log, commit_index, persisted, voteVars, leaderVars, elections, committed>>

\* n's log holds the last entry of a snapshot of the log `from` up to `index`, and so all before it.
Holds(n, index, from) == index <= Len(log[n]) /\ TermAt(log[n], index) = TermAt(from, index)

\* n takes a snapshot of the log `from` up to `index`. If its own log holds the snapshot's last entry,
\* it keeps its log, and only learns that so much is committed.
TakeSnapshot(n, index, from, durable, acked) ==
    /\ index > commit_index[n]
    /\ log' = [log EXCEPT ![n] = IF Holds(n, index, from) THEN @ ELSE SubSeq(from, 1, index)]
    /\ base' = [base EXCEPT ![n] = index]
    /\ commit_index' = [commit_index EXCEPT ![n] = index]
    /\ persisted' = [persisted EXCEPT ![n] = Min(durable, Len(log'[n]))]
    /\ matched' = [matched EXCEPT ![current_term[n]][n] = Max(@, acked)]
    /\ role' = [role EXCEPT ![n] = "Follower"]
    /\ UNCHANGED <<current_term, voted_for, voteVars, leader_of, leader_log, leader_commit,
                   elections, committed, budget>>

\* A follower that is too far behind takes the leader's snapshot.
InstallSnapshot(n) ==
    LET t == current_term[n] IN
    /\ t > 0
    /\ leader_of[t] \notin {None, n}
    /\ role[leader_of[t]] = "Leader"
    /\ current_term[leader_of[t]] = t
    /\ LET index == base[leader_of[t]] IN TakeSnapshot(n, index, log[leader_of[t]], MaxLog, index)

-----------------------------------------------------------------------------
\* Membership (dissertation sections 4.1 and 4.2)

\* The memberships that n may change to, of one server at a time: a learner is added, a learner that
\* has the entry which made it one becomes a voter, a voter a learner, or a server is removed.
NextMemberships(n) ==
    LET voters == Voters(log[n])
        learners == Learners(log[n])
        caught_up == {l \in learners : matched[current_term[n]][l] >= MembershipIndex(log[n])}
        change == [add |-> {<<voters, learners \cup {m}>> : m \in Node \ (voters \cup learners)},
                   promote |-> {<<voters \cup {m}, learners \ {m}>> : m \in caught_up},
                   demote |-> {<<voters \ {m}, learners \cup {m}>> : m \in voters},
                   remove |-> {<<voters \ {m}, learners \ {m}>> : m \in voters \cup learners}]
    IN UNION {change[kind] : kind \in Changes}

\* Not while a change is uncommitted, and not before an entry of the leader's own term is committed.
ChangeMembershipTo(n, voters, learners) ==
    /\ role[n] = "Leader"
    /\ budget.changes > 0
    /\ Len(log[n]) < MaxLog
    /\ voters # {}
    /\ MembershipIndex(log[n]) <= commit_index[n]
    /\ TermAt(log[n], commit_index[n]) = current_term[n]
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
StepDown(n) ==
    /\ role[n] = "Leader"
    /\ n \notin VotersOf(n)
    /\ MembershipIndex(log[n]) <= commit_index[n]
    /\ role' = [role EXCEPT ![n] = "Follower"]
    /\ UNCHANGED <<current_term, voted_for, logVars, voteVars, leaderVars, elections, committed, budget>>

-----------------------------------------------------------------------------
\* A server crashes and starts again with what its disk has: of what a leader had not written yet, any
\* part.
Restart(n) ==
    /\ budget.restarts > 0
    /\ budget' = [budget EXCEPT !.restarts = @ - 1]
    /\ role' = [role EXCEPT ![n] = "Follower"]
    /\ \E length \in persisted[n]..Len(log[n]) : log' = [log EXCEPT ![n] = SubSeq(@, 1, length)]
    /\ commit_index' = [commit_index EXCEPT ![n] = base[n]]
    /\ persisted' = [persisted EXCEPT ![n] = Len(log'[n])]
    /\ UNCHANGED <<current_term, voted_for, base, voteVars, leaderVars, elections, committed>>

-----------------------------------------------------------------------------
Indexes == 0..MaxLog

\* Requests are taken with one entry or none (a heartbeat): one with more does at once what several of
\* these do.
Next ==
    \/ \E n \in Node : PreVote(n)
    \/ \E n \in Node : Timeout(n)
    \/ \E n \in Node : HandleRequestVoteRequest(n)
    \/ \E n \in Node, t \in Terms : UpdateTerm(n, t)
    \/ \E n \in Node : BecomeLeader(n)
    \/ \E n \in Node : CheckQuorumFailed(n)
    \/ \E n \in Node : ClientRequest(n)
    \/ \E n \in Node : Persist(n)
    \/ \E n \in Node, last \in Indexes :
          \E prev \in {Max(last, 1) - 1, last} : AcceptAppendEntriesRequest(n, prev, last)
    \/ \E n \in Node, index \in Indexes : AdvanceCommitIndex(n, index)
    \/ \E n \in Node, index \in Indexes : LearnCommitIndex(n, index)
    \/ \E n \in Node, index \in Indexes : CompactLog(n, index)
    \/ \E n \in Node : InstallSnapshot(n)
    \/ \E n \in Node : ChangeMembership(n)
    \/ \E n \in Node : StepDown(n)
    \/ \E n \in Node : Restart(n)

Spec == Init /\ [][Next]_vars

-----------------------------------------------------------------------------
TypeOK ==
    \A n \in Node :
        /\ current_term[n] \in 0..MaxTerm
        /\ voted_for[n] \in Node \cup {None}
        /\ role[n] \in {"Follower", "PreCandidate", "Candidate", "Leader"}
        /\ Len(log[n]) <= MaxLog
        /\ base[n] <= commit_index[n]
        /\ commit_index[n] <= Len(log[n])
        /\ persisted[n] <= Len(log[n])
        /\ role[n] = "Leader" => leader_of[current_term[n]] = n

\* At most one leader can be elected in a term.
ElectionSafety == \A e, f \in elections : e[1] = f[1] => e[2] = f[2]

\* A leader never overwrites or removes entries of its log.
AppendsOnly ==
    \A n \in Node :
        (role[n] = "Leader" /\ role'[n] = "Leader" /\ current_term'[n] = current_term[n]) =>
            Len(log[n]) <= Len(log'[n]) /\ SubSeq(log'[n], 1, Len(log[n])) = log[n]

LeaderAppendOnly == [][AppendsOnly]_vars

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
        /\ i <= Len(committed)
        /\ i <= Len(log[n])
        /\ log[n][i] = committed[i].entry

\* What was committed stays: a majority held it, and each of its copies still does.
CommittedNeverLost ==
    \A i \in 1..Len(committed) :
        /\ committed[i].held_by # {}
        /\ \A n \in committed[i].held_by : i <= Len(log[n]) /\ log[n][i] = committed[i].entry

-----------------------------------------------------------------------------
\* Probes: each must be violated.
ProbeTwoLeaders == \A n, m \in Node : role[n] = "Leader" /\ role[m] = "Leader" => n = m
ProbeOverwritten == \A n \in Node, t \in Terms : matched[t][n] > 0 =>
    /\ matched[t][n] <= Len(log[n])
    /\ log[n][matched[t][n]].term = leader_log[t][matched[t][n]].term
ProbeConflict == \A n, m \in Node : \A i \in 1..Min(Len(log[n]), Len(log[m])) : log[n][i] = log[m][i]
ProbeOldEntryCommitted == \A i \in 1..Len(committed) : committed[i].entry.term = committed[i].term
ProbeSnapshotInstalled == \A n \in Node : current_term[n] > 0 =>
    LET t == current_term[n] IN leader_of[t] \in {None, n} \/ matched[t][n] # base[n] \/ base[n] <= 1
ProbeSnapshotKeepsTail == \A n \in Node : role[n] = "Follower" /\ base[n] > 1 => base[n] = Len(log[n])
ProbeSnapshotReplaces == \A n \in Node : base[n] > 1 => LastTerm(log[n]) <= TermAt(log[n], base[n])
ProbeChange == \A n \in Node : log[n] = <<>> \/ Voters(log[n]) = InitVoters
ProbeLeaderRemoved == \A n \in Node : role[n] = "Leader" => n \in Voters(log[n])
ProbeBegins2 == ~InitAt(2)
ProbeBegins3 == ~InitAt(3)
ProbeBegins4 == ~InitAt(4)
ProbeTailLost == \A t \in Terms : leader_of[t] = None \/ Len(log[leader_of[t]]) >= Len(leader_log[t])

\* Liveness. With faults and terms used up an election may be split for good, which time (random
\* timeouts) prevents and which is not modelled; so what is checked is that a leader which stays gets
\* everything committed that it appended.
StaysLeader(n) == <>[](role[n] = "Leader")
Fairness ==
    \A n \in Node :
        /\ WF_vars(Persist(n))
        /\ \A t \in Terms : WF_vars(UpdateTerm(n, t))
        /\ WF_vars(\E last \in 1..MaxLog : /\ last > matched[Max(1, current_term[n])][n]
                                           /\ AcceptAppendEntriesRequest(n, last - 1, last))
        /\ WF_vars(\E index \in Indexes : AdvanceCommitIndex(n, index))
        /\ WF_vars(\E index \in Indexes : LearnCommitIndex(n, index))
        /\ WF_vars(InstallSnapshot(n))
LiveSpec == Spec /\ Fairness

CommitProgress == \A n \in Node :
    StaysLeader(n) => <>[](\/ role[n] # "Leader"
                           \/ TermAt(log[n], Len(log[n])) # current_term[n]
                           \/ commit_index[n] = Len(log[n]))

\* A bound for what would be too wide: the second server stands once the first one has made its changes of
\* the membership, of which the first removes the third server, and no other stands.
InTurn ==
    /\ \A r \in requests : r.term > 2 => r.candidate = Second /\ budget.changes = 0
    /\ \A i \in 2..Len(log[First]) : IsMembership(log[First][i]) => Third \notin log[First][i].voters

\* Servers that do the same are interchangeable: those that never campaign (if the beginning has no change
\* of the membership, which removes one of them) and, at the very beginning, those that may.
Symmetry ==
    (IF Cardinality(Node \ MayCampaign) > 1 THEN Permutations(Node \ MayCampaign) ELSE {})
    \cup (IF Begun = 1 THEN Permutations(MayCampaign) ELSE {})
=============================================================================
