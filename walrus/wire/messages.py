"""What nodes say to each other: every message, frozen, with a sentence on when it is sent.

Raft's own messages are in `consensus/messages.py`; the union `PeerMessage` at the end holds both. All of
them are values whose `repr` can be pasted into a test. `peer.py` turns them into bytes.

Nothing here is a remote procedure call with a result that must arrive. A lost message is sent again by the
component that still needs it, and every handler can be given the same message twice: writers are told a
replica's length, proposals are watched for in the metadata, reads carry the number of the request.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

from walrus.consensus.messages import RaftMessage
from walrus.segments import Command, LastNumber, Position
from walrus.storage.batch import Batch, Checksum
from walrus.wire.errors import Reason
from walrus.wire.receipts import Receipt

MAX_SECONDS = 100_000
"""Of a wait or a delay; more than any client may ask for."""


class Message(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Base of all messages: on the wire an array, the class name first, then the fields in order."""


# --- the handshake -----------------------------------------------------------------------------


ANY_NODE = 0
"""The target of a Hello whose sender does not know which member lives at the address that it dials."""


class Hello(Message, frozen=True, kw_only=True):
    """First frame of a dialled connection: the caller's node, cluster and data directory."""

    version: int
    """The earliest version of these messages that the caller speaks."""
    cluster_id: str
    node_id: int
    directory_id: str
    incarnation: int
    target: int
    """The node that the caller believes lives at this address. `ANY_NODE`: it does not know, and only says
    where it lives itself; nothing else follows on this connection."""
    member_at: int = 0
    """An index of Raft's log at which the caller was a member for certain, 0 if it knows of none."""
    raft_address: str = ""
    """Where the caller is to be dialled."""
    log_index: int = -1
    """The last index of the caller's Raft log; -1: not told."""
    nonce: bytes = b""
    """Drawn for this connection, if the cluster has a secret."""
    newest: int = 0
    """The latest version that the caller speaks; 0: `version` alone."""


class HelloReply(Message, frozen=True, kw_only=True):
    """The answer to `Hello`: an empty `error` lets the caller go on, anything else ends the call."""

    error: str
    cluster_id: str
    final: bool = False
    """Asking again will never help: the caller was removed, or its directory is older than it must be."""
    removed: bool = False
    """`final`, because the caller was removed from the cluster."""
    addresses: dict[int, str] = {}
    """To a Hello for `ANY_NODE`: where the callee and the members that it knows of live."""
    directory_id: str = ""
    """Which process the caller is connected to, by its data directory; "": not told."""
    version: int = 0
    """What this connection speaks from now on: the highest version that both know. 0: that of the Hello."""


class Join(Message, frozen=True, kw_only=True):
    """Instead of `Hello`: a node that knows no cluster asks any member to be taken in."""

    node_id: int
    directory_id: str
    raft_address: str
    client_address: str
    nonce: bytes = b""
    """As in Hello."""


class Challenge(Message, frozen=True, kw_only=True):
    """In a cluster with a secret, the callee's first answer: it knows the secret; does the caller?"""

    nonce: bytes
    """Drawn for this connection."""
    proof: bytes
    version: int = 0
    """As it will be in HelloReply: there nothing is proven any more."""


class Proof(Message, frozen=True, kw_only=True):
    """The answer to `Challenge`: the caller knows the secret, too. The verdict follows."""

    proof: bytes


class JoinReply(Message, frozen=True, kw_only=True):
    """`done`: the cluster's id and where its members are. Otherwise `error` says why not (yet)."""

    done: bool
    error: str
    cluster_id: str
    addresses: dict[int, str]
    final: bool = False
    """Asking again will not help: an operator has to do what `error` says first."""
    member_at: int = 0
    """If `done`, an index of Raft's log at which the applicant is a member."""


# --- replication: writer -> replicas (replicas/replication.py) --------------------------------------------


class Append(Message, frozen=True, kw_only=True):
    """The writer of (topic, segment) sends entries `start` .. `start + batch.count - 1`, in order.

    An empty batch asks the replica for its length. `end` is how many entries the writer has in all: a
    copy that reaches it is whole, whatever a power loss took from it before.
    """

    topic: str
    segment: int
    start: int
    batch: Batch
    end: int


