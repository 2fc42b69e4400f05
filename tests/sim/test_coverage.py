"""Every kind of fault strikes, and every rare step is taken, in a small set of seeds."""

from __future__ import annotations

from collections import Counter
from io import StringIO

import pytest
from rich.console import Console

from walrus.sim import coverage, faults
from walrus.sim.options import Options, varied
from walrus.sim.run import Result, simulate

STEPS = 3_000
SHOWN_BY = (
    *((seed, faults.DEFAULT) for seed in (1, 3, 8, 16, 21)),
    *((seed, faults.classes("all")) for seed in (11, 17)),
    *((seed, ("disk",)) for seed in (27, 34, 68)),
    *((seed, ("ambush", "messages")) for seed in (17, 26, 36)),
    (11, ("disk", "rot")),
)
"""Runs (seed, faults) that together with `coverage.RAREST` showed all when it was looked for last."""
BROAD, MOST = 8, 100
"""If they no longer do: runs with all classes of faults, and runs in all."""
FAVOURED = {
    "joined anew": "members",
    "MarkLeaving": "members",
    "RemoveNode": "members",
    "leader asked to leave": "members,leaders",
    "stale start": "directories",
    "stopped in order": "crash",
    "usurped": "leaders",
    "recovery forced": "power,recovery,crash",
    "no room to write, user_data": "disk",
    "no room to trim, raft_meta": "disk",
    "no room to delete, user_data": "disk,rot",
    "FindGap": "disk,rot",
    "Gap": "disk,rot",
}
"""Which faults make a rare step common."""


def _chosen(name: str) -> tuple[str, ...]:
    """The faults that may lead to this."""
    if name in FAVOURED:
        return faults.classes(FAVOURED[name])
    if name.startswith(("ambush", "sieve")):
        return ("ambush", "messages")
    kind = name.removeprefix("fault ")
    return tuple(c for c, known in faults.CLASSES.items() if kind in dict(known)) or faults.DEFAULT


def _seen(seed: int, options: Options, chosen: tuple[str, ...]) -> dict[str, int]:
    outcome = simulate(seed, options, STEPS, chosen)
    assert isinstance(outcome, Result), outcome
    return outcome.seen


@pytest.mark.slow
@pytest.mark.timeout(3_000)
def test_all_that_can_happen_happens_in_a_few_seeds() -> None:
    seen = Counter[str]()
    for number, options, kinds in coverage.RAREST:
        seen.update(_seen(number, options, kinds))
    for seed, kinds in SHOWN_BY:
        seen.update(_seen(seed, varied(seed, Options()), kinds))
    for seed in range(1, MOST + 1):
        lacking = coverage.missing(seen)
        if not lacking:
            break
        chosen = faults.DEFAULT if seed <= BROAD else _chosen(lacking[seed // 2 % len(lacking)])
        seen.update(_seen(seed, varied(seed, Options()), chosen))
    assert not coverage.missing(seen), f"never seen in {MOST} runs"


def test_what_never_happened_is_told() -> None:
    told = StringIO()
    coverage.tell(Console(file=told, width=160), Counter({"fault kill": 1_234}), 2)
    assert "what happened in 2 runs" in told.getvalue()
    assert "kill 1,234" in told.getvalue()
    assert "never seen: fault massacre" in told.getvalue()
