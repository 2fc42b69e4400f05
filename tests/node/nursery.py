"""Nodes that need not import: a process that has imported `walrus.node` once, and forks for each start.

    nursery = Nursery()
    node = nursery.start(["--node-id", "1", ...], environ, Path("node_1.log"))    # as Popen: pid, poll, wait
    node.send_signal(signal.SIGKILL)

A node takes a third of a second of a core to import what it needs, and the tests start hundreds of them: most
of them did nothing else that cost as much. A forked node is a process like any other: it has its own memory,
descriptors, locks and signals, and random numbers. It differs in what a start does before `main`, which is no
different from one start to the next: the tests of commands, of installed wheels and of other releases start
`python -m walrus.node`, and so does every node that is to run other code, or with other flags of Python
(`tests/node/harness.py`). A process that forks must have one thread; so it is not the one that tests run in.

The nursery writes what happens, in lines: `born PID`, and `ended PID STATUS SECONDS` (of a core). It ends
with the process that started it, and its nodes with it.
"""

from __future__ import annotations

import faulthandler
import gc
import json
import os
import queue
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).parents[2]
PATIENCE = 120.0
"""Seconds, as in the harness: when a test gives up."""


class Born:
    """A forked node; what `subprocess.Popen` has of this works alike."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._ended = threading.Event()

    def end(self, returncode: int) -> None:
        """The nursery has seen it end."""
        self.returncode = returncode
        self._ended.set()

    def poll(self) -> int | None:
        """The exit status, if it has ended."""
        return self.returncode

    def wait(self, timeout: float) -> int:
        """The exit status, once it has ended."""
        if not self._ended.wait(timeout):
            raise subprocess.TimeoutExpired(f"node {self.pid}", timeout)
        assert self.returncode is not None
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal, if it has not ended."""
        if self.returncode is None:
            with suppress(ProcessLookupError):  # it has, and the nursery has yet to say so
                os.kill(self.pid, number)


class Nursery:
    """The process that forks, and what it told."""

    def __init__(self) -> None:
        command = [sys.executable, "-m", "tests.node.nursery"]
        self._process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._lock = threading.Lock()
        self._newest: queue.Queue[Born] = queue.Queue()
        self._living: dict[int, Born] = {}
        self.seconds = 0.0
        """Of a core, that its nodes took which have ended: they are no children of this process."""
        threading.Thread(target=self._listen, name="nursery", daemon=True).start()

    def start(self, arguments: Sequence[str], environ: Mapping[str, str], log: Path) -> Born:
        """Fork a node that writes to this log."""
        request = json.dumps([*map(str, arguments)]), json.dumps(dict(environ)), str(log)
        assert self._process.stdin is not None
        with self._lock:
            self._process.stdin.write("\t".join(request).encode() + b"\n")
            self._process.stdin.flush()
            return self._newest.get(timeout=PATIENCE)

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            what, pid, *rest = line.split()
            if what == b"born":
                born = self._living[int(pid)] = Born(int(pid))
                self._newest.put(born)
            else:
                self.seconds += float(rest[1])
                self._living.pop(int(pid)).end(int(rest[0]))


class _Forking:
    """What the nursery does: it forks when it is asked to, and tells who was born and who has ended."""

    def __init__(self) -> None:
        self._living: set[int] = set()
        self._asked, self._told = os.dup(0), os.dup(1)
        self._rest = b""
        self._woken, woken = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(woken)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for those who started it

    def next_start(self) -> list[str]:
        """Return in a child, with what it is to start; end the process when its parent has ended."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._asked, selectors.EVENT_READ)
            selector.register(self._woken, selectors.EVENT_READ)
            while True:
                for key, _ in selector.select():
                    if key.fd == self._woken:
                        os.read(self._woken, 1 << 10)
                        self._reap()
                    elif not (asked := os.read(self._asked, 1 << 16)):
                        self._end()
                    else:
                        *lines, self._rest = (self._rest + asked).split(b"\n")
                        for line in lines:
                            if (child := os.fork()) == 0:
                                return self._as_a_node(selector, line.decode().split("\t"))
                            self._living.add(child)
                            self._tell(f"born {child}")

    def _tell(self, line: str) -> None:
        os.write(self._told, f"{line}\n".encode())

    def _reap(self) -> None:
        while self._living:
            pid, status, usage = os.wait4(-1, os.WNOHANG)
            if not pid:
                return
            self._living.discard(pid)
            self._tell(f"ended {pid} {os.waitstatus_to_exitcode(status)} {usage.ru_utime + usage.ru_stime}")

    def _end(self) -> NoReturn:
        for pid in self._living:
            os.kill(pid, signal.SIGKILL)
        sys.exit()

    def _as_a_node(self, selector: selectors.BaseSelector, request: list[str]) -> list[str]:
        """Be what a process is that has just been started, with these arguments, environment and log."""
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # as `end_quietly` has it until `main` begins
        selector.close()
        arguments, environ, log = json.loads(request[0]), json.loads(request[1]), request[2]
        output = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        nothing = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        for old, new in ((nothing, 0), (output, 1), (output, 2)):
            os.dup2(old, new)
        os.closerange(3, max(self._asked, self._told, self._woken, output, nothing) + 2)
        os.environ.clear()
        os.environ.update(environ)
        faulthandler.enable()
        return arguments


if __name__ == "__main__":
    from walrus import node
    from walrus.shell import figures

    gc.freeze()
    forked = _Forking().next_start()
    sys.argv = [node.__file__, *forked]
    figures._STARTED = time.time()
    sys.exit(node.main(forked))
