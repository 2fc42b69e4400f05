"""House rules that a machine can check: pure logic, short functions, files of one sitting, no sleeping tests.

The lists of exceptions may only shrink: an entry that is no longer needed fails the test too.
"""

from __future__ import annotations

import ast
import io
import tokenize
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "walrus"
MODULES = sorted(PACKAGE.rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))

IMPURE = {
    "time",
    "random",
    "os",
    "socket",
    "asyncio",
    "threading",
    "select",
    "selectors",
    "subprocess",
    "uuid",
}
SHELL = {
    # These touch the world, each for the reason given. Everything else in walrus/ decides, and must not.
    "node.py": "the asyncio shell",
    "transport.py": "client connections",
    "peers.py": "peer connections",
    "identity.py": "the data directory",
    "cluster.py": "starts processes",
    "demo.py": "starts processes",
    "client.py": "the client is a program of its own",
    "async_client.py": "the client is a program of its own",
    "cli.py": "the command line",
    "command_line.py": "standard streams and exit statuses",
    "wal.py": "the engine is thread-safe and chooses its disk",
    "wal_cli.py": "the engine's command line",
    "tlc.py": "runs TLC as a subprocess",
}
SHELL_FOLDERS = {"storage": "the engine and its disks", "sim": "seeds, files and a command line"}
SHELL_PREFIXES = ("tlc_",)

MAX_FUNCTION_LINES = 60
LONG_FUNCTIONS: dict[str, str] = {}
MAX_FILE_CODE_LINES = 600
LONG_FILES: dict[str, str] = {}
UNDOCUMENTED: set[str] = set()


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def _imports(tree: ast.AST) -> Iterator[str]:
    """Top-level names of all modules that are imported at run time, wherever the statement stands."""
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.partition(".")[0]


def _touches_the_world(path: Path) -> bool:
    inside = path.relative_to(PACKAGE)
    return inside.parts[0] in SHELL_FOLDERS or inside.name in SHELL or inside.name.startswith(SHELL_PREFIXES)


LOGIC = [path for path in MODULES if not _touches_the_world(path)]


@pytest.mark.parametrize("path", LOGIC, ids=_name)
def test_logic_imports_nothing_that_touches_the_world(path: Path) -> None:
    assert IMPURE.isdisjoint(_imports(_tree(path)))


def test_the_modules_named_by_the_architecture_are_logic() -> None:
    named = {"raft.py", "segments.py", "leases.py", "replication.py", "controller.py", "protocol.py"}
    assert named <= {path.name for path in LOGIC}


def _functions(path: Path) -> Iterator[tuple[str, int]]:
    """Name and body lines (the docstring not counted) of each function."""
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            body = node.body[1:] if ast.get_docstring(node) is not None else node.body
            last = node.end_lineno or node.lineno
            yield f"{_name(path)}:{node.name}", last - body[0].lineno + 1 if body else 0


def test_no_function_is_longer_than_a_screen() -> None:
    long = {name for path in MODULES for name, lines in _functions(path) if lines > MAX_FUNCTION_LINES}
    assert long == set(LONG_FUNCTIONS), (
        "split it, or take a name off the list that no longer needs to be there"
    )


def _code_lines(path: Path) -> int:
    """Lines that hold code: no blank ones, no comments, no docstrings."""
    source = path.read_text(encoding="utf-8")
    skip = {
        tokenize.COMMENT,
        tokenize.NL,
        tokenize.NEWLINE,
        tokenize.INDENT,
        tokenize.DEDENT,
        tokenize.ENDMARKER,
    }
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in skip:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(_tree(path)):
        if (
            isinstance(node, ast.Expr)
            and isinstance(node.value, ast.Constant)
            and isinstance(node.value.value, str)
        ):
            lines.difference_update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return len(lines)


def test_a_file_is_one_sitting() -> None:
    long = {_name(path) for path in MODULES if _code_lines(path) > MAX_FILE_CODE_LINES}
    assert long == set(LONG_FILES), "split it, or take a name off the list that no longer needs to be there"


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_a_module_opens_with_what_it_is(path: Path) -> None:
    assert ast.get_docstring(_tree(path)), "a module opens with its chapter"


def _sleeps(tree: ast.AST) -> Iterator[int]:
    """Lines that call `sleep` with anything but a literal 0."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            called = node.func
            name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
            zero = node.args and isinstance(node.args[0], ast.Constant) and node.args[0].value == 0
            if name == "sleep" and not zero:
                yield node.lineno


@pytest.mark.parametrize("path", TESTS, ids=_name)
def test_no_test_sleeps(path: Path) -> None:
    assert list(_sleeps(_tree(path))) == []


def test_the_words_of_unfinished_work_are_nowhere() -> None:
    words = ["TO" + "DO", "FIX" + "ME", "X" * 3, "for" + " now", "place" + "holder"]
    found = [
        f"{_name(path)}: {word}"
        for path in MODULES + TESTS
        for word in words
        if word in path.read_text(encoding="utf-8")
    ]
    assert found == []


def test_exceptions_name_files_that_exist() -> None:
    known = {path.name for path in MODULES}
    assert {name for name in SHELL if name not in known} == set()
