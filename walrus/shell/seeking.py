"""Seeking: how a member finds its cluster again after all addresses have changed.

A member remembers the addresses of the others. If all nodes come back at new addresses (containers, DHCP, a
move), every remembered address is wrong, and without a leader the metadata cannot be changed. So a member
that is not ready some time after its start introduces itself at the addresses of `--join`, without knowing
which member is there:

    seeker                                          any member
      │ ── Hello(target=0, raft_address=mine, ...) ──► │  accepts or refuses it like any caller; the callee
      │                                                │  now has the seeker's address, and dials it
      │ ◄─ HelloReply(error="", addresses={...}) ───── │  the addresses of the callee and of those it knows
      ×    the connection ends: no messages follow on one whose callee is not known by id
      │ ◄─ Hello(target=seeker, ...) ───────────────── │  which tells the seeker the callee's address

The seeker also tries the addresses in each reply. So it is enough that all members are given the address of
one of them. The seeker skips addresses that this node dials anyway, so it does nothing where no address has
changed. It stops once the node is ready.

Without success, the log says every few seconds which addresses are being tried, and what to do.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from walrus.shell.peer_connections import CONNECT_TIMEOUT, PeerConnections, asked
from walrus.wire.messages import ANY_NODE, Hello, HelloReply

log = logging.getLogger("walrus.shell.seeking")

PATIENCE = 0.05
"""Seconds before the first introduction: short, so that members meet before the first election."""
TELL_AFTER = 2.0
"""Seconds before the first line in the log: a healthy cluster is found sooner."""
FIRST_PAUSE = 0.1
LONGEST_PAUSE = 2.0
TELL_EVERY = 10.0
MOST_ADDRESSES = 64
"""How many addresses a seeker tries; it ignores further ones that it is told."""


async def introduced(peers: PeerConnections, hello: Hello, address: str) -> HelloReply:
    """Send a Hello to an address, and return the answer. Raises OSError, ValueError."""
    reply = await asked(hello, address, peers.source, peers.codec, peers.trust, CONNECT_TIMEOUT)
    assert isinstance(reply, HelloReply)
    return reply


class Seeker:
    """Introduces this node at `addresses` until it is `ready`, and logs which addresses it tries."""

    def __init__(
        self, peers: PeerConnections, addresses: Sequence[str], mine: str, ready: Callable[[], bool]
    ) -> None:
        """`mine`: this node's own address, which is not tried."""
        self._peers = peers
        self._addresses = dict.fromkeys(addresses)
        self._mine = mine
        self._ready = ready

    async def run(self) -> None:
        """Introduce this node again and again until it is ready."""
        loop, pause = asyncio.get_running_loop(), FIRST_PAUSE
        tell_at = loop.time() + TELL_AFTER
        await asyncio.sleep(PATIENCE)
        while not self._ready():
            if loop.time() >= tell_at:
                tell_at = loop.time() + TELL_EVERY
                self._tell()
            known = self._peers.addresses().values()
            unknown = [address for address in self._addresses if address not in known]
            await asyncio.gather(*map(self._introduce, unknown))  # one that does not answer delays no others
            await asyncio.sleep(pause * self._peers.jitter.uniform(0.5, 1.0))
            pause = min(LONGEST_PAUSE, pause * 1.6)

    def _tell(self) -> None:
        known = [f"node {node} at {address}" for node, address in self._peers.addresses().items()]
        tried = ", ".join([*known, *(f"--join {address}" for address in self._addresses)]) or "no address"
        log.warning(
            "not ready yet, trying %s; if members have moved, restart with --join HOST:PORT of one", tried
        )

    async def _introduce(self, address: str) -> None:
        """Tell the member at `address`, if there is one, the address of this node."""
        if address == self._mine:
            return
        try:
            reply = await introduced(self._peers, self._peers.handler.hello_to(ANY_NODE), address)
        except (OSError, ValueError) as failure:
            log.info("no member at %s: %s", address, failure or "no answer")
            return
        if reply.error:
            log.warning("%s refuses this node: %s", address, reply.error)
            return
        log.info("introduced this node to the member at %s", address)
        for found in reply.addresses.values():
            if len(self._addresses) < MOST_ADDRESSES:
                self._addresses[found] = None
