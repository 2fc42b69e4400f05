"""Backup of a cluster under load, and restore into another one, through real processes."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.node.harness import CALM, PATIENCE, Cluster, Launcher, wait_for
from walrus.cli.backup import MANIFEST, BackupError, backup, check, restore
from walrus.cli.main import main
from walrus.client import Client, OutcomeUnknown, Producer

pytestmark = pytest.mark.process

SEGMENT = 300
ODD = "ü/../x"
OF_THE_CLI = "cli"
"""The topic of one test, which may come before the others: pytest-xdist takes tests from a worker's end."""


def addresses(cluster: Cluster) -> list[str]:
    return ["{}:{}".format(*node.client) for node in cluster]


@pytest.fixture(scope="module")
def clusters(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Client, Client]]:
    """Clients of a cluster of three that has something, and of one of one node that has nothing."""
    launchers = [Launcher(tmp_path_factory.mktemp(name)) for name in ("three", "one")]
    environ = {"WALRUS_MAX_SEGMENT_ENTRIES": str(SEGMENT)}
    made = [
        launcher(nodes=nodes, flags=[*CALM, "--fsync", "none"], env=environ)
        for launcher, nodes in zip(launchers, (3, 1), strict=True)
    ]
    three, one = (Client(addresses(cluster), timeout=PATIENCE) for cluster in made)
    three.register("orders")
    three.register("jobs", {"visibility_ms": 60_000, "max_deliveries": 7})
    three.register(ODD)
    three.register("empty")
    three.put_many("orders", [b"before %d" % n for n in range(3 * SEGMENT)])
    three.put_many("jobs", [b"job %d" % n for n in range(20)])
    three.put_many(ODD, [b"", b"\0", b"x" * 60_000])
    assert len(three.get_many("orders", 2 * SEGMENT + 5, group="billing")) == 2 * SEGMENT + 5
    assert three.get("orders") == b"before 0"
    for delivery in three.receive_many("jobs", "workers", 8, wait=30):
        three.ack("jobs", "workers", delivery.receipt)
    wait_for(lambda: cursor(three, "billing") == 2 * SEGMENT + 5, "the cursor to be committed")
    yield three, one
    for launcher in launchers:
        launcher.close()


def cursor(client: Client, group: str) -> int:
    at = client.state("orders")["cursors"].get(group, {"segment": 1, "offset": 0})
    return SEGMENT * (int(at["segment"]) - 1) + int(at["offset"])


@pytest.fixture(scope="module")
def made(
    clusters: tuple[Client, Client], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[bytes]]:
    """A backup under load, and what had been acknowledged when it began."""
    three, _ = clusters
    acknowledged: list[bytes] = []
    stop = threading.Event()

    def write() -> None:
        with Client(three.address, timeout=PATIENCE) as client:
            for number in range(1_000_000):
                if stop.is_set():
                    return
                batch = [b"load %d" % (10 * number + n) for n in range(10)]
                client.put_many("orders", batch)
                acknowledged.extend(batch)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        wait_for(lambda: len(acknowledged) > SEGMENT, "some load")
        before = list(acknowledged)
        directory = tmp_path_factory.mktemp("backup") / "new"
        backup(three, directory, "", lambda _: None)
        wait_for(lambda: len(acknowledged) > len(before), "writing to go on")
    finally:
        stop.set()
        writer.join()
    return directory, [b"before %d" % n for n in range(3 * SEGMENT)] + before


def test_a_backup_under_load_has_all_that_was_acknowledged_before_it_began(
    made: tuple[Path, list[bytes]],
) -> None:
    directory, before = made
    manifest = check(directory)
    assert manifest.topics["orders"].entries >= len(before)
    assert set(manifest.topics) - {OF_THE_CLI} == {"orders", "jobs", ODD, "empty"}
    assert manifest.topics["jobs"].settings == {"visibility_ms": 60_000, "max_deliveries": 7}
    assert manifest.topics["orders"].cursors == {"": 1, "billing": 2 * SEGMENT + 5}
    assert manifest.topics["jobs"].queues == {"workers": 8}


