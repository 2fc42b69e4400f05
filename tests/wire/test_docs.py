"""docs/protocol.md says what the code does: its hexdumps decode, its errors are the code's, all of them."""

from __future__ import annotations

import doctest
import inspect
import re
from pathlib import Path

import pytest

from walrus import protocol
from walrus.client.errors import NotEnoughReplicas, OutcomeUnknown, StorageFailed, error_for
from walrus.protocol import Error, Invalid, ReplyParser, RequestParser
from walrus.wire import errors

PAGE = Path(__file__).parents[2] / "docs" / "protocol.md"
TEXT = PAGE.read_text(encoding="utf-8")
ROWS = re.findall(r"^\| `([^`]+)` \| `(\w+)` \| (no|maybe) \|", TEXT, re.MULTILINE)
DUMPS = re.findall(r"```hexdump\n(.*?)```", TEXT, re.DOTALL)
LINE = re.compile(r"([<>]) ([0-9a-f]{4})  ((?:[0-9a-f]{2} ?){1,16}) *\|(.*)\|")


def reasons() -> list[str]:
    """Every reason that the code can give: constants, and functions with an argument made up."""
    constants = [
        value
        for name, value in vars(errors).items()
        if name.isupper() and not name.startswith("_") and isinstance(value, str)
    ]
    made: list[str] = []
    for _, function in inspect.getmembers(errors, inspect.isfunction):
        signature = inspect.signature(function)
        if function.__module__ == errors.__name__ and signature.return_annotation == "str":
            arguments = [7 if one.annotation == "int" else "x" for one in signature.parameters.values()]
            made.append(function(*arguments))
    return constants + [made_up for made_up in made if not made_up.startswith("_")]


def matches(beginning: str, reason: str) -> bool:
    pattern = re.sub(r"<[^<>]+>", "\0", beginning)
    return re.match(re.escape(pattern).replace("\0", ".+?"), reason) is not None


def row_of(reason: str) -> tuple[str, str, str]:
    return next(row for row in ROWS if matches(row[0], reason))


def test_the_page_has_errors_and_examples() -> None:
    assert len(ROWS) > 15 and len(DUMPS) >= 4
    assert len(reasons()) >= len(ROWS)


@pytest.mark.parametrize("reason", reasons())
def test_every_error_is_on_the_page_with_its_class(reason: str) -> None:
    _, kind, done = row_of(reason)
    error = error_for(reason)
    assert type(error).__name__ == kind
    assert (done == "maybe") == isinstance(error, OutcomeUnknown | NotEnoughReplicas | StorageFailed)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_every_error_on_the_page_is_in_the_code(row: tuple[str, str, str]) -> None:
    assert any(row_of(reason) == row for reason in reasons())


@pytest.mark.parametrize("dump", DUMPS)
def test_the_hexdumps_are_what_they_look_like(dump: str) -> None:
    streams = {">": bytearray(), "<": bytearray()}
    for line in dump.splitlines():
        found = LINE.fullmatch(line)
        assert found, line
        direction, _, digits, text = found.groups()
        data = bytes.fromhex(digits)
        assert text == "".join(chr(byte) if 32 <= byte < 127 else "." for byte in data)
        streams[direction] += data
    requests = RequestParser().feed(bytes(streams[">"]))
    replies = ReplyParser().feed(bytes(streams["<"]))
    assert requests and not any(isinstance(request, Invalid) for request in requests)
    assert sum(request.replies for request in requests) == len(replies)
    for reply in replies:
        assert not isinstance(reply, Error) or row_of(reply.reason)


def test_the_python_on_the_page_runs() -> None:
    failed, tried = doctest.testfile(str(PAGE), module_relative=False)
    assert (failed, tried) == (0, 3)


def test_the_limits_on_the_page_are_the_codes() -> None:
    for number in (
        f"{protocol.DEFAULT_MAX_FRAME_BYTES:,} bytes",
        f"{protocol.MAX_NAME_BYTES} bytes",
        f"{protocol.MAX_SKIP_BYTES >> 20} MiB",
        f"{protocol.MAX_PEER_FRAME_BYTES >> 20} MiB",
    ):
        assert number in TEXT
    for command in protocol.COMMANDS:
        assert f'"{command}"' in TEXT
