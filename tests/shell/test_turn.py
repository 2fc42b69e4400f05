"""A turn ends once, after everything that arrived together, in the pass in which it arrived."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from types import SimpleNamespace

import pytest

from walrus.shell.event_loop import BatchedEventLoop
from walrus.shell.turn import Turn
from walrus.wire.effects import Effect, LogLine, Outbox

PATIENCE = 120.0


class Controller:
    """Notes what happens, in order; wants a line to be logged in each turn."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.data = SimpleNamespace(written=0)
        self.outbox = Outbox(1)
        self.deadline = float("inf")
        self.turns_behind = 0

    @property
    def behind(self) -> bool:
        return self.turns_behind > 0

    def flush(self, now: float) -> None:
        self.events.append("flush")
        self.turns_behind = max(self.turns_behind - 1, 0)
        self.outbox.log("an effect")

    def take_effects(self) -> list[Effect]:
        return self.outbox.take()

    def on_data_durable(self, number: int, now: float) -> None:
        self.events.append(f"durable {number}")

    def on_tick(self, now: float) -> None:
        self.events.append("tick")
        self.deadline = float("inf")

    def next_deadline(self, now: float) -> float:
        return self.deadline


class Stage:
    """A turn, two sockets whose data wakes it, and a count of the passes of the loop."""

    def __init__(self, synced_each: bool = True) -> None:
        self.controller = Controller()
        self.on_effect: Callable[[], None] = lambda: None
        self.turn = Turn(
            self.controller,  # type: ignore[arg-type]
            carry_out=self._carry_out,
            flush_connections=lambda: self.controller.events.append("sent"),
            commits=[],
            synced_each=synced_each,
            grain=0.0,
        )
        self.pairs = [socket.socketpair() for _ in range(2)]
        self.passes = 0
        loop = asyncio.get_running_loop()
        assert isinstance(loop, BatchedEventLoop)
        select = loop.batches.select

        def counted(timeout: float | None = None) -> list[object]:
            self.passes += 1
            self.controller.events.append("select")
            return select(timeout)  # type: ignore[return-value]

        loop.batches.select = counted  # type: ignore[method-assign,assignment]
        for here, _ in self.pairs:
            loop.add_reader(here, self._on_readable, here)

    def _on_readable(self, here: socket.socket) -> None:
        here.recv(100)
        self.controller.events.append("arrived")
        self.turn.wake()

    def _carry_out(self, effect: Effect) -> None:
        assert isinstance(effect, LogLine)
        self.controller.events.append("effect")
        self.on_effect()

    async def until(self, event: str, count: int = 1) -> None:
        while self.controller.events.count(event) < count:
            await asyncio.sleep(0)

    def close(self) -> None:
        for here, there in self.pairs:
            asyncio.get_running_loop().remove_reader(here)
            here.close()
            there.close()


def play(scenario: Callable[[Stage], Awaitable[None]], synced_each: bool = True) -> None:
    """Run a scenario to its end, or give up."""

    async def run() -> None:
        stage = Stage(synced_each)
        try:
            async with asyncio.timeout(PATIENCE):
                await scenario(stage)
        finally:
            stage.close()

    with asyncio.Runner(loop_factory=BatchedEventLoop) as runner:
        runner.run(run())


def test_what_arrives_together_is_flushed_once_without_another_look_for_events() -> None:
    async def scenario(stage: Stage) -> None:
        for _, there in stage.pairs:
            there.send(b"x")
        await stage.until("sent")
        events = stage.controller.events
        first = events.index("arrived")
        assert events[first : first + 5] == ["arrived", "arrived", "flush", "effect", "sent"]
        assert events.count("flush") == 1

    play(scenario)


@pytest.mark.parametrize("turns", [1, 5])
def test_every_batch_of_events_has_its_turn(turns: int) -> None:
    async def scenario(stage: Stage) -> None:
        for turn in range(1, turns + 1):
            stage.pairs[0][1].send(b"x")
            await stage.until("sent", turn)
        assert stage.controller.events.count("flush") == turns

    play(scenario)