class AppendReply(Message, frozen=True, kw_only=True):
    """A replica's copy now has `length` entries (durably, where acknowledgements ask for that).

    `fenced` says that it takes nothing more from this writer, ever. Also sent unasked when a replica
    learns of a segment that it is a replica of.
    """

    topic: str
    segment: int
    length: int
    fenced: bool
    gap: bool
    """The frame began past the copy's end, so everything from `length` on must be sent again."""


# --- failover: recovering node -> replicas (replicas/failover.py) -----------------------------------------


class Fence(Message, frozen=True, kw_only=True):
    """Refuse the writer of (topic, segment) from now on, durably, and tell the copy's length."""

    topic: str
    segment: int


class FenceReply(Message, frozen=True, kw_only=True):
    """A fenced copy's length and checksum; not `sure` if a power loss may have shortened it."""

    topic: str
    segment: int
    length: int
    checksum: Checksum
    sure: bool
    producers: dict[str, LastNumber] = {}
    """Those that have entries in the copy."""


class Copy(Message, frozen=True, kw_only=True):
    """Extend your copy of (topic, segment) to `upto` entries from the copy on node `source`."""

    topic: str
    segment: int
    source: int
    upto: int


class CopyReply(Message, frozen=True, kw_only=True):
    """The copy durably has `length` entries and they have this checksum."""

    topic: str
    segment: int
    length: int
    checksum: Checksum


# --- reads ----------------------------------------------------------------------------------------


class Read(Message, frozen=True, kw_only=True):
    """Entries of (topic, segment) from `start` on, please.

    Of an open segment only acknowledged ones, and only its leader answers; `raw` asks for the copy as
    it is, for recovery and repair.
    """

    request: int
    topic: str
    segment: int
    start: int
    max_entries: int
    max_bytes: int
    raw: bool
    wait: float = 0.0
    """Seconds for which the answer may wait until there is an entry at `start`."""


class ReadReply(Message, frozen=True, kw_only=True):
    """Entries from `start` on, as many as fit. `error` is set if this node cannot answer."""

    request: int
    batch: Batch
    error: str


class FindGap(Message, frozen=True, kw_only=True):
    """A cursor cannot go on: does your copy lack the entry at `start`, for certain?"""

    topic: str
    segment: int
    start: int


class Gap(Message, frozen=True, kw_only=True):
    """This replica's copy lacks entries `start` .. `end - 1` for certain; none if the two are equal."""

    topic: str
    segment: int
    start: int
    end: int


class GetEntries(Message, frozen=True, kw_only=True):
    """A node with clients asks the topic's leader for the next `count` entries of a group's cursor."""

    request: int
    topic: str
    group: str
    count: int


class GetReply(Message, frozen=True, kw_only=True):
    """The entries that the cursor moved over: fewer than asked means that there are no more yet.

    `moved` says that the node asked does not lead the topic (any more): ask the one that does.
    """

    request: int
    batch: Batch
    moved: bool
    error: Reason
    end: Position | None = None
    """Where the next entry will be, if there is none."""


class Confirm(Message, frozen=True, kw_only=True):
    """The entries of that `GetReply` went to the client, or (`delivered` false) could not.

    Only a confirmed position is ever committed, and one that is not confirmed is delivered again: the
    death of either node is a redelivery, never a gap.
    """

    request: int
    topic: str
    group: str
    delivered: bool


# --- work queues: node with the client -> owner of the group (broker/dispatch.py) -------------------------


class AskDeliveries(Message, frozen=True, kw_only=True):
    """Hand out entries of a group for one client: `count` in all, each as soon as there is one.

    After `wait` seconds the rest is answered with none. Sent again with what is still missing.
    """

    request: int
    topic: str
    group: str
    count: int
    wait: float


class Deliveries(Message, frozen=True, kw_only=True):
    """Entries that are out with that client now, one receipt each; more may follow unless `last`.

    `moved` says that the node asked does not own the topic's groups (any more).
    """

    request: int
    topic: str
    group: str
    receipts: tuple[Receipt, ...]
    batch: Batch
    last: bool
    moved: bool
    error: Reason


class Settle(Message, frozen=True, kw_only=True):
    """What became of deliveries: acknowledged, given back for `seconds`, or extended by them."""

    request: int
    topic: str
    group: str
    what: Literal["ack", "nack", "extend"]
    receipts: tuple[Receipt, ...]
    seconds: float


class SeekGroup(Message, frozen=True, kw_only=True):
    """Move a group, to a position, or to the end of what is acknowledged if there is none."""

    request: int
    topic: str
    group: str
    to: Position | None


