"""A replica of segments that other nodes lead: it takes frames from the writer, and fences from a recovery.

    ReplicaAppend  a frame is taken only in order, only from the segment's leader, and never for a copy that
                   is fenced or sealed. The answer is the copy's length, sent once that is durable
    Fence          the fence is noted and the length is read in one step; the answer waits until both the note
                   and everything appended before it are durable. So a frame whose fsync is still running is
                   either in that length or refused

The outcome of a frame depends on the copy and on where the frame starts. The copy has `length` entries:

    the copy is           start < length             start == length     start > length
    open                  the part beyond the end    append              answer `gap`: the writer restarts at
                          is appended, if any                            the answered length
    fenced, or sealed     answer `fenced`: the writer stops, and the recovery decides what its entries become

A frame that arrives before this node knows its segment is dropped; `announce` asks for it again once the
metadata has the segment.

Invariants: PrefixAgree (a copy only grows, and only in order); a fenced copy never takes another frame,
even across restarts of the node.

Transcripts, in `tests/replicas/transcripts`: `fence_refuses_the_old_leader`,
`replica_lags_and_catches_up`.
"""

from __future__ import annotations

from contextlib import suppress
from functools import partial

from walrus.replicas.copies import Copies, SegmentCopy, Summary
from walrus.segments import Metadata, Segment
from walrus.storage.errors import CorruptionError, DiskFull, StorageError
from walrus.wire.effects import Outbox
from walrus.wire.messages import Append, AppendReply, Fence, FenceReply


class Replica:
    """This node as a replica of segments that other nodes write or recover.

    It remembers nothing between two messages but whether the disk was full: what it may take is decided by
    the copy and by the metadata, and so it is the same after a restart.
    """

    def __init__(self, *, node_id: int, copies: Copies, metadata: Metadata, outbox: Outbox) -> None:
        self._node_id = node_id
        self._copies, self._metadata, self._outbox = copies, metadata, outbox
        self._failing = False

    def on_append(self, sender: int, frame: Append) -> None:
        """Take a frame if it is in order and from the segment's leader."""
        segment = self._metadata.segment(frame.topic, frame.segment)
        if segment is None or sender != segment.leader or self._node_id not in segment.replicas:
            return  # not known here yet (`announce` will ask for it), or not this sender's to write
        # The sender's id is enough. A leader that restarted does not take up its old segment again
        # (`leases.py`), so frames of a segment come only from the process for which it was opened.
        copy = self._copies.get((frame.topic, frame.segment))
        if segment.sealed or copy.fenced:
            self._reply(sender, copy, fenced=True)
        elif frame.start > copy.length:
            self._reply(sender, copy, gap=True)
        else:
            self._try_to_append(sender, copy, frame)

    def _try_to_append(self, sender: int, copy: SegmentCopy, frame: Append) -> None:
        """On a full disk say nothing: an answer would bring the same frame again, at once, for ever."""
        try:
            self._append(sender, copy, frame)
        except DiskFull as error:
            if not self._failing:
                self._outbox.log(f"cannot take entries of {copy.name}, asked again by its writer: {error}")
            self._failing = True
        else:
            self._failing = False

    def _append(self, sender: int, copy: SegmentCopy, frame: Append) -> None:
        """ReplicaAppend; a frame without entries only asks for the length."""
        assert not copy.fenced, "AckedDurable: a fenced copy takes a frame behind the answered length"
        before = copy.length
        self._copies.append(
            copy, frame.start, frame.batch, partial(self.on_frame_durable, sender, copy, frame)
        )
        assert copy.length == max(before, frame.start + frame.batch.count), (
            "SeqOrder: a frame is not all there"
        )
        if copy.length > before:
            self._copies.record("ReplicaAppend", copy, start=before, count=copy.length - before)

    def on_frame_durable(self, sender: int, copy: SegmentCopy, frame: Append) -> None:
        """Answer a frame that is durable. Only then is a copy that a power loss had shortened whole again.

        `frame.end` is the writer's own length when it sent the frame. A copy that has all of that holds
        everything it can ever have acknowledged; one that merely took this frame may still lack others.
        """
        assert copy.durable >= frame.start + frame.batch.count, "AckedDurable: answered before it is durable"
        if copy.durable >= frame.end and not copy.sure:
            with suppress(DiskFull):  # it stays unsure until the next frame
                self._copies.mark(copy, sure=True)
                self._copies.record("Sure", copy)
        self._reply(sender, copy, fenced=copy.fenced, gap=not frame.batch.count)

    def announce(self, topic: str, number: int, segment: Segment) -> None:
        """Tell a new segment's leader that we know of it: its first frames may have come too early.

        Without this the writer would send them again only after `resend_interval`, and every rollover would
        be a pause for the clients.
        """
        assert not segment.sealed, "NoWritesPastOpen: frames are asked for of a segment that has ended"
        if self._node_id in segment.replicas and segment.leader != self._node_id:
            copy = self._copies.get((topic, number))
            self._reply(segment.leader, copy, fenced=copy.fenced, gap=True)

    def _reply(self, to: int, copy: SegmentCopy, *, fenced: bool = False, gap: bool = False) -> None:
        """Tell the writer how much of the copy is durable, which is what it may count."""
        assert copy.durable <= copy.length, "AckedDurable: more is durable than was written"
        (topic, number), length = copy.key, copy.durable
        if not fenced:
            self._copies.record("Report", copy, told=length)
        self._outbox.send(to, AppendReply(topic=topic, segment=number, length=length, fenced=fenced, gap=gap))

    # --- fences ---

    def on_fence(self, sender: int, fence: Fence) -> None:
        """Note the fence, refuse the writer, read the length: one step. Answer when all that is durable."""
        if self._metadata.is_gone(fence.topic, fence.segment):
            return  # trimmed or deleted: that recovery is behind, and will learn of it
        copy = self._copies.get((fence.topic, fence.segment))
        length = copy.length
        try:
            self._copies.fence(copy, partial(self._answer_fence, sender, copy, length, damaged=False))
        except DiskFull as error:
            self._outbox.log(f"cannot fence {copy.name}, not answering: {error}")
            return
        assert copy.durable <= length, "AckedDurable: more is durable than was written"
        assert copy.fenced and copy.length == length, "AckedDurable: a frame came between fence and length"

    def _answer_fence(self, to: int, copy: SegmentCopy, length: int, *, damaged: bool) -> None:
        """Tell length and checksum. Of a damaged copy, how far it can be read, and that it is not sure."""
        assert copy.fenced, "AckedDurable: a fence is answered that does not hold"
        assert copy.durable >= length, "AckedDurable: a fence is answered with entries that may be lost"

        def summed(summary: Summary | StorageError) -> None:
            if isinstance(summary, CorruptionError) and summary.index < length:
                # Silence would be worse: with another replica gone, the recovery would wait for ever although
                # the rest of this copy may be all that is needed. Each round ends before an earlier entry.
                self._outbox.log(f"fenced, but this copy ends before its damage: {summary}")
                self._answer_fence(to, copy, summary.index, damaged=True)
            elif isinstance(summary, StorageError):
                self._outbox.log(f"cannot answer a fence, as if this copy did not exist: {summary}")
            else:
                sure = copy.sure and not damaged and not self._copies.in_doubt
                topic, number = copy.key
                reply = FenceReply(
                    topic=topic,
                    segment=number,
                    length=length,
                    checksum=summary.checksum,
                    sure=sure,
                    producers=summary.producers,
                )
                self._copies.record("AnswerFence", copy, answer=[self._node_id, length, sure])
                self._outbox.send(to, reply)

        self._copies.when_summed(copy, length, summed)
