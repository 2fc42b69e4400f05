"""Java as a subprocess that never outlives its parent, however that ends.

The subprocess runs in a process group that is killed when the caller has what it wants, when the caller
raises, and (on Linux, by PR_SET_PDEATHSIG) when the parent is killed.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

PR_SET_PDEATHSIG = 1


@contextlib.contextmanager
def running(
    command: Sequence[str], directory: Path, output: int = subprocess.PIPE
) -> Iterator[subprocess.Popen[bytes]]:
    """Run this command in this directory; it is killed at the end of the block. Raises OSError."""
    process = subprocess.Popen(
        command,
        cwd=directory,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        preexec_fn=_die_with_parent,
    )
    try:
        yield process
    finally:
        _kill(process)
        if process.stdout is not None:
            process.stdout.close()


def _die_with_parent() -> None:
    """Runs in the child: has the kernel kill it when its parent is gone. Works on Linux only."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _kill(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    process.wait()
