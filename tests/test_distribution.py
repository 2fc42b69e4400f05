"""What an installation gets: the demonstration with its file, the documentation, and a page without dead
links."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted(path.name for path in (ROOT / "docs").glob("*.md"))

pytest.importorskip("setuptools", reason="building a distribution takes setuptools")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`lib`, the archive and the metadata, built from a copy, so that nothing is left in the checkout."""
    place = tmp_path_factory.mktemp("built")
    source = place / "source"
    leave = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "build", "dist", "data", "wal_files")
    shutil.copytree(ROOT, source, ignore=leave)
    command = [sys.executable, "setup.py", "-q", "egg_info", "--egg-base", str(place), "build", "--build-lib"]
    command += [str(place / "lib"), "sdist", "--formats=gztar", "--dist-dir", str(place)]
    subprocess.run(command, cwd=source, check=True, capture_output=True, timeout=120)
    return place


def test_the_demonstration_finds_its_file(built: Path) -> None:
    code = "from walrus import demo; print(demo.__file__, demo.EXAMPLE.stat().st_size)"
    command = [sys.executable, "-P", "-c", code]
    said = subprocess.run(
        command,
        env={"PYTHONPATH": str(built / "lib")},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    ).stdout.split()
    assert said[0].startswith(str(built)) and int(said[1]) > 100_000
    assert (built / "lib" / "walrus" / "py.typed").is_file()


def test_the_source_distribution_is_the_repository(built: Path) -> None:
    (archive,) = built.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        names = {name.partition("/")[2] for name in tar.getnames()}
    wanted = [
        *(f"docs/{name}" for name in DOCUMENTS),
        "spec/Raft.tla",
        "spec/walrus-quick-crash.cfg",
        "Makefile",
    ]
    wanted += ["README.md", "CONTRIBUTING.md", "tests/test_style.py", "walrus/examples/dpkg.log", "LICENSE"]
    wanted += ["benchmarks/engine.py", "setup.py", "tests/conftest.py"]
    assert set(wanted) <= names, sorted(set(wanted) - names)
    assert not [name for name in names if "__pycache__" in name]


def test_the_documentation_is_installed(built: Path) -> None:
    text = (ROOT / "setup.cfg").read_text(encoding="utf-8")
    assert "share/doc/walrus-log/docs = docs/*.md" in text
    (sources,) = built.glob("*.egg-info/SOURCES.txt")
    assert {f"docs/{name}" for name in DOCUMENTS} <= set(sources.read_text().splitlines())


def test_the_index_page_has_no_link_into_the_repository(built: Path) -> None:
    (info,) = built.glob("*.egg-info/PKG-INFO")
    text = info.read_text(encoding="utf-8")
    assert "Write-ahead" in text or "write-ahead log" in text, "the README is in it"
    assert re.findall(r"\]\((?![a-z]+:)[^)]*\)", text) == []
    assert "the tour (`docs/tour.md`)" in text.replace("\n", " ") or "tour (`docs/tour.md`)" in text
    assert "Description-Content-Type: text/markdown" in text
