"""Bugs planted in the segment protocol: writers, replicas, fences, recovery, repair, durability, metadata."""

from __future__ import annotations

from walrus.sim.mutants.plant import Mutant, Slip

WRITING = (
    Mutant.of(
        "acks_at_one_copy",
        "AckedDurable",
        "one copy is enough to acknowledge",
        Slip("commit = lengths[len(lengths) - majority]", "commit = lengths[-1]"),
        spec="walrus:AckByMinority",
    ),
    Mutant.of(
        "acks_one_too_many",
        "AckedDurable",
        "a PUT is answered OK one entry before all of it is acknowledged",
        Slip("self._appended[0].end <= commit:", "self._appended[0].end <= commit + 1:"),
    ),
    Mutant.of(
        "acks_what_did_not_fit",
        "AckedDurable",
        "a PUT that fills a segment is answered OK with the part that went back",
        Slip(
            "self._answer(done.origin, done.forward, done.taken, done.taken, places, refused=refused)",
            "count = done.forward.batch.count\n"
            "        places = places[0], count\n"
            "        self._answer(done.origin, done.forward, count, count, places, refused=refused)",
        ),
    ),
    Mutant.of(
        "acks_before_fsync",
        "AckedDurable",
        "entries count as durable once they are written",
        Slip(
            "at = self._data.write(copy.name, new, partial(copy.on_durable, length, then))",
            "at = self._data.write(copy.name, new)\n    copy.on_durable(length, then)",
        ),
        spec="walrus:AckBeforeFsync",
    ),
    Mutant.of(
        "reports_what_is_written",
        "AckedDurable",
        "a replica answers a frame with what it has written, not with what is durable",
        Slip("length = copy.key, copy.durable", "length = copy.key, copy.length"),
    ),
    Mutant.of(
        "acks_after_its_fence",
        "AckedDurable",
        "a fenced writer goes on acknowledging",
        Slip("if self.copy.fenced or self.seal_proposed:", "if self.seal_proposed:"),
        Slip("self.on_fenced()\n        return", "pass", "SegmentWriter.on_reply"),
    ),
    Mutant.of(
        "writes_after_its_fence",
        "AckedDurable SealedStable PrefixAgree",
        "a writer goes on appending although its own node is fenced",
        Slip("and not self.copy.fenced", "", "SegmentWriter._may_append"),
        Slip("if self.copy.fenced or self.seal_proposed:", "if self.seal_proposed:"),
        Slip("if self.sealing or self.copy.fenced:", "if self.sealing:"),
        spec="walrus:WriterIgnoresFence",
    ),
    Mutant.of(
        "writes_while_sealing",
        "AckedDurable SealedStable",
        "a writer appends after it began to seal",
        Slip("and not self.sealing", ""),
        Slip("if self.sealing or self.copy.fenced:", "if self.copy.fenced:"),
        Slip("if self.copy.fenced or self.seal_proposed:", "if self.copy.fenced:"),
        spec="walrus:AppendsWhileSealing",
    ),
    Mutant.of(
        "sealed_before_acknowledged",
        "SealedStable AckedDurable",
        "the writer proposes its end before all that it appended is acknowledged",
        Slip("and self.commit_index == self.copy.length", ""),
    ),
    Mutant.of(
        "late_reports_count",
        "AckedDurable",
        "a report that was overtaken by a later one moves the commit index back",
        Slip(
            "self.match, self.heard_at = max(self.match, length), now",
            "self.match, self.heard_at = length, now",
        ),
        Slip("if commit <= self.commit_index:", "if commit == self.commit_index:"),
    ),
    Mutant.of(
        "takes_a_forward_twice",
        "Duplicate",
        "a forward that the network repeats is appended again",
        Slip("if forward.request <= self._shared.seen.get(origin, 0):", "if False:"),
    ),
    Mutant.of(
        "writes_without_lease",
        "Lease",
        "a writer does not look at its lease",
        Slip(
            "self._leases.holds(self.topic, self.number, now)",
            "self._leases.granted().get(self.topic) == self.number",
            "SegmentWriter._may_append",
        ),
    ),
    Mutant.of(
        "lease_never_expires",
        "Lease",
        "a lease holds although no Raft leader was heard",
        Slip("and now < self.expires_at()", ""),
    ),
    Mutant.of(
        "lease_outlives_its_segment",
        "OpenLeaderMatchesMap",
        "a lease stays when the segment is sealed",
        Slip("self._granted.pop(name, None)", "pass"),
        spec="walrus:LeaseOutlivesSegment",
    ),
    Mutant.of(
        "leader_resumes_after_restart",
        "SingleWriter OpenLeaderMatchesMap",
        "a restarted leader takes its old segment for its own",
        Slip(
            "(segment.leader, segment.incarnation) == (self._node_id, self._incarnation)",
            "segment.leader == self._node_id",
        ),
        spec="walrus:LeaderResumesAfterRestart",
    ),
    Mutant.of(
        "no_gap_check",
        "SeqOrder PrefixAgree",
        "a replica takes a frame that begins beyond its end",
        Slip("elif frame.start > copy.length:", "elif False:"),
        Slip('assert start <= copy.length, "SeqOrder: a gap in a copy"', "start = min(start, copy.length)"),
        spec="walrus:NoGapCheck",
    ),
    Mutant.of(
        "no_duplicate_check",
        "SeqOrder PrefixAgree SingleWriter",
        "a replica appends again what it has already",
        Slip(
            "new = batch if start == copy.length else batch.slice(copy.length - start, count)", "new = batch"
        ),
        spec="walrus:NoDuplicateCheck",
    ),
    Mutant.of(
        "frame_of_anybody",
        "SingleWriter PrefixAgree",
        "a replica takes frames of a node that does not lead the segment",
        Slip("or sender != segment.leader", ""),
    ),
    Mutant.of(
        "frame_of_a_sealed_segment",
        "SealedStable AckedDurable PrefixAgree",
        "a replica takes frames of a segment that is sealed",
        Slip("if segment.sealed or copy.fenced:", "if copy.fenced:"),
    ),
)

