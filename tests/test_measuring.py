"""What the benchmarks show: a picture that is whole, and a pause that is named for what made it one."""

from __future__ import annotations

import io
import random
import re
import socket
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import pytest
from rich.console import Console

from benchmarks.handover import THREADS, Lane, turns
from benchmarks.handover import picture as drawn_turns
from benchmarks.latency import CONNECTIONS, Loop
from benchmarks.latency_picture import HEIGHT, WIDTH, picture
from benchmarks.pause_probe import mostly
from benchmarks.scale import Size, exponent, show


def test_a_picture_of_latencies_has_a_line_for_each_load_that_goes_right_and_never_down() -> None:
    rng = random.Random(1)
    panels = {
        verb: {load: sorted(rng.expovariate(1.0) * load_ms for _ in range(5_000)) for load, load_ms in loads}
        for verb, loads in (("PUT", (("50%", 1), ("80%", 3))), ("GET", (("50%", 0.2), ("80%", 900))))
    }
    root = ElementTree.fromstring(picture(panels, "<latency> & more"))
    curves = [path for path in root.iter() if path.get("stroke-width") == "2" and path.get("fill") == "none"]
    assert len(curves) == 4
    for curve in curves:
        points = [
            tuple(map(float, pair.split())) for pair in re.split("[ML]", curve.attrib["d"]) if pair.strip()
        ]
        assert points == sorted(points, key=lambda point: (point[0], -point[1])), "more requests, more ms"
        assert all(0 <= x <= WIDTH and 0 <= y <= HEIGHT for x, y in points)


def test_one_latency_is_a_picture_too() -> None:
    ElementTree.fromstring(picture({"PUT": {"50%": [1.0]}}, "one"))


def test_threads_that_hand_the_interpreter_over_never_work_at_once_in_the_picture() -> None:
    times: list[list[int]] = [[] for _ in range(THREADS)]
    for turn in range(300):  # ten steps of 1 us each, then the next thread for 10 us
        times[turn % THREADS] += [turn * 10_000 + step * 1_000 for step in range(10)]
    lanes = [Lane(turns(each, alone=1_000), len(each)) for each in times]
    assert all(len(lane.turns) == 300 / THREADS for lane in lanes)
    root = ElementTree.fromstring(drawn_turns({"pwrite": lanes, "a store into a mapping": lanes}))
    panels = [group for group in root.iter() if group.tag.endswith("}g")]
    assert len(panels) == 2
    for panel in panels:
        rects = [rect.attrib for rect in panel if rect.tag.endswith("rect")]
        filled = sorted((float(r["x"]), float(r["width"])) for r in rects if r["fill"] == "#2f6fdb")
        assert len(filled) > 40
        assert all(x + wide <= other for (x, wide), (other, _) in pairwise(filled))


@pytest.mark.parametrize(
    ("parts", "name"),
    [
        (
            {"PeerSession.buffer_updated": 0.048, "RaftHost.flush": 0.03, "Router.flush": 0.001},
            "RaftHost.flush",
        ),
        ({"garbage collection 2": 0.05, "Controller.on_tick": 0.05}, "Controller.on_tick"),
        ({"Router.flush": 0.001}, "what is not timed by itself"),
    ],
)
def test_a_pause_is_named_for_the_smallest_part_that_makes_up_half_of_it(
    parts: dict[str, float], name: str
) -> None:
    assert mostly(0.05, parts) == name


def test_an_open_loop_asks_at_even_distances_however_late_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = [socket.socketpair() for _ in range(CONNECTIONS)]
    ends = iter(pairs)
    monkeypatch.setattr("benchmarks.latency.dial", lambda address: next(ends)[0])
    loop = Loop(("", 0), "PUT")
    sent = 0
    for moment in (100.0, 100.0004, 100.3, 100.5):
        sent = loop.ask(sent, 100.0, 1_000.0, moment)
    due = sorted(due for line in loop.lines for due in line.due)
    assert due == pytest.approx([100.0 + n / 1_000 for n in range(501)]) and sent == 501
    assert {len(line.due) for line in loop.lines} <= {501 // CONNECTIONS, 501 // CONNECTIONS + 1}
    for line, (_, node) in zip(loop.lines, pairs, strict=True):
        asked = len(line.due)
        assert len(node.recv(1 << 20)) == asked * len(loop.request), "as many as are waited for"
        node.sendall(b"\x02\x00\x00\x00OK\x05\x00\x00\x00EMPTY" + b"\x02\x00\x00\x00OK" * (asked - 2))
        loop.take(1.0, again=False)
    assert (len(loop.latencies), loop.waiting(), loop.refused) == (501, 0, {"EMPTY": CONNECTIONS})
    for pair in pairs:
        for each in pair:
            each.close()


def test_a_growth_is_the_exponent_and_what_was_given_up_meets_no_goal() -> None:
    assert exponent([10, 100, 1_000], [3.0, 30.0, 300.0]) == pytest.approx(1.0)
    assert exponent([10, 20, 40], [1.0, 4.0, 16.0]) == pytest.approx(2.0)
    sizes = {topics: Size(Path("nowhere"), topics, 1.0) for topics in (10, 20, 40)}
    for topics, size in sizes.items():
        size.found = {"register": topics / 100, "entry": topics**2.0, "pause, register": topics * 1.0}
    del sizes[40].found["register"]
    sizes[40].failed = "register of 40 topics is given up"
    console = Console(width=200, record=True, file=io.StringIO())
    show(console, sizes)
    lines = console.export_text().splitlines()
    verdicts = {
        name: line.split("│")[-2].strip()
        for line in lines
        for name in ("register", "entry", "pause, register")
        if line.startswith(f"│ {name} ")
    }
    assert verdicts == {"register": "missed", "entry": "missed", "pause, register": "met"}
    assert "register of 40 topics is given up" in lines
