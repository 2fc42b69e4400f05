"""A test of Raft is a claim of the paper or the dissertation; where it fails, the message begins with that.

`test_5_3_nothing_commits_without_a_majority` says "§5.3: nothing commits without a majority". An assertion
that names an invariant itself, or a section, keeps its own words.
"""

from __future__ import annotations

import re
from collections.abc import Generator

import pytest

CLAIM = re.compile(r"test_((?:\d+_)+)(\w+)")
NAMED = re.compile(r"§|Figure \d|Lease:|[A-Z][a-z]+[A-Z]\w*(:|\s|$)")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None]:
    """Put the claim before what a bare assertion says."""
    try:
        yield
    except AssertionError as error:
        claim, said = CLAIM.match(item.name.partition("[")[0]), str(error)
        if claim and not NAMED.match(said):
            section, words = claim[1].strip("_").replace("_", "."), claim[2].replace("_", " ")
            error.args = (f"§{section}: {words}\n{said}",)
        raise
