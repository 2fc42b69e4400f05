"""What is fuzzed: one function for each decoder of bytes that come from a client, a peer or a disk.

A target takes any bytes and returns, or raises AssertionError. It allows the exceptions that the decoder
documents and no others, and asserts what must hold of what was decoded: the same values for any cut of a
stream, a second decoder's verdict, equal bytes after a round trip.

`make fuzz` searches with atheris, guided by coverage; `test_fuzz.py` runs the corpus and mutations of it
without.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from walrus import protocol, segments
from walrus.broker.takeover import restore
from walrus.client import calls, core
from walrus.client.errors import BadReply, WalrusError, error_for
from walrus.consensus.journal import JournalError, RaftJournal
from walrus.protocol import Fetch, Get, PeerCodec, ProtocolError, Put
from walrus.segments import Metadata, UnknownCommand
from walrus.shell.identity import DataDirectory, DirectoryError
from walrus.storage import record, scan
from walrus.storage.batch import Batch
from walrus.storage.errors import FormatError
from walrus.storage.journal import Notes, topic_note
from walrus.wire.messages import PeerMessage, flaw

CORPUS: Final = Path(__file__).parent / "corpus"
LIFE: Final = record.Life.of(7, 1, 4096)
"""Of the block in which the target `records` looks for them."""
_CODEC: PeerCodec[PeerMessage] = PeerCodec(PeerMessage)


# --- streams --------------------------------------------------------------------------------------


def _pieces(data: bytes) -> list[bytes]:
    """`data` cut in pieces whose lengths its own bytes decide."""
    rng = random.Random(data)
    cuts = sorted(rng.randrange(len(data) + 1) for _ in range(rng.randrange(1, 9)))
    return [data[start:stop] for start, stop in zip([0, *cuts], [*cuts, len(data)], strict=True)]


def _requests(pieces: list[bytes]) -> tuple[list[object], bool]:
    """Single requests, however the parser grouped them, and whether it closed the connection."""
    parser = protocol.RequestParser(4096)
    found: list[object] = []
    for piece in pieces:
        for request in parser.feed(piece):
            parser.check_invariants()
            assert request.replies >= 1
            match request:
                case Put(topic, batch):
                    batch.check()
                    found += [("PUT", topic, payload) for payload in batch.payloads()]
                case Get(topic, group, count):
                    found += [("GET", topic, group)] * count
                case Fetch(topic, segment, offset, count):
                    found += [("FETCH", topic, segment, offset + n) for n in range(count)]
                case _:
                    found.append(request)
    return found, parser.closed


def client_requests(data: bytes) -> None:
    """The request parser raises nothing, and finds the same requests in any pieces."""
    whole = _requests([data])
    assert _requests(_pieces(data)) == whole
    if len(data) <= 64:
        for cut in range(len(data) + 1):
            assert _requests([data[:cut], data[cut:]]) == whole


def replies(data: bytes) -> None:
    """The reply parser raises ProtocolError only; calls turn replies into values and WalrusErrors."""
    try:
        found = protocol.ReplyParser(4096).feed(data)
    except ProtocolError:
        found = []
    for reply in found:
        if isinstance(reply, protocol.Error):
            assert isinstance(error_for(reply.reason), WalrusError)
        for call in (
            calls.put("t", b""),
            calls.get_many("t", 1),
            calls.fetch_many("t", 1, 0, 1),
            calls.metrics(),
        ):
            try:
                call.decode(reply)
            except BadReply:
                continue
    _pipeline(data)


def _pipeline(data: bytes) -> None:
    """A connection survives any bytes with every call done, or gone with an error."""
    pipeline = core.Pipeline()
    exchanges = [
        core.Exchange(call) for call in (calls.metrics(), calls.put_many("t", [b"a"] * 3), calls.state("t"))
    ]
    for exchange in exchanges:
        pipeline.start(exchange)
    pipeline.output()
    pipeline.abandon(exchanges[1], "n", TimeoutError())
    try:
        for piece in _pieces(data):
            pipeline.input(piece)
            pipeline.output()
    except ProtocolError as error:
        pipeline.lost("n", error)
        assert all(exchange.done for exchange in exchanges)
    for exchange in exchanges:
        exchange.check_invariants()


def peer_frames(data: bytes) -> None:
    """The peer parser raises ProtocolError only; a message that it takes comes back from its own bytes."""

    def messages(pieces: list[bytes]) -> tuple[list[PeerMessage], bool]:
        parser, found = _CODEC.parser(4096), []
        try:
            for piece in pieces:
                found += parser.feed(piece)
        except ProtocolError:
            return found, True
        return found, False

    found, refused = messages([data])
    pieces, again = messages(_pieces(data))
    assert again == refused and (refused or pieces == found)
    for message in found:
        assert isinstance(flaw(message), str)
        body = _CODEC.encode(message)[protocol.HEADER_BYTES :]
        assert _CODEC.encode(_CODEC.decode(body))[protocol.HEADER_BYTES :] == body


# --- disks ----------------------------------------------------------------------------------------


def records(data: bytes) -> None:
    """The walk over a block's records raises nothing, goes forward, and yields what verifies by itself."""
    view = memoryview(data)
    place = position = 0
    for found in scan.runs(view, LIFE, 0, 0, len(data)):
        if isinstance(found, scan.DamagedRange):
            assert place <= found.offset and position == found.position <= found.resume
            position = found.resume
            continue
        for one in found:
            assert place <= one.offset < one.end <= len(data) and one.position == position
            assert record.holds(view, LIFE, one.offset, one.end)
            batch = scan.sound_batch(view, LIFE, one.offset, one.position, len(data))
            assert batch is None or batch[1] == one.end
            place, position = one.end, one.position + one.entries
    folded = scan.scan(view, LIFE, 0, 0, len(data))
    assert (folded.end, folded.entries) == (place, position)


