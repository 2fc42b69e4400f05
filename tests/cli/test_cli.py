"""The command line against a fake node: in processes of its own where pipes matter, else in this one."""

from __future__ import annotations

import io
import json
import os
import pty
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from prompt_toolkit.completion import CompleteEvent
from prompt_toolkit.document import Document
from rich.console import Console

from tests.client.fake import METRICS, SERVE, Close, FakeNode, MemoryLog, Say, free_port
from tests.client.test_handles import raising_at
from walrus import protocol
from walrus.cli import main as cli
from walrus.cli import view
from walrus.cli.commands import Screen
from walrus.cli.main import _execute_block
from walrus.cli.repl import WORDS, Repl, Words
from walrus.client import Client


@pytest.fixture
def node() -> Iterator[FakeNode]:
    with FakeNode(log=MemoryLog(segment_entries=10)) as one:
        yield one


def run(node: FakeNode | str, *arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    address = node if isinstance(node, str) else node.address
    return subprocess.run(
        [sys.executable, "-m", "walrus.cli", "--addr", address, *arguments],
        input=stdin,
        capture_output=True,
        env={**os.environ, "COLUMNS": "80"},
        timeout=120,
        check=False,
    )


class Spoken:
    """The command line in this process: arguments in, status and both streams out."""

    def __init__(self, node: FakeNode, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
        self._node = node
        self._captured = capsysbinary

    def __call__(self, *arguments: str) -> tuple[int, str, str]:
        status = cli.main(["--addr", self._node.address, *arguments])
        out, err = self._captured.readouterr()
        return status, out.decode(errors="replace"), err.decode(errors="replace")


@pytest.fixture
def say(node: FakeNode, capsysbinary: pytest.CaptureFixture[bytes]) -> Spoken:
    return Spoken(node, capsysbinary)


# --- one command


def test_a_topic_s_life(say: Spoken) -> None:
    assert say("register", "t") == (0, "OK\n", "")
    assert say("put", "t", "hello", "world") == (0, "OK\n", "")
    assert say("put", "t", "") == (0, "OK\n", "")
    assert say("get", "t") == (0, "hello world\n", "")
    assert say("get", "t", "--count", "5") == (0, "\n", "")
    assert say("get", "t") == (0, "", "EMPTY\n")
    assert say("get", "t", "--group", "g") == (0, "hello world\n", "")
    assert say("fetch", "t", "1", "0") == (0, "hello world\n", "")
    assert say("entries", "t") == (0, "hello world\n\n", "")
    assert say("leave", "3") == (0, "OK\n", "")


def test_json_is_one_value_a_line(say: Spoken) -> None:
    assert json.loads(say("register", "t", "--json")[1]) == {"ok": True}
    assert json.loads(say("put", "t", "--json", "grün")[1])["acknowledged"] == 1
    assert json.loads(say("--json", "get", "t")[1]) == {"payload": "grün"}
    assert json.loads(say("get", "t", "--json")[1]) == {"empty": True}
    found = json.loads(say("fetch", "t", "1", "0", "--json")[1])
    assert found == {"segment": 1, "offset": 0, "next_offset": 1, "payload": "grün"}
    found = json.loads(say("entries", "t", "--json")[1])
    assert found == {"segment": 1, "offset": 0, "time": "2025-11-26T06:55:00Z", "payload": "grün"}
    assert json.loads(say("find", "t", "1d", "--json")[1]) == {"segment": 1, "offset": 1}
    assert json.loads(say("state", "t", "--json")[1])["current_segment"] == 1
    assert json.loads(say("metrics", "--json")[1]) == METRICS


def test_an_entry_that_is_no_text_is_base64_in_json(say: Spoken, node: FakeNode) -> None:
    node.log.topics["t"] = [[b"\xff\x00"]]
    assert json.loads(say("get", "t", "--json")[1]) == {"payload_base64": "/wA="}


@pytest.mark.parametrize(
    ("reply", "status", "message"),
    [
        (protocol.error(protocol.errors.unknown_topic("t")), 1, "ERR unknown topic t: send REGISTER t first"),
        (protocol.error(protocol.errors.TIMEOUT), 4, "ERR timeout: the outcome is unknown"),
        (
            protocol.error(protocol.errors.FAILED_OVER),
            4,
            "ERR outcome unknown: the segment's leader failed",
        ),
    ],
)
def test_an_error_is_on_stderr_with_its_status(
    say: Spoken, node: FakeNode, reply: bytes, status: int, message: str
) -> None:
    node.script.append(Say(reply))
    found, out, err = say("put", "t", "x")
    assert (found, out) == (status, "") and err.startswith(message)


def test_a_put_that_broke_off_is_doubtful(say: Spoken, node: FakeNode) -> None:
    node.script.append(Close())
    status, _, err = say("put", "t", "x")
    assert status == 4 and "may have been written" in err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["get"], "topic"),
        (["get", "t", "--count", "0"], "--count"),
        (["fetch", "t", "0", "0"], "segment"),
        (["fetch", "t", "1", "-1"], "-1"),
        (["leave", "me"], "node_id"),
        (["--timeout", "0", "metrics"], "--timeout"),
        (["put", "t", "--nonsense"], "--nonsense"),
        (["nonsense"], "nonsense"),
    ],
)
def test_wrong_usage_names_what_is_wrong(say: Spoken, arguments: list[str], says: str) -> None:
    status, _, error = say(*arguments)
    assert status == 2
    assert says in error


