"""How far fault-free rounding moves routers: the numbers of docs/judge.md, "Routers".

    python -m tests.benchmarks.router_ties [MODEL ...]

Small random models of transformers in fp32, bf16 and fp16 against the oracle, in units of the nrms of the median cell.
Minutes; needs torch and transformers.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoConfig, AutoModelForCausalLM

from genqual.conformance.oracle.core import At, CausalOracle
from genqual.conformance.oracle.experts import Mixture
from genqual.conformance.oracle.registry import oracle_for
from genqual.conformance.router_ties import OTHER_SIGMAS, TIE_SIGMAS, near_ties

F64 = NDArray[np.float64]

ROWS: Final = 48
TOKENS: Final = 40
FIRST: Final = 7  # cells are judged from here on, as a prompt's are
DTYPES: Final = {
    "fp32": (torch.float32, 2.0**-24),
    "bf16": (torch.bfloat16, 2.0**-9),
    "fp16": (torch.float16, 2.0**-12),
}
_BASE: Final[dict[str, Any]] = {
    **{"vocab_size": 512, "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 4},
    **{"num_attention_heads": 8, "num_key_value_heads": 4, "num_experts_per_tok": 2},
    **{"max_position_embeddings": 2048, "initializer_range": 0.1},
}
_LATENT: Final = {
    **{"num_key_value_heads": 8, "n_routed_experts": 8, "moe_intermediate_size": 64, "q_lora_rank": 64},
    **{"kv_lora_rank": 32, "qk_rope_head_dim": 16, "qk_nope_head_dim": 32, "v_head_dim": 32},
    **{"first_k_dense_replace": 1, "n_shared_experts": 1},
}
MODELS: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "mixtral": ("mixtral", {"num_local_experts": 4}),
    "qwen2_moe": ("qwen2_moe", {"num_experts": 8, "moe_intermediate_size": 64, "shared_expert_intermediate_size": 64}),
    "qwen3_moe": ("qwen3_moe", {"head_dim": 32, "num_experts": 8, "moe_intermediate_size": 64}),
    "gpt_oss": ("gpt_oss", {"head_dim": 32, "num_local_experts": 4, "sliding_window": 32}),
    "deepseek_v2": ("deepseek_v2", _LATENT),
    "deepseek_v3": ("deepseek_v3", _LATENT | {"n_group": 2, "topk_group": 1}),
    "qwen3_moe of 64 experts": (
        "qwen3_moe",
        {
            "head_dim": 32,
            "num_experts": 64,
            "num_experts_per_tok": 8,
            "moe_intermediate_size": 64,
            "num_hidden_layers": 12,
        },
    ),
}


def config_of(name: str) -> Any:
    """The configuration of one model."""
    kind, own = MODELS[name]
    return AutoConfig.for_model(kind, **(_BASE | own))


def model_of(name: str, dtype: torch.dtype, weights: dict[str, torch.Tensor] | None = None) -> Any:
    """A model in `dtype`, random without `weights`; buffers as it makes them: rotary tables stay fp32."""
    torch.manual_seed(sum(map(ord, name)))
    made = AutoModelForCausalLM.from_config(config_of(name), dtype=dtype, attn_implementation="eager")
    if weights is not None:
        made.load_state_dict(weights)
    return made.eval()


def random_weights(name: str) -> dict[str, torch.Tensor]:
    """Weights that bf16 holds exactly; no norm is one and no bias zero."""
    weights = model_of(name, torch.float32).state_dict()
    noise = {key: 0.1 * torch.randn_like(w) if w.dim() == 1 else torch.zeros(()) for key, w in weights.items()}
    return {key: (w + noise[key]).bfloat16().float() for key, w in weights.items()}


def engine(model: Any, ids: torch.Tensor) -> tuple[F64, F64]:
    """Logits (rows, tokens, vocabulary), and which experts are chosen, (layers, rows, tokens, experts)."""
    chosen: list[NDArray[np.bool_]] = []

    def look(_: object, __: object, out: tuple[torch.Tensor, torch.Tensor, torch.Tensor]) -> None:
        mask = torch.zeros_like(out[0], dtype=torch.bool).scatter_(1, out[2], torch.ones_like(out[2], dtype=torch.bool))
        chosen.append(mask.reshape(*ids.shape, -1).numpy())

    hooks = [m.register_forward_hook(look) for m in model.modules() if type(m).__name__.endswith("Router")]
    logits = model(input_ids=ids).logits.double().numpy()
    for hook in hooks:
        hook.remove()
    return logits, np.stack(chosen)


@contextmanager
def choices() -> Iterator[list[NDArray[np.bool_]]]:
    """What the oracle's mixtures choose meanwhile, (tokens, experts) each."""
    found: list[NDArray[np.bool_]] = []
    original = Mixture.__call__

    def call(self: Mixture, x: F64, at: At) -> F64:
        logits = self.gate(x, at)
        routing = self.router.route(logits, at.weights[self.correction] if self.correction else None)
        mask = np.zeros(logits.shape, dtype=np.bool_)
        np.put_along_axis(mask, routing.experts, values=True, axis=1)
        found.append(mask)
        return original(self, x, at)

    Mixture.__call__ = call  # type: ignore[method-assign]
    try:
        yield found
    finally:
        Mixture.__call__ = original  # type: ignore[method-assign]


