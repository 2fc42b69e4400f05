"""Before a node says "unknown" it makes sure that it knows all that is committed."""

from __future__ import annotations

import pytest

from tests.broker.world import HOPS, batch, config, three
from walrus import protocol
from walrus.broker.read_index import ReadIndexes
from walrus.consensus.messages import AppendEntriesRequest, Role
from walrus.wire import messages as m
from walrus.wire.effects import Outbox, Send
from walrus.wire.receipts import Receipt
from walrus.wire.requests import Time

# ------------------------------------------------------------------------------------ the rules, one by one


class Follower:
    """As much of a Raft server as questions need: it follows server 9."""

    role, leader_id = Role.FOLLOWER, 9


class Questions:
    """The questions of one node, and what became of them."""

    def __init__(self) -> None:
        self.outbox = Outbox(1)
        self.read_indexes = ReadIndexes(
            config=config(),
            raft=Follower(),  # type: ignore[arg-type]
            outbox=self.outbox,
            first_request=100,
        )
        self.fresh: list[str] = []

    def ask(self, name: str) -> int | None:
        """Ask; the number of the question that left, if one did."""
        self.read_indexes.ask(lambda fresh, now: self.fresh.append(name) if fresh else None, 0.0)
        sent = [effect.message for effect in self.outbox.take() if isinstance(effect, Send)]
        assert len(sent) <= 1 and all(isinstance(message, m.ReadIndex) for message in sent)
        return sent[0].request if sent else None  # type: ignore[union-attr]

    def answer(self, request: int, index: int) -> None:
        self.read_indexes.on_message(9, m.ReadIndexReply(request=request, index=index), 0.0)

    def apply(self, index: int) -> None:
        self.read_indexes.on_applied(index, 0.0)


def test_an_answer_holds_once_all_of_it_is_applied_and_not_one_entry_earlier():
    """The last entry may be the very REGISTER that was acknowledged before the question was asked."""
    questions = Questions()
    request = questions.ask("a")
    assert request is not None
    questions.answer(request, 7)
    questions.apply(6)
    assert questions.fresh == [], "ReadIndex: answered before all of it is applied"
    questions.apply(7)
    assert questions.fresh == ["a"], "ReadConsistency: an answer does not hold although all of it is applied"


def test_an_answer_of_which_all_is_applied_holds_at_once():
    """Waiting for Raft's next `Ready` would take up to a heartbeat: a node that follows has few of them."""
    questions = Questions()
    questions.apply(7)
    questions.answer(questions.ask("a") or 0, 7)
    assert questions.fresh == ["a"], "ReadProgress: an answer waits for what is applied next"


def test_a_question_that_comes_up_as_one_is_answered_is_asked_at_once():
    questions = Questions()
    questions.apply(7)
    asked: list[int | None] = []
    questions.read_indexes.ask(lambda fresh, now: asked.append(questions.ask("later")), 0.0)
    (question,) = questions.outbox.take()
    assert isinstance(question, Send) and isinstance(question.message, m.ReadIndex)
    questions.answer(question.message.request, 7)
    assert asked and asked[0], "ReadProgress: an answer, or the question that follows it, waits"
    assert questions.fresh == [], "ReadIndex: answered with an index from before the question"
    questions.answer(asked[0], 7)
    assert questions.fresh == ["later"], "ReadProgress: the second answer waits"


def test_a_question_that_comes_up_while_one_is_on_its_way_does_not_join_it():
    """The leader may have answered the first one before the REGISTER that the second one follows."""
    questions = Questions()
    request = questions.ask("first")
    assert request is not None
    assert questions.ask("second") is None, "ReadConsistency: it waits"
    questions.answer(request, 3)
    questions.apply(3)
    assert questions.fresh == ["first"], "ReadIndex: answered with an index from before the question"


def test_a_question_that_was_given_up_holds_up_no_later_one():
    questions = Questions()
    first = questions.ask("a")
    questions.read_indexes.on_tick(config().request_timeout)
    second = questions.ask("b")
    assert second not in (None, first), "ReadProgress: it waits for an answer that was given up"
    questions.answer(second or 0, 7)
    questions.apply(7)
    assert questions.fresh == ["b"], "ReadConsistency: a question that was given up holds up the next"


