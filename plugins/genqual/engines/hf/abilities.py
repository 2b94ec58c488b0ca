"""What engines made of transformers can do beyond the Protocol, for properties that need it. In ranks, by `invoke`.

An `EngineSpec` names these under `abilities`; an engine without one is "not applicable" to the properties that need it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoTokenizer, GenerationConfig

from genqual.cases import Json
from genqual.engines.base import Scores, TokenBatch
from genqual.engines.hf import caches
from genqual.engines.hf.base import of_config
from genqual.engines.hf.score_recorder import ScoreRecorder, on_host
from genqual.engines.remote.sign_tokenizer import tokenizer_of_signs
from genqual.errors import BadInput
from genqual.models import gguf_tokenizer, prompts
from genqual.models.tokenizer_file import explained

I64 = NDArray[np.int64]


def score_passes(
    engine: Any,
    *,
    ids: I64,
    mask: I64,
    forced: I64,
    widths: list[int],
    detours: list[int],
    logits: bool = False,
) -> Scores:
    """Statistics at `forced` (rows, steps), the whole text read through one growing cache in passes of `widths` tokens.

    The cache is the one that the model makes itself: with its windows, its states, or both. Before pass i,
    `detours[i]` other tokens are read and cropped from it again. Raises BadInput when the widths do not add up to
    prompt + steps - 1.
    """
    text = np.concatenate([ids, forced[:, :-1]], axis=1)
    seen = np.concatenate([mask, np.ones_like(forced[:, :-1])], axis=1)
    length, steps = text.shape[1], forced.shape[1]
    if sum(widths) != length or min(widths) < 1 or len(detours) != len(widths):
        raise BadInput(f"passes of {widths} tokens with detours {detours}: the text has {length}")
    cache: Any = None
    recorder, end = ScoreRecorder(keep_logits=logits), 0
    for width, detour in zip(widths, detours, strict=True):
        start, end = end, end + width
        if detour and start:
            other = text[:, :1] * 0 + np.arange(7, 7 + detour)
            caches.prepare_crop(cache)
            _pass(engine, other, np.concatenate([seen[:, :start], np.ones_like(other)], axis=1), cache, last=1)
            cache.crop(-detour)  # transformers 5 takes only what to remove
        first = max(start, length - steps)
        out, cache = _pass(engine, text[:, start:end], seen[:, :end], cache, last=max(1, end - first))
        for place in range(first, end):
            recorder.add(out[:, place - end], forced[:, place - (length - steps)])
    return recorder.scores()


def generate_until(
    engine: Any,
    *,
    ids: I64,
    mask: I64,
    new_tokens: int,
    eos: list[int],
    pad: int,
    least: int,
    max_length: bool,
    strings: list[str],
) -> dict[str, Json | I64]:
    """A greedy run that may stop: `tokens` (rows, up to `new_tokens`), rows that stopped go on with `pad`.

    It runs as a timed run does, by the same cache and graph, and says so where it did not.

    `eos` ids stop a row after `least` tokens, `strings` wherever its new text ends in one. `max_length` states the
    limit as prompt + new tokens. Without a tokenizer.json, token i reads as sign i of `engines.signs`.
    """
    length = ids.shape[1]
    limit = {"max_length": length + new_tokens} if max_length else {"max_new_tokens": new_tokens}
    stops: dict[str, Any] = {"stop_strings": strings, "tokenizer": _tokenizer(engine)} if strings else {}
    options = engine.decode_options(ids.shape[0], length + new_tokens)
    config = GenerationConfig(
        do_sample=False,
        num_beams=1,
        use_cache=True,
        pad_token_id=pad,
        eos_token_id=eos or None,
        min_new_tokens=least or None,
        **limit,
        **of_config(options),
    )
    with torch.no_grad():
        out = engine.run_generate(
            input_ids=_tensor(engine, ids),
            attention_mask=_tensor(engine, mask),
            generation_config=config,
            **options,
            **stops,
        )
    engine.after_decode(out.shape[1] - length)
    return {"tokens": np.asarray(out[:, length:].cpu().numpy(), dtype=np.int64)}


def states(engine: Any, *, ids: I64) -> dict[str, Json | NDArray[np.float32]]:
    """`states` (1 + layers, tokens, hidden) of one row `ids` (1, tokens): what enters layer 0, then each output.

    `logits` (tokens, vocabulary) beside them. Widened to float32 on the host.
    """
    model = engine.model
    count = model.config.get_text_config().num_hidden_layers
    blocks = next(m for m in model.modules() if isinstance(m, torch.nn.ModuleList) and len(m) == count)
    kept: list[torch.Tensor] = []

    def before(module: Any, args: Any, kwargs: Any) -> None:
        kept.append((args[0] if args else kwargs["hidden_states"]).detach())

    def after(module: Any, args: Any, result: Any) -> None:
        kept.append((result[0] if isinstance(result, tuple | list) else result).detach())

    handles = [blocks[0].register_forward_pre_hook(before, with_kwargs=True)]
    handles += [block.register_forward_hook(after) for block in blocks]
    try:
        logits, _ = _pass(engine, ids, np.ones_like(ids), None, keep=False)
    finally:
        for handle in handles:
            handle.remove()
    return {
        "states": np.stack([one[0].cpu().to(torch.float32).numpy() for one in kept]),
        "logits": logits[0].cpu().to(torch.float32).numpy(),
    }


def inputs_kept(engine: Any, *, ids: I64, mask: I64, forced: I64) -> dict[str, Json]:
    """Which of the arrays that an engine was given it wrote to, after a generate and a score: `written`."""
    mine = {"ids": ids.copy(), "mask": mask.copy(), "forced": forced.copy()}
    batch = TokenBatch(mine["ids"], mine["mask"])
    engine.generate(batch, forced.shape[1])
    engine.score(batch, mine["forced"])
    given = {"ids": ids, "mask": mask, "forced": forced}
    return {"written": [name for name, array in mine.items() if not np.array_equal(array, given[name])]}


def first_answer(engine: Any) -> dict[str, NDArray[np.float64]]:
    """`first` (1, vocabulary), the logits of the pass that loading ended with, and `again`, those of the same one now.

    Nothing where the engine kept none.
    """
    if engine.first_logits is None:
        return {}
    return {"first": engine.first_logits, "again": on_host(engine.warm_pass().logits[:, -1])}


def _pass(
    engine: Any, ids: I64, mask: I64, cache: Any, *, keep: bool = True, last: int | None = None
) -> tuple[torch.Tensor, Any]:
    """Logits (rows, width, vocabulary) of one forward pass over `ids`, and the cache; `mask` covers the cache as well.

    Without a cache the model makes its own, unless `keep` is false. Where the model can, only the `last` positions are
    given their logits, as generate asks it: with a vocabulary of 262,000 they take longer than the layers.
    """
    inputs: dict[str, Any] = {"input_ids": _tensor(engine, ids), "attention_mask": _tensor(engine, mask)}
    if "position_ids" in engine._parameters:
        positions = np.maximum(mask.cumsum(axis=1) - 1, 0)[:, -ids.shape[1] :]
        inputs["position_ids"] = _tensor(engine, positions)
    if last is not None and "logits_to_keep" in engine._parameters:
        inputs["logits_to_keep"] = last
    if cache is not None:
        inputs[caches.argument(engine._parameters)] = cache
    with torch.no_grad():
        out = engine.model(**inputs, use_cache=keep, return_dict=True)
    return out.logits, caches.of_output(out)


def _tensor(engine: Any, array: I64) -> torch.Tensor:
    return torch.from_numpy(np.array(array)).to(engine._torch_device)


def _tokenizer(engine: Any) -> Any:
    model = engine.request.model
    if prompts.has_tokenizer(model):
        with explained(
            f"model {model.name}: its tokenizer cannot be used by transformers", "mend or replace its files"
        ):
            of_file = model.source == "gguf"  # as a folder: transformers knows a file's tokenizer for a few kinds only
            place = str(gguf_tokenizer.tokenizer_json(model).parent) if of_file else model.location
            made = AutoTokenizer.from_pretrained(place)
            made("abcdef", add_special_tokens=False)  # as transformers asks it for stop strings, in the middle of a run
        return made
    return tokenizer_of_signs(engine.model.config.get_text_config().vocab_size)
