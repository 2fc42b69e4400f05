"""The unit and the container file start a node: their command lines are good, and the file's steps run."""

from __future__ import annotations

import configparser
import json
import re
import shlex
import sys
import tempfile
from functools import partial
from pathlib import Path

import pytest

from tests.containers import Image
from tests.node.harness import Wire, free_port, wait_for
from tests.test_installed import CLI
from walrus.shell.flags import parse

DEPLOY = Path(__file__).parents[1] / "deploy"
OPERATIONS = (DEPLOY.parent / "docs" / "operations.md").read_text(encoding="utf-8")


class _CaseKept(configparser.ConfigParser):
    def optionxform(self, optionstr: str) -> str:
        return optionstr


def test_the_unit_starts_a_node_with_what_its_file_says(tmp_path: Path) -> None:
    unit = _CaseKept(interpolation=None, strict=False)
    unit.read(DEPLOY / "walrus-node@.service", encoding="utf-8")
    program, *words = shlex.split(unit["Service"]["ExecStart"])
    assert program.endswith("/walrus-node")
    assert words[:2] == ["--config", "/etc/walrus/walrus.toml"]
    comment = (DEPLOY / "walrus-node@.service").read_text(encoding="utf-8")
    file = tmp_path / "walrus.toml"
    file.write_text("\n".join(re.findall(r"^#     (\[node\]|[\w-]+ = .*)$", comment, re.MULTILINE)))
    settings = parse(["--config", str(file), *(word.replace("%i", "2") for word in words[2:])], {})
    assert (settings.node_id, settings.client_host, settings.join) == (2, "10.0.0.2", ("10.0.0.1:6000",))
    assert settings.data_dir == Path("/var/lib") / unit["Service"]["StateDirectory"]


def _said(instruction: str) -> list[str]:
    text = (DEPLOY / "Containerfile").read_text(encoding="utf-8")
    return re.findall(rf"^{instruction} (.*)$", text, re.MULTILINE)


def test_the_container_starts_a_node_on_its_volume() -> None:
    entry, command = json.loads(_said("ENTRYPOINT")[0]), json.loads(_said("CMD")[0])
    assert entry[0] == "walrus-node"
    installed = f"/source/deploy/walrus.toml {entry[2]}"
    assert entry[1] == "--config" and any(said.endswith(installed) for said in _said("RUN"))
    entry[2] = str(DEPLOY / "walrus.toml")
    settings = parse([*entry[1:], *command], {})
    assert (settings.node_id, str(settings.data_dir)) == (1, _said("VOLUME")[0])
    text = (DEPLOY / "Containerfile").read_text(encoding="utf-8").replace("\\\n#", "")
    examples = re.findall(r"^# +podman run .* walrus (--node-id .*)$", text, re.MULTILINE)
    assert [parse([*entry[1:], *shlex.split(line)], {}).node_id for line in examples] == [1, 2]
    assert _said("USER") == ["walrus"], "a node needs no privilege"
    taken = {word for said in _said("COPY") for word in said.split()[:-1]}
    assert not taken & {".", "./", "*"}, "data, certificates and .git would stay in a layer of the image"


@pytest.mark.process
@pytest.mark.skipif(sys.platform != "linux", reason="the image is one of Linux, and so are its commands")
def test_the_steps_of_the_container_file_make_a_node_that_serves(tmp_path: Path) -> None:
    text = (DEPLOY / "Containerfile").read_text(encoding="utf-8")
    image = Image(text, tmp_path / "image", "msgspec", *CLI)
    assert not image.path("/source").exists()
    assert image.path("/etc/walrus/walrus.toml").read_bytes() == (DEPLOY / "walrus.toml").read_bytes()
    client, raft = free_port("127.0.0.1"), free_port("127.0.0.1")
    flags = ("--node-id", "1", "--client-port", str(client), "--raft-port", str(raft))
    for start in (1, 2):
        node = image.start(*flags)
        try:
            wire = wait_for(lambda: _serving(client), "the node to serve")
            if start == 1:
                assert [wire.ask(b"REGISTER t"), wire.ask(b"PUT t hello")] == [b"OK", b"OK"]
            assert wire.json(b"METRICS")["log_file"] is None, "it logs to where an engine reads"
            # A start recovers the segment that the last one led, and answers `try again` until it has.
            wait_for(partial(_has_hello, wire), "the volume has it, whichever container asks")
            wire.close()
            assert image.stop(node) == 0, image.log()
        finally:
            node.kill()
            node.wait()
    assert (image.path("/data") / "node_1" / "user_data").is_dir()
    events = [json.loads(line) for line in image.log().splitlines()]
    assert all(event["node"] == 1 for event in events) and events


def _has_hello(wire: Wire) -> bool:
    return wire.ask(b"FETCH t 1 0") == b"OK 1 hello"


def _serving(port: int) -> Wire | None:
    """A connection to the node there, once it is ready."""
    try:
        wire = Wire(("127.0.0.1", port))
    except OSError:
        return None
    if wire.json(b"METRICS")["ready"]:
        return wire
    wire.close()
    return None


@pytest.mark.skipif(sys.platform != "linux", reason="the image is one of Linux, and so are its commands")
def test_steps_in_a_wrong_order_fail_as_in_an_engine(tmp_path: Path) -> None:
    for text, complaint in (
        ("RUN install --directory --owner walrus /data\n", "RUN install"),
        ("COPY deploy /source/deploy/\nRUN rm /source\n", "Is a directory"),
        ("RUN pip install --no-cache-dir nothing-of-that-name\n", "No matching distribution"),
        ("RUN useradd walrus\n", "RUN useradd"),
    ):
        with pytest.raises(AssertionError, match=complaint):
            Image(text, Path(tempfile.mkdtemp(dir=tmp_path)))


@pytest.mark.parametrize("name", sorted(path.name for path in DEPLOY.iterdir()))
def test_the_page_names_what_is_there(name: str) -> None:
    assert f"(../deploy/{name})" in OPERATIONS
