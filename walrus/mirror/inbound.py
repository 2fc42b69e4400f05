"""From a stream into a topic: which number of a producer a message gets.

PUB writes each number of a producer once, and the numbers have no gaps. The sequences of a stream do have
gaps: messages expire, or are deleted. So the mapping from numbers to messages must outlive a mirror. Before
a batch is written, a *note* goes into a topic beside it:

    <topic>.mirror    {"number": 1200, "runs": [[1300, 17], [1320, 3]]}

It says: from number 1200 on come the messages of sequence 1300 to 1316 and 1320 to 1322. A mirror that
starts asks the topic which number it expects next (a PUB far above it is refused with that number), finds
the note that covers this number, and continues with the message that the note has for it.

A number that was written is the message that its note says, because the note was written first. A number
that was not written may get another message under a later note, for example if the first message was deleted
meanwhile.

Invariant: MirroredOnce: every message that the stream still had when its turn came is in the topic once, in
the stream's order.

Logic without I/O, as a state machine: `resume` is handed the expected number and the notes, `note` messages.

Left out: two mirrors of one stream at a time while messages are deleted from it. If none are deleted, both
mirrors give each message the same number. Otherwise the second mirror may use a number for another message
than the first, and take its message for written although the topic has the first mirror's. The same can
happen if a message is deleted while the PUB of a mirror that died is still in flight.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import msgspec

from walrus.mirror.outbound import MirrorError


class StreamMessage(NamedTuple):
    """A message of a stream."""

    sequence: int
    payload: bytes
    pending: int
    """How many messages follow it in the stream."""


class NumberNote(msgspec.Struct, frozen=True):
    """Which messages have the numbers from `number` on."""

    number: int
    runs: list[tuple[int, int]]
    """(first sequence, how many) of each run, one after another."""

    @property
    def count(self) -> int:
        """Return how many messages the note covers."""
        return sum(count for _, count in self.runs)

    def sequence(self, number: int) -> int:
        """Return the sequence of the message with this number; one past the last for the number after it."""
        left = number - self.number
        for first, count in self.runs:
            if left < count:
                return first + left
            left -= count
        first, count = self.runs[-1]
        return first + count


class Inbound:
    """One stream on its way into one topic."""

    def __init__(self) -> None:
        self._number: int | None = None
        self.sequence = 1
        """Messages below this sequence are in the topic, or were gone before their turn."""
        self.mirrored = 0
        """How many messages this object has mirrored."""

    def resume(self, expected: int | None, notes: Iterable[bytes]) -> int:
        """Continue from the number that the topic expects; return the sequence to read from.

        `expected` is None if the topic does not know the producer. Raises MirrorError.
        """
        known = [msgspec.json.decode(note, type=NumberNote) for note in notes]
        if expected is None and any(note.number for note in known):
            raise MirrorError(
                "the topic has forgotten this mirror's producer (it was idle, and a thousand others came): "
                "mirror into a new topic"
            )
        number = expected or 0
        fits = [note for note in known if note.number <= number <= note.number + note.count]
        if not fits and number:
            raise MirrorError(
                f"no note says which message has number {number}: it is more notes ago than are kept; mirror "
                f"into a new topic"
            )
        self._number = number
        # Of several notes with one number only the last can have been followed by its messages: the mirrors
        # that wrote the others died first.
        self.sequence = max(reversed(fits), key=lambda note: note.number).sequence(number) if fits else 1
        return self.sequence

    @property
    def number(self) -> int:
        """Return the number of the next message."""
        assert self._number is not None, "resume first"
        return self._number

    def note(self, sequences: Sequence[int]) -> bytes:
        """Return the note that must be durable before the messages with these sequences are written."""
        assert sequences and sequences[0] >= self.sequence, "in the stream's order"
        runs: list[tuple[int, int]] = []
        for sequence in sequences:
            if runs and sum(runs[-1]) == sequence:
                runs[-1] = runs[-1][0], runs[-1][1] + 1
            else:
                runs.append((sequence, 1))
        return msgspec.json.encode(NumberNote(self.number, runs))

    def written(self, sequences: Sequence[int]) -> None:
        """Note that the messages of the last note are acknowledged."""
        self._number = self.number + len(sequences)
        self.sequence = sequences[-1] + 1
        self.mirrored += len(sequences)

    def failed(self) -> None:
        """Note that it is unknown whether the messages are written: call `resume` before the next batch."""
        self._number = None
