"""The site and the course: every page is made, every name that the course uses exists."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tools import broken, site
from walrus.sim import invariants, mutants, scenarios
from walrus.sim.explore import STARTS
from walrus.tlc.mutants import CASES

COURSE = (site.DOCS / "course.md").read_text("utf-8")


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        made = tmp_path_factory.mktemp("site") / "pages"
        patch.setattr(site, "PAGES", made)
        site.build_pages()
        yield made


def test_every_link_of_every_page_leads_to_a_page(pages: Path) -> None:
    written = [page for page in pages.rglob("*.md") if pages / "source" not in page.parents]
    broken = [
        f"{page.relative_to(pages)}: {target}"
        for page in written
        for _, target, _ in site._LINK.findall(page.read_text("utf-8"))
        if "://" not in target and not target.startswith(("#", "mailto:"))
        if not (page.parent / target.split("#")[0]).exists()
    ]
    assert len(written) > 40 and broken == []


def test_every_invariant_has_a_page_with_its_definition_and_its_bugs(pages: Path) -> None:
    page = (pages / "invariants" / "AckedDurable.md").read_text("utf-8")
    assert "AckedDurable ==" in page and "def AckedDurable" in page and "`acks_at_one_copy`" in page
    assert "* `tests/replicas/test_copies.py::test_" in page
    for path in (pages / "invariants").glob("*.md"):
        assert callable(getattr(invariants, path.stem))


def test_the_page_of_an_invariant_shows_a_run_in_which_it_breaks(pages: Path) -> None:
    drawn = {path.stem: path.read_text("utf-8") for path in (pages / "invariants").glob("*.svg")}
    assert {"AckedDurable", "ElectionSafety", "SeqOrder"} <= set(drawn)
    for name, picture in drawn.items():
        assert name in picture, "the picture ends with what broke"
        assert len(picture) < 60_000
        run = broken.run_of(name)
        assert run is not None
        page = (pages / "invariants" / f"{name}.md").read_text("utf-8")
        assert f"({name}.svg)" in page and f"({name}.run.html)" in page and run.command in page


def test_a_page_holds_the_whole_text_of_a_source(pages: Path) -> None:
    page = (pages / "source" / "walrus" / "raft.py.md").read_text("utf-8")
    assert (site.ROOT / "walrus" / "raft.py").read_text("utf-8") in page


def test_a_transcript_can_be_stepped_through(pages: Path) -> None:
    name = "election_majority.txt"
    page = pages / "source" / "tests" / "consensus" / "transcripts" / f"{name}.md"
    assert f"({name}.run.html)" in page.read_text("utf-8")
    assert 'id="film"' in page.with_name(f"{name}.run.html").read_text("utf-8")


def test_the_course_names_bugs_scenarios_and_starts_that_exist() -> None:
    words = " ".join(COURSE.split())
    bugs = set(re.findall(r"--mutant (\w+)", words))
    assert len(bugs) >= 5 and bugs <= set(mutants.ALL)
    assert set(re.findall(r"--scenario (\w+)", words)) <= set(scenarios.ALL)
    assert set(re.findall(r"--start (\w+)", words)) <= set(STARTS)
    planted = set(re.findall(r"walrus\.tlc mutants (\w+)", words)) | {"MinorityFence"}
    assert planted <= {case.name for case in CASES}


def test_the_site_asks_for_nothing_from_elsewhere() -> None:
    theme = site.config()["theme"]
    assert theme["font"] is False
    assert "offline" not in site.config()["plugins"], "it would load a script from elsewhere"
