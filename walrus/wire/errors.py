"""Errors: every line that a node answers with ERR, and what a client may conclude from it.

An error is `ERR <reason>`. A reason is one line: what is wrong, `: `, and what to do about it. Its beginning
never changes and identifies its kind. The table `KINDS` says for each kind which exception a client raises,
whether the request may have taken effect, and whether a client may send it again by itself.

This module is the only one that makes reasons. mypy enforces it: `replies.error` takes a `Reason`, and no
other module constructs one. The clients and the simulator look reasons up in the table, and a test compares
it with the table in docs/protocol.md.

Invariants: each reason is of exactly one kind; each kind has at least one reason; a request that may have
taken effect is of no kind that a client sends again by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal, NewType

import msgspec

from walrus.wire.framing import MAX_SKIP_BYTES

Reason = NewType("Reason", str)
"""The text that follows `ERR `."""

NO_ERROR: Final = Reason("")
"""In a message between nodes: nothing went wrong."""


class Kind(msgspec.Struct, frozen=True):
    """The errors with one beginning, and what they have in common."""

    begins: str
    exception: str
    """The exception class of `walrus.client` that it becomes."""
    when: str
    """When it occurs, for the documentation."""
    done: Literal["no", "maybe"] = "no"
    """Whether the request may have taken effect."""
    again: bool = False
    """Whether a client may send it again by itself: nothing was done, and it may work later or on another
    node."""


KINDS: Final = (
    # The request is wrong, and stays wrong.
    Kind(
        "unknown command", "InvalidRequest", "the first word is none of the commands, which are in capitals"
    ),
    Kind("PUT requires a topic", "InvalidRequest", "`PUT`, `PUT ` or two spaces after `PUT`"),
    Kind("PUT requires a payload", "InvalidRequest", "`PUT <topic>` without its second space"),
    Kind("PUB requires", "InvalidRequest", "an argument is missing, or a number is not one"),
    Kind("REGISTER requires", "InvalidRequest", "an argument is missing"),
    Kind("GET requires", "InvalidRequest", "an argument is missing"),
    Kind("FETCH requires", "InvalidRequest", "an argument is missing, or a number is not one"),
    Kind("FIND requires", "InvalidRequest", "an argument is missing, or a number is not one"),
    Kind("RECEIVE requires", "InvalidRequest", "an argument is missing"),
    Kind("ACK requires", "InvalidRequest", "an argument is missing"),
    Kind("NACK requires", "InvalidRequest", "an argument is missing"),
    Kind("EXTEND requires", "InvalidRequest", "an argument is missing"),
    Kind("SEEK requires", "InvalidRequest", "an argument is missing, or a number is not one"),
    Kind("STATE requires", "InvalidRequest", "an argument is missing"),
    Kind("GROUPS requires", "InvalidRequest", "an argument is missing"),
    Kind("METRICS takes", "InvalidRequest", "it takes no argument"),
    Kind("CONFIGURE requires", "InvalidRequest", "an argument is missing"),
    Kind("DELETE requires", "InvalidRequest", "an argument is missing"),
    Kind("LEAVE requires", "InvalidRequest", "an argument is missing, or a number is not one"),
    Kind("RECOVER requires", "InvalidRequest", "an argument is missing, or a number is not one"),
    Kind("AUTH requires", "InvalidRequest", "an argument is missing, or one too many"),
    Kind("HELLO requires", "InvalidRequest", "an option is missing, or a value that is neither 0 nor 1"),
    Kind("invalid topic", "InvalidTopic", "not 1 to 255 bytes, or a space or control character in it"),
    Kind("invalid group", "InvalidRequest", "the same rules, for the consumer group of `GET` or `RECEIVE`"),
    Kind("invalid producer", "InvalidRequest", "the same rules, for the producer of `PUB`"),
    Kind(
        "invalid receipt",
        "InvalidRequest",
        "not a text that `RECEIVE` gives",
    ),
    Kind("invalid time", "InvalidRequest", "a wait, delay or extension above a day, or no number"),
    Kind("invalid position", "InvalidRequest", "`SEEK` to where no entry is and none comes next"),
    Kind(
        "invalid setting",
        "InvalidRequest",
        "no setting of that name, or no value that makes sense for it; nothing was changed",
    ),
    Kind("invalid utf-8", "InvalidRequest", "in the command or an argument; a payload may be any bytes"),
    Kind("invalid frame length", "PayloadTooLarge", "0, or more than `--max-frame-bytes`"),
    # Refused: nothing was done.
    Kind(
        "unauthenticated:",
        "Unauthenticated",
        "the node asks for a token, and was sent none that it knows",
    ),
    Kind("forbidden:", "Forbidden", "the identity has not the role, or not for that topic"),
    Kind("unknown topic", "UnknownTopic", "`REGISTER` it first"),
    Kind("topic exists", "TopicExists", "`REGISTER` with other settings than the topic has"),
    Kind("trimmed:", "Trimmed", "`FETCH` of what retention has dropped"),
    Kind("unknown segment", "UnknownSegment", "`FETCH` or `RECOVER` of a segment that is not there (yet)"),
    Kind("unknown node", "UnknownNode", "`LEAVE` of what is no member"),
    Kind("too many topics", "LimitReached", "`REGISTER` of one more than a cluster keeps"),
    Kind("too many consumer groups", "LimitReached", "one more than a topic keeps"),
    Kind(
        "too many producers",
        "LimitReached",
        "one more than a topic keeps, and none has been idle for an hour",
    ),
    Kind("out of sequence", "OutOfSequence", "`PUB` of a number above the one that comes next"),
    Kind(
        "unknown producer",
        "UnknownProducer",
        "`PUB` of a number above 0, of a name that is not known (any more)",
    ),
    Kind("group in use", "GroupInUse", "a group is read with `GET` or with `RECEIVE`, not with both"),
    Kind(
        "stale receipt",
        "StaleReceipt",
        "`NACK` or `EXTEND` of a delivery that is over, `ACK` of one from before a `SEEK` or of no entry",
    ),
    Kind("cannot leave:", "CannotLeave", "removing that member would lose data or the majority"),
    Kind("needs force:", "NeedsForce", "`LEAVE` would leave fewer voters than segments should have replicas"),
    Kind(
        "older release:",
        "OlderRelease",
        "a member runs a release that does not know what is asked for: upgrade it first",
    ),
    Kind("cannot recover:", "CannotRecover", "`RECOVER` of a segment that is sealed already"),
    Kind("gone:", "EntriesLost", "`FETCH` of sealed entries that none of the replicas has any more"),
    Kind("not written:", "NotWritten", "the disk of the segment's leader has no room"),
    Kind(
        "overtaken:", "Overtaken", "entries sent later were written first; sent again, it ends up behind them"
    ),
    # Not now: nothing was done, and it may work later or on another node.
    Kind(
        "no leader:",
        "NoLeader",
        "an election, a failover, or this node is cut off from the majority",
        again=True,
    ),
    Kind(
        "not enough replicas:",
        "NotEnoughReplicas",
        "the segment's leader reaches too few of them, or a topic cannot be placed on enough",
        again=True,
    ),
    Kind("no replica answered:", "NoReplica", "of those that hold the entries to be read", again=True),
    Kind("busy:", "Busy", "too much waits on this node; slow down", again=True),
    # The outcome is unknown.
    Kind("timeout:", "OutcomeUnknown", "no answer in time from a node that would know", done="maybe"),
    Kind("outcome unknown:", "OutcomeUnknown", "the segment's leader died meanwhile", done="maybe"),
)


def kind_of(reason: str) -> Kind | None:
    """The kind of a reason; None if this version does not know it.

    >>> kind_of("busy: too much is waiting").exception, kind_of("something new")
    ('Busy', None)
    """
    return next((kind for kind in KINDS if reason.startswith(kind.begins)), None)


# --- the request is wrong, and stays wrong --------------------------------------------------------

UNKNOWN_COMMAND: Final = Reason(
    "unknown command: send REGISTER, CONFIGURE, DELETE, PUT, PUB, GET, FETCH, FIND, RECEIVE, ACK, NACK, "
    "EXTEND, SEEK, STATE, TOPICS, GROUPS, METRICS, LEAVE, RECOVER, AUTH or HELLO, in capitals, one space "
    "between arguments"
)
PUT_REQUIRES_TOPIC: Final = Reason("PUT requires a topic: send PUT <topic> <payload>")
PUT_REQUIRES_PAYLOAD: Final = Reason(
    "PUT requires a payload: send PUT <topic> <payload>, with the second space even if the payload is empty"
)
PUB_REQUIRES: Final = Reason(
    "PUB requires a topic, a producer, a sequence and a payload: send PUB <topic> <producer> "
    "<sequence from 0> <payload>, with the fourth space even if the payload is empty"
)
REGISTER_REQUIRES: Final = Reason(
    "REGISTER requires a topic: send REGISTER <topic>, and <key>=<value> for each setting"
)
CONFIGURE_REQUIRES: Final = Reason(
    "CONFIGURE requires a topic and a setting: send CONFIGURE <topic> <key>=<value>"
)
DELETE_REQUIRES: Final = Reason("DELETE requires a topic: send DELETE <topic>")
GET_REQUIRES: Final = Reason(
    "GET requires a topic: send GET <topic>, GET <topic> <group> or GET <topic> <group> <wait_ms>"
)
FETCH_REQUIRES: Final = Reason(
    "FETCH requires a topic, a segment and an offset: send FETCH <topic> <segment from 1> <offset from 0>"
)
RECEIVE_REQUIRES: Final = Reason(
    "RECEIVE requires a topic and a group: send RECEIVE <topic> <group> or RECEIVE <topic> <group> <wait_ms>"
)
ACK_REQUIRES: Final = Reason(
    "ACK requires a topic, a group and a receipt: send ACK <topic> <group> <receipt>"
)
NACK_REQUIRES: Final = Reason(
    "NACK requires a topic, a group and a receipt: send NACK <topic> <group> <receipt>, and <delay_ms> if "
    "it is to wait"
)
EXTEND_REQUIRES: Final = Reason(
    "EXTEND requires a topic, a group, a receipt and a time: send EXTEND <topic> <group> <receipt> <ms>"
)
FIND_REQUIRES: Final = Reason("FIND requires a topic and a time: send FIND <topic> time=<unix ms>")
SEEK_REQUIRES: Final = Reason(
    "SEEK requires a topic, a group and a place: send SEEK <topic> <group> <segment from 1> <offset from 0>, "
    "or begin, end or time=<unix ms> for these two"
)
STATE_REQUIRES: Final = Reason("STATE requires a topic: send STATE <topic>")
GROUPS_REQUIRES: Final = Reason("GROUPS requires a topic: send GROUPS <topic>")
METRICS_TAKES_NOTHING: Final = Reason("METRICS takes no arguments: send METRICS")
LEAVE_REQUIRES: Final = Reason(
    "LEAVE requires a node id: send LEAVE <node_id>, a number from 1, or LEAVE <node_id> force"
)
RECOVER_REQUIRES: Final = Reason(
    "RECOVER requires a topic and a segment: send RECOVER <topic> <segment from 1>"
)
AUTH_REQUIRES: Final = Reason("AUTH requires a token: send AUTH <token>")
HELLO_REQUIRES: Final = Reason(
    "HELLO requires options: send HELLO <option>=1, or <option>=0, with one space between two of them"
)
INVALID_TOPIC: Final = Reason(
    "invalid topic: use 1 to 255 bytes of UTF-8 without spaces or control characters"
)
INVALID_GROUP: Final = Reason(
    "invalid group: use 1 to 255 bytes of UTF-8 without spaces or control characters"
)
INVALID_PRODUCER: Final = Reason(
    "invalid producer: use 1 to 255 bytes of UTF-8 without spaces or control characters"
)
INVALID_RECEIPT: Final = Reason("invalid receipt: send the first word behind OK in the reply to RECEIVE")
INVALID_TIME: Final = Reason("invalid time: a wait, a delay or an extension is 0 to 86400000 milliseconds")
INVALID_UTF8: Final = Reason(
    "invalid utf-8: encode command and arguments as UTF-8 (a payload may be any bytes)"
)


def invalid_frame_length(length: int, limit: int) -> Reason:
    """A frame that is empty or longer than this node takes."""
    if length == 0:
        return Reason("invalid frame length 0: a request has at least one byte")
    if length > MAX_SKIP_BYTES:
        return Reason(
            f"invalid frame length {length}: prefix each request with its length as u32 little-endian, "
            f"at most {limit}; closing"
        )
    return Reason(f"invalid frame length {length}: at most {limit}, or raise --max-frame-bytes on the nodes")


# --- refused: nothing was done --------------------------------------------------------------------

OVERTAKEN: Final = Reason(
    "overtaken: entries sent later were written first and this one was not, send it again"
)


UNAUTHENTICATED: Final = Reason(
    "unauthenticated: this node asks for a token, send AUTH <token> first (clients: WALRUS_TOKEN_FILE)"
)
UNKNOWN_TOKEN: Final = Reason("unauthenticated: no identity has this token (any more); the connection ends")


def lacks_role(name: str, command: str, roles: str) -> Reason:
    """A command that none of an identity's roles allows."""
    return Reason(f"forbidden: {name} may not {command}, that needs the role {roles}")


