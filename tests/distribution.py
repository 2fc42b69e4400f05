"""Building the distributions from a copy of the checkout, and environments to install them into."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
from importlib.metadata import distribution
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


def bare_environment() -> dict[str, str]:
    """This one without what would lead to the checkout, whose metadata count as installed for pip."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}


class Environment:
    """A fresh environment of Python, without anything of the checkout on its path."""

    def __init__(self, place: Path) -> None:
        self.place = place
        venv.create(place, with_pip=False, symlinks=True)
        self.python = place / "bin" / "python"
        (self.site,) = (place / "lib").glob("python*/site-packages")
        self.environ = bare_environment()
        self.environ |= {"COLUMNS": "120", "PATH": f"{place / 'bin'}{os.pathsep}{os.environ['PATH']}"}

    def link(self, *names: str) -> None:
        """Make a distribution of the tests' environment one of this environment."""
        for name in names:
            found = distribution(name)
            tops = {path.parts[0] for path in found.files or () if path.parts[0] not in ("..", "__pycache__")}
            for top in tops:
                if not (self.site / top).exists():
                    (self.site / top).symlink_to(Path(str(found.locate_file(top))))

    def execute(self, where: Path, *command: str) -> subprocess.CompletedProcess[str]:
        """What a shell does in a directory in which this environment is active."""
        return subprocess.run(
            command, cwd=where, env=self.environ, capture_output=True, text=True, timeout=500, check=False
        )
