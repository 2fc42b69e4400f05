"""The classes of TLC in a file: a JVM that maps it is ready in half the time.

Of a run that takes two seconds, more than one is the JVM's: it finds a thousand classes in a jar and checks
each. JDK 25 writes what a run has loaded into a file, an *AOT cache* (JEP 514), which the next JVM maps into
its memory. A run on the small specification below makes that file, once for each Java and each jar: 24 MB in
the user's cache directory (`$XDG_CACHE_HOME`, or `~/.cache`).

Making it costs what ten runs save. So a process that runs TLC once or twice reads a file that is there, and
makes none. The files are those of the Javas and jars that came last (`KEPT_FILES`): each virtual environment
has its own.

It is never needed. With a Java that knows no such file, or a directory that cannot be written, TLC starts as
ever; a file that a JVM does not like, or that is gone, is ignored by that JVM. Whether it is read changes no
result.
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
"""Seconds that the file may take; it takes five."""
PAYS_OFF = 5
"""The run of a process before which it makes the file: there will be more."""
KEPT_FILES = 4
"""Files that are kept, 24 MB each: the latest ones."""

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
    """Return the JVM's flags for one run more, which have it read the file if there is one.

    `also`: the flags with which TLC is run. Without a file: [].
    """
    _runs[java, jar] += 1
    path = _place(java, jar, also)
    if path is None or not (path.exists() or (_runs[java, jar] >= PAYS_OFF and _make(path, java, jar, also))):
        return []
    return [f"-XX:AOTCache={path}", "-Xlog:disable"]  # what a JVM thinks of the file is no output of TLC


def _place(java: Path, jar: Path, also: tuple[str, ...]) -> Path | None:
    """Where the file of this Java and this jar is; None if there is no place for it."""
    caches = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))
    if not caches.is_absolute():  # there is no home, or that variable is not what it has to be
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
    """For one file more. What a process has left that was killed while it made one goes, too."""
    for left in directory.glob("making-*"):
        shutil.rmtree(left, ignore_errors=True)
    files = sorted(directory.glob("tlc-*.aot"), key=lambda file: file.stat().st_mtime, reverse=True)
    for old in files[KEPT_FILES - 1 :]:
        old.unlink()


def _write(path: Path, java: Path, jar: Path, also: tuple[str, ...]) -> None:
    """Raises OSError, or TimeoutExpired."""
    with tempfile.TemporaryDirectory(prefix="making-", dir=path.parent) as scratch:
        (Path(scratch) / "Small.tla").write_text(SMALL)
        (Path(scratch) / "Small.cfg").write_text(CONFIG)
        made = Path(scratch) / "made.aot"
        command = [str(java), *also, f"-XX:AOTCacheOutput={made}", f"-Djava.io.tmpdir={scratch}"]
        command += ["-cp", str(jar), "tlc2.TLC", "-tool", "Small"]
        with running(command, Path(scratch), subprocess.DEVNULL) as process:
            process.wait(PATIENCE)
        made.replace(path)  # in one step: another JVM may be about to read it
