"""Reads the rotary fields of config.json in both spellings: `rope_parameters`, or `rope_theta` with `rope_scaling`.

One rule: what is said twice has to say the same. transformers 5 takes `rope_scaling` where both are there, other
loaders `rope_parameters`, so a configuration whose two spellings disagree has no right answer, and is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from genqual.conformance.oracle import rotary
from genqual.conformance.oracle.core import F64
from genqual.conformance.oracle.fields import Fields
from genqual.conformance.oracle.rotary import Rotary
from genqual.errors import BadInput

KINDS: Final = ("default", "linear", "dynamic", "yarn", "longrope", "llama3")

_KEYS: Final = {  # what each kind reads beside its name, base and share of the head
    "default": (),
    "linear": ("factor",),
    "dynamic": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
    "yarn": (
        *("factor", "original_max_position_embeddings", "attention_factor", "beta_fast", "beta_slow"),
        *("mscale", "mscale_all_dim", "truncate"),
    ),
    "longrope": ("factor", "original_max_position_embeddings", "attention_factor", "short_factor", "long_factor"),
}
# "finetuned" marks a checkpoint that was trained on; "max_position_embeddings" repeats the field of that name.
_HARMLESS: Final = ("rope_type", "type", "rope_theta", "partial_rotary_factor", "finetuned", "max_position_embeddings")


def rotary_of(
    fields: Fields,
    width: int,
    *,
    layer_type: str | None = None,
    theta: float = 10000.0,
    theta_names: tuple[str, ...] = ("rope_theta",),
    share: float = 1.0,
    share_names: tuple[str, ...] = ("partial_rotary_factor",),
    interleaved: bool = False,
    scaled: bool = True,
    original: int | None = None,
    renamed: Mapping[str, str] | None = None,
) -> Rotary:
    """The rotation of heads of `width`, of the layers of `layer_type` where a configuration tells them apart.

    `theta` and `share` (of the width that is rotated) are the architecture's defaults, `theta_names` and `share_names`
    the fields of config.json that say them. `scaled` False: `rope_scaling` is not of these layers. `original` is the
    context before it was stretched, where the architecture has a field of its own for it; `renamed` gives kinds that
    it calls otherwise. Raises BadInput on a kind that is not in KINDS, on keys that its kind does
    not have, and on spellings that disagree.
    """
    rope = parameters(fields, layer_type, scaled=scaled)
    base = _agreed(fields, rope, "rope_theta", theta_names, theta)
    if base <= 0:
        raise BadInput(f"config {theta_names[0]} = {base:g}: a number above 0 is wanted")
    part = _agreed(fields, rope, "partial_rotary_factor", share_names, share)
    turned = int(width * part)
    if turned < 2 or turned % 2 or turned > width:
        raise BadInput(f"config rotates {turned} of a head's {width}: an even number within the head is wanted")
    kind = str(rope.get("rope_type", rope.get("type", "default")))
    kind = (renamed or {}).get(kind, kind)
    if kind not in KINDS:
        raise BadInput(f"rope_type {kind!r}: the {fields.architecture} oracle knows {', '.join(KINDS)}")
    unknown = sorted(k for k, v in rope.items() if k not in (*_HARMLESS, *_KEYS[kind]) and v is not None)
    # Keys of other kinds are left by tools that merge dictionaries; loaders do not read them.
    unknown = [key for key in unknown if not any(key in keys for keys in _KEYS.values())]
    if unknown:
        raise BadInput(
            f"rope_type {kind!r} with {', '.join(unknown)}: the {fields.architecture} oracle knows no such key"
        )
    return _Said(fields, rope, base, turned, interleaved, original).rotary(kind)


def parameters(fields: Fields, layer_type: str | None = None, *, scaled: bool = True) -> dict[str, Any]:
    """The rotary dictionary of `layer_type`, in transformers 5's spelling. Raises BadInput where two disagree."""
    new, old = fields.mapping("rope_parameters"), fields.mapping("rope_scaling")
    if new and layer_type is not None and not any(isinstance(value, Mapping) for value in new.values()):
        raise BadInput(
            f"config rope_parameters = {new}: one dictionary a kind of layers is wanted, {layer_type} has none"
        )
    chosen, other = _of_layers(new, layer_type), _of_layers(old, None) if scaled else {}
    if chosen and other:
        for key in sorted({*chosen, *other} - {"rope_theta", "partial_rotary_factor", "type", "rope_type"}):
            if chosen.get(key) != other.get(key):
                _refuse_both(key, chosen.get(key), other.get(key))
        kinds = [each.get("rope_type", each.get("type", "default")) for each in (chosen, other)]
        if kinds[0] != kinds[1]:
            _refuse_both("rope_type", *kinds)
        for key in ("rope_theta", "partial_rotary_factor"):
            if key in chosen and key in other and chosen[key] != other[key]:
                _refuse_both(key, chosen[key], other[key])
    return {**other, **chosen}


