"""The handshake between two nodes, at both ends, without I/O: is the peer who it claims to be?

The handshake on the peers' port begins with one request of the caller and ends with one verdict of the
callee. In a cluster with a secret, each end sends a proof in between:

    caller                                                  callee
      │ ── Hello(..., nonce) or Join(..., nonce) ───────────► │  stranger: checks the shape alone
      │ ◄─ Challenge(nonce, proof) ────────────────────────── │  challenged   \\  only with a secret
      │ ── Proof(proof) ────────────────────────────────────► │               /
      │ ◄─ HelloReply or JoinReply ────────────────────────── │  decided

    state        takes          next
    stranger     Hello, Join    challenged with a secret, else decided; a bad shape is refused
    challenged   Proof          decided if it is right, else refused
    decided      -              a Hello without an error: the caller's messages follow. Otherwise: closed

A Hello names the node that the caller means to reach, but the address may belong to another node by now. So
a callee that accepts a Hello names the directory that it runs on, and the caller knows which node it is
connected to (`supervisor.py` needs this for a node that has not started yet).

`CalleeSide` is one such connection at its callee, `CallerSide` at its caller, and `Callers` is the state
that a node keeps across connections: which start of each node called last, and which is connected.
`membership.py` judges a caller by the metadata, as a `CallerJudge`. The shell (`shell/peer_connections.py`)
and the simulator carry the messages.

**The version** of the messages that follow is negotiated: a release speaks those from `OLDEST` to
`VERSION`. A Hello has the lowest and the highest version that its caller speaks; the callee chooses the
highest that both speak and says so, and refuses by name if there is none. A Join has no version: a newly
joined node that has no version in common with a member is refused by that member when it calls. An answer
without a version means the caller's lowest: all releases that know no other answer so, including those that
predate the negotiation. `docs/operations.md`, "Upgrading", has the promises, and the duties of a release
that raises `VERSION`.

**The proof** is HMAC-SHA-256 (RFC 2104) under the cluster's secret over the role of its sender, the callee's
nonce, and the caller's whole first message with the caller's nonce in it (ISO 9798-4, mutual authentication
in three passes). So a proof is good

    for this connection alone    both nonces are fresh: a recorded proof proves nothing later
    in this direction alone      the role is in it: a callee's proof sent back is not a caller's
    for these claims alone       node, directory, start and target are in it: none can be exchanged
    for this version alone       the caller's range and the callee's choice are in it: narrowing the range in
                                 transit, or replacing the chosen version, ends the call

A callee says nothing about the cluster, not even whether a node is known, before the proof. A caller with a
secret believes no verdict before the callee's proof: a process at a member's old address can refuse it, but
cannot make it believe that it was removed. If only one end has a secret, the two do not talk, so omitting
the nonce or the challenge gains nothing.

The proof covers the whole first message as its receiver decoded it. A field that a later release adds after
the nonce is left out of the proof while it has its default, so that a release without the field computes
the same proof; with another value, the two releases do not talk. `newest` has such a value from the second
version on.

Left out: the messages after the handshake are neither encrypted nor signed. The secret keeps out peers that
can reach the port; TLS (`walrus/tls.py`) protects against an attacker who can change packets on the way.

Invariants: a caller is accepted only after a Hello that `CallerJudge` found nothing against, and in a cluster
with a secret only after its proof; a caller of an older start than one already seen is refused, and so is
another start of a node whose earlier one is still connected (two processes of one identity); nothing that a
stranger says before its proof changes anything here.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable
from typing import Final, NamedTuple, Protocol

import msgspec

from walrus.segments import start_number
from walrus.wire.addresses import parse_address
from walrus.wire.messages import ANY_NODE, Challenge, Hello, HelloReply, Join, JoinReply, PeerMessage, Proof

VERSION: Final = 4
"""The latest version of the messages between nodes that this release speaks."""
OLDEST: Final = 4
"""The earliest one: that of the release before this one, so that one node after the other can be upgraded."""
NONCE_BYTES: Final = 32
MAX_NODE_ID: Final = 1 << 31
MAX_ID: Final = 64
MAX_ADDRESS: Final = 300
"""Characters of an id and of an address: what a Join puts into the metadata is small."""
_CALLER, _CALLEE = "caller", "callee"


class CallerJudge(Protocol):
    """What the cluster's metadata says of a caller."""

    def judge_hello(self, hello: Hello) -> str:
        """Return why this caller is refused; "" accepts it."""

    def is_final(self, hello: Hello) -> bool:
        """Return whether the refusal of a caller will stand for ever."""

    def is_removed(self, hello: Hello) -> bool:
        """Return whether a refused caller was a member and has been removed for good."""

    def addresses(self) -> dict[int, str]:
        """Where this node and the others live, as far as it knows: node id -> host:port."""

    def directory_id(self) -> str:
        """The data directory that this node runs on."""

    def on_join(self, join: Join) -> JoinReply:
        """A node without a cluster asks to join this one."""


