"""Raft's transcripts (`tests/transcript.py` says what a transcript is): the commands, and the test.

servers 1 2 3 [passive 4]       found a cluster; its founding entry has index 1 and term 1
server 1 of 1 2 3 log 1 2 2 term 2    one server with such a log, the founding entry first
limit BYTES [uncommitted BYTES] at most so much in one request, and uncommitted (before servers are made)
campaign 1                      time passes, so that no leader is heard any more, and server 1 times out
heartbeat 1                     time passes, and leader 1 begins a round
propose 1 TEXT                  a client's command
deliver [N] [only 1 2] [without 3] [cut 1-2 3-4]    the oldest messages arrive, all of them or N;
                                what the filter (servers, or pairs of them) excludes is lost
quietly [only ...]              the same until silence, without a line for each message
hold [copies] | release         what is under way, or a copy of it, is kept back | arrives next
wait SECONDS                    the clock moves
lose                            all messages under way are lost
sync manual | sync 1 [first 1]  disks finish only when told; this one finishes all writes, or the oldest
crash 1 | start 1               what was not synced is lost
compact 1 | read 1 CONTEXT | transfer 1 to 2 | unreachable 1 for 2
member 1 voters 1 2 learners 3  leader 1 proposes this membership
show                            role, term, commit index and log of each server
"""

from __future__ import annotations

from itertools import takewhile
from pathlib import Path

import msgspec
import pytest

from tests.consensus.world import CONFIG, RaftWorld
from tests.transcript import Transcript, compare, numbers, opening, shown
from walrus.consensus.messages import Entry, EntryKind, InstallSnapshotRequest, Membership, RaftConfig
from walrus.sim.invariants import NAMES

FOLDER = Path(__file__).parent / "transcripts"
FILES = sorted(FOLDER.glob("*.txt"))


