"""Replies: encoding, decoding, and what a client makes of a server that talks nonsense."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from walrus import protocol
from walrus.protocol import Empty, Error, Json, Ok, ProtocolError, Reply, ReplyParser


def test_the_constant_replies_are_framed() -> None:
    assert protocol.OK == b"\x02\x00\x00\x00OK"
    assert protocol.EMPTY == protocol.empty() == b"\x05\x00\x00\x00EMPTY"


def test_an_empty_payload_differs_from_none() -> None:
    assert ReplyParser().feed(protocol.ok(b"") + protocol.OK) == [Ok(b""), Ok()], "AnsweredInOrder"


def test_an_error_stays_one_line() -> None:
    assert ReplyParser().feed(protocol.error("disk\nfull: \x0b free\r\nspace")) == [
        Error("disk full: free space")
    ]


def test_an_error_about_an_unencodable_topic_is_still_sent() -> None:
    [reply] = ReplyParser().feed(protocol.error(protocol.errors.unknown_topic("\ud800")))
    assert isinstance(reply, Error)


def test_many_replies_are_the_same_as_one_by_one() -> None:
    payloads = [b"a", b"", b"ccc"]
    assert protocol.ok_many(payloads) == b"".join(map(protocol.ok, payloads)), "AnsweredInOrder"
    fetched = [protocol.ok_fetch(8, b"a"), protocol.ok_fetch(9, b""), protocol.ok_fetch(10, b"ccc")]
    assert protocol.ok_fetch_many(7, payloads) == b"".join(fetched), "DeliveredIsPrefix"


def test_a_fetched_entry_keeps_its_spaces() -> None:
    [reply] = ReplyParser().feed(protocol.ok_fetch(8, b" a b "))
    assert isinstance(reply, Ok) and reply.payload is not None
    assert protocol.split_fetched(reply.payload) == (8, b" a b "), "DeliveredIsPrefix"


@pytest.mark.parametrize("payload", [b"", b"8", b"x y", b"-1 x", b"99999999999999999999 x"])
def test_a_fetched_entry_without_its_offset_is_refused(payload: bytes) -> None:
    with pytest.raises(ProtocolError):
        protocol.split_fetched(payload)


@pytest.mark.parametrize(
    "stream", [b"\x00\x00\x00\x00", b"\xff\xff\xff\xff", b"HTTP/1.1 400 Bad", protocol.frame(b"NO")]
)
def test_what_is_no_reply_is_refused(stream: bytes) -> None:
    with pytest.raises(ProtocolError):
        ReplyParser().feed(stream)


REPLIES = st.one_of(
    st.just(Ok()),
    st.just(Empty()),
    st.builds(Ok, st.binary(max_size=40)),
    st.builds(Error, st.text(st.characters(codec="utf-8", categories=["L", "N"]), min_size=1, max_size=20)),
    st.builds(lambda text: Json(b"{" + text), st.binary(max_size=40)),
)


def encode(reply: Reply) -> bytes:
    match reply:
        case Ok(None):
            return protocol.OK
        case Ok(payload):
            return protocol.ok(payload or b"")
        case Empty():
            return protocol.EMPTY
        case Error(reason):
            return protocol.error(reason)
        case Json(text):
            return protocol.json_reply(text)


@given(st.lists(REPLIES, max_size=20), st.integers(1, 30))
def test_replies_round_trip_in_any_pieces(replies: list[Reply], piece: int) -> None:
    stream = b"".join(map(encode, replies))
    parser = ReplyParser()
    found = [one for n in range(0, len(stream), piece) for one in parser.feed(stream[n : n + piece])]
    assert found == replies, "AnsweredInOrder: the stream is taken apart in another way"


@given(st.lists(st.binary(max_size=100), max_size=10))
def test_garbage_raises_only_what_is_documented(pieces: list[bytes]) -> None:
    parser = ReplyParser(1000)
    with contextlib.suppress(ProtocolError):
        for piece in pieces:
            parser.feed(piece)


def test_a_received_entry_names_its_delivery_and_keeps_its_spaces() -> None:
    [reply] = ReplyParser().feed(protocol.ok_received([protocol.Receipt(1, 41, 0, 2)], [b" a b "]))
    assert isinstance(reply, Ok) and reply.payload is not None
    assert protocol.split_received(reply.payload) == ("1.41.0.2", 2, b" a b "), "NothingSkipped"


@pytest.mark.parametrize("text", [b"", b"1.41.0.2", b"1.41.0.2 2", b"1.41.0.2 x y", b"1.41 2 y", b" 2 y"])
def test_what_names_no_delivery_is_refused(text: bytes) -> None:
    with pytest.raises(ProtocolError, match="receipt"):
        protocol.split_received(text)
