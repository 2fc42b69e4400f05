"""The handshake of two simulated nodes: the real machines of both ends, their messages carried at once.

A simulated cluster has a secret, so every connection and every Join takes the longer way, with a challenge.
Nonces are counted instead of drawn: what matters is that none comes twice.
"""

from __future__ import annotations

from itertools import count
from typing import Final

from walrus.broker.controller import Controller
from walrus.broker.handshake import NONCE_BYTES, CalleeSide, CallerSide
from walrus.wire.messages import Hello, Join, JoinReply, Proof

SECRET: Final = b"of every simulated cluster"
_NUMBERS: Final = count()


class Doorkeeper:
    """A node's judgement of its callers, as of one moment of its clock."""

    def __init__(self, controller: Controller, now: float) -> None:
        self._controller, self._now = controller, now

    def judge_hello(self, hello: Hello) -> str:
        """Return why this caller is refused."""
        return self._controller.members.judge_hello(hello, self._now)

    def is_final(self, hello: Hello) -> bool:
        """Return whether the refusal stands for ever."""
        return self._controller.members.is_final(hello)

    def is_removed(self, hello: Hello) -> bool:
        """Return whether the caller was a member."""
        return self._controller.members.is_removed(hello)

    def addresses(self) -> dict[int, str]:
        """Where the nodes live."""
        return self._controller.members.all_addresses()

    def directory_id(self) -> str:
        """On what the node runs."""
        return self._controller.identity.directory_id

    def on_join(self, join: Join) -> JoinReply:
        """A node asks to join."""
        return self._controller.on_join(join, self._now)


def nonce() -> bytes:
    """What no connection of any simulated cluster of this process has had before."""
    return next(_NUMBERS).to_bytes(NONCE_BYTES, "big")


def shake_hands(caller: CallerSide, callee: CalleeSide) -> Hello | None:
    """Carry a handshake to its end; `caller.verdict` is how it went. Return the Hello that was accepted."""
    accepted: Hello | None = None
    message: Hello | Join | Proof = caller.first
    while caller.verdict is None:
        answer = callee.on_message(message)
        accepted = answer.caller
        if answer.reply is None:
            caller.give_up(answer.complaint)
        elif (proof := caller.on_message(answer.reply)) is not None:
            message = proof
    return accepted
