"""The simulated disk does what it may and nothing else: what is synced stays, what is not is at its mercy."""

from __future__ import annotations

import errno
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from walrus.sim.disk import FATES, KEEP_ALL, LOSE_ALL, Crash, Fate, Platter, SimDisk, SimFile
from walrus.storage.backend import SECTOR, File, write_all
from walrus.storage.errors import DirectoryInUse


def new_file(platter: Platter, size: int = 4096, name: str = "f") -> tuple[SimDisk, SimFile]:
    """A file whose existence is durable."""
    disk = platter.directory("d")
    file = disk.create(name, size)
    disk.sync_directory()
    return disk, file


def content(platter: Platter, name: str = "f") -> bytes:
    return platter.image()["d", name]


def test_writes_are_visible_at_once_also_in_views_taken_before() -> None:
    _, file = new_file(Platter(Random(0)))
    view = file.view(0, 4096)
    file.pwrite(b"abc", 10)
    assert bytes(view[9:14]) == b"\0abc\0" == file.pread(5, 9)
    assert view.readonly
    assert file.window(0, 4096) is None


def test_a_power_loss_takes_what_was_not_synced_and_only_that() -> None:
    platter = Platter(Random(0))
    _, file = new_file(platter)
    file.pwrite(b"kept", 0)
    file.sync()
    file.pwrite(b"lost", 2)
    file.pwrite(b"lost", 600)
    platter.lose_power(LOSE_ALL)
    assert content(platter) == b"kept".ljust(4096, b"\0")


def test_a_kill_loses_nothing_and_frees_the_lock() -> None:
    platter = Platter(Random(0))
    disk, file = new_file(platter)
    disk.lock()
    with pytest.raises(DirectoryInUse):
        platter.directory("d").lock()
    file.pwrite(b"data", 0)
    boot = disk.boot_id()
    platter.kill()
    after = platter.directory("d")
    after.lock()
    assert after.open("f").pread(4, 0) == b"data"
    assert after.boot_id() == boot and len(boot) <= 16


def test_a_power_loss_is_another_boot() -> None:
    platter = Platter(Random(0))
    before = platter.directory("d").boot_id()
    platter.lose_power()
    assert platter.directory("d").boot_id() != before


def test_handles_of_a_dead_process_change_nothing() -> None:
    platter = Platter(Random(0))
    disk, file = new_file(platter)
    platter.kill()
    before = platter.image()
    for act in (
        lambda: file.pwrite(b"x", 0),
        file.sync,
        disk.sync_directory,
        disk.names,
        lambda: disk.create("g", 10),
        lambda: file.view(0, 10),
    ):
        with pytest.raises(Crash):
            act()
    file.close()
    disk.close()
    assert platter.image() == before


def test_unsynced_sectors_survive_in_any_combination() -> None:
    seen = set()
    for seed in range(200):
        platter = Platter(Random(seed))
        _, file = new_file(platter, 4 * SECTOR)
        for sector in range(4):
            file.pwrite(b"x", sector * SECTOR)
        platter.lose_power(Fate(0.5))
        seen.add(content(platter)[::SECTOR])
    assert len(seen) == 16


def test_one_sector_goes_through_its_writes_in_order() -> None:
    seen = set()
    for seed in range(200):
        platter = Platter(Random(seed))
        _, file = new_file(platter)
        for at in range(3):
            file.pwrite(b"x", at)
        platter.lose_power(Fate(0.5))
        seen.add(content(platter)[:3])
    assert seen == {b"\0\0\0", b"x\0\0", b"xx\0", b"xxx"}


def test_a_torn_write_is_torn_at_a_sector_and_may_hold_garbage() -> None:
    torn = garbage = False
    for seed in range(100):
        platter = Platter(Random(seed))
        _, file = new_file(platter)
        file.pwrite(b"s" * 100, 0)
        file.sync()
        file.pwrite(b"x" * 1000, 100)
        platter.lose_power(Fate(0.5, garbage=0.5))
        after = content(platter)
        assert after[:100] == b"s" * 100, "powersafe overwrite: neighbours of a torn write stay"
        assert after[1100:] == bytes(4096 - 1100)
        halves = {after[100:512], after[512:1024]}
        torn |= b"x" * 412 in halves and bytes(512) in halves
        garbage |= any(half.strip(b"x") and half.strip(b"\0") for half in halves)
    assert torn and garbage


