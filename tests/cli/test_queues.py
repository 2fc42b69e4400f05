"""Work queues from the command line and in the REPL, against a fake node."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from tests.cli.test_cli import Spoken, run
from tests.client.fake import FakeNode
from walrus import protocol
from walrus.cli.commands import Screen
from walrus.cli.repl import Repl
from walrus.client import Client


@pytest.fixture
def node() -> Iterator[FakeNode]:
    with FakeNode() as one:
        one.log.topics["jobs"] = [[b"one", b"two", b"three"]]
        yield one


@pytest.fixture
def say(node: FakeNode, capsysbinary: pytest.CaptureFixture[bytes]) -> Spoken:
    return Spoken(node, capsysbinary)


def test_an_entry_is_taken_given_back_and_acknowledged(say: Spoken) -> None:
    assert say("receive", "jobs", "g") == (0, "1.0.0.1 1 one\n", "")
    assert say("extend", "jobs", "g", "1.0.0.1", "60") == (0, "OK\n", "")
    assert say("nack", "jobs", "g", "1.0.0.1", "--delay", "0.5") == (0, "OK\n", "")
    assert say("receive", "jobs", "g", "--wait", "1") == (0, "1.0.0.2 2 one\n", "")
    assert say("ack", "jobs", "g", "1.0.0.2") == (0, "OK\n", "")
    assert say("receive", "jobs", "g", "--count", "5", "--ack") == (0, "two\nthree\n", "")
    status, out, err = say("receive", "jobs", "g")
    assert (status, out) == (0, "") and "EMPTY" in err
    assert say("seek", "jobs", "g", "begin") == (0, "OK\n", "")
    assert say("--json", "receive", "jobs", "g")[1] == (
        '{"receipt":"1.0.1.3","deliveries":3,"time":"2025-11-26T06:55:00Z","payload":"one"}\n'
    )


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("receive", "jobs"), "group"),
        (("receive", "jobs", "g", "--wait", "nan"), "'nan' is not a number of seconds up to a day"),
        (("receive", "jobs", "g", "--wait", "-1"), "-1"),
        (("ack", "jobs", "g"), "RECEIPT"),
        (("ack", "jobs", "g", "first"), "not a receipt"),
        (("seek", "jobs", "g", "middle"), "seek to begin, to end, to SEGMENT OFFSET or to a time"),
        (("seek", "jobs", "g", "1"), "seek to begin"),
        (("seek", "jobs", "g", "--time", "soon"), "no time: 'soon'; write 2026-"),
        (("seek", "jobs", "g", "--time", "9" * 15), "no time: '999"),
        (("seek", "jobs", "g"), "--time"),
        (("consume", "jobs", "g", "--workers", "0"), "'0' is not a number from 1"),
        (("consume", "jobs", "g", "--no-ack", "--exec", "cat"), "--no-ack only looks"),
    ],
)
def test_a_wrong_argument_is_named_in_one_line(
    say: Spoken, capsysbinary: pytest.CaptureFixture[bytes], arguments: tuple[str, ...], why: str
) -> None:
    try:
        status, _, said = say(*arguments)
    except SystemExit as end:
        status, said = end.code, capsysbinary.readouterr().err.decode()  # type: ignore[assignment]
    assert status == 2 and why in said and said.count("\n") == 1


def test_consume_writes_every_entry_and_acknowledges_it(say: Spoken, node: FakeNode) -> None:
    status, out, err = say("consume", "jobs", "g", "--until-empty")
    assert (status, out) == (0, "one\ntwo\nthree\n") and "3 done" in err
    assert len(node.log.queues["jobs", "g"].done) == 3


def test_consume_acknowledges_whether_it_is_told_to_or_not(say: Spoken, node: FakeNode) -> None:
    """A script that was written before there was `--ack` goes on as it did."""
    assert say("consume", "jobs", "g", "--until-empty", "--ack")[:2] == (0, "one\ntwo\nthree\n")
    assert say("consume", "jobs", "h", "--until-empty")[:2] == (0, "one\ntwo\nthree\n")
    assert node.log.queues["jobs", "g"].done == node.log.queues["jobs", "h"].done != set()


def test_consume_without_ack_looks_and_gives_everything_back(say: Spoken, node: FakeNode) -> None:
    for _ in range(2):
        status, out, err = say("consume", "jobs", "g", "--until-empty", "--no-ack")
        assert (status, out) == (0, "one\ntwo\nthree\n") and "3 given back" in err
        queue = node.log.queues["jobs", "g"]
        assert not queue.done and not queue.out, "NothingSkipped: nobody worked on it"
    assert not any(isinstance(request, protocol.Ack) for request in node.seen)
    assert say("receive", "jobs", "g") == (0, "1.0.0.3 3 one\n", ""), "each look was a delivery"


def test_a_look_ends_when_it_went_round(say: Spoken, node: FakeNode, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each visibility timeout is over when the next entry is taken."""
    monkeypatch.setattr("walrus.cli.queues._LOOK", 1)
    queue = node.log.queues["jobs", "g"]
    answer = queue.receive

    def late(segments: list[list[bytes]], times: bool) -> bytes:
        if len(queue.out) == 3:
            queue.out.clear()
        return answer(segments, times)

    monkeypatch.setattr(queue, "receive", late)
    status, out, _ = say("consume", "jobs", "g", "--until-empty", "--no-ack")
    assert (status, out) == (0, "one\ntwo\nthree\n") and not queue.done


