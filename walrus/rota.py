"""A rota: a scan of many items, repeated for ever, a bounded share at a time.

A node answers nothing while it scans, and a scan of 100,000 topics takes the better part of a second. So a
state machine that has to scan all items of some kind has a rota. A round begins with all items of that
moment and ends when each has had its turn. An item that is added meanwhile has its turn in the next round;
one that is removed is still named, and the owner of the rota skips it. Where a change must not wait for its
turn, the owner reacts to the change itself.

    round   asked for    gives     left
    a to e  2            a, b      c, d, e
            2            c, d      e
            2            e         nothing: the next share begins a round of the items of that moment

Beginning a round copies all names and examines none: some milliseconds for 100,000.

Invariant: an item that exists from the beginning of a round to its end is given exactly once in it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Rota(Generic[Item]):
    """Whose turn it is.

    >>> rota = Rota()
    >>> rota.share(2, lambda: "abc"), rota.over, rota.share(2, lambda: "bcd"), rota.over
    (['a', 'b'], False, ['c'], True)
    >>> rota.share(2, lambda: "bcd")
    ['b', 'c']
    """

    __slots__ = ("_left",)

    def __init__(self) -> None:
        self._left: list[Item] = []  # of this round, the next one last

    @property
    def over(self) -> bool:
        """Whether every item has had its turn: the next share begins a round."""
        return not self._left

    def share(self, size: int, everything: Callable[[], Iterable[Item]]) -> list[Item]:
        """Return the next items, at most `size`. `everything()` lists all items, if a round begins."""
        assert size > 0, "a round that never ends"
        if not self._left:
            self._left = [*everything()][::-1]
        share = self._left[-size:][::-1]
        del self._left[-size:]
        return share

    def begin_anew(self) -> None:
        """Drop the rest of this round."""
        self._left.clear()
