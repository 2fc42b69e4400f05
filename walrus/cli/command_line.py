"""What all commands of this package do alike, so that none of them answers a person with a traceback.

    wrong usage             one line on standard error that names the flag, exit status 2
    Ctrl-C                  nothing, exit status 130, as a shell expects
    the reader had enough   (`... | head -1`) nothing, exit status 0
    a file that cannot be   one line on standard error, exit status 1: also when that file is standard output,
    read or written         on a disk that is full

`@command(name)` makes it so for a `main`; `Parser` and `Console` are what such a `main` uses. `Parser` lives
where a node's flags are parsed with it (`shell/arguments.py`).

`CREDENTIALS` are the flags of every command that is a client of a cluster, and `believe` makes them count.

Left out: the node. It logs, with the time and its id, and decides for itself what an error means
(`node.main`).
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
    "believe",
    "command",
    "describe",
]

CREDENTIALS: Final = {
    "--token-file": "whose token this client has (default: the variable WALRUS_TOKEN_FILE)",
    "--tls-ca": "the cluster's CA: TLS (default: the variable WALRUS_TLS_CA)",
    "--tls-cert": "this client's certificate, where nodes ask for one (default: WALRUS_TLS_CERT)",
    "--tls-key": "its key (default: WALRUS_TLS_KEY)",
}
"""Who a client is. A token is no flag itself: every user of the machine would see it in ps."""

VARIABLES: Final = {
    "token_file": "WALRUS_TOKEN_FILE",
    "tls_ca": "WALRUS_TLS_CA",
    "tls_cert": "WALRUS_TLS_CERT",
    "tls_key": "WALRUS_TLS_KEY",
}
"""Which variable says the same as such a flag, by its `dest`."""


class Main(Protocol):
    """A command: its arguments, or those of the process, in; its exit status out."""

    def __call__(self, arguments: Sequence[str] | None = None, /) -> int: ...


class Console(rich.console.Console):
    """rich's console, but text is text, and a closed pipe is an exception like that of any other file.

    rich takes square brackets for markup and `:bug:` for a picture. Much of what is printed is not ours:
    topics, errors of nodes, TLA+ records. So styles are given as `Text`, never as markup.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"markup": False, "emoji": False, **options})

    def on_broken_pipe(self) -> None:
        """rich would exit with status 1 here."""
        raise BrokenPipeError


def command(name: str) -> Callable[[Main], Main]:
    """Let a `main` end as this module's docstring says; `name` begins its error lines."""

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
    """One line, for a person.

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
    """Give a command that is a client these flags."""
    for flag in flags:
        parser.add_argument(flag, type=Path, metavar="FILE", default=default, help=CREDENTIALS[flag])


def believe(options: argparse.Namespace) -> None:
    """Let all clients that this process and its children make be who the flags say. Raises FlagError.

    Clients look into the environment, so flags go there. What a variable said that no flag repeats, stays.
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
    """A daemon may start us with standard streams closed: Python has None for them then."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115, PTH123 - for the process's whole life


def _discard_output() -> None:
    """Drop what is still buffered: flushing it at the exit would fail a second time."""
    try:
        descriptor = sys.stdout.fileno()
    except (OSError, ValueError):  # a test's, or closed
        return
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, descriptor)
    os.close(null)
