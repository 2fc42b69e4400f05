"""A mistake on the command line is one line that names the flag; what is right arrives in one value."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from walrus.shell.arguments import FlagError
from walrus.shell.flags import MAX_FRAME_LIMIT, parse

ME = ["--node-id", "1"]

BAD = [
    ([], {}, "--node-id"),
    (["--node-id", "0"], {}, "--node-id"),
    (["--node-id", "one"], {}, "--node-id"),
    ([*ME, "--raft-port", "70000"], {}, "--raft-port"),
    ([*ME, "--port", "0"], {}, "--client-port"),
    ([*ME, "--join", "127.0.0.1"], {}, "--join"),
    ([*ME, "--join", "127.0.0.1:http"], {}, "--join"),
    ([*ME, "--join", "::1:6000"], {}, "--join"),
    ([*ME, "--raft-host", "http://x"], {}, "--raft-host"),
    ([*ME, "--raft-host", "0.0.0.0"], {}, "--raft-advertise-host"),
    ([*ME, "--fsync", "sometimes"], {}, "--fsync"),
    ([*ME, "--fsync", "0"], {}, "--fsync"),
    ([*ME, "--data-dir", ""], {}, "--data-dir"),
    ([*ME, "--replication-factor", "0"], {}, "--replication-factor"),
    ([*ME, "--heartbeat-ms", "-5"], {}, "--heartbeat-ms"),
    ([*ME, "--heartbeat-ms", "5000"], {}, "--election-timeout-ms"),
    ([*ME, "--lease-ttl-ms", "2000", "--failure-timeout-ms", "2000"], {}, "--lease-ttl-ms"),
    ([*ME, "--lease-ttl-ms", "50"], {}, "--lease-ttl-ms"),
    ([*ME, "--raft-port", "8080"], {}, "--client-port"),
    ([*ME, "--bootstrap", "--join", "127.0.0.1:6001"], {}, "--bootstrap"),
    ([*ME, "--log-level", "loud"], {}, "--log-level"),
    ([*ME, "--log-format", "xml"], {}, "--log-format"),
    ([*ME, "--join-timeout", "soon"], {}, "--join-timeout"),
    ([*ME, "--max-frame-bytes", "1"], {}, "--max-frame-bytes"),
    ([*ME, "--no-such-flag"], {}, "--no-such-flag"),
    (ME, {"WALRUS_MAX_SEGMENT_ENTRIES": "0"}, "WALRUS_MAX_SEGMENT_ENTRIES"),
    (ME, {"WALRUS_MAX_SEGMENT_BYTES": "1 MiB"}, "WALRUS_MAX_SEGMENT_BYTES"),
    (ME, {"WALRUS_MONITOR_CHECK_MS": "x"}, "WALRUS_MONITOR_CHECK_MS"),
    (ME, {"WALRUS_LOG": "loud"}, "WALRUS_LOG"),
]


@pytest.mark.parametrize(("arguments", "environ", "named"), BAD)
def test_a_bad_value_is_one_line_that_names_it(
    arguments: list[str], environ: dict[str, str], named: str
) -> None:
    with pytest.raises(FlagError) as caught:
        parse(arguments, environ)
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_defaults_are_the_documented_ones() -> None:
    settings = parse(["--node-id", "7"], {})
    assert (settings.raft_host, settings.raft_port) == ("127.0.0.1", 6000)
    assert (settings.client_host, settings.client_port) == ("127.0.0.1", 8080)
    assert settings.raft_advertise_host == "127.0.0.1"
    assert settings.data_dir == Path("./data")
    assert (settings.fsync, settings.replication_factor, settings.join_timeout) == ("each", 3, 60)
    assert (settings.max_segment_entries, settings.max_segment_bytes) == (1_000_000, None)
    assert settings.monitor_check == 10.0
    assert settings.max_frame_bytes == 65_536


def test_flags_and_variables_reach_the_controllers_configuration() -> None:
    flags = "--node-id 3 --fsync 50 --port 9 --heartbeat-ms 20 --election-timeout-ms 300 --lease-ttl-ms 400"
    more = "--failure-timeout-ms 500 --raft-advertise-host example.org --replication-factor 5"
    variables = {"WALRUS_MAX_SEGMENT_ENTRIES": "10", "WALRUS_MAX_SEGMENT_BYTES": "4096"}
    settings = parse([*flags.split(), *more.split()], {**variables, "WALRUS_MONITOR_CHECK_MS": "250"})
    config = settings.config()
    assert config.raft_address == "example.org:6000"
    assert config.client_address == "127.0.0.1:9"
    assert config.durable_acks is False
    assert (config.heartbeat_interval, config.election_timeout) == (0.02, 0.3)
    assert (config.lease_ttl, config.failure_timeout) == (0.4, 0.5)
    assert (config.max_segment_entries, config.max_segment_bytes, config.monitor_check) == (10, 4096, 0.25)
    assert config.replication_factor == 5
    assert settings.fsync == 0.05


def test_frames_cannot_be_raised_above_what_peers_take() -> None:
    assert parse([*ME, "--max-frame-bytes", str(MAX_FRAME_LIMIT)], {}).max_frame_bytes == MAX_FRAME_LIMIT
    with pytest.raises(FlagError, match="--max-frame-bytes"):
        parse([*ME, "--max-frame-bytes", str(MAX_FRAME_LIMIT + 1)], {})


def test_join_may_be_given_several_times() -> None:
    settings = parse(["--node-id", "2", "--join", "127.0.0.1:1", "--join", "h:2"], {})
    assert settings.join == ("127.0.0.1:1", "h:2")


def test_addresses_may_be_ipv6_and_names_may_have_underscores() -> None:
    settings = parse(
        ["--node-id", "2", "--join", "[0::1]:6000", "--join", "walrus_1:6000", "--raft-host", "::1"], {}
    )
    assert settings.join == ("[::1]:6000", "walrus_1:6000")
    assert settings.raft_host == "::1" and settings.config().raft_address == "[::1]:6000"


def test_the_process_exits_with_status_2_and_says_why_in_one_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "walrus.node", "--node-id", "1", "--fsync", "never"]
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    ended = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert ended.stdout == ""
    assert ended.stderr.count("\n") == 1
    assert "--fsync" in ended.stderr
    assert not list(tmp_path.iterdir()), "a refused start touches nothing"


def test_too_few_files_are_told_with_what_to_do(tmp_path: Path) -> None:
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = f"ulimit -n 63; exec {sys.executable} -m walrus.node --node-id 1 --log-level warning"
    ended = subprocess.run(
        ["bash", "-c", command],
        cwd=tmp_path,
        env=environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (ended.returncode, ended.stderr.count("\n")) == (1, 1), ended.stderr
    assert "ulimit -n" in ended.stderr


def test_what_the_machine_refuses_is_one_line_that_names_the_flag(tmp_path: Path) -> None:
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    (tmp_path / "file").touch()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for arguments, says in (
            (
                ["--log-file", "nowhere/log"],
                "--log-file: cannot write nowhere/log: No such file or directory",
            ),
            (["--trace", "nowhere/trace"], "--trace: cannot write nowhere/trace: No such file or directory"),
            (["--data-dir", "file"], "cannot use data directory file/node_1: Not a directory"),
            (
                ["--raft-port", str(port)],
                f"--raft-port: cannot listen on 127.0.0.1:{port}: Address already in use",
            ),
            (
                ["--raft-host", "192.0.2.1", "--insecure"],
                "--raft-host: 192.0.2.1 is no address of this machine",
            ),
            (
                ["--join", f"192.0.2.1:{port}", "--join-timeout", "1", "--data-dir", "new"],
                "no way to it from 127.0.0.1: give --raft-host",
            ),
        ):
            command = [sys.executable, "-m", "walrus.node", "--node-id", "1", *arguments]
            ended = subprocess.run(
                command, cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=60, check=False
            )
            assert (ended.returncode, ended.stdout, ended.stderr.count("\n")) == (1, "", 1), ended.stderr
            assert says in ended.stderr


TLS = ["--tls-ca", "ca", "--tls-cert", "cert", "--tls-key", "key"]


@pytest.mark.parametrize(
    ("flags", "flaw"),
    [
        (["--raft-host", "10.0.0.1"], "--raft-host: 10.0.0.1 is reached by other machines"),
        (["--client-host", "0.0.0.0"], "--client-host: 0.0.0.0 is reached by other machines"),
        (["--raft-host", "10.0.0.1", "--auth-file", "f"], "--raft-host"),
        (["--client-host", "::", "--auth-file", "f"], "--client-host"),
        (["--client-host", "10.0.0.1", "--cluster-secret-file", "f"], "--client-host"),
        (["--client-host", "10.0.0.1", *TLS], "--client-host"),
        (["--raft-host", "10.0.0.1", *TLS], ""),
        (["--raft-host", "10.0.0.1", "--cluster-secret-file", "f"], ""),
        (["--client-host", "10.0.0.1", *TLS, "--auth-file", "f"], ""),
        (["--client-host", "10.0.0.1", *TLS, "--tls-client-auth"], ""),
        (["--client-host", "0.0.0.0", "--raft-host", "10.0.0.1", "--insecure"], ""),
        (["--client-host", "127.0.0.2", "--raft-host", "::1"], ""),
    ],
)
def test_a_node_serves_other_machines_only_protected_or_when_told_to(flags: list[str], flaw: str) -> None:
    if not flaw:
        assert parse([*ME, *flags], {})
        return
    with pytest.raises(FlagError) as refused:
        parse([*ME, *flags], {})
    assert str(refused.value).startswith(flaw) and "--insecure" in str(refused.value)
