"""Recovery of a segment whose leader is gone: fence, recover, seal. And the copying that it needs.

Any node may run a `Recovery`, and several may run at once. Actions as in the spec:

    Fence         every replica durably notes that the segment is fenced and answers with its length.
                  A majority of answers is waited for, never a particular node
    Recover       the longest of those copies is copied, until a majority holds that much. Copying
                  passes the fence and only ever extends a copy
    RecoverySeal  the segment is proposed sealed at that length, with a live next leader

Why no acknowledged entry is lost: it is on a majority, that majority shares a node with the fenced one,
and that node's length covers it. Why nothing is acknowledged later: the writer needs a majority for
that, and a majority is fenced. Why two recoveries agree: Raft applies one Seal for the segment, and the
other finds it sealed.

A copy that a power loss may have shortened answers *unsure*. Its length proves nothing, so recovery
needs a majority of sure copies or an answer from every replica; failing both it waits and says so. A copy
with a damaged entry answers with what can be read of it, and is not sure either. An
operator can force it (`force`), accepting that acknowledged entries may be missing.

If copying does not get on because its source died, the recovery begins again at the fence: what
only the dead source held was never acknowledged.

`Puller` is the copying itself: one node extends its own copy from another's. Recovery asks for it by
message, a lagging replica of a sealed segment does it by itself, and repair makes new replicas with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import msgspec

from walrus.config import NodeConfig
from walrus.replicas.copies import Copies, Key, SegmentCopy
from walrus.replicas.reads import Reads
from walrus.segments import Segment
from walrus.storage.batch import Batch, Checksum
from walrus.storage.errors import CorruptionError, DiskFull, StorageError
from walrus.wire.effects import Outbox, Trace
from walrus.wire.messages import Copy, CopyReply, Fence, FenceReply

RESTARTS_AFTER = 5
"""Resend intervals without progress after which a recovery begins again."""

MAX_PULLS = 4
"""Copies being extended at once by one node; further ones wait."""


class Sealable(msgspec.Struct, frozen=True):
    """What a finished recovery found: a majority of the replicas holds this."""

    count: int
    checksum: Checksum


class Recovery:
    """One node's attempt to end (topic, number) without its leader."""

    def __init__(
        self, key: Key, segment: Segment, *, config: NodeConfig, outbox: Outbox, trace: Trace, now: float
    ) -> None:
        self.key, self.segment = key, segment
        self.forced = False
        self.found: Sealable | None = None
        self.started_at = now
        self._config, self._outbox, self._trace = config, outbox, trace
        self._fenced: dict[int, FenceReply] = {}
        self._have: dict[int, int] = {}
        self._source: FenceReply | None = None
        self._source_node = 0
        self._sent_at = self._progress_at = now
        self._send_fences()

    @property
    def waits_for_sure_copies(self) -> bool:
        """A majority answered, but too many of its copies may have been shortened by a power loss."""
        return self._source is None and len(self._fenced) >= self.segment.majority

    def force(self, now: float) -> None:
        """An operator accepts what is there."""
        self.forced = True
        self._choose(now)

    def _send_fences(self) -> None:
        for node in self.segment.replicas:
            if node not in self._fenced:
                self._outbox.send(node, Fence(topic=self.key[0], segment=self.key[1]))

    def on_fence_reply(self, node: int, reply: FenceReply, now: float) -> None:
        """A replica is fenced and has so much."""
        if node not in self.segment.replicas or node in self._fenced:
            return
        self._fenced[node] = reply
        self._have[node] = reply.length
        self._progress_at = now
        if self._source is None:
            self._choose(now)
        else:
            self._send_copies()
            self._check_majority()

    def _choose(self, now: float) -> None:
        """Take the longest copy, if enough answered to be sure that it covers every acknowledgement."""
        sure = sum(reply.sure for reply in self._fenced.values())
        everyone = len(self._fenced) == len(self.segment.replicas)
        enough = sure >= self.segment.majority or everyone or self.forced
        if self._source is not None or not enough or len(self._fenced) < self.segment.majority:
            return
        self._source_node = max(sorted(self._fenced), key=lambda node: self._fenced[node].length)
        self._source = self._fenced[self._source_node]
        self._progress_at = now
        self._trace("Recover", topic=self.key[0], segment=self.key[1], count=self._source.length)
        self._send_copies()
        self._check_majority()

    def _send_copies(self) -> None:
        assert self._source is not None
        for node in sorted(self._have):
            if self._have[node] < self._source.length:
                message = Copy(
                    topic=self.key[0],
                    segment=self.key[1],
                    source=self._source_node,
                    upto=self._source.length,
                )
                self._outbox.send(node, message)

    def on_copy_reply(self, node: int, reply: CopyReply, now: float) -> None:
        """A replica extended its copy."""
        if node in self._have and reply.length > self._have[node]:
            self._have[node] = reply.length
            self._progress_at = now
            self._check_majority()

    def _check_majority(self) -> None:
        if self._source is None or self.found is not None:
            return
        whole = sum(length >= self._source.length for length in self._have.values())
        if whole >= self.segment.majority:
            self.found = Sealable(self._source.length, self._source.checksum)

    def on_tick(self, now: float) -> None:
        """Ask again whoever has not answered; begin again if nothing gets on."""
        if self.found is not None or now - self._sent_at < self._config.resend_interval:
            return
        self._sent_at = now
        if (
            self._source is not None
            and now - self._progress_at > RESTARTS_AFTER * self._config.resend_interval
        ):
            self._fenced, self._have, self._source = {}, {}, None
            self._progress_at = now
        self._send_fences()
        if self._source is not None:
            self._send_copies()

    def check_invariants(self) -> None:
        """Assert what must hold of a recovery by itself."""
        if self.found is not None:
            whole = sum(length >= self.found.count for length in self._have.values())
            assert whole >= self.segment.majority, "RecoverySeal before a majority holds the count"


