"""The peers of the engine: embedded stores and disk queues that a Python program could use instead.

Every peer is measured in its fastest honest loop, configured as its documentation recommends for a log: keys
are rising 8-byte numbers made before the clock starts, and inserts say that they append where the store can
be told. `durable` means that a commit that returned survives a power loss; otherwise it survives the end of
the process, and nothing is synced. A peer that is not installed is left out of the table, with one line that
says so.
"""

from __future__ import annotations

import importlib
import sqlite3
import struct
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

MAP_BYTES = 8 << 30


@cache
def keys(count: int) -> list[bytes]:
    """Return rising 8-byte keys."""
    pack = struct.Struct(">Q").pack
    return [pack(number) for number in range(count)]


def exhaust(values: Iterable[object]) -> None:
    """Consume an iterator at the speed of C."""
    deque(values, maxlen=0)


class Peer(ABC):
    """A store opened on a directory. Each peer has its own loops, so that no wrapper is timed."""

    name = ""
    module = ""
    """The module that must be importable."""
    has_batches = True
    slowness = 1
    """By what factor a slow peer gets less work, so that a run ends."""

    library: Any
    """The imported module."""

    def __init__(self, directory: Path, *, durable: bool) -> None:
        self.library = importlib.import_module(self.module)
        self.directory = directory
        self.durable = durable
        self.open()

    @classmethod
    def missing(cls) -> bool:
        """Return whether the module is not installed."""
        try:
            importlib.import_module(cls.module)
        except ImportError:
            return True
        return False

    @abstractmethod
    def open(self) -> None:
        """Open the store."""

    @abstractmethod
    def close(self) -> None:
        """Close the store as its documentation says."""

    @abstractmethod
    def fill(self, count: int, payload: bytes) -> None:
        """Insert one entry at a time, each committed."""

    def fill_batches(self, batches: int, per_batch: int, payload: bytes) -> None:
        """Insert `per_batch` at a time, each batch committed as one; only where `has_batches`."""
        raise NotImplementedError

    @abstractmethod
    def scan(self) -> None:
        """Read every value, in order."""


class RocksDb(Peer):
    """RocksDB through rocksdict. Each put writes the write-ahead log, and syncs it if durable."""

    name, module = "RocksDB", "rocksdict"

    def open(self) -> None:
        """Open in raw mode: bytes in, bytes out."""
        options = self.library.Options(raw_mode=True)
        options.create_if_missing(True)
        self.db: Any = self.library.Rdict(str(self.directory / "rocks"), options)
        write = self.library.WriteOptions()
        write.sync = self.durable
        self.db.set_write_options(write)
        self.batch_type = self.library.WriteBatch

    def close(self) -> None:
        """Close."""
        self.db.close()

    def fill(self, count: int, payload: bytes) -> None:
        """`db[key] = value`."""
        db = self.db
        for key in keys(count):
            db[key] = payload

    def fill_batches(self, batches: int, per_batch: int, payload: bytes) -> None:
        """Write each batch as a WriteBatch."""
        db, names, batch_type = self.db, keys(batches * per_batch), self.batch_type
        for start in range(0, len(names), per_batch):
            batch = batch_type(raw_mode=True)
            for key in names[start : start + per_batch]:
                batch[key] = payload
            db.write(batch)

    def scan(self) -> None:
        """Iterate over the values only."""
        exhaust(self.db.values())


class LevelDb(Peer):
    """LevelDB through plyvel."""

    name, module = "LevelDB", "plyvel"

    def open(self) -> None:
        """Open with its defaults."""
        self.db: Any = self.library.DB(str(self.directory / "level"), create_if_missing=True)

    def close(self) -> None:
        """Close."""
        self.db.close()

    def fill(self, count: int, payload: bytes) -> None:
        """`put`."""
        put, durable = self.db.put, self.durable
        if durable:
            for key in keys(count):
                put(key, payload, sync=True)
        else:
            for key in keys(count):
                put(key, payload)

    def fill_batches(self, batches: int, per_batch: int, payload: bytes) -> None:
        """Write each batch as a write batch."""
        db, names, durable = self.db, keys(batches * per_batch), self.durable
        for start in range(0, len(names), per_batch):
            batch = db.write_batch(sync=durable)
            put = batch.put
            for key in names[start : start + per_batch]:
                put(key, payload)
            batch.write()

    def scan(self) -> None:
        """Iterate over the values only."""
        exhaust(self.db.iterator(include_key=False))


