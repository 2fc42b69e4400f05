"""The specs hold in every quick configuration, which takes its actions and refuses its planted bugs."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.tlc.specs import actions_of
from walrus.tlc import main as tlc
from walrus.tlc.configs import (
    DOCUMENT,
    SPECS,
    config_file,
    config_files,
    invariants,
    known_states,
    own_actions,
    properties,
    spec_of,
    with_constants,
)
from walrus.tlc.mutants import PLANTED, Case, expected_of, listing, name_of, run_case, sample
from walrus.tlc.run import run_tlc

pytestmark = [pytest.mark.tla, pytest.mark.timeout(900)]

QUICK = [path.stem for path in config_files("quick")]
EXHAUSTIVE = [path.stem for path in config_files() if "-simulate" not in path.stem]


@pytest.mark.parametrize("name", QUICK)
def test_quick_configuration_holds_in_the_documented_states_and_takes_its_actions(name: str) -> None:
    result = tlc.coverage(name, timeout=800)
    assert result.violated is None, f"{result.violated}: {result.message}"
    assert result.distinct == known_states()[name]
    assert tlc.idle(result) == [], "what depends on these actions was checked vacuously"


@pytest.mark.parametrize("spec", list(SPECS.values()))
def test_every_action_is_what_some_exhaustive_configuration_is_for(spec: str) -> None:
    files = [config_file(name) for name in EXHAUSTIVE if name.startswith(spec.lower())]
    assert {action for file in files for action in own_actions(file.read_text())} == actions_of(spec)


@pytest.mark.parametrize("case", sample(), ids=name_of)
def test_planted_bug_is_refused_and_probe_is_reached(case: Case) -> None:
    assert run_case(case, timeout=600).violated == expected_of(case), case.about


def test_every_exhaustive_configuration_has_planted_bugs() -> None:
    assert set(EXHAUSTIVE) <= {case.config for case in PLANTED}


def test_the_documentation_has_the_table_of_planted_bugs() -> None:
    assert listing() in DOCUMENT.read_text(), "python -m walrus.tlc mutants --list"


@pytest.mark.parametrize("name", ["walrus-liveness", "delivery-liveness", "raft-liveness"])
def test_liveness(name: str) -> None:
    result = tlc.check(name, timeout=500)
    assert result.ok, result.message
    assert result.distinct == known_states()[name]


def test_without_fairness_nothing_need_get_on(tmp_path: Path) -> None:
    base = config_file("walrus-liveness")
    text = with_constants(base.read_text(), {"MaxFaults": "0", "Group": "{}"})
    config = tmp_path / "walrus-unfair.cfg"
    config.write_text(text.replace("SPECIFICATION LiveSpec", "SPECIFICATION Spec"))
    assert run_tlc(spec_of(base), config, timeout=300).violated == "a temporal property"


@pytest.mark.parametrize("name", ["walrus-simulate", "raft-simulate"])
def test_random_behaviours_of_larger_clusters(name: str) -> None:
    result = tlc.simulate(name, behaviours=60, depth=60, timeout=300)
    assert result.ok, result.violated


@pytest.mark.parametrize("spec", list(SPECS))
def test_every_configuration_of_a_spec_checks_all_its_invariants(spec: str) -> None:
    texts = [path.read_text() for path in config_files() if path.stem.startswith(spec)]
    checked = [set(invariants(text)) for text in texts]
    assert all(each == checked[0] for each in checked)
    assert all(set(properties(texts[0])) <= set(properties(text)) for text in texts if "LiveSpec" not in text)
