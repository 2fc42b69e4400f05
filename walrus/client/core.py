"""The logic of both clients, without I/O: attempts, connections, and when to try again.

    Call       the requests of a call, and how to read the replies (`calls.py`)
    Exchange   one attempt at a call: what was sent of it, and which replies came
    Pipeline   one connection: requests out, replies in, matched by their order
    conduct    a call from its first attempt to its result, as a generator that yields what to do next

`Client` carries these steps out with a socket and blocks; `AsyncClient` uses a transport and awaits. Neither
decides anything, so the same rules hold for both:

* A call ends by its deadline, with a result or an error. For a call that pipelines many requests the
  deadline moves on with every answer: a million entries may take long, but a dead node is noticed in time.
* A call that asks the node to wait (RECEIVE) has that much longer; a second attempt does not wait.
* A request that may have been executed is not sent again, unless it is repeatable (such as REGISTER, STATE,
  METRICS and FETCH) or numbered (PUB), or the caller passes `retry=True`. A GET is not repeatable, since its
  cursor may have moved.
* A request that was certainly not executed is sent again: there was no connection, the request was never
  sent, or the node said that it did nothing (`again` in the table of `walrus/wire/errors.py`).
* Of many pipelined PUTs, either the first that failed and all after it are sent again, or none: otherwise a
  repeated entry would come after entries that were sent later.

**The life of a connection.** Replies carry no number; they match requests by their order alone. So if one
reply were lost, or belonged to no request, every later call on that connection would get the answer to
another request:

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

A connection belongs to one process and, for `AsyncClient`, to one event loop. In another (a fork, a second
`asyncio.run`) it counts as closed, and the next call opens a new one.

Deliberately left out: a map of leaders (any node forwards), and hiding that an outcome is unknown.
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
"""How many requests of one call may be unanswered: enough to keep a node busy, and a bound on memory at both
ends."""
WALK: Final = 256
"""How many entries `entries` asks for at a time."""
FIRST_PAUSE: Final = 0.02
LONGEST_PAUSE: Final = 0.5
LEAST_PATIENCE: Final = 0.25
"""The least seconds for one attempt, if the timeout allows."""


class BackoffRng(Protocol):
    """The part of `random.Random` that backoff needs."""

    def random(self) -> float: ...


# --- addresses ------------------------------------------------------------------------------------


class Addresses:
    """The addresses of the nodes, in the given order, and which one is in use."""

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
        """The address to use now, as text and as host and port."""
        current = self._current
        return self._texts[current], self._parsed[current]

    def leave(self, address: str) -> None:
        """Change from `address` to the next one, unless another call already did."""
        if address == self.current:
            self._current = (self._current + 1) % len(self._texts)


# --- one attempt ----------------------------------------------------------------------------------


@dataclass(slots=True)
class Exchange(Generic[T]):
    """One attempt at a call. Requests `len(results)` .. `sent - 1` are sent and not answered yet."""

    call: Call[T]
    sent: int = 0
    results: list[T | WalrusError] = field(default_factory=list)

    @property
    def done(self) -> bool:
        """Whether every request has its result."""
        return len(self.results) == self.call.count

    def check_invariants(self) -> None:
        """Assert what always holds."""
        assert 0 <= len(self.results) <= self.call.count and 0 <= self.sent <= self.call.count

    def take(self) -> int:
        """Return how many more requests may be sent now: half a window or more at once, to write rarely."""
        in_flight = self.sent - len(self.results)
        return min(WINDOW - in_flight, self.call.count - self.sent) if in_flight <= WINDOW // 2 else 0

    def reply(self, reply: Reply, timed: bool = False) -> None:
        """Take the reply to the first unanswered request; `timed`: the replies contain append times."""
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
        """Complete the results with this error: the node accepts no request on the connection."""
        assert not self.sent
        if self.call.reading:
            self._end_at(1)
        self.results += [error] * self.call.count

    def lost(self, address: str, cause: BaseException, unsent: int = 0) -> None:
        """Complete the results: no more replies come, and the last `unsent` requests were not sent whole."""
        assert 0 <= unsent <= self.sent
        self.sent -= unsent
        why = f"{address}: {str(cause) or type(cause).__name__}"
        doubtful: WalrusError = OutcomeUnknown(f"{why}; {self.call.doubt}")
        if isinstance(cause, ProtocolError):
            doubtful = BadReply(why)
        elif self.call.repeatable:
            doubtful = TimedOut(why) if isinstance(cause, TimeoutError) else Unreachable(why)
        if self.call.reading:  # its count may be a million, and one error is enough
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
    """One connection: the bytes to write, and the exchange to which each reply belongs, by its order.

    An exchange that is given up is done, with errors as results. It keeps its place in the order, so that
    its late replies are recognised and dropped.

    The first request is a HELLO, which asks for positions and times. A node of an earlier release refuses it,
    or grants only the options that it knows; its replies then lack the others.

    With a token, an AUTH goes before the HELLO, and no other request is sent until the node has accepted the
    token. If the node refuses it, every exchange ends with that error; nothing was sent, and the node closes
    the connection.
    """

    def __init__(self, token: str = "") -> None:
        self._greeting = calls.auth(token) + calls.HELLO
        self._greeted = self._timed = False
        self._identified = not token
        self._refused = False
        self._parser = protocol.ReplyParser()
        self._sending: dict[int, Exchange[Any]] = {}  # by id: those with requests still to be sent
        self._owed: deque[tuple[Exchange[Any], int]] = deque()  # to whom the next n replies belong

    @property
    def idle(self) -> bool:
        """Whether nothing is being sent or awaited."""
        return not self._owed and not self._sending

    def start(self, exchange: Exchange[Any]) -> None:
        """Add an exchange: from now on `output` includes the requests that its window allows."""
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
        """Take bytes that were read; return the exchanges that got replies. Raises `ProtocolError`."""
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
        greeting = not self._greeting and not self._greeted  # with a token it is answered before any request
        if not self._owed and not greeting and self._parser.buffered:
            # The next call would take it for its own reply.
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
        """Give up an exchange: complete it with errors, and send no more of it.

        Returns whether replies to it are still due.
        """
        due = exchange.sent > len(exchange.results)
        self._sending.pop(id(exchange), None)
        exchange.lost(address, cause)
        return due

    def lost(self, address: str, cause: BaseException, unsent: int = 0) -> list[Exchange[Any]]:
        """The connection is lost: complete every exchange that is not done, and return these exchanges."""
        owners = [*(one for one, _ in self._owed), *self._sending.values()]
        waiting = list({id(one): one for one in owners if not one.done}.values())
        assert unsent == 0 or len(waiting) <= 1, "only a connection with one user knows what never left"
        for exchange in waiting:  # the unsent frames may include the HELLO, which belongs to no exchange
            exchange.lost(address, cause, min(unsent, exchange.sent))
        self._owed.clear()
        self._sending.clear()
        return waiting


def refuse_own_end(own: object, peer: object) -> None:
    """Raise ConnectionRefusedError if a socket is connected to itself, and would echo the requests.

    If nothing listens on a port of this machine, the kernel may choose that very port for the outgoing
    connection, about once in ten thousand attempts.
    """
    if own == peer:
        raise ConnectionRefusedError("nothing listens there")


def unsent_frames(output: bytes, written: int) -> int:
    """How many frames of `output` are incomplete in its first `written` bytes, so no node executes them.

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
    """A step: connect to the current address if need be, and run the exchange. Failures become its results.

    `connect_by` and `reply_by` are times of the clock. After a reply, the next may take `patience` seconds.
    """

    exchange: Exchange[Any]
    connect_by: float
    reply_by: float
    patience: float


