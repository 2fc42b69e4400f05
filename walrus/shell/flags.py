"""The settings of a node: command line, environment and file, checked before anything starts.

`parse` returns one frozen `Settings`, or raises `FlagError` with one line that names the flag (or the
variable, or the key of the file) and the values that it takes; `node.main` prints it and exits with status
2. Nothing is corrected silently. The only file that this module reads is that of `--config` (`layers.py`).

Three durations depend on each other and are checked together:

    heartbeat < lease ttl < failure timeout

A writer that hears from no Raft leader stops when its lease ends, and is replaced only after the failure
timeout. If the lease were longer, the old and the new writer would both accept PUTs for a while. The fence
would still keep the log correct, but clients of the old writer would wait for answers that never come.

`WALRUS_DISABLE_IO_URING` is read by the engine, since it also applies where there is no node.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from walrus import __version__
from walrus.config import CLIENT_PORT, RAFT_PORT, NodeConfig
from walrus.settings import SETTINGS
from walrus.shell.arguments import (
    FlagError,
    Parser,
    Value,
    address,
    directory,
    host,
    in_ms,
    milliseconds,
    whole,
)
from walrus.shell.client_connections import Limits
from walrus.shell.layers import Layered, add_config_flags, layered
from walrus.wire.addresses import EVERYWHERE, is_loopback, join_address

LOG_LEVELS = ("debug", "info", "warning", "error")
LOG_FORMATS = ("text", "json")
VARIABLES: Final = {
    "log_level": "WALRUS_LOG",
    "max_segment_entries": "WALRUS_MAX_SEGMENT_ENTRIES",
    "max_segment_bytes": "WALRUS_MAX_SEGMENT_BYTES",
    "monitor_check": "WALRUS_MONITOR_CHECK_MS",
}
"""The environment variable of a flag, by the flag's `dest`."""
MAX_FRAME_LIMIT = 16 << 20
"""The largest `--max-frame-bytes`: a batch of a few such entries still fits into a message between nodes."""

# The defaults of flags are those of the values that they set.
_NODE = NodeConfig(node_id=1, raft_address="", client_address="")
_CLIENTS = Limits()


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """All settings of a node. Times in seconds, sizes in bytes."""

    node_id: int
    data_dir: Path
    raft_host: str
    raft_port: int
    raft_advertise_host: str
    client_host: str
    client_port: int
    client_advertise_host: str
    join: tuple[str, ...]
    join_timeout: float
    bootstrap: bool
    log_file: Path | None
    log_level: str
    log_format: str
    replication_factor: int
    fsync: str | float
    """`each`, `none`, or the seconds between two syncs."""
    heartbeat: float
    election_timeout: float
    failure_timeout: float
    lease_ttl: float
    max_frame_bytes: int
    max_connections: int
    segment_seconds: int
    retain_entries: int
    retain_bytes: int
    retain_seconds: int
    max_deliveries: int
    visibility: float
    tls_cert: Path | None
    tls_key: Path | None
    tls_ca: Path | None
    """All three are set, or none: no TLS."""
    tls_client_auth: bool
    cluster_secret_file: Path | None
    auth_file: Path | None
    insecure: bool
    trace: Path | None
    max_segment_entries: int
    max_segment_bytes: int | None
    monitor_check: float

    @property
    def fsync_name(self) -> str:
        """The name of the schedule in the identity file and in the log."""
        return self.fsync if isinstance(self.fsync, str) else f"{self.fsync * 1000:g} ms"

    @property
    def source(self) -> str | None:
        """The local address from which peers are dialled; None for any."""
        return None if self.raft_host in EVERYWHERE else self.raft_host

    def config(self) -> NodeConfig:
        """Return the settings that concern the controller."""
        return NodeConfig(
            node_id=self.node_id,
            raft_address=join_address(self.raft_advertise_host, self.raft_port),
            client_address=join_address(self.client_advertise_host, self.client_port),
            replication_factor=self.replication_factor,
            durable_acks=self.fsync == "each",
            heartbeat_interval=self.heartbeat,
            election_timeout=self.election_timeout,
            failure_timeout=self.failure_timeout,
            lease_ttl=self.lease_ttl,
            max_segment_entries=self.max_segment_entries,
            max_segment_bytes=self.max_segment_bytes,
            monitor_check=self.monitor_check,
            segment_seconds=self.segment_seconds,
            retain_entries=self.retain_entries,
            retain_bytes=self.retain_bytes,
            retain_seconds=self.retain_seconds,
            max_deliveries=self.max_deliveries,
            visibility_timeout=self.visibility,
        )


