"""The nodes of a run: processes, the proxies between them, and a small disk for each where it can be mounted.

With the right to mount, every data directory is on an ext4 file system of its own, in an image that a loop
device shows. So a disk can be full, and a loss of power is the image as it is at one instant: what was not
written to the device by then is gone. Without that right these faults are left out, and the run says so.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.node.chaos import checker, namespace
from tests.node.chaos.client import Address, ask
from tests.node.harness import QUICK, Cluster, NodeProcess, nap

TOPIC, JOBS = b"t", b"jobs"
"""What is written as fast as it goes, and the topic of a work queue."""
TOPICS = {TOPIC: b"", JOBS: b" visibility_ms=1500"}
LIVES = b"lives"
"""A topic that its client registers itself, and deletes."""
DISK_BYTES = 640 << 20
PATIENCE = 180.0
"""Seconds until a cluster without faults must serve again: far beyond what it takes."""


MOVING = 300.0
"""Seconds until segments have moved to other nodes: how long that takes grows with their number."""


class Stuck(AssertionError):
    """A cluster without faults does not serve."""


def command(*words: object) -> subprocess.CompletedProcess[bytes]:
    """Run a program of the system; its failure is for the caller to judge."""
    return subprocess.run([str(word) for word in words], capture_output=True, check=False, timeout=120)


class Disk:
    """A file system in an image, mounted at `at`."""

    def __init__(self, image: Path, at: Path) -> None:
        self.image, self.at = image, at

    def make(self) -> bool:
        """Return whether it could be made and mounted."""
        self.at.mkdir(parents=True, exist_ok=True)
        with self.image.open("wb") as file:
            file.truncate(DISK_BYTES)
        try:
            made = command("mkfs.ext4", "-q", "-F", "-m", "0", self.image).returncode == 0
        except FileNotFoundError:
            return False
        return made and self.mount()

    def mount(self) -> bool:
        return command("mount", "-o", "loop", self.image, self.at).returncode == 0

    def unmount(self) -> None:
        for _ in range(100):
            if command("umount", self.at).returncode == 0 or not self.at.is_mount():
                return
            nap(0.1)
        command("umount", "-l", self.at)

    def fill(self) -> None:
        """No room for anything any more."""
        free = shutil.disk_usage(self.at).free
        command("fallocate", "-l", free, self.at / "filler")
        with (self.at / "filler.rest").open("wb", buffering=0) as rest:
            try:
                while rest.write(bytes(1 << 16)):
                    continue
            except OSError:
                return

    def free(self) -> None:
        for name in ("filler", "filler.rest"):
            (self.at / name).unlink(missing_ok=True)

    def picture(self) -> None:
        """Keep what the device holds now; taken again if something was written to it meanwhile."""
        for _ in range(20):
            before = self._written()
            command("cp", "--sparse=always", self.image, f"{self.image}.power")
            if self._written() == before:
                return

    def _written(self) -> str:
        source = (
            command("findmnt", "-n", "-o", "SOURCE", self.at).stdout.decode().strip().removeprefix("/dev/")
        )
        counters = Path(f"/sys/block/{source}/stat")
        return counters.read_text().split()[6] if counters.exists() else ""

    def lose_power(self) -> None:
        """Be what it was when the picture was taken. No process may have files open on it."""
        self.unmount()
        Path(f"{self.image}.power").replace(self.image)
        assert self.mount(), "a file system after a loss of power can be mounted"


class World:
    """A cluster, its disks, and the questions that a run asks of it.

    There are as many nodes as `patches`, each of them Python that its node runs first. `topics` are those
    that have clients: faults that aim at a leader aim at one of theirs.
    """

    def __init__(
        self,
        path: Path,
        flags: Sequence[str],
        patches: Sequence[str],
        topics: Sequence[bytes],
        disks: bool = True,
        assertions: bool = True,
    ) -> None:
        self.topics = topics
        environ = {"WALRUS_MAX_SEGMENT_ENTRIES": "2000"}
        nodes = len(patches)
        self.cluster = Cluster(path, nodes=nodes, flags=[*QUICK, *flags], env=environ, proxied=True)
        for node, patch in zip(self.cluster, patches, strict=True):
            node.patch = patch
            if not assertions:
                node.environ = {**node.environ, "PYTHONOPTIMIZE": "1"}
        self.disks: dict[int, Disk] = {}
        if disks:
            self._make_disks(path)

    def _make_disks(self, path: Path) -> None:
        for node_id in self.cluster.nodes:
            disk = Disk(path / f"disk_{node_id}", path / f"node_{node_id}")
            if not disk.make():
                self.close_disks()
                self.disks.clear()
                return
            self.disks[node_id] = disk

    @property
    def ids(self) -> list[int]:
        return list(self.cluster.nodes)

    def address(self, node_id: int) -> Address:
        return "127.0.0.1", self.cluster.client_ports[node_id]

    def addresses(self) -> list[Address]:
        """All, those of dead nodes too: a client does not know which they are."""
        return [self.address(node_id) for node_id in self.ids]

    def start(self) -> None:
        for node in self.cluster:
            node.start()
        self.wait_until_it_serves()
        for topic in self.topics:
            if topic == LIVES:
                continue
            request = b"REGISTER " + topic + TOPICS[topic]
            self.until("REGISTER is answered OK", lambda request=request: self._ask(1, request) == b"OK")

    def until(self, what: str, holds: Any, patience: float = PATIENCE) -> Any:
        """Wait for a condition; Stuck if it does not come."""
        deadline = time.monotonic() + patience
        while not (found := holds()):
            if time.monotonic() > deadline:
                raise Stuck(f"in {patience:g} s it did not come to this: {what}\n{self.cluster.logs()}")
            nap(0.05)
        return found

    def _ask(self, node_id: int, request: bytes, patience: float = 10.0) -> bytes:
        try:
            return ask(self.address(node_id), request, patience)
        except OSError as error:
            return f"ERR timeout: {error}".encode()

    def metrics(self, node_id: int) -> dict[str, Any] | None:
        reply = self._ask(node_id, b"METRICS")
        return json.loads(reply) if reply.startswith(b"{") else None

    def segment_leader(self, topic: bytes) -> int | None:
        """The leader of the topic's open segment, if a node that runs says so at once."""
        for node_id in self.ids:
            if self.cluster[node_id].running:
                reply = self._ask(node_id, b"STATE " + topic, patience=1.0)
                return int(json.loads(reply)["leader_node"]) if reply.startswith(b"{") else None
        return None

    def wait_until_it_serves(self) -> None:
        """Until every node runs, is ready, and counts all as members."""
        for node_id in self.ids:
            node = self.cluster[node_id]

            def good(node_id: int = node_id, node: NodeProcess = node) -> bool:
                if not node.running and "No space left" in node.log()[-300:]:
                    node.start()  # it was starting when its disk was freed, and has ended since
                found = self.metrics(node_id)
                if found is None:
                    return False
                (voters,) = found["membership_config"]["membership"]["configs"]
                return bool(found["ready"]) and found["current_leader"] and set(voters) == set(self.ids)

            if not node.running:
                node.start()
            self.until(f"node {node_id} is ready, in a cluster of {self.ids}", good)

    def heal(self) -> None:
        """No faults any more."""
        assert self.cluster.proxy is not None
        self.cluster.proxy.heal()
        if namespace.can_lose():
            namespace.calm()
        for disk in self.disks.values():
            disk.free()
        for node in self.cluster:
            node.resume()
            if not node.running:
                node.start()
        self.wait_until_it_serves()

    def wipe(self, node_id: int) -> None:
        """An empty disk in place of the one that was."""
        place = self.cluster.path / f"node_{node_id}"
        for inside in place.iterdir() if place.is_dir() else ():
            if inside.name != "lost+found":
                shutil.rmtree(inside) if inside.is_dir() else inside.unlink()
        if node_id in self.disks:
            command("sync", "-f", place)  # or the old disk is back after a loss of power
        else:
            place.rmdir()

    def rejoin(self, node_id: int, helper: int) -> None:
        """Start a node that has an empty disk; it asks `helper` to be taken in.

        So it does whenever it starts from now on: the next fault may kill it before it is a member, and a
        first node with an empty disk and nothing to join founds a cluster of its own.
        """
        node = self.cluster[node_id]
        if "--join" in node.arguments:
            at = node.arguments.index("--join")
            del node.arguments[at : at + 2]
        host, port = self.cluster.raft_host(helper), self.cluster.raft_ports[helper]
        node.arguments += ["--join", f"{host}:{port}"]
        node.start()

    def leave(self, node_id: int, asked: int) -> None:
        """LEAVE, asked again until it is done."""

        request = b"LEAVE %d" % node_id

        def gone() -> bool:
            nonlocal request
            reply = self._ask(asked, request, patience=60.0)
            if reply.startswith(b"ERR needs force"):
                request = b"LEAVE %d force" % node_id
            return reply == b"OK" or reply.startswith(b"ERR unknown node")

        self.until(f"node {node_id} has left", gone, MOVING)

    def wait_until_whole(self) -> None:
        """Until every segment has all its replicas again: only then may another disk be lost."""
        wanted = min(3, len(self.ids))

        def whole() -> bool:
            told = {topic: self._ask(self.ids[0], b"STATE " + topic) for topic in self.topics}
            states = [state for state in told.values() if state.startswith(b"{")]
            if any(topic != LIVES and state not in states for topic, state in told.items()):
                return False
            behind = [found["copies_behind"] if (found := self.metrics(n)) else 1 for n in self.ids]
            replicas = [nodes for state in states for nodes in json.loads(state)["segment_replicas"].values()]
            return not any(behind) and all(len(nodes) >= wanted for nodes in replicas)

        self.until("every segment has all its replicas", whole, MOVING)

    def whole_log(self, topic: bytes) -> tuple[list[checker.Place], list[str]]:
        """A topic's log once all nodes show it whole and alike, and what two of them showed differently."""
        wrong: list[str] = []

        def alike() -> list[list[checker.Place]] | None:
            try:
                views = [checker.read(self.address(node_id), topic) for node_id in self.ids]
            except (OSError, checker.NotYet, KeyError, ValueError):
                return None
            if found := checker.disagreement(views):
                wrong.append(found)
                return views
            return views if len({len(view) for view in views}) == 1 else None

        views = self.until("all nodes show the same log", alike)
        return max(views, key=len), wrong[:1]

    def close(self) -> None:
        self.cluster.close()
        self.close_disks()

    def close_disks(self) -> None:
        for disk in self.disks.values():
            disk.unmount()
