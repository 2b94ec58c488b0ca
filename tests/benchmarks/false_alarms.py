"""Fault-free runs of every architecture that the oracle knows: how many judgements, and how many false alarms.

    python -m tests.benchmarks.false_alarms --store FILE [--minutes 60] [--only llama mamba2] [--show]

Each checkpoint of `tests/listed.py` gets a reference by its oracle, with tolerances of bf16 and int8-weight. Then the
whole conformance suite judges it on each engine, in each dtype. Nothing is wrong, so what fails is a false alarm, or
upstream's own error. A cell (checkpoint, engine, ranks, dtype) is a line of FILE, written when it is judged. The same
command goes on with what is missing, the widest first: eager on all checkpoints before the second engine. Checkpoints
and references are kept beside FILE. A PASS or a FAIL by the oracle is a judgement; what upstream cannot run is listed
and not counted. Exit 1 where something failed. `--page` writes the table into a page.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import re
import subprocess
import sys
import textwrap
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final

import genqual
from genqual import digest
from genqual.atomic import write_whole
from genqual.devices.registry import processor
from tests.benchmarks.architectures import PAGE
from tests.listed import LISTED, SHALLOW
from tests.plugin.suite import ROOT, suite
from tests.plugin.test_unlisted import worded

BEGIN, END = "<!-- false alarms: begin -->", "<!-- false alarms: end -->"
JUDGES: Final = (Path(genqual.__file__).parent / "conformance", ROOT / "suites" / "conformance")
NO_JUDGE: Final = {"cost.py"}  # of them: it estimates minutes and memory, and no verdict depends on it
DTYPES: Final = ("fp32", "bf16", "int8-weight")
STEPS: Final = "12"
ENGINES: Final[tuple[tuple[str, int, tuple[str, ...]], ...]] = (
    ("transformers:attn_implementation=eager", 1, DTYPES),
    ("transformers:graphs=static", 1, DTYPES),
    ("accelerate:placement=disk-offload", 1, ("fp32", "bf16")),
    ("transformers-tp", 2, ("fp32", "bf16")),
    ("deepspeed-inference", 2, ("fp32", "bf16")),
    ("transformers", 1, DTYPES),
    ("transformers-compiled:dynamic=true", 1, DTYPES),
)
"""Engine, ranks, dtypes; the compiled one judges one checkpoint of an architecture, of two layers."""

ALARMS: Final = ("fail", "error", "timeout", "oom")
"""Verdicts that no right run may have."""

STRICTER: Final = {
    "2c5ccea40ecca26b4cbdfc16e8c4c2ec2c862e4a88a3c01b277e2324100d5d30": (
        "two runs in fp32 were allowed 1e-5 and not sqrt 2 times that; offloaded weights the same bits, however aligned"
    ),
    "7fce44ac312c88ef8ca9d5b4d9cabd7982891edd4f20fd94d9c936d1dcbf473b": (
        "as today; beside weights at odd addresses the bits of offloaded ones were not even looked at"
    ),
    "57cbaeae6f4a88647e185e225ecdd479f7b859cba4a14dba2357fb36760f0c5d": (
        "two runs of a drawn text in a mixture of experts were not excused where a router is near a tie"
    ),
    "98eecaf3c285f0ecb2fb762aaa7bdcf1ac7512348f4c3e9df36a93e8a6f75615": (
        "nor were shares of the vocabulary, texts that part, and cells of a few rows that are off by less than 3 sigma"
    ),
    "61cbfbbb98e4c86356cd5be3699a41698df49d1323badb662ac8537a426ff9ff": (
        "as today; shares of which more than half were left out were not applicable, and no cell of theirs was"
    ),
    "e9109838f705ede95e4a509ca5db41661409346471e73b8922b026dc6394043c": (
        "the same, with an emulation of activations that a stored checkpoint quantises, which no cell has"
    ),
    "e0360e2daa29162cc9a09421a15b97fe834ffbc778ed3729c464636b9612416a": "as today, refusals in other words",
    "1b8207cdd7f1869479c1a5ee0f53357acf67447a7d4006e8a8d466c508a9d5ed": (
        "as today; references of impossible values and of logits that do not vary were refused in other words"
    ),
    "3b435cd5c5978224c2a718ce5f2bfd0690d893daa01dedfca7d5453461c74842": (
        "as today; a reference that transformers made was compared by fewer fields of its configuration"
    ),
}  # fmt: skip
"""Earlier judges, and what they asked beyond today's: what passed all of them need not run again.

