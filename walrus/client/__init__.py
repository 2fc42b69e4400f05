"""The Python client: `Client` blocks, `AsyncClient` awaits; otherwise they are the same.

    with Client(["127.0.0.1:9091", "127.0.0.1:9092", "127.0.0.1:9093"]) as client:
        client.register("orders")
        place = client.put("orders", b"one")  # Position(segment=1, offset=0)
        for payload in client.entries("orders"):
            ...

A producer sends each entry again until it is acknowledged, and the topic has it once:

        producer = client.producer("orders")
        producer.put(b"one")

A work queue hands an entry out until a worker has acknowledged it:

        client.consume("jobs", "workers", lambda delivery: work(delivery.payload))

Any node serves any topic. A client uses the first address that works, and changes to the next one when that
fails. `core.py` decides which requests are sent again, and its docstring states the rules.

**Deadlines.** Every call ends within `timeout` seconds, that of the client or of the call. This includes
name lookup, connecting, and waiting for other calls. For a call that pipelines many requests, the deadline
moves on with each answer.

**Pipelining.** `put_many`, `get_many` and `fetch_many` send hundreds of requests without waiting for
answers, which makes a producer fast. Entries that are sent to one topic over one connection keep their
order.

**Sharing.** Threads may share a `Client`; each call has a connection of its own while it runs. The tasks of
one event loop may share an `AsyncClient`; their requests are pipelined over one connection. A forked child
may use either, and opens connections of its own. An exception that interrupts a call (KeyboardInterrupt,
cancellation, a signal handler that raises) leaves the client usable; the outcome of the request is then
unknown, as after `OutcomeUnknown`.

Arguments are checked before anything is sent (`calls.py`): TypeError, ValueError, or an `InvalidRequest`.
docs/clients.md is the guide.

    blocking      `Client`
    asynchronous  `AsyncClient`
    core          the logic of both, without I/O: attempts, connections, when to try again
    calls         each command: from arguments to frames, from replies to values
    deliveries    the same for work queues: RECEIVE, ACK, NACK, EXTEND, SEEK
    consuming     a worker of a queue: receive, work, acknowledge
    following     GET and FETCH that wait; following a topic as it grows
    producing     producers: entries that are sent again, and stored once
    errors        the exceptions, under one root
    names         name lookup within a deadline
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
