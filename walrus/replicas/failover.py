"""Recovery of a segment whose leader is gone: fence, recover, seal.

Any node may run a `SegmentRecovery`, and several may run at once. Actions as in the spec:

    Fence         every replica durably notes that the segment is fenced and answers with its length.
                  The recovery waits for a majority of answers, never for a particular node
    Recover       the longest of those copies is copied until a majority holds that length. Copying
                  is exempt from the fence and only ever extends a copy
    RecoverySeal  a Seal at that length is proposed, with a live next leader

No acknowledged entry is lost: it is on a majority, which shares a node with the fenced majority, and that
node's length covers it. Nothing is acknowledged later: the writer would need a majority for that, and a
majority is fenced. Two recoveries agree: Raft applies one Seal for the segment, and the other finds it
sealed.

Node 1 led t/4, whose replicas are 1, 2 and 3, and died. What may become of its last two entries:

    copies    acknowledged   answers             decided   because
    9  9  7   9              2: 9, 3: 7          9         node 2 was in the majority that held 9
    9  9  7   7              2: 9, 3: 7          9         node 1 died before it had node 2's answer; to the
                                                           recovery this looks the same as the row above
    9  7  7   7              2: 7, 3: 7          7         no majority held 9, so 9 was not acknowledged
    9  9  7   9              3: 7                waits     nodes 1 and 2 may have acknowledged more
    9  9  7   9              2: 5 unsure, 3: 7   waits     node 2 may have held more before it lost power
    9  9  7   9              1: 9, 3: 7          9         node 1 came back; its copy counts like any other

In the third row the copy on node 1 stays longer than the segment. No reader is given entries beyond the
count, so that tail may stay, and recovery never has to truncate a copy.

A copy that a power loss may have shortened answers *unsure*. Its length proves nothing, so recovery
needs a majority of sure copies or an answer from every replica; failing both, it waits and says so. A copy
with a damaged entry answers with the length that can be read, and is unsure too. An operator can force the
recovery (`force`), accepting that acknowledged entries may be missing.

If the source dies and copying stalls, the recovery begins again with fencing. Entries that only the source
held were not acknowledged, so the next choice may be a shorter copy. The states:

    state      known so far                                    left when
    fencing    the lengths of the replicas that answered       a majority answered, and enough of it is sure
    copying    the source, which is the longest copy           a majority holds as much; or it stalls: fencing
    found      count and checksum, final for this recovery     Raft has sealed the segment

The copying itself is `puller.py`, and a replica's answer to a fence `replica.py`.

Transcripts, in `tests/replicas/transcripts`: `fence_and_seal`, `recovery_copies_the_longest`,
`recovery_drops_what_no_majority_had`, `recovery_waits_for_sure_copies`, `recovery_forced_by_an_operator`.
"""

from __future__ import annotations

import msgspec

from walrus.config import NodeConfig
from walrus.replicas.copies import Key
from walrus.segments import LastNumber, Segment
from walrus.storage.batch import Checksum
from walrus.wire.effects import Outbox, Trace
from walrus.wire.messages import Copy, CopyReply, Fence, FenceReply

RESTARTS_AFTER = 5
"""Resend intervals without progress after which a recovery begins again."""


class Sealable(msgspec.Struct, frozen=True):
    """What a finished recovery found: a majority of the replicas holds this."""

    count: int
    checksum: Checksum
    producers: dict[str, LastNumber] = {}
    """How far those of its entries have come: of the copy that was chosen, all of it and no more."""


