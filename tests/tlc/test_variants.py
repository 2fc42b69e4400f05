"""Many variants in one search are judged as each is in a search of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from walrus.tlc import variants
from walrus.tlc.mutants import CASES, PLANTED, run_case
from walrus.tlc.patches import Patch
from walrus.tlc.run import SpecError
from walrus.tlc.variants import UNEVALUATED, Variant, judge_variants

COUNTER = """---- MODULE Counter ----
EXTENDS Naturals, Sequences, TLC

VARIABLES
    x,
    \\* Values that x had.
    seen

vars == <<x, seen>>
-----------------------------------------------------------------------------
Limit == 3

Init == x = 0 /\\ seen = {}

Inc(k) == /\\ x < Limit
          /\\ x' = x + k
          /\\ seen' = seen \\cup {x}

Back(k) ==
    /\\ x > 5 /\\ k = 1
    /\\ x' = 0
    /\\ UNCHANGED seen

Next ==
    \\/ \\E k \\in {1} : Inc(k)
    \\/ \\E k \\in {1} : Back(k)

Spec == Init /\\ [][Next]_vars

Fits == x <= 3
Known == x \\in 0..9
Rises == [][x' > x]_vars
Small == x < 2
====
"""
CONFIG = "SPECIFICATION Spec\nINVARIANTS\n  Known Fits\nPROPERTIES\n  Rises\n"

FAR = Variant((Patch("Limit", "3", "5"),))
WIDE = Variant((Patch("Inc", "x + k", "x + k + 20"),))
BACK = Variant((Patch("Back", "x > 5", "x = 3"),))
STUCK = Variant((Patch("Inc", "x < Limit", "x < 1"),))
BROKEN = Variant((Patch("Inc", "x < Limit", "IF x = 2 THEN x.y ELSE x < Limit"),))
LAZY = Variant((Patch("Inc", "seen \\cup {x}", "[i \\in {1} |-> SubSeq(<<>>, 1, 1)]"),))
PROBE = Variant(judged_by=("Small",))


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    spec = tmp_path / "Counter.tla"
    spec.write_text(COUNTER)
    path = tmp_path / "counter-quick.cfg"
    path.write_text(CONFIG)
    monkeypatch.setattr(variants, "spec_of", lambda file: spec)
    return path


@pytest.mark.tla
def test_each_variant_has_its_own_verdict(config: Path) -> None:
    chosen = [Variant(), FAR, WIDE, BACK, STUCK, BROKEN, PROBE]
    outcomes = judge_variants(config, chosen, states=4)
    assert [outcome.violated for outcome in outcomes] == [
        "",
        "Fits",
        "Known",
        "Rises",
        "",
        UNEVALUATED,
        "Small",
    ]
    plain, _, _, back, stuck, _, _ = outcomes
    assert not (plain.more_states or plain.fewer_states)
    assert stuck.fewer_states and not stuck.more_states
    assert plain.taken == {"Inc"} and back.taken == {"Inc", "Back"}


@pytest.mark.tla
def test_more_states_than_known_are_noticed(config: Path) -> None:
    assert judge_variants(config, [Variant()], states=3)[0].more_states
    assert judge_variants(config, [Variant()], states=5)[0].fewer_states


@pytest.mark.tla
def test_a_variant_that_cannot_be_read_does_not_hide_the_others(config: Path) -> None:
    unknown = Variant((Patch("Limit", "3", "nothing_at_all"),))
    garbled = Variant((Patch("Back", "x > 5 /\\ k = 1", "x > (5 /\\"),))
    outcomes = judge_variants(config, [unknown, WIDE, garbled])
    assert [outcome.violated for outcome in outcomes] == [UNEVALUATED, "Known", UNEVALUATED]


@pytest.mark.tla
def test_one_without_a_value_in_a_function_is_found(config: Path) -> None:
    """Such values are computed with the fingerprint of the state: TLC tells the line, and no state."""
    outcomes = judge_variants(config, [FAR, LAZY, WIDE])
    assert [outcome.violated for outcome in outcomes] == ["Fits", UNEVALUATED, "Known"]


@pytest.mark.tla
def test_a_spec_that_cannot_be_read_is_an_error(config: Path) -> None:
    config.write_text(CONFIG.replace("Fits", "Nothing"))
    with pytest.raises(SpecError, match="Nothing"):
        judge_variants(config, [Variant()])


@pytest.mark.tla
@pytest.mark.parametrize("name", ["RemovesTheNeeded", "ProbeRejoined"])
def test_a_search_of_its_own_finds_the_same(name: str) -> None:
    (case,) = [case for case in CASES if case.name == name and "-quick-" in case.config]
    assert run_case(case).violated == (name if case not in PLANTED else "DomainConsistency")
