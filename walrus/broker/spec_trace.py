"""What a node records of the commands it applies, in the trace format of docs/model-checking.md.

Everything else that a trace holds is one call where it happens. An applied command is recorded by what it
*did*, which only the metadata can tell once it has been applied: the segment that a Seal opened, in which
incarnation; nothing at all for a Seal that was refused.
"""

from __future__ import annotations

from typing import assert_never

from walrus.segments import (
    Announce,
    Command,
    CommitCursors,
    MarkLeaving,
    Metadata,
    Position,
    RegisterTopic,
    RemoveNode,
    Seal,
    SetReplicas,
)
from walrus.storage.port import Storage
from walrus.wire.effects import Trace


def record_applied(trace: Trace, metadata: Metadata, command: Command, topic: str | None) -> None:
    """Record a command that `metadata` has just applied; `topic` is what `Metadata.apply` returned."""
    match command:
        case Announce():
            trace("Apply", op="Announce", of=command.node_id, incarnation=command.incarnation)
        case RegisterTopic() if topic is not None:
            _opened(trace, metadata, "RegisterTopic", topic)
        case Seal() if topic is not None:
            _opened(trace, metadata, "Seal", topic, segment=command.segment, count=command.count)
            _cursors(trace, metadata, topic, command.cursors)
        case CommitCursors():
            for name, cursors in sorted(command.cursors.items()):
                _cursors(trace, metadata, name, cursors)
        case SetReplicas() if topic is not None:
            trace(
                "Apply",
                op="SetReplicas",
                topic=topic,
                segment=command.segment,
                replicas=list(command.new),
            )
        case RegisterTopic() | Seal() | SetReplicas():
            pass  # it changed nothing
        case MarkLeaving() | RemoveNode():
            pass  # the spec has no members that come and go
        case _:
            assert_never(command)


def record_restored(trace: Trace, metadata: Metadata) -> None:
    """Record that a snapshot brought the node up to each topic's open segment."""
    for name, topic in sorted(metadata.topics.items()):
        trace("Apply", op="Snapshot", topic=name, segment=topic.current)


def copy_lengths(copies: Storage) -> list[tuple[str, int, int]]:
    """What a node finds on its disk when it starts: (topic, segment, length) of each copy of a segment."""
    found = []
    for name in copies.topics():
        topic, _, number = name.rpartition("/")
        if topic and number.isdigit():
            found.append((topic, int(number), copies.bounds(name)[1]))
    return found


def _opened(trace: Trace, metadata: Metadata, op: str, topic: str, **values: object) -> None:
    segment = metadata.topics[topic].open
    trace(
        "Apply",
        op=op,
        topic=topic,
        leader=segment.leader,
        incarnation=segment.incarnation,
        replicas=list(segment.replicas),
        **values,
    )


def _cursors(trace: Trace, metadata: Metadata, topic: str, cursors: dict[str, Position]) -> None:
    known = metadata.topics.get(topic)
    for group, position in sorted(cursors.items()):
        if known is not None and known.cursors.get(group) == position:
            trace(
                "Apply",
                op="CommitCursors",
                topic=topic,
                group=group,
                segment=position.segment,
                offset=position.offset,
            )
