"""What a simulated run is made of, apart from its seed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

SETTINGS: dict[str, Any] = {
    "heartbeat_interval": 0.05,
    "election_timeout": 0.3,
    "failure_timeout": 0.8,
    "lease_ttl": 0.5,
    "put_timeout": 2.0,
    "request_timeout": 2.0,
    "cursor_interval": 0.05,
    "resend_interval": 0.1,
    "repair_interval": 0.2,
    "dead_replica_timeout": 20.0,
    "monitor_check": 1.0,
    "max_segment_entries": 40,
    "compact_entries": 200,
    "read_bytes": 400,
}
"""A node's settings in the simulator: small segments and little patience, so that much happens soon."""


@dataclass(frozen=True, slots=True)
class Options:
    """Of one run."""

    nodes: int = 3
    fsync: str | float = "each"
    """As the flag of `walrus-node`: "each", "none", or seconds between syncs."""
    engine: bool = False
    """The real engine on a simulated disk instead of lists in memory."""
    codec: bool = False
    """Send every message between nodes through its wire encoding."""
    ordered: bool = True
    """Whether links keep the order of messages, where the weather does not say otherwise."""
    shared_turns: float = 0.1
    """The chance that an input does not end its turn but shares it with what follows."""
    sampled: bool = False
    """Look at the expensive invariants only now and then."""
    topics: int = 2
    producers: int = 3
    consumers: int = 2
    fetchers: int = 1
    pipeliners: int = 0
    """Clients that send requests of all kinds without waiting and check their order."""
    think: float = 0.01
    """Seconds between two requests of a client, on average."""
    settings: dict[str, Any] = field(default_factory=lambda: dict(SETTINGS))