FENCING = (
    Mutant.of(
        "no_fence_check",
        "AckedDurable",
        "a fenced replica takes the writer's frames, and says that all is well",
        Slip("if segment.sealed or copy.fenced:", "if segment.sealed:"),
        Slip("fenced=fenced", "fenced=False"),
        spec="walrus:NoFenceCheck",
    ),
    Mutant.of(
        "fence_not_noted",
        "AckedDurable",
        "the length is read and answered, and the writer is not refused afterwards",
        Slip("self._note(copy, fenced=True, sure=copy.sure)", "pass"),
        spec="walrus:ReadThenFence",
    ),
    Mutant.of(
        "fence_forgotten_at_restart",
        "AckedDurable",
        "fences are noted and not read back",
        Slip(
            "notes[(note.topic, note.segment)] = note",
            "notes[(note.topic, note.segment)] = Note(note.topic, note.segment, False, note.sure)",
        ),
        spec="walrus:FenceForgottenAtRestart",
    ),
    Mutant.of(
        "fence_answered_before_noted",
        "AckedDurable",
        "a fence is answered before its note is durable",
        Slip("self._meta.barrier(partial(self._data.barrier, then))", "self._data.barrier(then)"),
    ),
    Mutant.of(
        "fence_answered_before_durable",
        "AckedDurable SealedStable",
        "a fence is answered before the entries that it counts are durable",
        Slip("self._meta.barrier(partial(self._data.barrier, then))", "self._meta.barrier(then)"),
    ),
    Mutant.of(
        "fence_answered_with_a_later_length",
        "AckedDurable SealedStable",
        "a fence is answered with the length at the time of the answer",
        Slip(
            "partial(self._answer_fence, sender, copy, length, damaged=False)",
            "lambda: self._answer_fence(sender, copy, copy.length, damaged=False)",
        ),
    ),
    Mutant.of(
        "sealed_after_one_fence",
        "AckedDurable",
        "one fenced replica is enough to recover",
        Slip("enough = sure >= self.segment.majority or", "enough = sure >= 1 or"),
        Slip("or len(self._fence_replies) < self.segment.majority", "", "SegmentRecovery._choose"),
        spec="walrus:MinorityFence",
    ),
    Mutant.of(
        "shortest_copy_wins",
        "AckedDurable",
        "recovery takes the shortest length that was answered",
        Slip("max(sorted(replies)", "min(sorted(replies)", "SegmentRecovery._choose"),
        spec="walrus:ShortestCopyWins",
    ),
    Mutant.of(
        "sealed_before_copied",
        "SealedStable",
        "recovery seals before a majority holds what it found",
        Slip("if whole >= self.segment.majority:", "if whole:"),
        spec="walrus:SealBeforeCopy",
    ),
    Mutant.of(
        "lengths_outlive_a_restarted_recovery",
        "SealedStable AckedDurable",
        "a recovery that begins again counts what the earlier attempt heard of",
        Slip(
            "self._fence_replies, self._have, self._source = {}, {}, None",
            "self._fence_replies, self._source = {}, None",
            "SegmentRecovery.on_tick",
        ),
    ),
    Mutant.of(
        "forced_recovery_takes_a_minority",
        "AckedDurable SealedStable",
        "RECOVER lets a recovery go on before a majority is fenced",
        Slip(
            "if self._source is not None or not enough or len(self._fence_replies) < self.segment.majority:",
            "if self._source is not None or not enough:",
            "SegmentRecovery._choose",
        ),
        Slip("if whole >= self.segment.majority:", "if whole >= self.segment.majority or self.forced:"),
    ),
    Mutant.of(
        "opens_what_is_fenced",
        "RolloverProgress FailoverProgress ReadProgress NoRest",
        "a leader opens a writer for a segment that is fenced already, and no node recovers it",
        Slip("if copy.length or copy.fenced:", "if copy.length:"),
        Slip("if writer.copy.fenced:", "if False:"),
    ),
    Mutant.of(
        "nobody_fails_over",
        "FailoverProgress ReadProgress RolloverProgress Replies NoRest",
        "the Raft leader recovers no segment of a dead leader",
        Slip("return restarted or not self._alive(segment.leader, now)", "return False"),
    ),
    Mutant.of(
        "nobody_seals",
        "RolloverProgress ReadProgress Replies NoRest",
        "a full segment stays open",
        Slip("elif writer.all_acknowledged:", "elif False:"),
    ),
)

