"""docs/detection.md, written from a store of cells. Pure."""

from __future__ import annotations

from collections import Counter
from typing import Final

from genqual.errors import BadInput
from genqual.faults import CATALOGUE, ignored_fields
from genqual.faults.matrix.cases import MAIN_JOB
from genqual.faults.matrix.other_rules import RULES
from genqual.faults.matrix.store import MatrixCell
from genqual.faults.matrix.tables import MODES, FaultMatrix, ModelFaults, titled
from genqual.faults.matrix.tiers import TIERS
from genqual.models.registry import resolve

_HEAD: Final = """# What the conformance suite finds, and what it does not

Made by `genqual faults matrix`; do not edit. Each fault of the catalogue was put into a live engine by hooks, and the
real suite judged it. F: found in fp32 mode, D: found in declared mode (bf16).
"""


def page(matrix: FaultMatrix, picture: str) -> str:
    """The whole page; `picture` is the heat map's file name."""
    parts = [_summary(matrix), [f"![heat map]({picture})", ""], _models(matrix), _fields(matrix)]
    parts += [_rules(matrix), _tiers(matrix), _found(matrix)]
    return "\n".join([_HEAD, *(line for part in parts for line in part)]) + "\n"


_MODELS_HEAD: Final = """# What the conformance suite finds, model by model

Made by `genqual faults matrix --models-page`; do not edit. Each fault that fits was put into a live engine by hooks,
and the real suite judged it, until a property found it.
"""


def models_page(matrix: FaultMatrix) -> str:
    """What is found on each model, and which of them shows an ignored field; of stores that ask no more once found."""
    lines = [*_summary(matrix), *_models(matrix), *_fields(matrix)]
    return _MODELS_HEAD + "\n" + "\n".join(lines).rstrip() + "\n"


def _summary(matrix: FaultMatrix) -> list[str]:
    fault_free, alarms, survivors = matrix.fault_free(), matrix.false_alarms(), matrix.survivors()
    cases = sorted({f"{cell.engine} x{cell.ranks}{_cores(cell)}, {cell.model}, {cell.dtype}" for cell in matrix.cells})
    known = f", {len(matrix.known())} known failures of an engine" if matrix.known() else ""
    lines = [
        "## In short",
        "",
        f"- {len(matrix.faults)} faults, {len(matrix.faults) - len(survivors)} found, {len(survivors)} survivors.",
        f"- {len(fault_free)} judgements of fault-free and equivalent runs, {len(alarms)} false alarms{known}.",
        f"- {len(matrix.cells)} cells over {len(cases)} cases: {'; '.join(cases)}.",
        f"- Judged on {', '.join(sorted({cell.hardware or 'a host that was not kept' for cell in matrix.cells}))}.",
    ]
    if matrix.unjudged:
        what = Counter(f"{cell.fault} on {cell.engine} x{cell.ranks} {cell.model}" for cell in matrix.unjudged)
        lines.append(f"- {len(matrix.unjudged)} cells gave no verdict: {', '.join(sorted(what))}.")
    if matrix.errors:
        lines += [
            "",
            "### Errors",
            "",
            "An exception ended these, such as that of a broken injector: no find.",
            "",
        ]
        for cell in matrix.errors:
            lines.append(f"- {cell.fault}: {titled(cell.check)} on {_where(cell)}: {cell.why}")
    lines += ["", "### Survivors", ""]
    for name in survivors:
        why = CATALOGUE[name].survives or "not explained yet: a gap of the suite"
        lines.append(f"- `{name}` ({CATALOGUE[name].summary}): {why}.")
    lines += ["none", ""] if not survivors else [""]
    lines += ["### False alarms", ""]
    for cell in alarms:
        lines.append(f"- {titled(cell.check)} on {_where(cell)}, {cell.fault}: {cell.why}")
    lines += ["none", ""] if not alarms else [""]
    if matrix.known():
        lines += [
            "### Known failures of engines",
            "",
            "Runs without a fault of ours that fail, and why (`baselines/waivers`).",
            "",
        ]
        for cell in matrix.known():
            lines.append(f"- {titled(cell.check)} on {_where(cell)}, {cell.fault}: {cell.why}")
        lines.append("")
    return lines


def _models(matrix: FaultMatrix) -> list[str]:
    """A row a model: a fault that is found on one may survive on another."""
    rows = matrix.by_model()
    lines = ["## Model by model", "", "A fault counts once for each model, whatever the engine.", ""]
    lines += [
        "| model | faults | found in fp32 | found in declared mode | found in neither | right runs: judged, alarms |"
    ]
    lines += ["|---|---|---|---|---|---|"]
    for row in rows:
        right, alarms = (sum(numbers[i] for numbers in row.fault_free.values()) for i in (0, 1))
        found = " | ".join(_share(row, mode) for mode in MODES)
        lines.append(f"| {row.model} | {len(row.faults)} | {found} | {len(row.survivors)} | {right}, {alarms} |")
    total = " | ".join(
        f"{sum(len(row.found[mode]) for row in rows)} of {sum(len(row.judged[mode]) for row in rows)}" for mode in MODES
    )
    lines.append(
        f"| all | {sum(len(row.faults) for row in rows)} | {total} | {sum(len(row.survivors) for row in rows)} | |"
    )
    lines.append("")
    survivors = [(row.model, name) for row in rows for name in row.survivors]
    lines += [f"Found in neither mode:{'' if survivors else ' none.'}", ""]
    for model, name in survivors:
        why = _explained(name, model) or "not explained yet: a gap of the suite, or of this model"
        lines.append(f"- {model}: `{name}` ({CATALOGUE[name].summary}): {why}.")
    lines += [""] if survivors else []
    for mode, words in zip(MODES, ("fp32", "declared mode"), strict=True):
        missed = [(row.model, row.missed(mode)) for row in rows if row.missed(mode)]
        lines += [f"Judged in {words} and not found there:{'' if missed else ' none.'}", ""]
        lines += [f"- {model}: {', '.join(f'`{name}`' for name in names)}" for model, names in missed]
        lines += [""] if missed else []
    return lines


