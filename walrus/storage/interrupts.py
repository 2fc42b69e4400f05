"""Exceptions that come from outside: a signal handler's, in the middle of anything.

Ctrl-C, an alarm, a soft time limit: Python runs the handler between two instructions of the main thread, and
if it raises, the exception appears wherever that thread is, inside the engine as well. Each place that it can
cut is one of these:

    resumable   the next call finds a state from which it goes on: an append takes back what it wrote, like
                one whose write failed; a wait is left; a reader looks its place up again; a sync that was
                cut is asked for again by the next one, which covers its files
    a change    steps of which half must not be seen (a new block, a note in the journal, a trim, the
                bookkeeping of a sync). They stand in `with change:`, and an exception that cuts them fails
                the engine, as a failed write does: it refuses to write until it is opened again, which
                costs nothing that was acknowledged

What the engine raises itself leaves every state whole and fails nothing.

Locks are given back in either case. `with` and `finally` do that nearly always; what they cannot cover are
the instructions between taking a lock and entering the block, and those of the block's own end. So each
public method of `Walrus` hands an exception that it did not raise itself to `Engine.interrupted`, which gives
back what this thread still holds: exactly for an `RLock`, which knows its owner; for the token of a topic's
mutex, which does not, by waiting a moment whether another thread brings it back. If none does the token is
lost: the engine fails, so that mutual exclusion protects nothing any more, and a new token lets the
threads that wait run into the error instead of waiting for ever.
"""

from __future__ import annotations

from collections.abc import Callable
from threading import RLock
from types import TracebackType

from walrus.storage.errors import StorageError


class Change:
    """`with change:` around steps that belong together: `cut` is told if an exception gets between them."""

    __slots__ = ("_cut",)

    def __init__(self, cut: Callable[[BaseException], None]) -> None:
        self._cut = cut

    def __enter__(self) -> None:
        """Nothing to do: what was not begun cannot be cut."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        """The engine's own errors are raised where everything is whole."""
        if error is not None and not isinstance(error, StorageError):
            self._cut(error)


def give_back(lock: RLock) -> None:
    """Release the lock as often as this thread holds it."""
    while lock._is_owned():  # type: ignore[attr-defined]
        lock.release()
