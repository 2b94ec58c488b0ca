"""Silent corruption: one flipped bit is found, named and counted, in each place; a clean node has no event."""

from __future__ import annotations

import math
import os
import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from genqual.cases import Json
from genqual.conformance.references import file
from genqual.engines.registry import engine
from genqual.faults.injectors.flip_bit import INFINITY, NAN, flip
from genqual.faults.injectors.strikes import Strikes, passes
from genqual.health.checks.base import Node
from genqual.health.checks.repeats import MODEL, ROWS, STEPS, Repeats, told
from genqual.health.finding import Finding
from genqual.health.known_answer import Tile, factors, model_tiles, product
from genqual.paths import data_dir
from genqual.ranks.client import Generator
from tests.here import CPU

FLIPS = "genqual.faults.injectors.flips"
HIDDEN = 128  # of llama-tiny
CORES = tuple(sorted(os.sched_getaffinity(0)))


def findings(tmp_path: Path, check: Repeats, seconds: float = 0.0) -> dict[str, Finding]:
    """Of one run beside the first one, and of more as far as `seconds` allow."""
    return {one.entity: one for one in check.run(Node(CPU, CORES[:2], tmp_path), seconds)}


class Live(Repeats):
    """The check on a group that tests share: each begins with a first run of its own, and takes its fault back."""

    def __init__(self, group: Generator, **more: Any) -> None:
        super().__init__(group.case.engine, group.case.ranks, **more)
        self._group = group

    @contextmanager
    def _started(self, node: Node) -> Iterator[Generator]:
        yield self._group


def started(tmp_path_factory: pytest.TempPathFactory, check: Repeats) -> Iterator[Generator]:
    """The group that the check itself would start, until the module ends."""
    with check._started(Node(CPU, CORES[:2], tmp_path_factory.mktemp("group"))) as group:
        yield group


@pytest.fixture(scope="module")
def one_rank(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Generator]:
    yield from started(tmp_path_factory, Repeats())


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Generator]:
    yield from started(tmp_path_factory, Repeats("transformers-tp", 2))


def test_a_clean_node_has_no_event_and_a_rate(tmp_path: Path) -> None:
    found = findings(tmp_path, Repeats(), 1.0)
    assert [one.outcome for one in found.values()] == ["ok", "ok"], found
    said = found[f"{CPU} rank 0"].evidence
    steps, bound = re.findall(r"0 of (\d+) steps .* below ([\d.e-]+) of steps", said)[0]
    assert float(bound) == pytest.approx(1.0 - 0.05 ** (1.0 / int(steps)), rel=0.05), "exact: (1 - p)^N = 0.05"
    assert int(re.findall(r"(\d+) products", said)[0]) > int(steps)
    assert found[f"{CPU}, first run"].signal is not None


@pytest.mark.parametrize(("where", "step", "again"), [("weight", 3, 4), ("activation", 3, 0), ("cache", 4, 0)])
def test_one_flipped_bit_is_found_and_named(
    tmp_path: Path, one_rank: Generator, where: str, step: int, again: int
) -> None:
    """In the mantissa's middle: far below what a tolerance could see.

    Pass 11, counted from 0, is step 3 of the second generation of 8 passes; what stands in the cache shows at the next.
    A weight stays wrong in all 4 repeats, a number that was wrong once in none.
    """
    check = Live(one_rank, fault=(f"{FLIPS}:{where}", {"bit": 15, "after": 11, "element": 77}))
    one = findings(tmp_path, check)[f"{CPU} rank 0"]
    assert one.outcome == "bad", one
    assert one.severity == "fatal"
    assert f"run 1, step {step}, row" in one.evidence, one.evidence
    assert f"again in {again} of 4" in one.evidence, one.evidence
    assert one.next_command.startswith("genqual bisect llama-tiny")


@pytest.mark.parametrize(("every", "again"), [(1, 4), (40, 0)])
def test_a_generation_that_differs_while_a_forced_run_does_not_is_repeated_itself(
    tmp_path: Path, one_rank: Generator, every: int, again: int
) -> None:
    """What is wrong in one loop only, in all of its runs or in one, is told apart by running that loop again."""
    check = Live(one_rank, fault=("tests.health.quorum_faults:chosen", {"every": every}))
    one = findings(tmp_path, check)[f"{CPU} rank 0"]
    assert one.outcome == "bad", one
    assert "of the generation itself, checksum of its logits" in one.evidence, one.evidence
    assert f"again in {again} of 4" in one.evidence, one.evidence


