"""`produce`, `tail`, `topics` and `groups` from the command line, against real nodes."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.node.harness import PATIENCE, Launcher
from walrus.client import Client

pytestmark = pytest.mark.process


def cli(address: str, *words: str, text: bytes = b"") -> tuple[int, str, str]:
    """Exit status and what was printed."""
    command = [sys.executable, "-m", "walrus.cli", "--addr", address, *words]
    ended = subprocess.run(command, input=text, capture_output=True, timeout=PATIENCE, check=False)
    return ended.returncode, ended.stdout.decode(), ended.stderr.decode()


def test_lines_are_produced_and_followed(launch: Launcher) -> None:
    cluster = launch()
    host, port = cluster[1].client
    address = f"{host}:{port}"
    cluster.register("orders")
    cluster.register("other")
    assert cli(address, "topics") == (0, "orders\nother\n", "")
    assert cli(address, "topics", "or", "--json")[1] == '"orders"\n'
    status, out, err = cli(address, "produce", "orders", "--rate", "1000", text=b"one\ntwo\r\nthree")
    assert (status, out) == (0, "OK\n") and "3 acknowledged" in err
    assert cli(address, "tail", "orders", "--from", "1.1") == (0, "two\nthree\n", "")
    assert cli(address, "tail", "orders", "--from", "end") == (0, "", "")
    assert cli(address, "tail", "orders", "--from=-1h") == (0, "one\ntwo\nthree\n", "")
    assert cli(address, "tail", "orders", "--from", "2999-12-31") == (0, "", "")
    following = subprocess.Popen(
        [sys.executable, "-m", "walrus.cli", "--addr", address, "tail", "-f", "orders"],
        stdout=subprocess.PIPE,
    )
    try:
        assert following.stdout is not None
        assert [following.stdout.readline() for _ in range(3)] == [b"one\n", b"two\n", b"three\n"]
        with Client(address) as client:
            client.put("orders", b"four")
        assert following.stdout.readline() == b"four\n", "it waits for what comes"
    finally:
        following.kill()
        following.communicate()
    assert cli(address, "get", "orders", "--group", "g")[1] == "one\n"
    leader = cluster[cluster.segment_leader("orders")].client
    said = json.loads(cli(f"{leader[0]}:{leader[1]}", "groups", "orders", "--json")[1])
    assert said["exact"] and said["end"] == {"segment": 1, "offset": 4}
    status, out, err = cli(address, "tail", "orders", "--from", "middle")
    assert status == 2 and "neither begin, end nor SEGMENT.OFFSET, and no time: 'middle'" in err
    status, out, err = cli(address, "produce", "none", text=b"one\n")
    assert status == 1 and "unknown topic none" in err
    repl = cli(address, text=b"pub orders me 0 five\npub orders me 0 five\nfetch orders 1 5 10\ntopics o\n")
    assert repl[0] == 0 and repl[1].split() == ["OK", "OK", "orders", "other"], "written once"
