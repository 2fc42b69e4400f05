"""What a client may ask: requests as values, and the node's parser that turns bytes into them.

A body is a command word and its arguments, separated by single spaces (the table is in `protocol.py`). The
payload of PUT is everything after the second space, byte for byte, and may be empty: a zero-length entry is
an entry. Only a PUT without its second space is refused ("requires a payload"). Everything else is UTF-8.

One value may stand for a run of requests (`runs.py`). `replies` says how many replies it is owed.

Invariants:

* bytes from a client never raise an exception: a malformed request becomes an `Invalid`, in its place in the
  order;
* the requests do not depend on how the stream is cut into pieces; only their grouping into runs does;
* the sum of `replies` over all requests is the number of frames.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Final, Literal, TypeAlias

import msgspec

from walrus.segments import Position
from walrus.settings import parse_setting
from walrus.storage.batch import Batch
from walrus.wire import errors, runs
from walrus.wire.framing import HEADER_BYTES, LENGTH, MAX_SKIP_BYTES, FrameParser, frame, repeated
from walrus.wire.receipts import Receipt, parse_receipt

DEFAULT_MAX_FRAME_BYTES: Final = 65_536
MAX_NAME_BYTES: Final = 255
MAX_NUMBER: Final = 2**63 - 1
MAX_WAIT_MS: Final = 86_400_000
"""One day: the longest wait, delay or extension that a client may ask for."""
MAX_TOGETHER: Final = 2_000
"""The most ACKs, or RECEIVEs, that one request stands for."""

# --- values ---------------------------------------------------------------------------------------


class _Request(msgspec.Struct, frozen=True, gc=False):
    """Base of all requests."""

    @property
    def replies(self) -> int:
        """Number of replies owed."""
        return 1


class Register(_Request, frozen=True):
    """Create a topic with these settings; an existing topic with other values for them is refused."""

    topic: str
    settings: dict[str, int] = {}


class Configure(_Request, frozen=True):
    """Change settings of a topic: see `walrus/settings.py`."""

    topic: str
    settings: dict[str, int]


class Delete(_Request, frozen=True):
    """Delete a topic with all its entries and groups."""

    topic: str


class Put(_Request, frozen=True):
    """Append entries, in order: a run of PUTs to one topic, each entry of which is owed its own reply.

    A run of PUBs has one producer and consecutive numbers; the single stamp of its batch holds them.
    """

    topic: str
    batch: Batch
    positions: bool = False
    """Whether the replies contain the positions of the entries."""

    @property
    def replies(self) -> int:
        """Number of replies owed."""
        return self.batch.count


class Get(_Request, frozen=True):
    """Read the next entries and move the cursor of `group`; "" is the topic's shared cursor."""

    topic: str
    group: str = ""
    count: int = 1
    wait_ms: int = 0
    """How long the node waits for an entry before it answers EMPTY."""

    @property
    def replies(self) -> int:
        """Number of replies owed."""
        return self.count


class Fetch(_Request, frozen=True):
    """Read entries `offset` to `offset + count - 1` of one segment; no cursor moves."""

    topic: str
    segment: int
    offset: int
    count: int = 1
    wait_ms: int = 0
    """As for `Get`; only a FETCH of one entry may wait, not a run."""
    times: bool = False
    """Whether the replies contain the append times of the entries."""

    @property
    def replies(self) -> int:
        """Number of replies owed."""
        return self.count


class Receive(_Request, frozen=True):
    """Hand out the next entries of a group that are neither acknowledged nor handed out already."""

    topic: str
    group: str
    wait_ms: int = 0
    """As for `Get`."""
    count: int = 1
    times: bool = False
    """As for `Fetch`."""

    @property
    def replies(self) -> int:
        """Number of replies owed."""
        return self.count


class Ack(_Request, frozen=True):
    """The work is done: never hand these entries out to that group again."""

    topic: str
    group: str
    receipts: tuple[Receipt, ...]

    @property
    def replies(self) -> int:
        """Number of replies owed."""
        return len(self.receipts)


class Nack(_Request, frozen=True):
    """Give an entry back, to be handed out again after the delay."""

    topic: str
    group: str
    receipt: Receipt
    delay_ms: int = 0


