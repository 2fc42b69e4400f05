"""What must always hold: one predicate for each invariant of the specs, over the truth about a cluster.

The names are those of `spec/Walrus.tla`, `spec/Raft.tla`, `spec/Delivery.tla`, `spec/Publish.tla` and
`spec/Retention.tla`, where they are formulas; append times (`TimesAgree`, `TimesAscend`) are in no spec. A
predicate raises `Violation` with its own name. It examines what is *fresh* in the view (see `truth.py`):
what the last step changed, or everything in a full check. The four under "progress" are checked once faults
have stopped.

Where a spec says "for all nodes, all segments, all indexes", it is enough to examine what changed: each copy
is compared with the one stream of its segment, so it follows that any two copies agree.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from walrus.consensus.messages import Role
from walrus.replicas.copies import Key
from walrus.segments import START, Position
from walrus.sim.host import Host
from walrus.sim.truth import Truth
from walrus.sim.violation import Violation, named


def _nodes(view: Truth) -> Iterable[Host]:
    """Yield the nodes to check: the one that took the step, or all that run."""
    if view.host is not None:
        return (view.host,) if view.host.controller is not None else ()
    return [host for _, host in sorted(view.hosts.items()) if host.controller is not None]


def _conflicts(view: Truth, name: str) -> None:
    for conflict, what in view.conflicts:
        if conflict == name:
            raise Violation(name, what)


# --- the data plane -------------------------------------------------------------------------------------


def TypeOK(view: Truth) -> None:
    """Every value is what it should be: each state machine's own `check_invariants`.

    A node's metadata is large, so it is checked in full checks only. Between them it is known to be the
    result of the same commands on every node (StateMachineSafety), and that result is checked where it
    changed.
    """
    for host in _nodes(view):
        controller = host.controller
        assert controller is not None
        try:
            if view.host is None:
                controller.check_invariants()
            controller.leases.check_invariants(controller.metadata)
            controller.router.check_invariants()
            controller.cursors.check_invariants()
            controller.queues.check_invariants()
            controller.lifecycle.check_invariants()
            if view.raft_moved(host):
                controller.raft.check_invariants()
        except AssertionError as error:
            name = named(error, "TypeOK")
            raise Violation(name, f"node {host.id}: {error}") from error
        for name, writer in controller.writers.items():
            if not writer.copy.durable <= writer.copy.length or writer.topic != name:
                raise Violation("TypeOK", f"node {host.id}: {writer.copy.key}")


def DomainConsistency(view: Truth) -> None:
    """Every topic's segments but the last are sealed, and copies and cursors are of topics that exist."""
    for name in view.topics:
        topic = view.metadata.topics.get(name)
        if topic is None:
            continue
        for number, segment in topic.numbered():
            if segment.sealed == (number == topic.current):
                raise Violation("DomainConsistency", f"segment {number} of {name}: {segment}")
    for write in view.writes:
        if write.key[0] not in view.metadata.topics and not view.metadata.is_gone(*write.key):
            raise Violation("DomainConsistency", f"node {write.node} has a copy of {write.key}")
    for host in _nodes(view):
        assert host.controller is not None
        for leased, number in host.controller.leases.granted().items():
            topic = view.metadata.topics.get(leased)
            if not view.metadata.is_gone(leased, number) and (topic is None or number > topic.current):
                raise Violation("DomainConsistency", f"node {host.id} leads {leased}/{number}")


def SingleWriter(view: Truth) -> None:
    """Only the leader that a segment was opened for, in that incarnation, originates entries in it."""
    for write in view.writes:
        segment = view.metadata.segment(*write.key)
        if not write.originated or segment is None:
            continue
        if (segment.leader, segment.incarnation) != (write.node, write.incarnation):
            raise Violation(
                "SingleWriter",
                f"node {write.node}.{write.incarnation} originates {write.originated} entries in {write.key} "
                f"of node {segment.leader}.{segment.incarnation}",
            )


def SeqOrder(view: Truth) -> None:
    """Every copy is numbered 0, 1, 2, ... without a gap, in the order of the writer."""
    for write in view.writes:
        if write.start != write.before or write.start + write.entries > len(view.truth(write.key).stream):
            raise Violation("SeqOrder", f"node {write.node} has {write.key} up to {write.before}: {write}")


def PrefixAgree(view: Truth) -> None:
    """Any two copies agree up to the shorter one: each is a prefix of its writer's stream."""
    for write in view.writes:
        if write.differs >= 0:
            raise Violation("PrefixAgree", f"node {write.node}: {write.key} differs at {write.differs}")


