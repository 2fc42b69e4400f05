"""Event streaming: one topic of orders, two services that read it independently, and a replay.

    python examples/event_streaming.py --addr 127.0.0.1:9091

Each service is a consumer group with its own cursor in the cluster. `entries` reads from the beginning and
moves no cursor: a new service, or one that had a bug, rebuilds its state that way.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Iterable
from typing import Any

from walrus import Client

TOPIC = "example.orders"


def orders(count: int) -> Iterable[dict[str, Any]]:
    """Yield invented orders."""
    for number in range(count):
        yield {"order": number, "customer": f"c{number % 7}", "cents": 100 + 37 * number % 1_000}


def read_all(client: Client, group: str) -> Iterable[dict[str, Any]]:
    """Yield the orders that a group has not read yet."""
    while batch := client.get_many(TOPIC, 100, group=group):
        yield from map(json.loads, batch)


def main() -> None:
    """Write orders, let both services read, and replay."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--addr", action="append", required=True, help="a node; may be repeated")
    parser.add_argument("--count", type=int, default=500, help="orders to write")
    arguments = parser.parse_args()
    with Client(arguments.addr, timeout=30) as client:
        client.register(TOPIC)
        client.producer(TOPIC).put_many(json.dumps(order).encode() for order in orders(arguments.count))

        billed = sum(order["cents"] for order in read_all(client, "billing"))
        print(f"billing: {billed:,} cents")
        by_customer = Counter(order["customer"] for order in read_all(client, "search"))
        print(f"search: {by_customer.total()} orders of {len(by_customer)} customers")
        print(f"billing reads on: {len(list(read_all(client, 'billing')))} new orders")

        replayed = sum(json.loads(entry)["cents"] for entry in client.entries(TOPIC))
        print(f"replay from the beginning: {replayed:,} cents")


if __name__ == "__main__":
    main()
