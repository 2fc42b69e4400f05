"""The verdict on each generated mutant: what refuses it, or why nothing may.

spec/mutants.json has a line for each mutant of each spec, by its name, and one of

    {"config": "raft-quick-elections", "by": "ElectionSafety"}
    {"config": "raft-quick-restarts", "by": "Restart is never taken"}
    {"config": "raft-quick-growth", "by": "cannot be evaluated"}
    {"config": "raft-quick-elections", "by": "other states"}
    {"survives": "the guard repeats what another one says: ..."}
    {"tried": "raft-quick-growth"}

The first three come from a search alone. The fourth is weaker: the spec behaves differently, which the
number of its states shows (it is known for every configuration), and no property forbids that. The last is
no verdict yet: no configuration up to this one, from the smallest, refuses the mutant.

One search for all mutants would take hours, so it is split into short ones. `search` takes the
configurations, the smallest first, asks which mutants make a difference there (`differences.py`), and judges
those: the first configuration that refuses a mutant gives its verdict. The configurations tried are noted,
and the next run continues after them. `strengthen` looks for better verdicts than the fourth kind, in the
small configurations and in those for liveness. Reasons are written by people.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

import msgspec

from walrus.tlc.configs import SPECS, config_file, config_files, own_actions
from walrus.tlc.differences import differing
from walrus.tlc.patches import Generated, actions, generated, reached
from walrus.tlc.run import SPEC_DIRECTORY
from walrus.tlc.variants import UNEVALUATED, Judgement, Variant, judge_variants

FILE = SPEC_DIRECTORY / "mutants.json"

OTHER_STATES: Final = "other states"

_WEAK: Final = ("", OTHER_STATES)

TOGETHER: Final = 40
"""How many mutants are judged in one search."""

ENOUGH: Final = 3_000
"""No better verdict is looked for in configurations with more states than these."""


class Verdict(msgspec.Struct, frozen=True, omit_defaults=True):
    """The verdict on one mutant: `config` refuses it `by` something, or it `survives` for a reason.

    Or neither yet: no configuration up to `tried` refuses it.
    """

    config: str = ""
    by: str = ""
    survives: str = ""
    tried: str = ""

    @property
    def final(self) -> bool:
        """Return whether there is a verdict."""
        return bool(self.config or self.survives)


Verdicts = dict[str, Verdict]


def load() -> dict[str, Verdicts]:
    """Return the verdicts by spec and by the mutant's name."""
    return msgspec.json.decode(FILE.read_bytes(), type=dict[str, Verdicts]) if FILE.is_file() else {}


def save(verdicts: Mapping[str, Verdicts]) -> None:
    """Write the verdicts, a line for each mutant, in the order of the specs' texts."""
    parts = []
    for spec, mine in verdicts.items():
        known = [mutant.name for mutant in mutants_of(spec) if mutant.name in mine]
        lines = [f"  {_json(name)}: {_json(mine[name])}" for name in known]
        parts.append(f" {_json(spec)}: {{\n" + ",\n".join(lines) + "\n }")
    FILE.write_text("{\n" + ",\n".join(parts) + "\n}\n")


def _json(value: object) -> str:
    return msgspec.json.format(msgspec.json.encode(value), indent=-1).decode()


def mutants_of(spec: str) -> list[Generated]:
    """Return the generated mutants of a spec, in the order of its text."""
    return list(generated((SPEC_DIRECTORY / f"{spec}.tla").read_text()))


def summary() -> str:
    """Return the table of docs/spec-mutants.md: how many mutants of each spec are refused, and by what."""
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
    if verdict is None or not verdict.final:
        return ""
    if verdict.survives:
        return "survives"
    if verdict.by.endswith("is never taken"):
        return "idle"
    return {OTHER_STATES: "states", UNEVALUATED: "value"}.get(verdict.by, "property")


