"""What can go wrong: always one line, what happened first, then what to do."""

from __future__ import annotations

from typing import Final

from walrus.wire.framing import MAX_SKIP_BYTES

_COMMANDS_HINT: Final = "REGISTER, PUT, GET, FETCH, STATE, METRICS, LEAVE or RECOVER"

UNKNOWN_COMMAND: Final = f"unknown command: send {_COMMANDS_HINT}, in capitals, one space between arguments"
PUT_REQUIRES_TOPIC: Final = "PUT requires a topic: send PUT <topic> <payload>"
PUT_REQUIRES_PAYLOAD: Final = (
    "PUT requires a payload: send PUT <topic> <payload>, with the second space even if the payload is empty"
)
REGISTER_REQUIRES: Final = "REGISTER requires a topic: send REGISTER <topic>"
GET_REQUIRES: Final = "GET requires a topic: send GET <topic> or GET <topic> <group>"
FETCH_REQUIRES: Final = (
    "FETCH requires a topic, a segment and an offset: send FETCH <topic> <segment from 1> <offset from 0>"
)
STATE_REQUIRES: Final = "STATE requires a topic: send STATE <topic>"
METRICS_TAKES_NOTHING: Final = "METRICS takes no arguments: send METRICS"
LEAVE_REQUIRES: Final = "LEAVE requires a node id: send LEAVE <node_id>, a number from 1"
RECOVER_REQUIRES: Final = "RECOVER requires a topic and a segment: send RECOVER <topic> <segment from 1>"
INVALID_TOPIC: Final = "invalid topic: use 1 to 255 bytes of UTF-8 without spaces or control characters"
INVALID_GROUP: Final = "invalid group: use 1 to 255 bytes of UTF-8 without spaces or control characters"
INVALID_UTF8: Final = "invalid utf-8: encode command and arguments as UTF-8 (a payload may be any bytes)"
TIMEOUT: Final = "timeout: the outcome is unknown, the entry may have been written"
FAILED_OVER: Final = "outcome unknown: the segment's leader failed, the entry may have been written"
STOPPING: Final = "stopping: this node is shutting down and did nothing, ask another one"
BUSY: Final = "busy: too much is waiting on this node already and nothing was written, send again later"


def invalid_frame_length(length: int, limit: int) -> str:
    """A frame that is empty or longer than this node takes."""
    if length == 0:
        return "invalid frame length 0: a request has at least one byte"
    if length > MAX_SKIP_BYTES:
        return (
            f"invalid frame length {length}: prefix each request with its length as u32 little-endian, "
            f"at most {limit}; closing"
        )
    return f"invalid frame length {length}: at most {limit}, or raise --max-frame-bytes on the nodes"


def unknown_topic(topic: str) -> str:
    """A topic that nobody registered."""
    return f"unknown topic {topic}: send REGISTER {topic} first"


def unknown_segment(topic: str, segment: int) -> str:
    """A segment that the topic does not have (yet)."""
    return f"unknown segment {segment} of {topic}: STATE {topic} lists those there are"


def unknown_node(node_id: int) -> str:
    """A node that is not a member."""
    return f"unknown node {node_id}: METRICS lists the members"


def not_enough_replicas(answered: int, needed: int) -> str:
    """Too few replicas took the entry in time; it may be there nevertheless."""
    return f"not enough replicas: {answered} of {needed} answered, the entry may have been written"


def no_leader(detail: str) -> str:
    """Nobody can decide now. Nothing was written."""
    return f"no leader: {detail}"


def cannot_leave(detail: str) -> str:
    """Removing the member would lose data or the majority."""
    return f"cannot leave: {detail}"


def cannot_recover(detail: str) -> str:
    """RECOVER for a segment that does not wait for an operator."""
    return f"cannot recover: {detail}"


def not_written(detail: str) -> str:
    """The disk of the segment's leader has no room. Nothing was written."""
    return f"not written: {detail}"


def too_many_topics(limit: int) -> str:
    """REGISTER of one more than a cluster keeps."""
    return f"too many topics: there are {limit} already, which is the limit"


def storage_failed(detail: str) -> str:
    """A node's disk refused (full, failed, corrupt)."""
    return f"storage: {detail}"
