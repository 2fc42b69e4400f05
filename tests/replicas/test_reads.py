"""Reading what lives on other nodes, and answering others: only what is acknowledged or sealed is shown."""

from __future__ import annotations

from typing import Any

import pytest

from tests.broker.test_segments import cluster, seal
from tests.broker.world import batch, config
from walrus.replicas import reads
from walrus.replicas.copies import Copies
from walrus.replicas.durability import Durable
from walrus.replicas.reads import Reads
from walrus.segments import Trim
from walrus.sim.memory import MemoryEngine
from walrus.storage.batch import EMPTY, Batch
from walrus.wire import messages as m
from walrus.wire.effects import Outbox, Send


class Bench:
    """Node 1 with a copy of t/1 that holds a, b and c; two of them are acknowledged, if it leads."""

    def __init__(self, *, leads: bool = True, sealed: int | None = None) -> None:
        self.memory = MemoryEngine()
        self.copies = Copies(Durable(self.memory), Durable(MemoryEngine()))
        self.copies.append(self.copies.get(("t", 1)), 0, batch("a", "b", "c"), lambda: None)
        self.metadata = cluster()
        if sealed is not None:
            self.metadata.apply(seal(1, sealed))
        self.outbox = Outbox(1)
        self.answers: list[tuple[list[bytes], str]] = []
        self.reads = Reads(
            config=config(),
            copies=self.copies,
            metadata=self.metadata,
            outbox=self.outbox,
            commit_index=lambda topic, number: 2 if leads and sealed is None and number == 1 else None,
            first_request=0,
        )

    def sent(self, kind: type[Any]) -> list[Any]:
        sent = [e.message for e in self.outbox.take() if isinstance(e, Send)]
        return [message for message in sent if isinstance(message, kind)]

    def read(self, start: int, *, raw: bool = False, segment: int = 1, entries: int = 10) -> m.ReadReply:
        question = m.Read(
            request=1, topic="t", segment=segment, start=start, max_entries=entries, max_bytes=100, raw=raw
        )
        self.reads.on_read(2, question, 0.0)
        (reply,) = self.sent(m.ReadReply)
        assert isinstance(reply, m.ReadReply)
        return reply

    def ask(self, node: int = 2) -> m.Read:
        def answer(got: Batch, error: str, at: float) -> None:
            self.answers.append((got.payloads(), error))

        self.reads.ask(node, "t", 1, 0, entries=5, raw=False, now=0.0, then=answer)
        (question,) = self.sent(m.Read)
        assert isinstance(question, m.Read)
        return question


def test_open_segment_is_read_up_to_what_is_acknowledged():
    bench = Bench()
    assert bench.read(0).batch.payloads() == [b"a", b"b"], (
        "DeliveredIsPrefix: what is not acknowledged is read"
    )
    assert bench.read(2) == m.ReadReply(request=1, batch=EMPTY, error=""), (
        "DeliveredIsPrefix: what is not acknowledged is read"
    )


def test_only_the_leader_of_an_open_segment_answers_for_it():
    reply = Bench(leads=False).read(0)
    assert reply.error and not reply.batch.count, (
        "DeliveredIsPrefix: a node answers that does not know what is acknowledged"
    )


@pytest.mark.parametrize(("count", "expected"), [(2, [b"a", b"b"]), (3, [b"a", b"b", b"c"]), (0, [])])
def test_sealed_segment_is_read_up_to_its_count(count: int, expected: list[bytes]):
    """A deposed leader's copy may hold more, which no reader is ever shown."""
    assert Bench(sealed=count).read(0).batch.payloads() == expected, (
        "DeliveredIsPrefix: what is not part of the segment is read"
    )


def test_copy_that_is_too_short_does_not_pretend_to_be_the_end():
    bench = Bench(sealed=5)
    assert bench.read(1).batch.payloads() == [b"b", b"c"], "DeliveredIsPrefix"
    assert bench.read(3).error, "DeliveredIsPrefix: an empty answer would mean that there is nothing"


def test_raw_reads_see_the_copy_as_it_is():
    bench = Bench(leads=False)
    assert bench.read(1, raw=True).batch.payloads() == [b"b", b"c"], "PrefixAgree"
    assert bench.read(0, raw=True, entries=1).batch.payloads() == [b"a"], "PrefixAgree"
    assert bench.read(9, raw=True) == m.ReadReply(request=1, batch=EMPTY, error=""), "PrefixAgree"


@pytest.mark.parametrize("raw", [False, True], ids=["for a reader", "raw"])
def test_a_read_of_a_segment_that_is_gone_is_refused_and_makes_no_copy_of_it(raw: bool):
    """A recovery or a repair may be behind, and asks for what was trimmed here already."""
    bench = Bench(sealed=3)
    bench.metadata.apply(Trim(topic="t", old=1, first=2))
    assert bench.copies.drop(("t", 1))
    assert "is gone" in bench.read(0, raw=raw).error, "DeliveredIsPrefix: as if there were no entries (yet)"
    assert bench.copies.known() == [], "SpaceIsGivenBack: a copy of what is gone, which nothing drops again"


@pytest.mark.parametrize("raw", [True, False])
@pytest.mark.parametrize(("start", "segment"), [(-1, 1), (-9, 1), (0, 7), (0, -1), (10**12, 1)])
def test_nonsense_is_answered_with_nothing(start: int, segment: int, raw: bool):
    assert not Bench().read(start, segment=segment, raw=raw).batch.count, "DeliveredIsPrefix"


