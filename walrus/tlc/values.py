"""TLA+ values as TLC prints them, and what changed from one state to the next.

A counterexample of twenty states, each with all its variables, is unreadable. A readable form is the list of
actions with, for each, the few places that it changed:

    3  Fence    fenced.n2        {}  ->  {<<t1, 1>>}
                answers          +[node |-> n2, topic |-> t1, segment |-> 1, length |-> 0, sure |-> TRUE]

So values are parsed (records and functions become dicts, sequences tuples, sets frozensets) and compared
part by part. Left out: values that TLC prints but that are no plain data, and unevaluated expressions; such
text is kept as it stands and compared as a whole.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import TypeAlias

Value: TypeAlias = "int | bool | str | tuple[Value, ...] | frozenset[Value] | Function"

_TOKEN = re.compile(r'\s*(<<|>>|\|->|:>|@@|\.\.|[\[\]{}(),]|"(?:[^"\\]|\\.)*"|-?\d+|\w+)')


class Function(dict[Value, Value]):
    """A function: a dict that can be a member of a set."""

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(frozenset(self.items()))


class TlaRecord(Function):
    """A function whose domain is its field names."""

    __hash__ = Function.__hash__


class _Reader:
    """A recursive-descent parser over the tokens of one value."""

    def __init__(self, text: str) -> None:
        self._tokens: list[str] = []
        at, text = 0, text.strip()
        while at < len(text):
            found = _TOKEN.match(text, at)
            if found is None:
                raise ValueError(f"not a TLA+ value: {text[at : at + 40]!r}")
            self._tokens.append(found[1])
            at = found.end()
        self._at = 0

    def value(self) -> Value:
        token = self._take()
        if token == "<<":
            return tuple(self._list(">>"))
        if token == "{":
            return frozenset(self._list("}"))
        if token == "[":
            return self._record()
        if token == "(":
            return self._function()
        return self._atom(token)

    def whole(self) -> Value:
        """Parse one value and nothing after it. Raises ValueError."""
        value = self.value()
        if self._at != len(self._tokens):
            raise ValueError(f"text after a TLA+ value: {self._tokens[self._at]!r}")
        return value

    def _take(self, expected: str | None = None) -> str:
        if self._at >= len(self._tokens):
            raise ValueError("a TLA+ value ends too early")
        token = self._tokens[self._at]
        self._at += 1
        if expected is not None and token != expected:
            raise ValueError(f"expected {expected!r} in a TLA+ value, found {token!r}")
        return token

    def _next_is(self, token: str) -> bool:
        return self._at < len(self._tokens) and self._tokens[self._at] == token

    def _list(self, end: str) -> Iterator[Value]:
        while not self._next_is(end):
            yield self.value()
            if not self._next_is(end):
                self._take(",")
        self._take(end)

    def _record(self) -> TlaRecord:
        record = TlaRecord()
        while not self._next_is("]"):
            name = self._take()
            self._take("|->")
            record[name] = self.value()
            if not self._next_is("]"):
                self._take(",")
        self._take("]")
        return record

    def _function(self) -> Function:
        function = Function()
        while True:
            argument = self.value()
            self._take(":>")
            function[argument] = self.value()
            if self._next_is(")"):
                self._take(")")
                return function
            self._take("@@")

    def _atom(self, token: str) -> Value:
        if token in ("TRUE", "FALSE"):
            return token == "TRUE"
        if token.lstrip("-").isdigit():
            low = int(token)
            if self._next_is(".."):  # TLC prints an interval as it was written
                self._take("..")
                return frozenset(range(low, int(self._take()) + 1))
            return low
        return token  # a model value such as n1, a string with its quotes


def parse_value(text: str) -> Value:
    """Parse a value that TLC printed. Raises ValueError.

    >>> parse_value('[a |-> <<1, 2>>, b |-> {TRUE}]')
    {'a': (1, 2), 'b': frozenset({True})}
    >>> parse_value('(n1 :> 0 @@ n2 :> {})')
    {'n1': 0, 'n2': frozenset()}
    """
    return _Reader(text).whole()


def format_value(value: Value) -> str:
    """Return the value in TLA+, on one line.

    >>> format_value(parse_value('(n1 :>\\n <<>> @@ n2 :> {"x"})'))
    '(n1 :> <<>> @@ n2 :> {"x"})'
    """
    if isinstance(value, bool):
        return str(value).upper()
    if isinstance(value, tuple):
        return f"<<{', '.join(map(format_value, value))}>>"
    if isinstance(value, frozenset):
        return f"{{{', '.join(sorted(map(format_value, value)))}}}"
    if isinstance(value, TlaRecord):
        return f"[{', '.join(f'{key} |-> {format_value(item)}' for key, item in value.items())}]"
    if isinstance(value, Function):
        pairs = (f"{format_value(key)} :> {format_value(item)}" for key, item in value.items())
        return f"({' @@ '.join(pairs)})"
    return str(value)


def parse_state(text: str) -> dict[str, str]:
    """Return the variables of one printed state: `/\\ name = value` lines, with each value on one line.

    >>> parse_state("/\\\\ x = 1\\n/\\\\ y = <<1,\\n  2>>")
    {'x': '1', 'y': '<<1, 2>>'}
    """
    variables = {}
    for part in re.split(r"^/\\ ", text, flags=re.MULTILINE):
        name, equals, value = part.partition(" = ")
        if equals:
            variables[name.strip()] = " ".join(value.split())
    return variables


def changes(before: Mapping[str, str], after: Mapping[str, str]) -> list[tuple[str, str, str]]:
    """Return (place, old, new) for each change, as deep as the values go; for sets what came and went."""
    found: list[tuple[str, str, str]] = []
    for name in after:
        old, new = before.get(name, ""), after[name]
        if old == new:
            continue
        try:
            found.extend(_compare(name, parse_value(old), parse_value(new)))
        except ValueError:  # a value that only TLC can parse: show it whole
            found.append((name, old, new))
    return found


def _compare(place: str, old: Value, new: Value) -> Iterator[tuple[str, str, str]]:
    if old == new:
        return
    if isinstance(old, Function) and isinstance(new, Function) and old.keys() == new.keys():
        for key in old:
            yield from _compare(f"{place}.{format_value(key)}", old[key], new[key])
    elif isinstance(old, tuple) and isinstance(new, tuple) and len(old) == len(new):
        for index, (one, other) in enumerate(zip(old, new, strict=True), 1):
            yield from _compare(f"{place}[{index}]", one, other)
    elif isinstance(old, frozenset) and isinstance(new, frozenset):
        gone = " ".join(f"-{item}" for item in sorted(map(format_value, old - new)))
        come = " ".join(f"+{item}" for item in sorted(map(format_value, new - old)))
        yield place, gone, come
    else:
        yield place, format_value(old), format_value(new)
