"""A network of its own for a run, where one can be made, so that its loopback may lose packets.

`enter` starts the program again in a new network namespace (`unshare`), as root or as one who is root in a
new user namespace. There the loopback is the run's alone, and `tc netem` may lose and delay what goes over
it, between nodes and to clients. Without `unshare`, `ip`, `tc` or a kernel that has netem, the run goes on
with the proxies alone and says what is left out.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from functools import cache

INSIDE = "CHAOS_NETWORK"
"""Set, in the environment, for a program that has a network of its own."""


def _works(*words: str) -> bool:
    try:
        return subprocess.run(words, capture_output=True, check=False, timeout=30).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def enter(arguments: Sequence[str]) -> None:
    """Run `python -m` with these arguments in a new network instead; return where there can be none."""
    unshare = ["unshare", "--net"] if os.geteuid() == 0 else ["unshare", "--user", "--map-root-user", "--net"]
    if INSIDE not in os.environ and _works(*unshare, "ip", "link", "set", "lo", "up"):
        script = 'ip link set lo up && exec "$@"'
        command = [*unshare, "sh", "-c", script, "sh", sys.executable, "-m", *arguments]
        os.execvpe(command[0], command, {**os.environ, INSIDE: "1"})


@cache
def can_lose() -> bool:
    """Whether packets can be lost here without harm to others."""
    return INSIDE in os.environ and _works(*_netem(0.0, 0.0)) and calm()


def lose(percent: float, delay: float) -> None:
    """From now on lose so many of the packets, and delay each by about so many milliseconds."""
    subprocess.run(_netem(percent, delay), check=True, timeout=30)


def calm() -> bool:
    """Lose nothing any more."""
    return _works("tc", "qdisc", "delete", "dev", "lo", "root")


def _netem(percent: float, delay: float) -> list[str]:
    shape = f"tc qdisc replace dev lo root netem loss {percent:.1f}% delay {delay:.1f}ms {delay:.1f}ms"
    return shape.split()
