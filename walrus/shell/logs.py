"""Log lines that can never stop a node: a bounded queue, a thread that writes, and a bound on each kind.

    event loop ── log.warning(...) ──► per-kind bound ──► queue (bounded) ──► writer thread ──► stderr or file
                                        │ too many           │ full
                                        └── counted          └── counted

A log is a pipe or a disk, and either can stop taking bytes: a log shipper that hangs, a terminal in scroll
mode, a full file system. A node that wrote its lines from the event loop would then miss its heartbeats, and
the cluster would lose it over a line of text. So the event loop only formats and queues; a thread writes.
What the queue does not take is dropped, counted, and told as soon as the writer gets on.

*Kinds.* Whatever makes a line appear once can make it appear a million times, and some of that is in the
hands of strangers. The lines of one kind (the message's pattern, with its digits left out) may come in a
burst of `BURST`, and then one per second; the next one that is written says how many like it were not.

*Formats.* `text` is for people. `json` is one object a line, for programs: `event` is the message's pattern,
which is the same however the numbers and addresses in it differ, so a search for it finds all of them:

    {"at": 1700000000.123, "node": 1, "level": "INFO", "module": "walrus.shell.peer_connections",
     "event": "connected to node %d at %s", "message": "connected to node 2 at 127.0.0.1:6001", "left_out": 0}

Invariants: `emit` never blocks and never raises; memory is bounded by `QUEUE_LINES` lines of at most
`MAX_LINE` characters and by `MAX_KINDS` counters.

Left out: what is queued when the process is killed is lost with it. `close` waits `FLUSH_PATIENCE` seconds
for the writer and no longer: a stuck log must not keep a node from ending.
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
"""Characters. A longer line is a traceback, mostly: its beginning and its end say what is wrong."""
HEAD = 500
"""Characters of a line that is too long that are kept from its beginning."""
BURST = 20
MAX_KINDS = 500
KIND_LENGTH = 60
"""Characters of a message's pattern that tell its kind."""
FLUSH_PATIENCE = 1.0
"""Seconds."""

_DIGITS = re.compile(r"\d+")


class _Kind(msgspec.Struct):
    """The lines of one kind: a token bucket, and what it left out."""

    tokens: float
    at: float
    left_out: int = 0


class KindLimit:
    """Lets a burst of each kind of line through, then one per second."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._kinds: dict[str, _Kind] = {}

    def admit(self, pattern: str) -> int | None:
        """Return how many lines like this were left out since the last one; None: leave this one out, too."""
        now, name = self._clock(), _DIGITS.sub("#", pattern[:KIND_LENGTH])
        kind = self._kinds.pop(name, None) or _Kind(BURST, now)
        self._kinds[name] = kind  # the one used last is the last of all
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
    """The beginning and the end of a line that is too long."""
    return line if len(line) <= MAX_LINE else f"{line[:HEAD]} ... {line[HEAD - MAX_LINE :]}"


class LogStyle(Protocol):
    """How a record becomes a line."""

    def line(self, record: logging.LogRecord, left_out: int) -> str:
        """One record, and how many like it were left out before it."""

    def dropped(self, count: int) -> str:
        """So many lines were not taken."""


class TextStyle:
    """Lines for people."""

    def __init__(self, pattern: str = "%(message)s") -> None:
        self._formatter = logging.Formatter(pattern)

    def line(self, record: logging.LogRecord, left_out: int) -> str:
        """One record, and how many like it were left out before it."""
        line = _shortened(self._formatter.format(record))
        return f"{line} (and {left_out:,} more like this)" if left_out else line

    def dropped(self, count: int) -> str:
        """So many lines were not taken."""
        return f"({count:,} lines were dropped: the log did not take them)"


class JsonStyle:
    """One object a line, for programs: see the module's text."""

    def __init__(self, node_id: int) -> None:
        self._node_id = node_id
        self._traceback = logging.Formatter()

    def line(self, record: logging.LogRecord, left_out: int) -> str:
        """One record, and how many like it were left out before it."""
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
        """So many lines were not taken."""
        event = "lines were dropped: the log did not take them"
        told = {"at": round(time.time(), 3), "node": self._node_id, "level": "WARNING", "module": __name__}
        return json.dumps({**told, "event": event, "message": f"{count} {event}", "left_out": count})


class QueuedHandler(logging.Handler):
    """A logging handler whose `emit` costs a format and a put, whether or not the descriptor takes bytes."""

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
        """Queue a line, or count it. `logging` calls this with the handler's lock held."""
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
        """What to say about the lines that were dropped here, if any were."""
        return self._style.dropped(self._dropped) + "\n" if self._dropped else ""

    def _write_all(self) -> None:
        while (line := self._lines.get()) is not None:
            self._write(line)
            if self._dropped and self._lines.empty():
                self._tell()
        self._tell()

    def _tell(self) -> None:
        """Say now what was dropped: the next line may be long in coming."""
        with self.lock or contextlib.nullcontext():
            text, self._dropped = self._told(), 0
        self._write(text)

    def _write(self, text: str) -> None:
        """Write to the descriptor. An error (a full disk, a closed pipe) has nowhere to be reported."""
        data = text.encode(errors="backslashreplace")
        with contextlib.suppress(OSError):
            while data:
                data = data[os.write(self._descriptor, data) :]

    def close(self) -> None:
        """Let the writer write what is queued, for at most about `FLUSH_PATIENCE` seconds."""
        with contextlib.suppress(queue.Full):
            self._lines.put(None, timeout=FLUSH_PATIENCE)
            self._writer.join(FLUSH_PATIENCE)
        super().close()


def open_log(file: Path | None, level: str, node_id: int, style: str = "text") -> QueuedHandler:
    """Log everything from now on to `file` (stderr if None). Raises OSError.

    The file is never closed: a writer that is stuck in it must not find another file under its number.
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
    """SIGUSR1: log everything from now on. SIGUSR2: back to `level`. Neither takes a restart."""
    for number, wanted in ((signal.SIGUSR1, "debug"), (signal.SIGUSR2, level)):
        signal.signal(number, _setter(wanted.upper()))


def _setter(level: str) -> Callable[[int, object], None]:
    return lambda _number, _frame: logging.getLogger().setLevel(level)


def close_log(handler: QueuedHandler) -> None:
    """Write what is queued, and log nothing more."""
    logging.getLogger().removeHandler(handler)
    handler.close()