def test_a_damaged_or_unfinished_backup_is_refused_before_anything_is_written(
    clusters: tuple[Client, Client], made: tuple[Path, list[bytes]], tmp_path: Path
) -> None:
    _, one = clusters
    directory, _ = made
    before = one.topics()
    text = (directory / MANIFEST).read_text()
    told: dict[str, Any] = json.loads(text)
    told["topics"]["orders"]["sum"] ^= 1
    try:
        newer = text.replace('"format": 1', '"format": 9')
        wrongs = {json.dumps(told): "orders has", "{": "malformed|truncated", newer: "this release knows 1"}
        for wrong, reason in wrongs.items():
            (directory / MANIFEST).write_text(wrong)
            with pytest.raises(BackupError, match=reason):
                restore(one, directory, False, lambda _: None)
    finally:
        (directory / MANIFEST).write_text(text)
    with pytest.raises(BackupError, match="no backup, or one that was not finished"):
        restore(one, tmp_path, False, lambda _: None)
    with pytest.raises(BackupError, match="is not empty"):
        backup(one, directory, "", lambda _: None)
    assert one.topics() == before


def test_it_is_restored_into_another_cluster_once_also_if_that_is_interrupted(
    clusters: tuple[Client, Client], made: tuple[Path, list[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, one = clusters
    directory, before = made
    puts, left = Producer.put_many, [1]

    def interrupted(self: Producer, payloads: Any, **more: Any) -> None:
        puts(self, payloads, **more)
        if self.topic == "orders" and not (left := left_over()):
            raise OutcomeUnknown(f"written, but the answer was lost: {left}")

    def left_over() -> int:
        left[0] -= 1
        return left[0] + 1

    monkeypatch.setattr(Producer, "put_many", interrupted)
    with pytest.raises(OutcomeUnknown):
        restore(one, directory, False, lambda _: None)
    monkeypatch.undo()
    with pytest.raises(BackupError, match="is a topic of this cluster already"):
        restore(one, directory, False, lambda _: None)
    restore(one, directory, True, lambda _: None)
    restored = list(one.entries("orders"))
    assert restored[: len(before)] == before, "AckedDurable: in their order, none twice"
    assert len(restored) == len(set(restored)) == check(directory).topics["orders"].entries
    assert list(one.entries(ODD)) == [b"", b"\0", b"x" * 60_000]
    assert one.state("jobs")["settings"] == {"visibility_ms": 60_000, "max_deliveries": 7}
    assert one.get("orders", group="billing") == before[2 * SEGMENT + 5]
    assert one.get("orders") == b"before 1"
    assert [d.payload for d in one.receive_many("jobs", "workers", 2, wait=30)] == [b"job 8", b"job 9"]
    assert set(one.topics()) - {OF_THE_CLI} == {"orders", "jobs", ODD, "empty"}


def test_the_command_line_says_in_a_line_what_it_did_or_why_not(
    clusters: tuple[Client, Client], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    three, one = clusters
    for client in (three, one):
        client.register(OF_THE_CLI)
    three.put_many(OF_THE_CLI, [b"1", b"2"])
    place = str(tmp_path / "some")
    assert main(["backup", place, "--prefix", "cl", "--json", "--addr", three.address]) == 0
    assert json.loads(capfd.readouterr().out) == {"ok": True, "topics": 1, "entries": 2}
    assert main(["restore", place, "--addr", one.address]) == 1
    said = capfd.readouterr()
    assert said.out == "" and said.err.startswith("restore: cli is a topic of this cluster already")
    assert main(["restore", place, "--again", "--addr", one.address]) == 0
    assert list(one.entries(OF_THE_CLI)) == [b"1", b"2"]
