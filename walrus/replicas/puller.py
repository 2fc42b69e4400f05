"""Copying between nodes: one node extends its own copy of a segment from the copy of another.

Recovery requests a pull by message (`Copy`), repair creates new replicas with it, and a lagging replica of
a sealed segment starts one itself. A pull reads the copy piece by piece (`Read`, `raw`) and appends every
piece as it comes, so a pull that is interrupted has lost nothing and is requested again.

    state      what it is                               left when
    waiting    enough others are ahead of it            one of those ends, or its piece has come
    asking     a Read is in flight, from its own end    the piece comes (asking again, or done), or an error
    done       the copy has the requested length        it is durable, and the requesters have been told
    given up   forgotten; entries copied so far stay    a requester asks again, perhaps from another source

A pull reads one piece at a time: two in flight would have to be put in order when they arrive. Pulls run
concurrently, as many as fit into MAX_PULL_BYTES. Each piece reserves the bytes that it asks for, doubling
from FIRST_PIECE to LARGEST_PIECE, because the number of missing bytes is unknown before the first piece
arrives. So dozens of small segments share a round trip, while a few large ones fill the budget, in pieces
so large that a round trip costs little.

                   1st    2nd    3rd    4th    5th piece     side by side in 1 MiB
    10 KiB         all                                       64
    100 KiB        16     32     all                         32, then 16
    64 MiB         16     32     64     128    256, ...      4

Invariant: pulling only ever extends a copy, and neither truncates nor overwrites it (PrefixAgree).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import msgspec

from walrus.replicas.copies import Copies, SegmentCopy, Summary
from walrus.replicas.reads import Reads
from walrus.storage.batch import Batch
from walrus.storage.errors import DiskFull, StorageError
from walrus.wire.effects import Outbox
from walrus.wire.messages import Copy, CopyReply

MAX_PULL_BYTES = 1 << 20
"""What one node has asked for and not got, of all copies together; further ones wait.

