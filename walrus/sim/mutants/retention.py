"""Bugs planted in retention and deletion: what is dropped, what is counted, and what stays dropped."""

from __future__ import annotations

from walrus.sim.mutants.plant import Mutant, Slip

ALL = (
    Mutant.of(
        "trim_takes_the_open_segment",
        "TrimmedIsSealed TypeOK",
        "a Trim that takes the open segment is proposed, and applied",
        Slip("not command.old < command.first <= topic.current:", "not command.old < command.first:"),
        Slip(
            "self._propose(Trim(topic=name, old=topic.first, first=first), now)",
            "self._propose(Trim(topic=name, old=topic.first, first=topic.current + 1), now)",
        ),
        spec="retention:TrimsTheOpen",
    ),
    Mutant.of(
        "no_tombstone",
        "TrimmedStaysTrimmed",
        "a topic that is registered anew begins with segment 1 again",
        Slip("self.tombstones[name] = topic.current + 1", "self.tombstones[name] = 1"),
        spec="retention:NoTombstone",
    ),
    Mutant.of(
        "delete_takes_the_next_topic",
        "OnlyWhatWasMeant",
        "a DELETE that is committed late deletes the topic that was registered since",
        Slip("if topic is None or topic.born != command.born:", "if topic is None:"),
        spec="retention:DeleteWithoutCompare",
    ),
    Mutant.of(
        "topic_goes_without_a_seal",
        "NoAckAfterDelete",
        "a topic goes at once, and its writer goes on until it hears of that",
        Slip("DeleteTopic(topic=topic, born=born, at_seal=True)", "DeleteTopic(topic=topic, born=born)"),
        spec="retention:DeleteWithoutFence",
    ),
    Mutant.of(
        "writer_goes_on_behind_its_last_seal",
        "NoAckAfterDelete AckedDurable",
        "the writer of a topic that is to be deleted proposes its Seal, and does not stop",
        Slip("writer.end()", "pass"),
        spec="retention:SealsWithoutStop",
    ),
    Mutant.of(
        "marked_topic_goes_on",
        "DeletedInTheEnd",
        "the writer of a topic that is to be deleted does not propose its end",
        Slip("elif self._metadata.topics[topic].deleting:", "elif False:"),
    ),
    Mutant.of(
        "copies_outlive_their_segment",
        "SpaceIsGivenBack",
        "a replica keeps the copies of segments that were trimmed",
        Slip("if key[0] == topic and key[1] < first:", "if False:"),
        spec="retention:KeepsCopies",
    ),
    Mutant.of(
        "missed_entries_not_counted",
        "SkippedIsCounted",
        "a group goes on behind what was trimmed, and nothing says so",
        Slip("topic.skipped[group] = topic.skipped.get(group, 0) + missed", "pass"),
        spec="retention:CountsNothing",
    ),
    Mutant.of(
        "group_stays_at_what_is_trimmed",
        "MarkInBounds",
        "a group's place stays below the first entry there is",
        Slip("topic.cursors = {group: topic.advance(at) for group, at in topic.cursors.items()}", "pass"),
        spec="retention:MarkStays",
    ),
    Mutant.of(
        "protection_asked_of_nobody",
        "ProtectedUntilAcked",
        "protect_groups is forgotten, by the planner and where a Trim is applied",
        Slip('if topic.settings.get("protect_groups") and not _all_read(topic, begin):', "if False:"),
        Slip('if not self._config.setting("protect_groups", topic.settings):', "if True:"),
        spec="retention:TrimsWhatIsNotDone",
    ),
)
