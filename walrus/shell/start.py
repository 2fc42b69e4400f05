"""The start: what a node checks and opens before its first message: descriptors, engines, Raft's journal.

Each check that fails raises `StartError`, with one line that says what is wrong and what to do. A node that
started despite a lost journal could vote again in terms in which it has voted; one that started with too few
descriptors would fail later, in the middle of a write.
"""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path

from walrus.broker.access import Access, parse
from walrus.consensus.journal import RaftJournal
from walrus.consensus.messages import Membership
from walrus.credentials import CredentialError, read, read_private
from walrus.shell.descriptors import FEWEST_FILES, raise_file_limit
from walrus.shell.flags import Settings
from walrus.shell.peer_connections import Trust
from walrus.storage.errors import StorageError
from walrus.storage.schedule import FsyncSchedule
from walrus.tls import Files, NodeContexts, TlsError
from walrus.wal import Walrus


class StartError(Exception):
    """The node cannot start; the message is one line for the operator."""


def claim_files() -> None:
    """Raise the limit of open files as far as allowed. Raises StartError if it is too low."""
    if (files := raise_file_limit()) < FEWEST_FILES:
        raise StartError(f"this process may open {files} files, a node needs {FEWEST_FILES}: raise ulimit -n")


def open_trust(settings: Settings) -> Trust:
    """Read the certificates and the secret by which nodes authenticate each other. Raises StartError."""
    try:
        secret = settings.cluster_secret_file
        return Trust(
            tls=_open_certificates(settings),
            secret=b"" if secret is None else read_private(secret).encode(),
        )
    except CredentialError as error:
        raise StartError(str(error)) from error


def open_access(settings: Settings) -> Access | None:
    """Read the identities of clients; None if clients need no tokens. Raises StartError."""
    if settings.auth_file is None:
        return None
    try:
        text = read(settings.auth_file, others_may_not="w")
        return Access(parse(text, str(settings.auth_file)))
    except CredentialError as error:
        raise StartError(str(error)) from error


def _open_certificates(settings: Settings) -> NodeContexts | None:
    if settings.tls_ca is None:
        return None
    files = Files(settings.tls_ca, settings.tls_cert, settings.tls_key)
    try:
        return NodeContexts(files, settings.node_id, client_auth=settings.tls_client_auth)
    except TlsError as error:
        raise StartError(str(error)) from error


def open_data_engine(path: Path, fsync: str | float) -> Walrus:
    """Recover the engine that holds the copies of segments. Raises StartError."""
    return _open_engine(path, _schedule(fsync))


def open_raft_engine(path: Path, node_id: int, state: str) -> Walrus:
    """Recover the engine that holds Raft's journal; begin a journal for a new cluster. Raises StartError.

    `state` is that of the identity file. A member without a journal has lost its votes, and must not start.
    """
    engine = _open_engine(path, FsyncSchedule.group_commit())
    journal = RaftJournal(engine)
    if (journal.is_empty() and state == "member") or engine.recovery.nameless:
        engine.close()
        raise StartError(
            f"{path} is empty or damaged, but this node is a member: votes are lost. Restore it, or LEAVE "
            f"{node_id} on another node and start this one with an empty --data-dir"
        )
    if journal.is_empty() and state == "founding":
        journal.bootstrap(Membership(voters=(node_id,), learners=()))
        engine.sync()
    return engine


def _open_engine(path: Path, schedule: FsyncSchedule) -> Walrus:
    try:
        return Walrus(path, fsync=schedule)
    except StorageError as error:
        raise StartError(f"{path}: {error}") from error


def _schedule(fsync: str | float) -> FsyncSchedule:
    """The engine's schedule for `--fsync`; with `each` the event loop syncs, once for all waiting writes."""
    match fsync:
        case "each":
            return FsyncSchedule.group_commit()
        case float():
            return FsyncSchedule.milliseconds(round(fsync * 1000))
        case _:
            return FsyncSchedule.no_fsync()


def cannot_listen(which: str, host: str, port: int, error: OSError) -> StartError:
    """The error for a port that cannot be opened: asyncio's own message repeats itself and names no flag."""
    if isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
        return StartError(f"--{which}-host: {host} is no address of this machine")
    reason = os.strerror(error.errno) if error.errno else str(error)
    return StartError(f"--{which}-port: cannot listen on {host}:{port}: {reason}")
