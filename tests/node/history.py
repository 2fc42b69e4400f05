"""What clients did and what they were told, checked against what the log holds in the end: the black-box
oracle.

Every payload is unique and sent once. What became of it is one of three, and which one is all that a client
knows:

    ok        the node said OK            it is in the log, exactly once
    failed    the node said ERR, and not  it is not in the log
              that the outcome is unknown
    unknown   no answer, or "unknown"     it is in the log once, or not at all

`check` finds: lost writes (told by where they were: prefix, middle or tail), duplicates, failed writes that
can be read, entries that were never sent, a producer's acknowledged entries out of order. `read_back` adds:
two values at one position.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Sequence
from typing import NamedTuple, Self

from tests.node.harness import PATIENCE, Closed, Cluster, Wire, nap, wait_for

OK, FAILED, UNKNOWN = "ok", "failed", "unknown"


def outcome(reply: bytes) -> str:
    """What a reply to a PUT says of the entry."""
    if reply == b"OK":
        return OK
    assert reply.startswith(b"ERR "), reply
    return UNKNOWN if b"unknown" in reply.replace(b"unknown topic", b"") or b"may have" in reply else FAILED


class Attempt(NamedTuple):
    """One PUT and what became of it."""

    payload: bytes
    outcome: str
    reply: bytes


class Entry(NamedTuple):
    """One entry of the log, and where it is."""

    segment: int
    offset: int
    payload: bytes


class Producer(threading.Thread):
    """Sends PUTs, `window` at a time, to one node after the other; writes down what it was told."""

    def __init__(
        self, cluster: Cluster, topic: str, name: str, nodes: Sequence[int], window: int = 10, size: int = 0
    ) -> None:
        super().__init__(name=f"producer {name}", daemon=True)
        self.attempts: list[Attempt] = []
        self.acknowledged = 0
        self.slowest = 0.0
        """Seconds that the slowest answer took."""
        self._cluster, self._topic, self._label = cluster, topic.encode(), name.encode()
        self._nodes, self._window, self._padding = list(nodes), window, b"." * size
        self._stopped = threading.Event()
        self._numbers = itertools.count()
        self.failure: BaseException | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End after what is on its way."""
        self._stopped.set()
        self.join(PATIENCE)
        assert not self.is_alive(), "a producer waits for an answer that does not come"
        if self.failure is not None:
            raise self.failure

    def run(self) -> None:
        """Until stopped: connect, send, note, and after an end of the connection try the next node."""
        try:
            for node_id in itertools.cycle(self._nodes):
                if self._stopped.is_set():
                    return
                self._talk_to(node_id)
                nap(0.01)
        except BaseException as failure:
            self.failure = failure
            raise

    def _talk_to(self, node_id: int) -> None:
        try:
            wire = self._cluster.wire(node_id)
        except OSError:
            return
        with wire:
            while not self._stopped.is_set():
                if not self._round(wire):
                    return

    def _round(self, wire: Wire) -> bool:
        """One window of PUTs; False when the connection is over."""
        batch = [b"%b-%d%b" % (self._label, next(self._numbers), self._padding) for _ in range(self._window)]
        answered = 0
        sent_at = time.monotonic()
        try:
            wire.send(*[b"PUT %b %b" % (self._topic, payload) for payload in batch])
            for payload in batch:
                reply = wire.receive()
                answered += 1
                self.slowest = max(self.slowest, time.monotonic() - sent_at)
                self.attempts.append(Attempt(payload, outcome(reply), reply))
                self.acknowledged += reply == b"OK"
        except (Closed, TimeoutError) as error:
            self.attempts += [Attempt(p, UNKNOWN, str(error).encode()) for p in batch[answered:]]
            return False
        return True

    def wait_for_more(self, count: int = 1, patience: float = PATIENCE) -> None:
        """Until this many more entries were acknowledged."""
        goal = self.acknowledged + count
        wait_for(
            lambda: self.acknowledged >= goal or self.failure is not None,
            f"{self.name} to have {count} more entries acknowledged\n{self._cluster.logs()}",
            patience,
        )


def read_segment(wire: Wire, topic: str, segment: int, count: int | None) -> list[Entry]:
    """A whole segment through FETCH; `count` entries, or up to the first EMPTY."""
    entries: list[Entry] = []
    while count is None or len(entries) < count:
        step = 100 if count is None else min(100, count - len(entries))
        offsets = range(len(entries), len(entries) + step)
        wire.send(*[f"FETCH {topic} {segment} {offset}".encode() for offset in offsets])
        replies = [wire.receive() for _ in offsets]
        if any(reply.startswith((b"ERR no leader", b"ERR no replica answered")) for reply in replies):
            nap(0.05)  # its leader was restarted, and the segment is being recovered
            continue
        for offset, reply in zip(offsets, replies, strict=True):
            if reply == b"EMPTY" and count is None:
                return entries
            word, following, payload = reply.split(b" ", 2)
            assert (word, int(following)) == (b"OK", offset + 1), reply[:200]
            entries.append(Entry(segment, offset, payload))
    return entries


def read_all(cluster: Cluster, topic: str, node_id: int) -> list[Entry]:
    """The whole topic, in order, through one node."""
    state = cluster.state(topic, node_id)
    entries: list[Entry] = []
    with cluster.wire(node_id) as wire:
        for segment in range(1, state["current_segment"] + 1):
            entries += read_segment(wire, topic, segment, state["sealed_segments"].get(str(segment)))
    return entries


def read_back(cluster: Cluster, topic: str) -> list[Entry]:
    """The whole topic, which every running node shows alike once the cluster has come to rest.

    Until then (a PUT whose client has gone may still be on its way) views differ in length, and only in
    length: whatever a node has shown at a position stays there.
    """

    def alike() -> list[list[Entry]] | None:
        views = [read_all(cluster, topic, node_id) for node_id in cluster.running()]
        longest = max(views, key=len)
        for node_id, view in zip(cluster.running(), views, strict=True):
            for shown, other in zip(view, longest, strict=False):
                assert shown == other, f"node {node_id} shows {shown}, another one {other}"
        return views if all(len(view) == len(longest) for view in views) else None

    return wait_for(alike, "all nodes to show the same log")[0]


def check(entries: Sequence[Entry], producers: Sequence[Producer]) -> None:
    """Everything that clients were told is true of this log."""
    attempts = [attempt for producer in producers for attempt in producer.attempts]
    at = {entry.payload: place for place, entry in enumerate(entries)}
    assert len(at) == len(entries), f"read twice: {_twice(entries)[:5]}"
    lost = [
        place for place, attempt in enumerate(attempts) if attempt.outcome == OK and attempt.payload not in at
    ]
    assert not lost, f"{len(lost)} of {len(attempts)} lost, at {lost[:10]} (prefix, middle or tail?)"
    failed = [attempt for attempt in attempts if attempt.outcome == FAILED and attempt.payload in at]
    assert not failed, f"refused, and yet in the log: {failed[:5]}"
    sent = {attempt.payload for attempt in attempts}
    assert at.keys() <= sent, f"nobody sent {sorted(at.keys() - sent)[:5]}"
    for producer in producers:
        places = [at[attempt.payload] for attempt in producer.attempts if attempt.outcome == OK]
        assert places == sorted(places), f"{producer.name}: out of order"


def _twice(entries: Sequence[Entry]) -> list[bytes]:
    seen: set[bytes] = set()
    return [e.payload for e in entries if e.payload in seen or seen.add(e.payload)]  # type: ignore[func-returns-value]
