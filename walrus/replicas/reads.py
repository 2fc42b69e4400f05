"""Reading segments that live on other nodes, and answering other nodes' reads.

A sealed segment is immutable, so any copy that is long enough can serve it. Of an open segment only the
leader knows how far entries are acknowledged, so only the leader answers, and only up to there. `raw` reads
a copy as it is, acknowledged or not: it serves recovery, repair, and a topic's leader that cannot read its
own copy and knows how much of the answer it may hand on.

The answers of a node with 9 entries in its copy, of which 7 are acknowledged, to a reader that is not `raw`:

    segment        the node             gives
    open           is its writer        entries 0 .. 6
    open           is another replica   nothing: it does not know that 7 are acknowledged
    sealed at 8    is any replica       entries 0 .. 7; the ninth is not part of the segment
    sealed at 12   lags behind          entries 0 .. 8, and an error beyond: another replica has the rest,
                                        and an empty answer would mean that there is nothing yet

A record is verified as a whole, however few of its entries are requested. So a small read reads ahead and
keeps the rest for the next one (`read_local`): entries that readers may see never change.

Invariant: no entry at or beyond the sealed count, and none that is not acknowledged, is ever given to a
reader that is not `raw` (CursorInBounds and DeliveredIsPrefix rest on it).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import TypeAlias

import msgspec

from walrus.config import NodeConfig
from walrus.deadlines import Deadlines
from walrus.replicas.copies import Copies
from walrus.segments import Metadata
from walrus.storage.batch import EMPTY, Batch
from walrus.storage.errors import CorruptionError, StorageError
from walrus.wire.effects import Outbox
from walrus.wire.messages import Read, ReadReply

Answer: TypeAlias = Callable[[Batch, str, float], None]
"""Called once with the entries and an error ("" if none), and the time."""

CommitIndex: TypeAlias = Callable[[str, int], int | None]
"""How far an open segment is acknowledged, if this node is its writer."""

TIMED_OUT = "no answer"
"""The error of a read whose node was lost or did not answer in time. Another replica may be asked."""

MAX_DAMAGED = 1_000
"""Damaged entries stepped over at once.

