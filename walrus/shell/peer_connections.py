"""Connections between nodes: the handshake, redialling, and how the death of a process is noticed at once.

Every node dials every other one, sends on the connection that it dialled, and only reads those that it
accepted. So there is one TCP connection for each ordered pair, two that cross need no tie-break, and a cut in
one direction affects that direction only.

Each begins with the handshake of `broker/handshake.py`, which decides at both ends what this module carries
between them. Once it has ended well, the caller's messages follow, in order, and are never answered on this
connection.

A message may be lost (with its connection). It is never reordered against another one on the same connection
and never delivered twice. The logic above tolerates a network that does worse.

**The life of a dialled connection** (`Dialer`):

    state       entered when                        next
    dialling    the peer is wanted; after a pause   connected, refused, rejected or failed
    connected   the callee accepts                  lost: the callee or the network ended it; dial at once
    refused     no process listens                  report a death (once), pause, dial
    rejected    the callee refuses                  long pause, dial; final: this node stops
    failed      anything else                       pause, dial

A pause doubles from 5 ms to 500 ms with each attempt, and ends early when the peer calls this node.

*Noticing a death.* When a process dies, its kernel closes its connections, the dialled one among them. That
alone proves little, so the address is dialled again at once: a *refused* connection proves that no process
listens there any more, and the controller is told so (`refused=True`) within about a millisecond of the kill.
While a process is being torn down, its listening socket may outlive the connection for a moment; an attempt
that ends before the reply to Hello is therefore repeated, a few milliseconds apart at first. A machine that
loses power closes nothing: `failure_timeout` covers that.

*What a stranger can do.* Until it has been accepted, a caller may send frames of at most 64 KiB for five
seconds, on one of a bounded number of such connections; the oldest of them makes room for the next.

Invariants: a message is sent only on a connection whose callee accepted it; at most one accepted connection
per caller is read, the latest.

Without TLS and without a secret the cluster id prevents honest mistakes and stops no attacker. A secret stops
those that can reach the port. With TLS (`walrus/tls.py`) either end knows by the other's certificate which
node of this cluster it is, before it believes a word of the Hello.
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
"""Above this a connection whose other end does not read is given up, with what waits on it."""
STRANGER_FRAME: Final = 64 << 10
STRANGER_PATIENCE: Final = 5.0
BACKLOG: Final = 256
"""Callers that wait in the kernel to be accepted."""
CONNECT_TIMEOUT: Final = 2.0
SHORTEST_PAUSE: Final = 0.005
LONGEST_PAUSE: Final = 0.5
PROBE_AFTER: Final = 2
"""Seconds of silence after which the kernel asks the other end's kernel whether it is still there (Linux)."""
UNACKNOWLEDGED_MS: Final = 5_000
"""After this long without a sign from the other end's kernel the connection is dead (Linux)."""


class PeerHandler(CallerJudge, Protocol):
    """What the connections need from the node, besides its judgement of callers."""

    def hello_to(self, peer: int) -> Hello:
        """Return this node's introduction to `peer` (or to `ANY_NODE`)."""

    def on_caller(self, hello: Hello) -> None:
        """A caller was accepted."""

    def on_refused(self, peer: int, error: str) -> None:
        """`peer` refuses this node, perhaps not for ever."""

    def on_final_refusal(self, peer: int, error: str, removed: bool) -> None:
        """`peer` refuses this node for ever; `removed`: because it was removed."""

    def on_peer_message(self, sender: int, message: PeerMessage) -> None:
        """A message from a node whose Hello was accepted."""

    def on_peer_up(self, peer: int, reply: HelloReply) -> None:
        """From now on messages reach `peer`, which has accepted this node with that reply."""

    def on_peer_down(self, peer: int, refused: bool) -> None:
        """The connection ended; `refused` says that no process listens at its address."""


class Trust(NamedTuple):
    """How nodes prove to each other that they are of one cluster."""

    tls: NodeContexts | None = None
    secret: bytes = b""
    """The cluster's; b"": none."""

    def __repr__(self) -> str:
        return f"Trust(tls={self.tls is not None}, secret={bool(self.secret)})"  # in no log, as with AUTH


