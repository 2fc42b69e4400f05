"""Lanes in the terminal, SVG for the docs, the page: what is drawn, and that foreign text stays text."""

from __future__ import annotations

import base64
import gzip
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import msgspec
import pytest

from tests.view.films import simulated, small
from walrus.view import html, lanes, svg
from walrus.view.__main__ import main
from walrus.view.film import Event, parse
from walrus.view.links import MAP, ROOT, links


def test_the_story_of_an_event_is_its_causal_past_with_each_message_told_once() -> None:
    film = small()
    assert lanes.story(film, 10) == [0, 1, 2, 5, 7, 10]
    assert lanes.story(film, 10, most=2) == [7, 10]
    assert lanes.story(film, 4) == [0, 2, 3, 4]


def test_lanes_at_eighty_columns() -> None:
    drawn = lanes.draw(small(), [2, 4, 5, 7, 9, 10], 80)
    assert drawn == [
        "    time  node 1                 node 2                 client <c>",
        "  0.1000  ● Timeout term=2       │                      │",
        "          ○──Request─✗           │                      │",
        "  0.2000  ○──RequestVote term=2─▶│                      │",
        "          │                      │◀─Put t/1─────────────○",
        "  0.4000  ✖ kill -9              │                      │",
        "  0.5000  │                      ↯ Ack t/1 count=1: AckedDurable: one of three c",
    ]


def test_what_finds_no_room_to_its_right_is_written_to_its_left() -> None:
    film = small()
    film.events[2] = Event(0.1, "2", "step", "Timeout", {"topic": 26 * "t"})
    assert lanes.draw(film, [2], 80)[1] == f"  0.1000  Timeout {26 * 't'} ●"


@pytest.mark.parametrize("width", [40, 80, 160])
def test_lanes_fit_into_the_terminal(width: int) -> None:
    film = simulated()
    for line in lanes.draw(film, lanes.story(film, len(film.events) - 1, 40), width):
        assert len(line) <= width


def test_a_picture_is_well_formed_and_holds_every_lane_and_message() -> None:
    film = small()
    drawn = svg.picture(film, list(range(len(film.events))))
    root = ElementTree.fromstring(drawn)
    texts = [text.text for text in root.iter("{http://www.w3.org/2000/svg}text")]
    assert {"node 1", "node 2", "client <c>", "AckedDurable", "Timeout"} <= set(texts)
    assert "RequestVote term=2" in texts


def test_a_picture_that_is_too_wide_goes_on_below() -> None:
    film, part = small(), "{http://www.w3.org/2000/svg}"
    shown = list(range(len(film.events)))
    long, folded = (ElementTree.fromstring(svg.picture(film, shown, widest=most)) for most in (9e9, 420))
    assert float(folded.get("width", 0)) <= 420 < float(long.get("width", 0))
    assert len(folded.findall(f"{part}g")) > 1 == len(long.findall(f"{part}g"))
    assert len([*folded.iter(f"{part}circle")]) == len([*long.iter(f"{part}circle")]), "each event once"


def test_the_page_holds_the_film_and_nothing_of_it_as_markup() -> None:
    film = small()
    film.header.title = "</title><script>alert(1)</script>"
    page = html.page(film)
    packed = re.search(r'<script id="film" type="application/octet-stream">([^<]*)</script>', page)
    assert packed is not None
    assert parse(gzip.decompress(base64.b64decode(packed[1])).splitlines(), "page") == film
    assert "<script>alert" not in page
    assert not re.search(r"https?://(?!www\.w3\.org/)", page), "a page needs no network"


def test_every_link_of_an_action_leads_to_a_file(tmp_path: Path) -> None:
    if not MAP.exists():
        pytest.skip("an installed package has no docs")
    found = links(tmp_path / "page.html")
    assert {"LeaderAppend", "Timeout", "Seal"} <= set(found)
    assert ("the Raft paper, section 5.2", "") in found["Timeout"]
    for targets in found.values():
        for address in filter(None, (address for _, address in targets)):
            assert (tmp_path / address).resolve().is_relative_to(ROOT)
            assert (tmp_path / address).exists(), address


def test_the_command_makes_pages_pictures_and_lines(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "run.film"
    path.write_bytes(small().lines())
    assert main([str(path)]) == 0
    assert "a small run" in (tmp_path / "run.html").read_text()
    assert main([str(path), "--svg", str(tmp_path / "run.svg"), "--lanes"]) == 0
    ElementTree.parse(tmp_path / "run.svg")
    assert "Ack t/1" in capsys.readouterr().out
    assert main([str(path), "--from", "6", "--html", str(tmp_path / "end.html")]) == 0


@pytest.mark.parametrize(
    ("text", "more", "why"),
    [
        (b"garbage\n", [], "run:1: "),
        (b'{"node": 1}\n', [], 'it has no "ev"'),
        (b"", [], "there is no event in it"),
        (small().lines(), ["--from", "9", "--to", "3"], "the film has events 0 to 10"),
        (small().lines(), ["other"], "give one at a time"),
    ],
)
def test_a_file_of_another_kind_is_refused_in_one_line(
    text: bytes, more: list[str], why: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "run"
    path.write_bytes(text)
    assert main([str(path), *more]) == 2
    said = capsys.readouterr().err
    assert why in said and said.count("\n") == 1


def test_recorded_runs_of_two_nodes_merge_by_their_clock(tmp_path: Path) -> None:
    for node, at in ((1, 2_000_000), (2, 1_000_000)):
        step = {"ev": "Timeout", "node": node, "at": at, "current_term": node, "role": "Candidate"}
        (tmp_path / f"{node}.jsonl").write_bytes(msgspec.json.encode(step) + b"\n")
    assert main([str(tmp_path / "1.jsonl"), str(tmp_path / "2.jsonl")]) == 0
    page = (tmp_path / "1.html").read_text()
    packed = re.search(r'octet-stream">([^<]*)<', page)
    assert packed is not None
    film = parse(gzip.decompress(base64.b64decode(packed[1])).splitlines(), "page")
    assert [(event.lane, event.at, event.state["term"]) for event in film.events] == [
        ("2", 0.0, 2),
        ("1", 0.001, 1),
    ]
