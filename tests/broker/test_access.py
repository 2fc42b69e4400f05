"""What a client may do: every command against every role, topics, tokens, and the file that says so."""

from __future__ import annotations

from pathlib import Path

import pytest

from walrus import auth
from walrus.broker.access import (
    FORGIVEN_AFTER,
    LONGEST_DELAY,
    MAX_ADDRESSES,
    MAX_IDENTITIES,
    ROLES,
    Access,
    Guard,
    Principal,
    owner_of,
    parse,
    refusal,
)
from walrus.credentials import CredentialError, digest_of, drawn
from walrus.protocol import COMMANDS, Auth, Request, encode_request, parse_request

REQUESTS = {
    "REGISTER": "REGISTER orders.eu",
    "CONFIGURE": "CONFIGURE orders.eu retain_seconds=1",
    "DELETE": "DELETE orders.eu",
    "PUT": "PUT orders.eu x",
    "PUB": "PUB orders.eu me 0 x",
    "GET": "GET orders.eu",
    "FETCH": "FETCH orders.eu 1 0",
    "FIND": "FIND orders.eu time=5",
    "RECEIVE": "RECEIVE orders.eu g",
    "ACK": "ACK orders.eu g 1.0.1.1",
    "NACK": "NACK orders.eu g 1.0.1.1",
    "EXTEND": "EXTEND orders.eu g 1.0.1.1 5",
    "SEEK": "SEEK orders.eu g begin",
    "STATE": "STATE orders.eu",
    "TOPICS": "TOPICS orders.",
    "GROUPS": "GROUPS orders.eu",
    "METRICS": "METRICS",
    "LEAVE": "LEAVE 3",
    "RECOVER": "RECOVER orders.eu 1",
}
READS = {"GET", "FETCH", "FIND", "STATE", "TOPICS", "GROUPS", "METRICS"}
READS |= {"RECEIVE", "ACK", "NACK", "EXTEND", "SEEK"}
MAY = {
    "read": READS,
    "write": {"PUT", "PUB", "STATE"},
    "register": {"REGISTER"},
    "admin": {"REGISTER", "CONFIGURE", "DELETE", "RECOVER", "LEAVE"},
}
OF_NO_TOPIC = {"METRICS", "LEAVE"}


def request(command: str) -> Request:
    return parse_request(REQUESTS[command].encode())


def someone(*roles: str, topics: tuple[str, ...] = ("*",)) -> Principal:
    return Principal("someone", "0" * 64, roles, topics)


def test_every_command_is_judged() -> None:
    assert set(REQUESTS) == set(COMMANDS) - {"AUTH", "HELLO"}
    assert set(MAY) == set(ROLES)
    for command in REQUESTS:
        assert parse_request(REQUESTS[command].encode()) == request(command)


@pytest.mark.parametrize("command", REQUESTS)
def test_a_role_is_good_for_its_commands_and_for_no_other(command: str) -> None:
    for role, commands in MAY.items():
        refused = refusal(someone(role), request(command))
        assert (refused is None) is (command in commands), f"{role} and {command}"
        assert refused is None or (f"may not {command}, that needs the role" in refused)


@pytest.mark.parametrize("command", sorted(set(REQUESTS) - OF_NO_TOPIC))
def test_a_role_counts_for_its_topics_alone(command: str) -> None:
    for topics, may in (
        (("orders.*",), True),
        (("other", "orders.eu"), command != "TOPICS"),
        (("orders",), False),
        (("orders.eu.*",), False),
        (("order",), False),
        (("Orders.*",), False),
    ):
        refused = refusal(someone(*ROLES, topics=topics), request(command))
        assert (refused is None) is may, f"{command} with {topics}"
        assert refused is None or "orders.eu" not in refused


def test_what_concerns_the_cluster_needs_all_topics() -> None:
    assert refusal(someone("admin", topics=("orders.*",)), request("LEAVE"))
    assert refusal(someone("read", topics=("orders.*",)), parse_request(b"TOPICS"))
    assert refusal(someone("read", topics=("orders.*",)), parse_request(b"TOPICS order"))
    assert not refusal(someone("read", topics=("orders.*",)), parse_request(b"TOPICS orders.eu"))
    assert not refusal(someone("read", topics=("orders.*",)), request("METRICS"))


# --- connections ----------------------------------------------------------------------------------


def known(*roles: str) -> tuple[Access, str]:
    token = drawn()
    return Access({"me": Principal("me", digest_of(token), roles)}), token


@pytest.mark.parametrize("command", [*REQUESTS, "HELLO"])
def test_without_a_token_nothing_is_carried_out(command: str) -> None:
    access, _ = known(*ROLES)
    asked = parse_request(REQUESTS.get(command, "HELLO positions=1").encode())
    refused = Guard(access).refusal(asked)
    assert refused is not None and refused.startswith("unauthenticated: ")