def lacks_topic(name: str, command: str) -> Reason:
    """A command that an identity may give, but not for this topic, or not for all topics."""
    return Reason(f"forbidden: {name} may {command}, but not of this topic: its topics are others")


def unknown_topic(topic: str) -> Reason:
    """A topic that was never registered."""
    return Reason(f"unknown topic {topic}: send REGISTER {topic} first")


def unknown_segment(topic: str, segment: int) -> Reason:
    """A segment that the topic does not have (yet)."""
    return Reason(f"unknown segment {segment} of {topic}: STATE {topic} lists those there are")


def trimmed(topic: str, first: int) -> Reason:
    """FETCH of a segment that retention has dropped."""
    return Reason(f"trimmed: {topic} begins at segment {first}; go on with FETCH {topic} {first} 0")


def invalid_setting(why: str) -> Reason:
    """A setting that does not exist, or a value that is invalid for it."""
    return Reason(f"invalid setting: {why}")


def topic_exists(topic: str) -> Reason:
    """REGISTER of a topic that exists with other settings."""
    return Reason(f"topic exists: {topic} has other settings; change them with CONFIGURE {topic}")


def unknown_node(node_id: int) -> Reason:
    """A node that is not a member."""
    return Reason(f"unknown node {node_id}: METRICS lists the members")


