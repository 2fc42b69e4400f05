"""Mutants: changed specs, which TLC must refuse; and probes, which the unchanged specs must violate.

    planted      bugs by hand, each with the configuration that must refuse it, by the expected property
    probes       statements that a configuration must violate, or it never gets where a bug would show
    generated    a mutant for each guard of each action, made by rule (`patches.py`), each with a verdict

A planted bug that survives is a hole in the invariants, or shows that a configuration is too small. The
searches are those of the configuration, breadth-first, so a counterexample is a shortest one.

A generated mutant may do more than the protocol, or less. Doing more shows in a property. Doing less can
show in a property too, but often only in what no longer happens: an action that the configuration is for is
never taken, or the search finds another number of states than the configuration has. A mutant that shows in
none of these is listed with the reason (`verdicts.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias

from walrus.tlc import (
    planted_delivery,
    planted_order,
    planted_publish,
    planted_raft,
    planted_readers,
    planted_retention,
    planted_walrus,
)
from walrus.tlc.configs import SPECS, config_file
from walrus.tlc.planted import Planted, Probe
from walrus.tlc.run import TlcResult
from walrus.tlc.variants import Variant, judge_variants, search_of

Case: TypeAlias = Planted | Probe

_MODULES = (
    planted_walrus,
    planted_readers,
    planted_delivery,
    planted_publish,
    planted_retention,
    planted_order,
    planted_raft,
)

PLANTED: tuple[Planted, ...] = tuple(case for module in _MODULES for case in module.PLANTED)
PROBES: tuple[Probe, ...] = tuple(case for module in _MODULES for case in module.PROBES)
CASES: tuple[Case, ...] = PLANTED + PROBES


def name_of(case: Case) -> str:
    """Return the name of a case in reports.

    >>> name_of(planted_raft.PLANTED[0])
    'raft-quick-elections: VotesTwice'
    """
    return f"{case.config}: {case.name}"


def expected_of(case: Case) -> str:
    """Return the property that the case must violate."""
    return case.name if isinstance(case, Probe) else case.expected


def listing(cases: Iterable[Case] = CASES) -> str:
    """Return the tables of docs/spec-mutants.md: what configurations must refuse, and must reach."""
    parts, known = [], list(cases)
    for prefix, spec in SPECS.items():
        parts.append(f"### {spec}.tla\n")
        mine = [case for case in known if case.config.startswith(f"{prefix}-")]
        planted = [case for case in mine if isinstance(case, Planted)]
        parts.append(_table("| planted bug | violates | what it is about | in |", planted))
        parts.append(_table("| probe | where the search comes | in |", [c for c in mine if c not in planted]))
    return "\n".join(parts)


def _table(head: str, cases: Sequence[Case]) -> str:
    """Return a table with a row for each case; the last column lists the configurations that have it."""
    rows: dict[str, list[str]] = {}
    for case in sorted(cases, key=lambda case: case.config):
        violates = f"{case.expected} | " if isinstance(case, Planted) else ""
        rows.setdefault(f"| {case.name} | {violates}{case.about} |", []).append(f"`{case.config}`")
    lines = [f"{row} {', '.join(configs)} |\n" for row, configs in rows.items()]
    return "".join([f"{head}\n", "|---" * (head.count("|") - 1), "|\n", *lines])


def cases_of(config: str) -> tuple[Case, ...]:
    """Return the bugs and probes of one configuration."""
    return tuple(case for case in CASES if case.config == config)


def variant_of(case: Case) -> Variant:
    """Return the case as a change of the spec, or as another property of it."""
    return Variant(judged_by=(case.name,)) if isinstance(case, Probe) else Variant(case.patches)


def run_case(case: Case, timeout: float = 600.0) -> TlcResult:
    """Run TLC on one case, in a search of its own. Raises TlcError."""
    return search_of(config_file(case.config), variant_of(case), timeout)


def violated_by(config: str, cases: Sequence[Case], timeout: float = 3600.0) -> list[str | None]:
    """Return the property that each case of a configuration violates; None for none. Raises TlcError."""
    outcomes = judge_variants(config_file(config), [variant_of(case) for case in cases], timeout=timeout)
    return [outcome.violated or None for outcome in outcomes]


def run_cases(
    cases: Iterable[Case], report: Callable[[Case, str | None], None], timeout: float = 3600.0
) -> list[str]:
    """Check the cases; return what is wrong, one line each."""
    wrong = []
    chosen = list(cases)
    for config in dict.fromkeys(case.config for case in chosen):
        mine = [case for case in chosen if case.config == config]
        for case, violated in zip(mine, violated_by(config, mine, timeout), strict=True):
            report(case, violated)
            if violated != expected_of(case):
                found = f"{expected_of(case)} should be violated, but {violated or 'nothing'} was"
                wrong.append(f"{name_of(case)}: {found}")
    return wrong