def _explained(name: str, model: str) -> str:
    """Why no output of this model shows the fault, or nothing; a model that is gone has no architecture to ask."""
    known = CATALOGUE[name]
    try:
        architecture = resolve(model).architecture
    except BadInput:
        architecture = ""
    return known.survives or known.survives_on.get(architecture, "")


def _share(row: ModelFaults, mode: str) -> str:
    return f"{len(row.found[mode])} of {len(row.judged[mode])}" if row.judged[mode] else "not judged"


def _fields(matrix: FaultMatrix) -> list[str]:
    """Which model shows that an engine ignores a field; nothing where no such engine was judged."""
    names = [name for name in matrix.faults if CATALOGUE[name].group == ignored_fields.GROUP]
    if not names:
        return []
    lines = ["## Engines that ignore a field of config.json", ""]
    lines += [
        "F: found in fp32 mode, D: in declared mode. The first models are those of the main job, the others those of"
    ]
    lines += ["the profile `architectures`.", ""]
    lines += ["| field | found by the main job's models | by the profile's | not found on |", "|---|---|---|---|"]
    for name in names:
        said: dict[str, str] = {}
        for row in matrix.by_model():
            modes = "".join(letter for mode, letter in zip(MODES, "FD", strict=True) if name in row.found[mode])
            if name in row.faults:
                said[row.model] = modes
        ours, theirs = (
            ", ".join(f"{model} {modes}" for model, modes in said.items() if modes and (model in MAIN_JOB) is mine)
            for mine in (True, False)
        )
        missed = ", ".join(model for model, modes in said.items() if not modes)
        lines.append(f"| `{CATALOGUE[name].params['field']}` | {ours or '-'} | {theirs or '-'} | {missed or '-'} |")
    return [*lines, ""]


def _where(cell: MatrixCell) -> str:
    return f"{cell.engine} x{cell.ranks} {cell.model} {cell.dtype}"


def _cores(cell: MatrixCell) -> str:
    return f" of {cell.cores} cores" if cell.cores > 1 else ""


def _rules(matrix: FaultMatrix) -> list[str]:
    lines = ["## The same runs, judged by others' rules", ""]
    lines += ["| rule | what it asks | faults found | harmless runs alarmed |", "|---|---|---|---|"]
    asked = {"this suite": "all properties"} | {rule.removeprefix("rule "): what for rule, what in RULES.items()}
    for name, found, judged, alarmed, right in matrix.judges():
        lines.append(f"| {name} | {asked[name]} | {found} of {judged} | {alarmed} of {right} |")
    return [*lines, ""]


def _tiers(matrix: FaultMatrix) -> list[str]:
    """What less evidence costs; nothing in a store of before it was judged."""
    judged = matrix.tiers()
    if not judged:
        return []
    lines = ["## What is found at each tier of evidence", ""]
    lines += ["| tier | what is shown | faults found | harmless runs alarmed |", "|---|---|---|---|"]
    shown = {"logits": "all properties"} | {tier.removeprefix("tier "): what for tier, what in TIERS.items()}
    for name, found, faults, alarmed, right in judged:
        lines.append(f"| {name} | {shown[name]} | {found} of {faults} | {alarmed} of {right} |")
    return [*lines, ""]


def _found(matrix: FaultMatrix) -> list[str]:
    """A row a fault: which properties find it, in words short enough for a table."""
    lines = ["## Fault by fault", "", "| group | fault | found by | others |", "|---|---|---|---|"]
    ours = matrix.properties
    for name in matrix.faults:
        known = CATALOGUE[name]
        hits = {check: lanes for check in ours if set(lanes := matrix.lanes(name, check)) & {"F", "D"}}
        others = ", ".join(
            f"{rule.removeprefix('rule ')} {lanes}"
            for rule in RULES
            if set(lanes := matrix.lanes(name, rule)) & {"F", "D"}
        )
        said = f"{len(hits)}: " + ", ".join(f"{titled(check)} {lanes}" for check, lanes in list(hits.items())[:4])
        more = " ..." if len(hits) > 4 else ""
        text = f"{said}{more}" if hits else "**survives**"
        lines.append(f"| {known.group} | `{name}`: {known.summary} | {text} | {others or '-'} |")
    lines += ["", "## Property by property", "", "| property | faults found, of those judged |", "|---|---|"]
    for check in ours:
        found, judged, *_ = matrix.share(check)
        lines.append(f"| {titled(check)} | {found} of {judged} |")
    return lines