Since then the same is asked of other rows: of four where it was two or three, and of half of the steps with 1 or 64
columns of padding.
"""

LENIENT: Final = frozenset({
    "61cbfbbb98e4c86356cd5be3699a41698df49d1323badb662ac8537a426ff9ff",
    "e9109838f705ede95e4a509ca5db41661409346471e73b8922b026dc6394043c",
})  # fmt: skip
"""Of them, those that left out more of a mixture of experts than today: of a few cells all that exceed the limit."""

_INDUCTOR: Final = (
    "the compiler of torch 2.13 ends with an AssertionError of its own (inductor, Pointwise) on these int8 weights",
    None,
    ("int8-weight",),
)
UPSTREAM: Final[dict[tuple[str, str], tuple[str, frozenset[str] | None, tuple[str, ...]]]] = {
    ("qwen2_moe-2-layers", "transformers-compiled:dynamic=true"): _INDUCTOR,
    ("qwen3_next-2-layers", "transformers-compiled:dynamic=true"): _INDUCTOR,
    ("falcon-alibi", "transformers:attn_implementation=eager"): (
        "transformers 5.23 adds Falcon's ALiBi twice there",
        frozenset({"drift_is_that_of_the_dtype", "free_run_follows_the_oracle", "logits_match_the_oracle",
                   "positions_near_the_limit"}),
        DTYPES,
    ),
    ("falcon-alibi", "transformers:graphs=static"): (
        "transformers 5.23 makes its ALiBi of a mask of two dimensions, and of a static cache there is one of four: "
        "every pass ends with an exception",
        None,
        DTYPES,
    ),
    ("*", "deepspeed-inference"): (
        "DeepSpeed 0.19 casts the rotary frequencies to bf16, so that far positions are coarse (docs/judge.md)",
        frozenset({"positions_near_the_limit"}),
        ("bf16",),
    ),
    ("deepseek_v3", "deepspeed-inference"): (
        "DeepSpeed 0.19 casts the model whole to bf16: rotary frequencies, and the bias of routers that transformers "
        "keeps in float32 whatever is declared",
        frozenset({"positions_near_the_limit", "what_was_asked_for_really_ran"}),
        ("bf16",),
    ),
}  # fmt: skip
"""What fails rightly, by checkpoint (*: any other) and engine: why, which properties (None: whatever ends with an
exception), in which dtypes; listed, and not counted. Anything else that fails there is an alarm."""

Cell = tuple[str, str, int, str]


def cells(names: Sequence[str], engines: Sequence[str]) -> Iterator[tuple[str, str, int, tuple[str, ...]]]:
    """(checkpoint, engine, ranks, dtypes) in the order in which they are judged."""
    for engine, ranks, dtypes in ENGINES:
        if engine not in engines:
            continue
        for name in names:
            if not engine.startswith("transformers-compiled"):
                yield name, engine, ranks, dtypes
            elif name == LISTED[name][0]:
                yield f"{name}-2-layers", engine, ranks, dtypes


@cache
def versions() -> dict[str, str]:
    """Of what is judged, and by what: a cell of others is judged again."""
    found = {name: importlib.metadata.version(name) for name in ("torch", "transformers")}
    sources = [file for folder in JUDGES for file in sorted(folder.rglob("*.py")) if file.name not in NO_JUDGE]
    return found | {"judges": digest.of_parts(file.read_bytes() for file in sources)}


def known(store: Path) -> dict[Cell, dict[str, Any]]:
    """The newest line of each cell; a line that was cut off is left out."""
    found: dict[Cell, dict[str, Any]] = {}
    for line in store.read_text(encoding="utf-8").splitlines() if store.is_file() else []:
        try:
            one = json.loads(line)
        except ValueError:
            continue
        found[one["name"], one["engine"], one["ranks"], one["dtype"]] = one
    return found


def prepared(room: Path, name: str) -> tuple[Path, str]:
    """The checkpoint with its reference, and why a tolerance is missing; both made once.

    Raises CalledProcessError where upstream cannot make it, or the oracle does not judge it.
    """
    directory, said = room / "models" / name, room / "models" / f"{name}.said"
    if not said.is_file():
        subprocess.run([sys.executable, "-m", "tests.listed", str(room / "models"), name], check=True, text=True,
                       capture_output=True)  # fmt: skip
        worded(directory)
        refused = ""
        words = [sys.executable, "-m", "genqual.cli", "reference", str(directory), "--steps", STEPS]
        for scheme, how in (("", []), ("bf16", ["--add"]), ("int8-weight", ["--add"])):
            done = subprocess.run([*words, "--schemes", scheme, *how], capture_output=True, text=True, check=not scheme)
            if done.returncode:
                refused += f"{scheme}: {done.stderr.strip().splitlines()[-1][:300]}\n"
        write_whole(said, refused.encode())
    return directory, said.read_text(encoding="utf-8")


def judged(room: Path, directory: Path, engine: str, ranks: int, dtypes: Sequence[str]) -> dict[str, dict[str, Any]]:
    """What the suite says, by dtype."""
    state = room / "runs" / f"{time.time_ns()}"
    case = ("-m", f"{processor().name} and conformance", f"--model={directory}", "--engine", engine, "--ranks",
            str(ranks), "--dtype", ",".join(dtypes), "--no-upload", "--no-shrink", "-rs")  # fmt: skip
    began = time.monotonic()
    done = suite(state, *case, timeout=3600)
    nothing = re.search(r"nothing can run as the options ask: ([^\n]*)", done.stdout + done.stderr)
    if done.returncode == 4 and nothing:
        empty: dict[str, Any] = {"verdicts": {}, "failed": {}, "independent": False}
        return {dtype: empty | {"not_run": nothing.group(1)[:300]} for dtype in dtypes}
    if done.returncode not in (0, 1, 5):  # killed, interrupted or broken: what it left is no cell
        sys.exit(f"{directory.name}, {engine}: pytest ended with {done.returncode}: {done.stdout[-500:]}")
    seconds = round(time.monotonic() - began, 1)
    records = [json.loads(path.read_text(encoding="utf-8")) for path in (state / "spool").glob("*.json")]
    found = {}
    for dtype in dtypes:
        said = [one["judgement"] for one in records if "judgement" in one and precision(one) == dtype]
        found[dtype] = {
            "verdicts": dict(Counter(one["verdict"] for one in said)),
            "failed": {one["property"]: _first(one) for one in said if one["verdict"] in ALARMS},
            "independent": all(one.get("independent", True) for one in said),
            "seconds": seconds,
        }
        if not said:
            reasons = re.findall(r"unsupported[^\n]*", done.stdout, flags=re.IGNORECASE)
            found[dtype]["not_run"] = (reasons or [*done.stdout.strip().splitlines(), "nothing"])[-1][:300]
    return found


def _first(judgement: dict[str, Any]) -> str:
    """What it says, without a traceback and where its logs are: these are paths of this machine."""
    return re.split(r"\nTraceback| Logs: ", str(judgement.get("explanation")))[0].strip()[:400]


def precision(record: dict[str, Any]) -> str:
    """As `--dtype` names it."""
    declared = record["precision"]
    return str(declared.get("scheme") or declared["dtype"])


def table(found: dict[Cell, dict[str, Any]]) -> str:
    """Markdown: an engine and a dtype a row, then what failed and what could not run."""
    out = [
        "| engine | ranks | dtype | checkpoints | judgements | false alarms | not run |",
        "|---|---|---|---|---|---|---|",
    ]
    whole = bad = 0
    for engine, ranks, dtypes in ENGINES:
        for dtype in dtypes:
            rows = [one for cell, one in found.items() if cell[1:] == (engine, ranks, dtype)]
            ran = [one for one in rows if "not_run" not in one and one["independent"] and not _upstreams(one)]
            passed = sum(one["verdicts"].get("pass", 0) for one in ran)
            failed = sum(one["verdicts"].get(kind, 0) for one in ran for kind in ALARMS)
            whole, bad = whole + passed + failed, bad + failed
            if rows:
                out.append(f"| `{engine}` | {ranks} | {dtype} | {len(ran)} | {passed + failed} | {failed} | "
                           f"{len(rows) - len(ran)} |")  # fmt: skip
    bound = 3.0 / whole if whole and not bad else None
    names = len({cell[0] for cell in found})
    said = f"{whole} judgements of {names} checkpoints, {bad} false alarms"
    out += ["", said + (f": at most {bound:.2%} at 95 %." if bound else "."), ""]
    for cell, one in sorted(found.items()):
        failed = ", ".join(f"`{what}`" for what in sorted(one["failed"]))
        where = " ".join(map(str, cell))
        if failed and _upstreams(one):
            why, properties, _ = _excuse(*cell[:2])
            out.append(f"- not counted, `{where}`: {why}" + (f"; {failed} fail" if properties else ""))
        else:
            out += [f"- FAIL `{where}`: {failed}"] if failed else []
    left: dict[str, set[str]] = {}
    for (name, engine, _, dtype), one in found.items():
        if "not_run" in one:
            left.setdefault(_reason(one["not_run"]), set()).add(f"{name} {dtype} on `{engine}`")
    out += [f"- not run: {', '.join(sorted(cells))}: {why}" for why, cells in sorted(left.items())]
    return "\n".join(line if line.startswith("|") else textwrap.fill(line, 120, break_long_words=False) for line in out)


def _upstreams(line: dict[str, Any]) -> bool:
    """Whether what fails of a cell is upstream's own error."""
    _, known_to_fail, dtypes = _excuse(line["name"], line["engine"])
    if line["dtype"] not in dtypes:
        return False
    if known_to_fail is None:
        return bool(line["failed"]) and sum(line["verdicts"].get(kind, 0) for kind in ALARMS if kind != "error") == 0
    return bool(line["failed"]) and line["failed"].keys() <= known_to_fail