def test_one_entry_after_the_other_is_read_in_one_piece(monkeypatch: pytest.MonkeyPatch):
    bench, pieces = Bench(sealed=3), []
    read = bench.copies.read
    monkeypatch.setattr(bench.copies, "read", lambda *asked: pieces.append(asked[1]) or read(*asked))
    found = [bench.reads.read_local("t", 1, start, 1, 1_000).payloads() for start in (0, 1, 2)]
    assert (found, pieces) == ([[b"a"], [b"b"], [b"c"]], [0]), "DeliveredIsPrefix"
    assert bench.reads.read_local("t", 1, 0, 3, 2).payloads() == [b"a", b"b"], "not more bytes than asked for"
    assert pieces == [0, 0], "ReadProgress: what was read ahead is read again"
    assert bench.reads.read_local("t", 1, 1, 2, 1_000).payloads() == [b"b", b"c"], (
        "DeliveredIsPrefix: nor fewer than there are"
    )


def test_what_is_read_ahead_ends_where_readers_do():
    bench = Bench()
    assert bench.reads.read_local("t", 1, 0, 1, 1_000).payloads() == [b"a"], "DeliveredIsPrefix"
    assert bench.reads.read_local("t", 1, 1, 5, 1_000).payloads() == [b"b"], "DeliveredIsPrefix: not c"


def test_what_was_read_ahead_ends_where_a_forced_recovery_cut_the_segment():
    """RECOVER may give up what the writer had acknowledged, and had read; it learns so by the Seal."""
    bench = Bench()
    assert bench.reads.read_local("t", 1, 0, 1, 1_000).payloads() == [b"a"], (
        "DeliveredIsPrefix: what was given up is read"
    )
    bench.metadata.apply(seal(1, 1))
    assert bench.reads.read_local("t", 1, 0, 2, 1_000).payloads() == [b"a"], "DeliveredIsPrefix: not b"
    assert not bench.reads.read_local("t", 1, 1, 1, 1_000).count, (
        "DeliveredIsPrefix: what was given up is read"
    )


def test_segments_read_ahead_are_bounded(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(reads, "MAX_AHEAD", 1)
    bench = Bench(sealed=3)
    for start in (0, 2):
        bench.reads.read_local("t", 1, start, 1, 1_000)
    bench.reads._keep(("u", 1), 0, batch("x"))
    assert list(bench.reads._ahead) == [("u", 1)]
    monkeypatch.setattr(reads, "AHEAD_BYTES", 0)
    bench.reads.read_local("t", 1, 0, 1, 1_000)
    assert list(bench.reads._ahead) == [("u", 1)], "one entry that is larger than all that may be kept"


@pytest.mark.parametrize("raw", [True, False])
def test_damage_is_an_error_and_never_an_end(raw: bool):
    bench = Bench(sealed=3)
    bench.memory.damaged.add(("t/1", 1))
    assert bench.read(0, raw=raw).batch.payloads() == [b"a"], "DeliveredIsPrefix"
    assert "damaged" in bench.read(1, raw=raw).error, "DeliveredIsPrefix: damage passes for the end"


def test_answer_is_given_once():
    bench = Bench()
    question = bench.ask()
    reply = m.ReadReply(request=question.request, batch=batch("x"), error="")
    bench.reads.on_reply(3, reply, 0.0)  # not the one that was asked
    assert bench.answers == [], "DeliveredIsPrefix: the answer of a node that was not asked counts"
    bench.reads.on_reply(2, reply, 0.0)
    bench.reads.on_reply(2, reply, 0.0)
    bench.reads.on_tick(60.0)
    assert bench.answers == [([b"x"], "")], "ReadProgress"


@pytest.mark.parametrize("how", ["silence", "disconnected"])
def test_whoever_asks_always_hears_something(how: str):
    bench = Bench()
    bench.ask()
    bench.ask(3)
    if how == "silence":
        bench.reads.on_tick(60.0)
        assert len(bench.answers) == 2, "ReadProgress: one that asks hears nothing"
    else:
        bench.reads.on_disconnected(2, 0.0)
        assert len(bench.answers) == 1, "ReadProgress: the node that is asked is gone, and nothing is said"
    assert all(error for _, error in bench.answers), "ReadProgress"


def test_a_read_that_waits_is_answered_when_its_segment_ends(monkeypatch: pytest.MonkeyPatch):
    """What it waits for will be in the next segment, and its asker has to look there."""
    bench = Bench()
    question = m.Read(
        request=1, topic="t", segment=1, start=2, max_entries=9, max_bytes=9, raw=False, wait=5.0
    )
    bench.reads.on_read(2, question, 0.0)
    bench.reads.on_advanced(["t"])
    assert bench.sent(m.ReadReply) == [], "ReadProgress: answered although nothing has changed"
    bench.metadata.apply(seal(1, 2))
    monkeypatch.setattr(bench.reads, "_commit_index", lambda topic, number: None)
    bench.reads.on_advanced(["t"])
    assert [reply.batch.count for reply in bench.sent(m.ReadReply)] == [0], (
        "ReadProgress: a read of a segment that has ended waits for its time"
    )


def test_holders_are_connected_replicas_and_of_an_open_segment_its_leader():
    assert Bench().reads.holders("t", 1, {2, 3}) == [], (
        "DeliveredIsPrefix: a node is asked that does not know what is acknowledged"
    )
    assert Bench().reads.holders("t", 1, {1, 3}) == [1], (
        "DeliveredIsPrefix: of an open segment only its leader knows what is acknowledged"
    )
    assert Bench(sealed=3).reads.holders("t", 1, {2, 3, 7}) == [2, 3], "ReadProgress"
    assert Bench().reads.holders("unknown", 1, {1}) == []
