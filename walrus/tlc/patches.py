"""Changing a spec: planted bugs by hand, and mutants by rule, one for each guard of each action.

A spec is text, and so is a mutant: a `Patch` replaces one piece of one definition. A planted bug
(`mutants.py`) names its patches; `generated` derives patches from the text itself:

    drop     a conjunct that guards an action is left out; a disjunct that allows something is left out
    negate   a conjunct says the opposite
    border   a comparison includes its border, or excludes it: `<` for `<=`, `>=` for `>`, and so on

Only operators that `Next` reaches are changed. Form decides what is a guard: a piece between two `/\\` (or
`\\/`) that has no primed variable, is no UNCHANGED, and calls no operator that has one of these. Lists are
read as TLA+ reads them, by the column of their bullets.

Left out: values. A mutant that assigns another value is a different kind of bug, and is planted by hand.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from walrus.tlc.run import SpecError

_DEFINITION = re.compile(r"^(\w+)(?:\([^=\n]*\))? ==", re.MULTILINE)
_BULLET = re.compile(r"/\\(?= )|\\/(?= )")
_BORDERS = {" < ": " <= ", " <= ": " < ", " > ": " >= ", " >= ": " > "}
_OPEN, _CLOSE = "([{", ")]}"


@dataclass(frozen=True, slots=True)
class Patch:
    """Replaces `old` by `new` in the definition of `operator`: its only occurrence, or the `which`th."""

    operator: str
    old: str
    new: str
    which: int | None = None

    def apply(self, text: str) -> str:
        """Return the text of the spec with this change. Raises SpecError."""
        start, end = definitions(text).get(self.operator, (0, 0))
        body = text[start:end]
        found = [match.start() for match in re.finditer(re.escape(self.old), body)]
        if self.which is None and len(found) != 1:
            raise SpecError(f"{self.operator} has {len(found)} times what is to be changed: {self.old}")
        if self.which is not None and self.which >= len(found):
            raise SpecError(f"{self.operator} has no longer what is to be changed: {self.old}")
        at = start + found[self.which or 0]
        return text[:at] + self.new + text[at + len(self.old) :]


@dataclass(frozen=True, slots=True)
class Generated:
    """A mutant made by rule. Its name says where it is and what it does."""

    kind: str
    patch: Patch

    @property
    def name(self) -> str:
        """A name on one line, which stays the same as long as the guard does."""
        again = f" (no. {self.patch.which + 1})" if self.patch.which else ""
        return f"{self.patch.operator}: {self.kind} {' '.join(self.patch.old.split())}{again}"


def definitions(text: str) -> dict[str, tuple[int, int]]:
    """Return where each definition begins and ends: before the next one, or a comment or text in column 1.

    >>> definitions("A == 1\\nB(x) ==\\n    x\\n\\\\* about C\\nC == 2\\n")
    {'A': (0, 6), 'B': (7, 20), 'C': (32, 38)}
    """
    found = {}
    for match in _DEFINITION.finditer(text):
        stop = re.compile(r"^(?=\S)", re.MULTILINE).search(text, match.end() + 1)
        body = text[match.start() : stop.start() if stop else len(text)]
        found[match[1]] = (match.start(), match.start() + len(body.rstrip()))
    return found


ACTION = re.compile(r"\b(\w+)(?:\([^():]*(?:\([^()]*\))?[^():]*\))?$", re.MULTILINE)
"""Matches the action at the end of a line of `Next`."""


def actions(text: str) -> list[str]:
    """Return the actions that `Next` chooses from, in its order."""
    start, end = definitions(text)["Next"]
    return ACTION.findall(text[start:end].split("==", 1)[1])


def reached(text: str, root: str = "Next") -> list[str]:
    """Return the operators that `root` uses, except itself, in the order of the spec."""
    where, found, todo = definitions(text), set[str](), [root]
    while todo:
        start, end = where[todo.pop()]
        for word in set(re.findall(r"\w+", _without_comments(text[start:end]))) & set(where) - found:
            found.add(word)
            todo.append(word)
    return [name for name in where if name in found and name != root]


def generated(text: str) -> Iterator[Generated]:
    """Yield every mutant of the spec that the rules make."""
    where = definitions(text)
    names = reached(text)
    bodies = {name: _without_comments(text[slice(*where[name])]) for name in names}
    acting = _acting(bodies)
    for name in names:
        for joint, piece, at in _pieces(bodies[name]):
            if not _is_guard(piece, acting):
                continue
            for kind, new in _mutations(joint, piece):
                yield Generated(kind, _patch(name, bodies[name], piece, at, new))


def _patch(name: str, body: str, piece: str, at: int, new: str) -> Patch:
    before = body[:at].count(piece)
    return Patch(name, piece, new, before if body.count(piece) > 1 else None)


def _mutations(joint: str, piece: str) -> Iterator[tuple[str, str]]:
    yield "drop", "TRUE" if joint == "/\\" else "FALSE"
    if joint == "/\\":
        yield "negate", f"~({piece})"
    borders = [border for border in _BORDERS if _top_level(piece, border)]
    if len(borders) == 1 and " \\E " not in f" {piece}" and " \\A " not in f" {piece}":
        yield "border", piece.replace(borders[0], _BORDERS[borders[0]], 1)


def _without_comments(body: str) -> str:
    """Return the text with spaces in place of comments, so that positions stay the same."""
    return re.sub(r"\\\*[^\n]*", lambda comment: " " * len(comment[0]), body)


def _acting(bodies: Mapping[str, str]) -> set[str]:
    """Return the operators that assign a variable."""
    found = {name for name, body in bodies.items() if re.search(r"\w'|UNCHANGED", body)}
    while True:
        more = {
            name
            for name, body in bodies.items()
            if name not in found and found & set(re.findall(r"\w+", body.split("==", 1)[1]))
        }
        if not more:
            return found
        found |= more


def _is_guard(piece: str, acting: set[str]) -> bool:
    return not re.search(r"\w'|UNCHANGED", piece) and not acting & set(re.findall(r"\w+", piece))


def _pieces(body: str) -> Iterator[tuple[str, str, int]]:
    """Yield (joint, piece, position) for each piece between two `/\\` or `\\/`, from the outside in.

    A bullet's piece ends where a line begins no further right than the bullet, or at a bracket that was
    opened before it, or at an ELSE, IN or arrow of the surrounding expression.
    """
    seen = set[tuple[str, int]]()
    for bullet in _BULLET.finditer(body):
        for joint, piece, at in _around(body, bullet):
            if piece and (piece, at) not in seen:
                seen.add((piece, at))
                yield joint, piece, at


def _around(body: str, bullet: re.Match[str]) -> Iterator[tuple[str, str, int]]:
    """Yield the piece after the bullet, and the piece before it if the bullet is in the middle of a line."""
    column = bullet.start() - (body.rfind("\n", 0, bullet.start()) + 1)
    line = body[bullet.start() - column : bullet.start()]
    alone = not re.sub(r"/\\|\\/", "", line).strip()
    inline = "/\\|\\/" if not alone else ""
    yield bullet[0], *_following(body, bullet.end(), column if alone else None, inline)
    if not alone:
        before = _preceding(body, bullet.start())
        if before[0]:
            yield bullet[0], *before


_ENDS = re.compile(r"^(?:ELSE|THEN|IN|=>|<=>|\|->|:>|@@|,|==)")


_QUANTIFIED = re.compile(r"\\[AE] [^:]*$")
"""A comma after this is between two bounds."""


def _following(body: str, at: int, column: int | None, inline: str) -> tuple[str, int]:
    """Return the piece that begins here, and its end."""
    depth, place = 0, at
    while place < len(body):
        rest = body[place:]
        if rest[0] == "\n":
            following = re.match(r"\n( *)(\S?)", rest)
            assert following
            if column is not None and following[2] and len(following[1]) <= column:
                break
        if rest.startswith(("<<", ">>")):
            depth += 1 if rest[0] == "<" else -1
            place += 2
            continue
        if rest[0] in _OPEN:
            depth += 1
        elif rest[0] in _CLOSE and (depth := depth - 1) < 0:
            break
        bound = rest[0] == "," and _QUANTIFIED.search(body[at:place])
        if depth == 0 and not bound and _ENDS.match(rest) and (column is None or not _inside(body[at:place])):
            break
        if depth == 0 and inline and re.match(inline.replace("\\", "\\\\").replace("|", "|"), rest):
            break
        place += 1
    piece = body[at:place]
    begin = at + len(piece) - len(piece.lstrip())
    return piece.strip(), begin


def _inside(piece: str) -> bool:
    """Return whether an IF, LET or the like that began in the piece is still open."""
    words = re.findall(r"\b(?:IF|THEN|ELSE|LET|IN|CASE)\b", piece)
    return bool(words)


def _preceding(body: str, end: int) -> tuple[str, int]:
    """Return the piece of the same line that ends here, and its beginning."""
    depth, place = 0, end
    while place > 0:
        before = body[:place]
        if before.endswith((">>", "<<")):
            depth += 1 if before[-1] == ">" else -1
            if depth < 0:
                break
            place -= 2
            continue
        last = before[-1]
        if last == "\n":
            break
        if last in _CLOSE:
            depth += 1
        elif last in _OPEN and (depth := depth - 1) < 0:
            break
        if depth == 0 and re.search(r"(?:/\\|\\/|:|==|\bTHEN|\bELSE|\bIF|\bIN|=>|->|,)$", before):
            break
        place -= 1
    piece = body[place:end]
    begin = place + len(piece) - len(piece.lstrip())
    return piece.strip(), begin


def _top_level(piece: str, border: str) -> bool:
    """Return whether the comparison belongs to the piece itself, not to something in brackets."""
    depth = 0
    for place, char in enumerate(piece):
        if char in _OPEN:
            depth += 1
        elif char in _CLOSE:
            depth -= 1
        elif depth == 0 and piece.startswith(border, place):
            return True
    return False
