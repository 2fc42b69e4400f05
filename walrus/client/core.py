"""What both clients are made of, without I/O: calls, pipelines, and when to try again.

    Call      what to ask and how to read the answers: one value per method of a client
    Exchange  one attempt at a call: what was sent of it, what came back
    Pipeline  one connection: requests out, replies in, matched up by their order
    conduct   a call from its first attempt to its result, as a generator that yields what to do next

`Client` does those steps with a socket and blocks, `AsyncClient` with a transport and awaits. Neither
decides anything, so whatever is true of retries is true of both:

* a call ends by its deadline, with a result or an error. For one that pipelines many requests the deadline
  moves on with every answer, so that a million entries may take their time and a dead node still may not;
* what may have been executed is not sent again, unless repeating it is harmless (REGISTER, STATE,
  METRICS, FETCH) or the caller said `retry=True`. A GET is not harmless: its cursor may have moved;
* what certainly was not executed is sent again: no connection came about, the request never left, or
  the node said that it did nothing (`no leader`, `busy`, `stopping`);
* of many pipelined PUTs the first that failed and all behind it are tried again, or none: otherwise a
  repeated entry would end up behind those that were sent after it.

Left out on purpose: pools of connections, keeping a map of leaders (any node forwards), and hiding that
an outcome is unknown.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import takewhile
from typing import Any, Final, Generic, Protocol, TypeAlias, TypedDict, TypeVar

import msgspec

from walrus import protocol
from walrus.client.errors import (
    BadReply,
    InvalidTopic,
    OutcomeUnknown,
    PayloadTooLarge,
    TimedOut,
    Unavailable,
    Unreachable,
    WalrusError,
    error_for,
)
from walrus.protocol import Empty, Error, Json, Ok, ProtocolError, Reply

T = TypeVar("T")

WINDOW: Final = 256
"""Requests of one call that may be unanswered. Enough to keep a node busy, and bounds both sides' memory."""
WALK: Final = 256
"""Entries that `entries` asks for at a time."""
FIRST_PAUSE: Final = 0.02
LONGEST_PAUSE: Final = 0.5
LEAST_PATIENCE: Final = 0.25


class Rng(Protocol):
    """The part of `random.Random` that backing off needs."""

    def random(self) -> float: ...


class TopicState(TypedDict, total=False):
    """The reply to STATE, as it is on the wire: JSON's keys are strings."""

    current_segment: int
    leader_node: int
    last_sealed_entry_offset: int
    sealed_segments: dict[str, int]
    segment_leaders: dict[str, int]
    segment_replicas: dict[str, list[int]]
    cursors: dict[str, Any]


class Entry(msgspec.Struct, frozen=True, gc=False):
    """One entry and its place; `offset + 1` in the same segment is where to go on."""

    segment: int
    offset: int
    payload: bytes


# --- addresses ------------------------------------------------------------------------------------


def parse_address(text: str) -> tuple[str, int]:
    """
    >>> parse_address("127.0.0.1:9091"), parse_address("[::1]:9091")
    (('127.0.0.1', 9091), ('::1', 9091))
    """
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ValueError(f"not an address: {text!r}; use HOST:PORT, for example 127.0.0.1:9091")
    return host.removeprefix("[").removesuffix("]"), int(port)


class Addresses:
    """The nodes to talk to, in the given order, and which one is next."""

    def __init__(self, addresses: str | Iterable[str]) -> None:
        texts = [addresses] if isinstance(addresses, str) else list(addresses)
        if not texts:
            raise ValueError("a client needs at least one address, for example 127.0.0.1:9091")
        self._texts = texts
        self._parsed = [parse_address(text) for text in texts]
        self._current = 0

    def __len__(self) -> int:
        return len(self._texts)

    @property
    def current(self) -> str:
        """The address to use now."""
        return self._texts[self._current]

    @property
    def host_port(self) -> tuple[str, int]:
        """The same, for a socket."""
        return self._parsed[self._current]

    def leave(self, address: str) -> None:
        """Go on to the next address, unless somebody already did."""
        if address == self.current:
            self._current = (self._current + 1) % len(self._texts)


