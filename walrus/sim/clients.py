"""Simulated clients: producers, consumers, fetchers and finders.

Every payload is unique and sent once, so the judge can compare what a client was told (`calls.py`) with
what happened. A client has one connection at a time and pipelines requests. It changes its node now and
then, only while no request is in flight, or after its connection broke. A request that has no answer after
`PATIENCE` seconds is a violation, unless its node is paused: then the client hangs up.

A reply reaches its client in the step in which the node gives it.
"""

from __future__ import annotations

from random import Random
from typing import cast

from walrus import protocol
from walrus.protocol import Error, Get, Ok, Put, Register
from walrus.sim.calls import ClientCall, Outcome, PutAttempt, outcome_of
from walrus.sim.violation import Violation
from walrus.sim.world import World
from walrus.storage.batch import Batch

PATIENCE = 30.0
"""Seconds within which a running node must answer a request: far more than any of its deadlines."""

CATCH_UP_RUN = 200
"""How many GETs a consumer sends together once faults have ended."""


class SimClient:
    """What all clients share: a name, a node, and an action that is repeated at random intervals."""

    def __init__(self, world: World, name: str, topic: str) -> None:
        self.world, self.name, self.topic = world, name, topic
        self.rng: Random = world.rng
        self.node = 0
        self.calls: list[ClientCall] = []
        self.stopped = False
        self.world.after(self.rng.uniform(0.0, 0.05), self._act)

    def act(self) -> None:
        """Take the next action."""
        raise NotImplementedError

    def rest(self) -> None:
        """Faults have ended: do what lets everything come to rest."""

    def _act(self) -> None:
        if self.stopped:
            return
        self.calls = [call for call in self.calls if call.open]
        for call in self.calls:
            if call.sent_at < self.world.now - PATIENCE:
                self.world.judge.unanswered(call, self.name)
        if not self.calls and (not self.node or self.rng.random() < 0.02):
            self.node = self.rng.choice(sorted(self.world.hosts))
        self.act()
        self.world.after(self.rng.expovariate(1 / self.world.options.think), self._act)

    def ask(self, request: protocol.Request, value: object = None) -> bool:
        """Send a request; False if no process listens there: the next attempt goes to another node."""
        call = ClientCall(self, self.node, request.replies, self.world.now, value)
        self.calls.append(call)
        if self.world.ask(self.world.hosts[self.node], call, request):
            return True
        self.calls.remove(call)
        self.node = 0
        return False

    def on_reply(self, call: ClientCall, first: int, replies: list[protocol.Reply], now: float) -> None:
        """See `CallOwner.on_reply`."""

    def on_lost(self, call: ClientCall, now: float) -> None:
        """See `CallOwner.on_lost`."""
        self.node = 0

    def on_late(self, call: ClientCall, replies: list[protocol.Reply]) -> None:
        """See `CallOwner.on_late`."""

    def hang_up(self) -> None:
        """Close the connection: replies to what is in flight reach no client."""
        for call in self.calls:
            call.lost(self.world.now)
        self.node = 0


class Registrar(SimClient):
    """Creates a topic: repeats REGISTER until a node answers OK."""

    def __init__(self, world: World, topic: str) -> None:
        self.done = False
        super().__init__(world, f"registrar of {topic}", topic)

    def act(self) -> None:
        """Send REGISTER, unless a reply is outstanding or a founder has not announced its start yet."""
        if not self.calls and self.world.judge.founded:
            self.ask(Register(self.topic))

    def on_reply(self, call: ClientCall, first: int, replies: list[protocol.Reply], now: float) -> None:
        """OK ends the attempts."""
        if isinstance(replies[0], Ok):
            self.done = self.stopped = True
            self.world.note(0, f"topic {self.topic} is registered")
            self.world.judge.registered(self.topic)
        else:
            self.node = 0


