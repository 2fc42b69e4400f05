"""Breadth-first search over what can happen: the part that `explore` and `explore_segments` share.

A search knows nothing of nodes. It is told how a state goes on (`_steps_of`), when two states are the same
(`_key`), and what must hold of one (`_checked`), and finds each state by one of the shortest ways to it. So
the first violation comes with a shortest counterexample.

What a state is, and its steps, is a subclass's. A step may lead nowhere (None): then it does not count.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field
from typing import Any, Generic, TypeAlias, TypeVar

from walrus.sim.violation import Violation

S = TypeVar("S")

Told: TypeAlias = Callable[[int, int], None]
"""Hears how many distinct states a depth has: (depth, states)."""


@dataclass
class Exploration:
    """What a search found: distinct states per depth, and perhaps a shortest counterexample."""

    states: list[int] = field(default_factory=list)
    violation: Violation | None = None
    path: list[str] = field(default_factory=list)
    trail: list[dict[int, dict[str, Any]]] = field(default_factory=list)
    """By server what its state shows (`walrus/view/film.py`): before the first step of `path`, and after
    each; after the last one only if the step itself came to its end."""
    complete: bool = True
    """Whether all states up to the depth were seen."""


class Search(ABC, Generic[S]):
    """Breadth-first, to a depth, or to so many distinct states."""

    def __init__(self, depth: int, states: int) -> None:
        self._depth, self._most = depth, states
        self._seen: dict[Hashable, tuple[S | None, str]] = {}
        """By key: the state before this one, and the step between them."""
        self._doing = "the beginning"
        self._made: S | None = None
        """What the step that is being looked at led to."""

    # --- what a subclass says ---

    @abstractmethod
    def _begin(self) -> S:
        """The state in which the search begins. Raises Violation."""

    @abstractmethod
    def _steps_of(self, state: S) -> Iterator[tuple[str, Callable[[], S | None]]]:
        """Everything that can happen next, by name. Performing a step raises Violation."""

    @abstractmethod
    def _checked(self, before: S, made: S) -> S:
        """The state after a step, with what its history adds to it. Raises Violation."""

    def _key(self, state: S) -> Hashable:
        """Equal for states that need not be told apart."""
        return state

    @abstractmethod
    def _shown(self, state: S) -> dict[int, dict[str, Any]]:
        """What a film shows of it, by node."""

    # --- the search ---

    def run(self, told: Told = lambda depth, states: None) -> Exploration:
        """Search."""
        outcome = Exploration(states=[1])
        try:
            frontier = [self._begin()]
        except Violation as violation:
            outcome.violation, outcome.path = violation, [self._doing]
            return outcome
        self._seen[self._key(frontier[0])] = (None, "")
        for depth in range(1, self._depth + 1):
            following: list[S] = []
            for state in frontier:
                try:
                    following += self._fresh_after(state)
                except Violation as violation:
                    outcome.violation, outcome.path = violation, self._path(state)
                    outcome.trail = [self._shown(one) for one in self._states_to(state)]
                    return outcome
                if len(self._seen) >= self._most:
                    outcome.complete = False
                    return outcome
            outcome.states.append(len(following))
            told(depth, len(following))
            frontier = following
        return outcome

    def _fresh_after(self, state: S) -> Iterator[S]:
        """The states that are met for the first time in a step from here."""
        for what, make in self._steps_of(state):
            self._doing, self._made = what, None
            made = self._made = make()
            if made is None:
                continue
            after = self._checked(state, made)
            if (key := self._key(after)) not in self._seen:
                self._seen[key] = (state, what)
                yield after

    def _back_from(self, state: S) -> Iterator[tuple[S, str]]:
        """This state and those on the way to it, last first, each with the step that led there."""
        before: S | None = state
        while before is not None:
            here = before
            before, what = self._seen[self._key(here)]
            yield here, what

    def _path(self, state: S) -> list[str]:
        """The steps to this state, and the one that was tried from it."""
        path = [self._doing, *(what for _, what in self._back_from(state))]
        return [step for step in reversed(path) if step]

    def _states_to(self, state: S) -> list[S]:
        """The states on the way to this one, and what the step from it led to."""
        way = [self._made] if self._made is not None else []
        return [*way, *(here for here, _ in self._back_from(state))][::-1]
