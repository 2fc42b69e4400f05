"""Explains a violated name in a few sentences that are taken from the sources.

For an invariant: the sentence of its predicate, the comment on it in the spec, and where both are. A name
that is no invariant (an exception, a check of the oracle) has a sentence here, in `OTHERS`.
"""

from __future__ import annotations

import re
from difflib import SequenceMatcher

from walrus.shipped import SPEC
from walrus.sim import invariants

ALIKE = 0.7
"""The similarity from which two sentences say the same."""
CONTAINED = 0.9
"""The share of a sentence's letters that another one must have, for the sentence to add nothing."""

OTHERS = {
    "OnlyMembers": "Only a member of the cluster is let in on the peers' port, and nothing that a stray says "
    "there is carried out (walrus/sim/strays.py).",
    "Replies": "A node owes each request exactly one reply, in order, of a kind that docs/protocol.md lists.",
    "Scenario": "The scenario did not come to the point that it is about; its docstring says what that is.",
    "NoRest": "Once faults end, every node catches up and every replica of a sealed segment holds all of it.",
    "AssertionError": "A state machine's own assertion failed: it found two of its fields at odds.",
}


def sentences() -> list[tuple[str, str]]:
    """Return the name and the sentence of every invariant that the simulator checks."""
    return [
        (name, _first(predicate.__doc__))
        for name, predicate in vars(invariants).items()
        if name[:1].isupper() and callable(predicate) and predicate.__module__ == invariants.__name__
    ]


def why(name: str) -> str:
    """Return what `name` protects: predicate, spec, and where to read on."""
    known = dict(sentences())
    if name not in known:
        return OTHERS.get(
            name, f"{name} is no invariant of the spec: it is what the simulator's judge calls it."
        )
    spec, comment, _ = definition(name)
    comment = _news(comment, known[name])
    where = f"See walrus/sim/invariants.py, {f'spec/{spec}, ' if spec else ''}and docs/spec-map.md."
    return " ".join(part for part in (known[name], comment, where) if part)


def _news(comment: str, told: str) -> str:
    """Return the sentences of a spec's comment that the predicate's docstring does not already say."""
    known = re.split(r"(?<=\.) ", told)
    return " ".join(
        sentence
        for sentence in re.split(r"(?<=\.) ", comment)
        if not any(_alike(sentence, other) for other in known)
    )


def _alike(sentence: str, other: str) -> bool:
    """Return whether a sentence says what the other one says, or a part of it, in nearly the same words."""
    matcher = SequenceMatcher(None, sentence, other)
    shared = sum(block.size for block in matcher.get_matching_blocks())
    return matcher.ratio() > ALIKE or shared > CONTAINED * len(sentence)


def _first(text: str | None) -> str:
    """Return the first paragraph of a docstring, on one line."""
    return " ".join((text or "").split("\n\n")[0].split())


def definition(name: str) -> tuple[str, str, str]:
    """Return the spec that defines a name, the comment above the definition, and both as written there."""
    for spec in ("Walrus.tla", "Raft.tla", "Delivery.tla", "Retention.tla"):
        path = SPEC / spec
        found = _definition(name).search(path.read_text("utf-8")) if path.exists() else None
        if found:
            comment = " ".join(line.removeprefix("\\*").strip() for line in found[1].splitlines())
            return spec, comment, found[0].rstrip()
    return "", "", ""


def _definition(name: str) -> re.Pattern[str]:
    """Match a definition, from its comment to the next line that is not indented."""
    return re.compile(rf"((?:^\\\*.*\n)*)^{name} ==.*\n(?:(?:[ \t].*)?\n)*?(?=^\S)", re.MULTILINE)