class Settled(Message, frozen=True, kw_only=True):
    """The answer to `Settle`, a reason or none for each receipt, and to `SeekGroup`.

    For an ACK it comes once the acknowledgement is committed.
    """

    request: int
    moved: bool
    errors: tuple[Reason, ...]


# --- PUTs on their way from the node that has the client to the segment's leader (broker/router.py) -------


class Forward(Message, frozen=True, kw_only=True):
    """Append these entries to (topic, segment), which you lead.

    `request` rises with every forward of this origin for this segment: a leader that has seen a later
    one refuses an earlier one that was delayed, which keeps one client's PUTs in order. Entries of a
    producer (PUB) come alone: their batch has one stamp.
    """

    request: int
    topic: str
    segment: int
    batch: Batch


class ForwardReply(Message, frozen=True, kw_only=True):
    """What became of a forward: the first `taken` of its entries were appended, and of those `acked`
    are acknowledged by now. The rest was certainly not written: `refused` says that the segment takes
    no more (it is full, sealing or fenced), `error` anything else that the client should know.

    The last `placed` of those taken are at offset `first` and behind. Where a producer's repeated entries
    are, which come before them, is not known any more.
    """

    request: int
    topic: str
    segment: int
    taken: int
    acked: int
    refused: bool
    error: Reason
    first: int = 0
    placed: int = 0


# --- metadata --------------------------------------------------------------------------------------


class Propose(Message, frozen=True, kw_only=True):
    """To the Raft leader: propose these commands. No answer: the proposer watches the metadata."""

    commands: tuple[Command, ...]


class ReadIndex(Message, frozen=True, kw_only=True):
    """To the Raft leader: which log index must I have applied to have seen all that is committed?"""

    request: int


class ReadIndexReply(Message, frozen=True, kw_only=True):
    """The answer, given once a quorum has confirmed that the leader is one."""

    request: int
    index: int


class Recover(Message, frozen=True, kw_only=True):
    """To the Raft leader, from an operator: end this recovery with the copies that answered."""

    topic: str
    segment: int


class RollOver(Message, frozen=True, kw_only=True):
    """The Raft leader asks a segment's leader to seal it early, to change its replica set.

    The next one is to have `replicas` replicas, if there are so many voters: this Raft leader may have been
    given another replication factor than that node, and would ask again.
    """

    topic: str
    segment: int
    replicas: int = 0


PeerMessage: TypeAlias = (
    Hello
    | HelloReply
    | Join
    | Challenge
    | Proof
    | JoinReply
    | Append
    | AppendReply
    | Fence
    | FenceReply
    | Copy
    | CopyReply
    | Read
    | ReadReply
    | FindGap
    | Gap
    | GetEntries
    | GetReply
    | Confirm
    | AskDeliveries
    | Deliveries
    | Settle
    | SeekGroup
    | Settled
    | Forward
    | ForwardReply
    | Propose
    | ReadIndex
    | ReadIndexReply
    | Recover
    | RollOver
    | RaftMessage
)


def flaw(message: PeerMessage) -> str:
    """What no honest node can have sent, as far as the message itself shows; "" if there is nothing.

    Checked once, at the door: behind it batches add up and counts are counts.
    """
    match message:
        case Append() if message.start < 0:
            return "a frame that starts before the beginning"
        case Forward() if not message.batch.count:
            return "a forward of nothing"
        case Forward() if len(message.batch.stamps) > 1:
            return "a forward of several producers"
        case ForwardReply() if not (0 <= message.acked <= message.taken and message.first >= 0):
            return "an outcome with impossible counts"
        case ForwardReply() if not 0 <= message.placed <= message.taken:
            return "places of entries that were not appended"
        case FindGap() if message.start < 0:
            return "a gap before the beginning"
        case Gap() if not 0 <= message.start <= message.end:
            return "a gap that ends before it begins"
        case GetEntries() | AskDeliveries() if message.count < 1:
            return "a question for no entries"
        case AskDeliveries() if not 0 <= message.wait < MAX_SECONDS:
            return "a wait without end"
        case Read() if not 0 <= message.wait < MAX_SECONDS:
            return "a wait without end"
        case Settle() if not 0 <= message.seconds < MAX_SECONDS:
            return "a delay without end"
        case Deliveries() if message.batch.count != len(message.receipts):
            return "entries without receipts"
        case Append() | Forward() | ReadReply() | GetReply() | Deliveries():
            try:
                message.batch.check()
            except ValueError as error:
                return str(error)
    return ""
