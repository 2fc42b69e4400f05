"""Strays on the peers' port of simulated nodes get nowhere, and a node that lets one in is noticed."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from walrus.broker import handshake
from walrus.broker.membership import Members
from walrus.sim import strays
from walrus.sim.faults import Fault
from walrus.sim.greeting import SECRET, nonce
from walrus.sim.host import Host
from walrus.sim.options import Options
from walrus.sim.run import FailedRun, Simulation, attempt
from walrus.sim.violation import Violation
from walrus.sim.world import World


@pytest.fixture(scope="module")
def working() -> World:
    """Three nodes that have started more than once, and know it."""
    world = Simulation(1, Options(think=0.1), []).world
    for node in (1, 2, 3):
        world.run_until(lambda: False, 0.2)
        world.kill(node)
        world.start(node)
    assert world.run_until(lambda: all(map(_knows_starts, world.live())), 5.0)
    return world


def _knows_starts(host: Host) -> bool:
    assert host.controller is not None
    return {node.incarnation for node in host.controller.metadata.nodes.values()} == {2}


@pytest.fixture
def world(working: World) -> World:
    """They, as if no node had called another one since they started."""
    for host in working.hosts.values():
        host.callers = handshake.Callers(SECRET, nonce)
    return working


def call_often(world: World, calls: int = 150) -> None:
    for number in range(calls):
        strays.call(world, float(number), number % 3 + 1, (number + 1) % 3 + 1)


def test_no_stray_of_any_kind_gets_anywhere(world: World) -> None:
    call_often(world)
    assert {kind for kind in strays.KINDS if not world.seen[f"stray {kind}"]} == set()
    assert world.seen["stray ancestor"] > 10, "the nodes know starts that came before"


def a_proof_that_is_not_compared(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(handshake.CalleeSide, "_on_proof", lambda self, message, first, nonce: self._decide(first))


def a_secret_that_is_not_asked_for(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(handshake.Callers, "secret", property(lambda self: b"", lambda *_: None), False)


def a_nonce_that_comes_twice(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(
        handshake.Callers, "nonce", property(lambda self: lambda: bytes(32), lambda *_: None), False
    )
    patch.setattr(strays, "nonce", lambda: bytes(32))


def a_directory_that_is_not_compared(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Members, "_flaw", lambda self, hello: "")


def a_cluster_that_is_not_compared(patch: pytest.MonkeyPatch) -> None:
    judge = Members.judge_hello

    def other(self: Members, hello: handshake.Hello, now: float) -> str:
        error = judge(self, hello, now)
        return "" if error.startswith("another cluster") else error

    patch.setattr(Members, "judge_hello", other)


def an_earlier_start_that_is_not_noticed(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Members, "_older", lambda self, hello: "")
    patch.setattr(handshake.Callers, "flaw", lambda self, hello: "")


def a_refusal_that_tells_the_cluster(patch: pytest.MonkeyPatch) -> None:
    refusal = handshake._refusal
    patch.setattr(handshake, "_refusal", lambda first, error, **more: told(refusal(first, error, **more)))


def told(reply: handshake.HelloReply | handshake.JoinReply) -> handshake.HelloReply | handshake.JoinReply:
    return handshake.msgspec.structs.replace(reply, cluster_id="simulated")


@pytest.mark.parametrize(
    "slip",
    [
        a_proof_that_is_not_compared,
        a_secret_that_is_not_asked_for,
        a_nonce_that_comes_twice,
        a_directory_that_is_not_compared,
        a_cluster_that_is_not_compared,
        an_earlier_start_that_is_not_noticed,
        a_refusal_that_tells_the_cluster,
    ],
)
def test_a_node_that_lets_one_in_is_noticed(
    world: World, slip: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    slip(monkeypatch)
    with pytest.raises(Violation, match="OnlyMembers"):
        call_often(world)


def test_a_run_ends_with_the_name_of_what_was_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    a_proof_that_is_not_compared(monkeypatch)
    schedule = [Fault(at=0.1 + number / 200, kind="reset") for number in range(40)]
    outcome = attempt(Simulation(1, Options(), schedule), 1_000, None)
    assert isinstance(outcome, FailedRun) and outcome.name == "OnlyMembers", outcome
