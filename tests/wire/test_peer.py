"""Peer frames: messages come back as they went, in any pieces; garbage is refused and costs no memory."""

from __future__ import annotations

import contextlib
import tracemalloc

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from walrus.protocol import MAX_PEER_FRAME_BYTES, PeerCodec, ProtocolError
from walrus.storage.batch import Batch
from walrus.wire import messages


class Hello(msgspec.Struct, frozen=True, array_like=True, tag=True):
    cluster: str
    node: int


class Frame(msgspec.Struct, frozen=True, array_like=True, tag=True):
    segment: int
    batch: Batch
    acks: tuple[int, ...] = ()


CODEC: PeerCodec[Hello | Frame] = PeerCodec(Hello | Frame)
MESSAGES = st.one_of(
    st.builds(Hello, st.text(st.characters(codec="utf-8")), st.integers(0, 2**63)),
    st.builds(
        Frame,
        st.integers(0, 2**63),
        st.lists(st.binary(max_size=30)).map(Batch.of),
        st.lists(st.integers(0, 9)).map(tuple),
    ),
)


@given(st.lists(MESSAGES, max_size=8), st.integers(1, 60))
def test_messages_round_trip_in_any_pieces(sent: list[Hello | Frame], piece: int) -> None:
    stream = b"".join(map(CODEC.encode, sent))
    parser = CODEC.parser()
    found = [one for n in range(0, len(stream), piece) for one in parser.feed(stream[n : n + piece])]
    assert found == sent
    assert parser.buffered == 0


@given(st.lists(st.binary(max_size=200), max_size=8))
def test_garbage_raises_only_protocol_errors(pieces: list[bytes]) -> None:
    parser = CODEC.parser()
    with contextlib.suppress(ProtocolError):
        for piece in pieces:
            parser.feed(piece)
    assert parser.buffered <= sum(map(len, pieces))


@given(st.binary(max_size=200))
def test_a_framed_garbage_body_is_refused(body: bytes) -> None:
    with contextlib.suppress(ProtocolError):
        assert CODEC.decode(body) is not None


@given(MESSAGES, st.integers(0, 10_000), st.integers(0, 255))
def test_a_flipped_byte_is_another_message_or_refused(message: Hello | Frame, place: int, value: int) -> None:
    frame = bytearray(CODEC.encode(message))
    frame[place % len(frame)] = value
    with contextlib.suppress(ProtocolError):
        for found in CODEC.parser().feed(bytes(frame)):
            assert isinstance(found, Hello | Frame)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xc1",
        b"\x93\xa5Hello\xa1c",
        b"\x93\xa5Other\xa1c\x01",
        b"\x93\xa5Hello\x01\x01",
        b"\x93\xa5Hello\xa2\xff\xfe\x01",
        b"\x94\xa5Frame\x01\x92\xc4\x00\xc4\x00\xdd\xff\xff\xff\xff",
        b"\x94\xa5Frame\x01\x92\xc6\xff\xff\xff\xff\xc4\x00\x90",
        b"\x95\xa5Hello\xa1c\x01\x01" + b"\x91" * 100_000,
    ],
)
def test_a_broken_message_is_refused_without_taking_memory(body: bytes) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(ProtocolError):
            CODEC.decode(body)
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()


def test_a_length_over_the_limit_is_refused_before_its_bytes_arrive() -> None:
    with pytest.raises(ProtocolError):
        CODEC.parser().feed((MAX_PEER_FRAME_BYTES + 1).to_bytes(4, "little"))
    with pytest.raises(ProtocolError):
        CODEC.parser(limit=100).feed((101).to_bytes(4, "little"))
    with pytest.raises(ProtocolError):
        CODEC.parser().feed(bytes(4))


def test_the_limit_may_rise_once_a_peer_has_shown_who_it_is() -> None:
    parser = CODEC.parser(limit=100)
    big = Frame(1, Batch.of([b"x" * 5000]))
    hello = Hello("c", 1)
    assert parser.feed(CODEC.encode(hello)) == [hello]
    parser.limit = MAX_PEER_FRAME_BYTES
    assert parser.feed(CODEC.encode(big)) == [big]


def test_a_large_batch_arrives_whole() -> None:
    message = Frame(3, Batch.of([b"y" * 1000] * 5000))
    frame = CODEC.encode(message)
    parser = CODEC.parser()
    found = [one for n in range(0, len(frame), 65_536) for one in parser.feed(frame[n : n + 65_536])]
    assert found == [message]


NODES: PeerCodec[messages.PeerMessage] = PeerCodec(messages.PeerMessage)


TAGS = sorted(kind.__name__ for kind in messages.PeerMessage.__args__)


@given(st.sampled_from(TAGS), st.binary(max_size=60))
def test_garbage_in_the_nodes_own_messages_is_refused(name: str, rest: bytes) -> None:
    body = b"\x9f" + msgspec.msgpack.encode(name) + rest
    with contextlib.suppress(ProtocolError):
        assert NODES.decode(body) is not None
