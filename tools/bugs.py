"""`python -m tools.bugs`: the index of the bugs that were found, and how many each tool found.

    python -m tools.bugs --write     put both into docs/bugs-found.md; without --write: print them

Both are made from the sections of four pages. A section is one bug. Under its heading it has one line of a
fixed form, to which `tests/test_bugs_page.py` holds it:

    *Found by simulator · broke: NoRest · in broker*
"""

from __future__ import annotations

import re
from collections import Counter
from typing import NamedTuple

from tools import marked, shape

DOCS = shape.ROOT / "docs"
INDEX = "bugs-found.md"
PAGES = {
    INDEX: "Bugs that could lose, skip, repeat, reorder or change a message",
    "bugs-found-cluster.md": "Other bugs of the cluster",
    "bugs-found-node.md": "Other bugs of the storage engine and the process",
    "bugs-found-tools.md": "Bugs of clients and commands, and of what judges the code",
}
"""The pages, in the order of the index, and what is on each."""

TOOLS = {
    "TLC": "a search of a specification ([model-checking.md](model-checking.md))",
    "writing a spec": "what a specification makes one ask of each action, before TLC runs",
    "trace validation": "recorded runs, and corrupted copies of them, held against the specifications",
    "replay": "behaviours of Raft.tla and Walrus.tla, performed on servers (`python -m walrus.tlc replay`)",
    "simulator": "whole clusters from a seed: random faults, or a scenario ([simulator.md](simulator.md))",
    "Raft's tests": "servers from a seed, and a test for each section of the paper ([raft.md](raft.md))",
    "Hypothesis": "property tests with many examples (`make deep`)",
    "chaos": "real nodes under random faults, judged from outside (`make chaos`)",
    "fuzz": "arbitrary bytes for every decoder (`make fuzz`)",
    "fault injection": "a kill, an exception, a cancellation or a flipped bit at every point in turn",
    "attack": "a hostile or broken client, peer or process, from outside",
    "measuring": "benchmarks and profiles",
    "other tests": "a test of something else that failed, often once in many runs on a busy machine",
    "review": "reading with a question, and then a test that failed",
    "use": "what a user, an operator or a student does; a log",
}
"""What finds bugs."""


class Bug(NamedTuple):
    """A section, and what its line says: nothing if it has none."""

    page: str
    title: str
    tool: str
    broke: str
    parts: str


_SECTION = re.compile(r"^### (.+)\n(?:\n\*Found by (.+) · broke: (.+) · in ([\w, ]+)\*\n)?", re.MULTILINE)


def bugs() -> list[Bug]:
    """All of them, in the order of the pages."""
    texts = {page: (DOCS / page).read_text(encoding="utf-8") for page in PAGES}
    return [Bug(page, *found) for page, text in texts.items() for found in _SECTION.findall(text)]


def counts() -> str:
    """How many bugs each tool found, and how many of those are on the first page."""
    found, worst = Counter(bug.tool for bug in bugs()), Counter(b.tool for b in bugs() if b.page == INDEX)
    lines = ["| found by | bugs | of these, on this page | what it is |", "|---|---:|---:|---|"]
    lines += [f"| {tool} | {found[tool]} | {worst[tool]} | {about} |" for tool, about in TOOLS.items()]
    return "\n".join([*lines, f"| all | {found.total()} | {worst.total()} | |"])


def index() -> str:
    """A table for each page, a row for each bug."""
    tables = []
    for page, title in PAGES.items():
        rows = [bug for bug in bugs() if bug.page == page]
        head = f"**{title}**" if page == INDEX else f"**[{title}]({page})**"
        lines = [f"{head}: {len(rows)}", "", "| bug | found by | what it broke | in |", "|---|---|---|---|"]
        for bug in rows:
            link = f"{'' if page == INDEX else page}#{marked.anchor(bug.title)}"
            lines.append(f"| [{bug.title}]({link}) | {bug.tool} | {bug.broke} | {bug.parts} |")
        tables.append("\n".join(lines))
    return "\n\n".join(tables)


WRITTEN = {"counts": counts, "index": index}
"""The parts of the page between marks."""

if __name__ == "__main__":
    marked.main(DOCS / INDEX, WRITTEN)
