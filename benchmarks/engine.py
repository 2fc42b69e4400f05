"""The engine's benchmark: limits of the machine, Walrus and its peers, measured in one run.

    python -m benchmarks.engine                 everything, median of 5 (about four minutes)
    python -m benchmarks.engine --quick         a smaller run to look at, median of 3
    python -m benchmarks.engine append durable  only the groups whose names begin like this
    python -m benchmarks.engine --json FILE --plot docs/engine-benchmark.png

Rounds are interleaved within a group (first every row once, then every row again, in another order), so that
a slow moment of the machine affects all rows alike. On a machine that others use too, `--patience 5` waits
for quiet moments, and `--cpu` counts processor time instead of wall time in the groups that do not wait for
a disk or a thread (work that a store moves to its own threads is then not counted). Each measurement has a
new directory on a real disk (`--directory`); no garbage is collected while a loop is timed. Ratios are to
the bare loop named first in each table.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import shutil
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from time import monotonic, perf_counter, sleep, thread_time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from benchmarks.engine_peers import PEERS
from benchmarks.engine_rows import QUICK, Group, Scale, child, groups
from benchmarks.engine_subjects import Clock
from benchmarks.engine_targets import Results, judge

_GLANCE = 0.2  # seconds to look at the processors
_QUIET = 0.75  # of their time has to be idle

STYLES = {"limit": "dim", "walrus": "bold cyan", "peer": ""}


def processors() -> tuple[int, int]:
    """Return the idle ticks of the machine's processors, and all ticks; zeros without /proc/stat."""
    try:
        ticks = [int(field) for field in Path("/proc/stat").read_text().split("\n")[0].split()[1:]]
    except OSError:
        return 0, 0
    return ticks[3] + ticks[4], sum(ticks)


def wait_for_quiet(limit: float) -> None:
    """Wait, for `limit` seconds at most, until other programs leave the processors idle for a moment."""
    deadline = monotonic() + limit
    while monotonic() < deadline:
        idle, total = processors()
        sleep(_GLANCE)
        now_idle, now_total = processors()
        if now_idle - idle >= _QUIET * (now_total - total):
            return


def measure(
    group: Group, rounds: int, patience: float, cpu: bool, home: Path, progress: Progress
) -> dict[str, list[float]]:
    """Measure every row of the group `rounds` times, in another order each time.

    What a row leaves behind (above all, pages that were just freed) makes the next one faster or slower.
    """
    values: dict[str, list[float]] = {row.name: [] for row in group.rows}
    task = progress.add_task(group.title, total=rounds * len(group.rows))
    for number in range(rounds):
        for row in random.Random(number).sample(group.rows, len(group.rows)):
            directory = Path(tempfile.mkdtemp(dir=home))
            os.sync()  # else the first row that uses the file system pays for what others left behind
            Clock.now = staticmethod(thread_time if cpu and not group.waits else perf_counter)
            wait_for_quiet(patience)
            try:
                values[row.name].append(row.run(directory))
            finally:
                shutil.rmtree(directory)
            progress.advance(task)
    progress.remove_task(task)
    return values


def shown(value: float, unit: str) -> str:
    """Format a number for people.

    >>> shown(1_234_567, "/s"), shown(7_100, "/s"), shown(3.14159, " ms")
    ('1.23 M/s', '7.1 k/s', '3.1 ms')
    """
    if unit == "/s" and value >= 1e6:
        return f"{value / 1e6:.2f} M/s"
    if unit == "/s" and value >= 1e3:
        return f"{value / 1e3:.1f} k/s"
    return f"{value:,.1f}{unit}"


def group_table(group: Group, medians: dict[str, float]) -> Table:
    """Return one table of the report."""
    table = Table(title=group.title, title_justify="left", title_style="bold")
    table.add_column("", no_wrap=True)
    table.add_column("median", justify="right", no_wrap=True)
    table.add_column("ratio", justify="right", no_wrap=True)
    base = medians[group.reference]
    for row in group.rows:
        value = medians[row.name]
        table.add_row(row.name, shown(value, group.unit), f"{value / base:.2f}", style=STYLES[row.kind])
    return table


def extras_table(title: str, values: dict[str, float]) -> Table:
    """Return a table of the measurements that have no peers."""
    table = Table(title=title, title_justify="left", title_style="bold")
    table.add_column("", no_wrap=True)
    table.add_column("", justify="right")
    for name, value in values.items():
        table.add_row(name, f"{value:,.2f}")
    return table


def targets_table(results: Results) -> Table:
    """Return a table of the goals and the results."""
    table = Table(title="targets", title_justify="left", title_style="bold")
    for column in ("what", "at least", "measured", ""):
        table.add_column(column, justify="left" if column == "what" else "right")
    for verdict in judge(results):
        style = "" if verdict.met else "bold red"
        table.add_row(
            verdict.what, verdict.required, verdict.measured, "ok" if verdict.met else "missed", style=style
        )
    return table


def machine() -> str:
    """Describe the machine in one line."""
    load = os.getloadavg()[0]
    return (
        f"{os.cpu_count()} CPUs, {platform.system()} {platform.release()}, "
        f"CPython {platform.python_version()}, load {load:.1f}"
    )


