"""The whole matrix: every fault has a place in it, and each way of running a model is tried with its own."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from genqual.cases import Case
from genqual.errors import BadInput
from genqual.faults import CATALOGUE, ignored_fields
from genqual.faults.matrix import cases
from genqual.faults.matrix.plugin import fits
from genqual.faults.matrix.store import FAULT_FREE
from genqual.models.registry import resolve

TINY = [run for run in cases.RUNS if run.models == cases.TINY]
EMBEDDED = [run for run in cases.RUNS if set(run.models) <= {*cases.TINY, *cases.ARCHITECTURES}]


def tried(run: cases.MatrixRun, model: str, dtype: str) -> set[str]:
    architecture = resolve(model).architecture
    fitting = {
        name
        for name, one in CATALOGUE.items()
        if one.fits(engine=run.engine, architecture=architecture, ranks=run.ranks, dtype=dtype)
    }
    return {name for name in fitting if run.takes(name, model, dtype)}


def test_no_fault_is_left_out_but_those_of_processes_and_of_peers_in_other_environments() -> None:
    found = set().union(*(tried(run, model, dtype) for run in EMBEDDED for model in run.models for dtype in run.dtypes))
    left = {name for name, one in CATALOGUE.items() if one.kind not in ("rank", "tokens")} - found
    assert left == set()


def test_models_of_other_architectures_are_tried_with_what_is_their_own() -> None:
    (run,) = [run for run in cases.RUNS if run.models == cases.ARCHITECTURES]
    assert "stale_kv" not in tried(run, "llama-odd", "fp32"), "that is tried on llama-tiny"
    assert {"ignores_rms_norm_eps", "ignores_rope_factor"} <= tried(run, "llama-odd", "fp32")
    for model in cases.ARCHITECTURES:
        assert run.takes(FAULT_FREE, model, "fp32")
        own = {name for name in tried(run, model, "fp32") if CATALOGUE[name].group != ignored_fields.GROUP}
        assert len(own) >= 12 or model == "llama-odd", f"{model}: {len(own)} faults of its own kinds"


def test_each_way_is_tried_with_its_own_faults_and_with_what_is_harmless() -> None:
    own = {
        ("deepspeed-inference", 2): {"shard_swapped", "half_allreduce", "one_rank_differs"},
        ("deepspeed-zero", 2): {"shared_stream"},
        ("transformers-compiled", 1): {"compiled_only", "stale_input"},
        ("accelerate:placement=disk", 1): {"not_fetched_back"},
    }
    for run in TINY:
        names = tried(run, "llama-tiny", run.dtypes[0])
        assert own.get((run.engine, run.ranks), set()) <= names
        assert any(CATALOGUE[name].equivalent for name in names)
        assert run.takes(FAULT_FREE, "llama-tiny", run.dtypes[0])
        if (run.engine, run.ranks, run.cores, run.dtypes) == (*cases.HOME, 1, cases.PRECISION_MODES):
            assert len(names) >= 60
        elif not run.sample:
            assert "stale_kv" not in names


def test_a_real_model_and_other_kernels_only_run_what_is_right() -> None:
    (real,) = [run for run in cases.RUNS if run.models == ("smollm2-135m",)]
    (kernels,) = [run for run in cases.RUNS if "eager" in run.engine]
    assert real.tests == ("test_greedy.py",)
    (threads,) = [run for run in cases.RUNS if run.cores > 1]
    for run in (real, kernels, threads):
        assert not run.takes("stale_kv", "llama-tiny", "fp32")
        assert run.takes("logits_plus_constant", "llama-tiny", "fp32")


def test_a_matrix_is_narrowed_or_asked_for_by_name() -> None:
    narrowed = cases.runs_of(None, "bloom-tiny", "fp32,int8-weight")
    assert {run.models for run in narrowed} == {("bloom-tiny",)}
    assert {dtype for run in narrowed for dtype in run.dtypes} == {"fp32", "int8-weight"}
    assert cases.runs_of("transformers-tp:2", "llama-tiny", "fp32") == [
        cases.MatrixRun("transformers-tp", 2, ("llama-tiny",), ("fp32",), sample=("fp32",))
    ]
    (both,) = cases.runs_of("deepspeed-inference:2", None, None)
    assert both.dtypes == cases.PRECISION_MODES
    assert [both.takes("stale_kv", "llama-tiny", lane) for lane in cases.PRECISION_MODES] == [True, False]
    assert [both.takes("half_allreduce", "llama-tiny", lane) for lane in cases.PRECISION_MODES] == [True, True]
    (own,) = cases.runs_of("transformers:attn_implementation=eager:1", None, "bf16")
    assert (own.models, own.dtypes, own.faults) == (cases.TINY, ("bf16",), False)
    for pair in ("transformers", ":2", "transformers:two"):
        with pytest.raises(BadInput, match="ENGINE:RANKS"):
            cases.runs_of(pair, None, None)


def test_a_control_is_not_compared_to_the_bit_with_a_group_that_has_none() -> None:
    case = Case("cpu", "accelerate:placement=disk", "llama-tiny", "fp32")
    beside, alone = (
        SimpleNamespace(originalname=name)
        for name in ("test_offloaded_weights_give_the_same_bits", "test_cache_equals_no_cache")
    )
    assert not fits(case, "logits_plus_constant", beside)  # type: ignore[arg-type]
    for name, item in (("not_fetched_back", beside), (FAULT_FREE, beside), ("logits_plus_constant", alone)):
        assert fits(case, name, item)  # type: ignore[arg-type]


def test_a_control_is_not_compared_to_the_bit_with_what_ran_before_it() -> None:
    """A process's first pass ends its loading; a control is put in afterwards and may change bits."""
    case = Case("cpu", "transformers", "llama-tiny", "fp32")
    fresh: Any = SimpleNamespace(originalname="test_a_fresh_process_gives_the_same_bits")
    assert not fits(case, "logits_plus_constant", fresh)
    assert fits(case, "remembered", fresh)
    assert fits(case, FAULT_FREE, fresh)


def test_a_control_that_cuts_a_matrix_is_not_put_into_a_quantised_one() -> None:
    known = CATALOGUE["head_in_halves"]
    assert known.fits(engine="transformers", architecture="llama", ranks=1, dtype="bf16")
    assert not known.fits(engine="transformers", architecture="llama", ranks=1, dtype="int8-weight")