def test_a_wake_outside_of_a_batch_of_events_ends_in_a_turn_too() -> None:
    async def scenario(stage: Stage) -> None:
        stage.turn.wake()
        stage.turn.wake()
        await stage.until("sent")
        assert stage.controller.events.count("flush") == 1

    play(scenario)


def test_what_effects_leave_to_be_sent_is_sent_without_another_turn() -> None:
    async def scenario(stage: Stage) -> None:
        stage.on_effect = stage.turn.wake_to_send
        stage.pairs[0][1].send(b"x")
        await stage.until("sent")
        await asyncio.sleep(0)
        assert stage.controller.events.count("flush") == 1
        stage.on_effect = lambda: None
        stage.turn.wake_to_send()  # outside of a turn, as for a reply that the shell gives by itself
        await stage.until("sent", 2)

    play(scenario)


def test_what_an_effect_brings_about_has_another_turn() -> None:
    async def scenario(stage: Stage) -> None:
        def once() -> None:
            stage.on_effect = lambda: None
            stage.turn.wake()

        stage.on_effect = once
        stage.pairs[0][1].send(b"x")
        await stage.until("sent", 2)
        assert stage.controller.events.count("flush") == 2

    play(scenario)


def test_a_pass_in_which_nothing_happened_has_no_turn() -> None:
    async def scenario(stage: Stage) -> None:
        other, there = socket.socketpair()
        loop = asyncio.get_running_loop()
        loop.add_reader(other, lambda: stage.controller.events.append("nothing of ours"))
        there.send(b"x")
        await stage.until("nothing of ours")
        loop.remove_reader(other)
        assert "flush" not in stage.controller.events
        other.close()
        there.close()

    play(scenario)


def test_the_deadline_of_the_controller_is_a_tick_and_a_turn() -> None:
    async def scenario(stage: Stage) -> None:
        stage.controller.deadline = 0.0
        stage.turn.wake()
        await stage.until("tick")
        await stage.until("sent", 2)

    play(scenario)


def test_without_syncs_a_turn_goes_on_until_all_that_it_wrote_is_reported() -> None:
    async def scenario(stage: Stage) -> None:
        flush = stage.controller.flush

        def writing(now: float) -> None:
            flush(now)
            if stage.controller.data.written < 2:
                stage.controller.data.written += 1

        stage.controller.flush = writing  # type: ignore[method-assign]
        stage.turn.wake()
        await stage.until("sent")
        assert [event for event in stage.controller.events if event != "select"] == [
            *("flush", "durable 1", "flush", "durable 2", "flush"),
            *("effect", "effect", "effect", "sent"),
        ]

    play(scenario, synced_each=False)


def test_nothing_is_flushed_or_carried_out_after_the_stop() -> None:
    async def scenario(stage: Stage) -> None:
        stage.turn.wake()
        stage.turn.stop()
        for _ in range(10):
            await asyncio.sleep(0)
        stage.pairs[0][1].send(b"x")
        await stage.until("arrived")
        assert not {"flush", "effect", "sent"} & set(stage.controller.events)

    play(scenario)


def test_while_the_controller_is_behind_the_next_turn_follows_a_look_for_events() -> None:
    async def scenario(stage: Stage) -> None:
        stage.controller.turns_behind = 3
        stage.pairs[0][1].send(b"x")
        await stage.until("flush", 3)
        for _ in range(5):
            await asyncio.sleep(0)
        events = stage.controller.events
        assert events.count("flush") == 3, "no turn more than it takes"
        first, last = events.index("flush"), len(events) - 1 - events[::-1].index("flush")
        assert events[first:last].count("select") >= 2, "what arrives meanwhile is heard in between"

    play(scenario)
