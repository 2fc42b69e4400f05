"""The asyncio shell around a node's logic, and `python -m walrus.node`.

All that decides is in `broker/controller.py` and below it, and has no clock or socket. The shell is the
thin rest: one event loop that hands in what happened, and carries out what the controller wants.

    sockets, timers, syncs that ended ──► controller.on_...(…, now)        as they happen
                                             │
    end of the turn:  controller.flush(now)  │   one record, one message per replica, for all that arrived
                      take_effects()  ◄──────┘
                      one write per connection that has something to be told
                      start a sync of each engine that was written to, unless one is under way

*Group commit.* A turn of the event loop is what `select` reported at once. Everything that arrived in it is
one batch: one record in the engine, one message per replica, one reply per connection. A sync runs off the
loop; whatever is written meanwhile is covered by the next one, which starts when this one ends. So there is
at most one sync in flight per engine, and its cost is shared by all that waited. Messages leave before the
sync starts: the replicas' syncs overlap with ours.

*The schedules.* With `--fsync each` an entry counts once it is synced. With `none` or milliseconds it
counts once the kernel has it (a killed process loses nothing), and the engine syncs in the background.
Raft's engine is always synced before anything that depends on it is said, whatever the schedule.

*Stopping.* SIGTERM and SIGINT: accept nothing more, answer what was accepted, sync, mark the stop as a
clean one, exit 0. A second signal does not wait for answers. Anything unexpected (a failed sync, an
exception in the logic) stops the node at once, without another word to anybody: what it does not know it
must not say.

Invariants: no effect is carried out after `_fail`; `clean` is only ever marked after both engines were
synced; a reply never leaves before the turn that produced it has ended.
"""

from __future__ import annotations

import asyncio
import errno
import gc
import logging
import operator
import os
import random
import resource
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import msgspec

from walrus.broker.controller import Controller
from walrus.config import Identity
from walrus.consensus.journal import RaftJournal
from walrus.consensus.messages import Membership
from walrus.protocol import PeerCodec, Request
from walrus.shell.client_connections import ClientServer, Limits, Slot
from walrus.shell.flags import FlagError, Settings, parse
from walrus.shell.identity import Directory, DirectoryError, boot_id
from walrus.shell.peer_connections import VERSION, Peers, Session, ask_to_join
from walrus.storage.errors import StorageError
from walrus.storage.schedule import FsyncSchedule
from walrus.wal import Walrus
from walrus.wire.effects import Effect, Halt, Log, Reply, Send, no_trace
from walrus.wire.effects import Peers as ConnectTo
from walrus.wire.messages import Hello, Join, JoinReply, PeerMessage

log = logging.getLogger("walrus.node")
monotonic = time.monotonic
"""The event loop's clock too."""
_is_open = operator.attrgetter("connection.open")

SHORTEST_TICK = 0.005
"""Timers are this coarse: an idle node must not wake up for every deadline on its own."""
STOP_GRACE = 2.0
"""Beyond the time that a PUT may take: how long a stop waits for answers."""


RESERVED_FILES = 128
"""Of the process's limit, for the engines and the peers: clients never take the last one."""


FEWEST_FILES = 64
"""With fewer a node would fail somewhere, sooner or later, instead of here."""


class StartError(Exception):
    """The node cannot start, or not go on; one line for the operator."""


class _Syncer(Protocol):
    def fileno(self) -> int: ...
    def start(self) -> None: ...
    def finish(self) -> None: ...


