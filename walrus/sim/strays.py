"""Strays: processes that call the peers' port of a simulated node and do not belong to its cluster.

Three strays call with every fault, whatever its kind. What they send goes through the real parser to the
real `CalleeSide`. If a stray gets anything that it must not get, the run ends.

    kind        what it is                                                  knows the secret
    client      a client at the wrong port
    garbage     meaningless bytes, or a length that no frame has
    half        a member's Hello that breaks off
    hasty       a message between members, without a Hello first
    forger      it claims to be a member, and leaves the nonce out
    guesser     the same, with a secret of its own
    joiner      it asks to join
    replayer    it repeats what a member sent on another connection
    neighbour   a node of another cluster that has the same secret          yes
    ancestor    a member's earlier start, on the same directory             yes
    twin        another directory under a member's id                       yes

The strays that call are drawn from the fault itself: a schedule that is shrunk keeps the strays of the
remaining faults, and no other random number of the run changes.

Invariant (OnlyMembers): no stray is accepted as a peer or as a new member; a stray without the secret learns
nothing, and its claims are not even judged; the node's knowledge of its callers does not change.

Left out: how long a stray keeps a connection, and how many it opens. The shell limits both
(`tests/shell/test_peer_connections.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Final

import msgspec

from walrus.broker.handshake import VERSION, CalleeSide, CallerSide, prove
from walrus.protocol import PeerCodec, ProtocolError, encode_request
from walrus.segments import start_number
from walrus.sim.greeting import SECRET, Doorkeeper, nonce, shake_hands
from walrus.sim.host import Host, address, directory_of
from walrus.sim.violation import Violation
from walrus.sim.world import CLUSTER, World
from walrus.wire.messages import ANY_NODE, Fence, Hello, HelloReply, Join, JoinReply, PeerMessage, Proof

AT_ONCE: Final = 3
FAR: Final = 1 << 60
"""An index that no log reaches."""
CODEC: Final = PeerCodec[PeerMessage](PeerMessage)
REQUESTS: Final = (b"PUT t0 smuggled", b"METRICS", b"LEAVE 1", b"AUTH " + b"k" * 43, b"GET t0")


class _Door(Doorkeeper):
    """The node's judgement of callers, with a record of what it was asked."""

    def __init__(self, host: Host, now: float) -> None:
        assert host.controller is not None
        super().__init__(host.controller, host.clock(now))
        self.asked: list[str] = []

    def judge_hello(self, hello: Hello) -> str:
        """Return why this caller is refused; "" if it is accepted."""
        self.asked.append("judge")
        return super().judge_hello(hello)

    def addresses(self) -> dict[int, str]:
        """Return the addresses of the nodes, by id."""
        self.asked.append("addresses")
        return super().addresses()

    def directory_id(self) -> str:
        """Return the id of the node's data directory."""
        self.asked.append("directory")
        return super().directory_id()

    def on_join(self, join: Join) -> JoinReply:
        """Carry nothing out: a Join of a stray must not get this far."""
        self.asked.append("join")
        return JoinReply(done=False, error="", cluster_id="", addresses={})


class _Call:
    """A stray's connection to a node."""

    def __init__(self, host: Host, member: int, rng: Random, now: float) -> None:
        """Connect to `host`, knowing of its member `member`."""
        assert host.controller is not None
        self.host, self.member, self.rng = host, member, rng
        self.known = host.controller.metadata.nodes.get(member)
        """What the node knows of that member; None if nothing."""
        self.door = _Door(host, now)
        self._side = CalleeSide(host.callers, self.door)
        self.spoke = False
        self.accepted: Hello | None = None
        self.learnt: list[PeerMessage] = []

    def hello(self, **more: object) -> Hello:
        """Return the Hello that the member would send, with these fields replaced."""
        known = self.known
        said = Hello(
            version=VERSION,
            cluster_id=CLUSTER,
            node_id=self.member,
            directory_id=known.directory_id if known else directory_of(self.member),
            incarnation=known.incarnation if known else 1,
            target=self.rng.choice((self.host.id, ANY_NODE)),
            member_at=self.rng.choice((0, 1, FAR)),
            raft_address=address(self.member),
        )
        return msgspec.structs.replace(said, **more)

    def say(self, *said: PeerMessage | bytes) -> None:
        """Send messages or bytes, without waiting for replies, until the callee ends the connection."""
        self.spoke = True
        data = b"".join(m if isinstance(m, bytes) else CODEC.encode(m) for m in said)
        try:
            messages = CODEC.parser().feed(data)
        except ProtocolError:
            return
        for message in messages:
            answer = self._side.on_message(message)
            self.accepted = self.accepted or answer.caller
            self.learnt += [answer.reply] if answer.reply is not None else []
            if answer.ends:
                return

    def introduce(self, first: Hello, secret: bytes) -> None:
        """Shake hands as a node with this secret."""
        self.spoke = True
        caller = CallerSide(first, secret, nonce())
        self.accepted = shake_hands(caller, self._side)
        assert caller.verdict is not None
        self.learnt.append(caller.verdict)


