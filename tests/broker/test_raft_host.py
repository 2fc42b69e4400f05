"""What a node may drop once a checkpoint of its metadata is durable, and not before."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest

from tests.broker.world import batch, config
from walrus.broker import raft_host, takeover
from walrus.broker.raft_host import RaftHost, RaftObserver
from walrus.config import Identity
from walrus.consensus.journal import JournalError, RaftJournal
from walrus.consensus.messages import (
    COMMAND,
    NOOP,
    AppendEntriesRequest,
    AppendEntriesResponse,
    Entry,
    InstallSnapshotRequest,
    Membership,
    PreVoteResponse,
    RaftMessage,
    RequestVoteResponse,
    Role,
)
from walrus.replicas.copies import Copies
from walrus.replicas.durability import Durable
from walrus.segments import (
    VERSION,
    Command,
    Member,
    Metadata,
    RegisterTopic,
    Segment,
    SetReplicas,
    Topic,
    decode_command,
    encode_command,
    snapshot_encoder,
)
from walrus.sim.memory import MemoryEngine
from walrus.wire.effects import Halt, Outbox, Send, no_trace

FENCED = ("t", 1)
OPEN = Segment(leader=1, incarnation=1, replicas=(1, 2, 3))


class Stub(Metadata):
    """Metadata of one topic, which commands do not change."""

    def __init__(self, bench: Bench) -> None:
        super().__init__()
        self.bench = bench
        self.put_in("t", Topic(segments=[OPEN], first=2))

    def is_over(self, topic: str, number: int) -> bool:
        return self.bench.sealed

    def apply(self, command: Command) -> str | None:
        return getattr(command, "topic", None)


class Bench:
    """Node 2 follows node 1, compacts after every five entries, and has a fence noted for t/1."""

    def __init__(self, *, sure: bool = True, memory: MemoryEngine | None = None) -> None:
        if memory is None:
            memory = MemoryEngine()
            RaftJournal(memory).bootstrap(Membership((1, 2, 3)))
        self.memory = memory
        self.meta = Durable(memory)
        self.forgotten: list[Any] = []
        self.sealed = False
        self.doubted: list[Any] = []
        self.copies = SimpleNamespace(
            noted=[FENCED],
            in_doubt=False,
            forget_notes=self.forgotten.extend,
            get=lambda key: key,
            mark=lambda copy, sure: self.doubted.append(copy),
        )
        metadata = Stub(self)
        self.outbox = Outbox(2)
        self.host = RaftHost(
            config=config(2, compact_entries=5),
            identity=Identity(cluster_id="test", directory_id="d2", incarnation=1, sure=sure),
            meta=self.meta,
            metadata=metadata,
            copies=cast(Copies, self.copies),
            outbox=self.outbox,
            rng=random.Random(1),
            now=0.0,
            trace=no_trace,
            observer=RaftObserver(),
        )
        self.last = self.host.raft.log.last_index

    def append(self, count: int, commit: int, now: float = 0.0, command: Command | None = None) -> int:
        """So many entries of the leader, and what it says of its commit index; the write that holds them."""
        kind, data = (COMMAND, encode_command(command)) if command else (NOOP, b"")
        entries = tuple(Entry(1, self.last + number, kind, data) for number in range(1, count + 1))
        message = AppendEntriesRequest(
            term=1,
            round=1,
            prev_log_index=self.last,
            prev_log_term=self.host.raft.log.term_at(self.last) or 0,
            leader_commit=commit,
            entries=entries,
        )
        self.last += count
        self.host.raft.step(1, message, now)
        return self.write(now)

    def install(self, ahead: int, data: bytes | None = None) -> int:
        """The leader's snapshot of so many entries more than there are; the index of its last one."""
        data = data or self.host.metadata.snapshot()
        snapshot = InstallSnapshotRequest(
            term=1,
            round=2,
            last_index=self.last + ahead,
            last_term=1,
            membership=Membership((1, 2, 3)),
            offset=0,
            total=len(data),
            data=data,
        )
        self.host.raft.step(1, snapshot, 1.0)
        return snapshot.last_index

    def turn(self) -> int:
        """The next turn goes on with what one was not enough for; the last write in it."""
        self.host.go_on(0.0)
        return self.write()

    def write(self, now: float = 0.0) -> int:
        self.host.flush(now)
        return self.meta.written

    def durable(self, write: int) -> None:
        self.host.on_durable(write, 0.0)


