"""What all tests share: Hypothesis profiles, and the promise that no test outlives its processes.

`ci` is the default and keeps `make test` within minutes; it tries the same examples on every machine, so that
a failure there is a failure here. `make deep` looks for new ones: it sets `HYPOTHESIS_PROFILE=deep`.
Deadlines are off in both: how long an example takes says something about the machine, not about the code.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings

from tests.node.harness import Cluster, Launcher
from tests.shares import dealt, kind
from tools.browser import chromium

settings.register_profile(
    "ci",
    deadline=None,
    derandomize=True,
    max_examples=60,
    stateful_step_count=40,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile(
    "mutate",
    deadline=None,
    derandomize=True,
    max_examples=60,
    stateful_step_count=40,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.generate],  # a failure is enough: nothing is shrunk
)
settings.register_profile(
    "deep",
    deadline=None,
    max_examples=400,
    stateful_step_count=60,
    suppress_health_check=list(HealthCheck),
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))

# What is imported and collected stays to the end: a million objects that no collection has to look at.
gc.disable()

# In the background of a shell without job control SIGINT is ignored, and in every child as well.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Hundreds of nodes are started: without it each one compiles all sources anew, two thirds of its start. And
# each worker compiles all tests, with what pytest adds to their assertions: half of its start.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False


def pytest_addoption(parser: pytest.Parser) -> None:
    """One flag for the transcripts of Raft and of the segment protocol (`tests/transcript.py`)."""
    parser.addoption("--rewrite-transcripts", action="store_true", help="accept the output as it is now")


@pytest.hookimpl(trylast=True)  # after what -m and -k leave out
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Have each worker begin with what takes long (`tests/shares.py`)."""
    of_file: dict[Path, int] = {}
    for item in items:
        found = kind([mark.name for mark in item.iter_markers()])
        of_file[item.path] = max(found, of_file.get(item.path, found))
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    items[:] = dealt(items, lambda item: of_file[item.path], workers)


@pytest.hookimpl(trylast=True)
def pytest_collection_finish() -> None:
    """Collect garbage from now on, in a worker only what the tests make.

    Without xdist nothing is frozen: `tools.laboratory` looks for the functions that it exchanges among the
    objects that are collected.
    """
    if "PYTEST_XDIST_WORKER" in os.environ:
        gc.freeze()
    gc.enable()


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Launcher]:
    """Starts clusters of real processes in `tmp_path`; kills whatever of them is left at the end."""
    launcher = Launcher(tmp_path)
    try:
        yield launcher
    finally:
        launcher.close()


@pytest.fixture
def cluster(launch: Launcher) -> Cluster:
    """Three nodes, ready."""
    return launch()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium, where it is installed (`tools.browser.missing`)."""
    with chromium() as started:
        yield started