def older_release(node_id: int) -> Reason:
    """A request that a member could not apply, because its release does not know it."""
    return Reason(f"older release: node {node_id} runs one that does not know this yet, upgrade it first")


def too_many_topics(limit: int) -> Reason:
    """REGISTER of a topic beyond the limit of a cluster."""
    return Reason(f"too many topics: there are {limit} already, which is the limit")


def invalid_position(topic: str, segment: int, offset: int) -> Reason:
    """SEEK to a position that the topic does not have."""
    return Reason(
        f"invalid position: {topic} has no place {segment} {offset}, up to the end of what is acknowledged; "
        "STATE lists its segments"
    )


def group_in_use(group: str, with_get: bool) -> Reason:
    """GET of a group that is read with RECEIVE, or the reverse."""
    used, other = ("GET", "RECEIVE") if with_get else ("RECEIVE", "GET")
    return Reason(f"group in use: {group} is read with {used}; use another group for {other}")


def out_of_sequence(expected: int) -> Reason:
    """PUB of a number above the next one of its producer: an earlier entry is missing."""
    return Reason(f"out of sequence: expected {expected}; send the entries before this one first")


def unknown_producer(producer: str) -> Reason:
    """PUB of a number above 0, of a producer that is not known (any more)."""
    return Reason(
        f"unknown producer: {producer} is not known here (any more); "
        "begin with 0, under a name that was never used"
    )


