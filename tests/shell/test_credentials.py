"""Tokens and secrets in files: what is refused, by which line, and that no line shows them."""

from __future__ import annotations

from pathlib import Path

import pytest

from walrus.credentials import MAX_FILE, MAX_TOKEN, CredentialError, drawn, read, read_private, token_from
from walrus.shell.peer_connections import Trust


def private(path: Path, text: str, mode: int = 0o600) -> Path:
    path.write_text(text)
    path.chmod(mode)
    return path


def test_a_secret_is_the_only_line_of_its_file(tmp_path: Path) -> None:
    secret = drawn()
    assert read_private(private(tmp_path / "secret", secret + "\n")) == secret
    assert drawn() != secret


@pytest.mark.parametrize("text", ["", "short", "two words of twenty-six chars", "k" * (MAX_TOKEN + 1),
    "k" * 30 + "\n" + "k" * 30, "k" * (MAX_FILE + 1), "\udc80"])  # fmt: skip
def test_what_is_no_secret_is_refused_by_name(tmp_path: Path, text: str) -> None:
    path = tmp_path / "secret"
    path.write_bytes(text.encode(errors="surrogateescape"))
    path.chmod(0o600)
    with pytest.raises(CredentialError) as refused:
        read_private(path)
    assert str(refused.value).startswith(f"{path}: ") and "\n" not in str(refused.value)
    assert not text.strip() or text.strip() not in str(refused.value)


def test_a_file_that_every_user_may_read_keeps_no_secret(tmp_path: Path) -> None:
    path = private(tmp_path / "secret", drawn(), 0o644)
    with pytest.raises(CredentialError, match="every user may read it: chmod o-r"):
        read_private(path)
    path.chmod(0o646)
    with pytest.raises(CredentialError, match="every user may write it: chmod o-w"):
        read(path, others_may_not="w")


def test_a_file_that_is_absent_is_named(tmp_path: Path) -> None:
    with pytest.raises(CredentialError, match="absent: No such file"):
        read_private(tmp_path / "absent")


def test_a_token_comes_from_a_file_first_then_from_the_environment(tmp_path: Path) -> None:
    first, second, third = drawn(), drawn(), drawn()
    given, named = private(tmp_path / "given", first), private(tmp_path / "named", second)
    assert token_from({"WALRUS_TOKEN_FILE": str(given), "WALRUS_TOKEN": third}) == first
    assert token_from({"WALRUS_TOKEN_FILE": str(named), "WALRUS_TOKEN": third}) == second
    assert token_from({"WALRUS_TOKEN": third}) == third
    assert token_from({"WALRUS_TOKEN": "", "WALRUS_TOKEN_FILE": ""}) == ""
    with pytest.raises(CredentialError) as refused:
        token_from({"WALRUS_TOKEN": "not a token"})
    assert "not a token" not in str(refused.value)


def test_what_a_node_trusts_is_shown_without_its_secret() -> None:
    assert "hush" not in repr(Trust(secret=b"hush"))
    assert "hush" not in repr({"trust": Trust(secret=b"hush")})
