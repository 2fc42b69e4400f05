"""docs/protocol.md says what the code does: its hexdumps decode, its examples run. Errors: test_errors.py."""

from __future__ import annotations

import doctest
import re
from pathlib import Path

import pytest

from walrus import protocol
from walrus.protocol import Error, Invalid, ReplyParser, RequestParser
from walrus.wire.errors import kind_of

PAGE = Path(__file__).parents[2] / "docs" / "protocol.md"
TEXT = PAGE.read_text(encoding="utf-8")
DUMPS = re.findall(r"```hexdump\n(.*?)```", TEXT, re.DOTALL)
LINE = re.compile(r"([<>]) ([0-9a-f]{4})  ((?:[0-9a-f]{2} ?){1,16}) *\|(.*)\|")


def test_the_page_has_examples() -> None:
    assert len(DUMPS) >= 4


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
        assert not isinstance(reply, Error) or kind_of(reply.reason)


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