def too_many_producers(limit: int) -> Reason:
    """A new producer beyond the limit of a topic."""
    return Reason(
        f"too many producers: {limit} wrote to this topic within the last hour; "
        "use one of them, or try again later"
    )


STALE_RECEIPT: Final = Reason(
    "stale receipt: this delivery is over, its entry was acknowledged, given back or handed out again; "
    "RECEIVE the next one"
)


def too_many_groups(limit: int) -> Reason:
    """A new group beyond the limit of a topic."""
    return Reason(f"too many consumer groups: this topic has {limit} already; use one of them")


def cannot_leave(why: str) -> Reason:
    """Removing the member would lose data or the majority."""
    return Reason(f"cannot leave: {why}")


def needs_force(node_id: int, stay: int, factor: int) -> Reason:
    """Removing the member leaves segments with fewer replicas than they should have: only with `force`."""
    return Reason(
        f"needs force: {stay} voter{'s' if stay != 1 else ''} would stay, fewer than the replication factor, "
        f"{factor}; LEAVE {node_id} force (--force on the command line) removes it all the same"
    )


def cannot_recover(topic: str, segment: int) -> Reason:
    """RECOVER of a segment that has ended."""
    return Reason(f"cannot recover: segment {segment} of {topic} is sealed already")


def lost(topic: str, segment: int, start: int, end: int) -> Reason:
    """FETCH of entries that no replica has any more: a documented loss, or every copy is damaged."""
    return Reason(
        f"gone: entries {start} to {end - 1} of segment {segment} of {topic} are on none of its replicas; "
        f"go on with FETCH {topic} {segment} {end}"
    )


