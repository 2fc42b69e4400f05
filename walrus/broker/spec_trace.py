"""The commands that a node applies, recorded in the trace format of docs/traces.md.

All other events of a trace are one call at the place where they happen. An applied command is recorded by
its *effect*, which only the metadata shows, once it has been applied: the segment that a Seal opened, and
the incarnation; `Nothing` for a Seal that was refused. There is one event for every entry of Raft's log,
with its index, so that a recorded run shows whether all nodes applied the same commands in the same order.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, assert_never

from walrus.acknowledged import groups_told, handed_told
from walrus.config import Identity
from walrus.consensus.messages import MEMBERSHIP, Entry, Membership
from walrus.replicas.copies import Copies
from walrus.segments import (
    Announce,
    Command,
    CommitCursors,
    CommitGroups,
    ConfigureTopic,
    DeleteTopic,
    LastNumber,
    MarkLeaving,
    Metadata,
    MoveGroup,
    Position,
    RegisterTopic,
    RemoveNode,
    Seal,
    SetReplicas,
    Topic,
    Trim,
)
from walrus.wire.effects import Trace, no_trace


def record_applied(trace: Trace, metadata: Metadata, command: Command, topic: str | None, index: int) -> None:
    """Record the command at `index`, which `metadata` has just applied; `apply` returned `topic`."""
    trace("Apply", index=index, **_told(metadata, command, topic))


def _told(metadata: Metadata, command: Command, topic: str | None) -> dict[str, Any]:
    """What a command did."""
    match command:
        case Announce():
            known = metadata.nodes.get(command.node_id)
            if known is not None and known.incarnation == command.incarnation:
                return {"op": "Announce", "of": command.node_id, "incarnation": command.incarnation}
        case RegisterTopic() if topic is not None:
            number, protects = command.number, bool(command.settings.get("protect_groups"))
            return {"op": "RegisterTopic", **_opened(metadata, topic), "number": number, "protects": protects}
        case Seal() if topic is not None and topic not in metadata.topics:
            return {"op": "EndTopic", "topic": topic, "segment": command.segment}
        case Seal() if topic is not None:
            return {"op": "Seal", **_opened(metadata, topic), **_ended(metadata.topics[topic], command)}
        case CommitCursors():
            return {"op": "CommitCursors", "cursors": _moved(metadata.topics, command.cursors)}
        case SetReplicas() if topic is not None:
            replicas = sorted(command.new)
            return {"op": "SetReplicas", "topic": topic, "segment": command.segment, "replicas": replicas}
        case MarkLeaving():
            known = metadata.nodes.get(command.node_id)
            if known is not None and known.leaving:
                return {"op": "MarkLeaving", "of": command.node_id}
        case RemoveNode():
            if command.node_id not in metadata.nodes:
                return {"op": "RemoveNode", "of": command.node_id}
        case RegisterTopic() | Seal() | SetReplicas():
            pass
        case ConfigureTopic() if topic is not None:
            protects = bool(metadata.topics[topic].settings.get("protect_groups"))
            return {"op": "ConfigureTopic", "topic": topic, "protects": protects}
        case Trim() if topic is not None:
            dropped = {"old": command.old, "first": command.first}
            return {
                "op": "Trim",
                "topic": topic,
                **dropped,
                **_places(metadata, {topic: metadata.topics[topic]}),
            }
        case DeleteTopic() if topic is not None and topic not in metadata.topics:
            return {"op": "EndTopic", "topic": topic, "segment": metadata.next_number(topic) - 1}
        case DeleteTopic() if topic is not None:
            return {"op": "DeleteTopic", "topic": topic, "born": command.born}
        case ConfigureTopic() | Trim() | DeleteTopic():
            pass
        case CommitGroups():
            return {"op": "CommitGroups", "groups": _acknowledged(metadata, command.groups)}
        case MoveGroup():
            return {"op": "MoveGroup", "groups": _acknowledged(metadata, {command.topic: [command.group]})}
        case _:
            assert_never(command)
    return {"op": "Nothing"}


def record_entry(trace: Trace, entry: Entry) -> None:
    """Record an applied entry that is no command: the members of Raft's cluster, or the no-op of a leader."""
    if entry.kind is MEMBERSHIP:
        trace("Apply", index=entry.index, op="Voters", voters=list(Membership.decode(entry.data).voters))
    else:
        trace("Apply", index=entry.index, op="Nothing")


