"""Bugs planted in Raft: votes, the log, commits, membership, snapshots, reads, durability."""

from __future__ import annotations

from walrus.sim.mutants.plant import Mutant, Slip

VOTES = (
    Mutant.of(
        "vote_not_persisted",
        "ElectionSafety",
        "the term is written to the journal, the vote is not",
        Slip(
            "self._hard_state = self._current = hard_state",
            "self._hard_state = self._current = HardState(hard_state.term)",
        ),
        spec="raft:VoteForgotten",
    ),
    Mutant.of(
        "hard_state_not_persisted",
        "ElectionSafety",
        "neither term nor vote reach the journal, unless a snapshot does",
        Slip("if ready.hard_state is not None:", "if snapshot and ready.hard_state is not None:"),
        spec="raft:TermForgotten",
    ),
    Mutant.of(
        "vote_sent_before_durable",
        "ElectionSafety",
        "what reveals a term or a vote leaves at once",
        Slip("(self._after if self.hard_state_pending else self._messages)", "self._messages"),
    ),
    Mutant.of(
        "own_vote_counts_before_durable",
        "ElectionSafety",
        "a candidate counts its own vote before it is durable",
        Slip(
            "if self.role is Role.CANDIDATE and not self._outbox.hard_state_pending:",
            "if self.role is Role.CANDIDATE:",
        ),
    ),
    Mutant.of(
        "votes_twice",
        "ElectionSafety",
        "a server votes for each candidate that asks",
        Slip("self.voted_for in (None, sender)", "True"),
        Slip(
            "self._set_term_and_vote(self.current_term, sender)",
            "self._set_term_and_vote(self.current_term, self.voted_for or sender)",
        ),
        spec="raft:VotesTwice",
    ),
    Mutant.of(
        "votes_without_log_check",
        "LeaderCompleteness",
        "votes go to candidates whose log lacks what the voter's has (paper §5.4.1)",
        Slip("and LogPosition(message.last_log_term, message.last_log_index) >= self.log.last", ""),
        Slip("and theirs >= self.log.last", ""),
        spec="raft:VoteWithoutLogCheck",
    ),
    Mutant.of(
        "votes_by_length_only",
        "LeaderCompleteness",
        "the longer log wins a vote, whatever the terms of its last entries are",
        Slip(
            "and LogPosition(message.last_log_term, message.last_log_index) >= self.log.last",
            "and message.last_log_index >= self.log.last_index",
        ),
        Slip("and theirs >= self.log.last", "and message.last_log_index >= self.log.last_index"),
    ),
    Mutant.of(
        "prevotes_count_as_votes",
        "ElectionSafety",
        "an election begins with the pre-votes before it",
        Slip("self.granted.clear()", "pass"),
        spec="raft:OldVotesCount",
    ),
    Mutant.of(
        "wins_with_half",
        "ElectionSafety LeaderCompleteness",
        "half of the voters are enough to be elected",
        Slip(">= membership.quorum", ">= len(membership.voters) // 2", "Election.won"),
    ),
    Mutant.of(
        "votes_are_counted",
        "ElectionSafety LeaderCompleteness",
        "votes are counted, and not the voters that gave them: an answer that arrives twice counts twice",
        Slip(
            "if voter not in self.granted and voter not in self.refused:",
            "voter = -len(self.granted) if voter in self.granted else voter\n    if True:",
        ),
        Slip(
            "return len(self.granted.intersection(membership.voters)) >= membership.quorum",
            "return len(self.granted) >= membership.quorum",
        ),
    ),
    Mutant.of(
        "vote_forgotten_on_step_down",
        "ElectionSafety",
        "becoming a follower of the same term forgets whom it voted for",
        Slip("self.voted_for if term == self.current_term else None", "None"),
        Slip("assert term > self.current_term or self.voted_for in (None, voted_for)", "assert True"),
    ),
)

