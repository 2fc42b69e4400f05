"""Bugs planted in exactly-once appends, and in append times.

What is appended again, and what is answered as if it had been appended.
"""

from __future__ import annotations

from walrus.sim.mutants.plant import Mutant, Slip

ALL = (
    Mutant.of(
        "repetition_appended",
        "NoDuplicateAppend",
        "what a producer sends again is appended again",
        Slip("max(0, min(stamp.entries, known.last + 1 - stamp.first))", "0"),
    ),
    Mutant.of(
        "gap_taken",
        "NumbersWithoutGap",
        "a number is appended although an earlier one is missing",
        Slip("if stamp.first > expected else errors.NO_ERROR", "if False else errors.NO_ERROR"),
        spec="publish:TakesGaps",
    ),
    Mutant.of(
        "seal_without_producers",
        "NoDuplicateAppend",
        "a healthy Seal says nothing of the producers",
        Slip("producers=writer.producers.since,", ""),
        spec="publish:SealWithoutTable",
    ),
    Mutant.of(
        "recovery_without_producers",
        "NoDuplicateAppend NumbersWithoutGap",
        "the Seal of a recovery says nothing of the producers",
        Slip("producers=recovery.found.producers,", ""),
        spec="publish:RecoveryForgetsTail",
    ),
    Mutant.of(
        "recovery_with_producers_of_any_copy",
        "NoDuplicateAppend NumbersWithoutGap",
        "a recovery takes the producers of the copy that answered last",
        Slip("self._source.producers", "[*self._fence_replies.values()][-1].producers"),
        spec="publish:RecoveryTakesWritersTable",
    ),
    Mutant.of(
        "repetition_answered_at_once",
        "RepeatOkImpliesAcked",
        "a repetition is answered although what it repeats is not acknowledged",
        Slip(
            "repeated = self.producers.repeated(batch.stamps[0])",
            "repeated = self.producers.repeated(batch.stamps[0]); repeated == batch.count and "
            "self._answer(pending.origin, pending.forward, repeated, repeated)",
        ),
        spec="publish:RepeatBeforeCommit",
    ),
    Mutant.of(
        "producer_forgotten_with_the_turn",
        "NoDuplicateAppend",
        "what a turn appended is not in what the Seal says",
        Slip("self.since |= self._turn", "pass"),
    ),
    Mutant.of(
        "time_of_a_clock_that_was_set_back",
        "TimesAscend",
        "a writer takes the time of its clock as it is",
        Slip("max(self._at, int(self._unix_time() * 1000))", "int(self._unix_time() * 1000)"),
    ),
    Mutant.of(
        "replicas_are_told_another_time",
        "TimesAgree",
        "the time of a frame is that of its sending",
        Slip("frame = self._frame(start, batch)", "frame = self._frame(start, batch.timed(at + 1))"),
    ),
)