class Answer(NamedTuple):
    """What a callee does about one message of a caller that is not accepted yet."""

    reply: PeerMessage | None = None
    caller: Hello | None = None
    """Accepted: where it lives is news."""
    ends: bool = True
    """Whether the connection ends, after the reply if there is one."""
    complaint: str = ""
    """For the log."""


class Callers:
    """What a node knows of the nodes that call it, from one connection to the next."""

    def __init__(self, secret: bytes = b"", nonce: Callable[[], bytes] = bytes) -> None:
        """`secret`: the cluster's; b"": none. With one, `nonce` returns bytes that were never used before."""
        self.secret = secret
        self.nonce = nonce
        self._seen: dict[int, tuple[str, int]] = {}  # node -> directory and start of its latest call
        self._connected: dict[int, int] = {}  # node -> start

    def flaw(self, hello: Hello) -> str:
        """Return what earlier calls of that node say against this one; "" if nothing does."""
        directory, incarnation = self._seen.get(hello.node_id, ("", 0))
        if directory == hello.directory_id and start_number(incarnation) > start_number(hello.incarnation):
            return "a later start of that node has called already"
        if self._connected.get(hello.node_id, hello.incarnation) != hello.incarnation:
            return (
                f"another process of node {hello.node_id} is connected, start "
                f"{start_number(self._connected[hello.node_id])}: only one may run"
            )
        return ""

    def accept(self, hello: Hello) -> None:
        """Remember the start of an accepted caller; unless it only introduces itself, it is connected now."""
        self._seen[hello.node_id] = hello.directory_id, hello.incarnation
        if hello.target != ANY_NODE:
            self._connected[hello.node_id] = hello.incarnation

    def gone(self, node_id: int) -> None:
        """The connection of an accepted caller has ended, and no later one has replaced it."""
        self._connected.pop(node_id, None)


