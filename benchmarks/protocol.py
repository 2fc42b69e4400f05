"""How fast the client protocol is parsed and written: `python -m benchmarks.protocol`.

Reported are nanoseconds per request, the best of many short runs, beside the time that the machine needs to
merely slice the same bytes into as many pieces. On a shared machine the ratio says more than the figure.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable

from rich.console import Console
from rich.table import Table

from walrus import protocol
from walrus.protocol import PeerCodec, ReplyParser, RequestParser, encode_puts, encode_request
from walrus.storage.batch import Batch

RUNS = 1000


def best(run: Callable[[], object], requests: int) -> float:
    """Return nanoseconds for each of `requests`, in the fastest run."""
    fastest = float("inf")
    for _ in range(RUNS):
        started = time.perf_counter()
        run()
        fastest = min(fastest, time.perf_counter() - started)
    return fastest / requests * 1e9


def _parse(stream: bytes) -> Callable[[], object]:
    parser = RequestParser()
    return lambda: parser.feed(stream)


def _replies(stream: bytes) -> Callable[[], object]:
    parser = ReplyParser()
    return lambda: parser.feed(stream)


def cases() -> list[tuple[str, Callable[[], object], int]]:
    """Return what is measured: a name, a run, and the number of requests in a run."""
    rng = random.Random(1)
    equal = [b"x" * 100] * 100
    mixed = [b"x" * rng.randint(50, 150) for _ in range(100)]
    turns = [encode_puts(topic, [b"x" * 100]) for topic in ("orders", "users") * 50]
    fetches = [encode_request(b"FETCH orders 1 %d" % n) for n in range(100)]
    puts = encode_puts("orders", equal)
    codec: PeerCodec[Batch] = PeerCodec(Batch)
    batch = Batch.of(equal)
    framed = codec.encode(batch)
    parser = codec.parser()
    return [
        (
            "slice 100 frames of 115 bytes, nothing else",
            lambda: [puts[n : n + 115] for n in range(0, 11500, 115)],
            100,
        ),
        ("parse 100 PUTs of 100 bytes", _parse(puts), 100),
        ("parse 100 PUTs of 50 to 150 bytes", _parse(encode_puts("orders", mixed)), 100),
        ("parse 100 PUTs, two topics in turn", _parse(b"".join(turns)), 100),
        ("parse one PUT of 100 bytes", _parse(encode_puts("orders", equal[:1])), 1),
        ("parse 100 GETs", _parse(encode_request(b"GET orders") * 100), 100),
        ("parse 100 FETCHes", _parse(b"".join(fetches)), 100),
        ("parse 100 OKs", _replies(protocol.OK * 100), 100),
        ("parse 100 replies to GET", _replies(protocol.ok_many(equal)), 100),
        ("write 100 PUTs", lambda: encode_puts("orders", equal), 100),
        ("write 100 replies to GET", lambda: protocol.ok_many(equal), 100),
        ("write 100 replies to FETCH", lambda: protocol.ok_fetch_many(0, equal), 100),
        ("write a batch of 100 for a peer, per entry", lambda: codec.encode(batch), 100),
        ("parse a batch of 100 of a peer, per entry", lambda: parser.feed(framed), 100),
    ]


def main() -> None:
    """Print the table."""
    table = Table(title="client protocol, one request")
    table.add_column("what")
    table.add_column("ns", justify="right")
    table.add_column("of slicing", justify="right")
    slicing = 0.0
    for name, run, requests in cases():
        took = best(run, requests)
        slicing = slicing or took
        table.add_row(name, f"{took:,.0f}", f"{took / slicing:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