class Extend(_Request, frozen=True):
    """The work takes longer: the visibility timeout starts again, with this length."""

    topic: str
    group: str
    receipt: Receipt
    ms: int


class Time(msgspec.Struct, frozen=True):
    """A position by time: that of the first entry appended at `ms` (unix milliseconds) or later."""

    ms: int


class Seek(_Request, frozen=True):
    """Move a group, forwards or back. Its outstanding deliveries are forgotten."""

    topic: str
    group: str
    to: Position | Time | Literal["begin", "end"]


class Find(_Request, frozen=True):
    """Return the position of a time; no cursor moves."""

    topic: str
    time: Time


class State(_Request, frozen=True):
    """Describe a topic's segments, leaders, replicas and cursors."""

    topic: str


class Topics(_Request, frozen=True):
    """List the topics whose names begin with `prefix`, in order."""

    prefix: str = ""


class Groups(_Request, frozen=True):
    """List a topic's consumer groups, with the position and lag of each."""

    topic: str


class Metrics(_Request, frozen=True):
    """Report the answering node's own view of itself and of the cluster."""


class Leave(_Request, frozen=True):
    """Remove a member; with `force` also if fewer voters remain than the replication factor."""

    node_id: int
    force: bool = False


class Recover(_Request, frozen=True):
    """An operator's decision: recover this segment from the copies that answer, even unsure ones."""

    topic: str
    segment: int


class Greeting(_Request, frozen=True):
    """HELLO: set the format of replies on this connection from now on."""

    positions: bool = False
    times: bool = False

    @property
    def granted(self) -> str:
        """The answer: the options in effect, as far as this node knows them."""
        options = {"positions=1": self.positions, "times=1": self.times}
        return " ".join(option for option, counts in options.items() if counts)


class Auth(_Request, frozen=True):
    """AUTH: identify the client. A node without `--auth-file` ignores the token."""

    token: str

    def __repr__(self) -> str:
        return "Auth(token=...)"  # in no log, and in no assertion


class Invalid(_Request, frozen=True):
    """A malformed request. After a `fatal` one the connection is closed, once everything before it and this
    error have been answered."""

    reason: errors.Reason
    fatal: bool = False


Delivering: TypeAlias = Receive | Ack | Nack | Extend | Seek
"""The requests of work queues."""

Describing: TypeAlias = State | Topics | Groups | Metrics
"""Requests that are answered with JSON."""

Request: TypeAlias = (
    Register
    | Configure
    | Delete
    | Put
    | Get
    | Fetch
    | Find
    | Delivering
    | Describing
    | Leave
    | Recover
    | Auth
    | Greeting
    | Invalid
)


# --- bytes -> values -------------------------------------------------------------------------------

# A fixed set rather than str.isprintable(), which depends on the interpreter's Unicode version: nodes on
# different Python versions must accept the same names. C0, space, DEL, C1, and Unicode's other spaces.
_FORBIDDEN_IN_NAME: Final = re.compile(
    "[\x00-\x20\x7f-\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]"
)


def valid_name(name: str) -> bool:
    """Whether `name` may be that of a topic, a consumer group or a producer.

    >>> valid_name("orders/eu"), valid_name(""), valid_name("a b"), valid_name("\\n"), valid_name("é" * 128)
    (True, False, False, False, False)
    """
    try:
        size = len(name.encode())
    except UnicodeEncodeError:  # a lone surrogate: a str, but no UTF-8
        return False
    return 0 < size <= MAX_NAME_BYTES and not _FORBIDDEN_IN_NAME.search(name)


class _Refused(Exception):
    """Raised and caught in this module: carries the reason to `parse_request`, which returns `Invalid`."""

    def __init__(self, reason: errors.Reason) -> None:
        super().__init__(reason)
        self.reason = reason


@lru_cache(maxsize=4096)
def _name(raw: bytes, reason: errors.Reason) -> str:
    """Decode and check a name. Cached for all connections; refusals are not cached."""
    try:
        name = raw.decode()
    except UnicodeDecodeError:
        raise _Refused(errors.INVALID_UTF8) from None
    if not valid_name(name):
        raise _Refused(reason)
    return name