class CalleeSide:
    """A connection at the node that was called, until it is decided."""

    def __init__(
        self, callers: Callers, judge: CallerJudge, certified: Callable[[int], str] = lambda node: ""
    ) -> None:
        """`certified` returns what the caller's certificate has against its claim to be a node, or ""."""
        self._callers = callers
        self._judge = judge
        self._certified = certified
        self._challenged: tuple[Hello | Join, bytes] | None = None

    def on_message(self, message: PeerMessage) -> Answer:
        """Return what to do about the caller's next message. An answer that ends is the last."""
        if self._challenged is not None:
            return self._on_proof(message, *self._challenged)
        if not isinstance(message, Hello | Join):
            return Answer(complaint="dropped a caller on the peer port that did not introduce itself")
        if flaw := self._certified(message.node_id) or shape_flaw(message):
            return _refused(message, flaw)
        if not self._callers.secret:
            return self._decide(message)
        if len(message.nonce) != NONCE_BYTES:
            return _refused(message, "this cluster has a secret: start the node with --cluster-secret-file")
        nonce = self._callers.nonce()
        assert len(nonce) == NONCE_BYTES
        self._challenged = message, nonce
        version = _chosen(message)
        proof = prove(self._callers.secret, _CALLEE, message, nonce, version)
        return Answer(Challenge(nonce=nonce, proof=proof, version=version), ends=False)

    def _on_proof(self, message: PeerMessage, first: Hello | Join, nonce: bytes) -> Answer:
        expected = prove(self._callers.secret, _CALLER, first, nonce, _chosen(first))
        if not isinstance(message, Proof) or not hmac.compare_digest(message.proof, expected):
            return _refused(first, "it does not know the cluster's secret")
        return self._decide(first)

    def _decide(self, first: Hello | Join) -> Answer:
        judge = self._judge
        if isinstance(first, Join):
            return Answer(judge.on_join(first))
        if error := judge.judge_hello(first) or self._callers.flaw(first):
            return _refused(first, error, final=judge.is_final(first), removed=judge.is_removed(first))
        self._callers.accept(first)
        reply = HelloReply(error="", cluster_id=first.cluster_id, version=_chosen(first))
        if first.target == ANY_NODE:
            return Answer(msgspec.structs.replace(reply, addresses=judge.addresses()), first)
        reply = msgspec.structs.replace(reply, directory_id=judge.directory_id())
        return Answer(reply, first, ends=False)


def _refused(first: Hello | Join, error: str, *, final: bool = False, removed: bool = False) -> Answer:
    # A Join is asked again until the node is taken in, unless it is told that asking cannot help.
    reply = _refusal(first, error, final=final or isinstance(first, Join), removed=removed)
    return Answer(reply, complaint=f"refused a caller that says it is node {first.node_id}: {error}")


def _refusal(
    first: Hello | Join, error: str, *, final: bool = False, removed: bool = False
) -> HelloReply | JoinReply:
    """The reply against a caller, in the form that answers what it said first."""
    if isinstance(first, Hello):
        return HelloReply(error=error, cluster_id="", final=final, removed=removed)
    return join_refused(error, final=final)


def join_refused(error: str, *, final: bool = False) -> JoinReply:
    """The reply to a Join of a node that is not taken in (yet); `final`: asking again cannot help."""
    return JoinReply(done=False, error=error, cluster_id="", addresses={}, final=final)


class CallerSide:
    """A connection at the node that dialled it, until its callee has decided."""

    def __init__(self, first: Hello | Join, secret: bytes = b"", nonce: bytes = b"") -> None:
        """`first`: what to say first. With a `secret`, `nonce` has `NONCE_BYTES` that never came before."""
        assert not secret or len(nonce) == NONCE_BYTES
        self.first = msgspec.structs.replace(first, nonce=nonce) if secret else first
        self.verdict: HelloReply | JoinReply | None = None
        """The callee's, or in the same form why this end gives up."""
        self._secret = secret
        self._proven = not secret
        self._version: int | None = None  # as the callee has proven it

    def on_message(self, message: PeerMessage) -> Proof | None:
        """Take the callee's next message; return what to say to it. The end is when there is a verdict."""
        assert self.verdict is None, "decided already"
        if isinstance(message, Challenge):
            return self._on_challenge(message)
        if not isinstance(message, HelloReply if isinstance(self.first, Hello) else JoinReply):
            self.give_up(f"that is no reply to {type(self.first).__name__}")
        elif self._proven:
            self.verdict = self._with_version(message)
        else:
            self.give_up(message.error or "it does not prove that it knows the cluster's secret")
        return None

    def _on_challenge(self, challenge: Challenge) -> Proof | None:
        if not self._secret:
            self.give_up("it asks for the cluster's secret: give --cluster-secret-file")
            return None
        expected = prove(self._secret, _CALLEE, self.first, challenge.nonce, challenge.version)
        right = len(challenge.nonce) == NONCE_BYTES and hmac.compare_digest(challenge.proof, expected)
        if self._proven or not right:
            self.give_up("it does not know the cluster's secret")
            return None
        self._proven, self._version = True, challenge.version
        return Proof(proof=prove(self._secret, _CALLER, self.first, challenge.nonce, challenge.version))

    def _with_version(self, verdict: HelloReply | JoinReply) -> HelloReply | JoinReply:
        """The verdict with the version that is spoken from now on: one that was offered, and no other."""
        first = self.first
        if not isinstance(first, Hello) or not isinstance(verdict, HelloReply) or verdict.error:
            return verdict
        version = verdict.version or first.version
        if not first.version <= version <= _latest(first) or self._version not in (None, verdict.version):
            return _refusal(first, f"it answers in version {version}, which was not offered or not proven")
        return msgspec.structs.replace(verdict, version=version)

    def give_up(self, error: str) -> None:
        """There will be no verdict: `error` is this end's own, and never final."""
        self.verdict = _refusal(self.first, error)