def _fsync(text: str) -> str | float:
    """Parse `each`, `none` or milliseconds (returned in seconds)."""
    if text in ("each", "none"):
        return text
    try:
        seconds: float = milliseconds(1, 60_000)(text)
    except argparse.ArgumentTypeError:
        message = f"must be each, none or milliseconds (1 to 60000), not {text!r}"
        raise argparse.ArgumentTypeError(message) from None
    return seconds


def _fsync_shown(value: str | float) -> str | int:
    return value if isinstance(value, str) else in_ms(value)


fsync: Final = Value(_fsync, (str, int), _fsync_shown)


def _identity_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags for the node's id, directory, addresses and cluster."""
    port = whole(1, 65535)
    add = parser.add_argument
    add("--node-id", type=whole(1, 1 << 31), metavar="ID", help="unique in the cluster; needed")
    add("--data-dir", type=directory, default=Path("./data"), metavar="DIR",
        help="files go below DIR/node_ID/ (default: ./data)")  # fmt: skip
    add("--raft-host", type=host, default="127.0.0.1", metavar="HOST",
        help="peers connect here (default: 127.0.0.1)")  # fmt: skip
    add("--raft-port", type=port, default=RAFT_PORT, metavar="PORT", help="default: %(default)s")
    add("--raft-advertise-host", type=host, metavar="HOST", help="what peers are told (default: --raft-host)")
    add("--client-host", type=host, default="127.0.0.1", metavar="HOST",
        help="clients connect here (default: 127.0.0.1)")  # fmt: skip
    add("--client-port", "--port", type=port, default=CLIENT_PORT, metavar="PORT",
        help="default: %(default)s")  # fmt: skip
    add("--client-advertise-host", type=host, metavar="HOST",
        help="what METRICS shows (default: --client-host)")  # fmt: skip
    add("--join", type=address, action="append", default=[], metavar="HOST:PORT",
        help="raft address of any member: to enter a cluster, or to find it again")  # fmt: skip
    add("--join-timeout", type=whole(1, 86_400), default=60, metavar="SECONDS", help="default: %(default)s")
    add("--bootstrap", action="store_true", help="found a cluster (node 1 does so unasked)")


