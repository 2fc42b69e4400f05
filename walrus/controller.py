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

from collections import deque
from collections.abc import Callable

import msgspec

from walrus import messages as m
from walrus import protocol
from walrus.config import Identity, NodeConfig
from walrus.copies import Copies, Key
from walrus.cursors import Cursors
from walrus.durability import Durable
from walrus.effects import Effect, Outbox, Trace, no_trace
from walrus.freshness import Freshness
from walrus.leases import LeaseTable
from walrus.raft import Raft
from walrus.raft_journal import RaftJournal
from walrus.raft_messages import COMMAND, Entry, Ready, Rng, Role, Snapshot
from walrus.reader import Reader
from walrus.reads import Reads
from walrus.recovery import Fenced, Puller, Recovery
from walrus.repair import CatchUp, Repairs
from walrus.replication import Replica, SegmentWriter
from walrus.router import Router
from walrus.segments import (
    MAX_TOPICS,
    Announce,
    Command,
    MarkLeaving,
    Metadata,
    RegisterTopic,
    Seal,
    UnknownCommand,
    decode_command,
    encode_command,
    first_leader,
    next_leader,
    replica_set,
)
from walrus.status import metrics, state
from walrus.storage.port import Storage
from walrus.supervisor import Supervisor, why_not_leave

MAX_EARLY = 1_000
"""Forwards kept for segments that this node has not heard of yet."""

MAX_WAITING = 10_000
"""Clients that may wait at once for a metadata change."""

LEAVE_PATIENCE = 12
"""LEAVE may take this many times as long as other requests: data may have to be copied."""


class Watch(msgspec.Struct):
    """A client that waits for the metadata to get somewhere; `command` is proposed until it does."""

    slot: object
    done: Callable[[], bool]
    command: Command
    deadline: float
    again_at: float
    why_not: str


