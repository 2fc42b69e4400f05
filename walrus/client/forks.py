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
from typing import Protocol


class Inheritor(Protocol):
    """What has connections that a child must not use."""

    def _forked(self) -> None: ...


_followers: weakref.WeakSet[Inheritor] = weakref.WeakSet()


def follow(follower: Inheritor) -> None:
    """Call its `_forked` in each child that is forked from now on, for as long as it lives."""
    _followers.add(follower)


def _in_child() -> None:
    for follower in list(_followers):
        follower._forked()


os.register_at_fork(after_in_child=_in_child)
