"""A snapshot of the metadata, made some topics at a time while the metadata goes on changing.

A snapshot contains every topic. With 100,000 of them it takes half a second of processor time, during which
the node would answer nothing, and the cluster would have no Raft leader if it was that node. So the topics
of an image are encoded in several turns, in the order of their names, each as it was when the image was
begun:

    turn   the image of index 100              commands
    1      begins; nothing is encoded yet      101: Seal(b): b is encoded first, as it is before 101
    2      a, and the b of turn 1              102: Seal(a): is encoded already
                                               103: RegisterTopic(aa): not there at 100, and not named
    3      c, d: the image is whole

The log is cut at 100, and 101 to 103 stay in it. So a node that restores the image applies them once each,
to exactly the state that they were made for.

Apart from the topics, an image is small and taken when it begins. So is the list of the notes on copies that
the checkpoint will make superfluous: those on segments sealed by then (`Copies.forget_notes`).

Invariant: the bytes are those of `Metadata.snapshot` at the index of the image (StateMachineSafety).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import assert_never

import msgspec

from walrus.replicas.copies import Key
from walrus.segments import (
    FIRST_VERSION,
    Announce,
    Command,
    CommitCursors,
    CommitGroups,
    ConfigureTopic,
    DeleteTopic,
    MarkLeaving,
    Metadata,
    MoveGroup,
    RegisterTopic,
    RemoveNode,
    Seal,
    SetReplicas,
    Trim,
    snapshot_encoder,
    version_for,
)

MAX_IMAGED = 500
"""How many topics one turn encodes, and how many notes it examines."""


def concerned(command: Command) -> Iterable[str]:
    """Return the topics that a command may change."""
    match command:
        case CommitCursors():
            return command.cursors
        case CommitGroups():
            return command.groups
        case (
            RegisterTopic() | ConfigureTopic() | Trim() | DeleteTopic() | Seal() | MoveGroup() | SetReplicas()
        ):
            return (command.topic,)
        case Announce() | MarkLeaving() | RemoveNode():
            return ()
        case _:
            assert_never(command)


class Image:
    """The metadata after the command at `index`."""

    def __init__(self, index: int, metadata: Metadata, noted: Iterable[Key]) -> None:
        self.index, self.whole = index, False
        self.over: set[Key] = set()
        """The notes on copies whose segments were over at `index`."""
        self._metadata = metadata
        self._frame = metadata.contents((), msgspec.Raw())
        self._names = sorted(metadata.topics, reverse=True)  # topics to be encoded, the next one last
        self._count, self._version = len(self._names), FIRST_VERSION
        self._encoded: list[bytes] = []
        self._early: dict[str, bytes] = {}  # topics that have changed since, as they were
        self._over_below: dict[str, int] = {}  # the number below which all their segments were over
        self._noted = list(noted)

    def before(self, command: Command) -> None:
        """A command is about to be applied: encode the topics that it may change as they are."""
        for name in () if self.whole else concerned(command):
            if name in self._over_below:
                continue
            topic = self._metadata.topics.get(name)
            self._over_below[name] = topic.current if topic else self._metadata.next_number(name)
            if topic is not None and self._names and name >= self._names[-1]:
                self._early[name] = self._encode(name)

    def _encode(self, name: str) -> bytes:
        topic = self._metadata.topics[name]
        self._version = max(self._version, version_for(topic))
        return snapshot_encoder.encode((name, topic))

    def go_on(self) -> bool:
        """Encode the next topics, and examine the next notes; return whether the image is complete."""
        names, noted = self._names[-MAX_IMAGED:], self._noted[-MAX_IMAGED:]
        del self._names[-MAX_IMAGED:], self._noted[-MAX_IMAGED:]
        self._encoded.append(
            b"".join([self._early.pop(name, b"") or self._encode(name) for name in reversed(names)])
        )
        self.over.update(key for key in noted if self._was_over(*key))
        self.whole = not (self._names or self._noted)
        assert not (self.whole and self._early), "StateMachineSafety: a topic changed that is in no image"
        return self.whole

    def _was_over(self, topic: str, number: int) -> bool:
        below = self._over_below.get(topic)
        return self._metadata.is_over(topic, number) if below is None else number < below

    def data(self) -> bytes:
        """Return what `Metadata.snapshot` was at the index. It may be called once, since nothing is kept."""
        assert self.whole, "StateMachineSafety: topics are missing in a snapshot"
        ahead = snapshot_encoder.encode([None] * self._count)  # the header of the list, and a byte for each
        topics = msgspec.Raw(b"".join([ahead[: len(ahead) - self._count], *self._encoded]))
        self._encoded.clear()
        version = max(self._frame.version, self._version)
        return snapshot_encoder.encode(msgspec.structs.replace(self._frame, version=version, topics=topics))
