"""Breadth-first search over what can happen: the part that `explore` and `explore_segments` share.

A search knows nothing of nodes. A subclass defines the states: which steps lead out of a state
(`_steps_of`), when two states are the same (`_key`), and what must hold of a state (`_checked`). The search
reaches each state by one of the shortest paths to it, so the first violation comes with a shortest
counterexample.

A step that leads nowhere (None) does not count.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field
from typing import Any, Generic, TypeAlias, TypeVar

from walrus.sim.violation import Violation

S = TypeVar("S")

Told: TypeAlias = Callable[[int, int], None]
"""Called with (depth, states): how many distinct states a depth has."""


@dataclass
class Exploration:
    """The result of a search: distinct states per depth, and a shortest counterexample if there is one."""

    states: list[int] = field(default_factory=list)
    violation: Violation | None = None
    path: list[str] = field(default_factory=list)
    trail: list[dict[int, dict[str, Any]]] = field(default_factory=list)
    """Per state of the path, what a film shows of each server (`walrus/view/film.py`): before the first step
    of `path` and after each; after the last step only if that step completed."""
    complete: bool = True
    """Whether all states up to the depth were seen."""


class Search(ABC, Generic[S]):
    """Breadth-first search to a depth, or to a number of distinct states."""

    def __init__(self, depth: int, states: int) -> None:
        self._depth, self._most = depth, states
        self._seen: dict[Hashable, tuple[S | None, str]] = {}
        """Key -> the state before this one (None at the beginning), and the step between them."""
        self._doing = "the beginning"
        self._made: S | None = None
        """The result of the step that is being checked."""

    # --- what a subclass says ---

    @abstractmethod
    def _begin(self) -> S:
        """Return the state in which the search begins. Raises Violation."""

    @abstractmethod
    def _steps_of(self, state: S) -> Iterator[tuple[str, Callable[[], S | None]]]:
        """Yield every possible next step, by name. Performing a step raises Violation."""

    @abstractmethod
    def _checked(self, before: S, made: S) -> S:
        """Return the state after a step, with its history updated. Raises Violation."""

    def _key(self, state: S) -> Hashable:
        """Return a key that is equal for states that need not be told apart."""
        return state

    @abstractmethod
    def _shown(self, state: S) -> dict[int, dict[str, Any]]:
        """Return what a film shows of the state, by node."""

    # --- the search ---

    def run(self, told: Told = lambda depth, states: None) -> Exploration:
        """Search; `told` is called after each depth."""
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
        """Yield the new states that a step from here reaches."""
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
        """Yield this state and those on its path, last first, each with the step that led there."""
        before: S | None = state
        while before is not None:
            here = before
            before, what = self._seen[self._key(here)]
            yield here, what

    def _path(self, state: S) -> list[str]:
        """Return the steps to this state, and the one that was tried from it."""
        path = [self._doing, *(what for _, what in self._back_from(state))]
        return [step for step in reversed(path) if step]

    def _states_to(self, state: S) -> list[S]:
        """Return the states on the path to this one, and the result of the step from it."""
        way = [self._made] if self._made is not None else []
        return [*way, *(here for here, _ in self._back_from(state))][::-1]
