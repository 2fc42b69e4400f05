"""The real nodes on which behaviours of Walrus.tla are performed, and all that they have sent.

There are three nodes, each with the state machines of `walrus/replicas`, `Lifecycle`, `LeaseTable` and
`Metadata`, wired as in the exploration (`sim/explore_node.py`). Raft is outside, as in the spec: there is
one log of commands, and each node applies it on request.

Messages are the nodes' own. A frame, an answer to a fence, a report counts only if a node sent it; it
arrives with the step that takes it, as often as steps take it, or never. So all messages are kept
(`RealNodes`). What a node promises must be durable when it leaves (`SegmentNode._promised`).
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any, ClassVar, Final

import msgspec

from walrus.quorum import majority
from walrus.replicas.failover import SegmentRecovery
from walrus.segments import Command, Metadata, RegisterTopic, Seal, decode_command, encode_command
from walrus.sim.explore_node import LONG, NODES, SETTINGS, SegmentNode, announcement
from walrus.tlc.replay_steps import SpecState
from walrus.wire import messages as m

T: Final = "t"
ANY: Final = 10**6
"""More entries than any segment has."""


class RealNode(SegmentNode):
    """A real node; its proposals wait until a step allows them."""

    settings: ClassVar[dict[str, Any]] = {**SETTINGS, "max_segment_entries": 1_000}
    hears_itself = False

    def __init__(self, node: int) -> None:
        self.up, self.may_propose, self.checkpoint = True, False, 0
        super().__init__(node)

    def _voters(self) -> list[int]:
        return super()._voters() if self.may_propose else []

    def step(self, given: tuple[Any, ...], *, slow: bool) -> list[tuple[int, m.PeerMessage]]:
        """Carry out an input as in the exploration; afterwards proposals are held back again."""
        sent = super().step(given, slow=slow)
        self.may_propose = False
        assert not self.outbox.halted, "PrefixAgree: a copy is not what was sealed"
        return sent

    # --- inputs, besides those of the exploration ---

    def begin_seal(self, number: int) -> None:
        """The writer takes nothing more."""
        self.lifecycle.roll_over(T, number, 0)

    def propose(self, number: int) -> None:
        """Propose what is due: the seal of the writer of segment `number`, or (0) the seal of a recovery."""
        self.may_propose = True
        if number:
            self.begin_seal(number)
        else:
            self.now += LONG

    def renew(self) -> None:
        """Hear a Raft leader again."""
        self.heard = True

    def give_up_reads(self) -> None:
        """Let `LONG` seconds pass, so that reads from other nodes time out."""
        self.now += LONG
        self.reads.on_tick(self.now)

    def catch_up_again(self) -> None:
        """Do the same, and ask again for sealed copies that are too short."""
        self.give_up_reads()
        self.catch_up.on_tick(self.now, self.connected)

    def forget(self, number: int) -> None:
        """Drop the note of a fence."""
        self.copies.forget_notes({(T, number)})

    def restart(self) -> None:
        """Start the next process, which reads its disk and knows what its last checkpoint knew."""
        self.log, self.up, self.heard = self.log[: self.checkpoint], True, True
        self.kill()

    # --- what it looks like ---

    def entries(self, number: int) -> tuple[bytes, ...]:
        """Return the entries of its copy."""
        return tuple(self.engines[0].entries.get(f"{T}/{number}", ()))

    def durable(self, number: int) -> int:
        """Return how much of the copy a power loss would leave."""
        return self.engines[0].durable(f"{T}/{number}")

    def recovery(self, number: int) -> SegmentRecovery | None:
        """Return its recovery of that segment, if there is one."""
        return self.lifecycle.recoveries.get((T, number))

    def chosen(self, number: int) -> int | None:
        """Return the count that its recovery of that segment has chosen, if any."""
        recovery = self.recovery(number)
        return recovery._source.length if recovery and recovery._source else None


def payload_of(entry: Any) -> bytes:
    """Return the payload that stands for an entry of the spec."""
    return b"%d.%d.%d" % (entry["writer"], entry["incarnation"], entry["index"])


class RealNodes:
    """The nodes, the metadata that Raft has agreed on, and all messages; in a behaviour's initial state."""

    def __init__(self, state: SpecState) -> None:
        self.by_id = {node: RealNode(node) for node in NODES}
        self.log: list[bytes] = []
        self.agreed = Metadata()
        self.requests = 0
        """How many entries a client has sent."""

        self.stream: dict[int, dict[int, set[bytes]]] = defaultdict(lambda: defaultdict(set))
        """segment -> index -> the entries that were sent with this index."""
        self.frames: dict[tuple[int, int], m.Append] = {}
        """(segment, index) -> the latest frame that has exactly this entry."""
        self.told: dict[tuple[int, int], list[m.AppendReply]] = defaultdict(list)
        """(node, segment) -> the node's reports."""
        self.fences: dict[int, tuple[int, m.PeerMessage]] = {}
        self.answers: list[tuple[int, m.FenceReply]] = []
        self.copies: dict[tuple[int, int, int], tuple[int, m.PeerMessage]] = {}
        """(segment, node, upto) -> the Copy that a recovery sent to the node, and the node that recovers."""
        self.copied: list[tuple[int, m.CopyReply]] = []
        self.proposals: dict[tuple[int, int], Seal] = {}
        """(segment, count) -> the Seal that was proposed."""

        self.acked: dict[int, int] = defaultdict(int)
        self.own: dict[int, int] = defaultdict(int)
        """segment -> how much of its own copy the leader counts, until it knows of the Seal."""
        self.ahead: set[tuple[int, int]] = set()
        """(node, segment) of copies of which more is durable, or reported, than in the spec."""
        self.silent: set[tuple[int, int]] = set()
        """(node, segment) where the node has not reported what it has in the spec."""
        self.decided: set[tuple[int, int]] = set()
        self.late: set[tuple[int, int]] = set()
        """(segment, count) that only a recovery could choose which is over in the code."""
        self._found(state["segments"][1])

    def _found(self, opened: Any) -> None:
        for node in NODES:
            for start in (0, 1):  # 0: a member; 1: it runs
                self.commit(announcement(node, start))
        self.commit(
            RegisterTopic(topic=T, leader=opened["leader"], replicas=tuple(sorted(opened["replicas"])))
        )
        for node in NODES:
            self.apply(node, 1)

    # --- metadata ---

    def commit(self, command: Command) -> None:
        """Commit a command of Raft's log."""
        self.log.append(encode_command(command))
        self.agreed.apply(command)

    def apply(self, node: int, number: int) -> None:
        """Have a node apply the log until it knows that segment."""
        server = self.by_id[node]
        while T not in server.metadata.topics or server.metadata.topics[T].current < number:
            self.do(node, "apply", self.log[len(server.log)])

    def numbers(self) -> range:
        """Return the numbers of the segments."""
        return range(1, self.agreed.topics[T].current + 1)

    def leader(self, number: int) -> int:
        """Return the leader of a segment."""
        return self.agreed.topics[T].segments[number - 1].leader

    # --- what happens ---

    def do(self, node: int, *given: Any, synced: int = 0) -> list[tuple[int, m.PeerMessage]]:
        """Carry out an input of a node. With `synced` its disk syncs that segment's copy, and all others."""
        server = self.by_id[node]
        if synced:
            self.syncs(node, synced)
        sent = server.step(given, slow=not synced)
        for to, message in sent:
            self._note(node, to, message)
        for command in map(decode_command, server.proposed):
            assert isinstance(command, Seal), "only seals are proposed here"
            self.proposals.setdefault((command.segment, command.count), command)
        server.proposed.clear()
        for writer in server.lifecycle.writers.values():
            self.acked[writer.number] = max(self.acked[writer.number], writer.commit_index)
        for number in self.numbers():
            over = server.metadata.is_over(T, number)  # what a repair adds then is no report
            if self.leader(number) == node and not over and not server.copies.get((T, number)).fenced:
                self.own[number] = server.durable(number)
        return sent

    def syncs(self, node: int, but: int = 0) -> None:
        """Note that the node makes more durable than the spec, in all segments except `but`."""
        server = self.by_id[node]
        waits = (s for s in self.numbers() if server.durable(s) < len(server.entries(s)))
        self.ahead |= {(node, number) for number in waits if number != but}

    def _note(self, node: int, to: int, message: m.PeerMessage) -> None:
        match message:
            case m.Append(segment=number, start=start, batch=batch):
                for at, payload in enumerate(batch.payloads()):
                    self.stream[number][start + at + 1].add(payload)
                    one = msgspec.structs.replace(message, start=start + at, batch=batch.slice(at, at + 1))
                    self.frames[number, start + at + 1] = one
            case m.AppendReply(fenced=False):
                self.told[node, message.segment].append(message)
            case m.Fence():
                self.fences[message.segment] = node, message
            case m.FenceReply():
                self.answers.append((node, message))
            case m.Copy():
                self.copies[message.segment, to, message.upto] = node, message
            case m.CopyReply():
                self.copied.append((node, message))

    # --- what was said ---

    def reported(self, node: int, number: int) -> int:
        """Return the length that the node reported; the writer knows its own copy until that is fenced."""
        if node == self.leader(number):
            return self.own[number]
        return max((reply.length for reply in self.told[node, number]), default=0)

    def reported_by_majority(self, number: int) -> int:
        """Return how much of a segment all reports so far allow to acknowledge."""
        lengths = sorted((self.reported(node, number) for node in NODES), reverse=True)
        return lengths[majority(len(NODES)) - 1]

    def answered(self, number: int, upto: int = ANY) -> list[tuple[int, m.FenceReply]]:
        """Return one answer per node, of at most `upto` entries: exactly that long first, then sure ones."""
        fits = [it for it in self.answers if it[1].segment == number and it[1].length <= upto]
        fits.sort(key=lambda it: (it[1].length != upto, not it[1].sure, -it[1].length))
        return list({node: (node, reply) for node, reply in reversed(fits)}.values())[::-1]
