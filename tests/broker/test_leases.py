"""A lease is derived from the metadata, for one incarnation, and lasts as long as a Raft leader is heard."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.broker.test_segments import announce, cluster, register, seal
from tests.broker.world import config, three
from walrus import leases as leases_module
from walrus.broker.tenure import Tenure
from walrus.consensus.messages import PreVoteRequest, RequestVoteResponse
from walrus.leases import RECONCILE_INTERVAL, LeaseTable
from walrus.segments import Metadata, Trim


def test_lease_needs_the_metadata_and_a_raft_leader():
    leases = LeaseTable(1, 1, ttl=1.0)
    assert not leases.holds("t", 1, 0.0), "Lease: held although no topic is known"
    leases.reconcile(cluster())
    assert not leases.holds("t", 1, 0.0), "Lease: no leader was heard"
    leases.heard(5.0)
    assert leases.holds("t", 1, 5.9) and leases.held(5.9) == {"t": 1}, (
        "Lease: not held although a leader was heard"
    )
    over = not leases.holds("t", 1, 6.0) and leases.held(6.0) == {}
    assert over, "Lease: it is good at the instant at which it ends"
    assert not leases.holds("t", 2, 5.5), "OpenLeaderMatchesMap: a lease on a segment that is not open"
    assert not leases.holds("u", 1, 5.5), "DomainConsistency: a lease on a topic that is unknown"


def test_lease_ends_with_the_segment():
    metadata = cluster()
    leases = LeaseTable(1, 1, ttl=1.0)
    leases.heard(0.0)
    leases.reconcile(metadata, "t")
    metadata.apply(seal(1, 7, leader=2))
    leases.reconcile(metadata, "t")
    over = not leases.holds("t", 1, 0.1) and not leases.holds("t", 2, 0.1)
    assert over, "OpenLeaderMatchesMap: a lease outlives its segment"
    metadata.apply(seal(2, 7, leader=1))
    leases.reconcile(metadata)
    leases.check_invariants(metadata)
    assert leases.granted() == {"t": 3}, "Lease: of a segment that is over, or of none"


def test_restarted_node_does_not_lead_what_its_former_self_led():
    leases = LeaseTable(1, 2, ttl=1.0)
    leases.heard(0.0)
    metadata = cluster(announce(1, 2))
    leases.reconcile(metadata)
    assert leases.granted() == {}, "SingleWriter: a restarted node leads what its former self led"
    metadata.apply(register("u"))
    leases.reconcile(metadata)
    assert leases.granted() == {"u": 1}, "Lease: of a topic that another process leads"


def test_what_was_heard_late_does_not_shorten_a_lease():
    leases = LeaseTable(1, 1, ttl=1.0)
    leases.heard(5.0)
    leases.heard(3.0)
    assert leases.expires_at() == 6.0, "Lease: what was heard late shortens it"


def test_unknown_topic_is_not_leased():
    leases = LeaseTable(1, 1, ttl=1.0)
    leases.reconcile(cluster(), "unknown")
    assert leases.granted() == {}, "Lease: of a topic that is gone"


def test_lease_that_was_missed_ends_with_the_next_look():
    metadata = cluster()
    leases = LeaseTable(1, 1, ttl=1.0)
    leases.heard(0.0)
    leases.reconcile(metadata)
    metadata.apply(seal(1, 7, leader=2))
    leases.on_tick(metadata, 0.0)
    assert not leases.holds("t", 1, 0.0), "OpenLeaderMatchesMap: a lease outlives its segment"


def test_of_many_leases_each_is_looked_at_in_its_turn(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(leases_module, "MAX_RECONCILED", 2)
    names = ["t", "u", "v", "w", "x"]
    metadata = cluster(*(register(name) for name in names[1:]))
    leases = LeaseTable(1, 1, ttl=1.0)
    leases.reconcile(metadata)
    granted = list(leases.granted())
    for name in granted:
        metadata.apply(seal(1, 7, leader=2, topic=name))
    left = []
    for look in range(4):
        leases.on_tick(metadata, look * RECONCILE_INTERVAL)
        left.append(len(leases.granted()))
    count = len(granted)
    assert left == [max(0, count - 2 * look) for look in (1, 2, 3, 4)] and left[-1] == 0 < left[0], (
        "Lease: of what the metadata does not grant, for good"
    )


def test_what_a_majority_heard_of_a_raft_leader_outlives_its_leadership():
    """It is how long the leases of that node are still good; without it they would end at once."""
    world = three()
    raft = world.nodes[world.raft_leader].raft
    heard = raft.last_contact
    raft._become_follower(raft.current_term + 1, None, world.now)
    assert raft.last_contact == heard > 0, "Lease: a leader that steps down forgets that it was heard"


def test_only_a_leader_prolongs_a_lease():
    world = three()
    node, other = (n for n in (1, 2, 3) if n != world.raft_leader)
    broker = world.nodes[node]
    until, term, last = broker.leases.expires_at(), broker.raft.current_term, broker.raft.log.last
    for message in (
        PreVoteRequest(term=term + 1, last_log_index=last.index, last_log_term=last.term),
        RequestVoteResponse(term=term, granted=True),
    ):
        broker.on_message(other, message, world.now + 0.1)
    assert broker.leases.expires_at() == until, "Lease: prolonged by a node that does not lead Raft"


# --- the lease of an owner of work queues ---


def tenure_of(metadata: Metadata) -> tuple[Tenure, list[Callable[[bool, float], None]]]:
    """Node 1's, and the questions that it asks."""
    leases = LeaseTable(1, 1, ttl=1.0)
    leases.reconcile(metadata)
    asked: list[Callable[[bool, float], None]] = []
    return Tenure(config(1), metadata, leases, lambda then, now: asked.append(then)), asked


