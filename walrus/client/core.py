"""What both clients are made of, without I/O: attempts, connections, and when to try again.

    Call       what to ask and how to read the answers (`calls.py`): one value for each method of a client
    Exchange   one attempt at a call: what was sent of it, what came back
    Pipeline   one connection: requests out, replies in, matched by their order
    conduct    a call from its first attempt to its result, as a generator that yields what to do next

`Client` does those steps with a socket and blocks, `AsyncClient` with a transport and awaits. Neither
decides anything, so what is true of retries is true of both:

* a call ends by its deadline, with a result or an error. For one that pipelines many requests the deadline
  moves on with every answer: a million entries may take their time, and a dead node still may not;
* a call that asks the node to wait (RECEIVE) has so much longer; a second attempt at it does not wait;
* what may have been executed is not sent again, unless it is repeatable (REGISTER, STATE, METRICS, FETCH) or
  numbered (PUB), or the caller said `retry=True`. A GET is not repeatable: its cursor may have moved;
* what certainly was not executed is sent again: no connection came about, the request never left, or
  the node said that it did nothing (`again` in the table of `walrus/wire/errors.py`);
* of many pipelined PUTs the first that failed and all behind it are tried again, or none: otherwise a
  repeated entry would end up behind those that were sent after it.

The life of a connection. Replies carry no number and match requests by their order alone, so a connection on
which one reply was lost, or has no owner, would hand every later call the answer to another request:

    state     what it means                            next                                          then
    --------  ---------------------------------------  --------------------------------------------  -------
    idle      every request sent has its reply         a call is started on it                       busy
                                                       it became readable: the node closed it        closed
    busy      replies are due, each to a known call    every reply came                              idle
                                                       a call gave up (its deadline, cancelled)      retired
                                                       it broke, or a reply makes no sense           closed
                                                       an exception cut a blocking call short        closed
    retired   takes no new call; replies to calls      every call that still waits has its replies   closed
              that gave up are read and dropped
    closed    each call that waited has its results    nothing: the next call opens another one

A connection belongs to one process and, for `AsyncClient`, to one event loop: in another (a fork, a second
`asyncio.run`) it counts as closed, and the next call opens one of its own.

Left out on purpose: keeping a map of leaders (any node forwards), and hiding that an outcome is unknown.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass, field, replace
from typing import Any, Final, Generic, Protocol, TypeAlias, TypeVar

from walrus import protocol
from walrus.client import calls
from walrus.client.calls import Call, Entry
from walrus.client.errors import (
    BadReply,
    OutcomeUnknown,
    Overtaken,
    TimedOut,
    Trimmed,
    Unavailable,
    Unreachable,
    WalrusError,
    error_for,
)
from walrus.protocol import Error, Ok, ProtocolError, Reply

T = TypeVar("T")

WINDOW: Final = 256
"""Requests of one call that may be unanswered. Enough to keep a node busy, and bounds both sides' memory."""
WALK: Final = 256
"""Entries that `entries` asks for at a time."""
FIRST_PAUSE: Final = 0.02
LONGEST_PAUSE: Final = 0.5
LEAST_PATIENCE: Final = 0.25
"""Seconds that an attempt gets at least, if the timeout has them."""


class BackoffRng(Protocol):
    """The part of `random.Random` that backing off needs."""

    def random(self) -> float: ...


# --- addresses ------------------------------------------------------------------------------------


