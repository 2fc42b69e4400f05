"""The Python client: `Client` blocks, `AsyncClient` awaits, otherwise they are the same.

    with Client(["127.0.0.1:9091", "127.0.0.1:9092", "127.0.0.1:9093"]) as client:
        client.register("orders")
        client.put("orders", b"one")
        for payload in client.entries("orders"):
            ...

Any node serves any topic, so a client keeps one connection, to the first address that works, and goes to
the next one when that breaks. Every call has a deadline, `timeout` seconds (of the client or of the call)
from its beginning, or for one that pipelines many requests from the last answer to one of them. What is tried
again, and what never, is decided in `core.py` and said there.

Pipelining: `put_many`, `get_many` and `fetch_many` send hundreds of requests without waiting for an answer,
which is what makes a producer fast. Over one connection to one topic, entries keep their order.

A `Client` may be shared by threads, which then take turns; an `AsyncClient` may be shared by tasks, whose
requests are pipelined together.
"""

from __future__ import annotations

from walrus.client.asynchronous import AsyncClient
from walrus.client.blocking import Client
from walrus.client.calls import Entry, TopicState
from walrus.client.errors import (
    BadReply,
    Busy,
    CannotLeave,
    CannotRecover,
    InvalidRequest,
    InvalidTopic,
    LimitReached,
    NoLeader,
    NoReplica,
    NotEnoughReplicas,
    NotWritten,
    OutcomeUnknown,
    Overtaken,
    PayloadTooLarge,
    Refused,
    TimedOut,
    Unavailable,
    UnknownNode,
    UnknownSegment,
    UnknownTopic,
    Unreachable,
    WalrusError,
)

__all__ = [
    "AsyncClient",
    "BadReply",
    "Busy",
    "CannotLeave",
    "CannotRecover",
    "Client",
    "Entry",
    "InvalidRequest",
    "InvalidTopic",
    "LimitReached",
    "NoLeader",
    "NoReplica",
    "NotEnoughReplicas",
    "NotWritten",
    "OutcomeUnknown",
    "Overtaken",
    "PayloadTooLarge",
    "Refused",
    "TimedOut",
    "TopicState",
    "Unavailable",
    "UnknownNode",
    "UnknownSegment",
    "UnknownTopic",
    "Unreachable",
    "WalrusError",
]
