"""Recorded runs for WalrusTrace.tla: the events of the data plane, and what they need to be read as such.

Names of topics stay strings; a node's incarnations are numbered 0, 1, ... in the order of its starts; the
commands that nodes apply become events of their own; a power loss gets the lengths that the next start finds.
"""

from __future__ import annotations

from collections.abc import Sequence

from walrus.tlc.trace_spec import UNLIMITED, Event, Run, TraceSpec, begin_of, tla, tla_set, values_of

_SEGMENT_EVENTS = {
    *("LeaderAppend", "ReplicaAppend", "Report", "Ack", "Grant", "BeginSeal", "ProposeSeal", "Sure"),
    *("StartRecovery", "Fence", "Recover", "CopyTail", "RecoverySeal", "Deliver", "ProposeCursors"),
}
_APPLIED = {"RegisterTopic", "Seal", "CommitCursors", "SetReplicas", "Announce", "Snapshot"}
_WORLD = {"Crash", "PowerLoss", "Restart"}
_FIELDS = {
    *("ev", "node", "topic", "segment", "start", "count", "length", "sure", "group", "offset"),
    *("leader", "incarnation", "replicas", "of", "lengths", "all"),
}


class _Incarnations:
    """Numbers a node's process starts 0, 1, ... in the order in which they are first heard of.

    A node that acts before any start of it was heard of is in its start 0, whatever its number is.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[int, int], int] = {}
        self._count: dict[int, int] = {}
        self._acted: set[int] = set()

    def acts(self, node: int) -> None:
        self._acted.add(node)

    def number(self, node: int, incarnation: int) -> int:
        if (node, incarnation) not in self._known:
            self._known[node, incarnation] = self._count.get(node, 0)
            self._count[node] = self._known[node, incarnation] + 1
        return self._known[node, incarnation]

    def knows(self, node: int, incarnation: int) -> bool:
        return (node, incarnation) in self._known

    def restart(self, node: int, incarnation: int) -> int:
        if node in self._acted:
            self._count.setdefault(node, 1)
        return self.number(node, incarnation)


def _starts_first(events: Sequence[Event]) -> list[Event]:
    """Each `Restart` before whatever its process already recorded while it was being put together.

    Raft is put together first, and its own Restart event marks the place.
    """
    found: list[Event] = []
    began: dict[int, int] = {}
    for event in events:
        if event["ev"] == "Restart" and "incarnation" in event:
            found.insert(began.pop(event["node"], len(found)), event)
            began = {}  # places behind the insertion have moved; starts of two nodes do not interleave
            continue
        if event["ev"] == "Restart":
            began[event["node"]] = len(found)
        found.append(event)
    return found


def _with_lengths(events: Sequence[Event]) -> list[Event]:
    """Each `PowerLoss` with the lengths that the node finds when it starts again."""
    found: list[Event] = []
    lengths: dict[int, object] = {}
    for event in reversed(events):
        if event["ev"] == "Restart" and "lengths" in event:
            lengths[event["node"]] = event["lengths"]
        if event["ev"] == "PowerLoss" and "lengths" not in event and event["node"] in lengths:
            event = {**event, "lengths": lengths[event["node"]], "all": True}
        found.append(event)
    return found[::-1]


def data_plane(events: Sequence[Event]) -> list[Event]:
    """The events that WalrusTrace.tla knows, with the values that it reads."""
    numbers, down, cut, found = _Incarnations(), set[int](), set[int](), list[Event]()
    for event in _with_lengths(_starts_first(events)):
        if "current_term" in event:
            continue  # Raft's
        name = event["op"] if event["ev"] == "Apply" else event["ev"]
        if name not in _SEGMENT_EVENTS | _APPLIED | _WORLD:
            continue
        node = event["node"]
        if name == "Crash" and node in down:
            continue
        if name in ("Crash", "PowerLoss"):
            down.add(node)
            if name == "PowerLoss":
                cut.add(node)
        elif name == "Restart":
            down.discard(node)
        kept = {key: value for key, value in event.items() if key in _FIELDS} | {"ev": name}
        if name == "PowerLoss":
            if "lengths" not in event:
                continue  # it never starts again, so its lengths are not known, and not needed
            kept.setdefault("all", False)
        if name == "Restart":
            if node in cut:
                cut.remove(node)
                kept.pop("lengths", None)  # those of the power loss
            if numbers.restart(event["node"], event["incarnation"]) == 0:
                continue  # its first start: it is up from the beginning
        elif name == "Announce":
            if not numbers.knows(event["of"], event["incarnation"]):
                continue  # a member that has never started: the spec has no such state
            kept["incarnation"] = numbers.number(event["of"], event["incarnation"])
        elif name in ("RegisterTopic", "Seal"):
            kept["incarnation"] = numbers.number(event["leader"], event["incarnation"])
        if name == "Fence":
            kept.setdefault("sure", True)
        numbers.acts(node)
        found.append(kept)
    return found


def _definitions(runs: Sequence[Run]) -> dict[str, str]:
    return {"EachIsSynced": tla(any(begin_of(run).get("fsync_each", False) for run in runs))}


def _constants(runs: Sequence[Run], nodes: set[int]) -> dict[str, str]:
    positions = [event for run in runs for event in run]
    segments = max((event.get("segment", 1) for event in positions), default=1) + 1
    entries = max(
        (event.get("start", event.get("length", 0)) + event.get("count", 0) for event in positions), default=0
    )
    opened = [len(event["replicas"]) for event in positions if event["ev"] in ("RegisterTopic", "Seal")]
    everyone = tla_set(nodes | values_of(runs, "node", "leader", "replicas", "of"))
    return {
        "Node": everyone,
        "Topic": tla_set(values_of(runs, "topic") or {"none"}),
        "Group": tla_set(values_of(runs, "group")),
        # All nodes are members here from the beginning, so a cluster that grew opened segments with fewer.
        "ReplicationFactor": str(min(opened, default=3)),
        "MaxSegments": str(segments),
        "MaxEntries": str(entries + 1),
        "SealAt": "0",
        "WriteTo": str(segments),
        "MayLead": everyone,
        **dict.fromkeys(("Begun", "FsyncEach"), "FALSE"),
        "Faults": '{"crash", "replicas"}',
        "Losses": '{"power"}',
        "Chores": '{"recovery"}',
        **dict.fromkeys(("MaxFaults", "MaxLosses"), UNLIMITED),
    }


WALRUS = TraceSpec(
    name="Walrus",
    events=data_plane,
    definitions=_definitions,
    constants=_constants,
    invariants="Contents DomainConsistency AckedDurable NoWritesPastOpen SealedStable LastSealedIsSum "
    "OpenLeaderMatchesMap CursorInBounds",
)
