"""What a node is told at its start: its settings and its identity.

Plain values, with no default that depends on the machine. `shell/flags.py` reads them from the command line
and the environment; tests and the simulator write them down directly. All times are in seconds, all sizes
in bytes.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from walrus.consensus.messages import RaftConfig

RAFT_PORT = 6000
CLIENT_PORT = 8080
"""Where a node listens that was told nothing else."""

FIRST_RAFT_PORT = 6001
FIRST_CLIENT_PORT = 9091
"""Those of node 1 of a cluster on one machine; the others follow."""


RETENTION = ("retain_entries", "retain_bytes", "retain_seconds")
"""The settings that say what is dropped."""


class NodeConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of one node; the same on every start unless an operator changes them."""

    node_id: int
    raft_address: str
    """host:port under which peers reach this node (the advertised one)."""
    client_address: str
    """host:port under which clients reach this node."""
    replication_factor: int = 3
    """Replicas of a segment, its leader included; capped by the number of voters."""
    durable_acks: bool = True
    """Whether an entry must be synced before a replica counts it (`--fsync each`)."""
    heartbeat_interval: float = 0.1
    election_timeout: float = 1.0
    failure_timeout: float = 2.0
    """Silence after which the Raft leader replaces a node as leader of its segments."""
    lease_ttl: float = 1.2
    """How long a node may write after it last heard from a Raft leader; below `failure_timeout`."""
    max_segment_entries: int = 1_000_000
    max_segment_bytes: int | None = None
    segment_seconds: int = 0
    """Age after which a segment that has entries is sealed. 0 here and below: never."""
    retain_entries: int = 0
    retain_bytes: int = 0
    retain_seconds: int = 0
    """What is kept of a topic at least: sealed segments beyond any of these are dropped, the oldest first."""
    max_deliveries: int = 0
    """After so many deliveries an entry that comes back goes to the dead-letter topic."""
    monitor_check: float = 10.0
    """How often segments are checked against their thresholds besides the check on every append."""
    put_timeout: float = 4.0
    """After this long a PUT without a majority is answered "outcome unknown"; before clients give up."""
    request_timeout: float = 4.0
    """After this long any other request that still waits for another node is answered with an error."""
    cursor_interval: float = 0.1
    """How often moved cursors are committed through Raft, one proposal for all of a node's topics."""
    ack_interval: float = 0.02
    """After this long acknowledged entries that are not committed yet are proposed to Raft again."""
    visibility_timeout: float = 30.0
    """For how long an entry that was handed out stays out, unless its consumer says otherwise."""
    queue_window: int = 1_000
    """Entries from a group's mark on that may be out, or acknowledged before earlier ones."""
    resend_interval: float = 0.2
    """After this long without an answer a message between nodes is sent again."""
    repair_interval: float = 0.5
    """How often the Raft leader looks for sealed segments below their replication factor."""
    dead_replica_timeout: float = 60.0
    """Silence after which a node's replicas of sealed segments are made anew on other nodes."""
    window_bytes: int = 8 << 20
    """Most bytes that a writer has sent to one replica without an answer."""
    max_pending_bytes: int = 64 << 20
    """Most bytes of PUTs that wait in one node for a segment to write to."""
    read_bytes: int = 256 << 10
    """How many bytes one read of a segment asks for (at least one entry is always returned)."""
    compact_entries: int = 5_000
    """Applied Raft entries after which the metadata is written as a snapshot and the log cut."""
    snapshot_chunk_bytes: int = 256 << 10
    """How much of a snapshot one message to a follower carries."""

    def __post_init__(self) -> None:
        if self.lease_ttl >= self.failure_timeout:
            raise ValueError("lease_ttl must be below failure_timeout, or two leaders could write at once")

    def setting(self, name: str, settings: Mapping[str, int]) -> int:
        """What counts for a topic with these settings: its own, or this node's flag. 0: no limit."""
        value = settings.get(name)
        return self.defaults()[name] if value is None else value

    def defaults(self) -> dict[str, int]:
        """What counts of a topic of which nothing is set."""
        return {
            "retain_entries": self.retain_entries,
            "retain_bytes": self.retain_bytes,
            "retain_seconds": self.retain_seconds,
            "segment_entries": self.max_segment_entries,
            "segment_bytes": self.max_segment_bytes or 0,
            "segment_seconds": self.segment_seconds,
            "visibility_ms": round(self.visibility_timeout * 1000),
            "max_deliveries": self.max_deliveries,
            "protect_groups": 0,
        }

    def retains(self, settings: Mapping[str, int]) -> bool:
        """Whether some limit of retention counts for a topic with these settings."""
        defaults = self.defaults()
        return any(settings.get(name, defaults[name]) for name in RETENTION)

    def raft(self) -> RaftConfig:
        """Return Raft's share of the settings."""
        return RaftConfig(
            heartbeat_interval=self.heartbeat_interval,
            election_timeout=self.election_timeout,
            snapshot_chunk_bytes=self.snapshot_chunk_bytes,
        )


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """The identity of a process: its cluster, its data directory, and which start of that it is."""

    cluster_id: str
    """Random, drawn at bootstrap, learnt in a join: peers of another cluster are refused."""
    directory_id: str
    """Random, drawn when the data directory was made: a node with an empty disk is another node."""
    incarnation: int
    """Number of this process start, rising within one data directory; recorded in each segment it leads."""
    member_at: int = 0
    """An index of Raft's log at which this directory was a member's, as it was told when it joined."""
    bootstrap: bool = False
    """Whether this node starts a new cluster of one (only on an empty data directory)."""
    sure: bool = True
    """False after a power loss that may have shortened copies: see `replicas/copies.py`."""
