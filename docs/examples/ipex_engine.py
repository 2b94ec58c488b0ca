"""Intel Extension for PyTorch (IPEX 2.8, archived), qualified by genqual's `external`: token ids in and out.

    pytest -m xeon --benchmark --engine external --model llama-tiny --dtype bf16 \
        --engine-command ".tox/ipex/bin/python docs/examples/ipex_engine.py"

The published Xeon rows were measured with it. It needs `tox -e ipex` (torch 2.8, which genqual's own lock excludes) and
nothing of genqual. `ipex.llm.optimize` replaces attention, rotary, normalisation and linear layers by its kernels, and
generation by its own greedy loop; a logits processor sees every step of that. `--plain` leaves the model as
transformers has it. Dtypes: fp32, bf16, int8-weight (its weight-only INT8, computed in bf16). The protocol is in
docs/engines.md.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import sys
import time
from typing import Any

import torch
from transformers import AutoModelForCausalLM, GenerationConfig, LogitsProcessor, LogitsProcessorList

BEST = 5  # log-probabilities of each step, where they are asked for
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "int8-weight": torch.bfloat16}  # computed in


ANSWERS = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)  # standard output belongs to the protocol, and IPEX prints to it while it is imported


def say(**what: Any) -> None:
    """One answer: a JSON object on a line of its own."""
    ANSWERS.write(json.dumps(what) + "\n")
    ANSWERS.flush()


class Tell(LogitsProcessor):
    """Says every step: the tokens that greedy is about to take, and seconds since the request came."""

    def __init__(self, start: float, top: int) -> None:
        self._start, self._top = start, top

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        more = {}
        if self._top:
            values, ids = torch.log_softmax(scores.double(), dim=-1).topk(self._top)
            more["top"] = [
                [[i, v] for i, v in zip(*row, strict=True)] for row in zip(ids.tolist(), values.tolist(), strict=True)
            ]
        say(tokens=scores.argmax(dim=-1).tolist(), s=time.perf_counter() - self._start, **more)
        return scores


def load(directory: str, scheme: str, *, plain: bool) -> tuple[Any, dict[str, int]]:
    """The model, by IPEX's kernels unless `plain`, and its size, which IPEX's packed weights no longer tell."""
    dtype = DTYPES[scheme]
    model = AutoModelForCausalLM.from_pretrained(directory, torch_dtype=dtype, low_cpu_mem_usage=True).eval()
    size = {"parameters": sum(one.numel() for one in model.parameters())}
    if not scheme.startswith("int8"):
        size["weight_bytes"] = size["parameters"] * dtype.itemsize
    if plain:
        return model, size
    import intel_extension_for_pytorch as ipex  # not above: it patches torch for everybody, and `--plain` is without

    eight = None
    if scheme == "int8-weight":
        made = ipex.quantization
        eight = made.get_weight_only_quant_qconfig_mapping(
            weight_dtype=made.WoqWeightDtype.INT8, lowp_mode=made.WoqLowpMode.BF16
        )
    model = ipex.llm.optimize(model, dtype=dtype, quantization_config=eight, inplace=True, deployment_mode=True)
    return model, size


def generate(model: Any, prompts: list[list[int]], new_tokens: int, top: int) -> None:
    """Greedy, all rows in one batch, padded on the left."""
    start = time.perf_counter()
    width = max(map(len, prompts))
    ids = torch.tensor([[0] * (width - len(row)) + row for row in prompts])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in prompts])
    wanted = GenerationConfig(do_sample=False, max_new_tokens=new_tokens, eos_token_id=None, pad_token_id=0)
    with torch.inference_mode():
        model.generate(
            ids,
            attention_mask=mask,
            generation_config=wanted,
            logits_processor=LogitsProcessorList([Tell(start, min(top, BEST))]),
        )


def main() -> None:
    """Answer one request a line until the input ends."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--plain", action="store_true", help="transformers without IPEX, for comparison")
    options = parser.parse_args()
    model = None
    for line in sys.stdin:
        request = json.loads(line)
        if request["method"] == "load":
            scheme = request["dtype"]
            if scheme not in DTYPES or (options.plain and scheme.startswith("int8")):
                say(protocol=1, unsupported=f"this program loads {', '.join(DTYPES)}, not {scheme} here")
                continue
            torch.set_num_threads(request["threads"])
            model, size = load(request["model"], scheme, plain=options.plain)
            name = "transformers" if options.plain else "intel_extension_for_pytorch"
            say(protocol=1, name=name, version=importlib.metadata.version(name), top=BEST, **size)
        elif request["method"] == "generate" and model is not None:
            generate(model, request["prompts"], request["new_tokens"], request.get("top", 0))
        else:
            say(error=f"{request['method']}: not known, or nothing is loaded")


if __name__ == "__main__":
    main()