# --- calls ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """`count` requests of one kind, and how to read a reply to one of them."""

    name: str
    count: int
    encode: Callable[[int, int], bytes]  # the frames of requests [start, stop)
    decode: Callable[[Reply], T]  # raises BadReply for a reply of the wrong kind
    harmless: bool  # executing it twice is the same as once
    doubt: str = "it may have been done"  # what is unknown if the answer does not arrive

    def tail(self, start: int) -> Call[T]:
        """The call without its first `start` requests."""
        encode = self.encode
        return replace(self, count=self.count - start, encode=lambda a, b: encode(a + start, b + start))


def _reply_error(name: str, reply: Reply) -> BadReply:
    return BadReply(f"{name} was answered with {reply!r}"[:200])


def _plain_ok(name: str) -> Callable[[Reply], None]:
    def decode(reply: Reply) -> None:
        if not isinstance(reply, Ok) or reply.payload is not None:
            raise _reply_error(name, reply)

    return decode


def _payload(reply: Reply) -> bytes | None:
    if isinstance(reply, Ok) and reply.payload is not None:
        return reply.payload
    if isinstance(reply, Empty):
        return None
    raise _reply_error("GET", reply)


def _fetched(reply: Reply) -> bytes | None:
    if isinstance(reply, Ok) and reply.payload is not None:
        try:
            return protocol.split_fetched(reply.payload)[1]
        except ProtocolError as error:
            raise BadReply(str(error)) from error
    if isinstance(reply, Empty):
        return None
    raise _reply_error("FETCH", reply)


def _json(name: str) -> Callable[[Reply], dict[str, Any]]:
    def decode(reply: Reply) -> dict[str, Any]:
        if not isinstance(reply, Json):
            raise _reply_error(name, reply)
        try:
            return msgspec.json.decode(reply.text, type=dict[str, Any])
        except msgspec.DecodeError as error:
            raise BadReply(f"{name} was answered with broken JSON: {error}") from error

    return decode


def check_topic(topic: str, what: str = "topic") -> bytes:
    """The topic as bytes. Checked here because a space in it would turn the request into another one."""
    if not protocol.valid_name(topic):
        reason = protocol.INVALID_TOPIC if what == "topic" else protocol.INVALID_GROUP
        raise InvalidTopic(f"{reason}; got {topic[:80]!r}")
    return topic.encode()


def _one(name: str, text: bytes, decode: Callable[[Reply], T], *, harmless: bool, doubt: str = "") -> Call[T]:
    frame = protocol.frame(text)
    return Call(name, 1, lambda start, stop: frame, decode, harmless, doubt or "it may have been done")


def register(topic: str) -> Call[None]:
    """REGISTER."""
    return _one("REGISTER", b"REGISTER " + check_topic(topic), _plain_ok("REGISTER"), harmless=True)


def put_many(topic: str, payloads: Sequence[bytes]) -> Call[None]:
    """A pipelined PUT for each payload."""
    room = protocol.MAX_SKIP_BYTES - len(check_topic(topic)) - 5
    for payload in payloads:
        if not isinstance(payload, bytes | bytearray | memoryview):
            raise TypeError(f"an entry is bytes, not {type(payload).__name__}: encode it first")
        if len(payload) > room:
            raise PayloadTooLarge(f"an entry of {len(payload)} bytes: no node takes more than {room}")

    def encode(start: int, stop: int) -> bytes:
        return protocol.encode_puts(topic, payloads[start:stop])

    return Call("PUT", len(payloads), encode, _plain_ok("PUT"), False, "the entry may have been written")


