"""The handshake of two nodes, as messages: who is accepted, what strays learn, what a secret keeps out.

The strays are of three kinds: processes that reach the port and know nothing, those that have recorded a
member's connection, and impostors at a member's address.
"""

from __future__ import annotations

import hmac

import msgspec
import pytest

from walrus.broker import handshake
from walrus.broker.handshake import (
    MAX_ID,
    VERSION,
    Answer,
    CalleeSide,
    Callers,
    CallerSide,
    prove,
    shape_flaw,
)
from walrus.sim.greeting import nonce, shake_hands
from walrus.wire.messages import (
    ANY_NODE,
    Challenge,
    Fence,
    Hello,
    HelloReply,
    Join,
    JoinReply,
    PeerMessage,
    Proof,
)

SECRET, OTHER = b"s" * 32, b"o" * 32


class Metadata:
    """A node of cluster "c" with members 1 and 2, which knows that node 9 was removed."""

    def __init__(self, node_id: int = 2) -> None:
        self.node_id = node_id
        self.joins: list[Join] = []
        self.judged: list[Hello] = []

    def judge_hello(self, hello: Hello) -> str:
        self.judged.append(hello)
        if hello.cluster_id != "c" or hello.target not in (self.node_id, ANY_NODE):
            return "another cluster"
        return "removed" if hello.node_id == 9 else ""

    def is_final(self, hello: Hello) -> bool:
        return self.is_removed(hello)

    def is_removed(self, hello: Hello) -> bool:
        return hello.node_id == 9

    def addresses(self) -> dict[int, str]:
        return {1: "h:1", 2: "h:2"}

    def directory_id(self) -> str:
        return f"d{self.node_id}"

    def on_join(self, join: Join) -> JoinReply:
        self.joins.append(join)
        return JoinReply(done=True, error="", cluster_id="c", addresses=self.addresses())


def hello(node_id: int = 1, start: int = 1, target: int = 2, **more: object) -> Hello:
    values: dict[str, object] = {"version": VERSION, "cluster_id": "c", "directory_id": f"d{node_id}"}
    values |= {"node_id": node_id, "incarnation": start, "target": target, **more}
    return Hello(**values)  # type: ignore[arg-type]


def join(node_id: int = 3, **more: object) -> Join:
    values: dict[str, object] = {"node_id": node_id, "directory_id": "d3", "raft_address": "h:3"}
    return Join(**{**values, "client_address": "h:4", **more})  # type: ignore[arg-type]


class Gate:
    """A node's side of the peers' port: what it keeps, and its connections one after the other."""

    def __init__(self, secret: bytes = b"") -> None:
        self.metadata = Metadata()
        self.callers = Callers(secret, nonce)

    def side(self) -> CalleeSide:
        return CalleeSide(self.callers, self.metadata)

    def call(self, first: Hello | Join, secret: bytes = b"") -> tuple[HelloReply | JoinReply, Hello | None]:
        """An honest caller's connection: the verdict, and the Hello that was accepted."""
        caller = CallerSide(first, secret, nonce())
        accepted = shake_hands(caller, self.side())
        assert caller.verdict is not None
        return caller.verdict, accepted

    @property
    def untouched(self) -> bool:
        return not (self.metadata.joins or self.metadata.judged)


@pytest.mark.parametrize("secret", [b"", SECRET])
def test_members_meet_and_a_newcomer_is_taken_in(secret: bytes) -> None:
    gate = Gate(secret)
    verdict, accepted = gate.call(hello(), secret)
    assert verdict == HelloReply(error="", cluster_id="c", directory_id="d2", version=VERSION)
    assert accepted is not None and accepted.node_id == 1
    verdict, accepted = gate.call(hello(target=ANY_NODE), secret)
    assert isinstance(verdict, HelloReply) and verdict.addresses == {1: "h:1", 2: "h:2"}
    verdict, accepted = gate.call(join(), secret)
    assert isinstance(verdict, JoinReply) and verdict.done and accepted is None


def test_an_introduction_ends_the_connection_and_a_members_hello_does_not() -> None:
    assert not Gate().side().on_message(hello()).ends
    assert Gate().side().on_message(hello(target=ANY_NODE)).ends
    assert Gate().side().on_message(join()).ends


def test_a_refusal_says_whether_it_is_for_ever() -> None:
    verdict, accepted = Gate(SECRET).call(hello(9), SECRET)
    assert verdict == HelloReply(error="removed", cluster_id="", final=True, removed=True) and not accepted


def test_an_older_start_of_a_node_is_refused_once_a_later_one_has_called() -> None:
    gate = Gate()
    assert gate.call(hello(start=5))[1]
    gate.callers.gone(1)
    verdict, accepted = gate.call(hello(start=4))
    assert "later start" in verdict.error and not accepted
    assert gate.call(hello(start=4, directory_id="another disk"))[1], "another directory counts by itself"


