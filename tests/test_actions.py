"""No action of the specs is checked for nothing: the code takes each of them in seeded runs."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from tools import actions


@pytest.mark.slow
def test_the_code_takes_every_action_that_it_has() -> None:
    taken = actions.played(enough=lambda taken: not actions.never(taken))
    never = [f"{action.spec}: {action.name}" for action in actions.never(taken)]
    assert never == [], "checked in the spec, and never done by the code in these runs"


def test_an_action_without_a_function_says_why() -> None:
    assert [action.name for action in actions.actions() if not action.function and not action.remark] == []


def test_the_page_lists_the_actions_of_today() -> None:
    text = actions.PAGE.read_text("utf-8")
    rows = [name for name in re.findall(r"^\| (\w+)(?:: [^|]*)? \|", text, re.MULTILINE) if name != "action"]
    assert rows == [action.name for action in actions.actions()], "run python -m tools.actions --write"


def test_calls_are_counted_and_functions_come_back() -> None:
    entered: Counter[str] = Counter()
    name = "walrus.leases.LeaseTable.holds"
    with actions.counted({name, "walrus.raft.Raft.last_contact", "walrus.raft.Raft"}, entered):
        import walrus.leases

        table = walrus.leases.LeaseTable(1, 1, 1.0)
        assert not table.holds("t", 1, 0.0)
    assert entered == {name: 1}
    assert not table.holds("t", 1, 0.0)
    assert entered == {name: 1}


def test_a_function_that_nothing_calls_has_no_figure() -> None:
    taken = actions.Taken(Counter(), Counter(), Counter(), Counter({("Raft", "Timeout"): 3}))
    assert taken.of(actions.Action("Raft", "Timeout", "walrus.raft.Raft._campaign", "")) == [0, 0, 0, 3]
    assert taken.of(actions.Action("Walrus", "Timeout", "walrus.raft.Raft._campaign", "")) == [0, 0, 0, 0]
