"""Ctrl-C while a command is still being loaded: the process ends, without a traceback.

Python turns SIGINT into KeyboardInterrupt from its first moment on. A command can catch that once it runs,
but it takes some tenths of a second to load, and until then the exception is raised in the middle of an
import. So a command's module begins with

    if __name__ == "__main__":
        end_quietly()

which leaves SIGINT to the kernel: the process dies of it, as any other program would. When its `main`
begins, `raise_again` restores Python's way. Nothing is lost by dying earlier: nothing has been opened yet.

A process whose parent ignores SIGINT (`nohup`, a job in the background) goes on ignoring it.
"""

from __future__ import annotations

import signal


def end_quietly() -> None:
    """Let SIGINT end the process, until `raise_again`."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def raise_again() -> None:
    """Turn SIGINT into KeyboardInterrupt again, if `end_quietly` changed that."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)
