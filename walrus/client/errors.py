"""What can go wrong for a client, as classes under one root.

The question after a failed PUT is never "why" but "was it written?", so the classes answer that first:

    WalrusError
    ├── Refused               a node answered ERR; nothing was done
    │   ├── InvalidRequest    the request itself is wrong and will stay wrong
    │   │   ├── InvalidTopic
    │   │   └── PayloadTooLarge
    │   ├── UnknownTopic      REGISTER it first
    │   ├── UnknownSegment
    │   ├── UnknownNode
    │   ├── GroupInUse        a group is read with GET or with RECEIVE, not with both
    │   ├── OutOfSequence     a producer's entry, of which an earlier one is missing
    │   ├── UnknownProducer   one that was idle for too long; go on under another name
    │   ├── StaleReceipt      NACK or EXTEND of a delivery that is over
    │   ├── Unauthenticated   the node asks for a token, and this client has none that it knows
    │   ├── Forbidden         the token's owner may not do that, or not with that topic
    │   ├── LimitReached      one topic or consumer group more than are kept
    │   ├── CannotLeave       removing that member would lose data or the majority
    │   │   └── NeedsForce    it would cost segments a replica; `force` does it all the same
    │   ├── OlderRelease      a member does not know what is asked for; upgrade it first
    │   ├── CannotRecover
    │   ├── EntriesLost       no replica has them any more; the message says where to go on
    │   ├── NotWritten        a disk has no room
    │   ├── Overtaken         entries sent later were written first
    │   └── Unavailable       not now; it is safe to ask again, here or elsewhere
    │       ├── NoLeader
    │       ├── NotEnoughReplicas
    │       ├── NoReplica
    │       └── Busy
    ├── OutcomeUnknown        it may or may not have been done: sending it again may do it twice
    ├── Unreachable           no node could be reached; certainly not done
    ├── TimedOut              no answer in time to something that changes nothing
    └── BadReply              what answered does not speak this protocol
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from walrus.wire.errors import kind_of


class WalrusError(Exception):
    """The root of everything that the clients raise."""

    received: tuple[bytes, ...] = ()
    """Of a `get_many` that failed on the way: the entries that came before. The cursor is past them."""


class Refused(WalrusError):
    """A node answered `ERR <reason>` and did nothing. `str(error)` is the reason, one line."""


class InvalidRequest(Refused):
    """The request breaks the protocol; sending it again will not help."""


class InvalidTopic(InvalidRequest):
    """Not a topic: 1 to 255 bytes of UTF-8 without spaces or control characters."""


class PayloadTooLarge(InvalidRequest):
    """The entry does not fit into the frames that the nodes accept (--max-frame-bytes)."""


class UnknownTopic(Refused):
    """The topic was never registered."""


class TopicExists(Refused):
    """`register` with settings of a topic that has others: change them with `configure`."""


class Trimmed(Refused):
    """Retention has dropped these entries. The message says where the topic begins."""


class UnknownSegment(Refused):
    """The topic has no such segment (yet)."""


class UnknownNode(Refused):
    """No such member."""


class CannotLeave(Refused):
    """Removing the member would lose data or the majority."""


class NeedsForce(CannotLeave):
    """Fewer voters would stay than segments should have replicas; `leave(..., force=True)` removes it."""


class OlderRelease(Refused):
    """A member runs a release that does not know what is asked for."""


class CannotRecover(Refused):
    """The segment does not wait for an operator's decision."""


class EntriesLost(Refused):
    """None of the replicas has these entries any more: a documented loss. The message says where to go on."""


class NotWritten(Refused):
    """The disk of the segment's leader has no room; nothing was written. Free some and send it again."""


class OutOfSequence(Refused):
    """A numbered entry, of which an earlier one is missing: another producer has the same name, perhaps."""


class UnknownProducer(Refused):
    """The topic knows nothing (any more) of a producer of that name: go on under another one, from 0."""


class Unauthenticated(Refused):
    """The node asks for a token (`WALRUS_TOKEN_FILE`), and the client has none that is known there."""


class Forbidden(Refused):
    """The owner of the client's token has not the role for this, or not for that topic."""


class LimitReached(Refused):
    """The cluster keeps no more topics, or the topic no more consumer groups."""


class GroupInUse(Refused):
    """The group is read with GET where RECEIVE was asked for, or the other way round."""


class StaleReceipt(Refused):
    """That delivery is over: its entry was acknowledged, given back, or is out with another consumer."""


class Overtaken(Refused):
    """Entries sent later were written first and this one was not: sent again, it ends up behind them."""


class Unavailable(Refused):
    """The node cannot do it now and did nothing: asking again is safe."""


class NoLeader(Unavailable):
    """No leader is known at the moment: an election, a failover, or a minority that is cut off."""


class NotEnoughReplicas(Unavailable):
    """The segment's leader reaches too few replicas to write: it did not even begin."""


class NoReplica(Unavailable):
    """None of the nodes that hold the entries to be read answered. No cursor moved."""


class Busy(Unavailable):
    """Too much is waiting on that node already."""


class OutcomeUnknown(WalrusError):
    """It may have been done or not. Look before you repeat it, or live with duplicates."""


class Unreachable(WalrusError):
    """No address answered, or the connection broke before the request left: certainly not done."""


class TimedOut(WalrusError, TimeoutError):
    """No answer before the deadline, to a request that changes nothing or may be repeated."""


class BadReply(WalrusError):
    """The answer makes no sense: probably not a Walrus client port."""


PASSING: Final = (Unavailable, Unreachable, TimedOut, OutcomeUnknown)
"""What a program waits out that can ask again: a cluster that has lost too many nodes, for example."""


def _family(kind: type[WalrusError]) -> Iterator[type[WalrusError]]:
    """A class and all below it."""
    yield kind
    for heir in kind.__subclasses__():
        yield from _family(heir)


_BY_NAME: Final = {kind.__name__: kind for kind in _family(WalrusError)}


def error_for(reason: str) -> WalrusError:
    """The error that stands for `ERR <reason>`, by the table of `walrus/wire/errors.py`.

    A reason that this version does not know says nothing about whether the request was carried out.

    >>> error_for("unknown topic t: send REGISTER t first")
    UnknownTopic('unknown topic t: send REGISTER t first')
    >>> error_for("FETCH requires a topic").__class__, error_for("something new").__class__
    (<class 'walrus.client.errors.InvalidRequest'>, <class 'walrus.client.errors.OutcomeUnknown'>)
    """
    kind = kind_of(reason)
    return OutcomeUnknown(reason) if kind is None else _BY_NAME[kind.exception](reason)
