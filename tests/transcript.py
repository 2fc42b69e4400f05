"""Transcripts: what servers say to each other in one situation, as text to read.

A transcript is a text file that holds comments (`#`), commands (after `>`) and, indented, the output of each
command. A test runs the commands and compares the output with the file. After a deliberate change run

    pytest tests/consensus tests/replicas --rewrite-transcripts

which replaces the output by what happens now; read the difference, and commit it only if you can explain it.

Each file is named `<event>_<situation>.txt` and opens with a sentence, a line `# Shows: ` with the names of
the invariants that it is about, and a line `# Look for` on what to read in it. `tests/consensus` has the
commands of Raft's transcripts, `tests/replicas` those of the segment protocol's.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable
from itertools import takewhile
from pathlib import Path

import pytest


class Transcript(ABC):
    """Runs the commands of one transcript: `> verb words` calls `do_verb(words)`, which fills `output`."""

    def __init__(self) -> None:
        self.output: list[str] = []

    @abstractmethod
    def check(self) -> None:
        """Assert every invariant; called after each command."""

    def run(self, line: str) -> list[str]:
        """Run one command and return what it printed."""
        self.output = []
        verb, *words = line.split()
        command: Callable[[list[str]], None] = getattr(self, f"do_{verb}")
        command(words)
        self.check()
        return self.output

    def play(self, text: str) -> str:
        """The transcript with its output replaced by what happens now."""
        lines = []
        for line in text.splitlines():
            if line.startswith("#") or not line.strip():
                lines.append(line)
            elif line.startswith(">"):
                lines += [line, *(f"  {output}" for output in self.run(line[1:]))]
        return "\n".join(lines) + "\n"


def compare(path: Path, transcript: Transcript, request: pytest.FixtureRequest) -> None:
    """Assert that the file says what happens, or let it say so from now on."""
    text = path.read_text(encoding="utf-8")
    played = transcript.play(text)
    if request.config.getoption("--rewrite-transcripts"):
        path.write_text(played, encoding="utf-8")
    else:
        about = ", ".join(sorted(shown(path)))
        assert played == text, f"{about}: explain the difference, then pytest --rewrite-transcripts"


def opening(path: Path) -> str:
    """The comments before the first command."""
    return path.read_text(encoding="utf-8").split("\n>")[0]


def shown(path: Path) -> set[str]:
    """The invariants that the transcript says it shows."""
    line = re.search(r"^# Shows: (.+)\.$", opening(path), re.MULTILINE)
    return set(line[1].split(", ")) if line else set()


def numbers(words: list[str], after: str) -> set[int]:
    """The numbers that follow this word.

    >>> sorted(numbers("deliver without 2 3 cut 1-2".split(), "without"))
    [2, 3]
    """
    if after not in words:
        return set()
    return set(map(int, takewhile(str.isdigit, words[words.index(after) + 1 :])))
