"""The specs hold in every quick configuration, which takes its actions and refuses its planted bugs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.tlc.specs import actions_of
from tools import spec_mutants
from walrus.tlc import main as tlc
from walrus.tlc.configs import (
    DOCUMENT,
    SPECS,
    config_file,
    config_files,
    invariants,
    known_figures,
    known_states,
    own_actions,
    properties,
    spec_of,
    table,
    totals,
    with_constants,
)
from walrus.tlc.mutants import PLANTED, Case, cases_of, expected_of, listing, run_case, variant_of
from walrus.tlc.patches import Patch, definitions
from walrus.tlc.run import run_tlc
from walrus.tlc.variants import Variant, judge_variants, search_of

pytestmark = [pytest.mark.tla, pytest.mark.timeout(3_000)]

QUICK = [path.stem for path in config_files("quick")]
ONE_FOR_GUARDS = "walrus-guards-pair"
"""`make model-check` has the others of its kind."""
SMALLEST = ["walrus-quick-register", "raft-quick-restarts"]
SAMPLE, OF_A_LARGE_ONE = 5, 2
"""So many planted bugs of a configuration are asked about here; `make model-check` asks about all."""
LARGE = 10_000
"""States. Each bug is followed until it shows, and where there are so many that takes seconds."""
EXHAUSTIVE = [path.stem for path in config_files() if "-simulate" not in path.stem]


def sample(cases: Sequence[Case], states: int) -> Sequence[Case]:
    """Some of the bugs of a configuration with so many states, from the first to the last."""
    wanted = OF_A_LARGE_ONE if states > LARGE else SAMPLE
    return cases[:: -(-len(cases) // wanted)] if cases else cases


@pytest.mark.parametrize("name", [*QUICK, ONE_FOR_GUARDS])
def test_quick_configuration_holds_and_refuses_its_planted_bugs(name: str) -> None:
    """The same judge judges the spec itself: it takes its actions, in the documented states."""
    config, states = config_file(name), known_states()[name]
    cases = sample(cases_of(name), states)
    chosen = [Variant(), *map(variant_of, cases)]
    itself, *others = judge_variants(config, chosen, states=states, timeout=2_500)
    assert itself.violated == ""
    assert not itself.more_states and not itself.fewer_states, (
        "the documentation has another number of states"
    )
    assert set(own_actions(config.read_text())) <= itself.taken, "what depends on these was checked vacuously"
    found = {case.name: outcome.violated for case, outcome in zip(cases, others, strict=True)}
    assert found == {case.name: expected_of(case) for case in cases}


@pytest.mark.parametrize("name", SMALLEST)
def test_tlc_by_itself_finds_that_it_holds(name: str) -> None:
    result = tlc.coverage(name, timeout=2_500)
    assert result.ok, f"{result.violated}: {result.message}"
    assert result.distinct == known_states()[name]
    assert tlc.idle(result) == []


def test_a_configuration_that_checks_nothing_is_noticed(tmp_path: Path) -> None:
    """With one segment nothing is sealed: all holds, and what the configuration is for never happens."""
    base = config_file("walrus-quick-register")
    config = tmp_path / base.name
    config.write_text(with_constants(base.read_text(), {"MaxSegments": "1"}))
    result = run_tlc(spec_of(base), config, arguments=["-coverage", "1"], timeout=2_500)
    assert result.ok
    assert "Seal" in tlc.idle(result), "a vacuous configuration passes for one that proves something"
    assert result.distinct != known_states()[base.stem]


@pytest.mark.parametrize("spec", list(SPECS.values()))
def test_every_action_is_what_some_exhaustive_configuration_is_for(spec: str) -> None:
    files = [config_file(name) for name in EXHAUSTIVE if name.startswith(spec.lower())]
    assert {action for file in files for action in own_actions(file.read_text())} == actions_of(spec)


def test_every_exhaustive_configuration_has_planted_bugs() -> None:
    assert set(EXHAUSTIVE) <= {case.config for case in PLANTED}


def test_the_documentation_has_the_table_of_configurations() -> None:
    page, figures = DOCUMENT.read_text(), known_figures()
    assert table(figures) in page and totals(figures) in page, "python -m walrus.tlc coverage --write CONFIG"


def test_every_exhaustive_configuration_was_searched_to_its_end() -> None:
    left = set(EXHAUSTIVE) - set(known_figures())
    assert not left, "python -m walrus.tlc coverage --write CONFIG"


def test_the_documentation_has_the_table_of_planted_bugs() -> None:
    page = spec_mutants.PAGE.read_text()
    assert listing().strip() in page, "python -m tools.spec_mutants --write"


LONG_LIVES = ["walrus-liveness"]
"""Half a minute of a core, most of it to see what is enabled in each state: in `make model-check`."""


@pytest.mark.parametrize(
    "name", [path.stem for path in config_files("liveness") if path.stem not in LONG_LIVES]
)
def test_liveness(name: str) -> None:
    result = tlc.check(name, timeout=2_500)
    assert result.ok, result.message
    assert result.distinct == known_states()[name]


SHORT_LIVES = ["publish-liveness", "retention-liveness"]
"""Where a search takes seconds, each planted bug and each condition of fairness has one in every run."""


@pytest.mark.parametrize(
    "case", [case for name in SHORT_LIVES for case in cases_of(name)], ids=lambda case: case.name
)
def test_a_planted_bug_holds_something_up(case: Case) -> None:
    assert run_case(case).violated == expected_of(case)


def fairness_of(config: str) -> list[str]:
    """The conditions, one by one."""
    text = spec_of(config_file(config)).read_text()
    start, end = definitions(text)["Fairness"]
    return re.findall(r"[WS]F_vars\(.*\)$", text[start:end], re.MULTILINE)


@pytest.mark.parametrize(
    ("config", "condition"), [(name, each) for name in SHORT_LIVES for each in fairness_of(name)]
)
def test_no_condition_of_fairness_is_there_for_nothing(config: str, condition: str) -> None:
    left_out = Variant((Patch("Fairness", condition, "TRUE"),))
    assert search_of(config_file(config), left_out).violated == "a temporal property"


def test_without_fairness_nothing_need_get_on(tmp_path: Path) -> None:
    base = config_file("walrus-liveness")
    text = with_constants(base.read_text(), {"MaxFaults": "0", "Group": "{}"})
    config = tmp_path / "walrus-unfair.cfg"
    config.write_text(text.replace("SPECIFICATION LiveSpec", "SPECIFICATION Spec"))
    assert run_tlc(spec_of(base), config, timeout=2_500).violated == "a temporal property"


@pytest.mark.parametrize("name", [path.stem for path in config_files("simulate")])
def test_random_behaviours_of_larger_clusters(name: str) -> None:
    result = tlc.simulate(name, behaviours=60, depth=60, timeout=2_500)
    assert result.ok, result.violated


@pytest.mark.parametrize("spec", list(SPECS))
def test_every_configuration_of_a_spec_checks_all_its_invariants(spec: str) -> None:
    texts = [path.read_text() for path in config_files() if path.stem.startswith(spec)]
    checked = [set(invariants(text)) for text in texts]
    assert all(each == checked[0] for each in checked)
    safe = [set(properties(text)) for text in texts if "LiveSpec" not in text]
    assert all(safe[0] <= each for each in safe)
