"""The network between simulated nodes: links that delay, lose, duplicate, reorder, drop or hold messages.

A *link* is one direction between two nodes. The fate of a message is decided when it is sent, by the link's
state and the world's random numbers. It is a list of arrival times: none (lost), one, or two (duplicated).

    cut       messages vanish, and after a while the sender's connection breaks
    stopped   messages wait until the link runs again (a peer that reads nothing, a switch that reboots)
    weather   delay, loss, duplication and reordering, everywhere or on one link

Real connections are TCP: in order and without loss until they break. The simulator is deliberately harsher.
A message sent over a connection that has ended may still arrive, even at the receiver's next process. The
protocol must not depend on TCP's guarantees.

Invariant: with `CALM` weather a link neither loses nor reorders.
"""

from __future__ import annotations

from random import Random
from typing import NamedTuple


class Weather(NamedTuple):
    """How a link treats messages while it is neither cut nor stopped."""

    least: float = 0.0002
    """The shortest and the longest transit time, in seconds."""
    most: float = 0.001
    loss: float = 0.0
    duplicate: float = 0.0
    ordered: bool = True
    late: float = 0.0
    """The chance that a message takes up to three seconds, longer than its sender waits before it acts."""


CALM = Weather()


class Link:
    """One direction between two nodes."""

    __slots__ = ("cuts", "last_at", "stopped_until", "weather")

    def __init__(self) -> None:
        self.cuts = 0  # the number of overlapping faults that cut the link
        self.stopped_until = 0.0
        self.weather: Weather | None = None  # the link's own weather, if it differs from the network's
        self.last_at = 0.0  # arrival time of the latest message, for links that keep the order


class Network:
    """All links between nodes; a link that no fault has touched runs."""

    def __init__(self, rng: Random, weather: Weather = CALM) -> None:
        self.weather = weather
        self._random = rng.random
        self._links: dict[tuple[int, int], Link] = {}

    def link(self, sender: int, to: int) -> Link:
        """Return the link in this direction."""
        link = self._links.get((sender, to))
        if link is None:
            link = self._links[(sender, to)] = Link()
        return link

    def passes(self, one: int, other: int) -> bool:
        """Return whether a connection between the two can be made: messages pass in both directions."""
        return not (self.link(one, other).cuts or self.link(other, one).cuts)

    def mend(self) -> None:
        """Let every link run."""
        for link in self._links.values():
            link.cuts, link.stopped_until, link.weather = 0, 0.0, None

    def arrivals(self, sender: int, to: int, now: float) -> list[float]:
        """Return when a message that is sent now arrives: no time, one or two."""
        link = self._links.get((sender, to)) or self.link(sender, to)
        weather = link.weather or self.weather
        if link.cuts:
            return []
        if weather.loss and self._random() < weather.loss:
            return []
        at = now + weather.least + self._random() * (weather.most - weather.least)
        if weather.late and self._random() < weather.late:
            return [at + 3 * self._random()]
        if at < link.stopped_until:
            at += link.stopped_until - now
        if weather.ordered:
            if at < link.last_at:
                at = link.last_at
            link.last_at = at
        if weather.duplicate and self._random() < weather.duplicate:
            return [at, at + self._random() * 4 * weather.most]
        return [at]
