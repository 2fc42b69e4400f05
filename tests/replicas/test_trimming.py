"""What is trimmed or deleted goes from this node's disk: that, once, and nothing else."""

from __future__ import annotations

from tests.broker.test_segments import cluster, register, seal
from tests.broker.world import batch
from walrus.commands import Command, DeleteTopic, Trim
from walrus.replicas.copies import Copies, Key
from walrus.replicas.durability import Durable
from walrus.replicas.trimming import Trimming
from walrus.sim.memory import MemoryEngine


class Bench:
    """Node 1 with a copy of one entry of each sealed segment of `t`, of which there are so many, and `u`."""

    def __init__(self, segments: int) -> None:
        seals = (seal(number, 1) for number in range(1, segments + 1))
        self.metadata = cluster(*seals, register("u"))
        self.memory = MemoryEngine()
        self.copies = Copies(Durable(self.memory), Durable(MemoryEngine()))
        for key in [("u", 1), *(("t", number) for number in range(1, segments + 1))]:
            self.copies.append(self.copies.get(key), 0, batch("x"), lambda: None)
        self.gone: list[Key] = []
        self.trimming = Trimming(metadata=self.metadata, copies=self.copies, on_gone=self.gone.append)
        self.trimming.on_topic("t")

    def apply(self, command: Command, topic: str = "t") -> list[Key]:
        """The segments that go with that."""
        self.metadata.apply(command)
        self.trimming.on_topic(topic)
        self.trimming.check_invariants()
        gone = self.gone.copy()
        self.gone.clear()
        return gone


def test_each_segment_goes_once() -> None:
    bench = Bench(6)
    assert bench.apply(Trim(topic="t", old=1, first=3)) == [("t", 1), ("t", 2)], "SpaceIsGivenBack"
    assert bench.apply(Trim(topic="t", old=3, first=4)) == [("t", 3)], "SpaceIsGivenBack: it was gone before"
    assert bench.copies.entries == 4 and bench.trimming.entries == 3, "SpaceIsGivenBack: of another segment"


def test_a_trim_of_more_segments_than_are_looked_up_one_by_one_takes_those_of_its_topic() -> None:
    bench = Bench(1_100)
    gone = bench.apply(Trim(topic="t", old=1, first=1_050))
    assert sorted(gone) == [("t", number) for number in range(1, 1_050)], "TrimmedIsSealed"
    assert bench.memory.entries["u/1"], "AckedDurable: a copy of another topic goes, too"


def test_what_a_full_disk_kept_goes_once_there_is_room() -> None:
    bench = Bench(3)
    bench.memory.full = "delete"
    assert bench.apply(Trim(topic="t", old=1, first=2)) == [("t", 1)]
    assert bench.copies.entries == 4, "SpaceIsGivenBack: it is still there, and not counted"
    bench.memory.full = False
    bench.trimming.on_tick()
    assert bench.copies.entries == 3, "SpaceIsGivenBack: there is room, and it stays"
    bench.gone.clear()
    bench.trimming.on_tick()
    assert not bench.gone, "SpaceIsGivenBack: what is gone is dropped with each tick"


def test_of_topics_that_are_deleted_no_numbers_are_kept() -> None:
    """A cluster may delete topics for years, each with a name of its own."""
    bench = Bench(2)
    bench.apply(Trim(topic="t", old=1, first=2))
    bench.apply(register("v"), topic="v")
    bench.apply(DeleteTopic(topic="t", born=1))
    assert bench.trimming._first.keys() == {"v"}, "SpaceIsGivenBack: a name stays that was deleted"
    bench.metadata.apply(DeleteTopic(topic="v", born=1))
    bench.trimming.on_snapshot()
    assert not bench.trimming._first, "SpaceIsGivenBack: a name stays that a snapshot does not have"


def test_copies_that_a_start_finds_go_like_those_written_since() -> None:
    bench = Bench(3)
    bench.copies = Copies(Durable(bench.memory), Durable(MemoryEngine()))
    bench.trimming = Trimming(metadata=bench.metadata, copies=bench.copies, on_gone=bench.gone.append)
    assert bench.apply(Trim(topic="t", old=1, first=3)) == [("t", 1), ("t", 2)], "SpaceIsGivenBack"
    assert sorted(bench.copies.known()) == [("t", 3), ("u", 1)], "SpaceIsGivenBack: a name stays"
