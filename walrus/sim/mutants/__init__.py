"""The registry of planted bugs: plausible wrong lines, in one place for all tools that must notice them.

A tool that never finds anything proves nothing. So these bugs are planted, one at a time, and each tool of
the project runs on them: the simulator (`python -m walrus.sim --mutant NAME`), the exploration of Raft, the
tests, recorded runs, and TLC where the specs have the same bug. `python -m tools.planted` runs them all and
writes the table in docs/planted-bugs.md.

Each planted bug names the invariant that it breaks: a tool that notices must report that name. Most are
slips that a careful person could make; some were made here once (docs/bugs-found.md). A bug is written as
the line in the code and the line that is planted (`plant.py`), so it reads like a diff.

    raft.py       votes, logs, commits, membership, snapshots, reads
    segments.py   writers, replicas, fences, recovery, repair, durability, metadata
    readers.py    the order of PUTs, what readers may see, cursors
    producers.py  exactly-once appends: numbers, repetitions, and what a Seal says of them
    queues.py     work queues: what is handed out, and what counts as acknowledged
    retention.py  what is dropped, what is counted of it, and what stays dropped
"""

from __future__ import annotations

from walrus.sim.mutants import producers, queues, raft, readers, retention, segments
from walrus.sim.mutants.plant import Misfit, Mutant, Slip, planted, unasserted

__all__ = ["ALL", "Misfit", "Mutant", "Slip", "find", "planted", "retention", "unasserted"]

ALL: dict[str, Mutant] = {
    mutant.name: mutant
    for room in (raft, segments, readers, queues, producers, retention)
    for mutant in room.ALL
}


def find(name: str) -> Mutant:
    """Return the planted bug of this name. Raises LookupError with similar names."""
    if name in ALL:
        return ALL[name]
    near = [other for other in ALL if any(part in other for part in name.split("_") if len(part) > 3)]
    raise LookupError(f"no planted bug {name!r}; there are: {', '.join(near or ALL)}")
