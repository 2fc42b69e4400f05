"""Frames: where one value ends in a stream of bytes and the next one begins.

Everything on a wire is a frame, in both directions and on both ports:

    length   u32 little-endian     how many bytes follow
    body     `length` bytes

TCP delivers a stream in pieces whose ends have nothing to do with the ends of frames. `FrameParser` is the
one loop that reassembles frames from these pieces. Its subclasses interpret the bodies: requests
(`requests.py`), replies (`replies.py`), messages between nodes (`peer.py`). A parser owns no socket and no
clock.

Invariants:

* the values and their order do not depend on how the stream is cut into pieces;
* a parser holds at most one incomplete frame, so at most `limit + 4` bytes, and allocates only for bytes
  that have arrived;
* a length out of bounds is detected before the body arrives;
* the work is linear in the number of bytes, even for a long frame that arrives byte by byte.

Left out: checksums. TCP has one, and records on disk have their own (`storage/record.py`).
"""

from __future__ import annotations

import struct
from abc import ABC, abstractmethod
from typing import Final, Generic, TypeVar

HEADER_BYTES: Final = 4
LENGTH: Final = struct.Struct("<I")
MAX_SKIP_BYTES: Final = 16 << 20
"""Bytes. A request that is longer than allowed, but not longer than this, is skipped and answered with an
error; a longer one closes the connection. Text without a length prefix reads as a length of 150 MB or more,
so it closes the connection, too."""

Value = TypeVar("Value")


class ProtocolError(Exception):
    """The other side violated the framing or the encoding: this connection cannot be used any more."""


def frame(body: bytes) -> bytes:
    """`body` with its length in front."""
    return LENGTH.pack(len(body)) + body


def repeated(data: bytes, start: int, stop: int) -> tuple[int, int]:
    """How many times the frame `data[start:stop]` is repeated in a row, and where the last one ends.

    >>> repeated(frame(b"GET t") * 3 + frame(b"GET u"), 0, 9)
    (3, 27)
    """
    same, size, count = data[start:stop], stop - start, 1
    while data.startswith(same, stop):
        count += 1
        stop += size
    return count, stop


class FrameParser(ABC, Generic[Value]):
    """Parses the stream of one connection into values.

    `limit` is the length of the longest body, in bytes; it may be changed between calls of `feed`.
    """

    __slots__ = ("_closed", "_needed", "_partial", "_skip", "limit")

    def __init__(self, limit: int) -> None:
        assert 0 < limit < 1 << 32
        self.limit = limit
        self._partial = bytearray()  # an incomplete frame, from its length on
        self._needed = HEADER_BYTES  # the length of `_partial` at which parsing can make progress
        self._skip = 0  # bytes still to be dropped of a frame that was refused for its length
        self._closed = False

    @property
    def buffered(self) -> int:
        """Bytes held back because their frame is incomplete."""
        return len(self._partial)

    @property
    def closed(self) -> bool:
        """Whether the parser gave up the stream: it drops everything that arrives from then on."""
        return self._closed

    def check_invariants(self) -> None:
        """Assert what holds between any two calls of `feed`."""
        assert len(self._partial) <= self.limit + HEADER_BYTES
        assert self._skip == 0 or not self._partial
        assert 0 <= self._skip <= MAX_SKIP_BYTES

    def feed(self, data: bytes) -> list[Value]:
        """Take the next bytes of the stream; return the values that they complete, in order."""
        if self._closed:
            return []
        if self._skip:
            skipped = min(self._skip, len(data))
            self._skip -= skipped
            data = data[skipped:]
        if self._partial:
            # Append to a bytearray, and parse only once the frame is complete: otherwise a long frame that
            # arrives byte by byte would cost time quadratic in its length.
            self._partial += data
            if len(self._partial) < self._needed:
                return []
            data, self._partial = self._whole(self._partial), bytearray()
        values: list[Value] = []
        position, end = 0, len(data)
        self._needed = HEADER_BYTES
        while end - position >= HEADER_BYTES:
            (length,) = LENGTH.unpack_from(data, position)
            if not 0 < length <= self.limit:
                position = self._pass_over(length, position + HEADER_BYTES, end, values)
                continue
            stop = position + HEADER_BYTES + length
            if stop > end:
                self._needed = stop - position
                break
            position = self._take(data, position, stop, values)
        if position < end:
            self._partial += memoryview(data)[position:]
        return values

    def _whole(self, partial: bytearray) -> bytes:
        """The bytes held back, ready to be parsed: a copy, since values keep slices of it as `bytes`."""
        return bytes(partial)

    def _pass_over(self, length: int, body: int, end: int, values: list[Value]) -> int:
        """Drop the part of a refused frame's body that has arrived; return the position after it."""
        dropped = self._refuse(length, values)
        if dropped is None:
            self._closed = True
            return end
        here = min(dropped, end - body)
        self._skip = dropped - here
        return body + here

    @abstractmethod
    def _take(self, data: bytes, start: int, stop: int, values: list[Value]) -> int:
        """Append the value of the frame `data[start:stop]`; complete frames after it may be taken, too.

        Returns where the last frame taken ends.
        """

    def _refuse(self, length: int, values: list[Value]) -> int | None:
        """Handle a header that announces a body of 0 bytes, or of more than `limit`.

        Returns how many bytes to drop, or None to give up the stream. Raises `ProtocolError`.
        """
        raise ProtocolError(f"a frame of {length} bytes: 1 to {self.limit} are allowed here")