def _of_layers(rope: Mapping[str, object] | None, layer_type: str | None) -> dict[str, Any]:
    """The part of `layer_type` where `rope` has a dictionary a kind of layers, else the whole."""
    if not rope:
        return {}
    nested = {key: value for key, value in rope.items() if isinstance(value, Mapping)}
    if not nested:
        return dict(rope)
    if layer_type is None or layer_type not in nested:
        raise BadInput(
            f"config rope_parameters names {', '.join(sorted(nested))}, not {layer_type or 'one for all layers'}: "
            f"give the layers' own configuration"
        )
    return dict(nested[layer_type])


def _refuse_both(key: str, new: object, old: object) -> None:
    raise BadInput(
        f"config rope_parameters has {key} = {new!r}, rope_scaling has {key} = {old!r}: transformers 5 takes the one, "
        f"other loaders the other, so what is right is not defined; remove the wrong one from config.json"
    )


def _agreed(fields: Fields, rope: Mapping[str, Any], key: str, names: tuple[str, ...], default: float) -> float:
    """`key` of the rotary dictionary, or the field of config.json; refused where both are there and disagree."""
    outside = fields.optional_number(*names)
    inside = rope.get(key)
    if inside is not None and (isinstance(inside, bool) or not isinstance(inside, int | float)):
        raise BadInput(f"config rope_parameters {key} = {inside!r}: a number is wanted")
    if inside is not None and outside is not None and float(inside) != outside:
        raise BadInput(
            f"config {names[0]} = {outside!r}, yet {key} of its rotary dictionary = {inside!r}: loaders disagree which "
            f"of the two counts; remove the wrong one from config.json"
        )
    if inside is not None:
        return float(inside)
    return default if outside is None else outside


@dataclass(frozen=True)
class _Said:
    """What a configuration says of one rotation."""

    fields: Fields
    rope: Mapping[str, Any]
    theta: float
    width: int
    interleaved: bool
    original_default: int | None

    def rotary(self, kind: str) -> Rotary:
        theta, width = self.theta, self.width
        if kind == "dynamic":
            longest = self.fields.integer("max_position_embeddings", "n_positions", "seq_length")
            frequencies = rotary.dynamic(theta, width, self.number("factor"), longest)
            return Rotary(frequencies, interleaved=self.interleaved, settled_length=longest)
        if kind in ("yarn", "longrope"):
            return self.yarn() if kind == "yarn" else self.longrope()
        if kind == "linear":
            plain = rotary.linear(theta, width, self.number("factor"))
        elif kind == "llama3":
            factor, slow, fast = (self.number(key) for key in ("factor", "low_freq_factor", "high_freq_factor"))
            plain = rotary.llama3(theta, width, factor, slow, fast, self.original())
        else:
            plain = rotary.plain(theta, width)
        return Rotary(rotary.fixed(plain), interleaved=self.interleaved)

    def yarn(self) -> Rotary:
        original, rope = self.original(), self.rope
        factor = self.factor(original)
        fast, slow = (float(rope.get(key) or default) for key, default in (("beta_fast", 32), ("beta_slow", 1)))
        magnitude = rope.get("attention_factor")
        if magnitude is None and rope.get("mscale") and rope.get("mscale_all_dim"):
            over, under = (rotary.yarn_magnitude(factor, self.number(key)) for key in ("mscale", "mscale_all_dim"))
            magnitude = over / under
        elif magnitude is None:
            magnitude = rotary.yarn_magnitude(factor)
        truncate = rope.get("truncate") is not False
        frequencies = rotary.yarn(self.theta, self.width, factor, original, fast, slow, truncate=truncate)
        return Rotary(rotary.fixed(frequencies), float(magnitude), self.interleaved)

    def longrope(self) -> Rotary:
        original = self.original()
        short, long = (_factors(self.rope, key, self.width // 2) for key in ("short_factor", "long_factor"))
        magnitude = self.rope.get("attention_factor")
        if magnitude is None:
            magnitude = rotary.longrope_magnitude(self.factor(original), original)
        frequencies = rotary.longrope(self.theta, self.width, short, long, original)
        return Rotary(frequencies, float(magnitude), self.interleaved, settled_length=original)

    def original(self) -> int:
        """Tokens of the context before it was stretched: a field (Phi-3), in the dictionary, or the whole context."""
        outside = self.fields.optional_integer("original_max_position_embeddings", default=self.original_default)
        inside = self.rope.get("original_max_position_embeddings")
        if outside is not None and inside is not None and outside != inside:
            raise BadInput(
                f"config original_max_position_embeddings = {outside}, yet its rotary dictionary says {inside}: "
                f"loaders disagree which of the two counts; remove the wrong one"
            )
        said = outside if outside is not None else inside
        return int(said) if said is not None else self.fields.integer("max_position_embeddings")

    def factor(self, original: int) -> float:
        if self.rope.get("factor") is not None:
            return self.number("factor")
        return self.fields.integer("max_position_embeddings") / original

    def number(self, key: str) -> float:
        value = self.rope.get(key)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise BadInput(f"config {key} = {value!r} of its rotary dictionary: a number is wanted")
        return float(value)


def _factors(rope: Mapping[str, Any], key: str, pairs: int) -> F64:
    value = rope.get(key)
    if not isinstance(value, list) or len(value) != pairs:
        raise BadInput(f"config {key} of its rotary dictionary: a list of {pairs} numbers is wanted, one a pair")
    return np.asarray(value, dtype=np.float64)
