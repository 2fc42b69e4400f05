"""What a node does not know it does not say: after a failed sync or a bug it ends, without another word."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.node.harness import Closed, Launcher, wait_for
from tests.node.history import Producer, check, read_back

pytestmark = pytest.mark.process

FAILING_SYNC = """
import os
from walrus.storage import posix
real, trigger = posix.sync_descriptor, {trigger!r}
def sync_descriptor(fd):
    if os.path.exists(trigger):
        os.remove(trigger)  # it fails once; whoever calls it again would be told that all is well
        raise OSError(5, "Input/output error")
    real(fd)
posix.sync_descriptor = sync_descriptor
"""

BUG = """
from walrus.broker.router import Router
def put(self, slot, topic, batch, *rest):
    if b"bug" in batch.blob:
        raise AssertionError("a planted bug")
    return real(self, slot, topic, batch, *rest)
real, Router.put = Router.put, put
"""

HALT = """
from walrus.broker.controller import Controller
real = Controller.on_tick
def on_tick(self, now):
    real(self, now)
    if "halt" in self.metadata.topics:
        self.outbox.halt("a planted reason to halt")
Controller.on_tick = on_tick
"""

NO_ROOM = """
import pathlib
def full(self, target):
    raise OSError(28, "No space left on device")
from walrus.shell.identity import DataDirectory
def found(self):
    record = real(self)
    pathlib.Path.replace = full
    return record
real, DataDirectory.found = DataDirectory.found, found
"""


FULL_AT_THE_END = """
from walrus.shell.identity import DataDirectory, DirectoryError
def finish(self):
    raise DirectoryError("cannot write identity: No space left on device")
DataDirectory.finish = finish
"""


def test_a_failed_sync_ends_the_node_and_acknowledges_nothing(
    launch: Launcher, tmp_path: Path
) -> None:  # (20)
    cluster = launch.prepare(env={"WALRUS_DISABLE_IO_URING": "1"})
    trigger = tmp_path / "fail"
    cluster[2].patch = FAILING_SYNC.format(trigger=str(trigger))
    cluster.start()
    cluster.register("t")
    with Producer(cluster, "t", "p", [1, 2, 3]) as producer:
        producer.wait_for_more(50)
        trigger.touch()
        assert cluster[2].wait() == 1
        assert "Input/output error" in cluster[2].log()
        producer.wait_for_more(50)
        cluster[2].patch = ""
        cluster[2].start()
        cluster.wait_ready()
        producer.wait_for_more(50)
    check(read_back(cluster, "t"), [producer])


def test_an_exception_in_the_logic_ends_the_node_without_an_answer(launch: Launcher) -> None:
    cluster = launch.prepare(nodes=1)
    cluster[1].patch = BUG
    cluster.start()
    cluster.register("t")
    with cluster.wire(1) as wire:
        assert wire.ask(b"PUT t fine") == b"OK"
        wire.send(b"PUT t bug", b"PUT t after")
        with pytest.raises(Closed):
            wire.receive()
    assert cluster[1].wait() == 1
    assert "a planted bug" in cluster[1].log() and "CRITICAL" in cluster[1].log()
    cluster[1].patch = ""
    cluster.start()
    assert [entry.payload for entry in read_back(cluster, "t")] == [b"fine"]


def test_a_controller_that_halts_says_why(launch: Launcher) -> None:
    cluster = launch.prepare(nodes=1)
    cluster[1].patch = HALT
    cluster.start()
    with cluster.wire(1) as wire:
        wire.send(b"REGISTER halt")
        wait_for(lambda: not cluster[1].running, "the node to end")
    assert cluster[1].wait() == 1
    assert "a planted reason to halt" in cluster[1].log()


def test_a_node_without_room_for_its_identity_file_goes_on(launch: Launcher) -> None:
    cluster = launch.prepare(nodes=3)
    cluster[1].patch = NO_ROOM
    cluster.start()
    wait_for(lambda: "going on without it: cannot write" in cluster[1].log(), "it to say so")


def test_a_clean_stop_that_cannot_be_noted_is_one_line_and_no_success(launch: Launcher) -> None:
    cluster = launch.prepare(nodes=1)
    cluster[1].patch = FULL_AT_THE_END
    cluster.start()
    cluster[1].signal(signal.SIGTERM)
    assert cluster[1].wait() == 1
    assert "not noted: cannot write identity" in cluster[1].log()
    assert "Traceback" not in cluster[1].log()


def damage_headers(directory: Path) -> None:
    """As if a disk had rotted: every block of every topic but the engine's own notes, which come first."""
    file = directory / "00000001.wal"
    data = bytearray(file.read_bytes())
    for place in range(16384, len(data), 16384):
        if data.startswith(b"walrus", place):
            data[place + 20] ^= 255
    file.write_bytes(data)


def test_a_copy_that_lost_its_header_is_missed_and_fetched_again(launch: Launcher) -> None:
    cluster = launch()
    with cluster.wire(1) as wire:
        assert wire.ask(b"REGISTER t") == b"OK"
        assert wire.ask(b"PUT t x") == b"OK"
    cluster[3].terminate()
    damage_headers(cluster.path / "node_3" / "user_data")
    cluster[3].start()
    cluster.wait_ready()
    wait_for(lambda: "not sure of those that were open" in cluster[3].log(), "it to say so")
    with cluster.wire(3) as wire:
        wait_for(lambda: wire.ask(b"FETCH t 1 0") == b"OK 1 x", "the entry")
    cluster[3].terminate()
    damage_headers(cluster.path / "node_3" / "raft_meta")
    cluster[3].start()
    assert cluster[3].wait() == 1
    assert "LEAVE 3" in cluster[3].log()


def test_a_lost_raft_journal_is_not_replaced_by_an_empty_one(launch: Launcher) -> None:
    cluster = launch()
    cluster[3].kill()
    for file in (cluster.path / "node_3" / "raft_meta").iterdir():
        file.unlink()
    cluster[3].start()
    assert cluster[3].wait() == 1
    assert "LEAVE 3" in cluster[3].log()