class Sender(SimClient):
    """Sends runs of PUTs, a window of them at a time."""

    def __init__(self, world: World, name: str, topic: str, *, window: int = 50, run: int = 8) -> None:
        self.attempts: list[PutAttempt] = []
        self.acknowledged = 0
        self._window, self._run = window, run
        super().__init__(world, name, topic)

    @property
    def pending(self) -> int:
        """Return the number of PUTs whose outcome is not known yet."""
        return sum(call.owed - call.answered for call in self.calls if call.open)

    def rest(self) -> None:
        """Send no more entries."""
        self.stopped = True

    def act(self) -> None:
        """Send a few more entries, if the window allows."""
        if self.pending < self._window:
            self.put(self.rng.randint(1, self._run))

    def put(self, count: int) -> None:
        """Send `count` PUTs at once."""
        payloads = []
        for number in range(len(self.attempts), len(self.attempts) + count):
            padding = b"." * self.rng.choice((0, 0, 3, 90))
            payloads.append(b"%b:%06d%b" % (self.name.encode(), number, padding))
        self.send(payloads)

    def send(self, payloads: list[bytes]) -> None:
        """Send each of these entries as a PUT, all at once."""
        fresh = [PutAttempt(payload) for payload in payloads]
        self.attempts += fresh
        batch = Batch.of([attempt.payload for attempt in fresh])
        if not self.ask(Put(self.topic, batch, positions=True), fresh):
            for attempt in fresh:
                attempt.outcome, attempt.reply = Outcome.FAILED, "no process listens"

    def on_reply(self, call: ClientCall, first: int, replies: list[protocol.Reply], now: float) -> None:
        """Note the outcomes."""
        fresh: list[PutAttempt] = call.value  # type: ignore[assignment]
        for attempt, reply in zip(fresh[first:], replies, strict=False):
            if isinstance(reply, Ok):
                attempt.outcome = Outcome.OK
                self.acknowledged += 1
                self.world.judge.acknowledged(self.topic, attempt.payload)
                self.world.judge.placed(self.topic, attempt.payload, reply)
            elif isinstance(reply, Error):
                attempt.outcome, attempt.reply = outcome_of(reply.reason), reply.reason
                self.world.judge.refused(call, self.topic, reply.reason)
            else:
                raise Violation("Replies", f"{reply} to a PUT")

    def on_lost(self, call: ClientCall, now: float) -> None:
        """PUTs without an answer may have taken effect or not: their outcome is unknown."""
        super().on_lost(call, now)
        fresh: list[PutAttempt] = call.value  # type: ignore[assignment]
        for attempt in fresh[call.answered :]:
            attempt.outcome, attempt.reply = Outcome.UNKNOWN, "connection lost"


class Consumer(SimClient):
    """Reads with a group's cursor, one run of GETs at a time."""

    def __init__(self, world: World, name: str, topic: str, group: str, *, run: int = 10) -> None:
        self.group, self._run = group, run
        self.received: list[bytes] = []
        self.empty_at = -1.0
        """When the consumer was last told EMPTY; -1 if never."""
        super().__init__(world, name, topic)

    def rest(self) -> None:
        """Read on with longer runs of GETs, so that the backlog of a long run is read in time."""
        self._run = max(self._run, CATCH_UP_RUN)

    def act(self) -> None:
        """Ask for a few more entries, unless a reply is outstanding."""
        if not self.calls:
            self.ask(Get(self.topic, self.group, self.rng.randint(1, self._run)))

    def on_reply(self, call: ClientCall, first: int, replies: list[protocol.Reply], now: float) -> None:
        """Note the entries received."""
        for reply in replies:
            if isinstance(reply, Ok):
                assert reply.payload is not None
                self.received.append(reply.payload)
                self.world.judge.delivered(self.topic, self.group, reply.payload)
            elif isinstance(reply, protocol.Empty):
                self.empty_at = now
            else:
                self.node = 0  # perhaps another node can

    def on_late(self, call: ClientCall, replies: list[protocol.Reply]) -> None:
        """GET has no acknowledgement, so an entry written to a closed socket counts as given."""
        for reply in replies:
            if isinstance(reply, Ok):
                assert reply.payload is not None
                self.received.append(reply.payload)
                self.world.judge.delivered(self.topic, self.group, reply.payload)


class Fetcher(SimClient):
    """Reads positions of a topic with FETCH, moving no cursor."""

    def act(self) -> None:
        """Ask for a few entries at a position that should exist."""
        segments = self.world.judge.segments(self.topic)
        if self.calls or not segments:
            return
        segment = self.rng.randint(max(1, segments - 3), segments)
        offset = self.rng.randint(0, self.world.options.settings["max_segment_entries"])
        asked = protocol.Fetch(self.topic, segment, offset, self.rng.randint(1, 5), times=True)
        self.ask(asked, (segment, offset))

    def on_reply(self, call: ClientCall, first: int, replies: list[protocol.Reply], now: float) -> None:
        """Compare what came with the truth."""
        place: tuple[int, int] = call.value  # type: ignore[assignment]
        segment, offset = place
        for position, reply in enumerate(replies, offset + first):
            if isinstance(reply, Ok):
                assert reply.payload is not None
                unix_ms, payload = protocol.split_time(protocol.split_fetched(reply.payload)[1])
                self.world.judge.fetched(self.topic, segment, position, payload)
                self.world.judge.told_time(self.topic, segment, position, unix_ms)


