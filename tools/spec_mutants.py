"""`python -m tools.spec_mutants`: the tables of docs/spec-mutants.md.

    python -m tools.spec_mutants --write     put them there; without --write: print them

They are what `python -m walrus.tlc mutants --list` and `guards --list` print: the bugs and probes that are
planted in the specifications, and what became of the mutants that were made by rule.
"""

from __future__ import annotations

from tools import marked, shape
from walrus.tlc import mutants, verdicts

PAGE = shape.ROOT / "docs" / "spec-mutants.md"
WRITTEN = {"planted": lambda: mutants.listing().strip(), "verdicts": lambda: verdicts.summary().strip()}
"""The parts of the page between marks."""

if __name__ == "__main__":
    marked.main(PAGE, WRITTEN)
