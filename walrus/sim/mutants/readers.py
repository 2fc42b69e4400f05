"""Bugs planted between clients and segments: the order of PUTs, what readers may see, cursors."""

from __future__ import annotations

from walrus.sim.mutants.plant import Mutant, Slip

ROUTING = (
    Mutant.of(
        "sent_again_behind_the_clients_back",
        "Duplicate ProducerOrder FailedWriteRead",
        "what was on its way to a leader that died is sent to the next one",
        Slip("taken=count,", "taken=0,"),
        Slip("refused=False,", "refused=True,"),
    ),
    Mutant.of(
        "repeated_forward_is_handed_back",
        "Duplicate ProducerOrder",
        "a forward of a segment that is over counts as never taken, seen or not",
        Slip("or forward.request <= seen.get(origin, 0)", ""),
    ),
    Mutant.of(
        "anybody_hands_back",
        "Duplicate ProducerOrder AnswersAreTrue",
        "a node that did not lead a segment says that a forward was never taken",
        Slip("or not self.leases.is_ours(segment)", ""),
        spec="order:AnyoneHandsBack",
    ),
    Mutant.of(
        "next_segment_too_early",
        "ProducerOrder",
        "forwards go to the next leader while earlier ones are unsettled",
        Slip("route.sent[-1].segment != number or route.sent_bytes", "route.sent_bytes"),
        Slip('assert len({sent.segment for sent in route.sent}) <= 1, "one segment at a time"', "pass"),
    ),
    Mutant.of(
        "handed_back_to_the_end",
        "ProducerOrder",
        "what a sealing leader hands back goes behind what came later",
        Slip("route.waiting.extendleft(reversed(route.returned))", "route.waiting.extend(route.returned)"),
        spec="order:HandedBackGoesBehind",
    ),
    Mutant.of(
        "overtaken_is_written",
        "ProducerOrder AnsweredInOrder",
        "what came back is sent again although later entries were written",
        Slip("if taken:", "if False:"),
        spec="order:OvertakenGoBack",
    ),
    Mutant.of(
        "late_reply_of_another_leader",
        "AckedDurable LostWrite",
        "an outcome counts from any node and for any forward",
        Slip(
            "if sent.request == reply.request and sent.leader == sender:", "if sent.segment == reply.segment:"
        ),
    ),
    Mutant.of(
        "timeout_says_failed",
        "FailedWriteRead AnswersAreTrue",
        "a PUT without an answer in time is reported as not written",
        Slip(
            "self._lost(route, sent, errors.TIMEOUT)",
            "self._lost(route, sent, errors.NO_LEASE)",
            "Router.on_tick",
        ),
        spec="order:UnknownIsRefused",
    ),
)

READING = (
    Mutant.of(
        "reads_what_is_not_acknowledged",
        "DeliveredIsPrefix CursorInBounds",
        "readers of the open segment see all that was appended",
        Slip(
            "None if writer is None else writer.commit_index",
            "None if writer is None else writer.copy.length",
        ),
        spec="walrus:ReadUnacknowledged",
    ),
    Mutant.of(
        "reads_past_the_seal",
        "DeliveredIsPrefix CursorInBounds",
        "readers of a sealed segment see a deposed leader's tail",
        Slip(
            "return min(segment.count, self._copies.get((topic, number)).length)",
            "return self._copies.get((topic, number)).length",
        ),
    ),
    Mutant.of(
        "any_replica_answers_for_the_open_segment",
        "DeliveredIsPrefix CursorInBounds",
        "a replica that does not lead answers for an open segment with its whole copy",
        Slip("return self._commit_index(read.topic, read.segment) is not None", "return True"),
        Slip(
            "return self._commit_index(topic, number) or 0", "return self._copies.get((topic, number)).length"
        ),
    ),
    Mutant.of(
        "read_ahead_is_not_cut",
        "DeliveredIsPrefix CursorInBounds",
        "what a cursor reads ahead from another replica is not cut at what is acknowledged",
        Slip(
            "entries = batch.slice(0, there)",
            "entries = batch",
        ),
        spec="walrus:ReadUnacknowledged",
    ),
    Mutant.of(
        "register_answered_before_applied",
        "DomainConsistency",
        "REGISTER is answered when it is proposed",
        Slip(
            "self._watch(slot, lambda: self._was_born(topic, number), push, why_not, now, patience)",
            "self._watch(slot, lambda: self._was_born(topic, number), push, why_not, now, patience)\n"
            "        self._watches.pop()\n"
            "        self._outbox.reply(slot, protocol.OK)",
        ),
    ),
)

CURSORING = (
    Mutant.of(
        "cursor_committed_before_delivery",
        "DeliveredIsPrefix",
        "what was handed out counts as delivered",
        Slip("return self.handed[0].start if self.handed else self.position", "return self.position"),
        spec="walrus:CommitsHandedOut",
    ),
    Mutant.of(
        "refused_delivery_counts",
        "DeliveredIsPrefix",
        "entries that reached no client count as delivered",
        Slip("if confirm.delivered:", "if True:"),
        spec="walrus:CommitsHandedOut",
    ),
    Mutant.of(
        "partial_delivery_counts",
        "DeliveredIsPrefix",
        "a run of which a client got a part is confirmed whole",
        Slip("delivered=delivered and position == len(payloads)", "delivered=position > 0"),
        spec="walrus:CommitsHandedOut",
    ),
    Mutant.of(
        "sealed_with_unconfirmed_cursors",
        "DeliveredIsPrefix",
        "a segment is sealed with cursors that were not confirmed",
        Slip("if any(cursor.handed for cursor in cursors):", "if False:"),
    ),
    Mutant.of(
        "cursor_moves_back",
        "CursorInBounds",
        "a cursor moves to wherever a node says",
        Slip("and position > topic.cursor(group)", ""),
        spec="walrus:StaleCursor",
    ),
    Mutant.of(
        "cursor_out_of_bounds",
        "CursorInBounds",
        "a cursor is committed beyond what was sealed",
        Slip("topic.cursors[group] = min(position, end)", "pass"),
        Slip("topic.in_bounds(position) and", ""),
        spec="walrus:LateCursorBeyondForcedSeal",
    ),
    Mutant.of(
        "two_runs_at_once",
        "DeliveredIsPrefix Skipped",
        "a cursor hands out the next run while the last one is unconfirmed",
        Slip("and not cursor.handed:", ":"),
        spec="walrus:HandsOutAhead",
    ),
    Mutant.of(
        "readers_stop_at_a_segments_end",
        "ReadProgress",
        "a cursor at the end of a sealed segment does not move on to the next",
        Slip("offset >= (self.segments", "offset > (self.segments"),
    ),
    Mutant.of(
        "cursor_skips_the_tail",
        "DeliveredIsPrefix ReadProgress",
        "a cursor leaves a segment when it is sealed, read to its end or not",
        Slip("if not topic.in_bounds(cursor.position):", "if cursor.position.segment < topic.current:"),
        Slip(
            "cursor.position = topic.advance(cursor.position)",
            "cursor.position = Position(topic.current, 0)",
            "Cursors._keep_up",
        ),
        spec="walrus:ReaderSkipsTail",
    ),
)

ALL = (*ROUTING, *READING, *CURSORING)
