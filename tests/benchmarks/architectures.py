"""How near transformers is to each oracle, at 64 tokens and at the longest: writes the table of docs/models.md.

    python -m tests.benchmarks.architectures [NAME ...]

Each architecture is the small odd configuration of `tests/conformance/oracle/small.py` with random weights, asked in a
process of transformers: in fp32, and in float64 with the steps that transformers keeps in fp32 made float64, too. Both
lengths are past every window. What was measured is kept in the cache, a file a release of transformers, by architecture
and configuration, so that an interrupted run goes on where it was; `--again` forgets it. The table has the columns of
each release that the cache has, so run this once in an environment of each.
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
from packaging.version import Version
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
    """nrms of "fp32" and "fp64" by architecture and length, in one process of transformers; of those that it has.

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
        return {name: _against(name, folder, ids) for name in names if (folder / f"{name}.{LONG}").is_file()}


def _against(name: str, folder: Path, ids: list[int]) -> dict[str, dict[str, float]]:
    config = configuration(name)
    oracle, found = oracle_for(config, parameters(config)), {}
    for length in (SHORT, LONG):
        right, answer = oracle.logits(ids[:length]), load_file(str(folder / f"{name}.{length}"))
        found[str(length)] = {kind: nrms(answer[kind].astype(np.float64), right) for kind in ("fp32", "fp64")}
    return found


def key(name: str, release: str) -> str:
    """Of what a number of transformers `release` is: the architecture's source, its configuration, and the releases."""
    versions = [release, *(importlib.metadata.version(package) for package in ("torch", "numpy"))]
    of = [name, source_sha256(name), configuration(name), versions, SHORT, LONG]
    return hashlib.sha256(json.dumps(of, sort_keys=True).encode()).hexdigest()


def table(found: dict[str, dict[str, dict[str, dict[str, float]]]]) -> str:
    """Markdown, an architecture a row, of what was found by release and architecture; the newest release first."""
    releases = sorted(found, key=Version, reverse=True)
    columns = [f"fp32, {SHORT}", f"float64, {SHORT}", f"fp32, {LONG}", f"float64, {LONG}"]
    heads = columns if len(releases) == 1 else [f"{release}: {column}" for release in releases for column in columns]
    head = [
        f"nrms of transformers {' and '.join(releases)} against the oracle, eager attention:",
        "",
        f"| architecture | {' | '.join(heads)} |",
        "|---" * (1 + len(heads)) + "|",
    ]
    rows = []
    for name in sorted({name for one in found.values() for name in one}):
        cells = [cell for release in releases for cell in _cells(found[release].get(name))]
        rows.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join([*head, *rows])


def _cells(found: dict[str, dict[str, float]] | None) -> list[str]:
    lengths, kinds = (str(SHORT), str(LONG)), ("fp32", "fp64")
    return [f"{found[length][kind]:.1e}" if found else "" for length in lengths for kind in kinds]


def stored(folder: Path) -> dict[str, dict[str, dict[str, dict[str, float]]]]:
    """What the cache's `folder` has of today's oracles, by release and architecture."""
    releases = {path.stem.removeprefix("architectures-"): path for path in folder.glob("architectures-*.json")}
    known = {release: json.loads(path.read_text(encoding="utf-8")) for release, path in releases.items()}
    found = {
        release: {name: one[key(name, release)] for name in supported() if name in SMALL and key(name, release) in one}
        for release, one in known.items()
    }
    return {release: one for release, one in found.items() if one}


def main(arguments: list[str] | None = None) -> None:
    """Measure what is not known yet, one architecture after another, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=list(supported()), help="architectures; default: all")
    parser.add_argument("--again", action="store_true", help="measure what is known, too")
    parser.add_argument("--page", type=Path, default=PAGE, help="the page whose table is replaced")
    asked = parser.parse_args(arguments)
    release = importlib.metadata.version("transformers")
    store = cache_dir() / "benchmarks" / f"architectures-{release}.json"
    known: dict[str, Any] = json.loads(store.read_text(encoding="utf-8")) if store.is_file() else {}
    wanted = [name for name in asked.names if asked.again or key(name, release) not in known]
    for start in range(0, len(wanted), AT_ONCE):
        some = wanted[start : start + AT_ONCE]
        try:
            found = measured(some)
        except subprocess.CalledProcessError as error:
            print(f"{', '.join(some)}: {error.stderr.decode().strip().splitlines()[-1]}", file=sys.stderr)
            continue
        known |= {key(name, release): one for name, one in found.items()}
        store.parent.mkdir(parents=True, exist_ok=True)
        write_whole(store, json.dumps(known).encode())
        print(", ".join(found), flush=True)
        if absent := sorted({*some} - {*found}):
            print(f"transformers {release} has no {', '.join(absent)}", file=sys.stderr)
    text = asked.page.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    write_whole(asked.page, f"{before}{BEGIN}\n{table(stored(store.parent))}\n{END}{rest.split(END)[1]}".encode())


if __name__ == "__main__":
    main()