def _number(raw: bytes, least: int, reason: errors.Reason) -> int:
    """Parse a decimal number of plain digits; `int` alone would accept signs, spaces and underscores."""
    if not raw.isdigit() or len(raw) > 19 or not least <= int(raw) <= MAX_NUMBER:
        raise _Refused(reason)
    return int(raw)


def _register(rest: bytes) -> Request:
    topic, *settings = rest.split(b" ")
    if not topic:
        raise _Refused(errors.REGISTER_REQUIRES)
    return Register(_name(topic, errors.INVALID_TOPIC), _settings(settings))


def _configure(rest: bytes) -> Request:
    topic, *settings = rest.split(b" ")
    if not topic or not settings:
        raise _Refused(errors.CONFIGURE_REQUIRES)
    return Configure(_name(topic, errors.INVALID_TOPIC), _settings(settings))


def _settings(words: list[bytes]) -> dict[str, int]:
    """Parse `<key>=<value>` words; one invalid word refuses the request."""
    settings: dict[str, int] = {}
    for word in words:
        try:
            name, value = parse_setting(word.decode())
        except UnicodeDecodeError:
            raise _Refused(errors.INVALID_UTF8) from None
        except ValueError as error:
            raise _Refused(errors.invalid_setting(str(error))) from None
        if settings.setdefault(name, value) != value:
            raise _Refused(errors.invalid_setting(f"{name} is given twice, with two values"))
    return settings


def _delete(rest: bytes) -> Request:
    if not rest:
        raise _Refused(errors.DELETE_REQUIRES)
    return Delete(_name(rest, errors.INVALID_TOPIC))


def _put(rest: bytes) -> Request:
    topic, space, payload = rest.partition(b" ")
    if not topic:
        raise _Refused(errors.PUT_REQUIRES_TOPIC)
    name = _name(topic, errors.INVALID_TOPIC)
    if not space:
        raise _Refused(errors.PUT_REQUIRES_PAYLOAD)
    return Put(name, Batch.of((payload,)))


def _pub(rest: bytes) -> Request:
    topic, _, behind = rest.partition(b" ")
    producer, _, behind = behind.partition(b" ")
    sequence, space, payload = behind.partition(b" ")
    if not topic or not producer or not space:
        raise _Refused(errors.PUB_REQUIRES)
    name, whose = _name(topic, errors.INVALID_TOPIC), _name(producer, errors.INVALID_PRODUCER)
    return Put(name, Batch.of((payload,)).stamped(whose, _number(sequence, 0, errors.PUB_REQUIRES), 0))


def _get(rest: bytes) -> Request:
    topic, space, group = rest.partition(b" ")
    if not topic:
        raise _Refused(errors.GET_REQUIRES)
    name = _name(topic, errors.INVALID_TOPIC)
    group, waiting, wait = group.partition(b" ")
    return Get(
        name,
        _name(group, errors.INVALID_GROUP) if space else "",
        wait_ms=_milliseconds([wait]) if waiting else 0,
    )


def _fetch(rest: bytes) -> Request:
    parts = rest.split(b" ")
    if not 3 <= len(parts) <= 4 or not parts[0]:
        raise _Refused(errors.FETCH_REQUIRES)
    topic, segment, offset, *wait = parts
    name = _name(topic, errors.INVALID_TOPIC)
    place = _number(segment, 1, errors.FETCH_REQUIRES), _number(offset, 0, errors.FETCH_REQUIRES)
    return Fetch(name, *place, wait_ms=_milliseconds(wait))


def _group_of(rest: bytes, least: int, most: int, reason: errors.Reason) -> tuple[str, str, list[bytes]]:
    """Parse topic and group, and return `least` to `most` further arguments."""
    topic, *others = rest.split(b" ")
    if not topic or not least < len(others) <= most + 1:
        raise _Refused(reason)
    return _name(topic, errors.INVALID_TOPIC), _name(others[0], errors.INVALID_GROUP), others[1:]


def _milliseconds(raw: list[bytes]) -> int:
    """Parse the optional argument that is a duration; 0 without it."""
    number = _number(raw[0], 0, errors.INVALID_TIME) if raw else 0
    if number > MAX_WAIT_MS:
        raise _Refused(errors.INVALID_TIME)
    return number


