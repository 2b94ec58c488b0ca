"""The catalogue's faults, group by group. Pure: names, entries and parameters only."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

from genqual.dtypes import DTYPES
from genqual.faults.fault import BLOOM, HERE, LLAMA, SHARDED, Fault

TOKENS: Final = frozenset({"server", "external"})
ONE: Final = frozenset({"transformers"})
MODULES: Final = frozenset({"modules"})
CACHED: Final = frozenset({"modules", "cache"})
KEEPS_FP32: Final = frozenset({"deepseek_v3"})
"""Of the oracle's architectures those whose class keeps some weights in fp32 in bf16 and fp16 alike."""
LOOP: Final = frozenset({"loop"})
STOPS: Final = frozenset({"loop", "stops"})
PARTS: Final = frozenset({"modules", "cache", "passes"})
SPLIT: Final = frozenset({"modules", "shards"})


def _group(
    group: str, *faults: tuple[str, str, str, dict[str, Any]], wants: frozenset[str] = MODULES
) -> tuple[Fault, ...]:
    """Faults of one group: name, "module:function", summary, and whatever else, `params` among it.

    `wants` is what they ask of an engine that is not genqual's, unless one says otherwise.
    """
    return tuple(
        Fault(name, f"{HERE}.{entry}", summary, group=group, **{"wants": wants, **more})
        for name, entry, summary, more in faults
    )


def _with(**params: Any) -> dict[str, Any]:
    return {"params": params}


POSITIONS: Final = _group(
    "positions",
    ("rotary_theta_1pct", "arithmetic:rotary_theta", "the rotary base is 1 % too large",
     {**_with(factor=1.01), "architectures": LLAMA, "kind": "weights", "sample": True}),
    ("rotary_theta_10pct", "arithmetic:rotary_theta", "the rotary base is 10 % too large",
     {**_with(factor=1.1), "architectures": LLAMA, "kind": "weights"}),
    ("rotary_sine_negated", "positions:rotary_angles", "rotary turns the other way", {**_with(sine=-1.0), "architectures": LLAMA}),
    ("rotary_sine_short", "positions:rotary_angles", "the sine of rotary angles is 1 % too small",
     {**_with(sine=0.99), "architectures": LLAMA}),
    ("rotary_swapped", "positions:rotary_angles", "sine and cosine change places", {**_with(swap=True), "architectures": LLAMA}),
    ("position_off_by_one", "positions:positions", "decode steps count one position too many",
     {**_with(shift=1, decode_only=True), "architectures": LLAMA, "sample": True}),
    ("position_wraps", "positions:positions", "positions start again after 32", {**_with(wrap=32), "architectures": LLAMA}),
    ("alibi_slope_1pct", "arithmetic:alibi_slope", "ALiBi's slopes are 1 % too steep",
     {**_with(factor=1.01), "architectures": BLOOM, "sample": True}),
    ("alibi_missing", "positions:alibi", "no layer adds ALiBi's biases", {**_with(factor=0.0), "architectures": BLOOM}),
    ("alibi_missing_in_one", "positions:alibi", "one layer adds no ALiBi", {**_with(factor=0.0, layer=1), "architectures": BLOOM}),
    ("alibi_other_heads", "positions:alibi", "each head has the slope of its neighbour", {**_with(roll=1), "architectures": BLOOM}),
)  # fmt: skip

