"""One row of `xeon_decode`, in a process (and environment) of its own: JSON on the last line of standard output.

    python xeon_rows.py ROW MODEL_DIRECTORY NEW_TOKENS REPEATS CORE [ENGINE_COMMAND]

Each row measures the read bandwidth of its own process before and after its decoding, so that the bound it is held
against is of the same minutes, the same core and the same torch.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

COMPILED: dict[str, dict[str, Any]] = {
    "compiled": {"compile_mode": "default"},
    "max-autotune": {"compile_mode": "max-autotune"},
    "tuned": {"compile_mode": "max-autotune", "cpp_wrapper": True, "attn_implementation": "eager"},
}
PROMPT = [3, 141, 59, 26, 535, 89, 79, 323]


def ours(module: str, name: str, directory: str, **options: Any) -> tuple[Callable[[int], tuple[float, float]], str]:
    """An engine of genqual in this process: TTFT and end in seconds, from its own stamps."""
    import importlib

    from genqual.engines.base import LoadRequest, TokenBatch
    from genqual.models.registry import resolve

    engine = getattr(importlib.import_module(f"genqual.engines.{module}"), name)()
    dtype = str(options.pop("dtype", "bf16"))
    engine.load(LoadRequest(resolve(directory), dtype, "cpu", 0, 1, 0, 1, 1, options))
    batch = TokenBatch.of([PROMPT])

    def run(new: int) -> tuple[float, float]:
        steps = engine.generate(batch, new).step_s
        return float(steps[0]), float(steps[-1])

    about = engine.inspect()
    told = {k: about[k] for k in ("freezing", "compile_mode", "cpp_wrapper", "openvino") if k in about}
    return run, json.dumps(told | dict(about.get("says", {})))


def vllm(directory: str, core: int) -> tuple[Callable[[int], tuple[float, float]], str]:
    """vLLM's own offline API: it does not stamp steps here, so a run of one token stands for TTFT."""
    os.environ |= {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_CPU_OMP_THREADS_BIND": str(core),
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_LEVEL": "ERROR",
    }
    from vllm import LLM, SamplingParams, __version__

    model = LLM(model=directory, dtype="bfloat16", max_model_len=512, max_num_seqs=1, skip_tokenizer_init=True)

    def run(new: int) -> tuple[float, float]:
        def timed(count: int) -> float:
            asked = SamplingParams(temperature=0.0, max_tokens=count, ignore_eos=True, detokenize=False)
            start = time.perf_counter()
            (out,) = model.generate([{"prompt_token_ids": PROMPT}], asked, use_tqdm=False)
            assert len(out.outputs[0].token_ids) == count
            return time.perf_counter() - start

        return timed(1), timed(new)

    return run, json.dumps({"vllm": __version__})


def bandwidth() -> float:
    """Bytes a second of the fastest read of the largest buffer, best of the probe's samples."""
    from genqual.metrics.roofline import probe

    read = probe(None, dtype="bf16", threads=1, seconds=2.0)["read"]
    return float(read[-1]["bytes_per_s"])


def main() -> None:
    """Measure, and say it in JSON."""
    row, directory, new, repeats, core = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5])
    os.sched_setaffinity(0, {core})
    os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "0"}
    start = time.perf_counter()
    if row == "vllm":
        run, about = vllm(directory, core)
    elif row.startswith("openvino"):
        run, about = ours("openvino", "OpenVino", directory, dtype="fp32" if row == "openvino" else "bf16")
    elif row in ("llama-cpp", "ipex"):
        run, about = ours("remote.external", "External", directory, command=sys.argv[6])
    elif row == "eager":
        run, about = ours("hf.eager", "TransformersEager", directory)
    else:
        run, about = ours("hf.compiled", "TransformersCompiled", directory, **COMPILED[row])
    run(new)  # warm: graphs, pages
    ready = time.perf_counter() - start
    before = bandwidth()
    tpots = []
    for _ in range(repeats):
        first, last = run(new)
        tpots.append((last - first) / (new - 1))
    after = bandwidth()
    answer = {
        "tpot_s": statistics.median(tpots),
        "tpots_s": tpots,
        "bandwidth": max(before, after),
        "bandwidths": [before, after],
        "ready_s": ready,
        "about": json.loads(about),
        "dtype": "fp32" if row == "openvino" else "bf16",
        "python": Path(sys.executable).name,
    }
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
