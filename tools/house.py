"""`python -m tools.house`: the house drawn from its imports, and its traits in figures.

    python -m tools.house picture            packages from top to bottom, and which ones each knows
    python -m tools.house traits             what CONTRIBUTING.md quotes
    python -m tools.house --write            put both where the documentation quotes them

The layers are those of the contract in `setup.cfg` that `lint-imports` checks; "knows" lists the actual
imports. `tests/test_house.py` fails when a page quotes something other than what these commands print.
"""

from __future__ import annotations

import argparse
import ast
import configparser
import re
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from statistics import median

import grimp

from tools import marked, shape

PICTURE = "```text\n{}\n```"
PAGES = {"picture": "docs/architecture.md", "traits": "CONTRIBUTING.md"}

GROUPS = {
    "Raft (`raft`, `consensus/`)": ("raft", "consensus"),
    "metadata (`segments`, `leases`)": ("segments", "leases"),
    "`replicas/`": ("replicas",),
    "`broker/`": ("broker",),
    "`wire/`, `protocol`": ("wire", "protocol"),
    "`storage/`, `wal`": ("storage", "wal"),
    "all of `walrus/`": (),
}


@cache
def _contract(name: str) -> configparser.SectionProxy:
    """Return one contract of `setup.cfg`."""
    parser = configparser.ConfigParser()
    parser.read(shape.ROOT / "setup.cfg")
    return parser[f"importlinter:contract:{name}"]


def floors() -> list[list[str]]:
    """Return the packages from top to bottom; packages side by side share a list."""
    layers = _contract("order")["layers"].split("\n")
    return [[room.strip() for room in layer.split("|")] for layer in layers if layer.strip()]


def arrows() -> dict[str, set[str]]:
    """Return the packages that each package imports from, including imports under `TYPE_CHECKING`."""
    graph = grimp.build_graph("walrus", exclude_type_checking_imports=False, cache_dir=None)
    known: dict[str, set[str]] = {room: set() for floor in floors() for room in floor}
    for importer in sorted(graph.modules):
        for imported in graph.find_modules_directly_imported_by(importer):
            source, target = _room(importer), _room(imported)
            if source != target and source in known and target in known:
                known[source].add(target)
    return known


def _room(module: str) -> str:
    return module.partition(".")[2].partition(".")[0]


def picture() -> str:
    """Return two lines for each package: its chapter's first sentence, and the packages that it knows."""
    known, lines = arrows(), []
    width = max(map(len, known))
    order = [room for floor in floors() for room in floor]
    for floor in floors():
        lines.append("─" * 106)
        for room in floor:
            targets = " ".join(sorted(known[room], key=order.index)) or "nothing"
            lines.append(f"{room:<{width}}  {_opening(room)}")
            lines.append(f"{'':<{width}}    knows {targets}")
    return "\n".join([*lines, "─" * 106])


def _opening(room: str) -> str:
    """Return the first sentence of a package's chapter, shortened to fit."""
    path = shape.PACKAGE / room / "__init__.py"
    path = path if path.exists() else shape.PACKAGE / f"{room}.py"
    text = " ".join((ast.get_docstring(shape.tree(path)) or "").split("\n\n")[0].split())
    sentence = re.split(r"(?<=\.)\s", text)[0].rstrip(".:")
    return sentence if len(sentence) <= 92 else f"{sentence[:90].rsplit(' ', 1)[0]} ..."


def traits() -> str:
    """Return the table of traits, with a column for each group of packages."""
    columns = [[p for p in shape.MODULES if not rooms or shape.room(p) in rooms] for rooms in GROUPS.values()]
    rows = {
        "lines of code": [_sum(shape.code_lines(path) for path in paths) for paths in columns],
        "comments and docstrings": [_share(paths) for paths in columns],
        "longest function, median": [_lengths(paths) for paths in columns],
        "assertions a function": [_assertions(paths) for paths in columns],
        "most attributes of a class": [
            _most(n for p in paths for _, n in shape.classes(p)) for paths in columns
        ],
        "longest file, lines of code": [_most(map(shape.code_lines, paths)) for paths in columns],
    }
    lines = ["| | " + " | ".join(GROUPS) + " |", "|---|" + "---|" * len(GROUPS)]
    lines += [f"| {title} | " + " | ".join(cells) + " |" for title, cells in rows.items()]
    return "\n".join([*lines, "", *_claims()])


