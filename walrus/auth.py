"""`python -m walrus.auth`: makes tokens for clients, and the secret of a cluster.

    python -m walrus.auth add clients billing --role read --role write --topics 'orders.*' invoices
    python -m walrus.auth remove clients billing
    python -m walrus.auth list clients
    python -m walrus.auth secret cluster-secret

`add` draws a token of 256 bits, stores its hash in the file, and prints the token once on standard output,
with nothing else. Every node needs a copy of this file (`--auth-file`), and reads it again on SIGHUP.
`secret` makes the file for `--cluster-secret-file`, which only its owner can read. `walrus/broker/access.py`
explains roles and patterns.

A file is replaced atomically: a node that reads it meanwhile sees the old file or the new one.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from walrus.broker.access import ALL, ROLES, Principal, parse
from walrus.credentials import CredentialError, digest_of, drawn, read


def add(path: Path, name: str, roles: Sequence[str], topics: Sequence[str]) -> str:
    """Add an identity to a file, which is created if need be; return the token. Raises CredentialError."""
    text = read(path, others_may_not="w") if path.exists() else ""
    if name in parse(text, str(path)):
        raise CredentialError(f"{path}: {name} is there already: remove it first")
    token = drawn()
    line = Principal(name, digest_of(token), tuple(dict.fromkeys(roles)), tuple(topics) or (ALL,)).line()
    whole = f"{text}{'' if not text or text.endswith(chr(10)) else chr(10)}{line}\n"
    parse(whole, str(path))
    _replace(path, whole)
    return token


def remove(path: Path, name: str) -> None:
    """Remove an identity from a file. Raises CredentialError."""
    text = read(path, others_may_not="w")
    if name not in parse(text, str(path)):
        raise CredentialError(f"{path}: there is no {name} in it")
    kept = [line for line in text.splitlines(keepends=True) if line.split()[:1] != [name]]
    _replace(path, "".join(kept))


def listed(path: Path) -> str:
    """Return the identities in a file, without hashes, one per line. Raises CredentialError."""
    found = parse(read(path, others_may_not="w"), str(path))
    return "".join(f"{p.name}  {','.join(p.roles)}  {' '.join(p.topics)}\n" for p in found.values())


def secret(path: Path) -> None:
    """Draw a cluster's secret into a new file. Raises CredentialError, also if the file exists."""
    try:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(drawn() + "\n")
    except FileExistsError as error:
        raise CredentialError(f"{path}: exists already, and is not overwritten") from error
    except OSError as error:
        raise CredentialError(f"{path}: {error.strerror}") from error


def _replace(path: Path, text: str) -> None:
    beside = path.with_name(f"{path.name}.new")
    try:
        mode = path.stat().st_mode & 0o777 if path.exists() else 0o640
        beside.unlink(missing_ok=True)
        with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError as error:
        raise CredentialError(f"{path}: {error.strerror}") from error


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m walrus.auth", description="Tokens for clients.")
    commands = parser.add_subparsers(dest="command", required=True)
    more = commands.add_parser("add", help="an identity; prints its token, once")
    less = commands.add_parser("remove", help="an identity")
    shown = commands.add_parser("list", help="who is in the file")
    kept = commands.add_parser("secret", help="a secret for --cluster-secret-file")
    for command in (more, less, shown, kept):
        command.add_argument("file", type=Path, metavar="FILE")
    for command in (more, less):
        command.add_argument("name", metavar="NAME")
    more.add_argument("--role", action="append", choices=ROLES, required=True, help="may be given repeatedly")
    more.add_argument("--topics", nargs="+", default=[], metavar="PATTERN",
        help="topics, or their beginnings with * (default: all)")  # fmt: skip
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return 0 on success, 1 on a CredentialError, 2 for a wrong command line."""
    told = _parser().parse_args(arguments)
    try:
        if told.command == "add":
            sys.stdout.write(add(told.file, told.name, told.role, told.topics) + "\n")
        elif told.command == "remove":
            remove(told.file, told.name)
        elif told.command == "list":
            sys.stdout.write(listed(told.file))
        else:
            secret(told.file)
    except CredentialError as error:
        sys.stderr.write(f"walrus.auth: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