def prove(secret: bytes, role: str, first: Hello | Join, nonce: bytes, version: int = 0) -> bytes:
    """Return the proof of one end, of 32 bytes. `nonce` and `version` are the callee's."""
    claims = list(msgspec.structs.astuple(first))
    known_to_all = first.__struct_fields__.index("nonce") + 1
    while len(claims) > known_to_all and not claims[-1]:
        claims.pop()
    chosen = (version,) if version else ()
    said = (role, *chosen, nonce, type(first).__name__, *claims)
    return hmac.digest(secret, msgspec.msgpack.encode(said), "sha256")


def _latest(hello: Hello) -> int:
    """The latest version that a caller speaks."""
    return max(hello.version, hello.newest)


def choice(hello: Hello) -> int:
    """Return the version in which this release answers a caller: the highest that both speak; 0: none is."""
    highest = min(VERSION, _latest(hello))
    return highest if highest >= max(OLDEST, hello.version) else 0


def _chosen(first: Hello | Join) -> int:
    """As a callee says it: 0 for the first one that the caller speaks."""
    if isinstance(first, Join) or choice(first) == first.version:
        return 0
    return choice(first)


def _versions(oldest: int, newest: int) -> str:
    return f"version {oldest}" if oldest == newest else f"versions {oldest} to {newest}"


def shape_flaw(first: Hello | Join) -> str:
    """Return what is wrong with a first message in itself, "" if nothing is.

    A bad address in a Join would be dialled for ever, and an endless id would be kept in the metadata.

    >>> [
    ...     shape_flaw(Join(node_id=7, directory_id="d", raft_address=address, client_address=""))
    ...     for address in ("[::1]:6000", "node-7:70000")
    ... ]
    ['', "the raft address must be HOST:PORT with a port of 1 to 65535, not 'node-7:70000'"]
    """
    if isinstance(first, Hello) and not choice(first):
        theirs, ours = _versions(first.version, _latest(first)), _versions(OLDEST, VERSION)
        return f"it speaks {theirs}, this node {ours}: upgrade by way of a release that speaks both"
    if not 0 < first.node_id <= MAX_NODE_ID:
        return f"{first.node_id} is no id of a node: ids are 1 to {MAX_NODE_ID}"
    if not 0 < len(first.directory_id) <= MAX_ID:
        return f"the id of a data directory has 1 to {MAX_ID} characters"
    name = first.cluster_id if isinstance(first, Hello) else ""
    if len(name) > MAX_ID:
        return f"the id of a cluster has at most {MAX_ID} characters"
    client_address = first.client_address if isinstance(first, Join) else ""
    if len(first.raft_address) > MAX_ADDRESS or len(client_address) > MAX_ADDRESS:
        return f"an address of more than {MAX_ADDRESS} characters"
    if isinstance(first, Join) or first.raft_address:
        try:
            parse_address(first.raft_address)
        except ValueError as error:
            return f"the raft address {error}"
    return ""