def answers(bench: Bench) -> list[int]:
    """The lengths of the log that node 2 has acknowledged."""
    sent = [effect.message for effect in bench.outbox.take() if isinstance(effect, Send)]
    return [message.match_index for message in sent if isinstance(message, AppendEntriesResponse)]


def test_with_more_topics_than_compact_entries_a_snapshot_waits_for_as_many_entries() -> None:
    bench = Bench()
    bench.host.metadata.topics.update({f"t{n}": bench.host.metadata.topics["t"] for n in range(7)})
    at = []
    for _ in range(10):
        bench.host.on_durable(bench.append(1, bench.last + 1), 0.0)
        if not at or bench.host.raft.log.snapshot_index != at[-1]:
            at.append(bench.host.raft.log.snapshot_index)
    assert at[1] - at[0] == 8 > 5, "StateMachineSafety: a snapshot too early, or never"


def test_what_is_applied_is_told_with_the_time_of_its_turn():
    """Deadlines count from there, also where nothing had to be written."""
    bench = Bench()
    told: list[float] = []
    bench.host.start(lambda changes, now: told.append(now))
    bench.host.on_durable(bench.append(3, commit=0), 1.0)
    bench.append(0, commit=bench.last, now=7.0)
    assert bench.host.applied == bench.last, "StateMachineSafety: what is committed is not applied"
    assert told == [1.0, 7.0], "StateMachineSafety: what is applied is told twice, or with another time"


def test_a_node_is_sure_of_itself_only_when_its_doubts_are_durable():
    """Until then another loss of power would leave shortened copies that are taken for whole."""
    bench = Bench(sure=False)
    assert not bench.host.doubts_are_noted and bench.copies.in_doubt, "AckedDurable: nothing is applied yet"
    bench.durable(bench.append(1, commit=bench.last))
    assert bench.host.applied >= 1 and not bench.copies.in_doubt, (
        "AckedDurable: what is applied says which copies are unsure"
    )
    noted = bench.meta.write("notes", batch("t/1 is unsure"))
    assert not bench.host.doubts_are_noted, "AckedDurable: a doubt is not durable yet"
    bench.durable(bench.write())
    assert noted <= bench.meta.durable and bench.host.doubts_are_noted, (
        "AckedDurable: sure before its doubts are durable"
    )


@pytest.mark.parametrize("behind", [0, 3])
def test_after_an_unclean_stop_the_copies_of_a_snapshots_open_segments_are_unsure(behind: int):
    """The power loss may have shortened them, whether the journal ends with its snapshot or not."""
    before = Bench()
    before.durable(before.append(5, commit=before.last + 5))
    before.durable(before.turn())
    before.durable(before.append(behind, commit=0))
    assert before.host.raft.log.snapshot_index == before.last - behind
    after = Bench(sure=False, memory=before.memory)
    after.host.metadata.take_out("t")
    after.host.start(lambda changes, now: None)
    assert after.doubted == [("t", 2)], "AckedDurable: a copy that may be short answers as if it were whole"
    assert Bench(memory=before.memory).doubted == [], "AckedDurable: doubts after an orderly stop"


def test_so_is_that_of_a_segment_that_the_last_entry_of_the_journal_opens():
    before = Bench()
    opens = RegisterTopic(topic="t", leader=1, replicas=(1, 2, 3))
    before.durable(before.append(1, commit=0, command=opens))
    after = Bench(sure=False, memory=before.memory)
    after.durable(after.append(1, commit=after.last))
    assert after.doubted == [("t", 2)], "AckedDurable: a copy that may be short answers as if it were whole"
    after.durable(after.append(1, commit=after.last + 1, command=opens))
    assert after.doubted == [("t", 2)], "AckedDurable: what is opened since the power loss is whole"


