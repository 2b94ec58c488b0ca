"""The streamed oracle says what the oracle in memory says, to the bit, however often it is interrupted."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from genqual.conformance.oracle import streamed_state
from genqual.conformance.oracle.registry import oracle_for
from genqual.conformance.oracle.streamed import Progress, StreamedOracle, stream_key
from genqual.conformance.oracle.streamed_state import StreamState
from genqual.conformance.oracle.streamed_weights import BLOCK, Single, Window
from genqual.conformance.references import file as reference_file
from genqual.conformance.references.make import Reference, make
from genqual.errors import BadInput
from genqual.models import safetensor

from .small import BLOOM, LLAMA, parameters

TIED = {**LLAMA, "tie_word_embeddings": True}
AFTER_NORM = {**BLOOM, "apply_residual_connection_post_layernorm": True, "tie_word_embeddings": True}
CONFIGS = pytest.mark.parametrize(
    "config", [LLAMA, TIED, BLOOM, AFTER_NORM], ids=["llama", "llama-tied", "bloom", "bloom-after-norm-tied"]
)
PROMPTS = [[5, 9, 200], [17], [3, 1, 4, 1, 5, 9, 2, 6]]
STEPS = 5
ANEW = r"delete .*state/\*\.safetensors and run the same command again"
SMALL_BLOCK = 64 * 64  # of a vocabulary of 256 x 64: four blocks


class Interrupted(Exception):
    """In place of a signal."""


def shards(folder: Path, config: Mapping[str, Any]) -> safetensor.Tensors:
    """The weights of `config` as a checkpoint of two files, read lazily."""
    folder.mkdir(exist_ok=True)
    state = parameters(config)
    places = {name: f"model-{1 + index % 2}.safetensors" for index, name in enumerate(state)}
    for file in set(places.values()):
        save_file({name: values for name, values in state.items() if places[name] == file}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    entries = safetensor.checkpoint(folder)
    return safetensor.Tensors(entries, {name: name for name in entries})


def streamed(
    config: Mapping[str, Any],
    room: Path,
    *,
    block: int = BLOCK,
    prompts: list[list[int]] = PROMPTS,
    single: Single = nullcontext,
) -> StreamedOracle:
    key = stream_key(config, "0" * 64, prompts, STEPS)
    state, weights = StreamState(room / "state", key), shards(room / "weights", config)
    return StreamedOracle(config, weights, prompts, STEPS, state, block=block, single=single)


def in_memory(config: Mapping[str, Any]) -> Reference:
    return make("small", "0" * 64, oracle_for(config, parameters(config)), PROMPTS, STEPS)


def referred(oracle: StreamedOracle) -> Reference:
    return make("small", "0" * 64, oracle, PROMPTS, STEPS, facts={"oracle": oracle.name})


@CONFIGS
def test_it_writes_the_bytes_of_the_oracle_in_memory(config: Mapping[str, Any], tmp_path: Path) -> None:
    oracle = streamed(config, tmp_path)
    oracle.run()
    assert reference_file.write(referred(oracle), tmp_path / "streamed") == reference_file.write(
        in_memory(config), tmp_path / "in-memory"
    )
    assert (tmp_path / "streamed" / "reference.safetensors").read_bytes() == (
        tmp_path / "in-memory" / "reference.safetensors"
    ).read_bytes()


@CONFIGS
def test_tables_and_matrices_in_blocks_are_the_same_to_rounding(config: Mapping[str, Any], tmp_path: Path) -> None:
    oracle = streamed(config, tmp_path, block=SMALL_BLOCK)  # so small that BLAS takes another kernel
    oracle.run()
    got, want = referred(oracle), in_memory(config)
    assert got.tokens.tolist() == want.tokens.tolist()
    assert got.top_ids.tolist() == want.top_ids.tolist()
    for name in ("margins", "top_logits", "logsumexp", "spread"):
        np.testing.assert_allclose(getattr(got, name), getattr(want, name), rtol=0, atol=1e-12)
    np.testing.assert_allclose(got.projections, want.projections, rtol=0, atol=1e-6)  # kept in float32


def interrupted_every(steps: int, config: Mapping[str, Any], room: Path) -> tuple[list[StreamedOracle], list[Progress]]:
    """Runs that end after so many steps each, until one gets to the end: their oracles, and every step of all."""
    seen: list[Progress] = []
    oracles: list[StreamedOracle] = []

    def stops(now: Progress) -> None:
        seen.append(now)
        if len(seen) % steps == 0:
            raise Interrupted

    while True:
        oracles.append(streamed(config, room))
        try:
            oracles[-1].run(stops)
        except Interrupted:
            continue
        return oracles, seen


@CONFIGS
def test_it_goes_on_wherever_it_was_interrupted(config: Mapping[str, Any], tmp_path: Path) -> None:
    oracles, seen = interrupted_every(4, config, tmp_path)
    assert len(oracles) == 6
    # Three layers and a choice in each pass but the last, which chooses nothing; none was gone through twice.
    assert [(now.turn, now.layer) for now in seen] == [
        *((turn + (place == 4), place % 4) for turn in range(STEPS) for place in (1, 2, 3, 4)),
        *((STEPS, layer) for layer in (1, 2, 3)),
    ]
    assert reference_file.write(referred(oracles[-1]), tmp_path / "a") == reference_file.write(
        in_memory(config), tmp_path / "b"
    )


def test_it_goes_on_when_keys_and_values_were_written_and_the_state_was_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = StreamState.keep
    calls: list[None] = []

    def torn(self: StreamState, place: Any) -> None:
        calls.append(None)
        if len(calls) % 3 == 0:
            raise Interrupted
        kept(self, place)

    monkeypatch.setattr(StreamState, "keep", torn)
    while True:
        oracle = streamed(LLAMA, tmp_path)
        try:
            oracle.run()
        except Interrupted:
            continue
        break
    assert len(calls) > 30
    assert reference_file.write(referred(oracle), tmp_path / "a") == reference_file.write(
        in_memory(LLAMA), tmp_path / "b"
    )


def test_each_weight_is_read_once_a_pass_whatever_the_number_of_prompts(tmp_path: Path) -> None:
    oracle = streamed(LLAMA, tmp_path)
    oracle.run()
    sizes = {name: values.size for name, values in parameters(LLAMA).items()}
    layers = sum(size for name, size in sizes.items() if ".layers." in name)
    choices = (STEPS + 1) * (sizes["lm_head.weight"] + sizes["model.norm.weight"])  # the last proves them all at once
    longest = [len(row) + STEPS - 1 for row in PROMPTS]
    embedded = (sum(map(len, PROMPTS)) + (STEPS - 1) * len(PROMPTS) + sum(longest)) * 64
    assert oracle.read == (STEPS + 1) * layers + choices + embedded


def misled(monkeypatch: pytest.MonkeyPatch, *, most: int = 1000) -> list[None]:
    """Products in float32 are off by as much as they are large, `most` times: tokens that nobody would choose."""
    plain = Window._products
    done: list[None] = []
    random = np.random.default_rng(4)

    def off(self: Window, want: Any, given: list[Any]) -> list[Any]:
        found = plain(self, want, given)
        if self.narrow and len(done) < most:
            done.append(None)
            found = [one + random.standard_normal(one.shape) * np.abs(one).max() for one in found]
        return found

    monkeypatch.setattr(Window, "_products", off)
    return done


@CONFIGS
@pytest.mark.parametrize("most", [3, 1000])
def test_a_token_that_float32_chose_wrongly_is_chosen_again(
    config: Mapping[str, Any], most: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = misled(monkeypatch, most=most)
    oracles, _ = interrupted_every(7, config, tmp_path)
    assert done
    assert sum(oracle.corrected for oracle in oracles) > 0
    assert reference_file.write(referred(oracles[-1]), tmp_path / "a") == reference_file.write(
        in_memory(config), tmp_path / "b"
    )


def test_a_choice_that_was_wrong_costs_passes_of_its_own_row_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second prompt's last token is wrong: nothing is chosen again, and the full pass is made twice."""
    plain = StreamedOracle._next_tokens

    def wrong(self: StreamedOracle, place: Any) -> Any:
        found = plain(self, place)
        if found.turn == STEPS:
            found.tokens[1, -1] = (found.tokens[1, -1] + 1) % self.vocabulary
        return found

    monkeypatch.setattr(StreamedOracle, "_next_tokens", wrong)
    seen: list[Progress] = []
    oracle = streamed(LLAMA, tmp_path)
    oracle.run(seen.append)
    assert oracle.corrected == 1
    assert [(now.turn, now.layer) for now in seen[-3 - 4 :]] == [(5, 1), (5, 2), (5, 3), (0, 0), (0, 1), (0, 2), (0, 3)]
    assert reference_file.write(referred(oracle), tmp_path / "a") == reference_file.write(
        in_memory(LLAMA), tmp_path / "b"
    )


