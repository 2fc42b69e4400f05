"""A node as a process: `python -m walrus.node`, and how the shell's parts are wired to the logic.

Every decision is made in `broker/controller.py` and below it, without a clock, socket or disk. The shell is
the thin rest: it hands in events and carries out the effects that the controller returns. Its modules:

    shell/arguments.py           the arguments that the command lines of all programs share
    shell/layers.py              flag, environment, file, default: which one counts
    shell/flags.py               the settings of a node, checked
    shell/start.py               the checks before the first message: descriptors, engines, ports
    shell/descriptors.py         how many descriptors each part may hold; the listening ports
    shell/identity.py            the data directory: lock, ids, how the last run ended
    shell/joining.py             a node without a cluster enters one
    shell/seeking.py             a member finds its cluster where all addresses have changed
    shell/client_connections.py  bytes in, requests out, replies back in order, and a bound on each client
    shell/peer_connections.py    the connections between nodes, and how a death is noticed at once
    shell/turn.py                everything that one pass of the event loop brought takes effect together
    shell/event_loop.py          an end to each batch of events, so that a turn ends in its own pass
    shell/garbage.py             when the interpreter looks for garbage
    shell/group_commit.py        one sync at a time per engine, shared by all waiting writes
    shell/figures.py             disk, processor and memory, for METRICS
    shell/logs.py                log lines that can never stop a node
    shell/trace_file.py          `--trace`: recorded runs for the specification

`Node` connects them all and decides nothing: most of its methods pass on one event.

*The life of a node.* Lock the directory and take the next start number; join a cluster, or found one if
there is none; recover both engines; listen; serve until a signal, a failure, or the controller ends it;
close.

*Stopping.* On SIGTERM and SIGINT: accept nothing more, answer every accepted request, sync, note that the
stop was clean, exit 0. A second signal does not wait for the answers. (SIGUSR1 and SIGUSR2 change what is
logged.)

*Fail-stop.* After a failed sync or an exception in the logic the node's state is unknown. It exits with
status 1 and sends nothing more, since it can no longer vouch for anything.

Invariants: no effect is carried out after `_fail`; the stop is noted as clean only after both engines were
synced; a reply leaves no earlier than the end of the turn that produced it.
"""

from __future__ import annotations

if __name__ == "__main__":
    from walrus.cli.interrupts import end_quietly

    end_quietly()

import asyncio
import logging
import operator
import os
import random
import resource
import signal
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, assert_never

import msgspec

from walrus.broker.access import Access
from walrus.broker.controller import Controller
from walrus.broker.membership import other_directory
from walrus.cli.interrupts import raise_again
from walrus.protocol import PeerCodec, Request
from walrus.segments import start_number
from walrus.shell import garbage
from walrus.shell.arguments import FlagError
from walrus.shell.client_connections import ClientServer, Limits, Slot
from walrus.shell.descriptors import shares
from walrus.shell.event_loop import BatchedEventLoop
from walrus.shell.figures import disk, process
from walrus.shell.flags import Settings, look, settings_of
from walrus.shell.group_commit import AsyncGroupCommit
from walrus.shell.identity import DataDirectory, DirectoryError
from walrus.shell.joining import enter_cluster
from walrus.shell.logs import close_log, obey_signals, open_log
from walrus.shell.peer_connections import PeerConnections, Trust, unexpected_end
from walrus.shell.seeking import Seeker, introduced
from walrus.shell.start import (
    StartError,
    cannot_listen,
    claim_files,
    open_access,
    open_data_engine,
    open_raft_engine,
    open_trust,
)
from walrus.shell.trace_file import TraceFile
from walrus.shell.turn import Turn
from walrus.storage.errors import StorageError
from walrus.storage.processes import boot_id
from walrus.tls import TlsError
from walrus.wire.effects import Effect, Halt, LogLine, Peers, Reply, Send, no_trace
from walrus.wire.messages import Hello, HelloReply, Join, JoinReply, PeerMessage

log = logging.getLogger("walrus.node")
monotonic = time.monotonic

