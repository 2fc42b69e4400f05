"""The figures of the documentation, drawn from transcripts that tests replay word by word.

python -m tools.figures          which figures are not what their transcript says
python -m tools.figures --write  draw docs/figures/*.svg and docs/figures.md anew
"""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path
from typing import NamedTuple

from tools.shape import ROOT
from walrus.view import svg, transcripts
from walrus.view.film import Film

FIGURES = ROOT / "docs" / "figures"
PAGE = ROOT / "docs" / "figures.md"

WIDEST = 1200
"""The greatest width of a figure in pixels; a wider figure continues below."""


class Figure(NamedTuple):
    """A transcript that is drawn, and which of its messages are left out."""

    folder: str
    name: str
    without: tuple[str, ...] = ()

    @property
    def source(self) -> Path:
        """Return the path of the transcript."""
        return ROOT / "tests" / self.folder / "transcripts" / f"{self.name}.txt"

    def film(self) -> Film:
        """Return everything in the transcript as a film."""
        return transcripts.film(self.source.read_text("utf-8"), self.name)

    def draw(self) -> str:
        """Return the picture, without looks and heartbeats."""
        film = self.film()
        shown = [
            number
            for number, event in enumerate(film.events)
            if event.kind != "look" and not event.minor and not event.what.startswith(self.without)
        ]
        return svg.picture(film, shown, widest=WIDEST)


VOTES = ("PreVote", "RequestVote")
DRAWN = (
    Figure("consensus", "election_majority"),
    Figure("consensus", "election_log_behind"),
    Figure("consensus", "election_split", ("PreVote",)),
    Figure("consensus", "election_figure_7", ("PreVote",)),
    Figure("consensus", "conflict_leader_has_the_term"),
    Figure("consensus", "commit_not_by_counting_old_terms"),
    Figure("consensus", "commit_figure_8_overwritten", VOTES),
    Figure("consensus", "commit_figure_8_kept", VOTES),
    Figure("consensus", "snapshot_lagging_follower"),
    Figure("consensus", "snapshot_while_appending"),
    Figure("consensus", "read_index_round"),
    Figure("replicas", "acknowledge_with_a_majority"),
    Figure("replicas", "rollover_by_entries"),
    Figure("replicas", "fence_and_seal"),
    Figure("replicas", "recovery_copies_the_longest"),
    Figure("replicas", "recovery_waits_for_sure_copies"),
    Figure("replicas", "restart_with_a_shorter_copy"),
    Figure("replicas", "get_delivered_again"),
)
"""The figures, in the order of the page."""

HEAD = """# Figures

Each figure is drawn from a transcript, which a test compares with the code word by word, so none can show
anything that the code does not do. A hollow dot is a send, a full one a receipt or a step, a red cross a
loss or a death. `make figures` redraws them; `python -m walrus.view FILE` makes a page of any transcript, on
which every step shows the state of every node ([viewer.md](viewer.md)).
"""


def page() -> str:
    """Return the page with all figures, each with the heading of its transcript."""
    parts = [HEAD]
    for figure in DRAWN:
        name, title = figure.name, figure.film().header.title.capitalize()
        text = f"[{name}.txt](../tests/{figure.folder}/transcripts/{name}.txt)"
        said = " ".join(_heading(figure.source.read_text("utf-8")))
        if figure.without:
            said += f" Not drawn: {' and '.join(figure.without)} messages."
        about = textwrap.fill(said, 106, break_long_words=False, break_on_hyphens=False)
        parts.append(f"## {title}\n\n{about}\n{text}\n\n![{title}](figures/{name}.svg)\n")
    return "\n".join(parts)


def _heading(text: str) -> list[str]:
    """Return the lines above the first command."""
    return [line[2:] for line in text.split("\n> ")[0].splitlines() if line.startswith("# ")]


def stale() -> dict[Path, str]:
    """Return the files whose text differs from what would be drawn now, with the new text."""
    drawn = {FIGURES / f"{figure.name}.svg": figure.draw() for figure in DRAWN} | {PAGE: page()}
    return {
        path: text for path, text in drawn.items() if not path.exists() or path.read_text("utf-8") != text
    }


def main() -> int:
    """Run the command line."""
    old = stale()
    for path, text in old.items():
        sys.stdout.write(f"{path.relative_to(ROOT)}\n")
        if "--write" in sys.argv[1:]:
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, "utf-8")
    return int(bool(old) and "--write" not in sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