def TimesAgree(view: Truth) -> None:
    """An entry has one append time, the same on every copy for as long as there is one."""
    _conflicts(view, "TimesAgree")


def TimesAscend(view: Truth) -> None:
    """In a segment no entry's append time is before that of the one before it, however clocks are set."""
    _conflicts(view, "TimesAscend")


def _held_by_majority(view: Truth, key: Key, count: int, name: str) -> None:
    """Check that a majority of the replicas holds `count` entries, durably with `--fsync each`.

    Where entries are synced at intervals, a power loss may take entries that a replica had reported: one
    replica is excused until it has caught up. The contract excludes that two replicas lose power in quick
    succession.
    """
    segment = view.metadata.segment(*key)
    if not count or segment is None:
        return
    truth, held = view.truth(key), view.holders(key, count)
    excused: set[int] = set()
    if view.options.fsync != "each":
        excused = (truth.excused.keys() | view.unknown).intersection(segment.replicas) - held
    if 2 * (len(held) + min(1, len(excused))) <= len(segment.replicas):
        nodes = f"{sorted(held)} and, excused, {sorted(excused)}" if excused else f"{sorted(held)}"
        copies = f"appended {_by_node(truth.lengths)}, durable {_by_node(truth.synced)}"
        replicas = sorted(segment.replicas)
        raise Violation(
            name,
            f"{key[0]}/{key[1]}: {count} entries count, but {nodes} is no majority of {replicas}; {copies}",
        )


def _by_node(lengths: Mapping[int, int]) -> dict[int, int]:
    """Return the same mapping sorted by node, for messages to people."""
    return dict(sorted(lengths.items()))


def AckedDurable(view: Truth) -> None:
    """An acknowledged entry is on a majority of the replicas, and below the count if sealed. A writer's
    commit index never falls.
    """
    _conflicts(view, "AckedDurable")
    for key in view.keys:
        acked = view.truth(key).acked
        _held_by_majority(view, key, acked, "AckedDurable")
        if acked > view.sealed_as.get(key, acked):
            raise Violation("AckedDurable", f"{acked} acknowledged in {key}, sealed at {view.sealed_as[key]}")


def NoWritesPastOpen(view: Truth) -> None:
    """No copy holds entries of a segment that is not open or sealed yet."""
    for write in view.writes:
        ahead = view.metadata.segment(*write.key) is None and not view.metadata.is_gone(*write.key)
        if write.entries and ahead:
            raise Violation("NoWritesPastOpen", f"node {write.node} writes {write.key}")


def SealedStable(view: Truth) -> None:
    """A sealed count never changes, and a majority of the replicas holds that many entries."""
    for key in view.keys:
        if key in view.sealed_as and not view.metadata.is_gone(*key):
            segment = view.metadata.segment(*key)
            if segment is None or segment.count != view.sealed_as[key]:
                raise Violation("SealedStable", f"{key} was sealed at {view.sealed_as[key]}, now {segment}")
            _held_by_majority(view, key, view.sealed_as[key], "SealedStable")


def ReplicasKept(view: Truth) -> None:
    """A sealed segment has no fewer replicas than it should, unless it was written with fewer."""
    for key, before, after, members in view.replica_changes:
        should = min(len(before), view.options.settings["replication_factor"], members)
        if len(after) < should:
            raise Violation("ReplicasKept", f"{key} had {before} and has {after}, with {members} members")


def EnoughReplicas(view: Truth) -> None:
    """A segment opens with as many replicas as it should have, or with all voters that stay."""
    _conflicts(view, "EnoughReplicas")


def LastSealedIsSum(view: Truth) -> None:
    """The cumulative offset is the sum of the sealed counts."""
    for name in view.topics:
        topic = view.metadata.topics.get(name)
        retained = sum(segment.count or 0 for segment in topic.segments[:-1]) if topic else 0
        if topic and topic.sealed_total - topic.trimmed != retained:
            raise Violation("LastSealedIsSum", f"{name}: {topic.sealed_total}")


def OpenLeaderMatchesMap(view: Truth) -> None:
    """A node that believes it leads a topic leads the segment open in its view, in that incarnation."""
    for host in _nodes(view):
        controller = host.controller
        assert controller is not None
        for name, number in controller.leases.granted().items():
            topic = controller.metadata.topics[name]
            mine = (host.id, host.record.incarnation)
            if number != topic.current or (topic.open.leader, topic.open.incarnation) != mine:
                raise Violation("OpenLeaderMatchesMap", f"node {host.id} leads {name}/{number}: {topic.open}")


