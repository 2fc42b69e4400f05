"""The corpus as it begins: for each target a few inputs that are right, written by the code that writes them.

    python -m tests.fuzz --seeds        writes them into corpus/

What the search finds broken is added beside them by hand, once it is mended.
"""

from __future__ import annotations

import json
import struct

import msgspec

from tests.fuzz.targets import CORPUS, LIFE, join
from tests.storage import records
from walrus import protocol, segments
from walrus.consensus import journal
from walrus.consensus.messages import MEMBERSHIP, Entry, HardState, Membership, Snapshot
from walrus.protocol import PeerCodec
from walrus.segments import Announce, CommitCursors, MarkLeaving, Metadata, Position, RegisterTopic
from walrus.shell.identity import IdentityFile
from walrus.storage import record
from walrus.storage.batch import Batch
from walrus.storage.journal import RunNote, TopicNote, deleted_note, run_note, topic_note
from walrus.wire.messages import Hello, Join, PeerMessage


def _requests() -> dict[str, bytes]:
    texts = [
        b"REGISTER t",
        b"PUT t one",
        b"PUT t \x00\xff two",
        b"PUT t ",
        b"GET t",
        b"GET t g",
        b"FETCH t 1 0",
    ]
    texts += [b"FETCH t 1 1", b"STATE t", b"METRICS", b"LEAVE 2", b"RECOVER t 1"]
    frames = list(map(protocol.frame, texts))
    equal = protocol.frame(b"PUT t 12345678") * 70 + protocol.frame(b"GET t") * 70
    errors = b"\0\0\0\0" + struct.pack("<I", 5000) + bytes(5000) + struct.pack("<I", 1 << 30)
    return {"each": b"".join(frames), "runs": equal, "limits": errors, "short": b"".join(frames[1:4])}


def _replies() -> dict[str, bytes]:
    found = [protocol.OK, protocol.EMPTY, protocol.ok(b"x"), protocol.ok_fetch(2, b"y"), protocol.ok(b"")]
    found += [protocol.error("unknown topic t: send REGISTER t first"), protocol.json_reply('{"id": 1}')]
    return {
        "each": b"".join(found),
        "json": protocol.json_reply('{"a": [1, {"b": "\\u00e9"}]}'),
        "ok": protocol.OK * 5,
    }


def _peers() -> dict[str, bytes]:
    codec: PeerCodec[PeerMessage] = PeerCodec(PeerMessage)
    hello = Hello(version=1, cluster_id="c", node_id=1, directory_id="d", incarnation=3, target=2)
    join_ = Join(**{field.name: _example(field.type) for field in msgspec.structs.fields(Join)})
    found = {"hello": codec.encode(hello), "join": codec.encode(join_)}
    for kind in PeerMessage.__args__:
        fields = msgspec.structs.fields(kind)
        try:
            message = kind(**{field.name: _example(field.type) for field in fields if field.required})
            found[kind.__name__.lower()] = codec.encode(message)
        except (TypeError, ValueError):
            continue
    return found


def _example(kind: object) -> object:
    examples: dict[object, object] = {
        int: 1,
        str: "x",
        bytes: b"x",
        bool: True,
        Batch: Batch.of([b"a", b"bc"]),
    }
    return examples.get(kind, ())


def _records() -> dict[str, bytes]:
    one = records.encode(LIFE, 0, 0, Batch.of([b"first"]))
    many = records.encode(LIFE, 1, 1, Batch.of([b"a", b"", b"ccc"]))
    last = records.encode(LIFE, 4, 2, Batch.of([b"x" * 40]))
    torn = one + many[:-3]
    flipped = bytearray(one + many + last)
    flipped[len(one) + 9] ^= 4
    return {
        "sound": one + many + last + bytes(32),
        "torn": torn,
        "flipped": bytes(flipped),
        "zeros": bytes(64),
    }


def _headers() -> dict[str, bytes]:
    head = record.BlockHead(
        units=1, life=7, topic_id=3, sequence=1, base=0, durable=0, previous_end=0, flags=0, name=b"orders"
    )
    data = head.encode(1, 4096).ljust(record.UNIT, b"\0")
    flipped = bytearray(data[:200])
    flipped[20] ^= 1
    return {"whole": data, "flipped": bytes(flipped)}


def _notes() -> dict[str, bytes]:
    notes = [run_note(RunNote(b"boot", True)), topic_note(1, TopicNote(1, 2, 3, 4)), b"S", deleted_note(1)]
    return {
        "each": join([*notes, topic_note(2, TopicNote()), b"?unknown"]),
        "short": join([b"T123", b"D", b"O"]),
    }


def _raft() -> dict[str, bytes]:
    members = Membership((1, 2, 3))
    hard = journal._record(b"H", HardState(2, 1))
    first = journal._record(b"E", Entry(1, 1, MEMBERSHIP, members.encode()))
    more = [journal._record(b"E", Entry(2, n, data=b"x")) for n in (2, 3)]
    snapshot = journal._snapshot_records(Snapshot(5, 2, members, b"state"))
    return {
        "log": b"\0" + join([hard, first, *more]),
        "trimmed": b"\1" + join([*snapshot, hard, journal._record(b"E", Entry(2, 6))]),
        "both": b"\0" + join([hard, first, *more, *snapshot]),
    }


def _metadata() -> tuple[dict[str, bytes], dict[str, bytes]]:
    address = {"incarnation": 1, "raft_address": "h:1", "client_address": "h:2"}
    commands: list[segments.Command] = [
        Announce(node_id=n, directory_id=f"d{n}", **address) for n in (1, 2, 3)
    ]
    commands += [
        RegisterTopic(topic="t", leader=1, replicas=(1, 2, 3)),
        CommitCursors(cursors={"t": {"": Position(1, 0), "g": Position(1, 0)}}),
        MarkLeaving(node_id=3, directory_id="d3"),
    ]
    metadata = Metadata()
    for command in commands:
        metadata.apply(command)
    return (
        {"small": metadata.snapshot(), "empty": Metadata().snapshot()},
        {"each": join(list(map(segments.encode_command, commands)))},
    )


def _identities() -> dict[str, bytes]:
    member = IdentityFile(node_id=1, directory_id="d", cluster_id="c", state="member", incarnation=3)
    other = {"format": 2, "node_id": 1, "directory_id": "d"}
    return {"member": msgspec.json.encode(member), "other": json.dumps(other).encode(), "text": b"\xff{}"}


def write() -> None:
    """Write all seeds."""
    snapshots, commands = _metadata()
    seeds = {
        "client_requests": _requests(),
        "replies": _replies(),
        "peer_frames": _peers(),
        "records": _records(),
        "block_headers": _headers(),
        "engine_notes": _notes(),
        "raft_journal": _raft(),
        "metadata_snapshots": snapshots,
        "metadata_commands": commands,
        "identity_files": _identities(),
    }
    for target, inputs in seeds.items():
        (CORPUS / target).mkdir(parents=True, exist_ok=True)
        for name, data in inputs.items():
            (CORPUS / target / name).write_bytes(data)
