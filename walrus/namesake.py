"""Another package on the package index is imported as `walrus` too, and both install into one directory.

pip does not refuse that. Installed side by side, the one that came last has replaced the other's
`walrus/__init__.py`, and programs that use the other fail in ways that point nowhere near the cause; removing
either takes files of both. So the first import looks whether modules that are not ours stand beside ours, or
whether another `walrus` on the path would be found in another directory, and warns with what to do.

It looks when it is imported: by `walrus/__init__.py`, and because that may be the one of the other package,
by the modules through which programs enter this one.

The usual case costs a listing of one directory. Which distribution the strangers belong to is looked up only
when there are some.
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
"""What stands in this package's directory."""


class NamesakeWarning(UserWarning):
    """Two distributions are imported as `walrus`: one of them does not work."""


def look(package: str, search: Sequence[str]) -> None:
    """Warn if `package`, our directory, or another one on the search path holds modules of a namesake."""
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
    """Names of modules and packages in a directory; data and what editors leave behind do not count."""
    found = set()
    try:
        with os.scandir(directory) as entries:
            for entry in entries:
                name, _, kind = entry.name.partition(".")
                package = not kind and os.path.isfile(os.path.join(entry.path, "__init__.py"))
                if name.isidentifier() and (kind == "py" or package):
                    found.add(name)
    except OSError:  # in an archive, or gone: nothing to say
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
    """The distributions that are imported as `walrus`, as far as their metadata says."""
    import importlib.metadata  # takes as long to import as the rest of this package, and is seldom needed

    return sorted(set(importlib.metadata.packages_distributions().get("walrus", ())))


look(os.path.dirname(__file__), sys.path)
