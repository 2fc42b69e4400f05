"""Decides where a generated mutant makes a difference at all, for many mutants in one search.

A mutant that can take the same steps as the spec in every state that the spec reaches has the same states,
and no configuration refuses it. Most mutants are like that in most configurations, and a search of its own
for each would take as long as the spec's. Here one search of the unchanged spec answers the question for all
of them, state by state:

    ENABLED (Fence_7(n, t, s) /\\ ~Fence(n, t, s) /\\ vars' # vars /\\ ~Next)     more than the spec may do
    ENABLED (Fence(n, t, s) /\\ ~Fence_7(n, t, s))                                less

`Fence_7` is the action with the change of the seventh mutant. The change may be in an operator that the
action uses: then every operator between the two has a copy, too. A mutant that was found to differ is not
compared again, and the search ends with the last one. A step that changes nothing is no difference, nor is a
step that the spec takes by another name.

A difference does not mean that the mutant is refused: `verdicts.py` judges those that differ. A change of an
operator that the properties or the initial state use always counts as a difference.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from walrus.tlc.configs import spec_of
from walrus.tlc.patches import ACTION, Generated, definitions, reached
from walrus.tlc.run import SpecError, run_tlc
from walrus.tlc.variants import number_in_error, without_properties

DIFFERS, ASKED = "DIFFERS", "ASKED"

_RECURSIVE = re.compile(r"^RECURSIVE (\w+)(\(.*\))$", re.MULTILINE)


def differing(config: Path, mutants: Sequence[Generated], timeout: float = 7200.0) -> set[str]:
    """Return the names of the mutants that make a difference in this configuration. Raises TlcError."""
    spec, text = spec_of(config).read_text(), config.read_text()
    judging = _judging(spec, text)
    found = {mutant.name for mutant in mutants if mutant.patch.operator in judging}
    return found | _asked(config, [mutant for mutant in mutants if mutant.name not in found], timeout)


def _asked(config: Path, mutants: Sequence[Generated], timeout: float) -> set[str]:
    """Compare all at once; repeat without a mutant that has no value in some state, since it differs."""
    if not mutants:
        return set()
    try:
        return {mutants[number - 1].name for number in _searched(config, mutants, timeout)}
    except SpecError as error:
        number = number_in_error(error, spec_with(spec_of(config).read_text(), mutants))
        if not number:  # TLC does not say which mutant
            number = _last_asked(config, mutants, timeout)
        if not number:
            raise
        senseless = mutants[number - 1].name
        others = [mutant for mutant in mutants if mutant.name != senseless]
        return {senseless} | _asked(config, others, timeout)


def _last_asked(config: Path, mutants: Sequence[Generated], timeout: float) -> int:
    """Return the number of the mutant that was compared when the search failed; 0 if none was."""
    try:
        _searched(config, mutants, timeout, aloud=True)
    except SpecError as error:
        said = (re.fullmatch(rf'<<"{ASKED}", (\d+)>>', line) for line in reversed(error.printed))
        return next((int(each[1]) for each in said if each), 0)
    return 0


def _judging(spec: str, config: str) -> set[str]:
    """Return the operators that the configuration's properties and bounds and the initial state use."""
    words = set(re.findall(r"\w+", re.sub(r"\\\*.*", "", config)))
    names = (words & set(definitions(spec))) - {"Spec", "LiveSpec"} | {"Init"}
    return names.union(*(reached(spec, name) for name in names))


def _searched(config: Path, mutants: Sequence[Generated], timeout: float, *, aloud: bool = False) -> set[int]:
    """Return the numbers of the mutants that differ. Raises TlcError."""
    spec = spec_of(config)
    with tempfile.TemporaryDirectory(prefix="walrus-differences-") as scratch:
        paths = Path(scratch) / spec.name, Path(scratch) / config.name
        paths[0].write_text(spec_with(spec.read_text(), mutants, aloud=aloud))
        paths[1].write_text(without_properties(config.read_text()) + "INVARIANTS Compared SomeAreAsked\n")
        result = run_tlc(*paths, timeout=timeout)
    said = (re.fullmatch(rf'<<"{DIFFERS}", (\d+)>>', line) for line in result.printed)
    return {int(each[1]) for each in said if each}