def _excuse(name: str, engine: str) -> tuple[str, frozenset[str] | None, tuple[str, ...]]:
    """What is known of upstream there; of any checkpoint where nothing is known of this one."""
    return UPSTREAM.get((name, engine)) or UPSTREAM.get(("*", engine), ("", frozenset(), ()))


def still_holds(line: dict[str, Any]) -> bool:
    """Whether a cell need not be judged again: by what is installed now, or wholly right by judges who asked more."""
    found = line.get("versions", {})
    if found == versions():
        return True
    judges, routed = found.get("judges"), any("expert" in field for field in (LISTED | SHALLOW)[line["name"]][1])
    if line["failed"] or judges not in STRICTER or (routed and judges in LENIENT):
        return False
    return bool(found | {"judges": ""} == versions() | {"judges": ""})


def _reason(text: str) -> str:
    """The cause alone, in a line: without the dtype, and the names of the checkpoint and of its layers."""
    words = re.sub(r"\s+", " ", text).strip()
    words = re.sub(r"^([\w-]+: )?genqual: (model \S+: )?", "", words)
    return re.split(r", and the layers of |; take | \(`", words)[0][:200]


def main(arguments: list[str] | None = None) -> int:
    """Judge what is missing, then show all."""
    parser = argparse.ArgumentParser("python -m tests.benchmarks.false_alarms", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no cell after that")
    parser.add_argument("--only", nargs="+", choices=LISTED, default=list(LISTED), metavar="NAME")
    parser.add_argument("--engines", nargs="+", default=[engine for engine, _, _ in ENGINES])
    parser.add_argument("--show", action="store_true", help="judge nothing")
    parser.add_argument("--page", type=Path, help=f"write the table there, as {PAGE.name} has it")
    asked = parser.parse_args(arguments)
    store, end = asked.store, time.monotonic() + 60.0 * asked.minutes
    if not asked.show:
        room = store.parent / f"{store.stem}.files"
        os.environ["GENQUAL_CACHE"] = str(room / "cache")
        (room / "models").mkdir(parents=True, exist_ok=True)
        for name, engine, ranks, dtypes in cells(asked.only, asked.engines):
            have = known(store)
            lines = {d: have.get((name, engine, ranks, d)) for d in dtypes}
            missing = [d for d, line in lines.items() if line is None or not still_holds(line)]
            if missing and time.monotonic() < end:
                put_down(store, room, name, engine, ranks, missing)
    found = known(store)
    text = table(found)
    print(text)
    if asked.page:
        before, rest = asked.page.read_text(encoding="utf-8").split(BEGIN)
        write_whole(asked.page, f"{before}{BEGIN}\n{text}\n{END}{rest.split(END)[1]}".encode())
    return int(any(one["failed"] and not _upstreams(one) for one in found.values()))


def put_down(store: Path, room: Path, name: str, engine: str, ranks: int, dtypes: Sequence[str]) -> None:
    """Judge some cells, and write their lines."""
    try:
        directory, refused = prepared(room, name)
    except subprocess.CalledProcessError as error:
        reason = (error.stderr or "").strip().splitlines()[-1:]
        said = {d: {"verdicts": {}, "failed": {}, "independent": False, "not_run": str(reason)[:300]} for d in dtypes}
    else:
        able = [dtype for dtype in dtypes if f"{dtype}: " not in refused]
        said = judged(room, directory, engine, ranks, able) if able else {}
        for dtype in set(dtypes) - set(able):
            why = next(line for line in refused.splitlines() if line.startswith(f"{dtype}: "))
            said[dtype] = {"verdicts": {}, "failed": {}, "independent": False, "not_run": why}
    torn = store.is_file() and not store.read_bytes().endswith(b"\n")
    with store.open("a", encoding="utf-8") as stream:
        stream.write("\n" if torn else "")
        for dtype in dtypes:
            line = {"name": name, "engine": engine, "ranks": ranks, "dtype": dtype, **said[dtype]}
            stream.write(json.dumps(line | {"versions": versions()}, sort_keys=True) + "\n")
    print(name, engine, ranks, {d: said[d]["verdicts"] or said[d].get("not_run") for d in dtypes}, flush=True)


if __name__ == "__main__":
    sys.exit(main())
