"""The clients' decisions, without a socket: time is a number here, and attempts end as the test says."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from walrus import protocol
from walrus.client import calls, core, deliveries, following
from walrus.client.errors import (
    BadReply,
    NoLeader,
    OutcomeUnknown,
    Trimmed,
    UnknownTopic,
    Unreachable,
    WalrusError,
    error_for,
)
from walrus.protocol import Empty, Json, Ok, ProtocolError

End = Callable[[core.Exchange[Any], core.Attempt], None]


class Half:
    """A random number generator that always says one half: pauses get their middle length."""

    def random(self) -> float:
        return 0.5


class Play:
    """Conducts a call over attempts that end as told; the clock moves with pauses and `spend`."""

    def __init__(self, call: calls.Call[Any], ends: list[End], nodes: int = 1, **options: Any) -> None:
        self.now = 0.0
        self.pauses: list[float] = []
        self.asked: list[str] = []
        self.steps: list[core.Attempt] = []
        addresses = core.Addresses([f"n{number}:1" for number in range(1, nodes + 1)])
        timeout = options.pop("timeout", 5.0)
        conduct = core.conduct(call, addresses, timeout, lambda: self.now, Half(), **options)
        try:
            while True:
                step = next(conduct)
                if isinstance(step, core.Pause):
                    self.pauses.append(step.seconds)
                    self.now += step.seconds
                else:
                    self.asked.append(addresses.current)
                    self.steps.append(step)
                    ends[min(len(self.steps), len(ends)) - 1](step.exchange, step)
                    step.exchange.check_invariants()
        except StopIteration as end:
            self.results: list[Any] = end.value


def answers(*replies: protocol.Reply) -> End:
    def end(exchange: core.Exchange[Any], step: core.Attempt) -> None:
        exchange.sent = exchange.call.count
        for reply in replies[: exchange.call.count]:
            exchange.reply(reply)
        if not exchange.done:
            exchange.lost("n", ConnectionError("cut"))

    return end


def refuses(reason: str) -> End:
    def end(exchange: core.Exchange[Any], step: core.Attempt) -> None:
        answers(*[protocol.Error(reason)] * exchange.call.count)(exchange, step)

    return end


def unreachable(exchange: core.Exchange[Any], step: core.Attempt) -> None:
    exchange.lost("n", ConnectionRefusedError("nobody"))


def cut(exchange: core.Exchange[Any], step: core.Attempt) -> None:
    exchange.sent = exchange.call.count
    exchange.lost("n", ConnectionError("cut"))


PUT = calls.put_many("t", (b"x",))


def test_every_address_is_tried_before_the_first_pause() -> None:
    play = Play(PUT, [unreachable, unreachable, unreachable, answers(Ok())], nodes=3)
    assert play.results == [calls.UNTOLD], "EveryPubAnswered"
    assert play.asked == ["n1:1", "n2:1", "n3:1", "n1:1"], "EveryPubAnswered"
    assert play.pauses == [0.0, 0.0, core.FIRST_PAUSE], "NoDuplicate: a pause before every address was tried"


def test_pauses_grow_to_a_limit_and_end_before_the_deadline() -> None:
    play = Play(PUT, [unreachable], timeout=60.0)
    assert isinstance(play.results[0], Unreachable), "AnswersAreTrue: no error where no node is reached"
    assert play.pauses == sorted(play.pauses) and play.pauses[-1] == core.LONGEST_PAUSE
    assert play.now < 60.0


def test_a_call_that_one_of_several_nodes_could_answer_does_not_wait_for_one_alone() -> None:
    step = Play(calls.metrics(), [answers(Json(b"{}"))], nodes=4, timeout=4.0).steps[0]
    assert (step.connect_by, step.reply_by, step.patience) == (1.0, 1.0, 1.0)
    step = Play(PUT, [answers(Ok())], nodes=4, timeout=4.0).steps[0]
    assert (step.connect_by, step.reply_by, step.patience) == (1.0, 4.0, 4.0), "no other node may be asked"


@pytest.mark.parametrize(
    "end", [cut, refuses(protocol.errors.TIMEOUT), refuses(protocol.errors.unknown_topic("t"))]
)
def test_a_put_that_may_have_happened_or_was_refused_is_tried_once(end: End) -> None:
    play = Play(PUT, [end], nodes=3)
    assert len(play.asked) == 1, "NoDuplicate: it may have happened, and is sent again"
    assert isinstance(play.results[0], OutcomeUnknown | UnknownTopic), "AnswersAreTrue"


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (calls.get_many("t", 1), "DeliveredIsPrefix: the cursor moves once more"),
        (calls.delete("t"), "OnlyWhatWasMeant: the topic may be another one by then"),
        (deliveries.seek("t", "g", "begin"), "AckedNotRedelivered: the group may have gone on since"),
        (deliveries.receive_many(deliveries.Delivery, "t", "g", 1), "EveryEntryAcked: two may be out"),
        (deliveries.nack("t", "g", "1.0.0.1"), "its answer would be that of the second"),
        (calls.leave(3), "its answer would be that of the second"),
    ],
    ids=lambda value: value.name if isinstance(value, calls.Call) else "",
)
def test_what_is_not_the_same_when_it_is_done_twice_is_not_asked_again(
    call: calls.Call[Any], name: str
) -> None:
    play = Play(call, [cut], nodes=3)
    assert len(play.asked) == 1 and isinstance(play.results[0], OutcomeUnknown), f"NoDuplicate: {name}"


def test_what_was_overtaken_is_sent_again_under_its_number() -> None:
    """An entry of a producer that a later one has overtaken was not written, and nothing behind it was."""
    call = calls.pub_many("t", "x", 7, [b"a", b"b", b"c"])
    no, behind = protocol.Error(protocol.errors.OVERTAKEN), protocol.Error(protocol.errors.out_of_sequence(8))
    play = Play(call, [answers(Ok(b"1 0"), no, behind), answers(Ok(b"1 1"), Ok(b"1 2"))])
    assert play.results == [(1, 0), (1, 1), (1, 2)], "EveryPubAnswered"
    again = play.steps[1].exchange.call.encode(0, 2)
    assert again == protocol.encode_pubs("t", "x", 8, [b"b", b"c"]), "NumbersWithoutGap"


def test_each_answer_begins_the_time_anew_for_what_is_asked_again() -> None:
    clock = [0.0]
    addresses = core.Addresses(["n1:1"])
    steps = core.conduct(calls.put_many("t", [b"a", b"b"]), addresses, 5.0, lambda: clock[0], Half())
    first = next(steps)
    assert isinstance(first, core.Attempt) and first.reply_by == 5.0
    clock[0] = 4.9
    answers(Ok(b"1 0"), protocol.Error(protocol.errors.BUSY))(first.exchange, first)
    assert isinstance(next(steps, None), core.Pause), "given up while the cluster goes on"
    second = next(steps)
    assert isinstance(second, core.Attempt) and second.reply_by == 9.9


def test_a_refusal_is_final_even_when_told_to_retry() -> None:
    assert len(Play(PUT, [refuses(protocol.errors.unknown_topic("t"))], retry=True).asked) == 1, (
        "NoDuplicate: a refusal is sent again"
    )


@pytest.mark.parametrize(
    "reason", [protocol.errors.NO_LEASE, protocol.errors.BUSY, protocol.errors.CURSOR_STUCK]
)
@pytest.mark.parametrize("call", [PUT, calls.get_many("t", 1), calls.leave(3), calls.register("t")])
def test_whatever_a_node_did_not_do_is_tried_again(call: calls.Call[Any], reason: str) -> None:
    good = Ok(b"x") if call.name == "GET" else Ok()
    play = Play(call, [refuses(reason), answers(good)], nodes=2)
    assert play.asked == ["n1:1", "n2:1"] and not isinstance(play.results[0], WalrusError), (
        "AnswersAreTrue: what a node did not do is not tried again"
    )


def test_the_tail_of_many_puts_is_tried_again_only_if_none_of_it_happened() -> None:
    call = calls.put_many("t", [b"a", b"b", b"c"])
    no = protocol.Error(protocol.errors.BUSY)
    play = Play(call, [answers(Ok(), no, no), answers(Ok(), Ok())])
    assert play.results == [calls.UNTOLD] * 3, "AnswersAreTrue"
    assert [step.exchange.call.count for step in play.steps] == [3, 2], (
        "NoDuplicate: what was acknowledged is sent again"
    )
    assert play.steps[1].exchange.call.encode(0, 2) == protocol.encode_puts("t", [b"b", b"c"]), (
        "NoDuplicate: what was acknowledged is sent again"
    )
    play = Play(call, [answers(Ok(), no, Ok())])
    assert len(play.asked) == 1, "ProducerOrder: an entry would stand behind a later one"


def test_the_last_error_stands_when_time_is_up() -> None:
    play = Play(PUT, [unreachable, refuses(protocol.errors.NO_LEASE)], timeout=0.5)
    assert isinstance(play.results[0], NoLeader), "AnswersAreTrue: not the last error"


def test_an_answer_of_the_wrong_kind_is_an_error_of_that_request_alone() -> None:
    call = calls.put_many("t", [b"a", b"b"])
    bad, good = Play(call, [answers(Empty(), Ok())]).results
    assert isinstance(bad, BadReply) and good == calls.UNTOLD, "AnswersAreTrue"


def test_no_requests_need_no_attempt() -> None:
    assert Play(calls.put_many("t", []), []).asked == []


# --- pipelines


def test_answers_to_auth_and_hello_may_come_in_pieces() -> None:
    """Nothing else is owed yet, but they are."""
    pipeline, exchange = core.Pipeline("secret " * 3), core.Exchange(calls.register("t"))
    pipeline.start(exchange)
    pipeline.output()
    for byte in protocol.OK + protocol.ok(b"positions=1"):
        assert pipeline.input(bytes([byte])) == [], "AnsweredInOrder: a part of a greeting answers a request"
    assert pipeline.output(), "EveryPubAnswered: a request is not sent although the token was accepted"
    assert pipeline.input(protocol.OK) == [exchange] and exchange.results == [None], "AnswersAreTrue"


def test_a_window_bounds_what_is_unanswered() -> None:
    pipeline, exchange = core.Pipeline(), core.Exchange(calls.put_many("t", [b"x"] * 1000))
    pipeline.start(exchange)
    assert pipeline.output().startswith(calls.HELLO) and exchange.sent == core.WINDOW, (
        "AnsweredInOrder: more is unanswered than the window"
    )
    assert pipeline.output() == b"", "AnsweredInOrder: more is unanswered than the window"
    pipeline.input(protocol.ok(b"positions=1") + protocol.OK * (core.WINDOW // 2))
    pipeline.output()
    assert exchange.sent == core.WINDOW + core.WINDOW // 2, "AnsweredInOrder: the window does not move on"


@given(st.lists(st.integers(1, 600), min_size=1, max_size=5), st.integers(1, 700), st.data())
def test_replies_find_their_calls_in_any_interleaving(
    counts: list[int], piece: int, data: st.DataObject
) -> None:
    pipeline = core.Pipeline()
    exchanges = [core.Exchange(calls.get_many("t", count, f"g{n}")) for n, count in enumerate(counts)]
    waiting, unread, parser = list(exchanges), b"", protocol.RequestParser()
    while not all(exchange.done for exchange in exchanges):
        if waiting and data.draw(st.booleans()):
            pipeline.start(waiting.pop(0))
        for request in parser.feed(pipeline.output()):
            if isinstance(request, protocol.Greeting):
                unread += protocol.ok(request.granted.encode())
                continue
            assert isinstance(request, protocol.Get)
            unread += protocol.ok(request.group.encode()) * request.count
        pipeline.input(unread[:piece])
        unread = unread[piece:]
        if not unread and waiting:
            pipeline.start(waiting.pop(0))
    for n, exchange in enumerate(exchanges):
        assert exchange.results == [b"g%d" % n] * exchange.call.count, (
            "AnsweredInOrder: the reply to another call"
        )
    assert pipeline.idle


def test_what_was_asked_for_before_an_empty_was_heard_counts() -> None:
    """Another node's client may have put an entry in between: the cursor is past it, so it has to be told."""
    exchange = core.Exchange(calls.get_many("t", 5))
    exchange.sent = 3
    for reply in (Empty(), Ok(b"x"), Empty()):
        assert not exchange.done, "DeliveredIsPrefix: what the cursor may have passed is not waited for"
        exchange.reply(reply)
    assert exchange.done, "a further request is sent behind an EMPTY"
    assert calls.taken(exchange.results) == [b"x"], "DeliveredIsPrefix: what the cursor passed is dropped"


