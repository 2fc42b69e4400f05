"""The unit and the container file start a node: their command lines are ones that a node takes."""

from __future__ import annotations

import configparser
import json
import re
import shlex
from pathlib import Path

import pytest

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


@pytest.mark.parametrize("name", sorted(path.name for path in DEPLOY.iterdir()))
def test_the_page_names_what_is_there(name: str) -> None:
    assert f"(../deploy/{name})" in OPERATIONS
