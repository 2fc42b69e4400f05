"""A node that is not one: a log in memory behind the client protocol, which misbehaves as told.

`FakeNode` runs in threads of the test's own process on a port of loopback. Without a script it serves like
a cluster of one. `script` is a list of things to do instead, one for each request that arrives.
"""

from __future__ import annotations

import json
import socket
import threading
from collections import defaultdict, deque
from collections.abc import Iterable
from dataclasses import dataclass, field

import msgspec

from walrus import protocol
from walrus.protocol import (
    Ack,
    Configure,
    Delete,
    Extend,
    Fetch,
    Find,
    Get,
    Greeting,
    Groups,
    Invalid,
    Leave,
    Metrics,
    Nack,
    Put,
    Receive,
    Recover,
    Register,
    Request,
    Seek,
    State,
    Topics,
)


def appended(segment: int, offset: int) -> int:
    """When the log in memory says that it appended that entry, in unix milliseconds."""
    return 1_764_140_000_000 + segment * 100_000 + offset


def told(payload: bytes, segment: int, offset: int, times: bool) -> bytes:
    """The entry, behind its time to a client that asked for times."""
    return b"%d %b" % (appended(segment, offset), payload) if times else payload


@dataclass
class MemoryQueue:
    """A group that is read with RECEIVE. Nothing takes time: a wait is answered at once, a delay is none."""

    out: dict[tuple[int, int], int] = field(default_factory=dict)
    given: dict[tuple[int, int], int] = field(default_factory=lambda: defaultdict(int))
    done: set[tuple[int, int]] = field(default_factory=set)
    generation: int = 0

    def answer(self, request: Request, segments: list[list[bytes]]) -> bytes:
        match request:
            case Receive(times=times):
                return self.receive(segments, times)
            case Ack(receipts=receipts):
                (receipt,) = receipts
                self.done.add((receipt.segment, receipt.offset))
                self.out.pop((receipt.segment, receipt.offset), None)
                return protocol.OK
            case Seek():
                self.out, self.done, self.generation = {}, set(), self.generation + 1
                return protocol.OK
            case Nack(receipt=receipt) | Extend(receipt=receipt):
                place = receipt.segment, receipt.offset
                if self.out.get(place) != receipt.delivery:
                    return protocol.error(protocol.errors.STALE_RECEIPT)
                if isinstance(request, Nack):
                    del self.out[place]
                return protocol.OK
        raise AssertionError(request)

    def receive(self, segments: list[list[bytes]], times: bool) -> bytes:
        for number, entries in enumerate(segments, 1):
            for offset, payload in enumerate(entries):
                place = number, offset
                if place not in self.done and place not in self.out:
                    self.given[place] += 1
                    self.out[place] = self.given[place]
                    receipt = protocol.Receipt(number, offset, self.generation, self.given[place])
                    return protocol.ok_received([receipt], [told(payload, number, offset, times)])
        return protocol.EMPTY


