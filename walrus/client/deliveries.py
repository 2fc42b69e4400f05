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
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import Final, TypeAlias

import msgspec

from walrus import protocol
from walrus.acknowledged import Position
from walrus.client.calls import Call, moment, name_bytes, number, plain_ok, single, unexpected, unix_ms
from walrus.client.errors import BadReply
from walrus.protocol import Empty, Ok, ProtocolError, Reply

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


def receive_many(topic: str, group: str, count: int, wait: float = 0.0) -> Call[Delivery | None]:
    """`count` pipelined RECEIVEs: the first one waits for an entry, the others take what is there then."""
    text = b"RECEIVE %b %b" % (name_bytes(topic), name_bytes(group, "group"))
    patience = milliseconds(wait, "wait")
    first, later = protocol.frame(text + b" %d" % patience), protocol.frame(text)
    at_once = Call(
        "RECEIVE",
        number(count, "count", 0),
        lambda start, stop: later * (stop - start),
        partial(_delivery, False),
        repeatable=False,
        reading=True,
        doubt="an entry may be out, and comes again after its visibility timeout",
        timed=partial(_delivery, True),
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


def received(results: Sequence[object]) -> list[Delivery]:
    """The deliveries of many RECEIVEs. An error behind the first is dropped: what came is out, and counts."""
    if results and isinstance(results[0], Exception):
        raise results[0]
    return [result for result in results if isinstance(result, Delivery)]


def _delivery(timed: bool, reply: Reply) -> Delivery | None:
    if isinstance(reply, Empty):
        return None
    if isinstance(reply, Ok) and reply.payload is not None:
        try:
            receipt, deliveries, entry = protocol.split_received(reply.payload)
            unix_ms, payload = protocol.split_time(entry) if timed else (0, entry)
        except ProtocolError as error:
            raise BadReply(str(error)) from error
        return Delivery(receipt, deliveries, payload, unix_ms)
    raise unexpected("RECEIVE", reply)
