"""What a container engine does with a container file, without one: in a directory that stands for the root.

The image's Python is a virtual environment. COPY copies, RUN is run by a shell, word for word but for the
paths: an absolute one leads below the directory. What an engine does as root is stood in for: `useradd`,
and the `--owner` of `install`, which must be a user that was added before. The package index is out of
reach: what pip asks it for must be there already, and is linked from the environment of the tests.

Left out: the engine's isolation, and other instructions than those of `deploy/Containerfile`.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
from pathlib import Path

from tests.distribution import ROOT, Environment

USERADD = """#!/bin/sh
[ "$1" = --create-home ] && [ $# = 2 ] || exit 2
mkdir -p "$ROOT/etc" "$ROOT/home/$2" && echo "$2" >> "$ROOT/etc/passwd"
"""
INSTALL = """#!/bin/sh
set -e
left=$#
while [ $left -gt 0 ]; do
    word=$1; shift; left=$((left - 1))
    if [ "$word" = --owner ]; then grep -qx "$1" "$ROOT/etc/passwd"; shift; left=$((left - 1))
    else set -- "$@" "$word"; fi
done
exec {install} "$@"
"""
PIP = """#!/bin/sh
exec python -m pip "$@"
"""


def instructions(text: str) -> list[tuple[str, str]]:
    """The instructions of a container file, in order, and what stands behind each."""
    lines = re.sub(r"^\s*#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", " ").splitlines()
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in lines if line.strip())]


class Image:
    """What the instructions make, and a container of it."""

    def __init__(self, text: str, place: Path, *packages: str) -> None:
        """`packages`: those that pip would get from the index."""
        self.place, self._said = place, dict[str, str]()
        self._python = Environment(place / "venv")
        self._python.link("pip", "setuptools", *packages)
        stand_ins = place / "stand-ins"
        stand_ins.mkdir()
        for name, script in (("useradd", USERADD), ("install", INSTALL), ("pip", PIP)):
            (stand_ins / name).write_text(script.replace("{install}", shutil.which("install") or ""))
            (stand_ins / name).chmod(0o755)
        self._environ = self._python.environ | {"ROOT": str(place), "HOME": str(place)}
        self._environ |= {"PIP_CONFIG_FILE": os.devnull, "PIP_NO_INDEX": "1"}
        self._environ["PIP_NO_BUILD_ISOLATION"] = "0"  # which means that there is none
        self._environ["PATH"] = f"{stand_ins}{os.pathsep}{self._environ['PATH']}"
        for word, rest in instructions(text):
            match word:
                case "COPY":
                    self._copy(*shlex.split(rest))
                case "RUN":
                    self._run(rest)
                case "FROM" | "USER" | "VOLUME" | "STOPSIGNAL" | "ENTRYPOINT" | "CMD":
                    self._said[word] = rest
                case _:
                    raise NotImplementedError(word)

    def path(self, inside: str) -> Path:
        """Where a path of the image is."""
        return self.place / inside.lstrip("/")

    def _copy(self, *words: str) -> None:
        *sources, target = words
        for source in (found for pattern in sources for found in sorted(ROOT.glob(pattern))):
            if source.is_dir():
                shutil.copytree(source, self.path(target), ignore=shutil.ignore_patterns("__pycache__"))
            else:
                self.path(target).mkdir(parents=True, exist_ok=True)
                shutil.copy(source, self.path(target))

    def _run(self, line: str) -> None:
        below = re.sub(r"(?<![^\s'\"=])/", f"{self.place}/", line)
        ended = subprocess.run(
            ["sh", "-c", below],
            cwd=self.place,
            env=self._environ,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        assert ended.returncode == 0, f"RUN {line}\n{ended.stdout}{ended.stderr}"
        assert "WARNING" not in ended.stderr, f"RUN {line}\n{ended.stderr}"

    def start(self, *words: str) -> subprocess.Popen[bytes]:
        """What `podman run IMAGE WORDS` starts: its errors are in `log` below the directory."""
        entry: list[str] = json.loads(self._said["ENTRYPOINT"])
        command = [*entry, *(words or json.loads(self._said["CMD"]))]
        program, *rest = (str(self.path(word)) if word.startswith("/") else word for word in command)
        with (self.place / "log").open("ab") as log:
            return subprocess.Popen(
                [self._python.place / "bin" / program, *rest],
                cwd=self.place,
                env=self._python.environ,
                stderr=log,
            )

    def log(self) -> str:
        """What its containers have said."""
        return (self.place / "log").read_text(encoding="utf-8")

    def stop(self, process: subprocess.Popen[bytes]) -> int:
        """What `podman stop` sends; the exit status."""
        process.send_signal(signal.Signals[self._said["STOPSIGNAL"]])
        return process.wait(120)