def judge(mutants: Sequence[Generated], config: str, states: int, timeout: float = 3600.0) -> list[str]:
    """Return what the configuration refuses each mutant by; "" if it does not refuse it.

    `states`: how many states the configuration has without a mutant. Raises TlcError.
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


def candidates(spec: str, states: Mapping[str, int], *kinds: str) -> list[str]:
    """Return the configurations of a spec of these kinds, by default the small ones, the smallest first."""
    wanted = kinds or ("quick", "guards")
    files = [path for kind in wanted for path in config_files(kind)]
    names = [path.stem for path in files if SPECS[path.stem.split("-")[0]] == spec]
    return sorted(names, key=lambda name: states.get(name, 0))


def search(
    spec: str, mutants: Sequence[Generated], states: Mapping[str, int], found: Callable[[Verdicts], None]
) -> None:
    """Find verdicts on the mutants that have none. `found` gets what each search has found and tried.

    `states`: how many states each configuration has. Raises TlcError.
    """
    known, order = load().get(spec, {}), [*candidates(spec, states), *candidates(spec, states, "full")]
    left = [mutant for mutant in mutants if not known.get(mutant.name, Verdict()).final]
    tried = {mutant.name: known[mutant.name].tried for mutant in left if mutant.name in known}
    for at, config in enumerate(order):
        todo = [mutant for mutant in left if tried.get(mutant.name) not in order[at:]]
        differ = differing(config_file(config), todo) if todo else set()
        found({mutant.name: Verdict(tried=config) for mutant in todo if mutant.name not in differ})
        for chunk in _chunks([mutant for mutant in todo if mutant.name in differ]):
            by = dict(
                zip([mutant.name for mutant in chunk], judge(chunk, config, states[config]), strict=True)
            )
            found({n: Verdict(config=config, by=by[n]) if by[n] else Verdict(tried=config) for n in by})
            left = [mutant for mutant in left if not by.get(mutant.name)]


def strengthen(
    spec: str, mutants: Sequence[Generated], states: Mapping[str, int], found: Callable[[Verdicts], None]
) -> None:
    """Find better verdicts on mutants that only another number of states refuses. Raises TlcError."""
    known = load().get(spec, {})
    weak = [mutant for mutant in mutants if known.get(mutant.name, Verdict()).by == OTHER_STATES]
    small = [config for config in candidates(spec, states) if states[config] <= ENOUGH]
    for config in [*small, *candidates(spec, states, "liveness")]:
        todo = [mutant for mutant in weak if states[known[mutant.name].config] < states[config]]
        if config not in small:
            todo = weak
        for chunk, answers in _judged(spec, todo, config, states[config]):
            by = dict(zip([mutant.name for mutant in chunk], answers, strict=True))
            better = {name: Verdict(config=config, by=by[name]) for name in by if by[name] not in _WEAK}
            found(better)
            weak = [mutant for mutant in weak if mutant.name not in better]


def _judged(
    spec: str, mutants: Sequence[Generated], config: str, states: int
) -> Iterator[tuple[Sequence[Generated], list[str]]]:
    """Yield some mutants of the actions that the configuration is for at a time, with what refuses each."""
    own, uses = set(own_actions(config_file(config).read_text())), _users(spec)
    for chunk in _chunks([mutant for mutant in mutants if uses[mutant.patch.operator] & own]):
        yield chunk, judge(chunk, config, states)


def _chunks(mutants: Sequence[Generated]) -> Iterator[Sequence[Generated]]:
    """Split the mutants into chunks for one search each."""
    return (mutants[start : start + TOGETHER] for start in range(0, len(mutants), TOGETHER))


def _users(spec: str) -> dict[str, set[str]]:
    """Return for each operator the actions that use it."""
    text = (SPEC_DIRECTORY / f"{spec}.tla").read_text()
    found: dict[str, set[str]] = {}
    for action in actions(text):
        for operator in [action, *reached(text, action)]:
            found.setdefault(operator, set()).add(action)
    return found