def test_a_tenure_lasts_from_when_it_was_asked_for_however_late_the_answer_is():
    tenure, asked = tenure_of(cluster())
    tenure.keep(10.0)
    asked.pop()(False, 10.1)
    assert not tenure.serves("t", 10.1), "AckedNotRedelivered: what is not fresh is no lease"
    tenure.keep(10.2)
    assert asked, "EveryEntryAcked: an owner that got no answer once asks for no lease any more"
    asked.pop()(True, 10.9)
    end = 10.2 + config(1).lease_ttl
    assert tenure.serves("t", end - 0.01), "AckedNotRedelivered: an owner that may serve does not"
    assert not tenure.serves("t", end), "AckedNotRedelivered: it serves while a later owner may"


def test_what_an_owner_has_in_hand_is_void_if_another_one_was_between():
    metadata = cluster()
    tenure, _ = tenure_of(metadata)
    assert not tenure.on_topic("t", metadata.topics["t"], 0.0), (
        "EveryEntryAcked: deliveries of its own are void"
    )
    metadata.apply(seal(1, 7, leader=1))
    assert not tenure.on_topic("t", metadata.topics["t"], 1.0), "EveryEntryAcked: its own rollover"
    metadata.apply(seal(2, 7, leader=2))
    metadata.apply(seal(3, 7, leader=1))  # both at once: it never saw that it was not the owner
    assert tenure.on_topic("t", metadata.topics["t"], 2.0), (
        "AckedNotRedelivered: it hands out what another owner has answered an ACK of"
    )
    metadata.apply(seal(4, 7, leader=1, recovered=True))
    assert tenure.on_topic("t", metadata.topics["t"], 3.0), "AckedNotRedelivered: nor after a recovery"


def serves_from(metadata: Metadata, before: Metadata | None = None) -> float:
    """When node 1 serves, which applies this at 10.0 and has a lease; what it saw `before`, if anything."""
    tenure, asked = tenure_of(metadata)
    if before is not None:
        tenure.on_topic("t", before.topics["t"], 0.0)
    tenure.on_topic("t", metadata.topics["t"], 10.0)
    for tenth in range(100):
        now = 10.0 + tenth / 10
        tenure.keep(now)
        while asked:
            asked.pop()(True, now)
        tenure.on_tick(now)
        if tenure.serves("t", now):
            return now
    raise AssertionError("EveryEntryAcked: an owner with a lease never serves")


LOST = seal(1, 7, leader=1, recovered=True)
WAITS = 10.0 + config(1).failure_timeout


def test_a_node_that_sees_a_topic_for_the_first_time_waits_for_the_owner_of_a_recovered_segment():
    """After a restart, or a snapshot, it does not know when the Seal was applied elsewhere: perhaps now."""
    assert serves_from(cluster(seal(1, 7, leader=1))) == 10.0, (
        "EveryEntryAcked: its last owner handed it over"
    )
    assert serves_from(cluster(LOST)) >= WAITS, "AckedNotRedelivered: the owner of before may serve still"
    assert serves_from(cluster(LOST, seal(2, 7, leader=1))) >= WAITS, "AckedNotRedelivered: nor behind it"


def test_a_recovery_that_retention_took_away_unseen_is_waited_for_too():
    gone = cluster(LOST, seal(2, 7, leader=1), Trim(topic="t", old=1, first=2))
    waits = serves_from(gone) >= WAITS and serves_from(gone, before=cluster()) >= WAITS
    assert waits, "AckedNotRedelivered: the owner of before may serve still"
    known = cluster(LOST, seal(2, 7, leader=1))
    assert serves_from(gone, before=known) == 10.0, "EveryEntryAcked: it was waited for when it was seen"


def test_the_next_topic_of_a_name_does_not_wait_for_the_owners_of_the_last():
    tenure, asked = tenure_of(cluster())
    tenure.keep(10.0)
    asked.pop()(True, 10.0)
    tenure.on_topic("t", cluster(LOST).topics["t"], 10.0)
    assert not tenure.serves("t", 10.1), "AckedNotRedelivered: the owner of before may serve still"
    tenure.on_topic("t", None, 10.1)
    assert tenure.serves("t", 10.2), "EveryEntryAcked: it waits for owners of a topic that is gone"
