"""Exceptions from outside: a signal handler's, in the middle of anything.

Ctrl-C, an alarm, a soft time limit: Python runs the handler between two instructions of the main thread, and
if it raises, the exception appears wherever that thread is, even inside the engine. Each place that it can
interrupt is one of these:

    resumable   the next call finds a state from which it can continue: an append undoes what it wrote, like
                one whose write failed; a wait is abandoned; a reader looks up its place again; the next sync
                repeats one that was cut, and covers its files
    a change    steps that must not be seen half done (a new block, a note in the journal, a trim, the
                bookkeeping of a sync). They stand in `with change:`, and an exception that cuts them fails
                the engine, as a failed write does: it refuses to write until it is opened again, which
                loses nothing that was acknowledged

Exceptions that the engine raises itself leave every state whole and fail nothing.

Locks are released in either case. `with` and `finally` do that nearly always; what they cannot cover are
the instructions between taking a lock and entering the block, and those of the block's own end. So each
public method of `Walrus` passes an exception that it did not raise itself to `Engine.interrupted`, which
releases what this thread still holds. An `RLock` knows its owner; the token of a topic's mutex does not, so
the thread waits a moment for another one to return it. If none does, the token is lost: the engine fails,
which leaves the mutex nothing to protect, and a new token lets the waiting threads run into the error
instead of waiting for ever.

The release can itself be cut, by a second signal. So a thread that waits for a token does not trust that it
will be returned: once it has waited in vain it checks whether any other thread is inside the engine
(`deserted`). If none is, the token is lost, or this thread has it itself.

**Called from a signal handler.** The handler runs on top of whatever its thread was doing. If that was a
call of the engine, a second call would wait for itself, or continue from the middle of a change. It is
refused with `EngineReentered` if it needs something that the first call holds; otherwise it works. If the
first call was in the middle of a change (a sync, a trim), that change is cut like any other.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from threading import RLock, get_ident
from types import FrameType, TracebackType

from walrus.storage.errors import EngineReentered, StorageError

_ENGINE = {str(path) for path in Path(__file__).parent.glob("*.py")} | {
    str(Path(__file__).parents[1] / "wal.py")
}
_WAITING = str(Path(__file__).with_name("mutex.py")), "wait"
_IDLE = {str(Path(__file__).with_name(name)) for name in ("syncing.py", "bell.py")}


def deserted() -> bool:
    """Whether no other thread is inside the engine, where it could hold a topic's lock.

    One that stands in line for such a lock holds none, but one that was handed the token, or may just have
    taken it, does before it runs on. One that only waits for a sync, for work, or for an entry holds none.
    """
    me = get_ident()
    return not any(_may_hold(frame) for thread, frame in sys._current_frames().items() if thread != me)


def _may_hold(frame: FrameType | None) -> bool:
    while frame is not None:
        code = frame.f_code
        if code.co_filename in _ENGINE:
            if (code.co_filename, code.co_name) == _WAITING:
                return not _stands_in_line(frame)
            return code.co_filename not in _IDLE
        frame = frame.f_back
    return False


def _stands_in_line(frame: FrameType) -> bool:
    """Whether a call of `Mutex.wait` has certainly not come to the token yet."""
    mutex, waiter = frame.f_locals["self"], frame.f_locals.get("me")
    return waiter is None or (waiter in mutex.line and not waiter.tries)


def reentered() -> bool:
    """Whether this thread is inside two calls of the engine, with something else (a handler) between them."""
    calls, inside = 0, False
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        was, inside = inside, frame.f_code.co_filename in _ENGINE
        calls += inside and not was
        frame = frame.f_back
    return calls > 1


def refuse_reentry(lock: RLock) -> None:
    """Raise `EngineReentered` if this thread holds the lock: no call of the engine takes it twice."""
    if lock._is_owned():  # type: ignore[attr-defined]
        raise EngineReentered


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