NO_TRUST: Final = Trust()


class PeerLink(asyncio.Protocol):
    """A connection that this node dialled: the handshake, then messages, until either side ends it."""

    def __init__(self, first: Hello | Join, codec: PeerCodec[PeerMessage], trust: Trust = NO_TRUST) -> None:
        """`first`: what this node says first."""
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
        """The callee's part of the handshake, the only messages that it ever sends on this connection."""
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
        """Send at the end of this turn."""
        self._out.append(frame)

    def flush(self) -> None:
        """The end of a turn: one write for all of it."""
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
    """How one attempt to be connected ended."""

    LOST = auto()
    """It was up, and ended."""
    REFUSED = auto()
    """No process listens."""
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
        """The peer is known to run: dial now."""
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
        """Wait before the next attempt: twice as long each time, up to a limit, with jitter."""
        longest = min(LONGEST_PAUSE, SHORTEST_PAUSE * 2.0 ** min(self._attempt, 10))
        self._hurry.clear()
        try:
            async with asyncio.timeout(longest * self._peers.jitter.uniform(0.5, 1.0)):
                await self._hurry.wait()
        except TimeoutError:
            return

    async def _once(self) -> _Outcome:
        """One attempt, and the connection's life if it succeeds."""
        codec, trust = self._peers.codec, self._peers.trust
        link = PeerLink(self._peers.handler.hello_to(self.peer), codec, trust)
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                await connect(lambda: link, self.address, self._peers.source, trust.tls, self.peer)
                reply = await link.answer
        except ConnectionRefusedError:
            return _Outcome.REFUSED
        except (OSError, ValueError) as failure:
            # TimeoutError and all connection errors are among the first, names that cannot be looked up
            # among the second.
            silent = isinstance(failure, TimeoutError) and not str(failure)
            reason = "no answer in time" if silent else why(failure)
            self._complain(f"cannot reach node {self.peer} at {self.address}: {reason}")
            link.abort()
            return _Outcome.FAILED
        except asyncio.CancelledError:
            link.abort()  # until its callee has answered no other task knows of it
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
        """Log a reason once, not with every attempt."""
        if text != self._complaint:
            self._complaint = text
            log.warning("%s", text)


def unexpected_end(task: asyncio.Task[None]) -> None:
    """For tasks that nothing awaits: raise what ended one, so that the event loop's handler learns of it."""
    if not task.cancelled() and (error := task.exception()) is not None:
        raise error


