"""Chromium for tests and tools: Debian's, driven by Playwright, without downloads or telemetry."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

FLAGS = [
    "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip


def missing() -> str:
    """Return what has to be installed for a browser; "" if nothing."""
    try:
        import playwright.sync_api  # noqa: F401 - whether it is there is the question
    except ImportError:
        return "pip install -e '.[browser]'"
    return "" if shutil.which("chromium") else "apt install chromium"


@contextmanager
def chromium() -> Iterator[Any]:
    """Start a browser, and end it."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        try:
            yield started
        finally:
            started.close()
