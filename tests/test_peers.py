"""The peers of the benchmarks: each of their answers is counted once, and is an entry that is there."""

from __future__ import annotations

import itertools
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.table import Table

from benchmarks import beside, queue_peers
from benchmarks.cluster import OK_FRAME, Frames
from benchmarks.cluster_peers import (
    ACK,
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    PING,
    SETTINGS,
    EtcdLine,
    Nats,
    NatsLine,
    RedisLine,
    RedisWaitLine,
    h2,
    peers,
)
from benchmarks.cluster_subjects import Line, Marked, PeerError, Subject

PUB_ACK = b'MSG _INBOX.x 1 27\r\n{"stream":"B","seq":%d}\r\n'
ETCD_REPLY = (
    h2(HEADERS, END_HEADERS, 1) + h2(DATA, 0, 1, b"\0\0\0\0\0") + h2(HEADERS, END_HEADERS | END_STREAM, 1)
)

LINES: dict[str, tuple[Callable[[Any], Line], bytes, bytes]] = {
    "Walrus": (Frames, OK_FRAME * 3, b"\x0b\x00\x00\x00ERR timeout"),
    "NATS": (
        lambda connection: NatsLine(connection, b"_INBOX.x"),
        PUB_ACK % 9 + b"PING\r\n" + PUB_ACK % 10 + PUB_ACK % 11,
        b'MSG _INBOX.x 1 30\r\n{"error":{"code":503},"seq":0}\r\n',
    ),
    "Redis": (RedisLine, b"$15\r\n1690000000000-0\r\n" * 3, b"-ERR unknown command\r\n"),
    "etcd": (
        lambda connection: EtcdLine(connection, itertools.count()),
        h2(SETTINGS, 0, 0) + ETCD_REPLY + h2(PING, 0, 0, b"8 octets") + ETCD_REPLY * 2,
        h2(HEADERS, END_HEADERS | END_STREAM, 1),
    ),
}
"""For each protocol: its line, three answers and what comes between them, and one that refuses."""


class Sent:
    """In place of a connection: what was sent."""

    def __init__(self) -> None:
        self.data = b""

    def sendall(self, data: bytes) -> None:
        self.data += data


@pytest.mark.parametrize("name", LINES)
def test_an_answer_is_counted_once_wherever_it_is_cut(name: str) -> None:
    make, answers, _ = LINES[name]
    for cut in range(len(answers) + 1):
        line = make(Sent())
        assert line.answers(answers[:cut]) + line.answers(answers[cut:]) == 3, cut
    line = make(Sent())
    assert sum(line.answers(bytes((byte,))) for byte in answers) == 3, "byte by byte"


@pytest.mark.parametrize("name", LINES)
def test_a_refusal_is_no_answer(name: str) -> None:
    make, answers, refusal = LINES[name]
    line = make(Sent())
    line.answers(answers)
    with pytest.raises(PeerError):
        line.answers(refusal)


def test_entries_before_a_wait_are_answered_by_it() -> None:
    line = RedisWaitLine(Sent())
    assert line.requests(5).count(b"XADD") == 5 and line.requests(1).count(b"WAIT") == 1
    added = b"$15\r\n1690000000000-0\r\n"
    assert line.answers(added * 3) == 0, "they are on one copy"
    assert line.answers(b":2\r\n" + added * 2) == 3
    assert line.answers(b":1\r\n" + added + b":2\r\n") == 3


def test_a_server_that_asks_for_a_sign_of_life_gets_one() -> None:
    sent = Sent()
    NatsLine(sent, b"_INBOX.x").answers(b"PING\r\n")
    assert sent.data == b"PONG\r\n"
    line = EtcdLine(sent, itertools.count())
    line.answers(h2(PING, 0, 0, b"8 octets") + h2(PING, ACK, 0, b"an ack's"))
    assert sent.data.endswith(h2(PING, ACK, 0, b"8 octets"))


@pytest.mark.process
@pytest.mark.parametrize("peer", peers(), ids=lambda peer: str(peer.name))
def test_what_a_peer_answered_is_what_it_has(peer: Subject, tmp_path: Path) -> None:
    if peer.missing():
        pytest.skip(peer.missing())
    try:
        peer.start(tmp_path / "peer")
        processes, lines = list(peer.processes), [peer.line() for _ in range(2)]
        for line in lines:
            with line.socket:
                line.ask(70)
                left = 70
                while left:
                    left -= line.take()
                assert left == 0
        assert peer.stored() == 140
    finally:
        peer.stop()
    assert all(process.poll() is not None for process in processes)


@pytest.mark.process
def test_a_pull_consumer_that_acknowledged_all_has_nothing_left(tmp_path: Path) -> None:
    peer = Nats(durable=False)
    if peer.missing():
        pytest.skip(peer.missing())
    try:
        peer.start(tmp_path / "peer")
        queue_peers.fill(peer, 600)
        wires = queue_peers.consumers(peer, 3)
        for _ in range(4):
            queue_peers.work(wires, 50)
        for wire in wires:
            wire.socket.close()
        info = peer.request("CONSUMER.INFO.B.C")
        assert (info["ack_floor"]["stream_seq"], info["num_pending"], info["num_ack_pending"]) == (600, 0, 0)
        numbered = peer.line(ids=True)
        with numbered.socket:
            queue_peers.publish(numbered, 120)
        assert peer.stored() == 720
    finally:
        peer.stop()


class Echo(Marked):
    """A connection that answers itself."""

    mark, trouble = b"!", b"?"

    def __init__(self) -> None:
        ours, self.theirs = socket.socketpair()
        super().__init__(ours)

    def requests(self, count: int) -> bytes:
        return b"!" * count

    def ask(self, count: int) -> None:
        self.theirs.sendall(self.requests(count))


class Imagined(Subject):
    """A server without a process."""

    def __init__(self, name: str, *, durable: bool, keeps: int | None = None) -> None:
        super().__init__(name, "2 of 3", "never", durable=durable)
        self.keeps = keeps

    def start(self, directory: Path) -> None:
        pass

    def line(self) -> Line:
        return Echo()

    def stored(self) -> int | None:
        return self.keeps


class NotInstalled(Imagined):
    program, brought_by = "no-such-program-anywhere", "get it somewhere"


def test_an_acknowledged_entry_that_is_not_there_ends_the_run(tmp_path: Path) -> None:
    with pytest.raises(PeerError, match=r"answered .* entries and has 3"):
        beside.one_round(Imagined("forgetful", durable=True, keeps=3), tmp_path / "d", 0.01)


def test_a_peer_that_is_not_installed_is_a_line_and_the_run_goes_on(tmp_path: Path) -> None:
    subjects = [
        *(Imagined(name, durable=durable) for durable, name in beside.REFERENCES.items()),
        NotInstalled("absent", durable=True),
    ]
    figures = beside.measure(subjects, tmp_path / "d", 3, 0.01, lambda _: None)
    assert all(len(rates) == 3 for found in figures["subjects"].values() for rates in found["rates"].values())
    assert "absent" not in figures["subjects"]
    *shown, line = beside.tables(figures)
    assert all(isinstance(table, Table) for table in shown) and len(shown) == 2
    assert line == "absent is not measured: there is no no-such-program-anywhere here (get it somewhere)"


def test_a_ratio_is_taken_in_its_own_round() -> None:
    assert beside.ratio([10.0, 40.0, 90.0], [10.0, 20.0, 30.0]) == "2.00 (1.00-3.00)"
