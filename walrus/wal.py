"""The storage engine's facade."""

from __future__ import annotations

import os
import select
import struct
import threading
from pathlib import Path
from zlib import crc32

from walrus.storage.batch import EMPTY, Batch
from walrus.storage.errors import EngineClosed

_HEAD = struct.Struct("<IBHIII")  # crc, kind, topic bytes, lengths bytes, blob bytes, reserved
_APPEND, _TRIM, _DELETE = 1, 2, 3


class Syncer:
    """At most one sync in flight, on a worker thread; `fileno()` becomes readable when it is done."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._read, self._write = os.pipe()
        self._error: OSError | None = None

    def fileno(self) -> int:
        """Readable when the sync that was started is done."""
        return self._read

    def start(self) -> None:
        """Everything written before this call becomes durable."""
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        try:
            os.fdatasync(self._fd)
        except OSError as error:
            self._error = error
        os.write(self._write, b"x")

    def finish(self) -> None:
        """Take the notification; raise the sync's error."""
        select.select([self._read], [], [])
        os.read(self._read, 1)
        if self._error:
            raise self._error


class Walrus:
    """Topics of numbered entries in one directory."""

    def __init__(self, path: str | os.PathLike[str] = "wal_files") -> None:
        Path(path).mkdir(parents=True, exist_ok=True)
        self._fd = os.open(Path(path) / "plain.wal", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        self._logs: dict[str, tuple[int, list[bytes]]] = {}
        self._end = 0
        self._closed = False
        self._recover()

    def _recover(self) -> None:
        data = os.pread(self._fd, os.fstat(self._fd).st_size, 0)
        while self._end + _HEAD.size <= len(data):
            crc, kind, topic_size, table, blob, number = _HEAD.unpack_from(data, self._end)
            body = self._end + _HEAD.size
            end = body + topic_size + table + blob
            if not kind or end > len(data) or crc32(data[self._end + 4 : end]) != crc:
                break
            topic = data[body : body + topic_size].decode()
            batch = Batch(data[body + topic_size : body + topic_size + table], data[end - blob : end])
            self._apply(kind, topic, batch, number)
            self._end = end
        os.ftruncate(self._fd, self._end)

    def _apply(self, kind: int, topic: str, batch: Batch, number: int) -> None:
        if kind == _APPEND:
            self._logs.setdefault(topic, (0, []))[1].extend(batch.payloads())
        elif kind == _TRIM:
            first, entries = self._logs[topic]
            self._logs[topic] = (number, entries[number - first :])
        else:
            self._logs.pop(topic, None)

    def _log(self, kind: int, topic: str, batch: Batch, number: int = 0) -> None:
        if self._closed:
            raise EngineClosed
        name = topic.encode()
        body = _HEAD.pack(0, kind, len(name), len(batch.lengths), len(batch.blob), number)[4:]
        body += name + batch.lengths + batch.blob
        record = struct.pack("<I", crc32(body)) + body
        assert os.pwrite(self._fd, record, self._end) == len(record)
        self._end += len(record)
        self._apply(kind, topic, batch, number)

    def write(self, topic: str, batch: Batch) -> int:
        """Append; the first entry's index."""
        index = self.bounds(topic)[1]
        if batch.count:
            self._log(_APPEND, topic, batch)
        return index

    def read_batch(self, topic: str, start: int, max_entries: int, max_bytes: int) -> Batch:
        """Entries from `start` on."""
        first, entries = self._logs.get(topic, (0, []))
        if start < first:
            raise IndexError(f"entry {start} of {topic!r} was trimmed away; the first one is {first}")
        taken: list[bytes] = []
        for entry in entries[start - first : start - first + max_entries]:
            max_bytes -= len(entry)
            if taken and max_bytes < 0:
                break
            taken.append(entry)
        return Batch.of(taken) if taken else EMPTY

    def bounds(self, topic: str) -> tuple[int, int]:
        """(first, next)."""
        first, entries = self._logs.get(topic, (0, []))
        return first, first + len(entries)

    def topics(self) -> list[str]:
        """Sorted names."""
        return sorted(self._logs)

    def trim(self, topic: str, before: int) -> None:
        """Forget entries below `before`."""
        first, next_index = self.bounds(topic)
        if first < before:
            self._log(_TRIM, topic, EMPTY, min(before, next_index))

    def delete_topic(self, topic: str) -> None:
        """Forget the topic."""
        if topic in self._logs:
            self._log(_DELETE, topic, EMPTY)

    def sync(self) -> None:
        """Everything written before this call becomes durable."""
        os.fdatasync(self._fd)

    def syncer(self) -> Syncer:
        """A way to sync without blocking."""
        return Syncer(self._fd)

    def close(self) -> None:
        """Sync and let go."""
        if not self._closed:
            os.fdatasync(self._fd)
            os.close(self._fd)
            self._closed = True
