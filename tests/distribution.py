"""Building the distributions from a copy of the checkout, so that nothing is left in it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def build(place: Path, *commands: str) -> Path:
    """Run commands of setup.py; return the directory with what they made: archives, `lib`, metadata."""
    source, made = place / "source", place / "made"
    leave = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "build", "dist", "data", "wal_files")
    shutil.copytree(ROOT, source, ignore=leave)
    made.mkdir()
    command = [sys.executable, "setup.py", "-q", "egg_info", "--egg-base", str(made)]
    for name in commands:
        command += [name, "--dist-dir", str(made)]
    subprocess.run(command, cwd=source, check=True, capture_output=True, timeout=300)
    return made
