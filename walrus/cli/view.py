"""Views of STATE, METRICS and entries for a person: tables and panels, made with rich.

A view must accept any answer: a node of another release may omit a field or add one. So every field is
optional, and a METRICS field that no view knows is shown under its own name. All text from a node is printed
without markup or control characters.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from rich.columns import Columns
from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

WIDE: Final = 120
"""With this many columns or more, panels stand side by side."""
MOST_SEGMENTS: Final = 24
_FIRST_SEGMENTS: Final = 4
_ROLE_STYLES: Final = {
    "Leader": "bold green",
    "Follower": "cyan",
    "Candidate": "bold yellow",
    "Learner": "magenta",
}
_SHOWN: Final = {
    "running_state",
    "id",
    "current_term",
    "vote",
    "last_log_index",
    "last_applied",
    "snapshot",
    "purged",
    "state",
    "current_leader",
    "millis_since_quorum_ack",
    "last_quorum_acked",
    "membership_config",
    "heartbeat",
    "replication",
    "client_addresses",
    "cluster_id",
}
"""The METRICS fields that have a place in a view; all others are listed."""


def number(value: object) -> str:
    """Format a number for a person, or whatever came in its place.

    >>> number(1234567), number(None), number("x")
    ('1,234,567', '—', 'x')
    """
    if value is None:
        return "—"
    if isinstance(value, float):
        return f"{value:,.2f}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else _shown(str(value))


def printable(payload: bytes) -> str:
    """An entry for a terminal: text as it is, control characters and invalid UTF-8 escaped.

    >>> printable("grün".encode()), printable(b"\\x1b[2J"), printable(b"\\xff\\x00")
    ('grün', '\\\\x1b[2J', '\\\\xff\\\\x00')
    """
    text = payload.decode(errors="backslashreplace")
    return "".join(one if one.isprintable() or one == "\t" else _escaped(one) for one in text)


def _shown(text: str) -> str:
    return printable(text.encode(errors="backslashreplace"))


def _cell(value: RenderableType) -> RenderableType:
    """Wrap text from a node, so that rich does not take it for markup."""
    return Text(value) if isinstance(value, str) else value


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode()


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _by_number(value: object) -> list[tuple[int, Any]]:
    """The items of a JSON object whose keys are numbers, in numeric order."""
    items = [(int(key), item) for key, item in _mapping(value).items() if str(key).isdigit()]
    return sorted(items, key=lambda pair: pair[0])


def _table(*columns: str, right: Iterable[str] = ()) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim", expand=False)
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left", overflow="fold")
    return table


def _facts(rows: Iterable[tuple[str, RenderableType]]) -> Table:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in rows:
        grid.add_row(Text(_shown(name)), _cell(value))
    return grid


def _beside(console: Console, panels: list[Panel]) -> RenderableType:
    if console.width >= WIDE:
        return Columns(panels, padding=(0, 1))
    for panel in panels:
        panel.expand = True
    return Group(*panels)


# --- STATE ----------------------------------------------------------------------------------------


def state(console: Console, topic: str, answer: Mapping[str, Any]) -> RenderableType:
    """A view of a topic: its segments and its cursors."""
    current = answer.get("current_segment")
    sealed = dict(_by_number(answer.get("sealed_segments")))
    facts = _facts(
        [
            ("open segment", Text(number(current), style="bold")),
            ("its leader", Text(f"node {number(answer.get('leader_node'))}", style="bold green")),
            ("sealed entries", Text(number(answer.get("last_sealed_entry_offset")))),
        ]
    )
    title = Text.assemble("topic ", (_shown(topic), "bold"))
    panels = [
        Panel(Group(facts, Text(), _segments(answer, current, sealed)), title=title, title_align="left")
    ]
    if cursors := _mapping(answer.get("cursors")):
        panels.append(Panel(_cursors(cursors), title="cursors", title_align="left"))
    return _beside(console, panels)


def _segments(answer: Mapping[str, Any], current: object, sealed: dict[int, int]) -> Table:
    leaders = dict(_by_number(answer.get("segment_leaders")))
    replicas = dict(_by_number(answer.get("segment_replicas")))
    numbers = sorted({*sealed, *leaders, *replicas, *([current] if isinstance(current, int) else [])})
    table = _table("segment", "", "entries", "leader", "replicas", right=("segment", "entries", "leader"))
    hidden = len(numbers) - MOST_SEGMENTS
    for place, segment in enumerate(numbers):
        if hidden > 0 and _FIRST_SEGMENTS <= place < _FIRST_SEGMENTS + hidden:
            if place == _FIRST_SEGMENTS:
                table.add_row("…", Text(f"{hidden:,} more", style="dim"))
            continue
        status = Text("open", style="bold green") if segment == current else Text("sealed", style="dim")
        on = replicas.get(segment)
        where = _plain(on) if isinstance(on, list) else "—"
        row: list[RenderableType] = [
            str(segment),
            status,
            number(sealed.get(segment)),
            number(leaders.get(segment)),
            where,
        ]
        table.add_row(*map(_cell, row))
    return table


def _cursors(cursors: Mapping[str, Any]) -> Table:
    table = _table("group", "segment", "offset", right=("segment", "offset"))
    for group, place in sorted(cursors.items()):
        name = Text(_shown(group)) if group else Text("(shared)", style="dim")
        if isinstance(place, Mapping):
            row = [number(place.get("segment")), number(place.get("offset"))]
        elif isinstance(place, list) and len(place) == 2:
            row = [number(place[0]), number(place[1])]
        else:
            row = ["", number(place)]
        table.add_row(name, *map(_cell, row))
    return table


# --- METRICS --------------------------------------------------------------------------------------


def metrics(console: Console, answer: Mapping[str, Any]) -> RenderableType:
    """A view of METRICS: the node and the cluster, as the node sees them."""
    role = str(answer.get("state", "?"))
    title = Text.assemble(f"node {number(answer.get('id'))} ", (_shown(role), _ROLE_STYLES.get(role, "bold")))
    panels = [
        Panel(_consensus(answer), title=title, title_align="left"),
        Panel(_members(answer), title="members", title_align="left"),
    ]
    others = [(name.replace("_", " "), _plain(value)) for name, value in answer.items() if name not in _SHOWN]
    if others:
        panels.append(Panel(_facts(others), title="this node", title_align="left"))
    return _beside(console, panels)


def _consensus(answer: Mapping[str, Any]) -> Table:
    leader = answer.get("current_leader")
    applied = _mapping(answer.get("last_applied"))
    vote = _mapping(_mapping(answer.get("vote")).get("leader_id"))
    rows: list[tuple[str, RenderableType]] = [
        ("cluster", _plain(answer.get("cluster_id"))),
        ("running", _running(answer.get("running_state"))),
        ("raft leader", Text("none", style="bold red") if leader is None else Text(f"node {number(leader)}")),
        ("term", number(answer.get("current_term"))),
        ("vote", f"node {number(vote.get('node_id'))} in term {number(vote.get('term'))}" if vote else "—"),
        ("last log index", number(answer.get("last_log_index"))),
        ("last applied", number(applied.get("index")) if applied else "—"),
        ("snapshot", _log_id(answer.get("snapshot"))),
    ]
    if answer.get("millis_since_quorum_ack") is not None:
        rows.append(("quorum heard", f"{number(answer['millis_since_quorum_ack'])} ms ago"))
    return _facts(rows)


def _running(value: object) -> Text:
    if _mapping(value).keys() == {"Ok"}:
        return Text("ok", style="green")
    return Text(_plain(value).plain, style="bold red")


def _log_id(value: object) -> str:
    found = _mapping(value)
    return number(found.get("index")) if found else "—"


def _members(answer: Mapping[str, Any]) -> Table:
    membership = _mapping(_mapping(answer.get("membership_config")).get("membership"))
    configs = membership.get("configs")
    voters = {node for config in configs for node in config} if isinstance(configs, list) else set()
    nodes, replication = (
        dict(_by_number(membership.get("nodes"))),
        dict(_by_number(answer.get("replication"))),
    )
    last = answer.get("last_log_index")
    clients = dict(_by_number(answer.get("client_addresses")))
    columns = ["node", "raft", "clients", "role"] + (["replicated", "behind"] if replication else [])
    table = _table(*columns, right=("node", "replicated", "behind"))
    for node in sorted({*nodes, *voters}):
        role = "voter" if node in voters else "learner"
        role = "raft leader" if node == answer.get("current_leader") else role
        row = [str(node), number(_mapping(nodes.get(node)).get("addr")), number(clients.get(node)), role]
        if replication:
            index = _mapping(replication.get(node)).get("index")
            behind = last - index if isinstance(last, int) and isinstance(index, int) else None
            row += [number(index), number(behind)]
        table.add_row(*map(_cell, row), style="bold" if node == answer.get("id") else None)
    return table


def _plain(value: object) -> Text:
    """Any JSON value, in one cell."""
    if isinstance(value, Mapping):
        return Text(
            ", ".join(f"{_shown(str(key))}: {_plain(item).plain}" for key, item in value.items()) or "none"
        )
    if isinstance(value, list):
        return Text(", ".join(_plain(item).plain for item in value) or "none")
    if isinstance(value, bool):
        return Text("yes" if value else "no")
    return Text(number(value))