REPLICATION = (
    Mutant.of(
        "commits_old_terms",
        "LeaderCompleteness StateMachineSafety",
        "an entry of an earlier term is committed by counting its copies (paper §5.4.2, Figure 8)",
        Slip("or self.log.term_at(index) != self.current_term", ""),
        spec="raft:CommitOldTerm",
    ),
    Mutant.of(
        "commits_by_minority",
        "CommittedNeverLost LeaderCompleteness StateMachineSafety",
        "one copy too few is enough to commit",
        Slip("[membership.quorum - 1]", "[max(0, membership.quorum - 2)]"),
        spec="raft:CommitByMinority",
    ),
    Mutant.of(
        "learners_count",
        "CommittedNeverLost LeaderCompleteness",
        "learners count towards a commit",
        Slip("for voter in membership.voters", "for voter in membership.members"),
        spec="raft:LearnersCount",
    ),
    Mutant.of(
        "leader_counts_unwritten",
        "CommittedNeverLost",
        "the leader counts its own copy before it is durable",
        Slip("self._log.persisted_index", "self._log.last_index", "Leadership.quorum_match"),
        spec="raft:LeaderCountsUnwritten",
    ),
    Mutant.of(
        "acks_before_durable",
        "CommittedNeverLost",
        "a follower answers for entries when it has received them",
        Slip("self._after.append((to, message))", "self.send(to, message)"),
        spec="raft:AckBeforePersist",
    ),
    Mutant.of(
        "acks_with_the_first_sync",
        "CommittedNeverLost",
        "of two syncs under way the first one lets go what waits for the second",
        Slip("self._outstanding[-1].held", "self._outstanding[0].held"),
    ),
    Mutant.of(
        "truncation_keeps_persisted",
        "CommittedNeverLost TypeOK",
        "entries that replace others count as durable because the others were",
        Slip(
            "self.persisted_index = min(self.persisted_index, index - 1)",
            "pass",
        ),
        Slip("assert self.persisted_index <= self.last_index", "pass", "RaftLog.check_invariants"),
    ),
    Mutant.of(
        "replaced_entries_count_as_durable",
        "CommittedNeverLost LogMatching",
        "a sync of entries that were replaced meanwhile counts for their replacements",
        Slip("and self.term_at(entry.index) == entry.term", ""),
    ),
    Mutant.of(
        "truncation_keeps_saved",
        "CommittedNeverLost TypeOK LogMatching",
        "entries that replace others are not written to the journal",
        Slip(
            "self.saved_index = min(self.saved_index, index - 1)",
            "self.saved_index = min(self.saved_index, index)",
        ),
        Slip("<= self.saved_index <= self.last_index", "<= self.saved_index"),
    ),
    Mutant.of(
        "cuts_without_compare",
        "CommittedNeverLost LogMatching",
        "a late, shorter request cuts off what was acknowledged since (paper Figure 2, step 3)",
        Slip("if self.matches(entry.index, entry.term):", "if entry.index <= self.commit_index:"),
        spec="raft:CutWithoutCompare",
    ),
    Mutant.of(
        "accepts_without_predecessor",
        "LogMatching StateMachineSafety LeaderCompleteness",
        "the consistency check compares indexes and not terms",
        Slip(
            "if not self._log.matches(message.prev_log_index, message.prev_log_term):",
            "if message.prev_log_index > self._log.last_index:",
        ),
        spec="raft:NoPrevCheck",
    ),
    Mutant.of(
        "believes_any_commit_index",
        "StateMachineSafety LeaderCompleteness CommittedNeverLost",
        "a follower commits what it has, not what the request showed to agree",
        Slip(
            "self._learn_commit(min(message.leader_commit, upto))",
            "self._learn_commit(min(message.leader_commit, self._log.last_index))",
        ),
    ),
    Mutant.of(
        "acknowledges_its_whole_log",
        "CommittedNeverLost LogMatching",
        "a follower answers with the end of its log, not with what the request showed to agree",
        Slip(
            "self._acknowledge(sender, message, upto, added)",
            "self._acknowledge(sender, message, self._log.last_index, added)",
        ),
    ),
    Mutant.of(
        "conflict_rolls_back_committed",
        "TypeOK CommittedNeverLost",
        "a snapshot that the log agrees with cuts off what follows it",
        Slip(
            "if not (self.holds(snapshot.index) and self.term_at(snapshot.index) == snapshot.term):",
            "if True:",
        ),
        Slip(
            "if self._log.holds(message.last_index) and",
            "if False and",
        ),
        spec="raft:SnapshotReplacesLog",
    ),
)

MEMBERSHIP = (
    Mutant.of(
        "change_before_own_commit",
        "CommittedNeverLost LeaderCompleteness ElectionSafety",
        "a membership changes before its leader has committed an entry of its own term",
        Slip("or not leading.has_committed_in_term()", ""),
        spec="raft:ChangeBeforeOwnCommit",
    ),
    Mutant.of(
        "change_while_pending",
        "CommittedNeverLost LeaderCompleteness ElectionSafety",
        "a membership changes while the last change is not committed",
        Slip("if self.log.membership_index > self.commit_index:", "if False:"),
        spec="raft:ChangeWhilePending",
    ),
    Mutant.of(
        "membership_survives_truncation",
        "TypeOK LeaderCompleteness",
        "a membership that was cut off with its entry stays in force",
        Slip("while self._memberships[-1][0] >= index:", "while self._memberships[-1][0] > index:"),
    ),
    Mutant.of(
        "learner_votes_too_early",
        "CommittedNeverLost RolloverProgress",
        "a learner becomes a voter before it has caught up",
        Slip("if not all(map(leading.has_caught_up, newcomers)):", "if False:"),
    ),
)

