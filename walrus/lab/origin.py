"""From a working copy to the repository that it was cut out of.

A student stands in the copy, and so does Python: `python -m walrus.lab check .` would load the lab's own
modules from there. Two things go wrong with that. They import what the student is in the middle of writing,
and a bracket that is not closed yet ends in a traceback of the grader instead of a sentence; and beside
itself the copy shows no difference to the reference. So the record of a copy names its repository, and the
command begins again there, before it has loaded anything that a student may have changed.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import msgspec

RECORD = "lab.json"
"""What was done to a copy: a file in its root."""


def go_there(root: Path = Path(__file__).resolve().parents[2]) -> None:
    """Begin this command again in the repository, if `root` is a copy of one. Else return.

    The working directory stays, so relative names of directories mean what they meant.
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
    again = [sys.executable, "-P", "-m", "walrus.lab", *sys.argv[1:]]  # -P: not from where we stand
    os.execve(sys.executable, again, {**os.environ, "PYTHONPATH": path})