def CursorInBounds(view: Truth) -> None:
    """No cursor, committed or handed out, points past its segment or past what is acknowledged."""
    for name in view.topics:
        topic = view.metadata.topics.get(name)
        for group, position in topic.cursors.items() if topic else ():
            if not topic or not topic.in_bounds(position) or _beyond(view, name, position):
                raise Violation("CursorInBounds", f"{name}, group {group!r}: {position}")
            before = view.cursors.get((name, group), START)
            if position < before and before.segment >= topic.born:
                raise Violation("CursorInBounds", f"{name}, group {group!r} goes back: {position}, {before}")
            view.cursors[(name, group)] = position
    for host in _nodes(view):
        assert host.controller is not None
        for (name, group), cursor in host.controller.cursors.cursors().items():
            if _beyond(view, name, cursor.position):
                raise Violation("CursorInBounds", f"node {host.id}, {name}, {group!r}: {cursor.position}")


def _beyond(view: Truth, name: str, position: Position) -> bool:
    return position.offset > view.settled((name, position.segment))


def DeliveredIsPrefix(view: Truth) -> None:
    """No committed cursor is ahead of what its group was given, or a crash would leave a gap.

    That the entries given are settled, and are those that were written, is checked when they are given.
    """
    for name in view.topics:
        topic = view.metadata.topics.get(name)
        if topic is not None and topic.settings:
            continue  # entries that were dropped are not given: see retained.py
        for group, position in topic.cursors.items() if topic else ():
            known = view.groups.get((name, group))
            if known is not None:
                view.advance(name, known)
            upto = known.upto if known is not None else START
            if topic and topic.advance(position) > topic.advance(upto):
                raise Violation(
                    "DeliveredIsPrefix", f"{name}, group {group!r}: committed {position}, given up to {upto}"
                )


# --- work queues: Delivery.tla -------------------------------------------------------------------------


def NoDuplicateAppend(view: Truth) -> None:
    """Each number of a producer is in the topic once: looked at when it is appended."""
    for payload in _fresh_numbers(view):
        places = view.kept_places(payload)
        if len(places) > 1:
            raise Violation("NoDuplicateAppend", f"{payload!r} is appended again: {places}")


def NumbersWithoutGap(view: Truth) -> None:
    """A producer's numbers are in the topic in their order, from 0 on: looked at when one is appended."""
    for payload in _fresh_numbers(view):
        producer, number = view.numbered[payload]
        before = b"%b#%06d" % (producer.encode(), number - 1)
        here = max(view.kept_places(payload), default=None)
        if number and here is not None and not any(place < here for place in view.kept_places(before)):
            raise Violation("NumbersWithoutGap", f"{payload!r} is at {here}, the one before is not in front")


def RepeatOkImpliesAcked(view: Truth) -> None:
    """What a producer is told is true: looked at when it is told (`Judge.published`)."""
    _conflicts(view, "RepeatOkImpliesAcked")


def _fresh_numbers(view: Truth) -> Iterable[bytes]:
    """Yield the numbered entries that writers have just appended, by payload."""
    if not view.numbered:
        return ()
    fresh = []
    for write in view.writes:
        if write.originated:
            stream = view.truth(write.key).stream
            end = write.start + write.entries
            fresh += stream[end - write.originated : end]
    return [payload for payload in fresh if payload in view.numbered]


def AckedNotRedelivered(view: Truth) -> None:
    """After OK to an ACK the group never gets the entry again: looked at when one is handed out."""
    _conflicts(view, "AckedNotRedelivered")


def PromisedIsCommitted(view: Truth) -> None:
    """What was promised is committed: looked at when a consumer is told OK."""
    _conflicts(view, "PromisedIsCommitted")


def NothingSkipped(view: Truth) -> None:
    """What is done was acknowledged by a consumer, or is a dead letter, or a SEEK passed over it."""
    for name in view.topics:
        topic = view.metadata.topics.get(name)
        if topic is not None and topic.groups:
            view.deliveries.look(name, topic)


def MarkOnlyRises(view: Truth) -> None:
    """The mark of a generation never falls: looked at together with NothingSkipped."""
    _conflicts(view, "MarkOnlyRises")


