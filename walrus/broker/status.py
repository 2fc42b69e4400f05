"""STATE and METRICS: what a node reports about a topic and about itself, as JSON.

Fields of the original system keep their names and shapes, because its clients read them. Other fields are
added beside them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from math import isinf
from typing import Any

import msgspec

from walrus.broker.lag import group_figures, topics_led, under_replicated
from walrus.broker.lifecycle import Recoveries
from walrus.config import Identity, NodeConfig
from walrus.consensus.log import RaftLog
from walrus.consensus.messages import Role
from walrus.raft import Raft
from walrus.segments import Metadata, Position, Topic, start_number
from walrus.settings import shown

MAX_DIGESTED = 10_000
"""Segments up to which METRICS has a digest of the metadata: it takes time that grows with them."""

MAX_LEASES = 100
"""Leases that METRICS names; it counts all."""


class Counted(msgspec.Struct, frozen=True, kw_only=True):
    """What this node has done since it started, by the names that METRICS gives it."""

    puts_acknowledged: int
    entries_lost: int
    """Entries that groups stepped over because no replica has them."""
    deliveries: int
    redeliveries: int
    dead_letters: int
    repetitions: int
    """Entries that producers sent again, and that were not appended again."""
    entries_trimmed: int
    """Entries whose room was given back."""
    append_durable_seconds: Mapping[str, Any]
    append_acknowledged_seconds: Mapping[str, Any]
    """Histograms: see `replicas/latency.py`."""


class NodeView(msgspec.Struct, frozen=True, kw_only=True):
    """What METRICS is about: three of the node's state machines, read only, and figures of the others."""

    config: NodeConfig
    identity: Identity
    raft: Raft
    metadata: Metadata
    applied: int
    """Index up to which `metadata` is applied."""
    why_not_ready: str
    """"" if the node is ready."""
    connected: Collection[int]
    wire_versions: Mapping[int, int]
    leases: dict[str, int]
    """Those that are good now: topic -> segment."""
    segments_led: int
    led: dict[str, int]
    """Topics whose open segment this node leads -> how many entries of that are acknowledged."""
    out: Callable[[str], Mapping[str, int]]
    """Topic -> group -> entries that are with its consumers, of the topics that this node leads."""
    counted: Counted
    voters: int
    """Members that may hold replicas."""
    entries: int
    bytes: int
    recoveries: Recoveries
    """Those of this node, and the last failovers as far as it took part."""
    copies_behind: int
    unix_time: float
    """Seconds since the epoch, at the same moment as `now`."""
    process: Mapping[str, Any]
    """What the shell measures: durations, disk, connections. Empty where there is no process."""


def state(topic: Topic, open_entries: int | None, out: Mapping[str, int]) -> bytes:
    """STATE of a topic. `open_entries` and `out`: as for `lag.group_figures`."""
    numbered = {str(number): segment for number, segment in topic.numbered()}
    return msgspec.json.encode(
        {
            "current_segment": topic.current,
            "leader_node": topic.open.leader,
            "last_sealed_entry_offset": topic.sealed_total,
            "sealed_segments": {n: s.count for n, s in numbered.items() if s.count is not None},
            "segment_leaders": {n: s.leader for n, s in numbered.items()},
            "segment_replicas": {n: list(s.replicas) for n, s in numbered.items()},
            "cursors": {group: _position(at) for group, at in sorted(topic.cursors.items())},
            "first_segment": topic.first,
            "deleting": topic.deleting,
            "settings": {name: shown(name, value) for name, value in sorted(topic.settings.items())},
            "trimmed_entries": topic.trimmed,
            "skipped": dict(sorted(topic.skipped.items())),
            "dead_letters": dict(sorted(topic.dead.items())),
            "queues": {
                group: {**_position(done.low), "acknowledged_above": sum(r.end - r.start for r in done.above)}
                for group, done in sorted(topic.groups.items())
            },
            "groups": group_figures(topic, open_entries, out),
            "exact": open_entries is not None,
            "retained_entries": topic.sealed_total - topic.trimmed,
            "retained_bytes": sum(segment.size for segment in topic.segments),
        }
    )


def _position(position: Position) -> dict[str, int]:
    return {"segment": position.segment, "offset": position.offset}


def _log_id(term: int, index: int, leader: int | None) -> dict[str, Any]:
    return {"leader_id": {"term": term, "node_id": leader}, "index": index}


def metrics(node: NodeView, now: float) -> bytes:
    """METRICS of the answering node."""
    return msgspec.json.encode({**_raft_metrics(node, now), **_own_metrics(node, now), **node.process})


def _term(log: RaftLog, index: int) -> int:
    """The term of an entry; 0 if it is below the snapshot, as what is applied is while one is installed."""
    return log.term_at(index) if log.holds(index) else 0