def test_a_good_token_identifies_and_a_wrong_one_is_the_last() -> None:
    access, token = known("read")
    guard = Guard(access)
    assert guard.admit(token) and guard.refusal(request("GET")) is None
    assert guard.admit(token), "the same again"
    assert not guard.admit(drawn()) and guard.refusal(request("GET")), "it is not who it was"
    assert not guard.admit(token), "no second attempt"


@pytest.mark.parametrize("token", ["", " ", "short", "k" * 129, "k" * (1 << 20), "é" * 40, "k" * 40 + "\0"])
def test_what_is_no_token_is_wrong_whatever_it_is(token: str) -> None:
    access = Access({"me": Principal("me", digest_of(token), ("read",))})
    assert not Guard(access).admit(token), "not even if the file had its hash"


def test_a_token_is_its_owners_alone() -> None:
    tokens = [drawn() for _ in range(3)]
    principals = [Principal(f"p{n}", digest_of(token), ("read",)) for n, token in enumerate(tokens)]
    assert [owner_of(token, principals) for token in tokens] == principals
    assert owner_of(tokens[0][:-1] + "!", principals) is None
    assert owner_of(principals[0].digest, principals) is None, "what the file has is no token"


def test_no_repr_shows_a_token() -> None:
    token = drawn()
    asked = parse_request(b"AUTH " + token.encode())
    assert asked == Auth(token) and token not in repr(asked) and token not in f"{asked}"
    assert encode_request(b"AUTH x")


def test_a_file_that_is_read_again_counts_for_connections_that_are_open() -> None:
    access, token = known("read")
    guard = Guard(access)
    guard.admit(token)
    access.principals = {"me": Principal("me", digest_of(token), ("write",))}
    assert guard.reread() and guard.refusal(request("GET")) and not guard.refusal(request("PUT"))
    access.principals = {}
    assert not guard.reread() and guard.refusal(request("PUT"))
    assert Guard(access).reread(), "one without an identity yet may still send a token"


def test_a_wrong_token_is_answered_later_each_time_and_addresses_are_bounded() -> None:
    access = Access({})
    delays = [access.failed("h", 0.0) for _ in range(10)]
    assert delays == sorted(delays) and delays[0] < 0.1 and delays[-1] == LONGEST_DELAY
    assert access.failed("other", 0.0) == delays[0]
    assert access.failed("h", FORGIVEN_AFTER + 1) == delays[0]
    for number in range(2 * MAX_ADDRESSES):
        access.failed(f"h{number}", 0.0)
    assert len(access._failed) == MAX_ADDRESSES and access.failures == 2 * MAX_ADDRESSES + 12


# --- the file -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "flaw"),
    [
        ("me", "must be NAME SHA256 ROLES"),
        ("me " + "0" * 63 + " read", "no SHA-256"),
        ("me " + "0" * 64 + " king", "none of read, write, register, admin"),
        ("me " + "0" * 64 + " read,", "none of read, write, register, admin"),
        ("m/e " + "0" * 64 + " read", "a name is"),
        ("me " + "0" * 64 + " read\nme " + "1" * 64 + " read", "line 2: me stands there twice"),
        ("me " + "0" * 64 + " read\nyou " + "0" * 64 + " admin", "line 2: you has the token of another"),
        ("\n".join(f"n{n} {n:064x} read" for n in range(MAX_IDENTITIES + 1)), "more than 1000"),
    ],
)
def test_a_file_is_believed_whole_or_not_at_all(text: str, flaw: str) -> None:
    with pytest.raises(CredentialError, match=flaw) as refused:
        parse(text, "clients")
    assert str(refused.value).startswith("clients") and "0" * 63 not in str(refused.value)


def test_the_command_adds_lists_and_removes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "clients"
    assert (
        auth.main(["add", str(file), "billing", "--role", "read", "--role", "write", "--topics", "orders.*"])
        == 0
    )
    token = capsys.readouterr().out.strip()
    assert auth.main(["add", str(file), "boss", "--role", "admin"]) == 0
    other = capsys.readouterr().out.strip()
    text = file.read_text()
    assert token not in text and other not in text and file.stat().st_mode & 0o777 == 0o640
    principals = parse(text, "clients")
    assert principals["billing"] == Principal("billing", digest_of(token), ("read", "write"), ("orders.*",))
    assert owner_of(other, principals.values()) == principals["boss"]
    assert auth.main(["list", str(file)]) == 0
    assert capsys.readouterr().out == "billing  read,write  orders.*\nboss  admin  *\n"
    assert auth.main(["add", str(file), "boss", "--role", "read"]) == 1
    assert "boss is there already" in capsys.readouterr().err and file.read_text() == text
    assert auth.main(["remove", str(file), "billing"]) == 0
    assert list(parse(file.read_text(), "clients")) == ["boss"]
    assert auth.main(["remove", str(file), "billing"]) == 1


def test_a_secret_is_made_once_and_for_its_owner(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    assert auth.main(["secret", str(file)]) == 0 and file.stat().st_mode & 0o777 == 0o600
    text = file.read_text()
    assert auth.main(["secret", str(file)]) == 1 and file.read_text() == text
