"""Options that choose cases and their workloads, each declared once. No device or network is touched."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Final

from genqual.cases import PRECISIONS
from genqual.health.levels import SECONDS
from genqual.paths import data_dir
from genqual.session.option_types import count, counts, dtypes, names

_PROFILES: Final = sorted(path.stem for path in (data_dir("suites") / "profiles").glob("*.toml"))


def option(group: str, flag: str, help: str, default: Any = None, **more: Any) -> Any:
    """A field of `Options` with what argparse needs to know of it; True or False as `default` makes it a switch."""
    how = {"help": help, **more} | ({"action": "store_true"} if isinstance(default, bool) else {"default": default})
    return dataclasses.field(default=default, metadata={"group": group, "flag": flag, "how": how})


@dataclass(frozen=True, slots=True)
class CaseOptions:
    """What chooses cases and their workloads. Empty tuples and None mean: as the profile says."""

    benchmark: bool = option("what", "--benchmark", "run the performance suites too", False)
    profile: str = option(
        "what",
        "--profile",
        f"a profile that genqual ships ({', '.join(_PROFILES)}) or a TOML file; default: %(default)s",
        "embedded",
        metavar="NAME|FILE",
    )
    miniature: bool = option(
        "what",
        "--miniature",
        "run a profile of large models on embedded ones: same engines, precisions, batches and lengths",
        False,
    )
    engines: tuple[str, ...] = option(
        "what",
        "--engine",
        "engines, each with its own options if wanted: transformers,accelerate:placement=disk (join several options"
        " with +); `genqual engines` lists them",
        (),
        type=names,
        metavar="NAMES",
    )
    models: tuple[str, ...] = option(
        "what",
        "--model",
        "embedded or fetched models (see `genqual models list`), directories, .gguf files or hub ids",
        (),
        type=names,
        metavar="NAMES",
    )
    dtypes: tuple[str, ...] = option(
        "what", "--dtype", f"any of {', '.join(PRECISIONS)}", (), type=dtypes, metavar="NAMES"
    )
    ranks: tuple[int, ...] = option(
        "what", "--ranks", "ranks of each group: 1,2,8", (), type=counts("rank count", "1,2,8"), metavar="COUNTS"
    )
    cores_per_rank: int | None = option(
        "what",
        "--cores-per-rank",
        "cores that each rank is pinned to, and its threads; default: the profile's, else 1",
        type=count("core count"),
        metavar="N",
    )
    allow_absent: bool = option(
        "what",
        "--allow-absent",
        "a device named in -m may be absent; without this, a run that judged nothing on it fails",
        False,
    )
    simulate: bool = option(
        "what",
        "--simulate",
        "with -m hpu: simulated Gaudis, CPU arithmetic under a stand-in for Habana's packages, in a checkout only;"
        " records say `simulated` and are never compared; GENQUAL_SIMULATED_CARDS=N for fewer than 8",
        False,
    )
    level: str | None = option(
        "what",
        "--level",
        "run the checks of the node (suites/qualification) for 60 s, 2 min or 15 min in all; without it they run where"
        " -m names `qualification`, at level 1",
        choices=tuple(SECONDS),
    )
    resume: bool = option(
        "what",
        "--resume",
        "with the checks of the node: go on with an interrupted run of the same --state-dir and level; checks that had"
        " ended count, one that was cut off runs again",
        False,
    )
    batch_sizes: tuple[int, ...] = option(
        "workload",
        "--batch-sizes",
        "rows generated at once: 1,4,16",
        (),
        type=counts("batch size", "1,4,16"),
        metavar="SIZES",
    )
    input_lengths: tuple[int, ...] = option(
        "workload",
        "--input-lengths",
        "input tokens of each row: 32,128",
        (),
        type=counts("input length", "32,128"),
        metavar="LENGTHS",
    )
    new_tokens: int | None = option(
        "workload",
        "--new-tokens",
        "tokens generated for each row, also with --prompts",
        type=count("count of new tokens"),
        metavar="N",
    )
    instances: int = option(
        "workload",
        "--instances",
        "with --benchmark: also run each case in N independent instances at once, each on its own cores; reports TPOT"
        " of the slowest and tokens/s of all; default: %(default)s, no such test",
        1,
        type=count("count of instances"),
        metavar="N",
    )
    prompts: str | None = option(
        "workload",
        "--prompts",
        "dataset mode: a file (.jsonl, .json, .txt, .csv, .tsv or .parquet, also packed by gzip), with an optional"
        " :column or path (:messages, :conversations.0.value), or a `datasets` name; generates from every prompt in"
        " order and keeps the pairs (an interrupted run resumes)",
        metavar="SOURCE",
    )

    @property
    def own_workloads(self) -> bool:
        """Whether an option replaces batch sizes or lengths of the profile."""
        return bool(self.batch_sizes or self.input_lengths or self.new_tokens)
