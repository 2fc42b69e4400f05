"""Many variants of a spec, judged in one search.

Most of the cost of a small search is the start of the JVM and the parsing of the spec. So variants (planted
bugs, probes, generated mutants) share a search: a variable `variant`, chosen in the initial state, selects
the text of each changed definition, and the breadth-first search goes on in all variants at once.

    Recover(t, s) ==
        CASE variant = 3 -> Recover_3(t, s)         the text with the third variant's change
          [] OTHER -> Recover_0(t, s)               the spec's own

A violation would end the search, and with it the judging of the other variants. So an invariant that is
never FALSE (`Judged`) judges the properties: it prints the first property that a state violates, and a TLC
register remembers that this variant is finished; a constraint (`Wanted`) stops the search in that variant.
Within one variant states are visited in the same order as in a search of its own, so the property found is
the same one. Registers also count each variant's states and the actions that it took.

Registers belong to a worker of TLC, so there must be only one worker (`run.py` never starts more).

TLC itself judges liveness, at the end of a search and for its whole graph. So in a liveness configuration
each variant has a search of its own.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from walrus.tlc.configs import invariants, properties, spec_of
from walrus.tlc.patches import ACTION, Patch, definitions
from walrus.tlc.planted import patched
from walrus.tlc.run import EvaluationError, SpecError, TlcResult, run_tlc

REFUSED, REACHED, EXCEEDED, TOOK = "REFUSED", "REACHED", "EXCEEDED", "TOOK"

BRIEF_STATES: Final = 80_000
"""In searches that may reach more states than these, the optimising compiler pays off."""

UNEVALUATED: Final = "cannot be evaluated"
"""The verdict on a variant that cannot be parsed, or in which an expression has no value in some state."""


@dataclass(frozen=True, slots=True)
class Variant:
    """Changes of a spec, and the properties that judge it; by default all those of the configuration."""

    patches: tuple[Patch, ...] = ()
    judged_by: tuple[str, ...] = ()


@dataclass(slots=True)
class Judgement:
    """The verdict on one variant."""

    violated: str = ""
    """The first property violated, or UNEVALUATED."""
    more_states: bool = False
    """Whether it has more distinct states than the number it was compared with."""
    fewer_states: bool = False
    taken: set[str] = field(default_factory=set)
    """The actions that it took, as far as the search went."""


def judge_variants(
    config: Path, variants: Sequence[Variant], *, states: int = 0, timeout: float = 3600.0
) -> list[Judgement]:
    """Return the verdict on each variant in this configuration of its spec. Raises TlcError.

    `states`: how many distinct states the configuration has; a variant is not followed beyond that number.
    With 0 it is followed to its end.
    """
    if "LiveSpec" in config.read_text():
        return [_alone(config, variant, states, timeout) for variant in variants]
    try:
        result = _run(config, variants, states, timeout)
    except _SenselessError as error:
        others = [*variants[: error.number - 1], *variants[error.number :]]
        judged = judge_variants(config, others, states=states, timeout=timeout) if others else []
        judged.insert(error.number - 1, Judgement(violated=UNEVALUATED))
        return judged
    return _outcomes(result, len(variants), states)


def search_of(config: Path, variant: Variant, timeout: float = 600.0, *arguments: str) -> TlcResult:
    """Run TLC on one variant, in a search of its own. Raises TlcError."""
    spec, text = spec_of(config), config.read_text()
    if variant.judged_by:
        text = f"{without_properties(text)}INVARIANTS {' '.join(variant.judged_by)}\n"
    with tempfile.TemporaryDirectory(prefix="walrus-variant-") as scratch:
        paths = Path(scratch) / spec.name, Path(scratch) / config.name
        paths[0].write_text(patched(spec.read_text(), variant.patches))
        paths[1].write_text(text)
        return run_tlc(*paths, arguments=arguments, timeout=timeout, brief=True)


def _alone(config: Path, variant: Variant, states: int, timeout: float) -> Judgement:
    """Return the verdict on a variant from a search of its own."""
    try:
        result = search_of(config, variant, timeout, "-coverage", "1")
    except SpecError:
        return Judgement(violated=UNEVALUATED)
    return Judgement(
        violated=result.violated or "",
        more_states=0 < states < result.distinct,
        fewer_states=result.distinct < states,
        taken={action for action, (_, times) in result.coverage.items() if times},
    )


class _SenselessError(Exception):
    """The variant with this number cannot be parsed, or has an expression without a value."""

    def __init__(self, number: int) -> None:
        self.number = number


def _run(config: Path, variants: Sequence[Variant], states: int, timeout: float) -> TlcResult:
    spec, text = spec_of(config), config.read_text()
    together = spec_with(spec.read_text(), text, variants, states)
    with tempfile.TemporaryDirectory(prefix="walrus-variants-") as scratch:
        paths = Path(scratch) / spec.name, Path(scratch) / config.name
        paths[0].write_text(together)
        paths[1].write_text(config_with(text))
        try:
            return run_tlc(*paths, timeout=timeout, brief=0 < states * len(variants) < BRIEF_STATES)
        except SpecError as error:
            number = number_in_error(error, together)
            if not number:
                raise
            raise _SenselessError(number) from None


def number_in_error(error: SpecError, together: str) -> int:
    """Return the number of the variant that an error is about; 0 if it is about the spec itself."""
    if isinstance(error, EvaluationError) and "variant" in error.variables:
        return int(error.variables["variant"])
    initial = re.search(r"\bvariant = (\d+)", str(error))
    if initial:
        return int(initial[1])
    lines = together.split("\n")
    places = [error.line, *map(int, re.findall(r"[Ll]ine (\d+), col", str(error)))]
    return next((number for place in places if (number := _variant_at(lines, place))), 0)


def _variant_at(lines: Sequence[str], place: int) -> int:
    """Return the number of the variant whose text has this line; 0 if none has."""
    for line in reversed(lines[:place]):
        header = re.match(r"\w+?(?:_(\d+))?(?:\([^=]*\))? ==", line)
        if header:
            return int(header[1] or "0")
    return 0


def _outcomes(result: TlcResult, count: int, states: int) -> list[Judgement]:
    """Return the verdicts that the search printed."""
    found = [Judgement(fewer_states=states > 0) for _ in range(count)]
    for line in result.printed:
        said = re.fullmatch(r'<<"(\w+)", (\d+), "(\w*)">>', line)
        if said is None:
            continue
        outcome = found[int(said[2]) - 1]
        if said[1] == REFUSED:
            outcome.violated = said[3]
        elif said[1] == TOOK:
            outcome.taken.add(said[3])
        else:
            outcome.fewer_states, outcome.more_states = False, said[1] == EXCEEDED
    return found


# --- the text ----------------------------------------------------------------------------------------------


def config_with(text: str) -> str:
    """Return the configuration with the judge in place of its properties."""
    head = without_properties(text)
    head = re.sub(r"^SPECIFICATION \w+", "SPECIFICATION VariantsSpec", head, flags=re.MULTILINE)
    return head + "INVARIANT Judged\nCONSTRAINT Wanted\nACTION_CONSTRAINT StepJudged\n"


def without_properties(text: str) -> str:
    """Return the configuration without the properties, which are at its end."""
    return re.split(r"^(?:INVARIANT|PROPERT)", text, flags=re.MULTILINE)[0]


def spec_with(spec: str, config: str, variants: Sequence[Variant], states: int) -> str:
    """Return the spec with all variants in it."""
    changed: dict[str, dict[int, str]] = {}
    where = definitions(spec)
    own = {name: spec[start:end] for name, (start, end) in where.items()}
    for number, variant in enumerate(variants, 1):
        text = patched(spec, variant.patches)
        for name, (start, end) in definitions(text).items():
            if text[start:end] != own[name]:
                changed.setdefault(name, {})[number] = text[start:end]
    actions: list[str] = []
    for name in sorted(where, key=lambda name: where[name], reverse=True):
        start, end = where[name]
        body = _watched(own[name], actions) if name == "Next" else own[name]
        if name in changed:
            body = _chosen(name, body, changed[name])
        spec = spec[:start] + body + spec[end:]
    spec = re.sub(r"^VARIABLES$", "VARIABLES\n    variant,", spec, count=1, flags=re.MULTILINE)
    head, rest = spec.split(f"\n{_first_line(spec)}", 1)
    helpers = _TOOK.format(actions=2 * len(variants) + 1, per=len(actions))
    judge = _judge(own, config, variants, states, len(actions))
    end = rest.rindex("\n====")
    return f"{head}\n{helpers}\n{_first_line(spec)}{rest[:end]}\n{judge}{rest[end:]}"


def _first_line(spec: str) -> str:
    """Return the rule below the variables, after which the definitions begin."""
    rule = re.search(r"^-{20,}$", spec, re.MULTILINE)
    assert rule, "a spec has a rule between its variables and its definitions"
    return rule[0]


def _chosen(name: str, body: str, texts: Mapping[int, str]) -> str:
    """Return the definition as a choice between its own text and those of the variants."""
    header = re.match(rf"{name}(\([^=\n]*\))? ==", body)
    assert header, body
    parameters = header[1] or ""
    parts = [_renamed(name, parameters, 0, body)]
    parts += [_renamed(name, parameters, number, text) for number, text in texts.items()]
    choices = "".join(f"variant = {number} -> {name}_{number}{parameters}\n      [] " for number in texts)
    return "\n".join(parts) + f"\n{name}{parameters} ==\n    CASE {choices}OTHER -> {name}_0{parameters}"


def _renamed(name: str, parameters: str, number: int, text: str) -> str:
    """Return the definition under another name; the rest keeps its columns, since lists depend on them."""
    header = f"{name}{parameters} =="
    assert text.startswith(header), text
    return f"{name}_{number}{parameters} ==\n{' ' * len(header)}{text[len(header) :]}"


def _watched(body: str, actions: list[str]) -> str:
    """Return `Next` with each action recording that it was taken."""

    def watch(call: re.Match[str]) -> str:
        actions.append(call[1])
        return f'{call[0]} /\\ Took({len(actions)}, "{call[1]}")'

    head, actions_of_next = body.split("==", 1)
    return f"{head}=={ACTION.sub(watch, actions_of_next)}"


_TOOK = """
Took(number, action) ==
    LET register == {actions} + (variant - 1) * {per} + number
    IN IF TLCGet(register) = 1 THEN TRUE
       ELSE TLCSet(register, 1) /\\ PrintT(<<"TOOK", variant, action>>)