def _behaviour_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags for replication, timeouts, limits and logs."""
    timeout = milliseconds(10, 3_600_000)
    add = parser.add_argument
    add("--replication-factor", type=whole(1, 9), default=_NODE.replication_factor, metavar="N",
        help="replicas of each segment (default: %(default)s)")  # fmt: skip
    add("--fsync", type=fsync, default="each", metavar="each|none|MS",
        help="when entries are synced (default: each, before they are acknowledged)")  # fmt: skip
    add("--heartbeat-ms", dest="heartbeat", type=timeout, default=_NODE.heartbeat_interval, metavar="MS",
        help=f"default: {in_ms(_NODE.heartbeat_interval)}")  # fmt: skip
    add("--election-timeout-ms", dest="election_timeout", type=timeout, metavar="MS",
        default=_NODE.election_timeout, help=f"default: {in_ms(_NODE.election_timeout)}")  # fmt: skip
    add("--failure-timeout-ms", dest="failure_timeout", type=timeout, metavar="MS",
        default=_NODE.failure_timeout, help="silence after which a node's segments get other leaders "
        f"(default: {in_ms(_NODE.failure_timeout)})")  # fmt: skip
    add("--lease-ttl-ms", dest="lease_ttl", type=timeout, metavar="MS", default=_NODE.lease_ttl,
        help="how long a node writes without hearing from a Raft leader "
        f"(default: {in_ms(_NODE.lease_ttl)})")  # fmt: skip
    add("--max-frame-bytes", type=whole(64, MAX_FRAME_LIMIT), default=_CLIENTS.max_frame_bytes,
        metavar="BYTES", help="longest request (default: %(default)s)")  # fmt: skip
    add("--max-connections", type=whole(1, 1_000_000), default=_CLIENTS.max_connections, metavar="N",
        help="of clients (default: %(default)s)")  # fmt: skip
    add("--log-file", type=Path, metavar="FILE", help="default: standard error")
    add("--log-level", type=str.lower, choices=LOG_LEVELS, default="info",
        help="default: info, or the variable WALRUS_LOG")  # fmt: skip
    add("--log-format", choices=LOG_FORMATS, default="text",
        help="json: one object a line, for programs (default: text)")  # fmt: skip
    add("--trace", type=Path, metavar="FILE", help="record spec-level events")


def _tls_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags for certificates: see `walrus/tls.py`."""
    add = parser.add_argument
    add("--tls-cert", type=Path, metavar="FILE", help="this node's certificate: TLS on both ports")
    add("--tls-key", type=Path, metavar="FILE", help="its key")
    add("--tls-ca", type=Path, metavar="FILE", help="the cluster's CA, which signed every node's certificate")
    add("--tls-client-auth", action="store_true", help="clients must show a certificate of that CA, too")


def _security_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags for authentication without certificates."""
    add = parser.add_argument
    add("--cluster-secret-file", type=Path, metavar="FILE",
        help="nodes prove to each other that they know the secret in this file")  # fmt: skip
    add("--auth-file", type=Path, metavar="FILE",
        help="clients need a token; who has which is in this file (python -m walrus.auth)")  # fmt: skip
    add("--insecure", action="store_true",
        help="serve other machines although anything that reaches a port may do everything")  # fmt: skip


def _topic_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags for the default settings of topics: see `walrus/settings.py`."""
    add = parser.add_argument
    add("--segment-entries", dest="max_segment_entries", type=whole(1, 1 << 40), metavar="N",
        default=_NODE.max_segment_entries, help="entries after which a segment is sealed "
        "(default: %(default)s, or the variable WALRUS_MAX_SEGMENT_ENTRIES)")  # fmt: skip
    add("--segment-bytes", dest="max_segment_bytes", type=whole(1, 1 << 50), metavar="N",
        help="the same in bytes (default: no limit, or the variable WALRUS_MAX_SEGMENT_BYTES)")  # fmt: skip
    add("--monitor-check-ms", dest="monitor_check", type=milliseconds(1, 3_600_000), metavar="MS",
        default=_NODE.monitor_check, help="how often age and size of segments are looked at (default: "
        f"{in_ms(_NODE.monitor_check)}, or the variable WALRUS_MONITOR_CHECK_MS)")  # fmt: skip
    for name in ("segment_seconds", "retain_entries", "retain_bytes", "retain_seconds", "max_deliveries"):
        setting = SETTINGS[name]
        flag = "--" + name.replace("_", "-")
        parser.add_argument(flag, type=whole(1, setting.most), default=0, metavar="N",
            help=f"{setting.about} (default: no limit; CONFIGURE sets it of a topic)")  # fmt: skip
    parser.add_argument("--visibility-ms", dest="visibility", type=milliseconds(1, 86_400_000), metavar="MS",
        default=_NODE.visibility_timeout, help="how long an entry stays out after RECEIVE "
        f"(default: {in_ms(_NODE.visibility_timeout)})")  # fmt: skip


