"""The documentation as a site: the pages of docs/, the sources that they link to, a page for each invariant.

    python -m tools.site            build it into build/site, strictly: a link that leads nowhere is an error
    python -m tools.site --serve    the same, served on 127.0.0.1:8000 and built again on a change

The pages in the repository do not change: they are Markdown that reads well in place. The site has copies in
which links that leave docs/ lead to pages of the site: the README is the front page, a linked source file
becomes a page with its text, and a linked transcript a page that can be stepped through. The page of an
invariant is made from the specs, the simulator's predicates, the tests and the planted bugs.

The site needs no network: no font and no script comes from elsewhere. Its search works only when it is
served.
"""

from __future__ import annotations

import inspect
import os
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import msgspec

from tools import broken
from tools.shape import ROOT
from walrus.sim import invariants, mutants, why
from walrus.view import html, transcripts

DOCS, BUILD = ROOT / "docs", ROOT / "build"
PAGES, SITE, CONFIG = BUILD / "site-docs", BUILD / "site", BUILD / "mkdocs.json"

FRONT = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
"""Pages beside docs/, and their names in the site."""

NAV: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("Begin", ("index.md", "tour.md", "labs.md", "course.md")),
    (
        "Use",
        (
            "clients.md",
            "protocol.md",
            "durability.md",
            "limits.md",
            "performance.md",
            "performance-engine.md",
            "performance-tables.md",
            "performance-cluster.md",
            "performance-growth.md",
            "scaling.md",
            "operations.md",
            "mirror.md",
            "examples.md",
            "security.md",
            "viewer.md",
        ),
    ),
    ("Understand", ("architecture.md", "raft.md", "figures.md", "wal-format.md", "glossary.md")),
    (
        "Prove",
        (
            "model-checking.md",
            "spec-mutants.md",
            "traces.md",
            "spec-map.md",
            "actions.md",
            "simulator.md",
            "planted-bugs.md",
            "bugs-found.md",
            "bugs-found-cluster.md",
            "bugs-found-node.md",
            "bugs-found-tools.md",
        ),
    ),
    ("Reference", ("reference/client.md", "reference/engine.md")),
    ("Project", ("contributing.md", "dependencies.md", "changelog.md")),
)

REFERENCE = {
    "client": ("The clients", ("walrus.client.Client", "walrus.client.AsyncClient", "walrus.client.errors")),
    "engine": ("The storage engine", ("walrus.wal.Walrus",)),
}

OBJECTS = {"show_source": False, "heading_level": 2, "show_root_heading": True, "members_order": "source"}
"""How mkdocstrings shows a class."""

_LINK = re.compile(r"(!?\[[^\]]*\]\()([^)\s]+)(\))")
_TEST = re.compile(r"^def (test_\w+)(.*?)(?=^\S|\Z)", re.DOTALL | re.MULTILINE)
_NAMED = re.compile(r'"([A-Z]\w+): ')
LANGUAGES = {".py": "python", ".tla": "text", ".cfg": "ini", ".txt": "text", ".toml": "toml"}


def build_pages() -> None:
    """Write every page of the site, as Markdown."""
    shutil.rmtree(PAGES, ignore_errors=True)
    PAGES.mkdir(parents=True)
    linked: set[Path] = set()
    for name, target in FRONT.items():
        _copy(ROOT / name, PAGES / target, linked)
    for page in sorted(DOCS.glob("*.md")):
        _copy(page, PAGES / page.name, linked)
    for other in (path for path in DOCS.rglob("*") if path.is_file() and path.suffix != ".md"):
        target_file = PAGES / other.relative_to(DOCS)
        target_file.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(other, target_file)
    sources = sorted(path for path in linked if path.is_file())
    for source in sources:
        _source_page(source)
    _write(PAGES / "source" / "index.md", _index(sources))
    for name, (title, objects) in REFERENCE.items():
        text = "\n".join(f"::: {found}\n" for found in objects)
        _write(PAGES / "reference" / f"{name}.md", f"# {title}\n\n{text}")
    for name, sentence in why.sentences():
        _write(PAGES / "invariants" / f"{name}.md", invariant_page(name, sentence))
        if (run := broken.run_of(name)) is not None:
            _write(PAGES / "invariants" / f"{name}.svg", run.svg)
            _write(PAGES / "invariants" / f"{name}.run.html", run.page)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")


def _copy(page: Path, target: Path, linked: set[Path]) -> None:
    """Copy a page, with its links changed to pages of the site."""

    def lead(match: re.Match[str]) -> str:
        address, _, anchor = match[2].partition("#")
        if not address or "://" in address or address.startswith("mailto:"):
            return match[0]
        place = (page.parent / address).resolve()
        if not place.is_relative_to(ROOT):
            return match[0]
        found = _target(place, linked)
        relative = os.path.relpath(found, target.parent)
        return f"{match[1]}{relative}{'#' + anchor if anchor else ''}{match[3]}"

    _write(target, _LINK.sub(lead, page.read_text("utf-8")))


