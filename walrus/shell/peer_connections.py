"""Connections between nodes: the handshake, redialling, and how the death of a process is noticed at once.

Every node dials every other one, sends on the connection that it dialled, and only reads those that it
accepted. So there is one TCP connection for each ordered pair, two that cross need no tie-break, and a cut in
one direction affects that direction only.

    caller                                       callee
      │ ── Hello(version, cluster, node, directory, incarnation, target) ─► │   checks all six, and learns
      │ ◄─ HelloReply(error="") ──────────────────────────────────────────  │   where the caller lives
      │ ── messages, in order, never answered on this connection ────────►  │

A message may be lost (with its connection). It is never reordered against another one on the same connection
and never delivered twice. The logic above tolerates a network that does worse.

**The life of a dialled connection** (`Dialer`):

    state       entered when                        next
    dialling    the peer is wanted; after a pause   connected, refused, rejected or failed
    connected   HelloReply without an error         lost: the callee or the network ended it; dial at once
    refused     no process listens                  report a death (once), pause, dial
    rejected    HelloReply with an error            long pause, dial; final: this node stops
    failed      anything else                       pause, dial

A pause doubles from 5 ms to 500 ms with each attempt, and ends early when the peer calls this node.

*Noticing a death.* When a process dies, its kernel closes its connections, the dialled one among them. That
alone proves little, so the address is dialled again at once: a *refused* connection proves that no process
listens there any more, and the controller is told so (`refused=True`) within about a millisecond of the kill.
While a process is being torn down, its listening socket may outlive the connection for a moment; an attempt
that ends before the reply to Hello is therefore repeated, a few milliseconds apart at first. A machine that
loses power closes nothing: `failure_timeout` covers that.

*What a stranger can do.* Until its Hello has been accepted, a caller may send one frame of 64 KiB within
five seconds, on one of a bounded number of such connections; the oldest of them makes room for the next.

Invariants: a message is sent only on a connection whose Hello was accepted; at most one accepted
connection per caller is read, the latest; a caller of an older start than one already seen is refused, and
so is another start of a node whose earlier one is still connected (two processes of one identity).

Without TLS the cluster id prevents honest mistakes and stops no attacker on the network between the nodes.
With it (`walrus/tls.py`) either end knows by the other's certificate which node of this cluster it is, before
it believes a word of the Hello.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import random
import socket
import ssl
import sys
from collections.abc import Callable, Mapping
from enum import Enum, auto
from typing import Final, Protocol, cast

from walrus.protocol import MAX_PEER_FRAME_BYTES, PeerCodec, ProtocolError
from walrus.segments import start_number
from walrus.shell.client_connections import no_delay
from walrus.shell.descriptors import MAX_STRANGERS, Listener
from walrus.tls import HANDSHAKE_SECONDS, NodeContexts, claim_flaw, why
from walrus.wire.addresses import parse_address
from walrus.wire.messages import ANY_NODE, Hello, HelloReply, Join, JoinReply, PeerMessage

log = logging.getLogger("walrus.shell.peer_connections")

VERSION: Final = 3
"""Of the messages between nodes; both ends of a connection must have the same."""
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
MAX_NODE_ID: Final = 1 << 31
MAX_ID: Final = 64
MAX_ADDRESS: Final = 300
"""Characters of an id and of an address: what a Join puts into the metadata is small."""
PROBE_AFTER: Final = 2
"""Seconds of silence after which the kernel asks the other end's kernel whether it is still there (Linux)."""
UNACKNOWLEDGED_MS: Final = 5_000
"""After this long without a sign from the other end's kernel the connection is dead (Linux)."""


class PeerHandler(Protocol):
    """What the connections need from the node."""

    def hello_to(self, peer: int) -> Hello:
        """Return this node's introduction to `peer` (or to `ANY_NODE`)."""

    def judge_hello(self, hello: Hello) -> str:
        """Return why this caller is refused; "" accepts it."""

    def on_caller(self, hello: Hello) -> None:
        """A caller was accepted."""

    def addresses(self) -> dict[int, str]:
        """Where this node and the others live, as far as it knows: node id -> host:port."""

    def is_final(self, hello: Hello) -> bool:
        """Return whether the refusal of a caller will stand for ever."""

    def is_removed(self, hello: Hello) -> bool:
        """Return whether a refused caller was a member and has been removed for good."""

    def on_refused(self, peer: int, error: str) -> None:
        """`peer` refuses this node, perhaps not for ever."""

    def on_final_refusal(self, peer: int, error: str, removed: bool) -> None:
        """`peer` refuses this node for ever; `removed`: because it was removed."""

    def on_join(self, session: PeerSession, join: Join) -> None:
        """A node without a cluster asks to join this one."""

    def on_peer_message(self, sender: int, message: PeerMessage) -> None:
        """A message from a node whose Hello was accepted."""

    def on_peer_up(self, peer: int) -> None:
        """From now on messages reach `peer`."""

    def on_peer_down(self, peer: int, refused: bool) -> None:
        """The connection ended; `refused` says that no process listens at its address."""


