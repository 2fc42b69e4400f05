"""Flag, environment, file, default: which one counts, and what is said of a file that makes no sense."""

from __future__ import annotations

import asyncio
import os
import re
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from walrus import cluster, node
from walrus.console import main as console
from walrus.mirror import main as mirror
from walrus.shell import flags
from walrus.shell.arguments import FlagError, Parser
from walrus.shell.identity import DataDirectory
from walrus.shell.layers import MAX_CONFIG_BYTES, SECTIONS, key_of, keys_of, layered
from walrus.shell.start import StartError

EXAMPLE = Path(__file__).parents[2] / "deploy" / "walrus.toml"
PROGRAMS: dict[str, tuple[Callable[[], Parser], tuple[str, ...]]] = {
    "node": (flags._parser, ()),
    "cluster": (cluster._parser, cluster.VERBS),
    "console": (console._parser, console.VERBS),
    "mirror": (mirror._parser, ()),
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "walrus.toml"


def _node(file: Path, *arguments: str, environ: dict[str, str] | None = None) -> flags.Settings:
    return flags.parse(["--config", str(file), *arguments], environ or {})


def test_a_flag_goes_before_a_variable_that_before_the_file_that_before_the_default(file: Path) -> None:
    file.write_text("[node]\nnode-id = 1\nlog-level = 'error'\nfsync = 200\njoin = ['a:1', 'b:2']\n")
    environ = {"WALRUS_LOG": "DEBUG"}
    assert _node(file, "--log-level", "warning", environ=environ).log_level == "warning"
    assert _node(file, environ=environ).log_level == "debug"
    assert _node(file, environ={"WALRUS_LOG": ""}).log_level == "error", "set but empty is not set"
    assert flags.parse(["--node-id", "1"], {}).log_level == "info"
    assert (_node(file).fsync, _node(file, "--fsync", "each").fsync) == (0.2, "each")
    assert _node(file).join == ("a:1", "b:2")
    assert _node(file, "--join", "c:3").join == ("c:3",), "a list is replaced, not continued"


WRONG = [
    ("[node]\nraft-port = 70000", "[node] raft-port: must be a whole number of 1 to 65535, not '70000'"),
    ("[node]\nraft-port = '6001'", "[node] raft-port: must be a whole number, not '6001'"),
    ("[node]\nraft-port = true", "[node] raft-port: must be a whole number, not true"),
    ("[node]\nraft-port = 6e3", "[node] raft-port: must be a whole number, not 6000.0"),
    ("[node]\nraft-port = 2020-01-01", "[node] raft-port: must be a whole number, not a date or time"),
    ("[node]\nraft-port = {}", "[node] raft-port: must be a whole number, not a table"),
    ("[node]\nraft-port = 0x" + "f" * 9_000, "[node] raft-port: must be a whole number of 1 to 65535"),
    ("[node]\nraft-port = " + "9" * 9_000, "is not TOML"),
    ("[node]\nfsync = 'sometimes'", "[node] fsync: must be each, none or milliseconds"),
    ("[node]\nfsync = [1]", "[node] fsync: must be text in quotes or a whole number, not a list"),
    ("[node]\nlog-format = 'xml'", "[node] log-format: must be one of text, json, not 'xml'"),
    ("[node]\nlog-file = 7", "[node] log-file: must be text in quotes, not 7"),
    ("[node]\ndata-dir = ''", "[node] data-dir: must be the name of a directory, not ''"),
    ("[node]\nbootstrap = 'yes'", "[node] bootstrap: must be true or false, not 'yes'"),
    ("[node]\njoin = 'a:1'", "[node] join: must be a list of text in quotes, not 'a:1'"),
    ("[node]\njoin = [6000]", "[node] join: must be text in quotes, not 6000"),
    ("[node]\njoin = ['nowhere']", "[node] join: "),
    ("[node]\nlease-ttl-ms = 5000", "[node] lease-ttl-ms: must be below --failure-timeout-ms"),
    ("[node]\nraft-prot = 1", "[node] has no key raft-prot: did you mean raft-port?"),
    ("[node]\nraft_port = 1", "[node] has no key raft_port: did you mean raft-port?"),
    ("[node]\nconfig = 'other.toml'", "[node] has no key config"),
    ("[node]\n" + "k" * 9_000 + " = 1", "[node] has no key kkkk"),
    ("[nodes]\nfsync = 1", "[nodes] is no section: did you mean node?"),
    ("fsync = 1", "fsync stands in no section: put it below [node]"),
    ("node = 1", "node is a section: write [node], and its keys below"),
    ("[node]\nfsync = 1\nfsync = 2", "is not TOML: Cannot overwrite a value"),
    ("[node", "is not TOML: "),
    ("x = " + "[" * 20_000, "is nested too deeply"),
]


@pytest.mark.parametrize(("text", "says"), WRONG, ids=[text[:40] for text, _ in WRONG])
def test_a_value_of_any_length_is_one_short_line(file: Path, text: str, says: str) -> None:
    file.write_text(text + "\n")
    with pytest.raises(FlagError) as caught:
        _node(file, "--node-id", "1")
    said = str(caught.value)
    assert said.startswith(f"{file}: {says}")
    assert "\n" not in said and len(said.removeprefix(str(file))) < 900
    assert said.isprintable()


def test_a_file_that_is_no_configuration_is_one_line_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "bytes").write_bytes(b"[node]\nlog-file = '\xff'\n")
    (tmp_path / "huge").write_bytes(b"#" * (MAX_CONFIG_BYTES + 1))
    (tmp_path / "directory").mkdir()
    (tmp_path / "loop").symlink_to("loop")
    for name, says in {
        "absent": "cannot read {}: No such file or directory",
        "directory": "cannot read {}: Is a directory",
        "loop": "cannot read {}: Too many levels of symbolic links",
        "huge": "{} has more than 1048576 bytes: is it another file?",
        "/dev/zero": "{} has more than 1048576 bytes: is it another file?",
        "bytes": "{}: is not UTF-8 text, at byte 19",
    }.items():
        path = tmp_path / name
        with pytest.raises(FlagError) as caught:
            _node(path, "--node-id", "1")
        assert str(caught.value).removeprefix("--config: ") == says.format(path)
    (tmp_path / "most").write_bytes(b"[node]\nnode-id = 7\n".ljust(MAX_CONFIG_BYTES, b"#"))
    assert _node(tmp_path / "most").node_id == 7


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_that_may_not_be_read_is_one_line(file: Path) -> None:
    file.touch(0)
    with pytest.raises(FlagError, match=f"cannot read {file}: Permission denied"):
        _node(file, "--node-id", "1")