def test_only_the_first_runs_that_differ_are_repeated(tmp_path: Path, one_rank: Generator) -> None:
    """Else a weight that stays wrong would make a call five times as long as its level has time for."""
    made: list[dict[str, Json]] = []

    class Kept(Live):
        def _repeat(self, generator: Any, end: float) -> Any:
            replies = generator.invoke("genqual.health.repeats_in_rank:again", {"runs": 6})
            made.extend(replies[0].value["events"])
            return super()._repeat(generator, end)

    findings(tmp_path, Kept(one_rank, fault=(f"{FLIPS}:weight", {"bit": 20, "after": 8, "element": 77})))
    assert [one["repeats"] for one in made if one["kind"] == "logits"] == [4, 4, 4, 4, 0, 0]


@pytest.mark.parametrize(("what", "part"), [("keys", "keys of layer 1"), ("values", "values of layer 1")])
def test_a_stored_bit_that_nothing_reads_is_found_by_its_digest(
    tmp_path: Path, one_rank: Generator, what: str, part: str
) -> None:
    """Pass 15 is the last of a run: what is stored in it is read by no step, and no logit can show it."""
    check = Live(one_rank, fault=(f"{FLIPS}:cache", {"bit": 0, "after": 15, "element": 77, "what": what}))
    one = findings(tmp_path, check)[f"{CPU} rank 0"]
    assert one.outcome == "bad", one
    assert one.component == "memory"
    assert f"run 1, end of step 7, digest of the cache's {part}" in one.evidence, one.evidence
    assert "again in 0 of 4" in one.evidence, one.evidence


def test_a_weight_of_a_token_that_no_prompt_has_is_found_by_its_digest(tmp_path: Path, one_rank: Generator) -> None:
    reference = file.read(data_dir("baselines") / "references" / MODEL).select(rows=range(ROWS), steps=STEPS)
    used = {token for row in reference.prompts for token in row} | set(reference.forced.reshape(-1).tolist())
    unused = next(token for token in range(1, reference.vocabulary) if token not in used)  # 0 pads
    fault: dict[str, Json] = {
        "bit": 0,
        "part": "embedding",
        "element": unused * HIDDEN + 3,
        "after": 3,
    }
    one = findings(tmp_path, Live(one_rank, fault=(f"{FLIPS}:weight", fault)))[f"{CPU} rank 0"]
    assert one.outcome == "bad", one
    assert one.component == "memory"
    assert "digest of the weights" in one.evidence, one.evidence


def test_one_bit_of_a_collective_s_result_is_found_in_every_rank_that_it_reached(
    tmp_path: Path, two_ranks: Generator
) -> None:
    """Rank 1 gets a wrong sum in layer 0; the next sum brings it to rank 0, too."""
    fault: dict[str, Json] = {"bit": 20, "layer": 0, "part": "attention_out", "after": 11, "element": 77, "on_rank": 1}
    found = findings(tmp_path, Live(two_ranks, fault=(f"{FLIPS}:collective", fault)))
    assert {name: str(one.outcome) for name, one in found.items()} == {
        f"{CPU}, first run": "ok", f"{CPU} rank 0": "bad", f"{CPU} rank 1": "bad",
    }, found  # fmt: skip


def test_strikes_come_again_at_uneven_gaps() -> None:
    strikes = Strikes(element=5, after=3, every=10)
    struck = [(number, strikes.place()) for number in range(2000) if strikes.due()]
    gaps = np.diff([number for number, _ in struck])
    assert struck[0] == (3, 5)
    assert passes(None)["passes"] == [number for number, _ in struck]
    assert 8 < gaps.mean() < 12
    assert len(set(gaps.tolist())) > 10
    assert len({place for _, place in struck}) == len(struck)
    once = Strikes(element=5, after=3)
    assert [number for number in range(100) if once.due()] == [3]


def test_one_wrong_product_between_steps_is_found(tmp_path: Path, one_rank: Generator) -> None:
    one = findings(tmp_path, Live(one_rank, params={"inject": 25, "bit": 22}))[f"{CPU} rank 0"]
    assert one.outcome == "bad", one
    assert one.component == "processor"
    assert "again in 0 of 16" in one.evidence