def test_the_latest_start_that_has_called_counts_and_not_the_first() -> None:
    gate = Gate()
    for start in (4, 6):
        assert gate.call(hello(start=start))[1], "CommitProgress: a later start is refused"
        gate.callers.gone(1)
    assert not gate.call(hello(start=5))[1], "SingleWriter: a process that a later one has replaced is back"


def test_a_node_that_only_introduced_itself_is_not_connected() -> None:
    gate = Gate()
    assert gate.call(hello(start=5, target=ANY_NODE))[1]
    assert gate.call(hello(start=6))[1], "CommitProgress: refused for a connection that has ended"


def test_of_two_processes_with_one_identity_the_connected_one_is_kept() -> None:
    gate = Gate()
    assert gate.call(hello(start=5))[1]
    assert gate.call(hello(start=5))[1], "the same process dials again"
    verdict, accepted = gate.call(hello(start=6))
    assert "another process of node 1 is connected, start 5" in verdict.error and not accepted
    gate.callers.gone(1)
    assert gate.call(hello(start=6))[1]


# --- strays that know nothing ---------------------------------------------------------------------


@pytest.mark.parametrize("message", [Fence(topic="t", segment=1), Proof(proof=bytes(32)),
    HelloReply(error="", cluster_id="c"), Challenge(nonce=bytes(32), proof=bytes(32))])  # fmt: skip
@pytest.mark.parametrize("secret", [b"", SECRET])
def test_what_does_not_introduce_itself_gets_no_answer(message: PeerMessage, secret: bytes) -> None:
    gate = Gate(secret)
    answer = gate.side().on_message(message)
    assert answer.reply is None and answer.ends and gate.untouched


@pytest.mark.parametrize("more", [{"node_id": 0}, {"node_id": -1}, {"node_id": 1 << 60},
    {"directory_id": ""}, {"directory_id": "d" * (MAX_ID + 1)}, {"raft_address": "h" * 400 + ":1"},
    {"raft_address": "nowhere"}])  # fmt: skip
def test_a_shape_that_no_node_has_is_refused_before_it_is_judged(more: dict[str, object]) -> None:
    for first in (hello(), join()):
        gate = Gate()
        answer = gate.side().on_message(msgspec.structs.replace(first, **more))
        assert isinstance(answer.reply, HelloReply | JoinReply) and answer.reply.error and answer.ends
        assert gate.untouched and answer.caller is None
    assert shape_flaw(hello(cluster_id="c" * (MAX_ID + 1))) and not shape_flaw(hello(cluster_id="c" * MAX_ID))


def test_another_version_is_told_so_and_is_told_nothing_else() -> None:
    gate = Gate(SECRET)
    verdict, _ = gate.call(hello(9, version=VERSION + 1), SECRET)
    assert isinstance(verdict, HelloReply) and "it speaks version 5, this node version 4" in verdict.error
    assert not verdict.final and gate.untouched


def speaks(patch: pytest.MonkeyPatch, oldest: int, newest: int) -> None:
    """The callee's release."""
    patch.setattr(handshake, "OLDEST", oldest)
    patch.setattr(handshake, "VERSION", newest)


