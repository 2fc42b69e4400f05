"""The whole logic of one node: a switch between its inputs and the state machines that decide.

The controller owns a node's state machines and hands each input to those that it concerns:

    client requests   requests: from there router (PUT), consumers (GET, FETCH), queues (RECEIVE, ACK, ...),
                      read_indexes (unknown topics)
    peer messages     the machine that handles the type: see `on_message`
    connections       every machine that waits for an answer from that node
    ticks             every machine that has deadlines; the supervisor, on the Raft leader
    synced            the callbacks that wait for durability, through `Durable`
    applied metadata  every machine that depends on it: see `_on_applied`

It does no I/O of its own. Its inputs are requests, messages, the time, and the numbers of durable writes.
It writes to two storage engines, which do not wait for the disk, and collects effects in its outbox. The
asyncio shell (`node.py`) and the simulator (`sim/`) drive this same class.

**A turn.** The shell hands in everything that arrived and then calls `flush`, which is where group commit
happens: the entries that all connections brought in this turn for one segment are appended as one batch.

Two engines: `data` holds the copies of segments, `meta` Raft's journal and the notes of fences. The second is
synced whatever `--fsync` says.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeAlias, assert_never

from walrus import protocol
from walrus.broker import status
from walrus.broker.consumers import Consumers
from walrus.broker.cursors import Cursors
from walrus.broker.gaps import Gaps
from walrus.broker.lifecycle import Lifecycle, Writers
from walrus.broker.membership import Members
from walrus.broker.queues import Queues
from walrus.broker.raft_host import Changes, RaftHost, RaftObserver
from walrus.broker.read_index import ReadIndexes
from walrus.broker.requests import Requests
from walrus.broker.retention import Retention
from walrus.broker.router import Router
from walrus.broker.spec_trace import record_start, synced
from walrus.broker.stopping import OrderlyStop
from walrus.broker.supervisor import Supervisor
from walrus.config import Identity, NodeConfig
from walrus.consensus import messages as c
from walrus.consensus.messages import Rng
from walrus.leases import LeaseTable
from walrus.raft import Raft
from walrus.replicas.copies import Copies
from walrus.replicas.durability import Durable
from walrus.replicas.puller import Puller
from walrus.replicas.reads import Reads
from walrus.replicas.repair import CatchUp, Repairs
from walrus.replicas.replica import Replica
from walrus.segments import Metadata, start_number
from walrus.storage.port import Storage
from walrus.wire import messages as m
from walrus.wire.effects import Effect, Outbox, Trace, no_trace, or_own

MAX_TURN = 1_000
"""Rounds in which one turn must come to rest."""

REQUEST_BITS = 40
"""Numbers of requests rise across restarts: each start has so many, more than it can use up in years."""


Clock: TypeAlias = Callable[[], float]


class Controller:
    """The logic of one node. Inputs are methods named `on_...` and `flush`; `take_effects` is the output."""

    # fmt: off
    def __init__(
        self, *, config: NodeConfig, identity: Identity, data: Storage, meta: Storage, rng: Rng, now: float,
        addresses: dict[int, str] | None = None, is_open: Callable[[object], bool] = lambda slot: True,
        trace: Trace = no_trace, observer: RaftObserver | None = None, unix_time: Clock = lambda: 0.0,
        process: Callable[[], Mapping[str, Any]] = dict,
    ) -> None:
        """The wiring: each machine is handed what it needs, and no more."""
        first, is_open = start_number(identity.incarnation) << REQUEST_BITS, or_own(is_open)
        self.config, self.meta, self.connected = config, Durable(meta), (connected := set[int]())
        self.data, self.outbox = Durable(data, synced(trace)), (outbox := Outbox(config.node_id))
        metadata, writers, copies = Metadata(), Writers(unix_time), Copies(self.data, self.meta, trace)
        record_start(trace, identity, copies)
        self.raft_host = raft_host = RaftHost(
            config=config, identity=identity, meta=self.meta, metadata=metadata, copies=copies, rng=rng,
            outbox=outbox, now=now, trace=trace, observer=observer or RaftObserver(),
        )
        self.members = Members(
            config=config, identity=identity, raft_host=raft_host, outbox=outbox, now=now,
            addresses=addresses or {},
        )
        raft, propose, voters, self.copies = raft_host.raft, raft_host.propose, self.members.voters, copies
        leases = LeaseTable(config.node_id, identity.incarnation, config.lease_ttl)
        self.reads = reads = Reads(
            config=config, copies=copies, metadata=metadata, outbox=outbox,
            commit_index=writers.commit_index, first_request=first,
        )
        self.replica = Replica(node_id=config.node_id, copies=copies, metadata=metadata, outbox=outbox)
        puller = Puller(copies=copies, reads=reads, outbox=outbox)
        self.catch_up = CatchUp(config=config, metadata=metadata, copies=copies, puller=puller, outbox=outbox)
        self.router = Router(
            config=config, metadata=metadata, outbox=outbox, first_request=first, is_open=is_open,
            incarnation=self.members.incarnation,
        )
        gaps = Gaps(config=config, metadata=metadata, reads=reads, outbox=outbox, connected=connected)
        self.consumers = Consumers(
            config=config, metadata=metadata, reads=reads, outbox=outbox, is_open=is_open, gaps=gaps,
            first_request=first, connected=connected,
        )
        self.read_indexes = ReadIndexes(config=config, raft=raft, outbox=outbox, first_request=first)
        self.cursors = Cursors(
            config=config, metadata=metadata, reads=reads, leases=leases, outbox=outbox, trace=trace,
            connected=connected, gaps=gaps, ask=self.read_indexes.ask,
        )
        self.queues = Queues(
            config=config, metadata=metadata, reads=reads, gaps=gaps, is_open=is_open, trace=trace,
            first_request=first, connected=connected, advanced=writers.advanced, cursors=self.cursors,
            propose=propose, outbox=outbox, request=self.on_request,
        )
        self.lifecycle = Lifecycle(
            config=config, metadata=metadata, copies=copies, leases=leases, writers=writers, trace=trace,
            outbox=outbox, connected=connected, voters=voters, propose=propose,
            cursors=self.cursors, queues=self.queues,
        )
        self.supervisor = Supervisor(
            config=config, metadata=metadata, raft=raft, leads=lambda: raft_host.leads, outbox=outbox,
            repairs=Repairs(config=config, metadata=metadata, outbox=outbox, propose=propose),
            propose=propose, recover=self.lifecycle.recover, voters=voters,
            retention=Retention(config=config, metadata=metadata, propose=propose, unix_time=unix_time),
        )
        self.stopping = OrderlyStop(raft=raft, cursors=self.cursors, connected=connected, voters=voters)
        self.requests = Requests(
            config=config, metadata=metadata, raft=raft, router=self.router, consumers=self.consumers,
            queues=self.queues, read_indexes=self.read_indexes, lifecycle=self.lifecycle, outbox=outbox,
            connected=connected, propose=propose, metrics=partial(self._metrics, unix_time, process),
        )
        raft_host.start(self._on_applied)
        self.members.connect(first=True)

    # fmt: on
    # --- what others look at ---

    @property
    def identity(self) -> Identity:
        """The identity of this process: cluster, directory, incarnation."""
        return self.members.identity

    @property
    def raft(self) -> Raft:
        """The consensus core."""
        return self.raft_host.raft

    @property
    def metadata(self) -> Metadata:
        """What Raft has agreed on, as far as it is applied here."""
        return self.raft_host.metadata

    @property
    def applied(self) -> int:
        """Index of the last log entry that is applied."""
        return self.raft_host.applied

    @property
    def leases(self) -> LeaseTable:
        """The leases of the segments that this node leads."""
        return self.lifecycle.leases

    @property
    def writers(self) -> Writers:
        """The writers of the segments that this node leads."""
        return self.lifecycle.writers

    @property
    def busy(self) -> bool:
        """Whether some client still waits for this node."""
        return self.router.busy or self.consumers.busy or self.queues.busy or self.requests.busy

    @property
    def behind(self) -> bool:
        """See `RaftHost.behind`."""
        return self.raft_host.behind

    @property
    def ready(self) -> bool:
        """See `Members.ready`."""
        return self.members.ready

    @property
    def doubts_are_noted(self) -> bool:
        """See `RaftHost.doubts_are_noted`."""
        return self.raft_host.doubts_are_noted

    def next_deadline(self, now: float) -> float:
        """When `on_tick` is due at the latest."""
        if self.behind:
            return now
        active = (
            self.busy
            or self.stopping.begun
            or self.lifecycle.busy
            or self.catch_up.behind
            or self.copies.summing
        )
        pause = self.config.heartbeat_interval / (4 if active else 1)
        waits = min(self.queues.next_deadline(now), self.consumers.waits.next_deadline())
        return min(self.raft.next_deadline(), now + pause, waits)

    def take_effects(self) -> list[Effect]:
        """The effects since the last call, to be carried out in order."""
        return self.outbox.take()

    def _metrics(self, unix_time: Clock, process: Callable[[], Mapping[str, Any]], now: float) -> bytes:
        view = status.NodeView(
            config=self.config,
            identity=self.identity,
            raft=self.raft,
            metadata=self.metadata,
            applied=self.applied,
            why_not_ready=self.members.why_not_ready(),
            connected=self.connected,
            wire_versions=self.members.wire_versions,
            leases=self.leases.held(now),
            segments_led=len(self.writers),
            led={topic: writer.commit_index for topic, writer in self.writers.items()},
            voters=len(self.members.voters()),
            entries=self.copies.entries,
            bytes=self.copies.bytes,
            out=self.queues.owner.out,
            counted=self._counted(),
            recoveries=self.lifecycle.recoveries,
            copies_behind=self.catch_up.behind,
            unix_time=unix_time(),
            process=process(),
        )
        return status.metrics(view, now)

    def _counted(self) -> status.Counted:
        handed = self.queues.owner.counts
        return status.Counted(
            puts_acknowledged=self.router.acknowledged,
            entries_lost=self.cursors.lost + handed.lost,
            deliveries=handed.deliveries,
            redeliveries=handed.redeliveries,
            dead_letters=handed.dead_letters,
            repetitions=self.writers.repetitions.entries,
            entries_trimmed=self.catch_up.trimming.entries,
            append_durable_seconds=self.writers.took.durable.view(),
            append_acknowledged_seconds=self.writers.took.acknowledged.view(),
        )

    # --- handshakes: `members` answers the rest of them by itself ---

    def on_join(self, join: m.Join, now: float) -> m.JoinReply:
        """A node asks to be taken in."""
        return self.members.on_join(join, self.read_indexes.ask, now)

    def on_final_refusal(self, peer: int, error: str, removed: bool, now: float) -> None:
        """A peer refuses this node for ever: answer the clients that asked for its removal, and stop."""
        if not self.outbox.halted:  # every other member says so too
            if removed:
                self.requests.on_removed(now)
            self.members.on_final_refusal(peer, error, removed=removed)

    # --- clients ---

    def on_request(self, slot: object, request: protocol.Request, now: float) -> None:
        """A request of a client. `request.replies` replies will be given to `slot`, an opaque object."""
        self.requests.on_request(slot, request, now)

    # --- peers ---

    def on_message(self, sender: int, message: m.PeerMessage, now: float) -> None:
        """A message from another node, or from this one to itself."""
        if sender != self.config.node_id and (reason := m.flaw(message)):
            self.outbox.log(f"dropped {type(message).__name__} of node {sender}: {reason}")
            return
        match message:
            case m.Append():
                self.replica.on_append(sender, message)
            case m.AppendReply():
                self.lifecycle.on_append_reply(sender, message, now)
            case m.Forward():
                self.lifecycle.on_forward(sender, message, now)
            case m.ForwardReply():
                self.router.on_reply(sender, message)
            case m.GetEntries():
                self.cursors.on_get(sender, message, now)
            case m.GetReply():
                self.consumers.on_reply(sender, message, now)
            case m.Confirm():
                self.cursors.on_confirm(sender, message, now)
            case m.AskDeliveries() | m.Deliveries() | m.Settle() | m.SeekGroup() | m.Settled():
                self.queues.on_message(sender, message, now)
            case m.Read():
                self.reads.on_read(sender, message, now)
            case m.ReadReply():
                self.reads.on_reply(sender, message, now)
            case m.FindGap() | m.Gap():
                self.cursors.on_gap(sender, message, now)
            case m.Fence():
                self.replica.on_fence(sender, message)
                self.lifecycle.on_fence(message.topic)
            case m.FenceReply():
                self.lifecycle.on_fence_reply(sender, message, now)
            case m.Copy():
                self.catch_up.on_copy(sender, message, now)
            case m.CopyReply():
                self.lifecycle.on_copy_reply(sender, message, now)
                self.supervisor.on_copy_reply(sender, message, now)
            case m.Propose():
                self.raft_host.on_propose(message, now)
            case m.ReadIndex() | m.ReadIndexReply():
                self.read_indexes.on_message(sender, message, now)
            case m.Recover():
                self.lifecycle.on_recover(message, now)
            case m.RollOver():
                self.lifecycle.roll_over(message.topic, message.segment, message.replicas)
            case m.Hello() | m.HelloReply() | m.Join() | m.JoinReply() | m.Challenge() | m.Proof():
                pass  # the shell's handshake; on an established connection they mean nothing
            case (
                c.PreVoteRequest()
                | c.PreVoteResponse()
                | c.RequestVoteRequest()
                | c.RequestVoteResponse()
                | c.AppendEntriesRequest()
                | c.AppendEntriesResponse()
                | c.InstallSnapshotRequest()
                | c.InstallSnapshotResponse()
                | c.TimeoutNowRequest()
            ):
                self._step_raft(sender, message, now)
            case _:
                assert_never(message)

    def _step_raft(self, sender: int, message: c.RaftMessage, now: float) -> None:
        self.raft.step(sender, message, now)
        self.leases.heard(self.raft.last_contact)

    def on_connected(self, peer: int, reply: m.HelloReply, now: float) -> None:
        """From now on messages reach `peer`, which has accepted this node with that reply."""
        self.connected.add(peer)
        self.members.on_connected(peer, reply.version)
        self.raft.peers_reachable(self.connected, now)
        self.supervisor.on_connected(peer, reply.directory_id)
        self.lifecycle.on_connection(peer, connected=True, now=now)
        self.router.on_connection(peer, connected=True)
        self.consumers.on_connection(peer, connected=True, now=now)
        self.queues.on_connection(peer, connected=True, now=now)

    def on_disconnected(self, peer: int, refused: bool, now: float) -> None:
        """Messages do not reach `peer` any more; `refused`: its process is certainly gone."""
        self.connected.discard(peer)
        self.supervisor.on_disconnected(peer, refused)
        if refused:
            self.raft.leader_unreachable(peer, now)
        self.lifecycle.on_connection(peer, connected=False, now=now)
        self.router.on_connection(peer, connected=False)
        self.consumers.on_connection(peer, connected=False, now=now)
        self.queues.on_connection(peer, connected=False, now=now)
        self.reads.on_disconnected(peer, now)
        self.cursors.on_disconnected(peer, now)

    # --- durability ---

    def on_data_durable(self, number: int, now: float) -> None:
        """Everything up to write `number` of the data engine is durable."""
        self.writers.took.now = now
        self.data.on_durable(number)

    def on_meta_durable(self, number: int, now: float) -> None:
        """Everything up to write `number` of Raft's engine is durable."""
        self.raft_host.on_durable(number, now)

    # --- time ---

    def on_tick(self, now: float) -> None:
        """Look at every deadline."""
        self.raft.tick(now)
        self.leases.heard(self.raft.last_contact)
        self.leases.on_tick(self.metadata, now)
        self.copies.go_on_summing()
        self.router.on_tick(now)
        self.consumers.on_tick(now)
        self.queues.on_tick(now)
        self.reads.on_tick(now)
        self.cursors.on_tick(now)
        self.read_indexes.on_tick(now)
        self.catch_up.on_tick(now, self.connected)
        self.supervisor.on_tick(now)
        self.lifecycle.on_tick(now)
        self.requests.look_at_watches(now)
        self.members.on_tick(now)
        self.stopping.on_tick(now)
        if (command := self.cursors.to_commit(now)) is not None:
            self.raft_host.propose(command, now)

    def stop(self, now: float) -> None:
        """An orderly stop begins; the node goes once `may_stop`."""
        self.stopping.begin(now)
        self.queues.stop()
        self.consumers.waits.stop()
        if (command := self.cursors.to_commit(now)) is not None:
            self.raft_host.propose(command, now)

    def may_stop(self, now: float) -> bool:
        """Whether an orderly stop has nothing more to wait for."""
        return self.outbox.halted or self.stopping.done(now)

    # --- the end of a turn ---

    def flush(self, now: float) -> None:
        """Let everything that this turn brought take effect; appends are grouped here."""
        if self.outbox.halted:
            return
        self.raft_host.go_on(now)
        if not (self._has_work(now) or self.raft_host.has_work):
            return  # as after the answer of the slowest replica, which changes nothing
        for _ in range(MAX_TURN):
            self._drain_local(now)
            self.router.flush(self.connected)
            self._drain_local(now)
            self.lifecycle.flush(now)
            self.reads.on_advanced(self.writers.advanced)
            self.queues.flush(now)
            self.raft_host.flush(now)  # last: then Raft has nothing more to do, or no room to write it
            if not self._has_work(now):
                return
        raise AssertionError("a turn that does not end")

    def _has_work(self, now: float) -> bool:
        """Whether another round of `flush` would get on, Raft's part in it aside."""
        return bool(self.outbox.local or self.router.dirty or self.lifecycle.due(now) or self.queues.due(now))

    def _drain_local(self, now: float) -> None:
        local = self.outbox.local
        while local:
            self.on_message(self.config.node_id, local.popleft(), now)

    # --- applied metadata ---

    def _on_applied(self, changes: Changes, now: float) -> None:
        """Show each state machine what has changed in the metadata, topic by topic and once each."""
        if changes.restored:
            self.catch_up.on_snapshot()
        for key in changes.replica_sets:
            self.catch_up.on_replicas(key)
            self.supervisor.on_replicas(key)
        for topic in changes.topics:
            self._on_topic(topic, now)
        self.queues.on_committed(changes.groups, now)
        if changes.beyond_cursors:
            self.supervisor.dirty = True
            for node in self.members.on_applied():
                self.lifecycle.forget_node(node)
                self.cursors.forget_node(node)
                self.supervisor.forget_node(node)
            self.requests.look_at_watches(now)
        for context, index in changes.confirmed_reads:
            self.read_indexes.on_confirmed(context, index)
        self.read_indexes.on_applied(self.applied, now)

    def _on_topic(self, topic: str, now: float) -> None:
        """A topic has a new open segment, other settings, or another replica set somewhere; or it is gone."""
        self.leases.reconcile(self.metadata, topic)
        self.lifecycle.on_topic(topic, now)
        if (there := self.metadata.open_segment(topic)) is not None:
            self.replica.announce(topic, *there)
        self.catch_up.on_topic(topic)
        self.supervisor.on_topic(topic)
        self.cursors.on_topic(topic, now)
        self.queues.on_topic(topic, now)
        self.reads.on_advanced((topic,))
        self.router.on_topic(topic)
        self.consumers.on_topic(topic, now)
        self.lifecycle.replay_early(topic, now)

    def check_invariants(self) -> None:
        """Assert what must hold of this node by itself; the simulator calls it after every step."""
        self.data.check_invariants()
        self.meta.check_invariants()
        self.metadata.check_invariants()
        self.leases.check_invariants(self.metadata)
        self.copies.check_invariants()
        self.reads.check_invariants()
        self.consumers.waits.check_invariants()
        self.catch_up.check_invariants()
        self.supervisor.check_invariants()
        self.router.check_invariants()
        self.cursors.check_invariants()
        self.queues.check_invariants()
        self.raft.check_invariants()
        self.lifecycle.check_invariants()