class GroupCommit:
    """Syncs one engine, one sync at a time, and reports the number of the last write that each covered."""

    def __init__(
        self,
        syncer: _Syncer,
        written: Callable[[], int],
        durable: Callable[[int], None],
        failed: Callable[[Any], None],
    ) -> None:
        self._syncer = syncer
        self._written = written
        self._durable = durable
        self._failed = failed
        self._covered = 0
        self._in_flight: int | None = None
        asyncio.get_running_loop().add_reader(syncer.fileno(), self._finished)

    def start_if_due(self) -> None:
        """Start a sync of what is not durable yet, unless one is under way."""
        if self._in_flight is None and (written := self._written()) > self._covered:
            self._in_flight = written
            self._syncer.start()

    def _finished(self) -> None:
        assert self._in_flight is not None, "a sync ended that nobody started"
        try:
            self._syncer.finish()
        except (StorageError, OSError) as error:
            self._failed(error)
            return
        self._covered, self._in_flight = self._in_flight, None
        self._durable(self._covered)

    def close(self) -> None:
        """Start no more syncs; wait for the one under way."""
        asyncio.get_running_loop().remove_reader(self._syncer.fileno())
        if self._in_flight is not None:
            self._syncer.finish()
            self._in_flight = None


class Trace:
    """`--trace FILE`: one JSON line per spec-level event, stamped with one clock for the whole machine."""

    def __init__(self, path: Path, node_id: int) -> None:
        try:
            self._file = path.open("ab", buffering=0)
        except OSError as error:
            raise StartError(f"--trace: cannot write {path}: {error.strerror}") from error
        self._node_id = node_id
        self._encode = msgspec.json.Encoder().encode

    def __call__(self, event: str, /, **values: object) -> None:
        """Record an event."""
        record = {"ev": event, "node": self._node_id, "at": time.monotonic_ns(), **values}
        self._file.write(self._encode(record) + b"\n")


