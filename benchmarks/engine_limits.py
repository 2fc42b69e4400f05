"""The machine's limits: the same bytes through the barest loop that Python allows.

Nothing written here can be read back: there is no framing (unless the name says so), no index, no recovery.
An engine is judged by how much of the speed of such a loop is left once it does all that.
"""

from __future__ import annotations

import mmap
import os
import struct
from pathlib import Path
from zlib import crc32

HEADER = struct.Struct("<IIQ")

MAPPED_BYTES = 256 << 20


class Limit:
    """A bare file. `fill` is the loop that is timed."""

    def __init__(self, directory: Path) -> None:
        self.fd = os.open(directory / "limit", os.O_RDWR | os.O_CREAT)

    def close(self) -> None:
        """Close the file."""
        os.close(self.fd)


class Pwrite(Limit):
    """One `os.pwrite` per entry, to a file that grows."""

    def fill(self, count: int, payload: bytes) -> None:
        """Run the timed loop."""
        pwrite, fd, offset, size = os.pwrite, self.fd, 0, len(payload)
        for _ in range(count):
            pwrite(fd, payload, offset)
            offset += size


class Pwritev(Limit):
    """One `os.pwritev` per entry, of a header made in advance and the payload."""

    def fill(self, count: int, payload: bytes) -> None:
        """Run the timed loop."""
        pwritev, fd, offset, size = os.pwritev, self.fd, 0, HEADER.size + len(payload)
        header = HEADER.pack(len(payload), 0, 1)
        for _ in range(count):
            pwritev(fd, (header, payload), offset)
            offset += size


class FramedPwritev(Limit):
    """The same with what a log needs: a header is built and a checksum computed for each entry."""

    def fill(self, count: int, payload: bytes) -> None:
        """Run the timed loop."""
        pwritev, fd, offset, size, pack = os.pwritev, self.fd, 0, HEADER.size + len(payload), HEADER.pack
        for number in range(count):
            pwritev(fd, (pack(len(payload), crc32(payload), number), payload), offset)
            offset += size


class Mapping(Limit):
    """Slice assignment into a mapping of a preallocated file: no system call at all."""

    def fill(self, count: int, payload: bytes) -> None:
        """Run the timed loop."""
        size = len(payload)
        length = min(MAPPED_BYTES, -(-count * size // 4096) * 4096)
        os.posix_fallocate(self.fd, 0, length)
        target, offset = mmap.mmap(self.fd, length), 0
        for _ in range(count):
            if offset + size > length:
                offset = 0
            target[offset : offset + size] = payload
            offset += size


class JoinedPwrite(Limit):
    """1,000 entries joined, one `os.pwrite`: no framing."""

    def fill_batches(self, batches: int, per_batch: int, payload: bytes) -> None:
        """Run the timed loop."""
        entries, pwrite, fd, offset = [payload] * per_batch, os.pwrite, self.fd, 0
        for _ in range(batches):
            blob = b"".join(entries)
            pwrite(fd, blob, offset)
            offset += len(blob)


class SyncedPwrite(Limit):
    """`os.pwrite` and `os.fdatasync` for each entry, to a file that grows."""

    def fill(self, count: int, payload: bytes) -> None:
        """Run the timed loop."""
        fd, offset, size = self.fd, 0, len(payload)
        for _ in range(count):
            os.pwrite(fd, payload, offset)
            os.fdatasync(fd)
            offset += size


class SyncedOverwrite(Limit):
    """The same on space that was allocated and written before: no metadata to sync."""

    def fill(self, count: int, payload: bytes) -> None:
        """The loop; the caller prepares the file with `prepare`."""
        fd, offset, size = self.fd, 0, len(payload)
        for _ in range(count):
            os.pwrite(fd, payload, offset)
            os.fdatasync(fd)
            offset += size

    def prepare(self, size: int) -> None:
        """Write `size` zeros and make them durable."""
        os.pwrite(self.fd, bytes(size), 0)
        os.fsync(self.fd)


class SyncedJoinedPwrite(Limit):
    """1,000 entries joined, one `os.pwrite`, one `os.fdatasync`, to a file that grows."""

    def fill_batches(self, batches: int, per_batch: int, payload: bytes) -> None:
        """Run the timed loop."""
        entries, fd, offset = [payload] * per_batch, self.fd, 0
        for _ in range(batches):
            blob = b"".join(entries)
            os.pwrite(fd, blob, offset)
            os.fdatasync(fd)
            offset += len(blob)
