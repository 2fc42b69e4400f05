"""Parts of pages that a tool writes: they stand between `<!-- what -->` and `<!-- end of what -->`.

Also the anchor that a heading gets, which a link to it needs.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

MARKS = ("<!-- {} -->", "<!-- end of {} -->")


def quoted(path: Path, what: str) -> str:
    """What a page has between the marks of `what`."""
    begin, end = (mark.format(what) for mark in MARKS)
    return path.read_text(encoding="utf-8").partition(begin)[2].partition(end)[0].strip()


def write(path: Path, what: str, text: str) -> None:
    """Put `text` between them."""
    begin, end = (mark.format(what) for mark in MARKS)
    head, _, rest = path.read_text(encoding="utf-8").partition(begin)
    assert rest and end in rest, f"{path} has no marks {begin} and {end}"
    path.write_text(f"{head}{begin}\n{text}\n{end}{rest.partition(end)[2]}", encoding="utf-8")


def main(path: Path, printed: Mapping[str, Callable[[], str]]) -> None:
    """Print what a page quotes, or put it there if the command line says `--write`."""
    for what, text in printed.items():
        if "--write" in sys.argv[1:]:
            write(path, what, text())
        else:
            print(text())


def anchor(heading: str) -> str:
    """The anchor of a heading: lower case, spaces to dashes, punctuation dropped.

    >>> anchor("After `seek`, a [read](x.md)")
    'after-seek-a-read'
    """
    text = re.sub(r"[`*]|\[([^\]]*)\]\([^)]*\)", r"\1", heading.strip()).lower()
    return re.sub(r"[^\w\- ]", "", text).replace(" ", "-")
