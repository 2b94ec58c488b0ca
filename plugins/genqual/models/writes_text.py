"""Whether a configuration is of a model that continues a text, which is all that genqual judges. Standard library."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from genqual.cases import Json

_OTHER_HEADS: Final = re.compile(
    r"For(MaskedLM|MaskedImageModeling|\w*Classification|\w*QuestionAnswering|MultipleChoice|NextSentencePrediction|CTC|"
    r"\w*Segmentation|ObjectDetection|\w*Estimation|\w*Prediction|FeatureExtraction|TextEncoding)$"
)


def why_no_text(config: Mapping[str, Json]) -> str | None:
    """What kind of model `config` is of where it does not continue a text, with the next step; None where it does.

    By what the configuration says itself: `is_encoder_decoder`, and the heads that `architectures` names.
    """
    named = config.get("architectures")
    heads = [str(one) for one in named] if isinstance(named, list) else []
    said = f" ({', '.join(heads)})" if heads else ""
    if config.get("is_encoder_decoder") is True:
        kind = "an encoder with a decoder"
    elif heads and all(_OTHER_HEADS.search(head) for head in heads):
        kind = "a model that writes no text"
    else:
        return None
    return f"{config.get('model_type')}{said} is {kind}: genqual judges decoders that continue a text; give it one"