DURABILITY = (
    Mutant.of(
        "raft_goes_on_before_durable",
        "CommittedNeverLost ElectionSafety",
        "what Raft writes counts as durable at once",
        Slip(
            "self._meta.barrier(partial(self._persisted, ready))",
            "self._persisted(ready)",
        ),
    ),
    Mutant.of(
        "copy_reported_before_durable",
        "SealedStable AckedDurable",
        "a copy that was extended is reported before it is durable",
        Slip("length = min(copy.durable, upto)", "length = min(copy.length, upto)"),
        Slip("self._copies.barrier(then)", "then()"),
    ),
    Mutant.of(
        "unsure_counts_as_sure",
        "AckedDurable SealedStable",
        "recovery trusts the length of a copy that a power loss may have shortened",
        Slip("sure = copy.sure and not damaged and not self._copies.in_doubt", "sure = not damaged"),
        spec="walrus:UnsureCountsAsSure",
    ),
    Mutant.of(
        "any_frame_makes_sure",
        "AckedDurable SealedStable",
        "a copy counts as whole with the first frame after its power loss",
        Slip("if copy.durable >= frame.end and not copy.sure:", "if not copy.sure:"),
        spec="walrus:OldFrameMakesSure",
    ),
    Mutant.of(
        "doubt_ends_with_the_snapshot",
        "AckedDurable SealedStable",
        "a journal that ends with its snapshot leaves no doubt after a power loss",
        Slip("return restored.snapshot.index if restored.snapshot else 0", "return 0", "_last_index"),
    ),
    Mutant.of(
        "doubt_not_restored",
        "AckedDurable SealedStable",
        "the copies of segments that come with a snapshot are not marked unsure",
        Slip("unsure = self.applied < self._unsure_to", "unsure = False"),
    ),
    Mutant.of(
        "doubts_noted_before_durable",
        "AckedDurable SealedStable",
        "a node is sure of itself again before its doubts are durably noted",
        Slip(
            "self.applied >= self._unsure_to and self._meta.durable == self._meta.written",
            "self.applied >= self._unsure_to",
        ),
    ),
    Mutant.of(
        "notes_cut_before_rewritten",
        "AckedDurable",
        "old notes are trimmed before the ones that replace them are durable",
        Slip("self._meta.barrier(partial(self._trim_notes, end))", "self._trim_notes(end)"),
    ),
    Mutant.of(
        "notes_dropped_for_an_older_checkpoint",
        "AckedDurable",
        "fences are forgotten as soon as any checkpoint is durable",
        Slip(" and ready.checkpoint.index == image.index", ""),
        spec="walrus:NoteDroppedTooEarly",
    ),
    Mutant.of(
        "notes_of_open_segments_dropped",
        "AckedDurable",
        "a checkpoint drops the fences of segments that are still open",
        Slip(
            "self.over.update(key for key in noted if self._was_over(*key))",
            "self.over.update(noted)",
        ),
    ),
)

