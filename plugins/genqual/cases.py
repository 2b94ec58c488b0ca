"""The words that every package shares: dtype, workload, case. Pure: the standard library only."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Final, TypeAlias

from genqual import digest
from genqual.dtypes import DTYPES, Dtype
from genqual.errors import BadInput

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"
"""What `json.dumps` accepts; NaN and infinity are never written, a null and a status stand in their place."""

SCHEMES: Final[Mapping[str, Dtype]] = {
    "int8-weight": "bf16",
    "int8-dynamic": "bf16",
    "int8-smoothquant": "bf16",
    "int8-bitsandbytes": "bf16",
    "int8-deepspeed": "bf16",
    "fp8": "bf16",
}
"""Quantisation schemes, each with the dtype of what is not quantised. Declared as a dtype is, judged by an envelope."""

SHARED_ROUNDING: Final = frozenset({"int8-bitsandbytes"})
"""Schemes that round a token by what the other tokens of its pass are.

LLM.int8 multiplies a column of the activations in 16 bit, for all tokens, where one of them exceeds 6 in it.
"""

PRECISIONS: Final[tuple[str, ...]] = (*DTYPES, *SCHEMES)
"""What a case may declare: a dtype, or a quantisation scheme."""

PROCESSORS: Final = frozenset({"cpu", "xeon"})
"""The devices whose places are cores of the host's own processor."""


_CASE: Final = re.compile(rf"\[(.*-(?:{'|'.join(PRECISIONS)}))(?=[-\]])")


def case_id_in(nodeid: str) -> str | None:
    """The id of the case in a test's id: up to the last precision, because a model's name may hold one as well."""
    found = _CASE.search(nodeid)
    return found[1] if found else None


def compute_dtype(precision: str) -> str:
    """The dtype of activations, and of weights that stay as they are, under a declared `precision`."""
    return SCHEMES.get(precision, precision)


REPEATED: Final = "repeated"
"""The prompts of a workload whose time to first token is that of a prefix cache's hit."""


@dataclass(frozen=True, slots=True)
class Workload:
    """What is asked of a model: `batch` rows of `input_length` real tokens, `new_tokens` more for each.

    `prompts` is empty, or REPEATED: every request sends the same rows, so that a prefix cache answers them.
    """

    batch: int
    input_length: int
    new_tokens: int
    prompts: str = ""

    def __post_init__(self) -> None:
        for name in ("batch", "input_length", "new_tokens"):
            if (value := getattr(self, name)) < 1:
                raise BadInput(f"{name} {value}: must be at least 1")
        if self.prompts not in ("", REPEATED):
            raise BadInput(f"prompts {self.prompts!r}: a workload's are {REPEATED!r}, or its own kind's, which is ''")

    @property
    def id(self) -> str:
        """Short and stable, as it stands in a test id: `b1-i128-n32`, `repeated-b1-i128-n32`."""
        kind = f"{self.prompts}-" if self.prompts else ""
        return f"{kind}b{self.batch}-i{self.input_length}-n{self.new_tokens}"


def last_word(model: str) -> str:
    """What stands for a model in ids: the last word of its path or hub id."""
    return model.rstrip("/").rsplit("/", 1)[-1]


def distinct_names(models: Iterable[str]) -> dict[str, str]:
    """What stands for each of a run's models in ids, where its last word is another's, too: `v1_llama`, `v2_llama`.

    As many words of the path as tell the models apart. A name without a path stays as it is.
    """
    paths = {model: [re.sub(r"[^\w.@=+-]", "_", word) for word in model.split("/") if word] for model in models}
    names = {model: last_word(model) for model in paths}
    shown: dict[str, str] = {}
    for taken in range(2, 2 + max(map(len, paths.values()), default=0)):
        counts = Counter(names.values())
        for model, words in paths.items():
            if counts[names[model]] > 1 and "/" in model.rstrip("/"):
                shown[model] = "_".join(words[-taken:])
        names |= shown
    counts = Counter(names.values())
    for model, name in names.items():
        if counts[name] > 1 and "/" in model.rstrip("/"):  # `a/b_c/d` and `a_b/c/d`
            shown[model] = f"{name}~{digest.of_text(model)[:8]}"
    return shown


@dataclass(frozen=True, slots=True)
class Case:
    """One way of running one model on one device; a rank group is started for it and lives across tests.

    `device` is a registered name, `engine` one that may carry options (`accelerate:placement=disk`); `model` is an
    embedded name, a fetched name, a directory, a GGUF file or a hub id; `dtype` one of PRECISIONS; `cores_per_rank` is
    read on CPU devices only (0 lets the device divide what it has). `shown` stands for the model in ids where the last
    word of `model` is that of another model of the run, too; see `distinct_names`.
    """

    device: str
    engine: str
    model: str
    dtype: str
    ranks: int = 1
    cores_per_rank: int = 1
    shown: str = ""

    def __post_init__(self) -> None:
        if self.dtype not in PRECISIONS:
            raise BadInput(f"dtype {self.dtype!r}: genqual knows {', '.join(PRECISIONS)}")
        if self.ranks < 1:
            raise BadInput(f"ranks {self.ranks}: must be at least 1")
        if self.cores_per_rank < 0:
            raise BadInput(f"cores_per_rank {self.cores_per_rank}: must be 0 (let the device decide) or more")

    @property
    def id(self) -> str:
        """As it stands in a test id: `xeon-deepspeed-inference-tp2-bloom-tiny-bf16`. Never a key of baselines."""
        ranks = f"-tp{self.ranks}" if self.ranks > 1 else ""
        model = self.shown or last_word(self.model)
        engine = re.sub(r"[^\w.:=+-]", "_", self.engine)  # an id is a part of file names
        return f"{self.device}-{engine}{ranks}-{model}-{self.dtype}"

    def __str__(self) -> str:
        return self.id

    def as_json(self) -> dict[str, Json]:
        """Plain data for the wire; ranks, which may be of an earlier build, need no word for a model that they load."""
        return {name: value for name, value in asdict(self).items() if name != "shown"}

    @classmethod
    def from_json(cls, data: Mapping[str, object]) -> Case:
        """The inverse of `as_json`. Raises TypeError on unknown fields."""
        return cls(**data)  # type: ignore[arg-type]