def _receipt(raw: bytes) -> Receipt:
    receipt = parse_receipt(raw)
    if receipt is None:
        raise _Refused(errors.INVALID_RECEIPT)
    return receipt


def _receive(rest: bytes) -> Request:
    topic, group, wait = _group_of(rest, 0, 1, errors.RECEIVE_REQUIRES)
    return Receive(topic, group, _milliseconds(wait))


def _ack(rest: bytes) -> Request:
    topic, group, (receipt,) = _group_of(rest, 1, 1, errors.ACK_REQUIRES)
    return Ack(topic, group, (_receipt(receipt),))


def _nack(rest: bytes) -> Request:
    topic, group, (receipt, *delay) = _group_of(rest, 1, 2, errors.NACK_REQUIRES)
    return Nack(topic, group, _receipt(receipt), _milliseconds(delay))


def _extend(rest: bytes) -> Request:
    topic, group, (receipt, *time) = _group_of(rest, 2, 2, errors.EXTEND_REQUIRES)
    return Extend(topic, group, _receipt(receipt), _milliseconds(time))


def _moment(raw: bytes, reason: errors.Reason) -> Time:
    """Parse `time=<unix ms>`."""
    if not raw.startswith(b"time="):
        raise _Refused(reason)
    return Time(_number(raw.removeprefix(b"time="), 0, reason))


def _find(rest: bytes) -> Request:
    topic, _, time = rest.partition(b" ")
    if not topic:
        raise _Refused(errors.FIND_REQUIRES)
    return Find(_name(topic, errors.INVALID_TOPIC), _moment(time, errors.FIND_REQUIRES))


def _seek(rest: bytes) -> Request:
    topic, group, to = _group_of(rest, 1, 2, errors.SEEK_REQUIRES)
    if to == [b"begin"]:
        return Seek(topic, group, "begin")
    if to == [b"end"]:
        return Seek(topic, group, "end")
    if len(to) == 1:
        return Seek(topic, group, _moment(to[0], errors.SEEK_REQUIRES))
    if len(to) != 2:
        raise _Refused(errors.SEEK_REQUIRES)
    segment, offset = _number(to[0], 1, errors.SEEK_REQUIRES), _number(to[1], 0, errors.SEEK_REQUIRES)
    return Seek(topic, group, Position(segment, offset))


def _state(rest: bytes) -> Request:
    if not rest:
        raise _Refused(errors.STATE_REQUIRES)
    return State(_name(rest, errors.INVALID_TOPIC))


def _topics(rest: bytes) -> Request:
    return Topics(_name(rest, errors.INVALID_TOPIC) if rest else "")


def _groups(rest: bytes) -> Request:
    if not rest:
        raise _Refused(errors.GROUPS_REQUIRES)
    return Groups(_name(rest, errors.INVALID_TOPIC))


def _metrics(rest: bytes) -> Request:
    if rest:
        raise _Refused(errors.METRICS_TAKES_NOTHING)
    return Metrics()


def _leave(rest: bytes) -> Request:
    node, *force = rest.split(b" ")
    if force not in ([], [b"force"]):
        raise _Refused(errors.LEAVE_REQUIRES)
    return Leave(_number(node, 1, errors.LEAVE_REQUIRES), bool(force))


def _recover(rest: bytes) -> Request:
    topic, _, segment = rest.partition(b" ")
    if not topic or not segment:
        raise _Refused(errors.RECOVER_REQUIRES)
    return Recover(_name(topic, errors.INVALID_TOPIC), _number(segment, 1, errors.RECOVER_REQUIRES))


def _auth(rest: bytes) -> Request:
    if not rest or b" " in rest:
        raise _Refused(errors.AUTH_REQUIRES)
    return Auth(rest.decode())


def _hello(rest: bytes) -> Request:
    """Options that this release does not know are accepted, and left out of the answer."""
    wanted: dict[bytes, bool] = {}
    for word in rest.split(b" "):
        option, _, value = word.partition(b"=")
        if not option or value not in (b"0", b"1"):
            raise _Refused(errors.HELLO_REQUIRES)
        wanted[option] = value == b"1"
    return Greeting(positions=wanted.get(b"positions", False), times=wanted.get(b"times", False))