def test_a_reader_that_has_enough_of_a_look_ends_it(node: FakeNode) -> None:
    line = [sys.executable, "-m", "walrus.cli", "--addr", node.address, "consume", "jobs", "g", "--no-ack"]
    with subprocess.Popen(line, stdout=subprocess.PIPE) as looking:
        assert looking.stdout is not None and looking.stdout.readline() == b"one\n"
        looking.stdout.close()
        node.log.append("jobs", b"four")
        assert looking.wait(120) == 0
    queue = node.log.queues["jobs", "g"]
    assert not queue.done and not queue.out


def test_the_shell_completes_both(say: Spoken) -> None:
    status, script, _ = say("completion", "bash")
    assert status == 0 and "--no-ack" in script


def test_consume_runs_a_command_for_each_and_gives_back_what_it_refuses(
    node: FakeNode, tmp_path: Path
) -> None:
    command = f"""read x; echo "<$x>"; [ "$x" != two ] || ! mkdir {tmp_path / "seen"} 2>/dev/null"""
    ended = run(node, "consume", "jobs", "g", "--until-empty", "--exec", command)
    assert ended.returncode == 0
    assert sorted(ended.stdout.decode().split()) == ["<one>", "<three>", "<two>", "<two>"]
    assert b"exit status 1; given back" in ended.stderr
    assert node.log.queues["jobs", "g"].done == {(1, 0), (1, 1), (1, 2)}


def test_the_repl_knows_every_command_of_the_protocol(node: FakeNode) -> None:
    out = io.BytesIO()
    screen = Screen(out, Console(file=io.StringIO()), Console(file=io.StringIO()), json=False, human=False)
    repl = Repl(Client(node.address), screen, lambda address: Client(address))
    for line in ("RECEIVE jobs g", "EXTEND jobs g 1.0.0.1 5", "NACK jobs g 1.0.0.1", "receive jobs g 10"):
        assert repl.execute(line)
    for line in ("ACK jobs g 1.0.0.2", "SEEK jobs g end", "SEEK jobs g 1 2"):
        assert repl.execute(line)
    assert repl.status == 0
    assert out.getvalue().decode().splitlines() == [
        "1.0.0.1 1 one",
        "OK",
        "OK",
        "1.0.0.2 2 one",
        "OK",
        "OK",
        "OK",
    ]
    used = {type(request).__name__.upper() for request in node.seen}
    assert used == {"RECEIVE", "ACK", "NACK", "EXTEND", "SEEK"} <= set(protocol.COMMANDS)


def test_json_is_one_object_a_line(say: Spoken) -> None:
    say("--json", "receive", "jobs", "g")
    assert json.loads(say("--json", "ack", "jobs", "g", "1.0.0.1")[1]) == {"ok": True, "acknowledged": 1}
