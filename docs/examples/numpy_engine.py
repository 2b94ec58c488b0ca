"""A whole engine in NumPy, qualified by genqual's `external`: greedy decoding of a Llama with a key-value cache.

    pytest -m xeon --engine external --model llama-odd --dtype fp32 \
        --engine-command "python docs/examples/numpy_engine.py"

It needs NumPy only, and shares no line with genqual. It reads what the configuration says (rotary base and llama3
scaling, width of a head, epsilon, biases, tied embeddings), and refuses what it does not know. `--fault stale-cache` or
`--fault rotary` breaks it on purpose: then the suite must fail. The protocol is in docs/engines.md.
"""

from __future__ import annotations

import argparse
import json
import struct
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

BEST = 5  # log-probabilities of each step, where they are asked for
Array = np.ndarray[Any, np.dtype[np.float32]]


def read_weights(file: Path) -> dict[str, Array]:
    """Every tensor of a safetensors file in bf16 or fp32, widened to float32."""
    raw = file.read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8 : 8 + length])
    found = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        start, end = entry["data_offsets"]
        body = raw[8 + length + start : 8 + length + end]
        if entry["dtype"] == "BF16":
            values = (np.frombuffer(body, "<u2").astype(np.uint32) << 16).view(np.float32)
        else:
            values = np.frombuffer(body, "<f4")
        found[name] = values.reshape(entry["shape"])
    return found


