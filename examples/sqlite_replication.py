"""Database replication: changes to one SQLite file are applied to another, each exactly once.

    python examples/sqlite_replication.py write primary.db --count 1000
    python examples/sqlite_replication.py send primary.db --addr 127.0.0.1:9091
    python examples/sqlite_replication.py apply replica.db --addr 127.0.0.1:9091

`write` commits each change and a row in the outbox in one transaction. `send` sends the outbox to a topic
with PUB: the row's id is the entry's number, so a row that is sent again is stored once. `apply` commits
each change together with the position after it in the topic, and continues there. Kill any of the three
programs at any time and start it again: the two files end up equal.
"""

from __future__ import annotations

import argparse
import json
import sqlite3
from pathlib import Path

from walrus import Client

TOPIC = "example.changes"
ACCOUNTS = "CREATE TABLE IF NOT EXISTS accounts (name TEXT PRIMARY KEY, cents INTEGER NOT NULL)"
OUTBOX = "CREATE TABLE IF NOT EXISTS outbox (id INTEGER PRIMARY KEY, change TEXT NOT NULL)"
PRODUCER = "CREATE TABLE IF NOT EXISTS producer (name TEXT NOT NULL)"
PLACE = "CREATE TABLE IF NOT EXISTS place (segment INTEGER NOT NULL, offset INTEGER NOT NULL)"
CHANGE = (
    "INSERT INTO accounts VALUES (:name, :cents) "
    "ON CONFLICT (name) DO UPDATE SET cents = cents + excluded.cents"
)


def opened(file: Path, *tables: str) -> sqlite3.Connection:
    """Open a database, and create these tables if they do not exist."""
    database = sqlite3.connect(file, isolation_level=None, timeout=30)
    for table in tables:
        database.execute(table)
    return database


def write(file: Path, count: int) -> None:
    """Change accounts; each change and its row in the outbox are one transaction."""
    database = opened(file, ACCOUNTS, OUTBOX)
    for number in range(count):
        change = {"name": f"account {number % 17}", "cents": number}
        database.execute("BEGIN IMMEDIATE")
        database.execute(CHANGE, change)
        # The ids begin at 0 and have no gaps, as the numbers of a producer must.
        database.execute("INSERT INTO outbox SELECT COALESCE(MAX(id) + 1, 0), ? FROM outbox",
                         (json.dumps(change),))  # fmt: skip
        database.execute("COMMIT")


def producer_name(database: sqlite3.Connection) -> str:
    """Return the name of this database's producer. It is drawn once, since it must be unique."""
    database.execute("BEGIN IMMEDIATE")
    database.execute("INSERT INTO producer SELECT lower(hex(randomblob(8))) "
                     "WHERE NOT EXISTS (SELECT * FROM producer)")  # fmt: skip
    database.execute("COMMIT")
    return str(database.execute("SELECT name FROM producer").fetchone()[0])


def send(file: Path, addresses: list[str]) -> int:
    """Send the outbox, and delete acknowledged rows; return how many changes were sent."""
    database, sent, last = opened(file, OUTBOX, PRODUCER), 0, -1
    some = "SELECT id, change FROM outbox WHERE id > ? ORDER BY id LIMIT 200"
    with Client(addresses, timeout=30) as client:
        client.register(TOPIC)
        name = producer_name(database)
        while rows := database.execute(some, (last,)).fetchall():
            client.producer(TOPIC, name, next_number=rows[0][0]).put_many(row[1].encode() for row in rows)
            sent, last = sent + len(rows), rows[-1][0]
            # The last row stays, because the next id is computed from it.
            database.execute("DELETE FROM outbox WHERE id < ?", (last,))
    return sent


def apply(file: Path, addresses: list[str]) -> int:
    """Apply the changes after the stored position; return how many there were."""
    database, applied = opened(file, ACCOUNTS, PLACE), 0
    place = database.execute("SELECT segment, offset FROM place").fetchone()
    with Client(addresses, timeout=30) as client:
        for entry in client.scan(TOPIC, *(place or (1, 0))):
            database.execute("BEGIN IMMEDIATE")
            database.execute(CHANGE, json.loads(entry.payload))
            database.execute("DELETE FROM place")
            database.execute("INSERT INTO place VALUES (?, ?)", (entry.segment, entry.offset + 1))
            database.execute("COMMIT")
            applied += 1
    return applied


def main() -> None:
    """Run one of the three programs."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("what", choices=["write", "send", "apply"])
    parser.add_argument("file", type=Path)
    parser.add_argument("--addr", action="append", default=[], help="a node; may be repeated")
    parser.add_argument("--count", type=int, default=1_000, help="changes to write")
    arguments = parser.parse_args()
    if arguments.what == "write":
        write(arguments.file, arguments.count)
        print(f"{arguments.count:,} changes written")
    else:
        done = (send if arguments.what == "send" else apply)(arguments.file, arguments.addr)
        print(f"{done:,} changes {'sent' if arguments.what == 'send' else 'applied'}")


if __name__ == "__main__":
    main()
