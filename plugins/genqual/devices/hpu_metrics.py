"""What PT_HPU_METRICS_FILE holds: compilations, fallbacks, defragmentations of a process that is not ours. No torch.

A server (vLLM with its Gaudi plugin) counts in its own process; the file is how its window is judged all the same.
Source: the tests of Habana's bridge (gaudi-pytorch-bridge, TestMetricsDump), and docs.habana.ai, "Dynamic Shapes".
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from genqual.errors import BadInput

WATCHED: Final = ("graph_compilation", "cpu_fallback", "memory_defragmentation")
TRIGGERS: Final = "PT_HPU_METRICS_DUMP_TRIGGERS=process_exit,metric_change"


@dataclass(frozen=True, slots=True)
class Dump:
    """One entry: how often `metric` had happened in the process by `at`."""

    metric: str
    at: datetime
    total: int
    trigger: str


def read(file: Path) -> list[Dump]:
    """The watched entries of one rank's file, in order. Raises BadInput where it is no such file."""
    try:
        entries = json.loads(file.read_text(encoding="utf-8"))
        found = [_dump(entry) for entry in entries if entry["metric_name"] in WATCHED]
    except OSError as error:
        raise BadInput(
            f"{file}: {error.strerror}; several ranks write one each, with -rankN before the ending"
        ) from None
    except (ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{file}: not a JSON dump of Habana's metrics ({type(error).__name__}: {error})") from None
    if not found:
        raise BadInput(f"{file}: holds none of {', '.join(WATCHED)}; the process never acquired a card?")
    return found


def counted(dumps: list[Dump], after: datetime | None = None) -> dict[str, int]:
    """How often each thing happened, in all or later than `after`.

    Raises BadInput where a moment is asked for and only the end of the process was written down.
    """
    if after is not None and not any(one.trigger == "metric_change" for one in dumps):
        raise BadInput(f"nothing says when it happened: start the process with {TRIGGERS}")
    found = {}
    for name in dict.fromkeys(one.metric for one in dumps):
        totals = [one.total for one in dumps if one.metric == name]
        before = [one.total for one in dumps if one.metric == name and after is not None and one.at <= after]
        found[name] = max(totals) - max(before, default=0)
    return found


def _dump(entry: Any) -> Dump:
    at = datetime.fromisoformat(entry["generated_on"]).astimezone()  # written without a zone, in the host's time
    return Dump(entry["metric_name"], at, int(entry["statistics"]["TotalNumber"]), entry["triggered_by"])