@dataclass
class MemoryLog:
    """What a cluster would keep. Entries roll over to a new segment after `segment_entries`."""

    segment_entries: int = 1000
    topics: dict[str, list[list[bytes]]] = field(default_factory=dict)
    cursors: dict[tuple[str, str], int] = field(default_factory=lambda: defaultdict(int))
    queues: dict[tuple[str, str], MemoryQueue] = field(default_factory=lambda: defaultdict(MemoryQueue))

    def answer(self, request: Request) -> list[bytes]:
        """One reply for each that is owed."""
        match request:
            case Register(topic):
                self.topics.setdefault(topic, [[]])
                return [protocol.OK]
            case Topics(prefix):
                names = sorted(name for name in self.topics if name.startswith(prefix))
                return [protocol.json_reply(json.dumps({"topics": names, "count": len(names)}))]
            case Metrics():
                return [protocol.json_reply(json.dumps(METRICS))]
            case Leave(node_id, force):
                return [self.leave(node_id, force)]
            case Greeting(granted=granted):
                return [protocol.ok(granted.encode())]
            case Invalid(reason):
                return [protocol.error(reason)]
            case _ if request.topic not in self.topics:
                return [protocol.error(protocol.errors.unknown_topic(request.topic))] * request.replies
            case Put(topic, batch, positions):
                places = [self.append(topic, payload) for payload in batch.payloads()]
                return [protocol.ok_places(*place, 1) if positions else protocol.OK for place in places]
            case Get(topic, group, count):
                return [self.next(topic, group) for _ in range(count)]
            case Fetch(topic, segment, offset, count, times=times):
                return [self.at(topic, segment, offset + n, times) for n in range(count)]
            case Receive() | Ack() | Nack() | Extend() | Seek():
                return [self.queues[request.topic, request.group].answer(request, self.topics[request.topic])]
            case Find(topic, time):
                return [protocol.ok_places(*self.first_since(topic, time.ms), 1)]
            case State(topic):
                return [protocol.json_reply(json.dumps(self.state(topic)))]
            case Configure():
                return [protocol.OK]
            case Delete(topic):
                del self.topics[topic]
                return [protocol.OK]
            case Groups(topic):
                end = {"segment": len(self.topics[topic]), "offset": len(self.topics[topic][-1])}
                told = {"end": end, "exact": True, "leader_node": 1, "groups": {}}
                return [protocol.json_reply(json.dumps(told))]
            case Recover():
                return [protocol.error(protocol.errors.not_recovered_yet("t", 1))]

    def leave(self, node_id: int, force: bool) -> bytes:
        """Node 3 is the only one that may leave: with `force` where METRICS tells of a larger factor."""
        factor = METRICS.get("replication_factor", 2)
        if node_id != 3:
            return protocol.error(protocol.errors.unknown_node(node_id))
        if not force and isinstance(factor, int) and factor > 2:
            return protocol.error(protocol.errors.needs_force(node_id, 2, factor))
        return protocol.OK

    def append(self, topic: str, payload: bytes) -> tuple[int, int]:
        if len(self.topics[topic][-1]) == self.segment_entries:
            self.topics[topic].append([])
        self.topics[topic][-1].append(payload)
        return len(self.topics[topic]), len(self.topics[topic][-1]) - 1

    def next(self, topic: str, group: str) -> bytes:
        entries = [payload for segment in self.topics[topic] for payload in segment]
        place = self.cursors[topic, group]
        if place == len(entries):
            return protocol.EMPTY
        self.cursors[topic, group] += 1
        return protocol.ok(entries[place])

    def at(self, topic: str, segment: int, offset: int, times: bool) -> bytes:
        segments = self.topics[topic]
        if segment > len(segments):
            return protocol.error(protocol.errors.unknown_segment(topic, segment))
        entries = segments[segment - 1]
        if offset >= len(entries):
            return protocol.EMPTY
        return protocol.ok_fetch(offset + 1, told(entries[offset], segment, offset, times))

    def first_since(self, topic: str, ms: int) -> tuple[int, int]:
        places = [
            (number, offset)
            for number, entries in enumerate(self.topics[topic], 1)
            for offset in range(len(entries))
            if appended(number, offset) >= ms
        ]
        return places[0] if places else (len(self.topics[topic]), len(self.topics[topic][-1]))

    def state(self, topic: str) -> dict[str, object]:
        segments = self.topics[topic]
        sealed = {str(n): len(entries) for n, entries in enumerate(segments[:-1], 1)}
        return {
            "current_segment": len(segments),
            "leader_node": 1,
            "last_sealed_entry_offset": sum(sealed.values()),
            "sealed_segments": sealed,
            "segment_leaders": {str(n): 1 + n % 3 for n in range(1, len(segments) + 1)},
            "segment_replicas": {str(n): [1, 2, 3] for n in range(1, len(segments) + 1)},
            "cursors": {"": {"segment": 1, "offset": 0}},
        }


LOG_ID = {"leader_id": {"term": 3, "node_id": 2}, "index": 41}
METRICS: dict[str, object] = {
    "running_state": {"Ok": None},
    "id": 1,
    "current_term": 3,
    "vote": {"leader_id": {"term": 3, "node_id": 2}, "committed": True},
    "last_log_index": 42,
    "last_applied": LOG_ID,
    "snapshot": None,
    "purged": None,
    "state": "Follower",
    "current_leader": 2,
    "millis_since_quorum_ack": None,
    "last_quorum_acked": None,
    "membership_config": {
        "log_id": LOG_ID,
        "membership": {
            "configs": [[1, 2, 3]],
            "nodes": {str(n): {"addr": f"127.0.0.1:600{n}"} for n in (1, 2, 3)},
        },
    },
    "heartbeat": None,
    "replication": None,
    "commit_index": 41,
    "incarnation": 2,
    "cluster_id": "5d1f0c7e9a3b4c2d",
    "ready": True,
    "replication_factor": 2,
    "learners": [],
    "client_addresses": {str(n): f"127.0.0.1:909{n}" for n in (1, 2, 3)},
    "connected": [2, 3],
    "leases": 1,
    "leases_held": {"orders": 7},
    "segments_led": 1,
    "entries": 123_456,
    "bytes": 12_345_678,
    "failovers": 0,
    "recoveries_waiting_for_sure_copies": {},
}


