"""Where mutants are judged: which tests execute which line, and processes in which a slip is planted.

All quick tests are imported once. For each mutant that process forks; the child replaces the code of the
function that contains the slip, and runs the tests that execute the line until one fails: first those of the
module's own file, then its package's, then all others, the quickest first. A slip that takes effect when its
module is imported (a constant, a default, the result of a decorator) is planted in a process that has not
imported the module yet.

A mutant that hangs counts as noticed, by the test that hangs: pytest-timeout ends it. The timeouts suit a
busy machine, because a slow test must not pass for a failing one.
"""

from __future__ import annotations

import ast
import gc
import hashlib
import importlib.abc
import importlib.util
import inspect
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import xml.etree.ElementTree as ElementTree
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from importlib.machinery import ModuleSpec
from itertools import accumulate
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import TypeAlias

import hypothesis.stateful  # noqa: F401  (imported here so that no forked process has to)
import pytest
from coverage import CoverageData

from tools.mutations import Mutant

ROOT = Path(__file__).resolve().parents[1]
QUICK = ("-m", "not process and not tla and not slow", "--ignore-glob=tests/test_*.py")
"""Selects the quick tests, without those that read the repository instead of running it."""

PATIENCE_CPU, PATIENCE_TEST, PATIENCE_ALL = 20, 120, 1800
"""Seconds until a test counts as hanging, by processor time and by the clock; until a mutant is killed."""

MEMORY = 12 << 30
"""Bytes of address space that a mutant may use."""

QUIET = (
    *("-q", "--no-header", "--no-summary", "--tb=no", "--capture=sys", f"--timeout={PATIENCE_TEST}"),
    *("-p", "no:cacheprovider", "-p", "no:xdist"),
)
Functions: TypeAlias = dict[tuple[str, str, int], list[FunctionType]]


class Broken(Exception):
    """The tests fail without any mutant, so no verdict is possible."""


class TestMap:
    """Which tests execute which line, and how long each takes."""

    def __init__(self, data: CoverageData, seconds: dict[str, float]) -> None:
        self._data, self._seconds = data, seconds
        self._by_line: dict[str, dict[int, list[str]]] = {}

    @classmethod
    def measured(cls, folder: Path, jobs: int) -> TestMap:
        """Return the map in `folder` if it is of this tree, else run the quick tests (for minutes)."""
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
        """Return the node ids of the tests that execute the mutant's line, in their order."""
        if mutant.file not in self._by_line:
            self._by_line[mutant.file] = self._data.contexts_by_lineno(str(ROOT / mutant.file))
        by_line = self._by_line[mutant.file]
        contexts = self._contexts(mutant, by_line)
        if not any(contexts):  # executed at import: a constant, a default
            contexts = [context for some in by_line.values() for context in some]
        tests = {context.partition("|")[0] for context in contexts if context}
        return sorted(tests, key=lambda test: (_distance(mutant.file, test), self.seconds(test), test))

    def _contexts(self, mutant: Mutant, by_line: dict[int, list[str]]) -> list[str]:
        """Return what executed the mutant's line, or any traced line of the same statement."""
        if mutant.line in by_line:
            return by_line[mutant.line]
        first, last = _statement(mutant.file, mutant.line)
        return [context for line in range(first, last + 1) for context in by_line.get(line, ())]

    def seconds(self, test: str) -> float:
        """Return how many seconds a test takes."""
        file, *_, name = test.split("::")  # a JUnit report has no class between them
        return self._seconds.get(f"{file}::{name}", 1.0)

    def within(self, mutant: Mutant, limit: float) -> tuple[list[str], bool]:
        """Return the mutant's tests within `limit` seconds, at least one, and whether these are all."""
        tests = self.of(mutant)
        spent = list(accumulate(map(self.seconds, tests)))
        chosen = [test for test, so_far in zip(tests, spent, strict=True) if not limit or so_far <= limit]
        return chosen or tests[:1], len(chosen) == len(tests)


def digest() -> str:
    """Return a digest of what the map of lines depends on."""
    files = sorted([*(ROOT / "walrus").rglob("*.py"), *(ROOT / "tests").rglob("*.py")])
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()


def _durations(report: Path) -> dict[str, float]:
    """Return seconds by test, from a JUnit report."""
    found = ElementTree.parse(report).getroot().iter("testcase")
    return {f"{case.get('file')}::{case.get('name')}": float(case.get("time") or 0) for case in found}


