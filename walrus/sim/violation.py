"""The exception that ends a run which shows an error, under the name of what was broken."""

from __future__ import annotations

from collections.abc import Container


class Violation(Exception):
    """`name` is an invariant of `docs/model-checking.md`, a check of the oracle, or an exception's type."""

    def __init__(self, name: str, what: str) -> None:
        super().__init__(f"{name}: {what}")
        self.name, self.what = name, what


def holds(condition: bool, name: str, what: str) -> None:
    """Raise `Violation` unless the condition is true. For places where computing `what` costs nothing."""
    if not condition:
        raise Violation(name, what)


UNNAMED = "Assertion"
"""The name of a violation by an assertion whose message begins with no name."""


def named(error: AssertionError, otherwise: str = UNNAMED) -> str:
    """Return the name that an assertion's message begins with.

    >>> named(AssertionError("SeqOrder: a gap")), named(AssertionError("a gap"))
    ('SeqOrder', 'Assertion')
    """
    name, colon, _ = str(error).partition(":")
    return name if colon and name.isidentifier() and name[0].isupper() else otherwise


def said(error: BaseException) -> str:
    """Return what an exception says; for an assertion without the invariant's name, which is shown apart.

    >>> said(AssertionError("SeqOrder: a gap")), said(KeyError("t"))
    ('a gap', "KeyError('t')")
    """
    if isinstance(error, AssertionError) and named(error) != UNNAMED:
        return str(error).partition(":")[2].strip()
    return repr(error)


def noticed(error: Exception, names: Container[str], where: str) -> Violation:
    """Return what a search has found: an assertion under its name if that is in `names`, else TypeOK.

    >>> noticed(AssertionError("SeqOrder: a gap"), {"SeqOrder"}, "node 1").args
    ('SeqOrder: node 1: a gap',)
    """
    name = str(error).partition(":")[0] if isinstance(error, AssertionError) else UNNAMED
    if name in names:
        return Violation(name, f"{where}: {said(error)}")
    return Violation("TypeOK", f"{where}: {error!r}")
