"""The wire: client requests and replies, and the frames that nodes exchange, as bytes <-> values.

Everything on a wire is a frame, in both directions and on both ports:

    length   u32 little-endian     how many bytes follow
    body     `length` bytes

**Client port.** A body is a command word and its arguments, separated by single spaces. Requests on one
connection are answered in order, one reply each, and a client may send many without waiting.

    REGISTER <topic>                     OK
    PUT <topic> <payload>                OK
    GET <topic> [<group>]                OK <payload> | EMPTY
    FETCH <topic> <segment> <offset>     OK <next_offset> <payload> | EMPTY
    STATE <topic>                        {...}
    METRICS                              {...}
    LEAVE <node_id>                      OK
    RECOVER <topic> <segment>            OK
    anything                             ERR <reason>

The payload of PUT is whatever follows the second space, byte for byte, and may be empty: a zero-length
entry is an entry. Only a PUT without its second space "requires a payload". Everything else is UTF-8.

**Peer port.** A body is one msgpack value, a member of a union of message types that is handed in.

The parsers here are incremental: `feed` takes the bytes in whatever pieces they arrive and returns
the values that are complete. They own no socket and no clock.

Invariants:

* however the stream is cut into feeds, the same requests come out, in the same order (only how they are
  grouped into runs differs);
* bytes of a client never raise: what is wrong becomes an `Invalid`, in its place in the order;
* a request parser holds at most one incomplete frame, so at most `max_frame_bytes + 4` bytes;
* bytes of a peer raise `ProtocolError` or nothing. After it the connection is worthless.

A message log lives on runs: a producer pipelines a hundred PUTs to one topic and they arrive in one
read. So consecutive PUTs to one topic become one `Put` that holds one `Batch`, which stays one piece
from here to the disks. The topic of the previous PUT is compared as bytes before anything is decoded.

Deliberately left out: compression, authentication, TLS (put a tunnel in front), request ids (order is
the id).
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, Final, Generic, TypeAlias, TypeVar

import msgspec

from walrus.storage.batch import Batch

HEADER_BYTES: Final = 4
DEFAULT_MAX_FRAME_BYTES: Final = 65_536
MAX_SKIP_BYTES: Final = 16 << 20
"""A request longer than allowed, but not longer than this, is skipped and answered; beyond it the
connection closes. Text sent without a length prefix reads as a length of 150 MB or more: it lands beyond."""
MAX_PEER_FRAME_BYTES: Final = 64 << 20
MAX_REPLY_BYTES: Final = 64 << 20
MAX_NAME_BYTES: Final = 255
MAX_NUMBER: Final = 2**63 - 1

_LENGTH: Final = struct.Struct("<I")


class ProtocolError(Exception):
    """The other side broke the framing or the encoding: this connection cannot be continued."""


# --- what a client may ask ------------------------------------------------------------------------


class Register(msgspec.Struct, frozen=True, array_like=True, tag=True, gc=False):
    """Create a topic unless it exists."""

    topic: str

    @property
    def replies(self) -> int:
        """Number of replies owed."""
        return 1


class Put(msgspec.Struct, frozen=True, array_like=True, tag=True, gc=False):
    """Append entries, in order. A run of PUTs to one topic; each entry is owed its own reply."""

    topic: str
    batch: Batch

    @property
    def replies(self) -> int:
        """Number of replies owed."""
        return self.batch.count


class Get(msgspec.Struct, frozen=True, array_like=True, tag=True, gc=False):
    """Read the next entries and move the cursor of `group`; "" is the cursor that all share."""

    topic: str
    group: str = ""
    count: int = 1

    @property
    def replies(self) -> int:
        """Number of replies owed."""
        return self.count


class Fetch(msgspec.Struct, frozen=True, array_like=True, tag=True, gc=False):
    """Read entries `offset` to `offset + count - 1` of one segment; no cursor moves."""

    topic: str
    segment: int
    offset: int
    count: int = 1

    @property
    def replies(self) -> int:
        """Number of replies owed."""
        return self.count


class State(msgspec.Struct, frozen=True, array_like=True, tag=True, gc=False):
    """A topic's segments, leaders, replicas and cursors."""

    topic: str

    @property
    def replies(self) -> int:
        """Number of replies owed."""
        return 1


