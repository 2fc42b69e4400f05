"""The part of setup.cfg that is computed: the README as an index page shows it.

Links into the repository lead nowhere there, so they become the names of the files, which are in the source
distribution and, those of docs/, below share/doc/walrus-log of an installation.
"""

from __future__ import annotations

import re
from pathlib import Path

from setuptools import setup

LINK = re.compile(r"\[([^\]]*)\]\((?![a-z]+:|#)([^)\s]+)\)")


def page(readme: str) -> str:
    """The README without relative links."""

    def name(link: re.Match[str]) -> str:
        text, target = link[1], link[2].partition("#")[0]
        return f"`{target}`" if text in (target, f"`{target}`") else f"{text} (`{target}`)"

    return LINK.sub(name, readme)


if __name__ == "__main__":
    readme = (Path(__file__).parent / "README.md").read_text(encoding="utf-8")
    setup(long_description=page(readme), long_description_content_type="text/markdown")
