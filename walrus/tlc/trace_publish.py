"""Recorded runs for PublishTrace.tla: what happened to the numbered entries of each topic.

Publish.tla is about one topic, so a run has one part for each topic that producers publish to (PUB), and
each part is followed separately. An event about several entries becomes one event for each: an answer whose
first entries are repetitions becomes one `Repeat` for each of those, then one `AnswerPub` for each of the
others.

A topic that was deleted is left out: its producers begin anew when it is registered again, which Publish.tla
does not know. A run in which acknowledged entries may be lost is left out, too: an operator forced a
recovery, or power was lost where not every entry was synced.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from walrus.segments import MAX_PRODUCERS
from walrus.tlc.trace_spec import UNLIMITED, Event, Run, TraceSpec, begin_of, tla_set, values_of

PUBLISHED: Final = ("PubAppend", "AnswerPub", "RefusePub")
"""The events of a writer that show that a topic is published to."""


def _topics(run: Run) -> list[str]:
    """Return the topics that some producer publishes to, except those that were deleted."""
    gone = {event["topic"] for event in run if event.get("op") in ("DeleteTopic", "EndTopic")}
    return sorted({event["topic"] for event in run if event["ev"] in PUBLISHED} - gone)


def _loses(run: Run) -> bool:
    """Return whether acknowledged entries may be lost in this run."""
    synced = begin_of(run).get("fsync_each", False)
    return any(event.get("forced") or (event["ev"] == "PowerLoss" and not synced) for event in run)


def _of_topic(run: Run, topic: str) -> Iterator[Event]:
    """Yield the events of one topic."""
    for event in run:
        name = str(event.get("op", event["ev"]))
        if name in ("Snapshot", "SnapshotTopics"):
            for _, segment in (opened for opened in event["topics"] if opened[0] == topic):
                known = [told[1:] for told in event.get("producers", ()) if told[0] == topic]
                yield {"ev": "Snapshot", "node": event["node"], "segment": segment, "producers": known}
        elif event.get("topic") == topic:
            yield from _step(name, event)


def _step(name: str, event: Event) -> Iterator[Event]:
    """Yield what the event means for the spec: one event for each of its entries."""
    told: Event = {"ev": name, **{key: event[key] for key in ("node", "segment") if key in event}}
    if name == "PubAppend":
        for at in range(event["count"]):
            yield {**told, **_entry(event, at), "place": event["start"] + at, "length": event["length"]}
    elif name == "AnswerPub":
        repeated = event["count"] - event["placed"]
        for at in range(repeated):
            yield {**told, "ev": "Repeat", **_entry(event, at)}
        for at in range(event["placed"]):
            yield {**told, **_entry(event, repeated + at), "place": event["start"] + at}
    elif name == "RefusePub":
        yield {**told, **_entry(event, 0)}
    elif name == "DropProducer":
        yield {**told, "producer": event["producer"]}
    elif name == "Ack":
        yield {**told, "count": event["count"]}
    elif name == "Seal":
        ended = {"count": event["count"], "recovered": event.get("recovered", False)}
        yield {**told, **ended, "producers": event.get("producers", [])}
    elif name == "Grant":
        yield {**told, "producers": event.get("producers", [])}


def _entry(event: Event, at: int) -> Event:
    return {"producer": event["producer"], "number": event["number"] + at}


def published(run: Run) -> dict[str, list[Event]]:
    """Return the events of each topic that is published to, with the values that PublishTrace.tla reads."""
    return {} if _loses(run) else {topic: [*_of_topic(run, topic)] for topic in _topics(run)}


def _constants(whole: Sequence[Run], runs: Sequence[Run], _: set[int]) -> dict[str, str]:
    told = [tuple(known) for run in runs for event in run for known in event.get("producers", ())]
    names = values_of(runs, "producer") | {producer for producer, _ in told}
    numbers = values_of(runs, "number") | {number for _, number in told}
    bounds = [begin_of(run).get("max_producers", MAX_PRODUCERS) for run in whole]
    return {
        "Producers": tla_set(names),
        "Entries": str(max(numbers, default=0) + 1),
        "MaxSegments": str(max(values_of(runs, "segment"), default=1) + 1),
        "MaxDrops": UNLIMITED,
        "Bound": str(max(bounds, default=MAX_PRODUCERS)),
        "Symmetry": "{}",
    }


PUBLISH = TraceSpec(name="Publish", parts=published, constants=_constants)
