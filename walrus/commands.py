"""The commands of the metadata, as values and as the bytes of Raft's log.

`segments.py` applies the commands and documents their effects. Each is a compare-and-set: it contains the
state that it expects, and the new state.

**Versions.** A command is encoded in the earliest version that can express it. A node stops at a command of
a later version than it knows, since guessing would let replicas diverge. To prevent this while releases are
mixed, each start of a node announces the latest version that it knows (`Announce.knows`). No command is
proposed that a started member does not know: `Metadata.all_know` limits `RaftHost`, and a request that needs
such a command is answered with an error that names the member (`broker/requests.py`).
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import msgspec

from walrus.acknowledged import START, Acknowledged, HandedOn, Position, Run
from walrus.storage.batch import Checksum

RETENTION_VERSION = 3
"""The first version with producers, settings, retention and deletion."""

DELETION_VERSION = 4
"""The first version in which a topic goes with the Seal of its open segment."""

VERSION = DELETION_VERSION
"""The latest version of the encoding of commands and snapshots. A node stops at a later one."""

UNTOLD = RETENTION_VERSION
"""The version that a member knows if it announces none, as releases before `Announce.knows` do."""

QUEUES_VERSION = 2
"""The first version with work queues."""

FIRST_VERSION = 1
"""The version of commands that need no later one, so that earlier releases can read them."""


class UnknownCommand(Exception):
    """A committed command that this version cannot apply. To continue would let replicas diverge."""


class LastNumber(NamedTuple):
    """A producer's last entry in a topic: its number, and when it was appended."""

    last: int
    at: int
    """Unix seconds, by the clock of the segment's leader."""


class Announce(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag=True):
    """Admit a node (incarnation 0), or note another start of it."""

    node_id: int
    directory_id: str
    incarnation: int
    raft_address: str
    client_address: str
    knows: int = 0
    """The latest version of commands that this start of the node knows; 0: not told."""


class RegisterTopic(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag=True):
    """Create a topic with its first segment, if `number` is still its next segment number."""

    topic: str
    leader: int
    replicas: tuple[int, ...]
    number: int = 1
    settings: dict[str, int] = {}


class ConfigureTopic(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag=True):
    """Change settings of the topic that was registered with the first segment `born`, if no other change has
    come in between."""

    topic: str
    born: int
    configured: int
    settings: dict[str, int]


class Trim(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag=True):
    """Drop segments `old` to `first - 1`, if `old` still is the first one."""

    topic: str
    old: int
    first: int


class DeleteTopic(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag=True):
    """Delete the topic that was registered with the first segment `born`."""

    topic: str
    born: int
    at_seal: bool = False
    """Whether it goes with the Seal of its open segment, which fences the writer. Earlier releases let it go
    at once, and so may their commands in a log."""


class Seal(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag=True):
    """Seal `segment` at `count` entries and open the next one at `leader`."""

    topic: str
    segment: int
    count: int
    checksum: Checksum
    leader: int
    replicas: tuple[int, ...]
    cursors: dict[str, Position]
    recovered: bool = False
    groups: dict[str, Acknowledged] = {}
    handed: dict[str, tuple[HandedOn, ...]] = {}
    producers: dict[str, LastNumber] = {}
    """The producers that have entries in the segment."""
    size: int = 0
    sealed_ms: int = 0


class CommitGroups(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag=True):
    """Commit acknowledgements of work queues: topic -> group -> acknowledged entries."""

    groups: dict[str, dict[str, Acknowledged]]
    dead: dict[str, dict[str, tuple[Run, ...]]] = {}
    """Those of the acknowledged entries that went to the dead-letter topic."""


class MoveGroup(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag=True):
    """SEEK: begin the group's next generation at `to`, if `generation` still is the current one."""

    topic: str
    group: str
    generation: int
    to: Position


class CommitCursors(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag=True):
    """Commit the positions of cursors: topic -> group -> position."""

    cursors: dict[str, dict[str, Position]]


class SetReplicas(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag=True):
    """Replace the replica set of a sealed segment, if it still is `old`."""

    topic: str
    segment: int
    old: tuple[int, ...]
    new: tuple[int, ...]
    directories: tuple[str, ...] = ()
    """The data directories of `new`, in the same order. A replica proved its copy for its directory; a node
    that has returned with another directory may have no copy. Empty: any directories.
    """


class MarkLeaving(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag=True):
    """Mark a node that is being removed, so that it gets no new segments."""

    node_id: int
    directory_id: str = ""
    """The node's data directory, since another node may join under the id while the command is repeated.
    Empty: any directory."""


class RemoveNode(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag=True):
    """Remove a node that no segment needs any more."""

    node_id: int
    directory_id: str = ""
    """As in `MarkLeaving`."""


Command: TypeAlias = (
    Announce
    | RegisterTopic
    | ConfigureTopic
    | Trim
    | DeleteTopic
    | Seal
    | CommitCursors
    | CommitGroups
    | MoveGroup
    | SetReplicas
    | MarkLeaving
    | RemoveNode
)


class _Envelope(msgspec.Struct, frozen=True, array_like=True):
    version: int
    command: msgspec.Raw


UNREADABLE = (msgspec.MsgspecError, ValueError, RecursionError)
"""The exceptions of decoding invalid bytes; a str that is not UTF-8 raises ValueError, for example."""

_encoder = msgspec.msgpack.Encoder(order="deterministic")
_envelope_decoder = msgspec.msgpack.Decoder(_Envelope)
_command_decoder: msgspec.msgpack.Decoder[Command] = msgspec.msgpack.Decoder(Command)


def encode_command(command: Command) -> bytes:
    """Encode a command for Raft's log."""
    return _encoder.encode(_Envelope(version_of(command), msgspec.Raw(_encoder.encode(command))))


def version_of(command: Command) -> int:
    """Return the earliest version that can express this command."""
    match command:
        case DeleteTopic() if command.at_seal:
            return DELETION_VERSION
        case ConfigureTopic() | Trim() | DeleteTopic():
            return RETENTION_VERSION
        case RegisterTopic() if command.settings or command.number != START.segment:
            return RETENTION_VERSION
        case Seal() if command.producers or command.size or command.sealed_ms:
            return RETENTION_VERSION
        case CommitGroups() if command.dead:
            return RETENTION_VERSION
        case CommitGroups() | MoveGroup():
            return QUEUES_VERSION
        case Seal() if command.groups:
            return QUEUES_VERSION
        case _:
            return FIRST_VERSION


def decode_command(data: bytes) -> Command:
    """Decode a command. Raises `UnknownCommand` if this version does not know it."""
    try:
        envelope = _envelope_decoder.decode(data)
        if not FIRST_VERSION <= envelope.version <= VERSION:
            raise UnknownCommand(
                f"metadata command of version {envelope.version}, this node knows {VERSION}: upgrade it"
            )
        return _command_decoder.decode(envelope.command)
    except UNREADABLE as error:
        raise UnknownCommand(
            f"metadata command that this node cannot read: {error}: upgrade this node"
        ) from error
