"""Work queue: several workers, one of which dies with a task in hand, and a task that always fails.

    python examples/work_queue.py --addr 127.0.0.1:9091

A task is handed out until it is acknowledged. The worker that dies acknowledges nothing, so its task is
handed out again, to another worker. The task that always fails goes to the dead-letter topic after three
attempts, where a person can look at it. A task may be done twice, so tasks must be idempotent.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections import Counter

from walrus import Client
from walrus.client import Delivery

TOPIC, GROUP = "example.tasks", "workers"
POISON = b"task 13"


def work(addresses: list[str], dies_after: int) -> None:
    """Work until no task arrives within four seconds; print each task that is done."""
    with Client(addresses, timeout=30) as client:
        taken = 0
        while (delivery := client.receive(TOPIC, GROUP, wait=4.0)) is not None:
            taken += 1
            if taken == dies_after:
                os._exit(1)  # like kill -9: neither ACK nor NACK
            attempt(client, delivery)


def attempt(client: Client, delivery: Delivery) -> None:
    """Do one task, and acknowledge it; give the one that always fails back."""
    if delivery.payload == POISON:
        client.nack(TOPIC, GROUP, delivery)
        return
    print(delivery.payload.decode(), flush=True)
    client.ack(TOPIC, GROUP, delivery)


def start(addresses: list[str], dies_after: int) -> subprocess.Popen[str]:
    """Start a worker in its own process."""
    command = [sys.executable, __file__, "--worker", "--dies-after", str(dies_after)]
    for address in addresses:
        command += ["--addr", address]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def main() -> None:
    """Write tasks, start workers, and count the tasks that are done."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--addr", action="append", required=True, help="a node; may be repeated")
    parser.add_argument("--count", type=int, default=60, help="tasks to write")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--dies-after", type=int, default=0, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        work(arguments.addr, arguments.dies_after)
        return
    with Client(arguments.addr, timeout=30) as client:
        client.register(TOPIC, {"visibility_ms": 1_000, "max_deliveries": 3})
        client.producer(TOPIC).put_many(b"task %d" % number for number in range(arguments.count))
        first = start(arguments.addr, dies_after=5)
        done = Counter(first.communicate()[0].splitlines())
        others = [start(arguments.addr, dies_after=0) for _ in range(2)]
        done.update(line for worker in others for line in worker.communicate()[0].splitlines())
        died = sum(worker.returncode != 0 for worker in (first, *others))
        lost = [n for n in range(arguments.count) if f"task {n}" not in done and b"task %d" % n != POISON]
        print(f"{len(done)} of {arguments.count} tasks are done, {len(lost)} lost, {died} worker died")
        print(f"dead letters: {[entry.decode() for entry in client.entries(f'{TOPIC}.dead')]}")


if __name__ == "__main__":
    main()