def _raft_metrics(node: NodeView, now: float) -> dict[str, Any]:
    raft = node.raft
    leads = raft.role is Role.LEADER
    log = raft.log
    snapshot = _log_id(log.snapshot_term, log.snapshot_index, None) if log.snapshot_index else None
    applied = _log_id(_term(log, node.applied), node.applied, raft.leader_id) if node.applied else None
    voted = raft.voted_for if raft.voted_for is not None else raft.leader_id
    nodes = {str(n): {"addr": peer.raft_address} for n, peer in sorted(node.metadata.nodes.items())}
    replication = {
        str(n): {"leader_id": {"term": raft.current_term, "node_id": raft.leader_id}, "index": p.match_index}
        for n, p in sorted(raft.progress.items())
    }
    replication[str(node.config.node_id)] = {
        "leader_id": {"term": raft.current_term, "node_id": raft.leader_id},
        "index": log.last_index,
    }
    since_quorum = max(0.0, now - raft.last_contact)
    membership = log.membership_index
    return {
        "running_state": {"Ok": None},
        "id": node.config.node_id,
        "current_term": raft.current_term,
        "vote": {
            "leader_id": {"term": raft.current_term, "node_id": voted},
            "committed": raft.leader_id is not None,
        },
        "last_log_index": log.last_index,
        "last_applied": applied,
        "snapshot": snapshot,
        "purged": snapshot,
        "state": "Candidate" if raft.role is Role.PRE_CANDIDATE else raft.role.value,
        "current_leader": raft.leader_id,
        "millis_since_quorum_ack": round(since_quorum * 1000) if leads else None,
        "last_quorum_acked": _nanoseconds(node.unix_time - since_quorum) if leads else None,
        "membership_config": {
            "log_id": _log_id(_term(log, membership), membership, None) if membership else None,
            "membership": {"configs": [list(raft.membership.voters)], "nodes": nodes},
        },
        "heartbeat": _heartbeat(node, now) if leads else None,
        "replication": dict(sorted(replication.items())) if leads else None,
    }


def _heartbeat(node: NodeView, now: float) -> dict[str, int | None]:
    """When each node was last heard from by this leader, in Unix nanoseconds; None for never."""
    heard = {n: peer.last_heard for n, peer in node.raft.progress.items()}
    heard[node.config.node_id] = now
    return {
        str(n): None if isinf(at) else _nanoseconds(node.unix_time - (now - at))
        for n, at in sorted(heard.items())
    }


def _nanoseconds(seconds: float) -> int:
    return round(seconds * 1e9)


def _under_replicated(node: NodeView) -> int:
    """Segments with too few replicas on nodes that this one reaches, itself included."""
    metadata, reachable = node.metadata, {node.config.node_id, *node.connected}
    wanted = min(node.config.replication_factor, max(1, node.voters))
    return under_replicated(metadata.open_at, metadata.sealed_at, wanted, reachable)


def _waiting(recoveries: Recoveries, now: float) -> dict[str, float]:
    """Recoveries that wait for copies a power loss may have shortened: topic/segment -> seconds."""
    return {
        f"{topic}/{segment}": round(now - recovery.started_at, 3)
        for (topic, segment), recovery in recoveries.items()
        if recovery.waits_for_sure_copies
    }


def _own_metrics(node: NodeView, now: float) -> dict[str, Any]:
    return {
        "commit_index": node.raft.commit_index,
        "incarnation": node.identity.incarnation,
        "starts": start_number(node.identity.incarnation),
        "cluster_id": node.identity.cluster_id,
        "ready": not node.why_not_ready,
        "why_not_ready": node.why_not_ready or None,
        "replication_factor": node.config.replication_factor,
        "learners": list(node.raft.membership.learners),
        "client_addresses": {str(n): p.client_address for n, p in sorted(node.metadata.nodes.items())},
        "connected": sorted(node.connected),
        "wire_versions": {str(n): node.wire_versions.get(n) for n in sorted(node.connected)},
        "command_versions": {str(n): peer.known for n, peer in sorted(node.metadata.nodes.items())},
        "leases": len(node.leases),
        "leases_held": dict(list(node.leases.items())[:MAX_LEASES]),
        "segments_led": node.segments_led,
        "topics": len(node.metadata.topics),
        "topics_led": topics_led(node.metadata, node.led, node.out),
        "under_replicated": _under_replicated(node),
        "entries": node.entries,
        "bytes": node.bytes,
        **msgspec.structs.asdict(node.counted),
        "failovers": node.metadata.failovers,
        "last_failovers": node.recoveries.failovers.told(now),
        "recoveries": len(node.recoveries),
        "recoveries_waiting_for_sure_copies": _waiting(node.recoveries, now),
        "copies_behind": node.copies_behind,
        "metadata_digest": _digest(node.metadata),
    }


def _digest(metadata: Metadata) -> str | None:
    """None if it would take long, or while some topics are of a later index than others."""
    return metadata.digest() if metadata.whole and metadata.segments <= MAX_DIGESTED else None
