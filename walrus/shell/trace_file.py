"""`--trace FILE`: one JSON line per spec-level event, stamped with the monotonic clock of the machine.

All nodes on one machine share that clock, so the lines of their files can be merged into one history, which
`python -m walrus.tlc trace` checks against the specification (docs/traces.md). The file is written
without a buffer, so it is complete up to the moment in which a node is killed.
"""

from __future__ import annotations

import time
from pathlib import Path

import msgspec

from walrus.shell.start import StartError


class TraceFile:
    """A `walrus.wire.effects.Trace` that appends to a file. The constructor raises StartError."""

    def __init__(self, path: Path, node_id: int) -> None:
        try:
            self._file = path.open("ab", buffering=0)
        except OSError as error:
            raise StartError(f"--trace: cannot write {path}: {error.strerror}") from error
        self._node_id = node_id
        self._encode = msgspec.json.Encoder().encode

    def __call__(self, event: str, /, **values: object) -> None:
        """Record an event."""
        record = {"ev": event, "node": self._node_id, "at": time.monotonic_ns(), **values}
        self._file.write(self._encode(record) + b"\n")
