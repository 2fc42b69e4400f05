"""Assembling a snapshot from the chunks that a leader sends (paper §7, Figure 13).

Chunks come in order, one at a time. Each answer says how many bytes are held, so a lost chunk is sent again
and a duplicate changes nothing. A chunk of another snapshot, or from another leader, starts over: a partial
snapshot is never continued with another leader's chunks, since two leaders' snapshots of one index may be
encoded differently.

    held    chunk that arrives            what happens
    0       offset 0, 4 of 10 bytes       held 4
    4       offset 0 again                ignored, the answer says 4
    4       offset 8 (4 was lost)         ignored, the answer says 4
    4       offset 4, the last 6 bytes    complete
    4       another term, offset 4        the 4 are dropped: held 0, the answer says 0

Invariant: the bytes held are a prefix of one snapshot of one leader.
"""

from __future__ import annotations

from walrus.consensus.messages import InstallSnapshotRequest, Snapshot


class SnapshotReceiver:
    """The snapshot being received, if any.

    >>> from walrus.consensus.messages import Membership
    >>> receiver, meta = SnapshotReceiver(), dict(term=2, round=0, last_index=7, last_term=1, total=4)
    >>> receiver.add(1, InstallSnapshotRequest(**meta, membership=Membership((1,)), offset=0, data=b"ab"))
    >>> receiver.held
    2
    >>> receiver.add(1, InstallSnapshotRequest(**meta, membership=Membership((1,)), offset=2, data=b"cd"))
    Snapshot(index=7, term=1, membership=Membership(voters=(1,), learners=()), data=b'abcd')
    """

    __slots__ = ("_data", "_source")

    def __init__(self) -> None:
        self._source: tuple[int, int, int, int] | None = None
        self._data = bytearray()

    @property
    def held(self) -> int:
        """Bytes received so far; the next chunk must begin there."""
        assert self._source is not None or not self._data, "bytes of no snapshot"
        return len(self._data)

    def add(self, sender: int, chunk: InstallSnapshotRequest) -> Snapshot | None:
        """Add one chunk that `snapshot_flaw` found nothing wrong with; returns the snapshot when complete."""
        source = (sender, chunk.term, chunk.last_index, chunk.total)
        if source != self._source:
            self._source = source
            self._data.clear()
        if chunk.offset == len(self._data):
            self._data += chunk.data
        assert len(self._data) <= chunk.total, "StateMachineSafety: more than the snapshot has"
        if len(self._data) < chunk.total:
            return None
        data = bytes(self._data)
        self.forget()
        return Snapshot(chunk.last_index, chunk.last_term, chunk.membership, data)

    def forget(self) -> None:
        """Drop what was received."""
        self._source = None
        self._data.clear()
        assert self.held == 0
