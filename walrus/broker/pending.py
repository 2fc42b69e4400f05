"""Requests of this node's clients that wait for another node: by number, by topic, and by deadline.

Two modules keep such requests: `waits.py` those that wait for an entry, `receivers.py` those for the owner
of a work queue. Each is sent to the node that the metadata names. If that node is not connected, or did not
answer, the request is *unasked* until a new connection or a tick makes it due again; a change of the topic
makes all of the topic's requests due; the deadline ends a request in any case.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic, Protocol, TypeVar

from walrus.deadlines import Deadlines


class _OfTopic(Protocol):
    @property
    def topic(self) -> str: ...


T = TypeVar("T", bound=_OfTopic)


class WaitingRequests(Generic[T]):
    """The waiting requests, by number. The caller chooses the numbers, each once."""

    def __init__(self) -> None:
        self.unasked: dict[int, None] = {}
        """The requests for which the other node has to be asked, in this order."""
        self.deadlines = Deadlines[int](lambda number, _: number in self._requests)
        self._requests: dict[int, T] = {}
        self._by_topic: dict[str, dict[int, None]] = {}

    def __len__(self) -> int:
        return len(self._requests)

    def __getitem__(self, number: int) -> T:
        return self._requests[number]

    def get(self, number: int) -> T | None:
        """Return the request; None if it does not wait any more."""
        return self._requests.get(number)

    def items(self) -> list[tuple[int, T]]:
        """Return all waiting requests, the oldest first."""
        return list(self._requests.items())

    def of_topic(self, topic: str) -> list[int]:
        """Return the numbers of the requests of a topic, the oldest first."""
        return list(self._by_topic.get(topic, ()))

    def add(self, number: int, request: T, deadline: float) -> None:
        """Add a request, which waits until the deadline at most."""
        assert number not in self._requests, "a request would be answered for another one"
        self._requests[number] = request
        self._by_topic.setdefault(request.topic, {})[number] = None
        self.deadlines.add(deadline, number)

    def remove(self, number: int) -> T:
        """Remove a request and return it."""
        request = self._requests.pop(number)
        self.unasked.pop(number, None)
        numbers = self._by_topic[request.topic]
        del numbers[number]
        if not numbers:
            del self._by_topic[request.topic]
        return request

    def overdue(self, now: float) -> Iterator[T]:
        """Remove and yield the requests whose deadline has passed."""
        for number in self.deadlines.due(now):
            yield self.remove(number)

    def check_invariants(self) -> None:
        """Assert the invariants of the indexes."""
        assert sum(map(len, self._by_topic.values())) == len(self._requests), "a topic has what does not wait"
        assert self.unasked.keys() <= self._requests.keys(), "what does not wait would be asked"
        assert self.deadlines.bounded(), "deadlines of what does not wait pile up"
