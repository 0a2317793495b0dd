"""What is computed next: whose texts, and how many of them together. Pure functions over lengths in tokens.

Texts of one batch are padded to the longest, and padding costs as much as text does. Splitting a batch costs only the
fixed price of a run, which is that of a few tokens: so a batch holds texts of nearly equal length, and few of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

RUN_TOKENS = 6
"""The fixed price of a run, in tokens. all-MiniLM-L6-v2 in int8 on two cores: 0.45 ms a run, 0.08 ms a token."""
MOST_PASSES = 3
"""So many batches in a row may pass over the question that came first."""


def compete(waiting: Sequence[tuple[int, int]], budget: int, passes: int) -> list[int]:
    """Which questions' texts may go into the next batch: indices into `waiting`, whose entries are (tokens left to compute,
    number of arrival).

    Small questions go first, as many as a batch of `budget` tokens completes, so that a huge one delays nobody by more
    than the batch that is running; after MOST_PASSES batches without it (`passes`) the oldest goes, whatever its size.
    """
    order = sorted(range(len(waiting)), key=lambda i: waiting[i])
    oldest = min(order, key=lambda i: waiting[i][1])
    if passes >= MOST_PASSES:
        return [oldest]
    chosen: list[int] = []
    total = 0
    for i in order:
        total += waiting[i][0]
        if chosen and total > budget:
            break
        chosen.append(i)
    return chosen


def rows_that_fit(longest: int, budget: int, most_rows: int) -> int:
    """How many texts a batch has room for when they are padded to `longest` tokens; one always fits."""
    return max(1, min(most_rows, budget // max(1, longest)))


def take(lengths: Sequence[int]) -> int:
    """How many of the texts, longest first, are cheaper together than in two batches."""
    count = 0
    for length, same in groupby(lengths):
        size = len(list(same))
        if size * (lengths[0] - length) > RUN_TOKENS:
            break
        count += size
    return count


def padded(longest: int, rows: int, multiple: int, most: int) -> int:
    """To how many tokens the texts of a batch are padded: rows x tokens becomes a multiple, unless that is over `most`."""
    length = longest
    while rows * length % multiple:
        length += 1
    return length if length <= most else longest
