"""What the others of `time_to_verdict` do: one test in processes made for it. Torch is imported inside functions."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any, Final

NEW_TOKENS: Final = 16
PROMPT_TOKENS: Final = 16


def prompt(index: int) -> list[int]:
    """The token ids of check `index`, the same in every process."""
    return [3 + (7 * index + 31 * place + index * place) % 253 for place in range(PROMPT_TOKENS)]


def prepare(directory: Path, checks: int) -> None:
    """Save a small Llama in Hugging Face's format, and what it says to the first `checks` prompts.

    `reference.json` holds greedy tokens (checks, 16) and the log-sum-exp of each step's logits.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from genqual.models import embedded

    settings = {k: v for k, v in embedded.config("llama-tiny").items() if k not in ("model_type", "architectures")}
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**settings, initializer_range=0.1)).eval()
    model.save_pretrained(directory)
    with torch.no_grad():
        out = model.generate(
            torch.tensor([prompt(index) for index in range(checks)]),
            **_greedy(),
            output_logits=True,
            return_dict_in_generate=True,
        )
    sums = torch.stack([step.double().logsumexp(dim=-1) for step in out.logits], dim=1)
    found = {"tokens": out.sequences[:, PROMPT_TOKENS:].tolist(), "logsumexp": sums.tolist()}
    (directory / "reference.json").write_text(json.dumps(found), encoding="utf-8")


def reference(directory: Path) -> dict[str, Any]:
    """What `prepare` wrote."""
    found: dict[str, Any] = json.loads((directory / "reference.json").read_text(encoding="utf-8"))
    return found


def one_test(directory: Path, index: int) -> list[int]:
    """Load, generate, return the tokens, as the tests of others do it: on the ranks that the environment tells of."""
    import torch
    from transformers import LlamaForCausalLM

    torch.set_num_threads(1)
    model: Any = LlamaForCausalLM.from_pretrained(directory).eval()
    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    if ranks > 1:
        import deepspeed

        os.environ["LOCAL_SIZE"] = str(ranks)  # DeepSpeed's shared-memory all-reduce dies without it under torchrun
        model = deepspeed.init_inference(
            model, tensor_parallel={"tp_size": ranks}, dtype=torch.float32, replace_with_kernel_inject=False
        ).module
    with torch.no_grad():
        out = model.generate(torch.tensor([prompt(index)]), **_greedy())
    tokens: list[int] = out[0, PROMPT_TOKENS:].tolist()
    return tokens


def pool_test(directory: str, index: int, rank: int, ranks: int, port: int) -> list[int]:
    """The same in a worker of a fresh pool, which first joins a process group, as DeepSpeed's DistributedTest does."""
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks, "MASTER_PORT": port}
    os.environ |= {name: str(value) for name, value in place.items()} | {"MASTER_ADDR": "127.0.0.1"}
    import torch.distributed as dist

    dist.init_process_group("gloo", rank=rank, world_size=ranks)
    try:
        tokens = one_test(Path(directory), index)
        dist.barrier()
        return tokens
    finally:
        dist.destroy_process_group()


def _greedy() -> dict[str, Any]:
    return {"max_new_tokens": NEW_TOKENS, "do_sample": False, "pad_token_id": 0}


def main() -> None:
    """`prepare DIRECTORY CHECKS` or `test DIRECTORY INDEX`; the last line printed is the answer."""
    what, directory, number = sys.argv[1:]
    if what == "prepare":
        prepare(Path(directory), int(number))
        return
    tokens = one_test(Path(directory), int(number))
    if os.environ.get("RANK", "0") == "0":
        print(json.dumps(tokens))


if __name__ == "__main__":
    main()
