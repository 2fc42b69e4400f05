"""`python -m tests.node.chaos --minutes 60`: random faults on real nodes, one cluster after the other.

Each cluster lives for some minutes, has its own seed (printed), number of nodes and schedule, and ends with
the check of all that its clients were told. One line a minute says how far it is. Exit status 1 with the
first violation; the command that repeats its faults is printed with it. `--bug NAME` plants a bug of
`walrus/sim/mutants` in every node: then a violation has to come, and the status is 0 if it does.
"""

from __future__ import annotations

import argparse
import random
import signal
import sys
import time

from tests.node.chaos import namespace
from tests.node.chaos.run import Options, play
from tests.node.chaos.world import LIVES, TOPICS

LIFE, LIFE_OF_A_BUG = 240.0, 20.0
"""Seconds that one cluster lives: to grow old, or, with a planted bug, to be asked soon what it lost."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.node.chaos")
    parser.add_argument("--minutes", type=float, default=60.0, help="default 60")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 31), help="of the first cluster")
    parser.add_argument("--nodes", type=int, default=0, help="3 or 5, if not given")
    parser.add_argument("--fsync", default="", help="drawn, if not given")
    parser.add_argument("--bug", default="", metavar="NAME", help="a planted bug, which must be found")
    parser.add_argument("--only", default="", metavar="FAULT,...", help="these faults and no others")
    names = [topic.decode() for topic in (*TOPICS, LIVES)]
    parser.add_argument("--topic", default="", choices=names, help="this topic and its clients alone")
    options = parser.parse_args()
    namespace.enter(["tests.node.chaos", *sys.argv[1:]])
    began, seed = time.monotonic(), options.seed
    end, life = began + 60 * options.minutes, LIFE_OF_A_BUG if options.bug else LIFE

    def say(line: str) -> None:
        print(f"{(time.monotonic() - began) / 60:6.1f} min  {line}", flush=True)

    if not namespace.can_lose():
        say("no network with netem here: no packets are lost; links are cut, slow and torn")
    try:
        while (left := end - time.monotonic()) > 5:
            chosen = Options(
                *(seed, min(left, life), options.nodes, options.fsync, options.bug, options.only),
                topic=options.topic.encode(),
            )
            if found := play(chosen, say):
                for line in found[:20]:
                    say(line)
                say(f"again: python -m tests.node.chaos --seed {seed} --minutes {min(left, life) / 60:.1f}")
                return 0 if options.bug else 1
            seed += 1
    except KeyboardInterrupt:
        say(f"stopped in the run of seed {seed}; no violation before it")
        return 130
    say("no violation")
    return 1 if options.bug else 0


def interrupt(number: int, frame: object) -> None:
    """SIGTERM or Ctrl-C ends a run: nodes, disks and mounts are cleared away, whatever comes after it."""
    for one in (signal.SIGTERM, signal.SIGINT):
        signal.signal(one, signal.SIG_IGN)
    raise KeyboardInterrupt


if __name__ == "__main__":
    for one in (signal.SIGTERM, signal.SIGINT):
        signal.signal(one, interrupt)
    raise SystemExit(main())
