"""Client connections: bytes in, requests out, replies back in order, and bounds on what each may cost.

For the shell and the controller, a request is a *slot*: its place in the order of its connection, which is
owed a known number of replies. The controller may answer slots in any order and in parts; the connection
writes the replies in the order of the requests. So a client may pipeline. A request that must not overtake
an earlier one (`broker/ordering.py`) waits in the connection's backlog.

One turn of the event loop reads at most `READ_BYTES` from each readable connection. All connections share
one buffer: each parses its bytes before the next one reads, so ten thousand idle connections own no buffers.
A turn then starts at most `TURN_REQUESTS` requests, of all connections together, so that the node hears its
peers again after milliseconds, however many clients ask at once. The other connections wait in a queue, in
the order of arrival, and are the first in the next turn. The replies that a turn produced for a connection
leave in one write, at the end of the turn.

**The life of a connection.**

    state    entered when                            read?  starts requests?   left when
    silent   accepted                                yes    -                  a whole request has arrived, or
                                                                               it makes room for a newcomer
    open     a whole request has arrived             yes    yes
    waiting  the weight in flight, or the requests   no     as room appears    replies have made room, or the
             of this turn, reached a limit                                     turn has ended
    stalled  the kernel takes no more replies        no     no                 the client has read them, or it
                                                                               is dropped for being too slow
    ending   end of stream, a fatal frame, or stop   no     what was accepted  all replies are written: closed

**What a connection can cost**, and what bounds it (`Limits`):

* requests in flight are counted by weight: their bytes, and for reads the bytes that the answer may have.
  Above the limit, requests wait in the backlog and the socket is not read; TCP's flow control then stops the
  client;
* slow readers: once the kernel takes no more replies of a connection, none of its requests is started. A
  connection that takes nothing for `stall` seconds is dropped. If all slow readers together hold more than
  `max_unsent` bytes, the largest is dropped at once;
* an incomplete frame: the connection is dropped after `half_frame` seconds, sooner while many connections
  have one;
* no identity where clients need one (`broker/access.py`): the connection is dropped after `unidentified`
  seconds, or as the oldest of `max_unidentified`. After a wrong token nothing more is read from it;
* too many connections: the oldest one that never sent a whole request makes room for the newest; if all of
  them did, the newest is closed on arrival (`Listener` bounds the descriptors in any case);
* all connections together: at `max_in_flight`, and after `TURN_REQUESTS` in one turn, further requests queue
  in the order of arrival.

`asyncio.StreamReader` is deliberately not used: it switches coroutines and copies for each frame, which
makes it about six times slower than a protocol that parses whole buffers.

Invariants: replies leave in the order of the requests, exactly as many as are owed; `in_flight` is the sum of
the weights of all slots that are not answered.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import time
from collections import deque
from typing import Protocol, assert_never, cast

import msgspec

from walrus import protocol
from walrus.broker.access import Access, Guard
from walrus.broker.ordering import Lane, RequestOrder
from walrus.histogram import Histogram
from walrus.protocol import (
    Ack,
    Auth,
    Configure,
    Delete,
    Extend,
    Fetch,
    Find,
    Get,
    Greeting,
    Groups,
    Invalid,
    Leave,
    Metrics,
    Nack,
    Put,
    Receive,
    Recover,
    Register,
    Request,
    RequestParser,
    Seek,
    State,
    Topics,
)
from walrus.shell.descriptors import Listener
from walrus.wire import errors

log = logging.getLogger("walrus.shell.client_connections")
monotonic = time.monotonic

READ_BYTES = 64 << 10
"""The most bytes that one turn reads from a connection: its fair share."""
BACKLOG = 1024
"""Connections that may wait in the kernel to be accepted."""
TURN_REQUESTS = 128
"""The most requests that one turn starts (a run of PUTs, or of reads, counts as one)."""
REQUEST_BYTES = 400
"""Roughly the memory of a request besides its own bytes: its slot, and its entries in the controller's
tables."""


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds on what clients may cost. Sizes in bytes, times in seconds."""

    max_connections: int = 10_000
    max_frame_bytes: int = protocol.DEFAULT_MAX_FRAME_BYTES
    connection_in_flight: int = 16 << 20
    """The weight of one connection's requests that are not answered yet."""
    max_in_flight: int = 256 << 20
    """The same for all connections together."""
    max_unsent: int = 128 << 20
    """The replies that slow readers have not taken, of all connections together."""
    max_half_frames: int = 64 << 20
    """The bytes of incomplete frames, of all connections together. Above it, `half_frame` is one second."""
    half_frame: float = 20.0
    """How long a frame may take to arrive."""
    max_unidentified: int = 256
    """Where clients need tokens, how many connections may be without a valid one. The oldest makes room."""
    unidentified: float = 10.0
    """How long a connection may be without a valid token."""
    stall: float = 30.0
    """How long a client may take no replies."""


