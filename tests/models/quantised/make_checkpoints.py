"""Write the tiny quantised checkpoints beside this file, each by the library that its format comes from.

    python make_checkpoints.py OUT LIBRARIES [NAME ...]        without NAME: all of them

Needs torch and transformers. LIBRARIES is a directory with what the formats' libraries unpack to:

    pip install --target LIBRARIES --no-deps compressed-tensors loguru nvidia-modelopt auto-gptq==0.7.1
    pip download --no-deps --no-binary :all: autoawq==0.2.9, and its `awq` in LIBRARIES

Of AutoGPTQ, AutoAWQ and Model Optimizer the modules that pack are imported alone: whole, they need CUDA or an earlier
transformers. Each directory holds config.json, model.safetensors, and expected.json: for each quantised weight the hash
of what the library itself dequantises, and the dtype that it rounds that to. Compared by test_library_checkpoints.py.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM

LLAMA: Final[dict[str, Any]] = {
    "vocab_size": 264,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "tie_word_embeddings": True,
    "bos_token_id": None,
    "eos_token_id": None,
    "initializer_range": 0.15,
}
GPT_OSS: Final[dict[str, Any]] = {
    **LLAMA,
    **{"head_dim": 16, "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 8, "intermediate_size": 32},
}
Written = tuple[dict[str, torch.Tensor], torch.Tensor]
"""The stored tensors of one weight by what is put behind its module's name, and what the library makes of them."""


def bare(libraries: Path, *packages: str) -> None:
    """Make packages importable without what their `__init__` imports."""
    for name in packages:
        module = types.ModuleType(name)
        module.__path__ = [str(libraries / name.replace(".", "/"))]
        sys.modules[name] = module


def model_of(model_type: str, config: dict[str, Any]) -> dict[str, torch.Tensor]:
    """The weights of a random model, in fp32."""
    torch.manual_seed(20)
    made = AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **config)).float()
    state = {name: tensor.detach().clone() for name, tensor in made.state_dict().items()}
    for name, tensor in state.items():
        if tensor.dim() == 1:
            tensor.add_(0.1 * torch.randn_like(tensor))
        state[name] = tensor.bfloat16().float()  # so that what is not quantised is stored in bf16 exactly
    state.pop("lm_head.weight", None)  # tied
    return state