def test_an_answer_to_an_earlier_question_says_nothing_about_a_later_one():
    questions = Questions()
    earlier = questions.ask("earlier")
    assert earlier is not None
    questions.answer(earlier, 3)
    questions.apply(3)
    later = questions.ask("later")
    assert later is not None and later != earlier
    questions.answer(earlier, 3)
    questions.apply(5)
    assert questions.fresh == ["earlier"], (
        "ReadConsistency: answered by a copy of what came before it was asked"
    )
    questions.answer(later, 5)
    questions.apply(5)
    assert questions.fresh == ["earlier", "later"], "ReadConsistency"


# ------------------------------------------------------------------------------------------ whole clusters


def test_a_leader_that_stepped_down_does_not_answer_what_it_was_asked_before():
    """Nor does it keep the questions: the nodes that asked ask the next leader."""
    questions = Questions()
    raft = questions.read_indexes._raft
    contexts: list[int] = []
    raft.role = Role.LEADER
    raft.read_index = lambda context, now: contexts.append(context) or True  # type: ignore[method-assign,func-returns-value]
    questions.read_indexes.on_read_index(2, m.ReadIndex(request=7), 0.0)
    questions.read_indexes.on_tick(0.1)
    questions.read_indexes.on_confirmed(contexts[0], 5)
    (answer,) = questions.outbox.take()
    assert isinstance(answer, Send) and answer.message == m.ReadIndexReply(request=7, index=5), (
        "ReadIndex: the answer is another one, or none"
    )
    questions.read_indexes.on_read_index(2, m.ReadIndex(request=8), 0.2)
    raft.role = Role.FOLLOWER
    questions.read_indexes.on_tick(0.3)
    questions.read_indexes.on_confirmed(contexts[1], 5)
    assert not list(questions.outbox.take()), "ReadConsistency: a leader that stepped down answers"


def test_many_questions_share_a_round():
    world = three()
    asked: list[object] = []

    def watch(sender: int, to: int, message: object) -> None:
        if isinstance(message, m.ReadIndex):
            asked.append(message)

    world.watch = watch
    slots = [world.send(3, protocol.State(f"unknown {number}")) for number in range(50)]
    world.until(lambda: all(world.replies[slot] for slot in slots))
    assert len(asked) <= 2, "ReadConsistency: a round for each question"
    assert all(world.replies[slot][0].startswith(b"ERR unknown topic") for slot in slots), "ReadConsistency"
    assert not world.nodes[3].requests._asking, (
        "ReadConsistency: the next request for one of them is not held up"
    )


def test_topic_that_another_node_just_registered_is_found():
    world = three()
    world.cut |= {(1, 3)}  # node 3 hears nothing of it
    assert world.ask(2, protocol.Register("t")) == [b"OK"]
    assert "t" not in world.nodes[3].metadata.topics
    slot = world.send(3, protocol.Put("t", batch("a")))
    world.step()
    assert not world.replies[slot], "ReadConsistency: it does not know that it does not know"
    world.cut.clear()
    world.until(lambda: bool(world.replies[slot]))
    assert world.replies[slot] == [b"OK"], "ReadConsistency: a topic that was registered elsewhere is unknown"


REQUESTS = (
    *(protocol.Register("t"), protocol.Register("new"), protocol.Configure("t", {"retain_entries": 1_000})),
    *(protocol.Get("t"), protocol.Receive("t", "g"), protocol.Fetch("t", 1, 0), protocol.Find("t", Time(1))),
    *(protocol.Put("t", batch("a")), protocol.Put("unknown", batch("a"))),
    *(protocol.Receive("t", "g"), protocol.Extend("t", "g", Receipt(1, 0, 0, 1), 9_000)),
    *(protocol.Nack("t", "g", Receipt(1, 0, 0, 1)), protocol.Receive("t", "g")),
    *(protocol.Ack("t", "g", (Receipt(1, 0, 0, 2),)), protocol.Seek("t", "g", "end")),
    *(protocol.Seek("t", "g", Time(1)), protocol.Find("t", Time(1)), protocol.Get("t")),
    *(protocol.State("t"), protocol.State("unknown"), protocol.Groups("t"), protocol.Topics("")),
    protocol.Delete("new"),
)


