"""Other releases as source trees, so that real nodes of them run beside those of this one.

    before(place)    the last commit that negotiated no version, out of the repository's history
    following(place) a release that comes after this one: this tree, changed where `docs/operations.md` says
                     that the next one who raises a version changes it

The following release speaks version 5 beside 4, in which a node greets every peer with a message that version
4 does not have (`Noted`); and its topics have a setting more (`colour`), for which it raises the version of
commands. `NodeProcess.tree` says of which tree a node runs.
"""

from __future__ import annotations

import shutil
import subprocess
import tarfile
from io import BytesIO
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NEGOTIATES_NOTHING = "a559d440f1bf689e872d9f2f90b510450550b427"

CHANGES = {
    "broker/handshake.py": [("\nVERSION: Final = 4\n", "\nVERSION: Final = 5\n")],
    "commands.py": [
        ("\nVERSION = DELETION_VERSION\n", "\nVERSION = COLOURS_VERSION = DELETION_VERSION + 1\n"),
        (
            "    match command:\n        case DeleteTopic() if",
            "    match command:\n"
            '        case RegisterTopic() | ConfigureTopic() if "colour" in command.settings:\n'
            "            return COLOURS_VERSION\n"
            "        case DeleteTopic() if",
        ),
    ],
    "segments.py": [
        (
            "    if topic.producers or retained or any(",
            '    if "colour" in topic.settings:\n'
            "        return VERSION\n"
            "    if topic.producers or retained or any(",
        ),
    ],
    "settings.py": [
        (
            '    "protect_groups": Setting(',
            '    "colour": Setting(9, False, "news"),\n    "protect_groups": Setting(',
        ),
    ],
    "wire/messages.py": [
        ("TypeAlias = (\n    Hello\n", "TypeAlias = (\n    Hello\n    | Noted\n"),
        (
            "\nclass HelloReply(",
            "\nclass Noted(Message, frozen=True, kw_only=True):\n    node: int\n\n\nclass HelloReply(",
        ),
    ],
    "broker/controller.py": [
        (
            "        self.members.on_connected(peer, reply.version)\n",
            "        self.members.on_connected(peer, reply.version)\n"
            "        if reply.version >= 5:\n"
            "            self.outbox.send(peer, m.Noted(node=self.config.node_id))\n",
        ),
        (
            "            case m.Append():\n",
            "            case m.Noted():\n"
            '                self.outbox.log(f"noted by node {message.node}")\n'
            "            case m.Append():\n",
        ),
    ],
}  # fmt: skip


def before(place: Path) -> Path:
    """The tree of the last commit whose nodes greet with one version and know of no range."""
    command = ["git", "-C", str(ROOT), "archive", NEGOTIATES_NOTHING, "walrus"]
    try:
        archive = subprocess.run(command, capture_output=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no history of the repository here")
    with tarfile.open(fileobj=BytesIO(archive)) as packed:
        packed.extractall(place, filter="data")
    return place


def following(place: Path) -> Path:
    """The tree of a release that follows."""
    shutil.copytree(ROOT / "walrus", place / "walrus", ignore=shutil.ignore_patterns("__pycache__"))
    for name, changes in CHANGES.items():
        file = place / "walrus" / name
        text = file.read_text()
        for old, new in changes:
            assert text.count(old) == 1, f"{name} has changed, and so must what follows it: {old!r}"
            text = text.replace(old, new)
        file.write_text(text)
    return place
