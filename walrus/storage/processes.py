"""Which process holds a directory: a lock that ends with its process, and a name that no other process has.

A lock file is held with `flock`: the kernel releases it when the holder ends, however that happens. Its first
line names the holder, for people and for programs that want to stop it:

    4711 8840212 6f1c0f6e8b0e4d0b9b1d8a5a1c1f3d5e
    pid  start   boot id

A pid alone names no process: it is reused, and in another container (pid namespace) the same number is
another process. The start time (on Linux in clock ticks since boot, from /proc) and the id of the boot make
it one process of one machine, and `signal_holder` checks both before it signals. On Linux the check and the
signal concern the same pidfd, so the process cannot be replaced between them.

Invariant: `signal_holder` signals the process that wrote the line, or none.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple


def boot_id() -> bytes:
    """The kernel's random number for this boot of the machine; empty where there is none to be had."""
    if sys.platform == "darwin":
        value, size = ctypes.create_string_buffer(64), ctypes.c_size_t(64)
        found = ctypes.CDLL(None).sysctlbyname(b"kern.bootsessionuuid", value, ctypes.byref(size), None, 0)
        return bytes.fromhex(value.value.decode().replace("-", "")) if found == 0 else b""
    try:
        return bytes.fromhex(Path("/proc/sys/kernel/random/boot_id").read_text().strip().replace("-", ""))
    except OSError:
        return b""


def _start_of(pid: int) -> str:
    """When a process started, as one word; empty if there is no such process, or no telling."""
    if sys.platform == "darwin":
        command = ["/bin/ps", "-o", "lstart=", "-p", str(pid)]
        answer = subprocess.run(command, capture_output=True, text=True, check=False)
        return "_".join(answer.stdout.split())
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return ""
    return stat.rpartition(")")[2].split()[19]  # the name, in parentheses, may hold spaces and parentheses


class Holder(NamedTuple):
    """A process, by a name that it shares with no other one. `pid` is 0 if a lock's holder is not known."""

    pid: int = 0
    start: str = ""
    boot: str = ""

    @classmethod
    def this_process(cls) -> Holder:
        """Name the calling process."""
        return cls(os.getpid(), _start_of(os.getpid()), boot_id().hex())

    @classmethod
    def parsed(cls, line: bytes) -> Holder:
        """Read the first line of a lock file."""
        words = line.split(b"\n")[0].decode("ascii", "replace").split()
        pid = int(words[0]) if words and words[0].isdecimal() else 0
        start, boot = words[1:3] if len(words) == 3 else ("", "")
        return cls(pid, start, boot)

    @property
    def is_here(self) -> bool:
        """Whether the process with this pid, as seen from here, is the holder."""
        return bool(self.start) and self.boot == boot_id().hex() and _start_of(self.pid) == self.start


class LockHeld(Exception):
    """Another process (or another part of this one) holds the lock."""

    def __init__(self, holder: Holder) -> None:
        self.holder = holder
        super().__init__(f"held by process {holder.pid or 'unknown'}")


def take_lock(path: Path) -> int:
    """Lock the file, created if need be, and write this process into it; return its descriptor.

    Closing the descriptor releases the lock. Raises LockHeld, OSError.
    """
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        name = Holder.this_process()
        # The first line counts. What a longer one leaves behind it stays: truncating costs a flush on ext4.
        os.pwrite(handle, f"{name.pid} {name.start} {name.boot}\n".encode("ascii"), 0)
    except BlockingIOError:
        holder = Holder.parsed(os.pread(handle, 200, 0))
        os.close(handle)
        raise LockHeld(holder) from None
    except BaseException:
        os.close(handle)
        raise
    return handle


def lock_holder(path: Path) -> Holder | None:
    """Return the holder of a lock file; None if no process holds it. Raises OSError."""
    try:
        handle = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return Holder.parsed(os.pread(handle, 200, 0))
    finally:
        os.close(handle)
    return None


def signal_holder(holder: Holder, number: int) -> bool:
    """Send a signal to a lock's holder; return whether it is a process of this machine that can be named."""
    if not hasattr(os, "pidfd_open"):
        if found := holder.is_here:
            with contextlib.suppress(ProcessLookupError):
                os.kill(holder.pid, number)
        return found
    try:
        process = os.pidfd_open(holder.pid)
    except (OSError, ValueError):
        return False
    try:
        if not holder.is_here:
            return False
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(process, number)
        return True
    finally:
        os.close(process)
