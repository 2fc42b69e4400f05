"""Transcripts of the segment protocol (`tests/transcript.py` says what a transcript is): whole nodes.

Every command drives the controllers of a cluster in memory, and prints what it brought about: replies to
clients, what Raft committed, and the messages that `watch` asked for, each when it arrives. `(lost)` stands
behind one that did not. Raft itself is silent here; its transcripts are in `tests/consensus`.

    nodes 1 2 3 [SETTING=VALUE]     a cluster that is ready; node 1 leads Raft, and took the others in
    watch KIND ... | nothing        print messages of these kinds, `wire/messages.py` has them; or `logs`
    register t [at 2]               a client of this node, by default of node 1
    put 1 t a b                     a client of node 1 puts these, and waits for the replies
    send put 1 t a | send ...       the same without waiting; the reply is printed when it comes
    get 1 t [COUNT] [group g]       the next entries; EMPTY if there are no more
    fetch 1 t SEGMENT OFFSET        an entry by its place
    recover 1 t SEGMENT | leave 1 NODE [force]   what an operator asks of node 1
    run SECONDS                     time passes
    until sealed t N | ready | answered | replicas t N NODES | caught up
    cut 1-2 3>1 | isolate 3 | heal  links that lose everything, in both directions or in one
    lose KIND [to 2] | lose nothing     messages of this kind are lost
    pause 1 | resume 1              SIGSTOP and SIGCONT
    kill 1 | power 1 | start 1 [unsure]  kill -9; or power loss, which takes what was not synced
    slow 1 | fast 1                 the disk with the entries finishes no sync | goes on
    lazy                            entries are not synced at all from now on (`--fsync` with an interval)
    damage 1 t SEGMENT OFFSET       this entry cannot be read any more on node 1
    show t                          segments, copies, cursors; who holds the lease
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.broker.invariants import NAMES, Invariants
from tests.broker.world import NodeWorld, batch
from tests.transcript import Transcript, compare, numbers, opening, shown
from tests.world import Packet
from tools import shape
from walrus import protocol
from walrus.segments import Topic
from walrus.storage.batch import Batch, Checksum

FOLDER = Path(__file__).parent / "transcripts"
FILES = sorted(FOLDER.glob("*.txt"))
ROOT = Path(__file__).parents[2]


@cache
def chapters() -> list[str]:
    """The docstrings of all modules; parsed when a test asks, since every worker imports this."""
    return [ast.get_docstring(shape.tree(path)) or "" for path in shape.MODULES]


class Watched(NodeWorld):
    """A world that tells its transcript of each packet, and when every node has had its turn."""

    def __init__(
        self, packet: Callable[[Packet, bool], None], look: Callable[[], None], **settings: Any
    ) -> None:
        super().__init__(**settings)
        self._packet, self._look = packet, look

    def deliver(self, packet: Packet) -> bool:
        arrived = super().deliver(packet)
        self._packet(packet, arrived)
        return arrived

    def _turns(self) -> None:
        super()._turns()
        self._look()


class SegmentTranscript(Transcript):
    """A cluster, and what there is to tell about it."""

    def __init__(self) -> None:
        super().__init__()
        self.world = Watched(self._packet, self._look)
        self.invariants = Invariants(self.world)
        self.watched: set[str] = set()
        self.open: dict[str, tuple[str, protocol.Request]] = {}
        """Requests that are not answered yet: what the client asked, by slot."""
        self.topics: dict[str, Topic] = {}
        self._logged = 0

    def check(self) -> None:
        self.invariants.check()

    # --- what happens is printed ---

    def _packet(self, packet: Packet, arrived: bool) -> None:
        if type(packet.message).__name__ in self.watched:
            lost = "" if arrived else "   (lost)"
            self.output.append(f"{packet.sender} -> {packet.to}  {brief(packet.message)}{lost}")

    def _look(self) -> None:
        self.invariants.check()
        if "logs" in self.watched:
            self.output += [f"log of {line}" for line in self.world.logs[self._logged :]]
        self._logged = len(self.world.logs)
        for name, topic in self.invariants.metadata.topics.items():
            self.output += committed(name, self.topics.get(name), topic)
            self.topics[name] = msgspec.convert(msgspec.to_builtins(topic), Topic)
        for slot, (asked, request) in list(self.open.items()):
            replies = self.world.replies[slot]
            if len(replies) >= request.replies:
                del self.open[slot]
                self._answered(asked, request, [reply.decode() for reply in replies])

    def _answered(self, asked: str, request: protocol.Request, replies: list[str]) -> None:
        self.output.append(f"{asked}: {', '.join(replies)}")
        if isinstance(request, protocol.Get):
            for reply in replies:
                if reply.startswith("OK "):
                    self.invariants.delivered(request.topic, request.group, reply[3:].encode())

    # --- clusters ---

    def do_nodes(self, words: list[str]) -> None:
        settings = dict(word.split("=") for word in words if "=" in word)
        self.world = Watched(
            self._packet, self._look, **{name: msgspec.json.decode(value) for name, value in settings.items()}
        )
        self.invariants = Invariants(self.world)
        first, *others = (int(word) for word in words if "=" not in word)
        self.world.start(first, bootstrap=True)
        self.world.until(lambda: self.world.nodes[first].ready)
        for node in others:
            self.world.join(node)
        self.do_until(["ready"])

    def do_watch(self, words: list[str]) -> None:
        self.watched = set(words) - {"nothing"}

    def do_until(self, words: list[str]) -> None:
        nodes = self.world.nodes.values
        match words:
            case ["ready"]:
                self.world.until(lambda: all(c.ready for c in nodes()) and self.world.settled())
            case ["answered"]:
                self.world.until(lambda: not self.open)
            case ["caught", "up"]:
                self.world.until(lambda: self.world.settled() and not any(c.catch_up.behind for c in nodes()))
            case ["sealed", topic, number]:
                self.world.until(lambda: self.topics[topic].current > int(number))
                if not (self.world.paused or self.world.cut):
                    self.world.until(self.world.settled)
            case ["replicas", topic, number, *replicas]:
                wanted = tuple(map(int, replicas))
                self.world.until(lambda: self.topics[topic].segments[int(number) - 1].replicas == wanted)
            case _:
                raise AssertionError(f"until what? {words}")

    def do_run(self, words: list[str]) -> None:
        self.world.run(float(words[0]))

    # --- faults ---

    def do_cut(self, words: list[str]) -> None:
        for word in words:
            one, two = map(int, re.split("[->]", word))
            self.world.cut |= {(one, two)} if ">" in word else {(one, two), (two, one)}

    def do_isolate(self, words: list[str]) -> None:
        self.world.isolate(*map(int, words))

    def do_heal(self, words: list[str]) -> None:
        self.world.heal()

    def do_lose(self, words: list[str]) -> None:
        kind, receivers = words[0], numbers(words, "to") or set(self.world.stores)
        self.world.lose = lambda sender, to, message: to in receivers and type(message).__name__ == kind

    def do_pause(self, words: list[str]) -> None:
        self.world.paused.add(int(words[0]))

    def do_resume(self, words: list[str]) -> None:
        self.world.resume(int(words[0]))

    def do_kill(self, words: list[str]) -> None:
        self.world.kill(int(words[0]))

    def do_power(self, words: list[str]) -> None:
        self.world.lose_power(int(words[0]))
        if not self.world.sync_each:
            self.invariants.shortened.add(int(words[0]))

    def do_start(self, words: list[str]) -> None:
        self.world.start(int(words[0]), sure="unsure" not in words)

    def do_slow(self, words: list[str]) -> None:
        self.world.slow_disk.add(int(words[0]))

    def do_fast(self, words: list[str]) -> None:
        self.world.slow_disk.remove(int(words[0]))

    def do_lazy(self, words: list[str]) -> None:
        self.world.sync_each = False

    def do_damage(self, words: list[str]) -> None:
        node, name = int(words[0]), f"{words[1]}/{words[2]}"
        assert self.world.stores[node][0].rot(name, int(words[3]))

    # --- clients ---

    def do_send(self, words: list[str]) -> None:
        request = self._request(words)
        slot = self.world.send(int(words[1]), request)
        self.open[slot] = (f"{words[0]} {' '.join(words[2:])} through {words[1]}", request)

    def _request(self, words: list[str]) -> protocol.Request:
        match words:
            case ["put", _, topic, *payloads]:
                return protocol.Put(topic, batch(*payloads))
            case ["get", _, topic, *more]:
                count = int(more[0]) if more and more[0].isdigit() else 1
                return protocol.Get(topic, more[-1] if "group" in more else "", count)
            case ["fetch", _, topic, segment, offset]:
                return protocol.Fetch(topic, int(segment), int(offset))
            case ["register", _, topic]:
                return protocol.Register(topic)
            case ["recover", _, topic, segment]:
                return protocol.Recover(topic, int(segment))
            case ["leave", _, node, *more]:
                return protocol.Leave(int(node), force=more == ["force"])
            case _:
                raise AssertionError(f"no such request: {words}")

    def _ask(self, words: list[str]) -> None:
        request = self._request(words)
        slot = self.world.send(int(words[1]), request)
        self.world.until(lambda: len(self.world.replies[slot]) >= request.replies)
        replies = [reply.decode() for reply in self.world.replies[slot]]
        self._answered(f"{words[0]} through {words[1]}", request, replies)

    def do_put(self, words: list[str]) -> None:
        self._ask(["put", *words])

    def do_get(self, words: list[str]) -> None:
        self._ask(["get", *words])

    def do_fetch(self, words: list[str]) -> None:
        self._ask(["fetch", *words])

    def do_recover(self, words: list[str]) -> None:
        self.invariants.given_up.add((words[1], int(words[2])))
        self._ask(["recover", *words])

    def do_leave(self, words: list[str]) -> None:
        self._ask(["leave", *words])

    def do_register(self, words: list[str]) -> None:
        self._ask(["register", words[2] if words[1:] else "1", words[0]])
        self.world.until(self.world.settled)

    # --- looking ---

    def do_show(self, words: list[str]) -> None:
        (name,) = words
        topic = self.invariants.metadata.topics[name]
        for number, segment in enumerate(topic.segments, 1):
            key = (name, number)
            state = f"sealed at {segment.count}" if segment.sealed else f"open, leader {segment.leader}"
            acked = "" if segment.sealed else f", acknowledged {self.invariants.acked.get(key, 0)}"
            self.output.append(f"{name}/{number}  {state}{acked}, replicas {_list(segment.replicas)}")
            for node in segment.replicas:
                entries = " ".join(entry.decode() for entry in self.invariants.copy(node, key)) or "-"
                self.output.append(f"  {node}  {entries}{self._marks(node, name, number)}")
        for group, position in sorted(topic.cursors.items()):
            self.output.append(f"cursor {group!r}  {position.segment}:{position.offset}")
        for node, controller in sorted(self.world.nodes.items()):
            held = controller.leases.held(self.world.now).get(name)
            if held:
                self.output.append(f"lease  node {node} for {name}/{held}")

    def _marks(self, node: int, name: str, number: int) -> str:
        if node not in self.world.nodes:
            return "   (down)"
        copy = self.world.nodes[node].copies.get((name, number))
        marks = [
            mark
            for mark, holds in (
                (f"durable {copy.durable}", copy.durable < copy.length),
                ("fenced", copy.fenced),
                ("unsure", not copy.sure),
                ("in doubt", self.world.nodes[node].copies.in_doubt),
            )
            if holds
        ]
        return f"   ({', '.join(marks)})" if marks else ""


def committed(name: str, before: Topic | None, now: Topic) -> list[str]:
    """What Raft has committed for this topic between two moments, a line each."""
    lines = []
    known = before.segments if before else []
    for number, segment in enumerate(now.segments, 1):
        old = known[number - 1] if number <= len(known) else None
        if segment.sealed and not (old and old.sealed):
            how = " by a recovery" if segment.recovered else ""
            count = "1 entry" if segment.count == 1 else f"{segment.count} entries"
            lines.append(f"Raft: {name}/{number} is sealed with {count}{how}")
        if old is None and not segment.sealed:
            lines.append(
                f"Raft: {name}/{number} opens, leader {segment.leader}, replicas {_list(segment.replicas)}"
            )
        if old and old.replicas != segment.replicas:
            lines.append(f"Raft: {name}/{number} has replicas {_list(segment.replicas)}")
    cursors = before.cursors if before else {}
    for group, position in sorted(now.cursors.items()):
        if cursors.get(group) != position:
            lines.append(f"Raft: cursor {group!r} of {name} is at {position.segment}:{position.offset}")
    return lines


def brief(message: msgspec.Struct) -> str:
    """A message on one line, with what is empty left out, and numbers of requests and checksums too."""
    shown = []
    values = msgspec.structs.asdict(message)
    place = f"{values.pop('topic')}/{values.pop('segment')}" if "segment" in values else ""
    for name, value in values.items():
        if isinstance(value, Batch):
            value = "+".join(payload.decode() for payload in value.payloads())
            name = "entries"
        if name in ("sure", "moved", "delivered"):
            shown.append(f"{name}={value}")
        elif name != "request" and not isinstance(value, Checksum) and (value or name in ("start", "length")):
            shown.append(f"{name}={getattr(value, 'text', value)}")
    return f"{type(message).__name__} {place} {' '.join(shown)}".replace("  ", " ").rstrip()


def _list(nodes: tuple[int, ...]) -> str:
    return " ".join(map(str, nodes))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_nodes_say_what_the_transcript_says(path: Path, request: pytest.FixtureRequest) -> None:
    compare(path, SegmentTranscript(), request)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_transcript_opens_with_what_to_look_for_and_names_its_invariants(path: Path) -> None:
    assert opening(path).startswith("# ") and "# Look for" in opening(path)
    assert shown(path) and shown(path) <= {*NAMES, "ReadIndex"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_chapter_and_the_architecture_refer_to_the_transcript(path: Path) -> None:
    assert any(f"`{path.stem}`" in chapter for chapter in chapters())
    page = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    assert f"transcripts/{path.name})" in page


def test_no_chapter_refers_to_a_transcript_that_is_not_there() -> None:
    names = {name for chapter in chapters() for name in named(chapter)}
    assert names == {path.stem for path in FILES}


def named(chapter: str) -> list[str]:
    """The transcripts that a chapter's last paragraph names."""
    _, _, listed = chapter.partition("Transcripts, in `tests/replicas/transcripts`: ")
    return re.findall(r"`(\w+)`", listed)
