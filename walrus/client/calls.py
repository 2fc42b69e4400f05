"""What a client asks: one function for each command, from arguments to frames and from replies to values.

This is the door of both clients. Every argument is checked and normalised here, before anything is sent: a
client writes into a stream of frames, so an argument that turns out to be something else on the way (a buffer
whose length counts items, a generator that raises, a topic with a space in it) would corrupt the requests
behind it, which may be those of another task. Past this module

    an entry       is `bytes`: a copy, if the caller handed in a buffer that may still change
    entries        are a list of those, whatever iterable they came from
    a topic        is 1 to 255 bytes of UTF-8 without spaces or control characters
    a number       is an int in the protocol's range
    a timeout      is a finite number of seconds above 0

An argument of the wrong type is a `TypeError`, one out of range a `ValueError`, and a name or an entry that
the protocol does not allow is `InvalidTopic` or `PayloadTooLarge`. None of them touches the connection.
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
"""Seconds that a call may take."""

HELLO: Final = protocol.frame(b"HELLO positions=1 times=1")
"""What a connection begins with: PUT and PUB are to say where the entry is, FETCH and RECEIVE its time."""
UNTOLD: Final = Position(0, 0)
"""What stands for a place that a node did not tell; `known` is False of it."""

T = TypeVar("T")
Buffer: TypeAlias = bytes | bytearray | memoryview
"""What an entry may be. Anything else with a buffer, an `array.array` for example, does as well."""

LONGEST_TIMEOUT: Final = 1e6
"""Eleven days, in seconds: what a poll can still count in milliseconds."""
EPOCH: Final = datetime.fromtimestamp(0, UTC)
LAST_MS: Final = (datetime.max.replace(tzinfo=UTC) - EPOCH) // timedelta(milliseconds=1)
"""The end of the year 9999."""
_UNKNOWN: Final = "it may have been done"


class TopicState(TypedDict):
    """The reply to STATE, as it is on the wire: JSON's keys are strings."""

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
    """What can be set of a topic. None: no such limit; "default": what the nodes' flags say."""

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
    """A time that a node told, in UTC; None if it told none, or one that no calendar has.

    >>> moment(1764140000123), moment(0)
    (datetime.datetime(2025, 11, 26, 6, 53, 20, 123000, tzinfo=datetime.timezone.utc), None)
    """
    return EPOCH + timedelta(milliseconds=unix_ms) if 0 < unix_ms <= LAST_MS else None


def unix_ms(time: object) -> int:
    """A time as the protocol's unix milliseconds, rounded down.

    >>> unix_ms(datetime(1970, 1, 1, 0, 0, 1, 999, tzinfo=UTC))
    1000
    """
    if not isinstance(time, datetime):
        raise TypeError(f"a time is a datetime, not {type(time).__name__}")
    if time.utcoffset() is None:
        raise ValueError(f"a time needs its time zone, as in datetime.now(timezone.utc): got {time!r}")
    return max(0, (time - EPOCH) // timedelta(milliseconds=1))


class Entry(msgspec.Struct, frozen=True, gc=False):
    """One entry and its place; `offset + 1` in the same segment is where to go on."""

    segment: int
    offset: int
    payload: bytes
    unix_ms: int = 0
    """When it was appended, in unix milliseconds; 0 if that is not known."""

    @property
    def time(self) -> datetime | None:
        """When it was appended, by the clock of the node that led the segment; None if that is not known.

        It is not, if the node that is asked, or the one that appended it, is of a release without times.
        """
        return moment(self.unix_ms)


class Found(NamedTuple):
    """What a FETCH has found. It knows its place by itself."""

    payload: bytes
    unix_ms: int = 0


_INVALID_NAME: Final = {"topic": errors.INVALID_TOPIC, "producer": errors.INVALID_PRODUCER}


# --- the door: arguments --------------------------------------------------------------------------


def name_bytes(name: object, what: str = "topic") -> bytes:
    """A topic's or a consumer group's name as bytes.

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
    """The bytes of one entry, all of them, whatever the items and strides of its buffer are.

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
    """An int that the protocol can carry.

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
    """An address, before it is parsed."""
    if not isinstance(address, str):
        raise TypeError(f"an address is a str, HOST:PORT, not {type(address).__name__}")
    return address


def host_port(address: str) -> tuple[str, int]:
    """The parts of an address; raises ValueError."""
    try:
        return parse_address(address)
    except ValueError as error:
        raise ValueError(f"an address {error}") from None


def seconds(timeout: object) -> float:
    """A timeout that every clock and poll can count to.

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

    `encode(start, stop)` returns the frames of requests `start` to `stop - 1`; `decode` raises `BadReply` for
    a reply of the wrong kind. Where the node tells times, `timed` goes before it, if there is one. A call is
    `repeatable` if executing a request twice is the same as once. A `reading` call is over with the first
    EMPTY or error: no further request of it is sent.
    """

    name: str
    count: int
    encode: Callable[[int, int], bytes]
    decode: Callable[[Reply], T]
    repeatable: bool
    reading: bool = False
    numbered: bool = False  # sent again, a request takes effect once; without an answer it may have
    doubt: str = _UNKNOWN  # what is unknown if no answer arrives
    wait: float = 0.0  # seconds that the node is asked to wait before it answers
    again: Call[T] | None = None  # what a later attempt asks instead: the same without the wait
    timed: Callable[[Reply], T] | None = None  # how to read a reply that tells a time

    def tail(self, start: int) -> Call[T]:
        """The call without its first `start` requests."""
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
    """Settings as they go over the wire, each behind a space.

    Raises ValueError for what makes no sense, TypeError for what is no mapping.

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
    """CONFIGURE. Once more is the same as once, unless another client changed the same in between."""
    if not settings:
        raise ValueError("configure changes at least one setting")
    text = b"CONFIGURE " + name_bytes(topic) + setting_bytes(settings)
    return single(text, plain_ok, repeatable=True)


def delete(topic: str) -> Call[None]:
    """DELETE. Not repeatable: a second one may meet a topic that was registered since."""
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
    """The entries of a producer, checked."""
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
    """LEAVE. Not repeatable: the second answer to a LEAVE that worked would be "unknown node"."""
    if not isinstance(force, bool):  # "no" is true, and this cannot be undone
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
    """What goes before HELLO: a frame if there is a token."""
    return protocol.frame(b"AUTH " + token.encode()) if token else b""


def greeted(reply: Reply) -> bool:
    """Whether the node tells times, from its answer to HELLO, or its refusal if it does not know that.

    Anything else is of no node.
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
    """The result of a call of one request; raises it if it is an error."""
    (result,) = results
    if isinstance(result, WalrusError):
        raise result
    return result


def taken(results: list[Any]) -> list[bytes]:
    """The entries of many GETs. An error is raised with them on it: the cursor is past them already."""
    found = [result for result in results if isinstance(result, bytes)]
    for result in results:
        if isinstance(result, WalrusError):
            result.received = tuple(found)
            raise result
    return found


def fetched(results: list[Any]) -> list[Found]:
    """What many FETCHes found, up to the first EMPTY or error; raises that if it is the very first."""
    if results and isinstance(results[0], WalrusError):
        raise results[0]
    return list(takewhile(lambda result: isinstance(result, Found), results))


def payloads(results: list[Any]) -> list[bytes]:
    """The entries of that alone."""
    return [found.payload for found in fetched(results)]


def entries(segment: int, offset: int, found: list[Found]) -> list[Entry]:
    """The entries of that with their places: from `offset` on."""
    return [Entry(segment, at, payload, unix_ms) for at, (payload, unix_ms) in enumerate(found, offset)]