@dataclass(frozen=True, slots=True)
class Pause:
    """A step: wait so many seconds."""

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
    """Yield the steps of a call, which the client carries out; return its results.

    `closed` tells whether the client was closed since the call began; then there is no further attempt.
    """
    deadline = clock() + timeout + call.wait
    results: list[Any] = []
    tries = 0
    while call.count > len(results):
        exchange = Exchange(call.tail(len(results)))
        address = addresses.current
        share = timeout if len(addresses) == 1 else max(timeout / len(addresses), LEAST_PATIENCE)
        # A node that hangs must not use up the time of a call that another node could answer.
        soon = min(deadline, clock() + share)
        if call.repeatable or call.numbered:
            # The time that the node was asked to wait does not count as hanging.
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
        call = call.again or call  # a further attempt does not ask the node to wait again
        addresses.leave(address)
        tries += 1
        pause = _pause(tries, len(addresses), rng)
        if closed() or clock() + pause + min(LEAST_PATIENCE, timeout / 4) >= deadline:
            # An attempt without enough time for an answer would turn a certain "not done" into "unknown".
            return results + exchange.results[settled:]
        yield Pause(pause)
    return results


def _settled(exchange: Exchange[Any], retry: bool) -> int:
    """Return how many of the results are final; the requests after them may be sent again, in order."""
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
    """Return the seconds to pause: exponential backoff with jitter, once every address was tried."""
    rounds = tries // addresses
    if rounds == 0:
        return 0.0
    return min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** (rounds - 1)) * (0.5 + rng.random())


