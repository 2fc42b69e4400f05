"""Records in one piece. The engine writes them in parts, and has no need of this."""

from __future__ import annotations

from walrus.storage.batch import Batch
from walrus.storage.record import Life, encode_check, encode_head, encode_stamps


def encode(life: Life, position: int, durable: int, batch: Batch) -> bytes:
    """The record of a batch."""
    stamps = encode_stamps(batch)
    head = encode_head(life, position, durable, batch.lengths, batch.size, len(stamps))
    parts = [head, batch.blob, stamps]
    return b"".join([*parts, encode_check(life, parts)])