_COMMANDS: Final[dict[bytes, Callable[[bytes], Request]]] = {
    b"REGISTER": _register,
    b"CONFIGURE": _configure,
    b"DELETE": _delete,
    b"PUT": _put,
    b"PUB": _pub,
    b"GET": _get,
    b"FETCH": _fetch,
    b"FIND": _find,
    b"RECEIVE": _receive,
    b"ACK": _ack,
    b"NACK": _nack,
    b"EXTEND": _extend,
    b"SEEK": _seek,
    b"STATE": _state,
    b"TOPICS": _topics,
    b"GROUPS": _groups,
    b"METRICS": _metrics,
    b"LEAVE": _leave,
    b"RECOVER": _recover,
    b"AUTH": _auth,
    b"HELLO": _hello,
}
COMMANDS: Final = tuple(word.decode() for word in _COMMANDS)


def parse_request(body: bytes) -> Request:
    """Parse the body of one frame as a request; an `Invalid` if it is not one.

    >>> parse_request(b"GET orders billing")
    Get(topic='orders', group='billing', count=1, wait_ms=0)
    >>> parse_request(b"PUT orders  two spaces ").batch.payloads()
    [b' two spaces ']
    """
    word, _, rest = body.partition(b" ")
    parse = _COMMANDS.get(word)
    try:
        if parse is None:
            word.decode()
            return Invalid(errors.UNKNOWN_COMMAND)
        return parse(rest)
    except _Refused as refused:
        return Invalid(refused.reason)
    except UnicodeDecodeError:
        return Invalid(errors.INVALID_UTF8)


_NO_GREETING: Final = Greeting()


class RequestParser(FrameParser[Request]):
    """Parses the stream of one client connection into requests.

    >>> parser = RequestParser()
    >>> puts = parser.feed(encode_request(b"PUT t a") + encode_request(b"PUT t b") + b"\\x07")
    >>> [(put.topic, put.batch) for put in puts]
    [('t', Batch(lengths=b'\\x01\\x00\\x00\\x00\\x01\\x00\\x00\\x00', blob=b'ab'))]
    >>> parser.feed(b"\\x00\\x00\\x00METRICS")
    [Metrics()]
    """

    __slots__ = ("_hello", "_put")

    def __init__(self, max_frame_bytes: int = DEFAULT_MAX_FRAME_BYTES) -> None:
        super().__init__(max_frame_bytes)
        self._hello = _NO_GREETING  # the last one
        self._put = (
            b"",
            "",
        )  # `PUT <topic> ` of the last PUT, and its topic: bytes are compared before they are decoded

    def _take(self, data: bytes, start: int, stop: int, values: list[Request]) -> int:
        body = start + HEADER_BYTES
        if data.startswith(b"PUT ", body, stop):
            return self._take_puts(data, start, stop, values)
        request = parse_request(data[body:stop])
        if self._hello.times and isinstance(request, Fetch | Receive):
            request = msgspec.structs.replace(request, times=True)
        if isinstance(request, Get):
            count, stop = repeated(data, start, stop)
            request = msgspec.structs.replace(request, count=count)
        elif isinstance(request, Fetch) and not request.wait_ms:
            topic, segment, offset = request.topic, request.segment, request.offset
            prefix = b"FETCH %b %d " % (topic.encode(), segment)
            count, stop = runs.consecutive(data, stop, prefix, offset, b"", self.limit, MAX_NUMBER)
            request = Fetch(topic, segment, offset, count, times=request.times)
        elif isinstance(request, Put):
            request, stop = self._take_pubs(request, data, stop)
        elif isinstance(request, Receive):
            count, stop = repeated(data, start, stop)
            values += _pieces(request, count)
            return stop
        elif isinstance(request, Ack):
            request, stop = self._take_acks(request, data, stop)
        elif isinstance(request, Greeting):
            self._hello = request
        values.append(request)
        return stop

    def _take_puts(self, data: bytes, start: int, stop: int, values: list[Request]) -> int:
        """Take the run of PUTs to one topic that starts with the frame `data[start:stop]`."""
        body = start + HEADER_BYTES
        prefix, topic = self._put
        if not prefix or not data.startswith(prefix, body, stop):
            first = _first_put(data, body, stop)
            if isinstance(first, Invalid):
                values.append(first)
                return stop
            self._put = prefix, topic = first
        batch, stop = runs.puts(data, start, prefix, self.limit)
        values.append(Put(topic, batch, self._hello.positions))
        return stop

    def _take_pubs(self, first: Put, data: bytes, stop: int) -> tuple[Put, int]:
        """Take the run of PUBs of one producer that begins with `first`, whose frame ends at `stop`."""
        (stamp,) = first.batch.stamps
        prefix = b"PUB %b %b " % (first.topic.encode(), stamp.producer.encode())
        more, stop = runs.numbered(data, stop, prefix, stamp.first + 1, self.limit, MAX_NUMBER)
        batch = Batch.of([first.batch.blob, *more]) if more else first.batch
        batch = batch.stamped(stamp.producer, stamp.first, 0)
        return Put(first.topic, batch, self._hello.positions), stop

    def _take_acks(self, first: Ack, data: bytes, stop: int) -> tuple[Ack, int]:
        """Take the run of ACKs of one group that begins with `first`, whose frame ends at `stop`."""
        prefix = b"ACK %b %b " % (first.topic.encode(), first.group.encode())
        receipts, end = list(first.receipts), len(data)
        while len(receipts) < MAX_TOGETHER and end - stop >= HEADER_BYTES:
            (length,) = LENGTH.unpack_from(data, stop)
            body, after = stop + HEADER_BYTES, stop + HEADER_BYTES + length
            if after > end or length > self.limit or not data.startswith(prefix, body, after):
                break
            receipt = parse_receipt(data[body + len(prefix) : after])
            if receipt is None:
                break  # not a receipt: the frame is parsed by itself, and refused in its place
            number, offset, generation, delivery = receipt
            front, back = b"%b%d." % (prefix, number), b".%d.%d" % (generation, delivery)
            last = min(MAX_NUMBER, offset + MAX_TOGETHER - len(receipts) - 1)
            count, stop = runs.consecutive(data, after, front, offset, back, self.limit, last)
            receipts += [Receipt(number, offset + at, generation, delivery) for at in range(count)]
        return Ack(first.topic, first.group, tuple(receipts)), stop

    def _refuse(self, length: int, values: list[Request]) -> int | None:
        """Answer a frame that is empty or too long. Skip it, or give up the stream if it is far too long."""
        fatal = length > MAX_SKIP_BYTES
        values.append(Invalid(errors.invalid_frame_length(length, self.limit), fatal))
        return None if fatal else length