REPAIRING = (
    Mutant.of(
        "replica_counts_before_copied",
        "SealedStable AckedDurable",
        "a replica enters the set before it holds the segment",
        Slip(
            "return self.added <= self.whole and",
            "return True or",
        ),
        spec="walrus:ReplicaBeforeCopy",
    ),
    Mutant.of(
        "one_proven_replica_is_enough",
        "SealedStable AckedDurable",
        "a replica set is changed although only the added replica has shown the whole segment",
        Slip("and len(self.whole) >= majority(len(self.new))", ""),
    ),
    Mutant.of(
        "lets_go_of_one_too_many",
        "ReplicasKept",
        "a replica set gives up a node that leaves although none takes its place",
        Slip("if len(staying) >= wanted:  # nothing", "if len(staying) >= wanted - 1:  # nothing"),
    ),
    Mutant.of(
        "set_replicas_without_compare",
        "SealedStable ReplicasKept NoRest",
        "a change of replicas is applied to another set than it was made for",
        Slip("or segment.replicas != command.old", ""),
        Slip(
            "_remove(self.sealed_at, command.old, (command.topic, command.segment))",
            "_remove(self.sealed_at, segment.replicas, (command.topic, command.segment))",
        ),
    ),
    Mutant.of(
        "removed_while_needed",
        "SealedStable AckedDurable",
        "a leaving node is removed while segments still need it",
        Slip(
            "if not self._metadata.needs(node) and self._can_do_without(node, now):",
            "if self._can_do_without(node, now):",
        ),
        Slip(
            "if self._is_meant(command) and not self.needs(command.node_id):", "if self._is_meant(command):"
        ),
    ),
    Mutant.of(
        "replicas_by_snapshot_unseen",
        "NoRest",
        "a node that gets the metadata as a snapshot does not look what it lacks",
        Slip("self.catch_up.on_snapshot()", "pass"),
    ),
    Mutant.of(
        "replicas_by_command_unseen",
        "NoRest",
        "a node that becomes a replica of a sealed segment does not look what it lacks",
        Slip("changes.replica_sets.append((topic, command.segment))", "pass"),
    ),
    Mutant.of(
        "laggards_never_catch_up",
        "NoRest",
        "a replica that lacked entries at the seal stays short",
        Slip("self._look((topic, number), segment)", "pass"),
    ),
    Mutant.of(
        "damage_stays",
        "NoRest",
        "a damaged copy is never made anew",
        Slip("if segment is not None and segment.sealed and key not in self._shadows:", "if False:"),
    ),
    Mutant.of(
        "damaged_counts_as_sure",
        "AckedDurable SealedStable",
        "a copy that ends before its damage answers a fence as if that were all it ever had",
        Slip(
            "sure = copy.sure and not damaged and not self._copies.in_doubt",
            "sure = copy.sure and not self._copies.in_doubt",
        ),
    ),
    Mutant.of(
        "damage_is_skipped",
        "PrefixAgree DeliveredIsPrefix",
        "a reader gets what follows a damaged entry in its place",
        Slip("except CorruptionError:", "except CorruptionError as damage:", "Copies.read"),
        Slip(
            "self._found_damage(copy)\n        raise",
            "return self._data.storage.read_batch(copy.name, damage.resume, most, max_bytes)",
        ),
    ),
    Mutant.of(
        "shorter_copy_kept",
        "AckedDurable SealedStable NoRest",
        "of a damaged copy and its unfinished replacement a restart keeps the shorter one",
        Slip(
            "shorter, found[key] = sorted([found.get(key, name), name], key=self._length)",
            "found[key], shorter = sorted([found.get(key, name), name], key=self._length)",
        ),
    ),
    Mutant.of(
        "shadow_begins_with_the_old_one",
        "SeqOrder PrefixAgree TypeOK",
        "a copy is made anew on top of an earlier attempt",
        Slip("self._data.storage.delete_topic(other)", "pass"),
    ),
)

DECIDING = (
    Mutant.of(
        "sealed_without_compare",
        "SealedStable LastSealedIsSum AckedDurable DomainConsistency",
        "a seal of a segment that is sealed already closes the one that is open",
        Slip("topic.current != command.segment", "topic.current < command.segment"),
        spec="walrus:SealWithoutCompare",
    ),
    Mutant.of(
        "total_misses_recoveries",
        "LastSealedIsSum",
        "segments that a recovery sealed do not count in the topic's total",
        Slip(
            "topic.sealed_total += command.count",
            "topic.sealed_total += 0 if command.recovered else command.count",
        ),
        spec="walrus:TotalMissesSeal",
    ),
    Mutant.of(
        "announced_by_an_older_start",
        "SingleWriter FailoverProgress Replies OpenLeaderMatchesMap ReadProgress",
        "an old announcement that arrives late counts",
        Slip("if known is not None and known.outdates(command.incarnation):", "if False:"),
    ),
    Mutant.of(
        "opened_for_the_last_start",
        "FailoverProgress SingleWriter RolloverProgress Replies ReadProgress",
        "a segment is opened for the start of its leader before the one that is known",
        Slip(
            "incarnation=self.nodes[leader].incarnation",
            "incarnation=max(0, self.nodes[leader].incarnation - 1)",
        ),
    ),
    Mutant.of(
        "dead_voters_hold_no_replica",
        "EnoughReplicas FailoverProgress SealedStable Replicas",
        "a segment that opens while a voter is down gets a smaller replica set",
        Slip("set(voters) - {leader}", "set(live) - {leader}"),
        spec="walrus:TooFewReplicasNext",
    ),
)

ALL = (*WRITING, *FENCING, *DURABILITY, *REPAIRING, *DECIDING)