SNAPSHOTS = (
    Mutant.of(
        "trims_before_durable",
        "CommittedNeverLost ElectionSafety",
        "the journal gives up what a checkpoint replaces while the checkpoint may still be lost",
        Slip("self._checkpoints[ready.number] = first", "self._storage.trim(self._topic, first)"),
    ),
    Mutant.of(
        "snapshot_acknowledged_before_durable",
        "CommittedNeverLost",
        "a follower says that it has installed a snapshot before the snapshot is durable",
        Slip(
            "(self._outbox.send_after if installed else self._outbox.send)(sender, answer)",
            "self._outbox.send(sender, answer)",
        ),
    ),
    Mutant.of(
        "snapshot_of_the_future",
        "StateMachineSafety",
        "the metadata's snapshot is labelled with an index that is not in it yet",
        Slip(
            "self.raft.compact(image.index, image.data())",
            "self.raft.compact(self.raft.log.applied_index, image.data())",
        ),
        spec="raft:SnapshotUncommitted",
    ),
    Mutant.of(
        "snapshot_moves_on",
        "StateMachineSafety",
        "what a command changes while a snapshot is made is in the snapshot, which is of before",
        Slip("self._image.before(command)", "pass"),
    ),
    Mutant.of(
        "commands_applied_to_half_a_snapshot",
        "StateMachineSafety",
        "commands that follow a snapshot are applied while some of its topics are not taken over yet",
        Slip(
            "if self._takeover is None and (entries := self._next_committed()):",
            "if entries := self._next_committed():",
        ),
    ),
    Mutant.of(
        "snapshot_pieces_repeat",
        "StateMachineSafety SnapshotError DecodeError ValidationError TypeOK",
        "a piece of a snapshot that arrives twice is taken twice",
        Slip(
            "if chunk.offset == len(self._data):",
            "if chunk.offset <= len(self._data):",
        ),
    ),
    Mutant.of(
        "snapshot_pieces_of_two_leaders",
        "StateMachineSafety SnapshotError DecodeError",
        "pieces of two snapshots are put together",
        Slip("if source != self._source:", "if source[0] == sender and self._source is None:"),
    ),
)

READS = (
    Mutant.of(
        "read_before_own_commit",
        "ReadIndex",
        "a new leader confirms reads before it knows what is committed (dissertation §6.4)",
        Slip("if not self._reads or not self.has_committed_in_term():", "if not self._reads:"),
        Slip("return confirmed and self.has_committed_in_term()", "return confirmed"),
    ),
    Mutant.of(
        "read_index_too_early",
        "ReadIndex",
        "a read is confirmed at one entry less than what is committed",
        Slip("self._log.commit_index))", "self._log.commit_index - 1))"),
    ),
    Mutant.of(
        "read_confirmed_by_an_older_round",
        "ReadIndex",
        "heartbeats that were sent before a read confirm it",
        Slip(
            "self._reads.extend((context, self.round) for context in self.new_reads)",
            "self._reads.extend((context, self.round - 1) for context in self.new_reads)",
        ),
    ),
    Mutant.of(
        "read_joined_under_way",
        "ReadIndex",
        "a question joins a ReadIndex that was asked before it",
        Slip(
            "self._waiting.append(",
            "(self._asked if self._request else self._waiting).append(",
            "ReadIndexes.ask",
        ),
    ),
    Mutant.of(
        "read_answered_before_applied",
        "ReadIndex",
        "a confirmed read is answered before the metadata is applied up to its index",
        Slip("if self._index is None or self._applied < self._index:", "if self._index is None:"),
    ),
    Mutant.of(
        "deposed_leader_dates_its_lease",
        "Lease",
        "a Raft leader counts as heard from although no majority answers it",
        Slip(
            "return self._leadership.quorum_contact if self._leadership else self._last_contact",
            "return self._now if self._leadership else self._last_contact",
        ),
    ),
)

ALL = (*VOTES, *REPLICATION, *MEMBERSHIP, *SNAPSHOTS, *READS)
