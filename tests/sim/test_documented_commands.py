"""What the documentation tells a reader to type finds the bug that it says, and every name in it is one.

All commands with `--mutant`, or of `walrus.tlc mutants`, are read from the pages and parsed. Those that play
every scenario, or shrink what they find, are run by `make deep` only.
"""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path

import pytest

import walrus
from walrus.sim import __main__ as sim
from walrus.sim import explore_cli, mutants, scenarios
from walrus.tlc.mutants import CASES, name_of

ROOT = Path(walrus.__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
DEEP = os.environ.get("HYPOTHESIS_PROFILE") == "deep"


def _commands(module: str) -> list[str]:
    """What the pages have behind `python -m module`, in blocks and in lines; not what only names a flag."""
    found = dict[str, None]()
    for page in PAGES:
        for line in re.findall(rf"python -m {re.escape(module)} ([^`\n]*)", page.read_text("utf-8")):
            found[re.split(r"   |  #", line)[0].strip()] = None
    return list(found)


PLANTED = [each for each in _commands("walrus.sim") if re.search(r"--mutant (?!NAME)", each)]
RUN = [each for each in PLANTED if DEEP or "--scenarios" not in each]


def test_the_pages_have_such_commands() -> None:
    assert len(PLANTED) >= 7
    assert any(each.startswith("explore") for each in PLANTED)


@pytest.mark.parametrize("command", [each for each in _commands("walrus.sim") if "NAME" not in each])
def test_a_documented_command_is_one(command: str) -> None:
    verb, *rest = words = shlex.split(command)
    if verb == "explore":
        flags, _ = (
            explore_cli._of_segments(rest[1:]) if rest[:1] == ["segments"] else explore_cli._of_raft(rest)
        )
        assert flags.mutant is None or mutants.find(flags.mutant)
        return
    flags = sim._parser().parse_args(words)
    assert flags.mutant is None or mutants.find(flags.mutant)
    assert flags.scenario is None or flags.scenario in scenarios.ALL


@pytest.mark.parametrize("command", RUN)
def test_a_documented_command_finds_the_bug(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = shlex.split(command)
    bug = mutants.find(words[words.index("--mutant") + 1])
    quick = [] if DEEP or words[0] == "explore" else ["--no-shrink"]
    assert sim.main([*words, *quick]) == 1, f"python -m walrus.sim {command} finds nothing"
    told = capsys.readouterr().out
    assert any(f"{name}:" in told for name in bug.expected), told[-800:]
    if "--html" in words:
        assert (tmp_path / words[words.index("--html") + 1]).stat().st_size > 10_000


@pytest.mark.parametrize(
    "name",
    [
        name
        for each in _commands("walrus.tlc")
        for name in shlex.split(each.split(" --")[0])[1:]
        if each.startswith("mutants ")
    ],
)
def test_a_documented_bug_of_a_spec_is_planted(name: str) -> None:
    assert any(name in name_of(case) for case in CASES)


@pytest.mark.skipif(not DEEP, reason="make deep: it shrinks what it finds")
def test_the_sample_of_lanes_is_what_its_command_prints(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    page = (ROOT / "docs" / "viewer.md").read_text("utf-8")
    command, sample = re.findall(r"python -m walrus.sim (.* --show --why)\n\n((?: {6}.*\n)+)", page)[0]
    assert sim.main(shlex.split(command)) == 1
    told = [line.strip() for line in capsys.readouterr().out.splitlines()]
    for line in sample.splitlines():
        assert any(each.startswith(line.strip()) for each in told), line
