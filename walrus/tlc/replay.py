"""Behaviours of a spec, performed on the code: `python -m walrus.tlc replay CONFIG --behaviours N`.

Recorded runs (`traces.py`) go from the code to the spec: whatever the code does must be a behaviour. This is
the other way: TLC in simulation mode writes random behaviours of Raft.tla, each is performed step by step on
real servers (`replay_raft.py`), and after each step the state that they came to is compared with that of the
spec. A difference names the variable, the action and the step, and is a bug in one of the two.

TLC chooses among all steps with equal chances, so that five servers that may all campaign spend their time
with elections. `NARROW` are constants under which more gets replicated: two of four servers campaign, and few
crash.

Left out: the data plane, whose actions are spread over more components than a driver can hold; recorded runs
compare its state after each step.
"""

from __future__ import annotations

import re
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from walrus.tlc.configs import config_file, spec_of, with_constants
from walrus.tlc.replay_film import Footage
from walrus.tlc.replay_raft import Beyond, Cluster, Difference
from walrus.tlc.replay_steps import SpecState, step_of
from walrus.tlc.run import BRIEF_STATES, TlcError, run_tlc
from walrus.tlc.values import Function, Value, parse_state, parse_value

NARROW: Final[Mapping[str, str]] = {
    "Node": "{n1, n2, n3, n4}",
    "InitLearners": "{}",
    "MayCampaign": "{n1, n2}",
    "MaxTerm": "4",
    "MaxLog": "5",
    "MaxRestarts": "1",
    "MaxChanges": "1",
    "MaxSnapshots": "2",
    "MaxStepDowns": "0",
}


@dataclass(frozen=True, slots=True)
class ReplayDifference:
    """A difference between the code and the spec."""

    behaviour: int
    step: int
    action: str
    variable: str
    what: str

    def __str__(self) -> str:
        return f"behaviour {self.behaviour}, step {self.step}, {self.action}: {self.what}"


@dataclass(slots=True)
class Replayed:
    """What became of the behaviours."""

    behaviours: int = 0
    steps: int = 0
    actions: Counter[str] = field(default_factory=Counter)
    """How often each action was performed."""
    beyond: Counter[str] = field(default_factory=Counter)
    """Where a behaviour was given up because the code cannot go there: how often, by reason."""
    differences: list[ReplayDifference] = field(default_factory=list)
    seconds: float = 0.0


def native(value: Value) -> Any:
    """The value with numbers for servers (`n1` is 1, `None` is 0) and without the quotes of strings.

    >>> native(parse_value('(n1 :> None @@ n2 :> "Leader")'))
    {1: 0, 2: 'Leader'}
    """
    if isinstance(value, str):
        number = re.fullmatch(r"n(\d+)", value)
        return int(number[1]) if number else 0 if value == "None" else value.strip('"')
    if isinstance(value, tuple | frozenset):
        return type(value)(map(native, value))
    if isinstance(value, Function):
        return type(value)((native(key), native(item)) for key, item in value.items())
    return value


class BehaviourReader:
    """Reads the files that TLC writes in simulation mode; most values are those of the state before."""

    def __init__(self) -> None:
        self._known: dict[str, Any] = {}

    def states(self, text: str) -> list[SpecState]:
        """The states of one behaviour, in order."""
        parts = re.split(r"^STATE_\d+ ==\s*$", text, flags=re.MULTILINE)[1:]
        return [
            {name: self._value(value) for name, value in parse_state(part.split("\n====")[0]).items()}
            for part in parts
        ]

    def _value(self, text: str) -> Any:
        if text not in self._known:
            if len(self._known) > 50_000:
                self._known.clear()
            self._known[text] = native(parse_value(text))
        return self._known[text]


def behaviours(
    config: str,
    constants: Mapping[str, str],
    *,
    count: int,
    depth: int,
    seed: int,
    timeout: float = 3600.0,
) -> Iterator[list[SpecState]]:
    """Random behaviours of a configuration; the same seed gives the same ones. Raises TlcError."""
    file = config_file(config)
    with tempfile.TemporaryDirectory(prefix="walrus-replay-") as scratch:
        varied = Path(scratch) / file.name
        text = re.sub(r"^(SYMMETRY|PROPERTIES|PROPERTY) .*$", "", file.read_text(), flags=re.MULTILINE)
        text = re.sub(r"^PROPERTIES\n .*$", "", text, flags=re.MULTILINE)
        varied.write_text(with_constants(text, constants))
        into = Path(scratch) / "behaviour"
        arguments = ["-simulate", f"file={into},num={count}", "-depth", str(depth), "-seed", str(seed)]
        run_tlc(
            spec_of(file), varied, arguments=arguments, timeout=timeout, brief=count * depth <= BRIEF_STATES
        )
        reader = BehaviourReader()
        for number in range(count):
            yield reader.states(Path(f"{into}_0_{number}").read_text())


def replay(
    config: str = "raft-simulate",
    constants: Mapping[str, str] = NARROW,
    *,
    count: int = 100,
    depth: int = 60,
    seed: int = 1,
    most: int = 10,
    timeout: float = 3600.0,
    footage: Footage | None = None,
) -> Replayed:
    """Perform random behaviours on real servers, until `most` of them differ. Raises TlcError.

    `footage` keeps the steps of the first that differs, for a page.
    """
    if spec_of(config_file(config)).stem != "Raft":
        raise TlcError(f"{config}: only behaviours of Raft.tla can be performed; try raft-simulate")
    began, outcome = time.monotonic(), Replayed()
    told = with_constants(config_file(config).read_text(), constants)
    pre_votes = re.search(r"^\s*PreVotes = TRUE", told, re.MULTILINE) is not None
    every = behaviours(config, constants, count=count, depth=depth, seed=seed, timeout=timeout)
    for number, states in enumerate(every):
        outcome.behaviours += 1
        perform(states, pre_votes, number, outcome, footage)
        if len(outcome.differences) >= most:
            break
    outcome.seconds = time.monotonic() - began
    return outcome


def perform(
    states: list[SpecState],
    pre_votes: bool,
    number: int,
    outcome: Replayed,
    footage: Footage | None = None,
) -> None:
    """Perform one behaviour, up to its end or the first difference, and note in `outcome` what came of it."""
    footage = Footage() if footage is None else footage
    at, action, node, cluster = 0, "the beginning", 0, None
    try:
        cluster = Cluster(states[0], pre_votes)
        footage.note(0, action, 0, states[0], cluster.servers)
        for before, after in pairwise(states):
            at, step = at + 1, step_of(before, after)
            action = f"{step.action}({', '.join(map(str, (step.node, *step.values)))})"
            node = step.node
            cluster.perform(step, before, after)
            footage.note(at, action, node, after, cluster.servers)
            outcome.steps += 1
            outcome.actions[step.action] += 1
    except Beyond as reason:
        outcome.beyond[str(reason)] += 1
    except Difference as difference:
        footage.note(at, action, node, states[at], cluster.servers if cluster else {})
        footage.differs(difference.variable, str(difference))
        outcome.differences.append(ReplayDifference(number, at, action, difference.variable, str(difference)))