def block_headers(data: bytes) -> None:
    """A block's header decodes, or is none, or of another version; a mended one decodes."""
    view = memoryview(data)
    try:
        record.decode_block(view, 1, 4096)
        head = record.mend_block(view, 1, 4096) if len(data) < 256 else None
    except FormatError:
        return
    assert head is None or head.units * record.UNIT <= len(data)


def engine_notes(data: bytes) -> None:
    """The engine's notes about itself fold, or are refused as of another format."""
    notes = Notes()
    for note in _parts(data):
        try:
            notes.take(note)
        except FormatError:
            continue
    for topic_id, note in notes.topics.items():
        again = Notes()
        again.take(topic_note(topic_id, note))
        assert again.topics == {topic_id: note}


def _parts(data: bytes) -> list[bytes]:
    """Records out of one input: each has its length, two bytes, in front."""
    found, at = [], 0
    while at + 2 <= len(data):
        length = int.from_bytes(data[at : at + 2], "little")
        found.append(data[at + 2 : at + 2 + length])
        at += 2 + length
    return found


def join(parts: list[bytes]) -> bytes:
    """The inverse of `_parts`, for seeds."""
    return b"".join(len(part).to_bytes(2, "little") + part for part in parts)


class _OneTopic:
    """A storage that only reads: what Raft's journal loads from."""

    def __init__(self, first: int, found: list[bytes]) -> None:
        self._first, self._records = first, found

    def bounds(self, topic: str) -> tuple[int, int]:
        return self._first, self._first + len(self._records)

    def read_batch(self, topic: str, start: int, max_entries: int, max_bytes: int) -> Batch:
        return Batch.of(self._records[start - self._first :][:max_entries])


def raft_journal(data: bytes) -> None:
    """Loading Raft's journal raises JournalError only; what it restores has terms and indexes in order."""
    storage: Any = _OneTopic(data[0] & 1 if data else 0, _parts(data[1:]))
    try:
        restored = RaftJournal(storage).load()
    except JournalError:
        return
    base = restored.snapshot.index if restored.snapshot else 0
    assert [entry.index for entry in restored.entries] == list(
        range(base + 1, base + 1 + len(restored.entries))
    )
    terms = [entry.term for entry in restored.entries]
    assert terms == sorted(terms) and restored.hard_state.term >= max(terms, default=0)


def metadata_snapshots(data: bytes) -> None:
    """A metadata snapshot is restored as a whole, or refused as UnknownCommand."""
    metadata = Metadata()
    try:
        restore(metadata, data)
    except UnknownCommand:
        assert not metadata.topics and not metadata.nodes, "what is refused changes nothing"
        return
    again = Metadata()
    restore(again, metadata.snapshot())
    assert again.snapshot() == metadata.snapshot() and again.digest() == metadata.digest()


def metadata_commands(data: bytes) -> None:
    """Committed commands apply one after the other, or are refused as UnknownCommand."""
    metadata = Metadata()
    for part in _parts(data):
        try:
            command = segments.decode_command(part)
        except UnknownCommand:
            continue
        metadata.apply(command)
    again = Metadata()
    restore(again, metadata.snapshot())
    assert again.snapshot() == metadata.snapshot()


def identity_files(data: bytes) -> None:
    """A node's identity file is read, or refused as DirectoryError."""
    with tempfile.TemporaryDirectory(prefix="walrus-fuzz-") as place:
        home = Path(place) / "node_1"
        (home / "user_data").mkdir(parents=True)
        (home / "user_data" / "file").touch()
        (home / "identity").write_bytes(data)
        try:
            directory = DataDirectory(Path(place), 1)
        except DirectoryError:
            return
        try:
            assert directory.record.node_id == 1
            assert directory.record.incarnation >= 0 and directory.record.member_at >= 0
        finally:
            directory.close()


TARGETS: Final[dict[str, Callable[[bytes], None]]] = {
    target.__name__: target
    for target in (
        client_requests,
        replies,
        peer_frames,
        records,
        block_headers,
        engine_notes,
        raft_journal,
        metadata_snapshots,
        metadata_commands,
        identity_files,
    )
}
