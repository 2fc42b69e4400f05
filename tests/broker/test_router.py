"""The way of a PUT: answered in order, never retried behind the client's back, never out of order."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.broker.test_segments import announce, cluster, seal
from tests.broker.world import batch, config, frames, three
from walrus import protocol
from walrus.broker import router
from walrus.broker.router import MAX_FORWARD_BYTES, Router
from walrus.segments import DeleteTopic, RegisterTopic
from walrus.storage.batch import Batch
from walrus.wire import errors
from walrus.wire import messages as m
from walrus.wire.effects import Outbox, Reply, Send

OK = b"OK"


class Bench:
    """Node 9 has the clients; node 1 leads t/1, and the metadata moves when a test says so."""

    def __init__(self, **settings: Any) -> None:
        self.now = 0.0
        self.metadata = cluster()
        self.outbox = Outbox(9)
        self.connected = {1, 2, 3}
        self.restarted: dict[int, int] = {}
        """Nodes that have introduced a later start than the metadata knows."""
        self.router = Router(
            config=config(9, **settings),
            metadata=self.metadata,
            outbox=self.outbox,
            first_request=0,
            incarnation=self.incarnation,
            is_open=lambda slot: slot not in self.gone,
        )
        self.gone: set[object] = set()
        self.replies: dict[str, list[bytes]] = {}
        self.forwards: list[tuple[int, m.Forward]] = []

    def incarnation(self, node: int) -> int | None:
        known = self.metadata.nodes.get(node)
        return self.restarted.get(node, None if known is None else known.incarnation)

    def put(self, slot: str, *payloads: str, positions: bool = False) -> None:
        self.router.put(slot, "t", batch(*payloads), self.now, positions)

    def flush(self) -> list[tuple[int, int, list[bytes]]]:
        """Let the router send; (leader, segment, entries) of each forward that leaves now."""
        self.router.flush(self.connected)
        self.take()
        self.router.check_invariants()
        sent, self.forwards = self.forwards, []
        self.last = [(to, forward) for to, forward in sent]
        return [(to, forward.segment, forward.batch.payloads()) for to, forward in sent]

    def take(self) -> None:
        for effect in self.outbox.take():
            if isinstance(effect, Reply):
                self.replies.setdefault(str(effect.slot), []).extend(frames(effect.data))
            elif isinstance(effect, Send) and isinstance(effect.message, m.Forward):
                self.forwards.append((effect.to, effect.message))

    def settle(
        self,
        forward: tuple[int, m.Forward],
        taken: int,
        *,
        refused: bool = False,
        error: str = "",
        places: tuple[int, int] = (0, 0),
    ) -> None:
        to, message = forward
        self.router.on_reply(
            to,
            m.ForwardReply(
                request=message.request,
                topic="t",
                segment=message.segment,
                taken=taken,
                acked=taken,
                refused=refused,
                error=error,
                first=places[0],
                placed=places[1],
            ),
        )
        self.take()
        self.router.check_invariants()

    def sealed(self, segment: int, count: int, leader: int, *, recovered: bool = False) -> None:
        self.metadata.apply(seal(segment, count, leader=leader, recovered=recovered))
        self.router.on_topic("t")
        self.take()

    def tick(self, seconds: float) -> None:
        self.now += seconds
        self.router.on_tick(self.now)
        self.take()
        self.router.check_invariants()


def test_what_a_turn_brought_is_one_forward():
    bench = Bench()
    bench.put("x", "a")
    bench.put("y", "b", "c")
    assert bench.flush() == [(1, 1, [b"a", b"b", b"c"])], (
        "ProducerOrder: what a turn brought is more than one forward, or in another order"
    )
    bench.settle(bench.last[0], 3)
    assert bench.replies == {"x": [OK], "y": [OK, OK]} and not bench.router.busy, (
        "AnswersAreTrue: what was acknowledged is not answered"
    )


def test_a_client_that_asked_is_told_where_each_entry_is_and_no_other() -> None:
    bench = Bench()
    bench.put("asked", "a", "b", positions=True)
    bench.put("old", "c")
    bench.put("also", "d", "e", positions=True)
    bench.flush()
    (forward,) = bench.last
    bench.settle(forward, 4, refused=True, places=(7, 4))
    told = {"asked": [b"OK 1 7", b"OK 1 8"], "old": [OK], "also": [b"OK 1 10"]}
    assert bench.replies == told, "AnswersAreTrue: another entry is at the place that is told"
    bench.sealed(1, 11, leader=2)
    bench.flush()
    bench.settle(bench.last[0], 1, places=(0, 1))
    assert bench.replies["also"] == [b"OK 1 10", b"OK 2 0"], "AnswersAreTrue: in the next segment"


@pytest.mark.parametrize(
    ("places", "replies"),
    [
        ((5, 1), [b"OK", b"OK", b"OK 1 5"]),
        ((0, 0), [b"OK"] * 3),
        ((5, 3), [b"OK 1 5", b"OK 1 6", b"OK 1 7"]),
    ],
)
def test_the_place_of_a_repetition_and_of_an_old_leaders_entry_is_not_told(
    places: tuple[int, int], replies: list[bytes]
) -> None:
    bench = Bench()
    bench.put("asked", "a", "b", "c", positions=True)
    bench.flush()
    bench.settle(bench.last[0], 3, places=places)
    assert bench.replies == {"asked": replies}, "AnswersAreTrue: another entry is at the place that is told"


def test_what_waits_for_a_leader_when_its_client_gives_up_is_not_written() -> None:
    bench = Bench()
    bench.connected = set()
    bench.put("x", "a")
    bench.put("y", "b")
    bench.put("x", "c")
    assert bench.flush() == [], "AnswersAreTrue: sent to a leader that is not connected"
    bench.gone.add("x")
    bench.connected = {1}
    bench.router.on_connection(1, connected=True)
    assert bench.flush() == [(1, 1, [b"b"])], (
        "NoDuplicate: the client may have sent a and c again, through another node"
    )
    bench.settle(bench.last[0], 1)
    assert bench.replies["y"] == [OK] and not bench.router.busy, (
        "AnswersAreTrue: what was acknowledged is not answered"
    )


def test_if_no_client_is_left_nothing_is_sent() -> None:
    bench = Bench()
    bench.connected = set()
    bench.put("x", "a")
    bench.gone.add("x")
    bench.connected = {1}
    assert bench.flush() == [] and not bench.router.busy and bench.router.waiting_bytes == 0, (
        "NoDuplicate: an entry of a client that has given up is sent, or counted for good"
    )


def test_outcomes_that_are_known_early_wait_for_those_before():
    bench = Bench()
    bench.put("x", "a")
    bench.flush()
    (first,) = bench.last
    bench.put("y", "b")
    bench.flush()
    (second,) = bench.last
    bench.settle(second, 1)
    assert bench.replies == {}, "AnsweredInOrder: the one before it has no answer yet"
    bench.settle(first, 1)
    assert bench.replies == {"x": [OK], "y": [OK]}, "AnsweredInOrder: an outcome that is known is not told"


def test_what_a_sealing_leader_hands_back_goes_first_to_the_next():
    bench = Bench()
    bench.put("x", "a", "b", "c")
    bench.flush()
    (first,) = bench.last
    bench.put("y", "d")
    bench.flush()
    (second,) = bench.last
    bench.put("z", "e")
    bench.settle(second, 0, refused=True)  # sent back at once; the first waits for its majority
    bench.sealed(1, 2, leader=2)
    assert bench.flush() == [], "ProducerOrder: sent to the next leader before all is settled"
    bench.settle(first, 2, refused=True)
    assert bench.flush() == [(2, 2, [b"c", b"d", b"e"])], "ProducerOrder: what came back goes last"
    bench.settle(bench.last[0], 3)
    assert bench.replies == {"x": [OK] * 3, "y": [OK], "z": [OK]}, (
        "AnswersAreTrue: what was acknowledged is not answered"
    )


def test_what_a_sealing_leader_hands_back_in_several_turns_keeps_its_order():
    bench = Bench()
    forwards = []
    for payload in "abc":
        bench.put("x", payload)
        bench.flush()
        forwards += bench.last
    for forward in forwards:
        bench.settle(forward, 0, refused=True)
        assert bench.flush() == [], "ProducerOrder: sent to a segment that takes nothing more"
    bench.sealed(1, 0, leader=2)
    assert bench.flush() == [(2, 2, [b"a", b"b", b"c"])], "ProducerOrder: what came back first goes last"


def test_what_was_handed_back_is_not_lost_with_what_was_sent_before_it():
    bench = Bench()
    bench.put("x", "a")
    bench.flush()
    bench.put("y", "b")
    bench.flush()
    bench.settle(bench.last[0], 0, refused=True)
    bench.router.on_connection(1, False)
    bench.take()
    assert b"unknown" in bench.replies["x"][0] and "y" not in bench.replies, (
        "AnswersAreTrue: what was certainly not written is answered as unknown"
    )
    bench.sealed(1, 0, leader=2)
    assert bench.flush() == [(2, 2, [b"b"])], "ProducerOrder: what came back is not sent again"


def test_segment_that_refused_is_sent_nothing_more():
    bench = Bench()
    bench.put("x", "a")
    bench.flush()
    bench.settle(bench.last[0], 0, refused=True)
    bench.put("y", "b")
    assert bench.flush() == [], "ProducerOrder: sent to a segment that takes nothing more"
    bench.sealed(1, 0, leader=3)
    assert bench.flush() == [(3, 2, [b"a", b"b"])], "ProducerOrder: what came back goes last, or is lost"


def test_a_put_that_a_later_one_has_overtaken_is_refused_and_never_written_behind_it():
    bench = Bench()
    bench.put("x", "a", "b")
    bench.flush()
    (first,) = bench.last
    bench.put("y", "c")
    bench.flush()
    (second,) = bench.last
    bench.settle(first, 1, refused=True)  # b comes back ...
    bench.settle(second, 1)  # ... and c is written
    assert bench.replies["y"] == [OK], "AnswersAreTrue: what was acknowledged is not answered"
    assert bench.replies["x"] == [OK, b"ERR " + errors.OVERTAKEN.encode()], "ProducerOrder: b behind c"
    bench.sealed(1, 2, leader=2)
    bench.put("z", "d")
    assert bench.flush() == [(2, 2, [b"d"])], "ProducerOrder: an overtaken PUT is sent again"


@pytest.mark.parametrize("how", ["disconnected", "recovered", "deleted", "too late"])
def test_an_outcome_that_is_known_is_told_whatever_becomes_of_those_before_it(how: str):
    bench = Bench()
    bench.put("x", "a")
    bench.flush()
    bench.put("y", "b")
    bench.flush()
    bench.settle(bench.last[0], 1)
    assert bench.replies == {}, "AnsweredInOrder: the one before it has no answer yet"
    if how == "disconnected":
        bench.router.on_connection(1, False)
    elif how == "recovered":
        bench.sealed(1, 1, leader=2, recovered=True)
    elif how == "deleted":
        bench.metadata.apply(DeleteTopic(topic="t", born=1))
        bench.router.on_topic("t")
    bench.tick(config().put_timeout + 0.1 if how == "too late" else 0.0)
    assert b"unknown" in bench.replies["x"][0] or how != "disconnected", (
        "AnswersAreTrue: an outcome that is unknown is told as known"
    )
    assert bench.replies["y"] == [OK], "AnswersAreTrue: what was acknowledged is answered as unknown"


@pytest.mark.parametrize("how", ["disconnected", "recovered"])
def test_failover_makes_outcomes_unknown_and_says_so_at_once(how: str):
    bench = Bench()
    bench.put("x", "a", "b")
    bench.flush()
    late = bench.last[0]
    bench.put("y", "c")
    if how == "disconnected":
        bench.connected.discard(1)
        bench.router.on_connection(1, False)
        bench.take()
    bench.sealed(1, 0, leader=2, recovered=True)
    assert len(bench.replies["x"]) == 2 and all(b"unknown" in reply for reply in bench.replies["x"]), (
        "AnswersAreTrue: an outcome that is unknown is told as known"
    )
    assert bench.flush() == [(2, 2, [b"c"])], "NoDuplicate: only what was never sent"
    bench.settle(late, 2)
    assert len(bench.replies["x"]) == 2, "AnswersAreTrue: a late outcome changes nothing"


def test_what_is_on_its_way_to_a_deleted_topic_has_an_answer_also_if_its_name_is_registered_at_once():
    bench = Bench()
    bench.put("x", "a")
    bench.flush()
    bench.metadata.apply(DeleteTopic(topic="t", born=1))
    bench.metadata.apply(RegisterTopic(topic="t", leader=1, replicas=(1, 2, 3), number=2))
    bench.router.on_topic("t")
    bench.take()
    told = bench.replies.get("x", [b"nothing"])[0]
    assert b"unknown" in told, "AnswersAreTrue: what went with its topic waits for an outcome"


def test_what_came_back_from_a_topic_that_is_gone_has_an_answer():
    bench = Bench()
    bench.put("x", "a")
    bench.flush()
    bench.settle(bench.last[0], 0, refused=True)
    bench.metadata.apply(DeleteTopic(topic="t", born=1))
    bench.router.on_topic("t")
    bench.take()
    told = bench.replies.get("x", [b"nothing"])[0]
    assert told.startswith(b"ERR unknown topic t"), (
        "AnswersAreTrue: what came back waits for a topic that is gone"
    )


def test_what_came_back_is_not_forgotten_by_a_tick_before_it_is_sent_on():
    bench = Bench()
    bench.put("x", "a")
    bench.flush()
    bench.settle(bench.last[0], 0, refused=True)
    bench.tick(0.1)
    bench.sealed(1, 0, leader=2)
    assert bench.flush() == [(2, 2, [b"a"])], "AnswersAreTrue: what came back has no answer, ever"


def test_silence_makes_the_outcome_unknown_at_the_deadline():
    bench = Bench()
    bench.put("x", "a")
    bench.flush()
    bench.tick(config().put_timeout - 0.1)
    assert bench.replies == {}, "AnswersAreTrue: given up before its deadline"
    bench.tick(0.2)
    (reply,) = bench.replies["x"]
    assert reply.startswith(b"ERR timeout") and b"may have been written" in reply, (
        "AnswersAreTrue: an outcome that is unknown is told as known"
    )


def test_no_put_is_given_up_before_its_deadline_for_one_that_was_there_before_it():
    bench = Bench()
    bench.connected.discard(1)
    bench.put("x", "a")
    bench.tick(1.0)
    bench.put("y", "b")
    bench.connected.add(1)
    bench.router.on_connection(1, True)
    assert bench.flush() == [(1, 1, [b"a", b"b"])], "ProducerOrder: both were waiting"
    bench.tick(config().put_timeout - 0.5)
    assert bench.replies == {}, "AnswersAreTrue: it has half a second left"
    bench.settle(bench.last[0], 2)
    assert bench.replies == {"x": [OK], "y": [OK]}, "AnswersAreTrue: what was acknowledged is not answered"


def test_put_that_was_never_sent_was_certainly_not_written():
    bench = Bench()
    bench.connected.clear()
    bench.put("x", "a")
    assert bench.flush() == [], "AnswersAreTrue: sent to a leader that is not connected"
    bench.tick(60)
    (reply,) = bench.replies["x"]
    assert b"nothing was written" in reply, "AnswersAreTrue: certainly not written, and told as unknown"


def test_waiting_puts_go_when_the_leader_is_connected():
    bench = Bench()
    bench.connected.clear()
    bench.put("x", "a")
    bench.flush()
    bench.connected.add(1)
    bench.router.on_connection(1, True)
    assert bench.flush() == [(1, 1, [b"a"])], (
        "EveryPubAnswered: what waits is not sent to a leader that is connected"
    )


def test_leader_that_restarted_is_sent_nothing_for_its_old_segment():
    bench = Bench()
    bench.metadata.apply(announce(1, 2))
    bench.put("x", "a")
    assert bench.flush() == [], "SingleWriter: it leads that segment no more, and the outcome is unknown"
    bench.sealed(1, 0, leader=1, recovered=True)
    assert bench.flush() == [(1, 2, [b"a"])], "EveryPubAnswered: what waits is not sent to the next leader"


def test_leader_that_says_itself_that_it_restarted_is_sent_nothing_for_its_old_segment():
    """Its Hello is there before the metadata knows: without a leader of Raft that takes an election."""
    bench = Bench()
    bench.restarted[1] = 2
    bench.put("x", "a")
    assert bench.flush() == [], "SingleWriter: it leads that segment no more, and the outcome is unknown"
    bench.metadata.apply(announce(1, 2))
    bench.sealed(1, 0, leader=1, recovered=True)
    assert bench.flush() == [(1, 2, [b"a"])], "EveryPubAnswered: what waits is not sent to the next leader"


def test_error_of_the_leader_reaches_the_client():
    bench = Bench()
    bench.put("x", "a", "b")
    bench.flush()
    bench.settle(bench.last[0], 0, error="not written: the disk is full")
    assert bench.replies["x"] == [b"ERR not written: the disk is full"] * 2, (
        "AnswersAreTrue: the leader's error is told otherwise"
    )


@pytest.mark.parametrize(("sender", "number"), [(2, 1), (1, 77)])
def test_answer_of_a_stranger_or_to_no_question_is_ignored(sender: int, number: int):
    bench = Bench()
    bench.put("x", "a")
    bench.flush()
    reply = m.ForwardReply(request=number, topic="t", segment=1, taken=1, acked=1, refused=False, error="")
    bench.router.on_reply(sender, reply)
    bench.router.on_reply(
        sender,
        m.ForwardReply(request=1, topic="unknown", segment=1, taken=1, acked=1, refused=False, error=""),
    )
    bench.take()
    assert bench.replies == {}, "AnswersAreTrue: an answer to another question, or of another node, counts"


def test_too_much_waiting_is_refused_and_goes_on_when_there_is_room():
    bench = Bench(max_pending_bytes=5)
    bench.put("x", "123456")
    bench.put("y", "7")
    bench.take()
    assert bench.replies["y"][0].startswith(b"ERR "), "AnswersAreTrue: more waits than may"
    bench.flush()
    bench.settle(bench.last[0], 1)
    bench.put("z", "8")
    assert bench.flush() == [(1, 1, [b"8"])], "EveryPubAnswered: refused although there is room"


def test_window_bounds_what_is_on_its_way():
    bench = Bench(window_bytes=20)
    for number in range(5):
        bench.put(f"{number}", "x" * 8)
        bench.flush()
    assert bench.router.waiting_bytes == 60, "eight bytes each, and four for the length"
    sent = sum(len(entries) for _, _, entries in bench.flush())
    assert sent == 0, "SeqOrder: two are on their way, the others wait"
    bench.settle((1, m.Forward(request=1, topic="t", segment=1, batch=batch("x" * 8))), 1)
    assert len(bench.flush()) == 1, "EveryPubAnswered: one was answered, and there is no room for the next"


def test_entries_that_a_producer_numbers_share_a_forward_with_no_others():
    """What becomes of them is theirs alone: the writer takes the first numbers of a forward for all of it."""
    bench = Bench()
    numbered = batch("b", "c").stamped("p", 0, 0)
    bench.put("x", "a")
    bench.router.put("y", "t", numbered, bench.now)
    bench.put("z", "d")
    alone = bench.flush() == [(1, 1, [b"a"]), (1, 1, [b"b", b"c"]), (1, 1, [b"d"])]
    assert alone, "NumbersWithoutGap: entries without numbers, or of another producer, count as a producer's"


def test_entries_without_bytes_fill_forwards_and_wait_within_bounds_too():
    """Counted by payload alone, 16 million of them became one message of 64 MiB, which no peer takes."""
    bench = Bench(window_bytes=1 << 30, max_pending_bytes=10 << 20)
    empty = Batch(bytes(4 * 100_000), b"")
    for number in range(40):
        bench.router.put(f"{number}", "t", empty, bench.now)
    bench.take()
    assert sorted(map(int, bench.replies)) == list(range(27, 40)), (
        "AnswersAreTrue: BUSY once more than 10 MiB wait"
    )
    sent = bench.flush()
    assert max(len(entries) for _, _, entries in sent) * 4 <= MAX_FORWARD_BYTES + len(empty.lengths), (
        "SeqOrder: a forward larger than a frame may be"
    )
    assert sum(len(entries) for _, _, entries in sent) == 27 * 100_000, (
        "EveryPubAnswered: entries without bytes are left out"
    )


def test_a_forward_that_is_full_takes_no_further_put(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(router, "MAX_FORWARD_BYTES", batch("a").weight)
    bench = Bench()
    bench.put("x", "a")
    bench.put("y", "b")
    assert bench.flush() == [(1, 1, [b"a"]), (1, 1, [b"b"])], "ProducerOrder: a forward beyond its bound"


def test_idle_routes_are_forgotten():
    bench = Bench()
    bench.put("x", "a")
    bench.flush()
    bench.settle(bench.last[0], 1)
    bench.tick(0.1)
    assert not bench.router._routes and bench.router.waiting_bytes == 0, "a route of nothing is kept"


@given(st.data())
def test_acknowledged_puts_of_one_client_are_in_the_order_they_were_sent(data: st.DataObject):
    """Forwards are taken in parts, refused, lost, answered late and in any order, across rollovers."""
    bench = Bench(put_timeout=1000.0)
    written: list[bytes] = []
    flying: list[tuple[int, m.Forward]] = []
    answers: list[tuple[tuple[int, m.Forward], int, bool]] = []
    open_for: dict[int, bool] = {1: True}
    total = 0
    for _ in range(data.draw(st.integers(5, 40))):
        match data.draw(st.sampled_from(["put", "flush", "take", "answer", "roll"])):
            case "put":
                count = data.draw(st.integers(1, 4))
                bench.put("x", *(f"{total + n}" for n in range(count)))
                total += count
            case "flush":
                bench.flush()
                flying += bench.last
            case "take" if flying:  # the leader takes forwards in order
                forward = flying.pop(0)
                segment, entries = forward[1].segment, forward[1].batch.payloads()
                taken = 0
                if open_for.get(segment):
                    taken = data.draw(st.integers(0, len(entries)))
                    open_for[segment] = taken == len(entries)
                written += entries[:taken]
                answers.append((forward, taken, taken < len(entries)))
            case "answer" if answers:
                forward, taken, refused = answers.pop(data.draw(st.integers(0, len(answers) - 1)))
                bench.settle(forward, taken, refused=refused)
            case "roll":
                current = bench.metadata.topics["t"].current
                if not open_for.get(current) and not any(f[1].segment == current for f in flying):
                    bench.sealed(current, 0, leader=current % 3 + 1)
                    open_for[current + 1] = True
    numbers = [int(entry) for entry in written]
    assert numbers == sorted(set(numbers)), "NoDuplicate, ProducerOrder: each once, and in order"
    acknowledged = bench.replies.get("x", []).count(OK)
    assert numbers[:acknowledged] == list(range(acknowledged)), "AckedDurable: acknowledged, and not there"


# --- whole nodes ---


@pytest.mark.parametrize("loss", [0.0, 0.1])
def test_order_of_one_producer_through_rollovers_and_lost_messages(loss: float):
    world = three(max_segment_entries=7)
    world.register("t")
    world.lose = lambda sender, to, message: (
        isinstance(message, m.Forward | m.ForwardReply | m.Append | m.AppendReply)
        and world.rng.random() < loss
    )
    slots = []
    for number in range(60):
        slots.append(world.send(2, protocol.Put("t", batch(f"{number}"))))
        if number % 4 == 0:
            world.step()
    world.until(lambda: all(world.replies[slot] for slot in slots), within=60)
    world.lose = lambda sender, to, message: False
    got = [int(entry) for entry in world.get_all(1, "t")]
    acknowledged = [number for number, slot in enumerate(slots) if world.replies[slot] == [OK]]
    assert got == sorted(set(got)) and set(acknowledged) <= set(got), (
        "NoDuplicate, ProducerOrder, AckedDurable"
    )
    assert loss or acknowledged == list(range(60)), "EveryPubAnswered: not acknowledged, and nothing was lost"


def test_put_follows_a_registration_on_another_node():
    world = three()
    slot = world.send(3, protocol.Register("t"))
    world.until(lambda: bool(world.replies[slot]))
    assert world.put(2, "t", "a") == [OK], "ReadIndex: a PUT after REGISTER finds no topic"


def test_next_leader_dies_before_its_first_append_again_and_again():
    world = three(max_segment_entries=2)
    world.register("t")
    assert world.put(1, "t", "a") == [OK], "EveryPubAnswered"
    for _ in range(6):
        victim = world.topic("t").open.leader
        before = world.topic("t").current
        world.kill(victim)
        world.start(victim)
        world.until(lambda before=before: world.topic("t").current > before)
    world.until(lambda: all(node.ready for node in world.nodes.values()))
    assert world.put(2, "t", "b") == [OK], (
        "FailoverProgress: the next leader died, too, and nothing is written"
    )
    assert world.get_all(3, "t") == [b"a", b"b"], "ProducerOrder, AckedDurable"
