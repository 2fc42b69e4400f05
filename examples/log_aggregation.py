"""Log aggregation: the log files of each service become a topic, one entry per line.

    python examples/log_aggregation.py logs/ --addr 127.0.0.1:9091

`logs/web/a.log` goes into the topic `example.logs.web`. Each line is sent with PUB: the file names the
producer, and the line's number is the entry's number. So the program can be killed and started again at any
time: it reads every file from the beginning, and no line is written twice.

The second half reads each topic back, its segments in parallel.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from walrus import Client

PREFIX = "example.logs."
BATCH = 500


def batches(file: Path) -> Iterator[list[bytes]]:
    """Yield the complete lines of a file; the next run sends a line that is still being written."""
    batch: list[bytes] = []
    with file.open("rb") as lines:
        for line in lines:
            if line.endswith(b"\n"):
                batch.append(line.rstrip(b"\r\n"))
            if len(batch) == BATCH:
                yield batch
                batch = []
    if batch:
        yield batch


def send(addresses: list[str], root: Path, file: Path) -> int:
    """Send all lines of a file; return how many there are."""
    topic = PREFIX + file.parent.name
    with Client(addresses, timeout=30) as client:
        client.register(topic)
        producer = client.producer(topic, name=f"file.{file.relative_to(root)}".replace(" ", "_"))
        count = 0
        for batch in batches(file):
            producer.put_many(batch)
            count += len(batch)
    return count


def read_segment(addresses: list[str], topic: str, segment: int) -> int:
    """Read one segment; return how many errors are in it."""
    with Client(addresses, timeout=30) as client:
        offset = errors = 0
        while batch := client.fetch_many(topic, segment, offset, BATCH):
            offset += len(batch)
            errors += sum(b"ERROR" in line for line in batch)
    return errors


def main() -> None:
    """Send all files, then count the errors in each topic."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("directory", type=Path, help="with a directory for each service")
    parser.add_argument("--addr", action="append", required=True, help="a node; may be repeated")
    arguments = parser.parse_args()
    files = sorted(arguments.directory.glob("*/*.log"))
    with ThreadPoolExecutor(4) as pool:
        counts = pool.map(lambda file: send(arguments.addr, arguments.directory, file), files)
        for file, count in zip(files, counts, strict=True):
            print(f"{file.relative_to(arguments.directory)}: {count:,} lines")
        with Client(arguments.addr, timeout=30) as client:
            for topic in client.topics(PREFIX):
                state = client.state(topic)
                segments = [int(number) for number in state["sealed_segments"]] + [state["current_segment"]]
                errors = pool.map(lambda n, topic=topic: read_segment(arguments.addr, topic, n), segments)
                print(f"{topic}: {sum(errors)} errors, {len(segments)} segments read in parallel")


if __name__ == "__main__":
    main()