class Metrics(msgspec.Struct, frozen=True, array_like=True, tag=True, gc=False):
    """The answering node's own view of itself and of the cluster."""

    @property
    def replies(self) -> int:
        """Number of replies owed."""
        return 1


class Leave(msgspec.Struct, frozen=True, array_like=True, tag=True, gc=False):
    """Remove a member."""

    node_id: int

    @property
    def replies(self) -> int:
        """Number of replies owed."""
        return 1


class Recover(msgspec.Struct, frozen=True, array_like=True, tag=True, gc=False):
    """An operator's decision: recover this segment from the copies there are, sure or not."""

    topic: str
    segment: int

    @property
    def replies(self) -> int:
        """Number of replies owed."""
        return 1


class Invalid(msgspec.Struct, frozen=True, array_like=True, tag=True, gc=False):
    """A request that could not be understood. After a `fatal` one the connection is to be closed,
    once everything before it and this error have been answered."""

    reason: str
    fatal: bool = False

    @property
    def replies(self) -> int:
        """Number of replies owed."""
        return 1


Request: TypeAlias = Register | Put | Get | Fetch | State | Metrics | Leave | Recover | Invalid


# --- what can go wrong: always one line, what happened first, then what to do ---------------------

_COMMANDS_HINT: Final = "REGISTER, PUT, GET, FETCH, STATE, METRICS, LEAVE or RECOVER"

UNKNOWN_COMMAND: Final = f"unknown command: send {_COMMANDS_HINT}, in capitals, one space between arguments"
PUT_REQUIRES_TOPIC: Final = "PUT requires a topic: send PUT <topic> <payload>"
PUT_REQUIRES_PAYLOAD: Final = (
    "PUT requires a payload: send PUT <topic> <payload>, with the second space even if the payload is empty"
)
REGISTER_REQUIRES: Final = "REGISTER requires a topic: send REGISTER <topic>"
GET_REQUIRES: Final = "GET requires a topic: send GET <topic> or GET <topic> <group>"
FETCH_REQUIRES: Final = (
    "FETCH requires a topic, a segment and an offset: send FETCH <topic> <segment from 1> <offset from 0>"
)
STATE_REQUIRES: Final = "STATE requires a topic: send STATE <topic>"
METRICS_TAKES_NOTHING: Final = "METRICS takes no arguments: send METRICS"
LEAVE_REQUIRES: Final = "LEAVE requires a node id: send LEAVE <node_id>, a number from 1"
RECOVER_REQUIRES: Final = "RECOVER requires a topic and a segment: send RECOVER <topic> <segment from 1>"
INVALID_TOPIC: Final = "invalid topic: use 1 to 255 bytes of UTF-8 without spaces or control characters"
INVALID_GROUP: Final = "invalid group: use 1 to 255 bytes of UTF-8 without spaces or control characters"
INVALID_UTF8: Final = "invalid utf-8: encode command and arguments as UTF-8 (a payload may be any bytes)"
TIMEOUT: Final = "timeout: the outcome is unknown, the entry may have been written"
FAILED_OVER: Final = "outcome unknown: the segment's leader failed, the entry may have been written"
STOPPING: Final = "stopping: this node is shutting down and did nothing, ask another one"
BUSY: Final = "busy: too much is waiting on this node already and nothing was written, send again later"


def invalid_frame_length(length: int, limit: int) -> str:
    """A frame that is empty or longer than this node takes."""
    if length == 0:
        return "invalid frame length 0: a request has at least one byte"
    if length > MAX_SKIP_BYTES:
        return (
            f"invalid frame length {length}: prefix each request with its length as u32 little-endian, "
            f"at most {limit}; closing"
        )
    return f"invalid frame length {length}: at most {limit}, or raise --max-frame-bytes on the nodes"


def unknown_topic(topic: str) -> str:
    """A topic that nobody registered."""
    return f"unknown topic {topic}: send REGISTER {topic} first"


def unknown_segment(topic: str, segment: int) -> str:
    """A segment that the topic does not have (yet)."""
    return f"unknown segment {segment} of {topic}: STATE {topic} lists those there are"


