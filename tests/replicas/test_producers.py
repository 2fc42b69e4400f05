"""The table of producers: what is appended, what is a repetition, what is refused, and what is forgotten."""

from __future__ import annotations

from typing import Any

import pytest

from tests.broker.world import batch
from tests.replicas.test_replication import Bench
from walrus.replicas import producers
from walrus.replicas.producers import Producers
from walrus.segments import IDLE_SECONDS, LastNumber, latest
from walrus.storage.batch import Stamp
from walrus.wire import errors
from walrus.wire import messages as m


def pub(bench: Bench, producer: str, first: int, *payloads: str, origin: int = 9) -> int:
    bench.request += 1
    numbered = batch(*payloads).stamped(producer, first, 0)
    bench.writer.on_forward(
        origin, m.Forward(request=bench.request, topic="t", segment=1, batch=numbered), bench.now
    )
    return bench.request


def held(bench: Bench) -> list[bytes]:
    return bench.copies.read(bench.writer.copy, 0, 100, 100, 1 << 20).payloads()


def test_what_comes_again_is_answered_once_it_is_acknowledged_and_not_appended() -> None:
    bench = Bench()
    pub(bench, "x", 0, "a", "b")
    bench.flush()
    pub(bench, "x", 0, "a", "b", origin=1)
    pub(bench, "x", 1, "b", "c")
    bench.flush()
    assert bench.answers() == [], "RepeatOkImpliesAcked: a repetition is answered before its entry is safe"
    assert held(bench) == [b"a", b"b", b"c"], "NoDuplicateAppend: a repetition was appended"
    bench.sync()
    bench.reply(2, 3)
    assert sorted(bench.answers()) == [(n, 2, 2, False, "") for n in (1, 2, 3)], "EveryPubAnswered"
    pub(bench, "x", 2, "c")
    bench.flush()
    assert bench.answers() == [(4, 1, 1, False, "")], (
        "EveryPubAnswered: acknowledged already: nothing to wait for"
    )
    assert bench.writer.producers.since == {"x": LastNumber(2, 0)}, "NumbersWithoutGap"
    assert bench.writer.producers.repetitions.entries == 4


def test_an_answer_says_where_new_entries_are_and_nothing_of_repetitions() -> None:
    bench = Bench()
    bench.put("before")
    pub(bench, "x", 0, "a", "b")
    pub(bench, "x", 1, "b", "c", "d")
    pub(bench, "x", 3, "d")
    bench.flush()
    bench.sync()
    bench.reply(2, 5)
    assert [place for place in bench.places() if place[2]] == [(1, 0, 1), (2, 1, 2), (3, 3, 2)], (
        "AnswersAreTrue: places of repetitions"
    )
    assert held(bench)[3:] == [b"c", b"d"], "NoDuplicateAppend"


def test_a_repetition_in_the_same_turn_waits_for_what_it_repeats() -> None:
    bench = Bench()
    pub(bench, "x", 0, "a")
    pub(bench, "x", 0, "a", origin=1)
    bench.flush()
    assert bench.answers() == [] and held(bench) == [b"a"], "NoDuplicateAppend, RepeatOkImpliesAcked"
    bench.reply(2, 1)
    bench.reply(3, 1)
    assert sorted(answer[:3] for answer in bench.answers()) == [(1, 1, 1), (2, 1, 1)], "EveryPubAnswered"


def test_a_repetition_in_one_turn_with_new_entries_is_answered_in_that_turn() -> None:
    bench = Bench()
    pub(bench, "x", 0, "a")
    bench.flush()
    bench.sync()
    bench.reply(2, 1)
    assert bench.answers() == [(1, 1, 1, False, "")], "EveryPubAnswered"
    pub(bench, "x", 0, "a")
    bench.put("new")
    bench.flush()
    assert bench.answers() == [(2, 1, 1, False, "")], "EveryPubAnswered: what it repeats is acknowledged"


@pytest.mark.parametrize(
    ("first", "refusal"),
    [(3, errors.out_of_sequence(2)), (2**63 - 1, errors.out_of_sequence(2))],
)
def test_a_gap_is_refused_and_changes_nothing(first: int, refusal: str) -> None:
    bench = Bench()
    pub(bench, "x", 0, "a", "b")
    pub(bench, "x", first, "d")
    pub(bench, "unknown", 7, "e")
    bench.put("plain")
    bench.flush()
    assert held(bench) == [b"a", b"b", b"plain"], "NumbersWithoutGap: a number was left out"
    assert bench.answers() == [
        (2, 0, 0, False, refusal),
        (3, 0, 0, False, errors.unknown_producer("unknown")),
    ], "AnswersAreTrue: a gap is not refused by its name"


def test_the_end_of_a_segment_may_come_within_a_producers_entries() -> None:
    bench = Bench(max_segment_entries=3)
    pub(bench, "x", 0, "a", "b")
    pub(bench, "x", 1, "b", "c", "d")
    bench.flush()
    bench.sync()
    bench.reply(2, 3)
    assert bench.answers() == [(1, 2, 2, False, ""), (2, 2, 2, True, "")], (
        "AnswersAreTrue: b was there, c fits, d does not"
    )
    assert bench.writer.producers.since == {"x": LastNumber(2, 0)}, "NumbersWithoutGap"


