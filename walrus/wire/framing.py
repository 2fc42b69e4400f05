"""Frames: where one value ends in a stream of bytes and the next one begins.

Everything on a wire is a frame, in both directions and on both ports:

    length   u32 little-endian     how many bytes follow
    body     `length` bytes

A stream arrives in pieces that have nothing to do with its frames. `FrameParser` is the one loop that puts
the pieces together; what a body means is its subclasses' business: requests (`requests.py`), replies
(`replies.py`), messages between nodes (`peer.py`). A parser owns no socket and no clock.

Invariants:

* however the stream is cut into pieces, the same values come out, in the same order;
* a parser holds at most one incomplete frame, so at most `limit + 4` bytes, and only what arrived of it;
* a length out of bounds is noticed before the body arrives;
* the work is linear in the bytes, even for a long frame that comes byte by byte.

Left out: checksums. TCP has one, and what is kept for long (the disk) has its own.
"""

from __future__ import annotations

import struct
from abc import ABC, abstractmethod
from typing import Final, Generic, TypeVar

HEADER_BYTES: Final = 4
LENGTH: Final = struct.Struct("<I")
MAX_SKIP_BYTES: Final = 16 << 20
"""A request longer than allowed, but not longer than this, is skipped and answered; beyond it the
connection closes. Text sent without a length prefix reads as a length of 150 MB or more: it lands beyond."""

Value = TypeVar("Value")


class ProtocolError(Exception):
    """The other side broke the framing or the encoding: this connection cannot be continued."""


def frame(body: bytes) -> bytes:
    """`body` with its length in front."""
    return LENGTH.pack(len(body)) + body


def repeated(data: bytes, start: int, stop: int) -> tuple[int, int]:
    """How many times the frame `data[start:stop]` comes in a row, and where the last one ends.

    >>> repeated(frame(b"GET t") * 3 + frame(b"GET u"), 0, 9)
    (3, 27)
    """
    same, size, count = data[start:stop], stop - start, 1
    while data.startswith(same, stop):
        count += 1
        stop += size
    return count, stop


class FrameParser(ABC, Generic[Value]):
    """The values of one connection, out of the pieces in which its bytes arrive.

    `limit` is the longest body; it may be changed between feeds.
    """

    __slots__ = ("_closed", "_needed", "_partial", "_skip", "limit")

    def __init__(self, limit: int) -> None:
        assert 0 < limit < 1 << 32
        self.limit = limit
        self._partial = bytearray()  # an incomplete frame, from its length on
        self._needed = HEADER_BYTES  # how long `_partial` must be before looking at it is worth it
        self._skip = 0  # bytes still to be dropped of a frame that was refused for its length
        self._closed = False

    @property
    def buffered(self) -> int:
        """Bytes held back because their frame is incomplete."""
        return len(self._partial)

    @property
    def closed(self) -> bool:
        """Whether the stream was given up: whatever else arrives is dropped."""
        return self._closed

    def check_invariants(self) -> None:
        """What holds between any two feeds."""
        assert len(self._partial) <= self.limit + HEADER_BYTES
        assert self._skip == 0 or not self._partial
        assert 0 <= self._skip <= MAX_SKIP_BYTES

    def feed(self, data: bytes) -> list[Value]:
        """Take the next bytes of the stream; return the values that are now complete, in order."""
        if self._closed:
            return []
        if self._skip:
            skipped = min(self._skip, len(data))
            self._skip -= skipped
            data = data[skipped:]
        if self._partial:
            # Appending to a bytearray and looking only when the frame is complete keeps a peer that
            # sends a long frame byte by byte from costing the square of its length.
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
        """What was held back, to be taken apart: a copy, because slices of it live on as `bytes`."""
        return bytes(partial)

    def _pass_over(self, length: int, body: int, end: int, values: list[Value]) -> int:
        """Drop the body of a refused frame, as far as it is here; returns where to go on."""
        dropped = self._refuse(length, values)
        if dropped is None:
            self._closed = True
            return end
        here = min(dropped, end - body)
        self._skip = dropped - here
        return body + here

    @abstractmethod
    def _take(self, data: bytes, start: int, stop: int, values: list[Value]) -> int:
        """Add the value of the frame `data[start:stop]`, and perhaps of frames behind it that are whole too.

        Returns where the last frame taken ends.
        """

    def _refuse(self, length: int, values: list[Value]) -> int | None:
        """A body of `length` bytes is announced: 0, or more than `limit`.

        Raises `ProtocolError`, or returns how many bytes to drop; None gives up the stream.
        """
        raise ProtocolError(f"a frame of {length} bytes: 1 to {self.limit} are allowed here")
