"""What stands in the specs."""

from __future__ import annotations

from pathlib import Path

from walrus.tlc.patches import actions

SPEC = Path(__file__).resolve().parent.parent.parent / "spec"


def actions_of(spec: str) -> set[str]:
    """The actions below Next."""
    return set(actions((SPEC / f"{spec}.tla").read_text()))
