"""Messages between nodes: every message as a frozen value, with a sentence on when it is sent.

Raft's own messages are in `consensus/messages.py`; the union `PeerMessage` at the end of this module holds
both. A message is a value whose `repr` can be pasted into a test. `peer.py` encodes and decodes it.

No message is a remote procedure call whose result must arrive. The component that still needs an effect
sends its message again, and every handler tolerates the same message twice:

* an AppendReply tells the writer how long the replica's copy is, not which frame it answers;
* a proposer watches the metadata until its command is applied;
* reads and other questions carry the number of the request, so a late answer is recognised.

Invariant: a message that `flaw` passes has counts, offsets and waits that make sense, so no handler checks
them again.
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
"""Upper bound on a wait or a delay in a message; longer than any that a client may ask for."""


class Message(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Base of all messages. On the wire a message is an array: the class name, then the fields in order."""


# --- the handshake -----------------------------------------------------------------------------


ANY_NODE = 0
"""The target of a Hello whose sender does not know which member lives at the address that it dials."""


class Hello(Message, frozen=True, kw_only=True):
    """The first frame on a dialled connection: the caller's node, cluster and data directory."""

    version: int
    """The earliest version of these messages that the caller speaks."""
    cluster_id: str
    node_id: int
    directory_id: str
    incarnation: int
    target: int
    """The node that the caller expects at this address. `ANY_NODE`: the caller does not know, and only
    announces its own address; nothing else follows on this connection."""
    member_at: int = 0
    """An index of Raft's log at which the caller was certainly a member; 0 if it knows of none."""
    raft_address: str = ""
    """The address at which the caller is to be dialled."""
    log_index: int = -1
    """The last index of the caller's Raft log; -1: not told."""
    nonce: bytes = b""
    """Drawn for this connection, if the cluster has a secret."""
    newest: int = 0
    """The latest version that the caller speaks; 0: only `version`."""


class HelloReply(Message, frozen=True, kw_only=True):
    """The answer to `Hello`. An empty `error` accepts the caller; any other refuses it and ends the
    connection."""

    error: str
    cluster_id: str
    final: bool = False
    """Asking again will never help: the caller was removed, or its directory is older than it must be."""
    removed: bool = False
    """`final`, because the caller was removed from the cluster."""
    addresses: dict[int, str] = {}
    """In answer to a Hello for `ANY_NODE`: the addresses of the callee and of the members that it knows."""
    directory_id: str = ""
    """The callee's data directory, which identifies the node that answered; "": not told."""
    version: int = 0
    """The version of this connection: the highest that both ends know. 0: the version of the Hello."""


class Join(Message, frozen=True, kw_only=True):
    """Sent instead of `Hello` by a node that belongs to no cluster yet: asks any member to admit it."""

    node_id: int
    directory_id: str
    raft_address: str
    client_address: str
    nonce: bytes = b""
    """As in Hello."""


class Challenge(Message, frozen=True, kw_only=True):
    """In a cluster with a secret, the callee's first answer: proves the secret, and asks the caller to."""

    nonce: bytes
    """Drawn for this connection."""
    proof: bytes
    version: int = 0
    """The `version` that HelloReply will name. It stands here because the proof covers it."""


class Proof(Message, frozen=True, kw_only=True):
    """The answer to `Challenge`: proves that the caller knows the secret, too. The verdict follows."""

    proof: bytes


class JoinReply(Message, frozen=True, kw_only=True):
    """The answer to `Join`. If `done`, the cluster's id and its members' addresses; otherwise `error` says
    why the node is not a member (yet)."""

    done: bool
    error: str
    cluster_id: str
    addresses: dict[int, str]
    final: bool = False
    """Asking again will not help until an operator has done what `error` says."""
    member_at: int = 0
    """If `done`, an index of Raft's log at which the new node is a member."""


# --- replication: writer -> replicas (replicas/replication.py) --------------------------------------------


class Append(Message, frozen=True, kw_only=True):
    """The writer of (topic, segment) sends entries `start` .. `start + batch.count - 1`, in order.

    An empty batch asks the replica for its length. `end` is how many entries the writer has in all: a copy
    of that length is whole again, even if a power loss had shortened it.
    """

    topic: str
    segment: int
    start: int
    batch: Batch
    end: int


class AppendReply(Message, frozen=True, kw_only=True):
    """A replica's copy now has `length` entries (durably, where an acknowledgement requires a sync).

    `fenced`: the replica never takes anything from this writer again. A replica also sends this message
    unasked, when it learns that it is a replica of the segment.
    """

    topic: str
    segment: int
    length: int
    fenced: bool
    gap: bool
    """The frame began after the copy's end, so everything from `length` on must be sent again."""


# --- failover: recovering node -> replicas (replicas/failover.py) -----------------------------------------


class Fence(Message, frozen=True, kw_only=True):
    """Asks a replica to refuse the writer of (topic, segment) from now on, durably, and for its copy's
    length."""

    topic: str
    segment: int


class FenceReply(Message, frozen=True, kw_only=True):
    """The length and checksum of a fenced copy; not `sure` if a power loss may have shortened it."""

    topic: str
    segment: int
    length: int
    checksum: Checksum
    sure: bool
    producers: dict[str, LastNumber] = {}
    """The producers that have entries in the copy, with the last number of each."""


