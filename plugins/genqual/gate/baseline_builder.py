"""What makes a baseline: which launches are refused, what the others become, how it is written. Starts no process."""

from __future__ import annotations

import datetime
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import genqual
from genqual.atomic import replacing, write_synced
from genqual.cases import Case, Json
from genqual.devices.registry import devices
from genqual.errors import BadInput
from genqual.gate import admission, baseline_file, decision
from genqual.gate.baseline_file import (
    Anchor,
    BaselineFile,
    Entry,
    KnownDrift,
    Launch,
    Provenance,
    Subject,
)
from genqual.gate.case_launches import Taken
from genqual.gate.decision import Settings
from genqual.gate.drift import occasions_of, prior
from genqual.gate.launch_plan import LaunchJob, frozen_source
from genqual.gate.tolerances import WIDEST, Known, allowed, needed
from genqual.gate.verdict import Verdict
from genqual.metrics.registry import definition, rule

HELD_OUT: Final = 4  # launches of the last batch that must pass, judged by all others
FULL: Final = 0.85  # of its cores' time that a rank must have had; below, z is another (docs/gate-theory.md)
_WIDE: Final = 160  # columns up to which a value of the file stays on one line


def unfit(taken: Taken, metric: str, case: Case) -> list[str]:
    """Why one launch may not be a part of a baseline. Ranks that wait for each other, or for a card, need no core."""
    found = taken.why_not(metric, None, "engine")
    share = taken.probes.get("cpu_share", 1.0)
    if share < FULL and case.ranks == 1 and devices()[case.device].torch_device == "cpu":
        found.append(f"its ranks had {share:.0%} of their cores; stop what else runs here")
    return found


def tolerance_of(
    launches: Sequence[Launch], standard: float, widest: float = WIDEST, known: Known | None = None
) -> float:
    """The tolerance that these launches and the drift of their class can hold: `standard`, or, up to `widest`, the
    least whole percent that they need for the error rates of docs/gate.md; `standard` where even `widest` is too
    little, and `problem` says why.
    """
    known = known or Known.measured(launches, prior(standard, stepped=True))
    return allowed(launches, known, Settings(standard), widest=widest)


def problem(launches: Sequence[Launch], settings: Settings, *, exact: bool, known: Known | None = None) -> str:
    """Why these launches make no baseline, or nothing: too noisy, not reproducible, or of too few batches."""
    if len({one.batch for one in launches}) < 2:
        return "one batch cannot show how host speed drifts: give two batches at least"
    if len(launches) < HELD_OUT + 4:
        return f"{len(launches)} launches were accepted; {HELD_OUT + 4} are needed, better 12 or more"
    known = known or Known.measured(launches, prior(settings.tolerance, stepped=True))
    values = [one.z for one in launches]
    kept, held = values[:-HELD_OUT], values[-HELD_OUT:]
    if exact:
        found = decision.decide_exact(kept, held, slack=0.02, k_min=HELD_OUT)
    else:
        least = needed(launches, known, settings)
        if least > settings.tolerance + 1e-9:
            percent = math.ceil(round(100 * least, 6))
            allow = f", or allow it: --tolerance-up-to {percent}" if percent < 100 else ""
            return (
                f"launches vary by {statistics.stdev(values):.2%} and occasions by {known.drift.sd:.2%}, which needs a"
                f" tolerance of {percent} %, more than is accepted (--tolerance-up-to). Stop what else runs here, use a"
                f" host of your own, make the batches further apart (--batches 5 --pause 1800){allow}"
            )
        asked = Settings(settings.tolerance, k_min=HELD_OUT, k_max=HELD_OUT)
        drift, occasions = known.drift.cautious, known.occasions[:-HELD_OUT]
        found = decision.decide(kept, held, asked, drift=drift, occasions=occasions)
    # Four launches of a class that drifts may be too few to say PASS; another verdict is a host that changed.
    undecided = not exact and known.drift.sd > 0.0 and found.verdict is Verdict.INCONCLUSIVE
    if found.verdict is not Verdict.PASS and not undecided:
        word = found.verdict.label if found.verdict else "nothing"
        return (
            f"the last {HELD_OUT} launches, held out, are judged {word} by the other {len(kept)}: {found.change:+.2%}"
            f" ({found.interval[0]:+.2%} to {found.interval[1]:+.2%}); the host changed between batches"
        )
    return ""


def change(
    old: Sequence[Launch], new: Sequence[Launch], settings: Settings, *, exact: bool, known: Known | None = None
) -> decision.Decision:
    """What the new launches are, judged by the old ones; `known`: how much the old ones' occasions differ."""
    series = [one.z for one in old], [one.z for one in new]
    if exact:
        return decision.decide_exact(*series, slack=0.02, k_min=2)
    asked = Settings(settings.tolerance, k_min=2, k_max=max(2, len(new)))
    if known is None:
        return decision.decide(*series, asked)
    return decision.decide(*series, asked, drift=known.drift.cautious, occasions=known.occasions)


