"""Copies that are too short, and replicas that are missing: catching up, and Repair.

Two jobs that end in the same copying (`puller.py`):

* *Catching up*, on every node: a replica that was not among the majority when its segment was sealed
  copies the rest from another replica; one whose copy is damaged copies it anew.
* *Repair*, on the Raft leader: a sealed segment that has fewer replicas than it should, because the cluster
  was smaller when it was written, or a member leaves or has been dead for long, is copied to another voter.
  A replica counts only once it has reported the sealed count *and* the sealed checksum. When the new one
  and a majority of the new set have done so, Raft records the set with a compare-and-set on the old one,
  and on the directories of the new one: a proof holds for one directory, and a node that has left and come
  back under its id has another, which is empty. Where several leave at once, as many are added at once, so
  that the set never shrinks. Repair asks the remaining replicas too: one may lag, and a leaving one may
  hold the only other copy.

A repair, from when it is planned until Raft has recorded it:

    state       what it is                                    left when
    due         too few of its replicas stay, or one leaves   there is room, a source and a spare node
    under way   every node of the new set is asked, a silent  the added ones and a majority have shown count
                one again, naming another source              and checksum; or it makes no progress: put off
    proven      SetReplicas is proposed at each interval      it is applied, or the old set has changed
    put off     others come first, for PUT_OFF intervals      those are over: due

Only a node that has been completely silent for some time is asked again; that time doubles whenever it
proves too short. A node that answers for other segments is busy, and has the rest in its queue. Asking
again at each interval would make that queue grow faster than a slow node can work it off, and no repair
would ever end.

Segment t/4, sealed with 40 entries on nodes 1, 2 and 3; node 3 has long been dead, nodes 4 and 5 are spare:

    old = (1, 2, 3), new = (1, 2, 4), added = {4}
    Copy(upto=40) to 1, 2 and 4     4 copies from 1 or 2; these have it all, and only verify it
    CopyReply(40, checksum) of 4    whole = {4}: nothing shows yet that 1 or 2 has an undamaged copy, too
    CopyReply(40, checksum) of 2    whole = {2, 4}: proven, whatever becomes of node 1
    SetReplicas(old, new)           without effect if another change of t/4 came first, then planned anew

Invariant: a live, staying replica is never removed from a set, and one is added only after its copy is whole
(SealedStable: a majority of the replicas holds the count).

Transcripts, in `tests/replicas/transcripts`: `repair_on_another_node`, `repair_of_a_damaged_copy`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from itertools import islice

import msgspec

from walrus.config import NodeConfig
from walrus.quorum import majority
from walrus.replicas.copies import Copies, Key, SegmentCopy, Summary
from walrus.replicas.puller import Puller
from walrus.replicas.trimming import Trimming
from walrus.segments import Command, Metadata, Segment, SetReplicas
from walrus.storage.errors import DiskFull, StorageError
from walrus.wire.effects import Outbox
from walrus.wire.messages import Copy, CopyReply

MAX_REPAIRS = 256
"""Segments that the Raft leader has copied at the same time, and that one node catches up with."""

FULL_SEGMENTS = 4
"""Repairs under way have no more entries together than so many full segments (or one of any size).

