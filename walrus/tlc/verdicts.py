"""What becomes of each generated mutant: what refuses it, or why nothing may.

spec/mutants.json has a line for each mutant of each spec, by its name, and one of

    {"config": "raft-quick-elections", "by": "ElectionSafety"}
    {"config": "raft-quick-restarts", "by": "Restart is never taken"}
    {"config": "raft-quick-growth", "by": "cannot be evaluated"}
    {"config": "raft-quick-elections", "by": "other states"}
    {"survives": "the guard repeats what another one says: ..."}

The first three are what a search says by itself. The fourth is weaker: the spec does something else, which
the number of its states shows (every configuration's is known), and no property forbids. `search` finds
verdicts for mutants that have none, the cheapest configurations first; a reason is for people to write.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import msgspec

from walrus.tlc.configs import SPECS, config_file, config_files, own_actions
from walrus.tlc.patches import Generated, actions, generated, reached
from walrus.tlc.run import SPEC_DIRECTORY
from walrus.tlc.variants import UNEVALUATED, Judgement, Variant, judge_variants

FILE = SPEC_DIRECTORY / "mutants.json"

OTHER_STATES: Final = "other states"

TOGETHER: Final = 40
"""So many mutants are judged in one search."""

ENOUGH: Final = 3_000
"""In configurations with more states than these, only mutants without any verdict are looked at."""


class Verdict(msgspec.Struct, frozen=True, omit_defaults=True):
    """What became of one mutant: `config` refuses it `by` something, or it `survives` for a reason."""

    config: str = ""
    by: str = ""
    survives: str = ""


Verdicts = dict[str, Verdict]


def load() -> dict[str, Verdicts]:
    """The verdicts by spec and name."""
    return msgspec.json.decode(FILE.read_bytes(), type=dict[str, Verdicts]) if FILE.is_file() else {}


def save(verdicts: Mapping[str, Verdicts]) -> None:
    """Write them, a line for each mutant, in the order of the specs' texts."""
    parts = []
    for spec, mine in verdicts.items():
        known = [mutant.name for mutant in mutants_of(spec) if mutant.name in mine]
        lines = [f"  {_json(name)}: {_json(mine[name])}" for name in known]
        parts.append(f" {_json(spec)}: {{\n" + ",\n".join(lines) + "\n }")
    FILE.write_text("{\n" + ",\n".join(parts) + "\n}\n")


def _json(value: object) -> str:
    return msgspec.json.format(msgspec.json.encode(value), indent=-1).decode()


def mutants_of(spec: str) -> list[Generated]:
    """The generated mutants of a spec, in the order of its text."""
    return list(generated((SPEC_DIRECTORY / f"{spec}.tla").read_text()))


def summary() -> str:
    """The table of docs/model-checking.md: how many mutants of each spec are refused, and by what."""
    lines = [
        "| spec | mutants | property | action never taken | no value | other states | survive | not judged |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    known = load()
    for spec in SPECS.values():
        names = [mutant.name for mutant in mutants_of(spec)]
        kinds = Counter(_kind(known.get(spec, {}).get(name)) for name in names)
        numbers = [
            len(names),
            *(kinds[kind] for kind in ("property", "idle", "value", "states", "survives", "")),
        ]
        lines.append(f"| {spec} | {' | '.join(map(str, numbers))} |")
    return "\n".join(lines) + "\n"


_KINDS: Final = ("property", "idle", "value", "states", "survives", "")


def _kind(verdict: Verdict | None) -> str:
    if verdict is None:
        return ""
    if verdict.survives:
        return "survives"
    if verdict.by.endswith("is never taken"):
        return "idle"
    return {OTHER_STATES: "states", UNEVALUATED: "value"}.get(verdict.by, "property")


def judge(mutants: Sequence[Generated], config: str, states: int, timeout: float = 3600.0) -> list[str]:
    """By what the configuration refuses each mutant; "" if by nothing.

    `states`: how many the configuration has without a mutant. Raises TlcError.
    """
    file = config_file(config)
    own = own_actions(file.read_text())
    variants = [Variant((mutant.patch,)) for mutant in mutants]
    return [_by(each, own) for each in judge_variants(file, variants, states=states, timeout=timeout)]


def _by(outcome: Judgement, own: Sequence[str]) -> str:
    if outcome.violated:
        return outcome.violated
    for action in own:
        if action not in outcome.taken:
            return f"{action} is never taken"
    return OTHER_STATES if outcome.more_states or outcome.fewer_states else ""


def candidates(spec: str, states: Mapping[str, int]) -> list[str]:
    """The quick configurations of a spec, the smallest first."""
    names = [path.stem for path in config_files("quick") if SPECS[path.stem.split("-")[0]] == spec]
    return sorted(names, key=lambda name: states.get(name, 0))


def search(
    spec: str, mutants: Sequence[Generated], states: Mapping[str, int], found: Callable[[Verdicts], None]
) -> Verdicts:
    """Verdicts of these mutants, as far as the quick configurations have them.

    The smallest configuration that takes the mutant's action, and refuses it by more than its number of
    states, is its verdict, or else the smallest that does by that. `found` is told the former as they are
    found.
    """
    weak: Verdicts = {}
    left, uses = list(mutants), _users(spec)
    for config in candidates(spec, states):
        if states[config] > ENOUGH:
            left = [mutant for mutant in left if mutant.name not in weak]
        own = set(own_actions(config_file(config).read_text()))
        judged = [mutant for mutant in left if uses[mutant.patch.operator] & own]
        refused = set[str]()
        for start in range(0, len(judged), TOGETHER):
            chunk = judged[start : start + TOGETHER]
            strong: Verdicts = {}
            for mutant, by in zip(chunk, judge(chunk, config, states[config]), strict=True):
                if by == OTHER_STATES:
                    weak.setdefault(mutant.name, Verdict(config=config, by=by))
                elif by:
                    strong[mutant.name] = Verdict(config=config, by=by)
            found(strong)
            refused |= set(strong)
        left = [mutant for mutant in left if mutant.name not in refused]
    return {mutant.name: weak[mutant.name] for mutant in left if mutant.name in weak}


def _users(spec: str) -> dict[str, set[str]]:
    """For each operator the actions that it is a part of."""
    text = (SPEC_DIRECTORY / f"{spec}.tla").read_text()
    found: dict[str, set[str]] = {}
    for action in actions(text):
        for operator in [action, *reached(text, action)]:
            found.setdefault(operator, set()).add(action)
    return found