class _Pull(msgspec.Struct):
    copy: SegmentCopy
    upto: int
    source: int
    then: dict[int, Callable[[], None]]
    """What to do when it is done, by who asked: who asks again replaces only its own earlier wish."""
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
        """Whoever wanted this asks again, perhaps from another source."""
        if self._pulls.get(pull.copy.name) is pull:
            del self._pulls[pull.copy.name]


class Fenced:
    """This node as a replica that is asked to fence."""

    def __init__(self, *, copies: Copies, outbox: Outbox, trace: Trace) -> None:
        self._copies, self._outbox, self._trace = copies, outbox, trace

    def on_fence(self, sender: int, fence: Fence) -> None:
        """Note the fence, refuse the writer, read the length: one step. Answer when all that is durable."""
        copy = self._copies.get((fence.topic, fence.segment))
        length = copy.length
        try:
            self._copies.fence(copy, lambda: self._answer(sender, copy, length, damaged=False))
        except DiskFull as error:
            self._outbox.log(f"cannot fence {copy.name}, not answering: {error}")
            return
        self._trace("Fence", topic=fence.topic, segment=fence.segment, length=length)

    def _answer(self, to: int, copy: SegmentCopy, length: int, *, damaged: bool) -> None:
        """Tell length and checksum. Of a damaged copy, how far it can be read, and that it is not sure."""

        def summed(checksum: Checksum | StorageError) -> None:
            if isinstance(checksum, CorruptionError) and checksum.index < length:
                self._outbox.log(f"fenced, but this copy ends before its damage: {checksum}")
                self._answer(to, copy, checksum.index, damaged=True)
            elif isinstance(checksum, StorageError):
                self._outbox.log(f"cannot answer a fence, as if this copy did not exist: {checksum}")
            else:
                sure = copy.sure and not damaged and not self._copies.in_doubt
                topic, number = copy.key
                reply = FenceReply(topic=topic, segment=number, length=length, checksum=checksum, sure=sure)
                self._outbox.send(to, reply)

        self._copies.when_summed(copy, length, summed)
