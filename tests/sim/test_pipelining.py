"""A client that pipelines requests of all kinds: each takes effect in its turn, whatever goes wrong."""

from __future__ import annotations

import pytest

from walrus.broker.ordering import RequestOrder
from walrus.sim import faults
from walrus.sim.options import Options
from walrus.sim.pipeliner import Pipeliner
from walrus.sim.run import FailedRun, Simulation, simulate

MIXED = Options(producers=1, consumers=1, fetchers=0, pipeliners=3, newcomers=0, codec=True)


@pytest.mark.parametrize("names", ["none", "crash,pause", "network", "power,crash", "members,network"])
def test_requests_of_one_connection_take_effect_in_their_order(names: str) -> None:
    for seed in (1, 2):
        schedule = faults.draw(seed, faults.classes(names), MIXED.nodes, 1.0, 60.0)
        simulation = Simulation(seed, MIXED, schedule)
        simulation.run(5_000)
        mixers = [client for client in simulation.producers if isinstance(client, Pipeliner)]
        assert len(mixers) == 3 and sum(mixer.checked for mixer in mixers) > 30, (
            "ReadYourWrites was looked at"
        )


@pytest.mark.parametrize("kind", ["GET", "FETCH", "PUT"])
def test_a_connection_without_the_barrier_is_caught(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: requests of this kind are started whatever is under way."""
    admits = RequestOrder.admits

    def careless(order: RequestOrder, request: object) -> bool:
        return type(request).__name__.upper() == kind or admits(order, request)  # type: ignore[arg-type]

    monkeypatch.setattr(RequestOrder, "admits", careless)
    monkeypatch.setattr(RequestOrder, "started", lambda order, request: None)
    outcomes = [simulate(seed, MIXED, 4_000, faults.classes("none")) for seed in range(3, 6)]
    caught = [outcome.name for outcome in outcomes if isinstance(outcome, FailedRun)]
    assert caught and set(caught) <= {"ReadYourWrites"}
