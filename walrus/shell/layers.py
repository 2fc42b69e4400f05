"""Layered settings: a value comes from a flag, the environment, a file, or the default, in this order.

    [node]
    raft-port = 6001
    fsync = "each"
    join = ["10.0.0.1:6000", "10.0.0.2:6000"]

A file (`--config FILE`, TOML) has a section for each program, and in it a key for each flag, with the flag's
name. The parser of the command line alone defines the flags, their types and their limits, so a new flag is
also a new key of the file. In a file, a number is a number, a flag without a value is true or false, and a
flag that may be repeated is a list.

An invalid file raises `FlagError`: one line that names the file, the section and the key. `--check-config`
prints the resulting settings as such a file, with the origin of each line. This output can be used as a
file, with the same result.

A flag on the command line replaces the whole list of the file: with `--join`, the addresses in the file are
ignored.

Left out: default locations for a file, files that include others, and variables in files.
"""

from __future__ import annotations

import argparse
import difflib
import json
import tomllib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from walrus.shell.arguments import FlagError, Parser, Value

MAX_CONFIG_BYTES: Final = 1 << 20
"""The longest file, in bytes; one with all keys of all programs has about ten thousand."""
SHOWN: Final = 80
"""How many characters of an invalid value or key an error repeats."""

SECTIONS: Final = ("node", "cluster", "console", "mirror")
NO_KEYS: Final = ("help", "version", "config", "check_config")
"""Flags that concern the command line itself, by their `dest`."""

KINDS: Final = {bool: "true or false", int: "a whole number", str: "text in quotes", list: "a list"}


class Origin(msgspec.Struct, frozen=True):
    """The origin of a value."""

    layer: str
    """`flag`, `environment`, `file` or `default`."""
    name: str
    """Its name in errors: the flag, the variable, or the key with its file and section."""


class Layered(msgspec.Struct, frozen=True):
    """The settings of a program, with their origins."""

    section: str
    options: argparse.Namespace
    origins: dict[str, Origin]
    """By the `dest` of the flag."""
    actions: dict[str, argparse.Action]
    """The flags that a file may set, by their `dest`."""
    rest: list[str]
    """Arguments that are not flags of this program."""

    def blame(self, message: str) -> str:
        """Replace the flag at the beginning of an error by the variable, or key of the file, that set it."""
        flag, colon, rest = message.partition(":")
        for dest, action in self.actions.items():
            if flag in action.option_strings and self.origins[dest].layer != "default":
                return f"{self.origins[dest].name}{colon}{rest}"
        return message

    def shown(self) -> str:
        """Return the settings as a file that would set the same, each line with its origin."""
        lines = [f"[{self.section}]"]
        for dest, action in self.actions.items():
            value, origin = getattr(self.options, dest), self.origins[dest]
            if value is None or (value == 0 and value is not False):
                lines.append(f"# {key_of(action)} is not set")
                continue
            said = f"{key_of(action)} = {_written(action, value)}"
            lines.append(f"{said:<40} # {'default' if origin.layer == 'default' else origin.name}")
        return "\n".join(lines) + "\n"


def add_config_flags(parser: Parser) -> None:
    """Add the flags `--config` and `--check-config`."""
    parser.add_argument("--config", type=Path, metavar="FILE", help="TOML: what no flag and no variable says")
    parser.add_argument("--check-config", action="store_true", help="print what would count, and end")


def key_of(action: argparse.Action) -> str:
    """Return the name of a flag in a file."""
    return action.option_strings[0].removeprefix("--")


def keys_of(parser: argparse.ArgumentParser, verbs: Collection[str] = ()) -> dict[str, argparse.Action]:
    """Return the flags that a file may set, by their `dest`: all but `verbs`, which say what to do now."""
    return {a.dest: a for a in parser._actions if a.option_strings and a.dest not in {*NO_KEYS, *verbs}}


def layered(
    parser: Parser,
    section: str,
    arguments: Sequence[str] | None,
    environ: Mapping[str, str],
    *,
    others: bool = False,
    variables: Mapping[str, str] | None = None,
    verbs: Collection[str] = (),
    required: Collection[str] = (),
) -> Layered:
    """Resolve the settings of a program. Raises FlagError.

    Args:
        parser: the program's parser; none of its flags is `required` there, since a file may set it.
        section: the program's section of the file.
        arguments: the command line; None: that of the process.
        environ: the environment.
        others: whether arguments that are not flags of this program are returned as `rest`, or refused.
        variables: the environment variable of a flag, by the flag's `dest`. An empty one is not set.
        verbs: flags that a file may not set, by their `dest`.
        required: flags that must be set somewhere, by their `dest`.
    """
    actions = keys_of(parser, verbs)
    given = argparse.Namespace(**dict.fromkeys(actions))  # argparse fills in no default: None is "not given"
    options, rest = parser.parse_known_args(arguments, given)
    if rest and not others:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    path: Path | None = options.config
    table = {} if path is None else _read_section(path, section, actions)
    origins = {}
    for dest, action in actions.items():
        value, origins[dest] = getattr(options, dest), Origin("flag", action.option_strings[0])
        variable = (variables or {}).get(dest, "")
        if value is None and environ.get(variable):
            origins[dest] = Origin("environment", variable)
            value = _parsed(action, environ[variable], variable)
        if value is None and dest in table:
            origins[dest] = Origin("file", f"{path}: [{section}] {key_of(action)}")
            value = _from_file(action, table[dest], origins[dest].name)
        if value is None:
            origins[dest], value = Origin("default", action.option_strings[0]), action.default
        setattr(options, dest, value)
    if missing := [actions[dest].option_strings[0] for dest in required if getattr(options, dest) is None]:
        parser.error(f"the following arguments are required: {', '.join(missing)}")
    return Layered(section, options, origins, actions, rest)


