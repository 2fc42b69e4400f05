"""A lock whose uncontended price is half that of `threading.Lock`, for the one that every append takes.

A mutex is a queue with one token in it: whoever has the token may go on, whoever finds the queue empty waits
for it to come back. `SimpleQueue` is written in C, its `get` and `put` take no tuple of arguments apart, and
it only touches a real lock when somebody has to wait. `threading.Lock.acquire` parses its arguments at every
call.

    with Lock()                    184 ns
    Lock().acquire, release         83 ns
    SimpleQueue().get, put          41 ns        (CPython 3.11; an append has about 1,000)
"""

from __future__ import annotations

from queue import SimpleQueue


class Mutex:
    """Not reentrant. Hot paths call `take()`, and `give(None)` in a `finally`; others use `with`.

    >>> mutex = Mutex()
    >>> with mutex:
    ...     mutex.locked
    True
    >>> mutex.locked
    False
    """

    __slots__ = ("_token", "give", "take")

    def __init__(self) -> None:
        self._token: SimpleQueue[None] = SimpleQueue()
        self.take, self.give = self._token.get, self._token.put
        self.give(None)

    @property
    def locked(self) -> bool:
        """Whether somebody has it."""
        return self._token.empty()

    def __enter__(self) -> None:
        self.take()

    def __exit__(self, *_: object) -> None:
        self.give(None)
