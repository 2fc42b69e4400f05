"""What the judge sees: bugs planted for one look each, and what it says where an assertion is mute."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tests.broker.test_segments import cluster, seal
from tests.sim.hunting import hunted
from walrus.commands import Command, DeleteTopic, RegisterTopic
from walrus.consensus.log import RaftLog
from walrus.consensus.messages import (
    AppendEntriesRequest,
    Entry,
    Membership,
    RequestVoteRequest,
    Restored,
    Snapshot,
)
from walrus.raft import Role
from walrus.sim import faults, mutants
from walrus.sim.deliveries import DeliveryRecords
from walrus.sim.durable import NodeLog
from walrus.sim.mutants.plant import Mutant, Slip
from walrus.sim.options import Options, varied
from walrus.sim.promises import Leases, Promises
from walrus.sim.retained import RetentionRecords
from walrus.sim.run import FailedRun, Simulation, said_next, simulate
from walrus.sim.violation import UNNAMED, Violation
from walrus.wire.messages import AppendReply
from walrus.wire.receipts import Receipt

STEPS = 4_000
MOST = 30
STORM = Options(ordered=False, shared_turns=0.4, think=0.03, newcomers=0)
IN_ORDER = replace(STORM, ordered=True)
"""Here an older forward is never taken behind a newer one, which would be ProducerOrder."""


def _found(mutant: Mutant, kinds: str, options: Options | None = None) -> tuple[FailedRun, Options]:
    """The first failing seed with this bug, and its options."""
    for seed in hunted(mutant.name, range(1, MOST + 1)):
        chosen = options or varied(seed, Options())
        outcome = simulate(seed, chosen, STEPS, faults.classes(kinds))
        if isinstance(outcome, FailedRun):
            return outcome, chosen
    pytest.fail(f"{mutant.name} survives {MOST} seeds")


@pytest.mark.parametrize(
    ("name", "kinds", "options"),
    [
        ("takes_a_forward_twice", "network,ambush", IN_ORDER),
        ("lets_go_of_one_too_many", "members,network", Options(nodes=4, newcomers=0)),
        ("late_reports_count", "messages,network,ambush", STORM),
    ],
)
def test_the_judge_says_the_name_of_what_is_broken(name: str, kinds: str, options: Options) -> None:
    mutant = mutants.find(name)
    with mutants.planted(mutant):
        failure, _ = _found(mutant, kinds, options)
    assert failure.name == mutant.expected[0], failure


def test_an_assertion_without_a_name_leads_to_what_the_judge_says_next() -> None:
    mute = Mutant(
        name="mute",
        about="a gap is asserted, and no name is said",
        expected=("PrefixAgree", "SeqOrder"),
        slips=(
            Slip("elif frame.start > copy.length:", "elif False:"),
            Slip(
                'assert start <= copy.length, "SeqOrder: a gap in a copy"',
                'assert start <= copy.length, "a gap"\n    start = min(start, copy.length)',
            ),
        ),
    )
    with mutants.planted(mute):
        failure, options = _found(mute, "messages,network,ambush", STORM)
        assert failure.name == UNNAMED, failure
        assert "a gap" in failure.what
        said = said_next(failure, options)
    assert said is not None
    assert said.name in mute.expected, said


def test_without_its_assertions_the_code_is_as_it_was() -> None:
    seed = 3
    plain = simulate(seed, STORM, STEPS)
    with mutants.unasserted():
        mute = simulate(seed, STORM, STEPS)
    assert mute == plain


def test_a_start_that_has_yet_to_apply_why_its_copy_went_breaks_no_promise() -> None:
    """It announces a copy of no entries of a segment that is trimmed; its writer is long gone."""
    gone, told = False, AppendReply(topic="t", segment=1, length=0, fenced=False, gap=False)
    truth = SimpleNamespace(
        metadata=SimpleNamespace(is_gone=lambda *key: gone),
        truth=lambda key: SimpleNamespace(synced={}, lengths={}),
        options=Options(),
    )
    controller = SimpleNamespace(
        metadata=SimpleNamespace(is_gone=lambda *key: False),
        copies=SimpleNamespace(in_doubt=False, get=lambda key: SimpleNamespace(sure=True, durable=0)),
    )
    promises, host = Promises(cast(Any, truth)), cast(Any, SimpleNamespace(id=3, controller=controller))
    promises._reported[3, ("t", 1)] = 4
    with pytest.raises(Violation, match="once reported 4"):
        promises._reports(host, 1, told)
    gone = True
    promises._reports(host, 1, told)


def test_the_length_in_a_refusal_of_a_fenced_copy_promises_nothing() -> None:
    """A fenced copy grows by what the recovery copies to it; a fence asked again is answered as before."""
    key = ("t", 1)
    truth = SimpleNamespace(
        metadata=SimpleNamespace(is_gone=lambda *key: False),
        truth=lambda key: SimpleNamespace(synced={3: 7}, lengths={3: 7}),
        options=Options(fsync="each"),
    )
    controller = SimpleNamespace(
        metadata=SimpleNamespace(is_gone=lambda *key: False),
        copies=SimpleNamespace(in_doubt=False, get=lambda key: SimpleNamespace(sure=True, durable=7)),
    )
    promises, host = Promises(cast(Any, truth)), cast(Any, SimpleNamespace(id=3, controller=controller))
    promises._reports(host, 1, AppendReply(topic="t", segment=1, length=7, fenced=True, gap=True))
    promises._sure_of(host, key, 0)
    promises._reports(host, 1, AppendReply(topic="t", segment=1, length=7, fenced=False, gap=False))
    with pytest.raises(Violation, match=r"sure of 0 .* once reported 7"):
        promises._sure_of(host, key, 0)


def test_a_start_may_find_in_place_of_its_log_a_snapshot_that_was_not_known_to_be_durable() -> None:
    """A later leader's snapshot that the log contradicts takes the place of all that follows, too."""

    def read_back(*entries: Entry, snapshot: tuple[int, int]) -> RaftLog:
        term, index = snapshot
        held = Snapshot(index, term, Membership((1, 2, 3)), b"")
        return RaftLog(Restored(snapshot=held, entries=entries))

    durable = NodeLog()
    durable.terms = [0, 1, 1, 2, 2, 2]
    promises, host = Promises(cast(Any, None)), cast(Any, SimpleNamespace(id=3))
    promises._finds_entries(host, read_back(snapshot=(3, 3)), durable)
    promises._finds_entries(host, read_back(Entry(2, 4), Entry(2, 5), snapshot=(2, 3)), durable)
    with pytest.raises(Violation, match=r"CommittedNeverLost: .* without entry 4 of term 2"):
        promises._finds_entries(host, read_back(snapshot=(2, 3)), durable)


