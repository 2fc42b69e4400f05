"""Which mutants make a difference is found in one search of the spec, and is what judging each would find."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.tlc.test_variants import CONFIG, COUNTER
from walrus.tlc import differences
from walrus.tlc.configs import config_file, known_states
from walrus.tlc.differences import differing
from walrus.tlc.patches import Generated, Patch
from walrus.tlc.verdicts import judge, load, mutants_of

pytestmark = [pytest.mark.tla, pytest.mark.timeout(2_500)]

SMALLEST = "walrus-quick-groups"
SAMPLE = 12


def changed(operator: str, old: str, new: str) -> Generated:
    return Generated(new, Patch(operator, old, new))


MORE = changed("Inc", "x < Limit", "TRUE")
LESS = changed("Inc", "x < Limit", "x < 1")
BELOW = changed("Limit", "3", "5")
SENSELESS = changed("Inc", "x < Limit", "IF x = 2 THEN x.y ELSE x < Limit")
SAME = changed("Inc", "x < Limit", "x <= Limit - 1")
UNREACHED = changed("Back", "x > 5", "x > 4")
STANDS_STILL = changed("Back", "x > 5", "x = 0")


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    spec = tmp_path / "Counter.tla"
    spec.write_text(COUNTER)
    path = tmp_path / "counter-quick.cfg"
    path.write_text(CONFIG)
    monkeypatch.setattr(differences, "spec_of", lambda file: spec)
    return path


def test_more_less_and_no_value_are_differences_and_a_step_that_changes_nothing_is_none(config: Path) -> None:
    asked = [SAME, MORE, UNREACHED, LESS, SENSELESS, STANDS_STILL, BELOW]
    assert differing(config, asked) == {each.name for each in (MORE, LESS, BELOW, SENSELESS)}


def test_what_the_properties_are_made_of_differs_always(config: Path) -> None:
    config.write_text(CONFIG.replace("Fits", "Small Limit"))
    assert differing(config, [changed("Limit", "3", "2 + 1")]) != set()


def test_what_is_refused_differs_and_what_does_not_differ_is_refused_by_nothing() -> None:
    known = load()["Walrus"]
    mutants = [each for each in mutants_of("Walrus") if each.name in known]
    refused = [each for each in mutants if known[each.name].config == SMALLEST]
    others = [each for each in mutants if known[each.name].survives]
    chosen = refused[:: len(refused) // SAMPLE] + others[:: len(others) // SAMPLE]
    differ = differing(config_file(SMALLEST), chosen)
    assert differ >= {each.name for each in chosen} & {each.name for each in refused}
    same = [each for each in chosen if each.name not in differ]
    assert same and set(judge(same, SMALLEST, known_states()[SMALLEST])) == {""}