class Node:
    """One running node: the controller, and everything that it cannot touch itself."""

    def __init__(self, settings: Settings, directory: Directory) -> None:
        self.settings = settings
        self.config = settings.config()
        self.directory = directory
        self.result: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._loop = asyncio.get_running_loop()
        self._rng = random.Random(os.urandom(16))
        self._turn_due = False
        self._dead = self._no_room = False
        self._stopping_until: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._data_reported = 0
        self._data_commit: GroupCommit | None = None
        self._synced_each = settings.fsync == "each"
        self._fine_tick = settings.heartbeat / 4
        """A timer this near is near enough: under load the next deadline is not computed every turn."""
        source = None if settings.raft_host in ("0.0.0.0", "::") else settings.raft_host
        self._codec: PeerCodec[PeerMessage] = PeerCodec(PeerMessage)
        self.peers = Peers(self, settings.node_id, source, self._codec, self._rng)
        files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        limits = Limits(
            max_frame_bytes=settings.max_frame_bytes,
            max_connections=max(1, min(settings.max_connections, files - RESERVED_FILES)),
        )
        self.clients = ClientServer(self, limits)
        self.controller: Controller

    # --- the life of a node ------------------------------------------------------------------------

    async def run(self) -> int:
        """Start, serve until told to stop, stop; the exit status."""
        self._loop.set_exception_handler(self._on_loop_exception)
        record = self.directory.begin(self.settings.fsync_name, boot_id())
        if record.cluster_id and self.settings.join:
            log.info("--join is not needed: this directory belongs to cluster %s", record.cluster_id)
        cluster_id = record.cluster_id or await self._find_cluster()
        self._open(cluster_id)
        await self._listen()
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self.stop)
        gc.collect()
        gc.freeze()  # what is there now stays: the collector need not look at it again
        gc.set_threshold(20_000, 20, 50)
        self.wake()
        status = await self.result
        return self._close(status)

    async def _find_cluster(self) -> str:
        """An empty directory: found a cluster of one, or be taken into one."""
        settings = self.settings
        if settings.bootstrap or (settings.node_id == 1 and not settings.join):
            return self.directory.found().cluster_id
        if not settings.join:
            raise StartError(
                f"--join: node {settings.node_id} belongs to no cluster yet; name a member's raft address, "
                f"or give --bootstrap to found one"
            )
        answer = await self._join()
        self.directory.join(answer.cluster_id, answer.addresses)
        return answer.cluster_id

    async def _join(self) -> JoinReply:
        """Ask one member after the other until one takes us in, with growing pauses."""
        settings, record = self.settings, self.directory.record
        join = Join(
            node_id=settings.node_id,
            directory_id=record.directory_id,
            raft_address=self.config.raft_address,
            client_address=self.config.client_address,
        )
        end, pause, why = self._loop.time() + settings.join_timeout, 0.02, "nobody answered"
        known = list(settings.join)
        while True:
            for address in known:
                try:
                    reply = await ask_to_join(address, self.peers.source, self._codec, join, patience=5.0)
                except OSError as error:
                    why = f"{address}: {error or 'no answer'}"
                    continue
                if reply.done:
                    log.info("joined cluster %s through %s", reply.cluster_id, address)
                    return reply
                if reply.final:
                    raise StartError(f"--join: {address} says: {reply.error}")
                if reply.error not in why:
                    log.info("not in the cluster yet: %s says: %s", address, reply.error)
                why = f"{address}: {reply.error}"
            if self._loop.time() + pause > end:
                raise StartError(
                    f"--join: no member took this node in within {settings.join_timeout:g} s ({why})"
                )
            await asyncio.sleep(pause * self._rng.uniform(0.5, 1.0))
            pause = min(1.0, pause * 1.6)

    def _open(self, cluster_id: str) -> None:
        """Recover both engines and hand them to the controller."""
        record, settings = self.directory.record, self.settings
        self.data = _open_engine(self.directory.user_data, _schedule(settings.fsync))
        self.meta = _open_engine(self.directory.raft_meta, FsyncSchedule.group_commit())
        self._check_journal()
        if self.data.recovery.nameless:
            log.error("copies of segments are lost: this node is not sure of those that were open")
            record = self.directory.doubt()
        self.identity = Identity(
            cluster_id=cluster_id,
            directory_id=record.directory_id,
            incarnation=record.incarnation,
            bootstrap=record.state == "founding",
            sure=record.sure,
        )
        self.controller = Controller(
            config=self.config,
            identity=self.identity,
            data=self.data,
            meta=self.meta,
            rng=self._rng,
            now=self._loop.time(),
            addresses=record.addresses,
            is_open=_is_open,
            trace=Trace(settings.trace, settings.node_id) if settings.trace else no_trace,
        )
        self._meta_commit = GroupCommit(
            self.meta.syncer(), lambda: self.controller.meta_written, self._on_meta_durable, self._fail
        )
        if self._synced_each:
            self._data_commit = GroupCommit(
                self.data.syncer(), lambda: self.controller.data_written, self._on_data_durable, self._fail
            )

    def _check_journal(self) -> None:
        """Begin a new cluster's journal; refuse to go on where a member's has been lost."""
        journal, state, me = RaftJournal(self.meta), self.directory.record.state, self.settings.node_id
        if (journal.is_empty() and state == "member") or self.meta.recovery.nameless:
            raise StartError(
                f"{self.directory.raft_meta} is empty or damaged, but this node is a member: votes are lost. "
                f"Restore it, or LEAVE {me} on another node and start this one with an empty --data-dir"
            )
        if journal.is_empty() and state == "founding":
            journal.bootstrap(Membership(voters=(me,), learners=()))
            self.meta.sync()

    async def _listen(self) -> None:
        """Open both ports, and begin what happens by the clock."""
        settings = self.settings
        try:
            await self.peers.listen(settings.raft_host, settings.raft_port)
        except OSError as error:
            raise _cannot_listen("raft", settings.raft_host, settings.raft_port, error) from error
        try:
            await self.clients.listen(settings.client_host, settings.client_port)
        except OSError as error:
            raise _cannot_listen("client", settings.client_host, settings.client_port, error) from error
        self._every(1.0, self.clients.sweep)
        log.info(
            "node %d of cluster %s, start %d: peers on %s, clients on %s, fsync %s",
            settings.node_id,
            self.identity.cluster_id,
            self.identity.incarnation,
            self.config.raft_address,
            self.config.client_address,
            settings.fsync_name,
        )

    def _every(self, interval: float, action: Callable[[], None]) -> None:
        """Do something at regular intervals until the node stops."""

        def again() -> None:
            if not self.result.done():
                self._loop.call_later(interval, again)
                action()

        self._loop.call_later(interval, again)

    def stop(self) -> None:
        """Stop in an orderly way; asked a second time, do not wait for answers any more."""
        if self._stopping_until is None:
            log.info("stopping: answering what was accepted")
            self._stopping_until = self._loop.time() + self.config.put_timeout + STOP_GRACE
            self.clients.stop()
            self.controller.stop(self._loop.time())
            self._every(0.05, self.wake)
        else:
            self._stopping_until = self._loop.time()
        self.wake()

    def _close(self, status: int) -> int:
        """Let go of everything; the exit status. A node that failed syncs nothing: it does not know what."""
        failed, self._dead = self._dead, True  # callbacks that are still to come find nobody at home
        self.peers.close()
        if failed:
            return status
        for commit in (self._data_commit, self._meta_commit):
            if commit is not None:
                commit.close()
        self.data.close()
        self.meta.close()
        if status == 0:
            try:
                self.directory.finish()
            except DirectoryError as error:
                log.error("all is synced, but that this was a clean stop is not noted: %s", error)
                return 1
            log.info("stopped")
        return status

    def _fail(self, error: BaseException | str) -> None:
        """Stop at once, without another word to anybody."""
        if not self._dead:
            self._dead = True
            trace = (type(error), error, error.__traceback__) if isinstance(error, BaseException) else None
            log.critical(
                "this node stops because it cannot know its state any more: %s", error, exc_info=trace
            )
        if not self.result.done():
            self.result.set_result(1)

    def _on_loop_exception(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """An exception that nobody caught is a bug, and its state is unknown; a broken socket is neither."""
        error = context.get("exception")
        if isinstance(error, ConnectionError | TimeoutError):
            log.debug("connection: %s", error)
        elif isinstance(error, OSError) and "accept" in context.get("message", ""):
            log.warning("cannot accept connections: %s", error)
        else:
            self._fail(error or str(context.get("message")))

    # --- what happens, for the controller -----------------------------------------------------------

    def on_request(self, slot: Slot, request: Request) -> None:
        """A client wants something."""
        if not self._dead:
            try:
                self.controller.on_request(slot, request, monotonic())
            except BaseException as error:
                self._fail(error)
                raise
            self.wake()

    def on_peer_message(self, sender: int, message: PeerMessage) -> None:
        """A peer says something."""
        if not self._dead:
            try:
                self.controller.on_message(sender, message, monotonic())
            except BaseException as error:
                self._fail(error)
                raise
            self.wake()

    def on_peer_up(self, peer: int) -> None:
        """Messages reach a peer from now on."""
        if not self._dead:
            log.info("connected to node %d", peer)
            self.controller.on_connected(peer, monotonic())
            self.wake()

    def on_peer_down(self, peer: int, refused: bool) -> None:
        """A connection ended, or nobody listens at the peer's address."""
        if not self._dead:
            log.info(
                "node %d %s",
                peer,
                "is not there: nobody listens at its address" if refused else "disconnected",
            )
            self.controller.on_disconnected(peer, refused, monotonic())
            self.wake()

    def on_join(self, session: Session, join: Join) -> None:
        """A node asks to be taken in. It is answered at once, and asks again until it is."""
        session.reply(self.controller.on_join(join, self._loop.time()))
        self.wake()

    def hello_to(self, peer: int) -> Hello:
        """Introduce this node to a peer."""
        return Hello(
            version=VERSION,
            cluster_id=self.identity.cluster_id,
            node_id=self.settings.node_id,
            directory_id=self.identity.directory_id,
            incarnation=self.identity.incarnation,
            target=peer,
            member_at=self.controller.member_at,
            raft_address=self.config.raft_address,
        )

    def judge_hello(self, hello: Hello) -> str:
        """Whether a caller belongs to this cluster and means this node."""
        error = self.controller.judge_hello(hello)
        if hello.cluster_id != self.identity.cluster_id and hello.target == self.settings.node_id:
            self._remember(hello)
        return error

    def on_caller(self, hello: Hello) -> None:
        """A caller was welcomed."""
        if not self._dead:
            self.controller.on_caller(hello)
            self.wake()

    def is_removed(self, hello: Hello) -> bool:
        """Whether a refused caller was a member, and never will be again."""
        return self.controller.is_removed(hello)

    def on_removed(self, peer: int, error: str) -> None:
        """A member has applied the removal of this node: nobody will listen to it any more."""
        log.critical(
            "this node was removed from the cluster (node %d says: %s); to join anew, start it with an empty "
            "--data-dir",
            peer,
            error,
        )
        self.controller.requests.on_removed(monotonic())
        self._end_turn()
        self._finish(1)

    def _remember(self, hello: Hello) -> None:
        """Somebody of another cluster takes this node for a member.

        If we have only just founded ours and are alone in it, they are right: this is that member's
        machine, come back with an empty disk and the command line that once founded the other cluster.
        """
        me = self.settings.node_id
        if self.identity.incarnation == 1 and set(self.controller.metadata.nodes) <= {me} != {hello.node_id}:
            log.critical("%s (cluster %s)", self.controller.other_directory(me), hello.cluster_id)
            self._finish(1)

    def _on_data_durable(self, number: int) -> None:
        self.controller.on_data_durable(number, monotonic())
        self.wake()

    def _on_meta_durable(self, number: int) -> None:
        self.controller.on_meta_durable(number, monotonic())
        if self.directory.record.state != "member":
            self._record(self.directory.settle)
        if not self.directory.record.sure and self.controller.doubts_are_noted:
            self._record(self.directory.trust)
        self.wake()

    def _record(self, change: Callable[[], object]) -> None:
        """Note in the identity file what it is safe not to know: on a full disk it stays as it is."""
        try:
            change()
        except DirectoryError as error:
            if not self._no_room:
                log.warning("going on without it: %s", error)
            self._no_room = True
        else:
            self._no_room = False

    # --- the turn ---------------------------------------------------------------------------------------

    def wake(self) -> None:
        """Something happened: this turn of the event loop gets an end."""
        if not self._turn_due:
            self._turn_due = True
            self._loop.call_soon(self._end_turn)

    def _end_turn(self) -> None:
        """Everything that arrived has been handed in: flush, carry out, sync, set the timer."""
        self._turn_due = False
        if self._dead:
            return
        now, controller = monotonic(), self.controller
        if self._synced_each:
            controller.flush(now)
        else:
            self._flush_unsynced(now)
        for effect in controller.take_effects():
            self._carry_out(effect)
        self.peers.flush()
        self.clients.flush()
        self._meta_commit.start_if_due()
        if self._data_commit is not None:
            self._data_commit.start_if_due()
        if self._timer is None or self._timer.when() > now + self._fine_tick:
            self._set_timer(controller.next_deadline(now), now)
        if self._stopping_until is not None and (self.clients.settled or now >= self._stopping_until):
            self._finish(0)

    def _flush_unsynced(self, now: float) -> None:
        """Flush where an entry counts once the kernel has it: until nothing is written, or said, any more."""
        controller = self.controller
        while True:
            if (written := controller.data_written) > self._data_reported:
                self._data_reported = written
                controller.on_data_durable(written, now)
            controller.flush(now)
            if controller.data_written == self._data_reported and not controller.outbox.local:
                return

    def _carry_out(self, effect: Effect) -> None:
        """One thing that the controller wants done."""
        match effect:
            case Send():
                self.peers.send(effect.to, effect.message)
            case Reply():
                assert isinstance(effect.slot, Slot)
                effect.slot.reply(effect.data, effect.count)
            case ConnectTo(addresses=addresses):
                self._record(lambda: self.directory.remember(addresses))
                self.peers.connect_to(addresses)
            case Log(text=text):
                log.warning("%s", text)
            case Halt(reason=reason, exit_status=status):
                log.error("%s", reason)
                self._finish(status)

    def _finish(self, status: int) -> None:
        if not self.result.done():
            self.result.set_result(status)

    def _set_timer(self, deadline: float, now: float) -> None:
        """Wake up for the controller's next deadline, unless a timer that is no later is running."""
        when = max(deadline, now + SHORTEST_TICK)
        if self._timer is not None:
            if self._timer.when() <= when:
                return
            self._timer.cancel()
        self._timer = self._loop.call_at(when, self._tick)

    def _tick(self) -> None:
        self._timer = None
        if not self._dead:
            self.controller.on_tick(monotonic())
            self.wake()


# --- the process -----------------------------------------------------------------------------------------


def _set_up_logging(settings: Settings) -> None:
    """One line per message, to the log file or to stderr."""
    logging.basicConfig(
        level=settings.log_level.upper(),
        format=f"%(asctime)s node {settings.node_id} %(levelname)s %(message)s",
        filename=settings.log_file,
    )


def _open_engine(path: Path, schedule: FsyncSchedule) -> Walrus:
    try:
        return Walrus(path, fsync=schedule)
    except StorageError as error:
        raise StartError(f"{path}: {error}") from error


def _cannot_listen(which: str, host: str, port: int, error: OSError) -> StartError:
    """asyncio's own text says it all twice, and names no flag."""
    if isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
        return StartError(f"--{which}-host: {host} is no address of this machine")
    reason = os.strerror(error.errno) if error.errno else str(error)
    return StartError(f"--{which}-port: cannot listen on {host}:{port}: {reason}")


def _raise_file_limit() -> None:
    """Ten thousand clients are ten thousand files: take what the operator's hard limit allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 65_536 if hard == resource.RLIM_INFINITY else min(hard, 65_536)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    if max(soft, wanted) < FEWEST_FILES:
        raise StartError(
            f"this process may open {max(soft, wanted)} files, a node needs {FEWEST_FILES}: raise ulimit -n"
        )


def _schedule(fsync: str | float) -> FsyncSchedule:
    """The engine's part in `--fsync`: with `each` it is this event loop that syncs, for all that waits."""
    match fsync:
        case "each":
            return FsyncSchedule.group_commit()
        case float():
            return FsyncSchedule.milliseconds(round(fsync * 1000))
        case _:
            return FsyncSchedule.no_fsync()


async def _serve(settings: Settings, directory: Directory) -> int:
    return await Node(settings, directory).run()


def main(arguments: Sequence[str] | None = None) -> int:
    """`python -m walrus.node`: 0 after a clean stop, 2 for a bad flag, 1 for anything else."""
    try:
        settings = parse(sys.argv[1:] if arguments is None else arguments, os.environ)
    except FlagError as error:
        sys.stderr.write(f"walrus-node: {error}\n")
        return 2
    try:
        _set_up_logging(settings)
    except OSError as error:
        sys.stderr.write(f"walrus-node: --log-file: cannot write {settings.log_file}: {error.strerror}\n")
        return 1
    try:
        _raise_file_limit()
        directory = Directory(settings.data_dir, settings.node_id)
    except (OSError, DirectoryError, StartError) as error:
        sys.stderr.write(f"walrus-node: {error}\n")
        return 1
    try:
        return asyncio.run(_serve(settings, directory))
    except (StartError, DirectoryError, StorageError, OSError) as error:
        log.critical("cannot start: %s", error)
        return 1
    except KeyboardInterrupt:  # while it waits to be taken in: later there is a handler
        return 130
    finally:
        directory.close()


if __name__ == "__main__":
    sys.exit(main())
