"""Hunts: one line of a working copy is wrong, and a command shows that something breaks.

The bugs are those of `walrus/sim/mutants`, which the project's own tools must notice. Here they are written
into the files of a copy, so that every tool runs them and a reader can see them. Their numbers are drawn
once. The name of a bug would give it away, so it is told only after a right guess.

Invariant (tests/lab): the command of each hunt fails with the bug planted, under a name that the bug is
expected to break, and a hunt's copy differs from the reference only in the functions of its bug.
"""

from __future__ import annotations

import random
import textwrap
from functools import cache
from importlib.resources import files

import msgspec

from walrus.lab.holes import Site, text_of
from walrus.lab.workshop import Workshop
from walrus.sim import mutants
from walrus.sim.mutants.plant import Mutant, Slip, place_of


class Hunt(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A bug of the registry, and the arguments of `python -m` that show that something is wrong."""

    bug: str
    run: str

    @property
    def mutant(self) -> Mutant:
        """Return the bug."""
        return mutants.find(self.bug)

    @property
    def sites(self) -> set[Site]:
        """Return the functions of the bug: a right guess names one of them."""
        return {_site(slip) for slip in self.mutant.slips}


@cache
def hunts() -> dict[int, Hunt]:
    """Return all hunts by number."""
    data = (files("walrus.lab") / "hunts.toml").read_bytes()
    found = msgspec.toml.decode(data, type=dict[str, list[Hunt]])["hunts"]
    random.Random(len(found)).shuffle(found)
    return dict(enumerate(found, 1))


def find(number: int) -> Hunt:
    """Return the hunt of this number. Raises LookupError with a sentence if there is none."""
    if number not in hunts():
        raise LookupError(f"there is no hunt {number}: the hunts are 1 to {len(hunts())}")
    return hunts()[number]


def plant(workshop: Workshop, hunt: Hunt) -> None:
    """Write the bug into the files of a copy."""
    for slip in hunt.mutant.slips:
        site = _site(slip)
        path = workshop.folder / site.file
        path.write_text(planted(path.read_text("utf-8"), slip), "utf-8")
    (workshop.folder / "HUNT.md").write_text(page(hunt), "utf-8")


def planted(source: str, slip: Slip) -> str:
    """Return the source of a file with one wrong line."""
    site = _site(slip)
    text = text_of(source, site)
    plain = textwrap.dedent(text)
    depth = len(text.splitlines()[0]) - len(plain.splitlines()[0])
    line, wrong = (textwrap.dedent(piece).strip("\n") for piece in (slip.line, slip.wrong))
    assert plain.count(line) == 1, "a slip fits its function once"
    return source.replace(text, textwrap.indent(plain.replace(line, wrong), " " * depth))


def is_right(hunt: Hunt, guess: str) -> bool:
    """Return whether a guess, `FILE:FUNCTION` or a function alone, names a place of the bug."""
    return any(guess in (str(site), site.name, site.name.rpartition(".")[2]) for site in hunt.sites)


def page(hunt: Hunt) -> str:
    """Return the text of a hunt as a page of Markdown."""
    return (
        "# A hunt\n\n"
        "One place of `walrus/` is wrong in this copy. Everything else is the project, its tools included.\n"
        f"This shows that something breaks:\n\n    python -m {hunt.run} --why --html hunt.html\n\n"
        "`hunt.html` is the run as a page, opened at what broke: press `c` for what led there. The\n"
        "broken invariant says what was lost, and seldom where. Ask which step allowed it, which function\n"
        "takes that step (docs/spec-map.md), and whether each of its conditions is there. Other tools may\n"
        "say more: `python -m pytest tests/consensus/test_transcripts.py`, `python -m walrus.sim explore`,\n"
        "unit tests.\n\n"
        "Then guess, as often as you like:\n\n    python -m walrus.lab guess . FILE:FUNCTION\n"
    )


def _site(slip: Slip) -> Site:
    place = place_of(slip)
    return Site(f"{place.module.replace('.', '/')}.py", place.name)
