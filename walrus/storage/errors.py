"""Everything the storage engine raises, in one place.

There are three kinds: the caller asked for the impossible (`BatchTooLarge`, `EngineClosed`,
`DirectoryInUse`), a resource has run out (`DiskFull`), or the disk returned something that must not be
trusted (`EngineFailed`, `CorruptionError`, `FormatError`). Each message says what to do about it.
"""

from __future__ import annotations


class StorageError(Exception):
    """The base of every error that the engine raises on purpose, except `BatchTooLarge`."""


class DiskFull(StorageError):
    """There is no room, or no file descriptor, for this write. Nothing was written; it may work later."""


class EngineFailed(StorageError):
    """A write or a sync failed, so what is on disk is not known any more: no writes until reopened."""


class EngineClosed(StorageError):
    """`close()` was called; open the directory again."""

    def __init__(self) -> None:
        super().__init__("this engine is closed: open the directory again with Walrus(...)")


class EngineForked(EngineClosed):
    """This is the copy, in a forked child, of an engine that belongs to the parent."""

    def __init__(self, directory: str, owner: int) -> None:
        StorageError.__init__(
            self,
            f"the engine on {directory} belongs to process {owner}, and a forked copy must not use it: open "
            "another directory or key in the child, or open this one only after the fork, in one process",
        )


class EngineReentered(RuntimeError):
    """The engine was called while a call of the same thread is under way: nearly always by a signal handler.

    It would wait for itself, or see a change half done. Nothing was written. Let the handler set a flag, or
    hand the work to another thread.
    """

    def __init__(self) -> None:
        super().__init__(
            "the engine is in the middle of a call of this thread, and was called again, perhaps by a "
            "signal handler: let the handler set a flag, and call when the first call has returned"
        )


class TokenLost(RuntimeError):
    """An exception cut a thread between taking a topic's lock and entering what it protects."""


class DirectoryInUse(StorageError):
    """Another process (or another engine of this one) holds the directory."""

    def __init__(self, directory: str, pid: int) -> None:
        self.directory = directory
        self.pid = pid
        super().__init__(f"{directory} is in use by process {pid or 'unknown'}: stop it, or use another key")


class CorruptionError(StorageError):
    """A record does not match its checksum.

    `file` and `offset` (bytes) say where it is, `topic` and `index` which entry is the first that cannot be
    read, `resume` which entry is the next that can (`read_at` or `seek` to it skips the hole deliberately).
    """

    def __init__(self, file: str, offset: int, topic: str, index: int, resume: int | None = None) -> None:
        self.file = file
        self.offset = offset
        self.topic = topic
        self.index = index
        self.resume = index + 1 if resume is None else resume
        super().__init__(
            f"{file}, byte {offset}: entry {index} of topic {topic!r} is damaged; "
            f"the next readable one may be entry {self.resume} (seek to it to skip the hole)"
        )


class FormatError(StorageError):
    """The directory was written by a version of the format that this one does not know."""


class BatchTooLarge(ValueError):
    """More than one batch may hold (2,000 entries, 1 GiB). Nothing was written: split it."""
