"""Walrus: a distributed message log in pure Python, written to be read.

The package exports the embedded engine and the clients: `from walrus import Walrus, Client, AsyncClient`,
with the types that their methods return and the clients' exceptions, whose root is `WalrusError`. `Entry` is
the engine's; that of the clients is `walrus.client.Entry`.

Each name is imported when it is first used. So a node, which needs only parts of the engine, or a tool that
does not need it, does not pay for the import.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from walrus import namesake as _namesake

if TYPE_CHECKING:
    from walrus.client import (
        AsyncClient,
        AsyncHeldDelivery,
        AsyncProducer,
        BadReply,
        Busy,
        CannotLeave,
        CannotRecover,
        Client,
        Delivery,
        EntriesLost,
        Forbidden,
        GroupInUse,
        HeldDelivery,
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
        Position,
        Producer,
        Refused,
        StaleReceipt,
        TimedOut,
        TopicExists,
        TopicSettings,
        TopicState,
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
    from walrus.storage.cursors import Entry
    from walrus.storage.handout import Received
    from walrus.storage.schedule import FsyncSchedule, ReadConsistency
    from walrus.wal import Walrus

__version__ = "0.1.0"
__distribution__ = _namesake.DISTRIBUTION
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
    "FsyncSchedule",
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
    "ReadConsistency",
    "Received",
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
    "Walrus",
    "WalrusError",
    "__version__",
]
_OF_THE_ENGINE = frozenset({"Entry", "FsyncSchedule", "ReadConsistency", "Received", "Walrus"})


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name in _OF_THE_ENGINE:
        import walrus.wal

        return getattr(walrus.wal, name)
    import walrus.client

    return getattr(walrus.client, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
