"""Citations are checked: the sections exist, and docs/raft.md names what the code has."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import get_args

import pytest

from walrus.consensus.messages import RaftMessage

ROOT = Path(__file__).parents[2]
MODULES = [ROOT / "walrus/raft.py", *sorted((ROOT / "walrus/consensus").glob("*.py"))]
SOURCES = [*MODULES, *sorted((ROOT / "tests/consensus").glob("*.py")), ROOT / "docs/raft.md"]
SOURCES += sorted((ROOT / "tests/consensus/transcripts").glob("*.txt"))

PAPER = {
    "2": "Replicated state machines",
    "5": "The Raft consensus algorithm",
    "5.1": "Raft basics",
    "5.2": "Leader election",
    "5.3": "Log replication",
    "5.4": "Safety",
    "5.4.1": "Election restriction",
    "5.4.2": "Committing entries from previous terms",
    "5.4.3": "Safety argument",
    "5.5": "Follower and candidate crashes",
    "5.6": "Timing and availability",
    "6": "Cluster membership changes",
    "7": "Log compaction",
    "8": "Client interaction",
}
DISSERTATION = {
    "3.4": "Leader election",
    "3.5": "Log replication",
    "3.6": "Safety",
    "3.8": "Persisted state and server restarts",
    "3.9": "Timing and availability",
    "3.10": "Leadership transfer extension",
    "4.1": "Safety (of membership changes)",
    "4.2": "Availability",
    "4.2.1": "Catching up new servers",
    "4.2.2": "Removing the current leader",
    "4.2.3": "Disruptive servers",
    "4.3": "Arbitrary configuration changes using joint consensus",
    "5.1": "Snapshotting memory-based state machines",
    "6.2": "Routing requests to the leader",
    "6.4": "Processing read-only queries more efficiently",
    "9.6": "Preventing disruptions when a server rejoins the cluster",
    "10.2.1": "Writing to the leader's disk in parallel",
    "10.2.2": "Batching and pipelining",
}
CITATION = re.compile(r"(?:(paper|dissertation)(?:'s)?[\s#>]+)?§(\d+(?:\.\d+)*)", re.IGNORECASE)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_cited_sections_exist(path: Path) -> None:
    for work, section in CITATION.findall(path.read_text(encoding="utf-8")):
        table = {"paper": PAPER, "dissertation": DISSERTATION}.get(work.lower(), PAPER | DISSERTATION)
        assert section in table, f"{work or 'either work'} has no §{section}"


def test_the_claims_of_the_paper_are_tested_section_by_section() -> None:
    """Each test of a claim is named after its section."""
    text = "".join(path.read_text(encoding="utf-8") for path in SOURCES if path.name.startswith("test_"))
    tested = {name.replace("_", ".") for name in re.findall(r"def test_(\d+(?:_\d+)*)_", text)}
    assert tested <= set(PAPER) | set(DISSERTATION)
    assert {"5.1", "5.2", "5.3", "5.4.1", "5.4.2", "5.5", "6", "7", "8"} <= tested


def test_the_glossary_names_every_message() -> None:
    page = (ROOT / "docs/raft.md").read_text(encoding="utf-8")
    missing = [message.__name__ for message in get_args(RaftMessage) if f"`{message.__name__}`" not in page]
    assert missing == []


def test_the_table_of_traced_events_is_complete_in_both_directions() -> None:
    page = (ROOT / "docs/raft.md").read_text(encoding="utf-8")
    section = page.split("## What is traced")[1].split("\n## ")[0]
    documented = set(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE))
    sources = "".join(path.read_text(encoding="utf-8") for path in MODULES)
    emitted = set(re.findall(r'_event\(\s*"(\w+)"', sources))
    assert documented == emitted


def test_the_python_names_of_the_glossary_exist() -> None:
    page = (ROOT / "docs/raft.md").read_text(encoding="utf-8")
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in MODULES]
    modules = [importlib.import_module(name) for name in names]
    classes = {name: value for module in modules for name, value in vars(module).items()}
    for owner, member in re.findall(r"`([A-Z]\w+)\.(\w+)`", page):
        if owner == "RaftWorld":  # of the tests
            continue
        source = "".join(path.read_text(encoding="utf-8") for path in MODULES)
        known = hasattr(classes[owner], member) or f"self.{member}" in source
        assert known, f"{owner}.{member}"
