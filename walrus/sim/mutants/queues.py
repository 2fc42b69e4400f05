"""Bugs planted in work queues: what is handed out, what counts as acknowledged, and who may say so."""

from __future__ import annotations

from walrus.sim.mutants.plant import Mutant, Slip

ALL = (
    Mutant.of(
        "ack_answered_before_the_commit",
        "PromisedIsCommitted AckedNotRedelivered",
        "an ACK is answered OK as soon as the owner has noted it",
        Slip(
            "ready = all(done.covers(Position(number, a), b - a) for number, a, b in waits.entries)",
            "ready = True",
        ),
        spec="delivery:OkBeforeCommit",
    ),
    Mutant.of(
        "mark_past_a_hole",
        "NothingSkipped",
        "what is proposed as done reaches up to the last acknowledged entry",
        Slip("above=runs_of(self.noted))", "low=max(self.noted))"),
        spec="delivery:MarkPastHole",
    ),
    Mutant.of(
        "timeout_acknowledges",
        "NothingSkipped EveryEntryAcked",
        "an entry whose visibility timeout ends counts as acknowledged",
        Slip("self._return(position, now)", "self._forget(position); self.noted.add(position)"),
        spec="delivery:ExpireAcknowledges",
    ),
    Mutant.of(
        "window_without_end",
        "OutIsBounded",
        "entries are handed out however far they are above the mark",
        Slip("return topic.distance(self.done.low, position) < self._window", "return True"),
        spec="delivery:NoWindow",
    ),
    Mutant.of(
        "join_without_the_runs",
        "MarkOnlyRises AckedNotRedelivered PromisedIsCommitted",
        "a commit replaces what was done above the mark instead of joining it",
        Slip("sorted({*self.above, *other.above})", "sorted(other.above)"),
        spec="delivery:JoinWithoutRanges",
    ),
    Mutant.of(
        "only_the_mark_counts",
        "AckedNotRedelivered TypeOK",
        "an owner hands out what is done above the mark",
        Slip(
            "return position in self.noted or self.done.covers(position)",
            "return position in self.noted or position < self.done.low",
        ),
    ),
    Mutant.of(
        "receipt_of_before_the_seek",
        "NothingSkipped",
        "an ACK from before a SEEK counts after it",
        Slip("if receipt.generation != self.done.generation:", "if False:"),
        spec="delivery:OldGenerationCounts",
    ),
    Mutant.of(
        "acknowledged_and_never_proposed",
        "EveryEntryAcked PromisedIsCommitted Replies",
        "what is acknowledged is never proposed",
        Slip("self._propose(CommitGroups(groups=groups, dead=dead), now)", "pass"),
    ),
)
