"""What all commands share: how they end, their console, and their credentials. None prints a traceback.

    wrong usage             one line on standard error that names the flag, exit status 2
    Ctrl-C                  nothing, exit status 130, as a shell expects
    closed pipe             (`... | head -1`) nothing, exit status 0
    a file that cannot be   one line on standard error, exit status 1; also if the file is standard output,
    read or written         on a full disk

The decorator `@command(name)` implements this for a `main`, which uses `Parser` and `Console`. `Parser` is
defined in `shell/arguments.py`, since nodes parse their flags with it, too.

`CREDENTIALS` are the flags of every command that is a client of a cluster; `use_credentials` puts them into
effect.

Left out: the node. It logs errors with the time and its id, and decides itself what they mean (`node.main`).
"""

from __future__ import annotations

import argparse
import functools
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

import rich.console

from walrus import credentials, tls
from walrus.cli.interrupts import raise_again
from walrus.shell.arguments import FlagError, Parser

__all__ = [
    "CREDENTIALS",
    "VARIABLES",
    "Console",
    "Main",
    "Parser",
    "add_credentials",
    "command",
    "describe",
    "use_credentials",
]

CREDENTIALS: Final = {
    "--token-file": "whose token this client has (default: the variable WALRUS_TOKEN_FILE)",
    "--tls-ca": "the cluster's CA: TLS (default: the variable WALRUS_TLS_CA)",
    "--tls-cert": "this client's certificate, where nodes ask for one (default: WALRUS_TLS_CERT)",
    "--tls-key": "its key (default: WALRUS_TLS_KEY)",
}
"""The flags that identify a client. There is none for a token itself: every user would see it in `ps`."""

VARIABLES: Final = {
    "token_file": "WALRUS_TOKEN_FILE",
    "tls_ca": "WALRUS_TLS_CA",
    "tls_cert": "WALRUS_TLS_CERT",
    "tls_key": "WALRUS_TLS_KEY",
}
"""The environment variable of each of these flags, by its `dest`."""


class Main(Protocol):
    """A command: takes its arguments (None: those of the process), and returns its exit status."""

    def __call__(self, arguments: Sequence[str] | None = None, /) -> int: ...


class Console(rich.console.Console):
    """rich's console without markup, on which a closed pipe raises an exception as on any other file.

    rich takes square brackets for markup and `:bug:` for an emoji. Much of the output comes from elsewhere:
    topics, errors of nodes, TLA+ records. So styles are given as `Text`, never as markup.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"markup": False, "emoji": False, **options})

    def on_broken_pipe(self) -> None:
        """Raise the exception; rich would exit with status 1."""
        raise BrokenPipeError


def command(name: str) -> Callable[[Main], Main]:
    """Decorate a `main` so that it ends as this module's docstring says; `name` begins its error lines."""

    def decorate(main: Main) -> Main:
        @functools.wraps(main)
        def run(arguments: Sequence[str] | None = None) -> int:
            _replace_missing_streams()
            raise_again()
            try:
                status = main(arguments)
                sys.stdout.flush()
            except FlagError as error:
                more = f" ({error.prog} --help says more)" if error.prog else ""
                sys.stderr.write(f"{error.prog or name}: {error}{more}\n")
                return 2
            except KeyboardInterrupt:
                return 130
            except BrokenPipeError:
                _discard_output()
                return 0
            except OSError as error:
                _discard_output()
                sys.stderr.write(f"{name}: {describe(error)}\n")
                return 1
            return status

        return run

    return decorate


def describe(error: OSError) -> str:
    """Describe an error in one line, for a person.

    >>> describe(FileNotFoundError(2, "No such file or directory", "/nowhere"))
    '/nowhere: No such file or directory'
    >>> describe(OSError(28, "No space left on device"))
    'No space left on device'
    """
    what = error.strerror or str(error)
    return f"{error.filename}: {what}" if error.filename else what


def add_credentials(
    parser: argparse.ArgumentParser, flags: Iterable[str] = CREDENTIALS, default: Any = None
) -> None:
    """Add these flags to the parser of a command that is a client."""
    for flag in flags:
        parser.add_argument(flag, type=Path, metavar="FILE", default=default, help=CREDENTIALS[flag])


def use_credentials(options: argparse.Namespace) -> None:
    """Let all clients of this process and its children use the credentials of the flags. Raises FlagError.

    Clients read their credentials from the environment, so the flags are stored there. A variable whose flag
    is not given keeps its value.
    """
    for dest, variable in VARIABLES.items():
        if (path := getattr(options, dest, None)) is not None:
            os.environ[variable] = str(path)
    try:
        tls.from_environment(os.environ)
        credentials.token_from(os.environ)
    except (tls.TlsError, credentials.CredentialError) as error:
        raise FlagError(str(error)) from None


def _replace_missing_streams() -> None:
    """Replace standard streams that are None, as they are if the process was started with them closed."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115, PTH123 - for the process's whole life


def _discard_output() -> None:
    """Discard what is still buffered: flushing it at the exit would fail again."""
    try:
        descriptor = sys.stdout.fileno()
    except (OSError, ValueError):  # replaced by a test, or closed
        return
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, descriptor)
    os.close(null)
