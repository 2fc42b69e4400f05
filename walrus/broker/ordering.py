"""The order of one connection's requests: which of them may be in progress at the same time.

A client may send many requests without waiting, and they take effect as if it had waited: a PUT behind the
REGISTER of its topic finds the topic, a GET or FETCH behind a PUT sees what was acknowledged, a PUT behind a
GET is not what that GET returns.

The mechanism is a barrier per topic. Requests of one kind for one topic are in progress together, because
the component that carries them out keeps their order, or needs none:

    PUT        the router sends and answers a topic's PUTs in order (`router.py`)
    GET        a group's GETs are answered in order (`consumers.py`)
    RECEIVE, ACK, NACK, EXTEND  one kind: an ACK must not wait until an earlier RECEIVE gets its entry
    FETCH, FIND, STATE         change nothing
    REGISTER, RECOVER          are idempotent
    CONFIGURE, DELETE          no two at a time: the second must see the effect of the first

A request of another kind waits until all earlier ones for its topic are answered. An acknowledged PUT is in
the leader's commit index, or in the count of a sealed segment, before its answer leaves; so a read that
begins after it cannot miss it. LEAVE and METRICS concern the whole cluster: they wait for everything, and
everything waits for them. An invalid request is refused in its place and waits for nothing; nor does HELLO,
which sets the format of the replies to the requests after it.

A pipelining client loses only the pipelining across kinds: replies come in order anyway.

Left out: an order among topics. Two PUTs to two topics are in progress together, and a failure can leave the
second written and the first not; a client that needs that order waits for the first answer.

Invariants: the requests in progress for one topic are of one kind; none is in progress beside LEAVE or
METRICS.
"""

from __future__ import annotations

from typing import Final, TypeAlias

from walrus.protocol import Ack, Auth, Configure, Delete, Extend, Greeting, Invalid, Nack, Receive, Request

Lane: TypeAlias = str | None
"""The topic that a request concerns; `EVERYTHING` if all, None if none."""

EVERYTHING: Final = ""
"""The lane of requests that concern everything; no topic has this name."""


def lane_of(request: Request) -> Lane:
    """Return the lane of a request: it is in order with the requests of that lane."""
    return None if isinstance(request, Invalid | Greeting | Auth) else getattr(request, "topic", EVERYTHING)


def _kind(request: Request) -> type[Request]:
    return Receive if isinstance(request, Receive | Ack | Nack | Extend) else type(request)


class RequestOrder:
    """The requests of one connection that are in progress."""

    __slots__ = ("_under_way",)

    def __init__(self) -> None:
        self._under_way: dict[str, tuple[type[Request], int]] = {}  # lane -> kind, how many

    def admits(self, request: Request) -> bool:
        """Whether the next request may be started now."""
        lane = lane_of(request)
        if lane is None or not self._under_way:
            return True
        if lane == EVERYTHING or EVERYTHING in self._under_way:
            return False
        if isinstance(request, Configure | Delete) and lane in self._under_way:
            return False
        kind, _ = self._under_way.get(lane, (_kind(request), 0))
        return kind is _kind(request)

    def started(self, request: Request) -> Lane:
        """Note that a request was started; return its lane, for `answered`."""
        assert self.admits(request), f"{request} overtakes what was sent before it"
        lane = lane_of(request)
        if lane is not None:
            kind, count = self._under_way.get(lane, (_kind(request), 0))
            self._under_way[lane] = kind, count + 1
        return lane

    def answered(self, lane: Lane) -> None:
        """Note that a request of this lane has all its replies."""
        if lane is None:
            return
        kind, count = self._under_way.pop(lane)
        if count > 1:
            self._under_way[lane] = kind, count - 1
