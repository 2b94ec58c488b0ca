"""A failed verdict is one paragraph with the next command in it."""

from __future__ import annotations

from genqual.cases import Case
from genqual.conformance.judgement import Judgement
from genqual.session.failure_message import paragraph
from tests.here import CPU

FAILED = Judgement("fail", "fp32", "logits", "Step 3 of prompt 1 is off. Smallest example of 9 tried: cuts = [1, 4].")


def test_it_names_case_property_example_and_the_next_step() -> None:
    said = paragraph(Case(CPU, "deepspeed-inference", "llama-tiny", "fp32", 2), "cache_equals_no_cache", FAILED,
                     restarted=True)  # fmt: skip
    assert said.startswith(f"{CPU}-deepspeed-inference-tp2-llama-tiny-fp32: cache equals no cache: Step 3 of prompt 1")
    assert "cuts = [1, 4]" in said
    assert "The weights had changed" in said
    assert "`genqual bisect llama-tiny --engine deepspeed-inference --ranks 2 --dtype fp32`" in said
    assert "\n" not in said


def test_a_declared_dtype_is_sent_to_fp32_first_and_tokens_to_nowhere() -> None:
    bf16 = Judgement("fail", "declared", "logits", "nrms 0.1.")
    case = Case(CPU, "transformers", "llama-tiny", "bf16")
    assert "--dtype fp32" in paragraph(case, "p", bf16, restarted=False)
    tokens = Judgement("fail", "fp32", "tokens", "Another text.")
    assert "genqual bisect" not in paragraph(case, "p", tokens, restarted=False)
