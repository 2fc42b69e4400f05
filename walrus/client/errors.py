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
    │   ├── CannotLeave       removing that member would lose data or the majority
    │   ├── CannotRecover
    │   └── Unavailable       not now; it is safe to ask again, here or elsewhere
    │       ├── NoLeader
    │       ├── Busy
    │       └── Stopping
    ├── OutcomeUnknown        it may or may not have been done: sending it again may do it twice
    │   └── NotEnoughReplicas
    ├── StorageFailed         a node's disk refused; of a PUT the outcome is unknown too
    ├── Unreachable           no node could be reached; certainly not done
    ├── TimedOut              no answer in time to something that changes nothing
    └── BadReply              what answered does not speak this protocol
"""

from __future__ import annotations


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
    """Nobody registered this topic."""


class UnknownSegment(Refused):
    """The topic has no such segment (yet)."""


class UnknownNode(Refused):
    """No such member."""


class CannotLeave(Refused):
    """Removing the member would lose data or the majority."""


class CannotRecover(Refused):
    """The segment does not wait for an operator's decision."""


class NotWritten(Refused):
    """The disk of the segment's leader has no room; nothing was written. Free some and send it again."""


class Unavailable(Refused):
    """The node cannot do it now and did nothing: asking again is safe."""


class NoLeader(Unavailable):
    """Nobody can decide at the moment: an election, a failover, or a minority cut off."""


class Busy(Unavailable):
    """Too much is waiting on that node already."""


class Stopping(Unavailable):
    """That node is shutting down."""


class OutcomeUnknown(WalrusError):
    """It may have been done or not. Look before you repeat it, or live with duplicates."""


class NotEnoughReplicas(OutcomeUnknown):
    """Too few replicas took the entry in time; those that did keep it, so it may still show up."""


class StorageFailed(WalrusError):
    """A node's disk is full, failed or corrupt. Of a PUT the outcome is unknown."""


class Unreachable(WalrusError):
    """No address answered, or the connection broke before the request left: certainly not done."""


class TimedOut(WalrusError, TimeoutError):
    """No answer before the deadline, to a request that changes nothing or may be repeated."""


class BadReply(WalrusError):
    """The answer makes no sense: probably not a Walrus client port."""


# By the beginning of the reason, which is the part of an ERR line that never changes.
_BY_REASON: tuple[tuple[str, type[WalrusError]], ...] = (
    ("unknown topic", UnknownTopic),
    ("unknown segment", UnknownSegment),
    ("unknown node", UnknownNode),
    ("invalid topic", InvalidTopic),
    ("invalid frame length", PayloadTooLarge),
    ("not enough replicas", NotEnoughReplicas),
    ("no leader", NoLeader),
    ("busy", Busy),
    ("stopping", Stopping),
    ("timeout", OutcomeUnknown),
    ("outcome unknown", OutcomeUnknown),
    ("cannot leave", CannotLeave),
    ("cannot recover", CannotRecover),
    ("not written", NotWritten),
    ("storage", StorageFailed),
    ("unknown command", InvalidRequest),
    ("invalid", InvalidRequest),
)


def error_for(reason: str) -> WalrusError:
    """The error that stands for `ERR <reason>`.

    >>> error_for("unknown topic t: send REGISTER t first")
    UnknownTopic('unknown topic t: send REGISTER t first')
    >>> error_for("FETCH requires a topic").__class__, error_for("something new").__class__
    (<class 'walrus.client.errors.InvalidRequest'>, <class 'walrus.client.errors.Refused'>)
    """
    for beginning, kind in _BY_REASON:
        if reason.startswith(beginning):
            return kind(reason)
    words = reason.split(" ", 2)
    if len(words) > 1 and words[0].isupper() and words[1] in ("requires", "takes"):
        return InvalidRequest(reason)
    return Refused(reason)
