"""What a failure says to the person who has to act on it: a paragraph, once, and the next command."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Final

from genqual.cases import Case, Json, Workload, compute_dtype
from genqual.conformance.judgement import Judgement
from genqual.conformance.oracle.registry import why_no_oracle
from genqual.devices.registry import processor
from genqual.engines.registry import engine
from genqual.engines.remote.openai_request import suspicion
from genqual.errors import BadInput, GenqualError
from genqual.metrics.registry import rule
from genqual.models import weights
from genqual.models.registry import resolve
from genqual.ranks.errors import GroupLost
from genqual.session.options import Options

_LINE: Final = 160  # characters of a cause that was told before


def paragraph(case: Case, prop: str, judgement: Judgement, *, restarted: bool) -> str:
    """Case, property, finding with its smallest example and first bad step, and where to look next."""
    said = [f"{case}: {prop.replace('_', ' ')}: {judgement.explanation}"]
    if restarted:
        said.append("The weights had changed; the ranks were started afresh.")
    if judgement.tier == "logits":
        said.append(_next(case, judgement))
    return " ".join(one for one in said if one)


def suspected(
    judgement: Judgement, inspection: Mapping[str, Json], unheeded: Callable[[], Sequence[str]] = tuple
) -> Judgement:
    """A failed judgement that names what may have changed the text before the engine did: what its server refused.

    `unheeded` asks for what it took and ignores; it is called where nothing that was refused explains the failure.
    """
    refused = inspection.get("refused")
    if judgement.status != "fail" or not isinstance(refused, list):
        return judgement
    words = suspicion(map(str, refused)) or suspicion((), unheeded())
    return replace(judgement, explanation=f"{judgement.explanation} {words}") if words else judgement


def _next(case: Case, judgement: Judgement) -> str:
    if judgement.lane != "fp32":
        return "Does it fail with --dtype fp32 as well? There a fault of logic stands clear of rounding."
    if engine(case.engine).lacking("states") is not None or not _has_oracle(case.model):
        return ""
    ranks = f" --ranks {case.ranks}" if case.ranks > 1 else ""
    named = "" if case.engine == "transformers" else f" --engine {case.engine}"
    device = "" if case.device == processor().name else f" --device {case.device}"
    return (
        f"First layer that is wrong, if a single pass is: `genqual bisect {case.model}{named}{device}{ranks} --dtype "
        f"{compute_dtype(case.dtype)}`."
    )


def _has_oracle(model: str) -> bool:
    """Whether genqual has an oracle of its own of `model`, whose layers `genqual bisect` compares with."""
    try:
        spec = resolve(model)
        return spec.source == "embedded" or why_no_oracle(weights.config(spec), weights.lazily(spec)) is None
    except BadInput:
        return False


def again(options: Options, case: Case, workload: Workload, metric: str) -> str:
    """The command that judges one metric of one case again, and nothing else."""
    words = ["pytest", "-m", case.device, "--benchmark", f"--profile={options.profile}", "--engine", case.engine]
    words += [f"--model={case.model}", "--dtype", case.dtype, "--ranks", str(case.ranks)]
    words += ["--batch-sizes", str(workload.batch), "--input-lengths", str(workload.input_length)]
    words += ["--new-tokens", str(workload.new_tokens), "-k", rule(metric).test]
    words += [f"--baselines={options.baselines}"] if options.baselines else []
    words += [f"--baseline-from={options.baseline_from}"] if options.baseline_from else []
    words += ["--no-pair"] if options.no_pair else []
    words += ["--under-test", options.under_test] if options.under_test != "engine" else []
    return shlex.join(words)


def remake(options: Options, gated: Mapping[str, Workload], case: Case, quick: bool) -> str:
    """The command that measures the baselines of one case where this run looks for them."""
    words = ["genqual", "rebase", *(["--quick"] if quick else []), "--device", case.device]
    words += [f"--profile={options.profile}"] if options.profile != "embedded" else []
    words += [f"--model={case.model}", "--engine", case.engine, "--dtype", case.dtype]
    words += ["--ranks", str(case.ranks)] if case.ranks > 1 else []
    if options.own_workloads:
        sizes, lengths = ({getattr(one, name) for one in gated.values()} for name in ("batch", "input_length"))
        words += ["--batch-sizes", ",".join(map(str, sorted(sizes)))]
        words += ["--input-lengths", ",".join(map(str, sorted(lengths)))]
        words += ["--new-tokens", str(max(one.new_tokens for one in gated.values()))]
    words += [f"--endpoint={options.endpoint}"] if options.endpoint else []
    words += [f"--served-model={options.served_model}"] if options.served_model else []
    words += [f"--engine-command={options.engine_command}"] if options.engine_command else []
    words += [f"--out={options.baselines}"] if options.baselines else []
    words += [] if quick else ["--reason", "another control"]
    return shlex.join(words)


class Causes:
    """The causes that the tests of this process met, each with the test that told it."""

    def __init__(self) -> None:
        self._told: dict[object, tuple[str, BaseException]] = {}  # the error too: its identity must not be used again

    def words(self, error: GenqualError | GroupLost, test: str) -> str:
        """What `test` says of `error`: all of it the first time, then one line that names the test that said it.

        Two lost groups are two events, each with stacks and logs of its own, unless they are one error kept: that of a
        case that cannot load.
        """
        whole = f"{type(error).__name__}: {error}"
        key: object = id(error) if isinstance(error, GroupLost) else (type(error).__name__, error.cause or str(error))
        first, _ = self._told.setdefault(key, (test, error))
        if first == test:
            return whole
        line = whole.partition("\n")[0]
        return f"see {first}: {line if len(line) <= _LINE else f'{line[:_LINE]}...'}"
