"""A lease is derived from the metadata, for one incarnation, and lasts as long as a Raft leader is heard."""

from __future__ import annotations

import pytest

from tests.broker.test_segments import announce, cluster, register, seal
from tests.broker.world import three
from walrus import leases as leases_module
from walrus.leases import RECONCILE_INTERVAL, LeaseTable


def test_lease_needs_the_metadata_and_a_raft_leader():
    leases = LeaseTable(1, 1, ttl=1.0)
    assert not leases.holds("t", 1, 0.0)
    leases.reconcile(cluster())
    assert not leases.holds("t", 1, 0.0), "no leader was heard"
    leases.heard(5.0)
    assert leases.holds("t", 1, 5.9) and leases.held(5.9) == {"t": 1}
    assert not leases.holds("t", 1, 6.0) and leases.held(6.0) == {}
    assert not leases.holds("t", 2, 5.5) and not leases.holds("u", 1, 5.5)


def test_lease_ends_with_the_segment():
    metadata = cluster()
    leases = LeaseTable(1, 1, ttl=1.0)
    leases.heard(0.0)
    leases.reconcile(metadata, "t")
    metadata.apply(seal(1, 7, leader=2))
    leases.reconcile(metadata, "t")
    assert not leases.holds("t", 1, 0.1) and not leases.holds("t", 2, 0.1)
    metadata.apply(seal(2, 7, leader=1))
    leases.reconcile(metadata)
    leases.check_invariants(metadata)
    assert leases.granted() == {"t": 3}


def test_restarted_node_does_not_lead_what_its_former_self_led():
    leases = LeaseTable(1, 2, ttl=1.0)
    leases.heard(0.0)
    metadata = cluster(announce(1, 2))
    leases.reconcile(metadata)
    assert leases.granted() == {}
    metadata.apply(register("u"))
    leases.reconcile(metadata)
    assert leases.granted() == {"u": 1}


def test_what_was_heard_late_does_not_shorten_a_lease():
    leases = LeaseTable(1, 1, ttl=1.0)
    leases.heard(5.0)
    leases.heard(3.0)
    assert leases.expires_at() == 6.0


def test_unknown_topic_is_not_leased():
    leases = LeaseTable(1, 1, ttl=1.0)
    leases.reconcile(cluster(), "unknown")
    assert leases.granted() == {}


def test_lease_that_was_missed_ends_with_the_next_look():
    metadata = cluster()
    leases = LeaseTable(1, 1, ttl=1.0)
    leases.heard(0.0)
    leases.reconcile(metadata)
    metadata.apply(seal(1, 7, leader=2))
    leases.on_tick(metadata, 0.0)
    assert not leases.holds("t", 1, 0.0)


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
    assert left == [max(0, count - 2 * look) for look in (1, 2, 3, 4)] and left[-1] == 0 < left[0]


def test_what_a_majority_heard_of_a_raft_leader_outlives_its_leadership():
    """It is how long the leases of that node are still good; without it they would end at once."""
    world = three()
    raft = world.nodes[world.raft_leader].raft
    heard = raft.last_contact
    raft._become_follower(raft.current_term + 1, None, world.now)
    assert raft.last_contact == heard > 0