def not_written(why: str) -> Reason:
    """The disk of the segment's leader has no room."""
    return Reason(f"not written: {why}")


# --- not now: nothing was done, and it may work later or on another node --------------------------

BUSY: Final = Reason(
    "busy: too much is waiting on this node already and nothing was written, send again later"
)
REPLICAS_BEHIND: Final = Reason("busy: the replicas do not keep up and nothing was written, send again later")
NO_LEASE: Final = Reason("no leader: this node has no lease, it is cut off from the majority; try again")
NO_MAJORITY: Final = Reason("no leader: this node reaches no majority, nothing was done; ask another")
NOTHING_RECOVERS: Final = Reason("no leader: a recovery needs one, nothing was done; try again")
CURSOR_UNREACHED: Final = Reason(
    "no leader: the node that has the cursor did not answer, the cursor did not move; try again"
)
OWNER_UNREACHED: Final = Reason(
    "no leader: no node may hand out entries for this group at the moment, nothing was done; try again"
)
CURSOR_STUCK: Final = Reason("no replica answered: the cursor did not move; try again")


def no_writer(topic: str) -> Reason:
    """No node was able to take writes for the topic in time."""
    return Reason(f"no leader: no node could take writes for {topic}, nothing was written; try again")


def not_enough_replicas(reached: int, needed: int) -> Reason:
    """A leader appends nothing that it could not get acknowledged."""
    return Reason(f"not enough replicas: {reached} of {needed} reached, nothing was written; try again")


def members_unknown(topic: str, nodes: Sequence[int]) -> Reason:
    """REGISTER before every voter is known: the replicas of a topic are chosen from all of them."""
    which = ", ".join(map(str, nodes))
    return Reason(
        f"not enough replicas: {topic} waits for members that have not started yet (node {which}), "
        "nothing was registered; try again"
    )


def no_replica(topic: str, segment: int) -> Reason:
    """FETCH of entries that other nodes hold, none of which answered."""
    return Reason(f"no replica answered: segment {segment} of {topic} cannot be read now; try again")


# --- the outcome is unknown -----------------------------------------------------------------------

TIMEOUT: Final = Reason("timeout: the outcome is unknown, the entry may have been written")
FAILED_OVER: Final = Reason("outcome unknown: the segment's leader failed, the entry may have been written")
DELETED: Final = Reason("outcome unknown: the topic was deleted, the entry may have been written before that")


NOT_ACKNOWLEDGED_YET: Final = Reason(
    "timeout: no majority agreed in time, the entry may count as acknowledged or not; send it again"
)


def not_registered_yet(topic: str) -> Reason:
    """A REGISTER that was proposed and is not applied yet."""
    return Reason(f"timeout: no majority agreed to {topic} in time, it may still be registered; ask again")


def not_configured_yet(topic: str) -> Reason:
    """A CONFIGURE that was proposed and is not applied yet."""
    return Reason(
        f"timeout: no majority agreed to settings of {topic} in time, they may still count; ask again"
    )


def not_deleted_yet(topic: str) -> Reason:
    """A DELETE that was proposed and is not applied yet."""
    return Reason(
        "timeout: no majority agreed in time, of the members or of the copies of the open segment; "
        f"{topic} may still be deleted; ask again"
    )


def not_gone_yet(node_id: int) -> Reason:
    """A LEAVE that is not complete in time."""
    return Reason(f"timeout: node {node_id} is being removed but not gone yet; ask again")


def not_recovered_yet(topic: str, segment: int) -> Reason:
    """A RECOVER that did not seal the segment in time; the recovery may not be waiting for an operator."""
    return Reason(
        f"timeout: segment {segment} of {topic} is not sealed yet; METRICS says which recoveries wait for you"
    )
