"""The options of a simulated run: together with the seed they determine it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

SETTINGS: dict[str, Any] = {
    "heartbeat_interval": 0.05,
    "election_timeout": 0.3,
    "failure_timeout": 0.8,
    "lease_ttl": 0.5,
    "put_timeout": 2.0,
    "request_timeout": 2.0,
    "cursor_interval": 0.05,
    "ack_interval": 0.02,
    "visibility_timeout": 1.0,
    "queue_window": 12,
    "resend_interval": 0.1,
    "repair_interval": 0.2,
    "replication_factor": 3,
    "dead_replica_timeout": 20.0,
    "monitor_check": 1.0,
    "max_segment_entries": 40,
    "compact_entries": 200,
    "read_bytes": 400,
}
"""A node's settings in the simulator: small segments and short timeouts, so that much happens soon."""


@dataclass(frozen=True, slots=True)
class Options:
    """The options of one run."""

    nodes: int = 3
    fsync: str | float = "each"
    """Like the flag of `walrus-node`: "each", "none", or seconds between syncs."""
    engine: bool = False
    """Use the real engine on a simulated disk instead of lists in memory."""
    codec: bool = False
    """Encode and decode every message between nodes as on the wire."""
    ordered: bool = True
    """Whether links keep the order of messages, unless the weather says otherwise."""
    latency: float = 0.001
    """The longest transit time of a message in fair weather, in seconds."""
    sync_time: float = 0.002
    """The longest duration of a sync on a healthy disk, in seconds; the shortest is a quarter of it."""
    shared_turns: float = 0.1
    """The chance that an input does not end its turn but shares it with what follows."""
    sampled: bool = False
    """Check the expensive invariants only now and then."""
    topics: int = 2
    producers: int = 3
    consumers: int = 2
    fetchers: int = 1
    workers: int = 0
    """Consumers of one work queue; one of them also moves it with SEEK."""
    giving_up: int = 0
    """Consumers of a topic of their own with `max_deliveries`, which give most entries back."""
    repeaters: int = 0
    """Producers that number their entries and send them more often than necessary."""
    keepers: int = 0
    """Operators that set retention of a topic of their own, delete it, and register it again."""
    finders: int = 0
    """Clients that look up times; the first one also moves the work queue to what it finds."""
    pipeliners: int = 0
    """Clients that send requests of all kinds without waiting, and check their order."""
    newcomers: int = 1
    """Clients that keep registering topics, and ask another node for each at once."""
    window: int = 50
    """The most PUTs that a producer has in flight."""
    think: float = 0.01
    """Mean time between two requests of a client, in seconds."""
    small_shares: bool = False
    """Reduce shares of a turn from hundreds to one or two (`shares.py`)."""
    settings: dict[str, Any] = field(default_factory=lambda: dict(SETTINGS))


def varied(seed: int, options: Options, *, asked: Collection[str] = ()) -> Options:
    """Vary the options of one of many runs: lengths of segments and of Raft's log, load, links, disks.

    With the same options in all runs, behaviour that needs other options would never be reached ("swarm
    testing", Groce et al. 2012): a short log makes snapshots common, and a slow disk widens every window
    between a write and its sync. The fields of `Options` named in `asked` stay as they are.
    """
    rng = Random(f"options {seed}")
    settings = dict(options.settings)
    settings["compact_entries"] = rng.choice((20, 20, 60, 200))
    settings["max_segment_entries"] = rng.choice((8, 40, 40, 100))
    settings["max_segment_bytes"] = rng.choice((None, None, None, 600))
    settings["read_bytes"] = rng.choice((100, 400, 400))
    settings["heartbeat_interval"] = rng.choice((0.05, 0.1, 0.1))
    settings["cursor_interval"] = rng.choice((0.05, 0.2, 0.5))
    settings["replication_factor"] = rng.choice((3, 3, 5))
    settings["put_timeout"] = rng.choice((0.4, 2.0, 2.0))
    changed: dict[str, Any] = {
        "nodes": rng.choice((3, 3, 3, 3, 4, 5)),
        "fsync": rng.choice(("each", "each", "each", "each", 0.1)),
        "ordered": rng.random() < 0.6,
        "latency": rng.choice((0.001, 0.001, 0.01, 0.04)),
        "sync_time": rng.choice((0.002, 0.002, 0.02, 0.08)),
        "think": rng.choice((0.02, 0.05, 0.1)),
        "shared_turns": rng.choice((0.0, 0.1, 0.4)),
        "topics": rng.choice((1, 2, 2)),
        "producers": rng.choice((2, 2, 3)),
        "window": rng.choice((20, 50, 400)),
        "newcomers": rng.choice((0, 0, 1, 2)),
        "workers": rng.choice((0, 0, 2)),
        "repeaters": rng.choice((0, 0, 2)),
    }
    if changed["fsync"] != "each":
        # A power loss must take more than one frame makes up for: only then a copy stays in doubt.
        settings["read_bytes"] = 100
    return replace(
        options, settings=settings, **{name: to for name, to in changed.items() if name not in asked}
    )