def test_choices_are_made_in_float32_and_proved_in_float64(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    widths: list[str] = []
    plain = Window._part

    def noted(self: Window, name: str, start: int, stop: int, dtype: Any) -> Any:
        widths.append(np.dtype(dtype).name)
        return plain(self, name, start, stop, dtype)

    monkeypatch.setattr(Window, "_part", noted)
    oracle = streamed(LLAMA, tmp_path)
    oracle.run()
    matrices = 3 * 7 + 1  # of the layers, and the head
    assert widths.count("float32") == STEPS * matrices


def test_blas_has_one_thread_where_blocks_are_multiplied_side_by_side(tmp_path: Path) -> None:
    entered: list[None] = []

    @contextmanager
    def single() -> Iterator[None]:
        entered.append(None)
        yield

    streamed(LLAMA, tmp_path, single=single).run()
    assert len(entered) == (STEPS + 1) * (3 * 7 + 1)  # linear layers and the head of each pass


def test_a_state_of_an_earlier_version_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as earlier:
        earlier.setattr(streamed_state, "_VERSION", 2)
        interrupted(tmp_path)
    with pytest.raises(BadInput, match=rf"belongs to another run.*{ANEW}"):
        streamed(LLAMA, tmp_path).run()


def interrupted(room: Path, *, after: int = 9) -> Path:
    """A state in the third pass; its folder."""
    seen: list[Progress] = []

    def stops(now: Progress) -> None:
        seen.append(now)
        if len(seen) == after:
            raise Interrupted

    with pytest.raises(Interrupted):
        streamed(LLAMA, room).run(stops)
    return room / "state"


@pytest.mark.parametrize("name", ["state.safetensors", "layer001.safetensors"])
@pytest.mark.parametrize("where", [0.02, 0.5, 0.999])
def test_a_byte_that_changed_on_disk_is_refused(name: str, where: float, tmp_path: Path) -> None:
    file = interrupted(tmp_path) / name
    data = bytearray(file.read_bytes())
    data[int(where * len(data))] ^= 1
    file.write_bytes(data)
    with pytest.raises(BadInput, match=rf"{name}.*{ANEW}"):
        streamed(LLAMA, tmp_path).run()


@pytest.mark.parametrize("name", ["state.safetensors", "layer001.safetensors"])
@pytest.mark.parametrize("left", [0.0, 0.5, 0.99])
def test_a_file_that_was_cut_short_is_refused(name: str, left: float, tmp_path: Path) -> None:
    file = interrupted(tmp_path) / name
    file.write_bytes(file.read_bytes()[: int(left * file.stat().st_size)])
    with pytest.raises(BadInput, match=f"{name}.*begins anew"):
        streamed(LLAMA, tmp_path).run()


def test_a_file_that_is_missing_or_of_an_earlier_pass_is_refused(tmp_path: Path) -> None:
    file = interrupted(tmp_path, after=5) / "layer001.safetensors"
    early = file.read_bytes()
    interrupted(tmp_path)
    file.write_bytes(early)
    with pytest.raises(BadInput, match="holds 3 tokens of row 0, not 6"):
        streamed(LLAMA, tmp_path).run()
    file.unlink()
    with pytest.raises(BadInput, match="is missing"):
        streamed(LLAMA, tmp_path).run()


def test_a_state_of_other_prompts_is_refused(tmp_path: Path) -> None:
    interrupted(tmp_path)
    with pytest.raises(BadInput, match="another run"):
        streamed(LLAMA, tmp_path, prompts=[[5, 9, 201], *PROMPTS[1:]]).run()


@pytest.mark.parametrize("change", ["config", "weights", "prompts", "steps"])
def test_everything_that_would_change_a_number_changes_the_key(change: str) -> None:
    of: dict[str, Any] = {"config": LLAMA, "weights": "0" * 64, "prompts": PROMPTS, "steps": STEPS}
    other = {"config": {**LLAMA, "rope_theta": 9e3}, "weights": "1" * 64, "prompts": PROMPTS[::-1], "steps": 6}
    plain, changed = (stream_key(*each.values()) for each in (of, of | {change: other[change]}))
    assert plain == stream_key(*of.values())
    assert plain != changed


def test_a_shard_that_is_cut_short_meanwhile_is_named(tmp_path: Path) -> None:
    oracle = streamed(LLAMA, tmp_path)
    shard = tmp_path / "weights" / "model-1.safetensors"
    whole = shard.read_bytes()
    shard.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BadInput, match=r"model-1\.safetensors: .* the file was cut short meanwhile"):
        oracle.run()
    shard.unlink()
    with pytest.raises(BadInput, match=r"model-1\.safetensors: .* cannot be read"):
        oracle.run()
    shard.write_bytes(whole)
    oracle.run()
    assert reference_file.write(referred(oracle), tmp_path / "a") == reference_file.write(
        in_memory(LLAMA), tmp_path / "b"
    )


def test_a_misshapen_weight_is_named(tmp_path: Path) -> None:
    wider: dict[str, Any] = {**LLAMA, "intermediate_size": 128}
    oracle = StreamedOracle(
        wider, shards(tmp_path / "weights", LLAMA), PROMPTS, STEPS, StreamState(tmp_path / "state", "key")
    )
    with pytest.raises(BadInput, match=r"gate_proj.*\(160, 64\).*\(128, 64\)"):
        oracle.run()


def test_it_knows_only_what_it_was_made_for(tmp_path: Path) -> None:
    oracle = streamed(LLAMA, tmp_path)
    with pytest.raises(RuntimeError, match="run"):
        oracle.greedy(PROMPTS[0], STEPS)
    oracle.run()
    with pytest.raises(BadInput, match="made for"):
        oracle.greedy(PROMPTS[0], STEPS - 1)
    with pytest.raises(BadInput, match="made for"):
        oracle.logits([1, 2, 3])
    assert np.array_equal(oracle.greedy(PROMPTS[1], STEPS), in_memory(LLAMA).forced[1])