class ClientHandler(Protocol):
    """What a connection needs from the node."""

    def on_request(self, slot: Slot, request: Request) -> None:
        """Carry out a request; `slot` is owed `request.replies` replies."""

    def wake(self) -> None:
        """A connection has something to send: call `flush` soon."""


class Slot:
    """The place of one request in its connection's order of replies."""

    __slots__ = ("began", "connection", "lane", "owed", "parts", "weight")

    def __init__(self, connection: ClientConnection, owed: int, weight: int, lane: Lane) -> None:
        self.connection = connection
        self.owed = owed
        self.weight = weight
        self.lane = lane
        self.parts: list[bytes] | None = None  # made on demand: most requests need none, and many wait
        self.began = 0.0  # when a PUT arrived; the duration of other requests says little

    def reply(self, data: bytes, count: int) -> None:
        """Give the next `count` replies that are owed; `data` are the wire bytes of all of them."""
        assert 0 < count <= self.owed, f"{count} replies for a request that is owed {self.owed}"
        self.owed -= count
        if self.began:
            self.connection.put_took.observe(monotonic() - self.began, count)
        self.connection.answered(self, data)


def _weight(request: Request, max_frame_bytes: int) -> int:
    """Return how many bytes a request may keep in memory until it is answered."""
    match request:
        case Put():
            return REQUEST_BYTES + request.batch.weight + 16 * request.batch.count
        case Get() | Fetch() if request.wait_ms:
            return request.count * REQUEST_BYTES  # like RECEIVE, it holds no entry while it waits
        case Get() | Fetch():
            return request.count * max_frame_bytes
        case Receive() | Ack():
            return request.replies * REQUEST_BYTES  # it may wait for long, and holds no entry meanwhile
        case State() | Topics() | Groups() | Metrics():
            return max_frame_bytes  # for the answer, whose size depends on what it describes
        case Register() | Configure() | Delete() | Nack() | Extend() | Seek():
            return max_frame_bytes
        case Find() | Leave() | Recover() | Auth() | Greeting() | Invalid():
            return max_frame_bytes
        case _:
            assert_never(request)


def _split(request: Get | Fetch, count: int) -> tuple[Request, Request]:
    """Split a run of reads into its first `count` and the rest."""
    rest = request.count - count
    first = msgspec.structs.replace(request, count=count)
    if isinstance(request, Fetch):
        return first, msgspec.structs.replace(request, count=rest, offset=request.offset + count)
    return first, msgspec.structs.replace(request, count=rest)