def unknown_node(node_id: int) -> str:
    """A node that is not a member."""
    return f"unknown node {node_id}: METRICS lists the members"


def not_enough_replicas(answered: int, needed: int) -> str:
    """Too few replicas took the entry in time; it may be there nevertheless."""
    return f"not enough replicas: {answered} of {needed} answered, the entry may have been written"


def no_leader(detail: str) -> str:
    """Nobody can decide now. Nothing was written."""
    return f"no leader: {detail}"


def cannot_leave(detail: str) -> str:
    """Removing the member would lose data or the majority."""
    return f"cannot leave: {detail}"


def cannot_recover(detail: str) -> str:
    """RECOVER for a segment that does not wait for an operator."""
    return f"cannot recover: {detail}"


def not_written(detail: str) -> str:
    """The disk of the segment's leader has no room. Nothing was written."""
    return f"not written: {detail}"


def too_many_topics(limit: int) -> str:
    """REGISTER of one more than a cluster keeps."""
    return f"too many topics: there are {limit} already, which is the limit"


def storage_failed(detail: str) -> str:
    """A node's disk refused (full, failed, corrupt)."""
    return f"storage: {detail}"


# --- requests: bytes -> values --------------------------------------------------------------------

# A fixed set rather than str.isprintable(), which follows the interpreter's Unicode version: nodes
# that run different Pythons must agree on what a topic is. C0, space, DEL, C1, and Unicode's spaces.
_FORBIDDEN_IN_NAME: Final = re.compile(
    "[\x00-\x20\x7f-\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]"
)


def valid_name(name: str) -> bool:
    """Whether `name` may be a topic or a consumer group.

    >>> valid_name("orders/eu"), valid_name(""), valid_name("a b"), valid_name("\\n"), valid_name("é" * 128)
    (True, False, False, False, False)
    """
    try:
        size = len(name.encode())
    except UnicodeEncodeError:  # a lone surrogate: a str, but no UTF-8
        return False
    return 0 < size <= MAX_NAME_BYTES and not _FORBIDDEN_IN_NAME.search(name)


class _Refused(Exception):
    """Inside this module: carries the reason from where it is found to the `Invalid` it becomes."""


@lru_cache(maxsize=4096)
def _name(raw: bytes, reason: str) -> str:
    """The topic or group that `raw` spells. Cached for all connections; refusals are not cached."""
    try:
        name = raw.decode()
    except UnicodeDecodeError:
        raise _Refused(INVALID_UTF8) from None
    if not valid_name(name):
        raise _Refused(reason)
    return name


def _number(raw: bytes, least: int, reason: str) -> int:
    """A decimal number of plain digits; `int` alone would also take signs, spaces and underscores."""
    if not raw.isdigit() or len(raw) > 19 or not least <= int(raw) <= MAX_NUMBER:
        raise _Refused(reason)
    return int(raw)


def _register(rest: bytes) -> Request:
    if not rest:
        raise _Refused(REGISTER_REQUIRES)
    return Register(_name(rest, INVALID_TOPIC))


def _put(rest: bytes) -> Request:
    topic, space, payload = rest.partition(b" ")
    if not topic:
        raise _Refused(PUT_REQUIRES_TOPIC)
    name = _name(topic, INVALID_TOPIC)
    if not space:
        raise _Refused(PUT_REQUIRES_PAYLOAD)
    return Put(name, Batch.of((payload,)))


def _get(rest: bytes) -> Request:
    topic, space, group = rest.partition(b" ")
    if not topic:
        raise _Refused(GET_REQUIRES)
    return Get(_name(topic, INVALID_TOPIC), _name(group, INVALID_GROUP) if space else "")


def _fetch(rest: bytes) -> Request:
    parts = rest.split(b" ")
    if len(parts) != 3 or not parts[0]:
        raise _Refused(FETCH_REQUIRES)
    topic, segment, offset = parts
    name = _name(topic, INVALID_TOPIC)
    return Fetch(name, _number(segment, 1, FETCH_REQUIRES), _number(offset, 0, FETCH_REQUIRES))


def _state(rest: bytes) -> Request:
    if not rest:
        raise _Refused(STATE_REQUIRES)
    return State(_name(rest, INVALID_TOPIC))