def get_many(topic: str, count: int, group: str = "") -> Call[bytes | None]:
    """`count` pipelined GETs."""
    text = b"GET " + check_topic(topic)
    if group:
        text += b" " + check_topic(group, "group")
    frame = protocol.frame(text)
    doubt = "the cursor may have moved past entries that did not arrive"
    return Call("GET", count, lambda start, stop: frame * (stop - start), _payload, False, doubt)


def fetch_many(topic: str, segment: int, offset: int, count: int) -> Call[bytes | None]:
    """`count` pipelined FETCHes at consecutive offsets."""
    if segment < 1 or offset < 0:
        raise ValueError(f"segments count from 1 and offsets from 0, got {segment} and {offset}")
    prefix = b"FETCH %b %d " % (check_topic(topic), segment)

    def encode(start: int, stop: int) -> bytes:
        return b"".join([protocol.frame(b"%b%d" % (prefix, offset + n)) for n in range(start, stop)])

    return Call("FETCH", count, encode, _fetched, True)


def state(topic: str) -> Call[dict[str, Any]]:
    """STATE."""
    return _one("STATE", b"STATE " + check_topic(topic), _json("STATE"), harmless=True)


def metrics() -> Call[dict[str, Any]]:
    """METRICS."""
    return _one("METRICS", b"METRICS", _json("METRICS"), harmless=True)


def leave(node_id: int) -> Call[None]:
    """LEAVE. Not repeated: the second answer to a LEAVE that worked would be "unknown node"."""
    doubt = "the member may have been removed"
    return _one("LEAVE", b"LEAVE %d" % node_id, _plain_ok("LEAVE"), harmless=False, doubt=doubt)


def recover(topic: str, segment: int) -> Call[None]:
    """RECOVER."""
    text = b"RECOVER %b %d" % (check_topic(topic), segment)
    return _one("RECOVER", text, _plain_ok("RECOVER"), harmless=False, doubt="it may have been recovered")


# --- one attempt ----------------------------------------------------------------------------------


@dataclass(slots=True)
class Exchange(Generic[T]):
    """One attempt at a call. Requests `len(results)` .. `sent - 1` were sent and not answered yet."""

    call: Call[T]
    sent: int = 0
    results: list[T | WalrusError] = field(default_factory=list)

    @property
    def done(self) -> bool:
        """Whether every request has its result."""
        return len(self.results) == self.call.count

    def check_invariants(self) -> None:
        """What holds at any time."""
        assert 0 <= len(self.results) <= self.call.count and 0 <= self.sent <= self.call.count

    def take(self) -> int:
        """How many more requests may be sent now. In strides of half a window, to write rarely."""
        in_flight = self.sent - len(self.results)
        return min(WINDOW - in_flight, self.call.count - self.sent) if in_flight <= WINDOW // 2 else 0

    def reply(self, reply: Reply) -> None:
        """The answer to the first request that has none."""
        assert len(self.results) < self.sent
        if isinstance(reply, Error):
            self.results.append(error_for(reply.reason))
            return
        try:
            self.results.append(self.call.decode(reply))
        except BadReply as error:
            self.results.append(error)

    def lost(self, address: str, cause: BaseException, unsent: int = 0) -> None:
        """No more answers will come. The last `unsent` of those sent never left this machine whole."""
        self.sent -= unsent
        why = f"{address}: {str(cause) or type(cause).__name__}"
        doubtful: WalrusError = OutcomeUnknown(f"{why}; {self.call.doubt}")
        if isinstance(cause, ProtocolError):
            doubtful = BadReply(why)
        elif self.call.harmless:
            doubtful = TimedOut(why) if isinstance(cause, TimeoutError) else Unreachable(why)
        self.results += [doubtful] * (self.sent - len(self.results))
        not_sent = f"{why}; not sent" if self.sent else why
        self.results += [Unreachable(not_sent)] * (self.call.count - len(self.results))


