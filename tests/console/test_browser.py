"""The console in a real browser beside a real cluster: what it shows, live, and a leader killed by a click.

Debian's chromium, driven by Playwright. Without either the tests are skipped, and say what to install.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.node.harness import PATIENCE, free_ports, wait_for
from tools.browser import missing
from tools.watched import TOPICS, Watched, watched

pytest.importorskip("aiohttp", reason="pip install -e '.[console]'")

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(bool(missing()), reason=f"there is no browser: {missing()}"),
]


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    with watched(tmp_path_factory.mktemp("cluster"), base=free_ports(7)) as running:
        yield running


@pytest.fixture
def page(seen: Watched, browser: Any) -> Iterator[Any]:
    """The page, with the token in its address; an error in its script fails the test."""
    errors: list[str] = []
    opened = browser.new_page(viewport={"width": 1280, "height": 900})
    opened.on("pageerror", lambda error: errors.append(str(error)))
    opened.on("console", lambda said: errors.append(said.text) if said.type == "error" else None)
    opened.set_default_timeout(1_000 * PATIENCE)
    opened.goto(seen.url)
    opened.wait_for_selector("body[data-ready]")
    yield opened
    opened.close()
    assert not errors


LEADER = "[...document.querySelectorAll('#nodes tbody tr')].find(r => r.innerText.includes('Raft leader'))"


def until(page: Any, condition: str) -> None:
    """Wait until an expression of JavaScript is true on the page.

    Asked from outside: the page's own policy lets nothing in it evaluate text.
    """
    wait_for(lambda: page.evaluate(condition), condition)


def leader_row(page: Any) -> Any:
    return page.locator("#nodes tbody tr", has_text="Raft leader")


def test_it_shows_the_nodes_their_leader_and_the_lag_and_goes_on_without_a_reload(page: Any) -> None:
    until(page, "document.querySelectorAll('#nodes tbody tr').length === 3")
    until(page, "document.querySelector('#word')?.textContent === 'healthy'")
    wait_for(lambda: leader_row(page).count() == 1, "one leader")
    until(page, f"document.querySelectorAll('#topics .name').length === {len(TOPICS) + 1}")
    until(page, "document.querySelector('#topics')?.innerText.includes('billing')")
    until(page, "document.querySelector('#topics tr:has(.lag) td:nth-child(4)')?.innerText")
    page.evaluate("window.before = document.querySelector('#topics tr:has(.lag) td:nth-child(4)').innerText")
    until(page, "document.querySelector('#topics tr:has(.lag) td:nth-child(4)')?.innerText !== window.before")
    until(page, "parseInt(document.querySelector('#rate')?.textContent) > 0")


def test_a_look_into_a_topic_shows_its_segments_and_it_can_be_found_by_name(page: Any) -> None:
    page.fill("#find", "INV")
    until(page, "document.querySelectorAll('#topics .name').length === 1")
    page.click("#topics .link")
    page.wait_for_selector("#topics .strip span.open")
    assert "replicas" in page.get_attribute("#topics .strip span.open", "title")
    page.click("#topics .link")
    until(page, "!document.querySelector('#topics .strip')")


def test_the_leader_is_killed_with_a_click_another_one_is_seen_to_lead_and_it_is_started_again(
    page: Any, seen: Watched
) -> None:
    until(page, "document.querySelector('#word')?.textContent === 'healthy'")
    row = leader_row(page)
    victim = int(row.locator("td").first.inner_text())
    row.get_by_role("button", name="kill -9").click()
    until(page, "document.querySelector('#said')?.textContent.startsWith('SIGKILL to node')")
    wait_for(lambda: victim not in seen.cluster.running(), "the node that was killed to be gone")
    until(page, "document.querySelector('#word')?.textContent === 'degraded'")
    until(page, f"{LEADER} && !{LEADER}.innerText.startsWith('{victim}')")
    assert page.locator("#stream .good b").all_inner_texts() == ["0", "0"], "lost, and there twice"
    until(page, "document.querySelector('#events')?.innerText.includes('asks for votes')")
    with page.expect_popup() as opened:
        page.click("#film")
    film = opened.value
    film.wait_for_selector("body[data-ready]")
    assert film.inner_text("#live").endswith(f"node {victim} Crash"), "the film opens at what was done last"
    assert {"BecomeLeader", "acknowledged"} <= {
        (box.text_content() or "").split()[0] for box in film.locator("#types label").all()
    }
    film.close()
    told = page.inner_text("#events")
    assert f"node {victim} does not answer any more" in told and "leads Raft" in told
    wait_for(lambda: page.locator("#nodes tr.silent").count() == 1, "all others to answer")
    page.get_by_title(f"start node {victim}", exact=True).click()
    until(page, "document.querySelector('#word')?.textContent === 'healthy'")
    assert f"node {victim} answers again" in page.inner_text("#events")


def test_without_the_token_the_page_shows_and_does_nothing(seen: Watched, browser: Any) -> None:
    page = browser.new_page()
    page.set_default_timeout(1_000 * PATIENCE)
    page.goto(seen.url.partition("#")[0])
    page.wait_for_selector("body[data-ready]")
    page.locator("#nodes tbody tr").first.get_by_role("button", name="kill -9").click()
    until(page, "document.querySelector('#said.bad')?.textContent.startsWith('the token is missing')")
    assert len(seen.cluster.running()) == 3
    page.close()


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1024, 2560])
def test_nothing_sticks_out_at_any_width(seen: Watched, browser: Any, width: int, theme: str) -> None:
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=theme)
    page.set_default_timeout(1_000 * PATIENCE)
    page.goto(seen.url)
    page.wait_for_selector("body[data-ready]")
    until(page, "document.querySelector('#topics')?.innerText.includes('billing')")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    ink, paper = (
        page.evaluate(f"getComputedStyle(document.body).{name}") for name in ("color", "backgroundColor")
    )
    assert ink != paper
    page.close()
