"""Membership of nodes: which callers belong to this cluster, where its members are, and how one joins.

Raft's membership (`consensus/messages.py`) says which ids vote. This module is about the nodes behind the
ids: a member is an id *and* a data directory, and both are in the metadata (`Announce`) before Raft's
membership changes. A node and the members interact in three ways:

    Join      a node with an empty directory asks any member until that one has applied its Announce
              (incarnation 0); the Raft leader then adds it to Raft as a learner, and drops it again if it
              does not start (`supervisor.py`): anything that reaches the port can send a Join
    Announce  each start of a member announces its incarnation, its addresses, and the highest version of
              commands that it knows (`commands.py`), once a leader is known; a node leads nothing before
              that, for a segment names the incarnation that leads it
    Hello     opens every connection (`handshake.py`): the callee judges whether the caller is the member
              that it claims to be

**What a refusal proves.** A member may have applied less of the log than its caller has, so "unknown here"
proves nothing. A Hello therefore carries an index at which the caller was certainly a member (`member_at`):
a callee that has applied the log up to there and does not know the caller has also applied its removal.
Only that is a final refusal. A claim about a part of the log that the callee has not applied admits no
caller while the callee hears from a leader, for anything may be claimed. A Join proves nothing: a LEAVE
that this node has not applied may have freed the id, although the node hears from the leader, as after a
restart. So a Join under a known id from another directory is refused for good only if a ReadIndex requested
since it arrived confirms that; until then it is retried.

**Addresses.** A restarted node gets the metadata back entry by entry, and the first member that it learns of
may be dead. So the remembered addresses of Raft's members count until the metadata has newer ones, and the
address that a caller states counts until the metadata knows that start of it.

**Removal.** A removed node may never receive the entry that removes it, for the others commit it without
that node. They close its connection and refuse the next one as final; the node then answers the clients
that asked for its LEAVE, and stops.

Invariants: a known id with another directory is never welcome; only a caller that was a member by an index
applied here is told that it was removed.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from walrus import commands
from walrus.broker.handshake import OLDEST, VERSION, join_refused
from walrus.broker.raft_host import RaftHost
from walrus.broker.read_index import Then
from walrus.config import Identity, NodeConfig
from walrus.consensus.messages import Role
from walrus.segments import MAX_JOINING, Announce, Member, start_number
from walrus.wire.effects import Outbox
from walrus.wire.messages import ANY_NODE, Hello, Join, JoinReply

TELL_AFTER, TELL_AGAIN = 3.0, 30.0
"""Seconds: a node that is not ready says why after so long, and again if nothing changes."""

ANNOUNCE_AGAIN = 30.0
"""Seconds after which a node announces once more what the Raft leader may have left out: the last proposal
may have been lost."""

MAX_CALLERS = 64
"""Callers whose own word about their address is remembered, and directories that ask under a known id: the
latest ones."""


class Members:
    """This node's view of which nodes belong to its cluster. Inputs: handshakes, applied metadata."""

    def __init__(
        self,
        *,
        config: NodeConfig,
        identity: Identity,
        raft_host: RaftHost,
        addresses: dict[int, str],
        outbox: Outbox,
        now: float,
    ) -> None:
        self.identity = identity
        self._config, self._host, self._outbox = config, raft_host, outbox
        self._raft, self._metadata = raft_host.raft, raft_host.metadata
        self._addresses = dict(addresses)
        self._doubted: dict[str, bool] = {}  # directories under a known id; whether a ReadIndex agrees
        self._checking = False
        self._callers: dict[int, Hello] = {}  # whose present start the metadata does not know yet
        self._directories: dict[int, str] = {}  # of each member at the last look, to notice removals
        self._announce_at = now
        self._announced = (-1, now)  # the term in which this start was announced last, and when
        self._took_part = False  # whether this start was ever ready
        self._refusals: dict[int, str] = {}  # by peer, those that may change
        self.wire_versions: dict[int, int] = {}
        """By peer: in which version this node speaks with it, or did last."""
        self._told: tuple[str, float] = ("", now)  # why it was not ready, as logged, and when

    def _is_member(self, node_id: int, directory_id: str) -> bool:
        node = self._metadata.nodes.get(node_id)
        return node is not None and node.directory_id == directory_id

    @property
    def _me(self) -> Member | None:
        return self._metadata.nodes.get(self._config.node_id)

    def incarnation(self, node_id: int) -> int | None:
        """Return which start of a node runs now, as far as this node knows; None for an unknown node.

        A node's own word counts before the metadata, which learns of a start only once there is a leader.
        """
        if node_id == self._config.node_id:
            return self.identity.incarnation
        if (hello := self._callers.get(node_id)) is not None and self._is_news(hello):
            return hello.incarnation
        node = self._metadata.nodes.get(node_id)
        return None if node is None else node.incarnation

    def voters(self) -> list[int]:
        """Return the nodes that may lead and hold segments, sorted."""
        nodes = self._metadata.nodes
        return [n for n in self._raft.membership.voters if n in nodes and not nodes[n].leaving]

    @property
    def ready(self) -> bool:
        """Whether this node is a voter, knows a leader, and is known with its present start."""
        me = self._me
        return (
            self._config.node_id in self._raft.membership.voters
            and self._raft.leader_id is not None
            and me is not None
            and me.incarnation == self.identity.incarnation
        )

    def why_not_ready(self) -> str:
        """Return what is missing; "" if nothing is."""
        if self.ready:
            return ""
        me = self._me
        if self._raft.leader_id is None:
            why = "it knows no Raft leader"
        elif me is None or me.incarnation != self.identity.incarnation:
            why = f"Raft's leader, node {self._raft.leader_id}, has not confirmed this start yet"
        else:
            why = "it catches up with Raft's log and is no voter yet"
        refusals = [f"node {peer} refuses it: {error}" for peer, error in sorted(self._refusals.items())]
        return "; ".join([why, *refusals])

    def _tell(self, now: float) -> None:
        """Log why this node is not ready: once that has lasted a while, when it changes, and now and then."""
        why, (told, at) = self.why_not_ready(), self._told
        if not why or now - at < (TELL_AFTER if why != told else TELL_AGAIN):
            if not why:
                self._told = "", now
            return
        self._told = why, now
        self._outbox.log(f"this node is not ready: {why}")

    @property
    def member_at(self) -> int:
        """An index of Raft's log at which this node's directory was a member's; 0 if it knows of none."""
        if self._metadata.whole and self._is_member(self._config.node_id, self.identity.directory_id):
            return self._host.applied
        return max(self._host.announced_at, self.identity.member_at)

    # --- Hello ---

    def judge_hello(self, hello: Hello, now: float) -> str:
        """Return why a caller is refused; "" if it is welcome."""
        if hello.cluster_id != self.identity.cluster_id:
            # Its own id is what a member is known by: it is not told to strangers.
            return f"another cluster: this node does not belong to {hello.cluster_id!r}"
        if hello.target not in (self._config.node_id, ANY_NODE):
            return f"this is node {self._config.node_id}, not {hello.target}"
        if error := self._older(hello):
            return error
        flaw = self._flaw(hello)
        if flaw and hello.member_at > self._host.applied:
            # It says that the log makes it a member further on. While this node hears a leader it learns that
            # from the leader, and the caller comes again. If it hears none, the caller may be the leader.
            hears_leader = now - self._raft.last_contact < self._config.election_timeout
            return f"node {hello.node_id} is not known here yet as it calls itself" if hears_leader else ""
        return flaw

    def _flaw(self, hello: Hello) -> str:
        """What the metadata, as far as it is applied here, has against the caller; "" if nothing."""
        node = self._metadata.nodes.get(hello.node_id)
        if self.is_removed(hello) and node is None:
            return (
                f"node {hello.node_id} was removed from the cluster; to join anew, start it with an empty "
                f"--data-dir"
            )
        if node is None:
            known = self._metadata.nodes and hello.node_id not in self._raft.membership.members
            return f"node {hello.node_id} is not (yet, or any more) a member" if known else ""
        return other_directory(hello.node_id) if node.directory_id != hello.directory_id else ""

    def _older(self, hello: Hello) -> str:
        """What proves that a member's directory is older than one it has run on already; "" if nothing does.

        A start that the cluster knows cannot be followed by one with the same number or a smaller one. And
        the Raft leader knows how much of the committed log the member has acknowledged, which is never cut
        off.
        """
        node = self._metadata.nodes.get(hello.node_id)
        if node is None or node.directory_id != hello.directory_id:
            return ""
        if node.outdates(hello.incarnation):
            known = f"has started {start_number(node.incarnation)} times and"
            mine = f"this would be start {start_number(hello.incarnation)}"
            return older_directory(hello.node_id, f"{known} {mine}")
        progress = self._raft.progress.get(hello.node_id) if self._raft.role is Role.LEADER else None
        if progress is None or hello.log_index < 0:
            return ""
        acknowledged = min(progress.match_index, self._raft.commit_index)
        if hello.log_index < acknowledged:
            lost = f"has acknowledged the log up to {acknowledged} and now ends at {hello.log_index}"
            return older_directory(hello.node_id, lost)
        return ""

    def is_final(self, hello: Hello) -> bool:
        """Whether the refusal of a caller will stand for ever."""
        return self.is_removed(hello) or (
            hello.cluster_id == self.identity.cluster_id and bool(self._older(hello))
        )

    def is_removed(self, hello: Hello) -> bool:
        """Whether the caller was a member and has been removed, which no later entry of the log undoes."""
        return (
            hello.cluster_id == self.identity.cluster_id
            and 0 < hello.member_at <= self._host.applied
            and not self._is_member(hello.node_id, hello.directory_id)
        )

    def hello(self, target: int) -> Hello:
        """Return this node's introduction to a peer, or to `ANY_NODE`."""
        return Hello(
            version=OLDEST,
            newest=VERSION if VERSION > OLDEST else 0,
            cluster_id=self.identity.cluster_id,
            node_id=self._config.node_id,
            directory_id=self.identity.directory_id,
            incarnation=self.identity.incarnation,
            target=target,
            member_at=self.member_at,
            raft_address=self._config.raft_address,
            # An introduction runs beside the connection of its node, which may acknowledge more meanwhile.
            log_index=-1 if target == ANY_NODE else self._raft.log.last_index,
        )

    def on_caller(self, hello: Hello) -> None:
        """A caller was welcomed: the address it gave counts until the metadata knows of that start.

        A leader that joined or moved while this node was away has an address that this node cannot know, and
        must be answered nevertheless.
        """
        self._callers.pop(hello.node_id, None)
        self._callers[hello.node_id] = hello
        if len(self._callers) > MAX_CALLERS:
            del self._callers[next(iter(self._callers))]
        self.connect()

    def _is_news(self, hello: Hello) -> bool:
        """Whether the caller's own word about its address still counts for more than the metadata's."""
        node = self._metadata.nodes.get(hello.node_id)
        known = node is not None and node.directory_id == hello.directory_id
        later = node is not None and start_number(node.incarnation) < start_number(hello.incarnation)
        may_be_member = hello.member_at > self._host.applied or not self._flaw(hello)
        return bool(hello.raft_address) and may_be_member and (later or not known)

    def on_refused(self, peer: int, error: str) -> None:
        """A peer refuses this node, perhaps not for ever: part of why it is not ready."""
        self._refusals[peer] = error

    def on_connected(self, peer: int, version: int) -> None:
        """A peer accepts this node, and speaks that version of the messages between nodes with it."""
        self._refusals.pop(peer, None)
        self.wire_versions[peer] = version

    def on_final_refusal(self, peer: int, error: str, *, removed: bool) -> None:
        """A peer will never accept this node again: stop, for good.

        A node that took part until it was removed has left as it was asked to: exit status 0, and no
        supervisor starts it again. A node that was removed while it was away has an operator who does not
        know it yet: 1.
        """
        left = removed and self._took_part
        why = "this node was removed from the cluster" if removed else "this node cannot be a member any more"
        self._outbox.halt(f"{why}; node {peer} says: {error}", exit_status=0 if left else 1)

    # --- addresses ---

    def addresses(self) -> dict[int, str]:
        """Return where the other nodes are (node id -> host:port), as far as this one knows."""
        members = self._raft.membership.members
        known = {n: place for n, place in self._addresses.items() if not members or n in members}
        known |= {n: node.raft_address for n, node in self._metadata.nodes.items()}
        known |= {n: hello.raft_address for n, hello in self._callers.items()}
        known.pop(self._config.node_id, None)
        return dict(sorted(known.items()))

    def all_addresses(self) -> dict[int, str]:
        """As `addresses`, and where this node is: it may not have applied its own Announce yet."""
        return {**self.addresses(), self._config.node_id: self._config.raft_address}

    def connect(self, *, first: bool = False) -> None:
        """Ask the shell for the connections that are wanted now, if they changed (or for the first time)."""
        self._callers = {n: hello for n, hello in self._callers.items() if self._is_news(hello)}
        addresses = self.addresses()
        if first or addresses != self._addresses:
            self._addresses = addresses
            self._outbox.peers(addresses)

    # --- Join and Announce ---

    def on_join(self, join: Join, read_index: Callable[[Then, float], None], now: float) -> JoinReply:
        """A node asks to be taken in. It is answered at once, and asks again until `done`."""
        node = self._metadata.nodes.get(join.node_id)
        if node is None:
            if join.node_id in self._raft.membership.members:
                return join_refused(other_directory(join.node_id))
            if self._metadata.joining() >= MAX_JOINING:
                return join_refused(f"{MAX_JOINING} nodes are joining already: wait until they have started")
            self._host.propose(
                Announce(
                    node_id=join.node_id,
                    directory_id=join.directory_id,
                    incarnation=0,
                    raft_address=join.raft_address,
                    client_address=join.client_address,
                ),
                now,
            )
            return join_refused("not taken in yet: the cluster has no leader, or is deciding")
        if node.directory_id != join.directory_id:
            if not node.incarnation:
                return join_refused(
                    f"node {join.node_id} has been taken in with another data directory and has not started: "
                    "it is dropped if it does not"
                )
            return join_refused(other_directory(join.node_id), final=self._for_good(join, read_index, now))
        if node.leaving:
            why = f"node {join.node_id} is being removed: wait until it is gone, then start it again"
            return join_refused(why)
        if not self._metadata.whole:  # it may be a member since an index that is beyond `applied`
            return join_refused("not known yet: this node is taking over a snapshot")
        return JoinReply(
            done=True,
            error="",
            cluster_id=self.identity.cluster_id,
            addresses=self.all_addresses(),
            member_at=self._host.applied,
        )

    def _for_good(self, join: Join, read_index: Callable[[Then, float], None], now: float) -> bool:
        """Whether the metadata is known to be newer than the first Join of that directory."""
        if self._doubted.get(join.directory_id):
            del self._doubted[join.directory_id]  # proves nothing about the next time that it asks
            return True
        self._doubted.setdefault(join.directory_id, False)
        if len(self._doubted) > MAX_CALLERS:
            del self._doubted[next(iter(self._doubted))]
        if not self._checking:
            self._checking = True
            read_index(partial(self._checked, tuple(self._doubted)), now)
        return False

    def _checked(self, directories: tuple[str, ...], fresh: bool, now: float) -> None:
        self._checking = False
        if fresh:
            self._doubted.update((one, True) for one in directories if one in self._doubted)

    def on_tick(self, now: float) -> None:
        """Announce this start until the metadata knows it."""
        self._took_part |= self.ready
        self._tell(now)
        if now < self._announce_at or self._raft.leader_id is None:
            return
        self._announce_at = now + self._config.resend_interval
        if self._is_unknown(now):
            self._announced = self._raft.current_term, now
            self._host.propose(
                Announce(
                    node_id=self._config.node_id,
                    directory_id=self.identity.directory_id,
                    incarnation=self.identity.incarnation,
                    raft_address=self._config.raft_address,
                    client_address=self._config.client_address,
                    knows=commands.VERSION,
                ),
                now,
            )

    def _is_unknown(self, now: float) -> bool:
        """Whether this start is to be announced: first, or since what it knows is not in the metadata.

        A Raft leader of an earlier release leaves that out of what it proposes. The next one may be of this
        release, so it is asked, too: at once, and then now and then, for no answer tells the two apart from
        a proposal that was lost.
        """
        me, mine = self._me, self.identity
        if me is None or start_number(me.incarnation) < start_number(mine.incarnation):
            return True
        left_out = me.incarnation == mine.incarnation and me.knows != commands.VERSION
        term, at = self._announced
        return left_out and (self._raft.current_term != term or now - at >= ANNOUNCE_AGAIN)

    def on_applied(self) -> list[int]:
        """The metadata changed. Return the nodes that have been removed since the last time.

        The caller forgets what it keeps by node id: another node may join under the same one.
        """
        directories = {number: node.directory_id for number, node in self._metadata.nodes.items()}
        removed = [n for n, directory in self._directories.items() if directories.get(n) != directory]
        self._directories = directories
        me, mine = self._me, self.identity
        if me is not None and me.directory_id == mine.directory_id and me.outdates(mine.incarnation):
            proof = f"has started {start_number(me.incarnation)} times already, and not as this process"
            self._outbox.halt(older_directory(self._config.node_id, proof))
        self.connect()
        return removed


def other_directory(node_id: int) -> str:
    """Return what a node is told that comes back under a known id with another data directory."""
    return (
        f"node {node_id} is known with another data directory: bring that one back, or remove the member "
        f"with LEAVE {node_id} and start this node again"
    )


def older_directory(node_id: int, proof: str) -> str:
    """Return what a node is told whose data directory is older than what it has run on."""
    return (
        f"node {node_id} {proof}: its data directory is a copy, or was restored from an older backup. Bring "
        f"back the latest one, or LEAVE {node_id} on another node and start this one with an empty --data-dir"
    )
