"""Where a new segment goes: its leader and its replica set.

The proposer decides, and the command records the decision: `Metadata.apply` never computes a placement. So
two versions of this module may disagree about where a segment belongs, and all nodes still hold the same
metadata.

A proposer's metadata may be old: it may not know a member yet, and would give a new segment fewer replicas
than there are voters for. Only the Raft leader knows the membership at the index at which a command is
appended. So it checks each placement before it appends it (`completed`), and adds missing replicas. All
proposals pass this one place: REGISTER, rollover and failover.

The Raft leader's own metadata may be behind its log, too. `Departures` reads the rest of the log for it.

Invariant, as in `spec/Walrus.tla`: EnoughReplicas (a segment opens with as many replicas as the replication
factor asks for, or as there are voters that stay).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from zlib import crc32

import msgspec

from walrus.consensus.log import RaftLog
from walrus.consensus.messages import COMMAND
from walrus.segments import (
    Command,
    MarkLeaving,
    Member,
    RegisterTopic,
    Seal,
    UnknownCommand,
    decode_command,
)


def first_leader(topic: str, live: Collection[int]) -> int:
    """Return the leader of a topic's first segment: a stable hash spreads topics over the live nodes."""
    assert live, "a segment needs a leader"
    candidates = sorted(live)
    return candidates[crc32(topic.encode()) % len(candidates)]


def next_leader(current: int, live: Collection[int]) -> int:
    """Return the live node that follows `current` round-robin.

    >>> next_leader(1, [1, 2, 3]), next_leader(3, [1, 2, 3]), next_leader(2, [1, 2])
    (2, 1, 1)
    """
    assert live, "a segment needs a leader"
    candidates = sorted(live)
    return next((node for node in candidates if node > current), candidates[0])


def replica_set(leader: int, live: Collection[int], voters: Collection[int], factor: int) -> tuple[int, ...]:
    """Return the leader, then `factor - 1` other voters (fewer if there are fewer), live ones preferred.

    A dead voter is chosen only if there are too few live ones. The majority is that of `factor` replicas
    anyway, and once the voter returns, the segment has all its copies.

    >>> replica_set(2, [1, 2, 3], [1, 2, 3], 3), replica_set(2, [1, 2], [1, 2, 3, 4], 3)
    ((2, 1, 3), (2, 1, 3))
    """
    alive = set(live)
    others = sorted(set(voters) - {leader}, key=lambda node: (node not in alive, node <= leader, node))
    chosen: Sequence[int] = others[: max(factor, 1) - 1]
    assert leader not in chosen, "a replica set names each node once"
    return (leader, *sorted(chosen))


def completed(
    command: Command,
    voters: Collection[int],
    nodes: Mapping[int, Member],
    factor: int,
    leaving: Collection[int] = (),
) -> Command | None:
    """Return the command as a Raft leader may append it; None if it must be proposed again.

    `voters`: Raft's membership at the end of the log. `nodes`: the members in the applied metadata.
    `leaving`: the nodes that the rest of the log marks as leaving.

    It returns None while the metadata does not know every voter, since an unknown voter may hold replicas or
    be leaving. It also does so if the segment's leader is not a voter any more or is leaving, which the
    proposer did not know, and if the leader has never started, since a segment is opened for a start of its
    leader.
    """
    if not isinstance(command, RegisterTopic | Seal):
        return command
    gone = {*leaving, *(node for node in voters if node in nodes and nodes[node].leaving)}
    staying = [node for node in sorted(voters) if node not in gone]
    if command.leader not in staying or not all(node in nodes for node in staying):
        return None
    if not nodes[command.leader].incarnation:
        return None
    kept = [node for node in command.replicas if node in staying and node != command.leader]
    spare = [node for node in staying if node not in command.replicas]
    missing = max(min(factor, len(staying)) - len(kept) - 1, 0)
    replicas = (command.leader, *sorted([*kept, *spare[:missing]]))
    assert len(replicas) >= min(factor, len(staying)), "EnoughReplicas"
    return msgspec.structs.replace(command, replicas=replicas)


class Departures:
    """The nodes that a Raft leader's log marks as leaving, by commands that are not applied yet.

    A leader's log only grows during its term, so each entry is examined once.
    """

    def __init__(self) -> None:
        self._seen = (0, 0)  # the term, and the index up to which the log was examined in it
        self._asked: dict[int, int] = {}  # node -> index of the command

    def ahead(self, log: RaftLog, term: int, applied: int) -> Collection[int]:
        """Return the nodes that entries after `applied` mark as leaving; `term` is this leader's."""
        seen_in, seen = self._seen
        if seen_in != term:
            self._asked.clear()
            seen = 0
        for entry in log.entries(max(seen, applied, log.snapshot_index) + 1, log.last_index + 1):
            with suppress(UnknownCommand):  # the node halts when it applies this command
                command = decode_command(entry.data) if entry.kind == COMMAND else None
                if isinstance(command, MarkLeaving):
                    self._asked[command.node_id] = entry.index
        self._seen = term, log.last_index
        for node in [node for node, index in self._asked.items() if index <= applied]:
            del self._asked[node]
        return self._asked
