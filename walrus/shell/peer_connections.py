"""Connections between nodes: the handshake, redialling, and how the death of a process is noticed at once.

Every node dials every other node. It sends only on connections that it dialled, and reads only those that it
accepted. So there is one TCP connection for each ordered pair of nodes: two that cross need no tie-break,
and a failure in one direction does not affect the other.

Each connection begins with the handshake of `broker/handshake.py`, whose logic at both ends this module
connects. After a successful handshake the caller sends its messages, and the callee sends nothing more.

A message may be lost, together with its connection. Messages on one connection are neither reordered nor
duplicated. The logic above tolerates a network that does worse.

**The life of a dialled connection** (`Dialer`):

    state       entered when                        next
    dialling    the peer is wanted; after a pause   connected, refused, rejected or failed
    connected   the callee accepts                  lost: the callee or the network ended it; dial at once
    refused     no process listens                  report a death (once), pause, dial
    rejected    the callee refuses                  long pause, dial; final: this node stops
    failed      anything else                       pause, dial

The pauses double from 5 ms to 500 ms, and a pause ends early when the peer calls this node.

*Noticing a death.* When a process dies, its kernel closes its connections. That alone proves little, so the
address is dialled again at once. A *refused* connection proves that no process listens there any more, and
the controller is told so (`refused=True`) within about a millisecond of the kill. While the kernel tears the
process down, its listening socket may outlive its connections for a moment. An attempt that ends before the
reply to Hello is therefore repeated, at first after a few milliseconds. A machine that loses power closes
nothing: `failure_timeout` covers that.

*What a stranger can do.* Until a caller has been accepted, it may send frames of at most 64 KiB for five
seconds. The number of such connections is bounded; the oldest makes room for the next.

Invariants: a message is sent only on a connection whose callee accepted the caller; at most one accepted
connection per caller is read, the latest.

*Trust.* Without TLS and without a secret, the cluster id prevents honest mistakes and stops no attacker. A
secret keeps out attackers that can reach the port. With TLS (`walrus/tls.py`) each end learns from the
other's certificate which node of this cluster it is, before it trusts anything in the handshake.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import random
import secrets
import socket
import ssl
import sys
from collections.abc import Callable, Mapping
from enum import Enum, auto
from typing import Final, NamedTuple, Protocol, cast

from walrus.broker.handshake import NONCE_BYTES, CalleeSide, CallerJudge, Callers, CallerSide
from walrus.protocol import MAX_PEER_FRAME_BYTES, PeerCodec, ProtocolError
from walrus.shell.client_connections import no_delay
from walrus.shell.descriptors import MAX_STRANGERS, Listener
from walrus.tls import HANDSHAKE_SECONDS, NodeContexts, claim_flaw, why
from walrus.wire.addresses import parse_address
from walrus.wire.messages import Hello, HelloReply, Join, JoinReply, PeerMessage

log = logging.getLogger("walrus.shell.peer_connections")

READ_BYTES: Final = 256 << 10
MAX_UNSENT: Final = 64 << 20
"""Bytes that may wait on a connection. Above this its other end does not read, and it is dropped."""
STRANGER_FRAME: Final = 64 << 10
"""The longest frame, in bytes, before the caller is accepted."""
STRANGER_PATIENCE: Final = 5.0
"""Seconds for which a caller may stay unaccepted."""
BACKLOG: Final = 256
"""Callers that may wait in the kernel to be accepted."""
CONNECT_TIMEOUT: Final = 2.0
SHORTEST_PAUSE: Final = 0.005
LONGEST_PAUSE: Final = 0.5
PROBE_AFTER: Final = 2
"""Seconds of silence after which the kernel probes whether the other end's kernel is still there (Linux)."""
UNACKNOWLEDGED_MS: Final = 5_000
"""Milliseconds without an acknowledgement from the other end after which the kernel ends the connection
(Linux)."""


class PeerHandler(CallerJudge, Protocol):
    """What the connections need from the node, in addition to `CallerJudge`."""

    def hello_to(self, peer: int) -> Hello:
        """Return the Hello of this node to `peer`, or to `ANY_NODE`."""

    def on_caller(self, hello: Hello) -> None:
        """A caller was accepted."""

    def on_refused(self, peer: int, error: str) -> None:
        """`peer` refuses this node, but may accept it later."""

    def on_final_refusal(self, peer: int, error: str, removed: bool) -> None:
        """`peer` will never accept this node; `removed`: because it was removed from the cluster."""

    def on_peer_message(self, sender: int, message: PeerMessage) -> None:
        """A message arrived from a node whose Hello was accepted."""

    def on_peer_up(self, peer: int, reply: HelloReply) -> None:
        """`peer` has accepted this node with that reply: messages reach it from now on."""

    def on_peer_down(self, peer: int, refused: bool) -> None:
        """The connection to `peer` ended; `refused`: no process listens at its address."""