def test_a_leader_that_steps_down_keeps_the_lease_of_its_election_and_no_more() -> None:
    """A majority heard it after it had asked for votes: that is what `Raft.last_contact` counts, too."""
    raft = SimpleNamespace(role=Role.FOLLOWER, current_term=4, membership=Membership((1, 2, 3)))
    host: Any = SimpleNamespace(
        id=1,
        process=1,
        clock=lambda now: now,
        config=SimpleNamespace(lease_ttl=1.0),
        controller=SimpleNamespace(raft=raft),
    )
    leases, heartbeat = (
        Leases(),
        AppendEntriesRequest(term=4, round=1, prev_log_index=0, prev_log_term=0, leader_commit=0),
    )
    leases.sent(host, RequestVoteRequest(term=4, last_log_index=0, last_log_term=0), 5.0)
    with pytest.raises(Violation, match="Lease"):
        leases.must_hold(host, ("t", 1), 5.5)  # not elected yet, for all that is known
    leases.sent(host, heartbeat, 5.2)
    leases.must_hold(host, ("t", 1), 5.9)
    with pytest.raises(Violation, match="Lease"):
        leases.must_hold(host, ("t", 1), 6.1)


def test_a_judge_that_looks_at_notes_makes_no_copy() -> None:
    """A node that is asked for a copy has one from then on; of a gone segment it would be one too many."""
    world, fenced = Simulation(1, Options(nodes=1), ()).world, list[bool]()
    world.run(1.0)
    (host,) = world.live()
    assert host.controller is not None
    copies = host.controller.copies
    copies.fence(copies.get(("once", 7)), lambda: fenced.append(True))
    assert world.run_until(lambda: bool(fenced), 5.0)
    world.kill(1)
    world.start(1)
    copies = world.live()[0].controller.copies  # type: ignore[union-attr]
    assert ("once", 7) in copies.noted and ("once", 7) not in copies.known()