_DROPPED: Final = Call("dropped", 1 << 62, lambda start, stop: b"", lambda reply: None, True)
"""In place of a call that was given up: takes its replies and is never done."""


class Pipeline:
    """One connection: what to write, and whose the replies are. Replies come in the order of requests."""

    def __init__(self) -> None:
        self._parser = protocol.ReplyParser()
        self._sending: list[Exchange[Any]] = []
        self._owed: deque[tuple[Exchange[Any], int]] = deque()  # who waits for the next n replies

    @property
    def idle(self) -> bool:
        """Whether nothing is being sent or awaited."""
        return not self._owed and not self._sending

    def start(self, exchange: Exchange[Any]) -> None:
        """Send what the exchange's window allows, from the next `output` on."""
        assert not exchange.done
        self._sending.append(exchange)

    def output(self) -> bytes:
        """Frames to write now; empty if there are none."""
        chunks: list[bytes] = []
        for exchange in self._sending:
            if count := exchange.take():
                chunks.append(exchange.call.encode(exchange.sent, exchange.sent + count))
                exchange.sent += count
                self._owed.append((exchange, count))
        self._sending = [one for one in self._sending if one.sent < one.call.count]
        return b"".join(chunks)

    def input(self, data: bytes) -> list[Exchange[Any]]:
        """Take what was read; returns the exchanges that are done now. Raises `ProtocolError`."""
        done: list[Exchange[Any]] = []
        for reply in self._parser.feed(data):
            if not self._owed:
                raise ProtocolError(f"a reply that nobody asked for: {reply!r}"[:200])
            exchange, count = self._owed.popleft()
            if count > 1:
                self._owed.appendleft((exchange, count - 1))
            exchange.reply(reply)
            if exchange.done:
                done.append(exchange)
        return done

    def abandon(self, exchange: Exchange[Any], address: str, cause: BaseException) -> None:
        """Nobody waits for this one any more. Its place in the order stays, so others get their replies."""
        self._sending = [one for one in self._sending if one is not exchange]
        stand_in = Exchange(_DROPPED, sent=exchange.sent)
        stand_in.results = [None] * len(exchange.results)
        self._owed = deque((stand_in if one is exchange else one, count) for one, count in self._owed)
        exchange.lost(address, cause)

    def lost(self, address: str, cause: BaseException, unsent: int = 0) -> list[Exchange[Any]]:
        """The connection is gone: every exchange that was not done gets its results now."""
        waiting = list({id(one): one for one in [*(one for one, _ in self._owed), *self._sending]}.values())
        assert unsent == 0 or len(waiting) <= 1, "only a connection with one user knows what never left"
        for exchange in waiting:
            exchange.lost(address, cause, unsent)
        self._owed.clear()
        self._sending.clear()
        return waiting


def unsent_frames(output: bytes, written: int) -> int:
    """How many frames of `output` are not wholly in its first `written` bytes. Nobody executes half a frame.

    >>> unsent_frames(protocol.frame(b"a") + protocol.frame(b"b"), 9)
    1
    """
    position = unsent = 0
    while position < len(output):
        position += protocol.HEADER_BYTES + int.from_bytes(output[position : position + 4], "little")
        unsent += position > written
    return unsent


# --- a call from beginning to end -----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Attempt:
    """To do: connect to the current address if need be, run the exchange. Failures end up in its results."""

    exchange: Exchange[Any]
    connect_within: float
    reply_within: float


@dataclass(frozen=True, slots=True)
class Pause:
    """To do: wait."""

    seconds: float


Step: TypeAlias = Attempt | Pause
Conduct: TypeAlias = Generator[Step, None, list[Any]]