def spec_with(spec: str, mutants: Sequence[Generated], *, aloud: bool = False) -> str:
    """Return the spec with an invariant that compares all mutants' actions; `aloud` prints each number."""
    numbers = range(1, len(mutants) + 1)
    users = _users(spec)
    parts = [
        part
        for number, mutant in zip(numbers, mutants, strict=True)
        for part in _compared(spec, users, number, mutant, aloud)
    ]
    parts.append(f"ASSUME \\A register \\in 1..{len(mutants)} : TLCSet(register, 0)")
    parts.append("Compared ==\n" + "\n".join(f"    /\\ Compared_{number}" for number in numbers))
    parts.append(f"SomeAreAsked == \\E register \\in 1..{len(mutants)} : TLCGet(register) = 0")
    end = spec.rindex("\n====")
    return spec[:end] + "\n" + "\n".join(parts) + spec[end:]


def _users(spec: str) -> dict[str, set[str]]:
    """Return for each operator that `Next` reaches the operators that use it, itself included."""
    users: dict[str, set[str]] = {}
    for name in reached(spec):
        for part in [name, *reached(spec, name)]:
            users.setdefault(part, set()).add(name)
    return users


def _compared(
    spec: str, users: Mapping[str, set[str]], number: int, mutant: Generated, aloud: bool
) -> Iterator[str]:
    """Yield the definitions that one mutant needs; the last one compares."""
    changed = users[mutant.patch.operator]
    text = mutant.patch.apply(spec)
    recursive = {found[1]: found[2] for found in _RECURSIVE.finditer(text)}
    for name, (start, end) in definitions(text).items():
        if name in changed:
            if name in recursive:
                yield f"RECURSIVE {name}_{number}{recursive[name]}"
            yield _renamed(text[start:end], changed, number)
    asked = "\n".join(f"            \\/ {each}" for each in _questions(spec, changed, number))
    saying = f'PrintT(<<"{ASKED}", {number}>>) /\\ ' if aloud else ""
    yield (
        f"Compared_{number} ==\n"
        f"    IF TLCGet({number}) = 1 THEN TRUE\n"
        f"    ELSE {saying}LET differs ==\n{asked}\n"
        f'         IN IF differs THEN TLCSet({number}, 1) /\\ PrintT(<<"{DIFFERS}", {number}>>) ELSE TRUE'
    )


def _renamed(body: str, names: set[str], number: int) -> str:
    """Return a definition with the mutant's operators in place of the spec's; lists keep their columns.

    The new names are longer, so what follows one in its line moves to the right. A list that begins there
    would fall apart, so it gets a line of its own.
    """
    header, _, rest = body.partition("==")
    pattern = re.compile(rf"\b({'|'.join(sorted(names))})\b")
    header = pattern.sub(rf"\1_{number}", header)
    pad = " " * len(body.partition("==")[0] + "==")
    lines = [_lengthened(line, pattern, number) for line in (pad + rest).split("\n")]
    return f"{header}==\n" + "\n".join(lines)


def _lengthened(line: str, pattern: re.Pattern[str], number: int) -> str:
    """Return the line with the longer names; a list that begins after one keeps its column."""
    places = [match.start() for match in re.finditer(r"/\\|\\/", line)]
    first = pattern.search(line)
    if first and any(place > first.start() for place in places):
        at = next(place for place in places if place > first.start())
        head = pattern.sub(rf"\1_{number}", line[:at])
        tail = _lengthened(line[at:], pattern, number)
        return f"{head}\n{' ' * at}{tail}".rstrip()
    return pattern.sub(rf"\1_{number}", line)


def _questions(spec: str, changed: set[str], number: int) -> Iterator[str]:
    """Yield for each changed action whether the mutant may step where the spec may not, or vice versa."""
    start, end = definitions(spec)["Next"]
    for choice in re.split(r"\n    \\/ ", spec[start:end])[1:]:
        call = ACTION.search(choice)
        if call is None or call[1] not in changed:
            continue
        before, arguments = " ".join(choice[: call.start()].split()), call[0][len(call[1]) :]
        own, other = call[0], f"{call[1]}_{number}{arguments}"
        yield f"{before} ENABLED ({other} /\\ ~{own} /\\ vars' # vars /\\ ~Next)".strip()
        yield f"{before} ENABLED ({own} /\\ ~{other})".strip()
