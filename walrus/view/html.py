"""A film as one self-contained HTML page: it needs no network, no server and no library.

The page is `page/viewer.html` with its style, its script and the film inserted. The film is in JSON lines,
compressed with gzip and encoded in base64; all browsers since 2023 can decompress it (DecompressionStream).
A film of 20,000 events is a page of about half a megabyte.

No inserted data is parsed as markup: base64 has no `<`, the title is escaped, and the script creates
everything else on the page as text nodes.
"""

from __future__ import annotations

import base64
import gzip
from html import escape
from importlib.resources import files
from pathlib import Path

from walrus.view.film import Film, window


def page(film: Film) -> str:
    """Return the page of this film, or of a window of it if it is too long (`film.window`)."""
    film = window(film)
    packed = base64.b64encode(gzip.compress(film.lines(), mtime=0)).decode()
    parts = files("walrus.view") / "page"
    style = (parts / "viewer.css").read_text("utf-8")
    script = (parts / "viewer.js").read_text("utf-8")
    assert "</script" not in script and "</style" not in style, "our own files do not end their element"
    made = (parts / "viewer.html").read_text("utf-8")
    for name, text in (("TITLE", escape(film.header.title)), ("STYLE", style), ("SCRIPT", script)):
        made = made.replace(f"@{name}@", text)
    return made.replace("@FILM@", packed)


def write(film: Film, path: Path) -> None:
    """Write the page of this film to a file. Raises OSError."""
    path.write_text(page(film), "utf-8")
