"""Is this node's metadata fresh enough? ReadIndex, for every request that would otherwise say "unknown".

A node's metadata may lag. Before it tells a client that a topic does not exist, it asks the Raft leader
for the log index that it must have applied to have seen everything committed by now (ReadIndex,
dissertation §6.4), applies up to there, and looks again. That is what lets a PUT follow a REGISTER on
any other node.

All requests that arrive while a ReadIndex is in flight share the next one, so a thousand clients asking for
unknown topics cost one round.

Transcripts, in `tests/replicas/transcripts`: `register_waits_for_a_read_index`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from walrus.config import NodeConfig
from walrus.consensus.messages import Role
from walrus.raft import Raft
from walrus.wire.effects import Outbox
from walrus.wire.messages import ReadIndex, ReadIndexReply

Then: TypeAlias = Callable[[bool, float], None]
"""Called with whether the metadata is now fresh, and the time."""


class ReadIndexes:
    """Both ends of ReadIndex: this node's requests, and at the leader those of other nodes."""

    def __init__(self, *, config: NodeConfig, raft: Raft, outbox: Outbox, first_request: int) -> None:
        self._config, self._raft, self._outbox = config, raft, outbox
        self._next = first_request
        self._waiting: list[tuple[Then, float]] = []  # they wait for the next request
        self._asked: list[tuple[Then, float]] = []  # covered by the request in flight
        self._request = 0  # the number of the request in flight; 0: none
        self._asked_at = 0.0
        self._index: int | None = None  # its answer: the index that must be applied
        self._applied = 0  # the index up to which the metadata is applied
        self._remote: dict[int, tuple[int, int]] = {}  # at the leader: context -> (node, request)

    def ask(self, then: Then, now: float) -> None:
        """Call `then(True, now)` once everything committed before this call is applied, or
        `then(False, now)` after the request timeout."""
        self._waiting.append((then, now + self._config.request_timeout))
        self._go(now)

    def _go(self, now: float) -> None:
        if self._request or not self._waiting:
            return
        self._asked, self._waiting = self._waiting, []
        self._next += 1
        self._request, self._index = self._next, None
        self._send(now)

    def _send(self, now: float) -> None:
        """Send the request, or repeat it under the same number, since an answer to any of them will do."""
        self._asked_at = now
        if self._raft.role is Role.LEADER:
            self._raft.read_index(self._request, now)
        elif self._raft.leader_id is not None:
            self._outbox.send(self._raft.leader_id, ReadIndex(request=self._request))

    def on_message(self, sender: int, message: ReadIndex | ReadIndexReply, now: float) -> None:
        """Take another node's request, or the leader's answer to one of this node's."""
        if isinstance(message, ReadIndex):
            self.on_read_index(sender, message, now)
        else:
            self.on_reply(message, now)

    def on_read_index(self, sender: int, message: ReadIndex, now: float) -> None:
        """Take another node's request; only a leader answers."""
        if self._raft.role is Role.LEADER:
            self._next += 1
            if self._raft.read_index(self._next, now):
                self._remote[self._next] = (sender, message.request)

    def on_confirmed(self, context: int, index: int) -> None:
        """Raft has confirmed this node's leadership for a request."""
        if context == self._request:
            self._index = index
        remote = self._remote.pop(context, None)
        if remote:
            self._outbox.send(remote[0], ReadIndexReply(request=remote[1], index=index))

    def on_reply(self, reply: ReadIndexReply, now: float) -> None:
        """Take the leader's answer; all of it may be applied already."""
        if reply.request == self._request:
            self._index = reply.index
            self._look(now)

    def on_applied(self, index: int, now: float) -> None:
        """The metadata is applied up to `index`."""
        self._applied = index
        self._look(now)

    def _look(self, now: float) -> None:
        """Call what waits for the answer, once all of it is applied."""
        if self._index is None or self._applied < self._index:
            return
        done, self._asked = self._asked, []
        self._request, self._index = 0, None
        for then, _ in done:
            then(True, now)
        self._go(now)

    def on_tick(self, now: float) -> None:
        """Repeat a request without an answer; give up requests that are too old."""
        if self._raft.role is not Role.LEADER:
            self._remote.clear()
        expired = [then for then, deadline in (*self._asked, *self._waiting) if deadline <= now]
        self._asked = [entry for entry in self._asked if entry[1] > now]
        self._waiting = [entry for entry in self._waiting if entry[1] > now]
        if self._request and not self._asked:
            self._request, self._index = 0, None
        for then in expired:
            then(False, now)
        if self._request and self._index is None and now - self._asked_at >= self._config.resend_interval:
            self._send(now)
        self._go(now)
