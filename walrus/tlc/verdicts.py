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

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec

from walrus.tlc.configs import SPECS, config_file, config_files, own_actions
from walrus.tlc.mutants import run_changed
from walrus.tlc.patches import Generated, generated
from walrus.tlc.run import SPEC_DIRECTORY, SpecError, TlcResult, TlcTimeout

FILE = SPEC_DIRECTORY / "mutants.json"

OTHER_STATES = "other states"
UNEVALUATED = "cannot be evaluated"
TOO_LONG = "does not end"


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
    """Write them, in the order of the specs' texts."""
    ordered = {
        spec: {
            mutant.name: verdicts[spec][mutant.name]
            for mutant in mutants_of(spec)
            if mutant.name in verdicts[spec]
        }
        for spec in verdicts
    }
    FILE.write_bytes(msgspec.json.format(msgspec.json.encode(ordered), indent=1) + b"\n")


def mutants_of(spec: str) -> list[Generated]:
    """The generated mutants of a spec, in the order of its text."""
    return list(generated((SPEC_DIRECTORY / f"{spec}.tla").read_text()))


def judge(spec: str, mutant: Generated, config: str, states: int, timeout: float) -> str:
    """By what the configuration refuses the mutant; "" if by nothing.

    `states`: how many the configuration has without the mutant. Raises TlcError.
    """
    file = config_file(config)
    text = mutant.patch.apply((SPEC_DIRECTORY / f"{spec}.tla").read_text())
    try:
        result = run_changed(file, text, file.read_text(), arguments=("-coverage", "1"), timeout=timeout)
    except SpecError:
        return UNEVALUATED
    except TlcTimeout:
        return TOO_LONG
    return _by(file, result, states)


def _by(file: Path, result: TlcResult, states: int) -> str:
    if result.violated:
        return result.violated
    for action in own_actions(file.read_text()):
        if not result.coverage.get(action, (0, 0))[1]:
            return f"{action} is never taken"
    return OTHER_STATES if result.distinct != states else ""


def candidates(spec: str, states: Mapping[str, int]) -> list[str]:
    """The quick configurations of a spec, the smallest first."""
    names = [path.stem for path in config_files("quick") if SPECS[path.stem.split("-")[0]] == spec]
    return sorted(names, key=lambda name: states.get(name, 0))


def search(
    spec: str,
    mutant: Generated,
    configs: Sequence[str],
    states: Mapping[str, int],
    report: Callable[[str, str], None],
    timeout: float = 600.0,
) -> Verdict | None:
    """The first configuration that refuses it by more than its number of states, or else by that; or None."""
    weak: Verdict | None = None
    for config in configs:
        by = judge(spec, mutant, config, states[config], timeout)
        report(config, by)
        if by and by not in (OTHER_STATES, TOO_LONG):
            return Verdict(config=config, by=by)
        if by and weak is None:
            weak = Verdict(config=config, by=by)
    return weak
