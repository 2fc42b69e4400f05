"""`python -m tools.actions`: how often the code took each action of the specs, in runs of the simulator.

    python -m tools.actions            print docs/actions.md
    python -m tools.actions --write    write it; with Java also what `walrus.tlc replay` performed

docs/spec-map.md says which function takes an action. Seeded runs are played, and counted are

    recorded    events of that name in the recorded run, which TLC checks against the spec
    committed   Raft commands of that name that became part of the metadata
    entered     calls of the function; an action without an event of its own has only this figure
    replayed    steps of random behaviours of Raft.tla and Walrus.tla, performed on real servers

An action that no run takes is not checked in the code at all: then `tests/test_actions.py` fails. An action
that the code does not have has no function in the map, and its remark there says why.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final, NamedTuple

from tools.shape import ROOT
from walrus.sim import coverage, faults
from walrus.sim.options import Options, varied
from walrus.sim.run import simulate
from walrus.sim.trace import Recorder
from walrus.tlc.replay import CHECKPOINTS, replay
from walrus.tlc.run import TlcError

MAP, PAGE = ROOT / "docs" / "spec-map.md", ROOT / "docs" / "actions.md"
SEEDS, STEPS = range(1, 7), 6_000
KEEPERS = 2
"""Operators of a further run, in which a topic is trimmed, deleted and registered again."""
GIVING_UP = 2
"""Consumers of another run, which fill the dead letters."""
BEHAVIOURS = 40
REPLAYED: Final = (
    ("Raft", "raft-simulate", None),
    ("Walrus", "walrus-simulate", None),
    ("Walrus", "walrus-simulate", CHECKPOINTS),
)
"""(spec, configuration, constants) of the behaviours that are performed."""

ALIKE = {"LosePower": "PowerLoss"}
"""Actions whose events have another name."""


class Action(NamedTuple):
    """A row of the map."""

    spec: str
    name: str
    function: str
    """The dotted name of the function; "" if the code has no such step."""
    remark: str


class Taken(NamedTuple):
    """The counts, each by name."""

    recorded: Counter[str]
    committed: Counter[str]
    entered: Counter[str]
    replayed: Counter[tuple[str, str]]
    """By spec and name, since both specs have a Restart."""

    def of(self, action: Action) -> list[int]:
        """Return the four figures of an action."""
        name = ALIKE.get(action.name, action.name)
        replayed = self.replayed[action.spec, action.name]
        return [self.recorded[name], self.committed[action.name], self.entered[action.function], replayed]


def actions() -> list[Action]:
    """Return every action of the mapped specs, in the order of the map."""
    found = []
    for section in MAP.read_text("utf-8").split("\n## ")[1:]:
        spec = re.match(r"Actions of `spec/(\w+)\.tla`", section)
        if spec is None:
            continue
        for name, where, remark in re.findall(r"^\| (\w+) \|(.*?)\|(.*)\|$", section, re.MULTILINE):
            function = re.search(r"`(walrus\.[\w.]+)`", where)
            found.append(Action(spec[1], name, function[1] if function else "", remark.strip()))
    return found


def played(enough: Callable[[Taken], bool] = lambda taken: False) -> Taken:
    """Play the runs, those for what is rare first, and count; stop after the one with which it is enough."""
    taken = Taken(Counter(), Counter(), Counter(), Counter())
    with counted({action.function for action in actions() if action.function}, taken.entered):
        runs = [
            (1, Options(keepers=KEEPERS), faults.DEFAULT),
            (1, Options(giving_up=GIVING_UP), faults.DEFAULT),
            *coverage.RAREST,
            *((seed, varied(seed, Options()), faults.DEFAULT) for seed in SEEDS),
        ]
        for seed, options, kinds in runs:
            recorder = Recorder(options)
            outcome = simulate(seed, options, STEPS, kinds, recorder.of)
            taken.recorded.update(str(event["ev"]) for event in recorder.events)
            taken.committed.update(getattr(outcome, "seen", {}))
            if enough(taken):
                break
    return taken


def never(taken: Taken) -> list[Action]:
    """Return the actions that the code has and did not take."""
    return [action for action in actions() if action.function and not any(taken.of(action))]


def performed() -> Counter[tuple[str, str]]:
    """Return how often each action of each spec was performed. Raises TlcError."""
    steps: Counter[tuple[str, str]] = Counter()
    for spec, config, constants in REPLAYED:
        outcome = replay(config, constants, count=BEHAVIOURS)
        steps.update({(spec, name): times for name, times in outcome.actions.items()})
    return steps


@contextmanager
def counted(names: set[str], entered: Counter[str]) -> Iterator[None]:
    """Count the calls of these functions, methods and properties until the end of the `with`."""
    changed: list[tuple[Any, str, Any]] = []
    for name in sorted(names):
        owner, last = _owner(name)
        found = inspect.getattr_static(owner, last)
        counting = _counting(found, name, entered)
        if counting is not None:
            changed.append((owner, last, found))
            setattr(owner, last, counting)
    try:
        yield
    finally:
        for owner, last, found in changed:
            setattr(owner, last, found)


def _owner(name: str) -> tuple[Any, str]:
    """Return the module or class that has the last part of a dotted name, and that part."""
    *path, last = name.split(".")
    for split in range(len(path), 0, -1):
        with suppress(ModuleNotFoundError):
            owner: Any = importlib.import_module(".".join(path[:split]))
            for part in path[split:]:
                owner = getattr(owner, part)
            return owner, last
    raise LookupError(name)


def _counting(found: object, name: str, entered: Counter[str]) -> object | None:
    """Return a function that counts its calls; None for a class or a module."""
    if isinstance(found, property) and found.fget is not None:
        return property(_wrapped(found.fget, name, entered), found.fset)
    return _wrapped(found, name, entered) if inspect.isfunction(found) else None


def _wrapped(function: Callable[..., Any], name: str, entered: Counter[str]) -> Callable[..., Any]:
    @functools.wraps(function)
    def counting(*arguments: Any, **named: Any) -> Any:
        entered[name] += 1
        return function(*arguments, **named)

    return counting


HEAD = """# How often the code takes each action of the specs