It is in memory here and on its way at the sources, which have clients to serve on the same connections.
"""

MAX_PULLS = 64
"""Copies being extended at once by one node, however little each asks for."""

FIRST_PIECE = MAX_PULL_BYTES // MAX_PULLS
LARGEST_PIECE = MAX_PULL_BYTES // 4
"""Bytes. A piece has one entry at least, of whatever size."""


class _Pull(msgspec.Struct):
    """A copy that is being extended to `upto` entries from node `source`."""

    copy: SegmentCopy
    upto: int
    source: int
    then: dict[int, Callable[[], None]]
    """Callbacks by requester: a requester that asks again replaces only its own earlier callback."""
    piece: int = FIRST_PIECE
    """Bytes that its next piece may have."""
    asking: bool = False


class Puller:
    """Extends this node's copies from those of other nodes, a few at a time.

    Which copies, and from where, is up to the requesters; so is asking again when nothing comes.
    """

    def __init__(self, *, copies: Copies, reads: Reads, outbox: Outbox) -> None:
        self._copies, self._reads, self._outbox = copies, reads, outbox
        self._pulls: dict[str, _Pull] = {}  # by the copy's name: a shadow is another copy of the same segment

    def on_copy(self, sender: int, message: Copy, now: float) -> None:
        """A recovery or a repair asks for our copy to be extended; answered when it is, durably."""
        copy = self._copies.get((message.topic, message.segment))
        report = partial(self._report, sender, copy, message.upto)
        self.pull(copy, message.upto, message.source, now, report, asker=sender)

    def _report(self, to: int, copy: SegmentCopy, upto: int) -> None:
        """Say what was asked for, and not what a deposed writer may have left beyond it."""
        length = min(copy.durable, upto)
        assert length <= copy.durable, "SealedStable: a copy counts for more than a power loss would leave"
        assert length <= upto, "PrefixAgree: a deposed writer's tail counts"

        def summed(summary: Summary | StorageError) -> None:
            if isinstance(summary, StorageError):
                # No answer is better than a shorter one: the requester would wait for the rest of a copy that
                # cannot grow. Silence makes it look for another replica.
                self._outbox.log(f"a copy that should be whole cannot be read: {summary}")
                return
            self._copies.record("AnswerCopy", copy, copied=length)
            self._outbox.send(
                to,
                CopyReply(topic=copy.key[0], segment=copy.key[1], length=length, checksum=summary.checksum),
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

        `asker` is the node that wants it, 0 for this one by itself. A failure is not reported: each requester
        asks again by its own clock, and by then it may know a better source.
        """
        known = self._pulls.get(copy.name)
        if known is not None:  # asked again: perhaps for more, or from a source that still answers
            known.upto, known.source = max(upto, known.upto), source
            known.then[asker] = then
        else:
            self._pulls[copy.name] = _Pull(copy, upto, source, {asker: then})
        self._step(now)
        assert copy.name in self._pulls or copy.length >= upto, "a pull that was just begun is forgotten"

    def pulling(self, copy: SegmentCopy) -> bool:
        """Whether that copy is being extended."""
        return copy.name in self._pulls

    def stop(self, copy: SegmentCopy) -> None:
        """Nothing of that segment is wanted any more."""
        self._pulls.pop(copy.name, None)

    def _step(self, now: float) -> None:
        """End what is long enough, and ask for the next piece of what is not, as far as there is room."""
        room = MAX_PULL_BYTES - sum(pull.piece for pull in self._first(MAX_PULLS) if pull.asking)
        for pull in list(self._first(MAX_PULLS)):
            if pull.copy.length >= pull.upto:
                assert pull.then, "it was copied for no requester"
                del self._pulls[pull.copy.name]
                # The requester counts this node among those that hold the entries, so it is told only when
                # they are on the disk.
                for then in pull.then.values():
                    self._copies.barrier(then)
            elif not pull.asking:
                # Once there is none, there is none for smaller ones behind: they would starve a large one.
                room -= pull.piece
                if room >= 0:
                    self._ask(pull, now)

    def _first(self, count: int) -> Iterator[_Pull]:
        """The oldest pulls: first come first served, so that a long list does not starve its beginning."""
        for _, pull in zip(range(count), self._pulls.values(), strict=False):
            yield pull

    def _ask(self, pull: _Pull, now: float) -> None:
        """Read the next piece."""
        assert not pull.asking, "a pull reads one piece at a time"
        pull.asking = True
        (topic, number), start = pull.copy.key, pull.copy.length
        assert start < pull.upto, "a pull that is done reads on"

        def answer(batch: Batch, error: str, at: float) -> None:
            assert pull.asking, "a piece is answered once"
            pull.asking = False
            # A pull that was given up meanwhile and begun anew has asked for itself.
            if error or not batch.count or self._pulls.get(pull.copy.name) is not pull:
                self._give_up(pull)
            else:
                self._extend(pull, start, batch)
            self._step(at)

        self._reads.ask(
            pull.source,
            topic,
            number,
            start,
            entries=pull.upto - start,
            size=pull.piece,
            raw=True,
            now=now,
            then=answer,
        )

    def _extend(self, pull: _Pull, start: int, batch: Batch) -> None:
        """Append a piece: CopyTail. The copy may have grown while it was on its way; then a part is new."""
        assert start <= pull.copy.length, "PrefixAgree: a copy shrank while it was extended"
        try:
            batch.check()  # a peer's bytes: lengths that do not add up would cut its entries elsewhere
            self._copies.append(pull.copy, start, batch.slice(0, pull.upto - start), lambda: None)
        except (DiskFull, ValueError):
            self._give_up(pull)
            return
        pull.piece = min(2 * pull.piece, LARGEST_PIECE)
        assert pull.copy.length >= start + min(batch.count, pull.upto - start), "SeqOrder: a piece is missing"
        self._copies.record("CopyTail", pull.copy, start=start)

    def _give_up(self, pull: _Pull) -> None:
        """Forget a pull. The requesters ask again, perhaps from another source; what was copied is kept."""
        assert not pull.asking, "PrefixAgree: a later pull would take its piece for its own"
        if self._pulls.get(pull.copy.name) is pull:
            del self._pulls[pull.copy.name]

    def check_invariants(self) -> None:
        """Assert what must hold of all pulls."""
        for name, pull in self._pulls.items():
            assert pull.copy.name == name, f"{pull.copy.name} is filed under {name}"
            assert pull.then, f"{name} is copied for no requester"
        asking = [pull.piece for pull in self._pulls.values() if pull.asking]
        assert len(asking) <= MAX_PULLS and sum(asking) <= MAX_PULL_BYTES, "more is asked for than may be"