What they have on the wire is bounded by the pullers: `MAX_PULLS` reads of `read_bytes` per node.
"""

LONGEST_PATIENCE = 32
"""Repair intervals after which a silent node is asked again at the latest."""

PUT_OFF = 20
"""Repair intervals for which a segment that does not get on makes room for others."""


class CatchUp:
    """This node's copies of sealed segments that are too short.

    Nothing asks for it and nothing waits for it: reads of what is missing go to another replica meanwhile.
    """

    def __init__(
        self, *, config: NodeConfig, metadata: Metadata, copies: Copies, puller: Puller, outbox: Outbox
    ) -> None:
        self._config, self._metadata, self._copies = config, metadata, copies
        self.puller, self._outbox = puller, outbox
        self.trimming = Trimming(metadata=metadata, copies=copies, on_gone=self._on_gone)
        # Per topic, segments up to here were looked at: a topic has thousands of them, and each is looked at
        # once, when it is sealed, unless its replicas change.
        self._checked: dict[str, int] = {}
        self._short: dict[Key, int] = {}  # how often a pull was started
        self._shadows: dict[Key, SegmentCopy] = {}  # being filled beside a damaged copy
        self._again_at = 0.0

    @property
    def behind(self) -> int:
        """How many copies are too short."""
        return len(self._short)

    def on_topic(self, topic: str) -> None:
        """Look at the segments that were sealed since the last time, and at those that are gone."""
        self.trimming.on_topic(topic)
        known = self._metadata.topics.get(topic)
        if known is None:  # one of its name begins with a later number
            self._checked.pop(topic, None)
            return
        assert self._checked.get(topic, 0) < known.current, "SealedStable: a segment was sealed and is open"
        for number, segment in known.numbered(self._checked.get(topic, 0) + 1):
            if segment.sealed:
                self._look((topic, number), segment)
        self._checked[topic] = known.current - 1

    def on_copy(self, sender: int, message: Copy, now: float) -> None:
        """A recovery or a repair asks for a copy to be extended."""
        if not self._metadata.is_gone(message.topic, message.segment):
            self.puller.on_copy(sender, message, now)

    def _on_gone(self, key: Key) -> None:
        """A segment was trimmed, or deleted with its topic: nothing of it is wanted any more."""
        self._short.pop(key, None)
        shadow = self._shadows.pop(key, None)
        for copy in (self._copies.get(key), *([shadow] if shadow else ())):
            self.puller.stop(copy)

    def on_snapshot(self) -> None:
        """The metadata was replaced: any segment may have other replicas than when it was looked at."""
        self._checked.clear()
        self.trimming.on_snapshot()

    def on_replicas(self, key: Key) -> None:
        """A sealed segment has other replicas, perhaps this node, whose copy may lack entries."""
        segment = self._metadata.segment(*key)
        if segment is not None:
            self._look(key, segment)

    def _look(self, key: Key, segment: Segment) -> None:
        """Put a segment on the list if this node should hold more of it than it does."""
        assert segment.sealed, "SealedStable: how long a copy must be is known once its segment is sealed"
        if self._config.node_id in segment.replicas and self._copies.get(key).length < (segment.count or 0):
            self._short[key] = 0
            self._again_at = 0.0

    def on_tick(self, now: float, connected: Collection[int]) -> None:
        """Copy what is missing, from another replica at each attempt."""
        self.trimming.on_tick()
        for key in list(self._copies.damaged):
            self._replace(key)
        if not self._short or now < self._again_at:
            return
        self._again_at = now + self._config.resend_interval
        for key, attempt in list(islice(self._short.items(), MAX_REPAIRS)):
            self._short[key] = self._short.pop(key)  # behind all others: one without a source holds up none
            segment = self._metadata.segment(*key)
            sources = [node for node in (segment.replicas if segment else ()) if node in connected]
            copy = self._shadows.get(key) or self._copies.get(key)
            assert copy.key == key, "PrefixAgree: one segment's entries would go to another's copy"
            assert self._config.node_id not in sources, "a copy that lacks entries would be their source"
            if segment is None or segment.count is None or copy.length >= segment.count:
                del self._short[key]
            elif sources and not self.puller.pulling(copy):
                # Another source each time: one may be as short as this copy, or damaged at the same place.
                self._short[key] = attempt + 1
                self.puller.pull(
                    copy,
                    segment.count,
                    sources[attempt % len(sources)],
                    now,
                    self._verifier(key, segment, copy),
                )

    def _replace(self, key: Key) -> None:
        """A sealed copy is damaged: begin a new one beside it.

        An open segment's copy is left alone. Its writer hands the segment over when it meets the damage, and
        a replica's answer to the fence ends before it; either way the segment is sealed first.
        """
        segment = self._metadata.segment(*key)
        if segment is not None and segment.sealed and key not in self._shadows:
            try:
                shadow = self._copies.shadow(key)
            except DiskFull:
                return  # tried again with the next tick
            assert shadow.length == 0, "PrefixAgree: a shadow holds entries before any was copied"
            if not segment.count:  # what is damaged is a deposed leader's tail: nothing is missing without it
                self._copies.adopt(shadow)
                return
            self._outbox.log(f"copy of {key[0]}/{key[1]} is damaged, copying it anew from another replica")
            self._shadows[key] = shadow
            self._short[key] = 0
            self._again_at = 0.0

    def _verifier(self, key: Key, segment: Segment, copy: SegmentCopy) -> Callable[[], None]:
        """What to do with a copy that has become long enough: read it through, and compare.

        A copy that differs from what was sealed breaks PrefixAgree, and readers of this node would see
        another order than readers of others. So the node stops (fail-stop). A damaged one is copied anew.
        """

        def verify() -> None:
            assert segment.count is not None, "SealedStable: an open segment has no checksum to compare with"
            assert copy.durable >= segment.count, "SealedStable: a copy is verified before it is on the disk"
            self._copies.when_summed(copy, segment.count, summed)

        def summed(summary: Summary | StorageError) -> None:
            # It stays a shadow until here: summing may take a while, and must not look like nothing was done.
            shadow = self._shadows.get(key) is copy
            if shadow:
                del self._shadows[key]
            if isinstance(summary, StorageError):
                self._outbox.log(f"copy of {key[0]}/{key[1]} is damaged: {summary}")
            elif summary.checksum != segment.checksum:
                self._outbox.halt(
                    f"copy of {key[0]}/{key[1]} is not what was sealed: move the data directory away, "
                    "remove this node with LEAVE, and let it join anew"
                )
            else:
                assert copy.length >= (segment.count or 0), "SealedStable: verified, and too short"
                if shadow:
                    self._copies.adopt(copy)
                self._short.pop(key, None)

        return verify

    def check_invariants(self) -> None:
        """Assert what must hold of the copies that are too short or damaged."""
        self.puller.check_invariants()
        self.trimming.check_invariants()
        for key, shadow in self._shadows.items():
            assert shadow.key == key, f"{shadow.name} is filed under {key}"
            assert shadow.name != self._copies.get(key).name, f"AckedDurable: {shadow.name} replaces itself"
        for topic, number in self._checked.items():
            assert number < self._metadata.topics[topic].current, f"SealedStable: {topic}/{number} is open"


class _Repair(msgspec.Struct):
    """A change of a sealed segment's replicas that is being prepared."""

    old: tuple[int, ...]
    new: tuple[int, ...]
    added: set[int]  # those of `new` that are not in `old`
    sources: list[int]
    whole: set[int]  # those of `new` that have shown the sealed count and checksum
    count: int  # entries of the segment
    directories: tuple[str, ...]  # of `new`: what is shown is shown of these
    attempt: int = 0

    @property
    def proven(self) -> bool:
        """Whether what will be the replica set holds the segment: the added ones, and a majority."""
        assert self.whole <= set(self.new), "SealedStable: a copy counts that will be no replica"
        return self.added <= self.whole and len(self.whole) >= majority(len(self.new))


