"""The shared suite runs once per backend."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.storage.stores import REAL, Store, uring_available


@pytest.fixture(params=[*REAL, "simulated"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """An empty store on each backend."""
    if request.param == "io_uring" and not uring_available(tmp_path / "probe"):
        pytest.skip("io_uring is not available here")
    store = Store(request.param, tmp_path)
    yield store
    store.close()


@pytest.fixture
def plain(tmp_path: Path) -> Iterator[Store]:
    """An empty store on the default backend, for what does not depend on it."""
    store = Store("pwritev", tmp_path)
    yield store
    store.close()
