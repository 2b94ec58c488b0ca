"""Grouped-query attention and MLPs under Llama's names, as most architectures since store them."""

from __future__ import annotations

from typing import Any

from genqual.conformance.oracle.attention import Attention, Separate
from genqual.conformance.oracle.linear import Linear


def grouped(
    name: str,
    hidden: int,
    heads: int,
    kv_heads: int,
    width: int,
    *,
    bias: bool = False,
    out_bias: bool = False,
    **more: Any,
) -> Attention:
    """`name`.q_proj, .k_proj, .v_proj and .o_proj; `more` are the other fields of an `Attention`."""
    return Attention(
        Separate(
            Linear(f"{name}.q_proj", heads * width, hidden, bias),
            Linear(f"{name}.k_proj", kv_heads * width, hidden, bias),
            Linear(f"{name}.v_proj", kv_heads * width, hidden, bias),
        ),
        Linear(f"{name}.o_proj", hidden, heads * width, out_bias),
        heads,
        kv_heads,
        width,
        **more,
    )