def test_the_rank_that_went_wrong_is_named(tmp_path: Path, two_ranks: Generator) -> None:
    """Of two ranks of tensor parallelism: the product that only rank 1 got wrong is on rank 1."""
    check = Live(two_ranks, params={"inject": 25, "inject_on": 1})
    found = findings(tmp_path, check)
    assert {name: str(one.outcome) for name, one in found.items()} == {
        f"{CPU}, first run": "ok", f"{CPU} rank 0": "ok", f"{CPU} rank 1": "bad",
    }, found  # fmt: skip


def test_weights_that_were_wrong_before_the_first_run_are_the_oracle_s_to_find(
    tmp_path: Path, one_rank: Generator
) -> None:
    class Spoilt(Live):
        def _judged(self, node: Node, generator: object, end: float) -> Iterator[Finding]:
            with generator.fault(f"{FLIPS}:weight", bit=30, element=77):  # type: ignore[attr-defined]
                yield from super()._judged(node, generator, end)  # type: ignore[arg-type]

    found = findings(tmp_path, Spoilt(one_rank))
    assert found[f"{CPU}, first run"].outcome == "bad"
    assert found[f"{CPU} rank 0"].outcome == "ok", "every run is wrong alike: the first run cannot tell"


def test_a_group_that_is_lost_is_no_pass(tmp_path: Path, one_rank: Generator) -> None:
    check = Live(one_rank, fault=("genqual.faults.injectors.ranks:rank_exit", {"on_rank": 0, "step": 2}))
    (lost,) = [one for one in findings(tmp_path, check).values() if one.outcome == "bad"]
    assert lost.component == "software"


@pytest.mark.parametrize("bit", [0, 7, 22, 23, 30, 31])
def test_a_flipped_bit_is_the_bit_of_the_number_s_encoding(bit: int) -> None:
    """Against Python's own encoding of a float32."""
    tensor = torch.tensor([[1.5, -2.75], [0.1, 3.0e4]])
    flip(tensor, (1, 0), bit)
    (whole,) = struct.unpack("<I", struct.pack("<f", 0.1))
    (wanted,) = struct.unpack("<f", struct.pack("<I", whole ^ (1 << bit)))
    assert struct.pack("<f", float(tensor[1, 0])) == struct.pack("<f", wanted)
    assert tensor.view(-1)[[0, 1, 3]].tolist() == [1.5, -2.75, 3.0e4]
    half = torch.tensor([1.0], dtype=torch.bfloat16)
    flip(half, (0,), 15)
    assert half.item() == -1.0
    flip(tensor, (0, 0), NAN)
    flip(tensor, (0, 1), INFINITY)
    assert [math.isnan(tensor[0, 0]), float(tensor[0, 1])] == [True, math.inf]
    with pytest.raises(ValueError, match="bits 0 to 15"):
        flip(half, (0,), 16)


@pytest.mark.parametrize(("dtype", "limit"), [("fp32", 2**24), ("bf16", 256), ("fp16", 2048)])
def test_products_of_a_model_s_sizes_are_exact(dtype: str, limit: int) -> None:
    tiles = model_tiles([(64, 128), (4096, 11008), (4096, 11008)], dtype, [1, 8])
    assert len(tiles) == 4
    for tile in tiles:
        left, right = factors(tile, dtype, 3)
        assert np.abs(left).sum(axis=1).max() * np.abs(right).max() <= limit, "whatever order a kernel adds in"
        assert left.any(axis=1).all()
    big = tiles[-1]
    left, right = factors(big, dtype, 3)
    column = [sum(int(a) * int(b) for a, b in zip(left[0], right[:, 5], strict=True))]
    assert product(left, right)[0, [5]].tolist() == column
    with pytest.raises(ValueError, match="no products with known answers"):
        model_tiles([(8, 8)], "int8", [1])
    assert Tile("x", 1, 4096, 8, terms=256).largest("bf16") == 1


def test_an_engine_that_promises_no_bits_is_held_by_the_tolerance() -> None:
    assert engine("transformers").repeats_bits
    event = {"kind": "logits", "run": 3, "step": 1, "row": 0, "token": 9, "got": "nan", "expected": "1.0"}
    assert told(event | {"wrong": 4, "again": 1, "repeats": 4}).startswith(
        "run 3, step 1, row 0, logit of token 9: nan"
    )
