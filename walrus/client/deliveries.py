"""Work queues: deliveries, and the calls that concern them.

A group that is read with RECEIVE hands an entry out and waits for its ACK (docs/protocol.md, Work queues).
The life of a `Delivery`, as its consumer sees it:

    state       next                                      then
    ----------  ----------------------------------------  -------------------------------------------
    out         ack: the group never gets the entry again  done
                nack: given back, handed out again later   over
                its visibility timeout ends                over (extend begins it anew)
    over        ack still counts: the work was done        done
                nack, extend: StaleReceipt                 over

So a worker acknowledges after the work. The work must be idempotent: to a consumer that may die at any
moment, a queue can only promise delivery at least once.

`receive` returns a context manager (`HeldDelivery`, `AsyncHeldDelivery`) that settles the delivery:

    the block                                        the delivery
    -----------------------------------------------  -------------------------------------------------------
    ends                                             ack, whose error is raised
    raises, is cancelled, is left by a signal        nack, whose error is dropped
    gave the entry back itself (nack, by a delay)    nothing: an ack would count, and the work was not done
    acknowledged it itself                           ack again, which is idempotent

A lost reply loses no entry: without an ack, the entry is handed out again after its visibility timeout.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from functools import partial
from types import TracebackType
from typing import Any, Final, Protocol, Self, TypeAlias, TypeVar

import msgspec

from walrus import protocol
from walrus.acknowledged import Position
from walrus.client.calls import Call, moment, name_bytes, number, plain_ok, single, unexpected, unix_ms
from walrus.client.errors import BadReply, WalrusError
from walrus.protocol import Empty, Ok, ProtocolError, Reply

FOLLOW_WAIT: Final = 30.0
"""For how many seconds a client that waits without end asks the node to wait at a time."""
LONGEST_WAIT: Final = protocol.MAX_WAIT_MS / 1000
"""The longest wait of a RECEIVE, delay of a NACK, and extension, in seconds: one day."""


class Delivery(msgspec.Struct, frozen=True, gc=False):
    """An entry that is handed out: acknowledge it with `receipt` when the work is done."""

    receipt: str
    deliveries: int
    """How often the group has handed the entry out, this time included."""
    payload: bytes
    unix_ms: int = 0
    """The append time, in unix milliseconds; 0 if it is not known."""

    @property
    def time(self) -> datetime | None:
        """The append time: see `Entry.time`."""
        return moment(self.unix_ms)

    @property
    def position(self) -> Position:
        """The entry's position in its topic, with which the receipt begins."""
        segment, offset, *_ = self.receipt.split(".")
        return Position(int(segment), int(offset))


class _Client(Protocol):
    """The part of `Client` that settles a delivery."""

    def ack(self, topic: str, group: str, receipt: Receipt) -> None: ...
    def nack(self, topic: str, group: str, receipt: Receipt, *, delay: float = 0.0) -> None: ...
    def extend(self, topic: str, group: str, receipt: Receipt, seconds: float) -> None: ...


class HeldDelivery(Delivery, frozen=True, eq=False, gc=True, kw_only=True):
    """A delivery of a `Client`: a context manager that acknowledges it, or gives it back on an exception."""

    client: _Client
    topic: str
    group: str
    given_back: bool = False
    """Whether `nack` was called; the end of the `with` block then does nothing."""

    def ack(self) -> None:
        """Acknowledge the entry: see `Client.ack`. The end of the `with` block does this by itself."""
        self.client.ack(self.topic, self.group, self)

    def nack(self, delay: float = 0.0) -> None:
        """Give the entry back for `delay` seconds: see `Client.nack`. The block's end then does nothing."""
        self.client.nack(self.topic, self.group, self, delay=delay)

    def extend(self, seconds: float) -> None:
        """The work takes longer: see `Client.extend`."""
        self.client.extend(self.topic, self.group, self, seconds)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.given_back:
            return
        if kind is None:
            self.ack()
            return
        with suppress(WalrusError):  # the exception of the block is the one to raise
            self.nack()