def _target(place: Path, linked: set[Path]) -> Path:
    """Return the page of the site that stands for a file of the repository."""
    inside = place.relative_to(ROOT)
    if str(inside) in FRONT:
        return PAGES / FRONT[str(inside)]
    if place.is_relative_to(DOCS):
        return PAGES / place.relative_to(DOCS)
    linked.add(place)
    if place.is_dir():
        linked.discard(place)
        linked |= {path for path in place.iterdir() if path.suffix in LANGUAGES}
        return PAGES / "source" / "index.md"
    return PAGES / "source" / f"{inside}.md"


def _source_page(source: Path) -> None:
    inside = source.relative_to(ROOT)
    language = LANGUAGES.get(source.suffix, "text")
    text = source.read_text("utf-8", "replace")
    fence = "`" * (max((len(run) for run in re.findall(r"`{3,}", text)), default=2) + 1)
    step = ""
    if source.parent.name == "transcripts":
        _write(PAGES / "source" / f"{inside}.run.html", html.page(transcripts.film(text, source.stem)))
        step = f"[Step through it]({source.name}.run.html), with the state of every node.\n\n"
    head = f'---\nsearch:\n  exclude: true\n---\n\n# {inside}\n\n{step}{fence}{language} linenums="1"\n'
    _write(PAGES / "source" / f"{inside}.md", f"{head}{text}\n{fence}\n")


def invariant_page(name: str, sentence: str) -> str:
    """Return the page of one invariant: sentence, TLA+, predicate, tests, and planted bugs."""
    spec, _, text = why.definition(name)
    predicate = inspect.getsource(getattr(invariants, name))
    parts = [f"# {name}\n\n{sentence}\n"]
    if text:
        parts.append(f"## In spec/{spec}\n\n```text\n{text}\n```\n")
    parts.append(f"## In the simulator, after every step\n\n```python\n{predicate}```\n")
    if tests := _tests().get(name):
        lines = "\n".join(f"* `{test}`" for test in tests)
        parts.append(f"## Tests that fail by its name\n\n{lines}\n")
    rows = [
        f"| `{mutant.name}` | {mutant.about} |"
        for mutant in mutants.ALL.values()
        if mutant.expected[0] == name
    ]
    if rows:
        first = rows[0].split("`")[1]
        table = "\n".join(["| planted bug | what is wrong |", "|---|---|", *rows])
        parts.append(f"## Planted bugs that break it\n\n{table}\n")
        if (run := broken.run_of(name)) is not None:
            parts.append(
                f"## A run in which it breaks\n\nThe last events, with `{run.bug}` planted:\n\n"
                f"![{name} breaks]({name}.svg)\n\n[Step through all of it]({name}.run.html), the page that "
                f"this command makes: `{run.command}`\n"
            )
        else:
            see = f"python -m walrus.sim --mutant {first} --scenarios --why"
            parts.append(f"Look for a run in which it breaks: `{see}`\n")
    return "\n".join(parts)


@cache
def _tests() -> dict[str, list[str]]:
    """Return for each invariant the tests with an assertion whose message begins with its name."""
    found: dict[str, list[str]] = {}
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        for name, body in _TEST.findall(path.read_text("utf-8")):
            for invariant in sorted(set(_NAMED.findall(body))):
                found.setdefault(invariant, []).append(f"{path.relative_to(ROOT)}::{name}")
    return found


def config() -> dict[str, Any]:
    """Return the configuration of mkdocs."""
    nav: list[dict[str, Any]] = [
        {part: [page for page in pages if (PAGES / page).exists()]} for part, pages in NAV
    ]
    nav.insert(4, {"Invariants": [f"invariants/{name}.md" for name, _ in why.sentences()]})
    nav.append({"Source": ["source/index.md"]})
    return {
        "site_name": "Walrus",
        "site_description": "A distributed message log in pure Python, written to be read",
        "docs_dir": str(PAGES),
        "site_dir": str(SITE),
        "use_directory_urls": False,
        "theme": {
            "name": "material",
            "font": False,
            "features": ["navigation.tabs", "navigation.top", "content.code.copy", "search.highlight"],
            "palette": [
                {
                    "media": f"(prefers-color-scheme: {scheme})",
                    "scheme": {"light": "default", "dark": "slate"}[scheme],
                    "toggle": {"icon": "material/brightness-6", "name": "light or dark"},
                }
                for scheme in ("light", "dark")
            ],
        },
        "plugins": [
            "search",
            {
                "mkdocstrings": {
                    "handlers": {"python": {"options": {"show_source": False, "heading_level": 2}}}
                }
            },
        ],
        "markdown_extensions": ["tables", "toc", "pymdownx.superfences", "pymdownx.highlight"],
        "nav": nav,
        "not_in_nav": "/source/*",
    }


def _index(sources: list[Path]) -> str:
    """Return the page that lists the sources."""
    names = [str(path.relative_to(ROOT)) for path in sources]
    lines = [f"* [{name}]({name}.md)" for name in names]
    return "# Sources\n\nThe files that the pages speak of.\n\n" + "\n".join(lines) + "\n"


def main() -> int:
    """Run the command line."""
    build_pages()
    CONFIG.write_bytes(msgspec.json.format(msgspec.json.encode(config()), indent=1))
    command = [sys.executable, "-m", "mkdocs"]
    command += ["serve", "-a", "127.0.0.1:8000"] if "--serve" in sys.argv[1:] else ["build", "--strict", "-q"]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    return subprocess.run([*command, "-f", str(CONFIG)], env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
