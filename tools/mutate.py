"""`python -m tools.mutate`: plant slips in the code, one at a time, and see whether the quick tests notice.

    python -m tools.mutate --sample 400 --seed 1       what `make mutate` does
    python -m tools.mutate --only walrus/raft.py       all mutants of one file
    python -m tools.mutate --resume                    go on where an interrupted run stopped

1. The quick tests run once under coverage, which notes for each line the tests that execute it. The map is
   kept in `.mutate/` for as long as neither `walrus/` nor `tests/` changes.
2. Mutants (`mutations.py`) are drawn with the seed. One on a line that no test executes survives unrun.
3. For each mutant the tests that execute its line (its file, for what runs at import) run in a copy of the
   tree, the nearest and quickest first, until one fails. A run that hangs counts as noticed.

A survivor is either equivalent (no test can tell) or a missing test. `mutation_survivors.toml` lists the
equivalent ones with the reason; they leave the denominator. The exit status is 1 below the kill rate that
`--least` asks for.

Why this and not a package: mutmut runs each function through a trampoline, which tests of the code's shape
see, and cosmic-ray runs one command for all mutants; neither draws a sample or chooses tests by line.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

from coverage import CoverageData
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tools.mutations import Mutant, mutants

ROOT = Path(__file__).resolve().parents[1]
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
QUICK = (
    "-m",
    "not process and not tla and not slow",
    "--ignore=tests/test_style.py",
    "--ignore=tests/test_links.py",
)
PATIENCE = 240
"""Seconds that the tests of one mutant may take before it counts as one that hangs."""


class Broken(Exception):
    """The tests fail without any mutant: nothing can be said."""


@dataclass(frozen=True)
class Verdict:
    """What became of a mutant: `noticed` by the test named in `by`, or not, after `seconds`."""

    mutant: str
    noticed: bool
    by: str
    seconds: float


class TestMap:
    """Which tests execute which line, and how long each takes."""

    def __init__(self, data: CoverageData, seconds: dict[str, float]) -> None:
        self._data, self._seconds = data, seconds

    @classmethod
    def measured(cls, jobs: int, console: Console) -> TestMap:
        """From the cache, or from a run of the quick tests."""
        CACHE.mkdir(exist_ok=True)
        stamp, coverage, report = CACHE / "tree", CACHE / "coverage", CACHE / "junit.xml"
        tree = _digest()
        if not stamp.exists() or stamp.read_text() != tree:
            console.print("running the quick tests once under coverage (some minutes) ...")
            command = [
                *(sys.executable, "-m", "pytest", "-n", str(jobs), "-q", "-p", "no:cacheprovider", *QUICK),
                *("--cov=walrus", "--cov-context=test", "--cov-report=", f"--junitxml={report}"),
                *("-o", "junit_family=xunit1"),
            ]
            done = subprocess.run(
                command, cwd=ROOT, env=_environment(ROOT, coverage), capture_output=True, text=True
            )
            if done.returncode != 0:
                raise Broken("the quick tests fail without a mutant:\n" + done.stdout[-3000:])
            stamp.write_text(tree)
        data = CoverageData(str(coverage))
        data.read()
        return cls(data, _durations(report))

    def of(self, mutant: Mutant) -> list[str]:
        """The node ids of the tests that execute its line: its own package's first, the quickest first."""
        by_line = self._data.contexts_by_lineno(str(ROOT / mutant.file))
        contexts = by_line.get(mutant.line, [])
        if contexts == [""]:  # executed at import: a constant, a default
            contexts = [context for some in by_line.values() for context in some]
        tests = {context.partition("|")[0] for context in contexts if context}
        package = Path(mutant.file).parts[1].removesuffix(".py")
        near = {"raft": "consensus", "wal": "storage"}.get(package, package)
        return sorted(tests, key=lambda t: (f"tests/{near}/" not in t, self._seconds.get(_plain(t), 1.0), t))


def _digest() -> str:
    """What the map of lines depends on."""
    files = sorted([*(ROOT / "walrus").rglob("*.py"), *(ROOT / "tests").rglob("*.py")])
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()


def _durations(report: Path) -> dict[str, float]:
    """Seconds by test, from a JUnit report."""
    found = ElementTree.parse(report).getroot().iter("testcase")
    return {f"{case.get('file')}::{case.get('name')}": float(case.get("time") or 0) for case in found}


def _plain(node_id: str) -> str:
    """A node id as a JUnit report spells it: the class, if any, left out."""
    parts = node_id.split("::")
    return f"{parts[0]}::{parts[-1]}"


def _environment(tree: Path, coverage: Path | None = None) -> dict[str, str]:
    kept = {
        **os.environ,
        "PYTHONPATH": str(tree),
        "PYTHONDONTWRITEBYTECODE": "1",
        "HYPOTHESIS_PROFILE": "mutate",
    }
    return kept if coverage is None else {**kept, "COVERAGE_FILE": str(coverage)}