def compressed(layout: str, **args: Any) -> Callable[[torch.Tensor], Written]:
    """By compressed-tensors: observed by minimum and maximum, quantised, packed and decompressed again."""
    quantization = importlib.import_module("compressed_tensors.quantization")
    utils = importlib.import_module("compressed_tensors.quantization.utils")
    compressor = importlib.import_module("compressed_tensors.compressors").BaseCompressor.get_value_from_registry(
        layout
    )
    given = quantization.QuantizationArgs(**args)
    scheme = quantization.QuantizationScheme(targets=["Linear"], weights=given, format=layout)

    def write(weight: torch.Tensor) -> Written:
        rows, columns = weight.shape
        block = {
            "tensor": (rows, columns),
            "channel": (1, columns),
            "block": tuple(given.block_structure or ()),
        }.get(str(given.strategy), (1, given.group_size))
        tiles = weight.reshape(rows // block[0], block[0], columns // block[1], block[1])
        low, high = tiles.amin(dim=(1, 3)), tiles.amax(dim=(1, 3))
        whole = utils.generate_gparam(weight.min().reshape(1), weight.max().reshape(1)) if "nvfp4" in layout else None
        scale, zero = utils.calculate_qparams(low, high, given, global_scale=whole)
        if given.strategy == "tensor":
            scale, zero = scale.reshape(1), zero.reshape(1)
        state = {"weight": weight, "weight_scale": scale.float()}
        state |= {} if given.symmetric else {"weight_zero_point": zero}
        state |= {} if whole is None else {"weight_global_scale": whole}
        stored = compressor.compress(state, scheme)
        return stored, compressor.decompress({k: v.clone() for k, v in stored.items()}, scheme)["weight"]

    return write


def fp8(block: list[int] | None, scale_fmt: str = "float") -> Callable[[torch.Tensor], Written]:
    """By the operation with which transformers quantises, and its opposite."""
    from transformers import FineGrainedFP8Config
    from transformers.integrations.finegrained_fp8 import Fp8Dequantize, Fp8Quantize

    said = FineGrainedFP8Config(weight_block_size=block)
    said.scale_fmt = scale_fmt
    quantizer = types.SimpleNamespace(quantization_config=said)

    def write(weight: torch.Tensor) -> Written:
        stored = Fp8Quantize(quantizer).convert({"x.weight": weight})
        stored = {name.removeprefix("x."): tensor for name, tensor in stored.items()}
        made = Fp8Dequantize(quantizer)._dequantize_one(stored["weight"], stored["weight_scale_inv"], torch.float32)
        return stored, made

    return write


def gptq(bits: int, group: int, shuffled: bool = False) -> Callable[[torch.Tensor], Written]:
    """By AutoGPTQ's QuantLinear: it packs, and multiplied by the unit matrix it shows its weights."""
    linear = importlib.import_module("auto_gptq.nn_modules.qlinear.qlinear_cuda").QuantLinear

    def write(weight: torch.Tensor) -> Written:
        outputs, inputs = weight.shape
        index = torch.arange(inputs, dtype=torch.int32) // group
        index = index[torch.randperm(inputs)] if shuffled else index
        parts = [weight[:, index == which] for which in range(inputs // group)]
        low = torch.stack([part.amin(1).clamp(max=0) for part in parts], 1)
        high = torch.stack([part.amax(1).clamp(min=0) for part in parts], 1)
        scale = ((high - low) / (2**bits - 1)).half().float()
        zero = (-low / scale).round().clamp(1, 2**bits - 1)
        layer = linear(bits, group, inputs, outputs, False, weight_dtype=torch.float32)
        plain = torch.nn.Linear(inputs, outputs, bias=False)
        integers = (weight / scale[:, index.long()] + zero[:, index.long()]).round().clamp(0, 2**bits - 1)
        plain.weight.data = (integers - zero[:, index.long()]) * scale[:, index.long()]
        layer.pack(plain, scale, zero.clone(), index)
        made = layer(torch.eye(inputs)).T
        state = {name: getattr(layer, name) for name in ("qweight", "qzeros", "g_idx")}
        return state | {"scales": layer.scales.half()}, made

    return write


def awq(group: int) -> Callable[[torch.Tensor], Written]:
    """By AutoAWQ's WQLinear_GEMM, and its own dequantiser."""
    linear = importlib.import_module("awq.modules.linear.gemm").WQLinear_GEMM
    dequantise = importlib.import_module("awq.utils.packing_utils").dequantize_gemm

    def write(weight: torch.Tensor) -> Written:
        outputs, inputs = weight.shape
        parts = weight.reshape(outputs, inputs // group, group)
        low, high = parts.amin(2), parts.amax(2)
        scale = ((high - low) / 15).half()
        zero = (-low / scale.float()).round().clamp(0, 15)
        spread = scale.float().repeat_interleave(group, 1), zero.repeat_interleave(group, 1)
        plain = torch.nn.Linear(inputs, outputs, bias=False)
        plain.weight.data = ((weight / spread[0] + spread[1]).round().clamp(0, 15) - spread[1]) * spread[0]
        packed = linear.from_linear(plain, 4, group, scales=scale.float().T, zeros=zero.T)
        state = {name: getattr(packed, name) for name in ("qweight", "qzeros", "scales")}
        return state, dequantise(state["qweight"], state["qzeros"], state["scales"].float(), 4, group).T

    return write


def bitsandbytes(kind: str, nested: bool) -> Callable[[torch.Tensor], Written]:
    """By the functions that its layers use, and dequantised by what it has for any device.

    Its kernel for processors (0.50.2) counts blocks anew in each row: of rows that are no whole blocks, as 96 of 64, it
    takes other scales than the weights were divided by.
    """
    functional = importlib.import_module("bitsandbytes.functional")
    dequantise = importlib.import_module("bitsandbytes.backends.default.ops")._dequantize_4bit_compute

    def write(weight: torch.Tensor) -> Written:
        packed, state = functional.quantize_4bit(
            weight.contiguous(), blocksize=64, compress_statistics=nested, quant_type=kind
        )
        beside = {f"weight.{name}": tensor for name, tensor in state.as_dict(packed=True).items()}
        scales = state.absmax
        if nested:
            scales = functional.dequantize_blockwise(state.absmax, state.state2) + state.offset
        whole = dequantise(packed.reshape(-1), scales, state.code, 64, weight.shape, torch.float32)
        return {"weight": packed} | beside, whole

    return write


def modelopt() -> Callable[[torch.Tensor], Written]:
    """By the tensor class of Model Optimizer."""
    utils = sys.modules["modelopt.torch.quantization.utils"]
    # What it takes from a package that needs more than it: three ways to the largest magnitude.
    vars(utils).update(
        fsdp2_aware_weight_update=None,
        patch_fsdp_mp_dtypes=None,
        reduce_amax=lambda values: values.abs().amax(),
        reduce_block_amax=lambda values, block_sizes: values.unflatten(-1, (-1, block_sizes[-1])).abs().amax(-1),
        reduce_block_padding=lambda values, block_sizes: values,
    )
    tensor = importlib.import_module("modelopt.torch.quantization.qtensor.nvfp4_tensor").NVFP4QTensor

    def write(weight: torch.Tensor) -> Written:
        packed, scale, whole = tensor.quantize(weight.clone(), 16)
        made = packed.dequantize(torch.float32, scale=scale, double_scale=whole, block_sizes={-1: 16})
        return {"weight": packed._quantized_data, "weight_scale": scale, "weight_scale_2": whole.reshape(())}, made

    return write


def mxfp4(weight: torch.Tensor) -> Written:
    """(experts, inputs, outputs) packed by compressed-tensors, expert by expert; widened by transformers."""
    from transformers.integrations.mxfp4 import convert_moe_packed_tensors

    pack = compressed("mxfp4-pack-quantized", num_bits=4, type="float", strategy="group", group_size=32)
    each = [pack(expert.T.contiguous())[0] for expert in weight]
    scales = torch.stack([one["weight_scale"] for one in each])
    blocks = torch.stack([one["weight_packed"] for one in each]).reshape(*scales.shape, 16)
    return {"_blocks": blocks, "_scales": scales}, convert_moe_packed_tensors(blocks, scales, dtype=torch.float32)


def section(layout: str, inputs: dict[str, Any] | None = None, **args: Any) -> dict[str, Any]:
    """The section of compressed-tensors, as it writes it; `inputs` is how what enters a layer is rounded."""
    said = importlib.import_module("compressed_tensors.quantization")
    given = None if inputs is None else said.QuantizationArgs(**inputs)
    scheme = said.QuantizationScheme(
        targets=["Linear"], weights=said.QuantizationArgs(**args), input_activations=given, format=layout
    )
    config = said.QuantizationConfig(
        config_groups={"group_0": scheme}, format=layout, quantization_status="compressed", ignore=["lm_head"]
    )
    made: dict[str, Any] = json.loads(config.model_dump_json())
    return made


COMPRESSED: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "ct-int4-group": ("pack-quantized", {"num_bits": 4, "strategy": "group", "group_size": 16}),
    "ct-int4-asymmetric": (
        "pack-quantized",
        {"num_bits": 4, "strategy": "group", "group_size": 16, "symmetric": False},
    ),
    "ct-int3-group": ("pack-quantized", {"num_bits": 3, "strategy": "group", "group_size": 32}),
    "ct-int8-packed": ("pack-quantized", {"num_bits": 8, "strategy": "channel"}),
    "ct-int8-channel": ("naive-quantized", {"num_bits": 8, "strategy": "channel"}),
    "ct-int8-tensor": ("naive-quantized", {"num_bits": 8, "strategy": "tensor", "symmetric": False}),
    "ct-fp8-block": (
        "naive-quantized",
        {"num_bits": 8, "type": "float", "strategy": "block", "block_structure": [16, 16]},
    ),
    "ct-fp8-channel": ("naive-quantized", {"num_bits": 8, "type": "float", "strategy": "channel"}),
    "ct-nvfp4": (
        "nvfp4-pack-quantized",
        {"num_bits": 4, "type": "float", "strategy": "tensor_group", "group_size": 16},
    ),
    "ct-mxfp4": ("mxfp4-pack-quantized", {"num_bits": 4, "type": "float", "strategy": "group", "group_size": 32}),
}
_E4M3: Final[dict[str, Any]] = {"num_bits": 8, "type": "float"}
ACTIVATIONS: Final[dict[str, tuple[dict[str, Any], dict[str, Any]]]] = {
    "ct-w8a8-int8": (
        {"num_bits": 8, "strategy": "channel"},
        {"num_bits": 8, "strategy": "token", "dynamic": True},
    ),
    "ct-w8a8-fp8": (_E4M3 | {"strategy": "channel"}, _E4M3 | {"strategy": "token", "dynamic": True}),
    "ct-w8a8-fp8-static": (_E4M3 | {"strategy": "tensor"}, _E4M3 | {"strategy": "tensor"}),
    "ct-w8a8-fp8-groups": (
        _E4M3 | {"strategy": "block", "block_structure": [128, 128]},
        _E4M3 | {"strategy": "group", "group_size": 128, "dynamic": True},
    ),
}
"""Of those that quantise activations, too: weights, and what enters a layer. The last is as DeepSeek-V3's."""
WIDE: Final[dict[str, Any]] = {**LLAMA, "hidden_size": 128, "intermediate_size": 256, "num_key_value_heads": 4}
_FP8: Final = {"quant_method": "fp8", "activation_scheme": "dynamic"}
_GPTQ: Final = {"quant_method": "gptq", "sym": False, "checkpoint_format": "gptq", "damp_percent": 0.01}
_MODELOPT: Final = {"quant_method": "modelopt", "quant_algo": "W4A16_NVFP4", "producer": {"name": "modelopt"}}
_BNB: Final[dict[str, Any]] = {
    **{"quant_method": "bitsandbytes", "load_in_4bit": True, "load_in_8bit": False, "llm_int8_threshold": 6.0},
    **{"bnb_4bit_compute_dtype": "bfloat16", "bnb_4bit_quant_storage": "uint8"},
}
OTHERS: Final[dict[str, tuple[dict[str, Any], Callable[[], Callable[[torch.Tensor], Written]]]]] = {
    "fp8-block": (_FP8 | {"weight_block_size": [16, 16]}, lambda: fp8([16, 16])),
    "fp8-tensor": (_FP8, lambda: fp8(None)),
    "fp8-ue8m0": (_FP8 | {"weight_block_size": [16, 16], "scale_fmt": "ue8m0"}, lambda: fp8([16, 16], "ue8m0")),
    "gptq-4bit": (_GPTQ | {"bits": 4, "group_size": 16, "desc_act": False}, lambda: gptq(4, 16)),
    "gptq-4bit-act-order": (_GPTQ | {"bits": 4, "group_size": 16, "desc_act": True}, lambda: gptq(4, 16, True)),
    "gptq-3bit": (_GPTQ | {"bits": 3, "group_size": 32, "desc_act": False}, lambda: gptq(3, 32)),
    "gptq-8bit": (_GPTQ | {"bits": 8, "group_size": 32, "desc_act": False}, lambda: gptq(8, 32)),
    "awq": (
        {"quant_method": "awq", "bits": 4, "group_size": 16, "zero_point": True, "version": "gemm"},
        lambda: awq(16),
    ),
    "bnb-nf4": (_BNB | {"bnb_4bit_quant_type": "nf4"}, lambda: bitsandbytes("nf4", False)),
    "bnb-nf4-nested": (
        _BNB | {"bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True},
        lambda: bitsandbytes("nf4", True),
    ),
    "bnb-fp4": (_BNB | {"bnb_4bit_quant_type": "fp4"}, lambda: bitsandbytes("fp4", False)),
    "nvfp4": (_MODELOPT, modelopt),
    "mxfp4": ({"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]}, lambda: mxfp4),
}


def input_scales(config: dict[str, Any], inputs: dict[str, Any]) -> dict[str, torch.Tensor]:
    """A static scale for each linear layer: of the least and the largest that enter it, of seeded ids."""
    quantization = importlib.import_module("compressed_tensors.quantization")
    utils = importlib.import_module("compressed_tensors.quantization.utils")
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **config)).float()
    model.load_state_dict(model_of("llama", config), strict=False)
    found: dict[str, torch.Tensor] = {}

    def seen(name: str) -> Callable[..., None]:
        def hook(module: torch.nn.Module, args: tuple[torch.Tensor, ...]) -> None:
            scale, _ = utils.calculate_qparams(args[0].amin(), args[0].amax(), quantization.QuantizationArgs(**inputs))
            found[name] = scale.reshape(1)

        return hook

    for name, module in model.named_modules():
        if name.endswith("_proj"):
            module.register_forward_pre_hook(seen(name))
    with torch.no_grad():
        model(input_ids=torch.randint(0, config["vocab_size"], (8, 32), generator=torch.Generator().manual_seed(1)))
    return found


def digest(values: torch.Tensor) -> str:
    """The hash of float32 numbers, row by row; zero has no sign, which libraries do not agree on."""
    return hashlib.sha256((values.float() + 0.0).contiguous().numpy().astype("<f4").tobytes()).hexdigest()


def write(out: Path, name: str) -> None:
    """One checkpoint below `out`."""
    if name in COMPRESSED:
        layout, args = COMPRESSED[name]
        said, pack = section(layout, **args), compressed(layout, **args)
    elif name in ACTIVATIONS:
        args, inputs = ACTIVATIONS[name]
        layout = "float-quantized" if "type" in args else "int-quantized"
        said, pack = section(layout, inputs, **args), compressed("naive-quantized", **args)
    else:
        said, made = OTHERS[name]
        pack = made()
    experts = name == "mxfp4"
    model_type, config = ("gpt_oss", GPT_OSS) if experts else ("llama", LLAMA)
    config = WIDE if name.endswith("-groups") else config
    stored: dict[str, torch.Tensor] = {}
    if name.endswith("-static"):
        scales = input_scales(config, ACTIVATIONS[name][1])
        stored |= {f"{module}.input_scale": scale for module, scale in scales.items()}
    expected: dict[str, str] = {}
    dtype = "fp32"
    for weight, values in model_of(model_type, config).items():
        quantised = weight.endswith("_proj") and values.dim() == 3 if experts else weight.endswith("_proj.weight")
        if not quantised:
            stored[weight] = values.bfloat16()
            continue
        parts, whole = pack(values)
        module = weight if experts else weight.removesuffix("weight")
        stored |= {module + part: tensor.contiguous() for part, tensor in parts.items()}
        expected[weight] = digest(whole)
        dtype = {torch.float32: "fp32", torch.bfloat16: "bf16"}[whole.dtype]
    directory = out / name
    directory.mkdir(parents=True, exist_ok=True)
    described = AutoConfig.for_model(model_type, **config).to_dict() | {
        "quantization_config": said,
        "dtype": "bfloat16",
    }
    kept = {key: value for key, value in described.items() if not key.startswith("_")}
    (directory / "config.json").write_text(json.dumps(kept, indent=1, sort_keys=True) + "\n")
    save_file(stored, directory / "model.safetensors", {"format": "pt"})
    (directory / "expected.json").write_text(json.dumps({"rounded_to": dtype, "sha256": expected}, indent=1) + "\n")


def main() -> None:
    """The command line."""
    out, libraries = Path(sys.argv[1]), Path(sys.argv[2])
    sys.path.insert(0, str(libraries))
    gptq_packages = ("auto_gptq", "auto_gptq.nn_modules", "auto_gptq.nn_modules.qlinear")
    bare(libraries, *gptq_packages, "awq", "awq.modules", "awq.modules.linear", "awq.utils")
    inside = "modelopt.torch.quantization"
    bare(libraries, "modelopt", "modelopt.torch", *(inside + part for part in ("", ".qtensor", ".backends", ".utils")))
    for name in sys.argv[3:] or [*COMPRESSED, *ACTIVATIONS, *OTHERS]:
        write(out, name)


if __name__ == "__main__":
    main()
