"""Where modules were before 0.2, for one release: old names import the new modules and warn. The standard library only.

Third parties' engines import our classes, records and their packages name them in entry strings, and another build's
ranks (`--baseline-from`) know the names of their own time. All three go through this table.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any, Final

MODULES: Final[dict[str, str]] = {
    "advice": "session.failure_message",
    "builds": "gate.other_build",
    "conformance.envelope": "conformance.tolerance",
    "conformance.faults.arithmetic": "faults.injectors.arithmetic",
    "conformance.faults.bits": "faults.injectors.bits",
    "conformance.faults.blocks": "faults.injectors.blocks",
    "conformance.faults.cache": "faults.injectors.cache",
    "conformance.faults.changing": "faults.injectors.changing",
    "conformance.faults.choosing": "faults.injectors.choosing",
    "conformance.faults.engines": "faults.injectors.engines",
    "conformance.faults.fault": "faults.fault",
    "conformance.faults.listed": "faults.catalogue",
    "conformance.faults.listed_engines": "faults.catalogue_engines",
    "conformance.faults.parallel": "faults.injectors.parallel",
    "conformance.faults.peers": "faults.injectors.peers",
    "conformance.faults.places": "faults.injectors.places",
    "conformance.faults.positions": "faults.injectors.positions",
    "conformance.faults.ranks": "faults.injectors.ranks",
    "conformance.faults.rounding": "faults.injectors.rounding",
    "conformance.faults.rows": "faults.injectors.rows",
    "conformance.faults.weights": "faults.injectors.weights",
    "conformance.judge": "conformance.judges.logits",
    "conformance.judge_free": "conformance.judges.free_run",
    "conformance.judge_own": "conformance.judges.self_checks",
    "conformance.judge_parts": "conformance.judges.shards",
    "conformance.judge_text": "conformance.judges.text",
    "conformance.judge_top": "conformance.judges.logprobs",
    "conformance.oracle_bloom": "conformance.oracle.bloom",
    "conformance.oracle_core": "conformance.oracle.core",
    "conformance.oracle_llama": "conformance.oracle.llama",
    "conformance.oracle_stream": "conformance.oracle.streamed",
    "conformance.other_rules": "faults.matrix.other_rules",
    "conformance.reference": "conformance.references.make",
    "conformance.reference_data": "conformance.references.data",
    "conformance.reference_file": "conformance.references.file",
    "conformance.stream_state": "conformance.oracle.streamed_state",
    "conformance.stream_weights": "conformance.oracle.streamed_weights",
    "detection.page": "faults.matrix.page",
    "detection.plugin": "faults.matrix.plugin",
    "detection.runs": "faults.matrix.cases",
    "detection.store": "faults.matrix.store",
    "detection.tables": "faults.matrix.tables",
    "detection.tiers": "faults.matrix.tiers",
    "drawing": "session.property_search",
    "engines.abilities": "engines.hf.abilities",
    "engines.accelerated": "engines.hf.accelerate",
    "engines.clocked": "engines.hf.timed_import",
    "engines.compiling": "engines.hf.compiling",
    "engines.deepspeed_inference": "engines.deepspeed.inference",
    "engines.deepspeed_zero": "engines.deepspeed.zero",
    "engines.evidence": "engines.hf.evidence",
    "engines.external": "engines.remote.external",
    "engines.fp8": "engines.hf.fp8",
    "engines.gaudi": "engines.habana.counters",
    "engines.gaudi_fp8": "engines.habana.fp8",
    "engines.graphs": "engines.hf.graphs",
    "engines.group": "engines.hf.process_group",
    "engines.hf": "engines.hf.base",
    "engines.importing": "engines.hf.fast_import",
    "engines.loops": "engines.hf.generate_hooks",
    "engines.optimum_habana": "engines.habana.engine",
    "engines.prebuild": "engines.deepspeed.prebuild",
    "engines.preflight": "engines.hf.preflight",
    "engines.quantising": "engines.hf.quantise",
    "engines.reading": "engines.hf.from_pretrained",
    "engines.resident": "engines.hf.smaps",
    "engines.runtime": "engines.hf.runtime",
    "engines.scratch": "engines.hf.scratch",
    "engines.server": "engines.remote.openai_server",
    "engines.server_client": "engines.remote.openai_client",
    "engines.server_top": "engines.remote.logprobs",
    "engines.signs": "engines.remote.sign_tokenizer",
    "engines.statistics": "engines.hf.score_recorder",
    "engines.tokens_only": "engines.remote.base",
    "engines.transformers_compiled": "engines.hf.compiled",
    "engines.transformers_eager": "engines.hf.eager",
    "engines.transformers_tp": "engines.hf.tensor_parallel",
    "fitting": "session.max_batch",
    "gating": "gate.case_launches",
    "given": "session.fixture_types",
    "instances": "session.concurrent_instances",
    "judging": "gate.controller",
    "markers": "session.markers",
    "measuring": "session.benchmark",
    "options": "session.options",
    "pairs": "session.dataset_run",
    "performance.admission": "gate.admission",
    "performance.alternate": "gate.rank_launch",
    "performance.baseline": "gate.baseline_file",
    "performance.bounds": "metrics.utilisation",
    "performance.capacity": "metrics.bisection",
    "performance.definitions": "metrics.definitions",
    "performance.design": "gate.launch_plan",
    "performance.evalues": "gate.evalues",
    "performance.frozen": "gate.frozen",
    "performance.gate": "gate.decision",
    "performance.hours": "gate.batch_variance",
    "performance.instances": "metrics.concurrent",
    "performance.launches": "metrics.measure",
    "performance.limits": "metrics.slo",
    "performance.metrics": "metrics.compute",
    "performance.replay": "metrics.pytest_benchmark",
    "performance.roofline": "metrics.roofline",
    "performance.sampled": "gate.launch_summary",
    "performance.selftest": "gate.sensitivity",
    "performance.verdict": "gate.verdict",
    "profiles": "session.profiles",
    "ranks.channel": "ranks.protocol",
    "ranks.handle": "ranks.client",
    "ranks.launch": "ranks.launchers",
    "ranks.links": "ranks.connections",
    "ranks.plan": "ranks.group_spec",
    "ranks.serve": "ranks.server",
    "rebasing": "gate.baseline_builder",
    "recording": "session.recorder",
    "reporting": "session.terminal",
    "results.accuracy": "analysis.accuracy",
    "results.canonical": "records.canonical",
    "results.cells": "analysis.cells",
    "results.claims": "analysis.published.claims",
    "results.compare": "analysis.compare",
    "results.compare_files": "analysis.compare_files",
    "results.compare_nodes": "analysis.compare_nodes",
    "results.compare_nodes_view": "analysis.compare_nodes_view",
    "results.compare_read": "analysis.compare_read",
    "results.compare_reasons": "analysis.compare_reasons",
    "results.compare_view": "analysis.compare_view",
    "results.conformance_view": "analysis.terminal.conformance_view",
    "results.display": "analysis.terminal.display",
    "results.files": "atomic",
    "results.installed": "records.software",
    "results.interval": "analysis.interval",
    "results.metric": "records.metric",
    "results.names": "records.pseudonyms",
    "results.optimum_habana": "analysis.published.optimum_habana",
    "results.outputs": "records.outputs",
    "results.parquet": "storage.parquet",
    "results.part": "records.base",
    "results.parts": "records.fields",
    "results.performance_view": "analysis.terminal.performance_view",
    "results.place": "storage.record_dir",
    "results.post_view": "analysis.terminal.post_view",
    "results.prices": "analysis.published.prices",
    "results.published": "analysis.published.tables",
    "results.push": "storage.push",
    "results.record": "records.record",
    "results.report.charts": "analysis.report.charts",
    "results.report.decide": "analysis.report.decide",
    "results.report.page": "analysis.report.page",
    "results.report.rows": "analysis.report.rows",
    "results.report.signed": "analysis.report.signed",
    "results.report.tables": "analysis.report.tables",
    "results.report.write": "analysis.report.write",
    "results.schema": "records.schema",
    "results.sinks.base": "storage.sinks.base",
    "results.sinks.newest": "storage.sinks.newest",
    "results.sinks.objects": "storage.sinks.objects",
    "results.sinks.registry": "storage.sinks.registry",
    "results.sinks.retrying": "storage.sinks.retrying",
    "results.sinks.sql": "storage.sinks.sql",
    "results.sinks.sqlite_file": "storage.sinks.sqlite_file",
    "results.sinks.table": "storage.sinks.table",
    "results.sinks.upgrade": "storage.sinks.upgrade",
    "results.sinks.urls": "records.redaction",
    "results.sources": "storage.sources",
    "results.spool": "storage.spool",
    "results.summary": "analysis.terminal.summary",
    "results.system": "records.system",
    "results.tables": "analysis.terminal.tables",
    "results.text": "analysis.terminal.text",
    "results.trust.audit": "signing.audit",
    "results.trust.envelope": "signing.dsse",
    "results.trust.journal": "signing.journal",
    "results.trust.manifest": "signing.manifest",
    "results.trust.session": "signing.sign_run",
    "results.trust.verify": "signing.verify",
    "results.verdict": "records.judgement_record",
    "run": "session.context",
    "scheduling": "session.xdist",
    "selection": "session.selection",
    "spec": "cases",
    "subject": "session.record_fields",
    "unfinished": "gate.rebase_state",
    "waivers": "session.waivers",
}
"""Old name -> new name, both below `genqual`."""

_NEW: Final = {new: old for old, new in MODULES.items()}
_FOLDERS: Final = {
    "conformance.faults": "faults",
    "detection": "faults.matrix",
    "performance": "gate",
    "results": "records",
    "results.report": "analysis.report",
    "results.sinks": "storage.sinks",
    "results.trust": "signing",
}
"""Packages that are no more, and where what their `__init__` held is now."""


def former(entry: str) -> str:
    """`package.module:name` as a build from before the move knows it; what never moved stays as it is."""
    module, colon, name = entry.partition(":")
    old = _NEW.get(module.removeprefix("genqual."))
    return f"genqual.{old}{colon}{name}" if old and module.startswith("genqual.") else entry


class _Alias(Loader):
    """Gives the new module under its old name."""

    def __init__(self, target: str) -> None:
        self._target = target
        self._spec: ModuleSpec | None = None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Import the new module; one object has both names, so that classes stay themselves."""
        _warn(spec.name, self._target)
        module = importlib.import_module(self._target)
        self._spec = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Give the module back its own spec: it has run under its new name."""
        module.__spec__ = self._spec


class _Folder(Loader):
    """A package that is no more: modules below it are found, its own names are those of `target`."""

    def __init__(self, target: str) -> None:
        self._target = target

    def create_module(self, spec: ModuleSpec) -> None:
        """Let Python make an empty module."""

    def exec_module(self, module: ModuleType) -> None:
        """Forward what the package itself held."""
        module.__path__ = []
        module.__dict__["__getattr__"] = forward(module.__name__, self._target)


def forward(old: str, new: str, *, modules_first: bool = False) -> Callable[[str], Any]:
    """A module's `__getattr__` that looks names of `old` up in `new`, warning once a place.

    `modules_first`: a module below `old` wins over a name in `new`, which is then not imported for it.
    """

    def look_up(name: str) -> Any:
        # `from package import module` asks here before it looks for the module.
        if name.startswith("__") or (modules_first and find_spec(f"{old}.{name}") is not None):
            raise AttributeError(name)
        found = getattr(importlib.import_module(new), name, None)
        if found is None:
            raise AttributeError(f"module {old!r} has no attribute {name!r}, and neither has {new!r}")
        _warn(f"{old}.{name}", f"{new}.{name}")
        return found

    return look_up


def _warn(old: str, new: str) -> None:
    warnings.warn(f"{old} is now {new}; the old name works until genqual 0.3", DeprecationWarning, stacklevel=3)


class Finder(MetaPathFinder):
    """Asked last, after every real module."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        package, _, name = fullname.partition(".")
        if package != "genqual":
            return None
        if name in MODULES:
            return ModuleSpec(fullname, _Alias(f"genqual.{MODULES[name]}"))
        if name in _FOLDERS:
            return ModuleSpec(fullname, _Folder(f"genqual.{_FOLDERS[name]}"), is_package=True)
        return None


def install() -> None:
    """Let old names be imported. Harmless twice."""
    if not any(isinstance(finder, Finder) for finder in sys.meta_path):
        sys.meta_path.append(Finder())