CACHE: Final = _group(
    "cache",
    ("stale_kv", "cache:stale_kv", "a layer's cache stores the previous token at each decode step", {"sample": True}),
    ("kv_clobbered", "cache:altered_kv", "the newest key overwrites the oldest", _with(how="clobbered")),
    ("kv_shifted", "cache:altered_kv", "values are read one place late", _with(how="shifted")),
    ("kv_rows_swapped", "cache:altered_kv", "two rows read each other's cache", {**_with(how="rows"), "sample": True}),
    ("kv_shared", "cache:altered_kv", "every row reads the first row's cache", _with(how="shared")),
    ("kv_window", "cache:altered_kv", "keys before the last eight are lost", _with(how="dropped")),
    ("kv_coarse", "cache:altered_kv", "values are kept in three bits of mantissa", _with(how="coarse")),
    ("kv_swapped", "cache:altered_kv", "keys and values change places", _with(how="swapped")),
    ("kv_parts_lost", "cache:altered_kv", "a second part of a prompt does not see the first",
     {**_with(how="parts"), "engines": ONE, "wants": PARTS}),
    ("kv_of_before", "cache:kv_of_before", "a request reads a key of the request before", {}),
    ("crop_forgets", "cache:crop_forgets", "a cropped cache keeps a value of what was cropped", {"engines": ONE, "wants": PARTS}),
    wants=CACHED,
)  # fmt: skip

MASKS: Final = _group(
    "masks and padding",
    ("mask_ignored", "positions:mask", "padding is attended to", {**_with(ones=True), "sample": True}),
    ("mask_off_by_one", "positions:mask", "the first real token behind padding is not attended to", _with(shift=1)),
    ("causal_leak", "positions:causal_leak", "a pass over several tokens sees 1 % of the next", {"sample": True}),
    ("causal_leak_faint", "positions:causal_leak", "a pass over several tokens sees 0.01 % of the next", _with(share=1e-4)),
    ("beyond_the_limit", "changing:beyond", "a pass over more than 4096 tokens gives NaN", {"architectures": LLAMA}),
)  # fmt: skip

BLOCKS: Final = _group(
    "heads, norms, activations",
    ("zeroed_head", "arithmetic:zeroed_head", "one attention head of one layer puts out zeros", {"sample": True}),
    ("head_doubled", "blocks:heads", "one attention head counts twice", _with(factor=2.0)),
    ("heads_rolled", "blocks:heads", "the outputs of a layer's heads are one head off", _with(roll=1)),
    ("key_heads_rolled", "blocks:key_heads", "queries meet the keys of the next group", {"architectures": LLAMA}),
    ("norm_epsilon", "blocks:epsilon", "every norm adds 1e-3 instead of 1e-5", {}),
    ("norm_bypassed", "blocks:bypassed", "a layer leaves out its second norm", {}),
    ("norm_weight_one", "bits:norm_weight", "a norm's weights are all one", {"kind": "weights"}),
    ("activation_other", "blocks:other_activation", "a layer has the exact GELU", {}),
    ("activation_clipped", "blocks:clipped", "a layer's activation never exceeds 3", {}),
    ("embedding_scaled", "blocks:scaled", "embeddings are 1 % too large",
     _with(part="embedding", factor=1.01) | {"survives_on": {
         "bloom": "a norm follows the embeddings, and takes their scale out but for what its epsilon leaves"}}),
    ("final_norm_scaled", "blocks:scaled", "the last norm is 1 % too large", _with(part="norm", factor=1.01)),
    ("attention_scaled", "blocks:scaled", "one layer's attention is 1 % too large", _with(part="attention_out", factor=1.01)),
    ("decode_only", "arithmetic:decode_only", "one layer is 5 % off when it reads a single token", {"sample": True}),
    ("prefill_only", "blocks:scaled", "one layer is 5 % off when it reads several tokens",
     _with(part="mlp_out", factor=1.05, when="prefill")),
    ("long_only", "rows:by_padding", "one layer is 2 % off in passes of 64 tokens and more", {}),
    ("compiled_only", "arithmetic:compiled_only", "one layer is 5 % off inside the compiled graph and nowhere else",
     {"engines": frozenset({"transformers-compiled"}), "wants": MODULES | {"graph"}}),
    ("nan_hidden", "arithmetic:nan_hidden", "one hidden channel of one batch row is NaN", {}),
    ("nan_logit", "arithmetic:nan_logit", "the logit of one token is NaN in one batch row", {"sample": True}),
)  # fmt: skip

