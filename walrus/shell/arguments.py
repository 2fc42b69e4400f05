"""What the command lines of all programs are made of: a parser, its one error, and the values of flags.

A mistake raises `FlagError` with one line that names the flag and what it takes; nothing is corrected
silently, and no file, socket or clock is used here. `Value` is what a flag takes where more than
text is to be known of it: the same flag may stand in a file (`layers.py`), where a number is a number, and is
shown again as it would be written there.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import msgspec

from walrus.wire.addresses import join_address, parse_address, parse_host


class FlagError(Exception):
    """A flag or variable has a value that cannot be used; the message is one line that names it.

    `prog` is the command, or subcommand, whose `--help` says more; empty if there is none.
    """

    def __init__(self, message: str, prog: str = "") -> None:
        super().__init__(message)
        self.prog = prog


class Value(msgspec.Struct, frozen=True):
    """What a flag takes, as a `type` of argparse: from text, and back to what a file would say."""

    read: Callable[[str], Any]
    """Raises argparse.ArgumentTypeError that says what makes sense."""
    kinds: tuple[type, ...] = (str,)
    """Of TOML's values those that a file may give."""
    shown: Callable[[Any], Any] = str
    """The inverse of `read`, as TOML's value."""

    def __call__(self, text: str) -> Any:
        return self.read(text)


class Parser(argparse.ArgumentParser):
    """argparse, but a mistake raises FlagError instead of printing a usage screen and exiting.

    All commands of the project use it, and only two places say the error: `cli.command_line.command` for a
    person, `node.main` for a supervisor's log. Between them a program may parse a node's flags (`cluster.py`
    does, before it starts any) and go on.
    """

    def error(self, message: str) -> NoReturn:
        """Raise FlagError, in one line."""
        raise FlagError(mistake(message), self.prog)


def mistake(message: str) -> str:
    """What argparse says of a wrong command line, in one line that is the same in every Python version.

    >>> mistake("argument --log-level: invalid choice: 'loud' (choose from 'info', 'error')")
    "--log-level: invalid choice: 'loud' (choose from info, error)"
    """
    said, choose, choices = message.removeprefix("argument ").replace("\n", " ").partition(" (choose from ")
    return said + choose + choices.replace("'", "")


def whole(low: int, high: int, unit: str = "") -> Value:
    """Whole numbers within limits."""

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
    """Milliseconds within limits; the value is in seconds."""
    parse_whole = whole(low, high, " milliseconds")
    return Value(lambda text: parse_whole(text) / 1000, (int,), in_ms)


def in_ms(seconds: float) -> int:
    """Seconds in the unit of the flags."""
    return round(seconds * 1000)


def directory(text: str) -> Path:
    """Parse the name of a directory. An empty one is a variable that was not set, and is refused."""
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
    """Parse HOST:PORT."""
    try:
        return join_address(*parse_address(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def without_password(url: str) -> str:
    """A URL as it may be shown.

    >>> without_password("nats://me:secret@127.0.0.1:4222"), without_password("nats://token@host")
    ('nats://***@127.0.0.1:4222', 'nats://***@host')
    """
    scheme, marks, rest = url.rpartition("://")
    secret, at, place = rest.rpartition("@")
    return f"{scheme}{marks}{'***' if at else secret}{at}{place}"