class Copy(Message, frozen=True, kw_only=True):
    """Asks a replica to extend its copy of (topic, segment) to `upto` entries from that of node `source`."""

    topic: str
    segment: int
    source: int
    upto: int


class CopyReply(Message, frozen=True, kw_only=True):
    """The answer to `Copy`: the copy durably has `length` entries, with this checksum."""

    topic: str
    segment: int
    length: int
    checksum: Checksum


# --- reads ----------------------------------------------------------------------------------------


class Read(Message, frozen=True, kw_only=True):
    """Asks for entries of (topic, segment) from offset `start` on.

    Of an open segment only the leader answers, with acknowledged entries only. `raw` asks for the copy as
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
    """For how many seconds the answer may wait for an entry at `start`."""


class ReadReply(Message, frozen=True, kw_only=True):
    """The answer to `Read`: entries from its `start` on, as many as fit, or an `error`."""

    request: int
    batch: Batch
    error: str


class FindGap(Message, frozen=True, kw_only=True):
    """Asks a replica, since a cursor cannot go on, whether its copy certainly lacks the entry at `start`."""

    topic: str
    segment: int
    start: int


class Gap(Message, frozen=True, kw_only=True):
    """The answer to `FindGap`: the copy certainly lacks entries `start` .. `end - 1`; none if these are
    equal."""

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
    """The answer to `GetEntries`: the entries that the cursor moved over. Fewer than were asked for means
    that there are no more yet.

    `moved`: the node that was asked does not lead the topic (any more).
    """

    request: int
    batch: Batch
    moved: bool
    error: Reason
    end: Position | None = None
    """The position of the next entry, if there is none yet."""


class Confirm(Message, frozen=True, kw_only=True):
    """Says whether the entries of a `GetReply` reached the client (`delivered`) or could not.

    Only a confirmed position is ever committed, and entries that are not confirmed are delivered again. So
    the death of either node causes a redelivery, never a gap.
    """

    request: int
    topic: str
    group: str
    delivered: bool


# --- work queues: node with the client -> owner of the group (broker/dispatch.py) -------------------------


class AskDeliveries(Message, frozen=True, kw_only=True):
    """Asks the owner to hand out `count` entries of a group for one client, each as soon as there is one.

    After `wait` seconds the owner stops waiting and answers with fewer. The message is sent again with the
    number that is still missing.
    """

    request: int
    topic: str
    group: str
    count: int
    wait: float


class Deliveries(Message, frozen=True, kw_only=True):
    """Entries that are handed out to that client, one receipt each; more may follow unless `last`.

    `moved`: the node that was asked does not own the topic's groups (any more).
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
    """What a client says of its deliveries: acknowledged, given back for `seconds`, or held for `seconds`
    from now."""

    request: int
    topic: str
    group: str
    what: Literal["ack", "nack", "extend"]
    receipts: tuple[Receipt, ...]
    seconds: float


class SeekGroup(Message, frozen=True, kw_only=True):
    """Moves a group to a position, or to the end of what is acknowledged if `to` is None."""

    request: int
    topic: str
    group: str
    to: Position | None


class Settled(Message, frozen=True, kw_only=True):
    """The answer to `Settle`, with a reason or none for each receipt, and to `SeekGroup`.

    The answer to an ACK is sent once the acknowledgement is committed.
    """

    request: int
    moved: bool
    errors: tuple[Reason, ...]


# --- PUTs on their way from the node that has the client to the segment's leader (broker/router.py) -------


class Forward(Message, frozen=True, kw_only=True):
    """Asks the leader of (topic, segment) to append these entries.

    `request` increases with every forward from this node for this segment. A leader that has seen a later
    forward refuses an earlier one that was delayed, which keeps the PUTs of one client in order. Entries of
    a producer (PUB) are forwarded separately: their batch has exactly one stamp.
    """

    request: int
    topic: str
    segment: int
    batch: Batch


class ForwardReply(Message, frozen=True, kw_only=True):
    """The outcome of a forward: the first `taken` of its entries were appended, and `acked` of those are
    acknowledged by now. The rest was certainly not written: `refused` says that the segment takes no more
    (it is full, sealing or fenced), and `error` anything else that the client should know.

    The last `placed` of the entries taken are at offset `first` and the offsets after it. Entries before
    these are duplicates of a producer, whose offsets are not known any more.
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
    """Asks the Raft leader to propose these commands. There is no answer: the proposer watches the
    metadata."""

    commands: tuple[Command, ...]


class ReadIndex(Message, frozen=True, kw_only=True):
    """Asks the Raft leader which log index a node must have applied to have seen all that is committed."""

    request: int


class ReadIndexReply(Message, frozen=True, kw_only=True):
    """The answer to `ReadIndex`, sent once a majority has confirmed that the sender still leads."""

    request: int
    index: int


class Recover(Message, frozen=True, kw_only=True):
    """An operator's request, passed to the Raft leader: end this recovery with the copies that answered."""

    topic: str
    segment: int


class RollOver(Message, frozen=True, kw_only=True):
    """The Raft leader asks a segment's leader to seal it early, so that the topic's replica set changes.

    The next segment is to have `replicas` replicas, if there are that many voters. The message says so
    because the Raft leader may run with another replication factor than the segment's leader; without it,
    the Raft leader would find the next segment wrong again, and repeat the request.
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
    """Why no honest node can have sent this message, as far as the message alone shows; "" if one can.

    A node checks each message once, on arrival; handlers rely on it.
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
