"""One flag: `pytest tests/consensus --rewrite-transcripts` accepts what the servers say now."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Register the flag."""
    parser.addoption("--rewrite-transcripts", action="store_true", help="accept the output as it is now")
