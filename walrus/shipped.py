"""The directory of the specification: beside the package in a checkout, inside it in an installation."""

from __future__ import annotations

from pathlib import Path
from typing import Final

_HERE: Final = Path(__file__).resolve().parent

SPEC: Final = inside if (inside := _HERE / "spec").is_dir() else _HERE.parent / "spec"
"""The directory of Walrus.tla, its configurations, and mutants.json."""