def _client(call: _Call) -> None:
    call.say(*map(encode_request, call.rng.sample(REQUESTS, 3)))


def _garbage(call: _Call) -> None:
    call.say(call.rng.choice((b"", b"\xff" * 4, bytes(3))) + call.rng.randbytes(call.rng.randrange(1, 200)))


def _half(call: _Call) -> None:
    frame = CODEC.encode(call.hello(nonce=nonce()))
    call.say(frame[: call.rng.randrange(len(frame))])


def _hasty(call: _Call) -> None:
    call.say(Fence(topic="t0", segment=1), call.hello(nonce=nonce()), Fence(topic="t0", segment=1))


def _forger(call: _Call) -> None:
    call.say(call.hello(), Fence(topic="t0", segment=1))


def _guesser(call: _Call) -> None:
    call.introduce(call.hello(), b"of another cluster")


def _joiner(call: _Call) -> None:
    place = address(call.member)
    fresh = call.rng.choice((b"", nonce()))
    node = call.rng.choice((call.member, 7))
    call.say(
        Join(node_id=node, directory_id="mine", raft_address=place, client_address=place, nonce=fresh),
        Proof(proof=bytes(32)),
    )


def _replayer(call: _Call) -> None:
    first = call.hello(nonce=nonce())
    call.say(first, Proof(proof=prove(SECRET, "caller", first, nonce())))


def _neighbour(call: _Call) -> None:
    call.introduce(call.hello(cluster_id="another"), SECRET)


def _ancestor(call: _Call) -> None:
    if call.known is not None and start_number(call.known.incarnation) > 1:
        call.introduce(call.hello(incarnation=call.known.incarnation - 1), SECRET)


def _twin(call: _Call) -> None:
    if call.known is not None:
        call.introduce(call.hello(directory_id="a copy", member_at=0), SECRET)


KINDS: Final[dict[str, Callable[[_Call], None]]] = {
    "client": _client,
    "garbage": _garbage,
    "half": _half,
    "hasty": _hasty,
    "forger": _forger,
    "guesser": _guesser,
    "joiner": _joiner,
    "replayer": _replayer,
    "neighbour": _neighbour,
    "ancestor": _ancestor,
    "twin": _twin,
}
SECRET_KNOWN: Final = ("neighbour", "ancestor", "twin")


def call(world: World, at: float, node: int, member: int) -> None:
    """Let strays call `node`, drawn from the moment. Raises Violation if one gets anything."""
    host = world.hosts.get(node)
    if host is None or host.controller is None or host.paused:
        return
    rng = Random(f"stray {at} {node}")
    for kind in rng.sample(list(KINDS), AT_ONCE):
        made, before = _Call(host, member, rng, world.now), _memory(host)
        KINDS[kind](made)
        if made.spoke:
            world.seen[f"stray {kind}"] += 1
        if flaw := _flaw(made, kind) or ("the node remembers it" if _memory(host) != before else ""):
            raise Violation("OnlyMembers", f"a stray ({kind}) called node {node} as node {member}: {flaw}")


def _flaw(made: _Call, kind: str) -> str:
    """Return what the stray got that it must not get; "" if nothing."""
    if made.accepted is not None:
        return "it is let in"
    if "join" in made.door.asked:
        return "it is taken in"
    if made.door.asked and kind not in SECRET_KNOWN:
        return f"it is judged without a proof ({', '.join(made.door.asked)})"
    for reply in made.learnt:
        named = reply.directory_id if isinstance(reply, HelloReply) else ""
        if isinstance(reply, HelloReply | JoinReply) and (reply.cluster_id or reply.addresses or named):
            return f"it is told {reply}"
    return ""


def _memory(host: Host) -> dict[str, object]:
    """Return what a process keeps of the nodes that called it."""
    return {name: dict(kept) for name, kept in vars(host.callers).items() if isinstance(kept, dict)}
