"""An explanation of a checkpoint as lines of text. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from genqual.analysis.terminal.text import clean
from genqual.conformance.references.cost import amount, duration

RANKS: Final = ("1", "2", "4", "8")


def lines(found: Mapping[str, Any]) -> list[str]:
    """What a person reads, the next step last."""
    title = f"{found['model']}: {found['architecture'] or 'unknown architecture'}, {found['source'] or 'not found'}"
    out = [title, *_problems(found)]
    if found["architecture"] is not None:  # of what is not here, nothing else can be said
        out += [*_judged(found), *_weights(found), *_rest(found), *_engines(found), *_costs(found)]
    out.append(f"Next: {found['next']}")
    return [" " * (len(line) - len(line.lstrip())) + clean(line) for line in out]


def _problems(found: Mapping[str, Any]) -> list[str]:
    return [f"  PROBLEM: {one}" for one in found["problems"]]


def _judged(found: Mapping[str, Any]) -> list[str]:
    by = found["judged_by"]
    if by["oracle"]:
        out = [f"Judged by: genqual's own float64 oracle of {by['oracle']}, independent ({by['why']})"]
    elif by["why"] in found["problems"]:
        return ["Judged by: nothing, before that is mended"]
    elif by["independent"] is None:
        return [f"Judged by: not known: {by['why']}"]
    else:
        out = ["Judged by: transformers in fp32; every verdict says that it is not independent", f"  why: {by['why']}"]
    return out + [f"  unknown field: {name} = {value}" for name, value in by["unknown"].items()]


def _weights(found: Mapping[str, Any]) -> list[str]:
    has = found["weights"]
    out = []
    if has["count"]:
        # A table that is both embedding and head is read as each of them.
        fewer = has["active"] is not None and has["active"] < has["count"]
        active = f", of which a token reads {has['active']:,}" if fewer else ""
        out.append(f"Weights: {has['count']:,}{active}")
    for dtype, size in (has["stored_bytes"] or {}).items():
        out.append(f"  stored as {dtype}: {amount(size)}")
    if has["quantised"]:
        out.append(f"  quantised: {has['quantised']}")
    if has["activations"]:
        out.append("  fp32, bf16, fp16: judged as the model that its weights are, on engines that widen them")
    if has["activations_unjudged"]:
        out.append(f"  not judged with its activations: {has['activations_unjudged']}")
    else:
        out += [_declared(one) for one in has["activations"]]
    if has["experts"]:
        experts = has["experts"]
        out.append(f"  experts: {experts['chosen']} of {experts['of']} a token, in {experts['layers']} layers")
    if has["windows"]:
        out.append(f"  attention windows: {', '.join(map(str, has['windows']))} tokens")
    if has["kept_bytes_per_1024"]:
        out.append(f"  1024 tokens keep {amount(has['kept_bytes_per_1024'])} in 16 bit")
    return out


def _declared(one: Mapping[str, Any]) -> str:
    """How activations are judged that the checkpoint quantises."""
    made = f"tolerance: genqual reference ... --schemes {one['precision']}"
    return f"  {one['precision']}: judged as it declares: activations rounded to {one['rounded']}; {made}"


def _rest(found: Mapping[str, Any]) -> list[str]:
    tokenizer, made = found["tokenizer"], found["reference"]
    out = [f"Tokenizer: {tokenizer['status']}" + (f": {tokenizer['why']}" if tokenizer["why"] else "")]
    if made is not None:
        known = ", ".join(made["tolerances"]) or "none"
        out.append(f"Reference: {made['folder']} (tolerances of {known})")
    else:
        out.append(
            "Reference: none here of these weights"
            if found["reference_looked_for"]
            else "Reference: not looked for, since its weights were not hashed yet; the next command does that"
        )
    return out


def _engines(found: Mapping[str, Any]) -> list[str]:
    """Each engine once: what it runs, then what of this model it cannot, and why."""
    out = [f"Engines on {found['device']}, of {', '.join(RANKS)} ranks:"]
    runs = {one["engine"]: one for one in found["runs"]}
    reasons: dict[str, list[Mapping[str, Any]]] = {}
    for one in found["unsupported"]:
        reasons.setdefault(one["engine"], []).append(one)
    for name in sorted(runs.keys() | reasons.keys()):
        one = runs.get(name)
        if one is not None:
            notes = [f"needs {need}" for need in one["needs"]]
            notes += [f"not installed: {', '.join(one['missing_packages'])}"] if one["missing_packages"] else []
            out.append(f"  {name}: {_where(one['ranks'])}" + (f" ({'; '.join(notes)})" if notes else ""))
        own = [each for each in reasons.get(name, []) if each["of_model"]]
        if one is None and not own:
            own = reasons[name][:1]
        out += [f"  {name}: unsupported ({_where(each['ranks'])}): {each['reason']}" for each in own]
    return out


def _where(ranks: Mapping[str, list[str]]) -> str:
    """`fp32 bf16 on 1, 2, 4, 8`, rank counts with the same dtypes together."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for count, dtypes in ranks.items():
        groups.setdefault(tuple(dtypes), []).append(count)
    return "; ".join(f"{' '.join(dtypes)} on {', '.join(counts)}" for dtypes, counts in groups.items())


def _costs(found: Mapping[str, Any]) -> list[str]:
    costs = found["estimates"]
    if costs is None:
        return []
    reference, suite = costs["reference"], costs["conformance"]
    return [
        "Takes about (estimates, from rates measured on this host just now):",
        f"  the reference by {reference['by']}, with tolerances of {', '.join(reference['tolerances'])}: "
        f"{duration(reference['seconds'])}, {amount(reference['memory_bytes'])} of memory, "
        f"{amount(reference['disk_bytes'])} of disk",
        f"  conformance on {suite['engine']} in {suite['dtype']}: {duration(suite['seconds'])}, "
        f"{amount(suite['memory_bytes'])} of memory",
    ]
