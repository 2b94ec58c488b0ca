"""Profiles and the cases they make. Reads TOML; knows engines and models by their torch-free specs; probes nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

from genqual import toml_file
from genqual.cases import Case, Workload
from genqual.engines.registry import engine
from genqual.errors import BadInput, did_you_mean
from genqual.metrics import slo
from genqual.metrics.slo import Limit
from genqual.models.registry import resolve
from genqual.models.weights import config_if_here
from genqual.paths import data_dir
from genqual.session.options import Options
from genqual.session.profile_file import NATIVE, CasesTable, ProfileFile

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ProfileRow:
    """One `[[....cases]]` table: an engine and the models, dtypes and rank counts it runs."""

    engine: str
    models: tuple[str, ...]
    dtypes: tuple[str, ...]
    ranks: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Miniature:
    """What stands for a profile's models where they do not fit, and the most ranks that its groups then have."""

    models: Mapping[str, str]
    most_ranks: int = 1
    repetitions: int = 1

    def of(self, row: ProfileRow) -> ProfileRow:
        """The same engine and precisions on the models that stand in."""
        models = tuple(dict.fromkeys(self.models[model] for model in row.models))
        ranks = tuple(dict.fromkeys(min(ranks, self.most_ranks) for ranks in row.ranks))
        return replace(row, models=models, ranks=ranks)


@dataclass(frozen=True, slots=True)
class Profile:
    """What to run. `conformance` and `performance` are rows; the rest are the workloads."""

    name: str
    description: str
    conformance: tuple[ProfileRow, ...]
    performance: tuple[ProfileRow, ...]
    prompts: str = "bloom"
    batch_sizes: tuple[int, ...] = (1,)
    input_lengths: tuple[int, ...] = (32,)
    new_tokens: int = 32
    repetitions: int = 5
    cores_per_rank: int = 1
    gate_budget: int | None = None  # seconds that a run may spend on the gate's launches
    protocol: Mapping[str, str] = field(default_factory=dict)  # of its measurements: apart from any other protocol
    small: Miniature | None = None
    limits: tuple[Limit, ...] = ()
    largest_batch: int | None = None  # the most rows that the search for the largest batch tries; None: no search

    def miniature(self) -> Profile:
        """The same engines, precisions, batches and lengths on embedded models. Raises BadInput where it has none."""
        if self.small is None:
            raise BadInput(
                f"--miniature: profile {self.name} has no [miniature] table that says which models stand for its own"
            )
        return replace(
            self,
            conformance=tuple(map(self.small.of, self.conformance)),
            performance=tuple(map(self.small.of, self.performance)),
            repetitions=self.small.repetitions,
            cores_per_rank=1,
            protocol={"miniature_of": self.name},
        )

    def workloads(self, options: Options) -> list[Workload]:
        """Batch sizes x input lengths, each overridden by its option."""
        return [
            Workload(batch, length, options.new_tokens or self.new_tokens)
            for length in options.input_lengths or self.input_lengths
            for batch in options.batch_sizes or self.batch_sizes
        ]


@dataclass(frozen=True, slots=True)
class Plan:
    """The cases of one kind of suite, and what was left out with the reason."""

    cases: tuple[Case, ...]
    left_out: tuple[tuple[Case, str], ...] = field(default=())

    def of_ranks(self, fewest: int) -> Plan:
        """The cases of at least `fewest` ranks: a property of several ranks is no question to one."""
        return Plan(
            tuple(case for case in self.cases if case.ranks >= fewest),
            tuple((case, why) for case, why in self.left_out if case.ranks >= fewest),
        )

    def one_dtype(self) -> Plan:
        """One case of each engine, model and rank count, the first listed: for what no dtype has a say in."""
        cases = {_subject(case): case for case in reversed(self.cases)}
        left = {_subject(case): (case, why) for case, why in reversed(self.left_out)}
        return Plan(
            tuple(case for case in self.cases if cases[_subject(case)] == case),
            tuple(one for one in self.left_out if left[_subject(one[0])] == one),
        )


def _subject(case: Case) -> tuple[object, ...]:
    return (case.device, case.engine, case.model, case.ranks)


def shipped() -> dict[str, Path]:
    """The profiles that came with genqual, by name."""
    return {path.stem: path for path in sorted((data_dir("suites") / "profiles").glob("*.toml"))}


def load(name: str) -> Profile:
    """Read the profile called `name`, or the TOML file at that path. Raises BadInput that names file, key and value."""
    known = shipped()
    path = known.get(name, Path(name))
    if not path.is_file():
        hint = did_you_mean(name, known)
        raise BadInput(f"--profile {name}: no such profile or file.{hint} genqual ships {', '.join(known)}.")
    where = f"--profile {path}"
    return _profile(path.stem, toml_file.read(path, ProfileFile, where=where), where)