def test_of_a_call_that_an_empty_has_ended_no_more_is_sent() -> None:
    pipeline, exchange = core.Pipeline(), core.Exchange(calls.get_many("t", 1_000))
    pipeline.start(exchange)
    pipeline.output()
    pipeline.input(protocol.ok(b"positions=1") + protocol.EMPTY * core.WINDOW)
    assert exchange.done and pipeline.idle, "AnsweredInOrder: a connection is busy with a call that is done"
    assert pipeline.output() == b"", "DeliveredIsPrefix: entries without a reader are asked for"


def test_a_call_that_was_given_up_keeps_its_place() -> None:
    pipeline = core.Pipeline()
    first, second = core.Exchange(calls.get_many("t", 2)), core.Exchange(calls.get_many("t", 1))
    pipeline.start(first)
    pipeline.start(second)
    pipeline.output()
    pipeline.abandon(first, "n", TimeoutError())
    assert first.done
    replies = protocol.ok(b"positions=1"), *map(protocol.ok, (b"a", b"b", b"c"))
    assert pipeline.input(b"".join(replies)) == [second], (
        "AnsweredInOrder: the reply to a call that was given up"
    )
    assert second.results == [b"c"] and pipeline.idle, (
        "AnsweredInOrder: the reply to a call that was given up"
    )


