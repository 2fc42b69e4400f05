"""The configurations in spec/, and variations of them.

A configuration belongs to the spec that its name begins with: `walrus-quick` to Walrus.tla, `raft-liveness`
to Raft.tla. The part after the dash is its kind: `quick` and `liveness` (in `make test`), `guards` (small
ones, too, made for mutants that the others do not refuse), `full`, `simulate`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from walrus.tlc.run import SPEC_DIRECTORY, SpecError

DOCUMENT = SPEC_DIRECTORY.parent / "docs" / "model-checking.md"

SPECS = {
    "walrus": "Walrus",
    "delivery": "Delivery",
    "publish": "Publish",
    "retention": "Retention",
    "order": "Order",
    "raft": "Raft",
}
KINDS = ("quick", "guards", "liveness", "full")
"""Those of configurations that are searched to their end."""


def config_files(kind: str = "") -> list[Path]:
    """Return the configurations, or those of one kind, sorted by name."""
    return sorted(path for path in SPEC_DIRECTORY.glob("*-*.cfg") if not kind or kind in path.stem.split("-"))


def known_files(kind: str = "") -> list[Path]:
    """Like `config_files`, but at least one. Raises SpecError: a check of nothing must not pass."""
    found = config_files(kind)
    if not found:
        what = f"{kind} configurations" if kind else "configurations"
        raise SpecError(f"no {what} in {SPEC_DIRECTORY}: install walrus-log anew")
    return found


def config_file(name: str) -> Path:
    """Return the configuration of this name, with or without `.cfg`. Raises SpecError."""
    path = SPEC_DIRECTORY / f"{name.removesuffix('.cfg')}.cfg"
    if not path.is_file():
        known = ", ".join(each.stem for each in known_files())
        raise SpecError(f"there is no configuration {name}; there are {known}")
    return path


def expand(names: Iterable[str]) -> list[str]:
    """Return names of configurations; any other name stands for all that begin with it (`raft-full`)."""
    found: list[str] = []
    for name in names:
        group = [path.stem for path in config_files() if path.stem.startswith(f"{name}-")]
        found += group or [config_file(name).stem]
    return found


def spec_of(config: Path) -> Path:
    """Return the spec that a configuration belongs to."""
    return SPEC_DIRECTORY / f"{SPECS[config.stem.split('-')[0]]}.tla"


def with_constants(text: str, constants: Mapping[str, str]) -> str:
    """Return the text of a configuration with other values for some constants.

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
    """Return the names that a configuration lists after these keywords, such as INVARIANT or PROPERTIES.

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


@dataclass(frozen=True, slots=True)
class Figures:
    """The figures of a configuration's complete search."""

    distinct: int
    depth: int
    seconds: int


def known_figures() -> dict[str, Figures]:
    """Return the figures of each configuration that was searched to its end, from docs/model-checking.md."""
    text = DOCUMENT.read_text() if DOCUMENT.is_file() else ""
    rows = re.findall(r"^\| `([\w-]+)` \| ([\d,]+) \| (\d+) \| (\d+) \|", text, re.MULTILINE)
    return {row[0]: Figures(int(row[1].replace(",", "")), int(row[2]), int(row[3])) for row in rows}


def known_states() -> dict[str, int]:
    """Return how many distinct states each configuration has, from docs/model-checking.md."""
    return {name: figures.distinct for name, figures in known_figures().items()}


def table(figures: Mapping[str, Figures]) -> str:
    """Return the table of docs/model-checking.md: each finite configuration, with its figures if known."""
    specs = list(SPECS)
    found = [path for path in config_files() if set(KINDS) & set(path.stem.split("-"))]

    def place(path: Path) -> tuple[int, int, str]:
        spec, kind = path.stem.split("-")[:2]
        return specs.index(spec), KINDS.index(kind), path.stem

    return _HEAD + "".join(_row(path, figures.get(path.stem)) for path in sorted(found, key=place))


_HEAD = "| configuration | distinct states | depth | seconds | what it is for |\n|---|---:|---:|---:|---|\n"


def _row(path: Path, figures: Figures | None) -> str:
    known = "not run to its end | | |"
    if figures:
        known = f"{figures.distinct:,} | {figures.depth} | {figures.seconds} |"
    return f"| `{path.stem}` | {known} {about(path.read_text())} |\n"


def totals(figures: Mapping[str, Figures]) -> str:
    """Return the other table there: how many configurations each kind has, and how long they take."""
    rows = []
    for kind in KINDS:
        mine = {name: known for name, known in figures.items() if name.split("-")[1] == kind}
        longest = max(mine, key=lambda name: mine[name].seconds)
        states = sum(known.distinct for known in mine.values())
        seconds = sum(known.seconds for known in mine.values())
        rows.append(
            f"| {kind} | {len(mine)} | {states:,} | {mine[longest].seconds:,} s, `{longest}` "
            f"| {seconds / 60:.0f} min |\n"
        )
    return _TOTALS + "".join(rows)


_TOTALS = (
    "| kind | configurations | distinct states | longest | one after the other |\n|---|---:|---:|---|---:|\n"
)


def write_figures(more: dict[str, Figures]) -> None:
    """Update the tables of docs/model-checking.md with these figures."""
    text, figures = DOCUMENT.read_text(), known_figures() | more
    for head, made in ((_TOTALS, totals(figures)), (_HEAD, table(figures))):
        old = re.search(re.escape(head) + r"(?:\|.*\n)*", text)
        if old is None:
            raise SpecError(f"{DOCUMENT} has no table that begins with {head}")
        text = text[: old.start()] + made + text[old.end() :]
    DOCUMENT.write_text(text)


def about(text: str) -> str:
    """Return what a configuration is for: its comments, up to `Takes:`.

    >>> about("\\\\* One fault,\\n\\\\* or two.\\n\\\\* Takes: Crash\\nSPECIFICATION Spec")
    'One fault, or two.'
    """
    comments = re.findall(r"^\\\*(.*)$", text, re.MULTILINE)
    return " ".join(" ".join(comments).partition("Takes:")[0].split())


def own_actions(text: str) -> list[str]:
    """Return the actions that a configuration is for: those in its comments after `Takes:`.

    >>> own_actions("\\\\* About.\\n\\\\* Takes: Fence\\n\\\\* Recover\\nSPECIFICATION Spec")
    ['Fence', 'Recover']
    """
    comments = re.findall(r"^\\\*(.*)$", text, re.MULTILINE)
    _, _, actions = " ".join(comments).partition("Takes:")
    return actions.split()


def invariants(text: str) -> list[str]:
    """Return the invariants that a configuration checks."""
    return names_after(text, "INVARIANT", "INVARIANTS")


def properties(text: str) -> list[str]:
    """Return the temporal and action properties that a configuration checks."""
    return names_after(text, "PROPERTY", "PROPERTIES")
