"""How a run ends that shows an error: with the name of what was broken."""

from __future__ import annotations

from collections.abc import Container


class Violation(Exception):
    """`name` is an invariant of `docs/model-checking.md`, a check of the oracle, or an exception's type."""

    def __init__(self, name: str, what: str) -> None:
        super().__init__(f"{name}: {what}")
        self.name, self.what = name, what


def holds(condition: bool, name: str, what: str) -> None:
    """Raise `Violation` unless the condition is true. For places where `what` costs nothing."""
    if not condition:
        raise Violation(name, what)


UNNAMED = "Assertion"
"""The name of a violation by an assertion that says no name."""


def named(error: AssertionError, otherwise: str = UNNAMED) -> str:
    """The name that an assertion's message begins with.

    >>> named(AssertionError("SeqOrder: a gap")), named(AssertionError("a gap"))
    ('SeqOrder', 'Assertion')
    """
    name, colon, _ = str(error).partition(":")
    return name if colon and name.isidentifier() and name[0].isupper() else otherwise


def said(error: BaseException) -> str:
    """What an exception says; of an assertion not the name of the invariant, which is told beside it.

    >>> said(AssertionError("SeqOrder: a gap")), said(KeyError("t"))
    ('a gap', "KeyError('t')")
    """
    if isinstance(error, AssertionError) and named(error) != UNNAMED:
        return str(error).partition(":")[2].strip()
    return repr(error)


def noticed(error: Exception, names: Container[str], where: str) -> Violation:
    """What a search has found: an assertion by its name if it is one of these, anything else as TypeOK.

    >>> noticed(AssertionError("SeqOrder: a gap"), {"SeqOrder"}, "node 1").args
    ('SeqOrder: node 1: a gap',)
    """
    name = str(error).partition(":")[0] if isinstance(error, AssertionError) else UNNAMED
    if name in names:
        return Violation(name, f"{where}: {said(error)}")
    return Violation("TypeOK", f"{where}: {error!r}")
