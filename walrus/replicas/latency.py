"""How long the appends of this node's writers take, always measured: two histograms for METRICS.

    appended ──► durable          this node's own copy has them on its disk
             ──► acknowledged     a majority has, which may be without this node: its disk may be the slowest

A turn appends one batch, and each of its entries counts. The bookkeeping is per turn, so a turn of a
thousand entries costs no more than a turn of one. `put_seconds` (`shell/client_connections.py`) is measured
on the node that has the client and includes the network trips to the leader and back; these two do not.

An entry that is never acknowledged is never counted: its segment was fenced, and the recovery decided.

Invariants: waiting batches are ordered by their ends, which lie within what was appended. They are bounded,
as the callbacks of `Durable` and the writer's forwards are, by what is appended and not durable, or not
acknowledged.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from walrus.histogram import Histogram


class Took:
    """The two histograms, for all writers of a node, and the time of the current event."""

    __slots__ = ("acknowledged", "durable", "now")

    def __init__(self) -> None:
        self.durable = Histogram()
        self.acknowledged = Histogram()
        self.now = 0.0
        """The time of the current event, set by its handler, since callbacks of `Durable` get no time."""


class AppendedTurn(NamedTuple):
    """The entries that one turn appended: the offset after the last one, their number, and when."""

    end: int
    entries: int
    at: float


class Turns:
    """The turns of one writer that are not durable on this node, and those that are not acknowledged."""

    __slots__ = ("_not_acknowledged", "_not_durable", "took")

    def __init__(self, took: Took) -> None:
        assert took.durable is not took.acknowledged, "one histogram would count each entry twice"
        self.took = took
        self._not_durable: deque[AppendedTurn] = deque()
        self._not_acknowledged: deque[AppendedTurn] = deque()

    def appended(self, end: int, count: int, now: float) -> None:
        """A turn has appended entries `end - count` to `end - 1`."""
        assert count > 0, "a turn of nothing would be observed"
        waiting = self._not_acknowledged
        assert not waiting or waiting[-1].end + count == end, "SeqOrder: turns are observed in their order"
        turn = AppendedTurn(end, count, now)
        self._not_durable.append(turn)
        waiting.append(turn)

    def durable(self, length: int) -> None:
        """This node's copy durably has `length` entries."""
        assert length >= 0, "AckedDurable: a copy of less than nothing"
        self._observe(self._not_durable, length, self.took.durable)

    def acknowledged(self, length: int) -> None:
        """A majority durably has `length` entries; a turn counts once all of its entries are among them."""
        assert length > 0, "AckedDurable: nothing is acknowledged"
        self._observe(self._not_acknowledged, length, self.took.acknowledged)

    def _observe(self, waiting: deque[AppendedTurn], length: int, took: Histogram) -> None:
        while waiting and waiting[0].end <= length:
            turn = waiting.popleft()
            assert turn.entries > 0, "a turn of nothing is observed"
            took.observe(max(0.0, self.took.now - turn.at), turn.entries)
        assert not waiting or waiting[0].end > length, "AckedDurable: what has come is still waited for"