def _sum(figures: Iterable[int]) -> str:
    return f"{sum(figures):,}"


def _most(figures: Iterable[int]) -> str:
    return f"{max(figures, default=0):,}"


def _share(paths: Sequence[Path]) -> str:
    counted = [shape.prose_lines(path) for path in paths]
    return f"{100 * sum(prose for prose, _ in counted) // sum(full for _, full in counted)} %"


def _lengths(paths: Sequence[Path]) -> str:
    lengths = [lines for path in paths for _, lines in shape.functions(path)]
    return f"{max(lengths)}, {median(lengths):.0f}"


def _assertions(paths: Sequence[Path]) -> str:
    return (
        f"{sum(map(shape.assertions, paths)) / sum(len(list(shape.functions(path))) for path in paths):.2f}"
    )


def _claims() -> list[str]:
    """Return the lines about the project as a whole."""
    tests = sorted((shape.ROOT / "tests").rglob("*.py"))
    text = "\n".join(path.read_text(encoding="utf-8") for path in tests)
    transcripts = sorted((shape.ROOT / "tests").rglob("transcripts/*.txt"))
    claims = set(re.findall(r"def (test_\d+(?:_\d+)*_\w+)", text))
    pages = sorted([*shape.ROOT.glob("*.md"), *shape.ROOT.glob("docs/*.md")])
    prose = "\n".join(path.read_text(encoding="utf-8") for path in pages)
    named = set(re.findall(r"`(test_\w+)`", prose))
    placed = set(re.findall(r"`(\w+)`\s+in\s+\[[^\]]*\]\(([\w./-]+\.py)\)", prose))
    defined = set(re.findall(r"`(walrus\.[\w.]+)`", prose))
    impure = [path for path in shape.MODULES if shape.room(path) in shape.LOGIC and not _is_pure(path)]
    return [
        f"* Modules of the logic that import a clock, socket, disk, thread or randomness: {len(impure)}.",
        f"* Transcripts: {len(transcripts)}. Tests named after a section of the Raft paper: {len(claims)}.",
        f"* Names on the pages, held to the code by tests: {len(named)} of tests, {len(placed)} of functions",
        f"  in their files, {len(defined)} of modules, classes and members.",
    ]


def _is_pure(path: Path) -> bool:
    forbidden = set(_contract("pure")["forbidden_modules"].split())
    imported: set[str] = set()
    for node in ast.walk(shape.tree(path)):
        if isinstance(node, ast.Import):
            imported |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            imported.add(node.module.partition(".")[0])
    return forbidden.isdisjoint(imported)


def quoted(what: str) -> str:
    """Return what the documentation quotes between its marks."""
    return marked.quoted(shape.ROOT / PAGES[what], what)


@cache
def printed(what: str) -> str:
    """Return what the documentation should quote."""
    return PICTURE.format(picture()) if what == "picture" else traits()


def write(what: str) -> None:
    """Put the current text between the marks."""
    marked.write(shape.ROOT / PAGES[what], what, printed(what))


def main(argv: Sequence[str] | None = None) -> int:
    """Print, or write where it is quoted."""
    parser = argparse.ArgumentParser(prog="python -m tools.house", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("what", nargs="?", choices=sorted(PAGES), help="left out: both")
    parser.add_argument("--write", action="store_true", help="update the page that quotes it")
    options = parser.parse_args(argv)
    for what in [options.what] if options.what else sorted(PAGES):
        if options.write:
            write(what)
        else:
            print(printed(what))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