def lead(bench: Bench, last: int = 8) -> float:
    """Have node 1 vote for it, and take its first entry, behind `last`; the time at which it leads."""
    raft, now = bench.host.raft, bench.host.raft.next_deadline()
    raft.tick(now)
    answers: tuple[RaftMessage, ...] = (
        PreVoteResponse(term=2, granted=True),
        RequestVoteResponse(term=2, granted=True),
        AppendEntriesResponse(term=2, round=1, success=True, prev_log_index=last, match_index=last + 1),
    )
    for answer in answers:
        raft.step(1, answer, now)
        bench.host.flush(now)
        bench.durable(bench.meta.written)
    assert raft.role is Role.LEADER and raft.commit_index == last + 1
    return now


def test_a_new_raft_leader_decides_nothing_before_it_has_applied_what_was_committed(
    monkeypatch: pytest.MonkeyPatch,
):
    """It would take a member for one that the metadata does not know, and drop it."""
    monkeypatch.setattr(raft_host, "MAX_APPLIED", 1)
    bench = Bench()
    applied_at(bench, 0)
    host, now = bench.host, lead(bench)
    while host.behind:
        assert not host.leads, "StateMachineSafety: it decides by metadata that lacks what is committed"
        host.go_on(now)
    assert host.leads, "CommitProgress: a new Raft leader never decides anything"


def test_a_segment_is_placed_by_the_membership_at_the_end_of_the_log() -> None:
    """A change counts from its entry on: what is placed on a voter that goes would have a replica too few."""
    bench = Bench()
    applied_at(bench, 0)
    host, now = bench.host, lead(bench)
    metadata = cast(Any, host.metadata)
    member = Member(directory_id="d", incarnation=1, raft_address="", client_address="")
    metadata.nodes = dict.fromkeys((1, 2, 3), member)
    assert host.raft.propose_membership(Membership((1, 2)), now) is not None, (
        "EnoughReplicas: the change is not proposed"
    )
    host.propose(RegisterTopic(topic="new", leader=2, replicas=(1, 2, 3)), now)
    placed = decode_command(host.raft.log.entry(host.raft.log.last_index).data)
    assert isinstance(placed, RegisterTopic) and set(placed.replicas) == {1, 2}, "EnoughReplicas"


def test_a_segment_that_gets_other_replicas_is_looked_at():
    """A node that becomes a replica by a command copies what it lacks, and no later change tells it to."""
    bench = Bench()
    told: list[Any] = []
    bench.host.start(lambda changes, now: told.extend(changes.replica_sets))
    change = SetReplicas(topic="t", segment=1, old=(1, 3), new=(1, 2, 3))
    bench.durable(bench.append(1, commit=bench.last + 1, command=change))
    assert told == [("t", 1)], "ReplicasKept: NoRest: the new replica does not look at what it lacks"


def test_fences_are_forgotten_once_the_checkpoint_that_has_their_seals_is_durable():
    bench = Bench()
    bench.durable(bench.append(20, commit=0))
    bench.sealed = True
    bench.durable(bench.append(1, commit=6))
    checkpoint = bench.turn()
    assert bench.forgotten == [], "AckedDurable: not before the checkpoint is durable"
    bench.durable(checkpoint)
    assert bench.forgotten == [FENCED], (
        "AckedDurable: forgotten before its Seal's checkpoint is durable, or never"
    )


def test_an_older_checkpoint_that_becomes_durable_ends_no_fence_of_a_later_one():
    """After a restart its metadata does not say that t/1 is sealed: only the note refuses the writer."""
    bench = Bench()
    bench.durable(bench.append(20, commit=0))
    first = bench.append(1, commit=6)
    second = bench.append(1, commit=14)
    bench.durable(first)  # six entries are applied: a checkpoint is made ...
    older = bench.turn()
    bench.sealed = True
    bench.durable(second)  # ... and eight more, with the seal: another one
    newer = bench.turn()
    assert second < older < newer
    bench.durable(older)
    assert bench.forgotten == [], "AckedDurable: a fence is forgotten that no durable checkpoint makes up for"
    bench.durable(newer)
    assert bench.forgotten == [FENCED], "AckedDurable: a fence is forgotten too early, or never"