def _parser() -> Parser:
    parser = Parser(prog="walrus-node", description="Run one node of a Walrus cluster.", allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"walrus {__version__}")
    add_config_flags(parser)
    _identity_flags(parser)
    _behaviour_flags(parser)
    _tls_flags(parser)
    _security_flags(parser)
    _topic_flags(parser)
    return parser


def _check_together(settings: Settings) -> Settings:
    """Check constraints between flags. Raises FlagError."""
    if settings.heartbeat >= settings.election_timeout:
        raise FlagError("--election-timeout-ms: must be above --heartbeat-ms, or followers never stay calm")
    if settings.heartbeat >= settings.lease_ttl:
        raise FlagError("--lease-ttl-ms: must be above --heartbeat-ms, or no lease outlives a heartbeat")
    if settings.lease_ttl >= settings.failure_timeout:
        raise FlagError(
            "--lease-ttl-ms: must be below --failure-timeout-ms, or two leaders could write at once"
        )
    if settings.raft_host == settings.client_host and settings.raft_port == settings.client_port:
        raise FlagError("--client-port: must differ from --raft-port on the same host")
    if settings.raft_advertise_host in EVERYWHERE:
        raise FlagError(
            f"--raft-advertise-host: is needed, no peer can connect to {settings.raft_advertise_host}"
        )
    files = {"cert": settings.tls_cert, "key": settings.tls_key, "ca": settings.tls_ca}
    if any(files.values()) or settings.tls_client_auth:
        for name, path in files.items():
            if path is None:
                raise FlagError(f"--tls-{name}: is needed, TLS takes --tls-cert, --tls-key and --tls-ca")
    _check_protected(settings)
    if settings.bootstrap and settings.join:
        raise FlagError("--bootstrap: founds a cluster, --join enters one; give one of them")
    return settings


def _check_protected(settings: Settings) -> None:
    """Refuse to serve other machines without protection, unless `--insecure` is given. Raises FlagError."""
    if settings.insecure:
        return
    tls = settings.tls_ca is not None
    if not (is_loopback(settings.raft_host) or tls or settings.cluster_secret_file is not None):
        raise FlagError(
            f"--raft-host: {settings.raft_host} is reached by other machines: give --tls-ca, --tls-cert and "
            f"--tls-key, or --cluster-secret-file, or insist with --insecure (docs/security.md)"
        )
    known = settings.tls_client_auth or settings.auth_file is not None
    if not (is_loopback(settings.client_host) or (tls and known)):
        raise FlagError(
            f"--client-host: {settings.client_host} is reached by other machines: give --tls-ca, --tls-cert "
            f"and --tls-key with --auth-file or --tls-client-auth, or insist with --insecure "
            f"(docs/security.md)"
        )


def parse(arguments: Sequence[str], environ: Mapping[str, str]) -> Settings:
    """Return the settings of a command line and an environment. Raises FlagError.

    >>> parse(["--node-id", "2", "--fsync", "200"], {}).fsync
    0.2
    >>> parse(["--node-id", "0"], {})
    Traceback (most recent call last):
    walrus.shell.arguments.FlagError: --node-id: must be a whole number of 1 to 2147483648, not '0'
    """
    return settings_of(look(arguments, environ))


def look(arguments: Sequence[str], environ: Mapping[str, str]) -> Layered:
    """Return the settings with their origins. Raises FlagError if one of them is invalid by itself."""
    found = layered(_parser(), "node", arguments, environ, variables=VARIABLES, required=["node_id"])
    options = found.options
    options.raft_advertise_host = options.raft_advertise_host or options.raft_host
    options.client_advertise_host = options.client_advertise_host or options.client_host
    return found


def settings_of(found: Layered) -> Settings:
    """Return the settings as one value. Raises FlagError if they contradict each other."""
    given: dict[str, Any] = {dest: getattr(found.options, dest) for dest in found.actions}
    try:
        return _check_together(Settings(**{**given, "join": tuple(given["join"])}))
    except FlagError as error:
        raise FlagError(found.blame(str(error))) from None
