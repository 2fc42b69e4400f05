"""A linter of Prometheus' text format: what its parser demands, and the rules of `promtool check metrics`.

The parser is that of `prometheus_client`; the rules are written down anew here, so that what writes the
format does not judge it.
"""

from __future__ import annotations

import math
import re
from collections import Counter

from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

NAME = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")
WRONG_UNITS = ("milliseconds", "microseconds", "minutes", "hours", "days", "ms", "kilobytes", "megabytes",
               "kb", "mb", "kib", "mib", "percent", "celsius_degrees")  # fmt: skip
TYPES = ("counter", "gauge", "histogram", "summary")
RESERVED = ("_bucket", "_count", "_sum", "_info")


def lint(text: str) -> list[str]:
    """Return what is wrong, a line each."""
    if not text.endswith("\n"):
        return ["the last line has no end"]
    try:
        families = list(text_string_to_metric_families(text))
    except ValueError as error:
        return [f"cannot be parsed: {error}"]
    found = _order(text)
    for family in families:
        found += _names(family) + _series(family)
    return found


def _order(text: str) -> list[str]:
    """HELP, TYPE, samples, and each family in one piece."""
    found, seen, now = [], set(), ""
    described: Counter[tuple[str, str]] = Counter()
    for line in text.splitlines():
        if line.startswith(("# HELP ", "# TYPE ")):
            _, kind, name, *rest = line.split(" ", 3)
            described[kind, name] += 1
            if name != now and name in seen:
                found.append(f"{name}: in two pieces")
            if kind == "TYPE" and rest == ["counter"] and not name.endswith("_total"):
                found.append(f"{name}: a counter ends with _total")  # the parser adds it, and hides the slip
            if not rest:
                found.append(f"{name}: {kind} says nothing")
            now = name
            seen.add(name)
        elif not line.startswith(now) or not now:
            found.append(f"{line.split('{')[0].split(' ')[0]}: has no HELP and TYPE before it")
    found += [
        f"{name}: {kind} is there {count} times" for (kind, name), count in described.items() if count > 1
    ]
    return found + [f"{name}: no HELP" for kind, name in described if ("HELP", name) not in described]


def _names(family: Metric) -> list[str]:
    name, found = family.name, []
    words = name.split("_")
    if not NAME.fullmatch(name):
        found.append(f"{name}: not in snake_case")
    if family.type not in TYPES:
        found.append(f"{name}: its type is {family.type}")
    found += [f"{name}: {word} is no base unit" for word in words if word in WRONG_UNITS]
    found += [f"{name}: its type is in its name" for word in words if word in TYPES]
    if family.type != "counter" and name.endswith("_total"):
        found.append(f"{name}: only a counter ends with _total")
    if family.type in ("counter", "gauge") and name.endswith(RESERVED):
        found.append(f"{name}: that ending belongs to histograms")
    labels = {label for sample in family.samples for label in sample.labels}
    return found + [f"{name}: label {label}" for label in labels if not NAME.fullmatch(label)]


def _series(family: Metric) -> list[str]:
    seen = Counter((s.name, *sorted(s.labels.items())) for s in family.samples)
    found = [f"{key[0]}: the same series twice" for key, count in seen.items() if count > 1]
    if family.type == "counter":
        found += [f"{s.name}: below 0" for s in family.samples if not s.value >= 0]
    if family.type == "histogram":
        found += _histogram(family)
    return found


def _histogram(family: Metric) -> list[str]:
    found = []
    groups: dict[tuple[tuple[str, str], ...], dict[str, dict[float, float]]] = {}
    for sample in family.samples:
        labels = {label: value for label, value in sample.labels.items() if label != "le"}
        group = groups.setdefault(tuple(sorted(labels.items())), {})
        group.setdefault(sample.name, {})[float(sample.labels.get("le", "nan"))] = sample.value
    for labels, group in groups.items():
        buckets = group.get(f"{family.name}_bucket", {})
        counts = [buckets[bound] for bound in sorted(buckets)]
        if math.inf not in buckets:
            found.append(f"{family.name}{dict(labels)}: no bucket +Inf")
        elif [buckets[math.inf]] != list(group.get(f"{family.name}_count", {}).values()):
            found.append(f"{family.name}{dict(labels)}: its count is not that of the last bucket")
        if counts != sorted(counts):
            found.append(f"{family.name}{dict(labels)}: buckets are not cumulated")
        if f"{family.name}_sum" not in group:
            found.append(f"{family.name}{dict(labels)}: no sum")
    return found