def conduct(
    call: Call[Any],
    addresses: Addresses,
    timeout: float,
    clock: Callable[[], float],
    rng: Rng,
    retry: bool = False,
) -> Conduct:
    """Everything a call may take, ending with one result per request. The caller knows how to do a step."""
    deadline = clock() + timeout
    results: list[Any] = []
    tries = 0
    while len(results) < call.count:
        exchange = Exchange(call.tail(len(results)))
        address = addresses.current
        left = max(deadline - clock(), 0.001)
        share = left if len(addresses) == 1 else max(timeout / len(addresses), LEAST_PATIENCE)
        # A node that hangs must not eat the whole time of a call that another node could answer as well.
        yield Attempt(exchange, min(left, share), min(left, share) if call.harmless else left)
        assert exchange.done
        settled = _settled(exchange, retry)
        results += exchange.results[:settled]
        if settled:
            deadline = clock() + timeout
        if len(results) == call.count:
            break
        addresses.leave(address)
        tries += 1
        pause = _pause(tries, len(addresses), rng)
        if clock() + pause >= deadline:
            return results + exchange.results[settled:]
        yield Pause(pause)
    return results


def _settled(exchange: Exchange[Any], retry: bool) -> int:
    """How many of the results are final: the others can be had anew, in order and without harm."""
    results, final = exchange.results, exchange.call.count
    first = next((n for n, result in enumerate(results) if isinstance(result, WalrusError)), final)
    undone = (Unavailable, Unreachable)
    if exchange.call.harmless or retry:
        hopeful = any(isinstance(result, (*undone, TimedOut, OutcomeUnknown)) for result in results[first:])
    else:
        hopeful = all(isinstance(result, undone) for result in results[first:])
    return first if hopeful else final


def _pause(tries: int, addresses: int, rng: Rng) -> float:
    """Every address once without delay, then longer and longer, never in step with other clients."""
    rounds = tries // addresses
    if rounds == 0:
        return 0.0
    return min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** (rounds - 1)) * (0.5 + rng.random())


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


def fetched(results: list[Any]) -> list[bytes]:
    """The entries of many FETCHes, up to the first EMPTY or error; raises that if it is the very first."""
    if results and isinstance(results[0], WalrusError):
        raise results[0]
    return list(takewhile(lambda result: isinstance(result, bytes), results))


# --- a whole topic --------------------------------------------------------------------------------

Walk: TypeAlias = Generator[Call[Any] | list[Entry] | Pause, list[Any], None]


def walk(topic: str, segment: int, offset: int, patience: int = 50) -> Walk:
    """Yields calls to make (and be sent their results) and entries, to the end of what is acknowledged.

    A FETCH that finds nothing does not say why. STATE tells the end of an open segment, where to stop, from
    the end of a sealed one, where to go on: at the next segment that has entries, however many empty ones
    a series of failovers left in between.
    """
    sealed: dict[int, int] = {}
    behind = 0
    while True:
        end = sealed.get(segment, offset + WALK)
        if offset >= end:
            segment, offset = segment + 1, 0
            continue
        wanted = min(WALK, end - offset)
        found = fetched((yield fetch_many(topic, segment, offset, wanted)))
        if found:
            yield [Entry(segment, offset + n, payload) for n, payload in enumerate(found)]
            offset += len(found)
            behind = 0
        if len(found) == wanted:
            continue
        current, sealed = _open_and_sealed(only((yield state(topic))))
        if segment >= current and not found:
            return
        if segment < current and offset < sealed[segment] and not found:
            behind += 1  # the node that answers has not caught up with the seal yet
            if behind > patience:
                raise Unreachable(
                    f"segment {segment} of {topic} has {sealed[segment]} entries, {offset} came"
                )
            yield Pause(FIRST_PAUSE)


def _open_and_sealed(answer: dict[str, Any]) -> tuple[int, dict[int, int]]:
    """The number of the open segment and the count of each one before it."""
    try:
        current = int(answer["current_segment"])
        return current, {n: int(answer["sealed_segments"][str(n)]) for n in range(1, current)}
    except (KeyError, TypeError, ValueError) as error:
        raise BadReply(f"STATE without current_segment and all sealed_segments: {error!r}") from error
