"""`python -m tools.mutate`: plant slips in the code, one at a time, and see whether the quick tests notice.

    python -m tools.mutate --sample 400 --seed 1       what `make mutate` does
    python -m tools.mutate --only walrus/raft.py       all mutants of one file
    python -m tools.mutate --resume                    go on where an interrupted run stopped
    python -m tools.mutate --resume --within 20        only the nearest 20 s of tests for each: a first look

1. The quick tests run once under coverage, which notes for each line the tests that execute it. The map is
   kept in `.mutate/` until `walrus/` or `tests/` changes.
2. A sample of the mutants (`mutations.py`) is drawn: those with the smallest digests of name and seed, so
   that an edit changes the sample little. A mutant that no test executes survives without a run.
3. For each mutant the tests that execute its line (its file, for code that runs at import) run in a process
   of their own until one fails (`laboratory.py`). The tree must not change meanwhile.

Each verdict is appended to `.mutate/verdicts.jsonl`. `--resume` judges again what survived in another tree,
or what was judged by only some of its tests: a test added since may notice it.

A survivor is either equivalent (no test can tell) or shows a missing test. `mutation_survivors.toml` lists
the equivalent ones with the proof; they are left out of the denominator. The exit status is 1 below the kill
rate that `--least` asks for.

Why not a package: mutmut runs each function through a trampoline, which the project's tests of the code's
shape see, and cosmic-ray runs one command for all mutants; neither draws a sample or chooses tests by line.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import tomllib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tools.laboratory import ROOT, Broken, Laboratory, TestMap, digest
from tools.mutations import Mutant, mutants

CACHE = ROOT / ".mutate"
SURVIVORS = Path(__file__).with_name("mutation_survivors.toml")
TARGETS = (
    "walrus/raft.py",
    "walrus/segments.py",
    "walrus/leases.py",
    "walrus/wal.py",
    "walrus/consensus",
    "walrus/replicas",
    "walrus/broker",
    "walrus/storage",
)


@dataclass(frozen=True)
class Verdict:
    """The verdict on a mutant: `noticed` by the test named in `by`, or not, after `seconds`.

    `tree` is the digest of the sources; `whole` says that all tests which execute the line were run.
    """

    mutant: str
    noticed: bool
    by: str = ""
    seconds: float = 0.0
    tree: str = ""
    whole: bool = True

    def stands(self, tree: str, within: float) -> bool:
        """Return whether a run in this tree has nothing to add."""
        return self.noticed or (self.tree == tree and (self.whole or within > 0))


def targets(only: Sequence[str]) -> list[str]:
    """Return the files to mutate, as paths from the root."""
    found: list[Path] = []
    for name in only or TARGETS:
        path = ROOT / name
        found += sorted(path.rglob("*.py")) if path.is_dir() else [path]
    return [str(path.relative_to(ROOT)) for path in found]


def draw(sample: int | None, seed: int, only: Sequence[str]) -> list[Mutant]:
    """Return all mutants, or a sample, in the order of their digests, so that any prefix is a sample too."""
    every = [mutant for file in targets(only) for mutant in _of(file)]
    lots = sorted(every, key=lambda mutant: hashlib.sha256(f"{seed} {mutant.name}".encode()).digest())
    return lots[:sample]


@cache
def _of(file: str) -> list[Mutant]:
    """Return the mutants of a file."""
    return mutants(file, (ROOT / file).read_text(encoding="utf-8"))


def equivalent() -> dict[str, str]:
    """Return the mutants that no test can tell from the code, with the reason."""
    if not SURVIVORS.exists():
        return {}
    table = tomllib.loads(SURVIVORS.read_text(encoding="utf-8"))
    return {row["mutant"]: row["reason"] for row in table.get("equivalent", [])}


def report(verdicts: Sequence[Verdict], excused: dict[str, str], console: Console) -> float:
    """Print the results; return the kill rate among the mutants that are not equivalent."""
    counted = [verdict for verdict in verdicts if verdict.mutant not in excused]
    killed = Counter(_package(verdict.mutant) for verdict in counted if verdict.noticed)
    total = Counter(_package(verdict.mutant) for verdict in counted)
    table = Table("package", "mutants", "noticed", "rate", title="Mutants that the quick tests notice")
    for package in sorted(total):
        rate = killed[package] / total[package]
        table.add_row(package, str(total[package]), str(killed[package]), f"{rate:.1%}")
    overall = sum(killed.values()) / max(1, len(counted))
    table.add_row("all", str(len(counted)), str(sum(killed.values())), f"{overall:.1%}")
    console.print(table)
    console.print(
        f"{len(verdicts) - len(counted)} equivalent mutants, listed in {SURVIVORS.name}, are not counted"
    )
    for verdict in counted:
        if not verdict.noticed:
            console.print(f"survives: {escape(verdict.mutant)}", soft_wrap=True)
    return overall


def _package(mutant: str) -> str:
    return Path(mutant.partition(":")[0]).parts[1]


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tools.mutate", description="Mutation tests of the logic."
    )
    parser.add_argument("--sample", type=int, default=400, help="how many mutants (default 400; 0: all)")
    parser.add_argument("--seed", type=int, default=1, help="which sample (default 1)")
    parser.add_argument(
        "--only", action="append", default=[], metavar="PATH", help="a file or folder to mutate"
    )
    parser.add_argument("--jobs", type=int, default=2, help="mutants at a time (default 2)")
    parser.add_argument("--least", type=float, default=0.92, help="the kill rate to reach (default 0.92)")
    parser.add_argument("--resume", action="store_true", help="skip what an interrupted run has judged")
    parser.add_argument(
        "--within", type=float, default=0.0, metavar="SECONDS", help="of tests for each mutant (default all)"
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Draw, judge, report; return 0 if enough mutants were noticed."""
    options, console = _arguments(argv), Console(highlight=False)
    console.print("which tests execute which line? (some minutes, unless .mutate/ knows) ...")
    try:
        known = TestMap.measured(CACHE, options.jobs)
    except Broken as broken:
        console.print(str(broken), markup=False)
        return 2
    excused, journal, tree = equivalent(), CACHE / "verdicts.jsonl", digest()
    if not options.resume:
        journal.unlink(missing_ok=True)
    lines = journal.read_text().splitlines() if journal.exists() else []
    done = {verdict.mutant: verdict for verdict in (Verdict(**json.loads(line)) for line in lines)}
    chosen = draw(options.sample or None, options.seed, options.only)
    settled = {name for name, verdict in done.items() if verdict.stands(tree, options.within)}
    rest = [m for m in chosen if m.name not in settled and m.name not in excused]
    plans = {mutant: known.within(mutant, options.within) for mutant in rest}
    with journal.open("a") as out:

        def tell(mutant: Mutant, by: str, seconds: float) -> None:
            verdict = Verdict(mutant.name, bool(by), by, seconds, tree, plans[mutant][1])
            done[mutant.name] = verdict
            print(json.dumps(verdict.__dict__), file=out, flush=True)
            told = by or ("SURVIVES" if verdict.whole else "survives so far")
            console.print(f"{seconds:5.1f} s  {mutant.name}  {told}", markup=False, soft_wrap=True)

        Laboratory(options.jobs, tell).judge([(mutant, plans[mutant][0]) for mutant in rest])
    verdicts = [done.get(m.name) or Verdict(m.name, False) for m in chosen]
    return 0 if report(verdicts, excused, console) >= options.least else 1


if __name__ == "__main__":
    raise SystemExit(main())
