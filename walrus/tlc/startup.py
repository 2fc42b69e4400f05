"""The classes of TLC in a file: a JVM that maps the file is ready in half the time.

Of a run that takes two seconds, the JVM takes more than one: it finds a thousand classes in a jar and checks
each. JDK 25 can write the classes that a run has loaded into a file, an *AOT cache* (JEP 514), which the
next JVM maps into its memory. A run on the small specification below makes that file, once for each Java and
each jar: 24 MB in the user's cache directory (`$XDG_CACHE_HOME`, or `~/.cache`).

Making the file costs what ten runs save. So a process that runs TLC once or twice reads an existing file and
makes none. The files of the Javas and jars used last are kept (`KEPT_FILES`): each virtual environment has
its own.

The file is optional. With a Java that cannot use such a file, or a directory that cannot be written, TLC
starts as before; a JVM ignores a file that does not suit it or is gone. The file changes no result.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections import Counter
from functools import cache
from pathlib import Path

from walrus.tlc.java import running

PATIENCE = 120.0
"""The most seconds that making the file may take; it takes five."""
PAYS_OFF = 5
"""Which run of a process makes the file: more runs are then likely."""
KEPT_FILES = 4
"""How many files are kept, 24 MB each: the latest ones."""

SMALL = """---- MODULE Small ----
EXTENDS Naturals, Sequences, FiniteSets, TLC
CONSTANT Most
VARIABLES count, queue, held
Init == count = 0 /\\ queue = <<>> /\\ held = [one \\in {1, 2} |-> {}]
Add == count < Most /\\ count' = count + 1 /\\ queue' = Append(queue, [at |-> {count}]) /\\ UNCHANGED held
Take == /\\ queue # <<>>
        /\\ \\E one \\in DOMAIN held : held' = [held EXCEPT ![one] = @ \\cup Head(queue).at]
        /\\ queue' = Tail(queue) /\\ UNCHANGED count
Few == LET all == UNION {held[one] : one \\in DOMAIN held} IN Cardinality(all) <= Most
Spec == Init /\\ [][Add \\/ Take]_<<count, queue, held>>
====
"""
CONFIG = "SPECIFICATION Spec\nCONSTANT Most = 2\nINVARIANT Few\n"
"""Sets, sequences, functions, records, an invariant: what every specification makes TLC load."""


_runs = Counter[tuple[Path, Path]]()


def flags(java: Path, jar: Path, also: tuple[str, ...]) -> list[str]:
    """Return the JVM's flags for one more run, with which it reads the file if there is one, else [].

    `also`: the other flags with which TLC is run. The process's fifth run makes the file.
    """
    _runs[java, jar] += 1
    path = _place(java, jar, also)
    if path is None or not (path.exists() or (_runs[java, jar] >= PAYS_OFF and _make(path, java, jar, also))):
        return []
    return [f"-XX:AOTCache={path}", "-Xlog:disable"]  # the JVM's remarks on the file are not TLC's


def _place(java: Path, jar: Path, also: tuple[str, ...]) -> Path | None:
    """Return the path of the file for this Java and this jar; None if there is no place for it."""
    caches = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))
    if not caches.is_absolute():  # no home, or an invalid $XDG_CACHE_HOME
        return None
    parts = [f"{file} {file.stat().st_size} {file.stat().st_mtime_ns}" for file in (java, jar)]
    key = hashlib.sha256("\n".join([*parts, *also]).encode()).hexdigest()[:16]
    return caches / "walrus-log" / f"tlc-{key}.aot"


@cache
def _make(path: Path, java: Path, jar: Path, also: tuple[str, ...]) -> bool:
    """Make the file, or wait for another process that makes it. False if there is none afterwards."""
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        path.parent.mkdir(parents=True, exist_ok=True)
        with (path.parent / "tlc.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not path.exists():
                _make_room(path.parent)
                _write(path, java, jar, also)
    return path.exists()


def _make_room(directory: Path) -> None:
    """Make room for one more file, and remove what killed processes left unfinished."""
    for left in directory.glob("making-*"):
        shutil.rmtree(left, ignore_errors=True)
    files = sorted(directory.glob("tlc-*.aot"), key=lambda file: file.stat().st_mtime, reverse=True)
    for old in files[KEPT_FILES - 1 :]:
        old.unlink()


def _write(path: Path, java: Path, jar: Path, also: tuple[str, ...]) -> None:
    """Write the file. Raises OSError, or TimeoutExpired."""
    with tempfile.TemporaryDirectory(prefix="making-", dir=path.parent) as scratch:
        (Path(scratch) / "Small.tla").write_text(SMALL)
        (Path(scratch) / "Small.cfg").write_text(CONFIG)
        made = Path(scratch) / "made.aot"
        command = [str(java), *also, f"-XX:AOTCacheOutput={made}", f"-Djava.io.tmpdir={scratch}"]
        command += ["-cp", str(jar), "tlc2.TLC", "-tool", "Small"]
        with running(command, Path(scratch), subprocess.DEVNULL) as process:
            process.wait(PATIENCE)
        made.replace(path)  # atomic: another JVM may be about to read it
