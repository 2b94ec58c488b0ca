"""What Llama and its many relatives share: sizes, names of projections, windows by layer, the model around blocks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from genqual.conformance.oracle.attention import Attention, Separate
from genqual.conformance.oracle.fields import Fields, divided
from genqual.conformance.oracle.linear import Linear
from genqual.conformance.oracle.norms import Norm
from genqual.conformance.oracle.spec import Block, Embedding, Head, Model

LAYER_TYPES: Final = ("full_attention", "sliding_attention")
TABLE: Final = "model.embed_tokens.weight"


@dataclass(frozen=True)
class Sizes:
    """Sizes of a decoder; `width` is of one head."""

    hidden: int
    vocabulary: int
    layers: int
    heads: int
    kv_heads: int
    width: int

    @property
    def queries(self) -> int:
        """Width of all query heads."""
        return self.heads * self.width

    @property
    def keys(self) -> int:
        """Width of all key heads."""
        return self.kv_heads * self.width


def sizes_of(fields: Fields, *, kv_heads: int | None = None, width: int | None = None) -> Sizes:
    """Sizes by Llama's field names; `kv_heads` and `width` are the architecture's defaults, else what heads give."""
    hidden, heads = fields.integer("hidden_size"), fields.integer("num_attention_heads")
    grouped = fields.optional_integer("num_key_value_heads", default=kv_heads or heads) or heads
    divided("num_attention_heads over num_key_value_heads", heads, grouped)
    return Sizes(
        hidden=hidden,
        vocabulary=fields.integer("vocab_size"),
        layers=fields.integer("num_hidden_layers"),
        heads=heads,
        kv_heads=grouped,
        width=fields.integer("head_dim", default=width or hidden // heads),
    )


def attention(name: str, sizes: Sizes, *, bias: bool = False, out_bias: bool | None = None, **more: Any) -> Attention:
    """Attention by Llama's names: `name`.q_proj, .k_proj, .v_proj, .o_proj; `more` goes to `Attention`."""
    return Attention(
        Separate(
            Linear(f"{name}.q_proj", sizes.queries, sizes.hidden, bias),
            Linear(f"{name}.k_proj", sizes.keys, sizes.hidden, bias),
            Linear(f"{name}.v_proj", sizes.keys, sizes.hidden, bias),
        ),
        Linear(f"{name}.o_proj", sizes.hidden, sizes.queries, bias if out_bias is None else out_bias),
        sizes.heads,
        sizes.kv_heads,
        sizes.width,
        **more,
    )


def head_norms(name: str, sizes: Sizes, eps: float, *, one_plus: bool = False) -> dict[str, Any]:
    """Norms of each query and key head: `name`.q_norm, .k_norm."""
    return {
        "query_norm": Norm(f"{name}.q_norm", sizes.width, eps, one_plus=one_plus),
        "key_norm": Norm(f"{name}.k_norm", sizes.width, eps, one_plus=one_plus),
    }


def windows(fields: Fields, layers: int, window: int | None, types: Sequence[str]) -> list[int | None]:
    """The window of each layer: `window` where `layer_types`, or the architecture's own `types`, say sliding."""
    said = fields.words("layer_types", count=layers, among=LAYER_TYPES) or types
    return [window if kind == "sliding_attention" else None for kind in said]


def qwen_windows(fields: Fields, layers: int) -> list[int | None]:
    """Windows as Qwen says them: none unless `use_sliding_window`, then from layer `max_window_layers` on."""
    window = fields.optional_integer("sliding_window", default=4096)
    if not fields.flag("use_sliding_window", default=False):
        window = None
    first = fields.natural("max_window_layers", default=28)
    types = ["sliding_attention" if index >= first else "full_attention" for index in range(layers)]
    return windows(fields, layers, window, types)


def model_of(
    fields: Fields,
    sizes: Sizes,
    block: Callable[[str, int], Block],
    norm: Norm,
    *,
    tied: bool,
    multiplier: float = 1.0,
    settled_length: int | None = None,
    **head: Any,
) -> Model:
    """The model by Llama's names; `block(name, index)` gives a layer, `tied` is the default of tie_word_embeddings."""
    tied = fields.flag("tie_word_embeddings", default=tied)
    table = TABLE if tied else "lm_head.weight"
    return Model(
        Embedding(TABLE, sizes.vocabulary, sizes.hidden, multiplier=multiplier),
        tuple(block(f"model.layers.{index}", index) for index in range(sizes.layers)),
        Head(table, sizes.vocabulary, sizes.hidden, norm=norm, tied=tied, **head),
        settled_length=settled_length,
    )
