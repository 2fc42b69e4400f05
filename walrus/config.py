"""The configuration of a node: its settings and its identity.

These are plain values; no default depends on the machine. `shell/flags.py` makes them from the command line,
the environment and a file; tests and the simulator construct them directly. All times are in seconds, all
sizes in bytes.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from walrus.consensus.messages import RaftConfig

RAFT_PORT = 6000
CLIENT_PORT = 8080
"""The default ports of a node."""

FIRST_RAFT_PORT = 6001
FIRST_CLIENT_PORT = 9091
"""The ports of node 1 in a cluster on one machine; those of the other nodes follow."""


RETENTION = ("retain_entries", "retain_bytes", "retain_seconds")
"""The settings of retention."""


class NodeConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The settings of one node; the same on every start unless an operator changes them."""

    node_id: int
    raft_address: str
    """The advertised host:port at which peers reach this node."""
    client_address: str
    """The advertised host:port at which clients reach this node."""
    replication_factor: int = 3
    """How many replicas a segment has, including its leader; at most the number of voters."""
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
    """Age at which a segment that has entries is sealed. 0 in this and the next four settings: never."""
    retain_entries: int = 0
    retain_bytes: int = 0
    retain_seconds: int = 0
    """What a topic keeps at least; sealed segments beyond any of these limits are dropped, oldest first."""
    max_deliveries: int = 0
    """How many deliveries an entry may have; if it is given back after that, it is a dead letter."""
    monitor_check: float = 10.0
    """Interval at which segments are checked against their thresholds, in addition to every append."""
    put_timeout: float = 4.0
    """Time after which a PUT without a majority is answered "outcome unknown", before clients give up."""
    request_timeout: float = 4.0
    """Time after which any other request that waits for another node is answered with an error."""
    cursor_interval: float = 0.1
    """Interval at which moved cursors are committed through Raft, all topics of a node in one proposal."""
    ack_interval: float = 0.02
    """Time after which acknowledgements that are not committed yet are proposed to Raft again."""
    visibility_timeout: float = 30.0
    """For how long an entry stays out after RECEIVE, unless its consumer extends it."""
    queue_window: int = 1_000
    """How many entries from a group's mark on may be out, or acknowledged out of order."""
    resend_interval: float = 0.2
    """Time without an answer after which a message between nodes is sent again."""
    repair_interval: float = 0.5
    """Interval at which the Raft leader looks for sealed segments below their replication factor."""
    dead_replica_timeout: float = 60.0
    """Silence after which the replicas of a node's sealed segments are created on other nodes."""
    window_bytes: int = 8 << 20
    """The most bytes that a writer may have sent to one replica without an answer."""
    max_pending_bytes: int = 64 << 20
    """The most bytes of PUTs that may wait on one node for a segment to write to."""
    read_bytes: int = 256 << 10
    """How many bytes one read of a segment asks for (at least one entry is always returned)."""
    compact_entries: int = 5_000
    """Number of applied Raft entries after which the metadata becomes a snapshot and the log is cut."""
    snapshot_chunk_bytes: int = 256 << 10
    """How many bytes of a snapshot one message to a follower carries."""

    def __post_init__(self) -> None:
        if self.lease_ttl >= self.failure_timeout:
            raise ValueError("lease_ttl must be below failure_timeout, or two leaders could write at once")

    def setting(self, name: str, settings: Mapping[str, int]) -> int:
        """Return the value for a topic with these settings: the topic's, or this node's. 0: no limit."""
        value = settings.get(name)
        return self.defaults()[name] if value is None else value

    def defaults(self) -> dict[str, int]:
        """Return the values for a topic without settings."""
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
        """Whether a topic with these settings has any limit of retention."""
        defaults = self.defaults()
        return any(settings.get(name, defaults[name]) for name in RETENTION)

    def raft(self) -> RaftConfig:
        """Return the settings that concern Raft."""
        return RaftConfig(
            heartbeat_interval=self.heartbeat_interval,
            election_timeout=self.election_timeout,
            snapshot_chunk_bytes=self.snapshot_chunk_bytes,
        )


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """The identity of a process: its cluster, its data directory, and its start."""

    cluster_id: str
    """Random, drawn at bootstrap, received on joining: peers of another cluster are refused."""
    directory_id: str
    """Random, drawn when the data directory is created: a node with an empty disk is a different node."""
    incarnation: int
    """The number of this start, unique within one data directory; recorded in each segment that it leads."""
    member_at: int = 0
    """An index of Raft's log at which this directory is that of a member, as JoinReply said."""
    bootstrap: bool = False
    """Whether this node founds a new cluster of one (only on an empty data directory)."""
    sure: bool = True
    """False after a power loss that may have shortened copies: see `replicas/copies.py`."""
