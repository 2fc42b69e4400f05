"""One work queue by itself: a random life of it beside a model that can be read in a minute."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from walrus.acknowledged import START, Acknowledged, HandedOn, Position, Run
from walrus.broker.groups import WorkQueue
from walrus.segments import Segment, Topic
from walrus.wire.receipts import Receipt

VISIBLE = 30.0
WINDOW = 1_000


def topic(*counts: int) -> Topic:
    """A topic with sealed segments of these lengths, and an open one."""
    sealed = [Segment(leader=1, incarnation=1, replicas=(1,), count=count) for count in counts]
    return Topic(segments=[*sealed, Segment(leader=1, incarnation=1, replicas=(1,))])


def fresh(low: Position = START) -> WorkQueue:
    return WorkQueue(Acknowledged(low=low), (), VISIBLE)


def take(group: WorkQueue, of: Topic, end: int, now: float = 0.0) -> Receipt | None:
    position = group.candidate(of, end, now)
    return None if position is None else group.hand_out(position, now + VISIBLE)


def take_run(group: WorkQueue, of: Topic, end: int, now: float, most: int) -> list[Receipt]:
    position = group.candidate(of, end, now)
    if position is None:
        return []
    run = group.fresh(position, of, end, most)
    assert 1 <= run <= most
    return group.hand_out_run(position, run, now + VISIBLE)


def test_entries_come_in_order_across_sealed_segments_and_empty_ones():
    group, of = fresh(), topic(2, 0, 1)
    found = [take(group, of, 1) for _ in range(5)]
    assert [one and one[:2] for one in found] == [(1, 0), (1, 1), (3, 0), (4, 0), None], "DeliveredIsPrefix"


def test_what_is_given_back_comes_before_what_was_never_out_lowest_first():
    group, of = fresh(), topic()
    receipts = [take(group, of, 5) for _ in range(3)]
    for receipt in reversed(receipts):
        assert receipt and group.give_back(receipt, 1.0), "EveryEntryAcked: what is out cannot be given back"
    found = [take(group, of, 5, 2.0) for _ in range(4)]
    again = [one and (one.offset, one.delivery) for one in found]
    assert again == [(0, 2), (1, 2), (2, 2), (3, 1)], "NothingSkipped: what was given back comes again, first"


def test_deliveries_that_are_extended_for_ever_cost_no_memory_and_hold_up_no_other():
    group, of = fresh(), topic()
    dead, receipt = take(group, of, 2), take(group, of, 2)
    assert dead is not None and receipt is not None
    for n in range(10 * WINDOW):
        assert group.extend(receipt, 100.0 + n), "EveryEntryAcked: what is out cannot be extended"
    assert len(group._deadlines) <= 2 * WINDOW + 1, "OutIsBounded: deadlines pile up"
    assert take(group, of, 2, VISIBLE) == dead._replace(delivery=2), "EveryEntryAcked: its consumer is dead"
    assert group.acknowledge(dead, of, 2), "EveryEntryAcked: an acknowledgement is refused"
    group.expire(100.0 + 10 * WINDOW - 2)
    assert group.candidate(of, 2, 0.0) is None, "OutIsBounded: the last extension counts"


def test_what_was_given_back_before_a_seek_costs_no_memory_and_holds_up_nothing():
    group, of = WorkQueue(Acknowledged(), (), VISIBLE, window=10), topic()
    for generation in range(1, 8):
        for receipt in [take(group, of, 10) for _ in range(10)]:
            assert receipt is not None and group.give_back(receipt, 1_000.0), (
                "EveryEntryAcked: what is out cannot be given back"
            )
        assert len(group._delayed) <= 2 * 10 + 1, "OutIsBounded: delays pile up"
        if generation < 7:
            group.on_committed(Acknowledged(generation=generation))
    again = [take(group, of, 10, 1_000.0) for _ in range(11)]
    expected = [*(Receipt(1, n, 6, 2) for n in range(10)), None]
    assert again == expected, "EveryEntryAcked: what was given back never comes again"


def test_what_was_handed_on_stays_out_and_is_counted_on():
    done = Acknowledged(low=Position(1, 1), above=(Run(1, 3, 4),))
    group = WorkQueue(done, [HandedOn(1, 1, 2), HandedOn(1, 3, 1)], VISIBLE)
    of = topic()
    assert list(group.out) == [Position(1, 1)], "AckedNotRedelivered: one of them was acknowledged"
    second = take(group, of, 9)
    assert second and second.offset == 2, "EveryEntryAcked: handed on and out, and given again, or not at all"
    third = take(group, of, 9, VISIBLE)
    assert third == Receipt(1, 1, 0, 3), "SealHandsOn: how often it was out is forgotten"


def test_a_run_is_of_entries_of_which_nothing_is_known_in_one_segment_and_the_window():
    done = Acknowledged(low=Position(1, 1), above=(Run(1, 3, 4),))
    group, of = WorkQueue(done, [HandedOn(1, 5, 1)], VISIBLE, window=9), topic(8)
    assert group.acknowledge(Receipt(1, 6, 0, 1), of, 9)
    runs = list[tuple[int, int, int]]()
    while run := take_run(group, of, 9, 0.0, 4):
        runs.append((*run[0][:2], len(run)))
        group.check_invariants(of)
    expected = [(1, 1, 1), (1, 2, 1), (1, 4, 1), (1, 7, 1), (2, 0, 2)]
    assert runs == expected, "AckedNotRedelivered, OutIsBounded"


def test_a_run_stops_before_what_an_earlier_owner_saw_acknowledged():
    """Nothing was out here yet: only what is committed says that entry 3 is done."""
    group, of = WorkQueue(Acknowledged(low=Position(1, 1), above=(Run(1, 3, 4),)), [], VISIBLE), topic()
    taken = [receipt.offset for _ in range(3) for receipt in take_run(group, of, 9, 0.0, 4)]
    group.check_invariants(of)
    assert 3 not in taken, "AckedNotRedelivered"
    assert taken == [1, 2, 4, 5, 6, 7], "NothingSkipped"


def test_a_run_stops_before_what_is_acknowledged_here_by_a_receipt_of_an_earlier_owner():
    group, of = fresh(), topic()
    assert group.acknowledge(Receipt(1, 2, 0, 1), of, 5), "EveryEntryAcked: its receipt is as good as another"
    taken = [receipt.offset for _ in range(3) for receipt in take_run(group, of, 5, 0.0, 5)]
    assert 2 not in taken, "AckedNotRedelivered: acknowledged, and handed out in a run"
    assert taken == [0, 1, 3, 4], "NothingSkipped"


def test_a_delivery_that_was_extended_is_still_the_same_delivery():
    group, of = fresh(), topic()
    first = take(group, of, 1)
    assert first and group.give_back(first, 1.0), "EveryEntryAcked: what is out cannot be given back"
    second = take(group, of, 1, 1.0)
    assert second and second.delivery == 2 and group.extend(second, 99.0), "EveryEntryAcked"
    assert not group.give_back(first, 2.0), "EveryEntryAcked: an earlier delivery ends a later one"
    assert group.give_back(second, 2.0), "EveryEntryAcked: who extends a delivery cannot give it back"


def test_a_seal_takes_along_what_is_out_and_what_is_noted_and_not_what_was_given_back():
    group, of = fresh(), topic()
    noted, again, out, back = (take(group, of, 4) for _ in range(4))
    assert noted and again and out and back
    assert group.give_back(again, 1.0) and group.give_back(back, 1.0)
    assert take(group, of, 4, 1.0) == again._replace(delivery=2), (
        "EveryEntryAcked: what was given back does not come again"
    )
    assert group.acknowledge(noted, of, 4)
    state, handed = group.seal()
    assert state.above == (Run(1, 0, 1),), "SealHandsOn: what was acknowledged before a rollover comes again"
    assert handed == (HandedOn(1, 1, 2), HandedOn(1, 2, 1)), "SealHandsOn"


def test_the_last_delay_counts_of_what_was_given_back_more_than_once():
    group, of = fresh(), topic()
    first = take(group, of, 1)
    assert first and group.give_back(first, 1.0)
    second = take(group, of, 1, 1.0)
    assert second and second.delivery == 2 and group.give_back(second, 100.0)
    assert group.candidate(of, 1, 99.0) is None, "EveryEntryAcked: it was given back for longer"
    assert take(group, of, 1, 100.0) == first._replace(delivery=3), "EveryEntryAcked: it never comes again"


def test_what_raft_commits_late_for_an_earlier_owner_is_out_no_more():
    """A consumer of that owner acknowledged the entry; by now another one has it, which may die with it."""
    group, of = fresh(), topic()
    first, second = take(group, of, 2), take(group, of, 2)
    assert first and second and group.give_back(second, 1.0)
    group.on_committed(Acknowledged(above=(Run(1, 0, 2),)).join(Acknowledged(), of.advance))
    assert group.idle, "AckedNotRedelivered: what is done is out still, or waits to be handed out again"
    group.check_invariants(of)
    assert group.candidate(of, 2, 2 * VISIBLE) is None, "AckedNotRedelivered"


class Model:
    """A group as its consumers see it: what is done, and what each of them has in hand until when."""

    def __init__(self) -> None:
        self.done: set[int] = set()
        self.out: dict[int, tuple[Receipt, float]] = {}


@pytest.mark.parametrize("seed", range(20))
def test_a_random_life_agrees_with_the_model(seed: int):
    rng = random.Random(seed)
    group = WorkQueue(Acknowledged(), (), VISIBLE, window=(WINDOW, 4)[seed % 2])
    of, model, now, end = topic(), Model(), 0.0, 0
    past: list[Receipt] = []
    for _ in range(400):
        now += rng.choice((0.0, 0.1, 5.0, 20.0))
        model.out = {n: (receipt, until) for n, (receipt, until) in model.out.items() if until > now}
        action = rng.random()
        if action < 0.2:
            end += rng.randrange(4)
        elif action < 0.5 and (run := take_run(group, of, end, now, rng.randint(1, 3))):
            for receipt in run:
                assert receipt.offset < end, "DeliveredIsPrefix"
                assert receipt.offset not in model.done, "AckedNotRedelivered"
                assert receipt.offset not in model.out, "OutIsBounded: an entry is out once"
                model.out[receipt.offset] = receipt, now + VISIBLE
            past += run
        elif action < 0.7 and past:
            receipt = rng.choice(past)
            assert group.acknowledge(receipt, of, end), "EveryEntryAcked: late or twice, it counts"
            model.done.add(receipt.offset)
            model.out.pop(receipt.offset, None)
        elif action < 0.8 and past:
            receipt = rng.choice(past)
            group.expire(now)
            known = model.out.get(receipt.offset, (None, 0.0))[0] == receipt
            assert group.give_back(receipt, now + 1.0) == known, (
                "EveryEntryAcked: given back otherwise than the model"
            )
            if known:
                del model.out[receipt.offset]
        elif group.to_commit() is not None:
            proposed = group.to_commit()
            assert proposed is not None
            group.on_committed(group.done.join(proposed, of.advance))
            assert {n for n in range(end) if group.done.covers(Position(1, n))} == model.done, (
                "NothingSkipped"
            )
        group.check_invariants(of)
    now += 2 * VISIBLE
    while run := take_run(group, of, end, now, 3):
        assert all(group.acknowledge(receipt, of, end) for receipt in run), (
            "EveryEntryAcked: what is out cannot be acknowledged"
        )
        proposed = group.to_commit()
        assert proposed is not None
        group.on_committed(group.done.join(proposed, of.advance))
    assert group.done.low == Position(1, end), "EveryEntryAcked: what came back is never handed out again"


@given(st.sets(st.integers(0, WINDOW + 50)))
def test_only_entries_of_the_window_can_be_acknowledged(offsets: set[int]):
    group, of = fresh(), topic()
    for offset in offsets:
        taken = group.acknowledge(Receipt(1, offset, 0, 1), of, WINDOW + 20)
        assert taken == (offset < WINDOW), "OutIsBounded"
    assert len(group.noted) == len([offset for offset in offsets if offset < WINDOW]), "OutIsBounded"


def test_behind_the_last_entry_of_a_sealed_segment_there_is_nothing_to_acknowledge():
    group, of = fresh(), topic(2)
    assert group.acknowledge(Receipt(1, 1, 0, 1), of, 5), (
        "EveryEntryAcked: an entry that is there cannot be acknowledged"
    )
    assert not group.acknowledge(Receipt(1, 2, 0, 1), of, 5), (
        "NothingSkipped: a cursor may stand there, but no entry"
    )
    assert not group.acknowledge(Receipt(2, 5, 0, 1), of, 5), (
        "OutIsBounded: an entry that is not there is acknowledged"
    )
    assert not group.acknowledge(Receipt(3, 0, 0, 1), of, 5), (
        "NothingSkipped: an entry counts that is not there"
    )
    assert group.noted == {Position(1, 1)}, "OutIsBounded: an entry that is not there is acknowledged"


def test_a_seek_forgets_all_that_was_out_given_back_or_noted():
    """The work is to be done again: also what was acknowledged and not committed when the SEEK was."""
    group, of = fresh(), topic()
    noted, back, out = (take(group, of, 4) for _ in range(3))
    assert noted and back and out
    assert group.acknowledge(noted, of, 4) and group.give_back(back, 1.0)
    group.on_committed(Acknowledged(generation=1))
    group.check_invariants(of)
    assert group.to_commit() is None, "NothingSkipped: acknowledged before a SEEK, and proposed after it"
    assert group.idle, "NothingSkipped: what was out before the SEEK is out still"
    assert not group.acknowledge(out, of, 4), "NothingSkipped: a receipt of before the SEEK counts"
    again = [take(group, of, 4) for _ in range(4)]
    assert again == [Receipt(1, n, 1, 1) for n in range(4)], "NothingSkipped"
    for change in (group.give_back, group.extend):
        assert not change(out, 0.0), (
            "AckedNotRedelivered: a receipt of before the SEEK ends a delivery of after it"
        )