# --- a whole topic --------------------------------------------------------------------------------

Walk: TypeAlias = Generator[Call[Any] | list[Entry] | Pause, list[Any], tuple[int, int]]


def following(
    steps: Generator[Call[Any] | list[Entry] | Pause, list[Any], Any], results: list[Any] | None
) -> Call[Any] | list[Entry] | Pause | None:
    """Return the next step of a walk; None at its end. `results`: those of the call of the last step."""
    try:
        return next(steps) if results is None else steps.send(results)
    except StopIteration:
        return None


def walk(topic: str, segment: int, offset: int, patience: int = 50) -> Walk:
    """Yield calls, whose results are sent back, and entries, to the end of what is acknowledged; return the
    position of that end.

    (1, 0) means the beginning of the topic, even if retention has dropped its first segments.

    A FETCH that finds nothing does not say why. STATE distinguishes the end of the open segment, where the
    walk stops, from the end of a sealed one, where it continues with the next segment that has entries; a
    series of failovers may have left empty ones in between.

    `patience`: how often in a row a node may be behind the seal of a segment before `Unreachable` is raised.
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
            continue  # this may happen again, if more is dropped meanwhile
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
        # A segment that is neither open nor sealed was dropped since the FETCH; the next FETCH is refused.
        if segment < current and offset < sealed.get(segment, 0) and not found:
            behind += 1  # the node that answers has not caught up with the seal yet
            if behind > patience:
                raise Unreachable(
                    f"segment {segment} of {topic} has {sealed[segment]} entries, {offset} came"
                )
            yield Pause(FIRST_PAUSE)


def _first(answer: dict[str, Any]) -> int:
    """Return the number of the first segment; nodes of earlier releases drop none, and do not say it."""
    first = answer.get("first_segment", 1)
    if not isinstance(first, int):
        raise BadReply(f"STATE with a first_segment of {first!r:.40}")
    return first


def _open_and_sealed(answer: dict[str, Any]) -> tuple[int, dict[int, int]]:
    """Return the number of the open segment, and the count of each segment before it."""
    try:
        current = int(answer["current_segment"])
        return current, {n: int(answer["sealed_segments"][str(n)]) for n in range(_first(answer), current)}
    except (KeyError, TypeError, ValueError) as error:
        raise BadReply(f"STATE without current_segment and all sealed_segments: {error!r}") from error
