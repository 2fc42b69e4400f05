"""`walrus-cli status` and `check`: the health of the cluster, for a person and for a script.

Both ask every member that any member names. `health.py` judges the answers, which determines the exit
status:

    0 healthy     1 degraded     2 unavailable

`status` prints a table of the members, and what is wrong; `check` prints one line, for monitoring scripts.
With `--json` both print the same object. `walrus.cluster` shows the same table, live.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from walrus import health
from walrus.cli.commands import Screen
from walrus.cli.view import number
from walrus.client import Client, WalrusError

COLUMNS = ("node", "role", "term", "commit", "leads", "disk free", "entries", "PUT/s")
"""The table is narrower than 80 columns: in a live table as wide as the terminal, the echo of Ctrl-C would
wrap, and leave a part of the table behind."""

STYLES = {health.HEALTHY: "bold green", health.DEGRADED: "bold yellow", health.UNAVAILABLE: "bold red"}


def ask(address: str, timeout: float, complain: Callable[[str], None]) -> health.NodeFigures | None:
    """Return the figures of the node at an address; if it does not answer, call `complain`, return None."""
    try:
        with Client([address], timeout=timeout) as client:
            return health.read(client.metrics())
    except (WalrusError, OSError, ValueError) as error:
        complain(str(error))
        return None


def look(addresses: Iterable[str], timeout: float) -> health.ClusterHealth:
    """Ask these nodes and all members that they name. If none answers, one reason is the first error."""
    said: list[str] = []
    answers = health.survey(addresses, lambda address: ask(address, timeout, said.append))
    cluster = health.judge(answers)
    if any(answers.values()) or not said:
        return cluster
    return msgspec.structs.replace(cluster, reasons=(*cluster.reasons, said[0]))


class Rates:
    """PUTs per second of each node, between two answers."""

    def __init__(self) -> None:
        self._last: dict[int, tuple[float, int]] = {}

    def rate(self, node_id: int, count: int, now: float) -> float:
        """Return the rate since the last call for this node; 0 for the first."""
        then, before = self._last.get(node_id, (now, count))
        self._last[node_id] = (now, count)
        return health.rate(count, before, now - then)


def size(count: int) -> str:
    """Format a number of bytes, as short as possible.

    >>> size(999), size(69_513_000_000), size(1_200_000_000_000)
    ('999', '70G', '1.2T')
    """
    amount, units = float(count), ["", "k", "M", "G", "T"]
    while amount >= 999.5 and len(units) > 1:
        amount /= 1000
        units.pop(0)
    return f"{amount:.1f}{units[0]}" if amount < 9.95 and units[0] else f"{amount:.0f}{units[0]}"


def row(node: health.NodeHealth, rate: float | None) -> list[str]:
    """The row of a node; `rate`: its PUTs per second, if known."""
    figures = node.figures
    if figures is None:
        return [str(node.node_id), node.role, *["-"] * (len(COLUMNS) - 2)]
    disk = "-" if node.disk_used is None else f"{node.disk_used:.0%} {size(figures.disk_free_bytes)}"
    numbers = (figures.current_term, figures.commit_index, figures.segments_led)
    shown = "-" if rate is None else f"{rate:,.0f}"
    return [str(node.node_id), node.role, *(f"{n:,}" for n in numbers), disk, f"{figures.entries:,}", shown]


def render(rows: Sequence[Sequence[str]], title: Text) -> Table:
    """The table of the members."""
    table = Table(title=title, pad_edge=False)
    for column in COLUMNS:
        table.add_column(column, justify="left" if column in ("node", "role") else "right")
    for cells in rows:
        table.add_row(*map(Text, cells))
    return table


def headline(cluster: health.ClusterHealth) -> Text:
    """The health and the figures of the whole cluster, in one line."""
    facts = f"{cluster.topic_count:,} topics, lag up to {cluster.worst_lag:,}"
    facts += f", under-replicated {cluster.under_replicated:,}"
    return Text.assemble("Walrus: ", (cluster.word, STYLES[cluster.word]), f"; {facts}")


def shown(cluster: health.ClusterHealth, rates: dict[int, float], caption: str = "") -> RenderableType:
    """Return the table of the members, a line for each reason, and the caption."""
    rows = [row(node, rates.get(node.node_id)) for node in cluster.nodes]
    lines = [Text(f"  {reason}", style="yellow") for reason in cluster.reasons]
    lines += [Text(f"  {caption}", style="dim")] if caption else []
    return Group(render(rows, headline(cluster)), *lines)


def status(addresses: Sequence[str], screen: Screen, timeout: float) -> int:
    """Print the members, what is wrong, and the largest lags; return the exit status."""
    cluster = look(addresses, timeout)
    screen.document(_plain(cluster), lambda console: _status(console, cluster))
    return cluster.exit_status


def _status(console: Console, cluster: health.ClusterHealth) -> RenderableType:
    del console
    if not cluster.nodes:
        return Text("\n".join((cluster.word, *cluster.reasons)))
    logs = {n.node_id: n.figures.log_file for n in cluster.nodes if n.figures and n.figures.log_file}
    lags = [
        (lag, name, group, topic.out.get(group, 0))
        for name, topic in cluster.topics.items()
        for group, lag in topic.lag.items()
        if lag
    ]
    lines = [Text(f"  log of node {node}: {file}", style="dim") for node, file in logs.items()]
    lines += [
        Text(_behind(name, group, lag, out), style="dim")
        for lag, name, group, out in sorted(lags, reverse=True)[:5]
    ]
    return Group(shown(cluster, {}), *lines)


def _behind(name: str, group: str, lag: int, out: int) -> str:
    in_hand = f", {number(out)} of them in hand" if out else ""
    return f"  {name}: {group or 'the shared cursor'} is {number(lag)} entries behind{in_hand}"


def check(addresses: Sequence[str], screen: Screen, timeout: float) -> int:
    """Print one line: the health, and the reasons; return the exit status."""
    cluster = look(addresses, timeout)
    line = f"{cluster.word}: {'; '.join(cluster.reasons) or 'all members are ready, all replicas are there'}"
    screen.document(_plain(cluster), lambda console: Text(line), one_line=True)
    return cluster.exit_status


def _plain(cluster: health.ClusterHealth) -> dict[str, Any]:
    """The object for `--json`."""
    return {
        "health": cluster.word,
        "reasons": cluster.reasons,
        "leader": cluster.leader,
        "under_replicated": cluster.under_replicated,
        "topics": cluster.topic_count,
        "worst_lag": cluster.worst_lag,
        "nodes": {str(n.node_id): {"role": n.role, "trouble": n.trouble or None} for n in cluster.nodes},
    }
