"""The simulator's flags: a mistake is one line, and costs no run."""

from __future__ import annotations

from pathlib import Path

import pytest

from walrus.leases import LeaseTable
from walrus.sim import mutants
from walrus.sim.__main__ import main
from walrus.sim.mutants.plant import Misfit, Mutant, Slip, planted
from walrus.tlc.mutants import PLANTED


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--fsync", "sometimes"], "--fsync"),
        (["--fsync", "-5"], "--fsync"),
        (["--fsync", "nan"], "--fsync"),
        (["--nodes", "0"], "--nodes"),
        (["--steps", "many"], "--steps"),
        (["--faults", "earthquake"], "--faults"),
        (["--scenario", "earthquake"], "no scenario earthquake"),
        (["--scenarios", "--trace", "all"], "--trace"),
        (["--seeds", "2", "--trace", "both"], "--trace"),
        (["--mutant", "no_fence"], "there are: "),
    ],
)
def test_a_bad_flag_is_one_line_that_names_it(
    capsys: pytest.CaptureFixture[str], arguments: list[str], says: str
) -> None:
    status = main(arguments)
    error = capsys.readouterr().err
    assert (status, error.count("\n")) == (2, 1)
    assert says in error


def test_a_trace_that_cannot_be_written_is_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["--steps", "10", "--trace", str(tmp_path / "nowhere" / "trace")]) == 1
    assert capsys.readouterr().err.endswith("nowhere/trace: No such file or directory\n")


def test_a_failing_scenario_shows_its_table_and_how_to_repeat_it(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    flags = ["--scenario", "needless_recovery_of_a_live_leader", "--mutant", "fence_not_noted"]
    assert main([*flags, "--trace", str(tmp_path / "trace")]) == 1
    told = capsys.readouterr().out
    assert "happenings" in told
    assert "LeaderAppend" in told, "the repetition shows the steps of the protocol"
    assert "AckedDurable: " in told
    assert f"again: python -m walrus.sim {flags[0]} {flags[1]} --seed 1 --mutant fence_not_noted" in told
    assert '"ev":"LeaderAppend"' in (tmp_path / "trace").read_text()


def test_a_scenario_that_holds_is_recorded_too(tmp_path: Path) -> None:
    assert main(["--scenario", "leader_restarts_at_once", "--trace", str(tmp_path / "trace")]) == 0
    assert (tmp_path / "trace").read_text().count("\n") > 100


@pytest.mark.parametrize("name", mutants.ALL)
def test_a_planted_bug_fits_the_code(name: str) -> None:
    with planted(mutants.find(name)):
        pass


def test_a_planted_bug_that_the_specs_have_too_is_planted_there() -> None:
    """And what it violates there is a name that it goes by here."""
    there = {(f"{case.config.partition('-')[0]}:{case.name}", case.expected) for case in PLANTED}
    for mutant in map(mutants.find, mutants.ALL):
        assert not mutant.spec or {(mutant.spec, name) for name in mutant.expected} & there, mutant.name


def test_a_planted_bug_is_there_while_it_is_planted_and_gone_afterwards() -> None:
    table = LeaseTable(1, 1, 1.0)
    with planted(mutants.find("lease_never_expires")):
        assert not table.holds("t", 1, 0.0)
        table._granted["t"] = 1
        assert table.holds("t", 1, 1e9)
    assert not table.holds("t", 1, 1e9)


def test_a_slip_that_fits_no_more_is_named() -> None:
    gone = Slip("a line of long ago", "pass")
    vague = Slip("return", "pass", "LeaseTable.holds_nothing")
    foreign = Slip("return self._granted", "return somebody", "LeaseTable.granted")
    for slip, says in ((gone, "long ago"), (vague, "holds_nothing"), (foreign, "would use somebody")):
        mutant = Mutant(name="stale", about="", expected=(), slips=(slip,))
        with pytest.raises(Misfit, match=says), planted(mutant):
            pass


def test_of_seeds_the_first_that_fails_is_told_and_shown(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    page = tmp_path / "hunt.html"
    flags = ["--seeds", "20", "--steps", "6000", "--why", "--html", str(page)]
    assert main([*flags, "--mutant", "acks_at_one_copy"]) == 1
    told = capsys.readouterr().out
    assert "AckedDurable: An acknowledged entry is on a majority" in " ".join(told.split())
    assert "never seen" not in told, "what did not happen in seeds that were not run is no news"
    assert "<html" in page.read_text("utf-8")


def test_of_seeds_that_hold_there_is_no_page(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["--seeds", "2", "--steps", "300", "--html", str(tmp_path / "hunt.html")]) == 0
    assert "every run held: there is no page" in capsys.readouterr().out
    assert not (tmp_path / "hunt.html").exists()