def test_a_failed_sync_proves_nothing_even_if_the_next_one_works() -> None:
    platter = Platter(Random(0))
    _, file = new_file(platter)
    file.pwrite(b"old", 0)
    file.sync()
    file.pwrite(b"new", 0)
    platter.fail("sync", errno.EIO)
    with pytest.raises(OSError, match="Input/output") as caught:
        file.sync()
    assert caught.value.errno == errno.EIO
    file.pwrite(b"later", 1000)
    file.sync()
    assert file.pread(3, 0) == b"new", "the page cache still shows it"
    platter.lose_power(LOSE_ALL)
    assert content(platter)[:3] == b"old"
    assert content(platter)[1000:1005] == b"later"


def test_rewriting_what_a_failed_sync_lost_and_syncing_again_saves_it() -> None:
    platter = Platter(Random(0))
    _, file = new_file(platter)
    file.pwrite(b"aaaaaa", 0)
    platter.fail("sync", errno.EIO)
    with pytest.raises(OSError, match="Input/output"):
        file.sync()
    file.pwrite(b"bbb", 2)
    file.sync()
    platter.lose_power(LOSE_ALL)
    assert content(platter)[:6] == b"\0\0bbb\0"


def test_an_asynchronous_sync_covers_what_was_written_before_its_start() -> None:
    platter = Platter(Random(0))
    disk, file = new_file(platter)
    syncer = disk.async_sync()
    file.pwrite(b"before", 0)
    syncer.start([file])
    file.pwrite(b"during", 512)
    syncer.finish()
    platter.lose_power(LOSE_ALL)
    assert content(platter)[:6] == b"before"
    assert content(platter)[512:518] == bytes(6)


def test_an_asynchronous_sync_reports_at_its_end() -> None:
    platter = Platter(Random(0))
    disk, file = new_file(platter)
    syncer = disk.async_sync()
    platter.fail("sync", errno.EIO)
    syncer.start([file])
    with pytest.raises(OSError, match="Input/output"):
        syncer.finish()


def test_faults_strike_after_skipping_as_often_as_ordered_or_for_good() -> None:
    platter = Platter(Random(0))
    disk, file = new_file(platter)
    platter.fail("write", errno.EIO, skip=1, times=2)
    outcomes: list[int | None] = []
    for _ in range(5):
        try:
            outcomes.append(file.pwrite(b"x", 0))
        except OSError as error:
            outcomes.append(error.errno)
    assert outcomes == [1, errno.EIO, errno.EIO, 1, 1]
    platter.fail("read", errno.EIO, times=None)
    for _ in range(3):
        with pytest.raises(OSError, match="Input/output"):
            file.pread(1, 0)
    with pytest.raises(OSError, match="Input/output"):
        disk.open("f")
    platter.heal()
    assert file.pread(1, 0) == b"x"


def test_a_full_disk_refuses_new_files_until_there_is_room() -> None:
    platter = Platter(Random(0), capacity=10_000)
    disk, _ = new_file(platter, 6000)
    with pytest.raises(OSError, match="No space") as caught:
        disk.create("g", 6000)
    assert caught.value.errno == errno.ENOSPC
    assert disk.names() == ["f"]
    disk.remove("f")
    assert disk.create("g", 6000).size == 6000


def test_short_writes_are_completed_by_write_all() -> None:
    platter = Platter(Random(3))
    platter.short_writes = 0.9
    _, file = new_file(platter)
    parts = [bytes([65 + part]) * 50 for part in range(20)]
    write_all(file, parts, 7)
    assert content(platter)[7:1007] == b"".join(parts)
    assert file.written > 1


def test_names_are_durable_only_after_a_directory_sync() -> None:
    platter = Platter(Random(0))
    disk, file = new_file(platter)
    file.pwrite(b"one", 0)
    file.sync()
    disk.create("g", 10)
    disk.rename("f", "h")
    assert disk.names() == ["g", "h"]
    platter.lose_power(LOSE_ALL)
    disk = platter.directory("d")
    assert disk.names() == ["f"]
    disk.rename("f", "h")
    disk.sync_directory()
    disk.remove("h")
    platter.lose_power(LOSE_ALL)
    assert platter.directory("d").open("h").pread(3, 0) == b"one"


def test_a_rename_over_a_file_leaves_the_old_or_the_new_one() -> None:
    seen = set()
    for seed in range(40):
        platter = Platter(Random(seed))
        disk, old = new_file(platter, 3, "f")
        old.pwrite(b"old", 0)
        old.sync()
        new = disk.create("tmp", 3)
        new.pwrite(b"new", 0)
        new.sync()
        disk.sync_directory()
        disk.rename("tmp", "f")
        platter.lose_power(Fate(0.5))
        seen.add((content(platter), "tmp" in platter.directory("d").names()))
    assert seen == {(b"old", True), (b"new", False)}