WEIGHTS: Final = tuple(
    _group(
        "weights",
        ("sign_flip", "weights:sign_flip", "one sign bit of one weight matrix is flipped", {"kind": "weights", "sample": True}),
        ("exponent_flip", "bits:bit", "one exponent bit of the largest weight is flipped",
         {**_with(exponent=True), "kind": "weights"}),
        ("mantissa_flip", "bits:bit", "one mantissa bit of the largest weight is flipped", {"kind": "weights"}),
        ("row_zeroed", "weights:row_zeroed", "one row of one weight matrix is zero", {"kind": "weights"}),
        ("matrix_rows_swapped", "bits:rows", "two rows of a weight matrix change places", {**_with(how="swap"), "kind": "weights"}),
        ("row_reversed", "bits:rows", "one row of a weight matrix is read backwards", {**_with(how="reverse"), "kind": "weights"}),
        ("columns_rolled", "bits:columns", "the columns of a weight matrix are one place off", {**_with(roll=1), "kind": "weights"}),
        ("column_dropped", "bits:columns", "the last column of a weight matrix is lost", {**_with(drop=1), "kind": "weights"}),
        ("layer_stale", "bits:other_layer", "a layer computes with the MLP of the layer before", {"kind": "weights"}),
        ("head_row_zeroed", "bits:rows", "the head's row of one token is zero", {**_with(part="head", first=700), "kind": "weights"}),
        ("head_rows_swapped", "bits:rows", "the head's rows of two tokens change places",
         {**_with(part="head", first=700, how="swap"), "kind": "weights"}),
        ("embedding_rows_swapped", "bits:rows", "the embeddings of two letters change places",
         {**_with(part="embedding", first=104, how="swap"), "kind": "weights"}),
        ("rare_embedding_nan", "bits:rows", "the embeddings of bytes beyond 0xD8 are NaN: nobody writes them in English",
         {**_with(part="embedding", first=219, count=38, how="nan"), "kind": "weights"}),
        ("bias_missing", "bits:bias", "a bias is left out", {"architectures": BLOOM, "kind": "weights"}),
        ("bias_doubled", "bits:bias", "a bias counts twice", {**_with(factor=2.0), "architectures": BLOOM, "kind": "weights"}),
        ("weights_drift", "changing:weights_drift", "every pass adds to one weight", {}),
    )
)  # fmt: skip

PRECISION: Final = _group(
    "precision",
    ("tf32_inside", "rounding:rounded", "one product reads ten bits of mantissa", {"dtypes": frozenset({"fp32"})}),
    ("bf16_inside", "rounding:rounded", "one product of an fp32 run reads seven bits of mantissa",
     {**_with(bits=7), "dtypes": frozenset({"fp32"})}),
    ("fp8_inside", "rounding:rounded", "one product reads three bits of mantissa", {**_with(bits=3), "sample": True}),
    ("short_sums", "rounding:short_sums", "one product is summed in bf16, sixteen terms at a time", {}),
    ("widened", "rounding:widened", "what was declared bf16 runs in fp32", {"kind": "weights", "dtypes": frozenset({"bf16"}),
     "sample": True}),
    ("kept_in_fp32_cast", "rounding:kept_cast", "weights that the model's own rule keeps in fp32 are cast with the others",
     {"kind": "weights", "dtypes": frozenset({"bf16", "fp16"}), "architectures": KEEPS_FP32}),
    ("int8_inside", "bits:quantised", "one matrix was quantised to 8 bits by one scale", {"kind": "weights"}),
    ("int4_inside", "bits:quantised", "one matrix was quantised to 4 bits by one scale", {**_with(bits=4), "kind": "weights"}),
    ("scale_off", "bits:rows", "the scale of sixteen quantised rows is 2 % off",
     {**_with(how="scale", factor=1.02, count=16), "kind": "weights"}),
    ("zero_point_off", "bits:quantised", "the zero point of a quantised matrix is one step off",
     {**_with(zero=1.0), "kind": "weights"}),
)  # fmt: skip

