"""How near transformers is to each oracle, at 64 tokens and at the longest: writes the table of docs/models.md.

    python -m tests.benchmarks.architectures [NAME ...]

Each architecture is the small odd configuration of `tests/conformance/oracle/small.py` with random weights, asked in a
process of transformers: in fp32, and in float64 with the steps that transformers keeps in fp32 made float64, too. Both
lengths are past every window. What was measured is kept in a file of the cache, by architecture, configuration and
release, so that an interrupted run goes on where it was; `--again` forgets it.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from genqual.atomic import write_whole
from genqual.conformance.oracle.registry import oracle_for, source_sha256, supported
from genqual.models.catalogue import cache_dir
from tests.conformance.oracle.small import SMALL, parameters, stacked

ROOT: Final = Path(__file__).resolve().parents[2]
PEER: Final = ROOT / "tests" / "conformance" / "oracle" / "peer.py"
PAGE: Final = ROOT / "docs" / "models.md"
BEGIN, END = "<!-- architectures: begin -->", "<!-- architectures: end -->"
SHORT, LONG = 64, 2048
AT_ONCE: Final = 6  # architectures a process of transformers: its import takes longer than they do
POSITIONS: Final = ("max_position_embeddings", "n_positions", "max_seq_len")


def configuration(name: str) -> dict[str, Any]:
    """The small configuration with `LONG` positions, where it says how many there are."""
    config = dict(SMALL[name])
    return config | {field: LONG for field in POSITIONS if field in config}


def nrms(got: NDArray[Any], want: NDArray[Any]) -> float:
    """RMS of the centred error over the standard deviation of a row of `want`, both (tokens, vocabulary)."""
    error = (got - got.mean(-1, keepdims=True)) - (want - want.mean(-1, keepdims=True))
    return float(np.sqrt((error**2).mean()) / np.sqrt(want.var(axis=-1).mean()))


def measured(names: list[str]) -> dict[str, dict[str, dict[str, float]]]:
    """nrms of "fp32" and "fp64" by architecture and length, in one process of transformers.

    Raises CalledProcessError where it cannot.
    """
    ids = [int(i) for i in np.random.default_rng(5).integers(3, 64, LONG)]
    with tempfile.TemporaryDirectory() as scratch:
        folder, cases = Path(scratch), []
        for name in names:
            config = configuration(name)
            save_file(stacked(parameters(config)), folder / f"{name}.weights")
            cases += [
                {
                    **{"config": config, "weights": str(folder / f"{name}.weights"), "ids": ids[:length]},
                    **{"out": str(folder / f"{name}.{length}"), "attention": "eager", "single": True, "moved": False},
                }
                for length in (SHORT, LONG)
            ]
        (folder / "cases.json").write_text(json.dumps(cases), encoding="utf-8")
        subprocess.run([sys.executable, str(PEER), str(folder / "cases.json")], check=True, capture_output=True)
        return {name: _against(name, folder, ids) for name in names}


def _against(name: str, folder: Path, ids: list[int]) -> dict[str, dict[str, float]]:
    config = configuration(name)
    oracle, found = oracle_for(config, parameters(config)), {}
    for length in (SHORT, LONG):
        right, answer = oracle.logits(ids[:length]), load_file(str(folder / f"{name}.{length}"))
        found[str(length)] = {kind: nrms(answer[kind].astype(np.float64), right) for kind in ("fp32", "fp64")}
    return found


def key(name: str) -> str:
    """Of what a number is: the architecture's source, its configuration, and the releases."""
    versions = [importlib.metadata.version(package) for package in ("transformers", "torch", "numpy")]
    of = [name, source_sha256(name), configuration(name), versions, SHORT, LONG]
    return hashlib.sha256(json.dumps(of, sort_keys=True).encode()).hexdigest()


def table(found: dict[str, dict[str, dict[str, float]]]) -> str:
    """Markdown, an architecture a row."""
    release = importlib.metadata.version("transformers")
    head = [
        f"nrms of transformers {release} against the oracle, eager attention:",
        "",
        f"| architecture | fp32, {SHORT} | float64, {SHORT} | fp32, {LONG} | float64, {LONG} |",
        "|---|---|---|---|---|",
    ]
    rows = [
        f"| {name} | "
        + " | ".join(f"{one[str(length)][kind]:.1e}" for length in (SHORT, LONG) for kind in ("fp32", "fp64"))
        + " |"
        for name, one in sorted(found.items())
    ]
    return "\n".join([*head, *rows])


def main(arguments: list[str] | None = None) -> None:
    """Measure what is not known yet, one architecture after another, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=list(supported()), help="architectures; default: all")
    parser.add_argument("--again", action="store_true", help="measure what is known, too")
    parser.add_argument("--page", type=Path, default=PAGE, help="the page whose table is replaced")
    asked = parser.parse_args(arguments)
    store = cache_dir() / "benchmarks" / "architectures.json"
    known: dict[str, Any] = json.loads(store.read_text()) if store.is_file() else {}
    wanted = [name for name in asked.names if asked.again or key(name) not in known]
    for start in range(0, len(wanted), AT_ONCE):
        some = wanted[start : start + AT_ONCE]
        try:
            known |= {key(name): one for name, one in measured(some).items()}
        except subprocess.CalledProcessError as error:
            print(f"{', '.join(some)}: {error.stderr.decode().strip().splitlines()[-1]}", file=sys.stderr)
            continue
        store.parent.mkdir(parents=True, exist_ok=True)
        write_whole(store, json.dumps(known).encode())
        print(", ".join(some), flush=True)
    found = {name: known[key(name)] for name in supported() if name in SMALL and key(name) in known}
    text = asked.page.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    write_whole(asked.page, f"{before}{BEGIN}\n{table(found)}\n{END}{rest.split(END)[1]}".encode())


if __name__ == "__main__":
    main()