def test_of_a_segment_that_was_dropped_as_much_is_settled_as_was_sealed() -> None:
    """A node that has yet to apply the Trim may have its cursor there, at the recovery's count."""
    judge = Simulation(1, Options(nodes=1), ()).world.judge
    judge.truth(("t", 1)).acked = 2
    assert judge.settled(("t", 1)) == 2
    judge.sealed_as["t", 1] = 3
    assert judge.metadata.segment("t", 1) is None
    assert judge.settled(("t", 1)) == 3


def test_what_is_acknowledged_or_given_after_its_topic_was_gone_is_refused() -> None:
    """Until the Seal the topic is there; what was sent before it may be answered later."""
    metadata, records = cluster(), RetentionRecords({}, lease=1.0)

    def commit(command: Command, now: float) -> list[str]:
        before = records.before(command, metadata)
        metadata.apply(command)
        return [name for name, _ in records.after(command, before, metadata, now)]

    assert commit(DeleteTopic(topic="t", born=1, at_seal=True), 1.0) == []
    assert [*records.acknowledged("t", 1, 2.0), *records.given("t", 1, 2.0)] == []
    assert commit(seal(1, 3), 3.0) == []
    assert [*records.acknowledged("t", 1, 2.9), *records.given("t", 1, 2.9)] == []
    for asked in (3.0, 9.0):
        assert [name for name, _ in records.acknowledged("t", 1, asked)] == ["NoAckAfterDelete"]
        assert [name for name, _ in records.given("t", 1, asked)] == ["NoFrameOfAnOldTopic"]
    assert commit(RegisterTopic(topic="t", leader=1, replicas=(1, 2, 3), number=2), 4.0) == []
    assert [*records.acknowledged("t", 2, 5.0), *records.given("t", 2, 5.0)] == []
    assert commit(DeleteTopic(topic="t", born=2, at_seal=True), 6.0) == []
    assert commit(seal(2, 3, recovered=True), 7.0) == []
    assert [name for name, _ in records.acknowledged("t", 2, 7.0)] == ["NoAckAfterDelete"]
    assert not [*records.given("t", 2, 7.9)], "the leader that was replaced may have a lease"
    assert [name for name, _ in records.given("t", 2, 8.0)] == ["NoFrameOfAnOldTopic"]
    assert commit(RegisterTopic(topic="t", leader=1, replicas=(1, 2, 3), number=3), 9.0) == []
    assert commit(DeleteTopic(topic="t", born=3), 9.0) == ["NoAckAfterDelete"], "it goes without a Seal"


def test_an_entry_that_was_given_up_and_sent_again_is_delivered_at_its_second_place() -> None:
    """A recovery gave up what was at 1.4; the producer sent it again, and it is at 2.0."""
    places = {b"x": [(("t", 1), 4), (("t", 2), 0)]}
    view = SimpleNamespace(now=1.0, metadata=cluster(), written_at=places.__getitem__, settled=lambda key: 1)
    deliveries = DeliveryRecords(cast("Any", view))
    deliveries.received("t", "g", Receipt(2, 0, 0, 1), b"x", 0.5)
    with pytest.raises(Violation, match="PrefixAgree"):
        deliveries.received("t", "g", Receipt(2, 1, 0, 1), b"x", 0.5)
