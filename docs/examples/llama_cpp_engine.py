"""llama.cpp, qualified by genqual's `external`: llama-cpp-python on one GGUF file, token ids in and out.

    genqual models write llama-tiny llama-tiny.gguf
    pytest -m xeon --benchmark --engine external --model llama-tiny --dtype fp32 \
        --engine-command ".tox/llama-cpp/bin/python docs/examples/llama_cpp_engine.py llama-tiny.gguf"

It needs llama-cpp-python and NumPy (`tox -e llama-cpp`), and nothing of genqual or of the example beside it: a program
that the suite starts cannot import its neighbours. All rows of a batch are one batch of llama.cpp, a sequence each;
greedy is the argmax of its logits. `--kv=f16` keeps the cache in f16, llama.cpp's own default, and `--flash-attention`
takes that kernel: each costs fp32 its precision, and the suite then fails. The protocol is in docs/engines.md.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib.metadata
import json
import sys
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from llama_cpp import llama_cpp as cpp

BEST = 5  # log-probabilities of each step, where they are asked for
CACHES = {"f32": 0, "f16": 1}  # ggml_type
DTYPES = {"0": "fp32", "32": "bf16"}  # general.file_type
Array = np.ndarray[Any, np.dtype[np.float32]]


def say(**what: Any) -> None:
    """One answer: a JSON object on a line of its own."""
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


@cpp.llama_log_callback
def quietly(level: int, text: bytes, _: ctypes.c_void_p) -> None:
    """llama.cpp's own log: errors to standard error, which genqual keeps; nothing else."""
    if level == 4:  # GGML_LOG_LEVEL_ERROR; 5 goes on with a line of any level
        sys.stderr.write(text.decode(errors="replace"))


class Engine:
    """One file, loaded. Contexts are made for the size of a request and kept while requests have that size."""

    def __init__(self, file: str, threads: int, cache: str, *, flash: bool) -> None:
        cpp.llama_log_set(quietly, ctypes.c_void_p(0))
        cpp.llama_backend_init()
        self.model = cpp.llama_model_load_from_file(file.encode(), cpp.llama_model_default_params())
        if not self.model:
            raise SystemExit(f"{file}: llama.cpp cannot load it")
        self.vocabulary = cpp.llama_vocab_n_tokens(cpp.llama_model_get_vocab(self.model))
        self.threads, self.cache, self.flash = threads, CACHES[cache], int(flash)
        self._size, self._context, self._batch = (0, 0), None, None

    @property
    def dtype(self) -> str:
        """What the file's matrices are in, in genqual's words."""
        value = ctypes.create_string_buffer(32)
        cpp.llama_model_meta_val_str(self.model, b"general.file_type", value, 32)
        return DTYPES.get(value.value.decode(), f"file type {value.value.decode()}")

    def begin(self, rows: int, tokens: int) -> None:
        """An empty cache for `rows` sequences of at most `tokens`."""
        if self._size != (rows, tokens):
            self._forget()
            wanted = cpp.llama_context_default_params()
            wanted.n_ctx = wanted.n_batch = rows * tokens
            wanted.n_seq_max = rows
            wanted.n_threads = wanted.n_threads_batch = self.threads
            wanted.type_k = wanted.type_v = self.cache
            wanted.flash_attn_type = self.flash  # else llama.cpp chooses, and a CPU's is no fp32: docs/engines.md
            wanted.kv_unified = True  # or n_ctx would be shared out among the sequences
            self._context = cpp.llama_init_from_model(self.model, wanted)
            if not self._context:
                raise SystemExit(f"llama.cpp makes no context for {rows} rows of {tokens} tokens")
            self._batch = cpp.llama_batch_init(rows * tokens, 0, 1)
            self._size = (rows, tokens)
        cpp.llama_memory_clear(cpp.llama_get_memory(self._context), True)

    def _forget(self) -> None:
        if self._context is not None:
            cpp.llama_batch_free(self._batch)
            cpp.llama_free(self._context)
            self._context = None

    def read(self, rows: Sequence[Sequence[int]], at: Sequence[int]) -> list[Array]:
        """The logits (vocabulary) after each row's tokens, which stand at positions `at` and on."""
        batch, count = self._batch, 0
        last = []
        for index, (row, first) in enumerate(zip(rows, at, strict=True)):
            for offset, token in enumerate(row):
                batch.token[count], batch.pos[count] = token, first + offset
                batch.n_seq_id[count], batch.seq_id[count][0] = 1, index
                batch.logits[count] = offset + 1 == len(row)
                count += 1
            last.append(count - 1)
        batch.n_tokens = count
        if code := cpp.llama_decode(self._context, batch):
            raise RuntimeError(f"llama_decode of {count} tokens in {len(rows)} rows gave {code}")
        shape = (self.vocabulary,)
        return [np.ctypeslib.as_array(cpp.llama_get_logits_ith(self._context, i), shape).copy() for i in last]


def best(logits: Array, count: int) -> list[list[float]]:
    """The `count` best tokens with their log-probabilities, as pairs, best first: the log-softmax in float64."""
    below = logits.astype(np.float64) - logits.max()
    order = np.argsort(-logits, kind="stable")[:count]
    found = below[order] - np.log(np.exp(below).sum())
    return [[int(token), float(value)] for token, value in zip(order, found, strict=True)]


def generate(engine: Engine, prompts: list[list[int]], new_tokens: int, top: int) -> None:
    """Greedy, all rows in one batch, one line a step: the tokens of all rows, and seconds since the request came."""
    start = time.perf_counter()
    engine.begin(len(prompts), max(map(len, prompts)) + new_tokens)
    logits = engine.read(prompts, [0] * len(prompts))
    for step in range(new_tokens):
        chosen = [int(one.argmax()) for one in logits]
        more = {"top": [best(one, min(top, BEST)) for one in logits]} if top else {}
        say(tokens=chosen, s=time.perf_counter() - start, **more)
        if step + 1 < new_tokens:
            logits = engine.read([[token] for token in chosen], [len(row) + step for row in prompts])


def main() -> None:
    """Answer one request a line until the input ends."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("file", help="a .gguf file of the model that is asked for")
    parser.add_argument("--kv", choices=CACHES, help="of the cache (default: f32 for fp32, else f16)")
    parser.add_argument("--flash-attention", action="store_true", help="llama.cpp's own kernel, less precise on a CPU")
    options = parser.parse_args()
    engine = None
    for line in sys.stdin:
        request = json.loads(line)
        if request["method"] == "load":
            cache = options.kv or ("f32" if request["dtype"] == "fp32" else "f16")
            engine = Engine(options.file, request["threads"], cache, flash=options.flash_attention)
            if engine.dtype != request["dtype"]:
                say(protocol=1, unsupported=f"{options.file} holds {engine.dtype}, not {request['dtype']}")
                engine = None
            else:
                version = importlib.metadata.version("llama-cpp-python")
                say(
                    protocol=1,
                    name="llama.cpp",
                    version=version,
                    weight_bytes=cpp.llama_model_size(engine.model),
                    parameters=cpp.llama_model_n_params(engine.model),
                    top=BEST,
                )
        elif request["method"] == "generate" and engine is not None:
            generate(engine, request["prompts"], request["new_tokens"], request.get("top", 0))
        else:
            say(error=f"{request['method']}: not known, or nothing is loaded")


if __name__ == "__main__":
    main()
