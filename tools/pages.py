"""Look at the run viewer and at the console: screenshots in both themes and at three widths, and how fast.

    python -m tools.pages shots DIR     run-<width>-<theme>.png of a run with a planted bug, and
                                        console-<width>-<theme>.png of a cluster that has lost its leader
    python -m tools.pages speed         20,000 events: size of the page, time to open, frames a second beside
                                        those of a canvas with one line, what a frame costs the page's thread

Needs chromium and the extras [browser] and [console].
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import msgspec

from tools.browser import chromium, missing
from tools.watched import watched
from walrus.cluster import pause
from walrus.sim import explore_film, mutants, scenarios
from walrus.sim.explore import Bounds, explore
from walrus.sim.filming import play_scenario, write
from walrus.view import html
from walrus.view.film import MAX_EVENTS, Film, header

WIDTHS = (390, 1024, 2560)
MUTANT = "commits_old_terms"
"""Figure 8: the exploration finds it in seven steps from two leaders in turn."""

FRAMES = 120
SCRUB = """async (frames) => {
    const scrub = document.getElementById("scrub"), most = Number(scrub.max), begin = performance.now();
    for (let turn = 0; turn < frames; turn++) {
        scrub.value = Math.floor(most * turn / frames);
        scrub.dispatchEvent(new Event("input"));
        await new Promise(requestAnimationFrame);
    }
    return 1000 * frames / (performance.now() - begin);
}"""
"""Moves the slider from the beginning to the end; each frame is painted before the next begins."""
BARE = """async (frames) => {
    const ink = document.querySelector("canvas").getContext("2d"), begin = performance.now();
    for (let turn = 0; turn < frames; turn++) {
        ink.clearRect(0, 0, 1246, 258);
        ink.fillRect(turn, 0, 1, 258);
        await new Promise(requestAnimationFrame);
    }
    return 1000 * frames / (performance.now() - begin);
}"""
"""The cost of browser and machine without a viewer: a canvas of the same size with one moving line."""


def broken() -> Film:
    """Return a run that breaks an invariant."""
    with mutants.planted(mutants.find(MUTANT)):
        found = explore(Bounds(), "turns")
    return explore_film.film(found, f"python -m walrus.sim explore --start turns --mutant {MUTANT}")


def long() -> Film:
    """Return a film as long as a page can hold: one run, repeated."""
    once = play_scenario(scenarios.ALL["leader_restarts_at_once"], 1, "")
    events = [
        msgspec.structs.replace(
            event, at=event.at + 10 * turn, message=event.message and event.message + turn * 10**6
        )
        for turn in range(MAX_EVENTS // len(once.events) + 1)
        for event in once.events
    ]
    return Film(header("a long run", once.header.lanes), events[:MAX_EVENTS])


def shots(directory: Path) -> None:
    """Take screenshots of the page of `broken`, and of the console."""
    directory.mkdir(parents=True, exist_ok=True)
    page_file = directory / "run.html"
    write(broken(), page_file)
    with chromium() as browser:
        _shoot(browser, page_file.resolve().as_uri(), directory, "run")
        with tempfile.TemporaryDirectory() as scratch, watched(Path(scratch)) as seen:
            _lose_the_leader(browser, seen.url)
            _shoot(browser, seen.url, directory, "console")


def _shoot(browser: Any, address: str, directory: Path, name: str) -> None:
    """Take screenshots of one page in both themes and at all widths."""
    for theme in ("light", "dark"):
        for width in WIDTHS:
            page = browser.new_page(viewport={"width": width, "height": 1000}, color_scheme=theme)
            page.goto(address)
            page.wait_for_selector("body[data-ready]")
            for link in page.locator("#topics .link").all()[:1]:
                link.click()
                page.wait_for_selector(".strip span.open")
            page.screenshot(path=directory / f"{name}-{width}-{theme}.png", full_page=True)
            page.close()


def _lose_the_leader(browser: Any, address: str) -> None:
    """Let the cluster work for a while, kill its leader, and wait for the next one."""
    page = browser.new_page()
    page.goto(address)
    while not page.evaluate("latest && latest.puts.length > 12"):
        pause(0.1)
    page.locator("#nodes tbody tr", has_text="Raft leader").get_by_role("button", name="kill -9").click()
    page.wait_for_selector("#events li:has-text('leads Raft')")
    page.close()


def speed() -> str:
    """Measure what a page of 20,000 events costs."""
    with tempfile.TemporaryDirectory() as scratch, chromium() as browser:
        path = Path(scratch) / "long.html"
        html.write(long(), path)
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.goto(path.as_uri())
        page.wait_for_selector("body[data-ready]")
        opened = page.evaluate("performance.getEntriesByType('navigation')[0].duration")
        frames, cost = _frames(page, SCRUB)
        page.set_content('<canvas width="1246" height="258"></canvas>')
        bare, least = _frames(page, BARE)
        size = path.stat().st_size / 1e6
    return (
        f"{MAX_EVENTS:,} events: {size:.1f} MB, open in {opened:.0f} ms\n"
        f"{frames:.0f} frames a second, {cost:.1f} ms of the page's thread each\n"
        f"a canvas with one line: {bare:.0f} frames a second, {least:.1f} ms each"
    )


def _frames(page: Any, script: str) -> tuple[float, float]:
    """Return frames per second, and the page thread's processor milliseconds per frame."""
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable", {"timeDomain": "threadTicks"})

    def spent() -> float:
        metrics = session.send("Performance.getMetrics")["metrics"]
        return float(next(metric["value"] for metric in metrics if metric["name"] == "TaskDuration"))

    before = spent()
    rate = page.evaluate(script, FRAMES)
    return float(rate), 1000 * (spent() - before) / FRAMES


def main() -> int:
    """Run the command line."""
    arguments = sys.argv[1:]
    if missing():
        sys.stderr.write(f"tools.pages: there is no browser: {missing()}\n")
        return 2
    match arguments:
        case ["shots", directory]:
            shots(Path(directory))
        case ["speed"]:
            sys.stdout.write(speed() + "\n")
        case _:
            sys.stderr.write(f"{__doc__}\n")
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
