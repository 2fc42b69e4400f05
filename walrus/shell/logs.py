"""Logging that cannot block a node: a bounded queue, a thread that writes, and a rate limit for each kind.

    event loop ── log.warning(...) ──► per-kind bound ──► queue (bounded) ──► writer thread ──► stderr or file
                                        │ too many           │ full
                                        └── counted          └── counted

A log is a pipe or a file, and either can stop taking bytes: a log shipper hangs, a terminal is in scroll
mode, the file system is full. A node that wrote its log from the event loop would then miss its heartbeats,
and the cluster would treat it as dead. So the event loop only formats and queues lines, and a thread writes
them. Lines that do not fit into the queue are dropped and counted, and the count is logged as soon as the
writer makes progress.

*Kinds.* An event that logs one line can log a million, and strangers can cause some of these events. Lines
are of one kind if their message patterns are equal apart from digits. Of each kind, a burst of `BURST` lines
is written, then one per second; the next line that is written says how many of its kind were left out.

*Formats.* `text` is for people. `json` is for programs, one object a line. Its `event` is the message's
pattern, which does not depend on the numbers and addresses in the message, so a search for it finds all such
lines:

    {"at": 1700000000.123, "node": 1, "level": "INFO", "module": "walrus.shell.peer_connections",
     "event": "connected to node %d at %s", "message": "connected to node 2 at 127.0.0.1:6001", "left_out": 0}

Invariants: `emit` never blocks and never raises; memory is bounded by `QUEUE_LINES` lines of at most
`MAX_LINE` characters and by `MAX_KINDS` counters.

Left out: lines that are in the queue when the process is killed are lost. `close` waits for the writer for
at most about two seconds (`FLUSH_PATIENCE`), since a blocked log must not keep a node from stopping.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import queue
import re
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import msgspec

QUEUE_LINES = 2_000
MAX_LINE = 16_384
"""Characters. A longer line is usually a traceback, whose beginning and end are kept."""
HEAD = 500
"""How many characters are kept from the beginning of a line that is too long."""
BURST = 20
MAX_KINDS = 500
KIND_LENGTH = 60
"""How many characters of a message's pattern determine its kind."""
FLUSH_PATIENCE = 1.0
"""Seconds."""

_DIGITS = re.compile(r"\d+")


class _Kind(msgspec.Struct):
    """The lines of one kind: a token bucket, and how many lines it has left out."""

    tokens: float
    at: float
    left_out: int = 0


class KindLimit:
    """Admits a burst of lines of each kind, then one per second."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._kinds: dict[str, _Kind] = {}

    def admit(self, pattern: str) -> int | None:
        """Return how many lines of this kind were left out before this one; None: leave it out, too."""
        now, name = self._clock(), _DIGITS.sub("#", pattern[:KIND_LENGTH])
        kind = self._kinds.pop(name, None) or _Kind(BURST, now)
        self._kinds[name] = kind  # move it to the end: the first is the least recently used
        if len(self._kinds) > MAX_KINDS:
            del self._kinds[next(iter(self._kinds))]
        kind.tokens = min(float(BURST), kind.tokens + now - kind.at)
        kind.at = now
        if kind.tokens < 1:
            kind.left_out += 1
            return None
        kind.tokens -= 1
        left_out, kind.left_out = kind.left_out, 0
        return left_out


def _shortened(line: str) -> str:
    """Return the line, or beginning and end of one that is too long."""
    return line if len(line) <= MAX_LINE else f"{line[:HEAD]} ... {line[HEAD - MAX_LINE :]}"


class LogStyle(Protocol):
    """The format of lines."""

    def line(self, record: logging.LogRecord, left_out: int) -> str:
        """Format a record; `left_out` lines of its kind were left out before it."""

    def dropped(self, count: int) -> str:
        """Format the line that says that `count` lines were dropped."""


class TextStyle:
    """Text, for people."""

    def __init__(self, pattern: str = "%(message)s") -> None:
        self._formatter = logging.Formatter(pattern)

    def line(self, record: logging.LogRecord, left_out: int) -> str:
        """See `LogStyle.line`."""
        line = _shortened(self._formatter.format(record))
        return f"{line} (and {left_out:,} more like this)" if left_out else line

    def dropped(self, count: int) -> str:
        """See `LogStyle.dropped`."""
        return f"({count:,} lines were dropped: the log did not take them)"


class JsonStyle:
    """JSON, one object a line, for programs: see the module's docstring."""

    def __init__(self, node_id: int) -> None:
        self._node_id = node_id
        self._traceback = logging.Formatter()

    def line(self, record: logging.LogRecord, left_out: int) -> str:
        """See `LogStyle.line`."""
        told = {
            "at": round(record.created, 3),
            "node": self._node_id,
            "level": record.levelname,
            "module": record.name,
            "event": _shortened(str(record.msg)),
            "message": _shortened(record.getMessage()),
            "left_out": left_out,
        }
        if record.exc_info:
            told["traceback"] = _shortened(self._traceback.formatException(record.exc_info))
        return json.dumps(told)

    def dropped(self, count: int) -> str:
        """See `LogStyle.dropped`."""
        event = "lines were dropped: the log did not take them"
        told = {"at": round(time.time(), 3), "node": self._node_id, "level": "WARNING", "module": __name__}
        return json.dumps({**told, "event": event, "message": f"{count} {event}", "left_out": count})


