"""The Python on docs/clients.md runs against real nodes, and mypy --strict finds nothing in it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import walrus
import walrus.client
from tests.node.harness import PATIENCE, Cluster
from walrus.client.deliveries import Delivery

ROOT = Path(__file__).parents[2]
BLOCKS = re.findall(
    r"^```python\n(.*?)^```", (ROOT / "docs/clients.md").read_text(encoding="utf-8"), re.M | re.S
)


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "page.py"
    path.write_text("\n".join(BLOCKS), encoding="utf-8")
    return path


@pytest.mark.process
def test_the_python_on_the_page_runs(cluster: Cluster, program: Path) -> None:
    nodes = [f"{host}:{port}" for host, port in (node.client for node in cluster)]
    text, count = re.subn(r"^NODES = .*$", f"NODES = {nodes}", program.read_text(), flags=re.M)
    program.write_text(text)
    ended = subprocess.run(
        [sys.executable, program], capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert (count, ended.returncode) == (1, 0), ended.stderr
    assert "unknown topic nowhere" in ended.stdout


@pytest.mark.process
def test_the_python_on_the_page_is_typed(program: Path) -> None:
    """With the settings and the cache of `make lint`, which has read the package before in most runs."""
    command = [sys.executable, "-m", "mypy", "--strict", program]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, cwd=ROOT)
    assert ended.returncode == 0, ended.stdout


def test_the_clients_and_all_their_errors_are_at_the_top() -> None:
    for name in walrus.client.__all__:
        if name != "Entry":
            assert getattr(walrus, name) is getattr(walrus.client, name)
    assert set(walrus.__all__) <= set(dir(walrus))


def test_a_delivery_knows_its_place() -> None:
    assert Delivery("12.345.0.1", 1, b"x").position == walrus.Position(12, 345)