class _AsyncClient(Protocol):
    """The part of `AsyncClient` that settles a delivery."""

    async def ack(self, topic: str, group: str, receipt: Receipt) -> None: ...
    async def nack(self, topic: str, group: str, receipt: Receipt, *, delay: float = 0.0) -> None: ...
    async def extend(self, topic: str, group: str, receipt: Receipt, seconds: float) -> None: ...


class AsyncHeldDelivery(Delivery, frozen=True, eq=False, gc=True, kw_only=True):
    """A delivery of an `AsyncClient`: see `HeldDelivery`, with `async with`.

    A task that is cancelled in the block gives the entry back before it ends. If it is cancelled again
    meanwhile, the entry is handed out again after its visibility timeout.
    """

    client: _AsyncClient
    topic: str
    group: str
    given_back: bool = False

    async def ack(self) -> None:
        """See `HeldDelivery.ack`."""
        await self.client.ack(self.topic, self.group, self)

    async def nack(self, delay: float = 0.0) -> None:
        """See `HeldDelivery.nack`."""
        await self.client.nack(self.topic, self.group, self, delay=delay)

    async def extend(self, seconds: float) -> None:
        """See `HeldDelivery.extend`."""
        await self.client.extend(self.topic, self.group, self, seconds)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.given_back:
            return
        if kind is None:
            await self.ack()
            return
        with suppress(WalrusError):
            await self.nack()


D = TypeVar("D", bound=Delivery)
Found = TypeVar("Found", bound=AsyncHeldDelivery | None, covariant=True)


class Receiving(Coroutine[Any, Any, Found]):
    """A RECEIVE of an `AsyncClient` in progress: await it, or use its delivery with `async with`."""

    def __init__(self, asking: Coroutine[Any, Any, Found]) -> None:
        self._asking = asking
        self._found: AsyncHeldDelivery | None = None

    def __await__(self) -> Generator[Any, Any, Found]:
        return self._asking.__await__()

    def send(self, value: Any) -> Any:
        """Part of the coroutine protocol: tasks call it."""
        return self._asking.send(value)

    def throw(self, *error: Any) -> Any:
        """Part of the coroutine protocol: tasks call it when they are cancelled."""
        return self._asking.throw(*error)

    def close(self) -> None:
        """Part of the coroutine protocol: end without a result."""
        self._asking.close()

    async def __aenter__(self) -> Found:
        found = await self._asking
        self._found = found
        return found

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._found is not None:
            await self._found.__aexit__(kind, error, trace)


Receipt: TypeAlias = Delivery | str
"""The argument of `ack`, `nack` and `extend`: a delivery, or only its receipt."""


