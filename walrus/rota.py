"""A rota: many things that are looked at again and again, a bounded share of them at a time.

A node answers nothing while it looks at something, and a look at each of 100,000 topics takes the better part
of a second. So a state machine that has to look at all of something has a rota. A round begins with all that
there is at that moment and ends when each has had its turn; what came meanwhile has its turn in the next
round, what went is still named, and the owner of the rota passes over it. Where that would be too late, the
owner is told of the change and does not wait for the look.

    round   is asked for    gives     is left
    a to e  2               a, b      c, d, e
            2               c, d      e
            2               e         nothing: the next share begins a round of what there is then

To begin a round copies all names, without a look at any: some milliseconds for 100,000.

Invariant: whatever is there from the beginning of a round to its end is given exactly once in it.
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
        """Whether each has had its turn: the next share begins a round."""
        return not self._left

    def share(self, size: int, everything: Callable[[], Iterable[Item]]) -> list[Item]:
        """The next ones, so many at most. `everything()` is all that there is, if a round begins."""
        assert size > 0, "a round that never ends"
        if not self._left:
            self._left = [*everything()][::-1]
        share = self._left[-size:][::-1]
        del self._left[-size:]
        return share

    def begin_anew(self) -> None:
        """What is left of this round is dropped."""
        self._left.clear()
