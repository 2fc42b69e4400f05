"""References for an event: the spec's action, the function, and the sections of the paper that it cites.

They come from the table in docs/spec-map.md, which a test compares with specs and code. A package that is
installed without the repository has no docs, so its films have no links.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import walrus

ROOT = Path(walrus.__file__).resolve().parent.parent
MAP = ROOT / "docs" / "spec-map.md"

_SECTION = re.compile(r"^## Actions of `(spec/\w+\.tla)`$")
_CITED = re.compile(r"(paper|dissertation) §(\d+(?:\.\d+)*)")
_ROW = re.compile(r"^\| (\w+) \| `(walrus\.[\w.]+)` \|(.*)\|$")


def links(page: Path) -> dict[str, list[tuple[str, str]]]:
    """Return the references of each action of the specs: (text, address relative to `page` or "")."""
    found: dict[str, list[tuple[str, str]]] = {}
    if not MAP.exists():
        return found
    spec = ""
    for line in MAP.read_text("utf-8").splitlines():
        if section := _SECTION.match(line):
            spec = section[1]
        elif line.startswith("## "):
            spec = ""
        elif spec and (row := _ROW.match(line)):
            action, name = row[1], row[2]
            file = _file_of(name)
            found.setdefault(action, []).extend(
                [(f"{action} in {spec}", _relative(ROOT / spec, page)), (name, _relative(file, page))]
            )
            found[action] += [(cited, "") for cited in _cited(file, name.rpartition(".")[2])]
    return found


def _cited(file: Path, function: str) -> list[str]:
    """The sections of the paper or the dissertation that a function's docstring cites.

    >>> _cited(ROOT / "walrus" / "raft.py", "_campaign")
    ['the Raft paper, section 5.2']
    """
    if file.suffix != ".py":
        return []
    said = re.search(rf'def {function}\(.*?"""(.*?)"""', file.read_text("utf-8"), re.DOTALL)
    cited = _CITED.findall(said[1]) if said else []
    return [f"the Raft {work}, section {section}" for work, section in dict.fromkeys(cited)]


def _file_of(name: str) -> Path:
    """The file that defines a dotted name."""
    parts = name.split(".")
    for split in range(len(parts), 0, -1):
        module = ROOT.joinpath(*parts[:split])
        for candidate in (module.with_suffix(".py"), module / "__init__.py"):
            if candidate.exists():
                return candidate
    return ROOT / "walrus"


def _relative(target: Path, page: Path) -> str:
    return Path(os.path.relpath(target, page.resolve().parent)).as_posix()
