"""What the models of a run are judged by: their references, found by weight hash, and the oracle's own words."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from genqual.cases import Case, Json
from genqual.conformance.float32_angles import with_float32_angles
from genqual.conformance.judgement import ENVELOPE_FACTOR, Judgement, precision_mode_of
from genqual.conformance.judges.logits import judge_same
from genqual.conformance.oracle.registry import Oracle, last_logits, parameters_of
from genqual.conformance.references import file, index
from genqual.conformance.references.make import Reference
from genqual.conformance.scores import scores_of
from genqual.engines.base import Scores
from genqual.errors import BadInput
from genqual.models import weights
from genqual.models.registry import cache_dir, resolve
from genqual.models.spec import ModelSpec
from genqual.paths import data_dir
from genqual.session.oracles import Oracles
from genqual.session.reference_command import adding_command, reference_command

F64 = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class _Identity:
    """What a model is at this moment: what its path holds may change during a run, and its answers with it."""

    model: str
    weights: str
    config: str


class ReferenceStore:
    """References and oracles of the models of one run, each read once while its files stay as they are."""

    def __init__(self, first: str | None, oracles: Oracles | None = None) -> None:
        """Look into the directory `first` before the places of every run; `oracles` are asked about other texts."""
        self.places = [Path(first)] if first else []
        self.places += [data_dir("baselines") / "references", cache_dir() / "references"]
        self._references: dict[_Identity, Reference | str] = {}
        self._unread: dict[str, str] = {}  # models whose weights could not be known, and why
        self._oracles = oracles or Oracles(lambda text: None, frozenset)
        self._kept: _Identity | None = None  # the model whose oracle is kept
        self._logits: dict[tuple[_Identity, bytes, int], F64] = {}  # of long texts, by the steps that were kept
        self._exact: dict[tuple[_Identity, str], F64] = {}  # of references

    def weights_sha256(self, model: str) -> str | None:
        """SHA-256 of the whole checkpoint, or None where it cannot be known in this process.

        Raises BadInput on an embedded model or a directory that cannot be read.
        """
        spec = resolve(model)
        try:
            return weights.sha256(spec)
        except BadInput:
            if spec.source in ("embedded", "directory"):
                raise
            return None

    def parameters(self, model: str) -> int | None:
        """Weights of the whole model, or None where it cannot be read in this process."""
        spec = resolve(model)
        if spec.source not in ("embedded", "directory"):
            return None
        # What the architecture declares: a checkpoint may also store buffers and heads that no engine loads.
        try:
            declared = parameters_of(weights.config(spec), weights.lazily(spec)) if spec.source == "directory" else None
            return weights.count(spec) if declared is None else declared
        except BadInput:  # quantised in a way that is not undone here
            return None

    def reference(self, model: str) -> Reference | str:
        """The oracle's reference of `model`, or why there is none. Raises BadInput on one that is not sound."""
        if model in self._unread:
            return self._unread[model]
        identity = _identity(model)
        if identity not in self._references:
            self._references[identity] = self._read(model)
        return self._references[identity]

    def folder(self, model: str) -> Path | None:
        """Where the reference of `model` lies; None without one, or where the weights cannot be known here."""
        if model in self._unread:
            return None
        spec = resolve(model)
        try:
            return index.find(self.places, spec.name, weights.sha256(spec), _config(model))
        except BadInput:
            return None

    def next_command(self, model: str, dtype: str) -> str:
        """What lets `model` be judged in `dtype`: a reference, or a tolerance for the one that is there."""
        folder = self.folder(model)
        return reference_command(model) if folder is None else adding_command(model, dtype, folder)

    def _read(self, model: str) -> Reference | str:
        spec = resolve(model)
        try:
            sha256 = weights.sha256(spec)
        except BadInput as reason:
            if spec.source in ("embedded", "directory"):
                raise
            # For the whole run: once ranks have downloaded it, half of its tests would have another word than the rest.
            self._unread[model] = f"no reference is known to be of the weights of {spec.name}: {reason}"
            return self._unread[model]
        config = _config(model)
        folder = index.find(self.places, spec.name, sha256, config)
        if folder is not None:
            return file.read(folder)
        return index.why_none(self.places, spec.name, sha256, config, _command(spec, model))

    def oracle(self, model: str) -> Oracle:
        """Who said the reference of `model`: our own implementation, or transformers in a process on the CPU.

        Kept, because a free run is re-scored with it. Raises BadInput where there is neither.
        """
        identity = _identity(model)
        if identity != self._kept:  # what a path holds may have changed: an oracle of what was there says nothing
            self._oracles.close()
            self._kept = identity
        return self._oracles.of(model, self.reference(model))

    def logits(self, model: str, text: NDArray[np.int64], steps: int) -> F64:
        """The oracle's logits (steps, vocabulary) that choose the last `steps` tokens of the row `text`.

        Raises BadInput where there is no oracle.
        """
        key = (_identity(model), np.asarray(text, dtype=np.int64).tobytes(), steps)
        if key not in self._logits:
            self._logits[key] = last_logits(self.oracle(model), text[:-1], steps)
        return self._logits[key]

    def _ties(self, model: str, text: NDArray[np.int64]) -> list[F64] | None:
        """How near routers were to other experts when the row `text` was read but its last token, (tokens, layers)."""
        margins = getattr(self.oracle(model), "router_margins", None)  # an oracle of others' making may know none
        return None if margins is None else [margins(text[:-1])]

    def exact_logits(self, model: str) -> F64:
        """The oracle's whole logits (steps, rows, vocabulary) on the tokens of the model's reference.

        Raises BadInput where the model has none.
        """
        found = self.reference(model)
        if not isinstance(found, Reference):
            raise BadInput(f"model {model}: {found}")
        key = (_identity(model), found.sha256)
        if key not in self._exact:
            oracle = self.oracle(model)
            rows = [
                last_logits(oracle, [*prompt, *(int(t) for t in tokens[:-1])], len(tokens))
                for prompt, tokens in zip(found.prompts, found.forced, strict=True)
            ]
            self._exact[key] = np.stack(rows, axis=1)
        return self._exact[key]

    def against_oracle(
        self,
        case: Case,
        scores: Scores,
        text: NDArray[np.int64],
        steps: int,
        *,
        limit: float,
        factor: float = ENVELOPE_FACTOR,
    ) -> Judgement:
        """Judge `scores` of the last `steps` tokens of the row `text` by the oracle's word on this very row.

        For texts that no reference holds; `limit` is fp32 mode's, `factor` how many envelopes declared mode may
        read. Without an oracle: "no_reference".
        """
        try:
            logits = self.logits(case.model, text, steps)
        except BadInput as reason:
            return Judgement("no_reference", precision_mode_of(case.dtype), "logits", str(reason), shape=(steps, 1))
        found = self.reference(case.model)
        known = found if isinstance(found, Reference) else None
        exact = scores_of(logits[:, None], text[None, -steps:])
        judge = partial(
            judge_same,
            exact,
            scores,
            dtype=case.dtype,
            exact=True,
            envelope=known.envelopes.get(case.dtype) if known else None,
            factor=factor,
            ties=self._ties(case.model, text) if known and known.router_margins is not None else None,
            independent=known is None or known.independent,
        )
        judged, said = judge(fp32_limit=limit), f"Positions to {len(text) - 1}: "
        if not judged.passed and precision_mode_of(case.dtype) == "fp32":
            explained = ENVELOPE_FACTOR * self._float32_angles(case.model, text, exact)
            if explained > limit:
                said += f"angles in float32 alone read {explained / ENVELOPE_FACTOR:.2g} here, so that is the limit: "
                judged = judge(fp32_limit=explained)
        return replace(judged, explanation=said + judged.explanation)

    def _float32_angles(self, model: str, text: NDArray[np.int64], exact: Scores) -> float:
        """nrms that rotary angles in float32 read on the row `text`; 0.0 where there is no such oracle."""
        rounded = with_float32_angles(self.oracle(model))
        if rounded is None:
            return 0.0
        steps = exact.finite.shape[0]
        logits = last_logits(rounded, text[:-1], steps)
        read = judge_same(exact, scores_of(logits[:, None], text[None, -steps:]), dtype="fp32", exact=True)
        return read.nrms or 0.0

    def close(self) -> None:
        """Let go of the oracle that is kept; harmless twice."""
        self._oracles.close()


def _command(spec: ModelSpec, model: str) -> str:
    """What makes a reference of `model`. A GGUF file whose config cannot be made of it has to be converted first."""
    if spec.source != "gguf" or _config(model) is not None:
        return f"`{reference_command(model)}` makes one"
    convert = f"python -m genqual.models.convert {shlex.quote(model)} DIRECTORY"
    return f"`{convert}`, then `genqual reference DIRECTORY` makes one of DIRECTORY, which is then the model to judge"


def _identity(model: str) -> _Identity:
    """`model` with the hash of its weights and its configuration; empty where they cannot be had."""
    spec = resolve(model)
    try:
        sha256 = weights.sha256(spec)
    except BadInput:
        sha256 = ""
    return _Identity(model, sha256, repr(sorted((_config(model) or {}).items())))


def _config(model: str) -> dict[str, Json] | None:
    """The configuration of `model`, or None where it can be read in an engine only."""
    try:
        return weights.config(resolve(model))
    except BadInput:
        return None