def milliseconds(value: object, what: str) -> int:
    """Convert seconds into milliseconds, rounded up. Raises TypeError, ValueError.

    >>> milliseconds(0.0005, "wait"), milliseconds(2, "wait")
    (1, 2000)
    >>> milliseconds(-1, "delay")
    Traceback (most recent call last):
    ValueError: delay is a number of seconds from 0 to 86400, got -1
    """
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise TypeError(f"{what} is a number of seconds, not {type(value).__name__}")
    if not 0 <= value <= LONGEST_WAIT:  # NaN is neither
        raise ValueError(f"{what} is a number of seconds from 0 to {LONGEST_WAIT:.0f}, got {value!r:.40}")
    return -int(-value * 1000 // 1)


def receipt_bytes(receipt: object) -> bytes:
    """Check and encode a receipt. Raises TypeError, ValueError."""
    text = receipt.receipt if isinstance(receipt, Delivery) else receipt
    if not isinstance(text, str):
        raise TypeError(f"a receipt is a Delivery or its receipt, not {type(receipt).__name__}")
    raw = text.encode("utf-8", "surrogateescape")
    if protocol.parse_receipt(raw) is None:
        raise ValueError(f"not a receipt of RECEIVE: {text[:80]!r}")
    return raw


def receive_many(
    make: Callable[..., D], topic: str, group: str, count: int, wait: float = 0.0
) -> Call[D | None]:
    """`count` pipelined RECEIVEs: the first waits for an entry for up to `wait` seconds, the others do not.

    `make` constructs a delivery from receipt, deliveries, payload and unix_ms.
    """
    text = b"RECEIVE %b %b" % (name_bytes(topic), name_bytes(group, "group"))
    patience = milliseconds(wait, "wait")
    first, later = protocol.frame(text + b" %d" % patience), protocol.frame(text)
    at_once = Call(
        "RECEIVE",
        number(count, "count", 0),
        lambda start, stop: later * (stop - start),
        partial(_delivery, make, False),
        repeatable=False,
        reading=True,
        doubt="an entry may be out, and comes again after its visibility timeout",
        timed=partial(_delivery, make, True),
    )
    if not patience:
        return at_once

    def encode(start: int, stop: int) -> bytes:
        return first + later * (stop - 1) if start == 0 else later * (stop - start)

    return replace(at_once, encode=encode, wait=patience / 1000, again=at_once)


def ack_many(topic: str, group: str, receipts: Sequence[Receipt]) -> Call[None]:
    """A pipelined ACK for each receipt. ACK is idempotent, so it is sent again until it is answered."""
    prefix = b"ACK %b %b " % (name_bytes(topic), name_bytes(group, "group"))
    if isinstance(receipts, str | bytes | Delivery):
        raise TypeError("ack_many takes many receipts, not one: use ack")
    frames = [protocol.frame(prefix + receipt_bytes(receipt)) for receipt in receipts]
    return Call(
        "ACK",
        len(frames),
        lambda start, stop: b"".join(frames[start:stop]),
        plain_ok("ACK"),
        repeatable=True,
    )


def nack(topic: str, group: str, receipt: Receipt, delay: float = 0.0) -> Call[None]:
    """NACK."""
    text = b"NACK %b %b %b" % (name_bytes(topic), name_bytes(group, "group"), receipt_bytes(receipt))
    if later := milliseconds(delay, "delay"):
        text += b" %d" % later
    if isinstance(receipt, HeldDelivery | AsyncHeldDelivery):
        # Set it before the answer, and whatever the answer is: the work was not done. For all other code the
        # Struct is frozen.
        msgspec.structs.force_setattr(receipt, "given_back", True)
    return single(text, plain_ok, repeatable=False, doubt="the entry may have been given back")


def extend(topic: str, group: str, receipt: Receipt, seconds: float) -> Call[None]:
    """EXTEND."""
    names = name_bytes(topic), name_bytes(group, "group"), receipt_bytes(receipt)
    text = b"EXTEND %b %b %b %d" % (*names, milliseconds(seconds, "seconds"))
    return single(text, plain_ok, repeatable=True)


def seek(topic: str, group: str, to: str | tuple[int, int] | datetime) -> Call[None]:
    """SEEK to "begin", to "end", to (segment, offset), or to a time. Raises ValueError, TypeError."""
    text = b"SEEK %b %b " % (name_bytes(topic), name_bytes(group, "group"))
    if to in ("begin", "end"):
        text += str(to).encode()
    elif isinstance(to, tuple) and len(to) == 2:
        text += b"%d %d" % (number(to[0], "segment", 1), number(to[1], "offset", 0))
    elif isinstance(to, datetime):
        text += b"time=%d" % unix_ms(to)
    else:
        raise ValueError(
            f"seek to 'begin', to 'end', to (segment, offset) or to a datetime, not to {to!r:.80}"
        )
    return single(text, plain_ok, repeatable=False, doubt="the group may have been moved")


def received(kind: type[D], results: Sequence[object]) -> list[D]:
    """Return the deliveries of many RECEIVEs. Raises an error only if it is first: deliveries that arrived
    before an error must reach the caller."""
    if results and isinstance(results[0], Exception):
        raise results[0]
    return [result for result in results if isinstance(result, kind)]


def _delivery(make: Callable[..., D], timed: bool, reply: Reply) -> D | None:
    if isinstance(reply, Empty):
        return None
    if isinstance(reply, Ok) and reply.payload is not None:
        try:
            receipt, deliveries, entry = protocol.split_received(reply.payload)
            unix_ms, payload = protocol.split_time(entry) if timed else (0, entry)
        except ProtocolError as error:
            raise BadReply(str(error)) from error
        return make(receipt, deliveries, payload, unix_ms)
    raise unexpected("RECEIVE", reply)
