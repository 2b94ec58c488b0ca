"""What is selected, what is refused, and how a run ends that judged nothing."""

from __future__ import annotations

import argparse
import json
import re
import struct
from dataclasses import replace
from pathlib import Path

import pytest

from genqual.cases import Case
from genqual.errors import BadInput
from genqual.session import early_checks, markers, option_types, profiles
from genqual.session.groups import Groups
from genqual.session.options import Options
from genqual.session.selection import Selection
from tests.here import CPU, NATIVE
from tests.plugin.suite import suite

DEVICES = ("cuda", "hpu", "xeon", "xpu")


@pytest.mark.parametrize(
    ("expression", "devices"),
    [
        ("", set()),
        ("xeon", {"xeon"}),
        ("hpu and conformance", {"hpu"}),
        ("xeon or cuda", {"xeon", "cuda"}),
        ("not hpu", set()),
        ("conformance and not (hpu)", set()),
        ("(xeon or hpu) and not cuda", {"xeon", "hpu"}),
        ("xeonish", set()),
    ],
)
def test_devices_named_in_an_expression(expression: str, devices: set[str]) -> None:
    assert markers.named(expression, DEVICES) == devices


@pytest.mark.parametrize(("device", "probe"), [("hpu", "hl-smi"), ("cuda", "nvidia-smi"), ("xpu", "xpu-smi")])
def test_an_absent_device_is_never_green(device: str, probe: str, tmp_path: Path) -> None:
    empty = tmp_path / "bin"
    empty.mkdir()
    run = suite(tmp_path, "-m", device, "-rs", env={"PATH": str(empty)})
    assert run.returncode == 1, run.stdout + run.stderr
    assert f"{device} is absent" in run.stdout
    assert probe in run.stdout
    assert f"{device} was asked for and nothing was judged on it" in run.stdout
    assert "passed" not in run.stdout


def test_the_other_kind_of_processor_says_which_mark_is_this_ones(tmp_path: Path) -> None:
    other = {"cpu": "xeon", "xeon": "cpu"}[CPU]
    run = suite(tmp_path, "-m", other, "-k", "no_test_is_called_this")
    assert run.returncode == 1, run.stdout + run.stderr
    assert f"Run -m {CPU} on this machine" in run.stdout
    assert "Run -m" not in suite(tmp_path, "-m", "hpu", "-k", "no_test_is_called_this").stdout


def test_an_absent_device_may_be_allowed(tmp_path: Path) -> None:
    run = suite(tmp_path, "-m", "hpu", "--allow-absent", env={"PATH": str(tmp_path)})
    assert run.returncode == 0, run.stdout + run.stderr


