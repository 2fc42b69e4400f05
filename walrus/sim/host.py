"""A simulated machine: a drive, a clock of its own, and a process that runs the real `Controller`.

It corresponds to `node.py`, with the same order of things: inputs are handed to the controller, `flush` ends
the turn, effects are carried out, syncs are started, the timer is set. `IdentityRecord` stands for the file
of `shell/identity.py`, and changes at the same moments:

    start      incarnation + 1; sure only if the last run ended cleanly, on this boot, or synced everything
    finish     clean
    trust      sure again, once what is in doubt has been noted durably

A watcher inside the process reports what happens and changes nothing: what is written to the engines, what
Raft persists, and which commands are applied.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import NamedTuple, Protocol

from walrus.broker.controller import Controller
from walrus.broker.handshake import Callers
from walrus.broker.raft_host import RaftObserver
from walrus.config import Identity, NodeConfig
from walrus.consensus.journal import RaftJournal
from walrus.consensus.messages import COMMAND, Entry, Membership, Ready, Rng, Snapshot
from walrus.segments import MAX_JOINING, Announce, encode_command, start_number
from walrus.sim.drives import DATA, META, Drive
from walrus.sim.greeting import SECRET, nonce
from walrus.storage.batch import Batch
from walrus.wire.effects import Trace, no_trace
from walrus.wire.messages import Join

NEVER = float("inf")


def address(node_id: int) -> str:
    """Return the address of a simulated node.

    >>> address(3), node_at(address(3))
    ('n3:1', 3)
    """
    return f"n{node_id}:1"


def node_at(place: str) -> int:
    """Return the node at this address."""
    return int(place.removeprefix("n").removesuffix(":1"))


def directory_of(node_id: int, number: int = 1) -> str:
    """Return the id of a simulated node's data directory; `number` counts its directories from 1."""
    return f"directory-{node_id}" + (f".{number}" if number > 1 else "")


class Observer(Protocol):
    """Observes what happens inside a process; the judge (`judge.py`) is one."""

    def on_write(self, node: int, engine: str, name: str, start: int, batch: Batch) -> None:
        """Entries went to an engine."""

    def on_delete(self, node: int, engine: str, name: str) -> None:
        """A topic of an engine was deleted."""

    def on_full(self, node: int, engine: str, what: str) -> None:
        """An engine had no room for this kind of write."""

    def on_persist(self, node: int, ready: Ready) -> None:
        """Raft wrote this to its journal."""

    def on_apply(self, node: int, entries: tuple[Entry, ...]) -> None:
        """Committed entries are about to be applied."""

    def on_restore(self, node: int, snapshot: Snapshot) -> None:
        """The metadata is about to be replaced by a snapshot."""


class _Watcher(RaftObserver):
    """Passes what one process's engines and Raft host do to an `Observer`."""

    def __init__(self, node: int, watch: Observer) -> None:
        self._node, self._watch = node, watch

    def on_write(self, engine: str, name: str, start: int, batch: Batch) -> None:
        """Entries were written."""
        self._watch.on_write(self._node, engine, name, start, batch)

    def on_delete(self, engine: str, name: str) -> None:
        """The topic was deleted."""
        self._watch.on_delete(self._node, engine, name)

    def on_full(self, engine: str, what: str) -> None:
        """There was no room."""
        self._watch.on_full(self._node, engine, what)

    def on_persist(self, ready: Ready) -> None:
        """Raft wrote to its journal."""
        self._watch.on_persist(self._node, ready)

    def on_apply(self, entries: tuple[Entry, ...]) -> None:
        """Committed entries are about to be applied."""
        self._watch.on_apply(self._node, entries)

    def on_restore(self, snapshot: Snapshot) -> None:
        """The metadata is about to be replaced."""
        self._watch.on_restore(self._node, snapshot)


@dataclass(slots=True)
class IdentityRecord:
    """The content of the identity file."""

    directory_id: str
    incarnation: int = 0
    clean: bool = True
    boot: int = 0
    fsync: str | float = "each"
    """The `--fsync` setting of the last run."""
    sure: bool = True
    member: bool = False
    addresses: dict[int, str] = field(default_factory=dict)


class Saved(NamedTuple):
    """A copy of a data directory."""

    drive: Drive
    record: IdentityRecord


class EngineSync:
    """Group commit of one engine: at most one sync at a time."""

    __slots__ = ("covered", "in_flight", "name")

    def __init__(self, name: str) -> None:
        self.name = name
        self.covered = 0
        self.in_flight: int | None = None


