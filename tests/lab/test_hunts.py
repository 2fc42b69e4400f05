"""Every hunt shows its bug to the hunter, and hides nothing else in the copy."""

from __future__ import annotations

import ast
import os
import shlex
from pathlib import Path

import pytest

from walrus.lab import hunts
from walrus.lab.__main__ import main
from walrus.lab.holes import text_of
from walrus.lab.workshop import ROOT
from walrus.sim import __main__ as sim
from walrus.sim import mutants

HUNTS = hunts.hunts()
DEEP = os.environ.get("HYPOTHESIS_PROFILE") == "deep"


@pytest.mark.parametrize("number", HUNTS if DEEP else list(HUNTS)[::4])
def test_the_command_of_a_hunt_shows_that_something_breaks(
    number: int, capsys: pytest.CaptureFixture[str]
) -> None:
    hunt = HUNTS[number]
    module, *flags = shlex.split(hunt.run)
    assert module == "walrus.sim"
    assert sim.main([*flags, "--no-shrink", "--mutant", hunt.bug]) == 1, f"{hunt.run}: take another seed"
    said = capsys.readouterr().out
    assert any(f"{name}: " in said for name in hunt.mutant.expected), said[-600:]


@pytest.mark.parametrize("number", HUNTS)
def test_a_bug_is_one_place_of_a_file_that_python_reads(number: int) -> None:
    hunt = HUNTS[number]
    for slip in hunt.mutant.slips:
        site = hunts._site(slip)
        source = (ROOT / site.file).read_text("utf-8")
        made = hunts.planted(source, slip)
        ast.parse(made)
        assert made != source
        assert source.replace(text_of(source, site), "") == made.replace(text_of(made, site), "")


def test_twenty_bugs_that_differ_in_no_order_of_the_registry() -> None:
    bugs = [hunt.bug for hunt in HUNTS.values()]
    assert len(set(bugs)) == 20
    assert bugs != sorted(bugs, key=list(mutants.ALL).index)


def test_a_hunt_from_its_start_to_a_right_guess(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "hunt"
    assert main(["hunt", "3", str(folder)]) == 0
    hunt = HUNTS[3]
    assert hunt.bug not in capsys.readouterr().out + (folder / "HUNT.md").read_text()
    assert main(["guess", str(folder), "walrus/quorum.py:majority"]) == 1
    assert main(["guess", str(folder), str(next(iter(hunt.sites)))]) == 0
    assert hunt.mutant.about in capsys.readouterr().out
    assert main(["check", str(folder)]) == 2
    assert "HUNT.md" in capsys.readouterr().err
    assert main(["hunt", "99", str(tmp_path / "other")]) == 2
