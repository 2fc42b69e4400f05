"""The handshake of two simulated nodes: the real machines of both ends, with messages carried at once.

A simulated cluster has a secret, so every connection and every Join includes a challenge. Nonces are counted
instead of drawn: they only have to be unique.
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
    """A node's judgement of its callers, at one moment of its clock."""

    def __init__(self, controller: Controller, now: float) -> None:
        self._controller, self._now = controller, now

    def judge_hello(self, hello: Hello) -> str:
        """Return why this caller is refused; "" if it is accepted."""
        return self._controller.members.judge_hello(hello, self._now)

    def is_final(self, hello: Hello) -> bool:
        """Return whether the refusal is permanent."""
        return self._controller.members.is_final(hello)

    def is_removed(self, hello: Hello) -> bool:
        """Return whether the caller was a member and has been removed."""
        return self._controller.members.is_removed(hello)

    def addresses(self) -> dict[int, str]:
        """Return the addresses of the nodes, by id."""
        return self._controller.members.all_addresses()

    def directory_id(self) -> str:
        """Return the id of the node's data directory."""
        return self._controller.identity.directory_id

    def on_join(self, join: Join) -> JoinReply:
        """Answer a node that asks to join."""
        return self._controller.on_join(join, self._now)


def nonce() -> bytes:
    """Return a nonce that no connection of this Python process has had before."""
    return next(_NUMBERS).to_bytes(NONCE_BYTES, "big")


def shake_hands(caller: CallerSide, callee: CalleeSide) -> Hello | None:
    """Carry a handshake to its end; return the Hello that was accepted. `caller.verdict` is the outcome."""
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
