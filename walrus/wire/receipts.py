"""Receipts: the name of one delivery of one entry to a consumer group, as text that clients hand back.

    <segment>.<offset>.<generation>.<delivery>        1.41.0.2

* Segment and offset are the entry's position in its topic.
* The generation increases with each SEEK of the group, so a receipt from before a SEEK acknowledges nothing
  after it.
* The delivery counts how often the owner of the group has handed the entry out, from 1. NACK and EXTEND
  concern that delivery only. ACK says that the work is done, so a receipt of an earlier delivery will do.

A client may take the entry's position from the beginning of a receipt (docs/protocol.md); the rest is opaque
to it. A receipt has no spaces, and any node accepts it.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

RECEIPT_TEXT: Final = b"%d.%d.%d.%d"

MAX_RECEIPT_BYTES: Final = 80
"""Four numbers of at most 19 digits, and the dots."""

_RECEIPT: Final = re.compile(rb"([1-9]\d{0,18})\.(\d{1,19})\.(\d{1,19})\.([1-9]\d{0,18})", re.ASCII)


class Receipt(NamedTuple):
    """One delivery of one entry to a group."""

    segment: int
    offset: int
    generation: int
    delivery: int

    def __str__(self) -> str:
        """The text that a client is given.

        >>> str(Receipt(1, 41, 0, 2))
        '1.41.0.2'
        """
        return (RECEIPT_TEXT % self).decode()


def parse_receipt(raw: bytes) -> Receipt | None:
    """Parse a receipt; None if these bytes are not one.

    >>> parse_receipt(b"1.41.0.2"), parse_receipt(b"1.41"), parse_receipt(b"0.0.0.1")
    (Receipt(segment=1, offset=41, generation=0, delivery=2), None, None)
    """
    found = _RECEIPT.fullmatch(raw)
    receipt = Receipt(*map(int, found.groups())) if found else None
    return receipt if receipt and max(receipt) < 1 << 63 else None
