"""Counts of what happened in simulated runs: runs that install no snapshot say nothing about snapshots.

The world and the truth count into one `Counter` as things happen: each fault that struck, each type of
message, each command that was committed, and the rare steps below. `python -m walrus.sim --seeds N` prints
the sum, and which of `EXPECTED` never happened. A test runs a small set of seeds in which all of it happens.
"""

from __future__ import annotations

from collections import Counter

from rich.console import Console
from rich.table import Table

from walrus.sim.faults import CLASSES, classes
from walrus.sim.options import Options, varied
from walrus.sim.strays import KINDS
from walrus.sim.strikes import STRIKES

RARE = (
    *("stopped in order", "joined anew", "stale start", "usurped", "leader asked to leave"),
    "needless recovery",
    *("recovery forced", "log compacted", "snapshot installed", "log cut off", "copy made anew"),
    *("sealed by its writer", "sealed by a recovery", "rolled over by bytes"),
    *("no room to write, user_data", "no room to write, raft_meta", "no room to trim, raft_meta"),
    "no room to delete, user_data",
)
"""Rare steps that are not faults, messages or commands themselves."""
RAREST = (
    (1, Options(nodes=4, newcomers=0, think=0.05), classes("members")),
    (27, varied(27, Options()), classes("disk,rot")),
    (48, varied(48, Options()), classes("power,recovery,crash,rot")),
)
"""Runs (seed, options, faults) for three steps that chance rarely produces: a machine that joins anew, a
damaged copy that cannot be deleted for lack of room, and a forced recovery.
"""
MESSAGES = (
    *(
        "Append",
        "AppendReply",
        "Confirm",
        "Copy",
        "CopyReply",
        "Fence",
        "FenceReply",
        "Forward",
        "ForwardReply",
    ),
    *(
        "GetEntries",
        "GetReply",
        "Propose",
        "Read",
        "ReadReply",
        "ReadIndex",
        "ReadIndexReply",
        "RollOver",
        "FindGap",
        "Gap",
    ),
    *("PreVoteRequest", "PreVoteResponse", "RequestVoteRequest", "RequestVoteResponse", "TimeoutNowRequest"),
    *("AppendEntriesRequest", "AppendEntriesResponse", "InstallSnapshotRequest", "InstallSnapshotResponse"),
)
COMMANDS = ("Announce", "CommitCursors", "RegisterTopic", "Seal", "SetReplicas", "MarkLeaving", "RemoveNode")

EXPECTED: dict[str, tuple[str, ...]] = {
    "faults": tuple(f"fault {kind}" for kinds in CLASSES.values() for kind, _ in kinds),
    "strays": tuple(f"stray {kind}" for kind in KINDS),
    "messages met badly": (
        *(f"ambush {strike}" for strike in dict.fromkeys(STRIKES)),
        *(f"sieve {how}" for how in ("late", "lost", "twice")),
    ),
    "steps": RARE,
    "messages": MESSAGES,
    "commands": COMMANDS,
}
"""What a set of runs should show, by category."""


def missing(seen: Counter[str]) -> list[str]:
    """Return what should have happened and did not."""
    return [name for names in EXPECTED.values() for name in names if not seen[name]]


def tell(console: Console, seen: Counter[str], runs: int) -> None:
    """Print the counts as a table, then what is missing."""
    made = Table(title=f"what happened in {runs} runs", show_header=False, show_lines=True)
    for kind, names in EXPECTED.items():
        made.add_row(kind, ", ".join(f"{name.removeprefix('fault ')} {seen[name]:,}" for name in names))
    console.print(made)
    if lacking := missing(seen):
        console.print(f"never seen: {', '.join(lacking)}", highlight=False)
