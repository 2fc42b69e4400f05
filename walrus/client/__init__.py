"""The Python client: `Client` blocks, `AsyncClient` awaits, otherwise they are the same.

    with Client(["127.0.0.1:9091", "127.0.0.1:9092", "127.0.0.1:9093"]) as client:
        client.register("orders")
        place = client.put("orders", b"one")  # Position(segment=1, offset=0)
        for payload in client.entries("orders"):
            ...

A producer, whose entries are sent again until they are acknowledged, and are never there twice:

        producer = client.producer("orders")
        producer.put(b"one")

A work queue, each entry of which is worked on until a worker has acknowledged it:

        client.consume("jobs", "workers", lambda delivery: work(delivery.payload))

Any node serves any topic, so a client talks to the first address that works, and goes to the next one when
that breaks. What is tried again, and what never, is decided in `core.py` and said there.

Every call ends by its deadline: `timeout` seconds (of the client, or of the call) from its beginning, or for
a call that pipelines many requests from the last answer to one of them. Looking up a name, connecting and
waiting for other calls are within it.

Pipelining: `put_many`, `get_many` and `fetch_many` send hundreds of requests without waiting for an answer,
which is what makes a producer fast. Over one connection to one topic, entries keep their order.

A `Client` may be shared by threads; each call has a connection for itself while it runs. An `AsyncClient` may
be shared by the tasks of one event loop, whose requests are pipelined together over one connection. Both may
be inherited by a forked child, which opens connections of its own. An exception that cuts a call short
(KeyboardInterrupt, cancellation, a signal handler that raises) leaves the client usable; whether the request
was executed is then as unknown as after `OutcomeUnknown`.

Arguments are checked before anything is sent (`calls.py`): TypeError, ValueError, or an `InvalidRequest`.

    blocking      `Client`
    asynchronous  `AsyncClient`
    core          what both are made of, without I/O: attempts, connections, when to try again
    calls         each command: from arguments to frames, from replies to values
    deliveries    the same for work queues: RECEIVE, ACK, NACK, EXTEND, SEEK
    consuming     a worker of a queue: receive, work, acknowledge
    following     GET and FETCH that wait; a topic, followed as it grows
    producing     producers: entries that are sent again, and are never there twice
    errors        what can go wrong, as classes under one root
    names         from HOST:PORT to addresses, within a deadline
    forks         what a client does in a forked child
"""

from __future__ import annotations

from walrus import namesake as _namesake  # noqa: F401 - it looks
from walrus.acknowledged import Position
from walrus.client.asynchronous import AsyncClient
from walrus.client.blocking import Client
from walrus.client.calls import Entry, TopicSettings, TopicState
from walrus.client.deliveries import AsyncHeldDelivery, Delivery, HeldDelivery
from walrus.client.errors import (
    BadReply,
    Busy,
    CannotLeave,
    CannotRecover,
    EntriesLost,
    Forbidden,
    GroupInUse,
    InvalidRequest,
    InvalidTopic,
    LimitReached,
    NeedsForce,
    NoLeader,
    NoReplica,
    NotEnoughReplicas,
    NotWritten,
    OlderRelease,
    OutcomeUnknown,
    OutOfSequence,
    Overtaken,
    PayloadTooLarge,
    Refused,
    StaleReceipt,
    TimedOut,
    TopicExists,
    Trimmed,
    Unauthenticated,
    Unavailable,
    UnknownNode,
    UnknownProducer,
    UnknownSegment,
    UnknownTopic,
    Unreachable,
    WalrusError,
)
from walrus.client.producing import AsyncProducer, Producer

__all__ = [
    "AsyncClient",
    "AsyncHeldDelivery",
    "AsyncProducer",
    "BadReply",
    "Busy",
    "CannotLeave",
    "CannotRecover",
    "Client",
    "Delivery",
    "EntriesLost",
    "Entry",
    "Forbidden",
    "GroupInUse",
    "HeldDelivery",
    "InvalidRequest",
    "InvalidTopic",
    "LimitReached",
    "NeedsForce",
    "NoLeader",
    "NoReplica",
    "NotEnoughReplicas",
    "NotWritten",
    "OlderRelease",
    "OutOfSequence",
    "OutcomeUnknown",
    "Overtaken",
    "PayloadTooLarge",
    "Position",
    "Producer",
    "Refused",
    "StaleReceipt",
    "TimedOut",
    "TopicExists",
    "TopicSettings",
    "TopicState",
    "Trimmed",
    "Unauthenticated",
    "Unavailable",
    "UnknownNode",
    "UnknownProducer",
    "UnknownSegment",
    "UnknownTopic",
    "Unreachable",
    "WalrusError",
]
