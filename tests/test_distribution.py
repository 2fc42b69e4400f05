"""What the source distribution has, and a page on the index without dead links."""

from __future__ import annotations

import re
import tarfile
from pathlib import Path

import pytest

from tests.distribution import ROOT, build

DOCUMENTS = sorted(path.name for path in (ROOT / "docs").glob("*.md"))

pytest.importorskip("setuptools", reason="building a distribution takes setuptools")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The archive and the metadata."""
    return build(tmp_path_factory.mktemp("built"), "sdist")


def test_the_source_distribution_is_the_repository(built: Path) -> None:
    (archive,) = built.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        names = {name.partition("/")[2] for name in tar.getnames()}
    unwanted = {"__pycache__", "build", "dist", "data", "wal_files"}
    kept = {
        path.relative_to(ROOT)
        for top in ROOT.iterdir()
        if not top.name.startswith(".") and top.suffix != ".egg-info"
        for path in (top.rglob("*") if top.is_dir() else [top])
        if path.is_file()
    }
    wanted = {str(path) for path in kept if not unwanted & {*path.parts} and path.suffix != ".pyc"}
    assert wanted <= names, sorted(wanted - names)[:20]
    assert "spec/Raft.tla" in wanted and "docs/protocol.md" in wanted and "tests/test_style.py" in wanted
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