# --- the file ------------------------------------------------------------------------------------


def _read_section(path: Path, section: str, actions: Mapping[str, argparse.Action]) -> dict[str, Any]:
    """Return the values of a section, by the `dest` of their flags. Raises FlagError."""
    tables = read_file(path)
    for name, table in tables.items():
        if not isinstance(table, dict) and name not in SECTIONS:
            raise FlagError(f"{path}: {_cut(name)} stands in no section: put it below [{section}]")
        if name not in SECTIONS:
            raise FlagError(f"{path}: [{_cut(name)}] is no section{_meant(name, SECTIONS)}")
        if not isinstance(table, dict):
            raise FlagError(f"{path}: {name} is a section: write [{name}], and its keys below")
    dests = {key_of(action): dest for dest, action in actions.items()}
    found = {}
    for key, value in tables.get(section, {}).items():
        if key not in dests:
            raise FlagError(f"{path}: [{section}] has no key {_cut(key)}{_meant(key, dests)}")
        found[dests[key]] = value
    return found


def read_file(path: Path) -> dict[str, Any]:
    """Return all of a TOML file. Raises FlagError."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_CONFIG_BYTES + 1)
    except OSError as error:
        raise FlagError(f"--config: cannot read {path}: {error.strerror}") from error
    if len(data) > MAX_CONFIG_BYTES:
        raise FlagError(f"--config: {path} has more than {MAX_CONFIG_BYTES} bytes: is it another file?")
    try:
        return tomllib.loads(data.decode())
    except UnicodeDecodeError as error:
        raise FlagError(f"{path}: is not UTF-8 text, at byte {error.start}") from error
    except RecursionError as error:
        raise FlagError(f"{path}: is nested too deeply") from error
    except ValueError as error:
        raise FlagError(f"{path}: is not TOML: {_line(str(error))}") from error


def _from_file(action: argparse.Action, value: object, where: str) -> Any:
    """Turn a value of a file into that of its flag. Raises FlagError."""
    if isinstance(action, argparse._AppendAction):
        if not isinstance(value, list):
            raise FlagError(f"{where}: must be a list of {KINDS[str]}, not {_toml(value)}")
        return [_single(action, item, where) for item in value]
    if action.nargs == 0:
        if not isinstance(value, bool):
            raise FlagError(f"{where}: must be {KINDS[bool]}, not {_toml(value)}")
        return value
    return _single(action, value, where)


def _single(action: argparse.Action, value: object, where: str) -> Any:
    kinds = action.type.kinds if isinstance(action.type, Value) else (str,)
    if type(value) not in kinds:  # not isinstance: True is an int
        raise FlagError(f"{where}: must be {' or '.join(KINDS[kind] for kind in kinds)}, not {_toml(value)}")
    return _parsed(action, value if isinstance(value, str) else _decimal(value), where)


def _decimal(value: object) -> str:
    """Write a number as text. Python refuses to convert one of thousands of digits."""
    assert isinstance(value, int)
    return str(value) if value.bit_length() < 128 else "a number beyond 2^128"


def _parsed(action: argparse.Action, text: str, where: str) -> Any:
    """Parse text as the flag does. Raises FlagError, which names `where` instead of the flag."""
    try:
        value = action.type(text) if callable(action.type) else text
    except argparse.ArgumentTypeError as error:
        raise FlagError(f"{where}: {_line(str(error))}") from None
    if action.choices is not None and value not in action.choices:
        raise FlagError(f"{where}: must be one of {', '.join(action.choices)}, not {_cut(text)!r}")
    return value


def _written(action: argparse.Action, value: Any) -> str:
    """Write a value as TOML does."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{', '.join(_quoted(str(item)) for item in value)}]"
    shown = action.type.shown(value) if isinstance(action.type, Value) else str(value)
    return _quoted(shown) if isinstance(shown, str) else str(shown)


def _quoted(text: str) -> str:
    """Write a basic string of TOML: as in JSON, except that DEL is escaped, too."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


# --- one line ------------------------------------------------------------------------------------


def _cut(text: str) -> str:
    """Return the beginning of a text, on one line."""
    return _line(text if len(text) <= SHOWN else text[:SHOWN] + "...")


def _line(text: str) -> str:
    return " ".join(text.split())[:300]


def _toml(value: object) -> str:
    """Describe a TOML value for an error."""
    match value:
        case bool():
            return str(value).lower()
        case int():
            return _cut(_decimal(value))
        case str():
            return repr(_cut(value))
        case float():
            return str(value)
        case list():
            return "a list"
        case dict():
            return "a table"
        case _:
            return "a date or time"


def _meant(name: str, names: Collection[str]) -> str:
    """Return the end of an error: the name that was probably meant, or all names."""
    close = difflib.get_close_matches(name.replace("_", "-"), names, 1)
    if close:
        return f": did you mean {close[0]}?"
    return f"; there are {', '.join(sorted(names))}"
