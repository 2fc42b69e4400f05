"""The checker that shares no code with the project: it finds what is wrong, in histories and in planted
nodes.

`make chaos MINUTES=60` is the same for as long as one likes.
"""

from __future__ import annotations

import ast
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.node.chaos.checker import Place, disagreement, violations
from tests.node.chaos.client import MAYBE, NOT_DONE, OK, Queue, Told, reasons, worth
from tests.node.chaos.run import Options, play
from tests.node.chaos.world import JOBS, TOPIC

HERE = Path(__file__).parent
DEEP = os.environ.get("HYPOTHESIS_PROFILE") == "deep"

FOUND_WITHIN = 450.0
"""Seconds of clusters' lives in which a planted bug is found, mostly in the first fifteen. So many, since a
slow machine has fewer faults in a life; `make deep` takes longer."""


def in_deep(reason: str) -> pytest.MarkDecorator:
    """What takes tens of seconds of a core, and is seen elsewhere too."""
    return pytest.mark.skipif(not DEEP, reason=f"make deep: {reason}")


def test_nothing_of_the_project_is_imported() -> None:
    for path in [*(HERE / "chaos").glob("*.py"), HERE / "harness.py"]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not [name for name in names if name.split(".")[0] == "walrus"], path.name


def test_the_page_says_what_an_answer_is_worth() -> None:
    assert len(reasons()) > 20
    assert worth(b"OK") == worth(b"EMPTY") == worth(b"OK x") == OK
    assert worth(b"ERR no leader: an election") == worth(b"ERR not written: no room") == NOT_DONE
    assert worth(b"ERR timeout: the outcome is unknown") == worth(b"ERR of a later version") == MAYBE


LOG = [Place(1, 0, b"a-0"), Place(1, 1, b"b-0"), Place(2, 0, b"a-1"), Place(2, 1, b"a-2")]


def good() -> Told:
    """A history of which LOG is a possible end."""
    return Told(
        puts={
            "a": [(b"a-0", OK), (b"a-1", MAYBE), (b"a-2", OK), (b"a-3", NOT_DONE), (b"a-4", MAYBE)],
            "b": [(b"b-0", OK)],
        },
        gets={"g": [b"a-0", b"b-0", b"b-0", b"a-2"]},
        doubtful_gets={"g": 1},
        fetched={(1, 1): b"b-0"},
    )


def test_a_history_that_is_possible_has_no_violation() -> None:
    assert violations(LOG, good()) == []
    assert disagreement([LOG, LOG[:2]]) is None


def numbered() -> Told:
    """A history of producers and workers of which LOG is a possible end."""
    work = Queue(
        given=[(b"a-0", 1.0), (b"b-0", 1.0), (b"a-0", 2.0), (b"a-1", 2.0), (b"a-2", 2.0), (b"a-2", 3.0)],
        acknowledged={b"a-0": 2.5, b"b-0": 2.5, b"a-1": 4.0},
        doubtful={b"a-2"},
    )
    puts = {"a": [(b"a-0", OK), (b"a-1", MAYBE), (b"a-2", OK), (b"a-3", MAYBE)], "b": [(b"b-0", OK)]}
    return Told(puts=puts, producers={"a", "b"}, queues={"work": work})


def test_histories_of_producers_and_workers_that_are_possible_have_no_violation() -> None:
    assert violations(LOG, numbered()) == []


BROKEN: list[tuple[str, Callable[[Told], object]]] = [
    ("AckedDurable", lambda told: told.puts["b"].append((b"b-1", OK))),
    ("NotDoneAbsent", lambda told: told.puts["a"].__setitem__(1, (b"a-1", NOT_DONE))),
    ("NothingInvented", lambda told: told.puts["a"].pop(1)),
    ("WriterOrder", lambda told: told.puts["a"].reverse()),
    ("PlacesStable", lambda told: told.fetched.__setitem__((1, 1), b"a-0")),
    ("PlacesStable", lambda told: told.fetched.__setitem__((9, 9), b"b-0")),
    ("PlacesStable", lambda told: told.wrong.append("PlacesStable: there was one, then another")),
    ("NothingSkipped", lambda told: told.doubtful_gets.__setitem__("g", 0)),
    ("NothingSkipped", lambda told: told.gets["g"].append(b"a-4")),
]


