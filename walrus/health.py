"""The health of a cluster, in one word, from the METRICS of its nodes.

    healthy       every member answers and is ready, and every segment has its replicas
    degraded      everything is served, but the cluster may not tolerate a further fault
    unavailable   no answer at all, no leader, or too few members for a majority

`walrus-cli status`, the table of `walrus.cluster` and the console all show this judgement. It needs METRICS
(`broker/status.py`) of as many nodes as possible, because a node may not know that it is cut off, and does
not know how full the disks of the others are.

Logic without I/O: the answers are passed in as `address -> METRICS`, with None for a node that did not
answer.

Left out: whether consumers keep up. Their lag is among the figures, for alert rules to judge.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

import msgspec

HEALTHY, DEGRADED, UNAVAILABLE = "healthy", "degraded", "unavailable"
EXIT_STATUS = {HEALTHY: 0, DEGRADED: 1, UNAVAILABLE: 2}

DISK_NEARLY_FULL = 0.9
"""The used share of a disk from which on the cluster counts as degraded."""


class Durations(msgspec.Struct, frozen=True):
    """A histogram in METRICS (`histogram.py`), in seconds."""

    bounds: list[float] = []
    counts: list[int] = []
    sum: float = 0.0


class TopicFigures(msgspec.Struct, frozen=True, kw_only=True):
    """The figures of a topic from its leader (`broker/lag.py`)."""

    segments: int
    entries: int
    replicas: list[int] = []
    lag: dict[str, int] = {}
    out: dict[str, int] = {}
    skipped: dict[str, int] = {}
    dead_letters: dict[str, int] = {}
    leader: int = 0
    """Not in METRICS: the node that reported this."""


PHASES = ("noticed", "fenced", "recovered", "sealed", "opened", "acknowledged")
"""The phases of a failover, in order (`broker/failovers.py`)."""


class FailoverFigures(msgspec.Struct, frozen=True, kw_only=True):
    """A failover, as far as one node has seen it: `ago` has the seconds since each phase."""

    topic: str
    segment: int
    leader: int
    ago: dict[str, float] = {}


class NodeFigures(msgspec.Struct, frozen=True, kw_only=True):
    """The METRICS of a node that are used here or by callers. Fields that older nodes lack have defaults."""

    id: int
    state: str
    current_term: int
    current_leader: int | None
    commit_index: int
    ready: bool
    why_not_ready: str | None = None
    cluster_id: str = ""
    membership_config: dict[str, Any] = {}
    client_addresses: dict[int, str] = {}
    learners: list[int] = []
    connected: list[int] = []
    replication_factor: int = 0
    starts: int = 0
    leases: int = 0
    segments_led: int = 0
    topics: int = 0
    topics_led: dict[str, TopicFigures] = {}
    under_replicated: int = 0
    entries: int = 0
    bytes: int = 0
    puts_acknowledged: int = 0
    entries_lost: int = 0
    deliveries: int = 0
    redeliveries: int = 0
    dead_letters: int = 0
    repetitions: int = 0
    entries_trimmed: int = 0
    wrong_tokens: int = 0
    failovers: int = 0
    last_failovers: list[FailoverFigures] = []
    recoveries: int = 0
    copies_behind: int = 0
    put_seconds: Durations = Durations()
    append_durable_seconds: Durations = Durations()
    append_acknowledged_seconds: Durations = Durations()
    sync_seconds: dict[str, Durations] = {}
    client_connections: int = 0
    disk_total_bytes: int = 0
    disk_free_bytes: int = 0
    cpu_seconds: float = 0.0
    resident_bytes: int = 0
    open_files: int = 0
    started_at: float = 0.0
    pid: int = 0
    log_file: str | None = None
    heard_at: float | None = None
    """Not in METRICS: when the answer arrived, by the clock of the process that asked."""

    @property
    def voters(self) -> list[int]:
        """The voters, of which a majority is counted."""
        configs = self.membership_config.get("membership", {}).get("configs", [])
        return list(configs[-1]) if configs else []


Answers: TypeAlias = Mapping[str, NodeFigures | None]
"""address -> the figures of the node there; None if it did not answer."""


def read(metrics: Mapping[str, Any]) -> NodeFigures:
    """Return METRICS as figures. Raises ValueError if they are not those of a node."""
    try:
        return msgspec.convert(metrics, NodeFigures, strict=False)
    except msgspec.ValidationError as error:
        raise ValueError(f"that is not METRICS of a Walrus node: {error}") from None


class NodeHealth(msgspec.Struct, frozen=True, kw_only=True):
    """One member; its figures are None if it does not answer."""

    node_id: int
    address: str
    figures: NodeFigures | None

    @property
    def role(self) -> str:
        """Its role in Raft (Leader, Follower, Learner, Candidate), or "no answer"."""
        return "no answer" if self.figures is None else self.figures.state

    @property
    def disk_used(self) -> float | None:
        """Share of its disk that is used, from 0 to 1; None if unknown."""
        if self.figures is None or not self.figures.disk_total_bytes:
            return None
        return 1 - self.figures.disk_free_bytes / self.figures.disk_total_bytes

    @property
    def trouble(self) -> str:
        """What is wrong with it; "" if nothing is."""
        if self.figures is None:
            return f"node {self.node_id} ({self.address}) does not answer"
        if not self.figures.ready:
            return f"node {self.node_id} is not ready: {self.figures.why_not_ready}"
        if (used := self.disk_used) is not None and used >= DISK_NEARLY_FULL:
            return f"node {self.node_id}: its disk is {used:.0%} full"
        return ""


class ClusterHealth(msgspec.Struct, frozen=True, kw_only=True):
    """The judgement (`word`), all members and all topics."""

    word: str
    reasons: tuple[str, ...]
    """One line each; empty if healthy."""
    cluster_id: str | None
    leader: int | None
    """The Raft leader, as far as the answering nodes know."""
    nodes: tuple[NodeHealth, ...]
    topics: Mapping[str, TopicFigures]
    """As reported by the nodes that lead them."""
    topic_count: int
    under_replicated: int

    @property
    def exit_status(self) -> int:
        """For scripts: 0 healthy, 1 degraded, 2 unavailable."""
        return EXIT_STATUS[self.word]

    @property
    def worst_lag(self) -> int:
        """The largest lag of any group of any topic, in entries."""
        return max((lag for topic in self.topics.values() for lag in topic.lag.values()), default=0)


def rate(later: float, earlier: float, seconds: float) -> float:
    """Return the increase of a count per second; 0 if it has decreased, as after a restart."""
    return (later - earlier) / seconds if seconds > 0 and later >= earlier else 0.0


def members(answers: Answers) -> dict[int, str]:
    """Return each member's client address, from the answer with the highest commit index."""
    known = [answer for answer in answers.values() if answer is not None]
    if not known:
        return {}
    latest = max(known, key=lambda answer: answer.commit_index)
    return latest.client_addresses | {
        answer.id: where for where, answer in answers.items() if answer is not None
    }


