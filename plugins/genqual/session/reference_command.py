"""The command that makes a model's reference: by the oracle where it takes the model, else by transformers."""

from __future__ import annotations

import shlex
from pathlib import Path

from genqual.conformance.oracle.registry import is_contradiction, why_no_oracle
from genqual.errors import BadInput
from genqual.models import weights
from genqual.models.registry import cache_dir, resolve
from genqual.models.spec import ModelSpec


def adding_command(model: str, dtype: str, folder: Path) -> str:
    """The command that measures a tolerance of `dtype` for the reference of `model` that lies in `folder`.

    To make it again is refused, or makes another one.
    """
    words = ["genqual", "reference", model, "--add", "--schemes", dtype]
    place = folder.parent
    return shlex.join(words if place == cache_dir() / "references" else [*words, "--out", str(place)])


def reference_command(model: str) -> str:
    """`genqual reference ...` of `model`, called as its user calls it. One that cannot be read here is left plain.

    What the oracle refuses is asked of transformers: an architecture that it does not know, and fields of the
    configuration that it does not know. A command that ends in the advice to run another one is a detour.
    """
    plain = ["genqual", "reference", model]
    try:
        return shlex.join(plain if _by_oracle(resolve(model)) else [*plain, "--by", "transformers"])
    except BadInput:
        return shlex.join(plain)


def _by_oracle(spec: ModelSpec) -> bool:
    """Whether the oracle takes the configuration of `spec`. Raises BadInput where that cannot be read here."""
    if spec.source == "embedded":  # of an architecture that the oracle has; its weights are counted out when asked for
        return True
    reason = why_no_oracle(weights.config(spec), weights.lazily(spec))
    # The command then tells a contradiction; transformers' word would only hide it.
    return reason is None or is_contradiction(reason)
