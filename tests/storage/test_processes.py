"""A lock names its holder so that no other process is ever taken for it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from walrus.storage.posix import Descriptor, PosixDisk
from walrus.storage.processes import Holder, LockHeld, boot_id, lock_holder, signal_holder, take_lock

HOLDING = """
import sys
from pathlib import Path
from walrus.storage.processes import take_lock
take_lock(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def child(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Another process, which holds the lock."""
    command = [sys.executable, "-c", HOLDING, str(tmp_path / "lock")]
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        yield process
        process.kill()


def test_this_machine_has_a_boot_id() -> None:
    assert boot_id() == boot_id() != b""


def test_a_lock_is_free_then_held_then_free_again(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    assert lock_holder(path) is None
    handle = take_lock(path)
    assert lock_holder(path) == Holder.this_process()
    with pytest.raises(LockHeld) as caught:
        take_lock(path)
    assert caught.value.holder.pid == os.getpid()
    os.close(handle)
    assert lock_holder(path) is None


def test_the_holder_is_signalled_and_nobody_once_it_is_gone(
    tmp_path: Path, child: subprocess.Popen[bytes]
) -> None:
    holder = lock_holder(tmp_path / "lock")
    assert holder is not None and holder.pid == child.pid and holder.is_here
    descriptors = len(os.listdir("/dev/fd"))
    assert signal_holder(holder, signal.SIGTERM)
    assert len(os.listdir("/dev/fd")) <= descriptors, "a descriptor is left open"
    assert child.wait(120) == -signal.SIGTERM
    assert lock_holder(tmp_path / "lock") is None
    assert not signal_holder(holder, signal.SIGTERM)


@pytest.mark.parametrize("wrong", [{"start": "1"}, {"boot": "00"}, {"start": "", "boot": ""}, {"pid": 0}])
def test_a_process_that_shares_only_a_part_of_the_name_is_not_signalled(
    child: subprocess.Popen[bytes], tmp_path: Path, wrong: dict[str, object]
) -> None:
    holder = lock_holder(tmp_path / "lock")
    assert holder is not None
    assert not signal_holder(holder._replace(**wrong), signal.SIGKILL)  # type: ignore[arg-type]
    assert child.poll() is None


@pytest.mark.parametrize(
    "line", [b"", b"\n", b"12", b"12\n", b"x y z\n", b"-5 1 00\n", b"1 2\n", b"\xff\xfe"]
)
def test_a_line_of_another_kind_names_nobody_who_could_be_signalled(line: bytes) -> None:
    assert not signal_holder(Holder.parsed(line), signal.SIGTERM)


def test_a_longer_line_of_an_earlier_holder_is_no_part_of_the_name(tmp_path: Path) -> None:
    (tmp_path / "lock").write_bytes(b"9" * 150 + b"\nmore\n")
    handle = take_lock(tmp_path / "lock")
    assert lock_holder(tmp_path / "lock") == Holder.this_process()
    os.close(handle)


def test_a_directory_is_let_go_of_although_its_descriptor_is_0(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it is in a process that was started without a standard input."""
    disk, closed = PosixDisk(tmp_path), list[int]()
    with monkeypatch.context() as patched:
        patched.setattr(os, "close", closed.append)
        disk._folder = Descriptor(0)
        disk.close()
    assert closed == [0]