def _distance(file: str, test: str) -> int:
    """Return 0 for the module's own tests, 1 for its package's, 2 for others."""
    package, module = Path(file).parts[1].removesuffix(".py"), Path(file).stem
    near = {"raft": "consensus", "wal": "storage", "segments": "replicas", "leases": "broker"}
    if f"/test_{module}.py" in test:
        return 0
    return 1 if test.startswith(f"tests/{near.get(package, package)}/") else 2


@cache
def _statements(file: str) -> list[tuple[int, int]]:
    """Return the first and last line of every simple statement."""
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    nodes = [node for node in ast.walk(tree) if isinstance(node, ast.stmt) and not hasattr(node, "body")]
    return [(node.lineno, node.end_lineno or node.lineno) for node in nodes]


def _statement(file: str, line: int) -> tuple[int, int]:
    """Return the simple statement that a line belongs to; the line alone if it belongs to none."""
    return next(((a, b) for a, b in _statements(file) if a <= line <= b), (line, line))


def _environment(tree: Path) -> dict[str, str]:
    return {"PYTHONPATH": str(tree), "HYPOTHESIS_PROFILE": "mutate"}


class Laboratory:
    """Runs tests against mutants. The tree does not change: each slip is planted in a forked process."""

    def __init__(self, jobs: int, tell: Callable[[Mutant, str, float], None]) -> None:
        self._jobs, self._tell = jobs, tell
        self._running: dict[int, tuple[Mutant, float]] = {}
        self._scratch = Path(tempfile.mkdtemp(prefix="walrus-mutate-"))

    def judge(self, plan: Sequence[tuple[Mutant, Sequence[str]]]) -> None:
        """Report for each mutant the first of its tests that failed, or "", and the seconds it took."""
        os.environ.update(_environment(ROOT))
        os.chdir(ROOT)
        sys.path.insert(0, str(ROOT))
        try:
            for mutant, tests in plan:
                if not _in_function(mutant):
                    self._fork(mutant, partial(_run_anew, mutant, tests))
            self._wait()
            inside = [(mutant, tests) for mutant, tests in plan if _in_function(mutant)]
            if inside:
                files = sorted({test.partition("::")[0] for _, tests in inside for test in tests})
                status = pytest.main([*QUIET, *QUICK, *files], plugins=[_Collected(self, inside)])
                if status == pytest.ExitCode.INTERRUPTED:
                    raise KeyboardInterrupt
                assert status == pytest.ExitCode.OK, f"pytest ends with {status!r}"
        finally:
            shutil.rmtree(self._scratch)

    def judge_collected(self, session: pytest.Session, plan: Sequence[tuple[Mutant, Sequence[str]]]) -> None:
        """Do the part of `judge` that runs in pytest's session, after all tests are imported."""
        items = {item.nodeid: item for item in session.items}
        functions = _functions()
        gc.freeze()  # so that the children share its pages
        for mutant, tests in plan:
            code, found = _code(mutant), [items[test] for test in tests if test in items]
            old = functions.get((code.co_filename, code.co_qualname, code.co_firstlineno), [])
            self._fork(mutant, partial(_run_items, code, old, session, found))
        self._wait()

    def _fork(self, mutant: Mutant, run: Callable[[], str]) -> None:
        """Run `run` in a child process, which writes the result to a file."""
        while len(self._running) >= self._jobs:
            self._reap()
        child = os.fork()
        if child:
            self._running[child] = mutant, time.monotonic()
            return
        by = "(dies)"
        try:
            with Path(os.devnull).open("wb") as nowhere:
                os.dup2(nowhere.fileno(), 1)
                os.dup2(nowhere.fileno(), 2)
            resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
            threading.Timer(PATIENCE_ALL, os._exit, [1]).start()
            by = run()
            (self._scratch / str(os.getpid())).write_text(by)
        finally:
            os._exit(0)

    def _wait(self) -> None:
        while self._running:
            self._reap()

    def _reap(self) -> None:
        child, _ = os.wait()
        mutant, begun = self._running.pop(child)
        verdict = self._scratch / str(child)
        by = verdict.read_text() if verdict.exists() else "(hangs or dies)"
        self._tell(mutant, by, round(time.monotonic() - begun, 1))