@pytest.mark.parametrize("through", (1, 2, 3))
def test_no_request_to_a_quiet_cluster_waits_for_a_tick_or_a_heartbeat(through: int):
    """Messages and syncs alone bring the answer; what was known of others has lapsed before each request."""
    world = three()
    world.register("t")
    for request in REQUESTS:
        world.run(world.nodes[through].config.lease_ttl)
        slot = world.send(through, request)
        world.hop(3 * HOPS)
        assert world.replies[slot], f"ReadProgress: {type(request).__name__} waits for a tick or a heartbeat"


def test_node_without_a_majority_says_so_instead_of_unknown():
    world = three()
    world.isolate(3)
    slot = world.send(3, protocol.Get("t"))
    world.until(lambda: bool(world.replies[slot]))
    assert world.replies[slot][0].startswith(b"ERR no leader"), "ReadConsistency: unknown without a majority"


def test_register_that_reached_no_raft_leader_was_certainly_not_done():
    world = three()
    world.isolate(3)
    world.until(lambda: world.nodes[3].raft.leader_id is None)
    slot = world.send(3, protocol.Register("t"))
    world.until(lambda: bool(world.replies[slot]))
    [reply] = world.replies[slot]
    assert reply == b"ERR " + protocol.errors.NO_MAJORITY.encode(), (
        "AnswersAreTrue: certainly not done, and told as unknown"
    )


def test_register_that_a_raft_leader_may_have_proposed_may_be_done():
    world = three()
    leader = next(node for node in world.nodes if world.nodes[node].raft.role is Role.LEADER)
    world.lose = lambda sender, to, message: isinstance(message, AppendEntriesRequest) and message.entries
    slot = world.send(leader, protocol.Register("t"))
    world.until(lambda: bool(world.replies[slot]))
    [reply] = world.replies[slot]
    assert reply == b"ERR " + protocol.errors.not_registered_yet("t").encode(), (
        "AnswersAreTrue: an outcome that is unknown is told as known"
    )


def test_lost_questions_and_answers_are_repeated():
    world = three()
    lost: list[object] = []

    def lose(sender: int, to: int, message: object) -> bool:
        if isinstance(message, m.ReadIndex | m.ReadIndexReply) and len(lost) < 4:
            lost.append(message)
            return True
        return False

    world.lose = lose
    (reply,) = world.ask(3, protocol.State("t"))
    assert reply.startswith(b"ERR unknown topic") and len(lost) == 4, (
        "ReadConsistency: a lost question is not repeated"
    )


def test_question_survives_a_change_of_raft_leader():
    world = three()
    world.cut |= {(3, 1), (1, 3)}
    slot = world.send(3, protocol.State("t"))
    world.step()
    world.kill(1)
    world.until(lambda: bool(world.replies[slot]))
    assert world.replies[slot][0].startswith(b"ERR unknown topic"), (
        "ReadConsistency: a question is lost with its Raft leader"
    )


def test_requests_for_one_topic_stay_in_order_while_one_waits():
    world = three()
    world.cut |= {(1, 3)}
    assert world.ask(2, protocol.Register("t")) == [b"OK"]
    first = world.send(3, protocol.Put("t", batch("first")))
    world.cut.clear()
    second = world.send(3, protocol.Put("t", batch("second")))
    world.until(lambda: bool(world.replies[first] and world.replies[second]))
    assert world.get_all(3, "t") == [b"first", b"second"], "ProducerOrder: a request overtakes one that waits"


def test_late_answers_count_however_often_the_question_was_repeated():
    """A leader that takes longer than the pause between two questions is not ignored for ever."""
    world = three()
    late: list[tuple[float, int, int, object]] = []

    def delay(sender: int, to: int, message: object) -> bool:
        if isinstance(message, m.ReadIndexReply):
            late.append((world.now + 0.5, sender, to, message))
            return True
        return False

    world.lose = delay
    slot = world.send(3 if world.raft_leader != 3 else 2, protocol.State("t"))
    while not world.replies[slot]:
        world.step()
        for due, sender, to, message in list(late):
            if due <= world.now:
                late.remove((due, sender, to, message))
                world.nodes[to].on_message(sender, message, world.now)  # type: ignore[arg-type]
    assert world.replies[slot][0].startswith(b"ERR unknown topic"), (
        "ReadConsistency: a late answer does not count"
    )
