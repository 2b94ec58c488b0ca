"""How far a fault-free list of the best tokens leaves out a better one, in sigma and in the list's own error.

    python -m tests.benchmarks.left_out     # two minutes

Both tiny models, int8-weight, int8-dynamic and bf16 against fp32, at every position of 48 random texts of 40 tokens;
sigma is the RMS centred logit error of the whole run. docs/judge.md, "A free run with its best log-probabilities",
says what follows from it.
"""

from __future__ import annotations

from typing import Any, Final

import torch
from torchao.quantization import Int8DynamicActivationInt8WeightConfig, Int8WeightOnlyConfig, quantize_

from genqual.models.build import build
from genqual.models.registry import resolve

TEXTS, LENGTH, BATCH = 48, 40, 8
SCHEMES: Final[dict[str, Any]] = {
    "int8-weight": Int8WeightOnlyConfig,
    "int8-dynamic": Int8DynamicActivationInt8WeightConfig,
    "bf16": None,
}


def main() -> None:
    """Print a line a model, scheme and length of list."""
    torch.set_num_threads(1)
    drawn = torch.Generator().manual_seed(1)
    for name in ("bloom-tiny", "llama-tiny"):
        spec = resolve(name)
        exact = build(spec, torch.float32).eval()
        ids = torch.randint(3, exact.config.vocab_size, (TEXTS, LENGTH), generator=drawn)
        base = _logits(exact, ids)
        for scheme, config in SCHEMES.items():
            model = build(spec, torch.float32 if config else torch.bfloat16).eval()
            if config:
                quantize_(model, config())
            for line in _said(_logits(model, ids), base):
                print(name, scheme, line, flush=True)


def _logits(model: Any, ids: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        parts = [model(ids[i : i + BATCH], use_cache=False).logits.double() for i in range(0, len(ids), BATCH)]
    return torch.cat(parts)


def _said(got: torch.Tensor, base: torch.Tensor) -> list[str]:
    error = got - base
    error = error - error.mean(-1, keepdim=True)
    sigma = error.pow(2).mean().sqrt()
    ours, exact = got.log_softmax(-1), base.log_softmax(-1)
    cells = error.pow(2).mean(-1).sqrt() / sigma
    lines = [f"positions up to {cells.max():.2f} sigma RMS, single logits up to {error.abs().max() / sigma:.2f} sigma"]
    for best in (2, 5, 16):
        listed = torch.topk(ours, best, -1).indices
        said = exact.gather(-1, listed)
        own = (ours.gather(-1, listed) - said).pow(2).mean(-1).sqrt() / sigma
        rest = exact.scatter(-1, listed, -torch.inf).max(-1).values
        gap = (rest - said.min(-1).values) / sigma
        chosen = (exact.max(-1).values - said[..., 0]) / sigma
        lines.append(
            f"best {best}: {gap.numel()} lists, left out up to {gap.max():.2f} sigma ({int((gap > 8).sum())} beyond 8) "
            f"and up to {(gap / own.clamp(min=1.0)).max():.2f} of the larger of sigma and the list's own error; "
            f"choices up to {chosen.max():.2f} sigma behind"
        )
    return lines


if __name__ == "__main__":
    main()
