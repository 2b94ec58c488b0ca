"""How integers become the weights of each kind of parameter: one recipe a kind, by architecture. Pure data and regexes.

Why the scales are what they are is said in `integers`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

READERS: Final = 2
"""log2 of how much larger the columns are that read an outlier channel."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How integers become weights: value = odd integer x 2^`exponent`, or around one, x 2^`exponent`, for a norm.

    `rows`, `columns` are log2 factors of the outlier channels on the first or last axis; 0 leaves them alone.
    """

    exponent: int = 0
    around_one: bool = False
    rows: int = 0
    columns: int = 0


@dataclass(frozen=True, slots=True)
class _Family:
    """The recipes of one architecture. `writers`: log2 of how much larger rows that write an outlier channel are."""

    writers: int
    exponents: tuple[
        tuple[str, int, int], ...
    ]  # (pattern, exponent below hidden 512, from 512); the first match counts
    writing: str
    reading: str


_FAMILIES: Final[dict[str, _Family]] = {
    "bloom": _Family(
        writers=5,
        exponents=(
            (r"\.bias$", -11, -11),
            (r"word_embeddings\.", -8, -8),
            (r"lm_head\.", -8, -9),
            (r"query_key_value\.|self_attention\.dense\.", -10, -11),
            (r"dense_h_to_4h\.", -11, -12),
            (r"dense_4h_to_h\.", -12, -13),
        ),
        writing=r"(self_attention\.dense|dense_4h_to_h)\.weight$",
        reading=r"(query_key_value|dense_h_to_4h)\.weight$",
    ),
    "llama": _Family(
        writers=4,
        exponents=(
            (r"embed_tokens\.", -8, -8),
            (r"lm_head\.", -8, -9),
            (r"k_proj\.", -11, -13),
            (r"_proj\.", -10, -11),
        ),
        writing=r"(o|down)_proj\.weight$",
        reading=r"(q|k|v|gate|up)_proj\.weight$",
    ),
}
_EMBEDDING_NORM: Final = re.compile(r"embeddings_layernorm\.weight$")
_LAYER_NORM: Final = re.compile(r"_layernorm\.weight$")
_FINAL_NORM: Final = re.compile(r"(model\.norm|ln_f)\.weight$")


def recipe(architecture: str, name: str, hidden: int) -> Recipe:
    """The recipe of parameter `name` of a `bloom` or `llama` with this hidden size."""
    family = _FAMILIES[architecture]
    if _EMBEDDING_NORM.search(name):  # before any layer has written to the outlier channels
        return Recipe(around_one=True)
    if _LAYER_NORM.search(name):
        return Recipe(around_one=True, rows=-(family.writers + READERS))
    if _FINAL_NORM.search(name):
        return Recipe(around_one=True, rows=-family.writers)
    small, large = next((a, b) for pattern, a, b in family.exponents if re.search(pattern, name))
    return Recipe(
        exponent=small if hidden < 512 else large,
        rows=family.writers if re.search(family.writing, name) else 0,
        columns=READERS if re.search(family.reading, name) else 0,
    )


_NORM: Final = Recipe(around_one=True)
_OUTLIERS: Final = 4  # log2 of how much larger rows that write an outlier channel are: llama-odd

_DECODER: Final[tuple[tuple[str, Recipe], ...]] = (
    (r"^model\.norm\.weight$", Recipe(around_one=True, exponent=1)),
    (r"norm\.weight$", _NORM),
    (r"embed_tokens\.weight$", Recipe(exponent=-12)),
    (r"lm_head\.weight$", Recipe(exponent=-10)),
    (r"\.sinks$", Recipe(exponent=-7)),
    (r"\.(bias|gate_up_proj_bias|down_proj_bias|e_score_correction_bias)$", Recipe(exponent=-10)),
    (r"(k_proj|kv_b_proj)\.weight$", Recipe(exponent=-11)),
    (r"", Recipe(exponent=-10)),
)
"""Of the models without outlier channels: small embeddings, and a last norm that makes up for them."""

# A norm that multiplies by one plus its weight: the weight lies around zero, and the factor from 0.5 to 1.5.
_ONE_PLUS: Final = ((r"norm\.weight$", Recipe(exponent=-9)),)

OWN: Final[dict[str, tuple[tuple[str, Recipe], ...]]] = {
    "llama-odd": (
        (r"^model\.norm\.weight$", Recipe(around_one=True, exponent=4, rows=-_OUTLIERS)),
        (r"norm\.weight$", Recipe(around_one=True, rows=-(_OUTLIERS + READERS))),
        (r"embed_tokens\.weight$", Recipe(exponent=-12)),
        (r"\.bias$", Recipe(exponent=-11)),
        (r"k_proj\.weight$", Recipe(exponent=-11, columns=READERS)),
        (r"(q|v|gate|up)_proj\.weight$", Recipe(exponent=-10, columns=READERS)),
        (r"(o|down)_proj\.weight$", Recipe(exponent=-10, rows=_OUTLIERS)),
    ),
    "qwen3-tiny": ((r"^model\.norm\.weight$", Recipe(around_one=True, exponent=3)), *_DECODER),
    "gemma2-tiny": (
        (r"^model\.norm\.weight$", Recipe(exponent=-5)),
        *_ONE_PLUS,
        # The norm behind attention divides by what heads that look at many tokens leave: little beside a bias.
        (r"o_proj\.bias$", Recipe(exponent=-13)),
        (r"k_proj\.weight$", Recipe(exponent=-10)),
        *_DECODER,
    ),
    "qwen3_moe-tiny": _DECODER,
    "gpt_oss-tiny": ((r"k_proj\.weight$", Recipe(exponent=-12)), *_DECODER),
    "deepseek_v3-tiny": _DECODER,
    "qwen3_next-tiny": (
        (r"linear_attn\.norm\.weight$", _NORM),
        (r"in_proj_qkvz\.weight$", Recipe(exponent=-8)),  # what the norm behind the state divides by is then not tiny
        *_ONE_PLUS,
        (r"lm_head\.weight$", Recipe(exponent=-9)),
        (r"conv1d\.weight$", Recipe(exponent=-8)),
        (r"\.(A_log|dt_bias)$", Recipe(exponent=-8)),
        *_DECODER,
    ),
}
"""The recipes of one embedded model by its own name: (pattern, recipe), the first match counts."""


def own_recipe(rules: tuple[tuple[str, Recipe], ...], name: str) -> Recipe:
    """The recipe of parameter `name` by `rules`, the first that matches."""
    return next(recipe for pattern, recipe in rules if re.search(pattern, name))
