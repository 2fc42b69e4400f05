"""What a configuration must refuse, and what it must reach.

A spec that can do nothing violates nothing, an invariant that is too weak always holds, and a configuration
that is too small never reaches the states where a rule matters. So each configuration has planted bugs, one
at a time, that the search must refuse by the expected property (`Planted`), and statements that it must
violate, or it never gets where the protocol is interesting (`Probe`). A bug that survives, or is refused by
another property than expected, is a rule that we did not understand.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from walrus.tlc.patches import Patch


@dataclass(frozen=True, slots=True, kw_only=True)
class Planted:
    """A bug: changes of the spec, and the property by which the configuration must refuse it."""

    config: str
    name: str
    expected: str
    about: str
    patches: tuple[Patch, ...]

    def apply(self, text: str) -> str:
        """Return the text of the spec with the bug. Raises SpecError."""
        return patched(text, self.patches)


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """A statement that the configuration must violate."""

    config: str
    name: str
    about: str


def patched(text: str, patches: Iterable[Patch]) -> str:
    """Return the text of a spec with all these changes, made in order. Raises SpecError."""
    for patch in patches:
        text = patch.apply(text)
    return text
