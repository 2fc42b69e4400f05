"""What one PUT costs three whole nodes, in passes of their event loops and in calls: a bound that is counted.

Times on a shared machine say nothing; counts are the same everywhere. A change that needs more says so here.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.one_put_calls import CallCounter, Stage

MAX_LEADER, MAX_FOLLOWER = 480, 150
"""Calls of Python functions for one PUT with `--fsync 200`, those of asyncio included."""


@pytest.fixture(scope="module")
def counted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[CallCounter, CallCounter]]:
    """The counters of the leader and of a follower, after some PUTs."""
    directory: Path = tmp_path_factory.mktemp("one_put")
    with Stage(directory, "200") as stage:
        leader, follower = stage.run(10, warm_up=5)
        yield stage.counters[leader], stage.counters[follower]


def test_a_put_takes_a_pass_of_the_loop_for_each_message_and_no_more(
    counted: tuple[CallCounter, CallCounter],
) -> None:
    """On the leader the request and both answers, on a follower the frame; each pass ends with one turn."""
    for counter, messages in zip(counted, (3, 1), strict=True):
        calls = counter.by_function()
        assert calls["socket.recv_into"] == messages
        assert calls["epoll.poll"] == messages, "a look for events that brings none"
        assert sum(count for name, count in calls.items() if name.endswith(" Turn.end")) == messages
        assert calls["socket.send"] == messages, "two frames and an answer; on a follower an answer"


def test_a_put_takes_no_more_calls_than_it_did(counted: tuple[CallCounter, CallCounter]) -> None:
    for counter, most in zip(counted, (MAX_LEADER, MAX_FOLLOWER), strict=True):
        assert counter.totals()[0] <= most
