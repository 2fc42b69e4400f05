"""Ends a command without a traceback if Ctrl-C is pressed, or a library is missing, while it still loads.

Python turns SIGINT into KeyboardInterrupt from the start. A command can catch the exception once it runs,
but it takes some tenths of a second to load, and until then the exception is raised in the middle of an
import. So a command's module begins with

    if __name__ == "__main__":
        end_quietly()

which restores the kernel's default for SIGINT: it ends the process. When `main` begins, `raise_again`
restores Python's handler. A process that ends earlier loses nothing, since it has opened nothing yet.

The library needs one dependency. Commands need more, which *extras* of the installation bring. A command
that lacks one says in one line which extra brings it.

A process that ignores SIGINT because its parent does (`nohup`, a job in the background) continues to.
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
"""The extra that brings a library, by the library's name."""


def end_quietly() -> None:
    """Let SIGINT end the process until `raise_again`, and report a missing library in one line."""
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
