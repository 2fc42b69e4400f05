"""docs/security.md: what is claimed there is shown by a test, row by row."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_every_row_of_what_is_protected_names_a_test_that_is_there() -> None:
    page = (ROOT / "docs/security.md").read_text(encoding="utf-8")
    table = page.split("## What it protects against")[1].split("## ")[0]
    rows = [line for line in table.splitlines() if line.startswith("| ")][1:]
    assert len(rows) >= 15
    written = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    for row in rows:
        names = re.findall(r"`(test_\w+)`", row.split(" | ")[-1])
        assert names, f"no test in the row {row!r}"
        assert [name for name in names if f"def {name}(" not in written] == [], row
