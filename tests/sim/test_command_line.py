"""The simulator's flags: a mistake is one line, and costs no run."""

from __future__ import annotations

from pathlib import Path

import pytest

from walrus.sim.__main__ import main


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
    ],
)
def test_a_bad_flag_is_one_line_that_names_it(
    capsys: pytest.CaptureFixture[str], arguments: list[str], says: str
) -> None:
    try:
        status = main(arguments)
    except SystemExit as stopped:
        status = int(stopped.code or 0)
    error = capsys.readouterr().err
    assert (status, error.count("\n")) == (2, 1)
    assert says in error


def test_a_trace_that_cannot_be_written_is_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["--steps", "10", "--trace", str(tmp_path / "nowhere" / "trace")]) == 1
    assert capsys.readouterr().err.endswith("nowhere/trace: No such file or directory\n")