class QueuedHandler(logging.Handler):
    """A logging handler whose `emit` only formats and queues, whether or not the descriptor takes bytes."""

    def __init__(
        self, descriptor: int, clock: Callable[[], float] = time.monotonic, style: LogStyle | None = None
    ) -> None:
        super().__init__()
        self._descriptor = descriptor
        self._style = style or TextStyle()
        self._limit = KindLimit(clock)
        self._lines: queue.Queue[str | None] = queue.Queue(QUEUE_LINES)
        self._dropped = 0  # since the last line that was queued; guarded by the handler's lock
        self._writer = threading.Thread(target=self._write_all, name="walrus-log", daemon=True)
        self._writer.start()

    def emit(self, record: logging.LogRecord) -> None:
        """Queue a line, or count it as dropped. `logging` calls this with the handler's lock held."""
        try:
            left_out = self._limit.admit(str(record.msg))
            if left_out is None:
                return
            self._lines.put_nowait(self._told() + self._style.line(record, left_out) + "\n")
        except queue.Full:
            self._dropped += 1
        except Exception:  # noqa: BLE001 - a line that cannot be formatted must not stop its caller
            self._dropped += 1
        else:
            self._dropped = 0

    def _told(self) -> str:
        """Return the line about dropped lines; empty if there are none."""
        return self._style.dropped(self._dropped) + "\n" if self._dropped else ""

    def _write_all(self) -> None:
        while (line := self._lines.get()) is not None:
            self._write(line)
            if self._dropped and self._lines.empty():
                self._tell()
        self._tell()

    def _tell(self) -> None:
        """Write the number of dropped lines now, since the next line may come much later."""
        with self.lock or contextlib.nullcontext():
            text, self._dropped = self._told(), 0
        self._write(text)

    def _write(self, text: str) -> None:
        """Write to the descriptor. Errors (a full disk, a closed pipe) are ignored: no other log exists."""
        data = text.encode(errors="backslashreplace")
        with contextlib.suppress(OSError):
            while data:
                data = data[os.write(self._descriptor, data) :]

    def close(self) -> None:
        """Let the writer write what is queued, for at most about twice `FLUSH_PATIENCE` seconds."""
        with contextlib.suppress(queue.Full):
            self._lines.put(None, timeout=FLUSH_PATIENCE)
            self._writer.join(FLUSH_PATIENCE)
        super().close()


def open_log(file: Path | None, level: str, node_id: int, style: str = "text") -> QueuedHandler:
    """Log to `file` (stderr if None) from now on. Raises OSError.

    The file is never closed: a writer thread that is blocked in it could otherwise write to another file
    that gets the same descriptor.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
    text = TextStyle(f"%(asctime)s node {node_id} %(levelname)s %(message)s")
    lines: LogStyle = JsonStyle(node_id) if style == "json" else text
    handler = QueuedHandler(2 if file is None else os.open(file, flags, 0o644), style=lines)
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(level.upper())
    return handler


def obey_signals(level: str) -> None:
    """Change the log level without a restart: SIGUSR1 sets it to debug, SIGUSR2 back to `level`."""
    for number, wanted in ((signal.SIGUSR1, "debug"), (signal.SIGUSR2, level)):
        signal.signal(number, _setter(wanted.upper()))


def _setter(level: str) -> Callable[[int, object], None]:
    return lambda _number, _frame: logging.getLogger().setLevel(level)


def close_log(handler: QueuedHandler) -> None:
    """Write what is queued, and stop logging."""
    logging.getLogger().removeHandler(handler)
    handler.close()
