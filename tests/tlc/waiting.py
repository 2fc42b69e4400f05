"""Waiting for a condition, with a deadline."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


def eventually(condition: Callable[[], bool], seconds: float) -> None:
    """Return when the condition holds; fail if it does not in time."""
    deadline, never = time.monotonic() + seconds, threading.Event()
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        never.wait(0.02)
