"""Both clients against a node that misbehaves as told: what is retried, what never, what a caller learns.

Every test that takes `connect` runs twice, once for each client (`conftest.py`).
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import inspect
import socket
import threading
from datetime import UTC, datetime, timedelta

import pytest

from tests.client.faces import MakeClient, places
from tests.client.fake import METRICS, SERVE, Close, FakeNode, MemoryLog, Say, Silence, appended, free_port
from walrus import protocol
from walrus.client import (
    AsyncClient,
    BadReply,
    Busy,
    Client,
    Entry,
    InvalidTopic,
    NeedsForce,
    NoLeader,
    NotWritten,
    OutcomeUnknown,
    PayloadTooLarge,
    Position,
    TimedOut,
    UnknownNode,
    UnknownSegment,
    UnknownTopic,
    Unreachable,
    WalrusError,
)
from walrus.protocol import Fetch, Get, Put, Register


def test_every_command_round_trips(connect: MakeClient) -> None:
    with FakeNode() as node:
        client = connect(node)
        client.register("t")
        assert client.put("t", b"one") == Position(1, 0), "AnswersAreTrue: another place"
        assert client.put_many("t", [b"two", b"", b"fo ur"]) == places(1, 4), "AnswersAreTrue: another place"
        assert client.get("t") == b"one", "DeliveredIsPrefix"
        assert client.get_many("t", 10) == [b"two", b"", b"fo ur"], "DeliveredIsPrefix"
        assert client.get("t") is None, "DeliveredIsPrefix"
        assert client.get("t", "group") == b"one", "DeliveredIsPrefix"
        assert client.fetch("t", 1, 3) == b"fo ur", "DeliveredIsPrefix"
        assert client.fetch("t", 1, 4) is None, "DeliveredIsPrefix"
        assert client.fetch_many("t", 1, 1, 10) == [b"two", b"", b"fo ur"], "DeliveredIsPrefix"
        assert client.state("t")["current_segment"] == 1
        assert client.metrics()["id"] == 1
        client.leave(3)
        assert node.connections == 1, "one connection carries it all"


def test_a_leave_that_costs_replicas_is_refused_without_force(
    connect: MakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(METRICS, "replication_factor", 3)
    with FakeNode() as node:
        client = connect(node)
        with pytest.raises(NeedsForce, match="LEAVE 3 force"):
            client.leave(3)
        client.leave(3, force=True)


@pytest.mark.parametrize("segment_entries", [1, 10, 256, 300, 1000])
def test_entries_cross_segments(connect: MakeClient, segment_entries: int) -> None:
    payloads = [b"%d" % n for n in range(1000)]
    with FakeNode(log=MemoryLog(segment_entries=segment_entries)) as node:
        client = connect(node)
        client.register("t")
        assert list(client.entries("t")) == [], "DeliveredIsPrefix"
        client.put_many("t", payloads)
        assert list(client.entries("t")) == payloads, "DeliveredIsPrefix"
        *_, last = client.scan("t")
        place = 1 + 999 // segment_entries, 999 % segment_entries
        assert last == Entry(*place, b"999", appended(*place)), "DeliveredIsPrefix"
        client.put("t", b"more")
        assert list(client.entries("t", last.segment, last.offset + 1)) == [b"more"], "DeliveredIsPrefix"


def test_entries_pass_a_chain_of_empty_segments_in_one_step(connect: MakeClient) -> None:
    log = MemoryLog(topics={"t": [[b"a"], *([[]] * 500), [b"b"]]})
    with FakeNode(log=log) as node:
        assert list(connect(node).entries("t")) == [b"a", b"b"], "DeliveredIsPrefix, ReadProgress"
        fetches = {request.segment for request in node.seen if isinstance(request, Fetch)}
        assert fetches == {1, 502}


def test_entries_of_an_empty_last_segment_end(connect: MakeClient) -> None:
    with FakeNode(log=MemoryLog(topics={"t": [[b"a"], [], []]})) as node:
        assert list(connect(node).entries("t")) == [b"a"], "DeliveredIsPrefix"


def test_entries_from_beyond_a_sealed_end_go_on_at_the_next_segment(connect: MakeClient) -> None:
    with FakeNode(log=MemoryLog(topics={"t": [[b"a"], [b"b"]]})) as node:
        assert list(connect(node).entries("t", 1, 7)) == [b"b"], "DeliveredIsPrefix"


def test_a_node_that_lags_behind_a_seal_is_asked_again(connect: MakeClient) -> None:
    log = MemoryLog(topics={"t": [[b"a"], [b"b"]]})
    empties = protocol.EMPTY
    with FakeNode([Say(empties)] * 256 + [SERVE, Say(empties)], log) as node:
        assert list(connect(node).entries("t")) == [b"a", b"b"], (
            "DeliveredIsPrefix: what a node does not know to be sealed yet is skipped"
        )


# --- refusals


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        (protocol.errors.unknown_topic("t"), UnknownTopic),
        (protocol.errors.unknown_segment("t", 9), UnknownSegment),
        (protocol.errors.unknown_node(9), UnknownNode),
        (protocol.errors.TIMEOUT, OutcomeUnknown),
        (protocol.errors.FAILED_OVER, OutcomeUnknown),
        (protocol.errors.not_written("disk full"), NotWritten),
        ("a reason of the future", OutcomeUnknown),
    ],
)
def test_a_refusal_is_its_class_and_not_sent_again(
    connect: MakeClient, reason: str, kind: type[WalrusError]
) -> None:
    with FakeNode([Say(protocol.error(reason))] * 3) as node:
        with pytest.raises(kind, match=reason.split(":")[0]):
            connect(node).put("t", b"x")
        assert len(node.seen) == 1, "NoDuplicate: a refusal is sent again"


def test_a_topic_that_would_be_another_request_is_refused_before_it_is_sent(connect: MakeClient) -> None:
    with FakeNode() as node:
        client = connect(node)
        for topic in ("a b", "", "a\n", "x" * 256, "\ud800"):
            with pytest.raises(InvalidTopic):
                client.put(topic, b"x")
        with pytest.raises(InvalidTopic):
            client.get("t", "a b")
        assert node.seen == []


def test_a_payload_that_no_frame_holds_is_refused(connect: MakeClient) -> None:
    with FakeNode() as node:
        client = connect(node)
        client.register("t")
        with pytest.raises(PayloadTooLarge):
            client.put("t", bytes(65_536))
        with pytest.raises(PayloadTooLarge):
            client.put("t", bytes(protocol.MAX_SKIP_BYTES))
        with pytest.raises(TypeError):
            client.put("t", "text")
        assert client.put_many("t", [b"a", b"b"]) == places(0, 2), (
            "AnswersAreTrue: the connection is still good"
        )
        assert node.connections == 1


def test_a_node_of_the_first_release_tells_no_place_and_serves_all_the_same(connect: MakeClient) -> None:
    with FakeNode(first_release=True) as node:
        client = connect(node)
        client.register("t")
        assert not client.put("t", b"a").known
        assert [place.known for place in client.put_many("t", [b"b", b"c"])] == [False, False]
        assert client.get_many("t", 10) == [b"a", b"b", b"c"] and node.connections == 1, "DeliveredIsPrefix"


def test_an_entry_has_the_time_that_the_node_tells_in_utc(connect: MakeClient) -> None:
    with FakeNode() as node:
        client = connect(node)
        client.register("t")
        client.put_many("t", [b"1 a", b""])
        (first, last), second = client.scan("t"), datetime(2025, 11, 26, 6, 55, 0, 1000, UTC)
        assert (last.payload, last.time, last.unix_ms) == (b"", second, appended(1, 1))
        assert first.time == second - timedelta(milliseconds=1) and first.payload == b"1 a"
        assert client.fetch("t", 1, 0) == b"1 a" and client.fetch_many("t", 1, 0, 9) == [b"1 a", b""], (
            "DeliveredIsPrefix"
        )
        delivery = client.receive("t", "g")
        assert (delivery.payload, delivery.time) == (b"1 a", first.time)
        assert client.find("t", second) == (1, 1) and client.find("t", first.time) == (1, 0)
        assert client.find("t", second + timedelta(days=1)) == (1, 2), "where the next one comes"
        with pytest.raises(ValueError, match="time zone"):
            client.find("t", datetime(2025, 11, 26))
        with pytest.raises(TypeError, match="datetime"):
            client.find("t", 1_764_140_000)


@pytest.mark.parametrize("first_release", [True, False])
def test_a_node_that_tells_no_times_leaves_them_unknown(connect: MakeClient, first_release: bool) -> None:
    with FakeNode(first_release=first_release, tells_times=False) as node:
        client = connect(node)
        client.register("t")
        assert client.put("t", b"7 a").known is not first_release
        (entry,) = client.scan("t")
        assert (entry.payload, entry.unix_ms, entry.time) == (b"7 a", 0, None)
        assert client.receive("t", "g").time is None and client.fetch("t", 1, 0) == b"7 a"


def test_a_time_beyond_the_calendar_is_none() -> None:
    assert Entry(1, 0, b"", 253_402_300_799_999).time == datetime(9999, 12, 31, 23, 59, 59, 999_000, UTC)
    assert Entry(1, 0, b"", 253_402_300_800_000).time is None


@pytest.mark.parametrize("answer", [b"OK positions=2", b"OK 1 1", b"EMPTY", b"{}"])
def test_an_answer_to_hello_that_is_none_ends_the_connection(connect: MakeClient, answer: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    with connection:
                        connection.recv(4096)
                        connection.sendall(protocol.frame(answer) + protocol.OK)

        threading.Thread(target=serve, daemon=True).start()
        with pytest.raises(BadReply, match="HELLO was answered with"):
            connect(f"127.0.0.1:{listener.getsockname()[1]}", timeout=SENT).put("t", b"x")


def test_put_many_tells_each_entry_s_result(connect: MakeClient) -> None:
    refusal = Say(protocol.error(protocol.errors.TIMEOUT))
    with FakeNode([SERVE, SERVE, refusal, SERVE]) as node:
        client = connect(node)
        client.register("t")
        first, second, third = client.put_many("t", [b"a", b"b", b"c"])
        assert [first, third] == places(0, 2) and isinstance(second, OutcomeUnknown), (
            "AnswersAreTrue: the results are of other entries"
        )
        assert client.put_many("t", []) == []


# --- retries


def test_a_node_that_is_not_there_is_passed_over(connect: MakeClient) -> None:
    with FakeNode() as node:
        client = connect(f"127.0.0.1:{free_port()}", node)
        client.register("t")
        client.put("t", b"x")
        assert client.address == node.address


def test_nobody_there_is_an_error_by_the_deadline(connect: MakeClient) -> None:
    client = connect(f"127.0.0.1:{free_port()}", timeout=0.2)
    with pytest.raises(Unreachable):
        client.put("t", b"x")
    with pytest.raises(Unreachable):
        client.metrics()


def test_a_node_that_stops_between_two_calls_costs_nothing(connect: MakeClient) -> None:
    with FakeNode() as first, FakeNode() as second:
        client = connect(first, second)
        client.register("t")
        second.log = first.log
        first.close()
        client.put("t", b"x")
        assert first.log.topics["t"] == [[b"x"]], "NoDuplicate: sent once, to the other node"


@pytest.mark.parametrize("cut", [b"", b"\x02", protocol.OK[:5]])
def test_a_put_that_was_sent_is_not_sent_again(connect: MakeClient, cut: bytes) -> None:
    with FakeNode([SERVE, Close(cut, done=True)]) as node:
        client = connect(node)
        client.register("t")
        with pytest.raises(OutcomeUnknown, match="may have been written"):
            client.put("t", b"x")
        assert node.log.topics["t"] == [[b"x"]], "NoDuplicate: sent again without being told so"
        client.put("t", b"y")
        assert node.log.topics["t"] == [[b"x", b"y"]], "NoDuplicate"


def test_a_put_is_sent_again_when_told_so_and_may_be_there_twice(connect: MakeClient) -> None:
    with FakeNode([SERVE, Close(done=True)]) as node:
        client = connect(node)
        client.register("t")
        client.put("t", b"x", retry=True)
        assert node.log.topics["t"] == [[b"x", b"x"]], "EveryPubAnswered: it was not sent again"


def test_put_many_goes_on_behind_what_was_acknowledged_when_told_so(connect: MakeClient) -> None:
    with FakeNode([SERVE, SERVE, Close(done=True)]) as node:
        client = connect(node)
        client.register("t")
        assert client.put_many("t", [b"a", b"b", b"c"], retry=True) == [*places(0, 1), *places(2, 4)], (
            "AnswersAreTrue"
        )
        assert node.log.topics["t"] == [[b"a", b"b", b"b", b"c"]], (
            "NoDuplicate: only the doubtful one is there twice"
        )


def test_put_many_without_retry_reports_the_doubtful_ones(connect: MakeClient) -> None:
    with FakeNode([SERVE, SERVE, Close(done=True)]) as node:
        client = connect(node)
        client.register("t")
        first, second, third = client.put_many("t", [b"a", b"b", b"c"])
        assert first == Position(1, 0), "AnswersAreTrue"
        assert isinstance(second, OutcomeUnknown) and isinstance(third, OutcomeUnknown), (
            "AnswersAreTrue: an outcome is unknown, and told"
        )


@pytest.mark.parametrize(
    "reason", [protocol.errors.NO_LEASE, protocol.errors.BUSY, protocol.errors.not_enough_replicas(1, 2)]
)
def test_what_a_node_says_it_did_not_do_is_asked_of_another(connect: MakeClient, reason: str) -> None:
    with FakeNode([SERVE, Say(protocol.error(reason))]) as first, FakeNode() as second:
        client = connect(first, second)
        client.register("t")
        second.log = first.log
        client.put("t", b"x")
        assert second.log.topics["t"] == [[b"x"]], "NoDuplicate"
        assert client.address == second.address


def test_entries_that_a_node_did_not_take_follow_in_order(connect: MakeClient) -> None:
    busy = Say(protocol.error(protocol.errors.BUSY))
    with FakeNode([SERVE, SERVE, busy, busy]) as node:
        client = connect(node)
        client.register("t")
        assert client.put_many("t", [b"a", b"b", b"c"]) == places(0, 3), "AnswersAreTrue"
        assert node.log.topics["t"] == [[b"a", b"b", b"c"]], "ProducerOrder"


def test_an_entry_refused_in_the_middle_is_not_sent_behind_later_ones(connect: MakeClient) -> None:
    with FakeNode([SERVE, SERVE, Say(protocol.error(protocol.errors.BUSY)), SERVE]) as node:
        client = connect(node)
        client.register("t")
        first, second, third = client.put_many("t", [b"a", b"b", b"c"])
        assert [first, third] == places(0, 2) and isinstance(second, Busy), "AnswersAreTrue"
        assert node.log.topics["t"] == [[b"a", b"c"]], (
            "ProducerOrder: an earlier entry stands behind a later one"
        )


def test_no_leader_for_long_is_reported(connect: MakeClient) -> None:
    with FakeNode([Say(protocol.error(protocol.errors.NO_MAJORITY))] * 1000) as node:
        with pytest.raises(NoLeader, match="reaches no majority"):
            connect(node, timeout=1.0).put("t", b"x")
        assert len(node.seen) > 1


def test_a_get_that_was_sent_is_not_sent_again(connect: MakeClient) -> None:
    with FakeNode([SERVE, SERVE, Close(done=True)]) as node:
        client = connect(node)
        client.register("t")
        client.put("t", b"x")
        with pytest.raises(OutcomeUnknown, match="cursor may have moved"):
            client.get("t")
        assert sum(isinstance(request, Get) for request in node.seen) == 1, (
            "DeliveredIsPrefix: sent again, and the cursor moves twice"
        )


def test_get_many_that_fails_on_the_way_keeps_what_came(connect: MakeClient) -> None:
    with FakeNode([SERVE] * 4 + [Close(done=True)]) as node:
        client = connect(node)
        client.register("t")
        client.put_many("t", [b"a", b"b"])
        with pytest.raises(OutcomeUnknown) as caught:
            client.get_many("t", 3)
        assert caught.value.received == (b"a",), (
            "DeliveredIsPrefix: what the cursor has passed is thrown away"
        )


@pytest.mark.parametrize("ask", ["register", "state", "metrics", "fetch"])
def test_what_is_harmless_is_sent_again(connect: MakeClient, ask: str) -> None:
    with FakeNode(log=MemoryLog(topics={"t": [[b"x"]]})) as node:
        node.script.extend([Close(b"\x07\x00", done=True), Close()])
        arguments = {"register": ("t",), "state": ("t",), "metrics": (), "fetch": ("t", 1, 0)}[ask]
        getattr(connect(node), ask)(*arguments)
        assert len(node.seen) == 3


def test_a_node_that_hangs_does_not_eat_the_time_of_a_harmless_call(connect: MakeClient) -> None:
    with FakeNode([Silence()]) as deaf, FakeNode() as node:
        assert connect(deaf, node, timeout=4.0).metrics()["id"] == 1
        assert (len(deaf.seen), len(node.seen)) == (1, 1)


# --- deadlines


SENT = 1.0
"""Seconds within which a request has left, also on a busy machine: a deadline before that is another error,
since then nothing can have happened."""


def test_silence_ends_by_the_deadline(connect: MakeClient) -> None:
    with FakeNode([Silence()]) as node, pytest.raises(OutcomeUnknown):
        connect(node).put("t", b"x", timeout=SENT)
    with FakeNode([Silence()]) as node, pytest.raises(TimedOut):
        connect(node, timeout=SENT).metrics()


def test_a_call_that_gives_up_resets_its_connection_so_that_the_node_writes_nothing_more(
    connect: MakeClient,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = connect("{}:{}".format(*server.getsockname()))
        with pytest.raises(OutcomeUnknown):
            client.put("t", b"x", timeout=SENT)
        client.close()
        accepted, _ = server.accept()
        with accepted, pytest.raises(ConnectionResetError):
            accepted.settimeout(120)
            while accepted.recv(100):
                pass


def test_a_client_that_is_closed_after_its_answers_closes_in_order(connect: MakeClient) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = connect("{}:{}".format(*server.getsockname()))

        def serve() -> list[bytes]:
            accepted, _ = server.accept()
            with accepted:
                accepted.settimeout(120)
                request = accepted.recv(100)
                accepted.sendall(protocol.ok(b"positions=1") + protocol.frame(b"OK"))
                return [request, accepted.recv(100)]

        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            served = pool.submit(serve)
            client.put("t", b"x")
            client.close()
            hello = protocol.frame(b"HELLO positions=1 times=1")
            assert served.result() == [hello + protocol.frame(b"PUT t x"), b""], "NoDuplicate"


def test_after_a_call_that_timed_out_replies_do_not_shift(connect: MakeClient) -> None:
    with FakeNode([SERVE, Silence()]) as node:
        client = connect(node)
        client.register("t")
        with pytest.raises(OutcomeUnknown):
            client.get("t", timeout=SENT)
        client.put("t", b"x")
        assert client.get("t") == b"x", "AnsweredInOrder: the answer to an earlier call"
        assert node.connections == 2, "AnsweredInOrder"


# --- servers that are none


@pytest.mark.parametrize(
    "reply", [b"HTTP/1.1 400 Bad Request\r\n\r\n", protocol.frame(b"WAT"), bytes(4), protocol.OK]
)
def test_an_answer_that_makes_no_sense_is_an_error(connect: MakeClient, reply: bytes) -> None:
    with FakeNode([Say(reply)]) as node, pytest.raises(BadReply):
        connect(node).metrics()


def test_broken_json_is_an_error(connect: MakeClient) -> None:
    with FakeNode([Say(protocol.json_reply("{nonsense"))]) as node, pytest.raises(BadReply):
        connect(node).state("t")


def test_a_state_without_segments_is_an_error(connect: MakeClient) -> None:
    script = [Say(protocol.EMPTY * 256), *[Say(b"")] * 255, Say(protocol.json_reply("{}"))]
    with FakeNode(script) as node, pytest.raises(BadReply):
        list(connect(node).entries("t"))


def test_a_reply_that_nobody_asked_for_ends_the_connection_not_the_client(connect: MakeClient) -> None:
    with FakeNode([SERVE, Say(protocol.OK + protocol.OK)]) as node:
        client = connect(node)
        client.register("t")
        with contextlib.suppress(BadReply):  # noticed in this call, or before the next one
            client.put("t", b"a")
        client.put("t", b"b")
        assert node.connections == 2, "AnsweredInOrder"


@pytest.mark.parametrize(
    "address",
    [
        "",
        "localhost",
        "localhost:",
        ":9091",
        "localhost:0",
        "localhost:99999",
        "no\0name:1",
        "..:1",
        "::1:1",
        "a b:1",
    ],
)
def test_an_address_that_is_none_is_refused_at_once(address: str) -> None:
    for kind in (Client, AsyncClient):
        with pytest.raises(ValueError, match="HOST:PORT"):
            kind([address])
    with pytest.raises(ValueError, match="at least one"):
        Client([])
    for kind in (Client, AsyncClient):
        with pytest.raises(ValueError, match="timeout"):
            kind("127.0.0.1:9091", timeout=0)


# --- many at once


def test_pipelining_keeps_the_order_of_many(connect: MakeClient) -> None:
    payloads = [b"%d" % n * (n % 50) for n in range(5000)]
    with FakeNode(log=MemoryLog(segment_entries=10_000)) as node:
        client = connect(node)
        client.register("t")
        assert client.put_many("t", payloads) == places(0, 5000), "AnswersAreTrue"
        assert node.log.topics["t"] == [payloads], "ProducerOrder"
        assert client.get_many("t", 6000) == payloads, "DeliveredIsPrefix"


def test_large_entries_both_ways_at_once_do_not_block(connect: MakeClient) -> None:
    payloads = [bytes([n]) * 60_000 for n in range(200)]
    with FakeNode() as node:
        client = connect(node)
        client.register("t")
        assert client.put_many("t", payloads) == places(0, 200), "AnswersAreTrue"
        assert client.get_many("t", 200) == payloads, "DeliveredIsPrefix"


def test_threads_share_a_client() -> None:
    with FakeNode() as node, Client(node.address) as client:
        client.register("t")
        threads = [threading.Thread(target=client.put, args=("t", b"%d" % n)) for n in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(client.entries("t"), key=int) == [b"%d" % n for n in range(20)], (
            "NoDuplicate: entries of several threads"
        )


def test_tasks_share_a_connection() -> None:
    async def scenario(node: FakeNode) -> None:
        async with AsyncClient(node.address) as client:
            await client.register("t")
            await asyncio.gather(*[client.put("t", b"%d" % n) for n in range(200)])
            found = [entry async for entry in client.entries("t")]
            assert found == [b"%d" % n for n in range(200)], "ProducerOrder: in the order of the calls"

    with FakeNode() as node:
        asyncio.run(scenario(node))
        assert node.connections == 1


def test_a_cancelled_task_does_not_shift_the_replies_of_others() -> None:
    async def scenario(node: FakeNode) -> None:
        async with AsyncClient(node.address) as client:
            await client.register("t")
            await client.put_many("t", [b"a", b"b", b"c"])
            first = asyncio.create_task(client.fetch("t", 1, 0))
            second = asyncio.create_task(client.fetch("t", 1, 1))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            first.cancel()
            assert await second == b"b", "AnsweredInOrder: the answer to a call that was given up"
            with pytest.raises(asyncio.CancelledError):
                await first
            assert await client.fetch("t", 1, 2) == b"c", (
                "AnsweredInOrder: the answer to a call that was given up"
            )

    with FakeNode() as node:
        asyncio.run(scenario(node))


def test_what_the_clients_send_is_what_was_meant(connect: MakeClient) -> None:
    with FakeNode() as node:
        client = connect(node)
        client.register("grün")
        client.put("grün", b" x ")
        client.get("grün", "größe")
        put = node.seen[1]
        assert isinstance(put, Put) and put.batch.payloads() == [b" x "], (
            "AnswersAreTrue: another entry is sent"
        )
        assert [node.seen[0], node.seen[2]] == [Register("grün"), Get("grün", "größe")]


def test_both_clients_have_the_same_methods() -> None:
    def methods(kind: type) -> dict[str, list[str]]:
        return {
            name: list(inspect.signature(member).parameters)
            for name, member in inspect.getmembers(kind, inspect.isfunction)
            if not name.startswith("_")
        }

    assert methods(Client) == methods(AsyncClient)


def test_the_deadline_of_a_pipelined_call_moves_on_with_its_answers(connect: MakeClient) -> None:
    with FakeNode([SERVE] * 301 + [Silence()]) as node:
        client = connect(node)
        client.register("t")
        results = client.put_many("t", [b"x"] * 1000, timeout=SENT)
        assert results[:300] == places(0, 300), "AnswersAreTrue"
        kinds = [type(result) for result in results[300:]]
        assert set(kinds) == {OutcomeUnknown, Unreachable}, "AnswersAreTrue"
        assert kinds == sorted(kinds, key=lambda kind: kind is Unreachable), (
            "AnswersAreTrue: those never sent are known to be"
        )
