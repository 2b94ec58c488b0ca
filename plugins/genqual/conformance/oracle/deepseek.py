"""What DeepSeek's second and third version share: latent attention, dense layers first, then mixtures."""

from __future__ import annotations

from collections.abc import Callable

from genqual.conformance.oracle.core import Part
from genqual.conformance.oracle.fields import Fields
from genqual.conformance.oracle.latent import LatentAttention, LatentQuery
from genqual.conformance.oracle.linear import Linear
from genqual.conformance.oracle.norms import Norm
from genqual.conformance.oracle.rotary import Rotary, yarn_magnitude
from genqual.conformance.oracle.rotary_fields import parameters
from genqual.conformance.oracle.spec import Block, Embedding, Head, Model
from genqual.errors import BadInput

# The norms of the latents have this one, whatever the configuration says of the others: DeepSeek's own code.
LATENT_EPS = 1e-6


def latent_attention(fields: Fields, hidden: int, rotary: Callable[[int], Rotary]) -> Callable[[str], LatentAttention]:
    """Builds the attention of a layer; `rotary` gives the rotation of a width. Raises BadInput as `fields` does."""
    heads = fields.integer("num_attention_heads")
    fields.same("num_key_value_heads", heads, "every head has keys of its own, expanded from the latent")
    query_rank, rank = fields.optional_integer("q_lora_rank"), fields.integer("kv_lora_rank", default=512)
    rotary_width = fields.integer("qk_rope_head_dim", default=64)
    key_width, value_width = (fields.integer(name, default=128) for name in ("qk_nope_head_dim", "v_head_dim"))
    width = key_width + rotary_width
    for name in ("head_dim", "qk_head_dim"):  # transformers writes both into the file; the first is the rotary width
        fields.same(name, rotary_width if name == "head_dim" else width, "it follows from the other widths")
    bias = fields.flag("attention_bias", default=False)
    turned, scale = rotary(rotary_width), width**-0.5 * _scale(fields)

    def build(name: str) -> LatentAttention:
        return LatentAttention(
            query=Linear(f"{name}.q_proj", heads * width, hidden)
            if query_rank is None
            else LatentQuery(
                Linear(f"{name}.q_a_proj", query_rank, hidden, bias),
                Norm(f"{name}.q_a_layernorm", query_rank, LATENT_EPS),
                Linear(f"{name}.q_b_proj", heads * width, query_rank),
            ),
            down=Linear(f"{name}.kv_a_proj_with_mqa", rank + rotary_width, hidden, bias),
            norm=Norm(f"{name}.kv_a_layernorm", rank, LATENT_EPS),
            up=Linear(f"{name}.kv_b_proj", heads * (key_width + value_width), rank),
            out=Linear(f"{name}.o_proj", hidden, heads * value_width, bias),
            heads=heads,
            rank=rank,
            key_width=key_width,
            rotary_width=rotary_width,
            rotary=turned,
            scale=scale,
        )

    return build


def _scale(fields: Fields) -> float:
    """By what stretched positions multiply the scale of the scores: the square of YaRN's magnitude of all widths."""
    rope = parameters(fields)
    stretched = str(rope.get("rope_type", rope.get("type", "default"))) != "default"
    weight = rope.get("mscale_all_dim")
    if stretched and weight and rope.get("factor") is None:
        raise BadInput("config mscale_all_dim without factor in its rotary dictionary: give the factor it belongs to")
    return yarn_magnitude(float(rope["factor"]), float(weight)) ** 2 if stretched and weight else 1.0


def model(
    fields: Fields,
    hidden: int,
    attention: Callable[[str], LatentAttention],
    dense: Callable[[str], Part],
    sparse: Callable[[str], Part],
    *,
    dense_first: int,
) -> Model:
    """The whole model: `dense` MLPs in the first layers, `sparse` ones in every `moe_layer_freq`th of the others."""
    count, vocabulary = fields.integer("num_hidden_layers"), fields.integer("vocab_size")
    eps = fields.number("rms_norm_eps", default=1e-6)
    first = fields.natural("first_k_dense_replace", default=dense_first)
    every = fields.integer("moe_layer_freq", default=1)
    tied = fields.flag("tie_word_embeddings", default=False)
    drafts = [fields.config.get(name) for name in ("num_nextn_predict_layers", "num_mtp_layers")]
    fields.skip("num_nextn_predict_layers", "num_mtp_layers")

    def block(index: int) -> Block:
        name = f"model.layers.{index}"
        return Block(
            mixer_before=Norm(f"{name}.input_layernorm", hidden, eps),
            mixer=attention(f"{name}.self_attn"),
            mlp_before=Norm(f"{name}.post_attention_layernorm", hidden, eps),
            mlp=(sparse if index >= first and index % every == 0 else dense)(f"{name}.mlp"),
        )

    table = "model.embed_tokens.weight"
    return Model(
        Embedding(table, vocabulary, hidden),
        tuple(block(i) for i in range(count)),
        Head(table if tied else "lm_head.weight", vocabulary, hidden, norm=Norm("model.norm", hidden, eps), tied=tied),
        # Layers behind the last draft tokens to come; generation without drafts leaves them aside.
        ignored=tuple(rf"(model\.)?layers\.{count + i}\..*" for n in drafts if isinstance(n, int) for i in range(n)),
    )
