"""Which tests each worker of pytest-xdist begins with.

`make test` is one run of all tests, by four workers for two cores (`--dist worksteal`). A worker gets its
share of the list, a part without a gap. When it is done with that, it takes over the second half of what
another one has left. What the files of tests need:

    search     where a test is `tla`, or `slow` without processes: a core, for seconds or minutes
    process    where one is `process`: mostly nothing, while nodes wait for each other, a disk or a deadline
    short      all others: a core, for a moment

In the order of the directories, files of one kind run at the same time. So one share begins with the searches
and each other one with a part of the processes: a core is rarely idle, and rarely are two searches at it. The
short tests are at the end of each share. They are what is taken over first, so that no worker has a long test
when the others have none. A file is of one kind, since its tests share what they have simulated or started.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from itertools import pairwise
from typing import TypeVar

T = TypeVar("T")
SHORT, PROCESS, SEARCH = range(3)


def kind(marks: Collection[str]) -> int:
    """Return what a test with these marks needs; the greatest of a file's is that of the file.

    >>> kind(["process", "slow"]) == PROCESS, kind(["process", "tla"]) == SEARCH
    (True, True)
    """
    if "tla" in marks or ("slow" in marks and "process" not in marks):
        return SEARCH
    return PROCESS if "process" in marks else SHORT


def dealt(tests: Sequence[T], kind_of: Callable[[T], int], workers: int) -> list[T]:
    """Return the tests in another order: that of the shares, each of which begins with what takes long.

    >>> kinds = {"a": SEARCH, "p": PROCESS, "s": SHORT}
    >>> " ".join(dealt("a1 s1 p1 s2 p2 s3 a2 s4 s5".split(), lambda test: kinds[test[0]], workers=3))
    'a1 a2 s1 p1 s2 s3 p2 s4 s5'
    """
    if workers == 1:
        return list(tests)
    of: list[list[T]] = [[], [], []]
    for test in tests:
        of[kind_of(test)].append(test)
    begins = [of[SEARCH], *_parts(of[PROCESS], workers - 1)]
    sizes = map(len, _parts(tests, workers))
    made: list[T] = []
    for first, size in zip(begins, sizes, strict=True):
        fill = max(0, size - len(first))
        made += [*first, *of[SHORT][:fill]]
        del of[SHORT][:fill]
    return made + of[SHORT]


def _parts(whole: Sequence[T], count: int) -> list[Sequence[T]]:
    """Split into so many parts that differ in length by one at most, as `--dist worksteal` does."""
    ends = [len(whole) * number // count for number in range(count + 1)]
    return [whole[start:end] for start, end in pairwise(ends)]
