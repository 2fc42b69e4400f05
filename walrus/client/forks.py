"""What a client does in a forked child: forget the connections, which are the parent's.

A child has copies of the parent's sockets. If both wrote to one, the node would see their requests mixed, and
each would read answers to the other's. So the interpreter tells this module in every child (`os.fork`,
`multiprocessing`, servers that fork their workers) before the child runs anything else; each client then
closes its copies and starts anew. Closing a copy does not end the connection, and leaving it open would keep
the node from noticing that the parent closed it.

No pid is compared: in another pid namespace a child can have its parent's.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable

_callbacks: set[weakref.WeakMethod[Callable[[], None]]] = set()


def follow(forked: Callable[[], None]) -> None:
    """Call this bound method in each child that is forked from now on, for as long as its object lives."""
    _callbacks.add(weakref.WeakMethod(forked, _callbacks.discard))


def _in_child() -> None:
    for callback in list(_callbacks):
        if (forked := callback()) is not None:
            forked()


os.register_at_fork(after_in_child=_in_child)