def _metrics(rest: bytes) -> Request:
    if rest:
        raise _Refused(METRICS_TAKES_NOTHING)
    return Metrics()


def _leave(rest: bytes) -> Request:
    return Leave(_number(rest, 1, LEAVE_REQUIRES))


def _recover(rest: bytes) -> Request:
    topic, _, segment = rest.partition(b" ")
    if not topic or not segment:
        raise _Refused(RECOVER_REQUIRES)
    return Recover(_name(topic, INVALID_TOPIC), _number(segment, 1, RECOVER_REQUIRES))


_COMMANDS: Final[dict[bytes, Callable[[bytes], Request]]] = {
    b"REGISTER": _register,
    b"PUT": _put,
    b"GET": _get,
    b"FETCH": _fetch,
    b"STATE": _state,
    b"METRICS": _metrics,
    b"LEAVE": _leave,
    b"RECOVER": _recover,
}
COMMANDS: Final = tuple(word.decode() for word in _COMMANDS)


def parse_request(body: bytes) -> Request:
    """The request that the body of one frame spells; an `Invalid` if it spells none.

    >>> parse_request(b"GET orders billing")
    Get(topic='orders', group='billing', count=1)
    >>> parse_request(b"PUT orders  two spaces ").batch.payloads()
    [b' two spaces ']
    """
    word, _, rest = body.partition(b" ")
    parse = _COMMANDS.get(word)
    try:
        if parse is None:
            word.decode()
            return Invalid(UNKNOWN_COMMAND)
        return parse(rest)
    except _Refused as refused:
        return Invalid(str(refused))
    except UnicodeDecodeError:
        return Invalid(INVALID_UTF8)


def _gets(data: bytes, position: int, stop: int, first: Get) -> tuple[Get, int]:
    """The run of equal GETs that starts with `first`, which is `data[position:stop]`, and where it ends."""
    same, size, count = data[position:stop], stop - position, 1
    while data.startswith(same, stop):
        count += 1
        stop += size
    return Get(first.topic, first.group, count), stop


def _fetches(data: bytes, stop: int, first: Fetch, limit: int) -> tuple[Fetch, int]:
    """The run of FETCHes at consecutive offsets that starts with `first` (ending at `stop`), and its end."""
    prefix = b"FETCH %b %d " % (first.topic.encode(), first.segment)
    offset = first.offset + 1
    while data.startswith(following := frame(b"%b%d" % (prefix, offset)), stop):
        if len(following) > limit + HEADER_BYTES or offset > MAX_NUMBER:
            break
        offset += 1
        stop += len(following)
    return Fetch(first.topic, first.segment, first.offset, offset - first.offset), stop


