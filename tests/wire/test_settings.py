"""Settings of a topic, as a client writes them."""

from __future__ import annotations

import pytest

from walrus.protocol import Configure, Delete, Invalid, Register, parse_request
from walrus.settings import MAX_VALUE, SETTINGS, makes_sense, parse_setting


def test_settings_are_read_with_their_topic() -> None:
    assert parse_request(b"REGISTER t") == Register("t")
    assert parse_request(b"REGISTER t retain_bytes=5 protect_groups=true") == Register(
        "t", {"retain_bytes": 5, "protect_groups": 1}
    )
    assert parse_request(b"CONFIGURE t retain_bytes=none max_deliveries=default") == Configure(
        "t", {"retain_bytes": 0, "max_deliveries": -1}
    )
    assert parse_request(b"DELETE t") == Delete("t")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("retain_bytes=-1", "retain_bytes is 1 to"),
        ("retain_bytes=0", "retain_bytes is 1 to"),
        ("retain_bytes=1_000", "retain_bytes is 1 to"),
        ("retain_bytes= 1", "retain_bytes is 1 to"),
        ("retain_bytes=", "or default or none, not ''"),
        (f"retain_bytes={MAX_VALUE + 1}", "retain_bytes is 1 to"),
        ("retain_bytes=" + "9" * 60, "retain_bytes is 1 to"),
        ("retain_bytes=٣", "retain_bytes is 1 to"),
        ("visibility_ms=none", "visibility_ms is 1 to 86400000, or default"),
        ("segment_entries=none", "segment_entries is 1 to"),
        ("protect_groups=1", "protect_groups is default or false or true"),
        ("protect_groups=none", "protect_groups is default or false or true"),
        ("retain_years=1", "'retain_years' is none of retain_entries,"),
        ("retain_bytes", "'retain_bytes' is none of"),
        ("=5", "'' is none of"),
    ],
)
def test_settings_that_make_no_sense_are_refused_by_name(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        parse_setting(text)
    for command in ("REGISTER", "CONFIGURE"):
        refused = parse_request(f"{command} t max_deliveries=3 {text}".encode())
        assert isinstance(refused, Invalid) and refused.reason.startswith("invalid setting: ")


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"CONFIGURE", "CONFIGURE requires"),
        (b"CONFIGURE t", "CONFIGURE requires"),
        (b"CONFIGURE  a=1", "CONFIGURE requires"),
        (b"CONFIGURE t retain_bytes=1  retain_seconds=1", "invalid setting"),
        (b"CONFIGURE t retain_bytes=1 retain_bytes=2", "invalid setting: retain_bytes is given twice"),
        (b"CONFIGURE t \xff=1", "invalid utf-8"),
        (b"DELETE", "DELETE requires"),
        (b"DELETE a b", "invalid topic"),
    ],
)
def test_what_is_wrong_with_a_request_is_said(body: bytes, reason: str) -> None:
    refused = parse_request(body)
    assert isinstance(refused, Invalid) and refused.reason.startswith(reason)


def test_every_setting_has_values_that_make_sense() -> None:
    for name, setting in SETTINGS.items():
        value = "true" if name == "protect_groups" else str(setting.most)
        assert makes_sense(dict([parse_setting(f"{name}={value}")]))
        assert makes_sense(dict([parse_setting(f"{name}=default")]))
        assert not makes_sense({name: setting.most + 1}) and not makes_sense({name: -2})
