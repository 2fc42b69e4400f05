"""Where mutants are judged: which tests execute which line, and a copy of the tree to plant a slip in.

The tests of a mutant run in batches, each in a process forked from one that has imported pytest and
Hypothesis already: first the tests of a module's own file, then its package's, then all others that execute
the line, the quickest first, until one fails. Most mutants die within the first batch.

A mutant that hangs counts as noticed, and is told by the name of the test that hangs: pytest-timeout ends
it. The patience is that of a busy machine, since a slow test must not pass for one that fails.
"""

from __future__ import annotations

import ast
import hashlib
import multiprocessing
import os
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

from coverage import CoverageData

from tools.mutations import Mutant

ROOT = Path(__file__).resolve().parents[1]
QUICK = ("-m", "not process and not tla and not slow", "--ignore-glob=tests/test_*.py")
"""The quick tests, without those that read the repository instead of running it."""

BATCHES = (4.0, 30.0)
"""Seconds that the first batches of tests take, on a machine that does nothing else; the rest is the last."""

PATIENCE_TEST, PATIENCE_BATCH = 120, 1800
"""Seconds after which a test hangs, and a batch whose hanging test cannot be ended."""


class Broken(Exception):
    """The tests fail without any mutant: nothing can be said."""


class TestMap:
    """Which tests execute which line, and how long each takes."""

    def __init__(self, data: CoverageData, seconds: dict[str, float]) -> None:
        self._data, self._seconds = data, seconds

    @classmethod
    def measured(cls, folder: Path, jobs: int) -> TestMap:
        """From the map in `folder`, if it is of this tree, or from a run of the quick tests (minutes)."""
        folder.mkdir(exist_ok=True)
        stamp, coverage, report = folder / "tree", folder / "coverage", folder / "junit.xml"
        tree = digest()
        if not stamp.exists() or stamp.read_text() != tree:
            command = [
                *(sys.executable, "-m", "pytest", "-n", str(jobs), "-q", "-p", "no:cacheprovider", *QUICK),
                *("--cov=walrus", "--cov-context=test", "--cov-report=", f"--junitxml={report}"),
                *("-o", "junit_family=xunit1"),
            ]
            environ = {**os.environ, **_environment(ROOT), "COVERAGE_FILE": str(coverage)}
            done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True)
            if done.returncode != 0:
                raise Broken("the quick tests fail without a mutant:\n" + done.stdout[-3000:])
            stamp.write_text(tree)
        data = CoverageData(str(coverage))
        data.read()
        return cls(data, _durations(report))

    def of(self, mutant: Mutant) -> list[str]:
        """The node ids of the tests that execute its line, those first that are to run first."""
        by_line = self._data.contexts_by_lineno(str(ROOT / mutant.file))
        contexts = self._contexts(mutant, by_line)
        if not any(contexts):  # executed at import: a constant, a default
            contexts = [context for some in by_line.values() for context in some]
        tests = {context.partition("|")[0] for context in contexts if context}
        return sorted(tests, key=lambda test: (_distance(mutant.file, test), self.seconds(test), test))

    def _contexts(self, mutant: Mutant, by_line: dict[int, list[str]]) -> list[str]:
        """What executed the mutant's line; of a statement of many lines, any that the tracer saw."""
        if mutant.line in by_line:
            return by_line[mutant.line]
        first, last = _statement(mutant.file, mutant.line)
        return [context for line in range(first, last + 1) for context in by_line.get(line, ())]

    def seconds(self, test: str) -> float:
        """How long a test takes."""
        file, *_, name = test.split("::")  # a JUnit report has no class between them
        return self._seconds.get(f"{file}::{name}", 1.0)

    def batches(self, mutant: Mutant, within: float) -> tuple[list[list[str]], bool]:
        """Its tests as batches; of those that take longer than `within` seconds, a beginning (False)."""
        batches: list[list[str]] = [[]]
        limits, spent = list(BATCHES), 0.0
        for test in self.of(mutant):
            spent += self.seconds(test)
            if within and spent > within and batches[0]:
                return batches, False
            if limits and spent > limits[0]:
                batches.append([])
                limits.pop(0)
            batches[-1].append(test)
        return [batch for batch in batches if batch], True


def digest() -> str:
    """What the map of lines depends on."""
    files = sorted([*(ROOT / "walrus").rglob("*.py"), *(ROOT / "tests").rglob("*.py")])
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()


