"""How a member finds its cluster again when addresses have changed: it introduces itself wherever it may.

A member remembers where the others were. If all of them come back at new addresses (containers, DHCP, a
move), every remembered address is wrong, and without a leader no address can be changed in the metadata. So a
member that is not ready some time after its start also tries those of `--join`, whatever lives there:

    seeker                                          whichever member lives there
      │ ── Hello(target=0, raft_address=mine, ...) ──► │  is welcome or refused like any caller; the callee
      │                                                │  now knows where the seeker lives, and dials it
      │ ◄─ HelloReply(error="", addresses={...}) ───── │  where the callee, and those it knows of, live now
      ×    the connection ends: nothing else is said on one whose callee is not known by id
      │ ◄─ Hello(target=seeker, ...) ───────────────── │  and so the seeker knows where the callee lives

The addresses in a reply are tried, too: one member whose address all others are given is enough. The seeker
stops as soon as the node is ready. It does nothing for a member whose cluster is where it was.

Every few seconds without success the log says which addresses are being tried, and what to do.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from walrus.shell.peer_connections import CONNECT_TIMEOUT, PeerConnections, asked
from walrus.wire.messages import ANY_NODE, Hello, HelloReply

log = logging.getLogger("walrus.shell.seeking")

PATIENCE = 0.05
"""Seconds before the first introduction: members that meet before the first election need no second one."""
TELL_AFTER = 2.0
"""Seconds in which a healthy cluster is found: until then there is nothing to say."""
FIRST_PAUSE = 0.1
LONGEST_PAUSE = 2.0
TELL_EVERY = 10.0
MOST_ADDRESSES = 64


async def introduced(peers: PeerConnections, hello: Hello, address: str) -> HelloReply:
    """Say Hello to whatever is at an address, and return the answer. Raises OSError, ValueError."""
    reply = await asked(hello, address, peers.source, peers.codec, peers.trust, CONNECT_TIMEOUT)
    assert isinstance(reply, HelloReply)
    return reply


class Seeker:
    """Introduces this node at `addresses` until it is `ready`, and says what is being tried."""

    def __init__(
        self, peers: PeerConnections, addresses: Sequence[str], mine: str, ready: Callable[[], bool]
    ) -> None:
        """`mine`: this node's own address, which is not tried."""
        self._peers = peers
        self._addresses = dict.fromkeys(addresses)
        self._mine = mine
        self._ready = ready

    async def run(self) -> None:
        """Until the node is ready."""
        loop, pause = asyncio.get_running_loop(), FIRST_PAUSE
        tell_at = loop.time() + TELL_AFTER
        await asyncio.sleep(PATIENCE)
        while not self._ready():
            if loop.time() >= tell_at:
                tell_at = loop.time() + TELL_EVERY
                self._tell()
            known = self._peers.addresses().values()
            unknown = [address for address in self._addresses if address not in known]
            await asyncio.gather(*map(self._introduce, unknown))  # one that does not answer delays no other
            await asyncio.sleep(pause * self._peers.jitter.uniform(0.5, 1.0))
            pause = min(LONGEST_PAUSE, pause * 1.6)

    def _tell(self) -> None:
        known = [f"node {node} at {address}" for node, address in self._peers.addresses().items()]
        tried = ", ".join([*known, *(f"--join {address}" for address in self._addresses)]) or "no address"
        log.warning(
            "not ready yet, trying %s; if members have moved, restart with --join HOST:PORT of one", tried
        )

    async def _introduce(self, address: str) -> None:
        """Tell the member at `address`, if there is one, where this node lives."""
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