class _Wait(msgspec.Struct):
    """A node was asked, and has not shown all of it yet."""

    since: float  # when it last said anything, or was asked again
    patience: float  # for so long it is not asked again


class Repairs:
    """The Raft leader's list of sealed segments that need another replica set.

    It is made from the metadata whenever it is needed, so a new Raft leader has nothing to take over.
    """

    def __init__(
        self,
        *,
        config: NodeConfig,
        metadata: Metadata,
        outbox: Outbox,
        propose: Callable[[Command, float], None],
    ) -> None:
        self._config, self._metadata, self._outbox, self._propose = config, metadata, outbox, propose
        self._under_way: dict[Key, _Repair] = {}
        self._waits: dict[int, _Wait] = {}  # by node: those that a repair under way waits for
        self._put_off: dict[Key, float] = {}  # did not get on: let others have their turn first
        self._entries = 0  # of all that are under way
        self._again_at = 0.0
        self._has_room = False  # since a repair that was under way has been recorded

    def stop(self) -> None:
        """Not the Raft leader any more.

        The next leader plans from the metadata alone. A change that this one has proposed may still commit;
        being a compare-and-set, it then wins or has no effect.
        """
        self._under_way.clear()
        self._waits.clear()
        self._put_off.clear()
        self._entries = 0

    def on_replicas(self, key: Key) -> None:
        """A sealed segment has another replica set: a repair that was under way for it is done."""
        if key in self._under_way:
            self._drop(key)
            self._has_room = True  # with the next tick, not the next interval: a large repair is a long queue

    def _begin(self, key: Key, repair: _Repair) -> None:
        assert key not in self._under_way, "one repair a segment"
        assert set(repair.old) != set(repair.new), "ReplicasKept: a repair that changes nothing never ends"
        assert len(set(repair.new)) == len(repair.new) > 0, "ReplicasKept: a node is named twice"
        assert not repair.whole, "SealedStable: a copy counts that has shown nothing yet"
        self._under_way[key] = repair
        self._entries += repair.count

    def _drop(self, key: Key) -> None:
        self._entries -= self._under_way.pop(key).count
        assert self._entries >= 0, "more entries were dropped than are under way"
        assert self._under_way or not self._entries, "entries are counted of repairs that are over"

    def _is_full(self) -> bool:
        """Whether enough is being copied. The limit in entries bounds what repairs take from clients."""
        limit = FULL_SEGMENTS * self._config.max_segment_entries
        return len(self._under_way) >= MAX_REPAIRS or self._entries >= limit

    def on_tick(self, voters: list[int], live: Collection[int], dead: Collection[int], now: float) -> None:
        """Find what to repair and go on with what is under way.

        `voters`: the nodes that may hold replicas, `live`: the nodes that answer, those that leave included,
        because they can be copied from; `dead`: nodes that have been silent for so long that their copies are
        made anew.
        """
        due = now >= self._again_at
        if not due and not self._has_room:
            return
        self._has_room = False
        # Between two intervals only what was begun since is asked.
        known = set() if due else set(self._under_way)
        silent = self._silent(now) if due else set()
        if due:
            self._again_at = now + self._config.repair_interval
        for key in [key for key, repair in self._under_way.items() if not set(repair.new) <= set(voters)]:
            self._drop(key)  # one of them leaves, and what it has shown may soon be true no more
        for replicas, keys in sorted(self._metadata.sealed_at.items()):
            if self._is_enough(replicas, voters, dead):
                continue
            # All segments with one set of replicas are judged at once, and there are far fewer sets than
            # segments: a pass over everything sealed would take seconds in a large cluster.
            for key in keys:
                if self._is_full():
                    break
                if key in self._under_way or now < self._put_off.get(key, now):
                    continue
                if not self._plan(key, replicas, voters, live, dead):
                    break  # nor can any other segment with these replicas be repaired now
        assert len(self._under_way) <= MAX_REPAIRS, "more repairs at once than the limit"
        assert all(set(repair.new) <= set(voters) for repair in self._under_way.values()), (
            "DomainConsistency: a replica set of nodes that leave, or are no members"
        )
        for key in [key for key in self._under_way if key not in known]:
            self._go_on(key, self._under_way[key], now, silent)

    def _silent(self, now: float) -> set[int]:
        """The nodes that have said nothing for as long as they may; from now on they may for twice that."""
        waited_for = {n for repair in self._under_way.values() for n in repair.new if n not in repair.whole}
        self._waits = {node: wait for node, wait in self._waits.items() if node in waited_for}
        silent = {node for node, wait in self._waits.items() if now - wait.since >= wait.patience}
        longest = LONGEST_PATIENCE * self._config.repair_interval
        for node in silent:
            self._waits[node] = _Wait(now, min(2 * self._waits[node].patience, longest))
        return silent

    def _is_enough(self, replicas: tuple[int, ...], voters: list[int], dead: Collection[int]) -> bool:
        """Whether a sealed segment with these replicas needs nothing.

        It needs a change if one of them leaves or is dead, also when enough stay: a set that names a node
        that is gone would keep that node from being removed, and would count it in every majority.
        """
        staying = [node for node in replicas if node in voters and node not in dead]
        wanted = min(self._config.replication_factor, len(voters))
        return len(staying) >= wanted and len(staying) == len(replicas)

    def _plan(
        self,
        key: Key,
        replicas: tuple[int, ...],
        voters: list[int],
        live: Collection[int],
        dead: Collection[int],
    ) -> bool:
        """Begin to repair a segment; return whether there is a way to."""
        segment = self._metadata.segment(*key)
        assert segment is not None and segment.count is not None, (
            "SealedStable: only sealed ones are repaired"
        )
        assert segment.replicas == replicas, "SealedStable: planned for another replica set than there is"
        if not voters:
            return False  # every voter leaves: until another node has come, these are the only copies
        count = segment.count
        wanted = min(self._config.replication_factor, len(voters))
        staying = [node for node in replicas if node in voters and node not in dead]
        sources = [node for node in replicas if node in live]
        if len(staying) >= wanted:  # nothing to copy: only let go of the replicas that leave
            self._begin(key, self._repair(replicas, tuple(staying), sources, count))
            return True
        spare = [node for node in voters if node in live and node not in replicas]
        first = sum(key[0].encode()) % len(spare) if spare else 0  # by topic, so that the load spreads
        added = (spare[first:] + spare[:first])[: wanted - len(staying)]
        full = len(staying) + len(added) >= wanted
        # Until the set is full again the dead ones stay in it: they may come back, and without them a set of
        # two, one of them damaged, would have no majority to prove itself by. Those that leave cannot stay,
        # so all that replace them come at once: one at a time, the set would be smaller in between.
        kept = staying if full else [node for node in replicas if node in voters]
        new = (*kept, *added)
        assert set(staying) <= set(kept), "ReplicasKept: a live, staying one is dropped"
        if not sources or not added or len(new) < min(wanted, len(replicas)):
            return False
        self._begin(key, self._repair(replicas, new, sources, count))
        return True

    def _repair(self, old: tuple[int, ...], new: tuple[int, ...], sources: list[int], count: int) -> _Repair:
        directories = self._metadata.directories(new)
        assert directories is not None, "replicas are planned among known voters"
        return _Repair(old, new, set(new) - set(old), sources, set(), count, directories)

    def _go_on(self, key: Key, repair: _Repair, now: float, silent: Collection[int] = ()) -> None:
        """Propose a repair that is proven; ask for another, or again; give up one that does not get on."""
        assert self._under_way.get(key) is repair, "a repair goes on that is over"
        segment = self._metadata.segment(*key)
        if segment is None or segment.count is None or segment.replicas != repair.old:
            self._drop(key)
        elif self._metadata.directories(repair.new) != repair.directories:
            self._drop(key)  # one of them came back empty: what it has shown is gone
        elif repair.proven:
            change = SetReplicas(
                topic=key[0],
                segment=key[1],
                old=repair.old,
                new=repair.new,
                directories=repair.directories,
            )
            self._propose(change, now)
        elif nodes := [
            n for n in repair.new if n not in repair.whole and (not repair.attempt or n in silent)
        ]:
            if repair.attempt > 2 * len(repair.sources) + 2:
                # Every source had its turn, twice, and there was time for a large copy. Something is wrong
                # that asking again does not mend: a full disk at the target, or damage in every copy.
                self._drop(key)  # planned anew, perhaps with another target
                self._put_off[key] = now + PUT_OFF * self._config.repair_interval
                return
            repair.attempt += 1
            for node in nodes:
                self._waits.setdefault(node, _Wait(now, self._config.repair_interval))
                self._ask(key, repair, node, segment.count)

    def _ask(self, key: Key, repair: _Repair, node: int, count: int) -> None:
        """Ask one of the replicas to be for the whole segment, from another source at each attempt."""
        # The only source, too, must prove its copy: it is asked to copy from itself, which needs no copying.
        sources = [source for source in repair.sources if source != node] or repair.sources
        assert node in repair.new, "SealedStable: a node is asked that will be no replica"
        if sources:
            source = sources[repair.attempt % len(sources)]
            self._outbox.send(node, Copy(topic=key[0], segment=key[1], source=source, upto=count))

    def on_copy_reply(self, node: int, reply: CopyReply, now: float) -> None:
        """A copy was made. It counts if it is what was sealed.

        The length alone would not do. A deposed leader's copy may be as long as the segment and end in other
        entries than those that were sealed; the checksum covers them all.
        """
        if node in self._waits:
            self._waits[node].since = now
        key = (reply.topic, reply.segment)
        repair, segment = self._under_way.get(key), self._metadata.segment(*key)
        if repair is None or segment is None or node not in repair.new or segment.count is None:
            return
        if (reply.length, reply.checksum) == (segment.count, segment.checksum):
            repair.whole.add(node)
            if repair.proven:
                self._go_on(key, repair, now)
        elif reply.length >= segment.count:
            self._outbox.log(f"node {node} has a copy of {key[0]}/{key[1]} that differs: not counted")

    def check_invariants(self) -> None:
        """Assert what must hold of the repairs that are under way."""
        assert self._entries == sum(repair.count for repair in self._under_way.values()), "they do not add up"
        assert len(self._under_way) <= MAX_REPAIRS, "more repairs at once than the limit"
        for (topic, number), repair in self._under_way.items():
            assert repair.whole <= set(repair.new), f"SealedStable: {topic}/{number}: no replica counts"
            assert repair.added == set(repair.new) - set(repair.old), f"ReplicasKept: {topic}/{number}"
