"""How a node handles a client's request.

PUT goes to the router, GET and FETCH to the consumers, RECEIVE, ACK and their kin to the queues; this module
handles the rest. Two rules hold for all of them:

* before a node answers "unknown topic", it looks once more in fresh metadata (`read_index.py`), so a PUT
  may follow a REGISTER on any other node; requests that change the metadata are always decided on fresh
  metadata;
* a request that changes the metadata is a *watch*: its command is proposed again and again until the
  metadata shows the change. So OK is sent only after a linearizable (ReadIndex) read has confirmed it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import TypeAlias, assert_never

import msgspec

from walrus import protocol
from walrus.broker.consumers import Consumers
from walrus.broker.lag import groups, topics
from walrus.broker.lifecycle import Lifecycle
from walrus.broker.placement import first_leader
from walrus.broker.queues import Queues
from walrus.broker.read_index import ReadIndexes
from walrus.broker.router import Router
from walrus.broker.status import state
from walrus.broker.supervisor import too_few_stay, why_not_leave
from walrus.broker.times import Place
from walrus.config import NodeConfig
from walrus.raft import Raft
from walrus.segments import (
    MAX_TOPICS,
    Command,
    ConfigureTopic,
    DeleteTopic,
    MarkLeaving,
    Metadata,
    RegisterTopic,
    Topic,
    version_of,
)
from walrus.settings import changed
from walrus.wire import errors
from walrus.wire.effects import Outbox
from walrus.wire.messages import Recover

TopicRequest: TypeAlias = (
    protocol.Put
    | protocol.Get
    | protocol.Fetch
    | protocol.Find
    | protocol.State
    | protocol.Groups
    | protocol.Delivering
)
"""Requests that need a known topic."""

MAX_WAITING = 10_000
"""Clients that may wait at once for a metadata change."""

LEAVE_PATIENCE = 12
"""LEAVE may take this many times as long as other requests: data may have to be copied."""


class Watch(msgspec.Struct):
    """A client that waits for the metadata to get somewhere; `push` is repeated until it does."""

    slot: object
    done: Callable[[], bool]
    push: Callable[[float], errors.Reason]
    """Returns why it could do nothing; "" if the wish is on its way to the Raft leader."""
    deadline: float
    again_at: float
    why_not: errors.Reason
    """What to answer at the deadline if any push did something."""
    held_up: errors.Reason = errors.NO_MAJORITY
    """Why no push has done anything so far: nothing was done. "" if one did."""


class Requests:
    """Clients' requests, and those that wait for the metadata."""

    def __init__(
        self,
        *,
        config: NodeConfig,
        metadata: Metadata,
        raft: Raft,
        router: Router,
        consumers: Consumers,
        queues: Queues,
        read_indexes: ReadIndexes,
        lifecycle: Lifecycle,
        outbox: Outbox,
        connected: Collection[int],
        propose: Callable[[Command, float], None],
        metrics: Callable[[float], bytes],
    ) -> None:
        self._config, self._metadata, self._raft = config, metadata, raft
        self._router, self._consumers, self._read_indexes = router, consumers, read_indexes
        self._lifecycle, self._outbox, self._connected = lifecycle, outbox, connected
        self._queues = queues
        self._propose, self._metrics = propose, metrics
        self._watches: list[Watch] = []
        self._undecided = 0  # requests that wait for fresh metadata to be decided with
        self._removed = False
        self._asking: dict[str, int] = {}  # requests that wait for fresh metadata, by topic

    @property
    def busy(self) -> bool:
        """Whether some client waits for the metadata to change."""
        return bool(self._watches or self._undecided)

    def on_request(self, slot: object, request: protocol.Request, now: float) -> None:
        """A request of a client. `request.replies` replies will be given to `slot`."""
        match request:
            case protocol.Topics(prefix=prefix):
                self._when_fresh(slot, partial(self._topics, slot, prefix), now)
            case protocol.Metrics():
                self._outbox.reply(slot, protocol.json_reply(self._metrics(now)))
            case protocol.Register():
                self._when_fresh(slot, partial(self._register, slot, request), now)
            case protocol.Configure():
                self._when_fresh(slot, partial(self._configure, slot, request), now)
            case protocol.Delete(topic=topic):
                self._when_fresh(slot, partial(self._delete, slot, topic), now)
            case protocol.Leave():
                self._when_fresh(slot, partial(self._leave, slot, request), now)
            case protocol.Recover(topic=topic, segment=segment):
                self._when_fresh(slot, partial(self._force, slot, topic, segment), now)
            case protocol.Greeting(granted=granted):
                self._outbox.reply(slot, protocol.ok(granted.encode()) if granted else protocol.OK)
            case protocol.Auth():  # of a node without an auth file: clients get their tokens before nodes do
                self._outbox.reply(slot, protocol.OK)
            case protocol.Invalid(reason=reason):
                self._error(slot, reason)
            case _ if self._known(request) and request.topic not in self._asking:
                self._on_topic_request(slot, request, now)
            case _:
                self._when_known(slot, request, now)

    def _known(self, request: TopicRequest) -> bool:
        """Whether what is asked for is there, or was there and was trimmed since."""
        if isinstance(request, protocol.Fetch):
            topic = self._metadata.topics.get(request.topic)
            return topic is not None and 1 <= request.segment <= topic.current
        return request.topic in self._metadata.topics

    def _on_topic_request(self, slot: object, request: TopicRequest, now: float) -> None:
        match request:
            case protocol.Put(topic=topic, batch=batch, positions=positions):
                self._router.put(slot, topic, batch, now, positions)
            case protocol.Get():
                self._consumers.get(slot, request, now)
            case protocol.Fetch():
                self._consumers.fetch(slot, request, now)
            case protocol.Find(topic=topic, time=protocol.Time(ms=ms)):
                self._consumers.times.find(topic, ms, partial(self._found, slot), now)
            case protocol.Seek(topic=topic, to=protocol.Time(ms=ms)):
                self._consumers.times.find(topic, ms, partial(self._go_there, slot, request), now)
            case protocol.Receive() | protocol.Ack() | protocol.Nack() | protocol.Extend() | protocol.Seek():
                self._queues.start(slot, request, now)
            case protocol.State(topic=topic):
                self._outbox.reply(slot, protocol.json_reply(state(*self._look_at(topic))))
            case protocol.Groups(topic=topic):
                self._outbox.reply(slot, protocol.json_reply(groups(*self._look_at(topic))))
            case _:
                assert_never(request)

    def _found(self, slot: object, place: Place, now: float) -> None:
        """FIND: the place of the time is known, or why it is not."""
        if isinstance(place, str):
            self._error(slot, place)
        else:
            self._outbox.reply(slot, protocol.ok_places(*place, 1))

    def _go_there(self, slot: object, seek: protocol.Seek, place: Place, now: float) -> None:
        """The place of the time to which a group is to be moved is known, or why it is not."""
        if isinstance(place, str):
            self._error(slot, place)
        else:
            self._queues.start(slot, msgspec.structs.replace(seek, to=place), now)

    def _look_at(self, name: str) -> tuple[Topic, int | None, Mapping[str, int]]:
        """A topic; and as far as this node leads it, its end, and what its groups have out."""
        topic = self._metadata.topics[name]
        return topic, self._lifecycle.writers.commit_index(name, topic.current), self._queues.owner.out(name)

    def _when_known(self, slot: object, request: TopicRequest, now: float) -> None:
        """Look again with fresh metadata before saying that there is no such topic or segment.

        Whatever follows for the same topic takes the same way until this is answered, so that no request
        overtakes an earlier one of its connection.
        """
        self._asking[request.topic] = self._asking.get(request.topic, 0) + 1

        def again(fresh: bool, at: float) -> None:
            self._asking[request.topic] -= 1
            if not self._asking[request.topic]:
                del self._asking[request.topic]
            if fresh and self._known(request):
                self._on_topic_request(slot, request, at)
                return
            if not fresh:
                error = errors.NO_MAJORITY
            elif isinstance(request, protocol.Fetch) and request.topic in self._metadata.topics:
                error = errors.unknown_segment(request.topic, request.segment)
            else:
                error = errors.unknown_topic(request.topic)
            self._error(slot, error, request.replies)

        self._read_indexes.ask(again, now)

    def _error(self, slot: object, reason: errors.Reason, count: int = 1) -> None:
        self._outbox.reply(slot, protocol.error(reason) * count, count)

    def _topics(self, slot: object, prefix: str, now: float) -> None:
        self._outbox.reply(slot, protocol.json_reply(topics(self._metadata, prefix)))

    # --- what changes the metadata ---

    def _when_fresh(self, slot: object, then: Callable[[float], None], now: float) -> None:
        """Decide once everything that is committed by now is applied here: old metadata may mislead."""
        if self._undecided + len(self._watches) >= MAX_WAITING:
            self._error(slot, errors.BUSY)
            return
        self._undecided += 1

        def fresh_or_not(fresh: bool, at: float) -> None:
            self._undecided -= 1
            if fresh:
                then(at)
            else:
                self._error(slot, errors.NO_MAJORITY)

        self._read_indexes.ask(fresh_or_not, now)

    def _register(self, slot: object, request: protocol.Register, now: float) -> None:
        """Create the topic, unless it is there with the same settings."""
        topic, wanted = request.topic, changed({}, request.settings)
        known = self._metadata.topics.get(topic)
        if known is not None and not known.deleting:
            same = wanted.items() <= known.settings.items()
            self._outbox.reply(slot, protocol.OK if same else protocol.error(errors.topic_exists(topic)))
        elif known is None and len(self._metadata.topics) >= MAX_TOPICS:
            self._error(slot, errors.too_many_topics(MAX_TOPICS))
        else:
            # A repetition that is committed late must not bring the topic back after a DELETE. The number is
            # known before a topic that is being deleted is gone: no segment is opened in it any more.
            number = self._metadata.next_number(topic) if known is None else known.current + 1
            push, why_not = partial(self._place, topic, number, wanted), errors.not_registered_yet(topic)
            patience = 1 if known is None else 2
            self._watch(slot, lambda: self._was_born(topic, number), push, why_not, now, patience)

    def _was_born(self, topic: str, number: int) -> bool:
        """Whether there is, or was, a topic that began with that number, or with a later one.

        Of a name without a tombstone nothing was deleted lately: its next number rises with `floor`, too.
        """
        known = self._metadata.topics.get(topic)
        return self._metadata.tombstones.get(topic, 0) > number if known is None else known.born >= number

    def _configure(self, slot: object, request: protocol.Configure, now: float) -> None:
        """Change settings. Of two clients that change the same, one after the other has its way."""
        topic, known = request.topic, self._metadata.topics.get(request.topic)
        if known is None:
            self._error(slot, errors.unknown_topic(topic))
            return
        born, first = known.born, known.configured

        def there() -> Topic | None:
            now_there = self._metadata.topics.get(topic)
            return now_there if now_there is not None and now_there.born == born else None

        def done() -> bool:
            topic_now = there()
            if topic_now is None:
                return True  # deleted meanwhile, with all that was set
            is_so = changed(topic_now.settings, request.settings) == topic_now.settings
            return is_so and topic_now.configured > first

        def push(at: float) -> errors.Reason:
            topic_now = there()
            configured = topic_now.configured if topic_now is not None else first
            change = ConfigureTopic(topic=topic, born=born, configured=configured, settings=request.settings)
            return self._pushed(change, at)

        self._watch(slot, done, push, errors.not_configured_yet(topic), now)

    def _delete(self, slot: object, topic: str, now: float) -> None:
        """Delete the topic that is there now, and none that is registered later under its name."""
        known = self._metadata.topics.get(topic)
        if known is None:
            self._error(slot, errors.unknown_topic(topic))
            return
        born = known.born

        def done() -> bool:
            there = self._metadata.topics.get(topic)
            return there is None or there.born != born

        push = partial(self._pushed, DeleteTopic(topic=topic, born=born, at_seal=True))
        # Its leader may have to be replaced first, and Raft's before that.
        self._watch(slot, done, push, errors.not_deleted_yet(topic), now, patience=2)

    def _place(self, topic: str, number: int, settings: dict[str, int], now: float) -> errors.Reason:
        """Propose the topic with its first segment, placed anew each time; see `Watch.push`."""
        unknown = [node for node in self._raft.membership.voters if node not in self._metadata.nodes]
        live = self._lifecycle.placeable()
        if unknown or not live:
            return errors.members_unknown(topic, unknown) if unknown else errors.NO_MAJORITY
        leader = first_leader(topic, live)
        replicas = self._lifecycle.replicas_for(leader, live)
        register = RegisterTopic(
            topic=topic, leader=leader, replicas=replicas, number=number, settings=settings
        )
        return self._pushed(register, now)

    def _pushed(self, command: Command, now: float) -> errors.Reason:
        """Propose a command, if all members know it; see `Watch.push`."""
        if older := self._metadata.older_than(version_of(command)):
            return errors.older_release(older[0])
        self._propose(command, now)
        return errors.NO_MAJORITY if self._raft.leader_id is None else errors.NO_ERROR

    def _refused_leave(self, request: protocol.Leave) -> errors.Reason:
        """Why this member may not leave, or not without `force`; "" if it may."""
        node_id, voters = request.node_id, self._raft.membership.voters
        node = self._metadata.nodes.get(node_id)
        if node is None:
            return errors.unknown_node(node_id)
        if node.leaving:
            return errors.NO_ERROR
        reachable = {*self._connected, self._config.node_id}
        if why_not := why_not_leave(node_id, self._metadata, voters, reachable):
            return errors.cannot_leave(why_not)
        factor = self._config.replication_factor
        stay = too_few_stay(node_id, self._metadata, voters, factor)
        if stay is not None and not request.force:
            return errors.needs_force(node_id, stay, factor)
        return errors.NO_ERROR

    def _leave(self, slot: object, request: protocol.Leave, now: float) -> None:
        if refused := self._refused_leave(request):
            self._error(slot, refused)
            return
        node_id = request.node_id
        still = errors.not_gone_yet(node_id)
        directory = self._metadata.nodes[node_id].directory_id

        def gone() -> bool:
            there = self._metadata.nodes.get(node_id)
            mine = self._removed and node_id == self._config.node_id
            return mine or there is None or there.directory_id != directory

        self._watch(
            slot,
            gone,
            partial(self._pushed, MarkLeaving(node_id=node_id, directory_id=directory)),
            still,
            now,
            patience=LEAVE_PATIENCE,
        )

    def _force(self, slot: object, topic: str, number: int, now: float) -> None:
        """Only the Raft leader knows whether that recovery waits: if it does, the segment is sealed soon."""
        segment = self._metadata.segment(topic, number)
        if segment is None:
            self._error(slot, errors.unknown_segment(topic, number))
        elif segment.sealed:
            self._error(slot, errors.cannot_recover(topic, number))
        elif self._raft.leader_id is None:
            self._error(slot, errors.NOTHING_RECOVERS)
        else:
            self._watch(
                slot,
                lambda: self._metadata.is_sealed(topic, number),
                partial(self._tell_to_recover, topic, number),
                errors.not_recovered_yet(topic, number),
                now,
            )

    def _tell_to_recover(self, topic: str, number: int, now: float) -> errors.Reason:
        if self._raft.leader_id is None:
            return errors.NO_MAJORITY
        self._outbox.send(self._raft.leader_id, Recover(topic=topic, segment=number))
        return errors.NO_ERROR

    def _watch(
        self,
        slot: object,
        done: Callable[[], bool],
        push: Callable[[float], errors.Reason],
        why_not: errors.Reason,
        now: float,
        patience: int = 1,
    ) -> None:
        """Push until the metadata says `done`, then answer OK; at the deadline answer with an error."""
        assert len(self._watches) < MAX_WAITING, "what waits to be decided has its place here"
        deadline = now + patience * self._config.request_timeout
        watch = Watch(slot, done, push, deadline, now, why_not)
        self._watches.append(watch)
        self._push(watch, now)

    def _push(self, watch: Watch, now: float) -> None:
        watch.again_at = now + self._config.resend_interval
        held_up = watch.push(now)
        if watch.held_up:  # once a push did something, the outcome is open
            watch.held_up = held_up
            if (kind := errors.kind_of(held_up)) is not None and not kind.again:
                watch.deadline = now  # to wait would not help

    def on_removed(self, now: float) -> None:
        """This node is no member any more, and will not see that applied: the request is answered now."""
        self._removed = True
        self.look_at_watches(now)

    def look_at_watches(self, now: float) -> None:
        """Answer those whose metadata is where they wanted it; propose again for the others."""
        left = []
        for watch in self._watches:
            if watch.done():
                self._outbox.reply(watch.slot, protocol.OK)
            elif watch.deadline <= now:
                self._error(watch.slot, watch.held_up or watch.why_not)
            else:
                left.append(watch)
                if watch.again_at <= now:
                    self._push(watch, now)
        self._watches = left