def test_a_present_device_on_which_nothing_was_selected_is_not_green(tmp_path: Path) -> None:
    run = suite(tmp_path, "-m", CPU, "-k", "no_test_is_called_this")
    assert run.returncode == 1, run.stdout + run.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--ranks", "300"], ["for 300 ranks", "take at most"]),
        (["--ranks", "0"], ["invalid rank count 0"]),
        (["--cores-per-rank", "300"], ["--ranks 1 of 300 cores", f"{CPU} core"]),
        (["--cores-per-rank", "two"], ["invalid core count 'two'"]),
        (["--batch-sizes", "0"], ["invalid batch size 0", "the smallest is 1"]),
        (["--input-lengths", "many"], ["invalid input length list 'many'"]),
        (["--input-lengths", "-3"], ["invalid input length -3"]),
        (["--references=nowhere"], ["--references=nowhere", "no such directory"]),
        (["--waivers=nowhere"], ["--waivers=nowhere", "no such directory"]),
        (["--baseline-from=nowhere"], ["--baseline-from=nowhere", "no file, no directory", "a commit, a wheel or an"]),
        (["--baseline-from=tests"], ["--baseline-from=tests: a directory without a virtual environment"]),
        (["--baseline-from=nowhere.whl"], ["--baseline-from=nowhere.whl: no such file"]),
        (["--engine", "external", "--engine-command", "/nowhere x"], ["no program '/nowhere' on PATH"]),
        (["--engine", "external", "--engine-command", "'x"], ["--engine-command='x: No closing quotation"]),
        (["--dtype", "float16"], ["unknown dtype 'float16'", "did you mean fp16?"]),
        (["--engine", "vllm"], ["vllm", "--engine server --endpoint URL"]),
        (["--prompts=nowhere.jsonl:text"], ["nowhere.jsonl", "no such file"]),
        (["--new-tokens", "1,2"], ["expected one whole number"]),
        (["--dtype", "fp7"], ["'fp7'", "fp32, bf16, fp16"]),
        (["--engine", "tensorflow"], ["tensorflow", "transformers"]),
        (["--model", "no/such/directory/anywhere"], ["no/such/directory/anywhere"]),
        (["--model", "lama-tiny"], ["lama-tiny", "llama-tiny"]),
        (["--launcher-arguments", "'open"], ["--launcher-arguments", 'invalid words "\'open"']),
        (["--hosts", ","], ["--hosts", "empty list"]),
        (["--hosts", "a,b", "--benchmark"], ["--hosts with --benchmark", "of one host"]),
        (["--hosts", "a,b"], ["--hosts a,b", "--launcher mpirun or srun"]),
        (["--launcher", "mpiexec"], ["--launcher mpiexec", "torchrun, deepspeed, mpirun, srun, none"]),
        (["--gate-budget", "0"], ["invalid number of seconds '0'", "number above 0"]),
        (["--gate-tolerance", "3"], ["invalid share '3'", "from 1% to 50%, such as 3% or 0.03"]),
        (["--engine", "deepspeed"], ["no engine is called so", "Did you mean deepspeed-"]),
        (["-m", "xenon"], ["-m xenon: no mark is called so", "Did you mean xeon?", "cuda, hpu"]),
        (["-m", f"{CPU} and not perfomance"], ["-m perfomance: ", "Did you mean performance?"]),
        (["--engine", "server", "--endpoint", "http://h/v1", "--ranks", "2"], ["server takes one rank, not 2"]),
        (["--gate-metrics", "tpot,e2e"], ["the gate judges no 'e2e'", "ttft, tpot"]),
        (["--under-test", "host"], ["host", "engine", "driver", "kernels", "node"]),
        (["--profile", "embeded"], ["embeded", "Did you mean embedded?"]),
        (["--engine", "transformers-tp", "--model", "bloom-tiny"], ["no tensor parallel plan"]),
    ],
)
def test_bad_input_is_one_paragraph_and_exit_code_4(arguments: list[str], words: list[str], tmp_path: Path) -> None:
    run = suite(tmp_path, "-m", CPU, *arguments)
    said = run.stdout + run.stderr
    assert run.returncode == 4, said
    for word in words:
        assert word in said
    assert "Traceback" not in said
    assert "nothing was judged" not in said, "one paragraph"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('"one"\n{"prompt": ""}\n', r"p\.jsonl, line 2: an empty prompt"),
        ('"one"\n{"prompt": "two"\n', r"p\.jsonl, line 2"),
        ('{"words": "one", "more": "two"}\n', r"p\.jsonl, line 1: which column\?"),
        ("\n", r"p\.jsonl: holds no prompt"),
    ],
)
def test_a_bad_prompt_file_is_told_before_a_model_is_loaded(text: str, said: str, tmp_path: Path) -> None:
    (file := tmp_path / "p.jsonl").write_text(text)
    with pytest.raises(BadInput, match=said):
        early_checks.check(Options(prompts=str(file)))


def test_a_good_prompt_file_needs_no_template_to_be_looked_through(tmp_path: Path) -> None:
    talk = {"messages": [{"role": "user", "content": "hello"}]}
    (file := tmp_path / "p.jsonl").write_text(json.dumps(talk) + "\n")
    early_checks.check(Options(prompts=f"{file}:messages"))


