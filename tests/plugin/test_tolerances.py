"""`genqual reference`: fp32 comes first, what rounding does not explain is refused, and the cost is said before."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from genqual.cli import main
from genqual.commands import fault_free, reference, tolerances
from genqual.commands.rates import measured
from genqual.conformance.emulation import emulation
from genqual.conformance.judges.logits import judge_scores
from genqual.conformance.judges.self_checks import rows_of
from genqual.conformance.oracle.registry import architecture_of, oracle_for
from genqual.conformance.references.cost import Rates, Size, cost
from genqual.conformance.references.make import Reference, make
from genqual.conformance.scores import scores_of
from genqual.engines.base import Scores, TokenBatch
from genqual.errors import BadInput, Unsupported
from genqual.models import weights
from genqual.models.registry import resolve
from genqual.models.spec import ModelSpec
from tests.conformance.oracle.small import SMALL, parameters

CONFIG: dict[str, Any] = dict(SMALL["llama"])
QUARTER = CONFIG | {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 500.0}}
QUARTER.pop("rope_theta")
STATE = parameters(CONFIG)
PROMPTS = [[3, 9, 17, 5, 40, 41], [11, 2, 44, 7, 60, 8, 33]]
MADE = make("small", "f" * 64, oracle_for(CONFIG, STATE), PROMPTS, 8)
SPEC = ModelSpec("small", "directory", "", "llama")


def ran(config: Mapping[str, Any], precision: str = "") -> Scores:
    """Scores of a run of `config` forced on the reference's tokens: the oracle's own, rounding where asked."""
    oracle = emulation(config, STATE, precision) if precision else oracle_for(config, STATE)
    rows = [oracle.logits([*p, *f[:-1]])[len(p) - 1 :] for p, f in zip(MADE.prompts, MADE.forced, strict=True)]
    return scores_of(np.stack(rows, axis=1), MADE.forced)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Which runs were asked for, in order; what they say is set by `runs`."""
    order: list[str] = []
    monkeypatch.setattr(weights, "config", lambda spec: CONFIG)
    monkeypatch.setattr(weights, "lazily", lambda spec: STATE)
    return order


def runs(monkeypatch: pytest.MonkeyPatch, order: list[str], fp32: Any, narrow: Any) -> None:
    def first(
        spec: ModelSpec, made: Reference, passes: Callable[[Scores], bool], *, stream: bool
    ) -> tuple[Scores, str, tuple[str, ...]]:
        order.append("fp32")
        return ran(fp32), "" if passes(ran(fp32)) else "Each prompt alone passes", ("plain",)

    def fault_free(
        spec: ModelSpec, made: Reference, scheme: str, *, attentions: Sequence[str], stream: bool
    ) -> dict[str, Scores]:
        assert attentions == ("plain",)
        order.append(scheme)
        return {"one": ran(narrow, scheme)}

    monkeypatch.setattr(tolerances, "fp32_run", first)
    monkeypatch.setattr(tolerances, "fault_free_runs", fault_free)