@dataclass(frozen=True)
class Say:
    """Write these bytes instead of the reply."""

    data: bytes


@dataclass(frozen=True)
class Close:
    """Write these bytes and close; the request is executed before that if `done`."""

    data: bytes = b""
    done: bool = False


@dataclass(frozen=True)
class Silence:
    """Answer nothing, now and later, on this connection."""


SERVE = None
"""In a script: serve this request as a node would."""


class FakeNode:
    """Listens until `close`. `seen` are the requests that arrived, one by one, in order.

    HELLO is answered beside the script, and not in `seen`. A node of the `first_release` does not know it;
    one that `tells_times` not knows that option of it as little.
    """

    def __init__(
        self,
        script: Iterable[Say | Close | Silence | None] = (),
        log: MemoryLog | None = None,
        first_release: bool = False,
        tells_times: bool = True,
    ) -> None:
        self.first_release, self.tells_times = first_release, tells_times
        self.log = log if log is not None else MemoryLog()
        self.script = deque(script)
        self.seen: list[Request] = []
        self.connections = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.address = f"127.0.0.1:{self.port}"
        self._open: list[socket.socket] = []
        self._lock = threading.Lock()
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> FakeNode:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Like the death of a process: nothing listens, connections break."""
        self._listener.close()
        self.drop_connections()

    def drop_connections(self) -> None:
        """As a restart of the node would, seen from the client."""
        for connection in self._open:
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue  # the client was faster

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.connections += 1
            self._open.append(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        parser = protocol.RequestParser()
        with connection:
            try:
                while data := connection.recv(65536):
                    for request in parser.feed(data):
                        for single in one_by_one(request):
                            if not self._handle(connection, single):
                                return
            except OSError:
                return

    def _handle(self, connection: socket.socket, request: Request) -> bool:
        if isinstance(request, Greeting):
            unknown = protocol.error(protocol.errors.UNKNOWN_COMMAND)
            known = Greeting(request.positions, request.times and self.tells_times)
            connection.sendall(unknown if self.first_release else b"".join(self.log.answer(known)))
            return True
        with self._lock:
            self.seen.append(plain(request))
            if self.first_release or not (self.tells_times or isinstance(request, Put)):
                request = self.seen[-1]
            action = self.script.popleft() if self.script else SERVE
            if isinstance(action, Silence):
                self.script.clear()
                while connection.recv(65536):
                    pass
                return False
            reply = b"".join(self.log.answer(request)) if action is SERVE or _executes(action) else b""
        if isinstance(action, Say | Close):
            reply = action.data
        connection.sendall(reply)
        return not isinstance(action, Close)


def _executes(action: object) -> bool:
    return isinstance(action, Close) and action.done


def plain(request: Request) -> Request:
    """The request without what its connection's HELLO asked for."""
    match request:
        case Put(topic, batch):
            return Put(topic, batch)
        case Fetch() | Receive():
            return msgspec.structs.replace(request, times=False)
        case _:
            return request


def one_by_one(request: Request) -> list[Request]:
    """A run taken apart, so that a script counts single requests, however they arrived."""
    match request:
        case Put(topic, batch, positions):
            return [Put(topic, batch.slice(n, n + 1), positions) for n in range(batch.count)]
        case Get(topic, group, count):
            return [Get(topic, group)] * count
        case Fetch(topic, segment, offset, count):
            return [Fetch(topic, segment, offset + n, times=request.times) for n in range(count)]
        case Receive(topic, group, wait_ms, count, times):
            return [Receive(topic, group, wait_ms, times=times)] * count
        case Ack(topic, group, receipts):
            return [Ack(topic, group, (receipt,)) for receipt in receipts]
        case _:
            return [request]


_held: list[socket.socket] = []


def free_port() -> int:
    """A port where nothing listens, now and later: it is bound, and so no other process is given it."""
    _held.append(socket.socket())
    _held[-1].bind(("127.0.0.1", 0))
    return int(_held[-1].getsockname()[1])