def plot(file: Path, done: Sequence[tuple[Group, dict[str, float]]]) -> bool:
    """Draw one panel for each group, bars on a logarithmic scale; return False without matplotlib."""
    try:
        import matplotlib
    except ImportError:
        return False
    matplotlib.use("Agg")
    from matplotlib import pyplot

    colours = {"limit": "#b0b0b0", "walrus": "#1f9bb4", "peer": "#e0a458"}
    heights = [len(group.rows) + 2 for group, _ in done]
    figure, axes = pyplot.subplots(
        len(done), 1, figsize=(10, sum(heights) * 0.24), height_ratios=heights, squeeze=False
    )
    for (group, medians), axis in zip(done, axes[:, 0], strict=True):
        rows = group.rows[::-1]
        values = [medians[row.name] for row in rows]
        axis.barh([row.name for row in rows], values, color=[colours[row.kind] for row in rows], log=True)
        axis.bar_label(
            axis.containers[0], [shown(value, group.unit) for value in values], padding=3, fontsize=7
        )
        axis.set_title(group.title, loc="left", fontsize=9, fontweight="bold")
        axis.tick_params(labelsize=7)
        axis.margins(x=0.15)
        axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(file, dpi=110)
    return True


def arguments() -> argparse.Namespace:
    """Parse the command line."""
    summary = (__doc__ or "").split("\n")[0]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.engine", description=summary)
    parser.add_argument("groups", nargs="*", help="only groups whose key begins with one of these")
    parser.add_argument("--quick", action="store_true", help="less work, median of 3")
    parser.add_argument("--rounds", type=int, help="measurements per row")
    parser.add_argument(
        "--cpu", action="store_true", help="processor time of the calling thread, where nothing is waited for"
    )
    parser.add_argument(
        "--patience",
        type=float,
        default=0,
        help="seconds to wait for an idle machine before each measurement",
    )
    parser.add_argument("--json", type=Path, help="write every measurement to this file")
    parser.add_argument("--plot", type=Path, help="draw the medians into this file (needs matplotlib)")
    parser.add_argument("--directory", type=Path, default=Path("build"), help="where to write (a real disk)")
    parser.add_argument("--list", action="store_true", help="print the keys of the groups")
    options = parser.parse_args()
    keys = [group.key for group in groups(QUICK, Path())] + ["memory", "growth"]
    for prefix in options.groups:
        if not any(key.startswith(prefix) for key in keys):
            parser.error(f"no group begins with {prefix!r}; there are {', '.join(keys)}")
    return options


def wanted(key: str, prefixes: Sequence[str]) -> bool:
    """Return whether a group was asked for."""
    return not prefixes or any(key.startswith(prefix) for prefix in prefixes)


def extras(options: argparse.Namespace, scale: Scale, home: Path) -> dict[str, dict[str, float]]:
    """Measure memory and growth, each in a process of its own."""
    found = {}
    if wanted("memory", options.groups):
        (home / "memory").mkdir()
        found["memory"] = child("memory", str(home / "memory"), str(scale.gib))
        shutil.rmtree(home / "memory")
    if wanted("growth", options.groups):
        (home / "growth").mkdir()
        found["growth"] = child(
            "growth", str(home / "growth"), str(scale.grown), "cpu" if options.cpu else "wall"
        )
        shutil.rmtree(home / "growth")
    return found


def main() -> None:
    """Run, print, save."""
    options, console = arguments(), Console()
    scale = QUICK if options.quick else Scale()
    rounds = options.rounds or (3 if options.quick else 5)
    options.directory.mkdir(parents=True, exist_ok=True)
    home = Path(tempfile.mkdtemp(prefix="engine-", dir=options.directory)).resolve()
    console.print(machine())
    for peer in PEERS:
        if peer.missing():
            console.print(f"{peer.name} is not installed (pip install walrus-log\\[bench]): no rows")
    try:
        run(options, console, scale, rounds, home)
    finally:
        shutil.rmtree(home)


def run(options: argparse.Namespace, console: Console, scale: Scale, rounds: int, home: Path) -> None:
    """Measure what was asked for."""
    chosen = [group for group in groups(scale, home) if wanted(group.key, options.groups)]
    if options.list:
        console.print("\n".join(group.key for group in chosen), "memory", "growth", sep="\n")
        return
    done, raw = [], {}
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        for group in chosen:
            raw[group.key] = measure(group, rounds, options.patience, options.cpu, home, progress)
            medians = {name: statistics.median(values) for name, values in raw[group.key].items()}
            done.append((group, medians))
            console.print(group_table(group, medians))
        others = extras(options, scale, home)
    for key, title in (("memory", "memory"), ("growth", "nanoseconds per append")):
        if key in others:
            console.print(extras_table(title, others[key]))
    results = Results({group.key: medians for group, medians in done} | others, done)
    console.print(targets_table(results))
    if options.json:
        options.json.write_text(json.dumps({"machine": machine(), "rounds": raw, **others}, indent=1))
    if options.plot and not plot(options.plot, done):
        console.print("no plot: matplotlib is not installed")


if __name__ == "__main__":
    main()
