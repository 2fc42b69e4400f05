"""Credentials in files: a client's token, and the secret of a cluster.

Both are one line of 20 to 128 letters, digits, `-` and `_`; `python -m walrus.auth` draws them with 256 bits.
They are read from files or the environment, never from a command line, which every user of the machine can
read in `ps`. No error and no `repr` shows a credential.

A secret in a file that all users of the machine may read is no secret, and a file that all may write cannot
be trusted. Both are refused, with an error that names the command to repair it.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Final

TOKEN_BYTES: Final = 32
MAX_TOKEN: Final = 128
"""The most characters of a token or a secret."""
MAX_FILE: Final = 1 << 20
"""The most bytes of a file of credentials."""
_SHAPE: Final = re.compile(rf"[A-Za-z0-9_-]{{20,{MAX_TOKEN}}}")


class CredentialError(ValueError):
    """A file or variable cannot be used; the message is one line that names it, and shows no secret."""


def drawn() -> str:
    """Return a new token or secret."""
    return secrets.token_urlsafe(TOKEN_BYTES)


def well_formed(token: str) -> bool:
    """Return whether this has the form of a token or a secret.

    >>> well_formed("k" * 43), well_formed("short"), well_formed("k" * 42 + " ")
    (True, False, False)
    """
    return _SHAPE.fullmatch(token) is not None


def digest_of(token: str) -> str:
    """Return the hash of a token, which may be stored. A token has 256 bits, so the hash needs no salt.

    >>> digest_of("a")[:16]
    'ca978112ca1bbdca'
    """
    return hashlib.sha256(token.encode()).hexdigest()


def read_private(path: Path) -> str:
    """Return the token or secret in a file, which is its only line. Raises CredentialError."""
    text = read(path, others_may_not="r").strip()
    if not well_formed(text):
        raise CredentialError(f"{path}: holds no token or secret: make one with python -m walrus.auth")
    return text


def read(path: Path, *, others_may_not: str) -> str:
    """Return the text of a file. Raises CredentialError, also if all may read ("r") or write ("w") it."""
    try:
        mode = path.stat().st_mode
        with path.open("rb") as file:
            data = file.read(MAX_FILE + 1)
        text = data.decode()
    except OSError as error:
        raise CredentialError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise CredentialError(f"{path}: is no text") from error
    if len(data) > MAX_FILE:
        raise CredentialError(f"{path}: is longer than {MAX_FILE} bytes")
    if mode & (stat.S_IROTH if others_may_not == "r" else stat.S_IWOTH):
        doing = "read" if others_may_not == "r" else "write"
        raise CredentialError(f"{path}: every user may {doing} it: chmod o-{others_may_not} {path}")
    return text


def token_from(environ: Mapping[str, str]) -> str:
    """Return a client's token: from the file WALRUS_TOKEN_FILE, else from WALRUS_TOKEN; "": none.

    Raises CredentialError.

    >>> token_from({}), token_from({"WALRUS_TOKEN": "k" * 43}) == "k" * 43
    ('', True)
    """
    if name := environ.get("WALRUS_TOKEN_FILE", ""):
        return read_private(Path(name))
    token = environ.get("WALRUS_TOKEN", "")
    if token and not well_formed(token):
        raise CredentialError("WALRUS_TOKEN: is no token: python -m walrus.auth makes them")
    return token