class _Collected:
    """A pytest plugin: has the laboratory run the collected tests in place of pytest."""

    def __init__(self, laboratory: Laboratory, plan: Sequence[tuple[Mutant, Sequence[str]]]) -> None:
        self._laboratory, self._plan = laboratory, plan

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Replace pytest's own loop."""
        if session.testsfailed:
            raise Broken("some tests cannot be collected")
        self._laboratory.judge_collected(session, self._plan)
        return True


def _run_items(
    code: CodeType, functions: Sequence[FunctionType], session: pytest.Session, items: Sequence[pytest.Item]
) -> str:
    """Give functions other code, and run the tests; return the first that fails, or ""."""
    for function in functions:
        function.__code__ = code
    signal.signal(signal.SIGPROF, lambda number, frame: pytest.fail("it works and works, and does not end"))
    for item in items:
        signal.setitimer(signal.ITIMER_PROF, PATIENCE_CPU)
        session.config.hook.pytest_runtest_protocol(item=item, nextitem=None)
        if session.testsfailed:
            return item.nodeid
    return ""


def _run_anew(mutant: Mutant, tests: Sequence[str]) -> str:
    """Import the mutant in place of its module, and run the tests; return the first that fails, or ""."""
    sys.meta_path.insert(0, _Finder(mutant))
    failed = _Failed()
    pytest.main([*QUIET, "-x", *tests], plugins=[failed])
    return failed.first


class _Failed:
    """A pytest plugin: notes the first test that fails."""

    first = ""

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note a failing test."""
        if report.failed:
            self.first = self.first or report.nodeid

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Note a module that cannot be imported: that counts as a failure too."""
        if report.failed:
            self.first = self.first or report.nodeid


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds and loads one module: the mutant."""

    def __init__(self, mutant: Mutant) -> None:
        self._mutant = mutant
        self._name = mutant.file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")

    def find_spec(self, name: str, path: object, target: object = None) -> ModuleSpec | None:
        """Return the mutant's module spec, if that module is asked for."""
        if name != self._name:
            return None
        file = ROOT / self._mutant.file
        inside = [str(file.parent)] if file.stem == "__init__" else None
        return importlib.util.spec_from_file_location(
            name, file, loader=self, submodule_search_locations=inside
        )

    def exec_module(self, module: ModuleType) -> None:
        """Run the mutant's code in the module."""
        exec(_compiled(self._mutant), module.__dict__)


def _compiled(mutant: Mutant) -> CodeType:
    path = ROOT / mutant.file
    return compile(mutant.apply(path.read_text(encoding="utf-8")), str(path), "exec", dont_inherit=True)


@cache
def _bodies(file: str) -> list[tuple[int, int]]:
    """Return the first and last line of the body of every function."""
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    functions = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    return [(f.body[0].lineno, f.end_lineno or 0) for f in functions]


def _in_function(mutant: Mutant) -> bool:
    """Return whether the slip is in the body of a function, whose code can be exchanged for the mutant's.

    A nested function does not qualify: a decorator, for example, has created it at import already.
    """
    return sum(first <= mutant.line <= last for first, last in _bodies(mutant.file)) == 1


def _code(mutant: Mutant) -> CodeType:
    """Return the mutant's code of the outermost function that contains the slip."""
    codes = _outermost(_compiled(mutant))
    return next(code for code in codes if code.co_firstlineno <= mutant.line <= _last_line(code))


def _outermost(code: CodeType) -> Iterator[CodeType]:
    """Yield the functions of a module's code, and those of its classes."""
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            if inner.co_flags & inspect.CO_OPTIMIZED:
                yield inner
            else:
                yield from _outermost(inner)


def _last_line(code: CodeType) -> int:
    inner = [_last_line(one) for one in code.co_consts if isinstance(one, CodeType)]
    return max(*(line or 0 for _, _, line in code.co_lines()), *inner, code.co_firstlineno)


def _functions() -> Functions:
    """Return every imported function of the project, by file, name and first line."""
    found: Functions = defaultdict(list)
    for function in gc.get_objects():
        if isinstance(function, FunctionType) and function.__code__.co_filename.startswith(str(ROOT)):
            code = function.__code__
            found[code.co_filename, code.co_qualname, code.co_firstlineno].append(function)
    return found
