"""The figures of the documentation, drawn from transcripts: what a figure shows, a test plays word by word.

python -m tools.figures          which figures are not what their transcript says
python -m tools.figures --write  draw docs/figures/*.svg and docs/figures.md anew
"""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path

from tools.shape import ROOT
from walrus.view import svg, transcripts

FIGURES = ROOT / "docs" / "figures"
PAGE = ROOT / "docs" / "figures.md"

DRAWN = (
    ("consensus", "election_majority"),
    ("consensus", "election_log_behind"),
    ("consensus", "conflict_leader_has_the_term"),
    ("consensus", "commit_not_by_counting_old_terms"),
    ("consensus", "snapshot_while_appending"),
    ("consensus", "read_index_round"),
    ("replicas", "acknowledge_with_a_majority"),
    ("replicas", "rollover_by_entries"),
    ("replicas", "fence_and_seal"),
    ("replicas", "recovery_copies_the_longest"),
    ("replicas", "restart_with_a_shorter_copy"),
    ("replicas", "get_delivered_again"),
)
"""Transcripts that fit into a picture, in the order of the page."""

HEAD = """# Figures

Each figure is drawn from a transcript, which a test plays word by word, so none can show what the code does
not do. A hollow dot sends, a full one receives or does something, a red cross is a loss or a death.
`make figures` draws them anew; `python -m walrus.view FILE` makes a page of any transcript, on which every
step shows the state of every node ([viewer.md](viewer.md)).
"""


def source(folder: str, name: str) -> Path:
    """The transcript of a figure."""
    return ROOT / "tests" / folder / "transcripts" / f"{name}.txt"


def draw(folder: str, name: str) -> str:
    """The picture of a transcript, without looks and heartbeats."""
    film = transcripts.film(source(folder, name).read_text("utf-8"), name)
    shown = [number for number, event in enumerate(film.events) if event.kind != "look" and not event.minor]
    return svg.picture(film, shown)


def page() -> str:
    """The page that shows them all, each with what its transcript says of it."""
    parts = [HEAD]
    for folder, name in DRAWN:
        film = transcripts.film(source(folder, name).read_text("utf-8"), name)
        text = f"[{name}.txt](../tests/{folder}/transcripts/{name}.txt)"
        title = film.header.title.capitalize()
        said = " ".join(_heading(source(folder, name).read_text("utf-8")))
        about = textwrap.fill(said, 106, break_long_words=False, break_on_hyphens=False)
        parts.append(f"## {title}\n\n{about}\n{text}\n\n![{title}](figures/{name}.svg)\n")
    return "\n".join(parts)


def _heading(text: str) -> list[str]:
    """The lines above the first command."""
    return [line[2:] for line in text.split("\n> ")[0].splitlines() if line.startswith("# ")]


def stale() -> dict[Path, str]:
    """What is not as it is drawn now: file and new text."""
    drawn = {FIGURES / f"{name}.svg": draw(folder, name) for folder, name in DRAWN} | {PAGE: page()}
    return {
        path: text for path, text in drawn.items() if not path.exists() or path.read_text("utf-8") != text
    }


def main() -> int:
    """The command line."""
    old = stale()
    for path, text in old.items():
        sys.stdout.write(f"{path.relative_to(ROOT)}\n")
        if "--write" in sys.argv[1:]:
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, "utf-8")
    return int(bool(old) and "--write" not in sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
