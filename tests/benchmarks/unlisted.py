"""Architectures that the oracle does not know, judged as a user has them judged: writes the table of docs/models.md.

    python -m tests.benchmarks.unlisted [NAME ...]

Each is a tiny random checkpoint of `tests/unlisted.py`. Its reference is made by the command that `genqual models
explain` advises, with a tolerance of bf16; then the whole conformance suite runs on transformers, one rank, in fp32 and
bf16. Where the reference is refused it is made without tolerances, so that fp32 is judged. Of some, one matrix is
scaled by 1.01 and judged by the reference of the right one. What was found is kept in the cache, a file an
architecture, for one release of transformers; `--again` forgets it.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from genqual.atomic import write_whole
from genqual.conformance.references import file
from genqual.models import weights
from genqual.models.catalogue import cache_dir
from genqual.models.registry import resolve
from tests.benchmarks.architectures import PAGE
from tests.plugin.suite import suite
from tests.plugin.test_unlisted import FAULTY, case, scaled, worded
from tests.unlisted import RIGHT, WRONG
from tests.unlisted import __file__ as writer

BEGIN, END = "<!-- unlisted: begin -->", "<!-- unlisted: end -->"
STEPS: Final = "12"
GENQUAL: Final = (sys.executable, "-m", "genqual.cli")


def judged(name: str) -> dict[str, Any]:
    """What was said of one architecture: "advised", "refused", and verdicts and the highest ratio of each dtype.

    Raises CalledProcessError where its checkpoint or its reference cannot be made.
    """
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        os.environ["GENQUAL_CACHE"] = str(folder / "cache")
        subprocess.run([sys.executable, writer, scratch, name], check=True, capture_output=True)
        directory = folder / name
        worded(directory)
        told = subprocess.run(
            [*GENQUAL, "models", "explain", str(directory), "--json"], check=True, capture_output=True, text=True
        )
        advised = json.loads(told.stdout)["next"].split()[1:]
        found: dict[str, Any] = {"advised": " ".join(advised).replace(str(directory), "MODEL"), "refused": ""}
        tolerant = subprocess.run([*GENQUAL, *advised, "--schemes", "bf16", "--steps", STEPS], capture_output=True)
        if tolerant.returncode:
            found["refused"] = tolerant.stderr.decode().strip().splitlines()[-1]
            subprocess.run([*GENQUAL, *advised, "--schemes", "", "--steps", STEPS], check=True, capture_output=True)
        dtypes = "fp32" if tolerant.returncode else "fp32,bf16"
        suite(folder / "state", *case(directory, dtypes), timeout=1800)
        found |= {dtype: verdicts(folder / "state", dtype) for dtype in dtypes.split(",")}
        if name in FAULTY:
            found["fault"] = faulty(folder, directory)
        return found


def faulty(folder: Path, directory: Path) -> dict[str, Any]:
    """Verdicts of the scaled weights by the reference of the right ones, by dtype."""
    wrong = scaled(directory, folder / f"{directory.name}-scaled")
    right = file.read(folder / "cache" / "references" / directory.name)
    sha256 = weights.sha256(resolve(str(wrong)))
    file.write(replace(right, model=wrong.name, weights_sha256=sha256, sha256=""), folder / "claimed" / wrong.name)
    found = {}
    for dtype in ("fp32", "bf16"):
        suite(folder / dtype, *case(wrong, dtype), f"--references={folder / 'claimed'}", "-k", "logits_match")
        found[dtype] = verdicts(folder / dtype, dtype)
    return found


def verdicts(state: Path, dtype: str) -> dict[str, Any]:
    """How many judgements of `dtype` there are of each verdict, what failed, and the highest ratio of those passed."""
    records = [json.loads(path.read_text(encoding="utf-8")) for path in (state / "spool").glob("*.json")]
    said = [one["judgement"] for one in records if "judgement" in one and one["precision"]["dtype"] == dtype]
    ratios = [one["ratio"] for one in said if one.get("ratio") is not None]
    return {
        "verdicts": dict(Counter(one["verdict"] for one in said)),
        "failed": sorted(one["property"] for one in said if one["verdict"] == "fail"),
        "ratio": max(ratios, default=None),
    }


def cell(found: dict[str, Any] | None) -> str:
    """`34 PASS, 0.31 of limit`."""
    if found is None:
        return "no tolerance"
    counts = found["verdicts"]
    text = ", ".join(f"{counts[kind]} {kind.upper().replace('_', ' ')}" for kind in sorted(counts, reverse=True))
    return f"{text}; {found['ratio']:.2g}" if found["ratio"] is not None else text


def table(known: dict[str, dict[str, Any]]) -> str:
    """Markdown, an architecture a row."""
    release = importlib.metadata.version("transformers")
    out = [
        f"Verdicts of transformers {release} by a reference of its own, one rank; behind them the largest reading, in",
        "units of the fp32 limit or of the bf16 envelope:",
        "",
        "| architecture | fp32 | bf16 | one matrix x 1.01: fp32, bf16 |",
        "|---|---|---|---|",
    ]
    for name, one in sorted(known.items()):
        fault = " / ".join(cell(one["fault"][dtype]) for dtype in ("fp32", "bf16")) if "fault" in one else ""
        out.append(f"| {name} | {cell(one['fp32'])} | {cell(one.get('bf16'))} | {fault} |")
    return "\n".join(out)


def main(arguments: list[str] | None = None) -> None:
    """Judge what is not known yet, one architecture after another, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=[*RIGHT, *WRONG], help="architectures; default: all")
    parser.add_argument("--again", action="store_true", help="judge what is known, too")
    parser.add_argument("--page", type=Path, default=PAGE, help="the page whose table is replaced")
    asked = parser.parse_args(arguments)
    store = cache_dir() / "benchmarks" / f"unlisted-{importlib.metadata.version('transformers')}"
    store.mkdir(parents=True, exist_ok=True)
    for name in asked.names:
        if asked.again or not (store / f"{name}.json").is_file():
            try:
                found = judged(name)
            except subprocess.CalledProcessError as error:
                print(f"{name}: {error.stderr.decode().strip().splitlines()[-1]}", file=sys.stderr)
                continue
            write_whole(store / f"{name}.json", json.dumps(found, indent=1).encode())
        print(name, (store / f"{name}.json").read_text(encoding="utf-8"), flush=True)
    known = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in store.glob("*.json")}
    text = asked.page.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    write_whole(asked.page, f"{before}{BEGIN}\n{table(known)}\n{END}{rest.split(END)[1]}".encode())


if __name__ == "__main__":
    main()
