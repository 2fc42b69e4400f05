"""The page in a real browser: stepping, filtering, causality, the keyboard, the jump to what broke.

Debian's chromium, driven by Playwright. Without either the tests are skipped, and say what to install.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.node.harness import PATIENCE
from tests.view.films import simulated, small
from tools.browser import missing
from tools.pages import SCRUB, long
from walrus.view import html
from walrus.view.film import MAX_EVENTS, Event, Film

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(bool(missing()), reason=f"there is no browser: {missing()}"),
]


@pytest.fixture
def show(browser: Any, tmp_path: Path) -> Iterator[Any]:
    """Open the page of a film; an error in its script fails the test."""
    errors: list[str] = []
    pages = []

    def opened(film: Film, **options: Any) -> Any:
        path = tmp_path / f"{len(pages)}.html"
        html.write(film, path)
        page = browser.new_page(viewport={"width": 1280, "height": 900}, **options)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.set_default_timeout(1_000 * PATIENCE)
        pages.append(page)
        page.goto(path.as_uri())
        page.wait_for_selector("body[data-ready]")
        return page

    yield opened
    for page in pages:
        page.close()
    assert not errors


INKS = """[...new Set(new Uint32Array(
    document.querySelector("#picture").getContext("2d").getImageData(0, 0, 118, 200).data.buffer))]"""
"""The colours in the left part of the picture, where the names of the lanes are."""


RESTS = """() => {
    const [order, clock] = document.querySelector("#where").textContent.split(", ");
    return order.split(" of ")[0] === order.split(" of ")[1]
        && document.querySelector("#event .kind").textContent.includes(clock)
        && document.querySelector("#live").textContent.includes(clock);
}"""
"""What stands below the picture is about the last event, at which the slider rests."""


def told(page: Any) -> str:
    return str(page.inner_text("#live"))


def test_it_opens_at_what_broke_and_says_what(show: Any) -> None:
    page = show(small())
    assert page.inner_text("#broken-name") == "AckedDurable"
    assert "An acknowledged entry is kept" in page.inner_text("#broken-why")
    assert "node 2 Ack" in " ".join(told(page).split())
    page.keyboard.press("Home")
    assert "start 1" in told(page)
    page.click("#to-broken")
    assert "Ack" in told(page)


def test_the_arrow_keys_step_and_the_state_follows(show: Any) -> None:
    page = show(small())
    page.keyboard.press("Home")
    for _ in range(2):
        page.keyboard.press("ArrowRight")
    assert "Timeout" in told(page)
    card = page.inner_text("article.card.at")
    assert "Candidate" in card and "term 2" in " ".join(card.split())
    page.keyboard.press("Shift+ArrowRight")
    assert "node 1 sends RequestVoteRequest" in " ".join(told(page).split())
    page.keyboard.press("m")
    assert "node 2 receives RequestVoteRequest" in " ".join(told(page).split())
    page.keyboard.press("ArrowUp")
    assert "node 1" in told(page)


def test_the_causal_past_hides_what_did_not_matter(show: Any) -> None:
    page = show(small())
    assert page.inner_text("#where").startswith("10 of 10")
    page.keyboard.press("c")
    assert page.inner_text("#where").startswith("8 of 8"), "the crash of node 1 and the lost message are gone"
    assert page.get_attribute("#past", "aria-pressed") == "true"


def test_filters_leave_what_matches(show: Any) -> None:
    page = show(small())
    page.keyboard.press("/")
    page.keyboard.type("put")
    assert page.get_attribute("#scrub", "max") == "1"
    page.fill("#text", "")
    page.click("#types label:has-text('RequestVoteRequest') input")
    assert page.get_attribute("#scrub", "max") == "6"


def test_names_from_the_run_are_text(show: Any) -> None:
    film = small()
    film.events[10] = Event(0.5, "2", "step", "<img src=x onerror=alert(1)>", {"<b>": "<i>x</i>"})
    page = show(film)
    assert page.locator("#event img, #event i, #event b").count() == 0


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1024, 2560])
def test_nothing_sticks_out_at_any_width(show: Any, width: int, theme: str) -> None:
    page = show(simulated(), color_scheme=theme)
    page.set_viewport_size({"width": width, "height": 900})
    page.keyboard.press("End")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    inks = page.evaluate(INKS)
    assert len(inks) > 3, "names, lanes and marks can be told from the paper"


def test_twenty_thousand_events_make_a_page_below_five_megabytes_that_works(
    show: Any, tmp_path: Path
) -> None:
    film = long()
    assert len(film.events) == MAX_EVENTS
    path = tmp_path / "long.html"
    html.write(film, path)
    assert path.stat().st_size < 5 << 20
    page = show(film)
    page.keyboard.press("End")
    page.keyboard.press("PageUp")
    assert "node" in told(page)
    page.evaluate(SCRUB, 5)
    page.evaluate("scrub.value = scrub.max; scrub.dispatchEvent(new Event('input'))")
    page.wait_for_function(RESTS)