class RequestParser:
    """One client connection's requests, out of the pieces in which its bytes arrive.

    >>> parser = RequestParser()
    >>> parser.feed(encode_request(b"PUT t a") + encode_request(b"PUT t b") + b"\\x07")
    [Put(topic='t', batch=Batch(lengths=b'\\x01\\x00\\x00\\x00\\x01\\x00\\x00\\x00', blob=b'ab'))]
    >>> parser.feed(b"\\x00\\x00\\x00METRICS")
    [Metrics()]
    """

    __slots__ = ("_closed", "_max", "_needed", "_partial", "_skip", "_topic")

    def __init__(self, max_frame_bytes: int = DEFAULT_MAX_FRAME_BYTES) -> None:
        assert 0 < max_frame_bytes < 1 << 32
        self._max = max_frame_bytes
        self._partial = bytearray()  # an incomplete frame, from its length on
        self._needed = 0  # how long `_partial` must be before looking at it is worth it
        self._skip = 0  # bytes still to be dropped of a frame that was refused for its length
        self._topic = b"", ""  # `PUT <topic> ` of the last PUT, and its topic
        self._closed = False

    @property
    def buffered(self) -> int:
        """Bytes held back because their frame is incomplete."""
        return len(self._partial)

    @property
    def closed(self) -> bool:
        """Whether an `Invalid` with `fatal` was returned: whatever else arrives is dropped."""
        return self._closed

    def check_invariants(self) -> None:
        """What holds between any two feeds."""
        assert len(self._partial) <= self._max + HEADER_BYTES
        assert self._skip == 0 or not self._partial
        assert 0 <= self._skip <= MAX_SKIP_BYTES

    def feed(self, data: bytes) -> list[Request]:
        """Take the next bytes of the stream; return the requests that are now complete, in order."""
        if self._closed:
            return []
        if self._skip:
            skipped = min(self._skip, len(data))
            self._skip -= skipped
            data = data[skipped:]
        if self._partial:
            # Appending to a bytearray and looking only when the frame is complete keeps a client that
            # sends a long frame byte by byte from costing the square of its length.
            self._partial += data
            if len(self._partial) < self._needed:
                return []
            data = bytes(self._partial)
            self._partial = bytearray()
        return self._parse(data)

    def _parse(self, data: bytes) -> list[Request]:
        requests: list[Request] = []
        position, end = 0, len(data)
        while end - position >= HEADER_BYTES:
            (length,) = _LENGTH.unpack_from(data, position)
            if not 0 < length <= self._max:
                requests.append(Invalid(invalid_frame_length(length, self._max), length > MAX_SKIP_BYTES))
                position = self._refuse(length, position + HEADER_BYTES, end)
                continue
            stop = position + HEADER_BYTES + length
            if stop > end:
                self._needed = stop - position
                break
            if data.startswith(b"PUT ", position + HEADER_BYTES):
                position = self._puts(data, position, stop, requests)
                continue
            request = parse_request(data[position + HEADER_BYTES : stop])
            if isinstance(request, Get):
                request, stop = _gets(data, position, stop, request)
            elif isinstance(request, Fetch):
                request, stop = _fetches(data, stop, request, self._max)
            requests.append(request)
            position = stop
        else:
            self._needed = HEADER_BYTES
        if position < end:
            self._partial += memoryview(data)[position:]
        return requests

    def _refuse(self, length: int, position: int, end: int) -> int:
        """Skip the body of a frame that is too long, or give up; returns where to go on."""
        if length > MAX_SKIP_BYTES:
            self._closed = True
            return end
        skipped = min(length, end - position)
        self._skip = length - skipped
        return position + skipped

    def _puts(self, data: bytes, position: int, stop: int, requests: list[Request]) -> int:
        """The run of PUTs to one topic that starts with the complete frame at `position`."""
        body = position + HEADER_BYTES
        prefix, topic = self._topic
        if not prefix or not data.startswith(prefix, body, stop):
            request = _first_put(data, body, stop)
            if isinstance(request, Invalid):
                requests.append(request)
                return stop
            self._topic = prefix, topic = request
        batch, position = _run(data, position, prefix, self._max)
        requests.append(Put(topic, batch))
        return position


def _first_put(data: bytes, body: int, stop: int) -> tuple[bytes, str] | Invalid:
    """`PUT <topic> ` as bytes and its topic, from the PUT in `data[body:stop]`."""
    space = data.find(b" ", body + 4, stop)
    if space > body + 4:
        try:
            return data[body : space + 1], _name(data[body + 4 : space], INVALID_TOPIC)
        except _Refused as refused:
            return Invalid(str(refused))
    invalid = parse_request(data[body:stop])
    assert isinstance(invalid, Invalid)
    return invalid


def _run(data: bytes, position: int, prefix: bytes, limit: int) -> tuple[Batch, int]:
    """The payloads of the complete frames from `position` on that start with `prefix`, and where they end.

    The caller has looked at the first one. This is the hottest loop of the project.
    """
    payloads: list[bytes] = []
    skip, end = HEADER_BYTES + len(prefix), len(data)
    if end - position >= skip * _AT_ONCE:
        payloads, position = _equals(data, position, skip)
    equals = len(payloads)
    append, startswith, unpack_from = payloads.append, data.startswith, _LENGTH.unpack_from
    while end - position >= skip:
        (length,) = unpack_from(data, position)
        stop = position + HEADER_BYTES + length
        if stop > end or length > limit or not startswith(prefix, position + HEADER_BYTES, stop):
            break
        append(data[position + skip : stop])
        position = stop
    if len(payloads) == 1:
        return Batch(_LENGTH.pack(len(payloads[0])), payloads[0]), position
    if len(payloads) == equals:
        return Batch(_LENGTH.pack(len(payloads[0])) * len(payloads), b"".join(payloads)), position
    return Batch.of(payloads), position


