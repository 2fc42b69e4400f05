"""The console in a real browser beside a real cluster: what it shows, live, and a leader killed by a click.

Debian's chromium, driven by Playwright. Without either the tests are skipped, and say what to install.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from tests.node.harness import PATIENCE, free_port, free_ports, wait_for
from tools.browser import missing
from tools.watched import TOPICS, Watched, watched
from walrus.client import Client
from walrus.console.history import History
from walrus.health import FailoverFigures, NodeFigures, TopicFigures

pytest.importorskip("aiohttp", reason="pip install -e '.[console]'")

from aiohttp import web

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
    told = "document.querySelector('#failovers')?.innerText"
    until(page, f"{told}.includes('first OK')")
    assert page.locator("#failovers .what").count() == page.locator("#failovers .bar").count()
    steps = page.locator("#failovers .steps", has_text="first OK").first.inner_text()
    assert [step.split()[0] for step in steps.splitlines()] == [
        *("noticed", "fenced", "recovered", "sealed", "next", "first")
    ]
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


def test_a_topic_is_registered_written_to_looked_into_and_its_group_moved(page: Any, seen: Watched) -> None:
    def says(text: str) -> None:
        until(page, f"document.querySelector('#said')?.textContent.startsWith({text!r})")

    page.fill("#name", "till")
    page.fill("#with", "retain_entries=1000")
    page.locator("#f-register button").click()
    says("till is registered")
    page.fill("#find", "till")
    page.click("#topics .link")
    until(page, "!document.querySelector('#desk').hidden")
    assert page.inner_text("#desk-name") == "till"
    until(page, "document.querySelector('#desk-facts').textContent === 'settings: retain_entries=1000'")
    for text in ("one café", "two"):
        page.fill("#payload", text)
        page.locator("#f-put button").click()
        says("acknowledged, at 1.")
        until(page, "document.querySelector('#payload').value === ''")
    page.click("#last")
    until(page, "document.querySelectorAll('#entries tbody tr').length === 2")
    assert "1.0" in page.inner_text("#entries") and "63 61 66 c3 a9" in page.inner_text("#entries")
    page.fill("#segment", "1")
    page.fill("#offset", "1")
    page.keyboard.press("Enter")  # the keyboard is enough
    until(page, "document.querySelectorAll('#entries tbody tr').length === 1")
    with Client(seen.cluster.addresses, timeout=PATIENCE) as client:
        first = client.receive("till", "workers", wait=PATIENCE)
        assert first is not None and first.payload == "one café".encode()
        client.ack("till", "workers", first)
        page.fill("#group", "workers")
        page.fill("#to", "begin")
        page.locator("#f-seek button").click()
        says("workers goes on at begin")
        again = client.receive("till", "workers", wait=PATIENCE)
        assert again is not None and again.payload == first.payload
        page.fill("#settings", "retain_entries=default max_deliveries=7")
        page.locator("#f-configure button").click()
        says("till is configured")
        until(page, "document.querySelector('#desk-facts').textContent === 'settings: max_deliveries=7'")
        assert client.state("till")["settings"] == {"max_deliveries": 7}


def test_how_long_puts_and_syncs_took_is_shown_as_bars(page: Any) -> None:
    until(page, "document.querySelectorAll('#took .bars').length === 4")
    until(page, "document.querySelector('#took')?.innerText.includes('99.9 %')")
    until(page, "[...document.querySelectorAll('#took .bars i')].some(bar => bar.offsetHeight > 20)")


def test_without_the_token_the_page_shows_and_does_nothing(seen: Watched, browser: Any) -> None:
    page = browser.new_page()
    page.set_default_timeout(1_000 * PATIENCE)
    page.goto(seen.url.partition("#")[0])
    page.wait_for_selector("body[data-ready]")
    page.locator("#nodes tbody tr").first.get_by_role("button", name="kill -9").click()
    refused = "document.querySelector('#said.bad')?.textContent.startsWith('the token is missing')"
    until(page, refused)
    assert len(seen.cluster.running()) == 3
    until(page, "!document.querySelector('#said').classList.contains('shown')")
    page.fill("#name", "stranger")
    page.locator("#f-register button").click()
    until(page, f"document.querySelector('#said').classList.contains('shown') && {refused}")
    with Client(seen.cluster.addresses, timeout=PATIENCE) as client:
        assert "stranger" not in client.topics()
    page.close()


@pytest.fixture(scope="module")
def crowded() -> Iterator[str]:
    """The address of a console that watches fifteen nodes, one of which is silent, and 3,000 topics."""
    from tests.console.test_history import said
    from walrus.console.server import ConsoleServer

    where = {n: f"10.0.0.{n}:8080" for n in range(1, 16)}
    topics = {
        f"topic-{n:04d}": TopicFigures(segments=9, entries=n, lag={"billing": n, "search": 3})
        for n in range(3_000)
    }
    answers: dict[str, NodeFigures | None] = {where[15]: None}
    ago = {"noticed": 3.0, "fenced": 2.99, "recovered": 2.98, "sealed": 2.5, "opened": 2.4, "acknowledged": 1}
    names = [f"topic-{n:04d}" + "-of-a-long-name" * 9 * (n == 19) for n in range(20)]
    lost = [FailoverFigures(topic=topic, segment=1234, leader=15, ago=ago) for topic in names]
    for n in range(1, 15):
        led = {name: topic for at, (name, topic) in enumerate(topics.items()) if at % 14 == n - 1}
        seen = lost if n == 1 else []
        answers[where[n]] = said(n, client_addresses=where, topics=3_000, topics_led=led, last_failovers=seen)
    port, started = free_port("127.0.0.1"), queue.Queue[tuple[asyncio.AbstractEventLoop, asyncio.Event]]()

    class Still:
        history = History()

        async def changed(self) -> None:
            await asyncio.Event().wait()

    Still.history.take(answers, 0.0, 0.0)
    console = ConsoleServer(Still(), hosts=[f"127.0.0.1:{port}"])

    async def serve() -> None:
        stop = asyncio.Event()
        runner = web.AppRunner(console.application(), shutdown_timeout=0.5)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port).start()
        started.put((asyncio.get_running_loop(), stop))
        await stop.wait()
        await runner.cleanup()

    thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
    thread.start()
    running, stop = started.get(timeout=PATIENCE)
    yield f"http://127.0.0.1:{port}/"
    running.call_soon_threadsafe(stop.set)
    thread.join()


@pytest.mark.parametrize("width", [390, 1024, 2560])
def test_fifteen_nodes_and_three_thousand_topics_fit(crowded: str, browser: Any, width: int) -> None:
    page = browser.new_page(viewport={"width": width, "height": 900})
    page.set_default_timeout(1_000 * PATIENCE)
    page.goto(crowded)
    page.wait_for_selector("body[data-ready]")
    until(page, "document.querySelectorAll('#nodes tbody tr').length === 15")
    assert page.locator("#nodes tr.silent").count() == 1
    assert page.locator("#topics .name").count() == 100
    assert page.inner_text("#topics .name >> nth=0") == "topic-2999", "the largest lag first"
    assert page.inner_text("#more") == "2,900 more are not shown"
    assert page.locator("#failovers .bar").count() == 20, "of a cluster that the console did not start"
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    inside = "box => box.scrollWidth <= box.clientWidth"
    assert page.eval_on_selector("#failovers", inside), "a row sticks out of the list of failovers"
    assert page.locator("#desk:visible, #new:visible").count() == 0, "this console only shows"
    page.close()


@pytest.mark.parametrize("width", [390, 1024, 2560])
def test_nothing_sticks_out_at_any_width(seen: Watched, browser: Any, width: int) -> None:
    page = browser.new_page(viewport={"width": width, "height": 900})
    page.set_default_timeout(1_000 * PATIENCE)
    page.goto(seen.url)
    page.wait_for_selector("body[data-ready]")
    until(page, "document.querySelector('#topics')?.innerText.includes('billing')")
    papers = set()
    for theme in ("light", "dark"):
        page.emulate_media(color_scheme=theme)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), theme
        ink, paper = (
            page.evaluate(f"getComputedStyle(document.body).{name}") for name in ("color", "backgroundColor")
        )
        assert ink != paper
        papers.add(paper)
    assert len(papers) == 2, "both themes were seen"
    page.close()