@pytest.mark.parametrize("template", [None, "{% if %}"])
def test_a_conversation_for_a_model_without_its_template_is_told_before_it_is_loaded(
    template: str | None, tmp_path: Path
) -> None:
    talk = {"messages": [{"role": "user", "content": "hello"}]}
    (file := tmp_path / "p.jsonl").write_text(json.dumps(talk) + "\n")
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    (tmp_path / "model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({} if template is None else {"chat_template": template}))
    with pytest.raises(BadInput, match="no chat template" if template is None else "is not jinja2"):
        early_checks.check(Options(prompts=f"{file}:messages", models=(str(tmp_path),)))
    with pytest.raises(BadInput, match="source embedded"):
        early_checks.check(Options(prompts=f"{file}:messages", models=("llama-tiny",)))


def test_a_folder_without_the_suite_is_told(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    run = suite(tmp_path, "-m", CPU, f"--rootdir={tmp_path}", str(tmp_path / "elsewhere"))
    assert run.returncode != 0
    assert "no test was found here: run it in the clone of genqual" in run.stdout


def test_a_share_is_a_number_or_percent() -> None:
    assert [option_types.share(text) for text in ("3%", "0.03", " 50% ", "1%")] == [0.03, 0.03, 0.5, 0.01]
    for wrong in ("3", "0", "0.5%", "51%", "three", "", "nan", "-3%"):
        with pytest.raises(argparse.ArgumentTypeError, match="from 1% to 50%"):
            option_types.share(wrong)


def test_options_of_the_gate_that_change_nothing_are_told(tmp_path: Path) -> None:
    """Without --benchmark no latency is measured: the run would end green, and its reader would think it was gated."""
    run = suite(tmp_path, "-m", CPU, "-k", "no_test_is_called_this", "--gate-metrics", "tpot", "--gate-budget", "9")
    assert "--gate-metrics, --gate-budget: no latency is measured without --benchmark" in run.stdout


def test_a_truncated_checkpoint_is_refused_before_any_rank_starts(tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text(json.dumps({"model_type": "llama"}))
    header = json.dumps({"w": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}).encode()
    (model / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + b"\0" * 7)
    run = suite(tmp_path, "-m", CPU, f"--model={model}")
    said = run.stdout + run.stderr
    assert run.returncode == 4, said
    assert "model.safetensors" in said
    assert "truncated" in said.lower()
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[conformance\n", ["not TOML"]),
        (
            "[conformance]\npromts = 'bloom'\n",
            ["[conformance] unknown key 'promts', did you mean prompts? (known are prompts, cases)"],
        ),
        (
            "[performance]\nbatch_sizes = [0]\n",
            ["[performance] batch_sizes, element 1 = 0: must be greater than or equal to 1"],
        ),
        (
            "[[conformance.cases]]\nengine = 'transformers'\n",
            ["[conformance.cases 1] 'models' is missing; give engine, models"],
        ),
    ],
)
def test_a_profile_is_checked(text: str, words: list[str], tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    run = suite(tmp_path, "-m", CPU, f"--profile={path}")
    assert run.returncode == 4, run.stdout + run.stderr
    for word in (*words, "mine.toml"):
        assert word in run.stdout + run.stderr


def test_a_path_after_a_space_would_lose_the_settings(tmp_path: Path) -> None:
    run = suite(tmp_path, "-m", CPU, "--model", str(tmp_path))
    assert run.returncode == 4, run.stdout + run.stderr
    assert f"write --model={tmp_path}" in run.stdout + run.stderr


def test_performance_needs_benchmark(tmp_path: Path) -> None:
    plain = suite(tmp_path, "-m", CPU, "--collect-only", "-q")
    timed = suite(tmp_path, "-m", CPU, "--collect-only", "-q", "--benchmark")
    assert "test_time_to_first_token" not in plain.stdout
    assert "deselected" in plain.stdout
    assert f"test_time_to_first_token[{CPU}-transformers-llama-30m-{NATIVE}-b1-i32-n32]" in timed.stdout


def test_a_processor_without_bf16_is_timed_in_what_it_computes_in(tmp_path: Path) -> None:
    left = suite(tmp_path, "-m", CPU, "--collect-only", "--benchmark")
    asked = suite(tmp_path, "-m", CPU, "--collect-only", "--benchmark", "--dtype", "bf16")
    # oneDNN's condition, read where the kernel says it: AVX-512, or Arm's own bf16.
    flags = {word for line in Path("/proc/cpuinfo").read_text().splitlines() for word in line.split()}
    assert ("bf16" if flags & {"avx512f", "bf16"} else "fp32") == NATIVE
    assert (f"{CPU} has no bf16 instructions, so `native` is fp32" in left.stdout) == (NATIVE == "fp32")
    assert "no bf16 instructions" not in asked.stdout
    assert f"{CPU}-transformers-llama-30m-bf16-b1-i32-n32" in asked.stdout


def test_the_engines_of_a_model_and_dtype_follow_each_other() -> None:
    models, dtypes = ("llama-tiny", "bloom-tiny"), ("fp32", "bf16")
    rows = [profiles.ProfileRow(name, models, dtypes, (1,)) for name in ("transformers", "accelerate:placement=disk")]
    cases = profiles.plan(rows, Options(), device=CPU, cores_per_rank=1).cases
    wanted = [(m, d, row.engine) for m in models for d in dtypes for row in rows]
    assert [(case.model, case.dtype, case.engine) for case in cases] == wanted


@pytest.mark.parametrize("native", ["fp32", "bf16"])
def test_a_profile_may_leave_the_dtype_to_the_device(native: str) -> None:
    def dtypes(row: profiles.ProfileRow, *asked: str) -> list[str]:
        options = Options(dtypes=asked)
        made = profiles.plan([row], options, device=CPU, cores_per_rank=1, native=native)
        return [case.dtype for case in made.cases]

    row = profiles.ProfileRow("transformers", ("llama-tiny",), ("native",), (1,))
    assert dtypes(row) == [native]
    assert dtypes(row, "fp16") == ["fp16"]
    assert dtypes(replace(row, dtypes=("fp32", "native", "int8-weight"))) == list(
        dict.fromkeys(("fp32", native, "int8-weight"))
    )


def test_ids_are_stable_and_readable(tmp_path: Path) -> None:
    run = suite(tmp_path, "-m", CPU, "--collect-only", "-q")
    for name in (
        f"test_greedy.py::test_logits_match_the_oracle[{CPU}-transformers-bloom-tiny-fp32]",
        f"test_parallelism.py::test_tensor_parallel_degree[{CPU}-deepspeed-inference-tp2-llama-tiny-bf16]",
    ):
        assert name in run.stdout
    assert f"test_tensor_parallel_degree[{CPU}-transformers-" not in run.stdout


def test_options_narrow_and_override_the_profile(tmp_path: Path) -> None:
    run = suite(
        tmp_path, "-m", CPU, "--benchmark", "--collect-only", "-q",
        "--engine", "transformers-compiled", "--model", "llama-tiny", "--dtype", "fp32",
        "--batch-sizes", "3", "--input-lengths", "7,9", "--new-tokens", "5",
    )  # fmt: skip
    assert run.returncode == 0, run.stdout + run.stderr
    ids = [line for line in run.stdout.splitlines() if "::" in line]
    assert ids
    assert all(f"[{CPU}-transformers-compiled-llama-tiny-fp32" in line for line in ids)
    latency = [line for line in ids if "test_time_per_output_token" in line]
    assert sorted(line.rsplit("-", 3)[2] for line in latency) == ["i7", "i9"]


@pytest.mark.parametrize(
    ("expression", "told"),
    [
        ("", ""),
        ("xeon and conformance", ""),
        ("not (cpu or cuda) and nightly", ""),
        ("performance(metric='tpot') or True", ""),
        ("nightli and cpu", "Did you mean nightly?"),
        ("xenon", "Did you mean xeon?"),
    ],
)
def test_a_mark_that_no_test_has_and_nobody_registered_is_named(expression: str, told: str) -> None:
    """`nightly` is on a test of another package, that runs without --strict-markers."""
    said = Selection(Options(), expression).mistaken_mark({"conformance", "performance", "nightly"})
    assert told in said
    assert bool(said) is bool(told)


def test_hosts_share_the_ranks_of_a_case_evenly_and_one_rank_stays_here() -> None:
    options = Options(hosts=("a", "b"))
    case = Case(CPU, "transformers-tp", "llama-tiny", "fp32", 4)
    assert options.ranks_per_host(case) == 2
    assert options.ranks_per_host(replace(case, ranks=1)) == 1
    assert Options().ranks_per_host(case) == 4
    with pytest.raises(BadInput, match="3 ranks, which 2 hosts cannot share evenly"):
        options.ranks_per_host(replace(case, ranks=3))


def test_ranks_on_hosts_are_bound_by_their_number_there(tmp_path: Path) -> None:
    arguments = ("--mca", "x", "y")
    options = Options(launcher="srun", hosts=("a", "b"), launcher_arguments=arguments)
    groups = Groups(options, tmp_path, "run", lambda text: None, lambda text: None)
    plan = groups.plan(Case(CPU, "transformers-tp", "llama-tiny", "fp32", 2, 1))
    assert (plan.hosts, plan.launcher_arguments, len(plan.placement.cores)) == (("a", "b"), arguments, 1)
    alone = groups.plan(Case(CPU, "transformers", "llama-tiny", "fp32", 1, 1))
    assert (alone.hosts, alone.launcher_arguments) == ((), ())


def test_what_restarts_the_ranks_is_the_last_of_its_case(tmp_path: Path) -> None:
    run = suite(tmp_path, "-m", CPU, "--collect-only", "-q", "--model", "llama-tiny", "--dtype", "fp32")
    found = re.findall(r"(suites/conformance/\S+)::(\w+)\[(.*?-fp32)", run.stdout)
    cases = [case for _, _, case in found]
    assert len(set(cases)) > 1
    assert cases == sorted(cases, key=cases.index), "a case's tests are together, so that its ranks start once"
    for case in dict.fromkeys(cases):
        own = [(file, name) for file, name, of in found if of == case]
        assert own[-1][1] == "test_a_fresh_process_gives_the_same_bits"
        assert own[:-1] == sorted(own[:-1], key=lambda pair: pair[0]), "the others as the files have them"
