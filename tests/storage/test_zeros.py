"""Recovery skips what was never written, as told by the file system: it must never skip anything else."""

from __future__ import annotations

import tempfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from walrus.storage.mapped import MappedDisk
from walrus.storage.posix import PosixDisk

SIZE = 1 << 20


@pytest.mark.parametrize("kind", [PosixDisk, MappedDisk])
@given(
    writes=st.lists(st.tuples(st.integers(0, SIZE - 1), st.binary(min_size=1, max_size=9000)), max_size=6),
    synced=st.booleans(),
    offset=st.integers(0, SIZE),
    limit=st.integers(0, SIZE),
)
def test_nothing_but_zeros_is_skipped(
    kind: type[PosixDisk], writes: list[tuple[int, bytes]], synced: bool, offset: int, limit: int
) -> None:
    offset, limit = sorted((offset, limit))
    with tempfile.TemporaryDirectory() as directory:
        disk = kind(directory)
        file = disk.create("f", SIZE)
        for place, data in writes:
            file.pwrite(data[: SIZE - place], place)
        if synced:
            file.sync()
        found = file.zeros_from(offset, limit)
        assert offset <= found <= limit
        assert not file.pread(limit - found, found).strip(b"\0")
        file.close()
        disk.close()