@pytest.mark.parametrize(("name", "harm"), BROKEN)
def test_a_history_that_is_impossible_is_told_by_name(name: str, harm: Callable[[Told], object]) -> None:
    told = good()
    harm(told)
    found = violations(LOG, told)
    assert found and all(one.startswith(name) for one in found)


def test_an_entry_that_is_there_twice_and_two_logs_are_told_by_name() -> None:
    twice = violations([*LOG, Place(2, 2, b"a-2")], good())
    assert twice and twice[0].startswith("NothingInvented: b'a-2' is there 2 times")
    other = [LOG[0], Place(1, 1, b"other")]
    assert str(disagreement([LOG, other])).startswith("NodesAgree")


BROKEN_WORK: list[tuple[str, Callable[[Told], object]]] = [
    ("AckedDurable", lambda told: told.puts["b"].append((b"b-1", OK))),
    ("NumbersWithoutGap", lambda told: told.puts["b"].insert(0, (b"b-x", MAYBE))),
    ("NumbersWithoutGap", lambda told: told.puts["a"].insert(0, told.puts["a"].pop())),
    ("NothingSkipped", lambda told: told.queues["work"].doubtful.clear()),
    ("AckedNotRedelivered", lambda told: told.queues["work"].given.append((b"a-0", 2.6))),
    ("NothingInvented", lambda told: told.queues["work"].given.append((b"a-3", 2.6))),
]


@pytest.mark.parametrize(("name", "harm"), BROKEN_WORK)
def test_a_history_of_work_that_is_impossible_is_told_by_name(
    name: str, harm: Callable[[Told], object]
) -> None:
    told = numbered()
    harm(told)
    found = violations(LOG, told)
    assert found and all(one.startswith(name) for one in found)


def test_a_number_that_is_there_twice_is_told_by_name() -> None:
    (found,) = violations([*LOG, Place(2, 2, b"a-1")], numbered())
    assert found.startswith("NoDuplicateAppend: 1 of 4 of a are there more than once, first number 1")


@pytest.mark.process
@pytest.mark.slow
@pytest.mark.timeout(1_200)
def test_a_while_of_everything_breaks_no_promise() -> None:
    said: list[str] = []
    assert play(Options(seed=11, seconds=60 if DEEP else 15, nodes=3), said.append) == [], said


@pytest.mark.process
@pytest.mark.slow
@pytest.mark.timeout(7_200 if DEEP else 2_400)
@pytest.mark.parametrize(
    ("bug", "topic", "faults", "life", "reported"),
    [
        ("acks_at_one_copy", TOPIC, "cut off", 15, "AckedDurable PlacesStable NodesAgree"),
        pytest.param(
            *("sealed_after_one_fence", TOPIC, "behind", 15, "AckedDurable PlacesStable NodesAgree"),
            marks=in_deep("the simulator shows it, and another bug shows that AckedDurable is judged"),
        ),
        pytest.param(
            *("no_fence_check", TOPIC, "late frames", 15, "AckedDurable PlacesStable NodesAgree"),
            marks=in_deep("one cluster in several shows it"),
        ),
        ("ack_answered_before_the_commit", JOBS, "cut off", 15, "AckedNotRedelivered"),
        pytest.param(
            *("mark_past_a_hole", b"", "kill,behind", 10, "NothingSkipped"),
            marks=in_deep("the simulator shows it, and it takes some clusters here"),
        ),
        ("recovery_without_producers", JOBS, "kill,behind", 10, "NoDuplicateAppend ProducerKept"),
        pytest.param(
            *("gap_taken", JOBS, "kill", 10, "NumbersWithoutGap"),
            marks=in_deep("the simulator shows it, and histories that the name is judged"),
        ),
    ],
)
def test_a_planted_bug_is_found_in_time(
    bug: str, topic: bytes, faults: str, life: float, reported: str
) -> None:
    found: list[str] = []
    for seed in range(int(FOUND_WITHIN * (3 if DEEP else 1) // life)):
        options = Options(
            seed, seconds=life, nodes=3, fsync="none", bug=bug, only=faults, disks=False, topic=topic
        )
        if found := play(options, lambda line: None):
            break
    assert any(one.startswith(tuple(reported.split())) for one in found), found
