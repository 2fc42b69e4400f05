"""What the console may do with topics, if changes are allowed: what any client may do, with its token.

    look         some entries from a place on, or the last ones: place, time, length, text and hex
    put          one message
    seek         a group of a work queue, also backwards
    register     a topic, with settings
    configure    settings of one

The body of a request is a JSON object with its arguments. Invalid arguments are refused before anything is
sent to the cluster.

Left out: DELETE, which cannot be undone; `walrus-cli delete` asks first.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypeAlias, cast

from walrus.client import AsyncClient, Entry, TopicSettings, WalrusError
from walrus.console.actions import ActionError
from walrus.settings import parse_setting

MAX_LOOKED_AT: Final = 20
"""The most entries that one look shows."""
MAX_SHOWN_BYTES: Final = 512
"""The most bytes of an entry that are shown, from its beginning."""
PATIENCE: Final = 5.0
"""Seconds that a request of this kind may take."""

Told: TypeAlias = Mapping[str, Any]
"""The arguments in the body of a request."""


class BadRequestError(ActionError):
    """The request is invalid, whatever the state of the cluster; the message is one line."""


def told(body: bytes) -> Told:
    """Parse the body of a request. Raises BadRequestError.

    >>> told(b'{"settings": "retain_entries=5"}'), told(b"")
    ({'settings': 'retain_entries=5'}, {})
    """
    try:
        found = json.loads(body or b"{}")
    except ValueError:
        raise BadRequestError("the body of this request is an object of JSON") from None
    if not isinstance(found, dict):
        raise BadRequestError("the body of this request is an object of JSON")
    return found


def shown(entry: Entry) -> dict[str, Any]:
    """Return one entry as the page shows it.

    >>> seen = shown(Entry(2, 7, b"caf\\xc3\\xa9\\x00"))
    >>> seen["segment"], seen["offset"], seen["bytes"], seen["text"], seen["hex"]
    (2, 7, 6, 'café\ufffd', '63 61 66 c3 a9 00')
    """
    head = entry.payload[:MAX_SHOWN_BYTES]
    text = "".join(c if c.isprintable() else "\ufffd" for c in head.decode("utf-8", "replace"))
    place = {"segment": entry.segment, "offset": entry.offset, "unix_ms": entry.unix_ms}
    return {**place, "bytes": len(entry.payload), "text": text, "hex": head.hex(" ")}


async def act(action: str, topic: str, asked: Told, addresses: Iterable[str]) -> dict[str, Any]:
    """Carry out an action; return `done`, a line, and for a look `entries`. Raises ActionError."""
    try:
        async with AsyncClient(list(addresses), timeout=PATIENCE) as client:
            return await _ACTIONS[action](client, topic, asked)
    except (WalrusError, OSError) as error:
        raise ActionError(str(error)) from error
    except (ValueError, TypeError) as error:
        raise BadRequestError(str(error)) from error


async def _look(client: AsyncClient, topic: str, asked: Told) -> dict[str, Any]:
    segment, offset = _place(asked) if "segment" in asked else await _last(client, topic)
    entries: list[dict[str, Any]] = []
    async for entry in client.scan(topic, segment, offset):
        entries.append(shown(entry))
        if len(entries) == MAX_LOOKED_AT:
            break
    return {"done": f"{len(entries)} entries of {topic}, from {segment}.{offset} on", "entries": entries}


def _place(asked: Told) -> tuple[int, int]:
    segment, offset = asked.get("segment"), asked.get("offset", 0)
    if type(segment) is not int or type(offset) is not int or segment < 1 or offset < 0:
        raise ValueError("segment is a number from 1, offset one from 0")
    return segment, offset


async def _last(client: AsyncClient, topic: str) -> tuple[int, int]:
    """Return where the last entries begin: in the open segment, or, if that is empty, in the one before."""
    end = (await client.groups(topic))["end"]
    segment, offset = int(end["segment"]), int(end["offset"])
    if offset == 0:
        state = await client.state(topic)
        filled = [int(number) for number, count in state["sealed_segments"].items() if count]
        if filled:
            segment = max(filled)
            offset = state["sealed_segments"][str(segment)]
    return segment, max(0, offset - MAX_LOOKED_AT)


async def _put(client: AsyncClient, topic: str, asked: Told) -> dict[str, Any]:
    payload = asked.get("payload")
    if not isinstance(payload, str):
        raise ValueError("payload is the text of the message")
    place = await client.put(topic, payload.encode())
    return {"done": f"acknowledged, at {place.segment}.{place.offset}" if place.known else "acknowledged"}


async def _seek(client: AsyncClient, topic: str, asked: Told) -> dict[str, Any]:
    group, to = asked.get("group"), asked.get("to")
    if not isinstance(group, str) or not group or not isinstance(to, str):
        raise ValueError("group is the name of one, to is begin, end, SEGMENT.OFFSET or unix milliseconds")
    await client.seek(topic, group, _destination(to))
    return {"done": f"{group} goes on at {to}"}


def _destination(to: str) -> str | tuple[int, int] | datetime:
    """Parse the destination of a group: a position, a word, or a time in milliseconds since the epoch.

    >>> _destination("2.5"), _destination("end"), _destination("1000")
    ((2, 5), 'end', datetime.datetime(1970, 1, 1, 0, 0, 1, tzinfo=datetime.timezone.utc))
    """
    segment, dot, offset = to.partition(".")
    if to in ("begin", "end"):
        return to
    if to.isascii() and to.isdigit() and len(to) <= 14:
        return datetime.fromtimestamp(0, UTC) + timedelta(milliseconds=int(to))
    if dot and all(part.isascii() and part.isdigit() for part in (segment, offset)):
        return int(segment), int(offset)
    raise ValueError(f"to is begin, end, SEGMENT.OFFSET or unix milliseconds, not {to[:80]!r}")


def _settings(asked: Told) -> TopicSettings:
    """Parse settings such as `retain_entries=5 segment_bytes=none`. Raises ValueError naming the flaw."""
    text = asked.get("settings", "")
    if not isinstance(text, str):
        raise ValueError("settings are KEY=VALUE, with spaces between")
    found: dict[str, Any] = {}
    for word in text.split():
        name, _ = parse_setting(word)
        value = word.partition("=")[2]
        found[name] = {"true": True, "false": False, "none": None}.get(value, value)
        if value.isdigit():
            found[name] = int(value)
    return cast("TopicSettings", found)


async def _register(client: AsyncClient, topic: str, asked: Told) -> dict[str, Any]:
    await client.register(topic, _settings(asked))
    return {"done": f"{topic} is registered"}


async def _configure(client: AsyncClient, topic: str, asked: Told) -> dict[str, Any]:
    await client.configure(topic, _settings(asked))
    return {"done": f"{topic} is configured"}


_ACTIONS: Final[dict[str, Callable[[AsyncClient, str, Told], Awaitable[dict[str, Any]]]]] = {
    "look": _look,
    "put": _put,
    "seek": _seek,
    "register": _register,
    "configure": _configure,
}
TOPIC_ACTIONS: Final = tuple(_ACTIONS)