class PeerSession(asyncio.BufferedProtocol):
    """A connection that was dialled to this node: its caller is a stranger until the Hello is accepted."""

    def __init__(self, peers: PeerConnections) -> None:
        self._peers = peers
        self._parser = peers.codec.parser(STRANGER_FRAME)
        self._handshake = CalleeSide(peers.callers, peers.handler, self._uncertified)
        self._transport: asyncio.Transport | None = None
        self._patience: asyncio.TimerHandle | None = None
        self.sender: int | None = None
        """The caller, once it is accepted."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A stranger has connected: it has a few seconds to introduce itself."""
        self._transport = cast(asyncio.Transport, transport)
        no_delay(transport)
        notice_silence(transport)
        self._peers.admit(self)
        loop = asyncio.get_running_loop()
        self._patience = loop.call_later(STRANGER_PATIENCE, self._transport.abort)

    def connection_lost(self, error: Exception | None) -> None:
        """The caller is gone."""
        if self.sender is None:
            self._peers.listener.release()
        self._stop_the_clock()
        self._peers.forget(self)

    def _stop_the_clock(self) -> None:
        """The handshake has ended."""
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None

    def get_buffer(self, sizehint: int) -> memoryview:
        """The buffer that all sessions share, each until its `buffer_updated` returns."""
        return self._peers.buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Bytes from a caller: the handshake first, then messages."""
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
        """Do what the handshake says about the caller's next message."""
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
        """Return what the caller's certificate says against its claim to be this node; "" without TLS."""
        if self._peers.trust.tls is None or self._transport is None:
            return ""
        return claim_flaw(self._transport.get_extra_info("peercert"), node_id)

    def _reply(self, message: PeerMessage) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(self._peers.codec.encode(message))

    def close(self) -> None:
        """End the connection after what was written has left."""
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
        """Accept callers from now on."""
        await self.listener.listen(host, port, BACKLOG)

    def connect_to(self, addresses: Mapping[int, str]) -> None:
        """Be connected to these nodes, and to no others."""
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
                session.abort()  # removed: when it calls again, the reply to its Hello says so
        for peer, address in wanted.items():
            if peer not in self._dialers:
                self._dialers[peer] = Dialer(self, peer, address)

    def addresses(self) -> dict[int, str]:
        """Where peers are being dialled."""
        return {peer: dialer.address for peer, dialer in self._dialers.items()}

    def send(self, to: int, message: PeerMessage) -> None:
        """Queue a message; lost if `to` is not connected. One value sent to several is encoded once."""
        dialer = self._dialers.get(to)
        if dialer is None or dialer.link is None:
            return
        if self._last[0] is not message:
            self._last = message, self.codec.encode(message)
        dialer.link.queue(self._last[1])
        self._dirty[dialer.link] = None

    def flush(self) -> None:
        """The end of a turn: one write per connection."""
        if self._dirty:
            dirty, self._dirty, self._last = self._dirty, {}, (None, b"")
            for link in dirty:
                link.flush()

    def welcome(self, session: PeerSession, sender: int) -> None:
        """A caller was accepted: its connection replaces an earlier one of its own."""
        self._strangers.pop(session, None)
        self.listener.release()  # members are not counted: strangers must never keep one out
        if (older := self._sessions.get(sender)) is not None:
            older.abort()
        self._sessions[sender] = session

    def met(self, hello: Hello) -> None:
        """A caller was accepted: the node learns where it lives, and dials it at once."""
        self.handler.on_caller(hello)
        if (dialer := self._dialers.get(hello.node_id)) is not None:
            dialer.hurry()

    def admit(self, session: PeerSession) -> None:
        """Count a stranger in; the oldest one makes room, for a member introduces itself at once."""
        if len(self._strangers) >= self._max_strangers:
            oldest = next(iter(self._strangers))
            del self._strangers[oldest]
            oldest.abort()
        self._strangers[session] = None

    def forget(self, session: PeerSession) -> None:
        """A caller is gone."""
        self._strangers.pop(session, None)
        if session.sender is not None and self._sessions.get(session.sender) is session:
            del self._sessions[session.sender]
            self.callers.gone(session.sender)

    def close(self) -> None:
        """End everything."""
        self.listener.close()
        for dialer in self._dialers.values():
            dialer.close()
        for session in [*self._sessions.values(), *self._strangers]:
            session.abort()
        self._dialers.clear()


def nonce() -> bytes:
    """What no connection has had before."""
    return secrets.token_bytes(NONCE_BYTES)


async def connect(
    factory: Callable[[], asyncio.BaseProtocol],
    address: str,
    source: str | None,
    tls: NodeContexts | None = None,
    node: int | None = None,
) -> None:
    """Dial `address` from the local address `source`, any if None. Raises OSError.

    With TLS the other end must be a node of this cluster: `node`, or any if None.
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
        if error.errno == errno.EINVAL:  # Linux: from a loopback address to another machine
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
    """Say no more than `first` to the node at an address; return its verdict. Raises OSError, ValueError."""
    link = PeerLink(first, codec, trust)
    try:
        async with asyncio.timeout(patience):
            await connect(lambda: link, address, source, trust.tls)
            return await link.answer
    finally:
        link.abort()


def notice_silence(transport: asyncio.BaseTransport) -> None:
    """Let the kernel end a connection whose other end has been out of reach for some seconds."""
    handle = transport.get_extra_info("socket")
    if handle is not None and sys.platform == "linux":
        handle.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNACKNOWLEDGED_MS)
        # A connection that only reads sends nothing by itself: without probes it would outlive a machine that
        # vanished, and keep out the process that takes its place.
        handle.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        handle.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, PROBE_AFTER)
        handle.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 1)