class RaftTranscript(Transcript):
    """Servers of Raft, and nothing that moves unless told."""

    def __init__(self) -> None:
        super().__init__()
        self.config = CONFIG
        self.world = RaftWorld(seed=1)

    def check(self) -> None:
        self.world.check()

    def do_limit(self, words: list[str]) -> None:
        size = int(words[0])
        self.config = RaftConfig(
            heartbeat_interval=CONFIG.heartbeat_interval,
            election_timeout=CONFIG.election_timeout,
            max_append_bytes=size,
            snapshot_chunk_bytes=size,
            max_uncommitted_bytes=int(words[2]) if words[1:] else CONFIG.max_uncommitted_bytes,
        )
        self.world = RaftWorld(seed=1, config=self.config)

    def do_servers(self, words: list[str]) -> None:
        before = list(takewhile(lambda word: word != "passive", words))
        self.world.found(map(int, before), map(int, words[len(before) + 1 :]))

    def do_server(self, words: list[str]) -> None:
        log, term = words.index("log"), words.index("term")
        voters = map(int, words[2:log])
        self.world.add_with_log(int(words[0]), voters, map(int, words[log + 2 : term]), int(words[term + 1]))

    def do_campaign(self, words: list[str]) -> None:
        self.world.now += 3 * self.config.election_timeout
        self.world.act(int(words[0]), lambda raft: raft.tick(self.world.now))

    def do_heartbeat(self, words: list[str]) -> None:
        self.world.now += self.config.heartbeat_interval
        self.world.act(int(words[0]), lambda raft: raft.tick(self.world.now))

    def do_propose(self, words: list[str]) -> None:
        index = self.world.propose(int(words[0]), words[1].encode())
        self.output.append(f"refused by {words[0]}" if index is None else f"index {index}")

    def do_deliver(self, words: list[str]) -> None:
        count = int(words.pop(0)) if words and words[0].isdigit() else 1_000
        only = numbers(words, "only") or set(self.world.disks)
        only -= numbers(words, "without")
        cut = {frozenset(map(int, word.split("-"))) for word in words if "-" in word}
        while self.world.packets and count:
            packet = self.world.packets.pop(0)
            ends = {packet.sender, packet.to}
            arrives = ends <= only and ends not in cut and packet.to in self.world.hosts
            lost = "" if arrives else "   (lost)"
            self.output.append(f"{packet.sender} -> {packet.to}  {brief(packet.message)}{lost}")
            if not lost:
                self.world.deliver(packet)
                count -= 1

    def do_quietly(self, words: list[str]) -> None:
        before = list(self.output)
        self.do_deliver(words)
        self.output = before

    def do_hold(self, words: list[str]) -> None:
        copies = list(self.world.packets) if words == ["copies"] else []
        self.world.hold()
        self.world.packets = copies

    def do_release(self, words: list[str]) -> None:
        self.world.release()

    def do_wait(self, words: list[str]) -> None:
        self.world.now += float(words[0])

    def do_lose(self, words: list[str]) -> None:
        self.output.append(f"{len(self.world.packets)} messages")
        self.world.packets.clear()

    def do_sync(self, words: list[str]) -> None:
        if words[0] in ("manual", "auto"):
            self.world.auto_sync = words[0] == "auto"
        else:
            self.world.hosts[int(words[0])].sync(int(words[2]) if words[1:] else None)

    def do_crash(self, words: list[str]) -> None:
        self.world.crash(int(words[0]))

    def do_start(self, words: list[str]) -> None:
        self.world.start(int(words[0]))

    def do_compact(self, words: list[str]) -> None:
        host = self.world.hosts[int(words[0])]
        host.compact()
        host.settle()

    def do_read(self, words: list[str]) -> None:
        leader, context = map(int, words)
        self.world.act(leader, lambda raft: raft.read_index(context, self.world.now))

    def do_transfer(self, words: list[str]) -> None:
        leader, to = int(words[0]), int(words[2])
        self.world.act(leader, lambda raft: raft.transfer_leadership(to, self.world.now))

    def do_unreachable(self, words: list[str]) -> None:
        peer, by = int(words[0]), int(words[2])
        self.world.act(by, lambda raft: raft.leader_unreachable(peer, self.world.now))
        self.world.time_out(by)

    def do_member(self, words: list[str]) -> None:
        voters, learners = numbers(words, "voters"), numbers(words, "learners")
        wanted = Membership(tuple(sorted(voters)), tuple(sorted(learners)))
        index = self.world.act(int(words[0]), lambda raft: raft.propose_membership(wanted, self.world.now))
        self.output.append("refused" if index is None else f"index {index}")

    def do_show(self, words: list[str]) -> None:
        for node_id, disk in sorted(self.world.disks.items()):
            if node_id not in self.world.hosts:
                self.output.append(f"{node_id}  down")
                continue
            host, log = self.world.hosts[node_id], self.world.raft(node_id).log
            terms = [str(log.term_at(i)) for i in range(log.snapshot_index + 1, log.last_index + 1)]
            start = f"[..{log.snapshot_index}] " if log.snapshot_index else ""
            reads = f"  reads {host.reads}" if host.reads else ""
            self.output.append(
                f"{node_id}  {host.raft.role.value:<12} term {host.raft.current_term}  "
                f"commit {log.commit_index:<2}  log {start}{' '.join(terms)}{reads}".rstrip()
            )
            assert disk is host.storage


def brief(message: object) -> str:
    """A message on one line, with what is zero or empty left out."""
    shown = []
    for name, value in msgspec.structs.asdict(message).items():  # type: ignore[type-var]
        if isinstance(message, InstallSnapshotRequest) and name == "data":
            shown.append(f"data={len(value)} bytes")
        elif name == "entries" and value:
            shown.append(f"entries={' '.join(map(brief_entry, value))}")
        elif name in ("granted", "success", "installed") or (value and name not in ("round", "membership")):
            shown.append(f"{name}={value}")
    return f"{type(message).__name__}({', '.join(shown)})"


def brief_entry(entry: Entry) -> str:
    """index@term, and what is in it."""
    if entry.kind is EntryKind.COMMAND:
        return f"{entry.index}@{entry.term}:{entry.data.decode()}"
    return f"{entry.index}@{entry.term}:{entry.kind.name}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_servers_say_what_the_transcript_says(path: Path, request: pytest.FixtureRequest) -> None:
    compare(path, RaftTranscript(), request)


def test_the_figures_of_the_paper_are_among_them() -> None:
    names = {path.stem for path in FILES}
    assert {"election_figure_7", "commit_figure_8_overwritten", "commit_figure_8_kept"} <= names


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_transcript_opens_with_what_to_look_for_and_is_linked(path: Path) -> None:
    assert opening(path).startswith("# ") and "# Look for" in opening(path)
    page = (FOLDER.parents[2] / "docs" / "raft.md").read_text(encoding="utf-8")
    assert f"transcripts/{path.name})" in page


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_transcript_names_the_invariants_that_it_shows(path: Path) -> None:
    assert shown(path) and shown(path) <= {*NAMES, "ReadIndex"}
