"""Qwen3-Next: gated delta rules with a gated softmax attention in between, and a mixture of experts in each layer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from genqual.conformance.oracle.attention import Attention, Separate
from genqual.conformance.oracle.convolution import Convolution
from genqual.conformance.oracle.core import F64, At, Part, Shape
from genqual.conformance.oracle.delta_rule import GatedDeltaNet
from genqual.conformance.oracle.experts import Mixture, separate
from genqual.conformance.oracle.fields import Fields, divided
from genqual.conformance.oracle.linear import Linear
from genqual.conformance.oracle.mlp import ACTIVATIONS, gated, sigmoid
from genqual.conformance.oracle.norms import Norm
from genqual.conformance.oracle.rotary_fields import rotary_of
from genqual.conformance.oracle.router import Router
from genqual.conformance.oracle.spec import Architecture, Block, Embedding, Head, Model
from genqual.conformance.oracle.stacked import Stacked
from genqual.errors import BadInput

KINDS = ("linear_attention", "full_attention")


@dataclass(frozen=True)
class GatedQueries(Separate):
    """As `Separate`, where `query` gives of each head its query and then its gate, `width` each."""

    width: int

    def __call__(self, x: F64, at: At) -> tuple[F64, F64, F64]:
        """Queries, keys and values, (tokens, heads * width) each."""
        return self._halves(x, at)[:, :, 0].reshape(len(x), -1), self.key(x, at), self.value(x, at)

    def gate(self, x: F64, at: At) -> F64:
        """The gates before the logistic, (tokens, heads * width)."""
        return self._halves(x, at)[:, :, 1].reshape(len(x), -1)

    def _halves(self, x: F64, at: At) -> F64:
        return self.query(x, at).reshape(len(x), -1, 2, self.width)


@dataclass(frozen=True)
class GatedAttention(Part):
    """`attention`, whose heads are multiplied by the logistic of the gates of `queries` before they are mixed."""

    attention: Attention
    queries: GatedQueries

    def shapes(self) -> dict[str, Shape]:
        return self.attention.shapes()

    def ends(self) -> tuple[str, str]:
        return self.attention.ends()

    def state_elements(self, length: int) -> int:
        return self.attention.state_elements(length)

    def __call__(self, x: F64, at: At) -> F64:
        """`x` (tokens, hidden) -> (tokens, hidden)."""
        gates = sigmoid(self.queries.gate(x, at))
        return self.attention.out(self.attention.mixed(x, at) * gates, at)


@dataclass(frozen=True)
class _Sizes:
    """What the layers of one configuration share."""

    hidden: int
    eps: float
    activation: str

    def norm(self, name: str, width: int | None = None) -> Norm:
        return Norm(name, width or self.hidden, self.eps, one_plus=True)


def build(fields: Fields) -> Model:
    """The model of one configuration. Raises BadInput on fields that do not fit."""
    hidden, vocabulary = fields.integer("hidden_size"), fields.integer("vocab_size")
    activation = fields.choice("hidden_act", default="silu", among=tuple(ACTIVATIONS))
    sizes = _Sizes(hidden, fields.number("rms_norm_eps", default=1e-6), activation)
    kinds = _kinds(fields, fields.integer("num_hidden_layers"))
    attention, settled = _attention(fields, sizes)
    mixers = {KINDS[0]: _delta(fields, sizes), KINDS[1]: attention}
    mlp = _mlp(fields, sizes)
    tied = fields.flag("tie_word_embeddings", default=False)

    def block(index: int) -> Block:
        name = f"model.layers.{index}"
        return Block(
            mixer_before=sizes.norm(f"{name}.input_layernorm"),
            mixer=mixers[kinds[index]](name),
            mlp_before=sizes.norm(f"{name}.post_attention_layernorm"),
            mlp=mlp(index, f"{name}.mlp"),
        )

    table = "model.embed_tokens.weight"
    return Model(
        Embedding(table, vocabulary, hidden),
        tuple(block(i) for i in range(len(kinds))),
        Head(table if tied else "lm_head.weight", vocabulary, hidden, norm=sizes.norm("model.norm"), tied=tied),
        settled_length=settled,
    )


def _kinds(fields: Fields, count: int) -> list[str]:
    """What mixes the tokens of each layer: said of each, or every so many layers an attention."""
    said = fields.words("layer_types", count=count, among=KINDS)
    every = fields.integer("full_attention_interval", default=4)
    stated = [KINDS[0] if (i + 1) % every else KINDS[1] for i in range(count)]
    if said is not None and fields.config.get("full_attention_interval") is not None and said != stated:
        raise BadInput(
            f"config layer_types = {said}, yet full_attention_interval = {every}: loaders disagree which of the two "
            f"counts; remove the wrong one"
        )
    return said or stated


def _attention(fields: Fields, sizes: _Sizes) -> tuple[Callable[[str], Part], int | None]:
    """A layer's gated attention by its name, and the length to which its rotary frequencies are settled."""
    hidden, heads = sizes.hidden, fields.integer("num_attention_heads", default=16)
    kv_heads = fields.integer("num_key_value_heads", default=2)
    divided("num_attention_heads over num_key_value_heads", heads, kv_heads)
    width = fields.integer("head_dim", default=256)
    bias = fields.flag("attention_bias", default=False)
    rotary = rotary_of(fields, width, share=0.25)

    def mixer(layer: str) -> Part:
        name = f"{layer}.self_attn"
        queries = GatedQueries(
            Linear(f"{name}.q_proj", 2 * heads * width, hidden, bias),
            Linear(f"{name}.k_proj", kv_heads * width, hidden, bias),
            Linear(f"{name}.v_proj", kv_heads * width, hidden, bias),
            width,
        )
        attention = Attention(
            queries,
            Linear(f"{name}.o_proj", hidden, heads * width, bias),
            heads,
            kv_heads,
            width,
            rotary=rotary,
            query_norm=sizes.norm(f"{name}.q_norm", width),
            key_norm=sizes.norm(f"{name}.k_norm", width),
        )
        return GatedAttention(attention, queries)

    return mixer, rotary.settled_length


