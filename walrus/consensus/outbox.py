"""The messages that leave the Raft core, and the sync that each waits for (dissertation §3.8 and §10.2.1).

A message may promise something that a crash of this server could take back: a vote, a term, a copy of an
entry. Such a promise must be on the disk before it is on the wire. There are three kinds of messages:

    kind                                          leaves
    promises nothing (a leader's requests, a      with the next Ready, before any of it is durable
    pre-vote, a rejection)
    reveals a term or a vote                      when term and vote are durable, so that no vote is
                                                  forgotten and given twice (paper §5.2)
    acknowledges entries or a snapshot            when everything that was written before it is durable

`send` chooses between the first two by whether term and vote are durable; `send_after` is for the third.
The core never has to choose, and so cannot send a message too early.

Several Readys may be on their way to the disk at once. They become durable in order, and a message that
depends on one of them leaves when the *newest* is durable, for that one may hold the entry that the message
is about:

    Ready 4  entry 7        not durable yet
    Ready 5  entry 8        not durable yet
    a heartbeat at entry 8 arrives: its acknowledgement has nothing of its own to write. It waits for
    Ready 5. Released with Ready 4, it would vouch for an entry that a power loss could still take.

Invariants: the numbers of outstanding Readys rise; a Ready with nothing to persist carries no message that
waits, unless nothing is outstanding; no Ready has both a snapshot to install and a checkpoint.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from msgspec.structs import replace

from walrus.consensus.messages import Entry, Envelope, HardState, RaftMessage, Ready, Snapshot


@dataclass(slots=True, kw_only=True)
class Outstanding:
    """A Ready on its way to the disk, and messages that came to wait for it after it was handed out."""

    ready: Ready
    held: list[Envelope] = field(default_factory=list)


class RaftOutbox:
    """Collects what the core says until the host fetches it as a `Ready`.

    >>> from walrus.consensus.messages import TimeoutNowRequest
    >>> outbox = RaftOutbox(HardState())
    >>> outbox.note_hard_state(HardState(2, 1)); outbox.send(3, TimeoutNowRequest(term=2))
    >>> first = outbox.make_ready(); first.messages, len(first.messages_after)
    ((), 1)
    >>> outbox.send(3, TimeoutNowRequest(term=2)); outbox.make_ready().messages
    ()
    >>> outbox.persisted(first) == [first], len(outbox.make_ready().messages)
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
        """Return whether the current term or vote is not durable yet."""
        return self.durable != self._current

    def has_work(self) -> bool:
        """Return whether `make_ready` would return anything besides entries, commits and reads."""
        return bool(
            self._messages
            or self._hard_state
            or self._snapshot
            or self._checkpoint
            or (self._after and not self._outstanding)
        )

    def note_hard_state(self, hard_state: HardState) -> None:
        """The term or the vote changed."""
        assert hard_state.term >= self._current.term, "ElectionSafety: the term must not fall"
        self._hard_state = self._current = hard_state

    def note_snapshot(self, snapshot: Snapshot) -> None:
        """A leader's snapshot replaces the state machine and the log up to it."""
        self._snapshot, self._checkpoint, self._hard_state = snapshot, None, self._current

    def note_checkpoint(self, snapshot: Snapshot) -> None:
        """Our own state machine made a snapshot.

        The hard state goes with either kind, so that what the journal writes is complete by itself: all
        records before the snapshot are trimmed, the one that held term and vote among them.
        """
        assert self._snapshot is None, (
            "StateMachineSafety: a snapshot to install is newer than anything applied"
        )
        self._checkpoint, self._hard_state = snapshot, self._current

    def send(self, to: int, message: RaftMessage) -> None:
        """Send as soon as the term and the vote that the message reveals are durable."""
        assert message.term >= 0, "a term that was never one of ours"
        (self._after if self.hard_state_pending else self._messages).append((to, message))

    def send_after(self, to: int, message: RaftMessage) -> None:
        """Send once everything that happened before is durable: an acknowledgement."""
        assert message.term == self._current.term, (
            "CommittedNeverLost: an acknowledgement belongs to the current term"
        )
        self._after.append((to, message))

    def make_ready(
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
        ready = self._route(ready)
        assert not self.has_work(), "a second Ready of the same turn would be empty"
        return ready

    def _route(self, ready: Ready) -> Ready:
        """Attach the messages: what must wait goes behind this Ready's sync, or the last one under way."""
        now, after = self._messages, self._after
        self._messages, self._after = [], []
        if ready.needs_persist:
            ready = replace(ready, messages=tuple(now), messages_after=tuple(after))
            self._outstanding.append(Outstanding(ready=ready))
            return ready
        if self._outstanding:
            self._outstanding[-1].held.extend(after)
            return replace(ready, messages=tuple(now))
        # Everything is durable: nothing that this Ready says can be taken back.
        assert not self.hard_state_pending, (
            "ElectionSafety: a term or a vote that is neither durable nor on its way"
        )
        return replace(ready, messages=tuple(now + after))

    def persisted(self, ready: Ready) -> list[Ready]:
        """Note that this one is durable, and so are all before it; returns them, oldest first."""
        done: list[Ready] = []
        while self._outstanding and self._outstanding[0].ready.number <= ready.number:
            outstanding = self._outstanding.popleft()
            self._messages.extend(outstanding.held)
            self.durable = outstanding.ready.hard_state or self.durable
            done.append(outstanding.ready)
        assert ready.number <= self._number, "a Ready that was never handed out"
        assert self.durable.term <= self._current.term, (
            "ElectionSafety: a term is durable that was never entered"
        )
        return done

    def check_invariants(self) -> None:
        """Assert what the module docstring lists."""
        numbers = [outstanding.ready.number for outstanding in self._outstanding]
        assert numbers == sorted(set(numbers))
        assert all(outstanding.ready.needs_persist for outstanding in self._outstanding)
        assert self._snapshot is None or self._checkpoint is None, "StateMachineSafety: two snapshots at once"
        assert self._outstanding or self._hard_state is not None or not self.hard_state_pending, (
            "ElectionSafety: a term or a vote that is neither durable nor on its way"
        )
