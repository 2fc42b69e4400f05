"""The judge: checks the truth after every step of a node, and every answer that a client gets.

`look` has the predicates of `invariants.py` check what is *fresh* in the truth (`truth.py`): what the step
changed. `full_check` has them check everything. So a step costs little to check, and every change is
checked. What a client is given is compared with the truth at the moment in which it is given.
"""

from __future__ import annotations

from walrus.protocol import Ok, split_place
from walrus.replicas.copies import Key
from walrus.segments import Position
from walrus.sim import invariants
from walrus.sim.calls import ClientCall
from walrus.sim.drives import DATA, META
from walrus.sim.host import Host
from walrus.sim.options import Options
from walrus.sim.promises import Promises
from walrus.sim.truth import GroupTruth, Truth
from walrus.sim.violation import Violation, holds
from walrus.wire.errors import kind_of
from walrus.wire.messages import PeerMessage


class Judge(Truth):
    """The truth, with a check after every step."""

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        self.calls: dict[ClientCall, None] = {}
        self.steps = 0
        self._promises = Promises(self)
        self._registered_at: dict[str, float] = {}

    def after_start(self, host: Host) -> None:
        """A process has read its disk: it must find what was durable."""
        if self.is_stranger(host):
            return
        for engine in (DATA, META):
            self.durable[host.id].sync_ended(engine)
        self._promises.remembers(host, self.found(host))
        super().after_start(host)
        self.look(host)

    def sent(self, host: Host, to: int, message: PeerMessage) -> None:
        """A node sends a message: its statements must be true of the node's disk now."""
        what = f"a process with an older directory of node {host.id} sends {type(message).__name__} to {to}"
        holds(not self.is_stranger(host) or to == host.id, "OlderDirectory", what)
        self._promises.sent(host, to, message, self.now)

    def arrives(self, host: Host, sender: int, message: PeerMessage) -> None:
        """A node is about to take a message."""
        if self.is_stranger(host):
            return
        self._promises.arrives(host, sender, message, self.now)

    # --- what clients see ---

    def registered(self, topic: str) -> None:
        """A client was told that the topic exists."""
        holds(topic in self.metadata.topics, "DomainConsistency", f"{topic} was promised and is not there")
        self._registered_at.setdefault(topic, self.now)

    def refused(self, call: ClientCall, topic: str, reason: str) -> None:
        """A client got an error. "No such topic" is right only if none was promised before the request."""
        kind = kind_of(reason)
        if kind is not None and kind.exception == "UnknownTopic":
            known = self._registered_at.get(topic, self.now)
            what = (
                f"node {call.host} does not know {topic}, promised at {known:.4f}, asked {call.sent_at:.4f}"
            )
            holds(known >= call.sent_at, "ReadIndex", what)

    def acknowledged(self, topic: str, payload: bytes) -> None:
        """A producer was told OK: the entry must be settled by now."""
        places = self.settled_places(payload)
        written = self.places.get(payload)
        what = f"{payload!r} is acknowledged, and not settled at {written}"
        holds(any(key[0] == topic for key, _ in places), "AckedDurable", what)
        holds(len(places) == 1, "Duplicate", f"{payload!r} was sent once and is at {places}")

    def placed(self, topic: str, payload: bytes, reply: Ok) -> None:
        """A client was told where its entry is."""
        holds(reply.payload is not None, "Replies", f"no place of {payload!r} is told to a client that asked")
        segment, offset = split_place(reply.payload or b"")
        known = ((topic, segment), offset) in self.written_at(payload)
        holds(
            known, "AckedDurable", f"{payload!r} is said to be at {segment}.{offset} of {topic}, and is not"
        )

    def published(self, topic: str, payload: bytes) -> None:
        """A producer that numbers its entries was told OK, for the first time or again."""
        places = self.settled_places(payload)
        written = self.places.get(payload)
        what = f"{payload!r} of {topic} is answered OK, and not settled at {written}"
        lossy = self.options.fsync != "each"
        holds(bool(places) or (lossy and written is not None), "RepeatOkImpliesAcked", what)
        holds(len(places) <= 1, "NoDuplicateAppend", f"{payload!r} is at {places}")

    def delivered(self, topic: str, group: str, payload: bytes) -> None:
        """A group was given an entry."""
        key, offset = self._first_place(topic, payload, "DeliveredIsPrefix")
        places = self.settled_places(payload)
        holds(len(places) <= 1, "Duplicate", f"{payload!r} was sent once and is at {places}")
        if not places:
            what = f"entry {offset} of {key} is not settled but was delivered"
            raise Violation("DeliveredIsPrefix", what)
        key, offset = places[0]
        known = self.groups.get((topic, group))
        if known is None:
            known = self.groups[(topic, group)] = GroupTruth()
        position = Position(key[1], offset)
        if position >= known.upto:
            known.ahead.add(position)
        self.advance(topic, known)

    def kept_given(self, topic: str, payload: bytes, asked: float) -> None:
        """A reader of a topic with retention was given an entry that it requested at time `asked`."""
        (_, segment), _ = self._first_place(topic, payload, "DeliveredIsPrefix")
        for name, what in self.retention.given(topic, segment, asked):
            raise Violation(name, what)

    def kept_acknowledged(self, topic: str, payload: bytes, asked: float) -> None:
        """A client was told OK for an entry of a topic that may be deleted, which it sent at time `asked`."""
        (_, segment), _ = self._first_place(topic, payload, "AckedDurable")
        for name, what in self.retention.acknowledged(topic, segment, asked):
            raise Violation(name, what)

    def _first_place(self, topic: str, payload: bytes, name: str) -> tuple[Key, int]:
        """Return where an entry was written first; if that is not in this topic, the invariant is broken."""
        written = self.places.get(payload)
        if written is None or written[0][0] != topic:
            raise Violation(name, f"{payload!r} was never written to {topic}")
        return written

    def fetched(self, topic: str, segment: int, offset: int, payload: bytes) -> None:
        """A client was given the entry at a position."""
        key = (topic, segment)
        if offset >= self.settled(key):
            raise Violation("DeliveredIsPrefix", f"entry {offset} of {key} is not settled but was fetched")
        if self.truth(key).stream[offset] != payload:
            raise Violation("PrefixAgree", f"two values at {key}, {offset}")

    def told_time(self, topic: str, segment: int, offset: int, unix_ms: int) -> None:
        """A client was told when the entry at a position was appended."""
        written = self.truth((topic, segment)).times[offset]
        what = f"entry {offset} of {topic}/{segment} was written as of {written}, and told as of {unix_ms}"
        holds(written == unix_ms, "TimesAgree", what)

    def found_time(self, topic: str, ms: int, place: Position) -> None:
        """A client that asked for a time was told a position: the entry before it must be older.

        The position may be too early: a node that was deposed without knowing it knows no later entry.
        """
        segment, offset = place
        while not offset and segment > 1:
            segment, offset = segment - 1, self.settled((topic, segment - 1))
        if offset:
            what = f"{place} is said to be the place of {ms} in {topic}"
            holds(offset <= self.settled((topic, segment)), "DeliveredIsPrefix", f"{what}: beyond the end")
            before = self.truth((topic, segment)).times[offset - 1]
            holds(before < ms, "TimeIsFound", f"{what}, and the one before it is of {before}")

    def unanswered(self, call: ClientCall, name: str) -> None:
        """A client has waited longer than any deadline: a violation, unless the node is paused."""
        host = self.hosts[call.host]
        if host.paused:
            call.lost(0.0)
            return
        raise Violation("Replies", f"{name} waits for node {call.host} since {call.sent_at:.3f}")

    # --- looking ---

    def look(self, host: Host) -> None:
        """Check everything that a step of this node may have changed. Raises Violation."""
        if self.is_stranger(host):
            return
        self.host = host
        self.steps += 1
        if self.writes:
            self._promises.appended(host, self.now)
        invariants.check(self, expensive=not self.options.sampled or self.steps % 64 == 0)
        if self.writes:
            self.writes.clear()
        if self.keys:
            self.keys.clear()
        if self.topics:
            self.topics.clear()
            self.replica_changes.clear()
        self.applied = False

    def full_check(self) -> None:
        """Check everything on all nodes. Raises Violation."""
        self.keys.update(dict.fromkeys(self.truths))
        self.topics.update(dict.fromkeys(self.metadata.topics))
        self.applied = True
        self.host = None
        for host in self.hosts.values():
            if host.up:
                self.note_acks(host)
        invariants.check(self, expensive=True)
        self.writes.clear()
        self.keys.clear()
        self.topics.clear()
        self.replica_changes.clear()
        self.applied = False
