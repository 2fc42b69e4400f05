"""What a node answers: replies as values and as bytes, and the client's parser for them.

    OK                                     done
    OK <segment> <offset>                  PUT, PUB: appended at this position, after HELLO positions=1.
                                           FIND: the position of a time
    OK <payload>                           GET: an entry
    OK <next_offset> <payload>             FETCH: an entry, and the offset to go on from
    OK <receipt> <deliveries> <payload>    RECEIVE: an entry, and its delivery
    OK <option>=1 ...                      HELLO: the options in effect
    EMPTY                                  there is no entry (yet)
    ERR <reason>                           one line; `errors.py` has every reason
    {...}                                  STATE, TOPICS, GROUPS, METRICS: bare JSON

After HELLO times=1, `<unix_ms> ` comes before the payload in the replies to FETCH and RECEIVE.

The first word of a reply tells its kind without knowledge of the request. What stands between `OK ` and the
payload depends on the request: the `split_...` functions take it apart.

Invariant: malformed bytes from a node raise `ProtocolError` and no other exception.
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
    """The reply to a GET, FETCH or RECEIVE for which there is no entry."""
    return EMPTY


def error(reason: Reason) -> bytes:
    """The reply that refuses a request; white space in the reason is collapsed, so it stays one line."""
    return frame(b"ERR " + " ".join(reason.split()).encode(errors="replace"))


def json_reply(text: str | bytes) -> bytes:
    """The reply to STATE, TOPICS, GROUPS and METRICS: bare JSON."""
    return frame(text if isinstance(text, bytes) else text.encode())


def ok_fetch(next_offset: int, payload: bytes) -> bytes:
    """The reply to a FETCH that found an entry; `next_offset` is where to go on."""
    return frame(b"OK %d %b" % (next_offset, payload))


def timed_payloads(batch: Batch) -> list[bytes]:
    """The entries as a client gets them after HELLO times=1: `<unix_ms> <payload>` each."""
    return [b"%d %b" % timed for timed in zip(batch.times(), batch.payloads(), strict=True)]


def ok_received(receipts: Sequence[Receipt], payloads: Sequence[bytes]) -> bytes:
    """The replies to RECEIVEs that are handed these entries: receipt, number of deliveries, payload."""
    pack = LENGTH.pack
    handed = zip(receipts, payloads, strict=True)
    bodies = [_RECEIVED % (*receipt, receipt.delivery, payload) for receipt, payload in handed]
    return b"".join([pack(len(body)) + body for body in bodies])


def ok_places(segment: int, first: int, count: int) -> bytes:
    """The replies to PUTs of `count` entries that were appended from offset `first` of that segment on."""
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
    """`OK` (then `payload` is None) or `OK <payload>`.

    In the reply to a FETCH or RECEIVE, `payload` still begins with the next offset, or the receipt.
    """

    payload: bytes | None = None


class Empty(msgspec.Struct, frozen=True, gc=False):
    """`EMPTY`: there is no entry (yet)."""


class Error(msgspec.Struct, frozen=True, gc=False):
    """`ERR <reason>`."""

    reason: str


class Json(msgspec.Struct, frozen=True, gc=False):
    """Bare JSON, the reply to STATE, TOPICS, GROUPS and METRICS."""

    text: bytes


Reply: TypeAlias = Ok | Empty | Error | Json
_DONE: Final = Ok()
_NOTHING: Final = Empty()


def parse_reply(body: bytes) -> Reply:
    """Parse the body of one frame as a reply. Raises `ProtocolError` if it is not one.

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
    """Split what follows `OK ` in the reply to a FETCH into next offset and entry. Raises ProtocolError."""
    number, space, entry = payload.partition(b" ")
    if not space or not number.isdigit() or len(number) > 19:
        raise ProtocolError(f"expected OK <next_offset> <payload>, got OK {payload[:40]!r}")
    return int(number), entry


def split_time(entry: bytes) -> tuple[int, bytes]:
    """Split the entry of a reply after HELLO times=1 into time (unix ms; 0: not known) and payload.

    Raises ProtocolError.
    """
    number, space, payload = entry.partition(b" ")
    if not space or not number.isdigit() or len(number) > 19:
        raise ProtocolError(f"expected <unix_ms> <payload>, got {entry[:40]!r}")
    return int(number), payload


def split_place(payload: bytes) -> Position:
    """Parse the position that follows `OK ` in the reply to a PUT, PUB or FIND. Raises ProtocolError."""
    segment, space, offset = payload.partition(b" ")
    if not space or not (segment.isdigit() and offset.isdigit()) or max(len(segment), len(offset)) > 19:
        raise ProtocolError(f"expected OK <segment> <offset>, got OK {payload[:40]!r}")
    return Position(int(segment), int(offset))


def split_received(payload: bytes) -> tuple[str, int, bytes]:
    """Split what follows `OK ` in the reply to a RECEIVE into receipt, number of deliveries and entry.

    Raises ProtocolError.
    """
    receipt, _, rest = payload.partition(b" ")
    number, space, entry = rest.partition(b" ")
    if not space or not number.isdigit() or len(number) > 19 or parse_receipt(receipt) is None:
        raise ProtocolError(f"expected OK <receipt> <deliveries> <payload>, got OK {payload[:40]!r}")
    return receipt.decode(), int(number), entry


class ReplyParser(FrameParser[Reply]):
    """Parses the stream of one node into replies.

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
