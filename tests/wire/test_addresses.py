"""HOST:PORT: what is one, what is none, and that every address that is written can be read."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from walrus.wire.addresses import join_address, parse_address, parse_host

HOSTS = st.one_of(
    st.ip_addresses().map(str),
    st.from_regex(r"[a-z0-9][a-z0-9_-]{0,62}(\.[a-z0-9][a-z0-9_-]{0,62}){0,3}", fullmatch=True),
)


@given(HOSTS, st.integers(1, 65535))
def test_an_address_that_is_written_can_be_read(host: str, port: int) -> None:
    assert parse_address(join_address(parse_host(host), port)) == (parse_host(host), port)


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":",
        "h",
        "h:",
        ":1",
        "h:0",
        "h:65536",
        "h:1_0",
        "h:+1",
        "h:١",
        "::1:80",
        "[::1]",
        "[::1",
        "a b:1",
        "[h]:1",
    ],
)
def test_what_is_no_address_is_refused_with_one_line(text: str) -> None:
    with pytest.raises(ValueError, match=r"^must be HOST:PORT.*, not ") as refusal:
        parse_address(text)
    assert "\n" not in str(refusal.value)


@given(st.text(max_size=40))
def test_any_text_is_an_address_or_refused(text: str) -> None:
    try:
        host, port = parse_address(text)
    except ValueError as refusal:
        assert "HOST:PORT" in str(refusal)
    else:
        assert parse_address(join_address(host, port)) == (host, port)


@pytest.mark.parametrize("host", ["", "http://x", "a..b", "-" * 64, "a b", "x\n", "[x]"])
def test_what_is_no_host_is_refused(host: str) -> None:
    with pytest.raises(ValueError, match="must be a host name or an IP address"):
        parse_host(host)
