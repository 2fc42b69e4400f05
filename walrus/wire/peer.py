"""The frames that nodes exchange: a body is one msgpack value, a member of a union of message types.

The union is handed in (`messages.py` has the one of this system); this module knows none of its members.

Invariants: bytes of a peer raise `ProtocolError` or nothing, and after it the connection is worthless; a
message that this node encodes fits the limit of the node that decodes it.
"""

from __future__ import annotations

from typing import Any, Final, Generic, TypeVar, cast

import msgspec

from walrus.wire.framing import HEADER_BYTES, FrameParser, ProtocolError, frame

MAX_PEER_FRAME_BYTES: Final = 64 << 20
SMALL_BYTES: Final = 4096
"""Up to here a copy of a body costs less than a view of it."""

_Message = TypeVar("_Message")


class PeerCodec(Generic[_Message]):
    """Messages between nodes: `union` is the union of all message types (frozen, tagged Structs).

    One codec serves all connections of a node; each connection has its own `PeerParser`.
    """

    __slots__ = ("_decoder", "_encoder")

    def __init__(self, union: Any) -> None:
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder: msgspec.msgpack.Decoder[_Message] = msgspec.msgpack.Decoder(union)

    def encode(self, message: _Message) -> bytes:
        """The frame of one message."""
        body = self._encoder.encode(message)
        assert len(body) <= MAX_PEER_FRAME_BYTES, f"{type(message).__name__} of {len(body)} bytes"
        return frame(body)

    def decode(self, body: bytes | memoryview) -> _Message:
        """The message in the body of one frame; raises `ProtocolError`."""
        try:
            return self._decoder.decode(body)
        except (msgspec.MsgspecError, ValueError, RecursionError, MemoryError) as error:
            raise ProtocolError(f"not a message that this version knows: {error}") from error

    def parser(self, limit: int = MAX_PEER_FRAME_BYTES) -> PeerParser[_Message]:
        """A parser for one connection that takes frames of up to `limit` bytes."""
        return PeerParser(self, limit)


class PeerParser(FrameParser[_Message]):
    """The messages of one peer, out of the pieces in which its bytes arrive.

    A connection that has not shown its Hello yet deserves a lower `limit`.
    """

    __slots__ = ("_codec",)

    def __init__(self, codec: PeerCodec[_Message], limit: int = MAX_PEER_FRAME_BYTES) -> None:
        super().__init__(limit)
        self._codec = codec

    def _whole(self, partial: bytearray) -> bytes:
        return cast(bytes, partial)  # megabytes, of which decoding makes its own copy anyway

    def _take(self, data: bytes, start: int, stop: int, values: list[_Message]) -> int:
        body = start + HEADER_BYTES
        if stop - body <= SMALL_BYTES:
            values.append(self._codec.decode(data[body:stop]))
        else:
            values.append(self._codec.decode(memoryview(data)[body:stop]))
        return stop