"""


def _judge(
    own: Mapping[str, str], config: str, variants: Sequence[Variant], states: int, actions: int
) -> str:
    """Return the operators that judge: registers 1 to N hold verdicts, N + 1 to 2 N count states."""
    usual, groups = tuple(invariants(config)), dict[tuple[str, ...], list[int]]()
    for number, variant in enumerate(variants, 1):
        groups.setdefault(variant.judged_by or usual, []).append(number)
    cases = [
        f"variant \\in {{{', '.join(map(str, numbers))}}} -> {_first_violated(names)}"
        for names, numbers in groups.items()
    ]
    steps = [(name, _step_of(name, own)) for name in properties(config) if name in own and "[][" in own[name]]
    count = len(variants)
    return _JUDGE.format(
        last=2 * count + 1 + count * actions,
        count=count,
        limit=states,
        violated="\n      [] ".join(cases),
        steps="".join(f'IF ~({body}) THEN "{name}" ELSE ' for name, body in steps),
    )


def _first_violated(names: Sequence[str]) -> str:
    return "".join(f'IF ~{name} THEN "{name}" ELSE ' for name in names) + '""'


def _step_of(name: str, own: Mapping[str, str]) -> str:
    """Return what an action property says of one step."""
    found = re.search(r"\[\]\[(.*)\]_vars", own[name], re.DOTALL)
    if found is None:
        raise SpecError(f"{name} is no property of steps")
    return found[1]


_JUDGE = """
-----------------------------------------------------------------------------
ASSUME \\A register \\in 1..{last} : TLCSet(register, 0)

VariantsSpec == (variant \\in 1..{count} /\\ Init) /\\ [][variant' = variant /\\ Next]_<<vars, variant>>

Violated ==
    CASE {violated}

Verdict(name) == TLCSet(variant, 1) /\\ PrintT(<<"REFUSED", variant, name>>)

Counted(states) ==
    /\\ TLCSet({count} + variant, states)
    /\\ IF states = {limit} THEN PrintT(<<"REACHED", variant, "">>)
       ELSE IF {limit} > 0 /\\ states = {limit} + 1 THEN PrintT(<<"EXCEEDED", variant, "">>)
       ELSE IF {limit} > 0 /\\ states = 2 * {limit} + 200 THEN TLCSet(variant, 1)
       ELSE TRUE

Judged ==
    IF TLCGet(variant) = 1 THEN TRUE
    ELSE /\\ Counted(TLCGet({count} + variant) + 1)
         /\\ LET name == Violated IN IF name = "" THEN TRUE ELSE Verdict(name)

Wanted == TLCGet(variant) = 0

StepJudged ==
    IF TLCGet(variant) = 1 THEN FALSE
    ELSE LET name == {steps}"" IN IF name = "" THEN TRUE ELSE Verdict(name)
"""
