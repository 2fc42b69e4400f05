"""Runs: many frames of one kind, parsed at once instead of one by one.

Runs are common in a message log: a producer pipelines a hundred PUTs to one topic, and they arrive in one
read; a consumer sends the same GET again and again. The parser of requests (`requests.py`) parses the first
frame of a run and calls a function of this module, which returns how far the run extends. A run of PUTs
becomes one `Batch`, which is not taken apart on its way to the disks; a run of GETs or FETCHes becomes a
count.

A run consists of complete frames, none longer than the limit. The loop in `framing.py` continues after the
run. Frames of equal length are compared many at a time, by operations on bytes that run in C, so the cost
for each frame is little more than that of its payload.

Invariant: a run has the same meaning as its frames one by one (`tests/wire/test_requests.py` compares both).
"""

from __future__ import annotations

import struct
from functools import lru_cache
from typing import Final

from walrus.storage.batch import Batch
from walrus.wire.framing import HEADER_BYTES, LENGTH

_AT_ONCE: Final = 32
"""How many frames are compared in one operation."""


def puts(data: bytes, position: int, prefix: bytes, limit: int) -> tuple[Batch, int]:
    """Return the payloads of the complete frames from `position` on whose bodies start with `prefix`, and
    where the last one ends.

    The caller has checked the first frame. This is the hottest loop of the project.
    """
    payloads: list[bytes] = []
    skip, end = HEADER_BYTES + len(prefix), len(data)
    if end - position >= skip * _AT_ONCE:
        payloads, position = _equals(data, position, skip)
    equals = len(payloads)
    append, startswith, unpack_from = payloads.append, data.startswith, LENGTH.unpack_from
    while end - position >= skip:
        (length,) = unpack_from(data, position)
        stop = position + HEADER_BYTES + length
        if stop > end or length > limit or not startswith(prefix, position + HEADER_BYTES, stop):
            break
        append(data[position + skip : stop])
        position = stop
    if len(payloads) == 1:
        return Batch(LENGTH.pack(len(payloads[0])), payloads[0]), position
    if len(payloads) == equals:
        return Batch(LENGTH.pack(len(payloads[0])) * len(payloads), b"".join(payloads)), position
    return Batch.of(payloads), position


@lru_cache(maxsize=256)
def _stride(skip: int, payload: int) -> struct.Struct:
    """A Struct that unpacks the payloads of `_AT_ONCE` frames of equal length."""
    return struct.Struct(f"{skip}x{payload}s" * _AT_ONCE)


def _equals(data: bytes, position: int, skip: int) -> tuple[list[bytes], int]:
    """Return the payloads of the frames from `position` on that begin with the same `skip` bytes as the
    first one, and where the last of them ends.

    Neighbouring entries often have the same length. Then no frame needs to be parsed: byte k of the first
    frame must be repeated at intervals of `size` bytes. One strided slice for each of the `skip` bytes finds
    the number of frames for which it is.
    """
    (length,) = LENGTH.unpack_from(data, position)
    size = HEADER_BYTES + length
    count = (len(data) - position) // size
    if not data.startswith(data[position : position + skip], position + size):
        return [], position
    for k in range(skip):
        if count < _AT_ONCE:
            return [], position
        column = data[position + k : position + count * size : size]
        count = len(column) - len(column.lstrip(column[:1]))
    payloads: list[bytes] = []
    stop, stride = position + count * size, _stride(skip, size - skip)
    while stop - position >= size * _AT_ONCE:
        payloads += stride.unpack_from(data, position)
        position += size * _AT_ONCE
    payloads += [data[start + skip : start + size] for start in range(position, stop, size)]
    return payloads, stop


def numbered(
    data: bytes, stop: int, prefix: bytes, number: int, limit: int, last: int
) -> tuple[list[bytes], int]:
    """Return the payloads of the PUBs numbered from `number` on, from `stop` on, and where the last ends.

    `prefix` is each body up to its number. The run stops before a body longer than `limit` bytes and before
    a number above `last`.
    """
    payloads: list[bytes] = []
    end, unpack_from, look_at = len(data), LENGTH.unpack_from, 0
    while end - stop >= HEADER_BYTES and number <= last:
        if len(payloads) >= look_at and number + _AT_ONCE <= last:
            equals, stop = _equal_numbers(data, stop, prefix, number, limit)
            payloads += equals
            number += len(equals)
            if equals:
                continue
            look_at = len(payloads) + _AT_ONCE
        (length,) = unpack_from(data, stop)
        body, after = stop + HEADER_BYTES, stop + HEADER_BYTES + length
        start = b"%b%d " % (prefix, number)
        if after > end or length > limit or not data.startswith(start, body, after):
            break
        payloads.append(data[body + len(start) : after])
        number, stop = number + 1, after
    return payloads, stop


@lru_cache(maxsize=256)
def _heads_and_payloads(head: int, payload: int) -> struct.Struct:
    """A Struct that splits `_AT_ONCE` frames of equal length into head and payload each."""
    return struct.Struct(f"{head}s{payload}s" * _AT_ONCE)


def _equal_numbers(
    data: bytes, stop: int, prefix: bytes, number: int, limit: int
) -> tuple[tuple[bytes, ...], int]:
    """Return the payloads of the next `_AT_ONCE` PUBs if all have the same length; else none."""
    (length,) = LENGTH.unpack_from(data, stop)
    front = data[stop : stop + HEADER_BYTES] + prefix
    head, size = len(front) + len(str(number)) + 1, HEADER_BYTES + length
    if size < head or length > limit or len(data) - stop < size * _AT_ONCE:
        return (), stop
    if not data.startswith(front, stop + size) or not data.startswith(front, stop + size * (_AT_ONCE - 1)):
        return (), stop
    parts = _heads_and_payloads(head, size - head).unpack_from(data, stop)
    if parts[::2] != tuple([b"%b%d " % (front, n) for n in range(number, number + _AT_ONCE)]):
        return (), stop
    return parts[1::2], stop + size * _AT_ONCE


def consecutive(
    data: bytes, stop: int, front: bytes, first: int, back: bytes, limit: int, last: int
) -> tuple[int, int]:
    """Count frames that differ only in an offset, which increases by one; also return where the last ends.

    The offset stands between `front` and `back`, and the frame of offset `first` ends at `stop`. The run
    stops before a body longer than `limit` bytes and before an offset above `last`.

    The expected bytes are generated and compared with the data: for twice as many frames after each match,
    for half as many after each mismatch.
    """
    following, at_once = first + 1, 1
    while at_once and following <= last:
        offsets = range(following, min(following + at_once, last + 1))
        bodies = [b"%b%d%b" % (front, offset, back) for offset in offsets]
        expected = b"".join([LENGTH.pack(len(body)) + body for body in bodies])
        if len(bodies[-1]) <= limit and data.startswith(expected, stop):
            following, stop = following + len(bodies), stop + len(expected)
            at_once = min(2 * at_once, _AT_ONCE)
        else:
            at_once //= 2
    return following - first, stop
