"""The settings of a topic: their names, their values, and how a client writes them.

    CONFIGURE orders retain_seconds=86400 max_deliveries=5 segment_bytes=none visibility_ms=default

A value is a whole number from 1 on; `none`, if the setting is an optional limit; `true` or `false` for
protect_groups. `default` unsets a setting. If a topic does not have a setting, the flag of the node that
needs the value applies: the writer of its open segment, the owner of its groups, or the Raft leader.

    kept as       means
    absent        not set: the node's flag applies
    0             `none`, or `false`
    from 1 on     the value; 1 is `true`

In a change (`commands.ConfigureTopic`) DEFAULT means that the setting is unset. A change is atomic: if one
value is invalid, nothing is changed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

DEFAULT: Final = -1
"""In a change: unset the setting."""

MAX_VALUE: Final = 1 << 50


class Setting(msgspec.Struct, frozen=True):
    """One setting: its greatest value, whether it may be `none`, and its description."""

    most: int
    may_be_none: bool
    about: str


SETTINGS: Final[dict[str, Setting]] = {
    "retain_entries": Setting(MAX_VALUE, True, "entries after which the oldest sealed segments are dropped"),
    "retain_bytes": Setting(MAX_VALUE, True, "bytes after which the oldest sealed segments are dropped"),
    "retain_seconds": Setting(MAX_VALUE, True, "age after which a sealed segment is dropped"),
    "segment_entries": Setting(1 << 40, False, "entries after which a segment is sealed"),
    "segment_bytes": Setting(MAX_VALUE, True, "bytes after which a segment is sealed"),
    "segment_seconds": Setting(MAX_VALUE, True, "age after which a segment that has entries is sealed"),
    "visibility_ms": Setting(86_400_000, False, "how long an entry stays out after RECEIVE"),
    "max_deliveries": Setting(1_000_000, True, "deliveries after which an entry goes to <topic>.dead"),
    "protect_groups": Setting(1, False, "true: nothing is dropped that a group has not read"),
}


def parse_setting(text: str) -> tuple[str, int]:
    """Return name and value of `<key>=<value>`. Raises ValueError, which says what is valid.

    >>> parse_setting("retain_bytes=1000"), parse_setting("retain_bytes=none")
    (('retain_bytes', 1000), ('retain_bytes', 0))
    >>> parse_setting("protect_groups=true"), parse_setting("protect_groups=default")
    (('protect_groups', 1), ('protect_groups', -1))
    """
    name, equals, value = text.partition("=")
    setting = SETTINGS.get(name)
    if not equals or setting is None:
        raise ValueError(f"{name[:80]!r} is none of {', '.join(SETTINGS)}")
    words = {"default": DEFAULT}
    if name == "protect_groups":
        words |= {"true": 1, "false": 0}
    elif setting.may_be_none:
        words["none"] = 0
    if value in words:
        return name, words[value]
    is_number = value.isascii() and value.isdigit() and len(value) <= 19 and name != "protect_groups"
    if is_number and 1 <= int(value) <= setting.most:
        return name, int(value)
    numbers = "" if name == "protect_groups" else f"1 to {setting.most}, or "
    raise ValueError(f"{name} is {numbers}{' or '.join(sorted(words))}, not {value[:80]!r}")


def shown(name: str, value: int) -> int | bool | None:
    """The value as in JSON.

    >>> shown("retain_bytes", 0), shown("retain_bytes", 7), shown("protect_groups", 1)
    (None, 7, True)
    """
    if name == "protect_groups":
        return bool(value)
    return value or None


def makes_sense(settings: Mapping[str, int]) -> bool:
    """Whether this version knows these settings, and each has a valid value."""
    for name, value in settings.items():
        setting = SETTINGS.get(name)
        if setting is None or not DEFAULT <= value <= setting.most:
            return False
        if value == 0 and not (setting.may_be_none or name == "protect_groups"):
            return False
    return True


def changed(settings: Mapping[str, int], change: Mapping[str, int]) -> dict[str, int]:
    """The settings after a change, in the order of their names.

    >>> changed({"retain_bytes": 5, "retain_entries": 7}, {"retain_bytes": -1, "retain_seconds": 9})
    {'retain_entries': 7, 'retain_seconds': 9}
    """
    merged = {**settings, **change}
    return {name: merged[name] for name in sorted(merged) if merged[name] != DEFAULT}
