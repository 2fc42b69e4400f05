"""Copying between nodes: one node extends its own copy of a segment from the copy of another.

Recovery asks a replica for it by message (`Copy`), repair makes new replicas with it, and a replica of a
sealed segment that lags does it by itself. The copy is read piece by piece (`Read`, `raw`) and every piece is
appended as it comes, so a pull that is cut short has lost nothing and is asked for again.

Invariant: pulling only ever extends a copy; what it has is neither cut back nor overwritten (PrefixAgree).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import msgspec

from walrus.replicas.copies import Copies, SegmentCopy
from walrus.replicas.reads import Reads
from walrus.storage.batch import Batch, Checksum
from walrus.storage.errors import DiskFull, StorageError
from walrus.wire.effects import Outbox, Trace
from walrus.wire.messages import Copy, CopyReply

MAX_PULLS = 4
"""Copies being extended at once by one node; further ones wait."""


class _Pull(msgspec.Struct):
    copy: SegmentCopy
    upto: int
    source: int
    then: dict[int, Callable[[], None]]
    """Callbacks by requester: a requester that asks again replaces only its own earlier callback."""
    asking: bool = False


class Puller:
    """Extends this node's copies from those of other nodes, a few at a time."""

    def __init__(self, *, copies: Copies, reads: Reads, outbox: Outbox, trace: Trace) -> None:
        self._copies, self._reads, self._outbox, self._trace = copies, reads, outbox, trace
        self._pulls: dict[str, _Pull] = {}  # by the copy's name: a shadow is another copy of the same segment

    def on_copy(self, sender: int, message: Copy, now: float) -> None:
        """A recovery or a repair asks for our copy to be extended; answered when it is, durably."""
        copy = self._copies.get((message.topic, message.segment))
        report = partial(self._report, sender, copy, message.upto)
        self.pull(copy, message.upto, message.source, now, report, asker=sender)

    def _report(self, to: int, copy: SegmentCopy, upto: int) -> None:
        """Say what was asked for, and not what a deposed writer may have left beyond it."""
        length = min(copy.durable, upto)

        def summed(checksum: Checksum | StorageError) -> None:
            if isinstance(checksum, StorageError):
                self._outbox.log(f"a copy that should be whole cannot be read: {checksum}")
                return
            self._outbox.send(
                to, CopyReply(topic=copy.key[0], segment=copy.key[1], length=length, checksum=checksum)
            )

        self._copies.when_summed(copy, length, summed)

    def pull(
        self,
        copy: SegmentCopy,
        upto: int,
        source: int,
        now: float,
        then: Callable[[], None],
        asker: int = 0,
    ) -> None:
        """Extend `copy` to `upto` entries from node `source`, then call `then` (not if it fails).

        `asker` is the node that wants it, 0 for this one by itself.
        """
        known = self._pulls.get(copy.name)
        if known is not None:  # asked again: perhaps for more, or from a source that still answers
            known.upto, known.source = max(upto, known.upto), source
            known.then[asker] = then
        else:
            self._pulls[copy.name] = _Pull(copy, upto, source, {asker: then})
        self._step(now)

    def pulling(self, copy: SegmentCopy) -> bool:
        """Whether that copy is being extended."""
        return copy.name in self._pulls

    def _step(self, now: float) -> None:
        for pull in list(self._first(MAX_PULLS)):
            if pull.copy.length >= pull.upto:
                del self._pulls[pull.copy.name]
                for then in pull.then.values():
                    self._copies.barrier(then)
            elif not pull.asking:
                self._ask(pull, now)

    def _first(self, count: int) -> Iterator[_Pull]:
        for _, pull in zip(range(count), self._pulls.values(), strict=False):
            yield pull

    def _ask(self, pull: _Pull, now: float) -> None:
        pull.asking = True
        (topic, number), start = pull.copy.key, pull.copy.length

        def answer(batch: Batch, error: str, at: float) -> None:
            pull.asking = False
            if error or not batch.count or self._pulls.get(pull.copy.name) is not pull:
                self._give_up(pull)
            else:
                self._extend(pull, start, batch)
            self._step(at)

        self._reads.ask(
            pull.source, topic, number, start, entries=pull.upto - start, raw=True, now=now, then=answer
        )

    def _extend(self, pull: _Pull, start: int, batch: Batch) -> None:
        try:
            batch.check()
            self._copies.append(pull.copy, start, batch.slice(0, pull.upto - start), lambda: None)
        except (DiskFull, ValueError):
            self._give_up(pull)
            return
        topic, number = pull.copy.key
        self._trace("CopyTail", topic=topic, segment=number, length=pull.copy.length)

    def _give_up(self, pull: _Pull) -> None:
        """The requesters ask again, perhaps from another source."""
        if self._pulls.get(pull.copy.name) is pull:
            del self._pulls[pull.copy.name]
