"""What leaves the Raft core, and what it waits for (dissertation §3.8 and §10.2.1).

Three kinds of messages:

* those that promise nothing (a leader's requests, a canvass): they leave with the next Ready;
* those that reveal a term or a vote: they wait until term and vote are durable, so that no vote is
  forgotten and given twice (paper §5.2);
* acknowledgements of entries and snapshots: they wait for everything that was written before them.

Several Readys may be under way to the disk at once. They become durable in order, and a message that
depends on one that is already under way leaves when that one is durable.

Invariants: numbers of outstanding Readys rise; a Ready without anything to persist carries no messages_after.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from msgspec.structs import replace

from walrus.consensus.messages import Entry, Envelope, HardState, RaftMessage, Ready, Snapshot


@dataclass(slots=True, kw_only=True)
class Outstanding:
    """A Ready on its way to the disk, and messages that became due on it after it was handed out."""

    ready: Ready
    held: list[Envelope] = field(default_factory=list)


class Outbox:
    """Collects what the core says until the host takes it as a `Ready`.

    >>> from walrus.consensus.messages import TimeoutNowRequest
    >>> outbox = Outbox(HardState())
    >>> outbox.note_hard_state(HardState(2, 1)); outbox.send(3, TimeoutNowRequest(term=2))
    >>> first = outbox.take(); first.messages, len(first.messages_after)
    ((), 1)
    >>> outbox.send(3, TimeoutNowRequest(term=2)); outbox.take().messages
    ()
    >>> outbox.persisted(first) == [first], len(outbox.take().messages)
    (True, 1)
    """

    __slots__ = (
        "_after",
        "_checkpoint",
        "_current",
        "_hard_state",
        "_messages",
        "_number",
        "_outstanding",
        "_snapshot",
        "durable",
    )

    def __init__(self, hard_state: HardState) -> None:
        self._number = 0
        self.durable = self._current = hard_state
        """The term and the vote that a crash cannot take away any more."""
        self._messages: list[Envelope] = []
        self._after: list[Envelope] = []
        self._hard_state: HardState | None = None
        self._snapshot: Snapshot | None = None
        self._checkpoint: Snapshot | None = None
        self._outstanding: deque[Outstanding] = deque()

    @property
    def hard_state_pending(self) -> bool:
        """Is the current term or vote not durable yet?"""
        return self.durable != self._current

    def has_work(self) -> bool:
        """Would `take` return anything besides entries, commits and reads?"""
        return bool(
            self._messages
            or self._hard_state
            or self._snapshot
            or self._checkpoint
            or (self._after and not self._outstanding)
        )

    def note_hard_state(self, hard_state: HardState) -> None:
        """The term or the vote changed."""
        self._hard_state = self._current = hard_state

    def note_snapshot(self, snapshot: Snapshot) -> None:
        """A leader's snapshot replaces the state machine and the log up to it."""
        self._snapshot, self._checkpoint, self._hard_state = snapshot, None, self._current

    def note_checkpoint(self, snapshot: Snapshot) -> None:
        """Our own state machine made a snapshot.

        The hard state goes with either, so that what the journal writes is complete by itself.
        """
        assert self._snapshot is None, "a snapshot to install is newer than anything applied"
        self._checkpoint, self._hard_state = snapshot, self._current

    def send(self, to: int, message: RaftMessage) -> None:
        """Send as soon as the term and the vote that it reveals are durable."""
        (self._after if self.hard_state_pending else self._messages).append((to, message))

    def send_after(self, to: int, message: RaftMessage) -> None:
        """Send once everything that happened before is durable: an acknowledgement."""
        self._after.append((to, message))

    def take(
        self,
        entries: tuple[Entry, ...] = (),
        committed: tuple[Entry, ...] = (),
        reads: tuple[tuple[int, int], ...] = (),
    ) -> Ready:
        """Everything collected, as one Ready; the outbox is empty afterwards."""
        self._number += 1
        ready = Ready(
            number=self._number,
            hard_state=self._hard_state,
            entries=entries,
            snapshot=self._snapshot,
            checkpoint=self._checkpoint,
            committed=committed,
            reads=reads,
        )
        self._hard_state = self._snapshot = self._checkpoint = None
        return self._route(ready)

    def _route(self, ready: Ready) -> Ready:
        """Attach the messages: what must wait goes behind this Ready's sync, or an earlier one's."""
        now, after = self._messages, self._after
        self._messages, self._after = [], []
        if ready.needs_persist:
            ready = replace(ready, messages=tuple(now), messages_after=tuple(after))
            self._outstanding.append(Outstanding(ready=ready))
            return ready
        if self._outstanding:
            self._outstanding[-1].held.extend(after)
            return replace(ready, messages=tuple(now))
        return replace(ready, messages=tuple(now + after))

    def persisted(self, ready: Ready) -> list[Ready]:
        """This one is durable, and so are all before it; returns them, oldest first."""
        done: list[Ready] = []
        while self._outstanding and self._outstanding[0].ready.number <= ready.number:
            outstanding = self._outstanding.popleft()
            self._messages.extend(outstanding.held)
            self.durable = outstanding.ready.hard_state or self.durable
            done.append(outstanding.ready)
        return done

    def check_invariants(self) -> None:
        """Assert what the module docstring lists."""
        numbers = [outstanding.ready.number for outstanding in self._outstanding]
        assert numbers == sorted(set(numbers))
        assert all(outstanding.ready.needs_persist for outstanding in self._outstanding)
        assert self._snapshot is None or self._checkpoint is None
