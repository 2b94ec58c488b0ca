"""A property of another package, with the fault that proves it: a token's logits do not depend on the pad id."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from genqual.engines.base import TokenBatch
from genqual.faults.fault import Fault

FAULT = Fault(
    "toy_pad_seen",
    "toy_property:pad_seen",
    "padding is told by its id, so another id is read",
    group="rows",
    sample=True,
)


@pytest.mark.conformance("batching")
def test_no_logit_depends_on_the_id_of_padding(
    generator: Any, scoring_sample: Any, verdict: Callable[..., None]
) -> None:
    rows = [[3, 141, 59, 26], [5, 9]]
    forced = np.array([[7, 8, 9, 10]] * len(rows), dtype=np.int64)
    batch = TokenBatch.of(rows)
    other = replace(batch, ids=np.where(batch.mask == 0, 11, batch.ids))
    plain, changed = generator.score(batch, forced), generator.score(other, forced)
    verdict(scoring_sample.same(plain, changed, dtype=generator.case.dtype))


def pad_seen(engine: Any, rank: int) -> Callable[[], None]:
    """Let attention see what is padding, unless its id is 0. In ranks only."""

    def see(module: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        ids, mask = kwargs.get("input_ids"), kwargs.get("attention_mask")
        if ids is not None and mask is not None and mask.shape[-1] == ids.shape[-1]:
            kwargs["attention_mask"] = ((mask == 1) | (ids != 0)).to(mask.dtype)
        return args, kwargs

    return engine.model.register_forward_pre_hook(see, with_kwargs=True).remove  # type: ignore[no-any-return]