class ClientConnection(asyncio.BufferedProtocol):
    """The connection of one client: what it has sent, and which requests are not answered yet, in order."""

    __slots__ = (
        "_backlog",
        "_dirty",
        "_ending",
        "_guard",
        "_order",
        "_out",
        "_out_bytes",
        "_parser",
        "_paused",
        "_server",
        "_slots",
        "_spoke",
        "_stalled_since",
        "_transport",
        "_waiting",
        "half_since",
        "in_flight",
        "put_took",
        "unsent",
    )

    def __init__(self, server: ClientServer) -> None:
        self._server = server
        self._guard = None if server.access is None else Guard(server.access)
        self.put_took = server.put_took
        self._parser = RequestParser(server.limits.max_frame_bytes)
        self._transport: asyncio.Transport | None = None
        self._slots: deque[Slot] = deque()
        self._backlog: deque[Request] | None = None  # None if empty: an empty deque has 600 bytes
        self._order = RequestOrder()
        self._out: list[bytes] = []
        self._out_bytes = 0
        self._dirty = False
        self._paused = False
        self._ending = False
        self._waiting = False
        self._spoke = False
        self._stalled_since: float | None = None
        self.half_since: float | None = None
        self.in_flight = 0
        self.unsent = 0

    # --- events from asyncio ----------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client has connected; drop it at once if there are too many."""
        self._transport = cast(asyncio.Transport, transport)
        no_delay(self._transport)
        if not self._server.admit(self):
            self._transport.abort()

    def connection_lost(self, error: Exception | None) -> None:
        """The connection has ended, by a reset or because it was dropped. Replies to it are dropped, too.

        Its PUTs that wait for a segment's leader are not written (`broker/router.py`); all other requests
        are carried out. If a client only sends and then closes in order, asyncio calls `eof_received`, and
        all of its requests are carried out.
        """
        self._server.forget(self)
        self._server.listener.release()
        self._backlog = None
        self._out.clear()
        self._ending = True

    def get_buffer(self, sizehint: int) -> memoryview:
        """Return the buffer that all connections share; each uses it until its `buffer_updated` returns."""
        return self._server.buffer

    def buffer_updated(self, nbytes: int) -> None:
        """`nbytes` arrived: parse them, and start the requests that the limits allow."""
        requests = self._parser.feed(bytes(self._server.buffer[:nbytes]))
        buffered = self._parser.buffered
        if buffered or self.half_since is not None:
            self._server.note_half(self, buffered, progress=bool(requests))
        if requests:
            if not self._spoke:
                self._spoke = True
                if self._guard is None:
                    self._server.silent.pop(self, None)
            if self._backlog is None:
                self._backlog = deque(requests)
            else:
                self._backlog.extend(requests)
            self._start()

    def eof_received(self) -> bool:
        """The client sends nothing more; its requests are answered before the connection closes."""
        self._ending = True
        self._close_if_done()
        return self._server.half_open

    def pause_writing(self) -> None:
        """The client is a slow reader: start no request until it has taken its replies."""
        assert self._transport is not None
        self._stalled_since = self._server.now()
        self._server.stalled(self, self._transport.get_write_buffer_size())

    def resume_writing(self) -> None:
        """The slow reader has caught up."""
        self._stalled_since = None
        self._server.caught_up(self)
        self._start()

    # --- requests ----------------------------------------------------------------------------------

    def _room(self) -> bool:
        limit = self._server.limits.connection_in_flight
        if self._stalled_since is not None or self._out_bytes >= limit:
            return False
        return not self._slots or self.in_flight < limit

    def _start(self) -> None:
        """Start requests from the backlog while order and limits allow; then resume or stop reading."""
        server = self._server
        while self._backlog and self._room() and self._order.admits(self._backlog[0]):
            if server.full:
                if not self._waiting:
                    self._waiting = True
                    server.queue.append(self)
                break
            self._start_one(self._backlog.popleft())
        if not self._backlog:
            self._backlog = None
        if bool(self._backlog) is not self._paused and not self._ending:
            self._switch_reading()

    def _start_one(self, request: Request) -> None:
        """Give one request its slot and hand it to the node; of a long run of reads, only the first part."""
        limits = self._server.limits
        weight = _weight(request, limits.max_frame_bytes)
        if isinstance(request, Get | Fetch) and request.count > 1:
            most = max(1, (limits.connection_in_flight - self.in_flight) // limits.max_frame_bytes)
            if request.count > most:
                request, rest = _split(request, most)
                assert self._backlog is not None, "the run was taken from there"
                self._backlog.appendleft(rest)
                weight = most * limits.max_frame_bytes
        slot = Slot(self, request.replies, weight, self._order.started(request))
        self._slots.append(slot)
        self.in_flight += weight
        self._server.in_flight += weight
        self._server.turn_left -= 1
        if isinstance(request, Invalid):
            self._refuse(slot, request)
        elif self._guard is None or self._may(self._guard, slot, request):
            if isinstance(request, Put):
                slot.began = monotonic()
            self._server.handler.on_request(slot, request)

    def _may(self, guard: Guard, slot: Slot, request: Request) -> bool:
        """Return whether the node is to carry out a request. AUTH and refused requests are answered here."""
        if isinstance(request, Auth):
            self._authenticate(guard, slot, request)
            return False
        if (reason := guard.refusal(request)) is None:
            return True
        slot.reply(protocol.error(reason) * slot.owed, slot.owed)
        return False

    def _authenticate(self, guard: Guard, slot: Slot, request: Auth) -> None:
        """Answer AUTH; for a wrong token, answer after a delay and read nothing more."""
        server = self._server
        if guard.failed:  # one attempt for each connection: further ones are not even compared
            slot.reply(protocol.error(errors.UNKNOWN_TOKEN), 1)
            return
        if guard.admit(request.token):
            server.silent.pop(self, None)
            slot.reply(protocol.OK, 1)
            return
        assert server.access is not None
        assert self._transport is not None
        address = str((self._transport.get_extra_info("peername") or ("?",))[0])
        log.warning("a client at %s sent a token that is not known here", address)
        self.stop_reading()
        delay = server.access.failed(address, server.now())
        asyncio.get_running_loop().call_later(delay, self._refuse_late, slot)

    def _refuse_late(self, slot: Slot) -> None:
        slot.reply(protocol.error(errors.UNKNOWN_TOKEN), 1)
        self._server.handler.wake()

    def reread(self) -> None:
        """The file of identities has changed: drop the connection if its token is not valid any more."""
        if self._guard is not None and not self._guard.reread():
            log.warning("dropped a client: its token is not known any more")
            self.abort()

    def _refuse(self, slot: Slot, request: Invalid) -> None:
        """Answer a malformed request; a fatal one is the last of its connection."""
        if request.fatal:
            self._ending = True
            self._backlog = None
        slot.reply(protocol.error(request.reason), 1)

    def proceed(self) -> None:
        """All connections together have room again, or a turn has begun: go on."""
        self._waiting = False
        self._start()

    def _switch_reading(self) -> None:
        """Stop reading, since requests wait in the backlog, or resume, since none do."""
        assert self._transport is not None
        self._paused = not self._paused
        if self._transport.is_closing():
            return
        if self._paused:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()

    def stop_reading(self) -> None:
        """The node stops: read nothing more, and close once the accepted requests are answered."""
        self._ending = True
        if self._transport is not None and not self._paused and not self._transport.is_closing():
            self._transport.pause_reading()
        self._close_if_done()

    # --- replies -------------------------------------------------------------------------------------

    def answered(self, slot: Slot, data: bytes) -> None:
        """Add a slot's reply to the output if the slot is the oldest, otherwise keep it in the slot."""
        if slot is not self._slots[0]:
            if slot.parts is None:
                slot.parts = [data]
            else:
                slot.parts.append(data)
            return
        self._out.append(data)
        self._out_bytes += len(data)
        while not self._slots[0].owed:
            done = self._slots.popleft()
            self.in_flight -= done.weight
            self._order.answered(done.lane)
            self._server.release(done.weight)
            if not self._slots:
                break
            if parts := self._slots[0].parts:
                self._out += parts
                self._out_bytes += sum(map(len, parts))
                self._slots[0].parts = None
        if not self._dirty:
            self._dirty = True
            self._server.dirty.append(self)
            self._server.handler.wake()

    def flush(self) -> None:
        """End of a turn: write the replies at once, and start requests that now have room."""
        self._dirty = False
        self._out_bytes = 0
        transport = self._transport
        if transport is None or transport.is_closing():
            self._out.clear()
            return
        if self._out:
            data = self._out[0] if len(self._out) == 1 else b"".join(self._out)
            self._out.clear()
            transport.write(data)
            if self._stalled_since is not None:
                self._server.stalled(self, transport.get_write_buffer_size())
        if self._backlog and not self._waiting:
            self._start()
        self._close_if_done()

    def _close_if_done(self) -> None:
        """Close if the client sends nothing more and everything that it is owed has been written."""
        if self._ending and not self._slots and not self._backlog and not self._out:
            assert self._transport is not None
            self._transport.close()

    def stalled_for(self, now: float) -> float:
        """Return for how many seconds the client has taken no replies."""
        return 0.0 if self._stalled_since is None else now - self._stalled_since

    def abort(self) -> None:
        """Drop the connection, with the replies that wait on it."""
        if self._transport is not None:
            self._transport.abort()

    @property
    def open(self) -> bool:
        """Whether replies still reach the client, as far as this node knows."""
        return self._transport is not None and not self._transport.is_closing()

    @property
    def idle(self) -> bool:
        """Whether no reply is owed, and none waits to be sent."""
        unsent = self._transport.get_write_buffer_size() if self._transport is not None else 0
        return not self._slots and not self._out and not self._backlog and not unsent


class ClientServer:
    """All client connections of a node, and the limits that they share."""

    def __init__(
        self,
        handler: ClientHandler,
        limits: Limits,
        tls: ssl.SSLContext | None = None,
        access: Access | None = None,
    ) -> None:
        """`access`: the identities of clients; None: clients need no tokens and may do everything."""
        self.access = access
        self.handler = handler
        self.limits = limits
        self.buffer = memoryview(bytearray(READ_BYTES))
        self.connections: dict[ClientConnection, None] = {}
        self.silent: dict[ClientConnection, float] = {}
        """Connections that have sent no whole request yet, or have no identity where clients need one, with
        the time of their arrival, the oldest first."""
        self.dirty: list[ClientConnection] = []
        self.queue: deque[ClientConnection] = deque()
        self.in_flight = 0
        self.turn_left = TURN_REQUESTS
        """How many requests this turn may still start."""
        self.unsent = 0
        self._half: dict[ClientConnection, int] = {}
        self._half_bytes = 0
        self._stalled: dict[ClientConnection, None] = {}
        self._stopping = False
        self.put_took = Histogram()
        """How long PUTs took, in seconds, from being handed to the node to the reply; each entry counts."""
        self.listener = Listener("client", limits.max_connections, lambda: ClientConnection(self), tls)
        self.half_open = tls is None
        """Whether a client that has closed its sending direction can still be answered; not with TLS, which
        ends both directions at once."""

    def now(self) -> float:
        """The event loop's clock, in seconds."""
        return asyncio.get_running_loop().time()

    async def listen(self, host: str, port: int) -> None:
        """Accept clients from now on. Raises OSError."""
        await self.listener.listen(host, port, BACKLOG)

    def stop(self) -> None:
        """Accept no more connections and no more requests; replies still go out."""
        self._stopping = True
        self.listener.close()
        for connection in list(self.connections):
            connection.stop_reading()

    @property
    def settled(self) -> bool:
        """Whether every accepted request was answered, and the kernel has taken the replies."""
        return all(connection.idle for connection in self.connections)

    @property
    def full(self) -> bool:
        """Whether all connections together have reached `max_in_flight`, or what one turn starts."""
        return not self.turn_left or self.in_flight >= self.limits.max_in_flight

    def admit(self, connection: ClientConnection) -> bool:
        """Admit a new connection; return whether that was possible.

        At the limit, the oldest connection in `silent` is dropped to make room.
        """
        if self._stopping:
            return False
        crowded = self.access is not None and len(self.silent) >= self.limits.max_unidentified
        if crowded or len(self.connections) >= self.limits.max_connections:
            if not self.silent:
                return False
            oldest = next(iter(self.silent))
            oldest.abort()
            self.forget(oldest)
        self.connections[connection] = None
        self.silent[connection] = self.now()
        return True

    def forget(self, connection: ClientConnection) -> None:
        """A connection has ended; the weight of its requests in flight is released as they are answered."""
        self.connections.pop(connection, None)
        self.silent.pop(connection, None)
        self.note_half(connection, 0, progress=True)
        self.caught_up(connection)

    def release(self, weight: int) -> None:
        """A request was answered: connections that wait for room proceed, in the order of arrival."""
        self.in_flight -= weight
        assert self.in_flight >= 0
        self._serve_queue_soon()

    def _serve_queue_soon(self) -> None:
        if self.queue and not self.full:
            asyncio.get_running_loop().call_soon(self._serve_queue)

    def _serve_queue(self) -> None:
        while self.queue and not self.full:
            self.queue.popleft().proceed()
        self.handler.wake()

    def reread(self) -> None:
        """The file of identities has changed."""
        for connection in list(self.connections):
            connection.reread()

    def flush(self) -> None:
        """End of a turn: flush each connection that has something to send."""
        dirty, self.dirty = self.dirty, []
        for connection in dirty:
            connection.flush()
        self.turn_left = TURN_REQUESTS
        self._serve_queue_soon()

    def note_half(self, connection: ClientConnection, buffered: int, progress: bool) -> None:
        """Record how many bytes of an incomplete frame a connection has, and since when.

        After a complete request (`progress`) the connection gets the full time again.
        """
        self._half_bytes += buffered - self._half.pop(connection, 0)
        if not buffered:
            connection.half_since = None
            return
        self._half[connection] = buffered
        if progress or connection.half_since is None:
            connection.half_since = self.now()

    def stalled(self, connection: ClientConnection, unsent: int) -> None:
        """A client takes no replies. If all slow readers together hold too much, drop the largest."""
        self._stalled[connection] = None
        self.unsent += unsent - connection.unsent
        connection.unsent = unsent
        if self.unsent > self.limits.max_unsent:
            largest = max(self._stalled, key=lambda stalled: stalled.unsent)
            log.warning("dropped a client that does not read its replies (%d bytes)", largest.unsent)
            largest.abort()
            self.caught_up(largest)

    def caught_up(self, connection: ClientConnection) -> None:
        """A connection has taken its replies, or has ended."""
        if connection in self._stalled:
            del self._stalled[connection]
            self.unsent -= connection.unsent
            connection.unsent = 0

    def sweep(self) -> None:
        """Drop connections with an incomplete frame, untaken replies or no identity for too long.

        Called once a second.
        """
        now, limits = self.now(), self.limits
        crowded = self._half_bytes > limits.max_half_frames or len(self._half) > limits.max_connections // 4
        patience = 1.0 if crowded else limits.half_frame
        late = [c for c in self._half if c.half_since is not None and now - c.half_since > patience]
        stuck = [c for c in self._stalled if c.stalled_for(now) > limits.stall]
        unknown = []
        if self.access is not None:
            unknown = [c for c, since in self.silent.items() if now - since > limits.unidentified]
        for connection in late + stuck + unknown:
            connection.abort()
        if late or stuck or unknown:
            log.info(
                "dropped %d clients with half a frame, %d that read no replies, %d that sent no good token",
                len(late), len(stuck), len(unknown),
            )  # fmt: skip


def no_delay(transport: asyncio.BaseTransport) -> None:
    """Disable Nagle's algorithm: each write already is the whole output of a turn."""
    handle = transport.get_extra_info("socket")
    if handle is not None and handle.family in (socket.AF_INET, socket.AF_INET6):
        handle.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
