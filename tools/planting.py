"""A pytest plugin that plants one bug of the registry while the tests run.

WALRUS_PLANTED=no_fence_check python -m pytest -p tools.planting tests/replicas
"""

from __future__ import annotations

import os
from contextlib import ExitStack

import pytest

from walrus.sim.mutants import find, planted

_stack = ExitStack()


def pytest_configure(config: pytest.Config) -> None:
    """Plant the bug that the variable names."""
    _stack.enter_context(planted(find(os.environ["WALRUS_PLANTED"])))
    config.add_cleanup(_stack.close)
