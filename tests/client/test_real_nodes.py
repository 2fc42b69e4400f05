"""The clients and the command line against real nodes: what the fake one cannot vouch for."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys

import pytest

from tests.node.harness import PATIENCE, Cluster, Launcher
from walrus.client import AsyncClient, Client, Position, UnknownNode, UnknownSegment, UnknownTopic

pytestmark = pytest.mark.process


def addresses(cluster: Cluster) -> list[str]:
    return [f"127.0.0.1:{port}" for _, port in sorted(cluster.client_ports.items())]


def test_a_topic_of_many_segments_through_any_node(launch: Launcher) -> None:
    cluster = launch(env={"WALRUS_MAX_SEGMENT_ENTRIES": "10"})
    payloads = [b"entry %d" % n * (n % 7) for n in range(100)]
    first, second, third = addresses(cluster)
    with Client(first, timeout=PATIENCE) as client:
        client.register("t")
        assert client.put_many("t", payloads) == [Position(1 + n // 10, n % 10) for n in range(100)]
    with Client(second, timeout=PATIENCE) as client:
        assert list(client.entries("t")) == payloads
        state = client.state("t")
        assert sum(state["sealed_segments"].values()) == state["last_sealed_entry_offset"]
        assert len(set(state["segment_leaders"].values())) == 3
        with pytest.raises(UnknownTopic):
            client.put("nope", b"x")
        with pytest.raises(UnknownNode):
            client.leave(9)
        with pytest.raises(UnknownSegment):
            client.fetch("t", 99, 0)
    with Client(third, timeout=PATIENCE) as client:
        assert client.get_many("t", 60) == payloads[:60]
        assert client.get_many("t", 60, "other") == payloads[:60]
        assert client.metrics()["id"] == 3
    with Client(first, timeout=PATIENCE) as client:
        assert client.get_many("t", 60) == payloads[60:], "one cursor for the whole cluster"


def test_a_producer_goes_on_when_the_leader_dies(cluster: Cluster) -> None:
    async def scenario() -> tuple[list[bytes], list[bytes]]:
        acknowledged: list[bytes] = []
        async with AsyncClient(addresses(cluster), timeout=PATIENCE) as client:
            await client.register("t")
            leader = (await client.state("t"))["leader_node"]
            for round_ in range(20):
                batch = [b"%d" % n for n in range(round_ * 50, round_ * 50 + 50)]
                if round_ == 5:
                    cluster[leader].kill()
                results = await client.put_many("t", batch)
                for entry, place in zip(batch, results, strict=True):
                    if isinstance(place, Position):
                        acknowledged.append(entry)
                        assert await client.fetch("t", *place) == entry, "it is not where the answer said"
            return acknowledged, [entry async for entry in client.entries("t")]

    acknowledged, found = asyncio.run(scenario())
    assert len(acknowledged) >= 500
    assert set(acknowledged) <= set(found) and found == sorted(set(found), key=int)


def test_the_command_line_reads_what_a_pipe_wrote(cluster: Cluster) -> None:
    def cli(node: int, *arguments: str, stdin: bytes = b"") -> bytes:
        address = addresses(cluster)[node - 1]
        command = [sys.executable, "-m", "walrus.cli", "--addr", address, "--timeout", "60", *arguments]
        done = subprocess.run(command, input=stdin, stdout=subprocess.PIPE, check=True, timeout=PATIENCE)
        return done.stdout

    text = b"".join(b"line %d\n" % n for n in range(2000))
    cli(1, "register", "t")
    cli(2, "put", "t", stdin=text)
    assert cli(3, "entries", "t") == text
    assert json.loads(cli(1, "state", "t", "--json"))["current_segment"] == 1
    assert b"members" in cli(2, "metrics")