class Lmdb(Peer):
    """LMDB: one transaction for each entry, appended."""

    name, module = "LMDB", "lmdb"
    writemap = False

    def open(self) -> None:
        """Open; `sync=False` leaves the pages to the page cache, which survives the process."""
        self.env: Any = self.library.open(
            str(self.directory / "lmdb"),
            map_size=MAP_BYTES,
            writemap=self.writemap,
            sync=self.durable,
            metasync=self.durable,
        )

    def close(self) -> None:
        """Close."""
        self.env.close()

    def fill(self, count: int, payload: bytes) -> None:
        """`put` with `append=True`."""
        begin = self.env.begin
        for key in keys(count):
            with begin(write=True) as transaction:
                transaction.put(key, payload, append=True)

    def fill_batches(self, batches: int, per_batch: int, payload: bytes) -> None:
        """`putmulti` with `append=True`, its bulk path."""
        begin, names = self.env.begin, keys(batches * per_batch)
        for start in range(0, len(names), per_batch):
            with begin(write=True) as transaction:
                items = [(key, payload) for key in names[start : start + per_batch]]
                transaction.cursor().putmulti(items, append=True)

    def scan(self) -> None:
        """Iterate over the values only."""
        with self.env.begin() as transaction:
            exhaust(transaction.cursor().iternext(keys=False, values=True))


class LmdbWritemap(Lmdb):
    """LMDB writing through its mapping."""

    name, writemap = "LMDB writemap", True


class Sqlite(Peer):
    """SQLite in WAL mode: FULL syncs each commit, NORMAL leaves that to checkpoints."""

    name, module, slowness = "SQLite WAL", "sqlite3", 5

    def open(self) -> None:
        """Open one table with integer keys."""
        self.db = sqlite3.connect(self.directory / "sqlite.db", isolation_level=None)
        self.db.execute("PRAGMA journal_mode=WAL")
        self.db.execute(f"PRAGMA synchronous={'FULL' if self.durable else 'NORMAL'}")
        self.db.execute("CREATE TABLE IF NOT EXISTS log (id INTEGER PRIMARY KEY, data BLOB)")
        self.db.execute("SELECT max(id) FROM log").fetchone()

    def close(self) -> None:
        """Close, which makes a checkpoint."""
        self.db.close()

    def fill(self, count: int, payload: bytes) -> None:
        """One autocommitted INSERT for each entry."""
        execute, row = self.db.execute, (payload,)
        for _ in range(count):
            execute("INSERT INTO log (data) VALUES (?)", row)

    def fill_batches(self, batches: int, per_batch: int, payload: bytes) -> None:
        """`executemany` in a transaction."""
        db, rows = self.db, [(payload,)] * per_batch
        for _ in range(batches):
            db.execute("BEGIN")
            db.executemany("INSERT INTO log (data) VALUES (?)", rows)
            db.execute("COMMIT")

    def scan(self) -> None:
        """Select all values in key order."""
        exhaust(self.db.execute("SELECT data FROM log ORDER BY id"))


class PersistQueue(Peer):
    """persist-queue's SQLite queue, with its defaults."""

    name, module, has_batches, slowness = "persist-queue", "persistqueue", False, 500

    def open(self) -> None:
        """Open; every put is a commit."""
        self.queue: Any = self.library.FIFOSQLiteQueue(str(self.directory / "pq"), auto_commit=True)

    def close(self) -> None:
        """Close."""
        self.queue.close()

    def fill(self, count: int, payload: bytes) -> None:
        """`put`."""
        put = self.queue.put
        for _ in range(count):
            put(payload)

    def scan(self) -> None:
        """`get`, which consumes."""
        get = self.queue.get
        for _ in range(self.queue.size):
            get(block=False)


class PersistAckQueue(PersistQueue):
    """persist-queue's queue with acknowledgements, with its defaults."""

    def open(self) -> None:
        """Open; every put, get and ack is a commit."""
        self.queue = self.library.SQLiteAckQueue(str(self.directory / "paq"), auto_commit=True)

    def work(self) -> None:
        """`get` and `ack`, one entry at a time."""
        queue = self.queue
        for _ in range(queue.size):
            queue.ack(queue.get(block=False))


class LiteQueue(Peer):
    """litequeue, with its defaults (WAL mode)."""

    name, module, has_batches, slowness = "litequeue", "litequeue", False, 50

    def open(self) -> None:
        """Open; every put is a commit."""
        self.queue: Any = self.library.LiteQueue(str(self.directory / "lite.db"))
        if self.durable:  # its default is NORMAL, which does not sync a commit
            self.queue.conn.execute("PRAGMA synchronous=FULL")

    def close(self) -> None:
        """Close."""
        self.queue.close()

    def fill(self, count: int, payload: bytes) -> None:
        """`put`."""
        put = self.queue.put
        for _ in range(count):
            put(payload)

    def work(self) -> None:
        """Consume entries, as `scan` does."""
        self.scan()

    def scan(self) -> None:
        """`pop` and `done`, which consume."""
        queue = self.queue
        while (message := queue.pop()) is not None:
            queue.done(message.message_id)


PEERS: tuple[type[Peer], ...] = (
    RocksDb,
    LevelDb,
    Lmdb,
    LmdbWritemap,
    Sqlite,
    PersistQueue,
    LiteQueue,
)