def slower(entry: Entry, new: Sequence[Launch], settings: Settings, *, exact: bool) -> str:
    """How the new launches are slower than the entry they replace, or than its anchor; or nothing."""
    for name, old in (("the baseline", entry.launches), ("the anchor", entry.anchor.launches)):
        if len(old) < 2:
            continue
        known = None if exact else Known.of(entry)
        if known is not None and name == "the anchor":
            known = Known(known.drift, tuple(occasions_of([one.batch for one in old], None)))
        found = change(old, new, settings, exact=exact, known=known)
        if found.verdict is Verdict.REGRESSED:
            when = (entry.provenance if name == "the baseline" else entry.anchor.provenance).date
            low, high = found.interval
            return f"{found.change:+.1%} ({low:+.1%} to {high:+.1%}) against {name} of {when:%Y-%m-%d}"
    return ""


def entry_of(
    subject: Subject,
    launches: Sequence[Launch],
    taken: Sequence[Taken],
    job: LaunchJob,
    *,
    tolerance: float | None,
    identity: Mapping[str, Json],
    provenance: Provenance,
    old: Entry | None,
    drift: KnownDrift | None = None,
    packages: Mapping[str, str] | None = None,
) -> Entry:
    """The entry that these launches make; the anchor of an older one stays."""
    launches = tuple(_short(one) for one in launches)
    timed = rule(subject.metric).stepped
    probes = [one.probes for one in taken]
    names = sorted({name for one in probes for name in one})
    made = Entry(
        subject=subject,
        unit="s" if timed else definition(subject.metric).unit,
        tolerance=tolerance,
        launches=launches,
        hook="requests" if taken[0].hook == "requests" else "steps",
        frozen=job.shape if timed else None,
        frozen_source=frozen_source() if timed else None,
        probes={name: round(statistics.median(one[name] for one in probes if name in one), 4) for name in names},
        admission=admission.ranges(probes),
        identity=dict(identity),
        provenance=provenance,
        anchor=old.anchor if old else Anchor(launches=launches, provenance=provenance),
        digest="0",
        drift=drift,
        packages=None if packages is None else dict(packages),
    )
    return made.sealed()


def _short(launch: Launch) -> Launch:
    """With digits that a person can read: far below what launches vary by."""

    def six(value: float) -> float:
        return float(f"{value:.6g}")

    return launch.model_copy(
        update={
            "z": round(launch.z, 6),
            "raw": round(launch.raw, 6),
            "frozen": None if launch.frozen is None else round(launch.frozen, 6),
            "p50": six(launch.p50),
            "p90": six(launch.p90),
            "p99": six(launch.p99),
            "autocorrelation_steps": None
            if launch.autocorrelation_steps is None
            else round(launch.autocorrelation_steps, 2),
            "cpu_share": None if launch.cpu_share is None else round(launch.cpu_share, 4),
            "same": tuple(round(value, 4) for value in launch.same),
            "slowed": tuple(round(value, 4) for value in launch.slowed),
            "floor": None if launch.floor is None else round(launch.floor, 6),
            "frozen_floor": None if launch.frozen_floor is None else round(launch.frozen_floor, 6),
        }
    )


def provenance_of(*, commit: str, author: str, reason: str) -> Provenance:
    """Who measures now, of which commit and why. Raises BadInput on what a file may not hold."""
    try:
        now = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
        return Provenance(commit=commit, author=author, reason=reason, date=now, genqual=genqual.__version__)
    except ValueError as error:
        raise BadInput(f"--commit {commit}, --author {author}, --reason {reason}: {error}") from None


def merged(old: BaselineFile | None, class_id: str, facts: Mapping[str, Any], entries: Mapping[str, Entry]) -> str:
    """The text of the file with `entries` put into it; entries of other subjects stay."""
    kept = dict(old.entries) if old else {}
    made = BaselineFile.model_validate(
        {
            "$schema": "schema.json",
            "version": baseline_file.VERSION,
            "class_id": class_id,
            "fingerprint": dict(facts),
            "entries": dict(sorted({**kept, **entries}.items())),
        }
    )
    return readable(json.loads(made.model_dump_json(by_alias=True))) + "\n"


def readable(value: Any, indent: str = "", used: int = 0) -> str:
    """JSON for a diff: what fits a line stays on it, so a launch is a line; all else is a line a member."""
    flat = json.dumps(value, ensure_ascii=False)
    if len(indent) + used + len(flat) <= _WIDE or not isinstance(value, dict | list) or _leaf(value):
        return flat
    deeper = indent + "  "
    if isinstance(value, list):
        inside = [deeper + readable(one, deeper) for one in value]
        return "[\n" + ",\n".join(inside) + f"\n{indent}]"
    inside = []
    for name, one in value.items():
        head = f"{deeper}{json.dumps(name, ensure_ascii=False)}: "
        inside.append(head + readable(one, deeper, len(head) - len(deeper)))
    return "{\n" + ",\n".join(inside) + f"\n{indent}}}"


def _leaf(value: Any) -> bool:
    """A launch, or a list of plain numbers: one line however long."""
    if isinstance(value, list):
        return all(not isinstance(one, dict | list) for one in value)
    return isinstance(value, dict) and "autocorrelation_steps" in value


def write(path: Path, text: str) -> None:
    """Replace the file at once, after reading back what was written. Raises BadInput, and leaves the old file."""
    with replacing(path, synced=True) as temporary:
        write_synced(temporary, text.encode())
        baseline_file.read(temporary)
