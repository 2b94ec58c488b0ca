"""The earliest failure is the root, and peers' failures do not mask it."""

from __future__ import annotations

from typing import Any

import pytest

from genqual.errors import BadInput
from genqual.ranks.deadlines import Deadlines
from genqual.ranks.diagnosis import Sighting, describe_exit, lost

IN_A_COLLECTIVE = '  File "/site-packages/torch/distributed/distributed_c10d.py", line 1 in all_reduce'
COMPUTING = '  File "/site-packages/torch/nn/modules/linear.py", line 1 in forward'


def raised(at: float, kind: str = "Exception", **more: Any) -> dict[str, Any]:
    return {"type": "RuntimeError", "message": "peer closed", "traceback": "...", "kind": kind, "at": at, **more}


def seen(**facts: Any) -> Sighting:
    return Sighting("a-case", "generate", 2, 100.0, 30.0, **facts)


@pytest.mark.parametrize(
    ("facts", "rank", "says"),
    [
        # A killed rank, and a peer that raised because of it, a moment before the death was seen.
        ({"gone": {1: 100.5}, "exits": {1: -9}, "raised": {0: raised(100.4)}}, 1, "rank 1 was killed by SIGKILL"),
        # A rank that raised long before its peer died.
        ({"gone": {1: 109.0}, "exits": {1: -6}, "raised": {0: raised(100.4)}}, 0, "rank 0 raised RuntimeError"),
        # The launcher stops the others: theirs is no failure, though it was seen first.
        ({"gone": {0: 100.1, 1: 100.2}, "exits": {0: -15, 1: 3}}, 1, "rank 1 exited with code 3"),
        # Both were told to stop by somebody else: the first to go is named.
        ({"gone": {0: 100.2, 1: 100.1}, "exits": {0: -15, 1: -15}}, 1, "rank 1 was killed by SIGTERM"),
        # A launcher that stops the others without a word about them.
        ({"gone": {0: 100.1, 1: 100.2}, "exits": {1: 3}}, 1, "rank 1 exited with code 3"),
        # A rank that left with code 0, long before its peer crashed over it, or while its peer raised over it.
        ({"gone": {0: 100.1, 1: 109.0}, "exits": {1: -6}}, 0, "rank 0 ended without a reported failure"),
        ({"gone": {0: 100.2}, "raised": {1: raised(100.1)}}, 0, "rank 0 ended without a reported failure"),
        # An exit that torchrun calls success.
        ({"gone": {1: 100.2}}, 1, "rank 1 ended without a reported failure"),
        # Before any rank had connected, only the launcher knows.
        ({"launcher_code": 1, "exits": {0: -15, 1: 1}}, 1, "rank 1 exited with code 1"),
        ({"raised": {0: raised(101), 1: raised(100.5, type="KeyError")}}, 1, "rank 1 raised KeyError"),
        ({"answered": {0}}, 1, "rank 1 gave no answer"),
        ({"stacks": {0: IN_A_COLLECTIVE, 1: COMPUTING}}, 1, "rank 1 gave no answer"),
        (
            {"broken": {0: "sent an answer to request 3"}, "gone": {1: 100.1}, "exits": {1: -15, 0: -9}},
            0,
            "rank 0 sent an answer to request 3",
        ),
        # A cut link is noticed last, and is the cause of what peers and launcher did meanwhile.
        (
            {
                "unreachable": {1: "host b is silent"},
                "gone": {0: 100.1},
                "exits": {0: -9},
                "launcher_code": 1,
            },
            1,
            "rank 1 cannot be reached any more (host b is silent)",
        ),
    ],
)
def test_the_root_is_named_first(facts: dict[str, Any], rank: int, says: str) -> None:
    error = lost(seen(**facts))
    assert error.root is not None
    assert error.root.rank == rank
    assert says in str(error).splitlines()[0]
    assert str(error).splitlines()[0].startswith("a-case: ")
    assert f"rank {1 - rank} " in str(error), "and the other rank is accounted for"


def test_nobody_is_blamed_without_evidence() -> None:
    for stack in (COMPUTING, IN_A_COLLECTIVE, ""):
        error = lost(seen(stacks={0: stack, 1: stack}))
        assert error.root is None
        assert "ranks 0, 1 gave no answer (during `generate`, deadline 30 s)" in error.headline
    error = lost(seen(launcher="torchrun", launcher_code=-9, launcher_log="its last words"))
    assert error.root is None
    assert "the launcher torchrun was killed by SIGKILL" in error.headline
    assert "its last words" in str(error)
    assert lost(seen(launcher="torchrun", launcher_code=-9, answered={0})).root is None


def test_everything_known_is_attached() -> None:
    facts = {"logs": {0: ("/l/rank0.log", "zero said"), 1: ("/l/rank1.log", "one said")}, "stacks": {0: "in main"}}
    text = str(lost(seen(gone={1: 100.5}, exits={1: -9}, **facts)))
    for part in ("/l/rank0.log", "zero said", "one said", "in main", "0.5 s after the request", "dmesg"):
        assert part in text
    assert text.index("one said") < text.index("zero said"), "the root's log first"
    assert "torch" not in text, "a launcher's traceback is noise once the exit code is known"
    idle = lost(seen(gone={1: 100.0}, exits={1: 3}, idle=True)).headline
    assert "rank 1 exited with code 3 (between calls, found by `generate`)" in idle


def test_exit_codes_in_words() -> None:
    assert describe_exit(-11) == "was killed by SIGSEGV"
    assert describe_exit(-250) == "was killed by signal 250"
    assert describe_exit(0) == "exited with code 0"


def test_deadlines_grow_with_the_work_and_stretch_together() -> None:
    one = Deadlines(base_s=10, first_s=5, step_s=2, token_s=0.5, scale=1)
    assert one.call("ping") == 10
    assert one.call("generate", rows=2, length=3, steps=4) == 10 + 3 + 8
    assert one.call("score", rows=2, length=3, steps=4, first=True) == 10 + 3 + 8 + 5
    two = Deadlines(base_s=10, scale=2)
    assert two.call("ping") == 20
    assert two.call("load") == 2 * two.load_s
    assert two.call("invoke") == 2 * two.invoke_s
    assert two.start() == 2 * two.start_s
    with pytest.raises(BadInput, match="deadline load_s 0"):
        Deadlines(load_s=0)


def test_a_host_that_cannot_be_reached_is_told_from_one_that_nobody_can_reach_from_here() -> None:
    told = "answers nothing"
    assert "Its link is cut, or its host is down" in str(lost(seen(unreachable={1: told})))
    assert "this host's own link may be cut" in str(lost(seen(unreachable={0: told, 1: told})))


def test_ranks_of_several_hosts_that_all_wait_point_at_the_links_between_them() -> None:
    assert "a link between hosts is cut" in str(lost(seen(several_hosts=True)))
    assert "a link between hosts" not in str(lost(seen()))
