"""The table of `walrus.cluster` and `walrus-cli status` has all that matters, also in a narrow terminal."""

from __future__ import annotations

import pytest
from rich.console import Console

from tests.console.test_history import said
from walrus import health
from walrus.cli import status

WHERE = {n: f"127.0.0.1:909{n}" for n in (1, 2, 3, 4)}
LOGS = f"logs: /home/a-name/{'a-long-directory/' * 5}data/node_*.log; Ctrl-C stops all nodes"


def cluster() -> health.ClusterHealth:
    """Large numbers in every column, a disk that is nearly full, and a node that does not answer."""
    answers: dict[str, health.NodeFigures | None] = dict.fromkeys(WHERE.values())
    orders = health.TopicFigures(segments=2, entries=9, lag={"billing": 1_000_000})
    for n in (1, 2, 3):
        answers[WHERE[n]] = said(
            n,
            client_addresses=WHERE,
            current_term=12,
            commit_index=123_456,
            segments_led=1_234,
            entries=1_234_567,
            topics=1_000,
            topics_led={"orders": orders},
            under_replicated=123,
            disk_total_bytes=252_000_000_000,
            disk_free_bytes=69_600_000_000 // n,
        )
    return health.judge(answers)


@pytest.mark.parametrize("width", [80, 160])
def test_all_that_matters_is_on_the_table_and_nothing_is_cut(width: int) -> None:
    console = Console(width=width)
    with console.capture() as captured:
        console.print(status.shown(cluster(), {1: 12_345.0, 2: 0.0, 3: 3.0}, LOGS))
    lines = captured.get().splitlines()
    first, rows = lines[0].strip(), [line.split("│")[1:-1] for line in lines if line.startswith("│")]
    assert first == "Walrus: degraded; 1,000 topics, lag up to 1,000,000, under-replicated 123"
    assert [cell.strip() for cell in rows[0]] == [
        *("1", "Leader", "12", "123,456", "1,234", "72% 70G", "1,234,567", "12,345")
    ]
    assert [row[5].strip() for row in rows] == ["72% 70G", "86% 35G", "91% 23G", "-"]
    assert rows[3][1].strip() == "no answer"
    assert "…" not in captured.get() and max(map(len, lines)) <= width
    assert max(len(line) for line in lines if line.startswith("│")) < 80, "the echo of Ctrl-C finds room"
    shown = [line.strip() for line in lines]
    assert {"node 3: its disk is 91% full", "node 4 (127.0.0.1:9094) does not answer"} <= {*shown}
    if width == 160:
        assert LOGS in shown, "a path that fits is not broken"
    assert "".join(shown).replace(" ", "").endswith(LOGS.replace(" ", ""))
