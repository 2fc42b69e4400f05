"""`python -m walrus.lab`: labs and hunts.

    python -m walrus.lab list                   the labs, how long each takes, what it is about
    python -m walrus.lab start 4 ~/votes        a working copy with holes, and the text of the lab in LAB.md
    python -m walrus.lab check ~/votes          what holds, and what breaks first
    python -m walrus.lab hint ~/votes           one hint at a time
    python -m walrus.lab diff ~/votes           the project's own code beside yours
    python -m walrus.lab hunt 3 ~/hunt          a copy with one wrong line, and a run that fails
    python -m walrus.lab guess ~/hunt walrus/replicas/copies.py:Copies.fence

Exits with 0 if everything held, 1 if something broke, 2 for a bad argument.
"""

from __future__ import annotations

import sys

if __name__ == "__main__":
    from walrus.cli.interrupts import end_quietly

    end_quietly()
    try:
        from walrus.lab.origin import go_there
    except ModuleNotFoundError as missing:  # a new terminal without the active environment
        sys.stderr.write(
            f"walrus.lab: {sys.executable} has no {missing.name}: activate the environment that docs/labs.md "
            "makes, in the repository: . .venv/bin/activate\n"
        )
        sys.exit(2)
    go_there()

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.table import Table
from rich.text import Text

from walrus.cli.command_line import Console, Parser, command
from walrus.lab import grading, hunts, units
from walrus.lab.workshop import NoWorkshop, Undertaken, Workshop, require_repository


def _parser() -> Parser:
    parser = Parser(prog="python -m walrus.lab", description="Build a part of Walrus again, or find a bug.")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB", parser_class=Parser)
    verbs.add_parser("list", help="the labs")
    start = verbs.add_parser("start", help="make a working copy of a lab")
    start.add_argument("number", type=int, help="which lab")
    start.add_argument("folder", type=Path, help="a new directory")
    for verb, what in (
        ("check", "say what holds"),
        ("hint", "one more hint"),
        ("diff", "show the reference"),
    ):
        parser_of = verbs.add_parser(verb, help=what)
        parser_of.add_argument("folder", type=Path, nargs="?", default=Path(), help="the working copy (here)")
    hunt = verbs.add_parser("hunt", help="make a working copy with a bug to find")
    hunt.add_argument("number", type=int, help=f"1 to {len(hunts.hunts())}")
    hunt.add_argument("folder", type=Path, help="a new directory")
    guess = verbs.add_parser("guess", help="say where the bug is")
    guess.add_argument("folder", type=Path, help="the working copy of a hunt")
    guess.add_argument("place", metavar="FILE:FUNCTION", help="the function that is wrong")
    return parser


@command("walrus.lab")
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    flags = _parser().parse_args(arguments)
    console = Console(highlight=False)
    try:
        return VERBS[flags.verb](flags, console)
    except (LookupError, NoWorkshop) as error:
        sys.stderr.write(f"walrus.lab: {error.args[0]}\n")
        return 2
    except SyntaxError as error:
        text = (error.text or "").strip()
        sys.stderr.write(
            f"walrus.lab: Python cannot read line {error.lineno} of the copy: {text!r}; mend it\n"
        )
        return 2


def _list(_: argparse.Namespace, console: Console) -> int:
    table = Table(box=None, pad_edge=False)
    for title in ("lab", "hours", "what you build", "read first"):
        table.add_column(title)
    for unit in units.units().values():
        table.add_row(f"{unit.number} {unit.name}", str(unit.hours), unit.title, unit.reading[0])
    console.print(table)
    return 0


def _start(flags: argparse.Namespace, console: Console) -> int:
    unit = units.find(flags.number)
    require_repository()  # first: its tools are of no use without it
    grading.require(unit)
    workshop = Workshop.new(flags.folder, Undertaken(unit=unit.number))
    workshop.empty(unit)
    console.print(Text(f"lab {unit.number}: {unit.title}"))
    console.print(Text(f"read {flags.folder / 'LAB.md'}, then write:"), soft_wrap=True)
    for place in unit.places:
        console.print(Text(f"    {place}"))
    console.print(Text(f"and ask: python -m walrus.lab check {flags.folder}"), soft_wrap=True)
    return 0


