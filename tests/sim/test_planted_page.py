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


def test_two_tools_notice_every_bug() -> None:
    unnoticed = [bug for bug, tools in planted.noticed_by().items() if len(tools) < 2]
    assert not unnoticed, "ask another tool, or write the scenario or the test that notices it"


def test_a_measurement_counts_for_the_lines_that_it_was_made_with() -> None:
    one = mutants.find("no_fence_check")
    other = mutants.find("no_gap_check")
    assert planted.digest(one) == planted.digest(one)
    assert planted.digest(one) != planted.digest(other)
