"""Random faults on real processes, one after the other and several at once, judged by the same oracle.

The faults are drawn from a seed, so that a failure can be tried again with the same ones; what the kernel's
scheduler makes of them is another run each time. `make deep` plays many more rounds.
"""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from tests.node.harness import QUICK, Cluster, Launcher, nap, wait_for
from tests.node.history import Producer, check, read_back

pytestmark = [pytest.mark.process, pytest.mark.slow]

DEEP = os.environ.get("HYPOTHESIS_PROFILE") == "deep"
ROUNDS = 60 if DEEP else 6
SEEDS = range(4) if DEEP else range(1)


def hurt(cluster: Cluster, rng: random.Random) -> str:
    """One fault that leaves a majority, or (rarely) a whole restart; what it was."""
    victim = rng.choice([1, 2, 3])
    others = [node_id for node_id in (1, 2, 3) if node_id != victim]
    fault = rng.choice(["kill", "restart", "pause", "isolate", "one way", "stop", "kill all"])
    assert cluster.proxy is not None
    match fault:
        case "kill":
            cluster[victim].kill()
        case "restart":
            cluster[victim].kill()
            cluster[victim].start()
        case "pause":
            cluster[victim].pause()
        case "isolate":
            cluster.proxy.isolate(victim, others)
        case "one way":
            cluster.proxy.cut(victim, rng.choice(others))
        case "stop":
            assert cluster[victim].terminate() == 0
        case "kill all":
            for node in cluster:
                node.kill()
    return f"{fault} {victim}"


def heal(cluster: Cluster) -> None:
    """Everything runs and is connected again."""
    assert cluster.proxy is not None
    cluster.proxy.heal()
    for node in cluster:
        node.resume()
        if not node.running:
            node.start()
    cluster.wait_ready()


@pytest.mark.timeout(3600 if DEEP else 900)
@pytest.mark.parametrize("seed", SEEDS)
def test_random_faults_lose_nothing_that_was_acknowledged(
    launch: Launcher, seed: int, tmp_path: Path
) -> None:
    rng = random.Random(seed)
    fsync = rng.choice(["each", "none", "20"])
    cluster = launch(
        proxied=True, flags=[*QUICK, "--fsync", fsync], env={"WALRUS_MAX_SEGMENT_ENTRIES": "150"}
    )
    cluster.register("t")
    faults: list[str] = []
    producers = [
        Producer(cluster, "t", name, nodes, window=window)
        for name, nodes, window in (("a", [1, 2, 3], 1), ("b", [3, 1, 2], 20), ("c", [2, 3, 1], 100))
    ]
    try:
        for producer in producers:
            producer.start()
        for _ in range(ROUNDS):
            producers[0].wait_for_more(5)
            faults.append(hurt(cluster, rng))
            if rng.random() < 0.5 and "kill all" not in faults[-1]:
                reached = sum(producer.acknowledged for producer in producers)
                deadline = rng.uniform(0.2, 2.5)
                nap(deadline)
                faults.append(f"for {deadline:.1f} s, {reached} acknowledged")
            heal(cluster)
        for producer in producers:
            producer.wait_for_more(5)
    except AssertionError as error:
        raise AssertionError(f"seed {seed}, faults {faults}: {error}") from error
    finally:
        for producer in producers:
            producer.stop()
    wait_for(lambda: len({n.metrics()["metadata_digest"] for n in cluster}) == 1, "the nodes to agree")
    try:
        check(read_back(cluster, "t"), producers)
    except AssertionError as error:
        raise AssertionError(
            f"seed {seed}, fsync {fsync}, faults {faults}: {error}\n{cluster.logs()}"
        ) from error