ROWS: Final = _group(
    "rows of a batch",
    ("rows_crossed", "rows:crossed", "the logits of two rows change places in decode steps", {}),
    ("rows_crossed_always", "rows:crossed", "the logits of two rows change places", _with(when="always")),
    ("rows_mixed", "rows:mixed", "each row holds 1 % of the row before it", {"sample": True}),
    ("rows_share_scale", "rows:shared_scale", "activations are rounded by one scale for the whole batch", {}),
    ("rows_after_the_second", "rows:by_index", "rows after the second are 2 % off", {}),
    ("results_reversed", "rows:reversed_results", "generate gives back its rows in the opposite order",
     {"kind": "choice", "wants": frozenset({"answers"})}),
)  # fmt: skip

CHOICE: Final = _group(
    "samplers and stopping",
    ("second_best", "choosing:sampler", "the second best token is written where it is near",
     {**_with(gap=0.3), "kind": "choice", "sample": True}),
    ("short_runs_differ", "choosing:sampler", "runs of fewer than eight tokens take the second best",
     {**_with(gap=9.0, below=8), "kind": "choice", "engines": ONE}),
    ("repetition_penalty", "choosing:sampler", "what was written before is penalised", {**_with(penalty=1.3), "kind": "choice"}),
    ("eos_ignored", "choosing:stopping", "the end of text does not stop a row",
     {**_with(ignore_eos=True), "kind": "choice", "engines": ONE, "wants": STOPS, "sample": True}),
    ("eos_late", "choosing:stopping", "a token is written after the end of text", {**_with(late=1), "kind": "choice", "engines": ONE, "wants": STOPS}),
    ("pad_wrong", "choosing:stopping", "rows that have ended go on with another id",
     {**_with(pad=5), "kind": "choice", "engines": ONE, "wants": STOPS}),
    ("least_ignored", "choosing:stopping", "a row ends before its least length",
     {**_with(ignore_least=True), "kind": "choice", "engines": ONE, "wants": STOPS}),
    ("length_off_by_one", "choosing:stopping", "max_length lets one token too many through",
     {**_with(more=1), "kind": "choice", "engines": ONE, "wants": STOPS}),
    ("stop_string_ignored", "choosing:stopping", "a stop string does not stop a row",
     {**_with(ignore_strings=True), "kind": "choice", "engines": ONE, "wants": STOPS}),
    wants=LOOP,
)  # fmt: skip

TIME: Final = _group(
    "from request to request",
    ("noise", "changing:noise", "each pass has another error of 1e-4", {}),
    ("worn", "changing:worn", "a layer drifts with every pass", {}),
    ("remembered", "changing:remembered", "a request holds 5 % of the one before", {"sample": True}),
    ("by_process", "changing:by_process", "results depend on the process", {}),
    ("first_pass_wrong", "changing:first_pass", "the first pass of a process, with which loading ends, is 1 % off", {}),
    ("first_request_wrong", "changing:first_pass", "the first request after loading is 1 % off", _with(loading=False)),
    ("inputs_written", "changing:inputs_written", "generate writes to the ids it was given",
     {"kind": "choice", "engines": ONE, "wants": frozenset({"answers", "inputs"})}),
)  # fmt: skip