@pytest.mark.parametrize("surplus", [protocol.OK, protocol.OK[:2]])
def test_a_surplus_reply_is_refused_and_part_of_one(surplus: bytes) -> None:
    """What is left of it would be the beginning of the answer to the next call."""
    with pytest.raises(ProtocolError):
        core.Pipeline().input(surplus)
    pipeline, exchange = core.Pipeline(), core.Exchange(calls.register("t"))
    pipeline.start(exchange)
    pipeline.output()
    with pytest.raises(ProtocolError):
        pipeline.input(protocol.OK * 2 + surplus)  # the first answers HELLO
    assert exchange.results == [None], "AnswersAreTrue: its own answer came"


@given(st.lists(st.binary(max_size=30)), st.integers(0, 1000))
def test_a_frame_counts_as_sent_only_if_all_of_it_left(bodies: list[bytes], written: int) -> None:
    output = b"".join(map(protocol.frame, bodies))
    written = min(written, len(output))
    whole = 0
    position = 0
    for body in bodies:
        position += 4 + len(body)
        whole += position <= written
    assert core.unsent_frames(output, written) == len(bodies) - whole, (
        "NoDuplicate: what left whole counts as not sent"
    )


@given(st.text())
def test_any_reason_is_some_error(reason: str) -> None:
    error = error_for(reason)
    assert isinstance(error, WalrusError) and str(error) == reason


