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
from genqual.models.dataset import PairWriter, read_prompts
from genqual.models.prompts import decode, token_rows
from genqual.ranks.handle import Generator

NEWS: Final = 50  # pairs between two lines of progress


@dataclass(frozen=True, slots=True)
class Job:
    """What a dataset run is: at most `input_tokens` of each prompt of `source`, `new_tokens` more."""

    source: str
    input_tokens: int
    new_tokens: int
    batch: int
    path: Path


def generate_pairs(generator: Generator, job: Job, progress: Callable[[str], None]) -> int:
    """Write the pairs that `job.path` lacks and return how many it holds. Raises BadInput on a bad source or file."""
    spec = generator.plan.model
    made_by = f"{generator.case} {job.source} {job.input_tokens}+{job.new_tokens}"
    with PairWriter(job.path, made_by) as writer:
        prompts = islice(read_prompts(job.source), writer.next_index, None)
        if writer.next_index:
            progress(f"{job.path}: going on after {writer.next_index} pairs")
        while texts := list(islice(prompts, job.batch)):
            rows = token_rows(spec, texts, max_tokens=job.input_tokens)
            tokens = generator.generate(TokenBatch.of(rows), job.new_tokens).tokens
            for text, row, new in zip(texts, rows, tokens, strict=True):
                writer.append(text, row, [int(token) for token in new], decode(spec, new))
                if writer.next_index % NEWS == 0:
                    progress(f"{job.path}: {writer.next_index} pairs")
        return writer.next_index


def read_pairs(job: Job) -> tuple[list[list[int]], list[NDArray[np.int64]]]:
    """Input tokens and new tokens of each pair of `job.path`, in the order of the file."""
    with job.path.open(encoding="utf-8") as stream:
        pairs = [json.loads(line) for line in stream]
    return [pair["input_ids"] for pair in pairs], [np.array(pair["tokens"], dtype=np.int64) for pair in pairs]


def problems(job: Job) -> Iterator[str]:
    """What is wrong with the pairs of `job.path`, read back: out of order, cut, missing, or of another prompt."""
    with job.path.open(encoding="utf-8") as stream:
        pairs = [json.loads(line) for line in stream]
    prompts = list(read_prompts(job.source))
    if len(pairs) != len(prompts):
        yield f"{len(pairs)} pairs for {len(prompts)} prompts"
    for index, (pair, prompt) in enumerate(zip(pairs, prompts, strict=False)):
        if pair["index"] != index or pair["prompt"] != prompt:
            yield f"pair {index} is pair {pair['index']}, of the prompt {pair['prompt'][:40]!r}"
        if len(pair["tokens"]) != job.new_tokens or not 1 <= len(pair["input_ids"]) <= job.input_tokens:
            yield f"pair {index} has {len(pair['input_ids'])} input tokens and {len(pair['tokens'])} new ones"
