"""The frames that nodes exchange: a body is one MessagePack value, a member of a union of message types.

The caller supplies the union (that of Walrus is `messages.PeerMessage`); this module knows none of its
members.

Invariants: bytes from a peer raise `ProtocolError` and no other exception, and after it the connection must
be closed; every message that a node encodes fits the limit of the node that decodes it.
"""

from __future__ import annotations

from typing import Any, Final, Generic, TypeVar, cast

import msgspec

from walrus.wire.framing import HEADER_BYTES, FrameParser, ProtocolError, frame

MAX_PEER_FRAME_BYTES: Final = 64 << 20
SMALL_BYTES: Final = 4096
"""Up to this length copying a body is cheaper than a `memoryview` of it."""

_Message = TypeVar("_Message")


class PeerCodec(Generic[_Message]):
    """Encodes and decodes messages; `union` is the union of all message types (frozen, tagged Structs).

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
    """Parses the stream of one peer into messages.

    Until the Hello of a connection is accepted, its parser should have a lower `limit`.
    """

    __slots__ = ("_codec",)

    def __init__(self, codec: PeerCodec[_Message], limit: int = MAX_PEER_FRAME_BYTES) -> None:
        super().__init__(limit)
        self._codec = codec

    def _whole(self, partial: bytearray) -> bytes:
        return cast(bytes, partial)  # no copy: it may be megabytes, and the decoder copies what it keeps

    def _take(self, data: bytes, start: int, stop: int, values: list[_Message]) -> int:
        body = start + HEADER_BYTES
        if stop - body <= SMALL_BYTES:
            values.append(self._codec.decode(data[body:stop]))
        else:
            values.append(self._codec.decode(memoryview(data)[body:stop]))
        return stop
