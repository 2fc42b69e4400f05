"""Leads from a working copy to the repository that it was made from.

A student works inside the copy, so `python -m walrus.lab check .` would load the lab's own modules from
there. That has two flaws. The command would import the student's unfinished code, and a missing bracket
would end in a traceback of the grader instead of a sentence. And the copy, as its own reference, would show
no difference. So the record of a copy names its repository, and the command starts again there, before it
loads anything that a student may have changed.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import msgspec

RECORD = "lab.json"
"""The file in the root of a copy that records what was done to it."""


def go_there(root: Path = Path(__file__).resolve().parents[2]) -> None:
    """Start this command again in the repository, if `root` is a copy of one. Otherwise return.

    The working directory stays the same, so relative names of directories keep their meaning.
    """
    if not (root / RECORD).exists():
        return
    repository = Path(msgspec.json.decode((root / RECORD).read_bytes()).get("repository", ""))
    if not (repository / "walrus" / "lab").is_dir():
        sys.stderr.write(
            f"walrus.lab: this copy was made by the repository in {repository}, which is not there any more: "
            "run the command in the repository, and name this directory\n"
        )
        sys.exit(2)
    path = os.pathsep.join(filter(None, (str(repository), os.environ.get("PYTHONPATH"))))
    again = [sys.executable, "-P", "-m", "walrus.lab", *sys.argv[1:]]  # -P: not from the working directory
    os.execve(sys.executable, again, {**os.environ, "PYTHONPATH": path})