_AT_ONCE: Final = 32


@lru_cache(maxsize=256)
def _stride(skip: int, payload: int) -> struct.Struct:
    """Takes `_AT_ONCE` payloads of one length out of as many frames."""
    return struct.Struct(f"{skip}x{payload}s" * _AT_ONCE)


def _equals(data: bytes, position: int, skip: int) -> tuple[list[bytes], int]:
    """The payloads of the frames from `position` on whose header equals the first one's `skip` bytes.

    Neighbouring entries often have one length, and then nothing needs to be parsed: byte k of the first
    frame's header must come back `size` bytes later, again and again. One strided slice for each byte
    of the header says for how many frames it does, without a turn of the interpreter for each frame.
    """
    (length,) = _LENGTH.unpack_from(data, position)
    size = HEADER_BYTES + length
    count = (len(data) - position) // size
    if not data.startswith(data[position : position + skip], position + size):
        return [], position
    for k in range(skip):
        if count < _AT_ONCE:
            return [], position
        column = data[position + k : position + count * size : size]
        count = len(column) - len(column.lstrip(column[:1]))
    payloads: list[bytes] = []
    stop, stride = position + count * size, _stride(skip, size - skip)
    while stop - position >= size * _AT_ONCE:
        payloads += stride.unpack_from(data, position)
        position += size * _AT_ONCE
    payloads += [data[start + skip : start + size] for start in range(position, stop, size)]
    return payloads, stop


# --- requests and replies: values -> bytes --------------------------------------------------------


def frame(body: bytes) -> bytes:
    """`body` with its length in front."""
    return _LENGTH.pack(len(body)) + body


def encode_request(body: bytes) -> bytes:
    """One request's frame, from the text of the request."""
    return frame(body)


def encode_puts(topic: str, payloads: Sequence[bytes]) -> bytes:
    """The frames of one PUT for each payload."""
    prefix = b"PUT %b " % topic.encode()
    base, pack = len(prefix), _LENGTH.pack
    return b"".join([pack(base + len(payload)) + prefix + payload for payload in payloads])


OK: Final = frame(b"OK")
EMPTY: Final = frame(b"EMPTY")


def ok(payload: bytes) -> bytes:
    """The reply to a GET that found an entry."""
    return _LENGTH.pack(3 + len(payload)) + b"OK " + payload


def empty() -> bytes:
    """The reply to a GET or FETCH at the end of what there is."""
    return EMPTY


def error(reason: str) -> bytes:
    """A refusal. Whatever the reason is made of, it stays one line."""
    return frame(b"ERR " + " ".join(reason.split()).encode(errors="replace"))


def json_reply(text: str | bytes) -> bytes:
    """The reply to STATE and METRICS: bare JSON."""
    return frame(text if isinstance(text, bytes) else text.encode())


def ok_fetch(next_offset: int, payload: bytes) -> bytes:
    """The reply to a FETCH that found an entry; `next_offset` is where to go on."""
    return frame(b"OK %d %b" % (next_offset, payload))


def ok_many(payloads: Sequence[bytes]) -> bytes:
    """The replies to as many GETs as there are payloads."""
    pack = _LENGTH.pack
    return b"".join([pack(3 + len(payload)) + b"OK " + payload for payload in payloads])


def ok_fetch_many(offset: int, payloads: Sequence[bytes]) -> bytes:
    """The replies to a run of FETCHes that starts at `offset`, one for each payload."""
    return b"".join([ok_fetch(next_, payload) for next_, payload in enumerate(payloads, offset + 1)])


# --- replies: bytes -> values (the client's side) -------------------------------------------------


class Ok(msgspec.Struct, frozen=True, gc=False):
    """`OK`, or `OK <payload>`. A FETCH's next offset is still in front of the payload here."""

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


