"""Which phases a failover went through, and when: each node tells those that it has seen."""

from __future__ import annotations

import pytest

from tests.broker.world import STEP, NodeWorld, three
from walrus import health
from walrus.broker import failovers
from walrus.broker.failovers import ACKNOWLEDGED, MAX_FAILOVERS, NOTICED, OPENED, PHASES, SEALED, Failovers

OK = b"OK"


def joined(world: NodeWorld) -> dict[tuple[str, int], dict[str, list[float]]]:
    """(topic, segment) -> phase -> when it was, in the world's time, by the word of each node that saw it."""
    found: dict[tuple[str, int], dict[str, list[float]]] = {}
    for node in sorted(world.nodes):
        for told in world.metrics(node)["last_failovers"]:
            phases = found.setdefault((told["topic"], told["segment"]), {})
            for phase, ago in told["ago"].items():
                phases.setdefault(phase, []).append(world.now - ago)
    return found


def led_by_another(world: NodeWorld) -> str:
    """A topic whose leader is not Raft's, with an entry."""
    number = 0
    while not number or world.topic(f"t{number}").open.leader == world.raft_leader:
        number += 1
        world.register(f"t{number}")
    assert world.put(world.raft_leader, f"t{number}", "a") == [OK]
    return f"t{number}"


def test_a_failover_is_told_phase_by_phase_by_those_that_saw_it() -> None:
    world = three()
    topic = led_by_another(world)
    victim, died = world.topic(topic).open.leader, world.now
    world.kill(victim)
    world.until(lambda: world.topic(topic).current == 2)
    assert world.topic(topic).open.leader in world.nodes
    world.run(1.0)
    early = ACKNOWLEDGED in joined(world)[topic, 1]
    assert not early, "FailoverProgress: it is acknowledged, and no client has written since"
    assert world.put(min(world.nodes), topic, "b") == [OK], "FailoverProgress"
    acknowledged = world.now
    phases = joined(world)[topic, 1]
    assert tuple(phase for phase in PHASES if phase in phases) == PHASES, "every phase is told by some node"
    assert all(len(seen) == 1 for seen in phases.values()), "one node recovers, one leads the next segment"
    times = [min(phases[phase]) for phase in PHASES]
    assert times == sorted(times), "FailoverProgress: the phases come in their order"
    assert died <= times[0] <= times[-3] <= died + 1.0, "from the death to the Seal"
    assert abs(times[-1] - acknowledged) <= 2 * STEP
    (told,) = (
        each for n in world.nodes for each in world.metrics(n)["last_failovers"] if NOTICED in each["ago"]
    )
    assert told["leader"] == victim
    before = told["ago"][NOTICED]
    world.run(3.0)
    (later,) = (
        each for n in world.nodes for each in world.metrics(n)["last_failovers"] if NOTICED in each["ago"]
    )
    assert abs(later["ago"][NOTICED] - before - 3.0) <= 5 * STEP, "seconds ago, so no clocks have to agree"


def test_it_is_fenced_before_it_is_recovered_and_stays_so_while_no_copy_is_sure() -> None:
    """A majority that is fenced ends the old leader's acknowledgements, whatever is known of the copies."""
    world = three(durable_acks=False)
    world.sync_each = False
    world.register("t")
    leader = world.topic("t").open.leader
    assert world.put(leader, "t", "a") == [OK]
    unsure = min({1, 2, 3} - {leader})
    world.lose_power(unsure)
    world.kill(leader)
    world.start(unsure, sure=False)
    world.until(lambda: any(c.lifecycle.recoveries for c in world.nodes.values()))
    world.run(1.0)
    assert joined(world)["t", 1].keys() == {"noticed", "fenced"}, (
        "AckedDurable: a recovery goes on without a sure copy"
    )


def test_a_recovery_that_lost_against_the_leader_s_own_seal_was_no_failover() -> None:
    world = three(max_segment_entries=2)
    world.register("t")
    leader = world.topic("t").open.leader
    other = leader % 3 + 1
    world.isolate(other)
    world.nodes[other].lifecycle.recover("t", 1, world.now)
    assert [each["segment"] for each in world.metrics(other)["last_failovers"]] == [1]
    assert world.put(leader, "t", "a", "b") == [OK, OK]
    world.until(lambda: world.topic("t").current == 2)
    world.cut.clear()
    world.until(lambda: all(c.metadata.topics["t"].current == 2 for c in world.nodes.values()))
    assert joined(world) == {}, "SealedStable: a recovery that lost counts as a failover"


def test_the_next_segment_s_first_entry_does_not_count_for_the_failover_before() -> None:
    """The next leader dies, too, before it has acknowledged anything, and later leads the topic again."""
    world = three(max_segment_entries=1)
    failures = Failovers()
    failures.begin(("t", 1), 1, OPENED, 1.0)
    failures.begin(("t", 5), 1, OPENED, 2.0)
    assert failures.awaited == {"t": 5}
    failures.acknowledged("t", 3.0)
    assert [each["ago"].get(ACKNOWLEDGED) for each in failures.told(3.0)] == [None, 0.0]
    world.register("t")
    leader = world.topic("t").open.leader
    world.nodes[leader].lifecycle.recoveries.failovers.begin(("t", 7), 2, OPENED, world.now)
    assert world.put(leader, "t", "a") == [OK]
    assert "acknowledged" not in world.metrics(leader)["last_failovers"][0]["ago"]


def test_a_phase_is_told_of_when_it_was_reached_first() -> None:
    """Another recovery of the segment may begin here, or be fenced again, after the first got further."""
    failures = Failovers()
    failures.begin(("t", 1), 1, NOTICED, 1.0)
    failures.note(("t", 1), SEALED, 2.0)
    failures.begin(("t", 1), 1, NOTICED, 3.0)
    (told,) = failures.told(4.0)
    assert told["ago"] == {NOTICED: 3.0, SEALED: 2.0}, "FailoverProgress: it is sealed before it is noticed"
    failures.check_invariants()


def test_the_last_failovers_are_kept_and_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failovers, "MAX_FAILOVERS", 4)
    world = three()
    names = [f"t{number}" for number in range(12)]
    for name in names:
        world.register(name)
    victim = next(n for n in world.nodes if n != world.raft_leader)
    led = [name for name in names if world.topic(name).open.leader == victim]
    for name in led:
        assert world.put(victim, name, "a") == [OK]
    world.kill(victim)
    world.until(lambda: all(world.topic(name).current == 2 for name in led))
    for name in led:
        world.put(min(world.nodes), name, "b")
    for node in world.nodes:
        told = world.metrics(node)
        assert len(told["last_failovers"]) <= 4 and told["failovers"] == len(led)
        assert world.nodes[node].lifecycle.recoveries.failovers.awaited == {}


def test_what_was_forgotten_does_not_come_back_in_a_later_phase() -> None:
    seen = Failovers()
    for number in range(MAX_FAILOVERS + 1):
        seen.begin(("t", number), 1, NOTICED, float(number))
    seen.note(("t", 0), SEALED, 99.0)
    told = seen.told(100.0)
    assert [each["segment"] for each in told] == list(range(1, MAX_FAILOVERS + 1))
    assert all(each["ago"].keys() == {NOTICED} for each in told)
    seen.begin(("u", 1), 1, OPENED, 100.0)
    seen.forget(("u", 1))
    assert seen.awaited == {}
    seen.check_invariants()


def test_the_names_of_the_phases_are_those_that_others_read() -> None:
    assert health.PHASES == PHASES
