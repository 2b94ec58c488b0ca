"""Stand in for a rank: load one engine, do what a plan says, write the answers. Started by Python or by torchrun.

A plan is JSON: {"engine", "model", "dtype", "options", "steps": [[action, key, arguments], ...]}; a list of them is
carried out one after another. What an action returns goes to OUT.rank<N>.npz (arrays) and OUT.rank<N>.json (everything
else), by key.
"""

from __future__ import annotations

import dataclasses
import gc
import importlib
import json
import os
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from genqual.engines.base import LoadRequest, TokenBatch
from genqual.engines.registry import engine as spec_of
from genqual.errors import GenqualError
from genqual.faults import fault
from genqual.models.registry import resolve


def fetch(entry: str) -> Any:
    module, name = entry.split(":")
    return getattr(importlib.import_module(module), name)


class Rank:
    """One method an action; each takes JSON and returns JSON, or a mapping with arrays in it."""

    def __init__(self, plan: dict[str, Any]) -> None:
        start = time.perf_counter()
        self.rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
        spec = spec_of(plan["engine"])
        self.engine = fetch(spec.implementation)()
        self.import_s = time.perf_counter() - start
        self.request = LoadRequest(
            *(resolve(plan["model"]), plan.get("dtype", "fp32"), "cpu", self.rank, world, self.rank, world, 1),
            {**spec.options, **plan.get("options", {})},
        )
        self.loaded = self.engine.load(self.request)

    def facts(self) -> dict[str, Any]:
        return dataclasses.asdict(self.loaded) | {"module_import_s": self.import_s, "inspect": self.engine.inspect()}

    def generate(self, rows: list[list[int]], new: int) -> dict[str, Any]:
        return dataclasses.asdict(self.engine.generate(TokenBatch.of(rows), new))

    def score(self, rows: list[list[int]], forced: list[list[int]], prefill: bool = False) -> dict[str, Any]:
        call = self.engine.score_prefill if prefill else self.engine.score
        return dataclasses.asdict(call(TokenBatch.of(rows), np.array(forced), logits=True))

    def until(self, rows: list[list[int]], new: int, **how: Any) -> dict[str, Any]:
        """Generate as a run that may stop does; the classes of the caches it ran by, and how often a graph was run."""
        from genqual.engines.hf.abilities import generate_until

        caches: set[str] = set()

        def note(_module: Any, _args: Any, kwargs: dict[str, Any]) -> None:
            caches.add(type(kwargs["past_key_values"]).__name__)

        before = self.engine.inspect().get("graph_hits", 0)
        batch, handle = TokenBatch.of(rows), None
        if "compiled" not in self.engine.name:  # a hook would be another graph
            handle = self.engine.model.register_forward_pre_hook(note, with_kwargs=True)
        rest: dict[str, Any] = {"eos": [], "pad": 0, "least": 0, "max_length": False, "strings": []}
        found = generate_until(self.engine, ids=batch.ids, mask=batch.mask, new_tokens=new, **{**rest, **how})
        if handle is not None:
            handle.remove()
        hits = self.engine.inspect().get("graph_hits", 0) - before
        return {"tokens": found["tokens"], "caches": sorted(caches), "hits": hits}

    def first(self, name: str) -> dict[str, Any]:
        """How far the first pass of this process, made by loading, is from the same pass now; with a fault; after."""
        from genqual.engines.hf.abilities import first_answer

        def apart() -> float:
            said = first_answer(self.engine)
            return float(np.abs(said["first"] - said["again"]).max())

        found, answer = fault(name), {"plain": apart()}
        undo = fetch(found.entry)(self.engine, self.rank, **found.params)
        answer["spoilt"] = apart()
        undo()
        return answer | {"healed": apart(), "shape": list(first_answer(self.engine)["first"].shape)}

    def passes(
        self, rows: list[list[int]], forced: list[list[int]], widths: list[int], detours: list[int] | None = None
    ) -> dict[str, Any]:
        """What a text says that is read in passes of `widths`, with `detours` cropped again."""
        batch, call = TokenBatch.of(rows), fetch("genqual.engines.hf.abilities:score_passes")
        read = {"widths": widths, "detours": detours or [0] * len(widths), "logits": True}
        return dataclasses.asdict(call(self.engine, ids=batch.ids, mask=batch.mask, forced=np.array(forced), **read))

    def exact(self, rows: list[list[int]], forced: list[list[int]]) -> dict[str, Any]:
        """What `score` should see, (steps, rows, vocabulary): float64, one row at a time, no cache, no padding."""
        import torch

        model = fetch("genqual.models.load:load")(self.request.model, torch.float64)
        out = []
        for row, choice in zip(rows, forced, strict=True):
            with torch.no_grad():
                logits = model(input_ids=torch.tensor([row + choice[:-1]]), use_cache=False).logits[0]
            out.append(logits[len(row) - 1 :].numpy())
        return {"logits": np.stack(out, axis=1)}

    def faulty(self, name: str, rows: list[list[int]], forced: list[list[int]]) -> dict[str, Any]:
        """Projections with a fault (decoding, in one pass) and after it was taken back; hashes with and after it."""
        found = fault(name)
        batch, choice = TokenBatch.of(rows), np.array(forced)
        undo = fetch(found.entry)(self.engine, self.rank, **found.params)
        with_fault, one_pass = self.engine.score(batch, choice), self.engine.score_prefill(batch, choice)
        hashed = self.engine.weight_hash()
        undo()
        healed = self.engine.score(batch, choice)
        return {
            "decode": with_fault.projections,
            "prefill": one_pass.projections,
            "finite": with_fault.finite,
            "healed": healed.projections,
            "hash_with": hashed,
            "hash_after": self.engine.weight_hash(),
        }

    def inject(self, name: str) -> str:
        """Put a fault in, for what is asked next."""
        found = fault(name)
        fetch(found.entry)(self.engine, self.rank, **found.params)
        return found.summary

    def misbehave(self, name: str, rows: list[list[int]], new: int, **params: Any) -> dict[str, Any]:
        found = fault(name)
        undo = fetch(found.entry)(self.engine, self.rank, on_rank=0, **params)
        answer: dict[str, Any] = {"raised": ""}
        try:
            answer |= self.generate(rows, new)
        except RuntimeError as error:
            answer["raised"] = str(error)
        undo()
        return answer | {"again": self.engine.generate(TokenBatch.of(rows), new).tokens}

    def between(self, rows: list[list[int]], new: int) -> dict[str, Any]:
        """Generate with a callback that takes 20 ms, then without; when it was called, and both runs."""
        calls: list[float] = []

        def callback() -> None:
            calls.append(time.perf_counter())
            time.sleep(0.02)  # something that the clock must see

        self.engine.between_steps(callback)
        with_callback = self.generate(rows, new)
        called = len(calls)
        self.engine.between_steps(None)
        without = self.generate(rows, new)
        return without | {
            "calls": called,
            "calls_after": len(calls) - called,
            "with": with_callback["tokens"],
            "with_s": with_callback["step_s"],
        }

    def recorded(self, logits: list[list[float | None]], dtype: str) -> dict[str, Any]:
        """The statistics of one step of `logits` (null is NaN) in a torch dtype, as the engine records them."""
        import torch

        from genqual.engines.hf.score_recorder import ScoreRecorder

        rows = [[float("nan") if value is None else value for value in row] for row in logits]
        recorder = ScoreRecorder(keep_logits=True)
        recorder.add(torch.tensor(rows, dtype=getattr(torch, dtype)), np.zeros(len(rows), dtype=np.int64))
        return dataclasses.asdict(recorder.scores())

    def many(self, steps: int, rows: int, vocabulary: int, most_bytes: int) -> dict[str, Any]:
        """Statistics and logits of `steps` random steps, twice, where at most `most_bytes` wait to be projected."""
        import torch

        from genqual.engines.hf import score_recorder

        kept, score_recorder._WAITING_BYTES = score_recorder._WAITING_BYTES, most_bytes  # type: ignore[misc]
        logits = torch.from_numpy(np.random.default_rng(3).standard_normal((steps, rows, vocabulary)))
        found = {}
        for name in ("first", "second"):
            recorder = score_recorder.ScoreRecorder(keep_logits=True)
            for step in logits:
                recorder.add(step, np.zeros(rows, dtype=np.int64))
            found[name] = recorder.scores()
        score_recorder._WAITING_BYTES = kept  # type: ignore[misc]
        return {"logits": logits.numpy(), **{name: scores.projections for name, scores in found.items()}}

    def product(self, precision: str) -> dict[str, Any]:
        """An fp32 matrix product at torch's `precision`, beside float64, and what the probe says of it."""
        import torch

        from genqual.engines.hf.runtime import fp32_is_exact

        torch.set_float32_matmul_precision(precision)
        rng = np.random.default_rng(1)
        a, b = (torch.from_numpy(rng.standard_normal((128, 128))) for _ in "ab")
        answer = {"single": (a.float() @ b.float()).numpy(), "double": (a @ b).numpy()}
        exact = fp32_is_exact(torch.device("cpu"))
        torch.set_float32_matmul_precision("highest")
        return answer | {"claimed": exact}

    def memory(self, megabytes: int) -> dict[str, Any]:
        """Peaks around an array that is touched and let go, with a reset after it."""
        before = self.engine.memory()
        block = np.ones(megabytes << 20, dtype=np.uint8)
        del block
        gc.collect()
        after = self.engine.memory(reset=True)
        return {key: dataclasses.asdict(m) for key, m in zip("abc", (before, after, self.engine.memory()), strict=True)}

    def starve(self, rows: list[list[int]], new: int, megabytes: int) -> dict[str, Any]:
        """Call with a batch that does not fit into `megabytes` more, then generate as before."""
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        soft, hard = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (pages * os.sysconf("SC_PAGE_SIZE") + (megabytes << 20), hard))
        big = TokenBatch.of([list(range(512))] * 1024)
        try:
            self.engine.score_prefill(big, np.ones((1024, 400), dtype=np.int64))
            raised = ""
        except GenqualError as error:
            raised = f"{type(error).__name__}: {error}, context {error.__context__}, cause {error.__cause__}"
        answer = {"raised": raised} | self.generate(rows, new)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        return answer

    def resisting(self, rows: list[list[int]], new: int, stop: int) -> dict[str, Any]:
        """Generate with a checkpoint whose generation_config.json samples, punishes repetition and stops at `stop`."""
        with tempfile.TemporaryDirectory() as folder:
            self.engine.model.save_pretrained(folder)
            hostile = {
                "do_sample": True,
                "temperature": 9.0,
                "repetition_penalty": 9.0,
                "eos_token_id": stop,
                "max_length": 6,
            }
            (Path(folder) / "generation_config.json").write_text(json.dumps(hostile))
            engine = type(self.engine)()
            engine.load(dataclasses.replace(self.request, model=resolve(folder)))
        return dataclasses.asdict(engine.generate(TokenBatch.of(rows), new))

    def held(self, rows: list[list[int]], new: int, megabytes: int) -> dict[str, Any]:
        """As `starve`, with the limit that option `host_memory` sets."""
        from genqual.engines.hf import preflight

        soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
        more = preflight._data_bytes() + (megabytes << 20)
        preflight.limit_host_memory(dataclasses.replace(self.request, options={"host_memory": more}))
        big = TokenBatch.of([list(range(512))] * 1024)
        try:
            self.engine.score_prefill(big, np.ones((1024, 400), dtype=np.int64))
            raised = ""
        except GenqualError as error:
            raised = f"{type(error).__name__}: {error}"
        answer = {"raised": raised} | self.generate(rows, new)
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))
        return answer

    def tight(self, model: str, megabytes: int) -> str:
        """What a second engine says to `model` when `megabytes` are left."""
        from genqual.engines.hf import preflight

        soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
        said = self.refused(model, host_memory=preflight._data_bytes() + (megabytes << 20))
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))
        return said

    def streams(self, prompts: list[list[list[int]]], new_tokens: list[int]) -> dict[str, Any]:
        call = fetch("genqual.engines.deepspeed.zero:streams")
        return dict(call(self.engine, prompts=prompts, new_tokens=new_tokens))

    def full_disk(self, limit: int, **options: Any) -> str:
        """What a second engine says when no file may grow beyond `limit` bytes."""
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        said = self.refused(**options)
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        return said

    def again(self, rows: list[list[int]], new: int) -> dict[str, Any]:
        """Load again as a launch does: what that gave, the model's own hash after it, and what it still generates."""
        loaded = self.engine.load_again()
        gc.collect()
        alive = sum(isinstance(one, type(self.engine)) for one in gc.get_objects())
        facts = {"said": loaded is not None, "alive": alive}
        if loaded is not None:
            facts |= {"hash": loaded.weight_hash, "loading_s": loaded.loading_s}
        return facts | self.generate(rows, new)

    def refused(self, model: str | None = None, dtype: str | None = None, **options: Any) -> str:
        """What a second engine says to another model, another dtype, or to `options`."""
        wanted = self.request.model if model is None else resolve(model)
        asked = dataclasses.replace(self.request, model=wanted, dtype=dtype or self.request.dtype, options=options)
        try:
            type(self.engine)().load(asked)
        except GenqualError as error:
            return f"{type(error).__name__}: {error}"
        return ""


def main() -> int:
    out = f"{sys.argv[2]}.rank{os.environ.get('RANK', '0')}"
    words: dict[str, Any] = {}
    arrays: dict[str, Any] = {}
    for plan in json.loads(Path(sys.argv[1]).read_text()):
        rank = Rank(plan)
        for action, key, arguments in plan["steps"]:
            answer = getattr(rank, action)(**arguments)
            for name, value in (answer if isinstance(answer, dict) else {"": answer}).items():
                (arrays if isinstance(value, np.ndarray) else words)[f"{key}.{name}".rstrip(".")] = value
    np.savez(f"{out}.npz", **arrays)
    Path(f"{out}.json").write_text(json.dumps(words))
    return 0


if __name__ == "__main__":
    sys.exit(main())