@given(st.lists(st.integers(0, 9), max_size=30))
def test_a_follower_is_given_each_entry_once_and_in_order(bursts: list[int]) -> None:
    """While it waits, so many entries come at once; for 0, its segment is sealed and the next one begins."""
    log: list[list[bytes]] = [[]]
    given, steps, number = list[calls.Entry](), following.follow("t", 1, 0), 0
    step = next(steps)
    while True:
        if not isinstance(step, calls.Call):
            given += [] if isinstance(step, core.Pause) else step
            step = next(steps)
            continue
        (request,) = protocol.RequestParser().feed(step.encode(0, step.count))
        answer: list[Any]
        if isinstance(request, protocol.Fetch):
            if request.wait_ms and request.segment == len(log) and request.offset >= len(log[-1]):
                assert request.offset == len(log[-1]), "DeliveredIsPrefix: a follower skips entries"
                if not bursts:
                    break
                burst = bursts.pop(0)
                log[-1] += [b"%d" % n for n in range(number, number + burst)]
                number += burst
                log += [[]] if burst == 0 else []
            found = log[request.segment - 1][request.offset :][: request.count]
            answer = [calls.Found(entry, 0) for entry in found]
            answer += [None] if len(found) < request.count else []
        else:
            sealed = {f"{n}": len(entries) for n, entries in enumerate(log[:-1], 1)}
            answer = [{"current_segment": len(log), "sealed_segments": sealed}]
        step = steps.send(answer)
    places = [(entry.segment, entry.offset, entry.payload) for entry in given]
    whole = [(n, offset, entry) for n, entries in enumerate(log, 1) for offset, entry in enumerate(entries)]
    assert places == whole, "DeliveredIsPrefix: a follower skips or repeats entries"