@pytest.mark.parametrize("section", SECTIONS)
def test_the_example_has_every_flag_with_its_default_and_no_other_key(section: str, tmp_path: Path) -> None:
    build, verbs = PROGRAMS[section]
    text = re.sub(r"^#(?=[\w-]+ = )", "", EXAMPLE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    (tmp_path / "walrus.toml").write_text(text)
    told = tomllib.loads(text)[section]
    actions = keys_of(build(), verbs)
    assert set(told) == {key_of(action) for action in actions.values()}
    defaults = layered(build(), section, [], {}, verbs=verbs)
    stated = layered(build(), section, ["--config", str(tmp_path / "walrus.toml")], {}, verbs=verbs)
    for dest in actions:
        default = getattr(defaults.options, dest)
        assert default in (None, 0, getattr(stated.options, dest)), dest
        assert stated.origins[dest].layer == "file"


def test_what_check_config_prints_is_a_file_that_says_the_same(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file.write_text('[node]\nheartbeat-ms = 50\nlog-file = "a \\"b\\"\\t\\u007f.log"\nbootstrap = true\n')
    first = ["--config", str(file), "--node-id", "2", "--retain-seconds", "60", "--fsync", "300"]
    assert node.main([*first, "--check-config"]) == 0
    said = capsys.readouterr().out
    assert re.search(r"^fsync = 300 +# --fsync$", said, re.MULTILINE)
    assert re.search(rf"^heartbeat-ms = 50 +# {file}: \[node\] heartbeat-ms$", said, re.MULTILINE)
    assert re.search(r"^raft-port = 6000 +# default$", said, re.MULTILINE)
    again = file.with_name("again.toml")
    again.write_text(said)
    assert flags.parse(["--config", str(again)], {}) == flags.parse(first, {})


def test_check_config_says_the_fault_and_exits_2(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_text(f"[node]\nnode-id = 1\ntls-cert = '{file}'\ntls-key = '{file}'\ntls-ca = '{file}'\n")
    assert node.main(["--config", str(file), "--check-config"]) == 2
    assert str(file) in capsys.readouterr().err
    file.write_text("[node]\nfsync = 0\n")
    for main in (node.main, cluster.main):
        assert main(["--config", str(file), "--check-config"]) == 2
        out, err = capsys.readouterr()
        assert (out, err.count("\n")) == ("", 1) and "[node] fsync" in err


def test_a_bad_file_of_identities_is_found_before_a_node_belongs_to_a_cluster(tmp_path: Path) -> None:
    identities = tmp_path / "clients"
    identities.write_text("half a line\n")
    told = ["--bootstrap", "--node-id", "9", "--data-dir", str(tmp_path / "data")]
    settings = flags.parse([*told, "--auth-file", str(identities)], {})
    directory = DataDirectory(settings.data_dir, settings.node_id)
    with pytest.raises(StartError, match="clients, line 1: "):
        asyncio.run(node._serve(settings, directory))
    directory.close()
    assert not (directory.path / "identity").exists(), "nothing was founded or joined"


def test_the_cluster_the_console_and_the_mirror_read_their_sections(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file.write_text(
        "[cluster]\nnodes = 5\n[node]\nfsync = 'none'\n[console]\nallow-changes = true\n"
        "[mirror]\ntopic = 'orders'\nstream = 'ORDERS'\nfrom = 'nats://me:hunter2@127.0.0.1:4222'\n"
    )
    for main, says in (
        (cluster.main, ["nodes = 5 ", "node-id = 5 ", 'fsync = "none" ', "client-port = 9095 "]),
        (console.main, ["allow-changes = true ", 'http = "127.0.0.1:9090" ']),
        (mirror.main, ['stream = "ORDERS" ', 'from = "nats://***@127.0.0.1:4222" ', "# to is not set\n"]),
    ):
        assert main(["--config", str(file), "--check-config"]) == 0
        said = capsys.readouterr().out
        assert [part for part in says if part not in said] == []
        assert "hunter2" not in said
    assert mirror.main(["--config", str(file), "--to", "nats://127.0.0.1:4222"]) == 2
    assert "--to, --from: give one of them" in capsys.readouterr().err