class Trust(NamedTuple):
    """How nodes prove to each other that they belong to the same cluster."""

    tls: NodeContexts | None = None
    secret: bytes = b""
    """The cluster's secret; b"" if it has none."""

    def __repr__(self) -> str:
        return f"Trust(tls={self.tls is not None}, secret={bool(self.secret)})"  # no log shows the secret


NO_TRUST: Final = Trust()


class PeerLink(asyncio.Protocol):
    """A connection that this node dialled: the handshake, then messages, until either side ends it."""

    def __init__(self, first: Hello | Join, codec: PeerCodec[PeerMessage], trust: Trust = NO_TRUST) -> None:
        """`first`: the first message of the handshake."""
        loop = asyncio.get_running_loop()
        self._caller = CallerSide(first, trust.secret, nonce())
        self._codec = codec
        self._parser = codec.parser(STRANGER_FRAME)
        self._transport: asyncio.Transport | None = None
        self._out: list[bytes] = []
        self.answer: asyncio.Future[HelloReply | JoinReply] = loop.create_future()
        """The callee's verdict."""
        self.lost: asyncio.Future[None] = loop.create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Connected: begin the handshake."""
        self._transport = cast(asyncio.Transport, transport)
        no_delay(transport)
        notice_silence(transport)
        self._transport.write(self._codec.encode(self._caller.first))

    def data_received(self, data: bytes) -> None:
        """Take the callee's part of the handshake, the only messages that it sends on this connection."""
        try:
            messages = self._parser.feed(data)
        except ProtocolError as error:
            messages = []
            if self._caller.verdict is None:
                self._caller.give_up(f"that is no Walrus node's raft port: {error}")
        for message in messages:
            if self._caller.verdict is not None:
                self.abort()
                return
            if (proof := self._caller.on_message(message)) is not None and self._transport is not None:
                self._transport.write(self._codec.encode(proof))
        if self._caller.verdict is not None and not self.answer.done():
            self.answer.set_result(self._caller.verdict)

    def connection_lost(self, error: Exception | None) -> None:
        """The connection has ended."""
        if not self.answer.done():
            reason = "the connection ended before the answer" + (f" ({why(error)})" if error else "")
            self.answer.set_exception(ConnectionResetError(reason))
            self.answer.exception()
        if not self.lost.done():
            self.lost.set_result(None)

    def queue(self, frame: bytes) -> None:
        """Send a frame at the end of this turn."""
        self._out.append(frame)

    def flush(self) -> None:
        """End of a turn: write all queued frames at once."""
        assert self._transport is not None
        data = self._out[0] if len(self._out) == 1 else b"".join(self._out)
        self._out.clear()
        if self._transport.is_closing():
            return
        self._transport.write(data)
        if self._transport.get_write_buffer_size() > MAX_UNSENT:
            log.warning("a peer reads nothing: dropped its connection and %d MiB", MAX_UNSENT >> 20)
            self.abort()

    def abort(self) -> None:
        """End the connection now."""
        if self._transport is not None:
            self._transport.abort()


class _Outcome(Enum):
    """How an attempt to connect ended."""

    LOST = auto()
    """It succeeded, and the connection has ended since."""
    REFUSED = auto()
    """No process listens at the address."""
    REJECTED = auto()
    """The callee refuses this node; dialling again soon would change nothing."""
    FAILED = auto()
    """Anything else."""