Each of them costs a read, and the node does nothing else meanwhile.
"""


AHEAD = 100
"""Entries that are read where fewer are asked for."""
AHEAD_BYTES = 1 << 16
"""Bytes of those, unless the first alone has more."""
MAX_AHEAD = 64
"""Segments of which such entries are kept; what was read longest ago goes first."""


class _Asked(msgspec.Struct):
    """A question that waits for its answer."""

    node: int
    deadline: float
    answer: Answer


MAX_HELD = 100_000
"""Questions of other nodes that wait here until there is an entry."""


class _Held(msgspec.Struct):
    """A question that waits until there is an entry."""

    sender: int
    read: Read


class Reads:
    """Both ends of `Read`: what this node asked of others, and what others ask of it.

    `first_request` is above every number that an earlier start of this node used: an answer to that process,
    late on its way, must not be taken for an answer to this one.
    """

    def __init__(
        self,
        *,
        config: NodeConfig,
        copies: Copies,
        metadata: Metadata,
        outbox: Outbox,
        commit_index: CommitIndex,
        first_request: int,
    ) -> None:
        self._config, self._copies, self._metadata, self._outbox = config, copies, metadata, outbox
        self._commit_index = commit_index
        assert first_request >= 0, "a late answer to an earlier start would be taken for one to this"
        self._request = first_request
        self._asked: dict[int, _Asked] = {}
        self._due = Deadlines[int](lambda number, _: number in self._asked)  # when to give up a question
        self._ahead: dict[tuple[str, int], tuple[int, Batch]] = {}  # the last read at the end
        self._held: dict[str, dict[int, _Held]] = {}  # by topic, of open segments that this node writes
        self._holding = 0
        self._hold_until = Deadlines[tuple[str, int]](lambda held, _: held[1] in self._held.get(held[0], ()))

    def end(self, topic: str, number: int) -> int:
        """How many entries of the segment readers may see, wherever they are, as far as this node knows.

        Of an open segment that another node leads this is 0: how far it is acknowledged only its writer
        knows.
        """
        segment = self._metadata.segment(topic, number)
        if segment is None:
            return 0
        end = segment.count if segment.count is not None else self._commit_index(topic, number) or 0
        assert end >= 0, "DeliveredIsPrefix: an end before the beginning"
        return end

    def readable(self, topic: str, number: int) -> int:
        """How many entries of the segment this node may give to readers from its own copy: at most `end`."""
        segment = self._metadata.segment(topic, number)
        if segment is None:
            return 0
        if segment.count is not None:
            # A copy may be shorter than the count (it lags) and longer (it was a deposed leader's).
            return min(segment.count, self._copies.get((topic, number)).length)
        return self._commit_index(topic, number) or 0

    def leads(self, topic: str, number: int) -> bool:
        """Whether this node is the writer of that open segment, and so knows how far it goes."""
        return self._commit_index(topic, number) is not None

    def read_local(self, topic: str, number: int, start: int, max_entries: int, max_bytes: int) -> Batch:
        """Entries from our own copy, only what readers may see. Raises CorruptionError."""
        copy, end = self._copies.get((topic, number)), self.readable(topic, number)
        assert end <= copy.length, "AckedDurable: readers would be promised entries that are not here"
        few = max_entries < AHEAD
        wanted = min(max_entries, end - start)
        batch = self._kept((topic, number), start, wanted, max_bytes) if few and wanted > 0 else EMPTY
        if not batch.count:
            size = min(max_bytes, AHEAD_BYTES) if few else max_bytes
            batch = self._copies.read(copy, start, end, max(max_entries, AHEAD), size)
            if few:
                self._keep((topic, number), start, batch)
                batch = batch.slice(0, max_entries)
        assert not batch.count or start + batch.count <= end, "DeliveredIsPrefix: an unsettled entry is read"
        return batch

    def _kept(self, key: tuple[str, int], start: int, max_entries: int, max_bytes: int) -> Batch:
        """All the entries that are asked for, if an earlier question left them; else none.

        It may have left more than readers may see by now: RECOVER may give up what was acknowledged.
        """
        first, kept = self._ahead.get(key, (0, EMPTY))
        skip = start - first
        if not 0 <= skip <= kept.count - max_entries:
            return EMPTY
        batch = kept.slice(skip, skip + max_entries)
        assert batch.count == max_entries, "DeliveredIsPrefix: fewer entries were kept"
        return batch if batch.size <= max_bytes or max_entries == 1 else EMPTY

    def _keep(self, key: tuple[str, int], start: int, batch: Batch) -> None:
        self._ahead.pop(key, None)
        if batch.size <= AHEAD_BYTES:
            self._ahead[key] = start, batch
        if len(self._ahead) > MAX_AHEAD:
            del self._ahead[next(iter(self._ahead))]

    def holders(self, topic: str, number: int, connected: Collection[int]) -> list[int]:
        """Connected nodes that can answer for the segment, in the order in which to try them.

        Of a sealed segment any replica can, unless its copy is short or damaged, which it says. Of an open
        one only the leader can; while that is away its entries cannot be read, even if every replica has
        them, because no other node may say which of them are acknowledged.
        """
        segment = self._metadata.segment(topic, number)
        if segment is None:
            return []
        others = [node for node in segment.replicas if node in connected]
        holders = others if segment.sealed else [node for node in others if node == segment.leader]
        assert segment.sealed or len(holders) <= 1, "SingleWriter: two nodes answer for an open segment"
        return holders

    def gap_end(self, topic: str, number: int, start: int) -> int:
        """Up to where this node's copy certainly lacks entries from `start` on; `start` if it has that one.

        The copy ends before the sealed count, or what is there is damaged. "Certainly" matters: readers step
        over what every replica lacks, for good, so no other reason for not reading an entry may count.
        """
        segment, copy = self._metadata.segment(topic, number), self._copies.get((topic, number))
        if segment is not None and segment.count is not None and copy.length <= start < segment.count:
            return segment.count
        end = start
        # Entry by entry: an error names one record, and what lies behind it may be sound. A reader that finds
        # the bound comes again for the rest, so that one question never keeps a node busy for long.
        while end < min(copy.length, start + MAX_DAMAGED):
            try:
                self._copies.read(copy, end, copy.length, 1, 1)
            except CorruptionError:
                end += 1
            else:
                break
        assert start <= end, "DeliveredIsPrefix: a reader would go back behind a gap"
        return end

    def ask(
        self,
        node: int,
        topic: str,
        number: int,
        start: int,
        *,
        entries: int,
        raw: bool,
        now: float,
        then: Answer,
        wait: float = 0.0,
        size: int = 1 << 62,
    ) -> None:
        """Read from another node, or this one; `then` is called exactly once.

        The answer has at most `entries`, and unless it is a single one at most `size` bytes, or `read_bytes`.

        With `wait`, the writer of an open segment answers when there is an entry at `start`, or after so many
        seconds.
        """
        assert entries > 0, "a question for nothing: its empty answer would mean that there is nothing"
        assert wait >= 0, "a question that is late before it is asked"
        self._request += 1
        assert self._request not in self._asked, "the answer to another question would be taken for this one"
        # Half of the client's patience: the other half is for another replica, if this one does not answer.
        deadline = now + wait + self._config.request_timeout / 2
        self._asked[self._request] = _Asked(node, deadline, then)
        self._due.add(deadline, self._request)
        message = Read(
            request=self._request,
            topic=topic,
            segment=number,
            start=start,
            max_entries=entries,
            max_bytes=min(size, self._config.read_bytes),
            raw=raw,
            wait=wait,
        )
        self._outbox.send(node, message)

    def on_reply(self, sender: int, reply: ReadReply, now: float) -> None:
        """The answer to `ask`."""
        asked = self._asked.get(reply.request)
        # A late answer finds nothing to answer; one from another node than was asked is not believed.
        if asked is not None and asked.node == sender:
            del self._asked[reply.request]  # first: the callback may ask again
            asked.answer(reply.batch, reply.error, now)

    def on_disconnected(self, node: int, now: float) -> None:
        """No answers will come from there: fail now, so that another replica is asked before the deadline."""
        self._fail([number for number, asked in self._asked.items() if asked.node == node], now)

    def on_tick(self, now: float) -> None:
        """Give up on answers that are late, and answer those who have waited long enough."""
        self._fail(list(self._due.due(now)), now)
        assert self._due.first() > now, "a question stays beyond its deadline"
        for topic, number in self._hold_until.due(now):
            self._let_go(topic, number)
        assert self._hold_until.first() > now, "a question is held beyond its time"

    def _fail(self, numbers: list[int], now: float) -> None:
        for number in numbers:
            self._asked.pop(number).answer(EMPTY, TIMED_OUT, now)

    # --- the other end ---

    def on_read(self, sender: int, read: Read, now: float) -> None:
        """Answer another node: at once, or when there is an entry."""
        open_here = not read.raw and self.leads(read.topic, read.segment)
        nothing_yet = open_here and read.start >= self.end(read.topic, read.segment)
        if read.wait and nothing_yet and self._holding < MAX_HELD:
            self._hold(sender, read, now)
        else:
            self._answer(sender, read)

    def _hold(self, sender: int, read: Read, now: float) -> None:
        assert read.wait > 0 and self._holding < MAX_HELD, "a question is held that is not to wait"
        self._holding += 1
        number = self._request = self._request + 1
        self._held.setdefault(read.topic, {})[number] = _Held(sender, read)
        self._hold_until.add(now + read.wait, (read.topic, number))

    def on_advanced(self, topics: Iterable[str]) -> None:
        """More of these topics is acknowledged, or another segment is open: answer what waited for it."""
        for topic in topics:
            for number, held in list(self._held.get(topic, {}).items()):
                read = held.read
                assert read.topic == topic, "a question is held under another topic"
                if read.start < self.end(topic, read.segment) or not self.leads(topic, read.segment):
                    self._let_go(topic, number)

    def _let_go(self, topic: str, number: int) -> None:
        held = self._held[topic].pop(number)
        if not self._held[topic]:
            del self._held[topic]
        self._holding -= 1
        assert self._holding >= 0, "a question is answered twice"
        self._answer(held.sender, held.read)

    def _answer(self, sender: int, read: Read) -> None:
        batch, error = EMPTY, ""
        # The asker may be configured for larger reads, but how much is read in one step is decided here.
        entries, size = max(read.max_entries, 1), min(read.max_bytes, 4 * self._config.read_bytes)
        try:
            if self._metadata.is_gone(read.topic, read.segment):
                error = (
                    f"segment {read.segment} of {read.topic} is gone: it was trimmed, or its topic deleted"
                )
            elif read.raw:
                copy = self._copies.get((read.topic, read.segment))
                batch = self._copies.read(copy, read.start, copy.length, entries, size)
            elif self._may_answer(read):
                # Up to the count or the commit index: what lies behind was left out of the seal, or is not
                # settled.
                batch = self.read_local(read.topic, read.segment, read.start, entries, size)
            else:
                error = f"node {self._config.node_id} does not hold that part of the segment"
        except StorageError as damage:
            error = str(damage)
        assert not error or not batch.count, "an answer is entries or an error"
        assert batch.count <= entries, "more entries are given than were asked for"
        self._outbox.send(sender, ReadReply(request=read.request, batch=batch, error=error))

    def _may_answer(self, read: Read) -> bool:
        """Whether an empty answer of this node would be true: that there is nothing (yet) from there on."""
        segment = self._metadata.segment(read.topic, read.segment)
        if segment is None:
            return False
        if segment.count is None:
            return self._commit_index(read.topic, read.segment) is not None
        whole = self._copies.get((read.topic, read.segment)).length >= segment.count
        return whole or read.start < self.readable(read.topic, read.segment)

    def check_invariants(self) -> None:
        """Assert what must hold of the questions that wait for their answers."""
        assert all(number <= self._request for number in self._asked), "a question from the future"
        assert self._holding == sum(map(len, self._held.values())), "questions that wait do not add up"
        assert list(self._asked) == sorted(self._asked), "questions out of the order of their numbers"
