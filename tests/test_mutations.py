"""The mutants that `make mutate` does not count exist, and each has its proof."""

from __future__ import annotations

from tools.laboratory import _in_function
from tools.mutate import draw, equivalent


def test_every_mutant_that_is_excused_exists_and_says_why() -> None:
    names = {mutant.name for mutant in draw(None, 1, [])}
    assert {name for name in equivalent() if name not in names} == set(), "the code changed: prove it anew"
    assert all(len(reason) > 40 for reason in equivalent().values())


def test_a_larger_sample_has_the_smaller_one_in_it() -> None:
    """So what is judged so far is a sample too, and an edit of the code changes few of its members."""
    assert draw(40, 1, []) == draw(80, 1, [])[:40] != draw(40, 2, [])


def test_a_slip_in_what_a_decorator_makes_is_planted_before_it_is_made() -> None:
    """Exchanging the decorator's code afterwards would change nothing, and each such mutant would survive."""
    inside = {mutant.name.split(":")[1]: _in_function(mutant) for mutant in draw(None, 1, ["walrus/wal.py"])}
    assert inside["_door.call"] is False and inside["Walrus.close"] is True
