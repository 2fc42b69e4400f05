"""What the nodes of a cluster in play mode did lately: from their traces, as lines and as a film.

`walrus.cluster --play` starts each node with `--trace`. This module reads what the nodes have appended since
the last look, reports notable steps as lines (an election, a fence, a recovery), and makes a film of the
last half minute for the run viewer. The trace of a killed node has everything that the node did, because it
is written without a buffer. The console's own actions on a node (kill, pause) are steps, too.

All times are of the machine's monotonic clock.

Invariant: the disk space of a trace is bounded: beyond `MAX_BYTES` it is truncated and begins anew.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from walrus.view import recorded
from walrus.view.film import Film

SECONDS: Final = 30
"""Length of a film in seconds."""
MAX_BYTES: Final = 16_000_000
"""The most bytes of one node's trace: some twenty minutes of `walrus.console.stream`."""
MAX_STEPS: Final = 20_000
"""How many steps are kept of all traces together; the oldest are dropped."""
STEP: Final = {"kill": "Crash", "pause": "Pause", "resume": "Resume"}
"""Actions of the console, and their names in a trace."""

Step = dict[str, Any]


def told(step: Mapping[str, Any]) -> tuple[str, str] | None:
    """Return kind and text of the line about a step; None if it is not notable.

    >>> told({"ev": "StartRecovery", "node": 3, "topic": "play", "segment": 4})
    ('note', 'node 3 recovers play/4: fences its copies')
    """
    node, segment = f"node {step.get('node')}", f"{step.get('topic')}/{step.get('segment')}"
    match step["ev"]:
        case "Timeout":
            return (
                "note",
                f"{node} hears no Raft leader, and asks for votes in term {step.get('current_term')}",
            )
        case "StartRecovery":
            return "note", f"{node} recovers {segment}: fences its copies"
        case "AnswerFence":
            return "note", f"{node} fences its copy of {segment}: {step.get('length'):,} entries"
        case "RecoverySeal":
            return "good", f"{node} seals {segment} with the {step.get('count'):,} entries that count"
    return None


class Recording:
    """The traces below one data directory, as far as they were read."""

    def __init__(self, data_dir: Path, clock: Callable[[], int] = time.monotonic_ns) -> None:
        self._data_dir, self._clock = data_dir, clock
        self._read: dict[Path, int] = {}
        self._steps: deque[Step] = deque(maxlen=MAX_STEPS)
        self._untold: deque[tuple[int, str, str]] = deque(maxlen=MAX_STEPS)
        """(time, kind, text) of lines that `look` has not returned yet; `lately` may have read them."""

    def acted(self, action: str, node_id: int) -> None:
        """Note an action on a node."""
        if action in STEP:
            self._steps.append({"ev": STEP[action], "node": node_id, "at": self._clock()})

    def look(self) -> list[tuple[float, str, str]]:
        """Read on, and return the lines since the last look: seconds ago, kind, text."""
        self._read_on()
        now = self._clock()
        lines = [((now - at) / 1e9, kind, text) for at, kind, text in self._untold]
        self._untold.clear()
        return lines

    def _read_on(self) -> None:
        for step in sorted(self._new(), key=lambda step: step["at"]):
            self._steps.append(step)
            if (line := told(step)) is not None:
                self._untold.append((step["at"], *line))

    def _new(self) -> Iterable[Step]:
        for path in sorted(self._data_dir.glob("trace-*.jsonl")):
            with path.open("rb") as file:
                file.seek(self._read.get(path, 0))
                whole, _, _ = file.read(MAX_BYTES).rpartition(b"\n")
            self._read[path] = self._read.get(path, 0) + len(whole) + bool(whole)
            for line in whole.splitlines():
                try:
                    step = msgspec.json.decode(line, type=Step)
                except (msgspec.DecodeError, UnicodeDecodeError):
                    continue  # the node died, or the file was truncated, in mid-line
                if step["ev"] != "Begin":
                    yield step
            if self._read[path] > MAX_BYTES:  # the node appends: it goes on at the beginning
                os.truncate(path, 0)
                self._read[path] = 0

    def lately(self, others: Iterable[Step] = ()) -> list[Step]:
        """Return the steps of the last half minute, together with `others`, which no trace has."""
        self._read_on()
        now = self._clock()
        return [step for step in (*self._steps, *others) if now - step["at"] < SECONDS * 10**9]


def film(steps: Iterable[Step]) -> Film:
    """Return the film of the steps that `lately` returned; it opens at the console's last action.

    It takes some tenths of a second, and needs nothing but the steps, so a thread may do it.
    """
    made = recorded.of_steps(steps, f"The last {SECONDS} seconds")
    done = [number for number, event in enumerate(made.events) if event.what in STEP.values()]
    made.header.opens = done[-1] if done else 0
    return made
