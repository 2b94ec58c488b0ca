"""Reads config.json for an architecture, and records what was read: what nobody read is refused by name."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import Final, TypeVar, cast

from genqual.cases import Json
from genqual.errors import BadInput
from genqual.models.quantised.registry import scheme_of

_HARMLESS: Final = """
    model_type architectures transformers_version torch_dtype dtype _name_or_path name_or_path auto_map use_cache
    bos_token_id eos_token_id pad_token_id sep_token_id cls_token_id mask_token_id unk_token_id decoder_start_token_id
    initializer_range initializer_factor init_std init_method layer_norm_init rescale_prenorm_residual init_device
    max_position_embeddings n_positions n_ctx max_seq_len max_sequence_length seq_length model_max_length
    attention_dropout hidden_dropout hidden_dropout_prob attention_probs_dropout_prob attn_pdrop embd_pdrop resid_pdrop
    emb_pdrop activation_dropout dropout layerdrop classifier_dropout residual_dropout embedding_dropout
    return_dict output_hidden_states output_attentions output_scores return_dict_in_generate torchscript use_bfloat16
    id2label label2id num_labels problem_type task_specific_params finetuning_task tokenizer_class prefix
    summary_type summary_use_proj summary_activation summary_proj_to_labels summary_first_dropout
    gradient_checkpointing chunk_size_feed_forward tf_legacy_loss pruned_heads attn_implementation
    _attn_implementation _attn_implementation_internal _attn_implementation_autoset _experts_implementation
    is_decoder is_encoder_decoder add_cross_attention cross_attention_hidden_size
    tie_encoder_decoder temperature top_k top_p typical_p do_sample num_beams num_beam_groups diversity_penalty
    repetition_penalty length_penalty no_repeat_ngram_size encoder_no_repeat_ngram_size bad_words_ids max_length
    min_length early_stopping num_return_sequences forced_bos_token_id forced_eos_token_id remove_invalid_values
    exponential_decay_length_penalty suppress_tokens begin_suppress_tokens renormalize_logits
    pretraining_tp slow_but_exact masked_softmax_fusion bias_dropout_fusion offset_alibi skip_bias_add
    skip_bias_add_qkv unk_index unsloth_version unsloth_fixed torch_compile cache_implementation
