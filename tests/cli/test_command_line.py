"""How every command answers a slip of the hand, an impatient person or a closed pipe: in a line or none."""

from __future__ import annotations

import io
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from rich.table import Table

from walrus import cluster
from walrus.cli import interrupts
from walrus.cli import main as cli
from walrus.cli.command_line import Console, Parser, command
from walrus.shell.arguments import FlagError


def test_wrong_usage_is_one_line_that_names_the_flag(capsys: pytest.CaptureFixture[str]) -> None:
    parser = Parser(prog="walrus-x")
    parser.add_argument("--count", type=int)

    @command("walrus-x")
    def main(arguments: Sequence[str] | None = None) -> int:
        if parser.parse_args(arguments).count > 9:
            raise FlagError("--count: must be 9 or less")
        return 0

    assert (main(["--count", "9"]), main(["--count", "many"])) == (0, 2)
    error = capsys.readouterr().err
    assert error == "walrus-x: --count: invalid int value: 'many' (walrus-x --help says more)\n"
    assert main(["--count", "10"]) == 2
    assert capsys.readouterr().err == "walrus-x: --count: must be 9 or less\n"


@pytest.mark.parametrize(
    ("error", "status", "says"),
    [
        (KeyboardInterrupt(), 130, ""),
        (BrokenPipeError(), 0, ""),
        (PermissionError(13, "Permission denied", "/etc/x"), 1, "x: /etc/x: Permission denied\n"),
    ],
)
def test_what_ends_a_command(
    capsys: pytest.CaptureFixture[str], error: BaseException, status: int, says: str
) -> None:
    @command("x")
    def main(arguments: Sequence[str] | None = None) -> int:
        raise error

    assert main() == status
    assert capsys.readouterr() == ("", says)


def python(script: str, shell: str) -> subprocess.CompletedProcess[str]:
    """Run `shell`, in which $PY runs this script."""
    start = f"{sys.executable} -c '{script}'"
    return subprocess.run(
        ["bash", "-c", shell.replace("$PY", start)], capture_output=True, text=True, timeout=60, check=False
    )


PRINT = """
import sys
from walrus.cli.command_line import Console, command
@command("x")
def main(arguments=None):
    for _ in range(500): Console().print("a line" * 60)
    return 1
sys.exit(main())
"""


def test_a_reader_that_had_enough_is_no_error() -> None:
    ended = python(PRINT, "$PY | head -1; exit ${PIPESTATUS[0]}")
    assert (ended.returncode, ended.stdout[:6], ended.stderr) == (0, "a line", "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_output_to_a_full_disk_is_one_line() -> None:
    ended = python(PRINT, "$PY > /dev/full")
    assert (ended.returncode, ended.stderr) == (1, "x: No space left on device\n")


def test_closed_standard_streams_are_no_error() -> None:
    ended = python(PRINT, "$PY <&- >&- 2>&-")
    assert ended.returncode == 1


def test_without_a_home_there_is_a_history_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", nowhere)
    assert list(cli._history().load_history_strings()) == []


@pytest.mark.parametrize("flag", ["--play", "--console"])
def test_a_cluster_that_is_left_alone_keeps_no_console(
    flag: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cluster.main(["--detach", flag, "--data-dir", str(tmp_path / "data")]) == 2
    assert f"{flag}: not with --detach, which leaves at once" in capsys.readouterr().err
    assert not (tmp_path / "data").exists()


INTERRUPTED = """
import os, runpy, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background
class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == "msgspec":
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Interrupt())
runpy.run_module(sys.argv.pop(1), run_name="__main__")
"""


@pytest.mark.parametrize(
    "module",
    [
        "walrus.node",
        "walrus.cluster",
        "walrus.demo",
        "walrus.cli",
        "walrus.cli.wal",
        "walrus.sim",
        "walrus.tlc",
    ],
)
def test_ctrl_c_while_a_command_is_loaded_ends_it_without_a_word(module: str) -> None:
    command = [sys.executable, "-c", INTERRUPTED, module, "--help"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (-signal.SIGINT, "", "")


def test_ctrl_c_is_an_exception_again_when_a_command_begins_and_stays_ignored_where_it_is() -> None:
    before = signal.getsignal(signal.SIGINT)
    try:
        for handler in (signal.default_int_handler, signal.SIG_IGN):
            signal.signal(signal.SIGINT, handler)
            interrupts.end_quietly()
            interrupts.raise_again()
            assert signal.getsignal(signal.SIGINT) is handler
    finally:
        signal.signal(signal.SIGINT, before)


def test_no_module_hands_rich_markup() -> None:
    """A style that is markup needs a console that reads markup, and that one reads it in what is not ours."""
    markup = re.compile(r"rich\.markup|from_markup|\[/?(bold|dim|red|green|yellow|cyan|magenta)[\] /]")
    found = [
        f"{path.name}:{number}"
        for path in (Path(__file__).parents[2] / "walrus").rglob("*.py")
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if markup.search(line)
    ]
    assert found == []


def test_the_console_prints_text_as_it_is() -> None:
    out = io.StringIO()
    console = Console(file=out, width=80)
    table = Table("[red]", title="[a]")
    table.add_row("[b |-> 1] :bug:")
    console.print("<<[a |-> 1]>> :bug:", table)
    for text in ("<<[a |-> 1]>> :bug:", "[red]", "[a]", "[b |-> 1] :bug:"):
        assert text in out.getvalue()