class Laboratory:
    """A copy of the tree in which one mutant at a time is planted."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        listed = subprocess.run(
            ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT,
            check=True,
            capture_output=True,
            text=True,
        )
        for name in listed.stdout.splitlines():
            if (ROOT / name).is_file():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, folder / name)

    def judge(self, mutant: Mutant, tests: Sequence[str]) -> Verdict:
        """Plant it, run these tests until one fails, and take it out again."""
        path, text = self._folder / mutant.file, (ROOT / mutant.file).read_text(encoding="utf-8")
        path.write_text(mutant.apply(text), encoding="utf-8")
        begun = time.monotonic()
        try:
            by = self._failing(tests)
        finally:
            path.write_text(text, encoding="utf-8")
        return Verdict(mutant.name, bool(by), by, round(time.monotonic() - begun, 1))

    def _failing(self, tests: Sequence[str]) -> str:
        """The first test that fails; "" if none does."""
        if not tests:
            return ""
        arguments = self._folder / ".tests"
        arguments.write_text("\n".join(tests))
        command = [
            *(sys.executable, "-m", "pytest", "-x", "-q", "--no-header", "--tb=no", "-p", "no:cacheprovider"),
            *("-p", "no:xdist", f"@{arguments}"),
        ]
        try:
            done = subprocess.run(
                command,
                cwd=self._folder,
                env=_environment(self._folder),
                capture_output=True,
                text=True,
                timeout=PATIENCE,
            )
        except subprocess.TimeoutExpired:
            return "(hangs)"
        if done.returncode == 0:
            return ""
        failed = [
            line.split()[1] for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))
        ]
        return failed[0] if failed else f"(exit status {done.returncode})"


def targets(only: Sequence[str]) -> list[str]:
    """The files to mutate, as paths from the root."""
    found: list[Path] = []
    for name in only or TARGETS:
        path = ROOT / name
        found += sorted(path.rglob("*.py")) if path.is_dir() else [path]
    return [str(path.relative_to(ROOT)) for path in found]


def draw(sample: int | None, seed: int, only: Sequence[str]) -> list[Mutant]:
    """All mutants, or a sample of them: the same for equal seeds and sources."""
    every = [m for file in targets(only) for m in mutants(file, (ROOT / file).read_text(encoding="utf-8"))]
    if sample is None or sample >= len(every):
        return every
    return sorted(random.Random(seed).sample(every, sample))


def equivalent() -> dict[str, str]:
    """Mutants that no test can tell from the code, with the reason."""
    if not SURVIVORS.exists():
        return {}
    table = tomllib.loads(SURVIVORS.read_text(encoding="utf-8"))
    return {row["mutant"]: row["reason"] for row in table.get("equivalent", [])}


def run(chosen: Iterable[Mutant], known: TestMap, jobs: int) -> Iterator[Verdict]:
    """Judge them, `jobs` at a time."""
    with tempfile.TemporaryDirectory(prefix="walrus-mutate-") as scratch, ThreadPoolExecutor(jobs) as pool:
        free: SimpleQueue[Laboratory] = SimpleQueue()
        for number in range(jobs):
            folder = Path(scratch, str(number))
            folder.mkdir()
            free.put(Laboratory(folder))

        def judge(mutant: Mutant) -> Verdict:
            laboratory = free.get()
            try:
                return laboratory.judge(mutant, known.of(mutant))
            finally:
                free.put(laboratory)

        yield from pool.map(judge, chosen)


def report(verdicts: Sequence[Verdict], excused: dict[str, str], console: Console) -> float:
    """Print what came out; returns the kill rate among those that are not equivalent."""
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
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Draw, judge, report; 0 if enough were noticed."""
    options, console = _arguments(argv), Console(highlight=False)
    try:
        known = TestMap.measured(options.jobs, console)
    except Broken as broken:
        console.print(str(broken), markup=False)
        return 2
    excused, journal = equivalent(), CACHE / "verdicts.jsonl"
    if not options.resume:
        journal.unlink(missing_ok=True)
    lines = journal.read_text().splitlines() if journal.exists() else []
    done = {verdict.mutant: verdict for verdict in (Verdict(**json.loads(line)) for line in lines)}
    chosen = draw(options.sample or None, options.seed, options.only)
    rest = [m for m in chosen if m.name not in done and m.name not in excused]
    with journal.open("a") as out:
        for number, verdict in enumerate(run(rest, known, options.jobs), 1):
            done[verdict.mutant] = verdict
            print(json.dumps(verdict.__dict__), file=out, flush=True)
            told = verdict.by if verdict.noticed else "SURVIVES"
            console.print(
                f"{number}/{len(rest)}  {verdict.seconds:5.1f} s  {verdict.mutant}  {told}", markup=False
            )
    verdicts = [done.get(m.name) or Verdict(m.name, False, "", 0.0) for m in chosen]
    return 0 if report(verdicts, excused, console) >= options.least else 1


if __name__ == "__main__":
    raise SystemExit(main())
