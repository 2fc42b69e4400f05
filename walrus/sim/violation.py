"""How a run ends that shows an error: with the name of what was broken."""

from __future__ import annotations


class Violation(Exception):
    """`name` is an invariant of `docs/model-checking.md`, a check of the oracle, or an exception's type."""

    def __init__(self, name: str, what: str) -> None:
        super().__init__(f"{name}: {what}")
        self.name, self.what = name, what


def holds(condition: bool, name: str, what: str) -> None:
    """Raise `Violation` unless the condition is true. For places where `what` costs nothing."""
    if not condition:
        raise Violation(name, what)