RANKS: Final = tuple(
    _group(
        "ranks",
        ("half_allreduce", "parallel:half_allreduce", "half of one all-reduce is dropped: those channels keep the rank's own"
         " partial sums", {"engines": SHARDED, "wants": SPLIT, "min_ranks": 2, "sample": True}),
        ("allreduce_dropped", "parallel:collective", "one all-reduce is dropped", {"engines": SHARDED, "wants": SPLIT, "min_ranks": 2}),
        ("allreduce_dropped_mlp", "parallel:collective", "one all-reduce of an MLP is dropped",
         {**_with(part="mlp"), "engines": SHARDED, "wants": SPLIT, "min_ranks": 2}),
        ("allreduce_doubled", "parallel:collective", "one all-reduce counts twice",
         {**_with(how="doubled"), "engines": SHARDED, "wants": SPLIT, "min_ranks": 2}),
        ("shards_out_of_order", "bits:columns", "the columns of each rank's shard are eight places off",
         {**_with(part="attention_out", roll=8), "engines": SHARDED, "wants": SPLIT, "min_ranks": 2, "kind": "weights"}),
        ("shard_uneven", "bits:columns", "each rank's shard lacks its last two columns",
         {**_with(drop=2), "engines": SHARDED, "wants": SPLIT, "min_ranks": 2, "kind": "weights"}),
        ("bias_per_rank", "parallel:biased_ranks", "every rank adds the bias", {"engines": frozenset({"deepspeed-inference"}), "wants": SPLIT,
         "architectures": BLOOM, "min_ranks": 2}),
        ("one_rank_differs", "parallel:one_rank_differs", "one rank writes another text", {"engines": SHARDED, "wants": SPLIT, "min_ranks": 2}),
        ("vocabulary_share_lost", "blocks:share_lost", "an eighth of the vocabulary was never gathered", {}),
        ("rank_exit", "ranks:rank_exit", "one rank exits, or is killed, at a decode step", {"kind": "rank"}),
        ("rank_sleep", "ranks:rank_sleep", "one rank stops answering at a decode step", {"kind": "rank"}),
        ("rank_raise", "ranks:rank_raise", "one rank raises at a decode step", {"kind": "rank"}),
    )
)  # fmt: skip

CONTROLS: Final = _group(
    "equivalent",
    ("logits_plus_constant", "blocks:constant", "a constant is added to all logits",
     {**_with(value=1.0), "equivalent": True, "sample": True}),
    ("alibi_plus_constant", "positions:alibi", "a constant is added to ALiBi's biases",
     {**_with(add=1.0), "equivalent": True, "architectures": BLOOM}),
    ("positions_shifted", "positions:positions", "every position is five further on: rotary knows distances only",
     {**_with(shift=5), "equivalent": True, "architectures": LLAMA}),
    ("head_in_halves", "blocks:head_halves", "the head's product is made by another fault-free kernel",
     {"equivalent": True, "engines": ONE, "dtypes": frozenset(DTYPES)}),
)  # fmt: skip

ANSWERS: Final = tuple(
    replace(one, engines=TOKENS, architectures=frozenset(), kind="tokens", wants=frozenset({"answers"}))
    for one in _group(
        "prompts and answers",
        ("answers_swapped", "answers:swapped", "two rows of a batch get each other's answer", {}),
        ("answers_shared", "answers:shared", "every row gets the first row's answer", {}),
        ("token_repeated", "answers:repeated", "one token is written twice", {}),
        ("tokens_late", "answers:late", "every token is written a step late", {}),
        ("token_changed", "answers:changed", "one token is another than the engine chose", {}),
        ("answer_cut", "answers:cut", "what follows the eighth token is lost", {}),
        ("prompt_shortened", "answers:shortened", "each prompt loses its first token", {}),
        ("prompt_misread", "answers:misread", "the last token of a prompt is read as the one before it", {}),
        ("prompt_doubled", "answers:doubled", "the first token of a prompt is read twice", {}),
        ("padding_read", "answers:padding_read", "the padding of a batch is read as text", {}),
    )
)

FAULTS: Final = (
    *(*POSITIONS, *CACHE, *MASKS, *BLOCKS, *WEIGHTS, *PRECISION, *ROWS, *CHOICE, *TIME, *RANKS, *ANSWERS, *CONTROLS),
)
