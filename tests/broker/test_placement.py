"""Where new segments go."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from walrus.broker.placement import first_leader, next_leader, replica_set


def test_leaders_rotate():
    leaders = [1]
    for _ in range(5):
        leaders.append(next_leader(leaders[-1], [3, 1, 2]))
    assert leaders == [1, 2, 3, 1, 2, 3]


def test_first_leaders_are_spread():
    led = [first_leader(f"topic {number}", [1, 2, 3]) for number in range(300)]
    assert all(led.count(node) > 60 for node in (1, 2, 3))


@given(
    st.integers(1, 5), st.sets(st.integers(1, 5), min_size=1), st.sets(st.integers(1, 5)), st.integers(0, 6)
)
def test_replica_set_holds_the_leader_and_prefers_the_living(
    leader: int, voters: set[int], live: set[int], factor: int
):
    chosen = replica_set(leader, live, voters, factor)
    assert chosen[0] == leader and len(set(chosen)) == len(chosen)
    assert len(chosen) == min(max(factor, 1), len(voters | {leader}))
    left_out = voters - set(chosen)
    assert not (left_out & live) or set(chosen) - {leader} <= live