def OutIsBounded(view: Truth) -> None:
    """An owner has nothing out beyond the window above the mark that it knows."""
    window = view.options.settings["queue_window"]
    for host in _nodes(view):
        assert host.controller is not None
        for (name, group), queue in host.controller.queues.owner.queues():
            topic = host.controller.metadata.topics[name]
            for position in queue.out:
                if topic.distance(queue.done.low, position) >= window:
                    raise Violation("OutIsBounded", f"node {host.id}: {name}, {group}: {position}")


# --- retention and deletion: Retention.tla, checked where a command is applied (`retained.py`) -------------


def TrimmedIsSealed(view: Truth) -> None:
    """No Trim drops a segment that is open."""
    _conflicts(view, "TrimmedIsSealed")


def TrimmedStaysTrimmed(view: Truth) -> None:
    """What was dropped is never there again."""
    _conflicts(view, "TrimmedStaysTrimmed")


def ProtectedUntilAcked(view: Truth) -> None:
    """With protect_groups nothing goes that a group has not read."""
    _conflicts(view, "ProtectedUntilAcked")


def SkippedIsCounted(view: Truth) -> None:
    """What a group misses is counted."""
    _conflicts(view, "SkippedIsCounted")


def MarkInBounds(view: Truth) -> None:
    """No group stands below the first entry there is."""
    _conflicts(view, "MarkInBounds")


def OnlyWhatWasMeant(view: Truth) -> None:
    """DELETE and REGISTER change the topic that they were meant for."""
    _conflicts(view, "OnlyWhatWasMeant")


def NoAckAfterDelete(view: Truth) -> None:
    """A topic goes with the Seal of its open segment: nothing is acknowledged in it after that."""
    _conflicts(view, "NoAckAfterDelete")


def SpaceIsGivenBack(view: Truth) -> None:
    """No copy outlives its segment, at a node that knows that it is dropped."""
    for host in _nodes(view):
        assert host.controller is not None
        try:
            host.controller.catch_up.check_invariants()
        except AssertionError as error:
            raise Violation(named(error, "SpaceIsGivenBack"), f"node {host.id}: {error}") from error


# --- Raft -----------------------------------------------------------------------------------------------


def ElectionSafety(view: Truth) -> None:
    """At most one leader can be elected in a given term, because no server takes a vote back in it."""
    _conflicts(view, "ElectionSafety")
    for host in _nodes(view):
        assert host.controller is not None
        raft = host.controller.raft
        if raft.role is Role.LEADER and view.leaders.setdefault(raft.current_term, host.id) != host.id:
            other = view.leaders[raft.current_term]
            raise Violation("ElectionSafety", f"nodes {other} and {host.id} lead term {raft.current_term}")


def LeaderAppendOnly(view: Truth) -> None:
    """A leader never overwrites or deletes entries in its log."""
    _conflicts(view, "LeaderAppendOnly")


def LogMatching(view: Truth) -> None:
    """If two logs have an entry with the same index and term, they are identical up to it."""
    _conflicts(view, "LogMatching")


def LeaderCompleteness(view: Truth) -> None:
    """What is committed is in the logs of all leaders of later terms."""
    if not view.committed:
        return
    last = view.committed[-1]
    for host in _nodes(view):
        assert host.controller is not None
        raft = host.controller.raft
        if raft.role is Role.LEADER and raft.current_term > last.term:
            log = raft.log
            if log.last_index < last.index or (
                log.snapshot_index <= last.index and log.term_at(last.index) != last.term
            ):
                raise Violation(
                    "LeaderCompleteness", f"leader {host.id} of term {raft.current_term} lacks {last.index}"
                )


def StateMachineSafety(view: Truth) -> None:
    """No two servers apply different entries at the same index, and equal indexes give equal states."""
    _conflicts(view, "StateMachineSafety")
    if view.host is None:
        digest = None
        for host in _nodes(view):
            assert host.controller is not None
            if host.controller.applied == len(view.committed):
                digest = digest or view.metadata.digest()
                if host.controller.metadata.digest() != digest:
                    raise Violation("StateMachineSafety", f"node {host.id} has another state")


def CommittedNeverLost(view: Truth) -> None:
    """What a node knows to be committed (and so, by LogMatching, all before it) is durable on a majority.

    A node does not forget it either: within a process the commit index never falls.
    """
    for host in _nodes(view):
        assert host.controller is not None
        log = host.controller.raft.log
        process, before = view.commit_indexes.get(host.id, (0, 0))
        index = log.commit_index
        if process == host.process and index < before:
            raise Violation(
                "CommittedNeverLost", f"node {host.id}: the commit index fell, {before} to {index}"
            )
        if (process, before) != (host.process, index):
            view.commit_indexes[host.id] = (host.process, index)
            if log.holds(index):
                _durable_on_majority(view, index, log.term_at(index))
    if view.applied and view.committed:
        last = view.committed[-1]
        _durable_on_majority(view, last.index, last.term)


