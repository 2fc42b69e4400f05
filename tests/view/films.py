"""Films for the tests: a small one by hand, and one of a simulated run."""

from __future__ import annotations

from functools import cache

from walrus.sim.filming import Camera
from walrus.sim.stage import Stage, watched
from walrus.view.film import Broken, Event, Film, Lane, header


def small() -> Film:
    """Two nodes and a client: a request, an election, a lost message, a crash, and something that breaks."""
    lanes = [Lane("1", "node 1"), Lane("2", "node 2"), Lane("c", "client <c>", "client")]
    put = {"topic": "t", "segment": 1}
    events = [
        Event(0.0, "1", "up", "start 1", state={"up": True, "term": 1, "role": "Follower"}),
        Event(0.0, "2", "up", "start 1", state={"up": True, "term": 1, "role": "Follower"}),
        Event(0.1, "1", "step", "Timeout", {"term": 2}, state={"term": 2, "role": "Candidate"}),
        Event(0.1, "1", "send", "RequestVoteRequest", {"term": 2}, peer="2", message=1),
        Event(0.1, "1", "send", "RequestVoteRequest", {"term": 2}, peer="2", message=2, lost=True),
        Event(0.2, "2", "receive", "RequestVoteRequest", {"term": 2}, peer="1", message=1, state={"term": 2}),
        Event(0.2, "c", "send", "Put", put, peer="2", message=3),
        Event(0.2, "2", "receive", "Put", put, peer="c", message=3),
        Event(0.3, "2", "look", "", state={"log": [[0, 0], [1, 3], [2, 4]], "commit": 3}),
        Event(0.4, "1", "down", "kill -9", state={"up": False, "role": None}),
        Event(0.5, "2", "step", "Ack", put | {"count": 1}),
    ]
    film = Film(header("a small run", lanes, again="python -m walrus.sim --seed 1"), events)
    film.header.broken = Broken("AckedDurable", "one of three copies", 10, "An acknowledged entry is kept.")
    return film


@cache
def simulated() -> Film:
    """A second of a cluster of three at work, in which a node dies."""
    camera = Camera()
    with watched(film=camera):
        stage = Stage(3)
        stage.warm()
        stage.world.kill(stage.raft_leader())
        stage.run(1.0)
    return camera.film("a leader dies")