def record_snapshot(trace: Trace, metadata: Metadata, index: int, changed: Collection[str]) -> None:
    """Record that these topics are as in a snapshot of everything up to `index`; with the last ones, all."""
    if metadata.whole:
        trace("Apply", index=index, op="Snapshot", **_as_they_are(metadata, metadata.topics))
        return
    gone = sorted(set(changed) - metadata.topics.keys())
    there = [name for name in changed if name in metadata.topics]
    trace("Apply", index=index, op="SnapshotTopics", **_as_they_are(metadata, there), gone=gone)


def _as_they_are(metadata: Metadata, names: Iterable[str]) -> dict[str, Any]:
    """What a node knows of these topics."""
    topics = [(name, metadata.topics[name]) for name in sorted(names)]
    return {
        "topics": [[name, topic.current] for name, topic in topics],
        "retained": [[name, topic.first] for name, topic in topics],
        **_places(metadata, dict(topics)),
        "producers": [[name, *told] for name, topic in topics for told in producers_told(topic.producers)],
    }


def producers_told(producers: Mapping[str, LastNumber]) -> list[list[object]]:
    """How far each has come, for a recorded run: [producer, last number]."""
    return [[name, known.last] for name, known in sorted(producers.items())]


def record_start(trace: Trace, identity: Identity, copies: Copies) -> None:
    """Record that a process starts, and what it finds, before it does anything."""
    if copies.recording:
        started = {"incarnation": identity.incarnation, "directory": identity.directory_id}
        trace("Restart", **started, copies=copies.found())


def synced(trace: Trace) -> Callable[[str, int], None] | None:
    """What `Durable` tells of a recorded run: entries of a copy are durable. None if nothing records."""
    if trace is no_trace:
        return None

    def record(name: str, length: int) -> None:
        topic, _, number = name.rpartition("/")
        if topic and number.isdigit():
            trace("Synced", topic=topic, segment=int(number), length=length)

    return record


def _opened(metadata: Metadata, topic: str) -> dict[str, Any]:
    segment = metadata.topics[topic].open
    return {
        "topic": topic,
        "leader": segment.leader,
        "incarnation": segment.incarnation,
        "replicas": sorted(segment.replicas),
    }


def _ended(topic: Topic, seal: Seal) -> dict[str, Any]:
    """How a segment of it was sealed, and what its groups and producers are then."""
    return {
        "segment": seal.segment,
        "count": seal.count,
        "recovered": seal.recovered,
        "cursors": _moved({seal.topic: topic}, {seal.topic: seal.cursors}),
        "groups": groups_told(topic.groups),
        "handed": handed_told(topic.handed),
        "producers": producers_told(topic.producers),
    }


def _places(metadata: Metadata, topics: Mapping[str, Topic]) -> dict[str, Any]:
    """Where all groups of these topics are."""
    cursors = [
        [name, group, *place] for name, topic in topics.items() for group, place in topic.cursors.items()
    ]
    groups = _acknowledged(metadata, {name: topic.groups for name, topic in topics.items()})
    return {"cursors": cursors, "groups": groups}


def _acknowledged(metadata: Metadata, named: Mapping[str, Collection[str]]) -> list[list[object]]:
    """The state of these groups of topics, as it is now: each as in `groups_told`, behind its topic."""
    return [
        [name, *told]
        for name, groups in sorted(named.items())
        if name in metadata.topics
        for told in groups_told({one: metadata.topics[name].group(one) for one in groups})
    ]


def _moved(topics: Mapping[str, Topic], cursors: dict[str, dict[str, Position]]) -> list[list[object]]:
    """Those that stand where they were to be put: [topic, group, segment, offset]."""
    return [
        [name, group, *place]
        for name, groups in sorted(cursors.items())
        for group, place in sorted(groups.items())
        if name in topics and topics[name].cursors.get(group) == place
    ]
