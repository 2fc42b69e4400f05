"""Warns if another distribution with the import name `walrus` is installed, too.

Such a distribution is on the package index. Both install into the directory `walrus`, and pip allows it. The
one that is installed last replaces the other's `walrus/__init__.py`. Programs that use the other then fail
with errors that do not show the cause, and removing either package removes files of both. So the first
import checks whether this directory contains modules of another distribution, and whether the search path
contains another directory `walrus`, and warns with advice.

The check runs on the import of this module: by `walrus/__init__.py`, and, since that file may be the one of
the other distribution, by the modules through which programs enter this package.

It usually costs the listing of one directory. The name of the other distribution is looked up only if there
are foreign modules.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterable, Sequence
from typing import Final

DISTRIBUTION: Final = "walrus-log"
"""The name under which this package is installed."""

_NAMES: Final = (
    "__init__ acknowledged auth broker certs cli client cluster commands config consensus console "
    "credentials deadlines demo health histogram lab leases mirror namesake node protocol quorum raft "
    "replicas rota scripts segments settings shell shipped sim storage tlc tls view wal wire"
)
OURS: Final = frozenset(_NAMES.split())
"""The modules and packages in this directory."""


class NamesakeWarning(UserWarning):
    """Two distributions are imported as `walrus`: one of them does not work."""


def look(package: str, search: Sequence[str]) -> None:
    """Warn if this directory (`package`), or another `walrus` on the search path, has foreign modules."""
    strangers = _modules(package) - OURS
    if strangers:
        _warn(f"{package} also holds modules of another distribution", strangers)
        return
    for entry in search:
        other = os.path.join(entry or os.curdir, "walrus")
        regular = os.path.isfile(os.path.join(other, "__init__.py"))
        if regular and not _same(other, package) and (strangers := _modules(other) - OURS):
            _warn(f"{other} is another package of that name", strangers)
            return


def _modules(directory: str) -> set[str]:
    """Return the names of the modules and packages in a directory."""
    found = set()
    try:
        with os.scandir(directory) as entries:
            for entry in entries:
                name, _, kind = entry.name.partition(".")
                package = not kind and os.path.isfile(os.path.join(entry.path, "__init__.py"))
                if name.isidentifier() and (kind == "py" or package):
                    found.add(name)
    except OSError:  # the package is in an archive, or was removed: no check is possible
        return set()
    return found


def _same(one: str, other: str) -> bool:
    try:
        return os.path.samefile(one, other)
    except OSError:
        return True


def _warn(what: str, strangers: Iterable[str]) -> None:
    named = ", ".join(sorted(strangers)[:3])
    owners = " and ".join(_owners()) or "a distribution that is not known"
    advice = "keep them in virtual environments of their own, or remove both and install the one you need"
    remove = f"pip uninstall walrus {DISTRIBUTION}"
    warnings.warn(
        f"{what} ({named}; installed: {owners}), so one of the two is broken: {advice} ({remove})",
        NamesakeWarning,
        stacklevel=2,
    )


def _owners() -> list[str]:
    """Return the distributions that provide the package `walrus`, by their metadata."""
    import importlib.metadata  # takes as long to import as the rest of this package, and is rarely needed

    return sorted(set(importlib.metadata.packages_distributions().get("walrus", ())))


look(os.path.dirname(__file__), sys.path)
