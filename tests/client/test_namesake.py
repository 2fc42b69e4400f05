"""Two distributions that are imported as `walrus`: whichever came last, the first import says so."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from walrus import namesake

PACKAGE = Path(namesake.__file__).parent


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A directory of installed packages with ours in it."""
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(PACKAGE, tmp_path / "walrus", ignore=ignore)
    (tmp_path / "walrus_log-0.1.0.dist-info").mkdir()
    (tmp_path / "walrus_log-0.1.0.dist-info" / "METADATA").write_text("Name: walrus-log\nVersion: 0.1.0\n")
    (tmp_path / "walrus_log-0.1.0.dist-info" / "RECORD").write_text("walrus/__init__.py,,\n")
    return tmp_path


def add_namesake(site: Path) -> None:
    """As pip leaves it: beside our files, with an `__init__.py` that ours has replaced, or replaces ours."""
    for name in ("cache.py", "database.py"):
        (site / "walrus" / name).write_text("")
    (site / "walrus-0.9.4.dist-info").mkdir(parents=True)
    (site / "walrus-0.9.4.dist-info" / "METADATA").write_text("Name: walrus\nVersion: 0.9.4\n")
    (site / "walrus-0.9.4.dist-info" / "RECORD").write_text("walrus/__init__.py,,\nwalrus/cache.py,,\n")


def said(code: str, *path: Path) -> str:
    """What a new interpreter writes to standard error."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, path))}
    command = [sys.executable, "-P", "-c", code]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    return ended.stderr


def test_ours_alone_says_nothing(site: Path) -> None:
    (site / "walrus" / "notes.txt").write_text("")
    (site / "walrus" / "data").mkdir()
    assert said("import walrus.client, walrus.wal", site) == ""
    assert said("import walrus", site, PACKAGE.parent) == "", "another copy of ours is no namesake"


@pytest.mark.parametrize(
    "code", ["import walrus", "import walrus.client", "import walrus.scripts", "import walrus.wal"]
)
def test_a_namesake_in_the_same_directory_is_named_with_what_to_do(site: Path, code: str) -> None:
    add_namesake(site)
    warning = said(code, site)
    assert warning.count("NamesakeWarning") == 1
    assert "cache, database; installed: walrus and walrus-log" in warning
    assert "pip uninstall walrus walrus-log" in warning


@pytest.mark.parametrize("code", ["import walrus.client", "import walrus.scripts"])
def test_a_namesake_that_replaced_our_init_is_named_too(site: Path, code: str) -> None:
    add_namesake(site)
    (site / "walrus" / "__init__.py").write_text("")
    assert said(code, site).count("NamesakeWarning") == 1


def test_a_namesake_further_down_the_path_is_named(site: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    (other / "walrus").mkdir(parents=True)
    add_namesake(other)
    (other / "walrus" / "__init__.py").write_text("")
    warning = said("import walrus", site, other)
    assert "is another package of that name" in warning and "installed: walrus and walrus-log" in warning


def test_the_list_of_our_modules_is_what_is_there() -> None:
    assert namesake._modules(str(PACKAGE)) == namesake.OURS
    assert namesake._modules(str(PACKAGE / "no such")) == set()