class Addresses:
    """The nodes to talk to, in the given order, and which one is next."""

    def __init__(self, addresses: str | Iterable[str]) -> None:
        texts: list[object] = [addresses] if isinstance(addresses, str) else list(addresses)
        if not texts:
            raise ValueError("a client needs at least one address, for example 127.0.0.1:9091")
        self._texts = [calls.address_text(text) for text in texts]
        self._parsed = [calls.host_port(text) for text in self._texts]
        self._current = 0

    def __len__(self) -> int:
        return len(self._texts)

    @property
    def current(self) -> str:
        """The address to use now."""
        return self._texts[self._current]

    @property
    def pair(self) -> tuple[str, tuple[str, int]]:
        """The same, and as host and port."""
        current = self._current
        return self._texts[current], self._parsed[current]

    def leave(self, address: str) -> None:
        """Go on to the next address, unless another call already did."""
        if address == self.current:
            self._current = (self._current + 1) % len(self._texts)


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

    def reply(self, reply: Reply, timed: bool = False) -> None:
        """The answer to the first request that has none; `timed`: the node tells times."""
        assert len(self.results) < self.sent
        result: T | WalrusError
        if isinstance(reply, Error):
            result = error_for(reply.reason)
        else:
            try:
                decode = self.call.timed if timed and self.call.timed else self.call.decode
                result = decode(reply)
            except BadReply as error:
                result = error
        self.results.append(result)
        if self.call.reading and (result is None or isinstance(result, WalrusError)):
            self._end_at(self.sent)

    def refused(self, error: WalrusError) -> None:
        """Complete the results: the node does not even take the first request."""
        assert not self.sent
        if self.call.reading:
            self._end_at(1)
        self.results += [error] * self.call.count

    def lost(self, address: str, cause: BaseException, unsent: int = 0) -> None:
        """Complete the results: no more replies come, and the last `unsent` requests never left whole."""
        assert 0 <= unsent <= self.sent
        self.sent -= unsent
        why = f"{address}: {str(cause) or type(cause).__name__}"
        doubtful: WalrusError = OutcomeUnknown(f"{why}; {self.call.doubt}")
        if isinstance(cause, ProtocolError):
            doubtful = BadReply(why)
        elif self.call.repeatable:
            doubtful = TimedOut(why) if isinstance(cause, TimeoutError) else Unreachable(why)
        if self.call.reading:  # its count may be a million, and the first error says it all
            self._end_at(min(len(self.results) + 1, self.call.count))
        self.results += [doubtful] * (self.sent - len(self.results))
        not_sent = f"{why}; not sent" if self.sent else why
        self.results += [Unreachable(not_sent)] * (self.call.count - len(self.results))
        assert self.done

    def _end_at(self, count: int) -> None:
        """Forget the requests from `count` on: the caller does not ask for their results."""
        assert len(self.results) <= count <= self.call.count
        self.call = replace(self.call, count=count)
        self.sent = min(self.sent, count)


class Pipeline:
    """One connection: what to write, and whose the replies are. Replies come in the order of requests.

    An exchange that is given up is done, with errors for results; its place in the order stays, so that its
    late replies are recognised, and dropped.

    The first request is a HELLO, which asks for positions and times. A node of an earlier release refuses it,
    or names what it knows of that, and goes on: its replies then have none.

    With a token an AUTH goes before it, and no request leaves before the node has taken it. If it does not,
    every exchange ends with what it said, and nothing was sent; the node closes the connection.
    """

    def __init__(self, token: str = "") -> None:
        self._greeting = calls.auth(token) + calls.HELLO
        self._greeted = self._timed = False
        self._identified = not token
        self._refused = False
        self._parser = protocol.ReplyParser()
        self._sending: dict[int, Exchange[Any]] = {}  # by id: not wholly sent yet
        self._owed: deque[tuple[Exchange[Any], int]] = deque()  # whose the next n replies are

    @property
    def idle(self) -> bool:
        """Whether nothing is being sent or awaited."""
        return not self._owed and not self._sending

    def start(self, exchange: Exchange[Any]) -> None:
        """Send what the exchange's window allows, from the next `output` on."""
        assert not exchange.done
        self._sending[id(exchange)] = exchange

    def output(self) -> bytes:
        """Frames to write now; empty if there are none."""
        chunks: list[bytes] = []
        if self._greeting and self._sending:
            chunks, self._greeting = [self._greeting], b""
        if not self._identified:
            return b"".join(chunks)
        for exchange in list(self._sending.values()):
            if count := exchange.take():
                chunks.append(exchange.call.encode(exchange.sent, exchange.sent + count))
                exchange.sent += count
                self._owed.append((exchange, count))
            if exchange.sent == exchange.call.count:
                del self._sending[id(exchange)]
        return b"".join(chunks)

    def input(self, data: bytes) -> list[Exchange[Any]]:
        """Take what was read; returns the exchanges that got replies. Raises `ProtocolError`."""
        answered: dict[int, Exchange[Any]] = {}
        for reply in self._parser.feed(data):
            if not self._identified and not self._refused:
                answered |= self._identify(reply)
                continue
            if not self._greeted and not self._greeting:
                self._greeted = True
                self._timed = calls.greeted(reply)
                continue
            if not self._owed:
                raise ProtocolError(f"a reply to no request: {reply!r}"[:200])
            exchange, count = self._owed[0]
            if count == 1:
                self._owed.popleft()
            else:
                self._owed[0] = exchange, count - 1
            if not exchange.done:
                exchange.reply(reply, self._timed)
                answered[id(exchange)] = exchange
                if exchange.sent == exchange.call.count:  # an EMPTY may have ended it
                    self._sending.pop(id(exchange), None)
        if not self._owed and self._parser.buffered:  # the next call would take it for its own
            raise ProtocolError("part of a reply to no request")
        return list(answered.values())

    def _identify(self, reply: Reply) -> dict[int, Exchange[Any]]:
        """Take the answer to AUTH; return the exchanges that it ends."""
        if isinstance(reply, Ok):
            self._identified = True
            return {}
        if not isinstance(reply, Error):
            raise ProtocolError(f"AUTH was answered with {reply!r}"[:200])
        self._refused = True
        ended, self._sending = self._sending, {}
        for exchange in ended.values():
            exchange.refused(error_for(reply.reason))
        return ended

    def abandon(self, exchange: Exchange[Any], address: str, cause: BaseException) -> bool:
        """No call waits for this exchange any more: it is done, and the rest of it is not sent.

        Returns whether replies to it are due.
        """
        due = exchange.sent > len(exchange.results)
        self._sending.pop(id(exchange), None)
        exchange.lost(address, cause)
        return due

    def lost(self, address: str, cause: BaseException, unsent: int = 0) -> list[Exchange[Any]]:
        """The connection is gone: every exchange that was not done gets its results now."""
        owners = [*(one for one, _ in self._owed), *self._sending.values()]
        waiting = list({id(one): one for one in owners if not one.done}.values())
        assert unsent == 0 or len(waiting) <= 1, "only a connection with one user knows what never left"
        for exchange in waiting:  # what was not sent may begin with the HELLO, which is no one's
            exchange.lost(address, cause, min(unsent, exchange.sent))
        self._owed.clear()
        self._sending.clear()
        return waiting


