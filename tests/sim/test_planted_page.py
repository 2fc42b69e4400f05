"""docs/planted-bugs.md: it is what `python -m tools.planted --page` writes, and has a row for every bug."""

from __future__ import annotations

import re

from tools import planted
from walrus.sim import mutants


def test_the_page_is_the_one_that_the_measurements_make() -> None:
    assert planted.PAGE.read_text(encoding="utf-8") == planted.page(), "python -m tools.planted --page"


def test_every_bug_has_a_row_and_every_row_a_bug() -> None:
    rows = re.findall(r"^\| `(\w+)` \|", planted.PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert rows == list(mutants.ALL)


def test_the_bugs_that_no_tool_has_noticed_yet_are_listed() -> None:
    noticed = {bug for (bug, _), one in planted.known().items() if one.found is not None}
    assert set(mutants.ALL) - noticed == set(planted.NOT_YET), "a row became empty, or is empty no more"


def test_a_measurement_counts_for_the_lines_that_it_was_made_with() -> None:
    one = mutants.find("no_fence_check")
    other = mutants.find("no_gap_check")
    assert planted.digest(one) == planted.digest(one)
    assert planted.digest(one) != planted.digest(other)