@pytest.mark.parametrize("target", [2, ANY_NODE])
@pytest.mark.parametrize("secret", [b"", SECRET])
@pytest.mark.parametrize(
    ("caller", "callee", "spoken"),
    [
        ((4, 0), (4, 4), 4),
        ((4, 0), (4, 5), 4),
        ((4, 5), (4, 4), 4),
        ((4, 5), (4, 5), 5),
        ((4, 9), (3, 5), 5),
        ((5, 6), (4, 5), 5),
        ((4, 5), (5, 6), 5),
        ((4, 0), (5, 6), 0),
        ((5, 6), (4, 4), 0),
        ((6, 0), (4, 5), 0),
        ((4, 3), (4, 5), 4),
        ((-1, 0), (4, 5), 0),
    ],
)
def test_two_releases_speak_the_highest_version_that_both_know_or_are_told_that_there_is_none(
    caller: tuple[int, int],
    callee: tuple[int, int],
    spoken: int,
    secret: bytes,
    target: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    speaks(monkeypatch, *callee)
    gate = Gate(secret)
    verdict, accepted = gate.call(hello(version=caller[0], newest=caller[1], target=target), secret)
    assert isinstance(verdict, HelloReply)
    if spoken:
        assert (verdict.error, verdict.version) == ("", spoken) and accepted is not None
    else:
        assert "upgrade by way of a release that speaks both" in verdict.error and accepted is None
        assert not verdict.final and gate.untouched


def lowered(message: PeerMessage) -> PeerMessage:
    """What an attacker on the way makes of it, so that the two speak the first version."""
    if isinstance(message, Hello):
        return msgspec.structs.replace(message, newest=0)
    if isinstance(message, Challenge | HelloReply):
        return msgspec.structs.replace(message, version=0)
    return message


def over(
    gate: Gate, caller: CallerSide, changes: tuple[type, ...]
) -> tuple[HelloReply | JoinReply, Hello | None]:
    """A call over a way on which messages of these types are lowered."""
    callee, accepted, message = gate.side(), None, caller.first
    while caller.verdict is None:
        answer = callee.on_message(lowered(message) if isinstance(message, changes) else message)
        accepted = answer.caller
        assert answer.reply is not None
        reply = lowered(answer.reply) if isinstance(answer.reply, changes) else answer.reply
        message = caller.on_message(reply) or message
    return caller.verdict, accepted


@pytest.mark.parametrize("changes", [(Hello,), (Challenge,), (HelloReply,), (Hello, Challenge, HelloReply)])
def test_a_version_that_is_lowered_on_the_way_ends_the_call_where_there_is_a_secret(
    changes: tuple[type, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    speaks(monkeypatch, 4, 5)
    verdict, accepted = over(Gate(SECRET), CallerSide(hello(newest=5), SECRET, nonce()), changes)
    assert verdict.error, "Downgrade: the two speak less than they could, and do not know it"
    assert accepted is None or changes == (HelloReply,), "the callee has said all that it had to say"


def test_a_version_that_was_not_offered_is_not_spoken() -> None:
    caller = CallerSide(hello())
    caller.on_message(HelloReply(error="", cluster_id="c", version=VERSION + 1))
    assert caller.verdict is not None and "was not offered" in caller.verdict.error


def test_a_release_before_the_range_proves_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """It knows ten fields of a Hello, and none of a Challenge's version."""
    first, challenge = msgspec.structs.replace(hello(), nonce=nonce()), nonce()
    fields = msgspec.structs.astuple(first)[:10]
    assert first.__struct_fields__[9] == "nonce"
    earlier = msgspec.msgpack.encode(("caller", challenge, "Hello", *fields))
    assert prove(SECRET, "caller", first, challenge) == hmac.digest(SECRET, earlier, "sha256")
    speaks(monkeypatch, 4, 5)
    answer = Gate(SECRET).side().on_message(first).reply
    assert isinstance(answer, Challenge) and not answer.version, "it would not be part of its proof"


def test_what_is_left_out_of_a_proof_can_be_taken_for_nothing_else() -> None:
    first = msgspec.structs.replace(hello(), nonce=nonce())
    proofs = {
        prove(SECRET, role, msgspec.structs.replace(first, newest=newest), nonce, version)
        for role in ("caller", "callee")
        for newest in (0, 4, 5)
        for version in (0, 4, 5)
        for nonce in (bytes(32), bytes([5] * 32))
    }
    assert len(proofs) == 36


@pytest.mark.parametrize("first", [hello(), hello(9), hello(target=ANY_NODE), hello(member_at=1 << 60),
    join(), join(1), hello(cluster_id="guessed")])  # fmt: skip
def test_in_a_cluster_with_a_secret_a_stray_learns_and_changes_nothing(first: Hello | Join) -> None:
    """Neither the cluster's id nor which nodes it has; no id is squatted, and no address dialled."""
    gate, replies = Gate(SECRET), set[str]()
    answer = gate.side().on_message(first)
    assert isinstance(answer.reply, HelloReply | JoinReply) and answer.ends and not answer.caller
    replies.add(answer.reply.error)
    answer = gate.side().on_message(msgspec.structs.replace(first, nonce=nonce()))
    assert isinstance(answer.reply, Challenge)
    verdict, accepted = gate.call(first, OTHER)
    assert "does not know the cluster's secret" in verdict.error and not accepted
    assert gate.untouched and replies == {
        "this cluster has a secret: start the node with --cluster-secret-file"
    }


# --- strays that have recorded a member's connection ----------------------------------------------


def recorded(gate: Gate, first: Hello | Join) -> list[PeerMessage]:
    """What a member said on a connection that went well."""
    caller, side, said = CallerSide(first, SECRET, nonce()), gate.side(), list[PeerMessage]()
    message: PeerMessage | None = caller.first
    while message is not None:
        said.append(message)
        answer = side.on_message(message)
        assert answer.reply is not None
        message = caller.on_message(answer.reply)
    assert len(said) == 2
    return said


def replayed(gate: Gate, said: list[PeerMessage]) -> Answer:
    side, answer = gate.side(), Answer()
    for message in said:
        answer = side.on_message(message)
    return answer


@pytest.mark.parametrize("first", [hello(), join()])
def test_a_recorded_connection_opens_no_other_one(first: Hello | Join) -> None:
    gate = Gate(SECRET)
    said = recorded(gate, first)
    gate.metadata.joins.clear()
    gate.metadata.judged.clear()
    answer = replayed(gate, said)
    assert answer.ends and answer.caller is None and gate.untouched
    assert isinstance(answer.reply, HelloReply | JoinReply) and "secret" in answer.reply.error


@pytest.mark.parametrize("changes", [{"node_id": 2}, {"incarnation": 7}, {"target": ANY_NODE},
    {"directory_id": "mine"}, {"member_at": 1 << 60}, {"raft_address": "evil:1"}])  # fmt: skip
def test_a_proof_is_good_for_the_claims_that_it_was_made_for(changes: dict[str, object]) -> None:
    """A relay that passes the challenge on to a true member, and changes what that member said."""
    gate, member = Gate(SECRET), CallerSide(hello(), SECRET, nonce())
    side = gate.side()
    challenge = side.on_message(msgspec.structs.replace(member.first, **changes)).reply
    assert isinstance(challenge, Challenge)
    assert member.on_message(challenge) is None, "the member notices"
    forged = Proof(proof=prove(SECRET, "caller", member.first, challenge.nonce))
    answer = side.on_message(forged)
    assert answer.caller is None and answer.ends and gate.untouched


def test_a_callees_proof_sent_back_is_not_a_callers() -> None:
    gate, first = Gate(SECRET), hello(nonce=nonce())
    side = gate.side()
    challenge = side.on_message(first).reply
    assert isinstance(challenge, Challenge)
    answer = side.on_message(Proof(proof=challenge.proof))
    assert answer.caller is None and answer.ends and gate.untouched


@pytest.mark.parametrize("proof", [b"", bytes(31), bytes(32), bytes(33), bytes(1 << 16)])
def test_a_proof_of_any_length_is_only_wrong(proof: bytes) -> None:
    gate = Gate(SECRET)
    side = gate.side()
    side.on_message(hello(nonce=nonce()))
    assert side.on_message(Proof(proof=proof)).ends and gate.untouched


def test_a_second_hello_in_the_place_of_the_proof_is_refused() -> None:
    gate = Gate(SECRET)
    side = gate.side()
    side.on_message(hello(nonce=nonce()))
    assert side.on_message(hello(nonce=nonce())).ends and gate.untouched


# --- impostors at a member's address --------------------------------------------------------------


@pytest.mark.parametrize("first", [hello(), join()])
def test_no_verdict_counts_before_the_callees_proof(first: Hello | Join) -> None:
    """An impostor at a member's address can refuse a node; it cannot stop it, nor take it in."""
    replies: list[PeerMessage] = [
        HelloReply(error="", cluster_id="c"),
        HelloReply(error="you were removed", cluster_id="", final=True, removed=True),
        JoinReply(done=True, error="", cluster_id="evil", addresses={1: "evil:1"}),
        JoinReply(done=False, error="go away", cluster_id="", addresses={}, final=True),
        Challenge(nonce=nonce(), proof=bytes(32)),
        Challenge(nonce=b"", proof=prove(SECRET, "callee", first, b"")),
        Fence(topic="t", segment=1),
    ]
    for reply in replies:
        caller = CallerSide(first, SECRET, nonce())
        assert caller.on_message(reply) is None
        assert caller.verdict is not None and caller.verdict.error and not caller.verdict.final


def test_a_caller_answers_one_challenge_and_no_second() -> None:
    caller = CallerSide(hello(), SECRET, nonce())
    challenge = Gate(SECRET).side().on_message(caller.first).reply
    assert isinstance(challenge, Challenge) and caller.on_message(challenge), "CommitProgress"
    assert caller.on_message(challenge) is None and caller.verdict, "a member proves as often as it is asked"


def test_a_recorded_challenge_proves_nothing_to_the_next_caller() -> None:
    gate, caller = Gate(SECRET), CallerSide(hello(), SECRET, nonce())
    challenge = gate.side().on_message(caller.first).reply
    assert isinstance(challenge, Challenge)
    later = CallerSide(hello(), SECRET, nonce())
    assert later.on_message(challenge) is None
    assert later.verdict is not None and "secret" in later.verdict.error


def test_ends_of_which_only_one_has_a_secret_do_not_speak_and_each_says_what_is_missing() -> None:
    verdict, accepted = Gate(SECRET).call(hello())
    assert "--cluster-secret-file" in verdict.error and not accepted
    caller = CallerSide(hello(), SECRET, nonce())
    shake_hands(caller, Gate().side())
    assert caller.verdict is not None and "does not prove" in caller.verdict.error
    caller = CallerSide(hello())
    caller.on_message(Challenge(nonce=nonce(), proof=bytes(32)))
    assert caller.verdict is not None and "--cluster-secret-file" in caller.verdict.error
