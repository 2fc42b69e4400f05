"""Forked children: a client in a child forgets its connections, which belong to the parent.

A child has copies of the parent's sockets. If both processes wrote to one socket, the node would receive
their requests interleaved, and each would read replies to the other's requests. So the interpreter calls
this module in every child (`os.fork`, `multiprocessing`, servers that fork their workers) before the child
runs anything else, and each client closes its copies of the sockets. Closing a copy does not end the
parent's connection; an open copy would keep the node from noticing that the parent has closed it.

Pids are not compared: in another pid namespace a child can have the same pid as its parent.
"""

from __future__ import annotations

import os
import weakref
from typing import Protocol


class Inheritor(Protocol):
    """An object with connections that a child must not use."""

    def _forked(self) -> None: ...


_followers: weakref.WeakSet[Inheritor] = weakref.WeakSet()


def follow(follower: Inheritor) -> None:
    """Call the follower's `_forked` in each child that is forked from now on, as long as it is alive."""
    _followers.add(follower)


def _in_child() -> None:
    for follower in list(_followers):
        follower._forked()


os.register_at_fork(after_in_child=_in_child)