<!-- written by `python -m tools.actions --write`; do not edit -->

{seeds} seeded runs of {steps:,} steps of the simulator were played, one of them with operators that trim,
delete and register a topic, three for what is rare: nodes that join anew, damaged copies, forced recoveries.
{behaviours} random behaviours each of Raft.tla, of Walrus.tla, and of Walrus.tla with checkpoints were
performed on real servers ([how](model-checking.md)). Counted are events in the recorded runs, which TLC
holds against the specs; commands of Raft that were committed; calls of the function that
[takes the action](spec-map.md), whether or not it did so in each; and steps that were replayed.

An action without any figure would be checked for nothing: a test plays the runs anew, and fails then, but
for those that the code does not have.
"""


def page(taken: Taken) -> str:
    """Return the whole page."""
    parts = [HEAD.format(seeds=len(SEEDS) + 1 + len(coverage.RAREST), steps=STEPS, behaviours=BEHAVIOURS)]
    spec = ""
    for action in actions():
        if action.spec != spec:
            spec = action.spec
            parts.append(f"\n## spec/{spec}.tla\n\n| action | recorded | committed | entered | replayed |")
            parts.append("|---|---|---|---|---|")
        figures = taken.of(action)
        cells = " | ".join(f"{figure:,}" if figure else "" for figure in figures)
        name = action.name if any(figures) else f"{action.name}: {action.remark}"
        parts.append(f"| {name} | {cells} |")
    return "\n".join(parts) + "\n"


def main() -> int:
    """Run the command line."""
    taken = played()
    with suppress(TlcError):
        taken.replayed.update(performed())
    text = page(taken)
    if "--write" in sys.argv[1:]:
        PAGE.write_text(text, "utf-8")
    else:
        sys.stdout.write(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