class SegmentRecovery:
    """One node's attempt to end (topic, number) without its leader."""

    def __init__(
        self, key: Key, segment: Segment, *, config: NodeConfig, outbox: Outbox, trace: Trace, now: float
    ) -> None:
        assert not segment.sealed, "SealedStable: a sealed segment is never recovered again"
        self.key, self.segment = key, segment
        self.forced = False
        self.found: Sealable | None = None
        self.started_at = now
        self._config, self._outbox, self._trace = config, outbox, trace
        self._fence_replies: dict[int, FenceReply] = {}
        self._have: dict[int, int] = {}
        self._source: FenceReply | None = None
        self._source_node = 0
        self._sent_at = self._progress_at = now
        self._trace("StartRecovery", topic=key[0], segment=key[1])
        self._send_fences()

    @property
    def fenced(self) -> bool:
        """Whether a majority is fenced, so that the leader that was can acknowledge nothing more."""
        return len(self._fence_replies) >= self.segment.majority

    @property
    def waits_for_sure_copies(self) -> bool:
        """Whether a majority answered, but too many of its copies may have been shortened by a power loss."""
        return self._source is None and self.fenced

    def force(self, now: float) -> None:
        """An operator accepts what is there (RECOVER). Acknowledged entries may be missing from it."""
        self.forced = True
        self._choose(now)
        assert not self.waits_for_sure_copies, "a forced recovery waits although a majority answered"

    def _send_fences(self) -> None:
        assert self.found is None, "SealedStable: what was found is final, and is asked for again"
        for node in self.segment.replicas:
            if node not in self._fence_replies:
                self._outbox.send(node, Fence(topic=self.key[0], segment=self.key[1]))

    def on_fence_reply(self, node: int, reply: FenceReply, now: float) -> None:
        """A replica is fenced and has so much."""
        if node not in self.segment.replicas or node in self._fence_replies:
            return
        # The first answer of each node counts. A later one can only be longer, by what this recovery or
        # another one has copied to it, and `on_copy_reply` tells that.
        self._fence_replies[node] = reply
        self._have[node] = reply.length
        self._progress_at = now
        assert self._have.keys() == self._fence_replies.keys(), (
            "AckedDurable: a length counts whose node is not fenced"
        )
        if self._source is None:
            self._choose(now)
        else:
            self._send_copies()
            self._check_majority()

    def _choose(self, now: float) -> None:
        """Take the longest copy, if enough answered to be sure that it covers every acknowledgement.

        Enough is a majority of sure copies: it shares a node with every majority that acknowledged. When all
        have answered there is nothing more to wait for, sure or not. What is out of the question even for an
        operator is less than a majority: the others could go on acknowledging, and the seal would lie.
        """
        sure = sum(reply.sure for reply in self._fence_replies.values())
        everyone = len(self._fence_replies) == len(self.segment.replicas)
        enough = sure >= self.segment.majority or everyone or self.forced
        if self._source is not None or not enough or len(self._fence_replies) < self.segment.majority:
            return
        replies = self._fence_replies
        self._source_node = max(sorted(replies), key=lambda node: replies[node].length)
        self._source = replies[self._source_node]
        assert len(replies) >= self.segment.majority, "AckedDurable: a majority may still acknowledge"
        assert all(reply.length <= self._source.length for reply in replies.values()), (
            "AckedDurable: a fenced replica holds more than is kept"
        )
        self._progress_at = now
        answers = [[node, reply.length, reply.sure] for node, reply in sorted(replies.items())]
        self._record("Recover", self._source.length, answers=answers, forced=self.forced)
        self._send_copies()
        self._check_majority()

    def _send_copies(self) -> None:
        assert self._source is not None and self._source_node in self._have, "nothing was chosen to copy"
        assert self.fenced, "AckedDurable: copied is what a majority may still add to"
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
            assert node in self._fence_replies, "AckedDurable: a length counts whose node is not fenced"
            self._have[node] = reply.length
            self._progress_at = now
            self._check_majority()

    def _check_majority(self) -> None:
        if self._source is None or self.found is not None:
            return
        whole = sum(length >= self._source.length for length in self._have.values())
        if whole >= self.segment.majority:
            self.found = Sealable(self._source.length, self._source.checksum, self._source.producers)
            self.check_invariants()
            self._record("RecoverySeal", self.found.count)

    def _record(self, event: str, count: int, **values: object) -> None:
        self._trace(event, topic=self.key[0], segment=self.key[1], count=count, **values)

    def on_tick(self, now: float) -> None:
        """Ask the silent replicas again; restart with fencing if copying stalls."""
        if self.found is not None or now - self._sent_at < self._config.resend_interval:
            return
        self._sent_at = now
        if (
            self._source is not None
            and now - self._progress_at > RESTARTS_AFTER * self._config.resend_interval
        ):
            # All is asked again, lengths too: a node that answered before may have come back with less.
            self._fence_replies, self._have, self._source = {}, {}, None
            self._progress_at = now
            assert not self.waits_for_sure_copies, "a recovery that begins again has no answers yet"
        self._send_fences()
        if self._source is not None:
            self._send_copies()

    def check_invariants(self) -> None:
        """Assert what must hold of a recovery by itself."""
        assert self._have.keys() == self._fence_replies.keys() <= set(self.segment.replicas), (
            "AckedDurable: a length counts whose node is not fenced, or no replica"
        )
        for node, reply in self._fence_replies.items():
            assert self._have[node] >= reply.length, "PrefixAgree: a fenced copy became shorter"
        if self._source is not None:
            assert len(self._fence_replies) >= self.segment.majority, "AckedDurable: a minority was fenced"
        if self.found is not None:
            assert self._source is not None and self._source.length == self.found.count, (
                "SealedStable: the count is not that of the chosen copy"
            )
            whole = sum(length >= self.found.count for length in self._have.values())
            assert whole >= self.segment.majority, (
                "SealedStable: RecoverySeal before a majority holds the count"
            )