def _durations(report: Path) -> dict[str, float]:
    """Seconds by test, from a JUnit report."""
    found = ElementTree.parse(report).getroot().iter("testcase")
    return {f"{case.get('file')}::{case.get('name')}": float(case.get("time") or 0) for case in found}


def _distance(file: str, test: str) -> int:
    """0 for the module's own tests, 1 for its package's, 2 for others."""
    package, module = Path(file).parts[1].removesuffix(".py"), Path(file).stem
    near = {"raft": "consensus", "wal": "storage", "segments": "replicas", "leases": "broker"}
    if f"/test_{module}.py" in test:
        return 0
    return 1 if test.startswith(f"tests/{near.get(package, package)}/") else 2


@cache
def _statements(file: str) -> list[tuple[int, int]]:
    """First and last line of every simple statement."""
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    nodes = [node for node in ast.walk(tree) if isinstance(node, ast.stmt) and not hasattr(node, "body")]
    return [(node.lineno, node.end_lineno or node.lineno) for node in nodes]


def _statement(file: str, line: int) -> tuple[int, int]:
    """The simple statement that a line belongs to; the line alone if it is none's."""
    return next(((a, b) for a, b in _statements(file) if a <= line <= b), (line, line))


def _environment(tree: Path) -> dict[str, str]:
    return {"PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1", "HYPOTHESIS_PROFILE": "mutate"}


class Laboratory:
    """A copy of the tree in which one mutant at a time is planted."""

    forks = multiprocessing.get_context("forkserver")
    forks.set_forkserver_preload(["asyncio", "pytest", "hypothesis.stateful", "coverage", "rich.table"])

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
        listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
        for name in listed.stdout.splitlines():
            if (ROOT / name).is_file():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, folder / name)
        # Compile all once: the mutants' processes write no bytecode, since a mutant may have the size and
        # the second of what it replaces.
        environ = {**os.environ, "PYTHONPATH": str(folder)}
        collect = [sys.executable, "-m", "pytest", "--collect-only", "-q", *QUICK]
        subprocess.run(collect, cwd=folder, env=environ, check=True, capture_output=True)

    def judge(self, mutant: Mutant, batches: Sequence[Sequence[str]]) -> str:
        """Plant it, run these tests until one fails, take it out; the test that failed, "" if none did."""
        path = self._folder / mutant.file
        text, stat = path.read_text(encoding="utf-8"), path.stat()
        path.write_text(mutant.apply(text), encoding="utf-8")
        try:
            return next(filter(None, map(self._failing, batches)), "")
        finally:
            path.write_text(text, encoding="utf-8")
            os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # its bytecode is good again

    def _failing(self, tests: Sequence[str]) -> str:
        """The first test that fails; "" if none does."""
        output = self._folder / ".output"
        child = self.forks.Process(target=_run_pytest, args=(self._folder, list(tests), output))
        child.start()
        child.join(PATIENCE_BATCH)
        if child.is_alive():
            child.kill()
            child.join()
            return "(hangs)"
        if child.exitcode == 0:
            return ""
        return next(_failed(output), f"(exit status {child.exitcode})")


def _failed(output: Path) -> Iterator[str]:
    """The tests that pytest's summary calls failed."""
    for line in output.read_text(encoding="utf-8", errors="replace").splitlines():
        if line.startswith(("FAILED", "ERROR")):
            yield line.split()[1]


def _run_pytest(folder: Path, tests: list[str], output: Path) -> None:
    """In a forked process: run tests of the tree in `folder` and exit with pytest's status."""
    with output.open("wb") as out:
        os.dup2(out.fileno(), 1)
        os.dup2(out.fileno(), 2)
    os.chdir(folder)
    os.environ.update(_environment(folder))
    sys.dont_write_bytecode = True
    sys.path[:] = [str(folder), *(path for path in sys.path if path and Path(path).resolve() != ROOT)]
    for name in [name for name in sys.modules if name.split(".")[0] in ("tools", "tests", "walrus")]:
        del sys.modules[name]
    import pytest

    options = ["-x", "-q", "--no-header", "--tb=no", "-p", "no:cacheprovider", "-p", "no:xdist"]
    sys.exit(pytest.main([*options, f"--timeout={PATIENCE_TEST}", *tests]))
