"""Transcripts of the tests as films: the run that a test plays, as a picture.

Transcripts (`tests/consensus/transcripts`, `tests/replicas/transcripts`) are texts that a test plays and that
a reviewer reads. The lines become events:

    # text                          a heading of what follows; the first ones describe the film
    > crash 1                       a command: an event on the node's lane, or on the world's
      1 -> 2  Append t/1 (lost)     a message, which arrives or is lost
      put through 1: OK             the reply of node 1 to a client
      1  Leader  term 2  commit 3   log 1 2     (after `> show`) the state of a node
      t/1  sealed at 2              (after `> show`) a segment, with a line for each copy

A transcript has no clock: `at` is the number of the event. Left out: lines of other forms are not
interpreted; each becomes a note of the world.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from walrus.view.film import WORLD, Event, Film, FilmError, Lane, header

METADATA = "metadata"
"""The lane of committed metadata, whichever node applied it first."""

_MESSAGE = re.compile(r"^  (\d+) -> (\d+)  (\w+)(.*?)\s*(\((?:lost|refused)[^)]*\))?$")
_STATE = re.compile(r"^  (\d+)  (\w+) +term (\d+)  commit (\d+) +log ?(.*)$")
_CLIENT = re.compile(r"^  (.*) through (\d+): (.*)$")
_SEGMENT = re.compile(r"^  (\S+)/(\d+)  (open|sealed at (\d+)), ")
_SAID = re.compile(r"index \d+$|\d+ messages?$|lease  |cursor |\d+  down$")
"""Lines that are left out, because the state or the events contain the same."""
_COPY = re.compile(r"^    (\d+)  (\S.*?)(?:   \((.*)\))?$")
_DOWN, _UP = frozenset({"crash", "kill", "power", "lose-power"}), frozenset({"start"})
_FAULTS = frozenset({"isolate", "cut", "lose", "damage", "pause", "slow", "unreachable", "hold"})
_TALK = frozenset(
    {"show", "watch", "quietly", "deliver", "until", "run", "limit", "server", "servers", "nodes"}
)


def film(text: str, name: str) -> Film:
    """Return the film of a transcript. Raises FilmError if the text is not a transcript."""
    reader = _TranscriptReader()
    for line in text.splitlines():
        reader.read(line)
    if not reader.events or not reader.about:
        raise FilmError(f"{name}: no transcript: it has no heading (#) and no command (>)")
    used = {event.lane for event in reader.events} | reader.peers
    lanes = [Lane(node, f"node {node}") for node in sorted(filter(str.isdigit, used), key=int)]
    others = (
        Lane(METADATA, "metadata", WORLD),
        Lane(WORLD, "world", WORLD),
        Lane("client", "client", "client"),
    )
    lanes += [lane for lane in others if lane.id in used]
    made = Film(header(name.replace("_", " "), lanes, about=" ".join(reader.about)), reader.events)
    made.header.steps = True
    made.check()
    return made


class _TranscriptReader:
    """The events so far, and the context of the next line."""

    def __init__(self) -> None:
        self.about: list[str] = []
        self.events: list[Event] = []
        self.peers: set[str] = set()
        self._began = False  # whether there was a command
        self._segment = ""
        self._sent = 0

    def read(self, line: str) -> None:
        """Take one line."""
        if line.startswith("#"):
            text = line.lstrip("# ")
            self._add(WORLD, "note", text) if self._began else self.about.append(text)
        elif line.startswith("> "):
            self._began = True
            self._command(line[2:].split())
        elif match := _MESSAGE.match(line):
            self._message(*match.groups())
        elif match := _STATE.match(line):
            self._state(*match.groups())
        elif match := _CLIENT.match(line):
            self._client(*match.groups())
        elif match := _SEGMENT.match(line):
            self._segment = f"{match[1]}/{match[2]}"
        elif (match := _COPY.match(line)) and self._segment:
            self._copy(match[1], match[2], match[3] or "")
        elif (note := line.strip()) and not _SAID.match(note):
            lane = METADATA if note.startswith("Raft: ") else WORLD
            self._add(lane, "step" if lane == METADATA else "note", note.removeprefix("Raft: "))

    def _add(self, lane: str, kind: str, what: str, **more: Any) -> None:
        self.events.append(Event(float(len(self.events)), lane, kind, what, **more))

    def _command(self, words: list[str]) -> None:
        verb, node = words[0], next((word for word in words[1:] if word.isdigit()), "")
        self._segment = ""
        if verb in _TALK:
            return
        if verb in _DOWN and node:
            self._add(node, "down", " ".join(words), state={"up": False, "role": None})
        elif verb in _UP and node:
            self._add(node, "up", " ".join(words), state={"up": True})
        elif node and verb in ("campaign", "propose", "compact", "transfer", "heartbeat", "read", "sync"):
            self._add(node, "step", " ".join(words))
        elif verb in _FAULTS:
            self._add(node or WORLD, "fault", " ".join(words))
        elif verb not in ("put", "get", "fetch", "register"):
            self._add(node or WORLD, "note", " ".join(words))

    def _message(self, sender: str, to: str, what: str, fields: str, fate: str | None) -> None:
        self.peers |= {sender, to}
        self._sent += 1
        known = _fields(fields)
        lost = fate is not None
        heartbeat = what == "AppendEntriesRequest" and "entries" not in known
        common: dict[str, Any] = {"message": self._sent, "fields": known, "minor": heartbeat}
        self._add(sender, "send", what, peer=to, lost=lost, **common)
        if not lost:
            state = {"term": known["term"]} if what.startswith("RequestVoteR") and "term" in known else {}
            self._add(to, "receive", what, peer=sender, state=state, **common)

    def _state(self, node: str, role: str, term: str, commit: str, log: str) -> None:
        shown: dict[str, Any] = {"up": True, "role": role, "term": int(term), "commit": int(commit)}
        if runs := _runs(log.split()):
            shown["log"] = runs
        self._add(node, "look", "", state=shown)

    def _client(self, asked: str, node: str, told: str) -> None:
        self._sent += 2
        common: dict[str, Any] = {"message": self._sent - 1, "fields": {"asked": asked}}
        self._add("client", "send", asked.split()[0].upper(), peer=node, **common)
        self._add(node, "receive", asked.split()[0].upper(), peer="client", **common)
        common = {"message": self._sent, "fields": {"reply": told}}
        self._add(node, "send", told[:30], peer="client", **common)
        self._add("client", "receive", told[:30], peer=node, **common)

    def _copy(self, node: str, entries: str, marks: str) -> None:
        length = 0 if entries == "-" else len(entries.split())
        copy: dict[str, Any] = {"length": length, "durable": length}
        for mark in ("fenced", "unsure", "damaged"):
            if mark in marks:
                copy[mark] = True
        if durable := re.search(r"durable (\d+)", marks):
            copy["durable"] = int(durable[1])
        state: dict[str, Any] = {f"copy {self._segment}": copy}
        self._add(node, "look", "", state=state)


def _fields(text: str) -> dict[str, Any]:
    """Parse the fields of a message: `term=2, granted=True`, or `t/1 length=2`."""
    found: dict[str, Any] = {}
    for name, value in re.findall(r"(\w+)=([^\s,()]+)", text):
        found[name] = int(value) if value.lstrip("-").isdigit() else value
    if where := re.match(r"\s*(\S+)/(\d+)", text):
        found = {"topic": where[1], "segment": int(where[2]), **found}
    return found


def _runs(words: Iterable[str]) -> list[list[int]]:
    """Parse a log such as `[..3] 4 5 5`, a snapshot up to 3 and the term of each entry, into runs of terms.

    A run is [term, last index]; the first is [0, the snapshot's last index].
    """
    runs, last = [[0, 0]], 0
    for word in words:
        if snapshot := re.match(r"\[\.\.(\d+)", word):
            last = int(snapshot[1])
            runs = [[0, last]]
        elif term := re.match(r"(\d+)", word):
            last += 1
            if len(runs) > 1 and runs[-1][0] == int(term[1]):
                runs[-1][1] = last
            else:
                runs.append([int(term[1]), last])
    return runs if last else []