def survey(
    addresses: Iterable[str], ask: Callable[[str], NodeFigures | None]
) -> dict[str, NodeFigures | None]:
    """Ask the nodes at these addresses, and all members that they name; `ask` returns None for no answer."""
    answers: dict[str, NodeFigures | None] = {}
    waiting = list(dict.fromkeys(addresses))
    while waiting:
        for address in waiting:
            answers[address] = ask(address)
        reached = {answer.id for answer in answers.values() if answer is not None}
        named = members(answers)
        waiting = [where for node, where in named.items() if node not in reached and where not in answers]
    return answers


def judge(answers: Answers) -> ClusterHealth:
    """Judge the cluster by the answers of its nodes."""
    by_id = {answer.id: answer for answer in answers.values() if answer is not None}
    named = members(answers)
    nodes = tuple(
        NodeHealth(node_id=node, address=where, figures=by_id.get(node))
        for node, where in sorted(named.items())
    )
    latest = max(by_id.values(), key=lambda answer: answer.commit_index, default=None)
    leader = _leader(by_id.values())
    under = _under_replicated(by_id, leader)
    fatal = _why_unavailable(answers, by_id, latest, leader)
    reasons = [fatal] if fatal else []
    reasons += [node.trouble for node in nodes if node.trouble]
    reasons += _unfinished(by_id.values(), under)
    return ClusterHealth(
        word=UNAVAILABLE if fatal else DEGRADED if reasons else HEALTHY,
        reasons=tuple(reasons),
        cluster_id=None if latest is None else latest.cluster_id,
        leader=leader,
        nodes=nodes,
        topics=_topics(by_id),
        topic_count=0 if latest is None else latest.topics,
        under_replicated=under,
    )


def _leader(answers: Iterable[NodeFigures]) -> int | None:
    """Return the Raft leader of the highest term for which any node knows a leader."""
    known = [(answer.current_term, answer.current_leader) for answer in answers]
    return max(((term, leader) for term, leader in known if leader is not None), default=(0, None))[1]


def _under_replicated(by_id: Mapping[int, NodeFigures], leader: int | None) -> int:
    """Return the Raft leader's count, since it hears from every member; without its answer, the highest."""
    if leader is not None and leader in by_id:
        return by_id[leader].under_replicated
    return max((answer.under_replicated for answer in by_id.values()), default=0)


def _why_unavailable(
    answers: Answers, by_id: Mapping[int, NodeFigures], latest: NodeFigures | None, leader: int | None
) -> str:
    if latest is None:
        return f"no node answers ({', '.join(answers)})"
    voters = latest.voters
    present = sum(voter in by_id for voter in voters)
    if voters and present <= len(voters) // 2:
        return f"{present} of {len(voters)} voters answer, which is no majority"
    if leader is None:
        return "no leader is known: an election is under way, or the nodes do not reach each other"
    if not any(answer.ready for answer in by_id.values()):
        return "no node is ready"
    return ""


def _unfinished(answers: Iterable[NodeFigures], under: int) -> list[str]:
    """Return reasons that the cluster repairs by itself, if it can."""
    answers = list(answers)
    recoveries = sum(answer.recoveries for answer in answers)
    behind = sum(answer.copies_behind for answer in answers)
    facts = (
        (under, "with too few replicas"),
        (recoveries, "being recovered"),
        (behind, "with a copy that is behind"),
    )
    return [f"{count:,} segment{'' if count == 1 else 's'} {what}" for count, what in facts if count]


def _topics(by_id: Mapping[int, NodeFigures]) -> dict[str, TopicFigures]:
    """Return each topic as its leader reports it. If two nodes do, as in a failover, the one with more
    segments counts."""
    found: dict[str, TopicFigures] = {}
    for node, answer in by_id.items():
        for name, topic in answer.topics_led.items():
            if name not in found or found[name].segments < topic.segments:
                found[name] = msgspec.structs.replace(topic, leader=node)
    return dict(sorted(found.items()))
