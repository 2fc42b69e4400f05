"""Calls: one function for each command, from arguments to frames and from replies to values.

Both clients check and normalise all arguments here, before anything is sent. A client writes into a stream
of frames, so an argument that is found invalid midway (a buffer whose length counts items, a generator that
raises, a topic with a space in it) would corrupt the requests after it, which may be those of another task.
After this module

    an entry       is `bytes`: a copy, if the caller passed a buffer that may still change
    entries        are a list of those, whatever iterable was passed
    a topic        is 1 to 255 bytes of UTF-8 without spaces or control characters
    a number       is an int in the protocol's range
    a timeout      is a finite number of seconds above 0

An argument of the wrong type raises `TypeError`, one out of range `ValueError`, and a name or an entry that
the protocol does not allow `InvalidTopic` or `PayloadTooLarge`. None of them affects the connection.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import takewhile
from typing import (
    Any,
    Final,
    Generic,
    Literal,
    NamedTuple,
    NotRequired,
    SupportsFloat,
    TypeAlias,
    TypedDict,
    TypeVar,
)

import msgspec

from walrus import protocol
from walrus.acknowledged import Position
from walrus.client.errors import BadReply, InvalidTopic, PayloadTooLarge, WalrusError
from walrus.protocol import Empty, Error, Json, Ok, ProtocolError, Reply
from walrus.settings import parse_setting
from walrus.wire import errors
from walrus.wire.addresses import parse_address

DEFAULT_TIMEOUT: Final = 5.0
"""Seconds that a call may take, unless the client or the call says otherwise."""

HELLO: Final = protocol.frame(b"HELLO positions=1 times=1")
"""The beginning of a connection: asks for positions in replies to PUT and PUB, and for append times in
replies to FETCH and RECEIVE."""
UNTOLD: Final = Position(0, 0)
"""Stands for a position that the node did not return; its `known` is False."""

T = TypeVar("T")
Buffer: TypeAlias = bytes | bytearray | memoryview
"""The types of an entry. Any other object with a buffer, such as an `array.array`, is accepted, too."""

LONGEST_TIMEOUT: Final = 1e6
"""Seconds, about eleven days: `poll` can still count them in milliseconds."""
EPOCH: Final = datetime.fromtimestamp(0, UTC)
LAST_MS: Final = (datetime.max.replace(tzinfo=UTC) - EPOCH) // timedelta(milliseconds=1)
"""The end of the year 9999, in unix milliseconds."""
_UNKNOWN: Final = "it may have been done"


class TopicState(TypedDict):
    """The reply to STATE, as on the wire: the keys of JSON objects are strings."""

    current_segment: int
    leader_node: int
    last_sealed_entry_offset: int
    sealed_segments: dict[str, int]
    segment_leaders: dict[str, int]
    segment_replicas: NotRequired[dict[str, list[int]]]
    cursors: NotRequired[dict[str, Any]]
    first_segment: NotRequired[int]
    settings: NotRequired[dict[str, Any]]


class TopicSettings(TypedDict, total=False):
    """The settings of a topic. None: no limit; "default": as the flags of the nodes say."""

    retain_entries: int | Literal["default"] | None
    retain_bytes: int | Literal["default"] | None
    retain_seconds: int | Literal["default"] | None
    segment_entries: int | Literal["default"]
    segment_bytes: int | Literal["default"] | None
    segment_seconds: int | Literal["default"] | None
    visibility_ms: int | Literal["default"]
    max_deliveries: int | Literal["default"] | None
    protect_groups: bool | Literal["default"]


def moment(unix_ms: int) -> datetime | None:
    """Convert unix milliseconds into UTC; None for 0 (not known) and for times after the year 9999.

    >>> moment(1764140000123), moment(0)
    (datetime.datetime(2025, 11, 26, 6, 53, 20, 123000, tzinfo=datetime.timezone.utc), None)
    """
    return EPOCH + timedelta(milliseconds=unix_ms) if 0 < unix_ms <= LAST_MS else None


def unix_ms(time: object) -> int:
    """Convert a time into unix milliseconds, rounded down. Raises TypeError, ValueError.

    >>> unix_ms(datetime(1970, 1, 1, 0, 0, 1, 999, tzinfo=UTC))
    1000
    """
    if not isinstance(time, datetime):
        raise TypeError(f"a time is a datetime, not {type(time).__name__}")
    if time.utcoffset() is None:
        raise ValueError(f"a time needs its time zone, as in datetime.now(timezone.utc): got {time!r}")
    return max(0, (time - EPOCH) // timedelta(milliseconds=1))


class Entry(msgspec.Struct, frozen=True, gc=False):
    """An entry and its position. To go on after it, read from `offset + 1` in the same segment."""

    segment: int
    offset: int
    payload: bytes
    unix_ms: int = 0
    """The append time, in unix milliseconds; 0 if it is not known."""

    @property
    def time(self) -> datetime | None:
        """The append time, by the clock of the node that led the segment; None if it is not known.

        It is not known if the node that answers, or the one that appended the entry, runs a release without
        append times.
        """
        return moment(self.unix_ms)


class Found(NamedTuple):
    """The entry in the reply to a FETCH; the caller knows its position."""

    payload: bytes
    unix_ms: int = 0


_INVALID_NAME: Final = {"topic": errors.INVALID_TOPIC, "producer": errors.INVALID_PRODUCER}


# --- arguments ------------------------------------------------------------------------------------


def name_bytes(name: object, what: str = "topic") -> bytes:
    """Check and encode the name of a topic, consumer group or producer. Raises TypeError, InvalidTopic.

    >>> name_bytes("orders")
    b'orders'
    """
    if not isinstance(name, str):
        raise TypeError(f"a {what} is a str, not {type(name).__name__}")
    if not protocol.valid_name(name):
        reason = _INVALID_NAME.get(what, errors.INVALID_GROUP)
        raise InvalidTopic(f"{reason}; got {name[:80]!r}")
    return name.encode()


def entry_bytes(payload: object, room: int = protocol.MAX_SKIP_BYTES) -> bytes:
    """Return all bytes of an entry, whatever the item size and strides of its buffer are.

    Raises TypeError, or PayloadTooLarge above `room` bytes.

    >>> import array
    >>> entry_bytes(memoryview(array.array("H", [1, 2, 3, 4]))[::2]) == array.array("H", [1, 3]).tobytes()
    True
    """
    if type(payload) is bytes:
        _check_size(len(payload), room)
        return payload
    try:
        view = memoryview(payload)  # type: ignore[arg-type]
    except TypeError:
        hint = ': encode it, for example with text.encode("utf-8")' if isinstance(payload, str) else ""
        raise TypeError(f"an entry is bytes, not {type(payload).__name__}{hint}") from None
    _check_size(view.nbytes, room)
    return view.tobytes()


def _check_size(size: int, room: int) -> None:
    if size > room:
        raise PayloadTooLarge(f"an entry of {size} bytes: no node takes more than {room}")


def number(value: object, what: str, least: int) -> int:
    """Check a number of at least `least` that the protocol can represent. Raises TypeError, ValueError.

    >>> number(0, "segment", 1)
    Traceback (most recent call last):
    ValueError: segment is a number from 1, got 0
    """
    try:
        found = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(f"{what} is an int, not {type(value).__name__}") from None
    if not least <= found <= protocol.MAX_NUMBER:
        raise ValueError(f"{what} is a number from {least}, got {found}")
    return found


def address_text(address: object) -> str:
    """Check that an address is a str, before it is parsed. Raises TypeError."""
    if not isinstance(address, str):
        raise TypeError(f"an address is a str, HOST:PORT, not {type(address).__name__}")
    return address


def host_port(address: str) -> tuple[str, int]:
    """Parse an address into host and port. Raises ValueError."""
    try:
        return parse_address(address)
    except ValueError as error:
        raise ValueError(f"an address {error}") from None


def seconds(timeout: object) -> float:
    """Check a timeout in seconds, which must be finite. Raises TypeError, ValueError.

    >>> seconds(float("nan"))
    Traceback (most recent call last):
    ValueError: timeout is a number of seconds above 0 and at most 1000000, got nan
    """
    if not isinstance(timeout, SupportsFloat) or isinstance(timeout, str | bytes):
        raise TypeError(f"timeout is a number of seconds, not {type(timeout).__name__}")
    try:
        found = float(timeout)
    except OverflowError:  # of an int beyond every float
        found = math.inf
    if not 0 < found <= LONGEST_TIMEOUT:  # NaN is neither
        limits = f"above 0 and at most {LONGEST_TIMEOUT:.0f}"
        raise ValueError(f"timeout is a number of seconds {limits}, got {timeout!r:.40}")
    return found


# --- calls ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """`count` requests of one kind, and how to read a reply to one of them.

    `encode(start, stop)` returns the frames of requests `start` to `stop - 1`. `decode` turns a reply into a
    value, and raises `BadReply` for a reply of the wrong kind. `timed`, if set, replaces `decode` where
    replies contain append times. A call is `repeatable` if executing a request twice has the same effect as
    once. A `reading` call ends with the first EMPTY or error: no more of its requests are sent.
    """

    name: str
    count: int
    encode: Callable[[int, int], bytes]
    decode: Callable[[Reply], T]
    repeatable: bool
    reading: bool = False
    numbered: bool = False  # PUB: a request that is sent again takes effect once
    doubt: str = _UNKNOWN  # the text of OutcomeUnknown, if no reply arrives
    wait: float = 0.0  # for how many seconds the node is asked to wait before it answers
    again: Call[T] | None = None  # the call of a later attempt: the same without the wait
    timed: Callable[[Reply], T] | None = None  # how to read a reply that contains an append time

    def tail(self, start: int) -> Call[T]:
        """Return the call without its first `start` requests."""
        encode = self.encode
        again = self.again.tail(start) if self.again else None
        return replace(
            self, count=self.count - start, encode=lambda a, b: encode(a + start, b + start), again=again
        )


def single(
    text: bytes, decode: Callable[[str], Callable[[Reply], T]], *, repeatable: bool, doubt: str = _UNKNOWN
) -> Call[T]:
    """A call of a single request."""
    frame, name = protocol.frame(text), text.partition(b" ")[0].decode()
    return Call(name, 1, lambda start, stop: frame, decode(name), repeatable, doubt=doubt)


def setting_bytes(settings: TopicSettings) -> bytes:
    """Encode settings for the wire, each after a space.

    Raises ValueError for an invalid setting, TypeError if `settings` is not a mapping.

    >>> setting_bytes({"retain_bytes": None, "max_deliveries": 3, "protect_groups": True})
    b' retain_bytes=none max_deliveries=3 protect_groups=true'
    """
    if not isinstance(settings, Mapping):
        raise TypeError(f"settings are a dict of names and values, not a {type(settings).__name__}")
    words = []
    for name, value in settings.items():
        if isinstance(value, bool):
            text = "true" if value else "false"
        else:
            text = "none" if value is None else str(value)
        parse_setting(f"{name}={text}")
        words.append(f" {name}={text}")
    return "".join(words).encode()


def register(topic: str, settings: TopicSettings | None = None) -> Call[None]:
    """REGISTER."""
    text = b"REGISTER " + name_bytes(topic) + setting_bytes(settings or {})
    return single(text, plain_ok, repeatable=True)


def configure(topic: str, settings: TopicSettings) -> Call[None]:
    """CONFIGURE. Repeatable, although a change by another client in between is overwritten."""
    if not settings:
        raise ValueError("configure changes at least one setting")
    text = b"CONFIGURE " + name_bytes(topic) + setting_bytes(settings)
    return single(text, plain_ok, repeatable=True)


def delete(topic: str) -> Call[None]:
    """DELETE. Not repeatable: a second one could delete a topic that was registered in between."""
    text = b"DELETE " + name_bytes(topic)
    return single(text, plain_ok, repeatable=False, doubt="the topic may have been deleted")


def put(topic: str, payload: Buffer) -> Call[Position]:
    """PUT."""
    return put_many(topic, (payload,))


def put_many(topic: str, payloads: Iterable[Buffer]) -> Call[Position]:
    """A pipelined PUT for each payload."""
    room = protocol.MAX_SKIP_BYTES - len(b"PUT  ") - len(name_bytes(topic))
    if isinstance(payloads, str | bytes | bytearray | memoryview):
        raise TypeError(f"put_many takes many entries, not one {type(payloads).__name__}: use put")
    entries = [entry_bytes(payload, room) for payload in payloads]

    def encode(start: int, stop: int) -> bytes:
        return protocol.encode_puts(topic, entries[start:stop])

    return Call(
        "PUT",
        len(entries),
        encode,
        _appended("PUT"),
        repeatable=False,
        doubt="the entry may have been written",
    )


def pub_entries(topic: str, producer: str, payloads: Iterable[Buffer]) -> list[bytes]:
    """Check the entries of a producer. Raises TypeError, PayloadTooLarge."""
    room = protocol.MAX_SKIP_BYTES - len(b"PUB    ") - len(topic.encode()) - len(producer.encode()) - 19
    if isinstance(payloads, str | bytes | bytearray | memoryview):
        raise TypeError(f"put_many takes many entries, not one {type(payloads).__name__}: use put")
    return [entry_bytes(payload, room) for payload in payloads]


def pub_many(topic: str, producer: str, first: int, entries: list[bytes]) -> Call[Position]:
    """A pipelined PUB for each entry, numbered from `first` on."""

    def encode(start: int, stop: int) -> bytes:
        return protocol.encode_pubs(topic, producer, first + start, entries[start:stop])

    return Call(
        "PUB",
        len(entries),
        encode,
        _appended("PUB"),
        repeatable=False,
        numbered=True,
        doubt="the entry may have been written; sent again under its number, it is there once",
    )


def get_many(topic: str, count: int, group: str = "") -> Call[bytes | None]:
    """`count` pipelined GETs."""
    text = b"GET " + name_bytes(topic)
    if group != "":
        text += b" " + name_bytes(group, "group")
    frame, count = protocol.frame(text), number(count, "count", 0)
    return Call(
        "GET",
        count,
        lambda start, stop: frame * (stop - start),
        _payload,
        repeatable=False,
        reading=True,
        doubt="the cursor may have moved past entries that did not arrive",
    )


def fetch_many(topic: str, segment: int, offset: int, count: int) -> Call[Found | None]:
    """`count` pipelined FETCHes at consecutive offsets."""
    prefix = b"FETCH %b %d " % (name_bytes(topic), number(segment, "segment", 1))
    first, count = number(offset, "offset", 0), number(count, "count", 0)

    def encode(start: int, stop: int) -> bytes:
        return b"".join([protocol.frame(b"%b%d" % (prefix, first + n)) for n in range(start, stop)])

    return Call(
        "FETCH",
        count,
        encode,
        partial(_found, False),
        repeatable=True,
        reading=True,
        timed=partial(_found, True),
    )


def find(topic: str, time: datetime) -> Call[Position]:
    """FIND."""
    return single(b"FIND %b time=%d" % (name_bytes(topic), unix_ms(time)), _place, repeatable=True)


def state(topic: str) -> Call[dict[str, Any]]:
    """STATE."""
    return single(b"STATE " + name_bytes(topic), _json, repeatable=True)


def topics(prefix: str) -> Call[dict[str, Any]]:
    """TOPICS."""
    return single(b"TOPICS " + name_bytes(prefix) if prefix != "" else b"TOPICS", _json, repeatable=True)


def groups(topic: str) -> Call[dict[str, Any]]:
    """GROUPS."""
    return single(b"GROUPS " + name_bytes(topic), _json, repeatable=True)


def names_of(answer: dict[str, Any]) -> list[str]:
    """The names in the answer to TOPICS."""
    names = answer.get("topics")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise BadReply(f"TOPICS was answered without a list of names: {answer!r}"[:200])
    return names


def metrics() -> Call[dict[str, Any]]:
    """METRICS."""
    return single(b"METRICS", _json, repeatable=True)


def leave(node_id: int, force: bool = False) -> Call[None]:
    """LEAVE. Not repeatable: after a LEAVE that succeeded, a second one is answered "unknown node"."""
    if not isinstance(force, bool):  # a str such as "no" is true, and LEAVE cannot be undone
        raise TypeError(f"force is True or False, not {force!r}"[:100])
    text = b"LEAVE %d%s" % (number(node_id, "node_id", 1), b" force" if force else b"")
    return single(text, plain_ok, repeatable=False, doubt="the member may have been removed")


def recover(topic: str, segment: int) -> Call[None]:
    """RECOVER."""
    text = b"RECOVER %b %d" % (name_bytes(topic), number(segment, "segment", 1))
    return single(text, plain_ok, repeatable=False, doubt="it may have been recovered")


# --- replies --------------------------------------------------------------------------------------


def unexpected(name: str, reply: Reply) -> BadReply:
    return BadReply(f"{name} was answered with {reply!r}"[:200])


def plain_ok(name: str) -> Callable[[Reply], None]:
    def decode(reply: Reply) -> None:
        if not isinstance(reply, Ok) or reply.payload is not None:
            raise unexpected(name, reply)

    return decode


def auth(token: str) -> bytes:
    """The AUTH frame, which goes before HELLO; empty without a token."""
    return protocol.frame(b"AUTH " + token.encode()) if token else b""


def greeted(reply: Reply) -> bool:
    """Whether replies contain append times, by the answer to HELLO, which earlier releases refuse.

    Raises ProtocolError for an answer that no node gives.
    """
    if isinstance(reply, Error):
        return False
    granted = (reply.payload or b"").split() if isinstance(reply, Ok) else [b"?"]
    if not {b"positions=1", b"times=1"}.issuperset(granted):
        raise ProtocolError(f"HELLO was answered with {reply!r}"[:200])
    return b"times=1" in granted


def _appended(name: str) -> Callable[[Reply], Position]:
    place = _place(name)
    return lambda reply: UNTOLD if reply == Ok() else place(reply)


def _place(name: str) -> Callable[[Reply], Position]:
    def decode(reply: Reply) -> Position:
        if not isinstance(reply, Ok) or reply.payload is None:
            raise unexpected(name, reply)
        try:
            return protocol.split_place(reply.payload)
        except ProtocolError as error:
            raise unexpected(name, reply) from error

    return decode


def _payload(reply: Reply) -> bytes | None:
    if isinstance(reply, Ok) and reply.payload is not None:
        return reply.payload
    if isinstance(reply, Empty):
        return None
    raise unexpected("GET", reply)


def _found(timed: bool, reply: Reply) -> Found | None:
    if isinstance(reply, Ok) and reply.payload is not None:
        try:
            entry = protocol.split_fetched(reply.payload)[1]
            unix_ms, payload = protocol.split_time(entry) if timed else (0, entry)
            return Found(payload, unix_ms)
        except ProtocolError as error:
            raise BadReply(str(error)) from error
    if isinstance(reply, Empty):
        return None
    raise unexpected("FETCH", reply)


def _json(name: str) -> Callable[[Reply], dict[str, Any]]:
    def decode(reply: Reply) -> dict[str, Any]:
        if not isinstance(reply, Json):
            raise unexpected(name, reply)
        try:
            return msgspec.json.decode(reply.text, type=dict[str, Any])
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise BadReply(f"{name} was answered with broken JSON: {error}") from error

    return decode


def only(results: list[Any]) -> Any:
    """Return the result of a call of one request; raise it if it is an error."""
    (result,) = results
    if isinstance(result, WalrusError):
        raise result
    return result


def taken(results: list[Any]) -> list[bytes]:
    """Return the entries of many GETs. An error is raised with the entries before it as `received`, since
    the cursor has moved past them."""
    found = [result for result in results if isinstance(result, bytes)]
    for result in results:
        if isinstance(result, WalrusError):
            result.received = tuple(found)
            raise result
    return found


def fetched(results: list[Any]) -> list[Found]:
    """Return what many FETCHes found, up to the first EMPTY or error. Raises an error if it is first."""
    if results and isinstance(results[0], WalrusError):
        raise results[0]
    return list(takewhile(lambda result: isinstance(result, Found), results))


def payloads(results: list[Any]) -> list[bytes]:
    """Return the payloads of `fetched`."""
    return [found.payload for found in fetched(results)]


def entries(segment: int, offset: int, found: list[Found]) -> list[Entry]:
    """Return what FETCHes found as entries, whose offsets begin at `offset`."""
    return [Entry(segment, at, payload, unix_ms) for at, (payload, unix_ms) in enumerate(found, offset)]
