"""Work queues for a client: deliveries, the calls that concern them, and what a worker does with one.

A group that is read with RECEIVE hands an entry out and waits for its ACK (docs/protocol.md, Work queues).
The life of a `Delivery`, as its consumer sees it:

    state       next                                      then
    ----------  ----------------------------------------  -------------------------------------------
    out         ack: the group never gets the entry again  done
                nack: given back, handed out again later   over
                its visibility timeout ends                over (extend begins it anew)
    over        ack still counts: the work was done        done
                nack, extend: StaleReceipt                 over

So a worker acknowledges after the work, and what it does must bear being done twice: at least once is what a
queue can promise to a consumer that may die at any moment.

What `receive` returns is a context manager (`HeldDelivery`, `AsyncHeldDelivery`) that does that:

    the block                                        the delivery
    -----------------------------------------------  -------------------------------------------------------
    ends                                             ack; an error of it is raised
    raises, is cancelled, is left by a signal        nack, whose own error is dropped
    gave the entry back itself (nack, by a delay)    nothing: an ack would count, and the work was not done
    acknowledged it itself                           ack again, which is the same as once

An answer that does not come loses nothing: without an ack the entry comes again by its visibility timeout.
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
"""Seconds that a client which waits without end lets the node wait at a time."""
LONGEST_WAIT: Final = protocol.MAX_WAIT_MS / 1000
"""Seconds that a RECEIVE may wait, and a NACK or EXTEND may ask for: a day."""


class Delivery(msgspec.Struct, frozen=True, gc=False):
    """One entry, handed out: acknowledge it with `receipt` when the work is done."""

    receipt: str
    deliveries: int
    """How often the group has handed the entry out, this time included."""
    payload: bytes
    unix_ms: int = 0
    """When the entry was appended, in unix milliseconds; 0 if that is not known."""

    @property
    def time(self) -> datetime | None:
        """When the entry was appended: see `Entry.time`."""
        return moment(self.unix_ms)

    @property
    def position(self) -> Position:
        """Where the entry is in its topic: a receipt begins with it."""
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
    """Whether it was: the end of the `with` then leaves it alone."""

    def ack(self) -> None:
        """The work is done: see `Client.ack`. At the end of the `with` this is done by itself."""
        self.client.ack(self.topic, self.group, self)

    def nack(self, delay: float = 0.0) -> None:
        """Give it back for `delay` seconds: see `Client.nack`. The end of the `with` then does nothing."""
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
        with suppress(WalrusError):  # what went wrong in the block is what the caller must hear of
            self.nack()


class _AsyncClient(Protocol):
    """The part of `AsyncClient` that settles a delivery."""

    async def ack(self, topic: str, group: str, receipt: Receipt) -> None: ...
    async def nack(self, topic: str, group: str, receipt: Receipt, *, delay: float = 0.0) -> None: ...
    async def extend(self, topic: str, group: str, receipt: Receipt, seconds: float) -> None: ...


class AsyncHeldDelivery(Delivery, frozen=True, eq=False, gc=True, kw_only=True):
    """A delivery of an `AsyncClient`: see `HeldDelivery`, with `async with`.

    A task that is cancelled in the block gives the entry back before it ends; cancelled once more meanwhile,
    it leaves that to the visibility timeout.
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
    """A RECEIVE of an `AsyncClient` under way: await it, or enter what it brings with `async with`."""

    def __init__(self, asking: Coroutine[Any, Any, Found]) -> None:
        self._asking = asking
        self._found: AsyncHeldDelivery | None = None

    def __await__(self) -> Generator[Any, Any, Found]:
        return self._asking.__await__()

    def send(self, value: Any) -> Any:
        """A task does this, as with any coroutine."""
        return self._asking.send(value)

    def throw(self, *error: Any) -> Any:
        """A task does this when it is cancelled."""
        return self._asking.throw(*error)

    def close(self) -> None:
        """It is awaited no more."""
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
"""What `ack`, `nack` and `extend` take: a delivery, or the receipt alone."""


def milliseconds(value: object, what: str) -> int:
    """Seconds as the protocol's milliseconds, rounded up.

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
    """The receipt of a delivery, as it goes over the wire."""
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
    """`count` pipelined RECEIVEs: the first one waits for an entry, the others take what is there then.

    `make` makes a delivery of its fields.
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
    """A pipelined ACK for each receipt. Twice is the same as once, so it is sent again until answered."""
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
        # Whether that is answered or not: its work was not done. It is frozen for all others.
        msgspec.structs.force_setattr(receipt, "given_back", True)
    return single(text, plain_ok, repeatable=False, doubt="the entry may have been given back")


def extend(topic: str, group: str, receipt: Receipt, seconds: float) -> Call[None]:
    """EXTEND."""
    names = name_bytes(topic), name_bytes(group, "group"), receipt_bytes(receipt)
    text = b"EXTEND %b %b %b %d" % (*names, milliseconds(seconds, "seconds"))
    return single(text, plain_ok, repeatable=True)


def seek(topic: str, group: str, to: str | tuple[int, int] | datetime) -> Call[None]:
    """SEEK, to `begin`, to `end`, to (segment, offset), or to a time."""
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
    """The deliveries of many RECEIVEs. An error behind the first is dropped: what came is out, and counts."""
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
