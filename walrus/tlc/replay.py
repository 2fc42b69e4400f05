"""Behaviours of a spec, performed on the code: `python -m walrus.tlc replay CONFIG --behaviours N`.

Recorded runs (`traces.py`) go from the code to the spec: whatever the code does must be a behaviour. A
replay goes the other way. TLC in simulation mode writes random behaviours of Raft.tla or Walrus.tla; each is
performed step by step on real servers (`replay_raft.py`, `replay_segments.py`); and after each step the
state of the servers is compared with that of the spec. A difference names the variable, the action and the
step, and is a bug in one of the two.

TLC chooses among all steps with equal chances. Five servers that may all campaign spend their time with
elections; four nodes with two topics and readers hardly ever reach a recovery. So each spec has constants
that make the performed steps more frequent (`NARROW`, `NARROW_SEGMENTS`). `CHECKPOINTS` adds the steps that
forget fences: with them most steps of a behaviour are checkpoints, so they have runs of their own.
"""

from __future__ import annotations

import re
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, Protocol

from walrus.tlc.configs import config_file, spec_of, with_constants
from walrus.tlc.replay_film import Footage
from walrus.tlc.replay_raft import Cluster
from walrus.tlc.replay_segment_steps import flat, segment_step_of
from walrus.tlc.replay_segments import Segments
from walrus.tlc.replay_steps import Beyond, Difference, SpecState, SpecStep, step_of
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

NARROW_SEGMENTS: Final[Mapping[str, str]] = {
    "Node": "{n1, n2, n3}",
    "Topic": "{t1}",
    "Group": "{}",
    "MayLead": "{n1, n2, n3}",
    "Begun": "TRUE",
    "FsyncEach": "TRUE",
    "Faults": '{"crash", "expiry"}',
    "MaxFaults": "3",
    "Losses": '{"power"}',
    "Chores": '{"recovery"}',
}
CHECKPOINTS: Final[Mapping[str, str]] = {**NARROW_SEGMENTS, "Chores": '{"recovery", "checkpoint"}'}


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
    """The outcome of performing behaviours."""

    behaviours: int = 0
    steps: int = 0
    actions: Counter[str] = field(default_factory=Counter)
    """How often each action was performed."""
    beyond: Counter[str] = field(default_factory=Counter)
    """Why behaviours were given up where the code cannot follow: reason -> how often."""
    differences: list[ReplayDifference] = field(default_factory=list)
    seconds: float = 0.0