def test_the_fence_of_an_open_segment_outlives_every_checkpoint():
    bench = Bench()
    bench.durable(bench.append(20, commit=0))
    bench.durable(bench.append(1, commit=6))
    bench.durable(bench.turn())
    assert bench.host.raft.log.snapshot_index >= 6
    assert bench.forgotten == [], "AckedDurable: the fence of an open segment is forgotten"


def applied_at(bench: Bench, turns: int) -> list[int]:
    """How far the metadata is after seven commands are committed together, and after each turn."""
    change = SetReplicas(topic="t", segment=1, old=(1, 2), new=(1, 2, 3))
    bench.durable(bench.append(7, commit=bench.last + 7, command=change))
    reached = [bench.host.applied]
    for turn in range(turns):
        bench.host.go_on(float(turn))
        reached.append(bench.host.applied)
    return reached


def test_commands_that_are_committed_together_are_applied_in_bounded_steps(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(raft_host, "MAX_APPLIED", 3)
    bench = Bench()
    assert applied_at(bench, 3) == [3, 6, 8, 8], (
        "StateMachineSafety: seven commands, and the membership before them"
    )
    assert not bench.host.behind, "StateMachineSafety: what is committed waits for good"


def test_so_are_large_ones(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(raft_host, "MAX_APPLIED_BYTES", 1)
    bench = Bench()
    assert applied_at(bench, 8) == [1, 2, 3, 4, 5, 6, 7, 8, 8], (
        "StateMachineSafety: large commands are applied in one step"
    )


def test_what_is_committed_meanwhile_is_applied_in_its_turn(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(raft_host, "MAX_APPLIED", 3)
    bench = Bench()
    applied_at(bench, 0)
    bench.durable(bench.append(1, commit=bench.last + 1))
    assert bench.host.applied == 6, "StateMachineSafety: the next ones, in the order of the log"


def test_a_snapshot_replaces_what_waits_to_be_applied(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(raft_host, "MAX_APPLIED", 3)
    bench = Bench()
    applied_at(bench, 0)
    later = bench.install(5)
    bench.durable(bench.write(1.0))
    bench.host.go_on(2.0)
    assert bench.host.applied == later and not bench.host.behind, (
        "StateMachineSafety: what a snapshot replaced is applied behind it"
    )


def test_an_image_of_metadata_that_a_snapshot_replaces_is_given_up():
    """It is made some topics per turn, and those that it has yet to come to may be gone."""
    bench = Bench()
    bench.durable(bench.append(9, commit=9))
    gone = msgspec.structs.replace(Metadata().contents((), ()), floor=9)
    index = bench.install(5, snapshot_encoder.encode(gone))
    try:
        bench.durable(bench.write(1.0))
        bench.durable(bench.turn())
    except LookupError as error:
        raise AssertionError("StateMachineSafety: an image goes on of metadata that is gone") from error
    assert bench.host.applied == bench.host.raft.log.snapshot_index == index, "StateMachineSafety"


def test_what_met_a_full_disk_is_written_when_there_is_room_and_answered_then():
    bench = Bench()
    bench.memory.full = True
    bench.append(3, commit=0)
    assert not answers(bench), "CommittedNeverLost: what is not written is acknowledged"
    bench.memory.full = False
    bench.durable(bench.write())
    bench.durable(bench.append(1, commit=0))
    try:
        last = RaftJournal(bench.memory).load().entries[-1].index
    except JournalError as error:
        raise AssertionError("CommittedNeverLost: what met a full disk is never written") from error
    assert max(answers(bench)) == last == bench.last, "CommittedNeverLost: acknowledged, and not written"


def test_behind_a_snapshot_of_a_later_release_nothing_is_applied():
    """What follows it was committed in the same turn: it fits only the state that could not be restored."""
    later = msgspec.structs.replace(Metadata().contents((), ()), version=VERSION + 1)
    bench = Bench()
    bench.last = bench.install(5, snapshot_encoder.encode(later))
    bench.durable(bench.append(1, commit=bench.last + 1))
    bench.host.go_on(2.0)
    halts = [effect for effect in bench.outbox.take() if isinstance(effect, Halt)]
    assert [halt.reason for halt in halts] == [
        f"metadata snapshot of version {VERSION + 1}: upgrade this node"
    ], "StateMachineSafety: a snapshot of a later release does not stop the node"
    assert bench.host.applied == 0, "StateMachineSafety: something is applied behind what cannot be read"


TAKEN = {name: Topic(segments=[OPEN], first=3) for name in ("t", "u", "v")}


def taking(bench: Bench, monkeypatch: pytest.MonkeyPatch, topics: dict[str, Any] = TAKEN) -> int:
    """The first turn of a takeover of three topics: t is taken. Returns the index of the snapshot."""
    monkeypatch.setattr(takeover, "MAX_TAKEN", 1)
    frame = Metadata().contents((), sorted(topics.items()))
    bench.last = bench.install(5, snapshot_encoder.encode(frame))
    bench.durable(bench.write(1.0))
    assert bench.host.behind and bench.host.metadata.topics.keys() == {"t"}
    return bench.last


def test_a_snapshot_is_applied_with_its_last_topic_and_commands_wait_for_that(
    monkeypatch: pytest.MonkeyPatch,
):
    bench, told = Bench(), list[tuple[int, list[str], bool]]()
    host = bench.host
    host.start(lambda changes, now: told.append((host.applied, list(changes.topics), changes.restored)))
    index = taking(bench, monkeypatch)
    bench.durable(
        bench.append(1, commit=index + 1, command=RegisterTopic(topic="w", leader=1, replicas=(1, 2, 3)))
    )
    while host.behind:
        bench.durable(bench.turn())
    assert told == [(0, ["t"], False), (0, [], False), (0, ["u"], False), (index + 1, ["v", "w"], True)], (
        "StateMachineSafety: half a snapshot counts as applied, or a command is applied to half of one"
    )


def test_a_raft_leader_decides_nothing_while_it_takes_over_a_snapshot(monkeypatch: pytest.MonkeyPatch):
    """Its log has all of the snapshot, so that it may be elected, and `applied` is behind that."""
    bench = Bench()
    index, host = taking(bench, monkeypatch), bench.host
    now = lead(bench, index)
    while host.behind:
        assert not host.leads, "StateMachineSafety: it decides by metadata that lacks what is committed"
        host.go_on(now)
    assert host.leads and host.applied == index + 1, "CommitProgress: it never decides anything"


def test_another_snapshot_takes_the_place_of_one_that_is_not_whole(monkeypatch: pytest.MonkeyPatch):
    bench = Bench()
    first = taking(bench, monkeypatch)
    frame = Metadata().contents((), [("t", TAKEN["t"])])
    later = bench.install(5, snapshot_encoder.encode(frame))
    bench.durable(bench.write(1.0))
    assert bench.host.applied == later > first and not bench.host.behind, "StateMachineSafety"
    assert bench.host.metadata.topics == {"t": TAKEN["t"]}, "StateMachineSafety: topics of no one's snapshot"


def test_a_topic_that_cannot_be_read_halts_the_node_in_its_turn(monkeypatch: pytest.MonkeyPatch):
    bench = Bench()
    taking(bench, monkeypatch, {**TAKEN, "u": "no topic"})
    bench.durable(bench.append(1, commit=bench.last + 1))
    for _ in range(3):
        bench.durable(bench.turn())
    halts = [effect.reason for effect in bench.outbox.take() if isinstance(effect, Halt)]
    assert len(halts) == 1 and "cannot read" in halts[0], "StateMachineSafety: it goes on without a topic"
    assert bench.host.applied == 0, "StateMachineSafety: something is applied behind what cannot be read"


def test_doubts_are_noted_topic_by_topic_before_the_snapshot_counts_as_applied(
    monkeypatch: pytest.MonkeyPatch,
):
    bench = Bench(sure=False)
    taking(bench, monkeypatch)
    doubted = []
    while bench.host.behind:
        doubted.append(list(bench.doubted))
        assert bench.copies.in_doubt and not bench.host.doubts_are_noted, "AckedDurable: not all are noted"
        bench.durable(bench.turn())
    assert doubted == [[("t", 3)], [("t", 3), ("u", 3)]], "AckedDurable: a copy answers as if it were whole"
    assert bench.doubted[2:] == [("v", 3)] and not bench.copies.in_doubt, "AckedDurable: not noted, or always"