class Dialer:
    """Keeps one peer connected: dials, backs off, and reports connections and deaths."""

    def __init__(self, peers: PeerConnections, peer: int, address: str) -> None:
        self.peer = peer
        self.address = address
        self.link: PeerLink | None = None
        self._peers = peers
        self._attempt = 0
        self._told_refused = False
        self._complaint = ""
        self._hurry = asyncio.Event()
        self._task = asyncio.get_running_loop().create_task(self._run())
        self._task.add_done_callback(unexpected_end)

    def hurry(self) -> None:
        """The peer is known to run: dial now instead of after the pause."""
        self._hurry.set()

    def close(self) -> None:
        """Stop dialling and end the connection."""
        self._task.cancel()
        if self.link is not None:
            self.link.abort()
            self.link = None

    async def _run(self) -> None:
        while True:
            outcome = await self._once()
            if outcome is _Outcome.LOST:
                self._attempt, self._told_refused = 0, False
                log.info("node %d disconnected", self.peer)
                self._peers.handler.on_peer_down(self.peer, refused=False)
                continue
            if outcome is _Outcome.REFUSED and not self._told_refused:
                self._told_refused = True
                log.info("node %d is not there: no process listens at %s", self.peer, self.address)
                self._peers.handler.on_peer_down(self.peer, refused=True)
            self._attempt += 1 if outcome is not _Outcome.REJECTED else 10
            await self._pause()

    async def _pause(self) -> None:
        """Wait before the next attempt: exponential backoff with jitter, up to a limit."""
        longest = min(LONGEST_PAUSE, SHORTEST_PAUSE * 2.0 ** min(self._attempt, 10))
        self._hurry.clear()
        try:
            async with asyncio.timeout(longest * self._peers.jitter.uniform(0.5, 1.0)):
                await self._hurry.wait()
        except TimeoutError:
            return

    async def _once(self) -> _Outcome:
        """Make one attempt; if it succeeds, return when the connection has ended."""
        codec, trust = self._peers.codec, self._peers.trust
        link = PeerLink(self._peers.handler.hello_to(self.peer), codec, trust)
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                await connect(lambda: link, self.address, self._peers.source, trust.tls, self.peer)
                reply = await link.answer
        except ConnectionRefusedError:
            return _Outcome.REFUSED
        except (OSError, ValueError) as failure:
            # OSError includes TimeoutError and all connection errors; a ValueError is a name that cannot be
            # encoded for a lookup.
            silent = isinstance(failure, TimeoutError) and not str(failure)
            reason = "no answer in time" if silent else why(failure)
            self._complain(f"cannot reach node {self.peer} at {self.address}: {reason}")
            link.abort()
            return _Outcome.FAILED
        except asyncio.CancelledError:
            link.abort()  # `close` cannot do it: it does not know a link whose callee has not answered
            raise
        if reply.error:
            self._complain(f"node {self.peer} at {self.address} refuses this node: {reply.error}")
            link.abort()
            if reply.final:
                removed = isinstance(reply, HelloReply) and reply.removed
                self._peers.handler.on_final_refusal(self.peer, reply.error, removed)
            else:
                self._peers.handler.on_refused(self.peer, reply.error)
            return _Outcome.REJECTED
        assert isinstance(reply, HelloReply), "the verdict on a Hello"
        self._complaint = ""
        self.link = link
        log.info("connected to node %d at %s", self.peer, self.address)
        self._peers.handler.on_peer_up(self.peer, reply)
        try:
            await link.lost
        finally:
            self.link = None
        return _Outcome.LOST

    def _complain(self, text: str) -> None:
        """Log a reason once, not for every attempt."""
        if text != self._complaint:
            self._complaint = text
            log.warning("%s", text)


def unexpected_end(task: asyncio.Task[None]) -> None:
    """Done-callback for a task that nothing awaits: raises its exception, for the event loop's handler."""
    if not task.cancelled() and (error := task.exception()) is not None:
        raise error


