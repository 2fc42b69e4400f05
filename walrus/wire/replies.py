"""What a node answers: the replies as values, their bytes, and the parser that a client reads them with.

    OK                            done
    OK <segment> <offset>         appended there: PUT and PUB, to a client that asked for it (HELLO)
    OK <payload>                  an entry; of FETCH behind the next offset: OK <next_offset> <payload>; of
                                  RECEIVE behind the delivery: OK <receipt> <deliveries> <payload>; of both,
                                  to a client that asked for it (HELLO), <unix_ms> stands before the entry
    EMPTY                         there is none (yet)
    ERR <reason>                  one line; every reason there is stands in `errors.py`
    {...}                         STATE and METRICS: bare JSON

A reply can be told without knowing the request, but for what stands in front of a FETCH's or RECEIVE's entry.

Invariant: bytes of a node that make no sense raise `ProtocolError` and nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, TypeAlias

import msgspec

from walrus.acknowledged import Position
from walrus.storage.batch import Batch
from walrus.wire.errors import Reason
from walrus.wire.framing import HEADER_BYTES, LENGTH, FrameParser, ProtocolError, frame, repeated
from walrus.wire.receipts import RECEIPT_TEXT, Receipt, parse_receipt

MAX_REPLY_BYTES: Final = 64 << 20

# --- values -> bytes ------------------------------------------------------------------------------

OK: Final = frame(b"OK")
EMPTY: Final = frame(b"EMPTY")
_RECEIVED: Final = b"OK " + RECEIPT_TEXT + b" %d %b"


def ok(payload: bytes) -> bytes:
    """The reply to a GET that found an entry."""
    return LENGTH.pack(3 + len(payload)) + b"OK " + payload


def empty() -> bytes:
    """The reply to a GET or FETCH at the end of what there is."""
    return EMPTY


def error(reason: Reason) -> bytes:
    """A refusal. Whatever the reason is made of, it stays one line."""
    return frame(b"ERR " + " ".join(reason.split()).encode(errors="replace"))


def json_reply(text: str | bytes) -> bytes:
    """The reply to STATE and METRICS: bare JSON."""
    return frame(text if isinstance(text, bytes) else text.encode())


def ok_fetch(next_offset: int, payload: bytes) -> bytes:
    """The reply to a FETCH that found an entry; `next_offset` is where to go on."""
    return frame(b"OK %d %b" % (next_offset, payload))


def timed_payloads(batch: Batch) -> list[bytes]:
    """The entries as they are told to a client that asked for times: <unix_ms> <payload>."""
    return [b"%d %b" % timed for timed in zip(batch.times(), batch.payloads(), strict=True)]


def ok_received(receipts: Sequence[Receipt], payloads: Sequence[bytes]) -> bytes:
    """The replies to RECEIVEs that are handed these entries: each its receipt, and how often it was out."""
    pack = LENGTH.pack
    handed = zip(receipts, payloads, strict=True)
    bodies = [_RECEIVED % (*receipt, receipt.delivery, payload) for receipt, payload in handed]
    return b"".join([pack(len(body)) + body for body in bodies])


def ok_places(segment: int, first: int, count: int) -> bytes:
    """The replies to `count` entries that were appended from offset `first` of that segment on."""
    bodies = [b"OK %d %d" % (segment, offset) for offset in range(first, first + count)]
    pack = LENGTH.pack
    return b"".join([pack(len(body)) + body for body in bodies])


def ok_many(payloads: Sequence[bytes]) -> bytes:
    """The replies to as many GETs as there are payloads."""
    pack = LENGTH.pack
    return b"".join([pack(3 + len(payload)) + b"OK " + payload for payload in payloads])


def ok_fetch_many(offset: int, payloads: Sequence[bytes]) -> bytes:
    """The replies to a run of FETCHes that starts at `offset`, one for each payload."""
    return b"".join([ok_fetch(next_, payload) for next_, payload in enumerate(payloads, offset + 1)])


# --- bytes -> values ------------------------------------------------------------------------------


class Ok(msgspec.Struct, frozen=True, gc=False):
    """`OK`, or `OK <payload>`. What stands in front of the payload of a FETCH or RECEIVE still does here."""

    payload: bytes | None = None


class Empty(msgspec.Struct, frozen=True, gc=False):
    """`EMPTY`: there is nothing (yet) at that place."""


class Error(msgspec.Struct, frozen=True, gc=False):
    """`ERR <reason>`."""

    reason: str


class Json(msgspec.Struct, frozen=True, gc=False):
    """Bare JSON, the reply to STATE and METRICS."""

    text: bytes


Reply: TypeAlias = Ok | Empty | Error | Json
_DONE: Final = Ok()
_NOTHING: Final = Empty()


def parse_reply(body: bytes) -> Reply:
    """The reply that the body of one frame spells; raises `ProtocolError` if it spells none.

    >>> parse_reply(b"OK"), parse_reply(b"OK "), parse_reply(b"EMPTY"), parse_reply(b"ERR no")
    (Ok(payload=None), Ok(payload=b''), Empty(), Error(reason='no'))
    """
    if body == b"OK":
        return _DONE
    if body.startswith(b"OK "):
        return Ok(body[3:])
    if body == b"EMPTY":
        return _NOTHING
    if body.startswith(b"ERR "):
        return Error(body[4:].decode(errors="replace"))
    if body.startswith(b"{"):
        return Json(body)
    raise ProtocolError(f"neither OK, EMPTY, ERR nor JSON: {body[:40]!r}")


def split_fetched(payload: bytes) -> tuple[int, bytes]:
    """The next offset and the entry out of what follows `OK ` in the reply to a FETCH."""
    number, space, entry = payload.partition(b" ")
    if not space or not number.isdigit() or len(number) > 19:
        raise ProtocolError(f"expected OK <next_offset> <payload>, got OK {payload[:40]!r}")
    return int(number), entry


def split_time(entry: bytes) -> tuple[int, bytes]:
    """The time (unix ms; 0: not known) and the entry, as a client is told that asked for times."""
    number, space, payload = entry.partition(b" ")
    if not space or not number.isdigit() or len(number) > 19:
        raise ProtocolError(f"expected <unix_ms> <payload>, got {entry[:40]!r}")
    return int(number), payload


def split_place(payload: bytes) -> Position:
    """Where an entry is, out of what follows `OK ` in the reply to a PUT or PUB."""
    segment, space, offset = payload.partition(b" ")
    if not space or not (segment.isdigit() and offset.isdigit()) or max(len(segment), len(offset)) > 19:
        raise ProtocolError(f"expected OK <segment> <offset>, got OK {payload[:40]!r}")
    return Position(int(segment), int(offset))


def split_received(payload: bytes) -> tuple[str, int, bytes]:
    """Receipt, deliveries and entry out of what follows `OK ` in the reply to a RECEIVE."""
    receipt, _, rest = payload.partition(b" ")
    number, space, entry = rest.partition(b" ")
    if not space or not number.isdigit() or len(number) > 19 or parse_receipt(receipt) is None:
        raise ProtocolError(f"expected OK <receipt> <deliveries> <payload>, got OK {payload[:40]!r}")
    return receipt.decode(), int(number), entry


class ReplyParser(FrameParser[Reply]):
    """The replies of one node, out of the pieces in which its bytes arrive.

    >>> parser = ReplyParser()
    >>> parser.feed(OK + ok(b"hello")[:6]), parser.feed(ok(b"hello")[6:])
    ([Ok(payload=None)], [Ok(payload=b'hello')])
    """

    __slots__ = ()

    def __init__(self, max_reply_bytes: int = MAX_REPLY_BYTES) -> None:
        super().__init__(max_reply_bytes)

    def _take(self, data: bytes, start: int, stop: int, values: list[Reply]) -> int:
        body = start + HEADER_BYTES
        if data.startswith(b"OK ", body, stop):
            values.append(Ok(data[body + 3 : stop]))
            return stop
        reply = parse_reply(data[body:stop])
        count, stop = repeated(data, start, stop)  # a producer's replies are a run of the same OK
        values += [reply] * count
        return stop

    def _refuse(self, length: int, values: list[Reply]) -> int | None:
        raise ProtocolError(f"a reply of {length} bytes: at most {self.limit} make sense")