def _durable_on_majority(view: Truth, index: int, term: int) -> None:
    holders = {node for node, durable in view.durable.items() if durable.log.holds(index, term)}
    memberships = [view.membership]
    for _, host in sorted(view.hosts.items()):
        if host.controller is not None:
            memberships.append(host.controller.raft.membership)
    if not any(len(holders & set(m.voters)) >= m.quorum for m in memberships if m.voters):
        what = f"entry {index} of term {term} is durable on {sorted(holders)} only"
        raise Violation("CommittedNeverLost", what)


# --- progress, once faults have stopped ---------------------------------------------------------------


def RolloverProgress(view: Truth) -> None:
    """No full segment is still open."""
    for (topic, number), truth in sorted(view.truths.items()):
        known = view.metadata.topics.get(topic)
        if known and number == known.current:
            limit = view.options.settings["max_segment_entries"]
            if max(truth.lengths.values(), default=0) >= limit:
                raise Violation("RolloverProgress", f"{topic}/{number} is full and not sealed")


def ReadProgress(view: Truth) -> None:
    """Every group has been given everything that is settled."""
    for (topic, name), group in sorted(view.groups.items()):
        view.advance(topic, group)
        end = Position(view.segments(topic), view.settled((topic, view.segments(topic))))
        if group.upto < end:
            raise Violation("ReadProgress", f"{topic}, group {name!r}: given up to {group.upto} of {end}")


def EveryEntryAcked(view: Truth) -> None:
    """Every work queue is done."""
    for name, topic in sorted(view.metadata.topics.items()):
        end = Position(view.segments(name), view.settled((name, view.segments(name))))
        if topic.groups and (what := view.deliveries.unfinished(name, topic, end)):
            raise Violation("EveryEntryAcked", what)


def FailoverProgress(view: Truth) -> None:
    """Every open segment has a leader that runs, in the incarnation that it was opened for."""
    for name, topic in sorted(view.metadata.topics.items()):
        host = view.hosts[topic.open.leader]
        if not host.up or host.record.incarnation != topic.open.incarnation:
            raise Violation("FailoverProgress", f"{name}/{topic.current} has no leader: {topic.open}")


def DeletedInTheEnd(view: Truth) -> None:
    """No topic is still to be deleted."""
    for name, topic in sorted(view.metadata.topics.items()):
        if topic.deleting:
            raise Violation("DeletedInTheEnd", f"{name}/{topic.current} is still open: {topic.open}")


Predicate = Callable[[Truth], None]

CHEAP: tuple[Predicate, ...] = (
    SingleWriter,
    PrefixAgree,
    SeqOrder,
    TimesAgree,
    TimesAscend,
    NoWritesPastOpen,
    AckedDurable,
    SealedStable,
    ReplicasKept,
    EnoughReplicas,
    LastSealedIsSum,
    DeliveredIsPrefix,
    NoDuplicateAppend,
    NumbersWithoutGap,
    RepeatOkImpliesAcked,
    AckedNotRedelivered,
    PromisedIsCommitted,
    NothingSkipped,
    MarkOnlyRises,
    TrimmedIsSealed,
    TrimmedStaysTrimmed,
    ProtectedUntilAcked,
    SkippedIsCounted,
    MarkInBounds,
    OnlyWhatWasMeant,
    NoAckAfterDelete,
    ElectionSafety,
    LeaderAppendOnly,
    LogMatching,
    LeaderCompleteness,
    StateMachineSafety,
    CommittedNeverLost,
)
EXPENSIVE: tuple[Predicate, ...] = (
    TypeOK,
    DomainConsistency,
    OpenLeaderMatchesMap,
    CursorInBounds,
    OutIsBounded,
    SpaceIsGivenBack,
)
PROGRESS: tuple[Predicate, ...] = (
    RolloverProgress,
    ReadProgress,
    FailoverProgress,
    EveryEntryAcked,
    DeletedInTheEnd,
)
NAMES = frozenset(predicate.__name__ for predicate in (*CHEAP, *EXPENSIVE, *PROGRESS))


def check(view: Truth, *, expensive: bool) -> None:
    """Check every safety predicate on what is fresh."""
    for predicate in CHEAP:
        predicate(view)
    if expensive:
        for predicate in EXPENSIVE:
            predicate(view)