STOP_GRACE = 2.0
"""Seconds for which a stop waits for answers, in addition to the time that a PUT may take."""
STOP_INTERVAL = 0.01
"""Seconds between two checks of whether all accepted requests have been answered."""


class Node:
    """One running node: the controller, and all I/O that it needs."""

    def __init__(
        self, settings: Settings, directory: DataDirectory, trust: Trust, access: Access | None
    ) -> None:
        """Recover both engines and build the controller on them. Raises StartError, StorageError."""
        self.settings = settings
        self.config = settings.config()
        self.directory = directory
        self._tls = trust.tls
        self._access = access
        self._loop = asyncio.get_running_loop()
        self.result: asyncio.Future[int] = self._loop.create_future()
        """The exit status; setting it ends the node."""
        self._asking_back: asyncio.Task[None] | None = None
        self._dead = False  # it has failed, or is closed: later callbacks return at once
        self._no_room = False  # a change of the identity file has failed, and was logged
        self._stopping_until: float | None = None
        jitter = random.Random(os.urandom(16))
        self.data = open_data_engine(directory.user_data, settings.fsync)
        self.meta = open_raft_engine(directory.raft_meta, settings.node_id, directory.record.state)
        if self.data.recovery.nameless:
            log.error("copies of segments are lost: this node is not sure of those that were open")
            directory.doubt()
        self.identity = directory.identity()
        self.controller = Controller(
            config=self.config,
            identity=self.identity,
            data=self.data,
            meta=self.meta,
            rng=jitter,
            now=self._loop.time(),
            addresses=directory.record.addresses,
            is_open=operator.attrgetter("connection.open"),
            unix_time=time.time,
            trace=TraceFile(settings.trace, settings.node_id) if settings.trace else no_trace,
            process=self._figures,
        )
        for_clients, for_strangers = shares(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
        self.peers = PeerConnections(
            self,
            settings.node_id,
            settings.source,
            PeerCodec(PeerMessage),
            jitter,
            max_strangers=for_strangers,
            trust=trust,
        )
        max_connections = min(settings.max_connections, for_clients)
        limits = Limits(max_frame_bytes=settings.max_frame_bytes, max_connections=max_connections)
        self.clients = ClientServer(
            self, limits, None if trust.tls is None else trust.tls.clients, self._access
        )
        self.commits = self._commits()
        self.turn = Turn(
            self.controller,
            carry_out=self._carry_out,
            flush_connections=self._flush_connections,
            commits=list(self.commits.values()),
            synced_each=settings.fsync == "each",
            grain=settings.heartbeat / 4,
        )

    def _commits(self) -> dict[str, AsyncGroupCommit]:
        """Group commit of the engines that the event loop syncs: Raft's always, the data with `each`."""
        controller = self.controller
        commits = {
            "raft": AsyncGroupCommit(
                self.meta.syncer(), lambda: controller.meta.written, self.on_meta_durable, self._fail
            )
        }
        if self.settings.fsync == "each":
            commits["data"] = AsyncGroupCommit(
                self.data.syncer(), lambda: controller.data.written, self.on_data_durable, self._fail
            )
        return commits

    def _figures(self) -> dict[str, Any]:
        """Return the part of METRICS that concerns the process: see `shell/figures.py`."""
        return {
            "put_seconds": self.clients.put_took.view(),
            "sync_seconds": {name: commit.took.view() for name, commit in self.commits.items()},
            **({} if self._access is None else {"wrong_tokens": self._access.failures}),
            "client_connections": len(self.clients.connections),
            "log_file": None if self.settings.log_file is None else str(self.settings.log_file),
            **disk(self.directory.path),
            **process(),
        }

    # --- the life of a node ------------------------------------------------------------------------

    async def run(self, also_try: Sequence[str] = ()) -> int:
        """Serve until the node is to end, and close it; return the exit status. Raises StartError.

        `also_try`: addresses at which members may be, in case all addresses have changed.
        """
        self._loop.set_exception_handler(self._on_loop_exception)
        await self._listen()
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self.stop)
        if self._tls is not None or self._access is not None:
            self._loop.add_signal_handler(signal.SIGHUP, self._reread)
        garbage.begin()
        self._every(garbage.EVERY, garbage.collect_young)
        self.turn.wake()
        seeker = Seeker(self.peers, also_try, self.config.raft_address, lambda: self.controller.ready)
        seeking = self._loop.create_task(seeker.run())
        seeking.add_done_callback(unexpected_end)
        status = await self.result
        seeking.cancel()
        return self._close(status)

    async def _listen(self) -> None:
        """Open both ports, and start periodic work. Raises StartError."""
        settings = self.settings
        try:
            await self.peers.listen(settings.raft_host, settings.raft_port)
        except OSError as error:
            raise cannot_listen("raft", settings.raft_host, settings.raft_port, error) from error
        try:
            await self.clients.listen(settings.client_host, settings.client_port)
        except OSError as error:
            raise cannot_listen("client", settings.client_host, settings.client_port, error) from error
        self._every(1.0, self.clients.sweep)
        log.info(
            "node %d of cluster %s, start %d: peers on %s, clients on %s, fsync %s",
            settings.node_id,
            self.identity.cluster_id,
            start_number(self.identity.incarnation),
            self.config.raft_address,
            self.config.client_address,
            settings.fsync_name,
        )

    def _every(self, interval: float, action: Callable[[], None]) -> None:
        """Call `action` every `interval` seconds until the node ends."""

        def again() -> None:
            if not self.result.done():
                self._loop.call_later(interval, again)
                action()

        self._loop.call_later(interval, again)

    def _reread(self) -> None:
        """SIGHUP: read the files of certificates and identities again. Invalid files change nothing."""
        try:
            if self._tls is not None:
                self._tls.reread()
                log.info("read the certificate again")
        except TlsError as error:
            log.error("the certificate stays as it was: %s", error)
        try:
            if self._access is not None and (read := open_access(self.settings)) is not None:
                self._access.principals = read.principals
                self.clients.reread()
                log.info("read the identities of clients again: %d", len(read.principals))
        except StartError as error:
            log.error("the identities of clients stay as they were: %s", error)

    def stop(self) -> None:
        """Begin an orderly stop; a second call stops waiting for answers."""
        if self._stopping_until is None:
            log.info("stopping: answering what was accepted")
            self._stopping_until = self._loop.time() + self.config.put_timeout + STOP_GRACE
            self.clients.stop()
            self.controller.stop(self._loop.time())
            self._every(STOP_INTERVAL, self._finish_if_settled)
        else:
            self._stopping_until = self._loop.time()
        self.turn.wake()

    def _finish_if_settled(self) -> None:
        assert self._stopping_until is not None
        now = monotonic()
        if (self.clients.settled and self.controller.may_stop(now)) or now >= self._stopping_until:
            self._finish(0)

    def _finish(self, status: int) -> None:
        if not self.result.done():
            self.result.set_result(status)

    def _close(self, status: int) -> int:
        """Release everything; return the exit status. A node that has failed syncs nothing."""
        failed, self._dead = self._dead, True
        self.turn.stop()
        self.peers.close()
        if failed:
            return status
        self.turn.close()
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
        """Fail-stop: exit with status 1, and send nothing more."""
        if not self._dead:
            self._dead = True
            self.turn.stop()
            trace = (type(error), error, error.__traceback__) if isinstance(error, BaseException) else None
            log.critical(
                "this node stops because it cannot know its state any more: %s", error, exc_info=trace
            )
        self._finish(1)

    def _on_loop_exception(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Handle an exception that nothing caught: a bug, which ends the node, unless a connection broke."""
        error = context.get("exception")
        if isinstance(error, ConnectionError | TimeoutError):
            log.debug("connection: %s", error)
        else:
            self._fail(error or str(context.get("message")))

    # --- events, for the controller ---------------------------------------------------------------

    def wake(self) -> None:
        """A client's connection has something to send."""
        self.turn.wake_to_send()

    def on_request(self, slot: Slot, request: Request) -> None:
        """A request of a client arrived."""
        if not self._dead:
            try:
                self.controller.on_request(slot, request, monotonic())
            except BaseException as error:
                self._fail(error)
                raise
            self.turn.wake()

    def on_peer_message(self, sender: int, message: PeerMessage) -> None:
        """A message of a peer arrived."""
        if not self._dead:
            try:
                self.controller.on_message(sender, message, monotonic())
            except BaseException as error:
                self._fail(error)
                raise
            self.turn.wake()

    def on_peer_up(self, peer: int, reply: HelloReply) -> None:
        """A peer has accepted this node with that reply: messages reach it from now on."""
        if not self._dead:
            self.controller.on_connected(peer, reply, monotonic())
            self.turn.wake()

    def on_peer_down(self, peer: int, refused: bool) -> None:
        """The connection to a peer ended; `refused`: no process listens at its address."""
        if not self._dead:
            self.controller.on_disconnected(peer, refused, monotonic())
            self.turn.wake()

    def on_data_durable(self, number: int) -> None:
        """The data engine is durable up to write `number`."""
        self.controller.on_data_durable(number, monotonic())
        self.turn.wake()

    def on_meta_durable(self, number: int) -> None:
        """Raft's engine is durable up to write `number`."""
        self.controller.on_meta_durable(number, monotonic())
        if self.directory.record.state != "member":
            self._record(self.directory.settle)
        if not self.directory.record.sure and self.controller.doubts_are_noted:
            self._record(self.directory.trust)
        self.turn.wake()

    def _record(self, change: Callable[[], object]) -> None:
        """Make a change of the identity file that is not essential: if it fails, the node goes on."""
        try:
            change()
        except DirectoryError as error:
            if not self._no_room:
                log.warning("going on without it: %s", error)
            self._no_room = True
        else:
            self._no_room = False

    # --- the handshake of peers -----------------------------------------------------------------------

    def on_join(self, join: Join) -> JoinReply:
        """Answer a node that asks to join. It repeats the request until the answer is `done`."""
        self.turn.wake()
        return self.controller.on_join(join, self._loop.time())

    def hello_to(self, peer: int) -> Hello:
        """Return this node's Hello to a peer."""
        return self.controller.members.hello(peer)

    def judge_hello(self, hello: Hello) -> str:
        """Return why a caller is refused; "" if it is accepted."""
        error = self.controller.members.judge_hello(hello, monotonic())
        if hello.cluster_id != self.identity.cluster_id and hello.target == self.settings.node_id:
            self._ask_back(hello)
        return error

    def _ask_back(self, hello: Hello) -> None:
        """React to a caller of another cluster that takes this node for a member of that cluster.

        If this node has just founded its cluster and is alone in it, the caller may be right: this node may
        be that member, restarted with an empty disk and with the command line that once founded the other
        cluster. But any process may claim that, so this node asks the caller at the address in its Hello.
        """
        me, alone = self.settings.node_id, set(self.controller.metadata.nodes) <= {self.settings.node_id}
        fresh = start_number(self.identity.incarnation) == 1 and alone and hello.node_id != me
        if fresh and hello.raft_address and (self._asking_back is None or self._asking_back.done()):
            self._asking_back = self._loop.create_task(self._believe(hello))

    async def _believe(self, hello: Hello) -> None:
        """Stop if the node at the caller's address says that its cluster knows this node by another data
        directory."""
        question = msgspec.structs.replace(
            self.hello_to(hello.node_id), cluster_id=hello.cluster_id, member_at=0, log_index=-1
        )
        try:
            reply = await introduced(self.peers, question, hello.raft_address)
        except (OSError, ValueError) as failure:
            log.warning("a caller that calls itself node %d of another cluster is not there: %s",
                        hello.node_id, failure or "no answer")  # fmt: skip
            return
        if reply.error == other_directory(self.settings.node_id) and not self._dead:
            log.critical("%s (cluster %s)", reply.error, hello.cluster_id)
            self._finish(1)

    def on_caller(self, hello: Hello) -> None:
        """A caller was accepted."""
        if not self._dead:
            self.controller.members.on_caller(hello)
            self.turn.wake()

    def addresses(self) -> dict[int, str]:
        """Return the addresses of this node and of the others, as far as it knows them."""
        return self.controller.members.all_addresses()

    def directory_id(self) -> str:
        """Return the id of this node's data directory."""
        return self.identity.directory_id

    def is_final(self, hello: Hello) -> bool:
        """Return whether the refusal of a caller is final."""
        return self.controller.members.is_final(hello)

    def is_removed(self, hello: Hello) -> bool:
        """Return whether a refused caller was removed from the cluster."""
        return self.controller.members.is_removed(hello)

    def on_refused(self, peer: int, error: str) -> None:
        """A peer refuses this node, but may accept it later."""
        self.controller.members.on_refused(peer, error)

    def on_final_refusal(self, peer: int, error: str, removed: bool) -> None:
        """A peer will never accept this node: it was removed, or its directory is older than it must be."""
        self.controller.on_final_refusal(peer, error, removed, monotonic())
        self.turn.wake()

    # --- effects ------------------------------------------------------------------------------------------

    def _carry_out(self, effect: Effect) -> None:
        """Carry out one effect of the controller."""
        match effect:
            case Send():
                self.peers.send(effect.to, effect.message)
            case Reply():
                assert isinstance(effect.slot, Slot)
                effect.slot.reply(effect.data, effect.count)
            case Peers(addresses=addresses):
                self._record(lambda: self.directory.remember(addresses))
                self.peers.connect_to(addresses)
            case LogLine(text=text):
                log.warning(text)  # not with "%s": the pattern determines the kind of line (shell/logs.py)
            case Halt(reason=reason, exit_status=status):
                log.log(logging.ERROR if status else logging.INFO, "%s", reason)
                self._finish(status)
            case _:
                assert_never(effect)

    def _flush_connections(self) -> None:
        self.peers.flush()
        self.clients.flush()


# --- the process -----------------------------------------------------------------------------------------


async def _serve(settings: Settings, directory: DataDirectory) -> int:
    """Join a cluster if this directory belongs to none, and run the node; return the exit status."""
    trust, access = open_trust(settings), open_access(settings)
    record = directory.begin(settings.fsync_name, boot_id().hex())
    if record.state in ("new", "joining"):  # the cluster may have dropped a joiner that was slow to start
        await enter_cluster(settings, directory, trust)
        return await Node(settings, directory, trust, access).run()
    if settings.join:
        log.info("this directory belongs to cluster %s: --join only helps to find it", record.cluster_id)
    return await Node(settings, directory, trust, access).run(also_try=settings.join)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `python -m walrus.node`; return 0 after a clean stop, 2 for an invalid flag, 1 for any failure."""
    raise_again()
    try:
        told = look(sys.argv[1:] if arguments is None else arguments, os.environ)
        settings = settings_of(told)
        if told.options.check_config:
            open_trust(settings)
            open_access(settings)
            sys.stdout.write(told.shown())
            return 0
    except (FlagError, StartError) as error:
        sys.stderr.write(f"walrus-node: {error}\n")
        return 2
    try:
        handler = open_log(settings.log_file, settings.log_level, settings.node_id, settings.log_format)
    except OSError as error:
        sys.stderr.write(f"walrus-node: --log-file: cannot write {settings.log_file}: {error.strerror}\n")
        return 1
    obey_signals(settings.log_level)
    try:
        return _run(settings)
    finally:
        close_log(handler)


def _run(settings: Settings) -> int:
    """Run the node until it ends; return the exit status."""
    try:
        claim_files()
        directory = DataDirectory(settings.data_dir, settings.node_id)
    except (OSError, DirectoryError, StartError) as error:
        sys.stderr.write(f"walrus-node: {error}\n")
        return 1
    try:
        with asyncio.Runner(loop_factory=BatchedEventLoop) as runner:
            return runner.run(_serve(settings, directory))
    except (StartError, DirectoryError, StorageError, OSError) as error:
        log.critical("cannot start: %s", error)
        return 1
    except KeyboardInterrupt:  # while it waits to join: once it serves, a signal handler stops it
        return 130
    finally:
        directory.close()


if __name__ == "__main__":
    sys.exit(main())
