"""Each guard of each action, changed by rule, has a verdict, and the verdicts are what TLC says."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools import spec_mutants
from walrus.tlc import verdicts
from walrus.tlc.configs import SPECS, known_states
from walrus.tlc.patches import generated
from walrus.tlc.verdicts import OTHER_STATES, Verdict, candidates, judge, load, mutants_of, summary

SAMPLE = 12
"""So many of a spec's verdicts are looked at again in every run of the tests."""

SMALL = 5_000
"""In a configuration of more states than these, a quarter as many."""


def test_a_guard_with_two_bounds_is_one_guard() -> None:
    spec = "Act ==\n    /\\ \\A t \\in T, s \\in S : p[t] < q[s]\n    /\\ x' = 1\n\nNext ==\n    \\/ Act\n"
    mutants = {each.kind: each.patch.apply(spec) for each in generated(spec)}
    assert mutants.keys() == {"drop", "negate"}
    assert "/\\ TRUE\n" in mutants["drop"]
    assert "/\\ ~(\\A t \\in T, s \\in S : p[t] < q[s])\n" in mutants["negate"]


@pytest.mark.parametrize("spec", SPECS.values())
def test_every_verdict_is_of_a_mutant_that_the_rules_make(spec: str) -> None:
    names = [mutant.name for mutant in mutants_of(spec)]
    assert len(names) == len(set(names))
    assert set(load().get(spec, {})) <= set(names), "python -m walrus.tlc guards --search"


def test_the_documentation_has_the_table_of_verdicts() -> None:
    assert summary().strip() in spec_mutants.PAGE.read_text(), "python -m tools.spec_mutants --write"


@pytest.mark.parametrize("spec", SPECS.values())
def test_a_verdict_is_a_configuration_or_a_reason(spec: str) -> None:
    for name, verdict in load().get(spec, {}).items():
        assert [verdict.config, verdict.survives, verdict.tried].count("") == 2, name
        assert bool(verdict.config) == bool(verdict.by), name
        assert not verdict.config or SPECS[verdict.config.split("-")[0]] == spec, name
        assert not verdict.config or verdict.config in known_states(), name
        assert len(verdict.survives) > 20 or not verdict.survives, f"{name}: that is no reason"


@pytest.mark.parametrize("spec", SPECS.values())
def test_every_mutant_is_refused_or_has_a_reason(spec: str) -> None:
    """So a guard that is new, or says something else, needs a verdict."""
    known = load().get(spec, {})
    missing = [each.name for each in mutants_of(spec) if not known.get(each.name, Verdict()).final]
    found = "\n".join(missing[:20])
    assert not missing, f"python -m walrus.tlc guards --search finds verdicts on them:\n{found}"


def test_most_mutants_are_refused_by_more_than_the_number_of_states() -> None:
    refused = [verdict for each in load().values() for verdict in each.values() if verdict.config]
    strong = [verdict for verdict in refused if verdict.by != OTHER_STATES]
    assert len(strong) > 0.7 * len(refused), (
        "python -m walrus.tlc guards --strengthen looks for better verdicts"
    )


@pytest.mark.tla
@pytest.mark.timeout(3_000)
@pytest.mark.parametrize("spec", load())
def test_a_sample_of_the_verdicts_is_what_tlc_says(spec: str) -> None:
    """Those of one small configuration; all are looked at by `make model-check`."""
    known, states = load()[spec], known_states()
    config = next(
        name
        for name in candidates(spec, states)
        if sum(verdict.config == name for verdict in known.values()) >= SAMPLE
    )
    refused = {name for name, verdict in known.items() if verdict.config == config}
    mutants = [mutant for mutant in mutants_of(spec) if mutant.name in refused]
    chosen = mutants[:: len(mutants) // (SAMPLE if states[config] < SMALL else SAMPLE // 4)]
    found = judge(chosen, config, states[config], timeout=2_500)
    assert dict(zip([mutant.name for mutant in chosen], found, strict=True)) == {
        mutant.name: known[mutant.name].by for mutant in chosen
    }


def test_verdicts_are_written_as_they_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = load()
    monkeypatch.setattr(verdicts, "FILE", tmp_path / "mutants.json")
    verdicts.save(found)
    assert load() == found