def test_what_a_full_disk_refuses_is_not_known_as_appended() -> None:
    bench = Bench()
    pub(bench, "x", 0, "a")
    bench.flush()
    bench.memory.full = True
    pub(bench, "x", 1, "b")
    pub(bench, "y", 0, "c")
    bench.flush()
    bench.memory.full = False
    pub(bench, "x", 1, "b")
    bench.flush()
    assert held(bench) == [b"a", b"b"], "RepeatOkImpliesAcked: an entry that was not written counts as had"
    assert bench.writer.producers.since == {"x": LastNumber(1, 0)}, "NumbersWithoutGap"


def test_what_this_segment_has_is_known_also_after_a_full_disk() -> None:
    """Of what the table said when the segment began, and what was appended since, the later counts."""
    producers = Producers({"x": LastNumber(4, 0)}, lambda: 0.0)
    producers.append(Stamp(2, "x", 5, 0))
    producers.keep()
    producers.append(Stamp(1, "x", 7, 0))
    producers.undo()
    assert producers.repeated(Stamp(3, "x", 5, 0)) == 2, "NoDuplicateAppend: it would be appended again"


def test_a_copy_tells_how_far_its_producers_have_come_also_after_a_restart() -> None:
    bench = Bench()
    found: list[Any] = []
    pub(bench, "x", 0, "a", "b")
    bench.flush()
    bench.copies.when_summed(bench.writer.copy, 2, found.append)
    assert found.pop().producers == {"x": LastNumber(1, 0)}, (
        "NoDuplicateAppend: of a run of entries the first counts, and not the last"
    )
    bench.put("plain")
    pub(bench, "y", 0, "c")
    pub(bench, "x", 2, "d")
    bench.flush()
    bench.copies.when_summed(bench.writer.copy, 5, found.append)
    assert found[0].producers == {"x": LastNumber(2, 0), "y": LastNumber(0, 0)}, (
        "NoDuplicateAppend, NumbersWithoutGap: the next writer would begin elsewhere"
    )
    bench.writer.copy.forget_sum()
    for length, expected in ((5, {"x": 2, "y": 0}), (3, {"x": 1}), (2, {"x": 1}), (1, {"x": 0}), (0, {})):
        found.clear()
        bench.copies.when_summed(bench.writer.copy, length, found.append)
        last = {name: known.last for name, known in found[0].producers.items()}
        assert last == expected, "RecoveryTakesWritersTable: more, or less, than the entries that are kept"


# --- the bound ---


def test_a_full_table_forgets_what_was_idle_for_an_hour_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for module in ("walrus.segments", "walrus.replicas.producers"):
        monkeypatch.setattr(f"{module}.MAX_PRODUCERS", 2)
    now = [1_000.0]
    table = Producers({"old": LastNumber(5, 900)}, lambda: now[0])
    table.now()
    table.append(Stamp(1, "x", 0, 0))
    table.keep()
    refusal = table.refuses(Stamp(1, "new", 0, 0))
    assert refusal == errors.too_many_producers(2), "DropsWhileUnderWay: `old` may have something under way"
    now[0] = 900 + IDLE_SECONDS
    table.now()
    assert not table.refuses(Stamp(1, "new", 0, 0)), "EveryPubAnswered"
    table.append(Stamp(3, "new", 0, 0))
    assert table.refuses(Stamp(1, "old", 6, 0)) == errors.unknown_producer("old"), (
        "NoDuplicateAppend: a repetition could not be told"
    )
    table.undo()
    assert not table.refuses(Stamp(1, "old", 6, 0)), "NoDuplicateAppend: what was not written drops nobody"


def test_dropping_one_at_a_time_comes_to_the_same_as_keeping_the_latest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("walrus.segments.MAX_PRODUCERS", 3)
    begun = {name: LastNumber(0, at) for name, at in (("a", 5), ("b", 5), ("c", 9))}
    since = {name: LastNumber(0, at) for name, at in (("d", 10), ("a", 11), ("e", 11))}
    one_by_one = dict(begun)
    for name, known in since.items():
        one_by_one = latest(one_by_one | {name: known})
    assert one_by_one == latest(begun | since) == {name: since[name] for name in ("d", "a", "e")}, (
        "NoDuplicateAppend: copies would differ"
    )


def test_a_clock_that_goes_back_does_not_go_back_in_the_table() -> None:
    table = Producers({"x": LastNumber(0, 500)}, lambda: 100.0)
    assert table.now() == 500_000, "TimesAscend: back behind what is in the table"
    assert table.append(Stamp(1, "y", 0, 0)).at == 500_000, "TimesAscend"


def test_the_limit_is_the_documented_one() -> None:
    assert producers.MAX_PRODUCERS == 1_000
