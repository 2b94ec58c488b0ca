"""The benchmark of silent corruption: what it draws, what each rule says, what a run keeps, what it finds."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from genqual.errors import BadInput
from tests.benchmarks.corruption_plan import AT_START, BITS, LONGER, PLACES, RAREST, START, TILES, Flip, draw
from tests.benchmarks.corruption_results import Result, Rules, Store, table
from tests.benchmarks.silent_corruption import main, struck

ROOT = Path(__file__).resolve().parents[2]
LOGITS = {"kind": "logits", "nrms": "1e-4", "largest": "0.01", "finite": True}


def test_every_place_dtype_and_bit_is_drawn_as_often() -> None:
    drawn = draw(400, 23)
    assert Counter(one.place for one in drawn) == {**dict.fromkeys(PLACES, 80), AT_START: 40}
    assert [one.bits for one in drawn if one.bit < 0] == ["NaN or infinity"] * 4, "one of each hundred"
    for place in PLACES:
        for dtype, width in BITS.items():
            bits = Counter(one.bit for one in drawn if (one.place, one.dtype) == (place, dtype) and one.bit >= 0)
            assert set(bits) <= set(range(width))
            assert len(bits) >= width - 1, "each at least once, but for one that NaN took the place of"
    assert sum(one.longer == LONGER for one in drawn) == RAREST
    assert max(one.every for one in drawn) == TILES
    assert len({one.element for one in drawn}) == len(drawn)


def test_a_seed_draws_the_same_and_fewer_are_the_first_of_more() -> None:
    def plain(flips: list[Flip]) -> list[Flip]:
        return [dataclasses.replace(one, longer=1) for one in flips]

    few, many = draw(60, 5), draw(200, 5)
    assert plain(few[:60]) == plain(many[:60])
    assert plain(few[60:]) == plain(many[200:206])
    assert plain(draw(60, 6)[:60]) != plain(few[:60])


@pytest.mark.parametrize(
    ("event", "tolerance", "beside"),
    [
        (LOGITS, True, True),
        (LOGITS | {"nrms": "1e-6", "largest": "1e-4"}, False, False),
        (LOGITS | {"nrms": "1e-6", "largest": "0.0011"}, False, True),
        (LOGITS | {"nrms": "1e-4", "largest": "0.0009"}, True, False),
        (LOGITS | {"nrms": "inf", "largest": "inf", "finite": False}, True, True),
        (LOGITS | {"nrms": "nan", "largest": "nan"}, True, True),
        ({"kind": "cache"}, False, False),
        ({"kind": "weights"}, False, False),
        ({"kind": "token"}, False, False),
        ({"kind": "product", "got": 5.0, "expected": 4}, True, True),
        ({"kind": "product", "got": 4.0005, "expected": 4}, True, False),
        ({"kind": "product", "got": float("nan"), "expected": 4}, True, True),
    ],
)
def test_each_rule_judges_the_same_event(event: dict[str, Any], tolerance: bool, beside: bool) -> None:
    rules = Rules(1e-5)
    rules.take([])
    assert (rules.by, rules.tolerance, rules.beside) == ("", False, False)
    rules.take([event])
    assert (rules.by, rules.tolerance, rules.beside) == (event["kind"], tolerance, beside)
    rules.take([LOGITS])
    assert (rules.by, rules.all) == (event["kind"], True), "the first event raised the alarm"


def test_a_run_goes_on_behind_a_torn_line_and_refuses_another_plan(tmp_path: Path) -> None:
    path = tmp_path / "faults.jsonl"
    store = Store(path, {"seed": 1})
    store.add({"number": 0, "found": False, "longer": 1, "given_s": 10.0})
    store.add({"number": 7, "found": True, "longer": 1, "given_s": 10.0})
    store.add({"clean": "transformers"})
    path.write_text(path.read_text() + '{"number": 9, "pl')
    again = Store(path, {"seed": 1})
    assert again.done(10.0) == {0, 7}
    assert again.done(60.0) == {7}, "not found in 10 s, and now given 60"
    again.add({"number": 9})
    again.add({"number": 0, "found": True, "longer": 1, "given_s": 60.0})
    assert [one.get("number") for one in Store(path, {"seed": 1}).results] == [7, None, 9, 0]
    assert [json.loads(line).get("number") for line in path.read_text().splitlines()[1:]] == [0, 7, None, 9, 0]
    with pytest.raises(BadInput, match="give another file"):
        Store(path, {"seed": 2})


def made(number: int, **changes: Any) -> Result:
    return {
        **{"number": number, "place": "cache", "bits": "bf16 mantissa", "found": True, "first": True, "longer": 1},
        **{"tolerance": False, "beside": False, "clean_steps": 16, "clean_events": 0},
        **changes,
    }


def test_the_table_counts_each_rule_with_its_bounds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = [made(number, beside=number < 3) for number in range(9)] + [made(9, found=False, first=False)]
    results.append(made(START, place=AT_START, found=False, first=None, beside=None))
    clean = {"clean": "transformers", "dtype": "fp32", "seconds": 60.0, "steps": 300, "products": 9, "events": 0}
    said = table([*results, clean])
    assert "| cache | bf16 mantissa | 10 | 9 | 9 | 0 | 3 |" in said
    # By R's binom.test(9, 10) and (3, 10): 0.5550 to 0.9975, 0.0667 to 0.6525; 0 of 10 is one-sided.
    assert "| cache | 10 | 9 (55.5 to 99.7 %) | 9 (55.5 to 99.7 %) | 0 (0.0 to 25.9 %) | 3 (6.7 to 65.2 %) |" in said
    assert f"| {AT_START} | 1 | 0 (0.0 to 95.0 %) |  | 0 (0.0 to 95.0 %) |  |" in said
    assert "| all but from the start | 10 | 9 (" in said
    assert "0 events in 176 steps" in said
    assert "0 events in 300 steps and 9 products; at most 0.0099 of steps" in said

    store = Store(tmp_path / "a.jsonl", {"seed": 23})
    for one in results:
        store.add(one)
    arguments = ["--faults", "0", "--resume", str(tmp_path / "a.jsonl")]
    assert main(arguments) == 0
    assert "| cache | 10 | 9 (" in capsys.readouterr().out
    store.add(made(10, clean_events=1))
    assert main(arguments) == 1, "a clean run had an event"
    assert main([*arguments, "--seed", "24"]) == 2


def test_what_is_put_in_is_found_and_what_does_not_strike_alarms_nothing(tmp_path: Path) -> None:
    """Bit 1 of a key and of a weight, an exponent of an activation in the forced part of a run (passes 8 to 15), where
    logits are compared; and one that waits for a pass that does not come.
    """
    where = {"element": 77, "layer": 0, "after": 5}
    flips = [
        Flip(0, "weight", "fp32", 1, 8, 77, {**where, "bit": 1, "part": "mlp_out"}),
        Flip(1, "cache", "fp32", 1, 8, 77, {**where, "bit": 1, "every": 8, "what": "keys"}),
        Flip(2, "activation", "fp32", 30, 8, 77, {**where, "bit": 30, "after": 11, "part": "mlp_out"}),
        Flip(3, "activation", "fp32", 30, 8, 77, {**where, "bit": 30, "after": 10**9, "part": "mlp_out"}),
        Flip(START, AT_START, "fp32", 30, 1, 77, {**where, "bit": 30, "after": 0, "part": "mlp_out"}),
    ]
    results = list(struck(("transformers", 1, "fp32"), flips, tmp_path, 0.05, 0.0))
    assert [one["found"] for one in results] == [True, True, True, False, True], results
    assert [one["first"] for one in results] == [True, True, True, False, None], results
    assert [one["beside"] for one in results] == [False, False, True, False, None], results
    assert results[3]["strikes"] == 0
    assert [one.get("clean_events", 0) for one in results] == [0] * 5, results


def test_one_wrong_product_of_many_is_found_when_it_comes(tmp_path: Path) -> None:
    low, high = Flip(4, "tile", "fp32", 0, 30, 99), Flip(9, "tile", "bf16", 14, 3, 99)
    (one,) = struck(low.group, [low], tmp_path, 60.0, 0.0)
    (two,) = struck(high.group, [high], tmp_path, 60.0, 0.0)
    assert [(each["runs"], each["found"], each["beside"]) for each in (one, two)] == [
        (30, True, False),
        (3, True, True),
    ]


def test_the_page_s_tables_are_those_of_the_kept_results(tmp_path: Path) -> None:
    kept = ROOT / "docs" / "evidence" / "silent-corruption.jsonl"
    copy = tmp_path / "faults.jsonl"
    copy.write_text(kept.read_text())
    results = Store(copy, {"seed": 23}).results
    assert copy.read_text() == kept.read_text()
    rows = [line for line in table(results).splitlines() if line.startswith("|")]
    page = (ROOT / "docs" / "silent-corruption.md").read_text().splitlines()
    assert len(rows) > 25
    assert [line for line in rows if line not in page] == []
    assert f"All {sum(one.get('place') in PLACES for one in results)} faults were found" in " ".join(page)
    drawn = {one.number: one for one in draw(200, 23)}
    for one in results:
        if "number" in one:
            flip = drawn.pop(one["number"])
            assert (flip.place, flip.dtype, flip.bit, flip.params) == tuple(
                one[k] for k in ("place", "dtype", "bit", "params")
            )
    assert not drawn, "every fault that is drawn has a result"