def _pieces(receive: Receive, left: int) -> Iterator[Receive]:
    """Split a run of `left` equal RECEIVEs into requests of at most `MAX_TOGETHER`."""
    while left:
        count = min(left, MAX_TOGETHER)
        yield msgspec.structs.replace(receive, count=count)
        left -= count


def _first_put(data: bytes, body: int, stop: int) -> tuple[bytes, str] | Invalid:
    """Return the prefix `PUT <topic> ` as bytes, and the topic, of the PUT in `data[body:stop]`."""
    space = data.find(b" ", body + 4, stop)
    if space > body + 4:
        try:
            return data[body : space + 1], _name(data[body + 4 : space], errors.INVALID_TOPIC)
        except _Refused as refused:
            return Invalid(refused.reason)
    invalid = parse_request(data[body:stop])
    assert isinstance(invalid, Invalid)
    return invalid


# --- values -> bytes ------------------------------------------------------------------------------


def encode_request(body: bytes) -> bytes:
    """The frame of one request, from its text."""
    return frame(body)


def encode_pubs(topic: str, producer: str, first: int, payloads: Sequence[bytes]) -> bytes:
    """The frames of a PUB for each payload, numbered from `first` on."""
    prefix = b"PUB %b %b " % (topic.encode(), producer.encode())
    return b"".join([frame(b"%b%d %b" % (prefix, first + at, entry)) for at, entry in enumerate(payloads)])


def encode_puts(topic: str, payloads: Sequence[bytes]) -> bytes:
    """The frames of a PUT for each payload."""
    prefix = b"PUT %b " % topic.encode()
    base, pack = len(prefix), LENGTH.pack
    return b"".join([pack(base + len(payload)) + prefix + payload for payload in payloads])