class PeerLink(asyncio.Protocol):
    """A connection that this node dialled: Hello, then messages, until either side ends it."""

    def __init__(self, hello: bytes, codec: PeerCodec[PeerMessage]) -> None:
        loop = asyncio.get_running_loop()
        self._hello = hello
        self._parser = codec.parser(STRANGER_FRAME)
        self._transport: asyncio.Transport | None = None
        self._out: list[bytes] = []
        self.answer: asyncio.Future[HelloReply] = loop.create_future()
        """The callee's verdict."""
        self.lost: asyncio.Future[None] = loop.create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Connected: send the Hello."""
        self._transport = cast(asyncio.Transport, transport)
        no_delay(transport)
        notice_silence(transport)
        self._transport.write(self._hello)

    def data_received(self, data: bytes) -> None:
        """The reply to Hello, the only message that the callee ever sends on this connection."""
        try:
            replies = self._parser.feed(data)
        except ProtocolError as error:
            self._verdict(HelloReply(error=f"it answered Hello with nonsense: {error}", cluster_id=""))
            return
        for reply in replies:
            if not isinstance(reply, HelloReply):
                reply = HelloReply(error="that is no reply to Hello", cluster_id="")
            self._verdict(reply)

    def _verdict(self, reply: HelloReply) -> None:
        if not self.answer.done():
            self.answer.set_result(reply)
        else:
            self.abort()

    def connection_lost(self, error: Exception | None) -> None:
        """The connection has ended."""
        if not self.answer.done():
            reason = "ended before the reply to Hello" + (f" ({why(error)})" if error else "")
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
        hello = self._peers.codec.encode(self._peers.handler.hello_to(self.peer))
        link = PeerLink(hello, self._peers.codec)
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                await connect(lambda: link, self.address, self._peers.source, self._peers.tls, self.peer)
                reply = await link.answer
        except ConnectionRefusedError:
            return _Outcome.REFUSED
        except (OSError, ValueError) as failure:
            # TimeoutError and all connection errors are among the first, names that cannot be looked up
            # among the second.
            self._complain(f"cannot reach node {self.peer} at {self.address}: {failure or 'no answer'}")
            link.abort()
            return _Outcome.FAILED
        if reply.error:
            self._complain(f"node {self.peer} at {self.address} refuses this node: {reply.error}")
            link.abort()
            if reply.final:
                self._peers.handler.on_final_refusal(self.peer, reply.error, reply.removed)
            else:
                self._peers.handler.on_refused(self.peer, reply.error)
            return _Outcome.REJECTED
        self._complaint = ""
        self.link = link
        log.info("connected to node %d at %s", self.peer, self.address)
        self._peers.handler.on_peer_up(self.peer)
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
        self._transport: asyncio.Transport | None = None
        self._patience: asyncio.TimerHandle | None = None
        self.sender: int | None = None
        self.incarnation = 0
        """Of the caller, once it is accepted."""

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
        self.expect_more()
        self._peers.forget(self)

    def expect_more(self) -> None:
        """The caller has introduced itself, or is gone: stop the clock."""
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None

    def get_buffer(self, sizehint: int) -> memoryview:
        """The buffer that all sessions share, each until its `buffer_updated` returns."""
        return self._peers.buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Bytes from a caller: a Hello or a Join first, then messages."""
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
                self._introduce(message)

    def _introduce(self, message: PeerMessage) -> None:
        """The first frame decides what this connection is."""
        if isinstance(message, Hello):
            self.expect_more()
            self._on_hello(message)
        elif isinstance(message, Join):
            self.expect_more()
            self._on_join(message)
        else:
            log.warning("dropped a caller on the peer port that did not introduce itself")
            self.abort()

    def _on_hello(self, hello: Hello) -> None:
        """A node calls this one; or, with target `ANY_NODE`, only says where it lives itself."""
        handler = self._peers.handler
        if error := self._uncertified(hello.node_id) or self._peers.judge(hello):
            self.reply(
                HelloReply(
                    error=error,
                    cluster_id="",
                    final=handler.is_final(hello),
                    removed=handler.is_removed(hello),
                )
            )
            log.warning("refused a caller that says it is node %d: %s", hello.node_id, error)
            self.close()
            return
        if hello.target == ANY_NODE:
            self.reply(HelloReply(error="", cluster_id=hello.cluster_id, addresses=handler.addresses()))
            self._peers.met(hello)
            self.close()
            return
        self.reply(HelloReply(error="", cluster_id=hello.cluster_id))
        self.sender = hello.node_id
        self._parser.limit = MAX_PEER_FRAME_BYTES
        self._peers.welcome(self, hello)

    def _on_join(self, join: Join) -> None:
        if flaw := self._uncertified(join.node_id) or join_flaw(join):
            self.reply(JoinReply(done=False, error=flaw, cluster_id="", addresses={}, final=True))
        else:
            self._peers.handler.on_join(self, join)
        self.close()

    def _uncertified(self, node_id: int) -> str:
        """Return what the caller's certificate says against its claim to be this node; "" without TLS."""
        if self._peers.tls is None or self._transport is None:
            return ""
        return claim_flaw(self._transport.get_extra_info("peercert"), node_id)

    def reply(self, message: PeerMessage) -> None:
        """Answer a Hello or a Join."""
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
        tls: NodeContexts | None = None,
    ) -> None:
        self.tls = tls
        self.handler = handler
        self.node_id = node_id
        self.source = source
        self.codec = codec
        self.jitter = jitter
        self.buffer = memoryview(bytearray(READ_BYTES))
        self._dialers: dict[int, Dialer] = {}
        self._sessions: dict[int, PeerSession] = {}
        self._strangers: dict[PeerSession, None] = {}
        self._incarnations: dict[int, tuple[str, int]] = {}
        self._dirty: dict[PeerLink, None] = {}
        self._last: tuple[PeerMessage | None, bytes] = (None, b"")
        self._max_strangers = max_strangers
        self.listener = Listener(
            "raft", max_strangers, lambda: PeerSession(self), tls.callers if tls else None
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

    def judge(self, hello: Hello) -> str:
        """Return why a caller is refused; "" if it is accepted."""
        if hello.version != VERSION:
            return (
                f"it speaks version {hello.version}, this node {VERSION}: run the same release on all nodes"
            )
        if error := self.handler.judge_hello(hello):
            return error
        directory, incarnation = self._incarnations.get(hello.node_id, ("", 0))
        if directory == hello.directory_id and start_number(incarnation) > start_number(hello.incarnation):
            return "a later start of that node has called already"
        session = self._sessions.get(hello.node_id)
        if session is not None and session.incarnation not in (0, hello.incarnation):
            return (
                f"another process of node {hello.node_id} is connected, start "
                f"{start_number(session.incarnation)}: only one may run"
            )
        return ""

    def welcome(self, session: PeerSession, hello: Hello) -> None:
        """A caller was accepted: its connection replaces an earlier one of its own."""
        self._strangers.pop(session, None)
        self.listener.release()  # members are not counted: strangers must never keep one out
        if (older := self._sessions.get(hello.node_id)) is not None:
            older.abort()
        self._sessions[hello.node_id] = session
        session.incarnation = hello.incarnation
        self.met(hello)

    def met(self, hello: Hello) -> None:
        """A caller was accepted: remember its start and where it lives, and dial it at once."""
        self._incarnations[hello.node_id] = (hello.directory_id, hello.incarnation)
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

    def close(self) -> None:
        """End everything."""
        self.listener.close()
        for dialer in self._dialers.values():
            dialer.close()
        for session in [*self._sessions.values(), *self._strangers]:
            session.abort()
        self._dialers.clear()


def join_flaw(join: Join) -> str:
    """Return what is wrong with a Join, "" if nothing is: a bad address would be dialled for ever.

    >>> [
    ...     join_flaw(Join(node_id=7, directory_id="d", raft_address=address, client_address=""))
    ...     for address in ("[::1]:6000", "node-7:70000")
    ... ]
    ['', "the raft address must be HOST:PORT with a port of 1 to 65535, not 'node-7:70000'"]
    """
    if not 0 < join.node_id <= MAX_NODE_ID:
        return f"{join.node_id} is no id of a node: ids are 1 to {MAX_NODE_ID}"
    if not 0 < len(join.directory_id) <= MAX_ID:
        return f"the id of a data directory has 1 to {MAX_ID} characters"
    if len(join.raft_address) > MAX_ADDRESS or len(join.client_address) > MAX_ADDRESS:
        return f"an address of more than {MAX_ADDRESS} characters"
    try:
        parse_address(join.raft_address)
    except ValueError as error:
        return f"the raft address {error}"
    return ""


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
