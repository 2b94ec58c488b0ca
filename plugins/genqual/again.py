"""The command that repeats one part of a run. Pure: options in, words out."""

from __future__ import annotations

import shlex
from typing import Final

from genqual.options import Options
from genqual.spec import Case, Workload

TESTS: Final = {
    "ttft": "test_time_to_first_token",
    "tpot": "test_time_per_output_token",
    "tokens_per_s": "test_output_tokens_per_second",
    "load_s": "test_load_time",
    "peak_memory": "test_peak_memory",
}


def command_again(options: Options, case: Case, workload: Workload, metric: str) -> str:
    """The command that judges one metric of one case again, and nothing else."""
    words = ["pytest", "-m", case.device, "--benchmark", f"--profile={options.profile}", "--engine", case.engine]
    words += [f"--model={case.model}", "--dtype", case.dtype, "--ranks", str(case.ranks)]
    words += ["--batch-sizes", str(workload.batch), "--input-lengths", str(workload.input_length)]
    words += ["--new-tokens", str(workload.new_tokens), "-k", TESTS.get(metric, metric)]
    words += [f"--baselines={options.baselines}"] if options.baselines else []
    words += [f"--baseline-from={options.baseline_from}"] if options.baseline_from else []
    words += ["--under-test", options.under_test] if options.under_test != "engine" else []
    return shlex.join(words)