def test_runs_that_are_wrong_together_never_become_a_tolerance(
    asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    runs(monkeypatch, asked, QUARTER, QUARTER)
    with pytest.raises(BadInput, match=r"own fp32 does not pass by this reference.*Each prompt alone passes; a ref"):
        tolerances.with_tolerances(SPEC, MADE, ["bf16"], stream=False)
    assert asked == ["fp32"]


class Answering:
    """A generator of fp32 that is right where `wrong` does not say so: batches, rows token by token, single passes."""

    def __init__(self, *wrong: str) -> None:
        self.wrong = wrong

    def score(self, batch: TokenBatch, forced: Any) -> Scores:
        return self._of("batch" if len(batch.rows) > 1 else "row", batch)

    def score_prefill(self, batch: TokenBatch, forced: Any) -> Scores:
        return self._of("pass", batch)

    def _of(self, way: str, batch: TokenBatch) -> Scores:
        rows = [PROMPTS.index(row) for row in batch.rows]
        return rows_of(ran(QUARTER if way in self.wrong else CONFIG), rows)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ((), ""),
        (("batch",), "lets padding into the answers"),
        (("batch", "row"), "what transformers keeps between tokens"),
        (("batch", "row", "pass"), ""),
    ],
    ids=str,
)
def test_a_wrong_fp32_is_told_by_what_is_right_of_it(
    wrong: tuple[str, ...], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """recurrent_gemma and rwkv let padding in, zamba2 and nemotron_h decode otherwise than they read."""
    monkeypatch.setattr(fault_free, "cpu_generator", lambda *args, **more: nullcontext(Answering(*wrong)))
    scores, told, attentions = fault_free.fp32_run(SPEC, MADE, passes)
    assert passes(scores) is not bool(wrong)
    assert said in told
    assert bool(told) is bool(said)
    assert attentions == ("eager", "sdpa")


def passes(scores: Scores) -> bool:
    return judge_scores(scores, MADE, dtype="fp32").passed


def test_where_eager_attention_alone_is_wrong_the_other_makes_the_tolerance(monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers 5.23 adds Falcon's ALiBi twice in eager attention, and once in sdpa."""

    def generator(spec: ModelSpec, dtype: str, attention: str | None, **more: Any) -> Any:
        return nullcontext(Answering("batch", "row", "pass") if attention == "eager" else Answering())

    monkeypatch.setattr(fault_free, "cpu_generator", generator)
    scores, told, attentions = fault_free.fp32_run(SPEC, MADE, passes)
    assert passes(scores)
    assert (told, attentions) == ("", ("sdpa",))
    ran = fault_free.fault_free_runs(SPEC, MADE, "fp32", attentions=attentions)
    assert ran
    assert not [name for name in ran if "eager" in name]


def test_a_wrong_eager_attention_is_told_where_there_is_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    class Absent(Answering):
        def score(self, batch: TokenBatch, forced: Any) -> Scores:
            raise Unsupported("no other attention")

    def generator(spec: ModelSpec, dtype: str, attention: str | None, **more: Any) -> Any:
        return nullcontext(Absent() if attention is None else Answering("batch"))

    monkeypatch.setattr(fault_free, "cpu_generator", generator)
    scores, told, _ = fault_free.fp32_run(SPEC, MADE, passes)
    assert not passes(scores)
    assert "lets padding into the answers" in told


def test_weights_that_are_streamed_are_read_once_for_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fault_free, "cpu_generator", lambda *args, **more: nullcontext(Answering("batch", "row")))
    scores, told, _ = fault_free.fp32_run(SPEC, MADE, passes, stream=True)
    assert passes(scores), "token by token is wrong, and was asked"
    assert not told


def test_a_scheme_that_cannot_run_is_told_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    class Unable:
        def score(self, batch: TokenBatch, forced: Any) -> Scores:
            raise Unsupported("cpu-transformers-small-bf16: bf16: no such layers: Conv1D")

    monkeypatch.setattr(fault_free, "cpu_generator", lambda *args, **more: nullcontext(Unable()))
    with pytest.raises(BadInput, match=r"small: transformers cannot run bf16 here.*: bf16: no such layers: Conv1D$"):
        fault_free.fault_free_runs(SPEC, MADE, "bf16")


def test_what_goes_wrong_in_the_narrow_dtype_alone_is_refused_by_its_emulation(
    asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    runs(monkeypatch, asked, CONFIG, QUARTER)
    with pytest.raises(BadInput, match=r"bf16 tolerance nrms .* roundings .*an emulation in NumPy reads"):
        tolerances.with_tolerances(SPEC, MADE, ["bf16"], stream=False)
    assert asked == ["fp32", "bf16"]


def test_right_runs_become_a_tolerance(
    asked: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    runs(monkeypatch, asked, CONFIG, CONFIG)
    made = tolerances.with_tolerances(SPEC, MADE, ["bf16", "fp16"], stream=False)
    assert set(made.envelopes) == {"bf16", "fp16"}
    assert asked == ["fp32", "bf16", "fp16"]
    said = capsys.readouterr().err
    assert "fp32 passes" in said
    assert said.count("an emulation in NumPy reads") == 2
    assert tolerances.with_tolerances(SPEC, MADE, [], stream=False) is MADE
    assert len(asked) == 3


@pytest.mark.parametrize("ending", [BadInput("no such layers"), KeyboardInterrupt()], ids=["refused", "interrupted"])
def test_what_was_measured_before_the_end_is_kept(
    ending: BaseException, asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    runs(monkeypatch, asked, CONFIG, CONFIG)

    def until(spec: ModelSpec, made: Reference, scheme: str, **how: Any) -> dict[str, Scores]:
        if scheme == "fp16":
            raise ending
        return {"one": ran(CONFIG, scheme)}

    monkeypatch.setattr(tolerances, "fault_free_runs", until)
    kept: list[tuple[list[str], list[str]]] = []
    for schemes in (["bf16", "fp16", "int8-weight"], ["fp16", "bf16"]):
        with pytest.raises(type(ending)):
            tolerances.with_tolerances(
                *(SPEC, MADE, schemes),
                stream=False,
                keep=lambda done, left: kept.append((list(done.envelopes), list(left))),
            )
    assert kept == [(["bf16"], ["fp16", "int8-weight"])], "the second had nothing to keep"


def test_a_calibration_is_of_the_attention_that_is_right(
    asked: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Falcon's ALiBi: its eager runs would calibrate a limit by a fault."""

    class Narrow(Answering):
        def _of(self, way: str, batch: TokenBatch) -> Scores:
            return rows_of(ran(CONFIG, "bf16"), [PROMPTS.index(row) for row in batch.rows])

    def generator(spec: ModelSpec, dtype: str, attention: str | None, **more: Any) -> Any:
        if dtype == "bf16":
            asked.append(str(attention))
            return nullcontext(Narrow())
        return nullcontext(Answering("batch", "row", "pass") if attention == "eager" else Answering())

    monkeypatch.setattr(fault_free, "cpu_generator", generator)
    made = tolerances.with_tolerances(SPEC, MADE, ["bf16"], stream=False)
    reference.calibrated(SPEC, made, ["bf16"], tmp_path)
    assert set(asked) == {"sdpa"}
    assert len(asked) > 3, "the tolerance's run, the same once more, other shapes and other ways"


def test_the_cost_is_said_before_anything_long(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["reference", "llama-tiny", "--schemes", "", "--steps", "2", "--out", str(tmp_path)])
    assert not stopped.value.code
    lines = capsys.readouterr().err.splitlines()
    costs = [number for number, line in enumerate(lines) if " of memory and " in line and "estimates" in line]
    assert costs
    assert costs[0] < next(number for number, line in enumerate(lines) if "generates 2 tokens" in line)


def test_it_grows_with_what_it_is_made_of() -> None:
    """By hand: a host that does one of everything a second makes the arithmetic visible."""
    size = Size.of(architecture_of(CONFIG).declared(CONFIG)[0])
    assert size.weights == sum(array.size for array in STATE.values())
    assert size.active == size.weights - STATE["model.embed_tokens.weight"].size + CONFIG["hidden_size"]
    infinite = float("inf")
    only_products = Rates(1.0, infinite, infinite, infinite, infinite, 0.0)
    found = cost(size, only_products, [5, 7], 3, [], stream=False, stored=0)
    # The prompts for the first token, then one pass over prompts and new tokens.
    assert found.oracle_s == 2 * size.active * (12 + 12 + 6)
    assert found.tolerances_s == 0
    only_memory = Rates(infinite, infinite, 1.0, infinite, infinite, 0.0)
    assert cost(size, only_memory, [5, 7], 3, [], stream=False, stored=0).oracle_s == 6 * 8 * size.active
    only_widened = Rates(infinite, infinite, infinite, 1.0, infinite, 0.0)
    streamed = cost(size, only_widened, [5], 3, [], stream=True, stored=0).oracle_s
    # Three choices by 5, 1 and 1 tokens; the full pass over 8 is twice as wide, and so is the head of the one row.
    left = 1 - size.active / size.weights
    passes = (1 - left**5) + 2 * (1 - left) + 2 * (1 - left**8)
    assert streamed == pytest.approx(0.5 * (size.weights * passes + 2 * 64 * 32), rel=1e-6)
    only_products = Rates(1.0, 1.0, infinite, infinite, infinite, 0.0)
    streamed = cost(size, only_products, [5], 3, [], stream=True, stored=0).oracle_s
    assert streamed == pytest.approx(2 * size.active * (5 + 2) + 2 * size.active * 8 / 0.6)
    only_files = Rates(infinite, infinite, infinite, infinite, 1.0, 0.0)
    once = cost(size, only_files, [5], 3, [], stream=True, stored=10**6, cached=True).oracle_s
    often = cost(size, only_files, [5], 3, [], stream=True, stored=10**6).oracle_s
    assert once == pytest.approx(10**6, rel=1e-6)
    assert often == pytest.approx(once + 10**6 * (passes - (1 - left**8) + 64 * 32 / size.weights), rel=1e-6)
    a_mixture = replace(size, active=size.weights // 16)
    fewer = cost(a_mixture, only_widened, [5], 3, [], stream=True, stored=0).oracle_s
    assert fewer < 0.5 * cost(size, only_widened, [5], 3, [], stream=True, stored=0).oracle_s
    here = measured()
    more = [cost(size, here, [8], 4, schemes, stream=False, stored=10**6) for schemes in ([], ["bf16"], ["bf16"] * 2)]
    assert more[0].tolerances_s < more[1].tolerances_s < more[2].tolerances_s
    assert cost(size, here, [8], 4, [], stream=True, stored=0).memory < more[0].memory


def test_what_is_added_alone_is_announced(capsys: pytest.CaptureFixture[str]) -> None:
    tolerances.announce(resolve("llama-tiny"), [5], 2, ["bf16"], stream=False, added=True)
    added = capsys.readouterr().err
    tolerances.announce(resolve("llama-tiny"), [5], 2, ["bf16"], stream=False)
    whole = capsys.readouterr().err
    assert "the oracle" not in added
    assert "fault-free runs" in added
    assert "the oracle" in whole


def test_a_file_in_the_page_cache_is_read_once_by_streamed_runs() -> None:
    size, infinite = Size.of_count(10**9, layers=4, hidden=8, vocabulary=16), float("inf")
    files = Rates(infinite, infinite, infinite, infinite, 1.0, 0.0)
    cached, read = (
        cost(size, files, [5], 3, ["bf16"], stream=True, stored=1000, cached=one).tolerances_s for one in (True, False)
    )
    # Two attentions, three tokens each, and one pass in fp32, of half a run's cost.
    assert cached - read == pytest.approx(1000 * (2 * 1 + 0.5) - 1000 * (2 * 3 + 0.5))


def test_weights_on_disk_are_fetched_once_a_token_and_hashed_once() -> None:
    size, infinite = Size.of_count(10**9, layers=4, hidden=8, vocabulary=16), float("inf")
    only_fetching = Rates(infinite, infinite, infinite, infinite, infinite, 0.0)
    found = cost(size, only_fetching, [5], 3, ["bf16"], stream=True, stored=2 * 10**9, cached=True).tolerances_s
    # Two processes of 3 tokens and a pass, half of one for fp32 with 1; 5 GB/s, and 1.3 GB/s for the hash of bf16.
    bf16, fp32 = (10.0 + (steps + 1) * 2e9 / 5e9 + 2e9 / 1.3e9 for steps in (3, 1))
    assert found == pytest.approx(2 * bf16 + fp32 / 2)


def test_the_memory_of_a_streamed_tolerance_is_what_transformers_keeps() -> None:
    """Of 8.0e9 weights: 300 MiB of imports, what may be kept, and the head, as it is stored and widened."""
    size, here = Size.of_count(8_030_000_000, layers=32, hidden=4096, vocabulary=128256), Rates(*[1.0] * 6)
    most = cost(size, here, [8], 4, ["bf16"], stream=True, stored=16 * 10**9, kept=6 << 30).memory
    assert most == (300 << 20) + (6 << 30) + 6 * 4096 * 128256
    few = cost(size, here, [8], 4, [], stream=True, stored=16 * 10**9, kept=6 << 30).memory
    assert few < 1 << 30
    roomy = cost(size, here, [8], 4, ["bf16"], stream=True, stored=16 * 10**9, kept=1 << 40).memory
    assert roomy == (300 << 20) + 4 * size.weights + 6 * 4096 * 128256
