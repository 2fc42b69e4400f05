"""Requests: what each frame means, what each wrong one is answered, and that no cut of the stream matters."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.client.fake import one_by_one
from walrus import protocol
from walrus.protocol import (
    Ack,
    Extend,
    Fetch,
    Find,
    Get,
    Invalid,
    Leave,
    Metrics,
    Nack,
    Put,
    Receipt,
    Receive,
    Recover,
    Register,
    Request,
    RequestParser,
    Seek,
    State,
    Time,
    encode_request,
    parse_receipt,
)
from walrus.segments import Position
from walrus.storage.batch import Batch


def parse(*bodies: bytes, limit: int = protocol.DEFAULT_MAX_FRAME_BYTES) -> list[Request]:
    return RequestParser(limit).feed(b"".join(map(encode_request, bodies)))


def put(topic: str, *payloads: bytes) -> Put:
    return Put(topic, Batch.of(payloads))


# --- what is understood


@pytest.mark.parametrize(
    ("body", "request_"),
    [
        (b"REGISTER orders", Register("orders")),
        ("REGISTER grün/äöü".encode(), Register("grün/äöü")),
        (b"PUT t payload", put("t", b"payload")),
        (b"PUT t two words", put("t", b"two words")),
        (b"PUT t  leading and trailing ", put("t", b" leading and trailing ")),
        (b"PUT t \x00\xff\r\n", put("t", b"\x00\xff\r\n")),
        (b"PUT t ", put("t", b"")),
        (b"GET t", Get("t")),
        (b"GET t billing", Get("t", "billing")),
        (b"FETCH t 1 0", Fetch("t", 1, 0)),
        (b"FIND t time=0", Find("t", Time(0))),
        (b"FETCH t 12 345", Fetch("t", 12, 345)),
        (b"FETCH t 1 9223372036854775807", Fetch("t", 1, 2**63 - 1)),
        (b"RECEIVE t g", Receive("t", "g")),
        (b"RECEIVE t g 500", Receive("t", "g", 500)),
        (b"RECEIVE t g 86400000", Receive("t", "g", 86_400_000)),
        (b"ACK t g 1.41.0.2", Ack("t", "g", (Receipt(1, 41, 0, 2),))),
        (b"NACK t g 1.41.0.2", Nack("t", "g", Receipt(1, 41, 0, 2))),
        (b"NACK t g 1.41.0.2 100", Nack("t", "g", Receipt(1, 41, 0, 2), 100)),
        (b"EXTEND t g 1.41.0.2 0", Extend("t", "g", Receipt(1, 41, 0, 2), 0)),
        (b"SEEK t g begin", Seek("t", "g", "begin")),
        (b"SEEK t g end", Seek("t", "g", "end")),
        (b"SEEK t g 2 7", Seek("t", "g", Position(2, 7))),
        (b"STATE t", State("t")),
        (b"METRICS", Metrics()),
        (b"LEAVE 3", Leave(3)),
        (b"LEAVE 3 force", Leave(3, force=True)),
        (b"RECOVER t 7", Recover("t", 7)),
        (b"REGISTER " + b"x" * 255, Register("x" * 255)),
    ],
)
def test_a_request_is_understood(body: bytes, request_: Request) -> None:
    assert parse(body) == [request_]
    assert request_.replies == 1


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"PUTT t x", protocol.errors.UNKNOWN_COMMAND),
        (b"put t x", protocol.errors.UNKNOWN_COMMAND),
        (b" PUT t x", protocol.errors.UNKNOWN_COMMAND),
        (b"\n", protocol.errors.UNKNOWN_COMMAND),
        (b"PUT", protocol.errors.PUT_REQUIRES_TOPIC),
        (b"PUT ", protocol.errors.PUT_REQUIRES_TOPIC),
        (b"PUT  x", protocol.errors.PUT_REQUIRES_TOPIC),
        (b"PUT t", protocol.errors.PUT_REQUIRES_PAYLOAD),
        (b"REGISTER", protocol.errors.REGISTER_REQUIRES),
        (b"REGISTER ", protocol.errors.REGISTER_REQUIRES),
        (b"GET", protocol.errors.GET_REQUIRES),
        (b"RECEIVE", protocol.errors.RECEIVE_REQUIRES),
        (b"RECEIVE t", protocol.errors.RECEIVE_REQUIRES),
        (b"RECEIVE t g 1 2", protocol.errors.RECEIVE_REQUIRES),
        (b"RECEIVE t g soon", protocol.errors.INVALID_TIME),
        (b"RECEIVE t g 86400001", protocol.errors.INVALID_TIME),
        (b"RECEIVE t ", protocol.errors.INVALID_GROUP),
        (b"RECEIVE  g", protocol.errors.RECEIVE_REQUIRES),
        (b"ACK t g", protocol.errors.ACK_REQUIRES),
        (b"ACK t g 1.0.0.1 1", protocol.errors.ACK_REQUIRES),
        (b"ACK t g 1.0", protocol.errors.INVALID_RECEIPT),
        (b"ACK t g 1.0.0.1\n", protocol.errors.INVALID_RECEIPT),
        (b"ACK t g 1.0.0." + b"9" * 19, protocol.errors.INVALID_RECEIPT),
        (b"NACK t g", protocol.errors.NACK_REQUIRES),
        (b"NACK t g 0.0.0.1", protocol.errors.INVALID_RECEIPT),
        (b"NACK t g 1.0.0.1 -1", protocol.errors.INVALID_TIME),
        (b"EXTEND t g 1.0.0.1", protocol.errors.EXTEND_REQUIRES),
        (b"EXTEND t g 1.0.0.1 31536000000", protocol.errors.INVALID_TIME),
        (b"SEEK t g", protocol.errors.SEEK_REQUIRES),
        (b"SEEK t g middle", protocol.errors.SEEK_REQUIRES),
        (b"SEEK t g 0 0", protocol.errors.SEEK_REQUIRES),
        (b"SEEK t g 1 0 0", protocol.errors.SEEK_REQUIRES),
        (b"STATE", protocol.errors.STATE_REQUIRES),
        (b"METRICS now", protocol.errors.METRICS_TAKES_NOTHING),
        (b"DELETE two words", protocol.errors.INVALID_TOPIC),
        (b"REGISTER " + b"x" * 256, protocol.errors.INVALID_TOPIC),
        (b"REGISTER " + "ä".encode() * 128, protocol.errors.INVALID_TOPIC),
        (b"PUT a\tb x", protocol.errors.INVALID_TOPIC),
        (b"PUT a\x00b x", protocol.errors.INVALID_TOPIC),
        (b"PUT a\x7f x", protocol.errors.INVALID_TOPIC),
        ("GET a\u2028b".encode(), protocol.errors.INVALID_TOPIC),
        ("STATE a\u00a0b".encode(), protocol.errors.INVALID_TOPIC),
        (b"GET t ", protocol.errors.INVALID_GROUP),
        (b"GET t a b", protocol.errors.INVALID_TIME),
        (b"GET t a 86400001", protocol.errors.INVALID_TIME),
        (b"GET t a 1 1", protocol.errors.INVALID_TIME),
        (b"GET t  1", protocol.errors.INVALID_GROUP),
        (b"\xff\xfe", protocol.errors.INVALID_UTF8),
        (b"PUT \xff x", protocol.errors.INVALID_UTF8),
        (b"REGISTER \xed\xa0\x80", protocol.errors.INVALID_UTF8),
        (b"FETCH t", protocol.errors.FETCH_REQUIRES),
        (b"FETCH t 1", protocol.errors.FETCH_REQUIRES),
        (b"FETCH t 0 0", protocol.errors.FETCH_REQUIRES),
        (b"FETCH t 1 -1", protocol.errors.FETCH_REQUIRES),
        (b"FETCH t 1 +1", protocol.errors.FETCH_REQUIRES),
        (b"FETCH t 1 1_0", protocol.errors.FETCH_REQUIRES),
        ("FETCH t 1 ٣".encode(), protocol.errors.FETCH_REQUIRES),
        (b"FETCH t 1 9223372036854775808", protocol.errors.FETCH_REQUIRES),
        (b"FETCH t 1 0 0 0", protocol.errors.FETCH_REQUIRES),
        (b"FETCH t 1 0 -1", protocol.errors.INVALID_TIME),
        (b"PUB t x 0", protocol.errors.PUB_REQUIRES),
        (b"PUB t x -1 a", protocol.errors.PUB_REQUIRES),
        (b"PUB t x 9223372036854775808 a", protocol.errors.PUB_REQUIRES),
        (b"PUB t  0 a", protocol.errors.PUB_REQUIRES),
        ("PUB t x\u00a0y 0 a".encode(), protocol.errors.INVALID_PRODUCER),
        (b"LEAVE", protocol.errors.LEAVE_REQUIRES),
        (b"LEAVE 0", protocol.errors.LEAVE_REQUIRES),
        (b"LEAVE me", protocol.errors.LEAVE_REQUIRES),
        (b"LEAVE 3 ", protocol.errors.LEAVE_REQUIRES),
        (b"LEAVE 3 --force", protocol.errors.LEAVE_REQUIRES),
        (b"LEAVE 3 force force", protocol.errors.LEAVE_REQUIRES),
        (b"LEAVE force", protocol.errors.LEAVE_REQUIRES),
        (b"RECOVER t", protocol.errors.RECOVER_REQUIRES),
        (b"RECOVER t x", protocol.errors.RECOVER_REQUIRES),
    ],
)
def test_a_wrong_request_is_answered_with_its_reason(body: bytes, reason: str) -> None:
    assert parse(body, b"METRICS") == [Invalid(reason), Metrics()]
    assert "\n" not in reason and ": " in reason, "one line that also says what to do"


def test_a_group_may_be_any_name() -> None:
    assert parse("GET t größe".encode()) == [Get("t", "größe")]


# --- runs


def test_consecutive_puts_to_one_topic_are_one_batch() -> None:
    assert parse(b"PUT t a", b"PUT t bb", b"PUT t ") == [put("t", b"a", b"bb", b"")], "ProducerOrder"


def test_a_run_of_equal_lengths_keeps_every_payload() -> None:
    payloads = [b"%06d" % n for n in range(1000)]
    [request] = RequestParser().feed(protocol.encode_puts("t", payloads))
    assert request == put("t", *payloads), "ProducerOrder"
    assert request.replies == 1000, "AnsweredInOrder"


@pytest.mark.parametrize("odd", [0, 1, 31, 32, 33, 63, 64, 65, 99])
def test_a_run_of_equal_lengths_ends_where_it_ends(odd: int) -> None:
    payloads = [b"x" * 100] * 100
    payloads[odd] = b"y" * 99
    assert RequestParser().feed(protocol.encode_puts("t", payloads)) == [put("t", *payloads)], "ProducerOrder"
    frames = [encode_request(b"PUT t " + payload) for payload in payloads]
    frames[odd] = encode_request(b"PUT u " + b"x" * 100)
    kept = [b"x" * 100]
    runs = [
        run for run in (put("t", *kept * odd), put("u", *kept), put("t", *kept * (99 - odd))) if run.replies
    ]
    assert RequestParser().feed(b"".join(frames)) == runs, "ProducerOrder"


def test_a_topic_that_begins_like_the_one_before_is_another_one() -> None:
    assert parse(b"PUT t a", b"PUT tt a", b"PUT t b") == [put("t", b"a"), put("tt", b"a"), put("t", b"b")], (
        "ProducerOrder"
    )


def test_a_put_without_payload_ends_a_run() -> None:
    assert parse(b"PUT t a", b"PUT t", b"PUT t b") == [
        put("t", b"a"),
        Invalid(protocol.errors.PUT_REQUIRES_PAYLOAD),
        put("t", b"b"),
    ], "AnsweredInOrder"


def test_runs_of_get_and_fetch_are_counted() -> None:
    assert parse(b"GET t", b"GET t", b"GET t g", b"GET t g") == [Get("t", "", 2), Get("t", "g", 2)], (
        "AnsweredInOrder"
    )
    assert parse(b"FETCH t 1 9", b"FETCH t 1 10", b"FETCH t 1 12", b"FETCH t 2 13") == [
        Fetch("t", 1, 9, 2),
        Fetch("t", 1, 12),
        Fetch("t", 2, 13),
    ], "AnsweredInOrder"


def test_runs_of_receive_and_ack_are_one_request_up_to_a_bound() -> None:
    receipts = [Receipt(1, offset, 0, 1) for offset in range(protocol.MAX_TOGETHER + 1)]
    acks = [b"ACK t g %b" % str(receipt).encode() for receipt in receipts]
    assert parse(*acks) == [Ack("t", "g", tuple(receipts[:-1])), Ack("t", "g", (receipts[-1],))], (
        "AnsweredInOrder"
    )
    assert parse(b"ACK t g 1.0.0.1", b"ACK t h 1.0.0.1", b"ACK t h 1.0") == [
        Ack("t", "g", (Receipt(1, 0, 0, 1),)),
        Ack("t", "h", (Receipt(1, 0, 0, 1),)),
        Invalid(protocol.errors.INVALID_RECEIPT),
    ], "AnsweredInOrder"
    more = parse(*[b"RECEIVE t g 7"] * (protocol.MAX_TOGETHER + 2))
    assert sum(one.replies for one in more) == protocol.MAX_TOGETHER + 2, "AnsweredInOrder"
    assert max(one.replies for one in more) == protocol.MAX_TOGETHER


@pytest.mark.parametrize("text", ["1.0.0.1", "9.123.4.56", f"{2**63 - 1}.{2**63 - 1}.0.1"])
def test_a_receipt_comes_back_as_it_was_given(text: str) -> None:
    receipt = parse_receipt(text.encode())
    assert receipt is not None and str(receipt) == text and len(text) <= protocol.MAX_RECEIPT_BYTES


def test_the_last_offset_ends_a_run() -> None:
    last = 2**63 - 1
    assert parse(b"FETCH t 1 %d" % last, b"FETCH t 1 %d" % (last + 1)) == [
        Fetch("t", 1, last),
        Invalid(protocol.errors.FETCH_REQUIRES),
    ]


# --- lengths


def test_a_zero_length_is_answered_and_the_stream_goes_on() -> None:
    reason = protocol.errors.invalid_frame_length(0, protocol.DEFAULT_MAX_FRAME_BYTES)
    assert parse(b"", b"METRICS") == [Invalid(reason), Metrics()]


def test_a_frame_of_the_longest_length_is_taken() -> None:
    body = b"PUT t " + b"x" * (65_536 - 6)
    assert parse(body) == [put("t", body[6:])]
    assert parse(body, body, body) == [put("t", *[body[6:]] * 3)], "ProducerOrder"


@pytest.mark.parametrize("pieces", [1, 7, 1000, 1 << 20])
def test_a_frame_that_is_too_long_is_skipped_and_answered_once(pieces: int) -> None:
    stream = encode_request(b"PUT t a") + encode_request(b"PUT t " + b"x" * 5000) + encode_request(b"PUT t b")
    parser = RequestParser(100)
    requests = [one for n in range(0, len(stream), pieces) for one in parser.feed(stream[n : n + pieces])]
    assert requests == [
        put("t", b"a"),
        Invalid(protocol.errors.invalid_frame_length(5006, 100)),
        put("t", b"b"),
    ]
    assert not parser.closed and parser.buffered == 0


def test_the_refusal_of_a_long_frame_does_not_wait_for_its_end() -> None:
    parser = RequestParser(100)
    assert parser.feed((5000).to_bytes(4, "little")) == [
        Invalid(protocol.errors.invalid_frame_length(5000, 100))
    ]


def test_a_frame_too_long_to_skip_closes_the_connection() -> None:
    parser = RequestParser()
    requests = parser.feed(encode_request(b"METRICS") + b"GET / HTTP/1.1\r\n\r\n")
    assert [type(one) for one in requests] == [Metrics, Invalid]
    assert requests[-1] == Invalid(protocol.errors.invalid_frame_length(0x20544547, 65_536), fatal=True)
    assert parser.closed
    assert parser.feed(encode_request(b"METRICS")) == [] and parser.buffered == 0


def test_the_limit_can_be_raised() -> None:
    body = b"PUT t " + b"x" * (1 << 20)
    assert parse(body, limit=2 << 20) == [put("t", body[6:])]


# --- properties

NAMES = st.text(st.characters(codec="utf-8"), min_size=1, max_size=8).filter(protocol.valid_name)
NUMBERS = st.integers(0, 2**63 - 1)
REQUESTS = st.one_of(
    st.builds(lambda t: b"REGISTER " + t.encode(), NAMES),
    st.builds(
        lambda t, p: b"PUT %b %b" % (t.encode(), p),
        st.sampled_from(["t", "tt"]) | NAMES,
        st.binary(max_size=9),
    ),
    st.sampled_from(
        [
            b"PUT t same",
            b"GET t",
            b"GET t g",
            b"METRICS",
            b"PUT t",
            b"PUT  x",
            b"\xff",
            b"nonsense",
            b"RECEIVE t g",
            b"RECEIVE t g 5",
            b"ACK t g 1.0.0.1",
            b"ACK t g 1.1.0.1",
            b"ACK t g x",
        ]
    ),
    st.builds(
        lambda t, s, o: b"FETCH %b %d %d" % (t.encode(), s, o), st.just("t"), st.integers(1, 2), NUMBERS
    ),
    st.builds(lambda o: b"FETCH t 1 %d" % o, st.integers(0, 12)),
    st.binary(max_size=40),
)
STREAMS = st.lists(REQUESTS, max_size=30).map(lambda bodies: b"".join(map(encode_request, bodies)))


def in_pieces(stream: bytes, cuts: list[int], limit: int) -> tuple[list[Request], RequestParser]:
    parser = RequestParser(limit)
    found: list[Request] = []
    places = sorted(cut % (len(stream) + 1) for cut in cuts)
    for start, stop in zip([0, *places], [*places, len(stream)], strict=True):
        found += parser.feed(stream[start:stop])
        parser.check_invariants()
    return [one for run in found for one in one_by_one(run)], parser


@given(STREAMS, st.lists(NUMBERS, max_size=12), st.sampled_from([9, 20, 65_536]))
def test_any_split_yields_the_same_requests(stream: bytes, cuts: list[int], limit: int) -> None:
    whole, _ = in_pieces(stream, [], limit)
    assert in_pieces(stream, cuts, limit)[0] == whole, (
        "AnsweredInOrder, ProducerOrder: the stream is taken apart in another way"
    )
    assert in_pieces(stream, list(range(len(stream))), limit)[0] == whole, (
        "AnsweredInOrder, ProducerOrder: the stream is taken apart in another way"
    )


@given(st.lists(REQUESTS, max_size=30))
def test_a_run_is_what_its_requests_are_one_by_one(bodies: list[bytes]) -> None:
    runs = [one for run in parse(*bodies) for one in one_by_one(run)]
    reason = protocol.errors.invalid_frame_length(0, protocol.DEFAULT_MAX_FRAME_BYTES)
    assert runs == [protocol.parse_request(body) if body else Invalid(reason) for body in bodies], (
        "AnsweredInOrder, ProducerOrder: a run is not what its frames are"
    )
    assert sum(run.replies for run in parse(*bodies)) == len(bodies), (
        "AnsweredInOrder: every request is owed one reply"
    )


@given(st.lists(st.binary(max_size=300), max_size=20), st.sampled_from([1, 16, 65_536]))
def test_garbage_raises_nothing_and_holds_little(pieces: list[bytes], limit: int) -> None:
    parser = RequestParser(limit)
    for piece in pieces:
        for request in parser.feed(piece):
            assert request.replies >= 1
            protocol.error(getattr(request, "reason", ""))
        parser.check_invariants()


@given(NAMES, st.lists(st.binary(max_size=50)))
def test_encoded_puts_come_back(topic: str, payloads: list[bytes]) -> None:
    requests = RequestParser().feed(protocol.encode_puts(topic, payloads))
    assert [
        payload for one in requests if isinstance(one, Put) for payload in one.batch.payloads()
    ] == payloads, "ProducerOrder"
    assert all(isinstance(one, Put) and one.topic == topic for one in requests)


@given(st.text())
def test_a_name_is_valid_or_refused_never_an_accident(name: str) -> None:
    if protocol.valid_name(name):
        assert parse(b"REGISTER " + name.encode()) == [Register(name)]
    elif max(name, default="") < "\ud800":
        [request] = parse(b"REGISTER " + name.encode())
        assert isinstance(request, Invalid)


def test_pubs_of_one_producer_in_order_are_one_request() -> None:
    frames = [b"PUB t x 3 a", b"PUB t x 4 ", b"PUB t x 5 c d", b"PUB t x 7 e", b"PUB t y 8 f", b"PUT t g"]
    requests = [request for request in parse(*frames) if isinstance(request, Put)]
    assert [request.batch.payloads() for request in requests] == [
        [b"a", b"", b"c d"],
        [b"e"],
        [b"f"],
        [b"g"],
    ], "ProducerOrder"
    stamps = [[stamp[1:3] for stamp in request.batch.stamps] for request in requests]
    assert stamps == [[("x", 3)], [("x", 7)], [("y", 8)], []], "NumbersWithoutGap"
    assert sum(request.replies for request in requests) == len(frames), "AnsweredInOrder"
    entries = [b"a", b"b"]
    (request,) = RequestParser().feed(protocol.encode_pubs("t", "x", 9, entries))
    assert request == Put("t", Batch.of(entries).stamped("x", 9, 0)), "NumbersWithoutGap"


@pytest.mark.parametrize("first", [0, 5, 68, 90, 960, 9_990])
@pytest.mark.parametrize("lengths", ["equal", "one differs", "all differ", "a gap"])
def test_a_run_of_pubs_is_what_its_frames_are_one_by_one(first: int, lengths: str) -> None:
    """Also where the numbers get another digit, and where a frame looks like the next one and is not."""
    size = {"all differ": lambda n: n % 7}.get(lengths, lambda n: 9 + (lengths == "one differs" and n == 50))
    numbers = [first + n + (lengths == "a gap" and n >= 70) for n in range(120)]
    payloads = [b"%d" % number * size(n) for n, number in enumerate(numbers)]
    frames = [b"PUB t x %d %b" % one for one in zip(numbers, payloads, strict=True)]
    requests = [request for request in parse(*frames) if isinstance(request, Put)]
    assert len(requests) == 1 + (lengths == "a gap"), (
        "AnsweredInOrder: what belongs together stays one request"
    )
    found = [
        (request.batch.stamps[0].first + at, payload)
        for request in requests
        for at, payload in enumerate(request.batch.payloads())
    ]
    assert found == list(zip(numbers, payloads, strict=True)), (
        "NumbersWithoutGap: a run is not what its frames are"
    )


def test_requests_that_wait_say_for_how_long() -> None:
    assert parse(b"GET t g 250") == [Get("t", "g", 1, 250)]
    assert parse(b"FETCH t 1 4 250", b"FETCH t 1 5 250") == [
        Fetch("t", 1, 4, 1, 250),
        Fetch("t", 1, 5, 1, 250),
    ]