class Finder(SimClient):
    """Looks up times in a topic (FIND), and with a `group` moves that work queue there (SEEK)."""

    def __init__(self, world: World, name: str, topic: str, group: str = "") -> None:
        self.group, self.found = group, 0
        super().__init__(world, name, topic)

    def rest(self) -> None:
        """Send no more requests."""
        self.stopped = True

    def act(self) -> None:
        """Ask for the append time of some entry, or a time close to it, unless a reply is outstanding."""
        judge = self.world.judge
        if self.calls or not judge.segments(self.topic):
            return
        times = judge.truth((self.topic, self.rng.randint(1, judge.segments(self.topic)))).times or [0]
        time = protocol.Time(max(0, self.rng.choice(times) + self.rng.choice((-1, 0, 0, 1, 10**6))))
        if self.group and self.rng.random() < 0.1:
            self.ask(protocol.Seek(self.topic, self.group, time))
        else:
            self.ask(protocol.Find(self.topic, time), time.ms)

    def on_reply(self, call: ClientCall, first: int, replies: list[protocol.Reply], now: float) -> None:
        """Compare the position found with the truth; after an error ask another node next time."""
        (reply,) = replies
        if isinstance(reply, Ok) and reply.payload is not None:
            self.found += 1
            place = protocol.split_place(reply.payload)
            self.world.judge.found_time(self.topic, cast("int", call.value), place)
        elif isinstance(reply, Error):
            self.node = 0


class Scanner(SimClient):
    """Reads a whole topic by position once everything has come to rest; the oracle judges the result."""

    def __init__(self, world: World, topic: str) -> None:
        self.log: list[bytes] = []
        self.segment, self.offset = 1, 0
        super().__init__(world, f"scanner of {topic}", topic)

    @property
    def done(self) -> bool:
        """Return whether everything settled by now is read. A PUT that timed out may still add an entry."""
        return self.segment >= self.world.judge.segments(self.topic) and self._at_end

    @property
    def _at_end(self) -> bool:
        return self.offset >= self.world.judge.settled((self.topic, self.segment))

    def act(self) -> None:
        """Ask for the next entries; at the end of a segment continue with the next segment."""
        while self._at_end and not self.done:
            self.segment, self.offset = self.segment + 1, 0
        if not self.calls and not self.done:
            self.ask(protocol.Fetch(self.topic, self.segment, self.offset, 100))

    def on_reply(self, call: ClientCall, first: int, replies: list[protocol.Reply], now: float) -> None:
        """Keep the entries received; ask another node for those that did not come."""
        for reply in replies:
            if isinstance(reply, Ok) and reply.payload is not None:
                self.log.append(protocol.split_fetched(reply.payload)[1])
                self.offset += 1
            elif not isinstance(reply, protocol.Empty):
                self.node = 0


class Newcomer(SimClient):
    """Registers one topic after another and, once one is answered OK, asks another node for its STATE.

    No node may deny a topic that was registered before the request: it has to ask Raft's leader first
    (ReadIndex, dissertation §6.4). Most requests are for a topic that is never registered: each of them
    causes a ReadIndex too, without adding a topic.
    """

    MOST = 8
    """Topics per run: each one makes every later step a little slower."""

    def __init__(self, world: World, name: str) -> None:
        self.registered = 0
        self._asking = False
        super().__init__(world, name, f"{name}.0")

    def rest(self) -> None:
        """Send no more requests."""
        self.stopped = True

    def act(self) -> None:
        """Send REGISTER or STATE."""
        if self.calls:
            return
        if self.registered >= self.MOST or (not self._asking and self.rng.random() < 0.8):
            self.ask(protocol.State(f"{self.name}.none"), f"{self.name}.none")
        elif not self._asking:
            self.ask(Register(self.topic), self.topic)
        else:
            self.node = self.rng.choice(sorted(self.world.hosts))
            self.ask(protocol.State(self.topic), self.topic)

    def on_reply(self, call: ClientCall, first: int, replies: list[protocol.Reply], now: float) -> None:
        """Note that a topic is registered, or that the node knows it."""
        reply = replies[0]
        if isinstance(reply, Error):
            self.world.judge.refused(call, str(call.value), reply.reason)
            self.node = self.rng.choice(sorted(self.world.hosts))
        elif self._asking:
            self._asking, self.registered = False, self.registered + 1
            self.topic = f"{self.name}.{self.registered}"
        else:
            self.world.judge.registered(self.topic)
            self._asking = True
            self.world.after(0.0, self._act_once)

    def _act_once(self) -> None:
        """Act again at once, while other nodes may not have heard of the topic."""
        self.calls = [call for call in self.calls if call.open]
        self.act()