attention_softmax_in_fp32 scale_attention_softmax_in_fp32 neftune_noise_alpha tokenizer_name init_config verbose
custom_pipelines is_llama_config transformers.js_config
"""
HARMLESS: Final = frozenset(_HARMLESS.split())
"""Fields that cannot change logits of given weights: names, special tokens, dropout, sampling, training, fusion."""

_Value = TypeVar("_Value")

_NOTHING: Final[tuple[object, ...]] = (None, False, "", [], {})


@dataclass(frozen=True, slots=True)
class Field:
    """One field that an architecture declares: `names` (spellings, the first is meant), what it is, what it became.

    `kind`: "integer", "number", "flag", "choice", "limits" or "mapping". `default` None: the field has to be there, or
    stays unset. `among`: the values of a choice.
    """

    names: tuple[str, ...]
    kind: str
    value: object
    default: object = None
    among: tuple[str, ...] = ()


class Fields:
    """config.json of one model. Each method raises BadInput, naming field and value, on what it cannot take."""

    def __init__(
        self, config: Mapping[str, object], *, ignores: Sequence[str] = (), stored: Collection[str] = ()
    ) -> None:
        """`ignores`: fields that this architecture's definition does not have, whatever their value.

        `stored`: names of the tensors in the checkpoint, for an architecture whose checkpoints name them in two ways.
        """
        self.config, self.stored = config, frozenset(stored)
        self.read: dict[str, Field] = {}
        self._seen = set(ignores)

    @property
    def architecture(self) -> str:
        """The `model_type`."""
        return str(self.config.get("model_type"))

    def integer(self, *names: str, default: int | None = None) -> int:
        """A positive integer: the first of `names` (a field and its other spellings) that is set, else `default`."""
        value = self.optional_integer(*names)
        value = self._keep(names, "integer", default if value is None else value, default)
        if value is None:
            raise BadInput(f"the configuration sets none of {', '.join(names)}; give the model's whole config.json")
        return value

    def optional_integer(self, *names: str, default: int | None = None) -> int | None:
        """As `integer`; `default` where the field is absent, None where it is null."""
        name, value = self._raw(names)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value <= 0):
            raise BadInput(f"config {name} = {value!r}: a positive integer is wanted")
        absent = not any(name in self.config for name in names)
        return self._keep(names, "integer", default if absent else value, default)

    def number(self, *names: str, default: float | None = None) -> float:
        """A float. Raises BadInput when it is missing without a default, or no number."""
        value = self.optional_number(*names)
        value = self._keep(names, "number", default if value is None else value, default)
        if value is None:
            raise BadInput(f"config {names[0]} = None: a number is wanted")
        return value

    def optional_number(self, *names: str, default: float | None = None) -> float | None:
        """As `number`; `default` where the field is absent, None where it is null."""
        name, value = self._raw(names)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise BadInput(f"config {name} = {value!r}: a number is wanted")
        absent = not any(name in self.config for name in names)
        return self._keep(names, "number", default if absent else None if value is None else float(value), default)

    def flag(self, *names: str, default: bool) -> bool:
        """True or false."""
        name, value = self._raw(names)
        if value is not None and not isinstance(value, bool):
            raise BadInput(f"config {name} = {value!r}: true or false is wanted")
        return self._keep(names, "flag", default if value is None else value, default)

    def choice(self, *names: str, default: str | None = None, among: Sequence[str]) -> str:
        """One of the words `among`."""
        name, value = self._raw(names)
        value = default if value is None else value
        if not isinstance(value, str) or value not in among:
            raise BadInput(f"config {name} = {value!r}: the {self.architecture} oracle knows {', '.join(among)}")
        self.read[names[0]] = Field(names, "choice", value, default, tuple(among))
        return value

    def limits(self, *names: str, default: tuple[float, float]) -> tuple[float, float]:
        """A least and a greatest number. JSON has no infinity: transformers writes {"__float__": "Infinity"}."""
        name, value = self._raw(names)
        if value is None:
            return self._keep(names, "limits", default, default)
        given = list(value) if isinstance(value, Sequence) and not isinstance(value, str) else []
        ends = [each.get("__float__") if isinstance(each, Mapping) else each for each in given]
        ends = [inf if each == "Infinity" else each for each in ends]
        numbers = [float(each) for each in ends if isinstance(each, int | float) and not isinstance(each, bool)]
        if len(ends) != 2 or len(numbers) != 2:
            raise BadInput(f"config {name} = {value!r}: two numbers are wanted, the least and the greatest")
        least, most = numbers
        if not least < most:
            raise BadInput(f"config {name} = {value!r}: the least must be below the greatest")
        return self._keep(names, "limits", (least, most), default)

    def mapping(self, *names: str) -> dict[str, object] | None:
        """A dict, None where the field is not set."""
        name, value = self._raw(names)
        if value is not None and not isinstance(value, Mapping):
            raise BadInput(f"config {name} = {value!r}: a mapping is wanted")
        return self._keep(names, "mapping", None if value is None else dict(value), None)

    def words(self, *names: str, count: int, among: Sequence[str]) -> list[str] | None:
        """A list of `count` words of `among` (a kind of each layer), None where the field is not set."""
        name, value = self._raw(names)
        if value is None:
            return self._keep(names, "words", None, None)
        if not isinstance(value, Sequence) or len(value) != count or any(word not in among for word in value):
            raise BadInput(f"config {name} = {value!r}: {count} of {', '.join(among)} are wanted, one a layer")
        return self._keep(names, "words", [str(word) for word in value], None)

    def natural(self, *names: str, default: int) -> int:
        """An integer that may be zero."""
        name, value = self._raw(names)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 0):
            raise BadInput(f"config {name} = {value!r}: an integer of at least 0 is wanted")
        return self._keep(names, "natural", default if value is None else value, default)

    def layers(self, *names: str) -> list[int]:
        """Indices of layers, empty where the field is not set."""
        name, value = self._raw(names)
        given = [] if value is None else value
        if not isinstance(given, list) or any(isinstance(i, bool) or not isinstance(i, int) or i < 0 for i in given):
            raise BadInput(f"config {name} = {value!r}: a list of layers' indices is wanted")
        return self._keep(names, "layers", list(given), None)

    def same(self, name: str, value: object, why: str) -> None:
        """Raises BadInput unless `name` is unset or `value`: the oracle computes nothing else."""
        _, given = self._raw((name,))
        if given is not None and given != value:
            raise BadInput(f"config {name} = {given!r}: the {self.architecture} oracle computes {value!r} only ({why})")

    def skip(self, *names: str) -> None:
        """These fields, whatever they are, change nothing here."""
        self._seen.update(names)

    def unread(self) -> dict[str, object]:
        """Fields that nobody read and that may change what is right, with their values."""
        return {
            name: value
            for name, value in self.config.items()
            if name not in HARMLESS and name not in self._seen and value not in _NOTHING
        }

    def finish(self) -> None:
        """Raises BadInput, naming them, on fields that nobody read and that may change what is right."""
        left = self.unread()
        quantised = [name for name in ("quantization_config", "compression_config", "quantization") if name in left]
        if quantised:
            try:
                scheme_of(cast("Mapping[str, Json]", self.config))
            except BadInput as reason:  # a format that is not known, or a field of one that is
                raise BadInput(f"this checkpoint is quantised: {reason}") from reason
            raise BadInput(
                f"config {quantised[0]}: this checkpoint is quantised; the oracle computes unquantised weights, "
                "give it the checkpoint that this one was made from"
            )
        if left:
            said = ", ".join(f"{name} = {value!r}"[:80] for name, value in sorted(left.items()))
            raise BadInput(
                f"config {said}: the {self.architecture} oracle does not know these fields, so it cannot say that they "
                f"change nothing; remove them from config.json where the engines under test ignore them"
            )

    def _raw(self, names: Sequence[str]) -> tuple[str, object]:
        """The spelling that is set, and its value. Raises BadInput when two spellings disagree."""
        self._seen.update(names)
        found = [(name, self.config[name]) for name in names if self.config.get(name) is not None]
        for name, value in found[1:]:
            if value != found[0][1]:
                raise BadInput(
                    f"config {found[0][0]} = {found[0][1]!r}, yet {name} = {value!r}: both name one thing, and loaders "
                    f"disagree which of the two counts; remove the wrong one"
                )
        return found[0] if found else (names[0], None)

    def _keep(self, names: tuple[str, ...], kind: str, value: _Value, default: object) -> _Value:
        self.read[names[0]] = Field(names, kind, value, default)
        return value


def divided(config_text: str, whole: int, parts: int) -> int:
    """`whole / parts`. Raises BadInput, naming `config_text`, when it leaves a remainder."""
    if whole % parts:
        raise BadInput(f"config {config_text}: {whole} is not a multiple of {parts}")
    return whole // parts