def frequencies(config: dict[str, Any], width: int, factor: float) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Radians a position of each pair, (width / 2,): Llama 3 slows those that turn seldom in its old context."""
    rope = config.get("rope_parameters") or {"rope_theta": config["rope_theta"], **(config.get("rope_scaling") or {})}
    plain = (rope["rope_theta"] * factor) ** -(np.arange(0, width, 2, dtype=np.float64) / width)
    if rope.get("rope_type", "default") == "default":
        return plain
    turns = rope["original_max_position_embeddings"] * plain / (2 * np.pi)
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    share = np.clip((turns - low) / (high - low), 0.0, 1.0)
    return share * plain + (1.0 - share) * plain / rope["factor"]


def unknown(config: dict[str, Any], dtype: str) -> str | None:
    """Why this program cannot run a model, or None."""
    if config["model_type"] != "llama" or dtype != "fp32":
        return f"this example runs Llamas in fp32, not {config['model_type']} in {dtype}"
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    kind = rope.get("rope_type", "default")
    if kind not in ("default", "llama3") or config["hidden_act"] != "silu":
        return f"this example knows no rotary scaling {kind!r} with activation {config['hidden_act']!r}"
    return None


class Llama:
    """One sequence at a time: `step` takes a token and its position and gives the logits of the next one."""

    def __init__(self, directory: Path, fault: str) -> None:
        self.config = json.loads((directory / "config.json").read_text())
        self.weights = read_weights(directory / "model.safetensors")
        self.fault = fault
        self.heads, self.kv_heads = self.config["num_attention_heads"], self.config["num_key_value_heads"]
        self.width = self.config["head_dim"]
        self.eps = np.float32(self.config["rms_norm_eps"])
        self.tied = self.config["tie_word_embeddings"]
        self.frequencies = frequencies(self.config, self.width, 1.1 if fault == "rotary" else 1.0)
        self.forget()

    def linear(self, x: Array, name: str) -> Array:
        """The product with a matrix, and its bias where the checkpoint has one."""
        product = self.weights[f"{name}.weight"] @ x
        bias = self.weights.get(f"{name}.bias")
        return product if bias is None else product + bias

    def forget(self) -> None:
        """Empty the cache, before the next sequence."""
        layers = self.config["num_hidden_layers"]
        self.keys: list[list[Array]] = [[] for _ in range(layers)]
        self.values: list[list[Array]] = [[] for _ in range(layers)]

    def norm(self, x: Array, name: str) -> Array:
        scale = np.sqrt(np.mean(x * x) + self.eps)
        return x / scale * self.weights[name]

    def rotate(self, x: Array, position: int) -> Array:
        angle = position * self.frequencies
        cos, sin = np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)
        low, high = np.split(x, 2, axis=-1)
        return np.concatenate([low * cos - high * sin, high * cos + low * sin], axis=-1)

    def attend(self, x: Array, layer: int, position: int, prefix: str) -> Array:
        def project(name: str, heads: int) -> Array:
            return self.linear(x, f"{prefix}.self_attn.{name}_proj").reshape(heads, self.width)

        query = self.rotate(project("q", self.heads), position)
        key, value = self.rotate(project("k", self.kv_heads), position), project("v", self.kv_heads)
        if self.fault == "stale-cache" and layer == 1 and self.keys[layer]:
            key, value = self.keys[layer][-1], self.values[layer][-1]
        self.keys[layer].append(key)
        self.values[layer].append(value)
        group = self.heads // self.kv_heads
        keys = np.repeat(np.stack(self.keys[layer], axis=1), group, axis=0)  # (heads, positions, width)
        values = np.repeat(np.stack(self.values[layer], axis=1), group, axis=0)
        scores = np.einsum("hd,hpd->hp", query, keys) / np.float32(np.sqrt(self.width))
        chances = np.exp(scores - scores.max(axis=-1, keepdims=True))
        chances /= chances.sum(axis=-1, keepdims=True)
        mixed = np.einsum("hp,hpd->hd", chances, values).reshape(-1)
        return self.linear(mixed, f"{prefix}.self_attn.o_proj")

    def step(self, token: int, position: int) -> Array:
        x = self.weights["model.embed_tokens.weight"][token]
        for layer in range(self.config["num_hidden_layers"]):
            prefix = f"model.layers.{layer}"
            x = x + self.attend(self.norm(x, f"{prefix}.input_layernorm.weight"), layer, position, prefix)
            y = self.norm(x, f"{prefix}.post_attention_layernorm.weight")
            gate = self.linear(y, f"{prefix}.mlp.gate_proj")
            inner = gate / (1.0 + np.exp(-gate)) * self.linear(y, f"{prefix}.mlp.up_proj")
            x = x + self.linear(inner, f"{prefix}.mlp.down_proj")
        head = "model.embed_tokens.weight" if self.tied else "lm_head.weight"
        return self.weights[head] @ self.norm(x, "model.norm.weight")


def say(**what: Any) -> None:
    """One answer: a JSON object on a line of its own."""
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


def load(request: dict[str, Any], fault: str) -> Llama | None:
    """Read the model; None where this program cannot run it, which is no failure and is told as `unsupported`."""
    directory = Path(request["model"])
    why = unknown(json.loads((directory / "config.json").read_text()), request["dtype"])
    if why is not None:
        say(protocol=1, unsupported=why)
        return None
    model = Llama(directory, fault)
    size = sum(array.nbytes for array in model.weights.values())
    say(protocol=1, name="numpy-llama", version=np.__version__, weight_bytes=size, top=BEST)
    return model


def best(logits: Array, count: int) -> list[list[float]]:
    """The `count` best tokens with their log-probabilities, as pairs, best first: the log-softmax in float64."""
    below = logits.astype(np.float64) - logits.max()
    order = np.argsort(-logits, kind="stable")[:count]
    found = below[order] - np.log(np.exp(below).sum())
    return [[int(token), float(value)] for token, value in zip(order, found, strict=True)]


def generate(model: Llama, prompts: list[list[int]], new_tokens: int, top: int) -> None:
    """Greedy, all rows in step, one line a step: the tokens of all rows, and seconds since the request came.

    With `top` the best tokens of each row as well, which cost time and so are asked for in runs that nobody times.
    """
    start = time.perf_counter()
    caches: list[tuple[list[list[Array]], list[list[Array]]]] = []
    logits: list[Array] = []
    for row in prompts:
        model.forget()
        for position, token in enumerate(row):
            last = model.step(token, position)
        logits.append(last)
        caches.append((model.keys, model.values))
    for step in range(new_tokens):
        chosen = [int(one.argmax()) for one in logits]
        more = {"top": [best(one, min(top, BEST)) for one in logits]} if top else {}
        say(tokens=chosen, s=time.perf_counter() - start, **more)
        if step + 1 == new_tokens:
            break
        for index, row in enumerate(prompts):
            model.keys, model.values = caches[index]
            logits[index] = model.step(chosen[index], len(row) + step)


def main() -> None:
    """Answer one request a line until the input ends."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--fault", choices=["none", "stale-cache", "rotary"], default="none")
    fault = parser.parse_args().fault
    model = None
    for line in sys.stdin:
        request = json.loads(line)
        if request["method"] == "load":
            model = load(request, fault)
        elif request["method"] == "generate" and model is not None:
            generate(model, request["prompts"], request["new_tokens"], request.get("top", 0))
        else:
            say(error=f"{request['method']}: not known, or nothing is loaded")


if __name__ == "__main__":
    main()
