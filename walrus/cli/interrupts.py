"""Ctrl-C, or a library that is missing, while a command is still being loaded: it ends without a traceback.

Python turns SIGINT into KeyboardInterrupt from its first moment on. A command can catch that once it runs,
but it takes some tenths of a second to load, and until then the exception is raised in the middle of an
import. So a command's module begins with

    if __name__ == "__main__":
        end_quietly()

which leaves SIGINT to the kernel: the process dies of it, as any other program would. When its `main`
begins, `raise_again` restores Python's way. Nothing is lost by dying earlier: nothing has been opened yet.

The library itself needs one dependency; commands need more, by *extras* of the installation. A command that
misses one says in a line which extra brings it.

A process whose parent ignores SIGINT (`nohup`, a job in the background) goes on ignoring it.
"""

from __future__ import annotations

import signal
import sys
from types import TracebackType
from typing import Final

EXTRAS: Final = {
    "rich": "cli",
    "prompt_toolkit": "cli",
    "aiohttp": "console",
    "prometheus_client": "console",
    "nats": "mirror",
}
"""Which extra brings what commands import."""


def end_quietly() -> None:
    """Let SIGINT end the process, until `raise_again`, and a missing library be told in one line."""
    sys.excepthook = _tell_missing
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def raise_again() -> None:
    """Turn SIGINT into KeyboardInterrupt again, if `end_quietly` changed that."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _tell_missing(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    missing = (error.name or "").partition(".")[0] if isinstance(error, ModuleNotFoundError) else ""
    if missing in EXTRAS:
        sys.stderr.write(
            f"walrus: this command needs {missing}: pip install 'walrus-log[{EXTRAS[missing]}]'\n"
        )
    else:
        sys.__excepthook__(kind, error, traceback)
