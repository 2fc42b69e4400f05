"""Command lines: the parser that all programs share, its error, and the types of flag values.

An invalid command line raises `FlagError` with one line that names the flag and the values that it takes.
Nothing is corrected silently. This module uses no file, socket or clock.

A flag may also be set in a file (`layers.py`), where a number is a number and not text. `Value` describes
such a flag: how its text is parsed, which TOML types a file may use, and how its value is written back.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import msgspec

from walrus.wire.addresses import join_address, parse_address, parse_host


class FlagError(Exception):
    """A flag or an environment variable has an invalid value; the message is one line that names it.

    `prog` is the command, or subcommand, whose `--help` says more; empty if there is none.
    """

    def __init__(self, message: str, prog: str = "") -> None:
        super().__init__(message)
        self.prog = prog


class Value(msgspec.Struct, frozen=True):
    """The type of a flag's value: callable, as argparse's `type`, and the form of the value in a file."""

    read: Callable[[str], Any]
    """Parses text. Raises argparse.ArgumentTypeError, whose message says what is valid."""
    kinds: tuple[type, ...] = (str,)
    """The types of TOML values that a file may use."""
    shown: Callable[[Any], Any] = str
    """The inverse of `read`: the value as a TOML value."""

    def __call__(self, text: str) -> Any:
        return self.read(text)


class Parser(argparse.ArgumentParser):
    """An argparse parser that raises FlagError instead of printing the usage and exiting.

    All commands of the project use it. Two places print the error: `cli.command_line.command` for a person,
    and `node.main` for the log of a supervisor. A program can also parse the flags of a node and continue,
    as `cluster.py` does before it starts any node.
    """

    def error(self, message: str) -> NoReturn:
        """Raise FlagError, in one line."""
        raise FlagError(mistake(message), self.prog)


def positive(text: str) -> int:
    """Read a number from 1: the `type` of a flag."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1")
    return int(text)


def mistake(message: str) -> str:
    """Turn a message of argparse into one line that is the same in every Python version.

    >>> mistake("argument --log-level: invalid choice: 'loud' (choose from 'info', 'error')")
    "--log-level: invalid choice: 'loud' (choose from info, error)"
    """
    said, choose, choices = message.removeprefix("argument ").replace("\n", " ").partition(" (choose from ")
    return said + choose + choices.replace("'", "")


def whole(low: int, high: int, unit: str = "") -> Value:
    """The type of whole numbers from `low` to `high`; `unit` follows them in the error message."""

    def parse_whole(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = low - 1
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"must be a whole number of {low} to {high}{unit}, not {text!r}")
        return value

    return Value(parse_whole, (int,), int)


def milliseconds(low: int, high: int) -> Value:
    """The type of durations from `low` to `high` milliseconds; the parsed value is in seconds."""
    parse_whole = whole(low, high, " milliseconds")
    return Value(lambda text: parse_whole(text) / 1000, (int,), in_ms)


def in_ms(seconds: float) -> int:
    """Convert seconds into whole milliseconds, the unit of the flags."""
    return round(seconds * 1000)


def directory(text: str) -> Path:
    """Parse the name of a directory. The empty name is refused: it comes from a variable that is not set."""
    if not text:
        raise argparse.ArgumentTypeError("must be the name of a directory, not ''")
    return Path(text)


def host(text: str) -> str:
    """Parse a host name or address."""
    try:
        return parse_host(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def address(text: str) -> str:
    """Parse HOST:PORT; return it in canonical form."""
    try:
        return join_address(*parse_address(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def without_password(url: str) -> str:
    """Replace the user information in a URL, so that it may be printed.

    >>> without_password("nats://me:secret@127.0.0.1:4222"), without_password("nats://token@host")
    ('nats://***@127.0.0.1:4222', 'nats://***@host')
    """
    scheme, marks, rest = url.rpartition("://")
    secret, at, place = rest.rpartition("@")
    return f"{scheme}{marks}{'***' if at else secret}{at}{place}"
