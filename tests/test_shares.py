"""Whatever tests there are, each is in the list once, and shares begin with what takes long."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tests.shares import PROCESS, SEARCH, SHORT, dealt

LISTS = st.lists(st.sampled_from([SHORT, SHORT, SHORT, PROCESS, SEARCH]), max_size=60).map(
    lambda kinds: list(enumerate(kinds))
)


@given(LISTS, st.integers(1, 5))
def test_each_test_is_there_once_and_those_of_a_kind_keep_their_order(
    tests: list[tuple[int, int]], workers: int
) -> None:
    made = dealt(tests, lambda test: test[1], workers)
    assert sorted(made) == tests
    for kind in (SHORT, PROCESS, SEARCH):
        assert [test for test in made if test[1] == kind] == [test for test in tests if test[1] == kind]


def test_one_share_begins_with_the_searches_and_the_others_with_processes() -> None:
    tests = [(number, (SHORT, SHORT, SHORT, PROCESS, SEARCH, SHORT)[number % 6]) for number in range(90)]
    made = [kind for _, kind in dealt(tests, lambda test: test[1], 3)]
    shares = [made[:30], made[30:60], made[60:]]
    assert [share[0] for share in shares] == [SEARCH, PROCESS, PROCESS]
    assert [share[-1] for share in shares] == [SHORT] * 3
    assert all(share == sorted(share, reverse=True) for share in shares)
