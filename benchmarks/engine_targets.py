"""What the engine promises about its speed: from one run's medians to verdicts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.engine_rows import Group


@dataclass(frozen=True)
class Verdict:
    """One promise: its goal and its result."""

    what: str
    required: str
    measured: str
    met: bool


@dataclass(frozen=True)
class Results:
    """The medians of a run, by group and row."""

    medians: dict[str, dict[str, float]]
    groups: Sequence[tuple[Group, dict[str, float]]]

    def peers(self, key: str) -> dict[str, float]:
        """Return the peers' rows of a group."""
        for group, medians in self.groups:
            if group.key == key:
                return {row.name: medians[row.name] for row in group.rows if row.kind == "peer"}
        return {}


def judge(results: Results) -> Iterator[Verdict]:
    """Yield a verdict on every promise about a group that was measured."""
    medians = results.medians
    yield from _appends(results)
    yield from _batches(results)
    if "large" in medians:
        large = medians["large"]
        mine = large["Walrus pwritev"]
        yield _ratio("1 MiB entries, pwritev", mine, 0.7, large["os.pwrite of 1 MiB"], "pwrite")
        yield _ahead("1 MiB entries", mine, results.peers("large"))
    if "durable" in medians:
        yield from _durable(results)
    if "durable-batch" in medians:
        rows = medians["durable-batch"]
        best = _best(rows, "Walrus")
        yield _ratio("durable batches of 1,000", best, 0.6, rows["join + os.pwrite + fdatasync"], "bare loop")
        yield _ahead("durable batches of 1,000", best, results.peers("durable-batch"))
    if "read" in medians:
        yield from _reads(results)
    if "open" in medians:
        yield from _opening(results)
    if "memory" in medians:
        yield from _memory(medians["memory"])
    if "growth" in medians:
        costs = medians["growth"]
        yield _within("cost per append, long log / short log", costs["long"], costs["short"])
        yield _within("cost per append, 1,000 topics / 1 topic", costs["many"], costs["one topic"])
        yield _within("... beside bare writes to as many places", *_beyond_bare(costs))


def _beyond_bare(costs: Mapping[str, float]) -> tuple[float, float]:
    """Return the cost over many topics and over one, each minus that of a bare write to as many places."""
    return costs["many"] - costs["bare, many places"], costs["one topic"] - costs["bare, one place"]


def _appends(results: Results) -> Iterator[Verdict]:
    for size in (100, 1024):
        key = f"append-{size}"
        if key not in results.medians:
            continue
        rows, peers = results.medians[key], results.peers(key)
        if size == 100:
            for bare in ("os.pwritev, header + payload", "os.pwritev, with pack and crc32"):
                yield _ratio("append, pwritev, 100 B", rows["Walrus pwritev"], 0.6, rows[bare], bare)
            yield _ratio(
                "append, mmap, 100 B", rows["Walrus mmap"], 0.9, rows["os.pwrite, growing file"], "pwrite"
            )
        yield _ahead(f"append, pwritev, {size} B", rows["Walrus pwritev"], peers)
        yield _ahead(f"append, mmap, {size} B", rows["Walrus mmap"], peers)


def _batches(results: Results) -> Iterator[Verdict]:
    for size in (100, 1024):
        key = f"batch-{size}"
        if key not in results.medians:
            continue
        rows = results.medians[key]
        if size == 100:
            bare = rows["os.pwrite of each entry"]
            yield _ratio("batches of 1,000, pwritev", rows["Walrus pwritev"], 6, bare, "pwrite")
        yield _ahead(f"batches of 1,000, {size} B", rows["Walrus pwritev"], results.peers(key))


def _durable(results: Results) -> Iterator[Verdict]:
    rows = results.medians["durable"]
    single = {name: value for name, value in rows.items() if "threads" not in name}
    best = _best(single, "Walrus")
    bare = rows["os.pwrite + fdatasync, growing file"]
    yield _ratio("durable, one thread", best, 1.1, bare, "growing file")
    yield _ahead("durable, one thread", best, results.peers("durable"))
    many = max(value for name, value in rows.items() if "threads" in name)
    yield _ratio("durable, 16 threads", many, 4, best, "one thread")


def _reads(results: Results) -> Iterator[Verdict]:
    rows, peers = results.medians["read"], results.peers("read")
    bare = rows["os.pwrite, growing file"]
    for written in ("batches", "singles"):
        for how in ("batch_read_for_topic", "entries()"):
            yield _ratio(
                f"{how}, written in {written}", rows[f"Walrus {how}, written in {written}"], 2, bare, "pwrite"
            )
        mine = rows[f"Walrus payloads(), written in {written}"]
        yield _ahead(f"payloads(), written in {written}", mine, peers)
    yield _ratio("read_next, at least once", rows["Walrus read_next, at least once"], 0.3, bare, "pwrite")


def _opening(results: Results) -> Iterator[Verdict]:
    rows = results.medians["open"]
    for after, limit in (("after a clean close", 20.0), ("after kill -9", 100.0)):
        mine = rows[f"Walrus, {after}"]
        yield Verdict(f"open {after}", f"{limit:.0f} ms at most", f"{mine:.1f} ms", mine <= limit)


def _memory(values: dict[str, float]) -> Iterator[Verdict]:
    for name in ("appending adds MB", "reading back adds MB"):
        yield Verdict(f"memory: {name}", "64 at most", f"{values[name]:.1f}", values[name] < 64)
    index = values["index bytes per entry"]
    yield Verdict("memory: index bytes per entry", "below 1", f"{index:.3f}", index < 1)


def _best(rows: dict[str, float], prefix: str) -> float:
    return max(value for name, value in rows.items() if name.startswith(prefix))


def _ratio(what: str, mine: float, factor: float, bare: float, called: str) -> Verdict:
    return Verdict(what, f"{factor} x {called}", f"{mine / bare:.2f} x", mine >= factor * bare)


def _ahead(what: str, mine: float, peers: dict[str, float]) -> Verdict:
    if not peers:
        return Verdict(what, "ahead of every peer", "no peer installed", True)
    name = max(peers, key=lambda peer: peers[peer])
    return Verdict(what, f"ahead of {name}", f"{mine / peers[name]:.2f} x", mine > peers[name])


def _within(what: str, mine: float, base: float) -> Verdict:
    return Verdict(what, "1.10 at most", f"{mine / base:.2f}", mine <= 1.10 * base)
