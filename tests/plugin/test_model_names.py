"""Two models whose paths end alike are two cases: in ids, files, waivers, logs and xdist's scopes."""

from __future__ import annotations

import json
import re
import shutil
from datetime import date
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genqual.cases import PRECISIONS, Case, case_id_in, distinct_names, last_word
from genqual.errors import BadInput
from genqual.models import weights
from genqual.models.registry import resolve
from genqual.session.waivers import Register, read
from genqual.session.xdist import scope_of
from tests.here import CPU
from tests.plugin.suite import numpy_engine, suite

WORDS = st.lists(st.sampled_from(["a", "b", "a_b", "llama"]), min_size=1, max_size=4).map("/".join)


@pytest.mark.parametrize(
    ("models", "shown"),
    [
        (["llama-tiny", "bloom-tiny"], {}),
        (["v1/llama"], {}),  # alone: as it always was
        (["v1/llama", "v2/llama/"], {"v1/llama": "v1_llama", "v2/llama/": "v2_llama"}),
        (["llama-tiny", "/x/llama-tiny"], {"/x/llama-tiny": "x_llama-tiny"}),  # an embedded model keeps its id
        (["meta/llama", "mine/llama"], {"meta/llama": "meta_llama", "mine/llama": "mine_llama"}),
        (["p/a/end", "q/a/end", "q/b/end"], {"p/a/end": "p_a_end", "q/a/end": "q_a_end", "q/b/end": "b_end"}),
    ],
)
def test_as_many_words_as_tell_two_models_apart(models: list[str], shown: dict[str, str]) -> None:
    assert distinct_names(models) == shown


@given(st.sets(WORDS, max_size=5))
def test_no_two_cases_of_a_run_have_one_id(models: set[str]) -> None:
    shown = distinct_names(models)
    cases = [Case("xeon", "transformers", model, "fp32", shown=shown.get(model, "")) for model in models]
    ids = [case.id for case in cases if "/" in case.model or last_word(case.model) == case.model]
    assert len(set(ids)) == len(models)
    assert not any("/" in one for one in ids)


def test_what_is_shown_is_no_part_of_the_wire() -> None:
    assert "shown" not in Case("xeon", "transformers", "v1/llama", "fp32", shown="v1_llama").as_json()


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("model", ["llama", "llama-fp32", "bf16-fp32-llama", "int8-weight"])
@pytest.mark.parametrize("parameter", ["", "-row1", "-b1-i8-n4"])
def test_a_scope_is_the_case_whatever_its_model_is_called(model: str, precision: str, parameter: str) -> None:
    case = Case("xeon", "transformers", f"x/{model}", precision)
    assert scope_of(f"suites/x.py::test_x[{case.id}{parameter}]") == case.id
    assert case_id_in(f"suites/x.py::test_x[{case.id}{parameter}]") == case.id


TEST = "test_greedy.py::test_every_logit_is_finite[xeon-transformers-llama-fp32]"
GOOD = f'[[waiver]]\ntest = "{TEST}"\nsays = "not finite"\nissue = "tracker 12"\nexpires = 2999-01-01\n'


def register(folder: Path, text: str) -> Register:
    file = folder / "xeon.toml"
    file.write_text(text, encoding="utf-8")
    return Register(read(file), date(2030, 1, 1))


def test_a_waiver_of_certain_weights_excuses_no_other_model_of_that_name(tmp_path: Path) -> None:
    found = register(tmp_path, GOOD + 'weights = "AAAABBBB"\n')
    assert len(found.in_force(f"suites/conformance/{TEST}", lambda: "aaaabbbb" + "0" * 56)) == 1
    assert found.in_force(f"suites/conformance/{TEST}", lambda: "aaaacccc" + "0" * 56) == []
    assert found.in_force(f"suites/conformance/{TEST}", lambda: None) == []
    assert found.problems(whole={"xeon-transformers-llama-fp32"}) == []  # right for the other model, so no mistake


def test_two_models_of_one_name_may_each_have_a_waiver(tmp_path: Path) -> None:
    one, other = GOOD + 'weights = "aaaaaaaa"\n', GOOD.replace("12", "13") + 'weights = "bbbbbbbb"\n'
    (found,) = register(tmp_path, one + other).in_force(TEST, lambda: "b" * 64)
    assert found.issue == "tracker 13"


def test_a_waiver_without_weights_never_asks_for_them(tmp_path: Path) -> None:
    def weigh() -> str:
        raise AssertionError("weights of a large checkpoint take minutes to hash")

    assert len(register(tmp_path, GOOD).in_force(TEST, weigh)) == 1


@pytest.mark.parametrize("digits", ["", "abc", "x" * 64, "a" * 65])
def test_weights_of_a_waiver_are_digits_of_a_hash(tmp_path: Path, digits: str) -> None:
    with pytest.raises(BadInput, match=r"weights = .*: give the first 8 or more"):
        register(tmp_path, GOOD + f'weights = "{digits}"\n')


def test_a_waiver_of_a_longer_name_is_none_of_the_shorter_one(tmp_path: Path) -> None:
    text = GOOD.replace("llama-fp32]", "llama-fp32-bf16]")  # a directory llama-fp32, run in bf16
    assert register(tmp_path, text).problems(whole={"xeon-transformers-llama-fp32"}) == []


def test_two_directories_of_one_name_are_judged_side_by_side(tmp_path: Path) -> None:
    """Ids, logs and groups of their own; a waiver for the one does not excuse the other."""
    for name in ("v1", "v2"):
        shutil.copytree(weights.directory(resolve("llama-tiny")), tmp_path / name / "llama")
    config = json.loads((tmp_path / "v2" / "llama" / "config.json").read_text())
    (tmp_path / "v2" / "llama" / "config.json").write_text(json.dumps(config | {"rms_norm_eps": "none such"}))
    place = tmp_path / "waivers"
    place.mkdir()
    case, test = f"{CPU}-external-v1_llama-fp32", "test_repeat.py::test_a_repeated_request_gives_the_same_bits"
    (place / f"{CPU}.toml").write_text(GOOD.replace(TEST, f"{test}[{case}]").replace("not finite", "none"))
    run = suite(
        tmp_path,
        *("-m", f"{CPU} and conformance", *numpy_engine()[:4], "--dtype", "fp32", f"--waivers={place}"),
        *(f"--model={tmp_path}/v1/llama,{tmp_path}/v2/llama", "-k", test.split("::")[1], "-v"),
    )
    said = dict(re.findall(r"test_a_repeated_request_gives_the_same_bits\[(\S+)\] ([A-Z]+)", run.stdout))
    # The first: unexpected pass (WAIVED). The second is another model, by its configuration, so the reference of its
    # weights is none of its own, and what is scored has to be generated: loading fails before the test.
    assert said == {case: "FAILED", case.replace("v1", "v2"): "ERROR"}, run.stdout
    assert "unexpected pass (WAIVED)" in run.stdout
    assert "could not convert string to float: 'none such'" in run.stdout
    logs = {log.name.rpartition("-")[0] for log in (tmp_path / "logs").glob("*/*") if log.is_dir()}
    assert {case, case.replace("v1", "v2")} <= logs
