"""Receipts: the name of one delivery of one entry to a consumer group, as text that clients hand back.

    <segment>.<offset>.<generation>.<delivery>        1.41.0.2

Segment and offset are the entry's place in its topic. The generation rises with each SEEK of the group, so a
receipt from before a SEEK acknowledges nothing after it. The delivery counts how often the owner of the group
has handed the entry out, from 1: NACK and EXTEND concern that delivery alone, while an ACK says that the work
is done, whichever delivery led to it.

A client may read the entry's place off its beginning (docs/protocol.md says so); the rest means nothing to
it. The text has no spaces, and the same receipt is good at every node.
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
    """The receipt that these bytes spell; None if they spell none.

    >>> parse_receipt(b"1.41.0.2"), parse_receipt(b"1.41"), parse_receipt(b"0.0.0.1")
    (Receipt(segment=1, offset=41, generation=0, delivery=2), None, None)
    """
    found = _RECEIPT.fullmatch(raw)
    receipt = Receipt(*map(int, found.groups())) if found else None
    return receipt if receipt and max(receipt) < 1 << 63 else None
