"""The register of named schedules: `@scenario(numbers)` puts a function into `ALL`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Scenario:
    """One scenario."""

    name: str
    numbers: tuple[int, ...]
    about: str
    run: Callable[[int], int]
    """Play it with a seed; returns the number of steps or raises `Violation`."""


ALL: dict[str, Scenario] = {}


def scenario(*numbers: int) -> Callable[[Callable[[int], int]], Callable[[int], int]]:
    """Register a function as the scenario of the schedules with these numbers in docs/simulator.md."""

    def register(play: Callable[[int], int]) -> Callable[[int], int]:
        ALL[play.__name__] = Scenario(play.__name__, numbers, (play.__doc__ or "").strip(), play)
        return play

    return register
