"""The commands of the metadata, as values and as the bytes of Raft's log.

What each of them does is said in `segments.py`, which applies them. Each is a compare-and-set: it names the
state that it was made for, beside what it is to become.

**Versions.** A command is written in the earliest version that can say it, and a node refuses one of a later
version than it knows by stopping: to guess would let replicas diverge. So that this does not happen while
releases are mixed, each start of a node announces up to which version it knows (`Announce.knows`), and no
command is proposed that a member that has started does not know: `Metadata.all_know` bounds `RaftHost`, and
a request that needs it is refused by name (`broker/requests.py`).
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import msgspec

from walrus.acknowledged import START, Acknowledged, HandedOn, Position, Run
from walrus.storage.batch import Checksum

RETENTION_VERSION = 3
"""With producers, settings, retention and deletion."""

VERSION = RETENTION_VERSION
"""Version of the encoding of commands and snapshots. A node refuses to guess at a later one."""

UNTOLD = RETENTION_VERSION
"""What a member knows that does not announce it: those of releases before this was announced."""

QUEUES_VERSION = 2
"""With work queues; without producers, settings, retention and deletion."""

FIRST_VERSION = 1
"""Without work queues, too. What needs no later one is written in it, so that earlier releases read it."""


class UnknownCommand(Exception):
    """A committed command that this version cannot apply. Going on would let replicas diverge."""


class LastNumber(NamedTuple):
    """How far a producer has come in a topic: the number of its last entry, and when that was appended."""

    last: int
    at: int
    """Unix seconds, by the clock of the segment's leader."""


class Announce(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag=True):
    """A node was taken in (incarnation 0), or started once more."""

    node_id: int
    directory_id: str
    incarnation: int
    raft_address: str
    client_address: str
    knows: int = 0
    """The latest version of commands that this start knows; 0: not told."""


class RegisterTopic(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag=True):
    """Create a topic with its first segment, if `number` is still the one that follows."""

    topic: str
    leader: int
    replicas: tuple[int, ...]
    number: int = 1
    settings: dict[str, int] = {}


class ConfigureTopic(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag=True):
    """Change settings of the topic that was born with number `born`, if it has not been since."""

    topic: str
    born: int
    configured: int
    settings: dict[str, int]


class Trim(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag=True):
    """Drop the segments `old` to `first` - 1, if `old` still is the first one."""

    topic: str
    old: int
    first: int


class DeleteTopic(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag=True):
    """Drop all of the topic that was born with number `born`."""

    topic: str
    born: int


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
    """Those that have entries in the segment."""
    size: int = 0
    sealed_ms: int = 0


class CommitGroups(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag=True):
    """Consumers acknowledged entries: topic -> group -> what is done."""

    groups: dict[str, dict[str, Acknowledged]]
    dead: dict[str, dict[str, tuple[Run, ...]]] = {}
    """Of these, what went to the dead-letter topic."""


class MoveGroup(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag=True):
    """SEEK: the group begins its next generation at `to`, if it still is in this one."""

    topic: str
    group: str
    generation: int
    to: Position


class CommitCursors(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag=True):
    """Readers' positions: topic -> group -> position."""

    cursors: dict[str, dict[str, Position]]


class SetReplicas(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag=True):
    """Replace the replica set of a sealed segment, if it still is `old`."""

    topic: str
    segment: int
    old: tuple[int, ...]
    new: tuple[int, ...]
    directories: tuple[str, ...] = ()
    """Those of `new`, in the same order: what they proved holds for the directory that proved it. A node that
    has come back under its id with another one may hold nothing. Left out, whichever there are.
    """


class MarkLeaving(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag=True):
    """The node is on its way out and is given no new segments."""

    node_id: int
    directory_id: str = ""
    """Which one: another may come under its id while this is repeated. Left out, whichever there is."""


class RemoveNode(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag=True):
    """Forget a node that no segment needs any more."""

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
"""What decoding raises on bytes of another kind: a str that is no UTF-8 is a ValueError, for example."""

_encoder = msgspec.msgpack.Encoder(order="deterministic")
_envelope_decoder = msgspec.msgpack.Decoder(_Envelope)
_command_decoder: msgspec.msgpack.Decoder[Command] = msgspec.msgpack.Decoder(Command)


def encode_command(command: Command) -> bytes:
    """The bytes of a command in the Raft log."""
    return _encoder.encode(_Envelope(version_of(command), msgspec.Raw(_encoder.encode(command))))


def version_of(command: Command) -> int:
    """Return the earliest version that can say this: a release that knows that one reads it."""
    match command:
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
    """The command in these bytes. Raises `UnknownCommand` for one that this version does not know."""
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
