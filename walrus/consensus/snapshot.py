"""Putting a snapshot together from the pieces a leader sends (paper §7, Figure 13).

Pieces come in order, one at a time; each answer says how many bytes are held, so a lost piece is sent
again and a duplicated one does no harm. A piece of another snapshot, or of another leader, starts over:
nothing half-received outlives the leader that sent it.

Invariant: what is held is a prefix of exactly one leader's one snapshot.
"""

from __future__ import annotations

from walrus.consensus.messages import InstallSnapshotRequest, Snapshot


class SnapshotReceiver:
    """The snapshot being received, if any.

    >>> from walrus.consensus.messages import Membership
    >>> receiver, meta = SnapshotReceiver(), dict(term=2, round=0, last_index=7, last_term=1, total=4)
    >>> receiver.take(1, InstallSnapshotRequest(**meta, membership=Membership((1,)), offset=0, data=b"ab"))
    >>> receiver.held
    2
    >>> receiver.take(1, InstallSnapshotRequest(**meta, membership=Membership((1,)), offset=2, data=b"cd"))
    Snapshot(index=7, term=1, membership=Membership(voters=(1,), learners=()), data=b'abcd')
    """

    __slots__ = ("_data", "_source")

    def __init__(self) -> None:
        self._source: tuple[int, int, int, int] | None = None
        self._data = bytearray()

    @property
    def held(self) -> int:
        """Bytes received so far; the next piece must begin there."""
        return len(self._data)

    def take(self, sender: int, piece: InstallSnapshotRequest) -> Snapshot | None:
        """Add one piece; returns the snapshot when it is complete."""
        source = (sender, piece.term, piece.last_index, piece.total)
        if source != self._source:
            self._source = source
            self._data.clear()
        if piece.offset == len(self._data):
            self._data += piece.data
        if len(self._data) < piece.total:
            return None
        data = bytes(self._data)
        self.forget()
        return Snapshot(piece.last_index, piece.last_term, piece.membership, data)

    def forget(self) -> None:
        """Drop what was received."""
        self._source = None
        self._data.clear()