def test_directory_operations_are_lost_in_any_combination_that_makes_sense() -> None:
    seen = set()
    for seed in range(200):
        platter = Platter(Random(seed))
        disk = platter.directory("d")
        disk.create("a", 1)
        disk.create("b", 1)
        disk.rename("a", "c")
        platter.lose_power(Fate(0.5))
        seen.add(tuple(platter.directory("d").names()))
    assert seen == {(), ("a",), ("b",), ("c",), ("a", "b"), ("b", "c")}


def test_removing_what_is_not_there_and_creating_what_is() -> None:
    platter = Platter(Random(0))
    disk, _ = new_file(platter)
    with pytest.raises(FileNotFoundError):
        disk.open("g")
    with pytest.raises(FileNotFoundError):
        disk.remove("g")
    with pytest.raises(FileNotFoundError):
        disk.rename("g", "h")
    with pytest.raises(FileExistsError):
        disk.create("f", 10)


def test_a_flipped_bit_is_visible_and_durable() -> None:
    platter = Platter(Random(0))
    _, file = new_file(platter)
    file.pwrite(b"\0\0", 0)
    file.sync()
    platter.flip_bit("d", "f", 8 + 3)
    assert file.pread(2, 0) == b"\0\x08"
    platter.lose_power(LOSE_ALL)
    assert content(platter)[:2] == b"\0\x08"


def scenario(platter: Platter) -> None:
    """Seven operations that change something."""
    disk = platter.directory("d")
    file = disk.create("tmp", 2048)
    file.pwrite(b"x" * 1500, 0)
    file.pwritev([b"y" * 20, b"z" * 20], 1500)
    file.sync()
    disk.rename("tmp", "f")
    disk.sync_directory()
    file.pwrite(b"w", 2000)


@pytest.mark.parametrize("power", [True, False])
@pytest.mark.parametrize("operation", range(1, 8))
def test_a_crash_at_each_operation(operation: int, power: bool) -> None:
    platter = Platter(Random(operation))
    platter.crash_at(operation, power=power)
    with pytest.raises(Crash, match=f"operation {operation}"):
        scenario(platter)
    assert platter.operations == operation
    names = platter.directory("d").names()
    assert names in ([], ["tmp"], ["f"])
    if operation > 6 or (operation == 6 and not power):
        assert content(platter)[:1500] == b"x" * 1500
    platter.check_invariants()


@given(seed=st.integers(0, 2**32), operation=st.integers(1, 7), power=st.booleans())
def test_equal_seeds_give_equal_disks(seed: int, operation: int, power: bool) -> None:
    def run() -> dict[tuple[str, str], bytes]:
        platter = Platter(Random(seed))
        platter.crash_at(operation, power=power)
        with pytest.raises(Crash):
            scenario(platter)
        return platter.image()

    assert run() == run()


class DiskMachine(RuleBasedStateMachine):
    """Against the plainest model: one byte string as the process sees it, and for each byte the set of values
    that a power loss may leave there (garbage apart)."""

    size = 3 * SECTOR

    def __init__(self) -> None:
        super().__init__()
        self.platter = Platter(Random(11))
        self.file: File = new_file(self.platter, self.size)[1]
        self.visible = bytearray(self.size)
        self.possible = [{0} for _ in range(self.size)]
        self.unproven: set[int] = set()

    @rule(data=st.binary(min_size=1, max_size=900), offset=st.integers(0, size - 1))
    def write(self, data: bytes, offset: int) -> None:
        data = data[: self.size - offset]
        self.file.pwrite(data, offset)
        for at, value in enumerate(data, offset):
            self.visible[at] = value
            self.possible[at].add(value)

    @rule()
    def sync(self) -> None:
        self.file.sync()
        for at, value in enumerate(self.visible):
            doomed = at in self.unproven
            self.possible[at] = self.possible[at] if doomed else {value}

    @rule()
    def fail_sync(self) -> None:
        self.platter.fail("sync", errno.EIO)
        with pytest.raises(OSError, match="Input/output"):
            self.file.sync()
        self.unproven = self.unproven | {at for at in range(self.size) if len(self.possible[at]) > 1}

    @rule(fate=st.sampled_from([fate for fate in FATES if not fate.garbage]))
    def lose_power(self, fate: Fate) -> None:
        self.platter.lose_power(fate)
        self.file = self.platter.directory("d").open("f")
        after = self.file.pread(self.size, 0)
        assert all(value in allowed for value, allowed in zip(after, self.possible, strict=True))
        if fate == KEEP_ALL:
            assert after == self.visible
        self.visible, self.possible, self.unproven = bytearray(after), [{value} for value in after], set()

    @precondition(lambda self: len(self.visible) > 0)
    @invariant()
    def what_is_written_is_visible(self) -> None:
        assert self.file.pread(self.size, 0) == self.visible
        self.platter.check_invariants()


TestDiskMachine = DiskMachine.TestCase
