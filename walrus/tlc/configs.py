"""The configurations in spec/, and variations of them.

A configuration belongs to the spec that its name begins with: `walrus-quick` to Walrus.tla, `raft-liveness`
to Raft.tla. What it is for is the kind after the dash: `quick` (in `make test`), `full`, `liveness`,
`simulate`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from walrus.tlc.run import SPEC_DIRECTORY, SpecError

DOCUMENT = SPEC_DIRECTORY.parent / "docs" / "model-checking.md"

SPECS = {"walrus": "Walrus", "delivery": "Delivery", "raft": "Raft"}


def config_files(kind: str = "") -> list[Path]:
    """The configurations, or those of one kind, sorted by name."""
    return sorted(path for path in SPEC_DIRECTORY.glob("*-*.cfg") if not kind or kind in path.stem.split("-"))


def known_files(kind: str = "") -> list[Path]:
    """The same, at least one. Raises SpecError: to check nothing is not to find nothing."""
    found = config_files(kind)
    if not found:
        what = f"{kind} configurations" if kind else "configurations"
        raise SpecError(f"no {what} in {SPEC_DIRECTORY}: run this in a checkout of the repository")
    return found


def config_file(name: str) -> Path:
    """The configuration of this name, with or without `.cfg`. Raises SpecError."""
    path = SPEC_DIRECTORY / f"{name.removesuffix('.cfg')}.cfg"
    if not path.is_file():
        known = ", ".join(each.stem for each in known_files())
        raise SpecError(f"there is no configuration {name}; there are {known}")
    return path


def expand(names: Iterable[str]) -> list[str]:
    """Names of configurations; one that is none stands for those that begin with it, as `raft-full`."""
    found: list[str] = []
    for name in names:
        group = [path.stem for path in config_files() if path.stem.startswith(f"{name}-")]
        found += group or [config_file(name).stem]
    return found


def spec_of(config: Path) -> Path:
    """The spec that a configuration belongs to."""
    return SPEC_DIRECTORY / f"{SPECS[config.stem.split('-')[0]]}.tla"


def with_constants(text: str, constants: Mapping[str, str]) -> str:
    """The text of a configuration with other values for some constants.

    >>> with_constants("CONSTANTS\\n  MaxTerm = 3\\n", {"MaxTerm": "4"})
    'CONSTANTS\\n  MaxTerm = 4\\n'
    """
    for name, value in constants.items():
        found = re.search(rf"^\s*{name}\s*=\s*(.*)$", text, re.MULTILINE)
        if found is None:
            raise SpecError(f"the configuration has no constant {name}")
        text = text[: found.start(1)] + value + text[found.end(1) :]
    return text


def names_after(text: str, *keywords: str) -> list[str]:
    """The names that a configuration lists after INVARIANT(S) or PROPERTY (PROPERTIES).

    >>> names_after("INVARIANTS TypeOK\\n  SeqOrder\\nPROPERTY Live", "INVARIANT", "INVARIANTS")
    ['TypeOK', 'SeqOrder']
    """
    text = re.sub(r"\\\*.*", "", text)
    found: list[str] = []
    reading = False
    for word in text.split():
        if word.isupper():
            reading = word in keywords
        elif reading:
            found.append(word)
    return found


def known_states() -> dict[str, int]:
    """How many distinct states each configuration has, by docs/model-checking.md."""
    text = DOCUMENT.read_text() if DOCUMENT.is_file() else ""
    rows = re.findall(r"^\| `([\w-]+)` \| ([\d,]+) \|", text, re.MULTILINE)
    return {name: int(count.replace(",", "")) for name, count in rows}


def own_actions(text: str) -> list[str]:
    """The actions that a configuration says it takes: what it is for. In its comments, after `Takes:`.

    >>> own_actions("\\\\* About.\\n\\\\* Takes: Fence\\n\\\\* Recover\\nSPECIFICATION Spec")
    ['Fence', 'Recover']
    """
    comments = re.findall(r"^\\\*(.*)$", text, re.MULTILINE)
    _, _, actions = " ".join(comments).partition("Takes:")
    return actions.split()


def invariants(text: str) -> list[str]:
    """Invariants that a configuration checks."""
    return names_after(text, "INVARIANT", "INVARIANTS")


def properties(text: str) -> list[str]:
    """Temporal and action properties that a configuration checks."""
    return names_after(text, "PROPERTY", "PROPERTIES")