class ReplyParser:
    """The replies of one node, out of the pieces in which its bytes arrive.

    >>> parser = ReplyParser()
    >>> parser.feed(OK + ok(b"hello")[:6]), parser.feed(ok(b"hello")[6:])
    ([Ok(payload=None)], [Ok(payload=b'hello')])
    """

    __slots__ = ("_max", "_needed", "_partial")

    def __init__(self, max_reply_bytes: int = MAX_REPLY_BYTES) -> None:
        self._max = max_reply_bytes
        self._partial = bytearray()
        self._needed = 0

    def feed(self, data: bytes) -> list[Reply]:
        """Take the next bytes of the stream; return the replies that are now complete, in order."""
        if self._partial:
            self._partial += data
            if len(self._partial) < self._needed:
                return []
            data = bytes(self._partial)
            self._partial = bytearray()
        replies: list[Reply] = []
        position, end = 0, len(data)
        self._needed = HEADER_BYTES
        while end - position >= HEADER_BYTES:
            (length,) = _LENGTH.unpack_from(data, position)
            if not 0 < length <= self._max:
                raise ProtocolError(f"a reply of {length} bytes: at most {self._max} make sense")
            stop = position + HEADER_BYTES + length
            if stop > end:
                self._needed = stop - position
                break
            replies.append(parse_reply(data[position + HEADER_BYTES : stop]))
            position = stop
        if position < end:
            self._partial += memoryview(data)[position:]
        return replies


# --- peer frames ----------------------------------------------------------------------------------

_Message = TypeVar("_Message")


class PeerCodec(Generic[_Message]):
    """Messages between nodes: `union` is the union of all message types (frozen, tagged Structs).

    One codec serves all connections of a node; each connection has its own `PeerParser`.
    """

    __slots__ = ("_decoder", "_encoder")

    def __init__(self, union: Any) -> None:
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder: msgspec.msgpack.Decoder[_Message] = msgspec.msgpack.Decoder(union)

    def encode(self, message: _Message) -> bytes:
        """The frame of one message."""
        body = self._encoder.encode(message)
        assert len(body) <= MAX_PEER_FRAME_BYTES, f"{type(message).__name__} of {len(body)} bytes"
        return _LENGTH.pack(len(body)) + body

    def decode(self, body: bytes | memoryview) -> _Message:
        """The message in the body of one frame; raises `ProtocolError`."""
        try:
            return self._decoder.decode(body)
        except (msgspec.MsgspecError, ValueError, RecursionError, MemoryError) as error:
            raise ProtocolError(f"not a message that this version knows: {error}") from error

    def parser(self, limit: int = MAX_PEER_FRAME_BYTES) -> PeerParser[_Message]:
        """A parser for one connection that takes frames of up to `limit` bytes."""
        return PeerParser(self, limit)


class PeerParser(Generic[_Message]):
    """The messages of one peer, out of the pieces in which its bytes arrive.

    `limit` may be changed between feeds: a connection that has not shown its Hello yet deserves less.
    """

    __slots__ = ("_codec", "_needed", "_partial", "limit")

    def __init__(self, codec: PeerCodec[_Message], limit: int = MAX_PEER_FRAME_BYTES) -> None:
        self._codec = codec
        self._partial = bytearray()
        self._needed = 0
        self.limit = limit

    @property
    def buffered(self) -> int:
        """Bytes held back because their frame is incomplete."""
        return len(self._partial)

    def feed(self, data: bytes) -> list[_Message]:
        """Take the next bytes; return the complete messages in order. Raises `ProtocolError`."""
        whole: bytes | bytearray = data
        if self._partial:
            self._partial += data
            if len(self._partial) < self._needed:
                return []
            whole, self._partial = self._partial, bytearray()
        messages: list[_Message] = []
        position, end = 0, len(whole)
        self._needed = HEADER_BYTES
        view = memoryview(whole)  # decoding from a view copies a batch's bytes once, into their final place
        while end - position >= HEADER_BYTES:
            (length,) = _LENGTH.unpack_from(whole, position)
            if not 0 < length <= self.limit:
                raise ProtocolError(f"a frame of {length} bytes: 1 to {self.limit} are allowed here")
            stop = position + HEADER_BYTES + length
            if stop > end:
                self._needed = stop - position
                break
            messages.append(self._codec.decode(view[position + HEADER_BYTES : stop]))
            position = stop
        if position < end:
            self._partial += view[position:]
        return messages
