"""The wire: client requests and replies, and the frames that nodes exchange, as bytes <-> values.

Everything on a wire is a frame, in both directions and on both ports:

    length   u32 little-endian     how many bytes follow
    body     `length` bytes

**Client port.** A body is a command word and its arguments, separated by single spaces. Requests on one
connection are answered in order, one reply each, and a client may send many without waiting.

    REGISTER <topic> [<key>=<value> ...] OK
    CONFIGURE <topic> <key>=<value> ...  OK
    DELETE <topic>                       OK
    PUT <topic> <payload>                OK      after HELLO positions=1: OK <segment> <offset>
    PUB <topic> <producer> <sequence> <payload>    OK
    GET <topic> [<group> [<wait_ms>]]    OK <payload> | EMPTY
    FETCH <topic> <segment> <offset> [<wait_ms>]   OK <next_offset> <payload> | EMPTY
    FIND <topic> time=<unix ms>          OK <segment> <offset>
    RECEIVE <topic> <group> [<wait_ms>]  OK <receipt> <deliveries> <payload> | EMPTY
    ACK <topic> <group> <receipt>        OK
    NACK <topic> <group> <receipt> [<delay_ms>]    OK
    EXTEND <topic> <group> <receipt> <ms>          OK
    SEEK <topic> <group> <segment> <offset>        OK      also begin, end, or time=<unix ms>
    STATE <topic>                        {...}
    TOPICS [<prefix>]                    {...}
    GROUPS <topic>                       {...}
    METRICS                              {...}
    LEAVE <node_id> [force]              OK
    RECOVER <topic> <segment>            OK
    AUTH <token>                         OK
    HELLO <option>=1 ...                 OK <option>=1 ...
    anything                             ERR <reason>

The payload of PUT is everything after the second space, byte for byte, and may be empty: a zero-length
entry is an entry. Only a PUT without its second space is refused ("requires a payload"). Everything else is
UTF-8.

**Peer port.** A body is one MessagePack value, a member of a union of message types that the caller
supplies.

This module is the front door of `wire/`:

    framing    a stream of bytes cut into frames; the one loop that all parsers share
    requests   requests of clients, bytes <-> values
    runs       many requests of one kind parsed at once: why a producer is fast
    receipts   the name of one delivery to a consumer group
    replies    answers to clients, values <-> bytes
    errors     every line that begins with ERR
    peer       messages between nodes <-> frames

Nothing here owns a socket or a clock. The parsers are incremental: `feed` takes the bytes in whatever pieces
they arrive and returns the complete values. Bytes from a client never raise an exception; those from a
node raise `ProtocolError` and nothing else.

A message log lives on runs: a producer pipelines a hundred PUTs to one topic, and they arrive in one
read. So consecutive PUTs to one topic become one `Put` with one `Batch`, which is not taken apart on its way
to the disks.

Deliberately left out: compression, and request ids (order is the id). TLS is below this (`walrus/tls.py`).
"""

from __future__ import annotations

from walrus.wire import errors
from walrus.wire.framing import (
    HEADER_BYTES,
    MAX_SKIP_BYTES,
    ProtocolError,
    frame,
)
from walrus.wire.peer import (
    MAX_PEER_FRAME_BYTES,
    PeerCodec,
    PeerParser,
)
from walrus.wire.receipts import MAX_RECEIPT_BYTES, Receipt, parse_receipt
from walrus.wire.replies import (
    EMPTY,
    MAX_REPLY_BYTES,
    OK,
    Empty,
    Error,
    Json,
    Ok,
    Reply,
    ReplyParser,
    empty,
    error,
    json_reply,
    ok,
    ok_fetch,
    ok_fetch_many,
    ok_many,
    ok_places,
    ok_received,
    parse_reply,
    split_fetched,
    split_place,
    split_received,
    split_time,
    timed_payloads,
)
from walrus.wire.requests import (
    COMMANDS,
    DEFAULT_MAX_FRAME_BYTES,
    MAX_NAME_BYTES,
    MAX_NUMBER,
    MAX_TOGETHER,
    MAX_WAIT_MS,
    Ack,
    Auth,
    Configure,
    Delete,
    Delivering,
    Describing,
    Extend,
    Fetch,
    Find,
    Get,
    Greeting,
    Groups,
    Invalid,
    Leave,
    Metrics,
    Nack,
    Put,
    Receive,
    Recover,
    Register,
    Request,
    RequestParser,
    Seek,
    State,
    Time,
    Topics,
    encode_pubs,
    encode_puts,
    encode_request,
    parse_request,
    valid_name,
)

__all__ = [
    "COMMANDS",
    "DEFAULT_MAX_FRAME_BYTES",
    "EMPTY",
    "HEADER_BYTES",
    "MAX_NAME_BYTES",
    "MAX_NUMBER",
    "MAX_PEER_FRAME_BYTES",
    "MAX_RECEIPT_BYTES",
    "MAX_REPLY_BYTES",
    "MAX_SKIP_BYTES",
    "MAX_TOGETHER",
    "MAX_WAIT_MS",
    "OK",
    "Ack",
    "Auth",
    "Configure",
    "Delete",
    "Delivering",
    "Describing",
    "Empty",
    "Error",
    "Extend",
    "Fetch",
    "Find",
    "Get",
    "Greeting",
    "Groups",
    "Invalid",
    "Json",
    "Leave",
    "Metrics",
    "Nack",
    "Ok",
    "PeerCodec",
    "PeerParser",
    "ProtocolError",
    "Put",
    "Receipt",
    "Receive",
    "Recover",
    "Register",
    "Reply",
    "ReplyParser",
    "Request",
    "RequestParser",
    "Seek",
    "State",
    "Time",
    "Topics",
    "empty",
    "encode_pubs",
    "encode_puts",
    "encode_request",
    "error",
    "errors",
    "frame",
    "json_reply",
    "ok",
    "ok_fetch",
    "ok_fetch_many",
    "ok_many",
    "ok_places",
    "ok_received",
    "parse_receipt",
    "parse_reply",
    "parse_request",
    "split_fetched",
    "split_place",
    "split_received",
    "split_time",
    "timed_payloads",
    "valid_name",
]