def _of(folder: Path) -> tuple[Workshop, units.Unit]:
    """Return the working copy and its lab. Raises NoWorkshop."""
    workshop = Workshop(folder.resolve())
    if workshop.record.hunt:
        raise NoWorkshop(f"{folder} is the copy of a hunt: HUNT.md there says how to go on")
    return workshop, units.find(workshop.record.unit)


def _check(flags: argparse.Namespace, console: Console) -> int:
    workshop, unit = _of(flags.folder)
    grading.require(unit)
    asked = []
    for outcome in grading.grade(workshop, unit):
        asked.append(outcome)
        mark = Text("holds ", "green") if outcome.finding is None else Text("breaks", "bold red")
        console.print(Text.assemble(mark, f"  {outcome.check.name} ({outcome.seconds:.1f} s)"))
    for check in unit.checks[len(asked) :]:
        console.print(Text(f"        {check.name}: not asked yet", "dim"))
    last = asked[-1]
    if last.finding is None:
        console.print(f"\nlab {unit.number} is done. `diff` shows how the project wrote it.")
        return 0
    _tell(workshop, unit, last, console)
    return 1


def _tell(workshop: Workshop, unit: units.Unit, outcome: grading.Asked, console: Console) -> None:
    """Explain why a check failed, to a reader who has not seen the tool's output."""
    found = outcome.finding
    assert found is not None, "only a failure is told"
    meant = grading.MEANT.get(found.invariant) or units.meaning(unit, found.invariant)
    console.print()
    console.print(Text.assemble((found.invariant, "bold red"), f": {meant}"))
    console.print(Text(f"noticed: {found.what}"))
    for step in found.story:
        console.print(Text(f"  {step}"))
    console.print(Text(f"by: {found.where}"), soft_wrap=True)
    if holes := workshop.holes(unit):
        console.print(Text(f"still to write: {', '.join(place.name for place in holes)}"))
    if found.invariant == grading.UNWRITTEN:
        return
    if not any(place.file.endswith(".tla") for place in holes):  # a hole in a spec is TRUE, no mistake
        for mistake in grading.likely(unit, outcome):
            console.print(Text(f"often: {mistake.says}"))
    if found.invariant not in grading.MEANT:
        console.print(Text(f"read: {outcome.check.read}"))
    console.print(Text(f"by hand: cd {workshop.folder} && python -m {outcome.check.run}"), soft_wrap=True)


def _hint(flags: argparse.Namespace, console: Console) -> int:
    workshop, unit = _of(flags.folder)
    record = workshop.record
    if record.hints == len(unit.hints):
        console.print("these were all hints, once more; `diff` shows the reference")
        record.hints = 0
    console.print(Text(f"hint {record.hints + 1} of {len(unit.hints)}\n\n{unit.hints[record.hints].strip()}"))
    record.hints += 1
    workshop.save()
    return 0


def _diff(flags: argparse.Namespace, console: Console) -> int:
    workshop, unit = _of(flags.folder)
    for line in workshop.differences(unit):
        style = {"+": "green", "-": "red"}.get(line[:1], "")
        console.print(Text(line, style), soft_wrap=True)
    return 0


def _hunt(flags: argparse.Namespace, console: Console) -> int:
    hunt = hunts.find(flags.number)
    workshop = Workshop.new(flags.folder, Undertaken(hunt=flags.number))
    hunts.plant(workshop, hunt)
    console.print(
        Text(f"hunt {flags.number}: one place is wrong. {flags.folder / 'HUNT.md'} says how to go on")
    )
    console.print(Text(f"see it: cd {flags.folder} && python -m {hunt.run} --why"), soft_wrap=True)
    return 0


def _guess(flags: argparse.Namespace, console: Console) -> int:
    hunt = hunts.find(Workshop(flags.folder).record.hunt)
    if not hunts.is_right(hunt, flags.place):
        console.print(Text(f"no: {flags.place} is as it should be, or is no function of walrus/"))
        return 1
    console.print(Text(f"yes: {hunt.mutant.about}. It breaks {hunt.mutant.expected[0]}."))
    console.print(Text(f"The registry calls it {hunt.bug} (docs/planted-bugs.md)."))
    return 0


VERBS: dict[str, Callable[[argparse.Namespace, Console], int]] = {
    "list": _list,
    "start": _start,
    "check": _check,
    "hint": _hint,
    "diff": _diff,
    "hunt": _hunt,
    "guess": _guess,
}

if __name__ == "__main__":
    sys.exit(main())