class Early(msgspec.Struct):
    """A forward for a segment that this node does not know to be open yet."""

    origin: int
    forward: m.Forward
    deadline: float


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
        self._now = now
        self._trace = trace
        self._addresses = dict(addresses or {})
        self._journal = RaftJournal(self.meta)
        restored = self._journal.load()
        self._unsure_to = 0 if identity.sure else _last_index(restored.entries, restored.snapshot)
        self.raft = Raft(
            node_id=config.node_id, config=config.raft(), restored=restored, rng=rng, now=now, trace=trace
        )
        self.leases = LeaseTable(config.node_id, identity.incarnation, config.lease_ttl)
        self._wire(identity.incarnation << 32, is_open)
        self.writers: dict[str, SegmentWriter] = {}
        self.recoveries: dict[Key, Recovery] = {}
        self._seal_at: dict[Key, float] = {}
        self._dirty: dict[str, None] = {}
        self._early: dict[str, deque[Early]] = {}
        self._watches: list[Watch] = []
        self._announce_at = self._monitor_at = now
        if restored.snapshot is not None:
            self._restore(restored.snapshot)
        self.outbox.peers(self.peer_addresses())

    def _wire(self, first_request: int, is_open: Callable[[object], bool]) -> None:
        """Make the state machines and hand each what it needs, and no more."""
        config, metadata, copies, outbox, trace = (
            self.config, self.metadata, self.copies, self.outbox, self._trace,
        )  # fmt: skip
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
            trace=trace,
            connected=self.connected,
        )
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
            recover=self.recover,
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
        return self.router.busy or self.reader.busy or bool(self._watches)

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

    def next_deadline(self, now: float) -> float:
        """When `on_tick` is due at the latest."""
        active = self.busy or self.recoveries or self.catch_up.behind or self._early
        pause = self.config.heartbeat_interval / (4 if active else 1)
        return min(self.raft.next_deadline(), now + pause)

    def peer_addresses(self) -> dict[int, str]:
        """Where the other nodes are, as far as this one knows."""
        known = {n: node.raft_address for n, node in self.metadata.nodes.items()}
        known = known or dict(self._addresses)
        known.pop(self.config.node_id, None)
        return dict(sorted(known.items()))

    def judge_hello(self, hello: m.Hello) -> str:
        """Why a node that dials us is refused; "" if it is welcome."""
        if hello.cluster_id != self.identity.cluster_id:
            return f"another cluster: this is {self.identity.cluster_id}, not {hello.cluster_id}"
        if hello.target != self.config.node_id:
            return f"this is node {self.config.node_id}, not {hello.target}"
        node = self.metadata.nodes.get(hello.node_id)
        if node is None:
            known = self.metadata.nodes and hello.node_id not in self.raft.membership.members
            return f"node {hello.node_id} is not (yet, or any more) a member" if known else ""
        if node.directory_id != hello.directory_id:
            return self.other_directory(hello.node_id)
        return ""

    def other_directory(self, node_id: int) -> str:
        """What to tell a node that comes back under a known id with another data directory."""
        return (
            f"node {node_id} is known with another data directory: bring that one back, or remove the member "
            f"with LEAVE {node_id} and start this node again"
        )

    # --- clients ---

    def on_request(self, slot: object, request: protocol.Request, now: float) -> None:
        """A request of a client. `request.replies` replies will be given to `slot`."""
        match request:
            case protocol.Put(topic=topic, batch=batch):
                if topic in self.metadata.topics:
                    self.router.put(slot, topic, batch, now)
                else:
                    self._when_known(slot, request, now)
            case protocol.Get(topic=topic):
                if topic in self.metadata.topics:
                    self.reader.get(slot, request, now)
                else:
                    self._when_known(slot, request, now)
            case protocol.Fetch():
                if self.metadata.segment(request.topic, request.segment):
                    self.reader.fetch(slot, request, now)
                else:
                    self._when_known(slot, request, now)
            case protocol.State(topic=topic):
                if topic in self.metadata.topics:
                    self.outbox.reply(slot, protocol.json_reply(state(self, topic)))
                else:
                    self._when_known(slot, request, now)
            case protocol.Metrics():
                self.outbox.reply(slot, protocol.json_reply(metrics(self, now)))
            case protocol.Register(topic=topic):
                self._register(slot, topic, now)
            case protocol.Leave(node_id=node_id):
                self._leave(slot, node_id, now)
            case protocol.Recover(topic=topic, segment=segment):
                self._force(slot, topic, segment, now)
            case protocol.Invalid(reason=reason):
                self.outbox.reply(slot, protocol.error(reason))

    def _when_known(self, slot: object, request: protocol.Request, now: float) -> None:
        """Look again with fresh metadata before saying that there is no such topic or segment."""

        def again(fresh: bool, at: float) -> None:
            assert isinstance(request, protocol.Put | protocol.Get | protocol.Fetch | protocol.State)
            if not fresh:
                error = protocol.no_leader("this node reaches no majority, nothing was done; ask another")
            elif request.topic not in self.metadata.topics:
                error = protocol.unknown_topic(request.topic)
            elif isinstance(request, protocol.Fetch) and not self.metadata.segment(
                request.topic, request.segment
            ):
                error = protocol.unknown_segment(request.topic, request.segment)
            else:
                self.on_request(slot, request, at)
                return
            self.outbox.reply(slot, protocol.error(error) * request.replies, request.replies)

        self.freshness.ask(again, now)

    def _register(self, slot: object, topic: str, now: float) -> None:
        if topic in self.metadata.topics:
            self.outbox.reply(slot, protocol.OK)
            return
        if len(self.metadata.topics) >= MAX_TOPICS:
            self.outbox.reply(slot, protocol.error(f"too many topics: there are {MAX_TOPICS} already"))
            return
        live = self._placeable()
        if not live:
            live = [self.config.node_id]
        leader = first_leader(topic, live)
        command = RegisterTopic(
            topic=topic,
            leader=leader,
            replicas=replica_set(leader, live, self.supervisor.voters(), self.config.replication_factor),
        )
        why_not = protocol.no_leader("no majority agreed to the topic in time; try again")
        self._watch(slot, lambda: topic in self.metadata.topics, command, why_not, now)

    def _leave(self, slot: object, node_id: int, now: float) -> None:
        node = self.metadata.nodes.get(node_id)
        if node is None:
            self.outbox.reply(slot, protocol.error(protocol.unknown_node(node_id)))
            return
        reachable = {*self.connected, self.config.node_id}
        why_not = why_not_leave(node_id, self.metadata, self.raft.membership.voters, reachable)
        if why_not and not node.leaving:
            self.outbox.reply(slot, protocol.error(protocol.cannot_leave(why_not)))
            return
        still = protocol.cannot_leave(f"node {node_id} is being removed but not gone yet; ask again")
        patience = LEAVE_PATIENCE * self.config.request_timeout
        self._watch(
            slot,
            lambda: node_id not in self.metadata.nodes,
            MarkLeaving(node_id=node_id),
            still,
            now,
            patience,
        )

    def _force(self, slot: object, topic: str, segment: int, now: float) -> None:
        leader = self.raft.leader_id
        known = self.metadata.segment(topic, segment)
        if known is None:
            self.outbox.reply(slot, protocol.error(protocol.unknown_segment(topic, segment)))
        elif known.count is not None:
            self.outbox.reply(slot, protocol.OK)
        elif leader is None:
            self.outbox.reply(slot, protocol.error(protocol.no_leader("nobody can recover now; try again")))
        else:
            self.outbox.send(leader, m.Recover(topic=topic, segment=segment))
            self.outbox.reply(slot, protocol.OK)

    def _watch(
        self,
        slot: object,
        done: Callable[[], bool],
        command: Command,
        why_not: str,
        now: float,
        patience: float | None = None,
    ) -> None:
        """Propose until the metadata says `done`, then answer OK; at the deadline answer with an error."""
        if len(self._watches) >= MAX_WAITING:
            self.outbox.reply(slot, protocol.error(protocol.BUSY))
            return
        deadline = now + (patience or self.config.request_timeout)
        watch = Watch(slot, done, command, deadline, now + self.config.resend_interval, why_not)
        self._watches.append(watch)
        self.propose(command, now)

    def _look_at_watches(self, now: float) -> None:
        left = []
        for watch in self._watches:
            if watch.done():
                self.outbox.reply(watch.slot, protocol.OK)
            elif watch.deadline <= now:
                self.outbox.reply(watch.slot, protocol.error(watch.why_not))
            else:
                left.append(watch)
                if watch.again_at <= now:
                    watch.again_at = now + self.config.resend_interval
                    self.propose(watch.command, now)
        self._watches = left

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
        error = ""
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
        elif node.leaving:
            error = f"node {join.node_id} is being removed: wait until it is gone, then start it again"
        return m.JoinReply(
            done=not error,
            error=error,
            cluster_id=self.identity.cluster_id if not error else "",
            addresses={} if error else {n: peer.raft_address for n, peer in self.metadata.nodes.items()},
        )

    # --- peers ---

    def on_message(self, sender: int, message: m.PeerMessage, now: float) -> None:
        """A message from another node, or from ourselves."""
        match message:
            case m.Append():
                self.replica.on_append(sender, message)
            case m.AppendReply():
                self._with_writer(message.topic, message.segment, lambda w: w.on_reply(sender, message, now))
            case m.Forward():
                self._on_forward(sender, message, now)
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
            case m.FenceReply():
                recovery = self.recoveries.get((message.topic, message.segment))
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
                self._with_writer(message.topic, message.segment, lambda writer: writer.begin_seal())
            case m.Hello() | m.HelloReply() | m.Join() | m.JoinReply():
                pass  # the shell's handshake; on an established connection they mean nothing
            case _:
                self.raft.step(sender, message, now)

    def _with_writer(self, topic: str, segment: int, then: Callable[[SegmentWriter], None]) -> None:
        writer = self.writers.get(topic)
        if writer is not None and writer.number == segment:
            then(writer)
            self._dirty[topic] = None

    def _on_forward(self, origin: int, forward: m.Forward, now: float) -> None:
        writer = self.writers.get(forward.topic)
        current, _ = self.metadata.open_segment(forward.topic) or (0, None)
        if writer is not None and writer.number == forward.segment:
            writer.on_forward(origin, forward, now)
            self._dirty[forward.topic] = None
        elif current < forward.segment:
            early = self._early.setdefault(forward.topic, deque())
            if len(early) < MAX_EARLY:
                early.append(Early(origin, forward, now + self.config.put_timeout))
        else:
            self.outbox.send(
                origin,
                m.ForwardReply(
                    request=forward.request,
                    topic=forward.topic,
                    segment=forward.segment,
                    taken=0,
                    acked=0,
                    refused=True,
                    error="",
                ),
            )

    def _on_copy_reply(self, sender: int, reply: m.CopyReply, now: float) -> None:
        recovery = self.recoveries.get((reply.topic, reply.segment))
        if recovery:
            recovery.on_copy_reply(sender, reply, now)
        self.repairs.on_copy_reply(sender, reply, now)

    def _on_recover(self, message: m.Recover, now: float) -> None:
        recovery = self.recoveries.get((message.topic, message.segment))
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
        for topic, writer in self.writers.items():
            writer.on_connection(peer, connected=True, now=now)
            self._dirty[topic] = None
        self.router.on_connection(peer, connected=True)
        self.reader.on_connection(peer, connected=True, now=now)

    def on_disconnected(self, peer: int, refused: bool, now: float) -> None:
        """Messages do not reach `peer` any more; `refused`: its process is certainly gone."""
        self.connected.discard(peer)
        self.supervisor.on_connection(peer, connected=False, refused=refused)
        if refused:
            self.raft.leader_unreachable(peer, now)
        for writer in self.writers.values():
            writer.on_connection(peer, connected=False, now=now)
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
        self.router.on_tick(now)
        self.reader.on_tick(now)
        self.reads.on_tick(now)
        self.cursors.on_tick(now)
        self.freshness.on_tick(now)
        self.catch_up.on_tick(now, self.connected)
        self.supervisor.on_tick(now)
        for topic, writer in self.writers.items():
            writer.on_tick(now)
            self._dirty[topic] = None
        for recovery in self.recoveries.values():
            recovery.on_tick(now)
        self._expire_early(now)
        self._look_at_watches(now)
        self._announce_self(now)
        self._commit_cursors(now)
        self._monitor(now)

    def _expire_early(self, now: float) -> None:
        for topic in [t for t, early in self._early.items() if early[0].deadline <= now]:
            del self._early[topic]  # their origins answer "unknown" at their own deadlines

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

    def _monitor(self, now: float) -> None:
        """The periodic look at thresholds: an idle segment may have outgrown a limit that was lowered."""
        if now >= self._monitor_at:
            self._monitor_at = now + self.config.monitor_check
            for writer in self.writers.values():
                writer.check_threshold()

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
        for _ in range(1_000):
            self._drain_local(now)
            self.router.flush(self.connected)
            self._drain_local(now)
            self._flush_writers(now)
            self._handle_ready(now)
            if not self.outbox.local and not self._dirty and not self.raft.has_ready():
                return
        raise AssertionError("a turn that does not end")

    def _drain_local(self, now: float) -> None:
        local = self.outbox.local
        while local:
            self.on_message(self.config.node_id, local.popleft(), now)

    def _flush_writers(self, now: float) -> None:
        dirty, self._dirty = self._dirty, {}
        for topic in dirty:
            writer = self.writers.get(topic)
            if writer is None:
                continue
            writer.flush(now)
            if writer.copy.fenced:
                self.recover(topic, writer.number, now)  # somebody began and may have died over it
            elif writer.sealing:
                self._seal(writer, now)

    def _seal(self, writer: SegmentWriter, now: float) -> None:
        """Propose the end of a segment whose writer is done, and the next one at the next leader."""
        key = (writer.topic, writer.number)
        if now < self._seal_at.get(key, now) or not writer.all_acknowledged:
            return
        cursors = self.cursors.freeze(writer.topic)
        live = self._placeable()
        if cursors is None or not live:
            return
        count, checksum = writer.ready_to_seal()
        self._seal_at[key] = now + self.config.resend_interval
        leader = next_leader(self.config.node_id, live)
        self.propose(
            Seal(
                topic=writer.topic,
                segment=writer.number,
                count=count,
                checksum=checksum,
                leader=leader,
                replicas=replica_set(leader, live, self.supervisor.voters(), self.config.replication_factor),
                cursors=cursors,
            ),
            now,
        )

    def _placeable(self) -> list[int]:
        """The nodes that a new segment may be given to: voters that this node reaches, sorted."""
        reachable = {*self.connected, self.config.node_id}
        return [node for node in self.supervisor.voters() if node in reachable]

    # --- recovery ---

    def recover(self, topic: str, number: int, now: float) -> None:
        """Begin to recover a segment, or go on: propose its end once a majority holds what was found."""
        key = (topic, number)
        segment = self.metadata.segment(topic, number)
        if segment is None or segment.count is not None:
            return
        recovery = self.recoveries.get(key)
        if recovery is None:
            self.outbox.log(f"recovering segment {number} of {topic} from node {segment.leader}")
            recovery = self.recoveries[key] = Recovery(
                key, segment, config=self.config, outbox=self.outbox, trace=self._trace, now=now
            )
        live = self._placeable()
        if recovery.found is None or not live or now < self._seal_at.get(key, now):
            return
        self._seal_at[key] = now + self.config.resend_interval
        leader = next_leader(segment.leader, [node for node in live if node != segment.leader] or live)
        self.propose(
            Seal(
                topic=topic,
                segment=number,
                count=recovery.found.count,
                checksum=recovery.found.checksum,
                leader=leader,
                replicas=replica_set(leader, live, self.supervisor.voters(), self.config.replication_factor),
                cursors={},
                recovered=True,
            ),
            now,
        )

    # --- Raft ---

    def _handle_ready(self, now: float) -> None:
        """Do what Raft asks: send, persist, send what waited for that, apply."""
        for key in list(self.recoveries):
            self.recover(*key, now)
        while self.raft.has_ready():
            ready = self.raft.ready()
            self._send_all(ready.messages)
            if ready.snapshot is not None:
                self._restore(ready.snapshot)
            if ready.needs_persist:
                self._journal.save(ready)
            self.meta.barrier(lambda done=ready: self._persisted(done))
            self._apply(ready.committed, now)
            for context, index in ready.reads:
                self.freshness.on_confirmed(context, index)
            self.freshness.on_applied(self.applied, now)

    def _persisted(self, ready: Ready) -> None:
        self._send_all(ready.messages_after)
        self.raft.persisted(ready, self._now)

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
                continue
            try:
                command = decode_command(entry.data)
            except UnknownCommand as error:
                self.halt(str(error))
                return
            topic = self.metadata.apply(command)
            if isinstance(command, Seal | RegisterTopic) and topic is not None:
                changed[topic] = entry.index
            elif topic is not None:
                changed.setdefault(topic, 0)
        if entries:
            self._after_apply(changed, now)

    def _after_apply(self, opened_at: dict[str, int], now: float) -> None:
        for topic, index in opened_at.items():
            self._topic_changed(topic, 0 < index <= self._unsure_to, now)
        self.supervisor.dirty = True
        self._look_at_watches(now)
        addresses = self.peer_addresses()
        if addresses != self._addresses:
            self._addresses = addresses
            self.outbox.peers(addresses)
        if self.applied - self.raft.log.snapshot_index >= self.config.compact_entries:
            self.raft.compact(self.applied, self.metadata.snapshot())

    def _restore(self, snapshot: Snapshot) -> None:
        """Take the whole metadata from a snapshot."""
        try:
            self.metadata.restore(snapshot.data)
        except UnknownCommand as error:
            self.halt(str(error))
            return
        unsure = self.applied < self._unsure_to
        self.applied = snapshot.index
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
            self.copies.mark(self.copies.get((topic, number)), sure=False)
        self.leases.reconcile(self.metadata, topic)
        for key in [key for key in self.recoveries if key[0] == topic and key[1] < number]:
            del self.recoveries[key]
        for key in [key for key in self._seal_at if key[0] == topic and key[1] < number]:
            del self._seal_at[key]
        self._change_writer(topic, number, now)
        self.replica.announce(topic, number, segment)
        self.catch_up.on_topic(topic)
        self.cursors.on_topic(topic, now)
        self.router.on_topic(topic)
        self.reader.on_topic(topic, now)
        for early in self._early.pop(topic, ()):
            self._on_forward(early.origin, early.forward, now)

    def _change_writer(self, topic: str, number: int, now: float) -> None:
        """Close the writer of a sealed segment; open one for the segment that we now lead."""
        writer = self.writers.get(topic)
        if writer is not None and writer.number != number:
            writer.close()
            del self.writers[topic]
        if self.leases.granted().get(topic) != number or topic in self.writers:
            return
        copy, segment = self.copies.get((topic, number)), self.metadata.topics[topic].open
        if copy.length or copy.fenced:
            self.recover(topic, number, now)  # somebody began to recover it before we knew that it is ours
            return
        self._trace("Grant", topic=topic, segment=number)
        self.writers[topic] = SegmentWriter(
            topic,
            number,
            segment,
            config=self.config,
            copies=self.copies,
            leases=self.leases,
            outbox=self.outbox,
            connected=self.connected,
            now=now,
            trace=self._trace,
        )
        self._dirty[topic] = None

    def check_invariants(self) -> None:
        """Assert what must hold of this node by itself; the simulator calls it after every step."""
        self.metadata.check_invariants()
        self.leases.check_invariants(self.metadata)
        self.router.check_invariants()
        self.cursors.check_invariants()
        self.raft.check_invariants()
        for topic, writer in self.writers.items():
            writer.check_invariants()
            assert writer.segment.leader == self.config.node_id, "SingleWriter"
            assert writer.number == self.metadata.topics[topic].current
        for recovery in self.recoveries.values():
            recovery.check_invariants()


def _last_index(entries: tuple[Entry, ...], snapshot: Snapshot | None) -> int:
    """The last log index that a journal knows."""
    if entries:
        return entries[-1].index
    return snapshot.index if snapshot else 0