def refuse_own_end(own: object, peer: object) -> None:
    """A port of this machine on which nothing listens can connect to itself, and would echo the requests.

    It happens if the kernel gives that very port to the outgoing connection, once in some ten thousand.
    """
    if own == peer:
        raise ConnectionRefusedError("nothing listens there")


def unsent_frames(output: bytes, written: int) -> int:
    """How many frames of `output` are not wholly in its first `written` bytes. A node executes no half frame.

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
    """A step: connect to the current address if need be, run the exchange. Failures become its results.

    The times are those of the clock. After a reply the next one may take `patience` seconds.
    """

    exchange: Exchange[Any]
    connect_by: float
    reply_by: float
    patience: float


@dataclass(frozen=True, slots=True)
class Pause:
    """A step: wait."""

    seconds: float


Step: TypeAlias = Attempt | Pause
Conduct: TypeAlias = Generator[Step, None, list[Any]]


def conduct(
    call: Call[Any],
    addresses: Addresses,
    timeout: float,
    clock: Callable[[], float],
    rng: BackoffRng,
    retry: bool = False,
    closed: Callable[[], bool] = lambda: False,
) -> Conduct:
    """The steps of a call, and its results at the end. The client carries the steps out.

    `closed` tells whether the client was closed since the call began: then it is not tried again.
    """
    deadline = clock() + timeout + call.wait
    results: list[Any] = []
    tries = 0
    while call.count > len(results):
        exchange = Exchange(call.tail(len(results)))
        address = addresses.current
        share = timeout if len(addresses) == 1 else max(timeout / len(addresses), LEAST_PATIENCE)
        # A node that hangs must not eat the whole time of a call that another node could answer as well.
        soon = min(deadline, clock() + share)
        if call.repeatable or call.numbered:
            # What the node was asked to wait is no sign that it hangs.
            late = min(deadline, soon + call.wait)
            yield Attempt(exchange, connect_by=soon, reply_by=late, patience=share)
        else:
            yield Attempt(exchange, connect_by=soon, reply_by=deadline, patience=timeout)
        assert exchange.done
        settled = _settled(exchange, retry or call.numbered)
        results += exchange.results[:settled]
        if settled == len(exchange.results):
            break
        if settled:
            deadline = clock() + timeout
        call = call.again or call  # the time to wait has been spent
        addresses.leave(address)
        tries += 1
        pause = _pause(tries, len(addresses), rng)
        if closed() or clock() + pause + min(LEAST_PATIENCE, timeout / 4) >= deadline:
            # An attempt without the time for an answer would make "unknown" of what is certainly not done.
            return results + exchange.results[settled:]
        yield Pause(pause)
    return results


def _settled(exchange: Exchange[Any], retry: bool) -> int:
    """How many of the results are final; the requests behind them can be repeated in order, without harm."""
    results, final = exchange.results, len(exchange.results)
    first = next((n for n, result in enumerate(results) if isinstance(result, WalrusError)), final)
    undone = (Unavailable, Unreachable)
    if exchange.call.numbered and any(isinstance(result, Overtaken) for result in results):
        return first
    if exchange.call.repeatable or retry:
        hopeful = any(isinstance(result, (*undone, TimedOut, OutcomeUnknown)) for result in results[first:])
    else:
        hopeful = all(isinstance(result, undone) for result in results[first:])
    return first if hopeful else final


def _pause(tries: int, addresses: int, rng: BackoffRng) -> float:
    """Exponential backoff with jitter, which begins once every address was tried."""
    rounds = tries // addresses
    if rounds == 0:
        return 0.0
    return min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** (rounds - 1)) * (0.5 + rng.random())


# --- a whole topic --------------------------------------------------------------------------------

Walk: TypeAlias = Generator[Call[Any] | list[Entry] | Pause, list[Any], tuple[int, int]]


def following(
    steps: Generator[Call[Any] | list[Entry] | Pause, list[Any], Any], results: list[Any] | None
) -> Call[Any] | list[Entry] | Pause | None:
    """The next step of a walk; None at its end. `results` answer the step before, if that was a call."""
    try:
        return next(steps) if results is None else steps.send(results)
    except StopIteration:
        return None


def walk(topic: str, segment: int, offset: int, patience: int = 50) -> Walk:
    """Yields calls to make (and be sent their results) and entries, to the end of what is acknowledged.
    Returns the place of that end.

    From (1, 0) on means from the beginning: that is wherever retention has left it.

    A FETCH that finds nothing does not say why. STATE tells the end of an open segment, where to stop, from
    the end of a sealed one, where to go on: at the next segment that has entries, however many empty ones
    a series of failovers left in between.
    """
    sealed: dict[int, int] = {}
    begins, behind = (segment, offset) == (1, 0), 0
    while True:
        end = sealed.get(segment, offset + WALK)
        if offset >= end:
            segment, offset = segment + 1, 0
            continue
        wanted = min(WALK, end - offset)
        results = yield calls.fetch_many(topic, segment, offset, wanted)
        if begins and results and isinstance(results[0], Trimmed):
            segment = _first(calls.only((yield calls.state(topic))))
            continue  # and again, if more was dropped meanwhile
        begins = False
        found = calls.fetched(results)
        if found:
            yield calls.entries(segment, offset, found)
            offset += len(found)
            behind = 0
        if len(found) == wanted:
            continue
        current, sealed = _open_and_sealed(calls.only((yield calls.state(topic))))
        if segment >= current and not found:
            return segment, offset
        # A segment that is neither open nor sealed was dropped since the FETCH; the next one is told so.
        if segment < current and offset < sealed.get(segment, 0) and not found:
            behind += 1  # the node that answers has not caught up with the seal yet
            if behind > patience:
                raise Unreachable(
                    f"segment {segment} of {topic} has {sealed[segment]} entries, {offset} came"
                )
            yield Pause(FIRST_PAUSE)


def _first(answer: dict[str, Any]) -> int:
    """The number of the first segment; nodes of earlier releases drop none, and do not name it."""
    first = answer.get("first_segment", 1)
    if not isinstance(first, int):
        raise BadReply(f"STATE with a first_segment of {first!r:.40}")
    return first


def _open_and_sealed(answer: dict[str, Any]) -> tuple[int, dict[int, int]]:
    """The number of the open segment and the count of each one before it."""
    try:
        current = int(answer["current_segment"])
        return current, {n: int(answer["sealed_segments"][str(n)]) for n in range(_first(answer), current)}
    except (KeyError, TypeError, ValueError) as error:
        raise BadReply(f"STATE without current_segment and all sealed_segments: {error!r}") from error
