"""What fault-free rounding reads at the end of one long text, and what faults of its positions read there.

    python -m tests.benchmarks.long_rows smollm2-135m     # four minutes on two cores

The reference's own texts over and over, begun at each of them; the last 16 positions of each dtype against fp32, nrms
over the dtype's envelope. Then fp32 itself with wrong positions, nrms. docs/judge.md, "Long rows", says what follows.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any, Final

import numpy as np
import torch

from genqual.conformance.references import file
from genqual.conformance.references.data import Reference
from genqual.engines.hf.quantise import TORCHAO, quantise
from genqual.models.load import load
from genqual.models.registry import resolve
from genqual.paths import data_dir

TOTALS, LAST = (64, 128, 256, 512, 1024), 16
FAULTS: Final[dict[str, Callable[[torch.Tensor], torch.Tensor]]] = {
    "positions wrap at 512": lambda at: at % 512,
    "positions wrap at 256": lambda at: at % 256,
    "positions are rounded to bf16": lambda at: at.bfloat16().long(),
    "the last 16 positions are one late": lambda at: at + (at > at.max() - LAST).long(),
}


def main() -> None:
    """Print a line a dtype and length, then a line a fault."""
    parser = argparse.ArgumentParser("python -m tests.benchmarks.long_rows", description=__doc__)
    parser.add_argument("model", help="one that has a reference and whose weights are files: smollm2-135m")
    parser.add_argument("--dtypes", default="int8-weight,bf16,int8-dynamic", help="(default: %(default)s)")
    options = parser.parse_args()
    known = file.read(data_dir("baselines") / "references" / options.model)
    texts = {total: _texts(known, total) for total in TOTALS}
    exact = {total: _last(_model(options.model, "fp32"), ids) for total, ids in texts.items()}
    for dtype in options.dtypes.split(","):
        model = _model(options.model, dtype)
        for total, ids in texts.items():
            read = np.array(_nrms(_last(model, ids), exact[total])) / known.envelopes[dtype].nrms
            each = " ".join(f"{value:.2f}" for value in read)
            print(f"{dtype}, to {total}: median {np.median(read):.2f}, most {read.max():.2f} of {each}", flush=True)
    model = _model(options.model, "fp32")
    for name, positions in FAULTS.items():
        read = np.array(_nrms(_last(model, texts[TOTALS[-1]], positions), exact[TOTALS[-1]]))
        print(f"fp32, {name}, to {TOTALS[-1]}: nrms {read.min():.3f} to {read.max():.3f}", flush=True)


def _texts(known: Reference, total: int) -> torch.Tensor:
    """(texts, total): the reference's prompts with what it wrote to them, one after another, begun at each."""
    rows = [[*prompt, *(int(one) for one in new)] for prompt, new in zip(known.prompts, known.forced, strict=True)]
    begun = [[token for row in rows[first:] + rows[:first] for token in row] for first in range(len(rows))]
    return torch.tensor(np.array([np.resize(text, total) for text in begun]))


def _model(name: str, dtype: str) -> Any:
    computed = {"fp32": torch.float32}.get(dtype, torch.bfloat16)
    model = load(resolve(name), computed)
    return quantise(model, dtype) if dtype in TORCHAO else model


def _last(model: Any, ids: torch.Tensor, positions: Callable[[torch.Tensor], torch.Tensor] | None = None) -> Any:
    """(texts, 16, vocabulary) logits of the last positions, in float64."""
    at = torch.arange(ids.shape[1])
    at = at if positions is None else positions(at)
    told: dict[str, Any] = {
        "position_ids": at[None],
        "attention_mask": torch.ones(1, len(at), dtype=torch.int64),  # or positions that start again are packed texts
        "use_cache": False,
        "logits_to_keep": LAST,
    }
    with torch.no_grad():
        rows = [model(row[None], **told).logits for row in ids]
    return torch.cat(rows).double().numpy()


def _nrms(got: Any, exact: Any) -> list[float]:
    """Of each text: RMS of the centred error over that of the centred exact logits."""
    error, base = got - exact, exact - exact.mean(axis=-1, keepdims=True)
    error -= error.mean(axis=-1, keepdims=True)
    return [float(np.sqrt((a**2).mean() / (b**2).mean())) for a, b in zip(error, base, strict=True)]


if __name__ == "__main__":
    main()
