"""Dataset mode goes on only with what the very same model, engine, packages and prompts made."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from genqual.cases import Case
from genqual.engines.base import TokenBatch
from genqual.engines.registry import engine
from genqual.errors import BadInput
from genqual.models.dataset import PairWriter
from genqual.models.registry import resolve
from genqual.models.spec import ModelSpec
from genqual.records import software
from genqual.session import fingerprint
from genqual.session.dataset_run import DatasetRun, generate_pairs, problems
from tests.here import CPU
from tests.models.checkpoints import llama_tiny
from tests.plugin.suite import numpy_engine, suite

BOS, TEMPLATE = "<s>", "{{ bos_token }}{% for one in messages %}{{ one.role }} {{ one.content }} {% endfor %}"


class Ranks:
    """Answers each request with tokens of its own, and counts the rows that it was asked for."""

    def __init__(self, case: Case, spec: ModelSpec, tier: str = "logits", **options: Any) -> None:
        self.case, self.asked = case, []  # type: tuple[Case, list[list[int]]]
        self.plan = SimpleNamespace(model=spec, options=options, tier=tier)
        self.loaded = [SimpleNamespace(weight_hash="loaded")]
        self.served = "served"

    def generate(self, batch: TokenBatch, new_tokens: int) -> Any:
        self.asked += batch.rows
        return SimpleNamespace(tokens=np.full((len(batch.ids), new_tokens), 5, dtype=np.int64))

    def inspect(self) -> list[dict[str, str]]:
        return [{"served_model": self.served}]


def ranks(model: str = "llama-tiny", engine: str = "transformers", **options: Any) -> Any:
    return Ranks(Case("xeon", engine, model, "fp32"), resolve(model), **options)


@pytest.fixture
def job(tmp_path: Path) -> DatasetRun:
    (tmp_path / "prompts.txt").write_text("one\ntwo\nthree\n")
    return DatasetRun(
        str(tmp_path / "prompts.txt"), input_tokens=8, new_tokens=3, batch=2, path=tmp_path / "pairs.jsonl"
    )


def quiet(_: str) -> None:
    """Says nothing."""


def tokenized(folder: Path, **change: Any) -> str:
    """A checkpoint with a tokenizer of words that begins every text with BOS."""
    shutil.rmtree(folder, ignore_errors=True)
    llama_tiny(folder, **change)
    words = {BOS: 1, "[UNK]": 0, "user": 2, "one": 3, "two": 4, "three": 5, "hello": 6}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens([BOS])
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{BOS} $A", special_tokens=[(BOS, 1)])
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"bos_token": BOS, "chat_template": TEMPLATE}))
    return str(folder)


def test_the_same_run_goes_on_where_it_was(job: DatasetRun) -> None:
    first, second = ranks(), ranks()
    assert generate_pairs(first, job, quiet) == generate_pairs(second, job, quiet) == 3
    assert (len(first.asked), second.asked) == (3, [])
    assert list(problems(job)) == []


def served(made: Any, name: str) -> Any:
    made.served = name
    return made


CHANGES: dict[str, tuple[Callable[[], Any], Callable[[], Any], str]] = {
    "engine": (ranks, lambda: ranks(engine="transformers-compiled"), "engine"),
    "options": (ranks, lambda: ranks(cache_bucket=64), "options"),
    "dtype": (ranks, lambda: Ranks(replace(ranks().case, dtype="bf16"), resolve("llama-tiny")), "dtype"),
    "ranks": (ranks, lambda: Ranks(replace(ranks().case, ranks=2), resolve("llama-tiny")), "ranks"),
    "cores": (ranks, lambda: Ranks(replace(ranks().case, cores_per_rank=2), resolve("llama-tiny")), "cores_per_rank"),
    "embedded": (ranks, lambda: ranks("bloom-tiny"), "model"),
    "served": (lambda: ranks(tier="tokens"), lambda: served(ranks(tier="tokens"), "other"), "options"),
    "endpoint": (lambda: ranks(endpoint="http://a/v1"), lambda: ranks(endpoint="http://b/v1"), "options"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_another_run_is_refused_with_what_differs(job: DatasetRun, change: str) -> None:
    before, after, fact = CHANGES[change]
    generate_pairs(before(), job, quiet)
    kept, other = job.path.read_bytes(), after()
    with pytest.raises(BadInput, match=rf"differ in: {fact}\. .*move the file away"):
        generate_pairs(other, job, quiet)
    assert other.asked == []
    assert job.path.read_bytes() == kept


@pytest.mark.parametrize("other", ["org/name@v2", "other/name"])
def test_a_hub_id_is_known_by_its_revision_and_by_what_was_loaded(other: str) -> None:
    before = fingerprint.made_by(ranks("org/name"), "p", 1, 1)
    assert fingerprint.difference(before, fingerprint.made_by(ranks(other), "p", 1, 1)) == "model"
    moved = ranks("org/name")  # the branch has other files now
    moved.loaded = [SimpleNamespace(weight_hash="others")]
    assert fingerprint.difference(before, fingerprint.made_by(moved, "p", 1, 1)) == "model"


def weights_of(state: dict[str, Any]) -> None:
    name = next(iter(state))
    state[name] = state[name] * np.float32(0.5)


@pytest.mark.parametrize("what", ["weights", "config", "tokenizer", "template"])
def test_other_weights_or_files_at_the_same_place_are_refused(tmp_path: Path, job: DatasetRun, what: str) -> None:
    place = tokenized(tmp_path / "v1" / "llama")
    generate_pairs(ranks(place), job, quiet)
    if what == "weights":
        tokenized(tmp_path / "v1" / "llama", change=weights_of)
    elif what == "config":
        tokenized(tmp_path / "v1" / "llama", rope_theta=7.0)
    else:
        file = {"tokenizer": "tokenizer.json", "template": "tokenizer_config.json"}[what]
        text = (tmp_path / "v1" / "llama" / file).read_text().replace('"three"', '"four"').replace("one.role", "1")
        (tmp_path / "v1" / "llama" / file).write_text(text)
    other = ranks(place)
    with pytest.raises(BadInput, match="differ in: model"):
        generate_pairs(other, job, quiet)
    assert other.asked == []


def test_the_same_files_at_another_place_are_the_same_model(tmp_path: Path, job: DatasetRun) -> None:
    generate_pairs(ranks(tokenized(tmp_path / "v1" / "llama")), job, quiet)
    again = ranks(tokenized(tmp_path / "moved" / "llama"))
    assert generate_pairs(again, job, quiet) == 3
    assert again.asked == []


def test_a_gguf_file_is_known_by_its_bytes(tmp_path: Path) -> None:
    file = tmp_path / "m.gguf"
    spec = ModelSpec("m", "gguf", str(file), "llama")
    file.write_bytes(b"one")
    group: Any = Ranks(Case("xeon", "transformers", "m", "fp32"), spec)
    before = fingerprint.made_by(group, "p", 1, 1)
    file.write_bytes(b"two")
    os.utime(file, ns=(1, 1))
    assert fingerprint.difference(before, fingerprint.made_by(group, "p", 1, 1)) == "model"


@pytest.mark.parametrize("package", ["torch", "transformers", "genqual"])
def test_another_version_is_refused(job: DatasetRun, monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    generate_pairs(ranks(), job, quiet)
    if package == "genqual":
        monkeypatch.setattr("genqual.__version__", "99.0")
    else:
        monkeypatch.setattr(fingerprint, "versions", lambda names: software.versions(names) | {package: "99.0"})
    with pytest.raises(BadInput, match="differ in: versions"):
        generate_pairs(ranks(), job, quiet)


@pytest.mark.parametrize("fact", ["hardware_of", "code_sha256"])
def test_other_hardware_or_code_of_the_same_version_is_refused(
    job: DatasetRun, monkeypatch: pytest.MonkeyPatch, fact: str
) -> None:
    """A state directory that two hosts share, and a package that is being worked on."""
    generate_pairs(ranks(), job, quiet)
    monkeypatch.setattr(fingerprint, fact, lambda _: "other")
    other = ranks()
    with pytest.raises(BadInput, match=f"differ in: {fact.partition('_')[0]}"):
        generate_pairs(other, job, quiet)
    assert other.asked == []


def test_the_hardware_is_the_case_s_and_never_a_clients() -> None:
    here = ranks()
    here.case = replace(here.case, device=CPU)
    assert json.loads(fingerprint.made_by(here, "p", 1, 1))["hardware"].startswith(f"{CPU}-")
    assert "hardware" not in json.loads(fingerprint.made_by(ranks(endpoint="http://a/v1"), "p", 1, 1))


def test_the_code_of_a_third_partys_engine_is_that_of_its_whole_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "theirs").mkdir()
    for name in ("__init__", "engine", "kernels"):
        (tmp_path / "theirs" / f"{name}.py").write_text("1")
    monkeypatch.syspath_prepend(str(tmp_path))
    spec = replace(engine("transformers"), implementation="theirs.engine:Theirs")
    monkeypatch.setattr(fingerprint, "engine", lambda name: spec)
    before = fingerprint.code_sha256("theirs")
    (tmp_path / "theirs" / "kernels.py").write_text("22")
    assert fingerprint.code_sha256("theirs") != before
    spec = replace(spec, implementation="nowhere_at_all:Theirs")
    assert fingerprint.code_sha256("theirs") == "", "it is of another environment"


def test_versions_are_of_what_generates() -> None:
    found = json.loads(fingerprint.made_by(ranks(), "p", 1, 1))["versions"]
    assert {"torch", "transformers", "tokenizers", "numpy", "genqual"} <= set(found)
    assert not {"pytest", "pytest-benchmark"} & set(found)


def test_other_prompts_under_the_same_name_are_refused(job: DatasetRun) -> None:
    generate_pairs(ranks(), job, quiet)
    Path(job.source).write_text("one\ntwo\nfour\n")
    with pytest.raises(BadInput, match="differ in: prompts"):
        generate_pairs(ranks(), job, quiet)


def test_a_program_that_was_exchanged_is_refused(tmp_path: Path, job: DatasetRun) -> None:
    (tmp_path / "engine.py").write_text("1")
    command = f"python {tmp_path}/engine.py"
    generate_pairs(ranks(tier="tokens", command=command), job, quiet)
    (tmp_path / "engine.py").write_text("22")
    with pytest.raises(BadInput, match="differ in: options"):
        generate_pairs(ranks(tier="tokens", command=command), job, quiet)


def test_a_file_of_an_earlier_genqual_is_refused_with_the_next_step(job: DatasetRun) -> None:
    old = f"{ranks().case} {job.source} 8+3"
    with PairWriter(job.path, old) as writer:
        writer.append("one", [1], [2, 2, 2], "old")
    other = ranks()
    with pytest.raises(BadInput, match=r"holds pairs of xeon-transformers-llama-tiny-fp32 .*move the file away"):
        generate_pairs(other, job, quiet)
    assert other.asked == []


def test_no_password_is_kept(job: DatasetRun) -> None:
    generate_pairs(ranks(endpoint="http://me:secret@a/v1"), job, quiet)
    assert "secret" not in job.path.read_text()


def test_two_models_of_one_name_have_two_files(tmp_path: Path) -> None:
    places = [tokenized(tmp_path / one / "llama-tiny") for one in ("v1", "v2")]
    cases = [Case("xeon", "transformers", model, "fp32") for model in ("llama-tiny", *places)]
    names = [fingerprint.file_name(case, resolve(case.model)) for case in cases]
    assert names[0] == "xeon-transformers-llama-tiny-fp32"
    assert len(set(names)) == 3
    assert all(name.startswith(names[0]) for name in names)


def test_an_empty_prompt_is_told_by_file_and_line(tmp_path: Path, job: DatasetRun) -> None:
    (tmp_path / "p.jsonl").write_text('"one"\n{"prompt": "two"}\n\n{"prompt": ""}\n')
    with pytest.raises(BadInput, match=r"p\.jsonl, line 4: an empty prompt"):
        generate_pairs(ranks(tokenized(tmp_path / "m")), replace(job, source=str(tmp_path / "p.jsonl")), quiet)


def test_a_rendered_text_with_a_second_first_token_is_warned_of(tmp_path: Path, job: DatasetRun) -> None:
    (tmp_path / "p.jsonl").write_text('"hello"\n"<s> hello"\n"<s> two"\n')
    made, said = ranks(tokenized(tmp_path / "m")), []  # type: tuple[Any, list[str]]
    generate_pairs(made, replace(job, source=str(tmp_path / "p.jsonl")), quiet, said.append)
    assert made.asked == [[1, 6], [1, 1, 6], [1, 1, 4]]
    (line,) = said
    assert line.startswith(f"2 prompts begin with <s>, first {tmp_path}/p.jsonl, line 2, and the tokenizer adds one")


def test_prompts_that_are_cut_are_counted(tmp_path: Path, job: DatasetRun) -> None:
    (tmp_path / "p.jsonl").write_text('"hello"\n"hello two hello"\n"two hello two"\n')
    made, said = ranks(tokenized(tmp_path / "m")), []  # type: tuple[Any, list[str]]
    asked = replace(job, source=str(tmp_path / "p.jsonl"), input_tokens=3)
    generate_pairs(made, asked, quiet, said.append)
    assert made.asked == [[1, 6], [1, 6, 4], [1, 4, 6]]
    where = f"{tmp_path}/p.jsonl, line 2"
    assert said == [f"of 2 prompts, first {where}, the model read the first 3 tokens only; --input-lengths N reads N"]
    said.clear()
    longer = replace(asked, input_tokens=4, path=tmp_path / "o")
    generate_pairs(ranks(tokenized(tmp_path / "n")), longer, quiet, said.append)
    assert said == [], "as long as that is whole"


def test_messages_are_rendered_with_one_first_token(tmp_path: Path, job: DatasetRun) -> None:
    talk = {"messages": [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "two"}]}
    (tmp_path / "p.jsonl").write_text(json.dumps(talk) + "\n")
    made, said = ranks(tokenized(tmp_path / "m")), []  # type: tuple[Any, list[str]]
    asked = replace(job, source=f"{tmp_path}/p.jsonl:messages")
    assert generate_pairs(made, asked, quiet, said.append) == 1
    assert (made.asked, said) == ([[1, 2, 6]], [])
    assert list(problems(asked, made.plan.model)) == []
    with pytest.raises(BadInput, match="no chat template here"):
        generate_pairs(ranks(), replace(asked, path=tmp_path / "other.jsonl"), quiet)


def test_the_suite_generates_anew_for_other_weights_of_the_same_name(tmp_path: Path, job: DatasetRun) -> None:
    """`--model=v1/llama`, then `v2/llama`, then other weights where v1 was."""

    def run(place: str) -> str:
        done = suite(
            tmp_path,
            *("-m", f"{CPU} and conformance", *numpy_engine()[:4], "--dtype", "fp32", f"--model={place}"),
            *(f"--prompts={job.source}", "--new-tokens", "4", "-k", "test_every_prompt_of_a_data_set", "-rA"),
            timeout=400,
        )
        return done.stdout + done.stderr

    first = tokenized(tmp_path / "v1" / "llama")
    second = tokenized(tmp_path / "v2" / "llama", change=weights_of)
    assert "1 passed" in run(first)
    assert "1 passed" in run(second)
    files = sorted((tmp_path / "pairs").glob("*.jsonl"))
    texts = [[json.loads(line)["tokens"] for line in file.read_text().splitlines()] for file in files]
    assert len(texts) == 2
    assert texts[0] != texts[1]
    before = [file.read_bytes() for file in files]
    tokenized(tmp_path / "v1" / "llama", change=weights_of)
    said = run(first)
    assert "1 failed" in said
    assert "differ in: model." in said
    assert [file.read_bytes() for file in files] == before