class PeerSession(asyncio.BufferedProtocol):
    """A connection that this node accepted: its caller is a stranger until its Hello is accepted."""

    def __init__(self, peers: PeerConnections) -> None:
        self._peers = peers
        self._parser = peers.codec.parser(STRANGER_FRAME)
        self._handshake = CalleeSide(peers.callers, peers.handler, self._uncertified)
        self._transport: asyncio.Transport | None = None
        self._patience: asyncio.TimerHandle | None = None
        self.sender: int | None = None
        """The caller, once it is accepted."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A stranger has connected: it has `STRANGER_PATIENCE` seconds to be accepted."""
        self._transport = cast(asyncio.Transport, transport)
        no_delay(transport)
        notice_silence(transport)
        self._peers.admit(self)
        loop = asyncio.get_running_loop()
        self._patience = loop.call_later(STRANGER_PATIENCE, self._transport.abort)

    def connection_lost(self, error: Exception | None) -> None:
        """The connection has ended."""
        if self.sender is None:
            self._peers.listener.release()
        self._stop_the_clock()
        self._peers.forget(self)

    def _stop_the_clock(self) -> None:
        """The handshake has ended in time."""
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None

    def get_buffer(self, sizehint: int) -> memoryview:
        """Return the buffer that all sessions share; each uses it until its `buffer_updated` returns."""
        return self._peers.buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Take bytes from a caller: first the handshake, then messages."""
        try:
            messages = self._parser.feed(bytes(self._peers.buffer[:nbytes]))
        except ProtocolError as error:
            log.warning("dropped a caller on the peer port: %s", error)
            self.abort()
            return
        for message in messages:
            if self.sender is not None:
                self._peers.handler.on_peer_message(self.sender, message)
            elif not self.closing:
                self._shake_hands(message)

    def _shake_hands(self, message: PeerMessage) -> None:
        """Hand a message to the handshake, and do what it answers."""
        answer = self._handshake.on_message(message)
        if answer.complaint:
            log.warning("%s", answer.complaint)
        if answer.reply is None:
            self.abort()
            return
        self._reply(answer.reply)
        if answer.ends or answer.caller is not None:
            self._stop_the_clock()
        if answer.caller is not None:
            if not answer.ends:
                self.sender = answer.caller.node_id
                self._parser.limit = MAX_PEER_FRAME_BYTES
                self._peers.welcome(self, self.sender)
            self._peers.met(answer.caller)
        if answer.ends:
            self.close()

    def _uncertified(self, node_id: int) -> str:
        """Return why the caller's certificate contradicts its claim to be node `node_id`; "" if it does not,
        or without TLS."""
        if self._peers.trust.tls is None or self._transport is None:
            return ""
        return claim_flaw(self._transport.get_extra_info("peercert"), node_id)

    def _reply(self, message: PeerMessage) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(self._peers.codec.encode(message))

    def close(self) -> None:
        """End the connection once everything written has been sent."""
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """End the connection now."""
        if self._transport is not None:
            self._transport.abort()

    @property
    def closing(self) -> bool:
        """Whether nothing more can be sent to the caller."""
        return self._transport is None or self._transport.is_closing()


class PeerConnections:
    """All connections between this node and the others."""

    def __init__(
        self,
        handler: PeerHandler,
        node_id: int,
        source: str | None,
        codec: PeerCodec[PeerMessage],
        jitter: random.Random,
        *,
        max_strangers: int = MAX_STRANGERS,
        trust: Trust = NO_TRUST,
    ) -> None:
        self.trust = trust
        self.handler = handler
        self.callers = Callers(trust.secret, nonce)
        self.node_id = node_id
        self.source = source
        self.codec = codec
        self.jitter = jitter
        self.buffer = memoryview(bytearray(READ_BYTES))
        self._dialers: dict[int, Dialer] = {}
        self._sessions: dict[int, PeerSession] = {}
        self._strangers: dict[PeerSession, None] = {}
        self._dirty: dict[PeerLink, None] = {}
        self._last: tuple[PeerMessage | None, bytes] = (None, b"")
        self._max_strangers = max_strangers
        self.listener = Listener(
            "raft", max_strangers, lambda: PeerSession(self), trust.tls.callers if trust.tls else None
        )

    async def listen(self, host: str, port: int) -> None:
        """Accept callers from now on. Raises OSError."""
        await self.listener.listen(host, port, BACKLOG)

    def connect_to(self, addresses: Mapping[int, str]) -> None:
        """Keep connections to these nodes (id to host:port), and to no others."""
        wanted = {peer: address for peer, address in sorted(addresses.items()) if peer != self.node_id}
        for peer, dialer in sorted(self._dialers.items()):
            if wanted.get(peer) != dialer.address:
                was_up = dialer.link is not None
                dialer.close()
                del self._dialers[peer]
                if was_up:
                    self.handler.on_peer_down(peer, refused=False)
        for sender, session in sorted(self._sessions.items()):
            if sender not in wanted:
                session.abort()  # it was removed: when it calls again, the reply to its Hello says so
        for peer, address in wanted.items():
            if peer not in self._dialers:
                self._dialers[peer] = Dialer(self, peer, address)

    def addresses(self) -> dict[int, str]:
        """Return the addresses at which peers are dialled, by id."""
        return {peer: dialer.address for peer, dialer in self._dialers.items()}

    def send(self, to: int, message: PeerMessage) -> None:
        """Queue a message; lost if `to` is not connected. One message to several nodes is encoded once."""
        dialer = self._dialers.get(to)
        if dialer is None or dialer.link is None:
            return
        if self._last[0] is not message:
            self._last = message, self.codec.encode(message)
        dialer.link.queue(self._last[1])
        self._dirty[dialer.link] = None

    def flush(self) -> None:
        """End of a turn: one write for each connection with queued messages."""
        if self._dirty:
            dirty, self._dirty, self._last = self._dirty, {}, (None, b"")
            for link in dirty:
                link.flush()

    def welcome(self, session: PeerSession, sender: int) -> None:
        """A caller was accepted: this connection replaces an earlier one of the same caller."""
        self._strangers.pop(session, None)
        self.listener.release()  # the limit concerns strangers only: they must never keep a member out
        if (older := self._sessions.get(sender)) is not None:
            older.abort()
        self._sessions[sender] = session

    def met(self, hello: Hello) -> None:
        """A caller was accepted: tell the node its address, and dial it at once."""
        self.handler.on_caller(hello)
        if (dialer := self._dialers.get(hello.node_id)) is not None:
            dialer.hurry()

    def admit(self, session: PeerSession) -> None:
        """Add a stranger. At the limit drop the oldest one: a member would have been accepted by now."""
        if len(self._strangers) >= self._max_strangers:
            oldest = next(iter(self._strangers))
            del self._strangers[oldest]
            oldest.abort()
        self._strangers[session] = None

    def forget(self, session: PeerSession) -> None:
        """A connection that this node accepted has ended."""
        self._strangers.pop(session, None)
        if session.sender is not None and self._sessions.get(session.sender) is session:
            del self._sessions[session.sender]
            self.callers.gone(session.sender)

    def close(self) -> None:
        """Stop listening and dialling, and end all connections."""
        self.listener.close()
        for dialer in self._dialers.values():
            dialer.close()
        for session in [*self._sessions.values(), *self._strangers]:
            session.abort()
        self._dialers.clear()


def nonce() -> bytes:
    """Return a random value that no connection has had before."""
    return secrets.token_bytes(NONCE_BYTES)


async def connect(
    factory: Callable[[], asyncio.BaseProtocol],
    address: str,
    source: str | None,
    tls: NodeContexts | None = None,
    node: int | None = None,
) -> None:
    """Dial `address` (host:port) from the local address `source`, or any if None. Raises OSError.

    With TLS the other end must be node `node` of this cluster, or any of its nodes if None.
    """
    host, port = parse_address(address)
    local = None if source is None else (source, 0)
    loop = asyncio.get_running_loop()
    try:
        if tls is None:
            await loop.create_connection(factory, host, port, local_addr=local)
            return
        transport, _ = await loop.create_connection(
            factory, host, port, local_addr=local, ssl=tls.peers, ssl_handshake_timeout=HANDSHAKE_SECONDS
        )
    except ssl.SSLError as error:
        raise ConnectionAbortedError(why(error)) from error
    except OSError as error:
        if error.errno == errno.EINVAL:  # Linux: a loopback address cannot dial another machine
            raise OSError(
                f"there is no way to it from {source}: give --raft-host an address that it reaches"
            ) from error
        raise
    if flaw := claim_flaw(transport.get_extra_info("peercert"), node):
        transport.abort()
        raise ConnectionAbortedError(flaw)


async def asked(
    first: Hello | Join,
    address: str,
    source: str | None,
    codec: PeerCodec[PeerMessage],
    trust: Trust,
    patience: float,
) -> HelloReply | JoinReply:
    """Send `first` to the node at an address, and return its verdict. Raises OSError, ValueError.

    The verdict must arrive within `patience` seconds, or TimeoutError is raised. The connection then ends.
    """
    link = PeerLink(first, codec, trust)
    try:
        async with asyncio.timeout(patience):
            await connect(lambda: link, address, source, trust.tls)
            return await link.answer
    finally:
        link.abort()


def notice_silence(transport: asyncio.BaseTransport) -> None:
    """Let the kernel end a connection whose other end has been unreachable for some seconds (Linux)."""
    handle = transport.get_extra_info("socket")
    if handle is not None and sys.platform == "linux":
        handle.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNACKNOWLEDGED_MS)
        # A connection that is only read sends nothing by itself. Without probes it would survive the loss of
        # the other machine, and keep out the process that takes that node's place.
        handle.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        handle.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, PROBE_AFTER)
        handle.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 1)
