"""Which cases make the whole matrix, and which faults each of them is for. Pure: names only."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from genqual.errors import BadInput
from genqual.faults import CATALOGUE, catalogue_architectures, ignored_fields
from genqual.faults.fault import SHIPPED
from genqual.faults.matrix.store import FAULT_FREE
from genqual.models import architectures
from genqual.models.registry import resolve

TINY: Final = ("llama-tiny", "bloom-tiny")
ARCHITECTURES: Final = tuple(architectures.CONFIGS)
MAIN_JOB: Final = (*TINY, "llama-odd")
"""Whose answers an ordinary run judges: profile `embedded`."""
OWN: Final = (ignored_fields.GROUP, *dict.fromkeys(one.group for one in catalogue_architectures.FAULTS))
"""Groups of faults that only some configurations and architectures can have."""
PRECISION_MODES: Final = ("fp32", "bf16")


@dataclass(frozen=True, slots=True)
class MatrixRun:
    """One way to run models: every fault of the catalogue is tried on `HOME`, on another only what is its own.

    `tests` are files of suites/conformance, all where it is empty; `sample` are the dtypes in which the fixed sample is
    added to what is its own; without `faults` only what is right is run. With `groups` only faults of these are tried.
    """

    engine: str
    ranks: int = 1
    models: tuple[str, ...] = TINY
    dtypes: tuple[str, ...] = PRECISION_MODES
    tests: tuple[str, ...] = ()
    cores: int = 1
    sample: tuple[str, ...] = ()
    faults: bool = True
    groups: tuple[str, ...] = ()

    def takes(self, name: str, model: str, dtype: str) -> bool:
        """Whether the whole matrix tries this fault here: all on `HOME`, elsewhere what is no fault of `HOME`.

        On an engine that is not genqual's, every fault that fits.
        """
        if name == FAULT_FREE or CATALOGUE[name].equivalent or self.engine.partition(":")[0] not in SHIPPED:
            return True
        known, architecture = CATALOGUE[name], resolve(model).architecture
        if self.groups and known.group not in self.groups:
            return False
        engine, ranks = HOME
        at_home = any(
            known.fits(engine=engine, architecture=architecture, ranks=ranks, dtype=lane) for lane in PRECISION_MODES
        )
        home = (self.engine, self.ranks, self.cores) == (*HOME, 1) and dtype in PRECISION_MODES
        return self.faults and (home or not at_home or (dtype in self.sample and known.sample))


HOME: Final = ("transformers", 1)

RUNS: Final = (
    MatrixRun(*HOME),
    MatrixRun(*HOME, models=ARCHITECTURES, dtypes=("fp32",), groups=OWN),  # windows, experts, states, odd values
    MatrixRun(*HOME, models=("deepseek_v3-tiny",), dtypes=("bf16",), groups=("precision",)),  # it keeps weights in fp32
    MatrixRun("transformers:attn_implementation=eager", faults=False),  # other kernels
    MatrixRun("transformers", cores=2, faults=False),  # threads
    MatrixRun("transformers", dtypes=("int8-weight",)),
    MatrixRun("transformers", models=("smollm2-135m",), tests=("test_greedy.py",), faults=False),
    MatrixRun("accelerate:placement=disk"),  # offload
    MatrixRun("deepspeed-zero", 2),  # streams
    MatrixRun("deepspeed-inference", 2, sample=("fp32",)),  # tensor parallel
    MatrixRun("transformers-compiled"),  # graphs and a static cache
)
"""The whole matrix, what is quick first: `tox -e detection`."""


def runs_of(engines: str | None, models: str | None, dtypes: str | None) -> list[MatrixRun]:
    """The whole matrix, narrowed to `models` and `dtypes`; or the runs of `engines`, ENGINE:RANKS. Commas between.

    An engine of genqual's that is not in the whole matrix is tried with its own faults and the sample, any other with
    all that fit. Raises BadInput for what is no such pair.
    """
    if engines is None:
        narrowed = [replace(run, models=_of(run.models, models), dtypes=_of(run.dtypes, dtypes)) for run in RUNS]
        return [run for run in narrowed if run.models and run.dtypes]
    found = []
    for pair in engines.split(","):
        name, _, ranks = pair.rpartition(":")
        if not name or not ranks.isdigit():
            raise BadInput(f"--engines {pair!r}: write ENGINE:RANKS, as transformers:1")
        mine = (run for run in RUNS if (run.engine, run.ranks) == (name, int(ranks)))
        where, lanes = (tuple(text.split(",")) if text else None for text in (models, dtypes))
        run = next(mine, MatrixRun(name, int(ranks), sample=lanes or PRECISION_MODES))
        found.append(replace(run, models=where or run.models, dtypes=lanes or run.dtypes))
    return found


def _of(mine: tuple[str, ...], asked: str | None) -> tuple[str, ...]:
    return mine if asked is None else tuple(name for name in mine if name in asked.split(","))