def truth(oracle: CausalOracle, ids: NDArray[np.int64]) -> tuple[F64, F64, F64]:
    """As `engine`, by the oracle, and margins (rows, tokens, layers)."""
    logits, masks, margins = [], [], []
    for row in ids:
        with choices() as found:
            said, margin = oracle.traced(row)
        assert margin is not None
        logits.append(said)
        masks.append(np.stack(found))
        margins.append(margin)
    return np.stack(logits), np.stack(masks, axis=1), np.stack(margins)


def measured(name: str) -> None:
    """Print the numbers of one model."""
    weights = random_weights(name)
    oracle: Any = oracle_for(config_of(name).to_dict(), {key: tensor.numpy() for key, tensor in weights.items()})
    ids = torch.randint(3, 500, (ROWS, TOKENS))
    want, right, margins = truth(oracle, ids.numpy())
    sparse = np.isfinite(margins).all(axis=(0, 1))
    for dtype, (torch_dtype, rounding) in DTYPES.items():
        got, chose = engine(model_of(name, torch_dtype, weights), ids)
        error = (got - got.mean(-1, keepdims=True)) - (want - want.mean(-1, keepdims=True))
        cells = np.sqrt((error**2).mean(-1)) / np.sqrt(want.var(axis=-1).mean())
        unit = float(np.median(cells))
        other = (chose != right).any(axis=-1)  # (layers, rows, tokens)
        # The first choice of a row that differs is rounding's; those behind it may follow from it.
        before = np.cumsum(other.any(axis=2), axis=0) - other.any(axis=2)
        flipped = margins.transpose(2, 0, 1)[sparse][other & (before == 0)[:, :, None]] / unit
        near = np.stack([near_ties(row, FIRST, TOKENS - FIRST, TIE_SIGMAS * unit) for row in margins])
        judged = cells[:, FIRST:] / unit
        share = (judged > OTHER_SIGMAS).reshape(-1, 8, TOKENS - FIRST).mean(axis=(1, 2)).max()
        clear = judged[~near].max() if (~near).any() else float("nan")
        most = f"{flipped.max():.2f} of {flipped.size}" if flipped.size else "none"
        print(
            f"{name:24s} {dtype}: median cell {unit / rounding:5.1f} roundings; another expert at margins up to "
            f"{most}; off by more than {OTHER_SIGMAS:g}: {share:.2f} of 8 rows at most; without a near tie up to "
            f"{clear:.2f}",
            flush=True,
        )


def main() -> None:
    torch.set_num_threads(1)
    with torch.no_grad():
        for name in sys.argv[1:] or MODELS:
            measured(name)


if __name__ == "__main__":
    main()