def workload_ids(name: str) -> frozenset[str] | None:
    """The ids of all workloads of the profiles that genqual ships; None where `name` is not one of these."""
    known = shipped()
    if name not in known:
        return None
    return frozenset(workload.id for other in known for workload in load(other).workloads(Options()))


def plan(
    rows: Iterable[ProfileRow], options: Options, *, device: str, cores_per_rank: int, native: str = "bf16"
) -> Plan:
    """The cases of `rows` on `device`, narrowed by the options, or overridden where no row has the value given.

    `native` is the dtype that the device computes in, for rows that leave the choice to it.

    What an engine cannot run stays, with its reason, when the profile asks for it; where an option overrode a column it
    is dropped, unless nothing else is left: then BadInput lists the reasons.
    """
    rows = tuple(rows)
    asked = ProfileRow("", options.models, options.dtypes, options.ranks)
    engines = options.engines
    overridden = False
    if engines:
        kept = tuple(row for row in rows if row.engine in engines or row.engine.partition(":")[0] in engines)
        found = {row.engine for row in kept} | {row.engine.partition(":")[0] for row in kept}
        missing = tuple(name for name in engines if name not in found)
        overridden = bool(missing)
        rows = kept + tuple(ProfileRow(name, row.models, row.dtypes, row.ranks) for name in missing for row in rows)
    cases: dict[Case, str | None] = {}
    for row in rows:
        for model in _column(asked.models, row.models):
            model_spec = resolve(model)
            config = config_if_here(model_spec)
            own = tuple(dict.fromkeys(native if dtype == NATIVE else dtype for dtype in row.dtypes))
            for dtype in _column(asked.dtypes, own):
                for ranks in _ranks(asked.ranks, row.ranks, [r for other in rows for r in other.ranks]):
                    case = Case(device, row.engine, model, dtype, ranks, cores_per_rank)
                    spec = engine(row.engine)
                    cases[case] = spec.why_not(
                        device=device, dtype=dtype, ranks=ranks, architecture=model_spec.architecture, config=config
                    ) or options.lacking(spec.settings, spec.name)
    # All engines of a model and dtype together: what each is compared with, one rank, then starts once for all of them.
    first = {(case.model, case.dtype): at for at, case in reversed(list(enumerate(cases)))}
    cases = dict(sorted(cases.items(), key=lambda item: first[item[0].model, item[0].dtype]))
    return _sorted_out(cases, overridden or any(n not in {r for row in rows for r in row.ranks} for n in asked.ranks))


def _sorted_out(cases: Mapping[Case, str | None], overridden: bool) -> Plan:
    runnable = tuple(case for case, reason in cases.items() if reason is None)
    refused = tuple((case, reason) for case, reason in cases.items() if reason is not None)
    if cases and not runnable and overridden:
        reasons = sorted({reason for _, reason in refused})
        raise BadInput(f"nothing can run as the options ask: {'; '.join(reasons)}")
    return Plan(runnable, () if overridden else refused)


def _column(asked: tuple[T, ...], own: tuple[T, ...]) -> tuple[T, ...]:
    """The values asked for; a row keeps its own where nothing was asked."""
    return asked or own


def _ranks(asked: tuple[int, ...], own: tuple[int, ...], everywhere: list[int]) -> tuple[int, ...]:
    """Rank counts narrow: a row keeps those of its own that were asked for, and takes those that no row has."""
    if not asked:
        return own
    return tuple(n for n in asked if n in own or n not in everywhere)


def _profile(name: str, file: ProfileFile, where: str) -> Profile:
    timed, small = file.performance, file.miniature
    for section, rows in (("conformance", file.conformance.cases), ("performance", timed.cases)):
        for number, row in enumerate(rows, start=1):
            try:
                engine(row.engine)
            except BadInput as error:
                raise BadInput(f"{where}: [{section}.cases {number}] {error}") from None
    return Profile(
        name=name,
        description=file.description,
        conformance=_rows(file.conformance.cases),
        performance=_rows(timed.cases),
        prompts=file.conformance.prompts,
        batch_sizes=timed.batch_sizes,
        input_lengths=timed.input_lengths,
        new_tokens=timed.new_tokens,
        repetitions=timed.repetitions,
        cores_per_rank=file.host.cores_per_rank,
        gate_budget=timed.gate_budget,
        limits=slo.read(timed.limits, f"{where}: [performance.limits]"),
        largest_batch=timed.largest_batch,
        protocol=timed.protocol,
        small=Miniature(small.models, small.most_ranks, small.repetitions) if small else None,
    )


def _rows(cases: Iterable[CasesTable]) -> tuple[ProfileRow, ...]:
    return tuple(ProfileRow(one.engine, one.models, one.dtypes, one.ranks) for one in cases)
