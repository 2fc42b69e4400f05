"""The part of setup.cfg that is computed: the README as an index page shows it, and the specification.

Links into the repository lead nowhere there, so they become the names of the files, which are in the source
distribution and, those of docs/, below share/doc/walrus-log of an installation.

spec/ lies beside the package here, and goes into it where it is built: `python -m walrus.tlc` finds it in
both places (`walrus/shipped.py`).
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

LINK = re.compile(r"\[([^\]]*)\]\((?![a-z]+:|#)([^)\s]+)\)")


def page(readme: str) -> str:
    """The README without relative links."""

    def name(link: re.Match[str]) -> str:
        text, target = link[1], link[2].partition("#")[0]
        return f"`{target}`" if text in (target, f"`{target}`") else f"{text} (`{target}`)"

    return LINK.sub(name, readme)


class BuildWithSpec(build_py):
    """Copies the specification into the package that is built; an editable install has it in the checkout."""

    def run(self) -> None:
        """Copy the modules and the specification."""
        super().run()
        if not getattr(self, "editable_mode", False):
            shutil.copytree(
                Path(__file__).parent / "spec", Path(self.build_lib, "walrus", "spec"), dirs_exist_ok=True
            )


if __name__ == "__main__":
    readme = (Path(__file__).parent / "README.md").read_text(encoding="utf-8")
    setup(
        long_description=page(readme),
        long_description_content_type="text/markdown",
        cmdclass={"build_py": BuildWithSpec},
    )
