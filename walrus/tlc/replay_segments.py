"""Behaviours of Walrus.tla, performed on the real state machines of the segment protocol.

Nothing is random here: the steps of a behaviour are performed on three real nodes (`_Action` for each
action), and the state of the nodes is compared after each. `replay_segment_nodes.py` has the nodes and what
they have sent, `replay_segment_checks.py` what is compared, and the forbidden steps that are tried.

Where the code does in one step what the spec does in two, the driver waits for the second, or lets the code
be ahead:

    a disk syncs all its files, the spec one copy      `ahead`: more is durable, and told, than in the spec
    what a power loss leaves is durable, and so is     the same
    what a start finds
    a report that says 2 acknowledges 1 and 2          `acked` may be ahead, by what was told
    a seal is proposed as soon as it may be            `RealNode.may_propose` holds it back
    a recovery asks its own node at once               messages to oneself wait, as all others do

A step that only the spec can take ends the replay of a behaviour, and is counted (`Beyond`): a power loss
that takes what another copy's sync made durable; a recovery when no node is left that could run one; a
report of a node that does not know the segment yet.

Left out: readers and cursors (they belong to `broker/`), replica sets that change and members that leave
(to the Raft leader), damage (to the storage engine), `--fsync none` and the doubts that follow it (to
`raft_host.py`), RECOVER, a second topic, and time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import msgspec

from walrus.sim.explore_node import ASSERTED, NODES, announcement
from walrus.sim.violation import Violation, noticed
from walrus.tlc.replay_segment_checks import compare, probe
from walrus.tlc.replay_segment_nodes import RealNode, RealNodes, T, payload_of
from walrus.tlc.replay_steps import Beyond, Difference, SpecState, SpecStep, same
from walrus.wire import messages as m

LATE: Final = "a recovery of a segment that is sealed goes on"


class Segments(RealNodes):
    """Real nodes in the initial state of a behaviour; `perform` applies a step to them and compares."""

    def __init__(self, state: SpecState) -> None:
        if not state["segments"] or sorted(state["up"]) != list(NODES):
            raise Beyond("only three nodes with a topic that is registered can be set up")
        super().__init__(state)
        compare(self, state)

    def perform(self, step: SpecStep, before: SpecState, after: SpecState) -> None:
        """Do one step of flat states. Raises Difference if the code ends in another state, or Beyond."""
        action: Callable[[SpecStep, SpecState], None] = getattr(self, f"_{step.action}")
        try:
            action(step, after)
            compare(self, after)
            probe(self, step, after)
        except Violation as broken:
            raise Difference(broken.name, "kept", f"broken: {broken.what}") from broken
        except (AssertionError, LookupError, ValueError) as error:
            said = noticed(error, ASSERTED, f"node {step.node}")
            raise Difference(said.name, "kept", f"broken: {said.what}") from error

    # --- metadata ---

    def _Announce(self, step: SpecStep, spec: SpecState) -> None:
        self.commit(announcement(step.node, step.values[0] + 1))

    def _Apply(self, step: SpecStep, spec: SpecState) -> None:
        self.apply(step.node, step.values[0])

    def _Seal(self, step: SpecStep, spec: SpecState) -> None:
        """Commit the Seal with the spec's place for the next segment, as the Raft leader may choose it."""
        number = len(spec["segments"])
        key = (number - 1, spec["segments"][number - 1]["count"])
        if key in self.late:
            raise Beyond(LATE)
        opened = spec["segments"][number]
        replicas = tuple(sorted(opened["replicas"]))
        self.commit(msgspec.structs.replace(self.proposals[key], leader=opened["leader"], replicas=replicas))

    def _Checkpoint(self, step: SpecStep, spec: SpecState) -> None:
        server = self.by_id[step.node]
        server.checkpoint = len(server.log)

    def _ForgetFence(self, step: SpecStep, spec: SpecState) -> None:
        self.do(step.node, "forget", step.values[0])
        self.do(step.node, "sync", 1)

    # --- leases and writing ---

    def _ExpireLease(self, step: SpecStep, spec: SpecState) -> None:
        self.do(step.node, "lapse")

    def _RenewLease(self, step: SpecStep, spec: SpecState) -> None:
        self.do(step.node, "renew")

    def _LeaderAppend(self, step: SpecStep, spec: SpecState) -> None:
        (number,) = step.values
        self.requests += 1
        payload = payload_of(spec["log"][step.node][number][-1])
        self.do(step.node, "put", T, number, self.requests, payload)

    def _ReplicaAppend(self, step: SpecStep, spec: SpecState) -> None:
        number, upto = step.values
        self.do(step.node, "deliver", self.leader(number), self.frames[number, upto])

    def _Report(self, step: SpecStep, spec: SpecState) -> None:
        """Make durable what waits, which reports it, unless the node does not know the segment (yet)."""
        node, (number,) = step.node, step.values
        self.syncs(node, number)
        self.do(node, "sync", 0)
        knows = spec["view"][node] == number
        if not knows and self.reported(node, number) < spec["matched"][node][number]:
            self.silent.add((node, number))

    def _Ack(self, step: SpecStep, spec: SpecState) -> None:
        number, count = step.values
        for node in NODES:
            enough = [reply for reply in self.told[node, number] if reply.length >= count]
            if self.acked[number] < count and enough and spec["matched"][node][number] >= count:
                self.do(step.node, "deliver", node, enough[0])
        if self.acked[number] < count and any((node, number) in self.silent for node in NODES):
            raise Beyond("a node reports that does not know the segment")

    def _BeginSeal(self, step: SpecStep, spec: SpecState) -> None:
        self.do(step.node, "begin_seal", *step.values)

    def _ProposeSeal(self, step: SpecStep, spec: SpecState) -> None:
        self.do(step.node, "propose", step.values[0])

    # --- fence, recover, seal ---

    def _StartRecovery(self, step: SpecStep, spec: SpecState) -> None:
        self.do(step.node, "recover", T, *step.values)

    def _Fence(self, step: SpecStep, spec: SpecState) -> None:
        sender, message = self.fences[step.values[0]]
        self.do(step.node, "deliver", sender, message, synced=step.values[0])

    def _deciding(self, number: int, count: int) -> RealNode | None:
        """Return a node whose recovery has chosen `count`; if need be, deliver answers to make one choose."""
        for server in self.by_id.values():
            if server.up and server.chosen(number) == count:
                return server
        if number < self.agreed.topics[T].current:
            self.late.add((number, count))
            return None
        for server in self.by_id.values():
            known = server.metadata.topics.get(T)
            if server.up and known and known.current == number and server.chosen(number) is None:
                self.do(server.node, "recover", T, number)
                self._decide(server, number, count)
                return server
        raise Beyond("no node is left that could recover")

    def _decide(self, server: RealNode, number: int, count: int) -> None:
        assert server.recovery(number) is not None, "a recovery was begun"
        for node, reply in self.answered(number, count):
            if server.chosen(number) is None:
                self.do(server.node, "deliver", node, reply)
        same(f"decided[{number}]", count, server.chosen(number))
        self.decided.add((number, count))

    def _Recover(self, step: SpecStep, spec: SpecState) -> None:
        number, count = step.values
        self._deciding(number, count)

    def _tell_answers(self, server: RealNode, number: int) -> None:
        for node, reply in self.answered(number):
            self.do(server.node, "deliver", node, reply)

    def _tell_all(self, server: RealNode, number: int, count: int) -> None:
        """Deliver to a node's recovery every answer, and every copy that is long enough."""
        self._tell_answers(server, number)
        for node in NODES:
            asked = self.copies.get((number, node, count))
            if asked and asked[0] == server.node and self._whole(node, number, count):
                self.do(node, "deliver", *asked)
        for node, copied in list(self.copied):
            if copied.segment == number:
                self.do(server.node, "deliver", node, copied)

    def _whole(self, node: int, number: int, count: int) -> bool:
        server = self.by_id[node]
        return server.up and len(server.entries(number)) >= count

    def _RecoverySeal(self, step: SpecStep, spec: SpecState) -> None:
        number, count = step.values
        server = self._deciding(number, count)
        if server is None:
            return
        self._tell_all(server, number, count)
        recovery = server.recovery(number)
        assert recovery is not None, "it has decided"
        if recovery.found is None and not all(node.up for node in self.by_id.values()):
            raise Beyond("only a node that is down could tell that it holds the count")
        self.do(server.node, "propose", 0)

    def _CopyTail(self, step: SpecStep, spec: SpecState) -> None:
        node, (number, upto) = step.node, step.values
        for count in sorted(count for of, count in spec["decided"] if of == number and count >= upto):
            server = self._deciding(number, count)
            if server is not None:
                self._tell_answers(server, number)
            if (number, node, count) in self.copies:
                self.do(node, "give_up_reads")
                sent = self.do(node, "deliver", *self.copies[number, node, count])
                if self._pull(node, number, upto, sent, spec):
                    return
        raise Beyond(LATE)

    def _Repair(self, step: SpecStep, spec: SpecState) -> None:
        number, upto = step.values
        for _ in NODES:  # it asks another source each time
            if self._pull(step.node, number, upto, self.do(step.node, "catch_up_again"), spec):
                return
        raise Difference(f"log[{step.node}][{number}]", f"extended to {upto}", "not asked for")

    def _pull(self, node: int, number: int, upto: int, sent: list[Any], spec: SpecState) -> bool:
        """Deliver what the node asked another one for, up to the length that the spec says."""
        for source, read in sent:
            if isinstance(read, m.Read) and read.segment == number:
                if len(spec["log"][source][number]) < upto:
                    return False
                for _, reply in self.do(source, "deliver", node, read):
                    assert isinstance(reply, m.ReadReply), "a read is answered"
                    cut = msgspec.structs.replace(reply, batch=reply.batch.slice(0, upto - read.start))
                    self.do(node, "deliver", source, cut, synced=number)
                    return True
        return False

    # --- faults ---

    def _Crash(self, step: SpecStep, spec: SpecState) -> None:
        self.by_id[step.node].up = False

    def _LosePower(self, step: SpecStep, spec: SpecState) -> None:
        server = self.by_id[step.node]
        left = {number: len(log) for number, log in spec["log"][step.node].items()}
        if any(server.durable(number) > length for number, length in left.items()):
            raise Beyond("a power loss takes what another copy's sync made durable")
        pending = [number for number in left if server.durable(number) < len(server.entries(number))]
        lengths = iter([left[number] for number in pending])
        self.syncs(step.node)
        server.engines[0].lose_power(lambda ends: next(lengths))
        server.engines[1].lose_power()
        server.up = False

    def _Restart(self, step: SpecStep, spec: SpecState) -> None:
        self.syncs(step.node)
        self.do(step.node, "restart")
