"""From a topic into a stream: what to publish next, and what the stream's answers mean.

Every message carries two headers:

    Nats-Msg-Id                    <cluster>/<topic>/<segment>/<offset>: which entry it is
    Nats-Expected-Last-Sequence    the stream takes it only if its last message has this sequence

The id says where to continue: a mirror begins by reading the stream's last message. The expected sequence
makes every message a compare-and-set on the whole stream, which allows many in flight: if one is lost, all
behind it are refused, and a mirror that was believed dead, or a second one, can add nothing out of turn. So
the stream is a prefix of the topic at all times, whatever dies. JetStream's own memory of message ids
(`duplicate_window`) is not needed for that; it is an additional safeguard.

A lost answer leaves open whether the message was stored. After that, and after every refusal, the mirror
reads the last message again.

Invariant: MirroredPrefix: the stream's messages are the topic's entries from where it began, in order,
without gap or repetition.

Logic without I/O, as a state machine: `resume` is handed the stream's last message, `next_batch` entries,
`settle` the answers.

Left out: a stream that others publish to as well. The mirror refuses it when it finds a foreign last
message.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, TypeAlias

import msgspec

from walrus.client import Entry

Place: TypeAlias = tuple[int, int]
"""Segment and offset."""

BEGIN: Final[Place] = (1, 0)


class MirrorError(Exception):
    """The mirror cannot go on; the message is one line that says what to do."""


class Publish(msgspec.Struct, frozen=True):
    """A message to send."""

    message_id: str
    expected_last: int
    """The sequence that the stream's last message must have."""
    payload: bytes


class StreamEnd(msgspec.Struct, frozen=True):
    """The end of a stream."""

    sequence: int
    """The sequence of the last message; 0 if there never was one."""
    message_id: str | None
    """The id of the last message; None if that message is gone, or if there never was one."""


class Outbound:
    """One topic on its way into one stream."""

    def __init__(self, cluster_id: str, topic: str) -> None:
        self._prefix = f"{cluster_id}/{topic}/"
        self._sequence: int | None = None  # of the stream's last message; None if unknown
        self._sent: Sequence[Entry] = ()
        self.place: Place = BEGIN
        """Entries before this position are in the stream."""
        self.mirrored = 0
        """How many entries this object has mirrored."""

    def resume(self, end: StreamEnd, noted: Place | None) -> Place:
        """Continue from the end of the stream; return the position to read from.

        `noted` is the position of the topic's group, for a stream that cannot tell. Raises MirrorError.
        """
        if end.message_id is not None:
            self.place = self._behind(end.message_id)
        elif end.sequence == 0:
            self.place = BEGIN
        elif noted is not None:
            self.place = noted
        else:
            raise MirrorError(
                "the stream's last message is gone, and no group says how far the mirror was: name the place "
                "to go on with `walrus-cli seek TOPIC GROUP SEGMENT OFFSET`"
            )
        self._sequence, self._sent = end.sequence, ()
        return self.place

    def _behind(self, message_id: str) -> Place:
        try:
            if not message_id.startswith(self._prefix):
                raise ValueError(message_id)
            segment, offset = map(int, message_id.removeprefix(self._prefix).split("/"))
        except ValueError:
            raise MirrorError(
                f"the stream ends with a message of something else than this topic ({message_id[:80]!r}): "
                f"give the mirror a stream of its own"
            ) from None
        return segment, offset + 1

    def next_batch(self, entries: Sequence[Entry]) -> list[Publish]:
        """Number the next entries. One batch at a time, after `resume`."""
        assert self._sequence is not None and not self._sent, "settle the last batch first"
        self._sent = entries
        return [
            Publish(f"{self._prefix}{entry.segment}/{entry.offset}", self._sequence + n, entry.payload)
            for n, entry in enumerate(entries)
        ]

    def settle(self, answers: Sequence[int | None]) -> bool:
        """Take the sequence that each message of the batch got; None if it was refused or is unknown.

        Returns whether all are in their place. If not, `resume` must precede the next batch.
        """
        assert self._sequence is not None and len(answers) == len(self._sent), "an answer for each"
        for entry, answer in zip(self._sent, answers, strict=True):
            if answer != self._sequence + 1:
                self._sequence, self._sent = None, ()
                return False
            self._sequence = answer
            self.place = entry.segment, entry.offset + 1
            self.mirrored += 1
        self._sent = ()
        return True
