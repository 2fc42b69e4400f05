"""A second opinion on recorded runs of the data plane: their rules once more, in Python.

A corrupted run that TLC accepts is either another possible run, or a hole in WalrusTrace.tla. So the rules
are written here a second time, from docs/traces.md and not from the TLA+, and in another way:
entries have no contents (every copy is a prefix of what one writer wrote, so lengths suffice), and nothing
is searched. Two judges of the same run must agree; tests check this on hundreds of runs.

Left out, because only TLC has the state for it: the invariants over all copies. What they forbid follows
from the steps, so a run in which only TLC sees a violation would reveal a step that is missing here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from walrus.quorum import majority
from walrus.tlc.trace_spec import Event, Run, begin_of
from walrus.tlc.trace_walrus import data_plane

Place = tuple[int, int]
"""(segment, offset) of the next entry to read."""
Key = tuple[str, int]
"""(topic, segment)"""

START: Final = (1, 0)
NEVER: Final = 1 << 40
"""A length that no copy reaches."""


class NoStep(Exception):
    """An event is not a step of the protocol."""


def need(condition: object, why: str) -> None:
    """Check a condition for an event to be a step. Raises NoStep."""
    if not condition:
        raise NoStep(why)


class _Copy:
    def __init__(self) -> None:
        self.length = self.synced = self.told = 0
        self.fenced = False
        self.noted = set[int]()
        self.answers = set[tuple[int, bool]]()
        self.copied = 0
        self.proven = False
        self.doubt = 0
        """The length at which a copy that came back too short is whole again; 0 if there is no doubt."""
        self.readable: int | None = None
        """Where its known damage begins; None if there is none."""

    @property
    def intact(self) -> int:
        return self.length if self.readable is None else self.readable

    @property
    def said(self) -> int:
        """The greatest length that the node ever reported for this copy."""
        return max([self.told, self.copied, *(length for length, _ in self.answers)])


class _Node:
    def __init__(self) -> None:
        self.up, self.incarnation = True, 0
        self.knew: dict[str, int] = {}
        self.copies: dict[Key, _Copy] = {}
        self.forget()

    def forget(self) -> None:
        """Forget what a process loses when it dies."""
        self.applied = 0
        self.view: dict[str, int] = {}
        self.lease: dict[str, int] = {}
        self.ran = set[Key]()
        self.seen: dict[tuple[str, str], Place] = {}
        self.reading: dict[tuple[str, str], Place] = {}
        self.handed: dict[tuple[str, str], Place] = {}

    def copy(self, event: Event) -> _Copy:
        return self.copies.setdefault((event["topic"], event["segment"]), _Copy())


class _Segment:
    def __init__(self, event: Event) -> None:
        self.leader, self.incarnation = event["leader"], event["incarnation"]
        self.replicas = set(event["replicas"])
        self.count: int | None = None
        self.written = self.acked = 0
        self.sealing = self.recovering = False
        self.decided = set[int]()
        self.proposals: list[tuple[int, dict[str, Place]]] = []

    @property
    def sealed(self) -> bool:
        """Return whether the segment is sealed."""
        return self.count is not None

    def majority(self, nodes: set[int]) -> bool:
        return len(nodes & self.replicas) >= majority(len(self.replicas))


class Referee:
    """Follows one run; `judge` returns where it stops being a run of the protocol, and why."""

    def __init__(self, run: Run) -> None:
        begin = begin_of(run)
        self._each = begin.get("fsync_each", False)
        self._exact = begin.get("exact", False)
        self._factor = begin.get("replication_factor", 3)
        self._events = data_plane(run)
        self._nodes: dict[int, _Node] = {}
        self._topics: dict[str, list[_Segment]] = {}
        self._committed: dict[tuple[str, str], Place] = {}
        self._moves = set[tuple[str, str, Place]]()
        self._confirmed: dict[tuple[str, str], list[tuple[int, int]]] = {}
        self._commands: list[Event] = []
        self._announced: dict[int, int] = {}
        self._gone, self._leaving = set[int](), set[int]()
        self._voters: set[int] | None = None
        for event in self._events:
            self._node(event["node"])
            for node in event.get("replicas", ()):
                self._node(node)

    def judge(self) -> tuple[int, str]:
        """Return how many events are steps, and why the next one is none ("" at the end of the run)."""
        for number, event in enumerate(self._events):
            try:
                self._take(event)
            except NoStep as refused:
                return number, f"{event['ev']}: {refused}"
        return len(self._events), ""

    def _node(self, number: int) -> _Node:
        return self._nodes.setdefault(number, _Node())

    def _segment(self, event: Event) -> _Segment:
        segments = self._topics.get(event["topic"], [])
        number: int = event["segment"]
        need(1 <= number <= len(segments), "there is no such segment")
        return segments[number - 1]

    def _take(self, event: Event) -> None:
        node, name = self._node(event["node"]), event["ev"]
        need(node.up or name in ("Restart", "Rejoin", "PowerLoss"), "the process is gone")
        if "index" in event:
            self._applied(node, event)
        else:
            step: Callable[[_Node, Event], None] | None = getattr(self, f"_on_{name.lower()}", None)
            need(step is not None, "there is no such step")
            assert step is not None
            step(node, event)
        if "durable" in event:
            self._as_recorded(node.copy(event), event)

    def _as_recorded(self, copy: _Copy, event: Event) -> None:
        need(copy.length == event["length"], f"its copy has {copy.length} entries")
        need(event["durable"] <= copy.synced, f"{copy.synced} entries are durable")
        need(copy.fenced == event["fenced"], "its fence")
        need(not event["sure"] or not copy.doubt or self._sealed(event), "it cannot be sure")

    def _sealed(self, event: Event) -> bool:
        return self._segment(event).sealed

    # --- commands ---

    def _applied(self, node: _Node, event: Event) -> None:
        if event["ev"] in ("Snapshot", "SnapshotTopics"):
            self._on_snapshot(node, event)
            return
        command = {name: value for name, value in event.items() if name != "node"}
        if event["index"] == len(self._commands) + 1:
            self._commit(event)
            self._commands.append(command)
        need(node.applied == event["index"] - 1, f"it has applied {node.applied}")
        need(event["index"] <= len(self._commands), "that was never committed")
        need(self._commands[event["index"] - 1] == command, "another command was applied there")
        node.applied = event["index"]
        if event["ev"] == "Seal":
            self._cut_back(node, event)
        self._see(node, event)
        if event["ev"] in ("RegisterTopic", "Seal"):
            self._open(event["node"], event["topic"], event.get("segment", 0) + 1)

    def _cut_back(self, node: _Node, event: Event) -> None:
        for (topic, group), place in list(node.seen.items()):
            if topic == event["topic"]:
                node.seen[topic, group] = min(place, (event["segment"], event["count"]))

    def _see(self, node: _Node, event: Event) -> None:
        for topic, group, *place in event.get("cursors", ()):
            node.seen[topic, group] = (place[0], place[1])

    def _open(self, number: int, topic: str, current: int) -> None:
        """A node learns a topic's segments up to `current`, and leads that one if opened for it."""
        node = self._node(number)
        led = node.lease.get(topic, 0)
        node.view[topic] = current
        node.knew[topic] = max(node.knew.get(topic, 0), current)
        segment = self._topics[topic][current - 1]
        if (segment.leader, segment.incarnation) != (number, node.incarnation):
            node.lease.pop(topic, None)
            for places in (node.reading, node.handed):
                for key in [key for key in places if key[0] == topic]:
                    del places[key]
            return
        node.lease[topic] = current
        for key in [key for key in node.reading if key[0] == topic]:
            place, seen = node.reading[key], node.seen.get(key, START)
            end = self._topics[topic][place[0] - 1].count
            beyond = end is not None and place[1] > end
            kept = seen if not led or place < seen else (place[0] + 1, 0) if beyond else place
            if kept != place or not led:
                node.handed.pop(key, None)
            node.reading[key] = kept

    def _on_snapshot(self, node: _Node, event: Event) -> None:
        need(node.applied < event["index"] <= len(self._commands), "so much was never applied")
        opened: dict[str, int] = {}
        for command in self._commands[: event["index"]]:
            if command["ev"] in ("RegisterTopic", "Seal"):
                opened[command["topic"]] = opened.get(command["topic"], 0) + 1
        if event["ev"] == "Snapshot":  # all topics, and the end of it
            node.applied = event["index"]
        else:
            opened = {topic: opened.get(topic, 0) for topic, _ in event["topics"]}
        need(dict(event["topics"]) == opened, f"the segments were {opened}")
        self._see(node, event)
        for topic, current in opened.items():
            need(current >= node.view.get(topic, 0), "it knows more")
            if current > node.view.get(topic, 0):
                self._open(event["node"], topic, current)

    def _commit(self, event: Event) -> None:
        match event["ev"]:
            case "RegisterTopic":
                need(event["topic"] not in self._topics, "the topic is known")
                self._topics[event["topic"]] = [self._opened(event)]
            case "Seal":
                self._commit_seal(event)
            case "CommitCursors":
                for topic, group, segment, offset in event["cursors"]:
                    self._move(topic, group, (segment, offset))
            case "SetReplicas":
                self._commit_replicas(event)
            case "Announce":
                known = self._announced.get(event["of"], 0)
                need(event["of"] not in self._gone, "it was removed")
                need(known <= event["incarnation"] <= self._node(event["of"]).incarnation, "no such start")
                self._announced[event["of"]] = event["incarnation"]
            case "Join":
                self._gone.discard(event["of"])
            case "RemoveNode":
                segments = [each for topic in self._topics.values() for each in topic]
                need(all(event["of"] not in each.replicas for each in segments), "some segment needs it")
                self._gone.add(event["of"])
                self._leaving.discard(event["of"])
            case "MarkLeaving":
                self._leaving.add(event["of"])
            case "Voters":
                self._voters = set(event["voters"])

    def _opened(self, event: Event) -> _Segment:
        need(event["leader"] in event["replicas"], "the leader is no replica")
        need(not self._gone & set(event["replicas"]), "a replica was removed")
        need(self._announced.get(event["leader"], 0) == event["incarnation"], "another start was announced")
        return _Segment(event)

    def _commit_seal(self, event: Event) -> None:
        segment, segments = self._segment(event), self._topics[event["topic"]]
        need(event["segment"] == len(segments), "it is sealed already")
        end, moved = (event["segment"], event["count"]), {}
        for topic, group, *place in event["cursors"]:
            need(topic == event["topic"], "a cursor of another topic")
            moved[group] = (place[0], place[1])

        def before(group: str) -> Place:
            return min(self._committed.get((event["topic"], group), START), end)

        def after(group: str, cursors: dict[str, Place]) -> Place:
            return max(before(group), cursors.get(group, START))

        fitting = [
            cursors
            for count, cursors in segment.proposals
            if count == event["count"]
            and all(after(group, cursors) == moved.get(group, before(group)) for group in {*moved, *cursors})
        ]
        need(fitting, "that was never proposed")
        for topic, group in {*self._committed, *((event["topic"], group) for group in fitting[0])}:
            if topic == event["topic"]:
                self._committed[topic, group] = after(group, fitting[0])
        segment.count = event["count"]
        segments.append(self._opened(event))

    def _move(self, topic: str, group: str, place: Place) -> None:
        before = self._committed.get((topic, group), START)
        if place != before:
            need((topic, group, place) in self._moves, "no leader proposed that place")
            need(before < place, "a committed cursor moves back")
            count = self._topics[topic][place[0] - 1].count
            need(count is None or place[1] <= count, "the segment ended before")
        self._committed[topic, group] = place

    def _commit_replicas(self, event: Event) -> None:
        segment, new = self._segment(event), set(event["replicas"])
        need(segment.sealed and new != segment.replicas, "nothing to change")
        key = (event["topic"], event["segment"])
        whole = {node for node in new if self._node(node).copies.setdefault(key, _Copy()).proven}
        need(not new & self._gone, "it was removed")
        need(new - segment.replicas <= whole and len(whole) >= majority(len(new)), "not shown to be whole")
        voters = (set(self._nodes) if self._voters is None else self._voters) - self._gone - self._leaving
        need(len(new) >= min(self._factor, len(voters), len(segment.replicas)), "fewer than it has to be")
        segment.replicas = new

    # --- writing ---

    def _on_leaderappend(self, node: _Node, event: Event) -> None:
        copy, segment = node.copy(event), self._leads(node, event)
        need(not copy.fenced and not segment.sealing, "it may not write")
        need(event["start"] == copy.length, f"its copy ends at {copy.length}")
        copy.length += event["count"]
        segment.written = max(segment.written, copy.length)

    def _leads(self, node: _Node, event: Event) -> _Segment:
        need(node.lease.get(event["topic"]) == event["segment"], "it does not lead")
        return self._segment(event)

    def _on_replicaappend(self, node: _Node, event: Event) -> None:
        copy, segment = node.copy(event), self._segment(event)
        need(node.view.get(event["topic"]) == event["segment"], "not the segment that it knows to be open")
        need(event["node"] in segment.replicas and event["node"] != segment.leader, "no replica")
        need(not copy.fenced, "it is fenced")
        need(event["start"] == copy.length, f"its copy ends at {copy.length}")
        need(copy.length + event["count"] <= segment.written, "so much was not written")
        copy.length += event["count"]

    def _on_synced(self, node: _Node, event: Event) -> None:
        copy = node.copy(event)
        need(event["length"] <= copy.length, "so much is not there")
        copy.synced = max(copy.synced, event["length"])

    def _on_report(self, node: _Node, event: Event) -> None:
        copy = node.copy(event)
        need(event["node"] in self._segment(event).replicas and not copy.fenced, "it may not report")
        need(event["told"] <= copy.synced, "so much is not durable")
        copy.told = max(copy.told, event["told"])

    def _on_ack(self, node: _Node, event: Event) -> None:
        copy, segment = node.copy(event), self._leads(node, event)
        need(not copy.fenced, "it is fenced")
        need(segment.acked < event["count"] <= copy.length, "nothing new, or too much")
        key, have = (event["topic"], event["segment"]), set[int]()
        for other, length in event["heard"]:
            need(length <= self._node(other).copies.setdefault(key, _Copy()).told, "so much was not told")
            have |= {other} if length >= event["count"] else set()
        need(
            segment.majority(have | ({event["node"]} if event["durable"] >= event["count"] else set())), "few"
        )
        need(
            segment.majority({n for n in segment.replicas if self._told(n, key) >= event["count"]}),
            "few told",
        )
        segment.acked = event["count"]

    def _told(self, node: int, key: Key) -> int:
        return self._node(node).copies.setdefault(key, _Copy()).told

    def _on_sure(self, node: _Node, event: Event) -> None:
        copy = node.copy(event)
        if copy.doubt:
            need(not self._sealed(event) and copy.length >= copy.doubt, "it lacks entries")
            copy.doubt = 0

    def _on_grant(self, node: _Node, event: Event) -> None:
        self._leads(node, event)

    def _on_beginseal(self, node: _Node, event: Event) -> None:
        segment = self._leads(node, event)
        need(not segment.sealing, "it has begun to")
        segment.sealing = True

    def _on_proposeseal(self, node: _Node, event: Event) -> None:
        copy, segment = node.copy(event), self._leads(node, event)
        need(segment.sealing and not copy.fenced, "it is not sealing")
        need(segment.acked == copy.length == event["count"], "not all is acknowledged")
        topic, cursors = event["topic"], dict[str, Place]()
        need(all(key[0] != topic for key in node.handed), "a delivery is not confirmed")
        for group, *place in event["cursors"]:
            cursors[group] = (place[0], place[1])
            reading = node.reading.get((topic, group), node.seen.get((topic, group), START))
            need(self._same(node, topic, cursors[group], reading), "the cursor stands elsewhere")
        segment.proposals.append((event["count"], cursors))

    # --- recovery ---

    def _on_startrecovery(self, node: _Node, event: Event) -> None:
        need(node.view.get(event["topic"]) == event["segment"], "not the segment that it knows to be open")
        node.ran.add((event["topic"], event["segment"]))
        self._segment(event).recovering = True

    def _on_fence(self, node: _Node, event: Event) -> None:
        copy, segment = node.copy(event), self._segment(event)
        writes = node.lease.get(event["topic"]) == event["segment"]
        need(segment.recovering or writes, "the segment is not being recovered")
        need(event["node"] in segment.replicas or segment.sealed, "no replica")
        copy.fenced = True
        copy.noted.add(event["length"])

    def _on_answerfence(self, node: _Node, event: Event) -> None:
        copy, (who, length, sure) = node.copy(event), event["answer"]
        need(who == event["node"] and copy.fenced, "it is not fenced")
        need(length <= copy.synced, "so much is not durable")
        damaged = length not in copy.noted
        need(not damaged or (not sure and any(length < noted for noted in copy.noted)), "not its length")
        need(not sure or not copy.doubt, "it cannot be sure")
        copy.answers.add((length, sure))
        copy.readable = length if damaged else copy.readable

    def _on_recover(self, node: _Node, event: Event) -> None:
        segment, key = self._segment(event), (event["topic"], event["segment"])
        need(key in node.ran, "it never began to")
        answers = [(who, length, sure) for who, length, sure in event["answers"]]
        for who, length, sure in answers:
            known = self._node(who).copies.setdefault(key, _Copy())
            need(who in segment.replicas, f"node {who} is no replica")
            need((length, sure) in known.answers, f"node {who} did not answer that")
        nodes = {who for who, _, _ in answers}
        enough = segment.majority({who for who, _, sure in answers if sure}) or nodes == segment.replicas
        need(segment.majority(nodes) and (enough or event["forced"]), "too few answers")
        need(max(length for _, length, _ in answers) == event["count"], "not the longest")
        segment.decided.add(event["count"])

    def _on_copytail(self, node: _Node, event: Event) -> None:
        copy, segment, upto = node.copy(event), self._segment(event), event["length"]
        key = (event["topic"], event["segment"])
        for_recovery = copy.fenced and any(upto <= count for count in segment.decided)
        for_repair = segment.count is not None and upto <= segment.count
        need(for_recovery or for_repair, "that was not asked for")
        need(copy.length < upto, "it has that")
        sources = [other for other in segment.replicas if other != event["node"]]
        intact = [self._node(other).copies.setdefault(key, _Copy()).intact for other in sources]
        need(any(length >= upto for length in intact), "there is no source")
        copy.length = upto
        if segment.count is not None and upto >= segment.count:
            copy.doubt = 0

    def _on_answercopy(self, node: _Node, event: Event) -> None:
        copy, segment = node.copy(event), self._segment(event)
        need(event["copied"] <= copy.synced, "so much is not durable")
        copy.copied = max(copy.copied, event["copied"])
        copy.proven |= segment.count is not None and event["copied"] >= segment.count

    def _on_recoveryseal(self, node: _Node, event: Event) -> None:
        segment, key = self._segment(event), (event["topic"], event["segment"])
        need(key in node.ran and event["count"] in segment.decided, "it did not decide that")
        held = {
            other
            for other in segment.replicas
            if (copy := self._node(other).copies.get(key))
            and max([copy.copied, *(length for length, _ in copy.answers)], default=0) >= event["count"]
            and (copy.answers or copy.copied)
        }
        need(segment.majority(held), "no majority said that it holds so much")
        segment.proposals.append((event["count"], {}))

    def _on_replace(self, node: _Node, event: Event) -> None:
        copy, segment = node.copy(event), self._segment(event)
        need(segment.count == event["length"], "not the sealed count")
        copy.length = copy.synced = event["length"]
        copy.doubt, copy.readable = 0, None

    # --- reading ---

    def _end(self, node: _Node, topic: str, place: Place) -> Place:
        """Return the place moved past sealed segments that end there, as far as the node knows them."""
        segments = self._topics[topic]
        while place[0] < node.view.get(topic, 0) and place[1] >= (segments[place[0] - 1].count or 0):
            place = (place[0] + 1, 0)
        return place

    def _same(self, node: _Node, topic: str, one: Place, other: Place) -> bool:
        return self._end(node, topic, one) == self._end(node, topic, other)

    def _group(self, node: _Node, event: Event) -> tuple[str, str]:
        need(node.lease.get(event["topic"]), "it does not lead the topic")
        return (event["topic"], event["group"])

    def _on_handout(self, node: _Node, event: Event) -> None:
        key, segment = self._group(node, event), self._segment(event)
        need(key not in node.handed, "a delivery is not confirmed")
        place, seen = (event["segment"], event["start"]), node.seen.get(key, START)
        ends = [self._end(node, key[0], each) for each in (node.reading.get(key, seen), seen)]
        need(place in ends, f"the cursor stands at {ends}")
        end, view = event["start"] + event["count"], node.view[key[0]]
        need(event["segment"] <= view, "it does not know the segment")
        need(end <= (segment.acked if event["segment"] == view else segment.count or 0), "not readable")
        copies = (self._node(other).copies.get((key[0], event["segment"])) for other in segment.replicas)
        need(any(copy and copy.intact >= end for copy in copies), "no copy has that")
        node.handed[key], node.reading[key] = place, (event["segment"], end)

    def _on_confirm(self, node: _Node, event: Event) -> None:
        key = (event["topic"], event["group"])
        need(key in node.handed, "nothing was handed out")
        need(node.reading[key] == (event["segment"], event["offset"]), "another delivery")
        start = node.handed.pop(key)
        given = self._confirmed.setdefault(key, [])
        had = set(given)
        given += [
            each for index in range(start[1], event["offset"]) if (each := (start[0], index)) not in had
        ]

    def _on_rewind(self, node: _Node, event: Event) -> None:
        key, place = self._group(node, event), (event["segment"], event["offset"])
        need(place in (node.handed.get(key), node.seen.get(key, START)), "not where it handed out from")
        node.reading[key] = place
        node.handed.pop(key, None)

    def _on_proposecursors(self, node: _Node, event: Event) -> None:
        key, place = self._group(node, event), (event["segment"], event["offset"])
        need(event["segment"] <= len(self._topics[key[0]]), "there is no such segment")
        confirmed = node.handed.get(key, node.reading.get(key, node.seen.get(key, START)))
        need(self._same(node, key[0], place, confirmed), f"confirmed is {confirmed}")
        self._moves.add((*key, place))

    # --- the world ---

    def _on_crash(self, node: _Node, event: Event) -> None:
        node.up = False
        node.forget()

    def _on_powerloss(self, node: _Node, event: Event) -> None:
        left = self._found(event["copies"])
        for key, copy in node.copies.items():
            length = left.get(key, (0, False))[0]
            need(length <= copy.length, "a copy is longer than it was")
            need(not self._each or copy.synced <= length, "synced entries are gone")
            known = len(self._topics.get(key[0], ())) >= key[1]
            if known and length < copy.said:
                copy.doubt = max(copy.doubt, self._whole_at(event["node"], key))
            copy.length, copy.synced = length, min(copy.synced, length)
            if copy.readable is not None and copy.readable >= length:
                copy.readable = None
        extra = {key: entry for key, entry in left.items() if key not in node.copies and entry[0]}
        need(not extra, "copies that never were")
        node.up = False
        node.forget()

    def _whole_at(self, number: int, key: Key) -> int:
        """Return the length at which a shortened copy is whole: that of its live writer now, or never."""
        segment = self._topics[key[0]][key[1] - 1]
        writer = self._node(segment.leader)
        if segment.count is not None:
            return segment.count
        if segment.leader == number or not writer.up or writer.incarnation != segment.incarnation:
            return NEVER
        return writer.copies.setdefault(key, _Copy()).length

    @staticmethod
    def _found(copies: Sequence[Any]) -> dict[Key, tuple[int, bool]]:
        return {(topic, segment): (length, fenced) for topic, segment, length, fenced in copies}

    def _on_restart(self, node: _Node, event: Event) -> None:
        node.up = False  # a crash that was not recorded may have come before
        node.forget()
        need(event["incarnation"] == node.incarnation + 1, "not its next start")
        found = self._found(event["copies"])
        for key in {*node.copies, *found}:
            copy = node.copies.setdefault(key, _Copy())
            length, fenced = found.get(key, (0, False))
            need(length >= copy.length, "a crash takes nothing")
            need(length == copy.length or not self._exact, "more than it had")
            if length > copy.length:
                self._late(event["node"], key, length)
            need(copy.fenced or not fenced, "a fence that it never noted")
            if copy.fenced and not fenced:
                need(not copy.answers or self._may_forget(node, key), "a fence that it answered is gone")
            copy.length = copy.synced = length
            copy.fenced, copy.noted = fenced, set()
        node.up, node.incarnation = True, event["incarnation"]

    def _late(self, number: int, key: Key, length: int) -> None:
        """Allow for the last writes of a real process, which may not have been recorded."""
        need(len(self._topics.get(key[0], ())) >= key[1], "there is no such segment")
        segment = self._topics[key[0]][key[1] - 1]
        need(segment.leader == number or length <= segment.written, "so much was not written")
        segment.written = max(segment.written, length)

    def _may_forget(self, node: _Node, key: Key) -> bool:
        """Return whether the node may drop the fence: its checkpoint may know the segment to be sealed."""
        return self._topics[key[0]][key[1] - 1].sealed and node.knew.get(key[0], 0) > key[1]

    def _on_rejoin(self, node: _Node, event: Event) -> None:
        segments = [each for topic in self._topics.values() for each in topic]
        need(not event["copies"], "a new directory is empty")
        need(all(event["node"] not in each.replicas for each in segments), "some segment needs it")
        node.forget()
        node.copies.clear()
        node.knew.clear()
        node.up, node.incarnation = True, event["incarnation"]
