"""Who says otherwise than most: of cores, devices or nodes that should all say the same. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Vote:
    """What more than half of all answers are; None where no answer is. `odd`: every voter who ever said otherwise.

    Without a majority nobody can tell who is right, and `odd` is everybody.
    """

    agreed: str | None
    odd: tuple[str, ...]


def vote(said: Mapping[str, Sequence[str]]) -> Vote:
    """The vote of what each voter said, once or several times. Raises ValueError where nobody said anything."""
    counts = Counter(answer for answers in said.values() for answer in answers)
    total = counts.total()
    if not total:
        raise ValueError("nobody said anything")
    answer, times = counts.most_common(1)[0]
    if 2 * times <= total:
        return Vote(None, tuple(said))
    return Vote(answer, tuple(name for name, answers in said.items() if any(one != answer for one in answers)))
