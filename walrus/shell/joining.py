"""Joining: a node without a cluster asks members until one admits it.

    applicant                                    any member
      │ ── Join(node, directory, addresses) ────► │  proposes an Announce
      │ ◄─ JoinReply(done=False, error="...") ─── │  answers at once, before the Announce is applied
      │        pause, then ask again              │
      │ ◄─ JoinReply(done=True, cluster, ...) ─── │  the Announce has been applied

Each request has a connection of its own. Requests may be repeated: the Announce is idempotent. It names the
data directory, so that a node with the same id and another disk is not taken for this one. A member that
knows that asking again cannot help says so (`final`).

The pauses grow from 20 ms to one second, so that a node quickly joins a cluster that is just being founded,
and does not flood one that is down.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Sequence

from walrus.protocol import PeerCodec
from walrus.shell.flags import Settings
from walrus.shell.identity import DataDirectory
from walrus.shell.peer_connections import NO_TRUST, Trust, asked
from walrus.shell.start import StartError
from walrus.wire.messages import Join, JoinReply, PeerMessage

log = logging.getLogger("walrus.shell.joining")

FIRST_PAUSE = 0.02
LONGEST_PAUSE = 1.0
PATIENCE = 5.0
"""Seconds that one member may take to answer."""


async def ask_to_join(
    address: str,
    source: str | None,
    codec: PeerCodec[PeerMessage],
    join: Join,
    patience: float,
    trust: Trust = NO_TRUST,
) -> JoinReply:
    """Ask the member at `address` (host:port) once. Raises OSError, which includes TimeoutError."""
    reply = await asked(join, address, source, codec, trust, patience)
    assert isinstance(reply, JoinReply)
    return reply


async def enter_cluster(settings: Settings, directory: DataDirectory, trust: Trust) -> None:
    """Found a cluster of one, or join that of `--join`, and store it in `directory`. Raises StartError.

    A node that was admitted before, but has not started since, also asks at the addresses that it was told.
    """
    record = directory.record
    if not record.cluster_id and (settings.bootstrap or (settings.node_id == 1 and not settings.join)):
        directory.found()
        return
    if not (settings.join or record.addresses):
        raise StartError(
            f"--join: node {settings.node_id} belongs to no cluster yet; name a member's raft address, "
            f"or give --bootstrap to found one"
        )
    config = settings.config()
    join = Join(
        node_id=settings.node_id,
        directory_id=record.directory_id,
        raft_address=config.raft_address,
        client_address=config.client_address,
    )
    others = [address for node, address in record.addresses.items() if node != settings.node_id]
    answer = await _ask_until_done(settings, [*settings.join, *others], join, trust)
    if record.cluster_id not in ("", answer.cluster_id):
        raise StartError(
            f"--join: {directory.path} has joined cluster {record.cluster_id} before, this is another one: "
            f"name a member of the first, or give an empty --data-dir"
        )
    directory.join(answer.cluster_id, answer.addresses, answer.member_at)


async def _ask_until_done(settings: Settings, members: Sequence[str], join: Join, trust: Trust) -> JoinReply:
    """Ask the members in turn until one answers `done`. Raises StartError after `--join-timeout`."""
    loop, codec = asyncio.get_running_loop(), PeerCodec[PeerMessage](PeerMessage)
    end, pause, why = loop.time() + settings.join_timeout, FIRST_PAUSE, "no answer"
    while True:
        for address in members:
            try:
                reply = await ask_to_join(address, settings.source, codec, join, PATIENCE, trust)
            except OSError as error:
                why = f"{address}: {error or 'no answer'}"
                continue
            if reply.done:
                log.info("joined cluster %s through %s", reply.cluster_id, address)
                return reply
            if reply.final:
                raise StartError(f"--join: {address} says: {reply.error}")
            if reply.error not in why:
                log.info("not in the cluster yet: %s says: %s", address, reply.error)
            why = f"{address}: {reply.error}"
        if loop.time() + pause > end:
            raise StartError(
                f"--join: no member took this node in within {settings.join_timeout:g} s ({why})"
            )
        await asyncio.sleep(pause * random.uniform(0.5, 1.0))
        pause = min(LONGEST_PAUSE, pause * 1.6)
