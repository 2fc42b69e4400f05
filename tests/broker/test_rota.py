"""Everything has its turn, and none takes more than a share."""

from __future__ import annotations

import random
from collections import Counter
from functools import partial

import pytest

from walrus.rota import Rota


@pytest.mark.parametrize("seed", range(20))
def test_what_is_there_for_a_whole_round_has_one_turn_in_it(seed: int) -> None:
    rng = random.Random(seed)
    rota, there = Rota[int](), set(range(rng.randrange(30)))
    for number in range(10):
        begun, stayed, given = set(there), set(there), Counter[int]()
        while not (given and rota.over) and there:
            size = rng.randint(1, 5)
            share = rota.share(size, partial(sorted, there))
            assert len(share) <= size
            given.update(share)
            if not rota.over:
                there = {one for one in there if rng.random() < 0.9} | {rng.randrange(1_000)}
                stayed &= there
        assert set(given) == begun, f"round {number} is of what there was at its beginning"
        assert set(given.values()) <= {1} and stayed <= set(given)


def test_a_round_that_is_begun_anew_forgets_the_old_one() -> None:
    rota = Rota[str]()
    assert rota.share(2, lambda: "abcde") == ["a", "b"]
    rota.begin_anew()
    assert rota.over and rota.share(9, lambda: "xy") == ["x", "y"] and rota.over


def test_nothing_takes_no_turn() -> None:
    assert Rota[str]().share(5, lambda: ()) == []