def test_a_segment_that_is_dropped_between_fetch_and_state_is_asked_for_again_and_told_as_trimmed() -> None:
    steps = core.walk("t", 3, 0)
    assert next(steps).name == "FETCH", "DeliveredIsPrefix"  # type: ignore[union-attr]
    assert steps.send([None]).name == "STATE", "DeliveredIsPrefix"  # type: ignore[union-attr]
    state = {"current_segment": 9, "first_segment": 8, "sealed_segments": {"8": 3}}
    again = steps.send([state])
    assert again.name == "FETCH", "DeliveredIsPrefix: what was dropped meanwhile is skipped without a word"  # type: ignore[union-attr]
    with pytest.raises(Trimmed):
        steps.send([Trimmed("t begins at segment 8")])


def test_a_walk_that_comes_further_is_patient_anew() -> None:
    steps, state = core.walk("t", 1, 0, patience=1), {"current_segment": 2, "sealed_segments": {"1": 6}}
    next(steps)
    for _ in range(3):
        assert isinstance(steps.send([calls.Found(b"x", 0), None]), list), "one more entry has come"
        next(steps)  # STATE
        steps.send([state])  # FETCH
        steps.send([None])  # STATE: nothing came
        try:
            step = steps.send([state])
        except Unreachable as error:
            raise AssertionError(
                f"ReadProgress: a reader of a node that catches up gives up: {error}"
            ) from error
        assert isinstance(step, core.Pause)
        next(steps)


def test_of_two_calls_that_fail_at_one_node_the_second_does_not_leave_the_next_one() -> None:
    addresses = core.Addresses(["a:1", "b:2", "c:3"])
    for _ in range(2):
        addresses.leave("a:1")
    assert addresses.current == "b:2", "a node that works is passed over"


def test_a_second_attempt_does_not_ask_the_node_to_wait_again() -> None:
    call, addresses = following.get("t", "g", 30.0), core.Addresses(["a:1", "b:2"])
    steps = core.conduct(call, addresses, 1.0, lambda: 0.0, random.Random(1))
    waits = []
    for _ in range(2):
        step = next(steps)
        while isinstance(step, core.Pause):
            step = next(steps)
        waits.append(step.exchange.call.wait)
        step.exchange.lost(addresses.current, ConnectionRefusedError())
    assert waits == [30.0, 0.0], "a call that waits takes twice the time that it was given"


def test_a_node_that_was_asked_to_wait_is_left_the_time_for_it() -> None:
    call, addresses = following.fetch("t", 1, 0, 30.0), core.Addresses(["a:1", "b:2"])
    step = next(core.conduct(call, addresses, 1.0, lambda: 0.0, random.Random(1)))
    assert isinstance(step, core.Attempt)
    waits = step.reply_by - step.connect_by
    assert waits == call.wait >= 30.0, "ReadProgress: a node that waits counts as silent"


def test_after_its_client_was_closed_a_call_is_not_tried_again() -> None:
    play = Play(PUT, [unreachable, answers(Ok())], nodes=2, closed=lambda: True)
    assert play.asked == ["n1:1"], "EveryPubAnswered: a client that is closed connects anew"
    assert isinstance(play.results[0], Unreachable)


def test_a_walk_from_the_beginning_that_retention_overtakes_later_says_so() -> None:
    """Where it begins, what was dropped before is no concern of it; on its way it would miss entries."""
    steps = core.walk("t", 1, 0)
    next(steps)
    assert steps.send([Trimmed("t begins at segment 3")]).name == "STATE"  # type: ignore[union-attr]
    again = steps.send([{"current_segment": 9, "first_segment": 3, "sealed_segments": {}}])
    assert again.encode(0, 1) == protocol.frame(b"FETCH t 3 0")  # type: ignore[union-attr]
    given = steps.send([calls.Found(b"x", 0)] * core.WALK)
    assert isinstance(given, list) and (given[0].segment, given[0].offset) == (3, 0), "DeliveredIsPrefix"
    next(steps)
    with pytest.raises(Trimmed):
        steps.send([Trimmed("t begins at segment 5")])
        pytest.fail("DeliveredIsPrefix: a walk skips what was dropped under it, without a word")
