"""The commands that an installation puts on the PATH: each handles Ctrl-C before its program loads."""

from __future__ import annotations

from walrus import namesake as _namesake  # noqa: F401 - it looks
from walrus.cli.interrupts import end_quietly


def node() -> int:
    """`walrus-node`."""
    end_quietly()
    from walrus.node import main

    return main()


def cluster() -> int:
    """`walrus-cluster`."""
    end_quietly()
    from walrus.cluster import main

    return main()


def cli() -> int:
    """`walrus-cli`."""
    end_quietly()
    from walrus.cli.main import main

    return main()


def console() -> int:
    """`walrus-console`."""
    end_quietly()
    from walrus.console.main import main

    return main()
