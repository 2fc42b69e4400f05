"""What two nodes have seen of one failover is one row, in order, though each only says how long ago."""

from __future__ import annotations

from typing import Any

from tests.console.test_history import look, said
from walrus.console.failovers import MAX_SHOWN, Timeline
from walrus.console.history import History
from walrus.health import PHASES, FailoverFigures, NodeFigures


def seen(node: int, heard_at: float | None, segment: int = 4, **ago: float) -> NodeFigures:
    told = FailoverFigures(topic="orders", segment=segment, leader=1, ago=ago)
    return said(node, heard_at=heard_at, last_failovers=[told])


def phases(failovers: Timeline, now: float = 0.0) -> dict[str, float]:
    (row,) = failovers.picture(now, 1_000.0)
    return dict(row["phases"])


def test_what_two_nodes_saw_is_one_failover() -> None:
    history = History()
    recovering = seen(2, 10.0, noticed=2.0, fenced=1.75, recovered=1.5, sealed=1.25)
    leading = seen(3, 10.5, opened=1.5, acknowledged=0.5)
    history.take(look(recovering, leading), 11.0, 2_000.0)
    (row,) = history.picture()["failovers"]
    assert row == {
        "topic": "orders", "segment": 4, "lost": 1, "recovered_by": 2, "next": 3, "at": 1_997.0,
        "phases": list(zip(PHASES, (0.0, 0.25, 0.5, 0.75, 1.0, 2.0), strict=True)),
    }  # fmt: skip


def test_of_all_looks_the_earliest_date_counts() -> None:
    """The first answer was long under way, the second was not, and a third one was again."""
    failovers = Timeline()
    failovers.take([seen(2, 10.75, noticed=2.0, sealed=1.0)], 0.0)
    failovers.take([seen(2, 11.0, noticed=3.0, sealed=2.0), seen(3, 11.0, opened=1.5)], 0.0)
    failovers.take([seen(2, 12.5, noticed=4.0, sealed=3.0), seen(3, 12.5, opened=2.5)], 0.0)
    assert phases(failovers) == {"noticed": 0.0, "sealed": 1.0, "opened": 1.5}


def test_no_phase_is_later_than_the_one_behind_it() -> None:
    """The recovering node answers late, so its Seal seems to come after the next segment."""
    failovers = Timeline()
    failovers.take([seen(2, 11.0, noticed=1.0, sealed=0.5), seen(3, 10.25, opened=0.0)], 0.0)
    assert phases(failovers) == {"noticed": 0.0, "sealed": 0.25, "opened": 0.25}, "FailoverProgress"


def test_a_node_that_dies_takes_nothing_along_that_was_told() -> None:
    failovers = Timeline()
    failovers.take([seen(2, 10.0, noticed=1.0, fenced=0.5)], 0.0)
    failovers.take([], 0.0)
    assert failovers.picture(0.0, 0.0) == [], "it may have been none"
    failovers.take([seen(3, 12.0, noticed=0.5, fenced=0.25, sealed=0.0)], 0.0)
    failovers.take([], 0.0)
    assert phases(failovers) == {"noticed": 0.0, "fenced": 0.5, "sealed": 3.0}, "the first date counts"


def test_failovers_that_a_console_keeps_are_bounded_and_the_latest_come_first() -> None:
    failovers = Timeline()
    for segment in range(3 * MAX_SHOWN):
        failovers.take([seen(2, float(segment), segment, noticed=0.0, sealed=0.0)], 0.0)
    rows: list[dict[str, Any]] = failovers.picture(0.0, 0.0)
    assert [row["segment"] for row in rows] == list(range(3 * MAX_SHOWN - 1, 2 * MAX_SHOWN - 1, -1))