class Host:
    """One machine. `controller` is None while no process runs on it."""

    def __init__(self, config: NodeConfig, drive: Drive, fsync: str | float, directory: int = 1) -> None:
        self.id = config.node_id
        self.config, self.drive, self.fsync = config, drive, fsync
        self.directory = directory
        """The number of the node's data directory, from 1; a node that joins anew gets the next one."""
        self.record = IdentityRecord(directory_id=directory_of(self.id, directory))
        self.controller: Controller | None = None
        self.process = 0
        """The number of the process: events scheduled for an earlier process do not reach this one."""
        self.boot = 1
        self.rate, self.offset = 1.0, 0.0
        self.paused = False
        self.backlog: list[Callable[[], None]] = []
        self.timer = NEVER
        self.turn_due = False
        self.sync_time = (0.0005, 0.002)
        self.refused: set[int] = set()
        """Peers whose process the controller knows to be gone."""
        self.dialling: set[int] = set()
        self.wanted: tuple[int, ...] = ()
        self.groups = (EngineSync(DATA), EngineSync(META))
        self.data_reported = 0
        self.callers = Callers(SECRET, nonce)
        """What the process knows of the nodes that call it."""
        self.left = False
        """Whether the node was removed from the cluster; this drive then never returns."""

    @property
    def up(self) -> bool:
        """Return whether a process runs."""
        return self.controller is not None

    def clock(self, now: float) -> float:
        """Return what the machine's clock shows when the world's time is `now`."""
        return self.offset + self.rate * now

    def set_clock(self, now: float, rate: float, jump: float) -> None:
        """Let the clock run at this rate from now on, after a jump of `jump` seconds."""
        reading = self.clock(now) + jump
        self.rate = rate
        self.offset = reading - rate * now

    # --- the life of its processes ---

    def found(self, voters: tuple[int, ...]) -> None:
        """Write the journal of a cluster with these voters, durably.

        It reads as if one node had founded the cluster, the others had joined, and all of that had been
        committed. If more nodes than may be joining at a time are founded, each has announced one start.
        """
        _, meta = self.drive.open(None)
        journal = RaftJournal(meta)
        journal.bootstrap(Membership(voters=voters))
        starts = (0,) if len(voters) <= MAX_JOINING else (0, 1)
        taken_in = [
            Announce(
                node_id=node,
                directory_id=directory_of(node),
                incarnation=start,
                raft_address=address(node),
                client_address=address(node),
            )
            for node in voters
            for start in starts
        ]
        self.record.incarnation = starts[-1]
        entries = [Entry(1, index, COMMAND, encode_command(c)) for index, c in enumerate(taken_in, 2)]
        journal.save(Ready(number=0, entries=tuple(entries)))
        self.drive.start_sync(META)
        self.drive.finish_sync(META)
        self.drive.kill()
        self.record.member = True

    def start(
        self,
        *,
        cluster_id: str,
        rng: Rng,
        now: float,
        watch: Observer | None,
        is_open: Callable[[object], bool],
        trace: Trace = no_trace,
        unix_time: Callable[[], float],
    ) -> None:
        """Start a process on this machine; `watch`, if given, observes it."""
        assert self.controller is None, "one process at a time"
        record = self.record
        kept = record.clean or record.fsync == "each" or record.boot == self.boot
        record.incarnation += 1
        record.clean, record.boot, record.sure = False, self.boot, record.sure and kept
        record.fsync = self.fsync
        self.process += 1
        self.timer, self.turn_due, self.paused, self.backlog = NEVER, False, False, []
        self.refused, self.dialling, self.wanted = set(), set(), ()
        self.callers = Callers(SECRET, nonce)
        self.groups, self.data_reported = (EngineSync(DATA), EngineSync(META)), 0
        watcher = _Watcher(self.id, watch) if watch is not None else None
        data, meta = self.drive.open(watcher)
        assert not (record.member and RaftJournal(meta).is_empty()), (
            "CommittedNeverLost: the journal of a member is lost"
        )
        self.controller = Controller(
            config=self.config,
            identity=Identity(
                cluster_id=cluster_id,
                directory_id=record.directory_id,
                incarnation=record.incarnation,
                sure=record.sure,
            ),
            data=data,
            meta=meta,
            rng=rng,
            now=self.clock(now),
            addresses=record.addresses,
            is_open=is_open,
            trace=trace,
            unix_time=unix_time,
            observer=watcher or RaftObserver(),
        )

    def end(self) -> None:
        """End the process."""
        self.controller = None
        self.process += 1
        self.timer, self.backlog, self.paused = NEVER, [], False
        self.drive.kill()

    def saved(self) -> Saved | None:
        """Return a copy of the directory as it is now; None if the drive cannot be copied."""
        drive = self.drive.saved()
        return (
            None
            if drive is None
            else Saved(drive, replace(self.record, addresses=dict(self.record.addresses)))
        )

    def knows_later_start(self, node: int, record: IdentityRecord) -> bool:
        """Return whether this node knows of a start after which the directory's next one is out of date."""
        if self.controller is None or self.paused:
            return self.left
        known = self.controller.metadata.nodes.get(node)
        return (
            known is not None
            and known.directory_id == record.directory_id
            and start_number(known.incarnation) > start_number(record.incarnation)
        )

    def join_request(self) -> Join:
        """Return the Join that this machine sends to a member of the cluster."""
        return Join(
            node_id=self.id,
            directory_id=self.record.directory_id,
            raft_address=self.config.raft_address,
            client_address=self.config.client_address,
        )