def test_a_bad_address_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--addr", "nowhere", "metrics"]) == 2
    assert "HOST:PORT" in capsys.readouterr().err


def test_the_address_may_stand_behind_the_command(node: FakeNode, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["metrics", "--addr", node.address, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == METRICS


# --- pipes


def test_a_line_that_no_node_takes_is_told_with_what_was_acknowledged_before_it(node: FakeNode) -> None:
    run(node, "register", "t")
    ended = run(node, "put", "t", stdin=b"a\n" + b"x" * (17 << 20))
    assert ended.returncode == 1
    told, error = ended.stderr.decode().splitlines()
    assert told == "1 acknowledged, none of the next 1 lines sent"
    assert "no node takes more than" in error


def test_lines_of_a_pipe_become_entries_and_come_back() -> None:
    lines = [b"line %d" % n for n in range(1000)] + [b"\xff\x00", b"", b" spaces ", b"no newline"]
    with FakeNode(log=MemoryLog(segment_entries=10)) as node:
        run(node, "register", "t")
        put = run(node, "put", "t", stdin=b"\n".join(lines))
        assert (put.returncode, put.stdout, put.stderr) == (0, b"OK\n", b"1,004 acknowledged\n")
        assert b"\n".join([*lines, b""]) == run(node, "entries", "t").stdout


def test_a_pipe_that_fails_says_how_far_it_came(node: FakeNode) -> None:
    node.script.extend([SERVE, SERVE, Say(protocol.error(protocol.errors.TIMEOUT))])
    run(node, "register", "t")
    put = run(node, "put", "t", stdin=b"a\nb\nc\n")
    assert put.returncode == 4
    assert b"2 acknowledged, 1 not; the first is line 2" in put.stderr


def test_commands_of_a_pipe_are_executed_in_order(node: FakeNode) -> None:
    script = (
        b"register t\nPUT t  two  spaces \n\nput t x\nget t\nfetch t 1 1\nget t g\nstate t\nquit\nget t\n"
    )
    found = run(node, stdin=script)
    assert found.stderr == b"" and found.returncode == 0
    lines = found.stdout.decode().splitlines()
    assert lines[:6] == ["OK", "OK", "OK", " two  spaces ", "x", " two  spaces "]
    assert "topic t" in lines[6]


def test_a_pipe_with_a_wrong_command_goes_on_and_fails(node: FakeNode) -> None:
    found = run(node, stdin=b"nonsense\nput t\nget nope\nmetrics\n")
    assert found.returncode == 1
    assert [line.split(b":")[0] for line in found.stderr.splitlines()] == [
        b"ERR unknown command",
        b"ERR PUT requires a payload",
        b"ERR unknown topic nope",
    ]
    assert "node 1 Follower" in found.stdout.decode()


def test_nobody_listening_says_what_to_do() -> None:
    found = run(f"127.0.0.1:{free_port()}", "--timeout", "0.2", "metrics")
    assert found.returncode == 3 and found.stdout == b""
    assert b"python -m walrus.cluster" in found.stderr and b"--addr" in found.stderr


def test_a_reader_that_had_enough_is_no_error(node: FakeNode) -> None:
    node.log.topics["t"] = [[b"x" * 1000] * 3000]
    process = subprocess.Popen(
        [sys.executable, "-m", "walrus.cli", "--addr", node.address, "entries", "t"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None and process.stderr is not None
    process.stdout.read(1)
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait(120) == 0
    process.stderr.close()


# --- for people


def drawn(width: int, view: object) -> str:
    console = Console(width=width, file=io.StringIO(), highlight=False)
    console.print(view)
    output = console.file
    assert isinstance(output, io.StringIO)
    return output.getvalue()


@pytest.mark.parametrize("width", [40, 80, 160])
def test_views_fit_the_terminal(width: int) -> None:
    log = MemoryLog(topics={"t": [[b"x"] * 1_234_567] * 3})
    console = Console(width=width)
    for text in (
        drawn(width, view.state(console, "t", log.state("t"))),
        drawn(width, view.metrics(console, METRICS)),
    ):
        assert max(map(len, text.splitlines())) <= width
    assert width < 80 or "1,234,567" in drawn(width, view.state(console, "t", log.state("t")))


def test_a_long_topic_is_cut_in_the_middle() -> None:
    log = MemoryLog(topics={"t": [[b"x"]] * 1000})
    text = drawn(80, view.state(Console(width=80), "t", log.state("t")))
    assert len(text.splitlines()) < 45
    assert "976 more" in text and " 1000 " in text


def test_the_leader_s_metrics_show_how_far_the_others_are() -> None:
    replication = {str(n): {"leader_id": None, "index": 40 + n} for n in (1, 2)}
    text = drawn(100, view.metrics(Console(width=100), {**METRICS, "replication": replication}))
    assert "behind" in text


@pytest.mark.parametrize(
    "answer", [{}, {"state": 7, "membership_config": "x", "vote": [], "new": {"a": [1, None]}}]
)
def test_views_survive_what_they_do_not_know(answer: dict[str, object]) -> None:
    console = Console(width=80)
    assert drawn(80, view.metrics(console, answer))
    assert drawn(80, view.state(console, "[bold]t", {**answer, "cursors": {"g": [1, 2], "h": 3}}))


def completions(words: Words, text: str) -> list[str]:
    return [one.text for one in words.get_completions(Document(text), CompleteEvent())]


def test_completion_of_commands_and_topics() -> None:
    words = Words(["orders", "other", "users"])
    assert completions(words, "re") == ["REGISTER ", "RECEIVE ", "RECOVER "]
    assert len(completions(words, "")) == len(WORDS)
    assert completions(words, "get o") == ["orders", "other"]
    assert completions(words, "put us") == ["users "]
    assert completions(words, "METRICS o") == []
    assert completions(words, "put orders u") == []


def test_the_repl_learns_topics_and_hides_control_bytes(node: FakeNode) -> None:
    out, text = io.BytesIO(), io.StringIO()
    screen = Screen(out, Console(file=text), Console(file=text), json=False, human=True)
    with Client(node.address) as client:
        repl = Repl(client, screen, lambda address: Client(address))
        for line in ("register t", "put t \x1b[2Jevil", "get t", "get t", "help", "wat", "get nope", ""):
            assert repl.execute(line)
        assert repl.words.topics == {"t"}
        assert "\x1b[2J" not in text.getvalue() and "\\x1b[2Jevil" in text.getvalue()
        assert "EMPTY" in text.getvalue() and "ERR unknown command" in text.getvalue()
        assert not repl.execute("quit")


def test_the_repl_moves_to_another_node_only_if_it_answers(node: FakeNode) -> None:
    text = io.StringIO()
    screen = Screen(io.BytesIO(), Console(file=text), Console(file=text), json=False, human=True)
    with FakeNode() as other, Client(node.address, timeout=2.0) as client:
        repl = Repl(client, screen, lambda address: Client(address, timeout=2.0))
        repl.execute(f"connect 127.0.0.1:{free_port()}")
        repl.execute("connect nonsense")
        assert repl.client is client
        repl.execute(f"connect {other.address}")
        assert repl.client.address == other.address
        repl.client.close()


def test_history_is_kept_where_it_can_be(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    cli._history().append_string("get orders")
    assert list(cli._history().load_history_strings()) == ["get orders"]
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    assert list(cli._history().load_history_strings()) == []


def test_a_pasted_block_is_one_command_a_line(node: FakeNode) -> None:
    screen = Screen(
        io.BytesIO(), Console(file=io.StringIO()), Console(file=io.StringIO()), json=False, human=True
    )
    with Client(node.address) as client:
        repl = Repl(client, screen, lambda address: Client(address))
        assert cli._execute_block(repl, screen, "register t\nput t a\n\nput t b\x0bc\r\nput t d ")
        assert node.log.topics["t"] == [[b"a", b"b\x0bc", b"d "]]
        assert not cli._execute_block(repl, screen, "put t e\nquit\nput t f")
        assert node.log.topics["t"] == [[b"a", b"b\x0bc", b"d ", b"e"]]


def test_ctrl_c_in_a_pasted_block_ends_it_and_says_what_was_not_executed(
    node: FakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = io.StringIO()
    screen = Screen(io.BytesIO(), Console(file=said), Console(file=said, width=200), json=False, human=True)
    with Client(node.address) as client:
        repl = Repl(client, screen, lambda address: Client(address))

        def interrupted(line: str) -> bool:
            raise KeyboardInterrupt

        monkeypatch.setattr(repl, "execute", interrupted)
        assert cli._execute_block(repl, screen, "put t a\nput t b\nput t c")
    assert (
        "outcome is unknown" in said.getvalue() and "2 lines behind it were not executed" in said.getvalue()
    )
    assert node.seen == []


def test_a_terminal_s_paste_is_three_commands_not_one_entry(node: FakeNode, tmp_path: Path) -> None:
    node.log.topics["t"] = [[]]
    terminal, inside = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "XDG_STATE_HOME": str(tmp_path)}
    process = subprocess.Popen(
        [sys.executable, "-m", "walrus.cli", "--addr", node.address],
        stdin=inside,
        stdout=inside,
        stderr=inside,
        env=environment,
        start_new_session=True,
    )
    os.close(inside)
    typed = [b"\x1b[200~put t one\nput t two\nput t three\x1b[201~", b"\r", b"quit\r"]
    seen, since, deadline = b"", b"", time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        if not select.select([terminal], [], [], 0.1)[0]:
            continue
        try:
            data = os.read(terminal, 65536)
        except OSError:  # the other end is closed: it is over
            break
        seen, since = seen + data, since + data  # a word may come in two pieces
        if b"\x1b[6n" in data:  # it asks where the cursor is
            os.write(terminal, b"\x1b[1;1R")
        if b"HELP, QUIT" in seen and (b"walrus" in since or b"put" in since or b"three" in since) and typed:
            os.write(terminal, typed.pop(0))
            since = b""
    process.wait(120)
    os.close(terminal)
    assert node.log.topics["t"] == [[b"one", b"two", b"three"]]


@pytest.mark.parametrize("typed", ["PUT t x", "ENTRIES q", "RECEIVE q g", "CONNECT {node}"])
def test_ctrl_c_at_any_line_of_a_command_leaves_the_repl_usable(typed: str) -> None:
    """The next command gets its own answer. All of the first lines, then ever fewer of them."""
    log = MemoryLog(topics={"q": [[b"q%d" % n for n in range(3)]], "t": [[]]})
    with FakeNode(log=log) as node, Client(node.address, timeout=20) as client:
        out, console = io.BytesIO(), Console(file=io.StringIO())
        screen = Screen(out, console, console, json=True, human=False)
        repl = Repl(client, screen, lambda address: Client(address, timeout=20))
        assert _execute_block(repl, screen, typed.format(node=node.address))
        whole, line, interrupted = out.getvalue(), 0, True
        while interrupted:
            line += 1 + line // 4
            out.seek(0)
            out.truncate()
            with raising_at(line, where="/walrus/c", error=KeyboardInterrupt) as seen:
                with suppress(KeyboardInterrupt):
                    assert _execute_block(repl, screen, typed.format(node=node.address))
                interrupted = seen[0] >= line
            shown = out.getvalue()
            assert shown.count(b"\n") <= whole.count(b"\n"), f"interrupted at line {line}: {shown!r}"
            out.seek(0)
            out.truncate()
            assert _execute_block(repl, screen, "FETCH q 1 1")
            last = out.getvalue().splitlines()[-1]
            assert json.loads(last)["payload"] == "q1", f"interrupted at line {line}: {last!r}"
        repl.client.close()
        assert line > 20, "the trace saw the command"


# --- what cannot be undone


@pytest.mark.parametrize("asked", [["leave", "3"], ["leave", "--json", "3"]])
def test_leave_below_the_replication_factor_asks_for_force(
    say: Spoken, monkeypatch: pytest.MonkeyPatch, node: FakeNode, asked: list[str]
) -> None:
    monkeypatch.setitem(METRICS, "replication_factor", 3)
    status, out, err = say(*asked)
    assert (status, out) == (1, "")
    assert "2 voters would stay" in err and "--force" in err and err.count("\n") == 1
    status, out, err = say(*asked, "--force")
    assert (status, err) == (0, "") and "ok" in out.lower()
    assert node.seen == [protocol.Leave(3), protocol.Leave(3, force=True)]


def test_leave_that_costs_no_replica_asks_for_nothing(say: Spoken, node: FakeNode) -> None:
    assert say("leave", "3") == (0, "OK\n", "")
    status, _, err = say("leave", "9")
    assert (status, err.split(":")[0]) == (1, "ERR unknown node 9")


def test_leave_in_the_repl_takes_force_too(node: FakeNode, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METRICS, "replication_factor", 3)
    found = run(node, stdin=b"leave 3\nleave 3 --force\nleave 3 force\nleave 3 --now\n")
    assert found.stdout == b"OK\nOK\n"
    assert [line[:20] for line in found.stderr.splitlines()] == [
        b"ERR needs force: 2 v",
        b"ERR LEAVE requires a",
    ]
    assert found.returncode == 1


HOSTILE = "[red]x[/] :bug: \x1b[2J"


def test_views_print_what_a_node_sent_as_text() -> None:
    """A node of another version, or what answers in its place, may send anything."""
    answer: dict[str, object] = {
        **METRICS,
        "state": HOSTILE,
        "cluster_id": HOSTILE,
        HOSTILE: {HOSTILE: [HOSTILE]},
    }
    answer["membership_config"] = {"membership": {"configs": [[1]], "nodes": {"1": {"addr": HOSTILE}}}}
    answer |= {"current_leader": HOSTILE, "client_addresses": {"1": HOSTILE}, "snapshot": {"index": HOSTILE}}
    topic = {**MemoryLog(topics={"t": [[b"x"], []]}).state("t"), "leader_node": HOSTILE}
    topic |= {"cursors": {HOSTILE: HOSTILE, "b": [HOSTILE, 1]}, "segment_replicas": {"1": [HOSTILE]}}
    for text in (
        drawn(300, view.metrics(Console(width=300), answer)),
        drawn(300, view.state(Console(width=300), HOSTILE, topic)),
    ):
        assert "[red]x[/] :bug: \\x1b[2J" in text and "\x1b" not in text
        assert text.count("[red]") == text.count("[/]") == text.count(":bug:") >= 5


# --- the health of the cluster


def test_status_and_check_end_with_the_status_of_the_word(
    say: Spoken, node: FakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fake node names two members that are not there: of three voters one answers."""
    elsewhere = {str(n): f"127.0.0.1:{free_port()}" for n in (2, 3)}
    monkeypatch.setitem(METRICS, "client_addresses", {"1": node.address, **elsewhere})
    status, out, _ = say("check")
    assert status == 2 and out.startswith("unavailable: 1 of 3 voters answer")
    status, out, _ = say("status")
    assert status == 2 and "unavailable" in out and "no answer" in out
    status, out, _ = say("check", "--json")
    assert status == 2 and json.loads(out)["health"] == "unavailable"


def test_check_of_a_port_where_nothing_listens_is_one_line() -> None:
    ended = run(f"127.0.0.1:{free_port()}", "check", "--timeout", "0.5")
    assert ended.returncode == 2 and ended.stdout.startswith(b"unavailable: no node answers (127.0.0.1:")


# --- what programs are told


@pytest.mark.parametrize(
    ("words", "status", "kind"),
    [
        (("put", "nope", "x"), 1, "UnknownTopic"),
        (("fetch", "t", "1", "minus"), 2, "WrongUsage"),
        (("delete", "t"), 2, "WrongUsage"),
        (("nonsense",), 2, "WrongUsage"),
        (("--addr", "nowhere", "topics"), 2, "WrongUsage"),
    ],
)
def test_errors_are_json_too(say: Spoken, words: tuple[str, ...], status: int, kind: str) -> None:
    found, out, err = say(*words, "--json")
    said = json.loads(err)
    assert (found, out) == (status, "") and (said["status"], said["kind"]) == (status, kind)
    assert said["error"] and err.count("\n") == 1


def test_a_place_is_told_to_programs(say: Spoken) -> None:
    say("register", "t")
    told = [json.loads(say("put", "t", "x", "--json")[1]) for _ in range(2)]
    assert told[1] == {"ok": True, "acknowledged": 1, "segment": 1, "offset": 1}
    assert say("pub", "t", "me", "0", "two", "words") == (0, "OK\n", "")
    assert say("fetch", "t", "1", "2")[1] == "two words\n"


def test_every_command_says_its_exit_statuses(capsys: pytest.CaptureFixture[str]) -> None:
    for name in cli._COMMANDS:
        with pytest.raises(SystemExit):
            cli.main([name, "--help"])
        assert "Exit status: 0 " in capsys.readouterr().out, name


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_the_completion_of_a_shell_knows_all_commands(say: Spoken, shell: str) -> None:
    pytest.importorskip("shtab")
    status, script, _ = say("completion", shell)
    assert status == 0 and all(name in script for name in cli._COMMANDS) and "--until-empty" in script


def test_without_its_package_completion_says_which_extra_brings_it(
    say: Spoken, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "shtab", None)
    status, _, err = say("completion", "bash")
    assert status == 2 and "walrus-log[cli]" in err


def test_the_bar_is_for_a_person_alone() -> None:
    def bars(*, json: bool, terminal: bool) -> bool:
        console = Console(file=io.StringIO(), force_terminal=terminal)
        return not Screen(io.BytesIO(), console, console, json=json, human=terminal).progress().disable

    assert bars(json=False, terminal=True)
    assert not bars(json=True, terminal=True) and not bars(json=False, terminal=False)
