"""Hypothesis plays Raft: the rules are the specification's actions, the invariants its invariants.

Nothing moves by itself: each message is delivered, lost or doubled, each disk synced, each server crashed
(losing what was not synced, but for a prefix) because a rule says so.
"""

from __future__ import annotations

from typing import ClassVar

from hypothesis import note, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.consensus.world import RaftWorld
from walrus.consensus.messages import Membership, RaftConfig, Role

CONFIG = RaftConfig(
    heartbeat_interval=0.1,
    election_timeout=1.0,
    max_append_bytes=70,
    max_inflight_bytes=200,
    snapshot_chunk_bytes=20,
)
MAX_PACKETS = 60

pick = st.integers(min_value=0, max_value=1_000)


class RaftMachine(RuleBasedStateMachine):
    """`size` voters and one server more that may join."""

    size: ClassVar[int] = 3

    def __init__(self) -> None:
        super().__init__()
        self.world = RaftWorld(config=CONFIG)
        self.world.auto_sync = False
        self.commands = 0
        self.asked: dict[int, int] = {}
        """For each read: the highest index known to be committed when it was asked."""

    def server(self, number: int) -> int:
        """One of the servers."""
        servers = sorted(self.world.hosts)
        return servers[number % len(servers)]

    def leaders(self) -> list[int]:
        return [i for i, host in sorted(self.world.hosts.items()) if host.raft.role is Role.LEADER]

    @initialize()
    def found(self) -> None:
        self.world.found(range(1, self.size + 1), passive=[self.size + 1])

    # ----------------------------------------------------------------------------------- elections

    @rule(number=pick)
    def timeout(self, number: int) -> None:
        """Timeout: a server's deadline passes (an election for a follower, heartbeats for a leader)."""
        if self.world.raft(self.server(number)).next_deadline() < float("inf"):
            self.world.time_out(self.server(number))

    @rule(number=pick)
    def become_leader(self, number: int) -> None:
        """Timeout, RequestVote, BecomeLeader in one go, if the others let it: so that runs get deep."""
        server = self.server(number)
        if self.world.raft(server).role is not Role.FOLLOWER:
            return
        self.world.time_out(server)
        for _ in range(40):
            self.world.hosts[server].sync()
            kinds = ("PreVoteRequest", "PreVoteResponse", "RequestVoteRequest", "RequestVoteResponse")
            votes = [
                i
                for i, packet in enumerate(self.world.packets)
                if type(packet.message).__name__ in kinds and server in (packet.sender, packet.to)
            ]
            if not votes or self.world.raft(server).role is Role.LEADER:
                break
            packet = self.world.receive(votes[-1])
            self.world.hosts[packet.to].sync() if packet.to in self.world.hosts else None

    @rule(number=pick, peer=pick)
    def accuse(self, number: int, peer: int) -> None:
        """A server believes that another's process is gone."""
        self.world.act(
            self.server(number), lambda raft: raft.leader_unreachable(self.server(peer), self.world.now)
        )

    # ------------------------------------------------------------------------------------- network

    @rule(choices=st.lists(pick, min_size=1, max_size=12))
    def receive(self, choices: list[int]) -> None:
        """Receive: messages under way arrive, in any order."""
        for choice in choices:
            if self.world.packets:
                self.world.receive(choice % len(self.world.packets))

    @rule(count=st.integers(1, 20))
    def receive_in_order(self, count: int) -> None:
        """Receive: the oldest messages arrive, and every disk keeps up."""
        for _ in range(min(count, len(self.world.packets))):
            packet = self.world.receive()
            if packet.to in self.world.hosts:
                self.world.hosts[packet.to].sync()

    @precondition(lambda self: self.world.packets)
    @rule(choice=pick)
    def duplicate_message(self, choice: int) -> None:
        """DuplicateMessage."""
        self.world.packets.append(self.world.packets[choice % len(self.world.packets)])

    @precondition(lambda self: self.world.packets)
    @rule(choice=pick)
    def drop_message(self, choice: int) -> None:
        """DropMessage."""
        del self.world.packets[choice % len(self.world.packets)]

    # ------------------------------------------------------------------------------- disk and crashes

    @rule(number=pick, first=st.none() | st.integers(1, 2))
    def persist(self, number: int, first: int | None) -> None:
        """Persist: one server's disk has everything written so far, or the oldest writes of it."""
        self.world.hosts[self.server(number)].sync(first)

    @rule(number=pick, kept=st.integers(0, 3))
    def restart(self, number: int, kept: int) -> None:
        """Restart: a crash that loses what was not synced, but for a prefix of `kept` records."""
        self.world.restart(self.server(number), kept)

    @rule(number=pick)
    def compact_log(self, number: int) -> None:
        """CompactLog: a snapshot of what is applied replaces the log up to there."""
        self.world.hosts[self.server(number)].compact()

    # ------------------------------------------------------------------------------------ the leader

    @precondition(lambda self: self.leaders())
    @rule(number=pick, count=st.integers(1, 3))
    def client_request(self, number: int, count: int) -> None:
        """ClientRequest: any server that believes it leads, the deposed ones too."""
        for _ in range(count):
            self.commands += 1
            leaders = self.leaders()
            self.world.propose(leaders[number % len(leaders)], b"%d" % self.commands)

    @precondition(lambda self: self.leaders())
    @rule(number=pick, server=pick)
    def change_membership(self, number: int, server: int) -> None:
        """A learner is added, a learner becomes a voter, a voter a learner or no member."""
        leader = self.leaders()[number % len(self.leaders())]
        now = self.world.raft(leader).membership
        changed = self.server(server)
        voters, learners = set(now.voters) - {changed}, set(now.learners) - {changed}
        if changed in now.learners:
            voters.add(changed)
        elif changed not in now.members or number % 3 == 0:
            learners.add(changed)
        if len(voters) >= 2:
            wanted = Membership(tuple(sorted(voters)), tuple(sorted(learners)))
            self.world.act(leader, lambda raft: raft.propose_membership(wanted, self.world.now))

    @precondition(lambda self: self.leaders())
    @rule(number=pick, to=pick)
    def transfer_leadership(self, number: int, to: int) -> None:
        leader = self.leaders()[number % len(self.leaders())]
        self.world.act(leader, lambda raft: raft.transfer_leadership(self.server(to), self.world.now))

    @precondition(lambda self: self.leaders())
    @rule(number=pick)
    def read_index(self, number: int) -> None:
        leader = self.leaders()[number % len(self.leaders())]
        self.asked[len(self.asked)] = max(self.world.history.applied, default=0)
        self.world.act(leader, lambda raft: raft.read_index(len(self.asked) - 1, self.world.now))

    # ------------------------------------------------------------------------------------ invariants

    @invariant()
    def bounded(self) -> None:
        """The network forgets: keeps examples readable."""
        del self.world.packets[:-MAX_PACKETS]

    @invariant()
    def election_safety(self) -> None:
        self.world.check_election_safety()

    @invariant()
    def leader_append_only(self) -> None:
        self.world.check_leader_append_only()

    @invariant()
    def log_matching(self) -> None:
        self.world.check_log_matching()

    @invariant()
    def leader_completeness(self) -> None:
        self.world.check_leader_completeness()

    @invariant()
    def committed_never_lost(self) -> None:
        """StateMachineSafety is asserted at each application, in `RaftWorld.note_applied`."""
        self.world.check_committed_never_lost()

    @invariant()
    def reads_are_fresh(self) -> None:
        """ReadIndex: a confirmed read sees at least what was committed when it was asked (§6.4)."""
        for host in self.world.hosts.values():
            for context, index in host.reads:
                assert index >= self.asked[context], f"stale read {context} at {index}"
            host.reads.clear()

    def teardown(self) -> None:
        """What a failure report should say besides the steps."""
        for node_id, host in sorted(self.world.hosts.items()):
            log = host.raft.log
            note(
                f"{node_id}: {host.raft.role.value} term {host.raft.current_term} "
                f"log {log.snapshot_index}..{log.last_index} commit {log.commit_index} {host.raft.membership}"
            )


class FiveServers(RaftMachine):
    """The same with five voters."""

    size = 5


TestRaftWithThreeServers = RaftMachine.TestCase
TestRaftWithFiveServers = FiveServers.TestCase
DEEPER = settings(
    max_examples=settings.default.max_examples * 3,
    stateful_step_count=settings.default.stateful_step_count * 2,
)
TestRaftWithThreeServers.settings = TestRaftWithFiveServers.settings = DEEPER