def _delta(fields: Fields, sizes: _Sizes) -> Callable[[str], Part]:
    """A layer's gated delta rule by its name."""
    key_heads = fields.integer("linear_num_key_heads", default=16)
    heads = fields.integer("linear_num_value_heads", default=32)
    divided("linear_num_value_heads over linear_num_key_heads", heads, key_heads)
    key_width = fields.integer("linear_key_head_dim", default=128)
    width = fields.integer("linear_value_head_dim", default=128)
    taps = fields.integer("linear_conv_kernel_dim", default=4)
    keys, values, hidden = key_heads * key_width, heads * width, sizes.hidden

    def mixer(layer: str) -> Part:
        name = f"{layer}.linear_attn"
        return GatedDeltaNet(
            name,
            mixed=Linear(f"{name}.in_proj_qkvz", 2 * keys + 2 * values, hidden),
            rates=Linear(f"{name}.in_proj_ba", 2 * heads, hidden),
            convolution=Convolution(
                f"{name}.conv1d", 2 * keys + values, taps, activation=ACTIVATIONS[sizes.activation]
            ),
            norm=Norm(f"{name}.norm", width, sizes.eps),
            out=Linear(f"{name}.out_proj", hidden, values),
            key_heads=key_heads,
            heads=heads,
            key_width=key_width,
            width=width,
        )

    return mixer


def _mlp(fields: Fields, sizes: _Sizes) -> Callable[[int, str], Part]:
    """A layer's MLP by its index and name: a mixture with a shared expert, or a gated one."""
    hidden, activation = sizes.hidden, sizes.activation
    inner = fields.integer("intermediate_size", default=5632)
    expert_inner = fields.integer("moe_intermediate_size", default=512)
    shared_inner = fields.integer("shared_expert_intermediate_size", default=512)
    experts = fields.integer("num_experts", "num_local_experts", default=512)
    top_k = fields.integer("num_experts_per_tok", default=10)
    router = Router(top_k, normalise=fields.flag("norm_topk_prob", default=True))
    every, dense = fields.integer("decoder_sparse_step", default=1), fields.layers("mlp_only_layers")

    def mlp(index: int, name: str) -> Part:
        if index in dense or (index + 1) % every:
            return gated(name, inner, hidden, activation)
        return Mixture(
            Linear(f"{name}.gate", experts, hidden),
            router,
            separate(f"{name}.experts", experts, expert_inner, hidden, activation),
            shared=gated(f"{name}.shared_expert", shared_inner, hidden, activation),
            shared_gate=Linear(f"{name}.shared_expert_gate", 1, hidden),
        )

    return mlp


ARCHITECTURE = Architecture(
    model_type="qwen3_next",
    build=build,
    source="Qwen team 2025 (Qwen3-Next); Yang et al. 2024 (gated delta rule); Shazeer et al. 2017",
    ignores=("router_aux_loss_coef", "output_router_logits"),  # losses of training
    ignored=(r"(model\.)?mtp\..*",),  # it predicts further tokens, and is no part of the model's logits
    stored=Stacked(),
)
