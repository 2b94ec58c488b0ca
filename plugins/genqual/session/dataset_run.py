"""Dataset mode: every prompt of a source, truncated, generated from and kept beside what came, in order, resumable."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from genqual.engines.base import TokenBatch
from genqual.models.chat import Prompt, renderer
from genqual.models.dataset import PairWriter, check_not_empty, read_prompts, source_identity
from genqual.models.prompts import decode, doubled_first, token_rows
from genqual.models.spec import ModelSpec
from genqual.ranks.client import Generator
from genqual.session.fingerprint import difference, made_by

Say = Callable[[str], None]
NEWS: Final = 50  # pairs between two lines of progress


@dataclass(frozen=True, slots=True)
class DatasetRun:
    """What a dataset run is: at most `input_tokens` of each prompt of `source`, `new_tokens` more."""

    source: str
    input_tokens: int
    new_tokens: int
    batch: int
    path: Path


def generate_pairs(generator: Generator, job: DatasetRun, progress: Say, warn: Say | None = None) -> int:
    """Write the pairs that `job.path` lacks and return how many it holds. Raises BadInput on a bad source or file.

    A file that other weights, another engine or other packages made is refused. `warn` (else `progress`) is told what
    is odd about the prompts.
    """
    spec = generator.plan.model
    fingerprint = made_by(generator, source_identity(job.source), job.input_tokens, job.new_tokens)
    doubled: list[Prompt] = []
    cut: list[Prompt] = []
    with PairWriter(job.path, fingerprint, difference) as writer:
        prompts = islice(read_prompts(job.source, render=renderer(spec)), writer.next_index, None)
        if writer.next_index:
            progress(f"{job.path}: going on after {writer.next_index} pairs")
        while texts := list(islice(prompts, job.batch)):
            for text in texts:
                check_not_empty(text)
            whole = token_rows(spec, texts, max_tokens=job.input_tokens + 1)
            rows = [row[: job.input_tokens] for row in whole]
            cut += [text for text, row in zip(texts, whole, strict=True) if len(row) > job.input_tokens]
            doubled += [text for text in texts if doubled_first(spec, text)]
            tokens = generator.generate(TokenBatch.of(rows), job.new_tokens).tokens
            for text, row, new in zip(texts, rows, tokens, strict=True):
                writer.append(text, row, [int(token) for token in new], decode(spec, new))
                if writer.next_index % NEWS == 0:
                    progress(f"{job.path}: {writer.next_index} pairs")
        if doubled:
            token = doubled_first(spec, doubled[0])
            (warn or progress)(
                f"{len(doubled)} prompts begin with {token}, first {doubled[0].where}, and the tokenizer adds one: the "
                f"model read {token} twice. Leave it out of the texts, or give messages (FILE:messages), which are "
                "rendered with the model's chat template"
            )
        if cut and warn is not None:
            warn(
                f"of {len(cut)} prompts, first {cut[0].where}, the model read the first {job.input_tokens} tokens "
                "only; --input-lengths N reads N"
            )
        progress(f"{job.path}: {writer.next_index} pairs, all there are")
        return writer.next_index


def read_pairs(job: DatasetRun) -> tuple[list[list[int]], list[NDArray[np.int64]]]:
    """Input tokens and new tokens of each pair of `job.path`, in the order of the file."""
    with job.path.open(encoding="utf-8") as stream:
        pairs = [json.loads(line) for line in stream]
    return [pair["input_ids"] for pair in pairs], [np.array(pair["tokens"], dtype=np.int64) for pair in pairs]


def problems(job: DatasetRun, spec: ModelSpec | None = None) -> Iterator[str]:
    """What is wrong with the pairs of `job.path`, read back: out of order, cut, missing, or of another prompt.

    `spec` is the model whose chat template made prompts of conversations.
    """
    with job.path.open(encoding="utf-8") as stream:
        pairs = [json.loads(line) for line in stream]
    prompts = list(read_prompts(job.source, render=renderer(spec) if spec else None))
    if len(pairs) != len(prompts):
        yield f"{len(pairs)} pairs for {len(prompts)} prompts"
    for index, (pair, prompt) in enumerate(zip(pairs, prompts, strict=False)):
        if pair["index"] != index or pair["prompt"] != prompt:
            yield f"pair {index} is pair {pair['index']}, of the prompt {pair['prompt'][:40]!r}"
        if len(pair["tokens"]) != job.new_tokens or not 1 <= len(pair["input_ids"]) <= job.input_tokens:
            yield f"pair {index} has {len(pair['input_ids'])} input tokens and {len(pair['tokens'])} new ones"
