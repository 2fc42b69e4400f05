"""What stands in the specs."""

from __future__ import annotations

import re
from pathlib import Path

SPEC = Path(__file__).resolve().parent.parent.parent / "spec"


def actions_of(spec: str) -> set[str]:
    """The actions below Next."""
    text = (SPEC / f"{spec}.tla").read_text()
    body = re.search(r"^Next ==\n(.*?)\n\n", text, re.MULTILINE | re.DOTALL)
    assert body
    return set(re.findall(r"(\w+)\([^():]*(?:\([^()]*\))?[^():]*\)$", body[1], re.MULTILINE))
