"""The specs hold in every quick configuration, take every action, and refuse every planted bug."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from walrus.tlc import main as tlc
from walrus.tlc.configs import config_file, config_files, invariants, spec_of, with_constants
from walrus.tlc.mutants import MUTANTS, PROBES, Mutant, run_mutant
from walrus.tlc.run import TlcResult, run_tlc

pytestmark = [pytest.mark.tla, pytest.mark.timeout(600)]

DOCUMENT = Path(__file__).resolve().parent.parent.parent / "docs" / "model-checking.md"
AT_ONCE = 2
"""TLC runs on one core each."""


def documented() -> dict[str, int]:
    """Distinct states by configuration, as docs/model-checking.md has them."""
    rows = re.findall(r"^\| `([\w-]+)` \| ([\d,]+) \|", DOCUMENT.read_text(), re.MULTILINE)
    return {name: int(count.replace(",", "")) for name, count in rows}


def test_the_quick_configurations_hold_with_the_documented_number_of_states_and_take_every_action() -> None:
    names = [path.stem for path in config_files("quick")]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        found = pool.map(lambda name: tlc.coverage(name, timeout=500), names)
        quick: dict[str, TlcResult] = dict(zip(names, found, strict=True))
    assert {name: result.violated for name, result in quick.items() if not result.ok} == {}
    known = documented()
    assert {name: result.distinct for name, result in quick.items()} == {name: known[name] for name in quick}
    assert sum(result.distinct for result in quick.values()) >= 500_000
    for spec in ("Walrus", "Raft"):
        results = [result for result in quick.values() if result.spec == spec]
        assert results and tlc.never_taken(results) == []


def test_planted_bugs_are_refused_and_probes_are_reached() -> None:
    assert len(MUTANTS) >= 15

    def verdict(mutant: Mutant) -> tuple[str, str | None]:
        return mutant.name, run_mutant(mutant, timeout=300).violated

    with ThreadPoolExecutor(AT_ONCE) as pool:
        found = dict(pool.map(verdict, MUTANTS + PROBES))
    assert found == {mutant.name: mutant.expected for mutant in MUTANTS + PROBES}


def test_every_planted_bug_of_the_specs_is_in_the_table() -> None:
    for spec in ("walrus", "raft"):
        text = (DOCUMENT.parent.parent / "spec" / f"{spec.capitalize()}.tla").read_text()
        named = set(re.findall(r'Bug (?:=|#) "(\w+)"', text)) - {"none"}
        for many in re.findall(r"Bug \\in \{(.*?)\}", text):
            named |= set(re.findall(r'"(\w+)"', many))
        assert named == {mutant.bug for mutant in MUTANTS if mutant.spec == spec}


@pytest.mark.parametrize("name", ["walrus-liveness", "raft-liveness"])
def test_liveness(name: str) -> None:
    result = tlc.check(name, timeout=500)
    assert result.ok, result.message
    assert result.distinct == documented()[name]


def test_without_fairness_nothing_need_get_on(tmp_path: Path) -> None:
    base = config_file("walrus-liveness")
    text = with_constants(base.read_text(), {"MaxCrashes": "0", "Group": "{}"})
    config = tmp_path / "walrus-unfair.cfg"
    config.write_text(text.replace("SPECIFICATION LiveSpec", "SPECIFICATION Spec"))
    assert run_tlc(spec_of(base), config, timeout=300).violated == "a temporal property"


def test_random_behaviours_of_larger_clusters() -> None:
    for name in ("walrus-simulate", "raft-simulate"):
        result = tlc.simulate(name, behaviours=60, depth=60, timeout=300)
        assert result.ok, result.violated


def test_every_configuration_of_a_spec_checks_all_its_invariants() -> None:
    for spec in ("walrus", "raft"):
        checked = [set(invariants(path.read_text())) for path in config_files() if path.stem.startswith(spec)]
        assert all(each == checked[0] for each in checked)