def native(value: Value) -> Any:
    """Return the value with numbers for servers (`n1` is 1, `None` is 0) and strings without their quotes.

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
    """Reads the files that TLC writes in simulation mode; caches values, since most repeat."""

    def __init__(self) -> None:
        self._known: dict[str, Any] = {}

    def states(self, text: str) -> list[SpecState]:
        """Return the states of one behaviour, in order."""
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
    first: int = 0,
) -> Iterator[list[SpecState]]:
    """Yield random behaviours of a configuration from number `first` on. Raises TlcError.

    Equal seeds give equal behaviours, however many are written: number 7 of 8 is number 7 of 3,000.
    """
    file = config_file(config)
    with tempfile.TemporaryDirectory(prefix="walrus-replay-") as scratch:
        varied = Path(scratch) / file.name
        claims = r"^(SYMMETRY|PROPERTIES|PROPERTY|INVARIANTS|INVARIANT)\b.*(\n .*)*$"
        text = re.sub(claims, "", file.read_text(), flags=re.MULTILINE)  # other runs check these, at a cost
        varied.write_text(with_constants(text, constants))
        into = Path(scratch) / "behaviour"
        arguments = ["-simulate", f"file={into},num={count}", "-depth", str(depth), "-seed", str(seed)]
        run_tlc(
            spec_of(file), varied, arguments=arguments, timeout=timeout, brief=count * depth <= BRIEF_STATES
        )
        reader = BehaviourReader()
        for number in range(first, count):
            yield reader.states(Path(f"{into}_0_{number}").read_text())


def replay(
    config: str = "raft-simulate",
    constants: Mapping[str, str] | None = None,
    *,
    count: int = 100,
    depth: int = 60,
    seed: int = 1,
    most: int = 10,
    timeout: float = 3600.0,
    footage: Footage | None = None,
    first: int = 0,
) -> Replayed:
    """Perform random behaviours on real servers, until `most` of them differ. Raises TlcError.

    Without `constants` the spec is narrowed to what can be performed. `footage` keeps the steps of the first
    behaviour of Raft.tla that differs, for a page. Behaviours before number `first` are not performed.
    """
    spec = spec_of(config_file(config)).stem
    if spec not in ("Raft", "Walrus"):
        raise TlcError(
            f"{config}: only behaviours of Raft.tla and Walrus.tla can be performed; "
            "try raft-simulate or walrus-simulate"
        )
    if constants is None:
        constants = NARROW if spec == "Raft" else NARROW_SEGMENTS
    began = time.monotonic()
    told = with_constants(config_file(config).read_text(), constants)
    pre_votes = re.search(r"^\s*PreVotes = TRUE", told, re.MULTILINE) is not None
    of_raft = partial(perform, pre_votes=pre_votes, footage=footage)
    every = behaviours(config, constants, count=count, depth=depth, seed=seed, timeout=timeout, first=first)
    outcome = perform_all(every, of_raft if spec == "Raft" else perform_segments, most, first)
    outcome.seconds = time.monotonic() - began
    return outcome


Behaviour = Sequence[SpecState]
Perform = Callable[[Behaviour, int, Replayed], None]
"""Performs the behaviour with this number, and adds its outcome."""


def perform_all(every: Iterable[Behaviour], one: Perform, most: int, first: int = 0) -> Replayed:
    """Perform behaviours, the first of which has this number, until `most` of them differ."""
    outcome = Replayed()
    for number, states in enumerate(every, first):
        outcome.behaviours += 1
        one(states, number, outcome)
        if len(outcome.differences) >= most:
            break
    return outcome


class Performer(Protocol):
    """Real servers that carry out the steps of a behaviour."""

    def perform(self, step: SpecStep, before: SpecState, after: SpecState) -> None:
        """Do one step and compare. Raises Difference, or Beyond."""


Look = Callable[[int, str, int, Performer | None], None]
"""Called with (step, action, node, servers) after each step."""


def _perform(
    states: Behaviour,
    begin: Callable[[SpecState], Performer],
    between: Callable[[SpecState, SpecState], SpecStep],
    number: int,
    outcome: Replayed,
    look: Look = lambda at, action, node, stage: None,
) -> None:
    at, action, node, stage = 0, "the beginning", 0, None
    try:
        stage = begin(states[0])
        look(at, action, node, stage)
        for before, after in pairwise(states):
            at += 1
            if before == after:  # a repeated proposal changes nothing
                continue
            step = between(before, after)
            action = f"{step.action}({', '.join(map(str, (step.node, *step.values)))})"
            node = step.node
            stage.perform(step, before, after)
            look(at, action, node, stage)
            outcome.steps += 1
            outcome.actions[step.action] += 1
    except Beyond as reason:
        outcome.beyond[str(reason)] += 1
    except Difference as difference:
        look(at, action, node, stage)
        outcome.differences.append(ReplayDifference(number, at, action, difference.variable, str(difference)))


def perform(
    states: Behaviour,
    number: int,
    outcome: Replayed,
    *,
    pre_votes: bool = True,
    footage: Footage | None = None,
) -> None:
    """Perform a behaviour of Raft.tla to its end or the first difference, and update `outcome`."""
    seen = Footage() if footage is None else footage

    def look(at: int, action: str, node: int, stage: Performer | None) -> None:
        seen.note(at, action, node, states[at], stage.servers if isinstance(stage, Cluster) else {})

    before = len(outcome.differences)
    _perform(states, lambda first: Cluster(first, pre_votes), step_of, number, outcome, look)
    for difference in outcome.differences[before:]:
        seen.differs(difference.variable, difference.what)


def perform_segments(states: Behaviour, number: int, outcome: Replayed) -> None:
    """Perform a behaviour of Walrus.tla to its end or the first difference, and update `outcome`."""
    _perform([flat(state) for state in states], Segments, segment_step_of, number, outcome)
