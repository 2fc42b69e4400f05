"""The health of a cluster in a word, from what its nodes say of themselves.

    healthy       every member answers and is ready, and every segment has its replicas
    degraded      everything is served, and something is missing that a further fault will need
    unavailable   no answer at all, no leader, or too few members for a majority

One judgement for all that show it: `walrus-cli status`, the table of `walrus.cluster`, the console. It is
made of METRICS (`broker/status.py`) of as many nodes as answer, because one that is cut off cannot know it,
and no node knows how full the disk of another is.

Logic without I/O: what was asked comes in as `address -> METRICS`, None for a node that did not answer.

Left out: whether the cluster keeps up. A lag is a matter of the consumers; it is a figure here, and an alert
rule may judge it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

import msgspec

HEALTHY, DEGRADED, UNAVAILABLE = "healthy", "degraded", "unavailable"
EXIT_STATUS = {HEALTHY: 0, DEGRADED: 1, UNAVAILABLE: 2}

DISK_NEARLY_FULL = 0.9
"""Share of a disk from which on it is a reason."""


class Durations(msgspec.Struct, frozen=True):
    """A histogram as METRICS has it (`histogram.py`): seconds."""

    bounds: list[float] = []
    counts: list[int] = []
    sum: float = 0.0


class TopicFigures(msgspec.Struct, frozen=True, kw_only=True):
    """A topic as its leader knows it (`broker/lag.py`)."""

    segments: int
    entries: int
    replicas: list[int] = []
    lag: dict[str, int] = {}
    out: dict[str, int] = {}
    skipped: dict[str, int] = {}
    dead_letters: dict[str, int] = {}
    leader: int = 0
    """Not in METRICS: the node that said this."""


PHASES = ("noticed", "fenced", "recovered", "sealed", "opened", "acknowledged")
"""Of a failover, in their order: `broker/failovers.py` says what each is."""


class FailoverFigures(msgspec.Struct, frozen=True, kw_only=True):
    """A failover, as far as one node has seen it: seconds since each phase."""

    topic: str
    segment: int
    leader: int
    ago: dict[str, float] = {}


class NodeFigures(msgspec.Struct, frozen=True, kw_only=True):
    """METRICS of a node, as far as anything here needs it. What an older node does not say has a default."""

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
    """Not in METRICS: when the answer came, by the clock of the process that asked."""

    @property
    def voters(self) -> list[int]:
        """The members that a majority is counted of."""
        configs = self.membership_config.get("membership", {}).get("configs", [])
        return list(configs[-1]) if configs else []


Answers: TypeAlias = Mapping[str, NodeFigures | None]
"""address -> what the node there said; None if it did not."""


def read(metrics: Mapping[str, Any]) -> NodeFigures:
    """Return METRICS as figures. Raises ValueError if it is no answer of a node."""
    try:
        return msgspec.convert(metrics, NodeFigures, strict=False)
    except msgspec.ValidationError as error:
        raise ValueError(f"that is not METRICS of a Walrus node: {error}") from None


class NodeHealth(msgspec.Struct, frozen=True, kw_only=True):
    """One member: its figures, or that it does not answer."""

    node_id: int
    address: str
    figures: NodeFigures | None

    @property
    def role(self) -> str:
        """Raft's word for it: Leader, Follower, Learner, Candidate; "no answer"."""
        return "no answer" if self.figures is None else self.figures.state

    @property
    def disk_used(self) -> float | None:
        """Share of its disk that is used, from 0 to 1; None if unknown."""
        if self.figures is None or not self.figures.disk_total_bytes:
            return None
        return 1 - self.figures.disk_free_bytes / self.figures.disk_total_bytes

    @property
    def trouble(self) -> str:
        """What is wrong with it, "" if nothing is."""
        if self.figures is None:
            return f"node {self.node_id} ({self.address}) does not answer"
        if not self.figures.ready:
            return f"node {self.node_id} is not ready: {self.figures.why_not_ready}"
        if (used := self.disk_used) is not None and used >= DISK_NEARLY_FULL:
            return f"node {self.node_id}: its disk is {used:.0%} full"
        return ""


class ClusterHealth(msgspec.Struct, frozen=True, kw_only=True):
    """All members, all topics, and the word."""

    word: str
    reasons: tuple[str, ...]
    """One line each; none if healthy."""
    cluster_id: str | None
    leader: int | None
    """Raft's, as far as the answering nodes know."""
    nodes: tuple[NodeHealth, ...]
    topics: Mapping[str, TopicFigures]
    """By the word of the nodes that lead them."""
    topic_count: int
    under_replicated: int

    @property
    def exit_status(self) -> int:
        """For scripts: 0 healthy, 1 degraded, 2 unavailable."""
        return EXIT_STATUS[self.word]

    @property
    def worst_lag(self) -> int:
        """Of any group of any topic, in entries."""
        return max((lag for topic in self.topics.values() for lag in topic.lag.values()), default=0)


def rate(later: float, earlier: float, seconds: float) -> float:
    """How much a count grew per second between two looks; 0 if it began anew."""
    return (later - earlier) / seconds if seconds > 0 and later >= earlier else 0.0


def members(answers: Answers) -> dict[int, str]:
    """Return where each member serves clients, by the word of the answer that has applied most."""
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
    """Ask these nodes, and all members that they name; `ask` returns None for no answer."""
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
    """Return how the cluster is, by what was answered."""
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
    """The Raft leader of the highest term that any node knows one of."""
    known = [(answer.current_term, answer.current_leader) for answer in answers]
    return max(((term, leader) for term, leader in known if leader is not None), default=(0, None))[1]


def _under_replicated(by_id: Mapping[int, NodeFigures], leader: int | None) -> int:
    """The Raft leader's count: it hears from every member. Without its word, the highest."""
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
    """What the cluster is about to put right by itself, if it can."""
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
    """Each topic by the word of its leader; during a failover of the one with more segments."""
    found: dict[str, TopicFigures] = {}
    for node, answer in by_id.items():
        for name, topic in answer.topics_led.items():
            if name not in found or found[name].segments < topic.segments:
                found[name] = msgspec.structs.replace(topic, leader=node)
    return dict(sorted(found.items()))
