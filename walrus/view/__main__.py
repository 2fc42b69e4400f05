"""`python -m walrus.view`: a recorded run as a page for a browser, a picture, or lines for a terminal.

    python -m walrus.view run.film                        the page run.html
    python -m walrus.view trace-1.jsonl trace-2.jsonl     of the steps that real nodes recorded with --trace
    python -m walrus.view tests/replicas/transcripts/fence_and_seal.txt
    python -m walrus.view run.film --svg run.svg --from 120 --to 160
    python -m walrus.view run.film --lanes                the events before the violation, in the terminal

`python -m walrus.sim --html run.film` writes films (under any name that does not end in .html).
The exit status is 0, or 2 with one line for a file that is neither film, recording nor transcript.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from walrus.cli.command_line import Console, Parser, command
from walrus.shell.arguments import whole
from walrus.view import html, lanes, recorded, svg, transcripts
from walrus.view.film import Film, FilmError, Header, read, window
from walrus.view.links import links


def _parser() -> Parser:
    parser = Parser(prog="python -m walrus.view", description="See a recorded run.")
    add, some = parser.add_argument, whole(0, 1 << 40)
    add("files", nargs="+", type=Path, metavar="FILE", help="a film, or files that nodes wrote with --trace")
    add("--html", type=Path, metavar="FILE", help="where the page goes (beside the first file)")
    add("--svg", type=Path, metavar="FILE", help="a standing picture instead of the page")
    add("--lanes", action="store_true", help="lines for this terminal instead of the page")
    add("--from", dest="start", type=some, metavar="N", help="the first event that is shown")
    add("--to", dest="stop", type=some, metavar="N", help="the event before which it ends")
    add("--events", type=whole(1, 1000), default=20, metavar="N", help="events of --lanes and --svg (20)")
    return parser


def _load(files: Sequence[Path]) -> Film:
    """Read the film in these files. Raises FilmError, OSError."""
    with files[0].open("rb") as file:
        first = file.readline(1 << 20)
    try:
        is_film = msgspec.json.decode(first, type=Header).walrus == "film"
    except (msgspec.DecodeError, UnicodeDecodeError):
        is_film = False
    is_transcript = first.startswith(b"# ")
    if (is_film or is_transcript) and len(files) > 1:
        raise FilmError(f"{files[0]} is a {'film' if is_film else 'transcript'}: give one at a time")
    if is_transcript:
        return transcripts.film(files[0].read_text("utf-8"), files[0].stem)
    return read(files[0]) if is_film else recorded.film(files)


@command("walrus.view")
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    flags = _parser().parse_args(arguments)
    try:
        film = _load(flags.files)
        if flags.start is not None or flags.stop is not None:
            film = _part(film, flags)
    except FilmError as error:
        sys.stderr.write(f"walrus.view: {error}\n")
        return 2
    if not film.events:
        sys.stderr.write(f"walrus.view: {flags.files[0]}: there is no event in it\n")
        return 2
    if flags.lanes or flags.svg:
        at = film.header.broken.event if film.header.broken else len(film.events) - 1
        shown = lanes.story(film, at, flags.events)
        if flags.svg:
            flags.svg.write_text(svg.picture(film, shown), "utf-8")
        if flags.lanes:
            console = Console()
            for line in lanes.draw(film, shown, console.width):
                console.print(line, no_wrap=True, crop=True, highlight=False)
        return 0
    page = flags.html or flags.files[0].with_suffix(".html")
    film.header.links = links(page)
    html.write(film, page)
    sys.stdout.write(f"{page}\n")
    return 0


def _part(film: Film, flags: argparse.Namespace) -> Film:
    count = len(film.events)
    start, stop = flags.start or 0, count if flags.stop is None else min(flags.stop, count)
    if start >= stop:
        raise FilmError(f"--from {start} --to {stop}: the film has events 0 to {count - 1}")
    return window(film, start, stop)


if __name__ == "__main__":
    sys.exit(main())
