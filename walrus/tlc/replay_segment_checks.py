"""Compares the real nodes with a state of Walrus.tla, and tries what must not happen.

`compare` maps the state of the nodes back: metadata, views, leases, entries, what is durable, what was
reported to the writer, fences, what is acknowledged, the answers to fences, the counts that recoveries
chose, and the seals that were proposed. `replay_segments.py` says where the code may be ahead of the spec.

`probe` tries forbidden steps on copies of nodes: a frame for a fenced replica, a PUT for a writer that may
not write, a seal of what is not acknowledged, all reports and all answers so far, a repeated Seal.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import msgspec

from walrus.quorum import majority
from walrus.segments import Announce, decode_command
from walrus.sim.explore_node import NODES
from walrus.tlc.replay_segment_nodes import RealNode, RealNodes, T, payload_of
from walrus.tlc.replay_steps import Difference, SpecState, SpecStep, same


def compare(nodes: RealNodes, spec: SpecState) -> None:
    """Compare all variables. Raises Difference at the first one that differs in the code."""
    _compare_metadata(nodes, spec)
    for node, server in nodes.by_id.items():
        same(f"up[{node}]", spec["up"][node], server.up)
        same(f"incarnation[{node}]", spec["incarnation"][node] + 1, server.starts)
        if server.up:
            _compare_process(nodes, server, spec)
        for number in nodes.numbers():
            _compare_copy(nodes, server, number, spec)
    for number in nodes.numbers():
        _compare_segment(nodes, number, spec)
    _compare_recoveries(nodes, spec)


def _compare_metadata(nodes: RealNodes, spec: SpecState) -> None:
    topic = nodes.agreed.topics[T]
    shown = {
        number: (part["leader"], part["incarnation"] + 1, tuple(sorted(part["replicas"])), part["count"])
        for number, part in spec["segments"].items()
    }
    none = shown[topic.current][3] if topic.current in shown else None  # the spec's NoCount
    code = {
        number: (part.leader, part.incarnation, part.replicas, none if part.count is None else part.count)
        for number, part in topic.numbered()
    }
    same("metadata", shown, code)
    same("sealed_total", spec["sealed_total"], topic.sealed_total)
    for node in NODES:
        same(f"announced[{node}]", spec["announced"][node] + 1, nodes.agreed.nodes[node].incarnation)


def _compare_process(nodes: RealNodes, server: RealNode, spec: SpecState) -> None:
    node = server.node
    topic = server.metadata.topics.get(T)
    same(f"view[{node}]", spec["view"][node], topic.current if topic else 0)
    same(f"lease[{node}]", spec["lease"][node], server.leases.granted().get(T, 0))
    for number in nodes.numbers():
        copy = server.copies.get((T, number))
        if number >= spec["checkpoint"][node]:  # below, the note may be gone, the fence in memory only
            same(f"fenced[{node}][{number}]", number in spec["fenced"][node], copy.fenced)
        same(f"unsure[{node}][{number}]", False, not copy.sure)
    for writer in server.lifecycle.writers.values():
        if not writer.copy.fenced:
            same(f"sealing[{writer.number}]", writer.number in spec["sealing"], writer.sealing)


def _compare_copy(nodes: RealNodes, server: RealNode, number: int, spec: SpecState) -> None:
    node, at = server.node, (server.node, number)
    same(f"log[{node}][{number}]", tuple(map(payload_of, spec["log"][node][number])), server.entries(number))
    durable, reported = server.durable(number), nodes.reported(node, number)
    synced, matched = spec["synced"][node][number], spec["matched"][node][number]
    if durable < synced or (durable > synced and at not in nodes.ahead):
        raise Difference(f"synced[{node}][{number}]", synced, durable)
    if node not in nodes.agreed.topics[T].segments[number - 1].replicas:
        return
    if (reported < matched and at not in nodes.silent) or (reported > matched and at not in nodes.ahead):
        raise Difference(f"matched[{node}][{number}]", matched, reported)
    if (durable, reported) == (synced, matched):
        nodes.ahead.discard(at)


def _compare_segment(nodes: RealNodes, number: int, spec: SpecState) -> None:
    acked, most = spec["acked"][number], nodes.reported_by_majority(number)
    if not acked <= nodes.acked[number] <= max(most, acked):
        raise Difference(f"acked[{number}]", f"{acked}, or at most {most}", nodes.acked[number])
    sent = {at: {payload_of(entry) for entry in of} for at, of in enumerate(spec["stream"][number], 1)}
    same(f"stream[{number}]", sent, dict(nodes.stream[number]))


def _compare_recoveries(nodes: RealNodes, spec: SpecState) -> None:
    answers = {(reply.segment, node, reply.length, reply.sure) for node, reply in nodes.answers}
    same("answers", spec["answers"], answers)
    same("decided", spec["decided"], frozenset(nodes.decided | nodes.late))
    same(
        "proposals",
        spec["proposals"],
        frozenset(nodes.proposals.keys() | (nodes.late & spec["proposals"])),
    )
    if not spec["recovering"] <= nodes.fences.keys():
        raise Difference("recovering", sorted(spec["recovering"]), sorted(nodes.fences))
    for node, reply in nodes.copied:
        held = {length for s, n, length in spec["copied"] if (s, n) == (reply.segment, node)}
        held |= {length for s, n, length, _ in spec["answers"] if (s, n) == (reply.segment, node)}
        if reply.length > max(held, default=0):
            raise Difference(f"copied[{node}]", sorted(held), reply.length)


# --- what must not happen ----------------------------------------------------------------------------------


def probe(nodes: RealNodes, step: SpecStep, spec: SpecState) -> None:
    """Try steps that the spec does not allow, on copies of nodes. Raises Difference if one has an effect."""
    if step.action == "Fence":
        _probe_fenced(nodes, step.node, step.values[0], spec)
        _probe_recoveries(nodes, step.values[0], spec)
    if step.action in ("Fence", "BeginSeal", "ExpireLease", "Apply", "Restart"):
        _probe_writer(nodes, step.node, spec)
    if step.action in ("Apply", "ReplicaAppend"):
        _probe_frames(nodes, step.node, spec)
    if step.action == "Announce":
        _probe_announced(nodes, step.node)
    if step.action in ("Report", "Fence", "BeginSeal"):
        _probe_acks(nodes, spec)
    if step.action in ("BeginSeal", "LeaderAppend"):
        _probe_seal(nodes, step.node, spec)
    if step.action == "Seal":
        copied = deepcopy(nodes.agreed)
        for proposal in nodes.proposals.values():
            copied.apply(msgspec.structs.replace(proposal, replicas=NODES, leader=1))
        same("metadata, with every seal that came too late", nodes.agreed.topics, copied.topics)


def _tried(nodes: RealNodes, node: int, *given: Any) -> RealNode:
    copied = deepcopy(nodes.by_id[node])
    copied.step(given, slow=True)
    return copied


def _probe_fenced(nodes: RealNodes, node: int, number: int, spec: SpecState) -> None:
    """Send a fenced replica the entry that it lacks."""
    held = nodes.by_id[node].entries(number)
    frame = nodes.frames.get((number, len(held) + 1))
    if frame is not None and node != nodes.leader(number):
        tried = _tried(nodes, node, "deliver", nodes.leader(number), frame)
        same(f"log[{node}][{number}], after a frame for a fenced copy", held, tried.entries(number))


def _probe_frames(nodes: RealNodes, node: int, spec: SpecState) -> None:
    """Send a replica the entry that it lacks, from a node that is no writer, or for a sealed segment."""
    for number in range(1, spec["view"][node] + 1):
        held, leader = nodes.by_id[node].entries(number), nodes.leader(number)
        frame, sealed = nodes.frames.get((number, len(held) + 1)), number < spec["view"][node]
        if frame is not None and node != leader:
            sender = leader if sealed else next(other for other in NODES if other not in (node, leader))
            tried = _tried(nodes, node, "deliver", sender, frame).entries(number)
            if tried != held:
                name = "SealedStable" if sealed else "SingleWriter"
                raise Difference(name, held, f"{tried}, by a frame that node {sender} sent")


def _probe_announced(nodes: RealNodes, node: int) -> None:
    """Repeat the announcement of an earlier start."""
    copied = deepcopy(nodes.agreed)
    for data in nodes.log:
        command = decode_command(data)
        if isinstance(command, Announce) and command.node_id == node:
            copied.apply(command)
    known = nodes.agreed.nodes[node].incarnation
    same(f"announced[{node}], by an earlier start", known, copied.nodes[node].incarnation)


def _probe_writer(nodes: RealNodes, node: int, spec: SpecState) -> None:
    """Send an entry to a node that may not write."""
    for number in nodes.numbers():
        may = spec["lease"][node] == number and spec["heard"][node]
        may = may and number not in spec["fenced"][node] and number not in spec["sealing"]
        if spec["up"][node] and not may:
            held = nodes.by_id[node].entries(number)
            tried = _tried(nodes, node, "put", T, number, nodes.requests + 1, b"probe")
            same(f"log[{node}][{number}], after a PUT", held, tried.entries(number))


def _probe_acks(nodes: RealNodes, spec: SpecState) -> None:
    """Deliver to each writer all reports so far."""
    for server in nodes.by_id.values():
        for writer in server.lifecycle.writers.values() if server.up else ():
            fenced = writer.number in spec["fenced"][server.node]
            most = writer.commit_index if fenced else nodes.reported_by_majority(writer.number)
            copied = deepcopy(server)
            for (node, number), replies in nodes.told.items():
                for reply in replies if number == writer.number else ():
                    copied.step(("deliver", node, reply), slow=True)
            acked = copied.lifecycle.writers[T].commit_index
            if acked > max(most, writer.commit_index):
                raise Difference(f"acked[{writer.number}]", f"at most {most}", acked)


def _probe_seal(nodes: RealNodes, node: int, spec: SpecState) -> None:
    """Let a writer propose its seal before all of its entries are acknowledged."""
    for writer in nodes.by_id[node].lifecycle.writers.values():
        unfinished = nodes.acked[writer.number] < writer.copy.length
        if writer.sealing and unfinished and not writer.copy.fenced:
            tried = _tried(nodes, node, "propose", writer.number)
            same(f"proposals of {node}, before all is acknowledged", [], tried.proposed)


def _probe_recoveries(nodes: RealNodes, number: int, spec: SpecState) -> None:
    """Deliver to each recovery all answers so far: it may decide only if they suffice."""
    answered = {node for segment, node, _, _ in spec["answers"] if segment == number}
    sure = {node for segment, node, _, sure in spec["answers"] if segment == number and sure}
    suffices = len(sure) >= majority(len(NODES)) or answered == set(NODES)
    for server in nodes.by_id.values():
        if not server.up or server.recovery(number) is None or server.chosen(number) is not None:
            continue
        copied = deepcopy(server)
        for node, reply in nodes.answered(number):
            copied.step(("deliver", node, reply), slow=True)
        if copied.recovery(number) is not None:
            chosen = copied.chosen(number) is not None
            same(f"decided[{number}], by all answers that there are", suffices, chosen)
