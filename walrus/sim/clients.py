"""Simulated clients: producers, consumers, fetchers and finders.

Every payload is sent once and is unique, so what a client was told (`calls.py`) can be judged. A client
has one connection at a time. It pipelines, it changes its node now and then (only with nothing under way, or
after its connection broke), and it waits for an answer for as long as a patient person would.

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
"""Seconds without an answer after which a client hangs up. Far more than any deadline of a node."""

CATCH_UP_RUN = 200
"""GETs that a consumer sends together once faults have ended."""


class SimClient:
    """What all clients have in common: a name, a node, and something to do now and then."""

    def __init__(self, world: World, name: str, topic: str) -> None:
        self.world, self.name, self.topic = world, name, topic
        self.rng: Random = world.rng
        self.node = 0
        self.calls: list[ClientCall] = []
        self.stopped = False
        self.world.after(self.rng.uniform(0.0, 0.05), self._act)

    def act(self) -> None:
        """Do the next thing."""
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
        """Send a request; False if no process listens there, and then another node is tried next time."""
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
        """The client goes away; whatever it asked is answered to no one."""
        for call in self.calls:
            call.lost(self.world.now)
        self.node = 0


class Registrar(SimClient):
    """Creates a topic, and tries until it is told that there is one."""

    def __init__(self, world: World, topic: str) -> None:
        self.done = False
        super().__init__(world, f"registrar of {topic}", topic)

    def act(self) -> None:
        """Ask, unless an answer is awaited, or the founders of the cluster are not all there yet."""
        if not self.calls and self.world.judge.founded:
            self.ask(Register(self.topic))

    def on_reply(self, call: ClientCall, first: int, replies: list[protocol.Reply], now: float) -> None:
        """OK: done."""
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
        """PUTs whose outcome is not known yet."""
        return sum(call.owed - call.answered for call in self.calls if call.open)

    def rest(self) -> None:
        """Send no more entries."""
        self.stopped = True

    def act(self) -> None:
        """Send a few more, if the window allows."""
        if self.pending < self._window:
            self.put(self.rng.randint(1, self._run))

    def put(self, count: int) -> None:
        """Send so many PUTs in one go."""
        payloads = []
        for number in range(len(self.attempts), len(self.attempts) + count):
            padding = b"." * self.rng.choice((0, 0, 3, 90))
            payloads.append(b"%b:%06d%b" % (self.name.encode(), number, padding))
        self.send(payloads)

    def send(self, payloads: list[bytes]) -> None:
        """Send these entries, each as a PUT, in one go."""
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
        """Whatever was not answered may have happened or not."""
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
        """When it was last told that there is nothing more."""
        super().__init__(world, name, topic)

    def rest(self) -> None:
        """Read on, in longer runs: what a long run of the world has left unread is to end in time."""
        self._run = max(self._run, CATCH_UP_RUN)

    def act(self) -> None:
        """Ask for a few more, unless an answer is awaited."""
        if not self.calls:
            self.ask(Get(self.topic, self.group, self.rng.randint(1, self._run)))

    def on_reply(self, call: ClientCall, first: int, replies: list[protocol.Reply], now: float) -> None:
        """Note what came."""
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
        """Into a socket that is not read any more: GET has no acknowledgement, so this counts as given."""
        for reply in replies:
            if isinstance(reply, Ok):
                assert reply.payload is not None
                self.received.append(reply.payload)
                self.world.judge.delivered(self.topic, self.group, reply.payload)


class Fetcher(SimClient):
    """Reads places of a topic with FETCH, moving no cursor."""

    def act(self) -> None:
        """Ask for a few entries at a place that should exist."""
        segments = self.world.judge.segments(self.topic)
        if self.calls or not segments:
            return
        segment = self.rng.randint(max(1, segments - 3), segments)
        offset = self.rng.randint(0, self.world.options.settings["max_segment_entries"])
        asked = protocol.Fetch(self.topic, segment, offset, self.rng.randint(1, 5), times=True)
        self.ask(asked, (segment, offset))

    def on_reply(self, call: ClientCall, first: int, replies: list[protocol.Reply], now: float) -> None:
        """Hold what came against the one truth."""
        place: tuple[int, int] = call.value  # type: ignore[assignment]
        segment, offset = place
        for position, reply in enumerate(replies, offset + first):
            if isinstance(reply, Ok):
                assert reply.payload is not None
                unix_ms, payload = protocol.split_time(protocol.split_fetched(reply.payload)[1])
                self.world.judge.fetched(self.topic, segment, position, payload)
                self.world.judge.told_time(self.topic, segment, position, unix_ms)


class Finder(SimClient):
    """Asks where times are in a topic (FIND), and moves a work queue there (SEEK) if it is given one."""

    def __init__(self, world: World, name: str, topic: str, group: str = "") -> None:
        self.group, self.found = group, 0
        super().__init__(world, name, topic)

    def rest(self) -> None:
        """Ask no more."""
        self.stopped = True

    def act(self) -> None:
        """Ask for the time of some entry, or one that is about the same, unless an answer is awaited."""
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
        """Hold a place against the one truth; after a refusal another node is asked."""
        (reply,) = replies
        if isinstance(reply, Ok) and reply.payload is not None:
            self.found += 1
            place = protocol.split_place(reply.payload)
            self.world.judge.found_time(self.topic, cast("int", call.value), place)
        elif isinstance(reply, Error):
            self.node = 0


class Scanner(SimClient):
    """Reads a whole topic by place, once everything has come to rest: what the oracle judges."""

    def __init__(self, world: World, topic: str) -> None:
        self.log: list[bytes] = []
        self.segment, self.offset = 1, 0
        super().__init__(world, f"scanner of {topic}", topic)

    @property
    def done(self) -> bool:
        """Whether it has read all that is settled by now: of a PUT that timed out, more may come."""
        return self.segment >= self.world.judge.segments(self.topic) and self._at_end

    @property
    def _at_end(self) -> bool:
        return self.offset >= self.world.judge.settled((self.topic, self.segment))

    def act(self) -> None:
        """Ask for the next entries, and go to the next segment at the end of one."""
        while self._at_end and not self.done:
            self.segment, self.offset = self.segment + 1, 0
        if not self.calls and not self.done:
            self.ask(protocol.Fetch(self.topic, self.segment, self.offset, 100))

    def on_reply(self, call: ClientCall, first: int, replies: list[protocol.Reply], now: float) -> None:
        """Keep what came; for what did not, another node is asked."""
        for reply in replies:
            if isinstance(reply, Ok) and reply.payload is not None:
                self.log.append(protocol.split_fetched(reply.payload)[1])
                self.offset += 1
            elif not isinstance(reply, protocol.Empty):
                self.node = 0


class Newcomer(SimClient):
    """Registers one topic after the other, and as soon as one is promised asks another node for its STATE.

    No node may say that it does not know a topic that was there when it was asked: it has to ask Raft's
    leader first (ReadIndex, dissertation §6.4). So most of the time it asks for a topic that is never
    registered: each answer is a ReadIndex, and needs no topic more.
    """

    MOST = 8
    """Topics of one run: each costs every later step a little."""

    def __init__(self, world: World, name: str) -> None:
        self.registered = 0
        self._asking = False
        super().__init__(world, name, f"{name}.0")

    def rest(self) -> None:
        """Register and ask no more."""
        self.stopped = True

    def act(self) -> None:
        """Register, or ask."""
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
        """A topic is there, or known there."""
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
        """At once, while other nodes may not have heard of it."""
        self.calls = [call for call in self.calls if call.open]
        self.act()
