"""References are found by the hash of the weights they are of; logits are kept for one text and one number of steps."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from threadpoolctl import threadpool_limits
from tokenizers import Tokenizer, models, pre_tokenizers

from genqual.cases import Case
from genqual.cli import main
from genqual.conformance.oracle.registry import oracle_for
from genqual.conformance.references import file as reference_file
from genqual.conformance.references import index
from genqual.conformance.references.make import Reference
from genqual.models import embedded, ggufwrite, hub, safetensor, weights
from genqual.models.registry import resolve
from genqual.paths import data_dir
from genqual.session.context import Run
from genqual.session.options import Options
from genqual.session.reference_store import ReferenceStore
from genqual.session.selection import Selection
from tests.here import CPU

COMMITTED = data_dir("baselines") / "references"
OWN = "--schemes", "", "--steps", "2"

Make = Callable[..., Path]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """And one thread: on matrices of this size, those that wait for each other cost most of the time of a processor."""
    for name in ("GENQUAL_CACHE", "HF_HUB_CACHE"):
        monkeypatch.setenv(name, str(tmp_path / name))
    with threadpool_limits(limits=1):
        yield


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Write llama-tiny as a checkpoint with a tokenizer; `tuned` is what one weight of its head becomes."""

    def write(path: str, tuned: float = 0.0) -> Path:
        folder = tmp_path / path
        ran("models", "write", "llama-tiny", str(folder))
        letters = {letter: number for number, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
        tokenizer = Tokenizer(models.BPE(letters, []))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.save(str(folder / "tokenizer.json"))
        if tuned:
            tune(folder, tuned)
        return folder

    return write


def tune(folder: Path, to: float) -> None:
    state = {name: values.copy() for name, values in weights.read(resolve(str(folder))).items()}
    state["lm_head.weight"][3, 5] = to
    safetensor.write_bf16(folder / "model.safetensors", state)


def ran(*words: str) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(list(words))
    assert stopped.value.code in (0, None)


def found(model: Path | str, first: str | None = None) -> Reference:
    known = ReferenceStore(first).reference(str(model))
    assert isinstance(known, Reference), known
    return known


def test_a_fine_tune_that_has_the_name_of_a_known_model_gets_its_own_reference(make: Make) -> None:
    mine = make("llama-tiny", tuned=8.0)
    said = ReferenceStore(None).reference(str(mine))
    assert isinstance(said, str), "the committed reference of another model judged it"
    assert f"`genqual reference {mine}` makes one" in said
    assert f"{COMMITTED / 'llama-tiny'} is of other weights (09dc2558f4b8)" in said
    ran("reference", str(mine), *OWN)
    assert found(mine).weights_sha256 == weights.sha256(resolve(str(mine)))
    assert found("llama-tiny").weights_sha256 == weights.sha256(resolve("llama-tiny")), "and the known model its own"


def test_directories_of_one_name_have_a_reference_each(make: Make, tmp_path: Path) -> None:
    places = [make(f"{letter}/final", tuned=to) for letter, to in (("a", 8.0), ("b", -8.0), ("c", 4.0))]
    for place in places:
        ran("reference", str(place), *OWN)
    for place in places:
        assert found(place).weights_sha256 == weights.sha256(resolve(str(place)))
    before = sorted(one.name for one in (tmp_path / "GENQUAL_CACHE" / "references").iterdir())
    assert len(before) == 3
    ran("reference", str(places[1]), *OWN)  # again: it is found where it is, and says the same
    assert sorted(one.name for one in (tmp_path / "GENQUAL_CACHE" / "references").iterdir()) == before
    ran("reference", str(places[2]), *OWN, "--out", str(tmp_path / "mine"))
    assert found(places[2], str(tmp_path / "mine")).model == "final"


def test_a_known_model_under_another_name_is_judged_by_its_reference(make: Make) -> None:
    assert found(make("somebodys-model")).sha256 == found("llama-tiny").sha256


def test_old_references_are_found_wherever_they_lie(tmp_path: Path) -> None:
    shutil.copytree(COMMITTED / "llama-tiny", tmp_path / "mine" / "any-name")
    shutil.copytree(COMMITTED / "llama-30m", tmp_path / "mine" / "llama-tiny")
    assert index.find([tmp_path / "mine"], "llama-tiny", found("llama-tiny").weights_sha256) == (
        tmp_path / "mine" / "any-name"
    )
    for name in ("bloom-tiny", "llama-tiny"):
        assert found(name).weights_sha256 == weights.sha256(resolve(name))


def test_the_index_reads_no_arrays(tmp_path: Path) -> None:
    for name in ("bloom-tiny", "llama-30m"):
        shutil.copytree(COMMITTED / name, tmp_path / "mine" / name)
        (tmp_path / "mine" / name / "reference.safetensors").unlink()
    (tmp_path / "mine" / "torn").mkdir()
    (tmp_path / "mine" / "torn" / "reference.json").write_text("{")
    assert found("llama-tiny", str(tmp_path / "mine")).sha256 == found("llama-tiny").sha256


def test_the_same_weights_with_another_configuration_are_another_model(make: Make) -> None:
    mine, other = make("mine", tuned=8.0), make("other", tuned=8.0)
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 1e-3, "transformers_version": "9"}))
    ran("reference", str(mine), *OWN)
    found(mine)
    said = ReferenceStore(None).reference(str(other))
    assert isinstance(said, str)
    assert "is of these weights with another config.json (rms_norm_eps)" in said
    ran("reference", str(other), *OWN)
    assert not np.array_equal(found(other).projections, found(mine).projections)
    (mine / "config.json").write_text(json.dumps(config | {"transformers_version": "9", "torch_dtype": "float32"}))
    found(mine)  # what says nothing of the arithmetic may differ


