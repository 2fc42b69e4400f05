"""One node's logic, whole: what it does with a client's request, a peer's message, a tick, a finished sync.

The controller owns the state machines of a node and passes everything to the one that it concerns:

    client requests   router (PUT)   reader (GET, FETCH)   freshness (unknown topics)   here (the rest)
    peer messages     raft   replication   recovery   cursors   reads   router
    ticks             everybody's deadlines; the supervisor, on the Raft leader
    synced            what waited for durability, through `Durable`

It does no I/O. It is handed bytes that arrived, the time, and news of what is durable; it writes to the
two storage engines it was given (which does not wait for the disk) and collects effects in its outbox.
The asyncio shell (`node.py`) and the simulator (`sim/`) drive this same class.

**A turn.** The shell hands in everything that arrived and then calls `flush`, which is where group commit
happens: whatever all connections brought in this turn for one segment is appended as one batch.

**Metadata.** Raft's committed commands are applied in `_apply`; every topic that changed is then shown to
everybody whom it may concern, once (`_topic_changed`). Proposals have no answers. Whoever proposed
proposes again until the metadata is past the point.

Two engines: `data` holds the copies of segments, `meta` Raft's journal and the notes of fences. The second
is always really synced.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import suppress
from functools import partial

from walrus import protocol
from walrus.broker.consumers import Reader
from walrus.broker.cursors import Cursors
from walrus.broker.lifecycle import Lifecycle
from walrus.broker.read_index import Freshness
from walrus.broker.requests import Requests
from walrus.broker.router import Router
from walrus.broker.spec_trace import record_applied, record_restored
from walrus.broker.status import metrics, state
from walrus.broker.supervisor import Supervisor
from walrus.config import Identity, NodeConfig
from walrus.consensus.journal import RaftJournal
from walrus.consensus.messages import COMMAND, Entry, Ready, Rng, Role, Snapshot
from walrus.leases import LeaseTable
from walrus.raft import Raft
from walrus.replicas.copies import Copies, Key
from walrus.replicas.durability import Durable
from walrus.replicas.failover import Fenced, Puller
from walrus.replicas.reads import Reads
from walrus.replicas.repair import CatchUp, Repairs
from walrus.replicas.replication import Replica, SegmentWriter
from walrus.segments import (
    Announce,
    Command,
    CommitCursors,
    Metadata,
    RegisterTopic,
    Seal,
    SetReplicas,
    UnknownCommand,
    decode_command,
    encode_command,
)
from walrus.storage.errors import DiskFull, StorageError
from walrus.storage.port import Storage
from walrus.wire import messages as m
from walrus.wire.effects import Effect, Outbox, Trace, no_trace

MAX_TURN = 1_000
"""Rounds in which one turn must come to rest."""

REQUEST_BITS = 40
"""Numbers of requests rise across restarts: each start has so many, more than it can use up in years."""


class Controller:
    """The logic of one node. Inputs are methods named `on_...` and `flush`; `take_effects` is the output."""

    def __init__(
        self,
        *,
        config: NodeConfig,
        identity: Identity,
        data: Storage,
        meta: Storage,
        rng: Rng,
        now: float,
        addresses: dict[int, str] | None = None,
        is_open: Callable[[object], bool] = lambda slot: True,
        trace: Trace = no_trace,
    ) -> None:
        self.config, self.identity = config, identity
        self.outbox = Outbox(config.node_id)
        self.data, self.meta = Durable(data), Durable(meta)
        self.metadata = Metadata()
        self.copies = Copies(self.data, self.meta)
        self.connected: set[int] = set()
        self.applied = 0
        self.stopping = self.halted = False
        self._unsaved: Ready | None = None
        self._sealed_at: tuple[int, Collection[Key]] = (0, ())  # by the last checkpoint: of those with notes
        self._no_room = False  # for Raft's journal, as was said already
        self._now = now
        self._trace = trace
        self._addresses = dict(addresses or {})
        self._directories: dict[int, str] = {}  # of each member, to see who was removed
        self._callers: dict[int, m.Hello] = {}  # those of which the metadata does not know (yet)
        self._journal = RaftJournal(self.meta)
        restored = self._journal.load()
        self._unsure_to = 0 if identity.sure else _last_index(restored.entries, restored.snapshot)
        self.copies.in_doubt = self._unsure_to > 0
        self._announced_at = _announced_at(restored.entries, identity.directory_id)
        self.raft = Raft(
            node_id=config.node_id,
            config=config.raft(),
            restored=restored,
            rng=rng,
            now=now,
            trace=None if trace is no_trace else trace,
        )
        self.leases = LeaseTable(config.node_id, identity.incarnation, config.lease_ttl)
        self.writers: dict[str, SegmentWriter] = {}
        first_request = identity.incarnation << REQUEST_BITS
        self._wire_reading_and_routing(first_request, is_open)
        self._wire_copying(first_request)
        self._wire_segments()
        self._announce_at = now
        if restored.snapshot is not None:
            self._restore(restored.snapshot)
        self._addresses = self.peer_addresses()
        self.outbox.peers(self._addresses)

    # Each state machine is handed what it needs, and no more.

    def _wire_reading_and_routing(self, first_request: int, is_open: Callable[[object], bool]) -> None:
        config, metadata, copies, outbox = self.config, self.metadata, self.copies, self.outbox
        self.reads = Reads(
            config=config,
            copies=copies,
            metadata=metadata,
            outbox=outbox,
            commit_index=self._commit_index,
            first_request=first_request,
        )
        self.router = Router(config=config, metadata=metadata, outbox=outbox, first_request=first_request)
        self.reader = Reader(
            config=config,
            metadata=metadata,
            reads=self.reads,
            outbox=outbox,
            is_open=is_open,
            first_request=first_request,
            connected=self.connected,
        )
        self.cursors = Cursors(
            config=config,
            metadata=metadata,
            reads=self.reads,
            leases=self.leases,
            outbox=outbox,
            trace=self._trace,
            connected=self.connected,
        )

    def _wire_copying(self, first_request: int) -> None:
        config, metadata, copies, outbox = self.config, self.metadata, self.copies, self.outbox
        trace = self._trace
        self.replica = Replica(
            node_id=config.node_id, copies=copies, metadata=metadata, outbox=outbox, trace=trace
        )
        self.fenced = Fenced(copies=copies, outbox=outbox, trace=trace)
        self.puller = Puller(copies=copies, reads=self.reads, outbox=outbox, trace=trace)
        self.catch_up = CatchUp(
            config=config, metadata=metadata, copies=copies, puller=self.puller, outbox=outbox
        )
        self.repairs = Repairs(config=config, metadata=metadata, outbox=outbox, propose=self.propose)
        self.freshness = Freshness(config=config, raft=self.raft, outbox=outbox, first_request=first_request)
        self.supervisor = Supervisor(
            config=config,
            metadata=metadata,
            raft=self.raft,
            outbox=outbox,
            repairs=self.repairs,
            propose=self.propose,
            recover=lambda topic, number, now: self.lifecycle.recover(topic, number, now),
        )

    def _wire_segments(self) -> None:
        config, metadata, outbox = self.config, self.metadata, self.outbox
        self.lifecycle = Lifecycle(
            config=config,
            metadata=metadata,
            copies=self.copies,
            leases=self.leases,
            cursors=self.cursors,
            outbox=outbox,
            trace=self._trace,
            connected=self.connected,
            voters=self.supervisor.voters,
            propose=self.propose,
            writers=self.writers,
        )
        self.requests = Requests(
            config=config,
            metadata=metadata,
            raft=self.raft,
            router=self.router,
            reader=self.reader,
            freshness=self.freshness,
            lifecycle=self.lifecycle,
            outbox=outbox,
            connected=self.connected,
            propose=self.propose,
            state=partial(state, self),
            metrics=partial(metrics, self),
        )

    def _commit_index(self, topic: str, number: int) -> int | None:
        writer = self.writers.get(topic)
        return writer.commit_index if writer is not None and writer.number == number else None

    # --- what the shell asks ---

    def take_effects(self) -> list[Effect]:
        """The effects since the last call, to be carried out in order."""
        return self.outbox.take()

    @property
    def data_written(self) -> int:
        """Writes to the data engine so far; start a sync when that is more than what is durable."""
        return self.data.written

    @property
    def meta_written(self) -> int:
        """The same for the engine of Raft's journal."""
        return self.meta.written

    @property
    def busy(self) -> bool:
        """Whether some client still waits for this node."""
        return self.router.busy or self.reader.busy or self.requests.busy

    @property
    def ready(self) -> bool:
        """Whether this node is a voter, knows a leader, and is known with its present start."""
        known = self.metadata.nodes.get(self.config.node_id)
        return (
            self.config.node_id in self.raft.membership.voters
            and self.raft.leader_id is not None
            and known is not None
            and known.incarnation == self.identity.incarnation
        )

    @property
    def doubts_are_noted(self) -> bool:
        """Whether every copy that a power loss may have shortened is durably noted as unsure."""
        return self.applied >= self._unsure_to and self.meta.durable == self.meta.written

    def next_deadline(self, now: float) -> float:
        """When `on_tick` is due at the latest."""
        active = self.busy or self.lifecycle.busy or self.catch_up.behind or self.copies.summing
        pause = self.config.heartbeat_interval / (4 if active else 1)
        return min(self.raft.next_deadline(), now + pause)

    def peer_addresses(self) -> dict[int, str]:
        """Where the other nodes are, as far as this one knows.

        After a start the metadata comes back entry by entry, and its first node alone may be dead: a member
        by Raft's log keeps the address that was remembered until the metadata says better.
        """
        members = self.raft.membership.members
        known = {n: place for n, place in self._addresses.items() if not members or n in members}
        known |= {n: node.raft_address for n, node in self.metadata.nodes.items()}
        known |= {n: hello.raft_address for n, hello in self._callers.items()}
        known.pop(self.config.node_id, None)
        return dict(sorted(known.items()))

    def judge_hello(self, hello: m.Hello) -> str:
        """Why a node that dials us is refused; "" if it is welcome."""
        if hello.cluster_id != self.identity.cluster_id:
            return f"another cluster: this is {self.identity.cluster_id}, not {hello.cluster_id}"
        if hello.target != self.config.node_id:
            return f"this is node {self.config.node_id}, not {hello.target}"
        if hello.member_at > self.applied:
            return ""  # by a part of the log that this node has yet to hear of, perhaps from this very caller
        node = self.metadata.nodes.get(hello.node_id)
        if node is None:
            known = self.metadata.nodes and hello.node_id not in self.raft.membership.members
            return f"node {hello.node_id} is not (yet, or any more) a member" if known else ""
        if node.directory_id != hello.directory_id:
            return self.other_directory(hello.node_id)
        return ""

    def on_caller(self, hello: m.Hello) -> None:
        """A caller was welcomed. Where it says that it is counts until the metadata knows of that start.

        Whoever was away may be called by a leader that joined or moved meanwhile, and must be able to answer.
        """
        self._callers[hello.node_id] = hello
        self._connect()

    def _connect(self) -> None:
        """See to it that the shell keeps the connections that are wanted now."""
        self._callers = {n: hello for n, hello in self._callers.items() if self._is_news(hello)}
        addresses = self.peer_addresses()
        if addresses != self._addresses:
            self._addresses = addresses
            self.outbox.peers(addresses)

    def _is_news(self, hello: m.Hello) -> bool:
        node = self.metadata.nodes.get(hello.node_id)
        known = node is not None and node.directory_id == hello.directory_id
        later = node is not None and node.incarnation < hello.incarnation
        return bool(hello.raft_address) and not self.judge_hello(hello) and (later or not known)

    def other_directory(self, node_id: int) -> str:
        """What to tell a node that comes back under a known id with another data directory."""
        return (
            f"node {node_id} is known with another data directory: bring that one back, or remove the member "
            f"with LEAVE {node_id} and start this node again"
        )

    @property
    def member_at(self) -> int:
        """An index of Raft's log at which this node's directory was a member's; 0 if it knows of none."""
        mine = self._is_member(self.config.node_id, self.identity.directory_id)
        return self.applied if mine else self._announced_at

    def is_removed(self, hello: m.Hello) -> bool:
        """Whether the caller was a member and is none any more: then it never will be again.

        Not knowing it proves nothing by itself, for what this node has applied may be old. But a member by an
        index of the log that this node has applied too can only have been removed since.
        """
        return (
            hello.cluster_id == self.identity.cluster_id
            and 0 < hello.member_at <= self.applied
            and not self._is_member(hello.node_id, hello.directory_id)
        )

    def _is_member(self, node_id: int, directory_id: str) -> bool:
        node = self.metadata.nodes.get(node_id)
        return node is not None and node.directory_id == directory_id

    # --- clients ---

    def on_request(self, slot: object, request: protocol.Request, now: float) -> None:
        """A request of a client. `request.replies` replies will be given to `slot`, an opaque object."""
        self.requests.on_request(slot, request, now)

    # --- proposals ---

    def propose(self, command: Command, now: float) -> None:
        """Propose through Raft, wherever its leader is. Lost proposals are the proposer's to repeat."""
        if self.raft.role is Role.LEADER:
            self.raft.propose(encode_command(command), now)
        elif self.raft.leader_id is not None:
            self.outbox.send(self.raft.leader_id, m.Propose(commands=(command,)))

    def on_join(self, join: m.Join, now: float) -> m.JoinReply:
        """A node asks to be taken in. Answered at once; it asks again until `done`."""
        node = self.metadata.nodes.get(join.node_id)
        error, final = "", False
        if node is None:
            error = "not taken in yet: the cluster has no leader, or is deciding"
            if join.node_id in self.raft.membership.members:
                error = self.other_directory(join.node_id)
            else:
                announce = Announce(
                    node_id=join.node_id,
                    directory_id=join.directory_id,
                    incarnation=0,
                    raft_address=join.raft_address,
                    client_address=join.client_address,
                )
                self.propose(announce, now)
        elif node.directory_id != join.directory_id:
            error = self.other_directory(join.node_id)
            final = now < self.leases.expires_at()  # else what this node knows may be old
        elif node.leaving:
            error = f"node {join.node_id} is being removed: wait until it is gone, then start it again"
        return m.JoinReply(
            done=not error,
            error=error,
            cluster_id=self.identity.cluster_id if not error else "",
            # Ourselves in any case: the founder may be asked before its own Announce has been applied.
            addresses={}
            if error
            else {**self.peer_addresses(), self.config.node_id: self.config.raft_address},
            final=final,
        )

    # --- peers ---

    def on_message(self, sender: int, message: m.PeerMessage, now: float) -> None:
        """A message from another node, or from ourselves."""
        if sender != self.config.node_id and (reason := m.flaw(message)):
            self.outbox.log(f"dropped {type(message).__name__} of node {sender}: {reason}")
            return
        match message:
            case m.Append():
                self.replica.on_append(sender, message)
            case m.AppendReply():
                self.lifecycle.with_writer(
                    message.topic, message.segment, lambda w: w.on_reply(sender, message, now)
                )
            case m.Forward():
                self.lifecycle.on_forward(sender, message, now)
            case m.ForwardReply():
                self.router.on_reply(sender, message)
            case m.GetEntries():
                self.cursors.on_get(sender, message, now)
            case m.GetReply():
                self.reader.on_reply(sender, message, now)
            case m.Confirm():
                self.cursors.on_confirm(sender, message, now)
            case m.Read():
                self.reads.on_read(sender, message)
            case m.ReadReply():
                self.reads.on_reply(sender, message, now)
            case m.Fence():
                self.fenced.on_fence(sender, message)
                self.lifecycle.on_fence(message.topic)
            case m.FenceReply():
                recovery = self.lifecycle.recoveries.get((message.topic, message.segment))
                if recovery:
                    recovery.on_fence_reply(sender, message, now)
            case m.Copy():
                self.puller.on_copy(sender, message, now)
            case m.CopyReply():
                self._on_copy_reply(sender, message, now)
            case m.Propose():
                if self.raft.role is Role.LEADER:
                    for command in message.commands:
                        self.raft.propose(encode_command(command), now)
            case m.ReadIndex():
                self.freshness.on_read_index(sender, message, now)
            case m.ReadIndexReply():
                self.freshness.on_reply(message)
            case m.Recover():
                self._on_recover(message, now)
            case m.RollOver():
                self.lifecycle.roll_over(message.topic, message.segment, message.replicas)
            case m.Hello() | m.HelloReply() | m.Join() | m.JoinReply():
                pass  # the shell's handshake; on an established connection they mean nothing
            case _:
                self.raft.step(sender, message, now)

    def _on_copy_reply(self, sender: int, reply: m.CopyReply, now: float) -> None:
        recovery = self.lifecycle.recoveries.get((reply.topic, reply.segment))
        if recovery:
            recovery.on_copy_reply(sender, reply, now)
        self.repairs.on_copy_reply(sender, reply, now)

    def _on_recover(self, message: m.Recover, now: float) -> None:
        recovery = self.lifecycle.recoveries.get((message.topic, message.segment))
        if recovery and recovery.waits_for_sure_copies:
            self.outbox.log(
                f"an operator ends the recovery of {message.topic}/{message.segment} with the copies that "
                "answered: entries acknowledged before the power loss may be missing"
            )
            recovery.force(now)

    def on_connected(self, peer: int, now: float) -> None:
        """From now on messages reach `peer`."""
        self.connected.add(peer)
        self.supervisor.on_connection(peer, connected=True, refused=False)
        self.lifecycle.on_connection(peer, connected=True, now=now)
        self.router.on_connection(peer, connected=True)
        self.reader.on_connection(peer, connected=True, now=now)

    def on_disconnected(self, peer: int, refused: bool, now: float) -> None:
        """Messages do not reach `peer` any more; `refused`: its process is certainly gone."""
        self.connected.discard(peer)
        self.supervisor.on_connection(peer, connected=False, refused=refused)
        if refused:
            self.raft.leader_unreachable(peer, now)
        self.lifecycle.on_connection(peer, connected=False, now=now)
        self.router.on_connection(peer, connected=False)
        self.reader.on_connection(peer, connected=False, now=now)
        self.reads.on_disconnected(peer, now)
        self.cursors.on_disconnected(peer, now)

    # --- durability ---

    def on_data_durable(self, number: int, now: float) -> None:
        """Everything up to write `number` of the data engine is durable."""
        self.data.on_durable(number)

    def on_meta_durable(self, number: int, now: float) -> None:
        """Everything up to write `number` of Raft's engine is durable."""
        self._now = now
        self.meta.on_durable(number)

    # --- time ---

    def on_tick(self, now: float) -> None:
        """Look at every deadline."""
        self.raft.tick(now)
        self.leases.heard(self.raft.last_contact)
        self.leases.on_tick(self.metadata, now)
        self.copies.go_on_summing()
        self.router.on_tick(now)
        self.reader.on_tick(now)
        self.reads.on_tick(now)
        self.cursors.on_tick(now)
        self.freshness.on_tick(now)
        self.catch_up.on_tick(now, self.connected)
        self.supervisor.on_tick(now)
        self.lifecycle.on_tick(now)
        self.requests.look_at_watches(now)
        self._announce_self(now)
        self._commit_cursors(now)

    def _announce_self(self, now: float) -> None:
        """Tell the metadata of this start: until it knows, this node leads nothing."""
        if now < self._announce_at or self.raft.leader_id is None:
            return
        known = self.metadata.nodes.get(self.config.node_id)
        mine = Announce(
            node_id=self.config.node_id,
            directory_id=self.identity.directory_id,
            incarnation=self.identity.incarnation,
            raft_address=self.config.raft_address,
            client_address=self.config.client_address,
        )
        self._announce_at = now + self.config.resend_interval
        if known is None or known.incarnation < self.identity.incarnation:
            self.propose(mine, now)

    def _commit_cursors(self, now: float) -> None:
        command = self.cursors.to_commit(now)
        if command is not None:
            self.propose(command, now)

    def stop(self, now: float) -> None:
        """A clean stop begins: give Raft's leadership away, so that nobody waits for an election."""
        self.stopping = True
        heirs = [node for node in self.supervisor.voters() if node in self.connected]
        if self.raft.role is Role.LEADER and heirs:
            self.raft.transfer_leadership(heirs[0], now)

    # --- the end of a turn ---

    def flush(self, now: float) -> None:
        """Let everything that this turn brought take effect; appends are grouped here."""
        self._now = now
        if self.halted:
            return
        self.leases.heard(self.raft.last_contact)
        for _ in range(MAX_TURN):
            self._drain_local(now)
            self.router.flush(self.connected)
            self._drain_local(now)
            self.lifecycle.flush(now)
            self._handle_ready(now)
            if (
                not self.outbox.local
                and not self.lifecycle.dirty
                and (self._unsaved is not None or not self.raft.has_ready())
            ):
                return
        raise AssertionError("a turn that does not end")

    def _drain_local(self, now: float) -> None:
        local = self.outbox.local
        while local:
            self.on_message(self.config.node_id, local.popleft(), now)

    # --- Raft ---

    def _handle_ready(self, now: float) -> None:
        """Do what Raft asks: send, persist, and what must wait for that."""
        while self._save() and self.raft.has_ready():
            self._unsaved = self.raft.ready()
            self._send_all(self._unsaved.messages)

    def _save(self) -> bool:
        """Write what Raft last gave us. On a full disk it is kept, and Raft waits for room."""
        ready = self._unsaved
        if ready is None:
            return True
        try:
            if ready.needs_persist:
                self._journal.save(ready)
        except DiskFull as error:
            if not self._no_room:
                self.outbox.log(f"Raft waits for room on the disk: {error}")
            self._no_room = True
            return False
        self._unsaved, self._no_room = None, False
        self.meta.barrier(partial(self._persisted, ready))
        return True

    def _persisted(self, ready: Ready) -> None:
        """All that a Ready says is durable here: answer, and apply what is committed.

        Applying could begin earlier, but this way whatever this node has acted upon is in its own log, which
        is how it knows after a power loss which of its copies may have been shortened.
        """
        self._journal.durable(ready)
        if ready.checkpoint is not None and ready.checkpoint.index == self._sealed_at[0]:
            # Every start begins with this checkpoint or a later one.
            self.copies.forget_notes(self._sealed_at[1])
        self._send_all(ready.messages_after)
        self.raft.persisted(ready, self._now)
        if ready.snapshot is not None:
            self._restore(ready.snapshot)
        self._apply(ready.committed, self._now)
        for context, index in ready.reads:
            self.freshness.on_confirmed(context, index)
        self.freshness.on_applied(self.applied, self._now)

    def _send_all(self, envelopes: tuple[tuple[int, m.PeerMessage], ...]) -> None:
        for to, message in envelopes:
            self.outbox.send(to, message)

    def _apply(self, entries: tuple[Entry, ...], now: float) -> None:
        """Apply committed commands, then show each topic that changed to whom it may concern."""
        changed: dict[str, int] = {}
        for entry in entries:
            assert entry.index == self.applied + 1, f"applying {entry.index} after {self.applied}"
            self.applied = entry.index
            if entry.kind != COMMAND:
                self.supervisor.dirty = True
                continue
            try:
                command = decode_command(entry.data)
            except UnknownCommand as error:
                self.halt(str(error))
                return
            if not isinstance(command, CommitCursors):  # which are many, and no reason to look at all topics
                self.supervisor.dirty = True
            topic = self.metadata.apply(command)
            if self._trace is not no_trace:
                record_applied(self._trace, self.metadata, command, topic)
            if isinstance(command, SetReplicas) and topic is not None:
                self.catch_up.on_replicas((topic, command.segment))
            if isinstance(command, Seal | RegisterTopic) and topic is not None:
                changed[topic] = entry.index
            elif topic is not None:
                changed.setdefault(topic, 0)
        if entries:
            self._after_apply(changed, now)

    def _after_apply(self, opened_at: dict[str, int], now: float) -> None:
        for topic, index in opened_at.items():
            self._topic_changed(topic, 0 < index <= self._unsure_to, now)
        self.copies.in_doubt = self.applied < self._unsure_to
        self._forget_removed()
        self.requests.look_at_watches(now)
        self._connect()
        if self.applied - self.raft.log.snapshot_index >= self.config.compact_entries:
            sealed = [key for key in self.copies.noted if self._is_sealed(key)]
            self._sealed_at = self.applied, frozenset(sealed)
            self.raft.compact(self.applied, self.metadata.snapshot())

    def _is_sealed(self, key: Key) -> bool:
        segment = self.metadata.segment(*key)
        return segment is not None and segment.count is not None

    def _forget_removed(self) -> None:
        """A node that was removed leaves nothing behind that another one under its id would meet."""
        directories = {number: node.directory_id for number, node in self.metadata.nodes.items()}
        for node, directory in self._directories.items():
            if directories.get(node) != directory:
                self.lifecycle.forget_node(node)
                self.cursors.forget_node(node)
        self._directories = directories

    def _restore(self, snapshot: Snapshot) -> None:
        """Take the whole metadata from a snapshot."""
        try:
            self.metadata.restore(snapshot.data)
        except UnknownCommand as error:
            self.halt(str(error))
            return
        if self._trace is not no_trace:
            record_restored(self._trace, self.metadata)
        unsure = self.applied < self._unsure_to
        self.applied = snapshot.index
        self.catch_up.on_snapshot()
        self.supervisor.dirty = True
        for topic in sorted(self.metadata.topics):
            self._topic_changed(topic, unsure, self._now)
        self._after_apply({}, self._now)

    def halt(self, reason: str) -> None:
        """This node must not go on."""
        self.halted = True
        self.outbox.halt(reason)

    def _topic_changed(self, topic: str, unsure: bool, now: float) -> None:
        """A topic has a new open segment, or another replica set somewhere."""
        known = self.metadata.topics[topic]
        number, segment = known.current, known.open
        if unsure and self.config.node_id in segment.replicas:
            try:
                self.copies.mark(self.copies.get((topic, number)), sure=False)
            except StorageError as error:
                self.halt(f"cannot note that a power loss may have shortened {topic}/{number}: {error}")
        self.leases.reconcile(self.metadata, topic)
        self.lifecycle.on_topic(topic, now)
        self.replica.announce(topic, number, segment)
        self.catch_up.on_topic(topic)
        self.cursors.on_topic(topic, now)
        self.router.on_topic(topic)
        self.reader.on_topic(topic, now)
        self.lifecycle.take_early(topic, now)

    def check_invariants(self) -> None:
        """Assert what must hold of this node by itself; the simulator calls it after every step."""
        self.metadata.check_invariants()
        self.leases.check_invariants(self.metadata)
        self.router.check_invariants()
        self.cursors.check_invariants()
        self.raft.check_invariants()
        self.lifecycle.check_invariants()


def _announced_at(entries: tuple[Entry, ...], directory_id: str) -> int:
    """Where the journal first holds an announcement of this directory's node; 0 if nowhere."""
    for entry in entries:
        with suppress(UnknownCommand):  # the node halts when it applies it
            command = decode_command(entry.data) if entry.kind == COMMAND else None
            if isinstance(command, Announce) and command.directory_id == directory_id:
                return entry.index
    return 0


def _last_index(entries: tuple[Entry, ...], snapshot: Snapshot | None) -> int:
    """The last log index that a journal knows."""
    if entries:
        return entries[-1].index
    return snapshot.index if snapshot else 0
