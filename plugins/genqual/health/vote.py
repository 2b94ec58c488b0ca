"""Who says otherwise than most: of cores, devices or nodes that should all say the same. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Vote:
    """What more than half of the answers are; None where no answer is. `odd`: every voter who ever said otherwise.

    Without a majority nobody can tell who is right, and `odd` is everybody.
    """

    agreed: str | None
    odd: tuple[str, ...]


def vote(said: Mapping[str, Sequence[str]]) -> Vote:
    """The vote of what each voter said, once or several times. Raises ValueError where one said nothing.

    Every voter has as many votes, however many answers it gave: the first ones, as many as the one with the fewest.
    """
    votes = min(map(len, said.values()), default=0)
    if not votes:
        raise ValueError("a voter said nothing")
    answer, times = Counter(one for answers in said.values() for one in answers[:votes]).most_common(1)[0]
    if 2 * times <= votes * len(said):
        return Vote(None, tuple(said))
    return Vote(answer, tuple(name for name, answers in said.items() if any(one != answer for one in answers)))