@pytest.mark.parametrize(
    ("added", "told"),
    [
        ({"rope_scaling": {"rope_type": "linear", "factor": 4.0}}, "rope_scaling"),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "rope_scaling"),
        ({"mlp_bias": False, "head_dim": 8, "rope_parameters": {"rope_type": "default"}}, ""),
    ],
)
def test_a_field_that_only_one_configuration_has_is_not_overlooked(
    added: dict[str, Any], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A longer context by `rope_scaling` is written into the config.json of the same weights."""
    known = embedded.config("llama-tiny")
    plain = {key: value for key, value in known.items() if key not in ("rope_scaling", "rope_parameters", *added)}
    for one, other in ((plain, plain | added), (plain | added, plain)):
        made = index.arithmetic(one)
        monkeypatch.setattr(index, "facts", lambda folder, made=made: {"generator": {"config": made}})
        assert index.differing(Path("any"), one) == []
        assert index.differing(Path("any"), other) == ([told] if told else [])


def test_a_field_that_is_left_out_has_its_default(monkeypatch: pytest.MonkeyPatch) -> None:
    known = {key: value for key, value in embedded.config("llama-tiny").items() if key != "rms_norm_eps"}
    monkeypatch.setattr(index, "facts", lambda folder: {"generator": {"config": index.arithmetic(known)}})
    assert index.differing(Path("any"), known | {"rms_norm_eps": 1e-6}) == []
    assert index.differing(Path("any"), known | {"rms_norm_eps": 1e-3}) == ["rms_norm_eps"]


@pytest.mark.parametrize(("independent", "apart"), [(True, []), (False, ["sliding_window"])])
def test_a_field_that_was_removed_counts_where_nothing_knows_its_default(
    independent: bool, apart: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of an architecture without an oracle: transformers has a default of its own for what is not there."""
    config: dict[str, Any] = {"model_type": "olmo3", "hidden_size": 64}
    made = {"generator": {"config": index.arithmetic(config | {"sliding_window": 8})}, "independent": independent}
    monkeypatch.setattr(index, "facts", lambda folder: made)
    assert index.differing(Path("any"), config) == apart
    assert index.differing(Path("any"), config | {"sliding_window": 8, "of_a_later_release": 1}) == []


def test_a_gguf_file_is_known_by_its_dequantised_weights(make: Make, tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    for name in ("bloom-tiny", "llama-tiny"):
        file = ggufwrite.write(resolve(name), tmp_path / f"{name}-by-another-name.gguf", "bf16")
        assert found(file).sha256 == found(name).sha256
    mine = ggufwrite.write_bare(resolve(str(make("tuned", tuned=8.0))), tmp_path / "llama-tiny.gguf")
    said = ReferenceStore(None).reference(str(mine))
    assert isinstance(said, str), "a reference that nothing checked judged it"
    assert "llama-tiny is of other weights" in said
    assert f"`genqual reference {mine}` makes one" in said


def test_a_gguf_file_of_the_same_weights_with_another_rotary_base_is_another_model(tmp_path: Path) -> None:
    """The committed references say nothing of their configuration: they are of the embedded models'."""
    pytest.importorskip("gguf")
    from tests.models.make_gguf import llama_tiny_gguf

    file = llama_tiny_gguf(tmp_path / "turned.gguf")
    assert weights.sha256(resolve(str(file))) == weights.sha256(resolve("llama-tiny"))
    said = ReferenceStore(None).reference(str(file))
    assert isinstance(said, str), "judged by what is right of another rotary base"
    assert "of these weights with another config.json (rope_theta)" in said


def test_a_gguf_file_that_cannot_be_hashed_has_no_reference(tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    made = gguf.GGUFWriter(tmp_path / "llama-tiny.gguf", "rwkv7")
    made.add_head_count(2)
    made.add_tensor("blk.0.attn_q.weight", np.zeros((4, 4), np.float32))
    made.write_header_to_file()
    made.write_kv_data_to_file()
    made.write_tensors_to_file()
    made.close()
    store = ReferenceStore(None)
    said = store.reference(str(tmp_path / "llama-tiny.gguf"))
    assert isinstance(said, str)
    assert "how rwkv7 lies in a GGUF file is not known" in said
    assert "genqual.models.convert" in said
    assert store.weights_sha256(str(tmp_path / "llama-tiny.gguf")) is None


def in_the_hub_cache(folder: Path, repository: str, commit: str) -> Path:
    """Put `folder` where huggingface_hub keeps a repository's revision main."""
    place = hub.cache_root() / f"models--{repository.replace('/', '--')}"
    shutil.copytree(folder, place / "snapshots" / commit)
    (place / "refs").mkdir(exist_ok=True)
    (place / "refs" / "main").write_text(commit)
    return place / "snapshots" / commit


def test_a_hub_id_is_what_the_local_cache_holds_of_it(make: Make, tmp_path: Path) -> None:
    said = ReferenceStore(None).reference("org/llama-tiny")
    assert isinstance(said, str), "a reference that nothing checked judged it"
    assert f"it is not in {hub.cache_root()}" in said
    assert ReferenceStore(None).weights_sha256("org/llama-tiny") is None

    place = in_the_hub_cache(make("plain"), "org/anything", "1" * 40)
    assert found("org/anything").sha256 == found("llama-tiny").sha256
    assert found(f"org/anything@{'1' * 40}").sha256 == found("llama-tiny").sha256
    assert isinstance(ReferenceStore(None).reference("org/anything@v2"), str)
    known = weights.local(resolve("org/anything"))
    assert (known.source, known.location, known.architecture) == ("directory", str(place), "llama")
    options = Options(state_dir=str(tmp_path))
    run = Run(options, Selection(options, ""), "run", lambda _: None)
    assert run.groups.generator(Case(CPU, "transformers", "org/anything", "fp32")).plan.model == known, (
        "what ranks load"
    )
    run.close()

    store = ReferenceStore(None)
    before = store.reference("org/llama-tiny")
    in_the_hub_cache(make("tuned", tuned=8.0), "org/llama-tiny", "2" * 40)
    assert store.reference("org/llama-tiny") == before, "a download by the ranks may not split a run in two"
    said = ReferenceStore(None).reference("org/llama-tiny")
    assert isinstance(said, str)
    assert "llama-tiny is of other weights" in said
    ran("reference", "org/llama-tiny", *OWN)
    found("org/llama-tiny")


def test_huggingface_hub_finds_the_same_snapshot(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = pytest.importorskip("huggingface_hub")
    place = in_the_hub_cache(make("plain"), "org/anything", "3" * 40)
    (place.parents[1] / "refs" / "v1").write_text("3" * 40)
    for revision in (None, "main", "v1", "3" * 40):
        spec = replace(resolve("org/anything"), revision=revision or "")
        file = theirs.try_to_load_from_cache(
            "org/anything", "config.json", revision=revision, cache_dir=hub.cache_root()
        )
        assert Path(file).parent == hub.snapshot(spec) == place
    monkeypatch.delenv("HF_HUB_CACHE")
    monkeypatch.setenv("HF_HOME", "/somewhere")
    assert hub.cache_root() == Path("/somewhere/hub")


@pytest.mark.parametrize("steps", [(4, 9), (9, 4)])
def test_the_oracle_is_asked_anew_for_another_number_of_steps(steps: tuple[int, int]) -> None:
    spec = resolve("llama-tiny")
    text = np.arange(40, 60, dtype=np.int64)
    with threadpool_limits(limits=None):
        exact = oracle_for(weights.config(spec), weights.read(spec)).logits(text[:-1])
        store = ReferenceStore(None)
        for count in (*steps, *steps):
            assert np.array_equal(store.logits("llama-tiny", text, count), exact[-count:])
        assert np.allclose(store.logits("llama-tiny", text[:-1], steps[0]), exact[-steps[0] - 1 : -1])


def test_a_path_whose_contents_changed_is_another_model(make: Make) -> None:
    mine = make("mine")
    store, text = ReferenceStore(None), np.arange(40, 60, dtype=np.int64)
    with threadpool_limits(limits=None):
        assert isinstance(store.reference(str(mine)), Reference)
        before = store.logits(str(mine), text, 3)
        tune(mine, 8.0)
        assert isinstance(store.reference(str(mine)), str)
        assert not np.array_equal(store.logits(str(mine), text, 3), before)
        config = json.loads((mine / "config.json").read_text())
        tuned = store.logits(str(mine), text, 3)
        (mine / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 1e-3}))
        assert not np.array_equal(store.logits(str(mine), text, 3), tuned)


def test_the_whole_logits_are_those_of_the_reference_that_counts_now(tmp_path: Path) -> None:
    known = found("llama-tiny")
    with threadpool_limits(limits=None):
        for steps in (2, 3):
            few = replace(known.select(rows=[2, 1], steps=steps), sha256="")
            reference_file.write(few, tmp_path / str(steps) / "llama-tiny")
            store = ReferenceStore(str(tmp_path / str(steps)))
            exact = store.exact_logits("llama-tiny")
            assert exact.shape == (steps, 2, known.vocabulary)
            assert np.array_equal(exact.argmax(axis=-1), few.tokens)
