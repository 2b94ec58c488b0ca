"""What transformers 4 would not see of a configuration that transformers 5 wrote, by the names it reads."""

from __future__ import annotations

from typing import Any

import pytest

from genqual.models.rotary_spelling import unseen

YARN = {"rope_type": "yarn", "rope_theta": 500.0, "factor": 4.0}
BOTH = {"full_attention": {"rope_type": "default", "rope_theta": 900.0}, "sliding_attention": {"rope_theta": 30.0}}
FAR = BOTH | {"full_attention": {"rope_type": "linear", "rope_theta": 900.0, "factor": 8.0}}
PART = {"rope_type": "default", "rope_theta": 500.0, "partial_rotary_factor": 0.5}


@pytest.mark.parametrize(
    ("config", "lacks"),
    [
        ({"rope_theta": 500.0}, []),
        ({"rope_parameters": None}, []),
        ({"rope_parameters": {"rope_theta": 500.0}}, ["rope_theta"]),
        ({"rope_parameters": {"rope_theta": 500.0}, "rope_theta": 500.0}, []),
        ({"rope_parameters": {"rope_theta": 500.0}, "rope_theta": 400.0}, ["rope_theta"]),
        ({"rope_parameters": YARN, "rope_theta": 500.0}, ["rope_scaling"]),
        ({"rope_parameters": YARN, "rope_theta": 500.0, "rope_scaling": {"type": "yarn", "factor": 4.0}}, []),
        ({"rope_parameters": BOTH}, ["rope_theta", "rope_local_base_freq"]),
        ({"rope_parameters": BOTH, "rope_theta": 900.0}, ["rope_local_base_freq"]),
        ({"rope_parameters": BOTH, "rope_theta": 900.0, "rope_local_base_freq": 30.0}, []),
        ({"rope_parameters": FAR, "rope_theta": 900.0, "rope_local_base_freq": 30.0}, ["rope_scaling"]),
        ({"rope_parameters": PART, "rope_theta": 500.0}, ["partial_rotary_factor"]),
        ({"rope_parameters": PART, "rope_theta": 500.0, "partial_rotary_factor": 0.5}, []),
        ({"rope_parameters": PART, "rope_theta": 500.0, "rotary_pct": 0.5}, []),
    ],
)
def test_what_the_older_release_would_not_see(config: dict[str, Any], lacks: list[str]) -> None:
    assert unseen(config) == lacks
