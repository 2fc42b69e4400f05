"""The exceptions of the clients, under one root.

After a failed PUT a program first needs to know whether the entry was written. So the classes answer that
first:

    WalrusError
    ├── Refused               a node answered ERR; nothing was done
    │   ├── InvalidRequest    the request itself is wrong and will stay wrong
    │   │   ├── InvalidTopic
    │   │   └── PayloadTooLarge
    │   ├── UnknownTopic      REGISTER it first
    │   ├── TopicExists       with other settings
    │   ├── UnknownSegment
    │   ├── Trimmed           retention has dropped the entries
    │   ├── UnknownNode
    │   ├── GroupInUse        a group is read with GET or with RECEIVE, not with both
    │   ├── OutOfSequence     an earlier entry of the producer is missing
    │   ├── UnknownProducer   it was idle for too long; go on under another name
    │   ├── StaleReceipt      NACK or EXTEND of a delivery that is over
    │   ├── Unauthenticated   the node asks for a token, and the client has no valid one
    │   ├── Forbidden         the token's identity may not do that, or not with that topic
    │   ├── LimitReached      too many topics, consumer groups or producers
    │   ├── CannotLeave       removing that member would lose data or the majority
    │   │   └── NeedsForce    it would leave segments with fewer replicas; `force` does it all the same
    │   ├── OlderRelease      a member does not know the request; upgrade it first
    │   ├── CannotRecover     the segment is sealed already
    │   ├── EntriesLost       no replica has them any more; the message says where to go on
    │   ├── NotWritten        a disk has no room
    │   ├── Overtaken         entries sent later were written first
    │   └── Unavailable       not now; it is safe to ask again, the same node or another
    │       ├── NoLeader
    │       ├── NotEnoughReplicas
    │       ├── NoReplica
    │       └── Busy
    ├── OutcomeUnknown        it may or may not have been done: sending it again may do it twice
    ├── Unreachable           no node could be reached; certainly not done
    ├── TimedOut              no answer in time to a request that changes nothing or may be repeated
    └── BadReply              the other end does not speak this protocol

The table in `walrus/wire/errors.py` maps each reason of a node to one of these classes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from walrus.wire.errors import kind_of


class WalrusError(Exception):
    """The root of the exceptions of the clients."""

    received: tuple[bytes, ...] = ()
    """If a `get_many` failed midway: the entries that arrived before. The cursor has moved past them."""


class Refused(WalrusError):
    """A node answered `ERR <reason>` and did nothing. `str(error)` is the reason, one line."""


class InvalidRequest(Refused):
    """The request violates the protocol; sending it again will not help."""


class InvalidTopic(InvalidRequest):
    """Not a valid name: 1 to 255 bytes of UTF-8 without spaces or control characters."""


class PayloadTooLarge(InvalidRequest):
    """The entry does not fit into the frames that the nodes accept (--max-frame-bytes)."""


class UnknownTopic(Refused):
    """The topic was never registered."""


class TopicExists(Refused):
    """`register` of a topic that exists with other settings: change them with `configure`."""


class Trimmed(Refused):
    """Retention has dropped these entries. The message says where the topic begins."""


class UnknownSegment(Refused):
    """The topic has no such segment (yet)."""


class UnknownNode(Refused):
    """The cluster has no such member."""


class CannotLeave(Refused):
    """Removing the member would lose data or the majority."""


class NeedsForce(CannotLeave):
    """Fewer voters would remain than the replication factor; `leave(..., force=True)` removes it anyway."""


class OlderRelease(Refused):
    """A member runs a release that does not know the request."""


class CannotRecover(Refused):
    """The segment is sealed already."""


class EntriesLost(Refused):
    """None of the replicas has these entries any more: a documented loss. The message says where to go on."""


class NotWritten(Refused):
    """The disk of the segment's leader has no room; nothing was written. Free some and send it again."""


class OutOfSequence(Refused):
    """An earlier entry of this producer is missing. Perhaps another producer uses the same name."""


class UnknownProducer(Refused):
    """The topic does not know the producer (any more): go on under another name, from number 0."""


class Unauthenticated(Refused):
    """The node asks for a token (`WALRUS_TOKEN_FILE`), and the client has none, or one that is not valid."""


class Forbidden(Refused):
    """The client's identity does not have the role for this request, or not for this topic."""


class LimitReached(Refused):
    """The cluster has too many topics, or the topic too many consumer groups or producers."""


class GroupInUse(Refused):
    """GET of a group that is read with RECEIVE, or the reverse."""


class StaleReceipt(Refused):
    """The delivery is over: its entry was acknowledged, given back, or handed out again."""


class Overtaken(Refused):
    """Entries sent later were written first, and this one was not. Sent again, it comes after them."""


class Unavailable(Refused):
    """The node cannot do it now and did nothing: asking again is safe."""


class NoLeader(Unavailable):
    """No leader is known: an election, a failover, or the node is cut off from the majority."""


class NotEnoughReplicas(Unavailable):
    """The segment's leader reaches too few replicas, and wrote nothing."""


class NoReplica(Unavailable):
    """None of the nodes that hold the entries to be read answered. No cursor moved."""


class Busy(Unavailable):
    """Too many requests are waiting on that node."""


class OutcomeUnknown(WalrusError):
    """The request may have been executed or not. Check before you repeat it, or accept duplicates."""


class Unreachable(WalrusError):
    """No address answered, or the connection broke before the request left: certainly not done."""


class TimedOut(WalrusError, TimeoutError):
    """No answer before the deadline, to a request that changes nothing or may be repeated."""


class BadReply(WalrusError):
    """The answer is malformed: this is probably not the client port of a Walrus node."""


PASSING: Final = (Unavailable, Unreachable, TimedOut, OutcomeUnknown)
"""Temporary errors: a program that can ask again waits until they pass."""


def _family(kind: type[WalrusError]) -> Iterator[type[WalrusError]]:
    """Yield a class and all classes below it."""
    yield kind
    for heir in kind.__subclasses__():
        yield from _family(heir)


_BY_NAME: Final = {kind.__name__: kind for kind in _family(WalrusError)}


def error_for(reason: str) -> WalrusError:
    """The error for `ERR <reason>`, by the table in `walrus/wire/errors.py`.

    A reason that this version does not know becomes `OutcomeUnknown`: whether the request was executed is
    not known, either.

    >>> error_for("unknown topic t: send REGISTER t first")
    UnknownTopic('unknown topic t: send REGISTER t first')
    >>> error_for("FETCH requires a topic").__class__, error_for("something new").__class__
    (<class 'walrus.client.errors.InvalidRequest'>, <class 'walrus.client.errors.OutcomeUnknown'>)
    """
    kind = kind_of(reason)
    return OutcomeUnknown(reason) if kind is None else _BY_NAME[kind.exception](reason)
