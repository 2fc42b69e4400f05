"""Walrus: a distributed message log in pure Python, written to be read.

The embedded engine and the clients are at the top: `from walrus import Walrus, Client, AsyncClient`. Each
is loaded when it is first asked for, so that a node, which needs the engine in parts, or a tool, which does
not need it at all, pays nothing for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from walrus import namesake as _namesake

if TYPE_CHECKING:
    from walrus.client import AsyncClient, Client, Delivery, WalrusError
    from walrus.storage.cursors import Entry
    from walrus.storage.handout import Received
    from walrus.storage.schedule import FsyncSchedule, ReadConsistency
    from walrus.wal import Walrus

__version__ = "0.1.0"
__distribution__ = _namesake.DISTRIBUTION
__all__ = [
    "AsyncClient",
    "Client",
    "Delivery",
    "Entry",
    "FsyncSchedule",
    "ReadConsistency",
    "Received",
    "Walrus",
    "WalrusError",
    "__version__",
]
_OF_CLIENTS = frozenset({"AsyncClient", "Client", "Delivery", "WalrusError"})


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name in _OF_CLIENTS:
        import walrus.client

        return getattr(walrus.client, name)
    import walrus.wal

    return getattr(walrus.wal, name)
