"""Which architectures there are: this package's files and other packages' entry points, and the source of each."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from genqual.conformance.oracle import registry
from genqual.errors import BadInput
from tests.conformance.pretend import TableOracle, table

from .small import IDS, SMALL, parameters

MINE = """
from dataclasses import replace
from genqual.conformance.oracle.llama import ARCHITECTURE as LLAMA
ARCHITECTURE = replace(LLAMA, model_type="{name}", source="a newcomer's")
"""


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """What is known is read once a process."""
    yield
    registry._known.cache_clear()
    registry.source_sha256.cache_clear()


def installed(monkeypatch: pytest.MonkeyPatch, folder: Path, name: str, text: str, value: str) -> None:
    """A package with one module, registered as `value`."""
    folder.mkdir(exist_ok=True)
    (folder / f"{name}_oracles.py").write_text(text)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delitem(sys.modules, f"{name}_oracles", raising=False)
    point = EntryPoint(name, value, registry.GROUP)
    monkeypatch.setattr(registry, "entry_points", lambda group: [point] if group == registry.GROUP else [])
    registry._known.cache_clear()
    registry.source_sha256.cache_clear()


@pytest.mark.parametrize("value", ["newcomer_oracles", "newcomer_oracles:ARCHITECTURE"])
def test_another_package_may_bring_an_architecture(value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {name: registry.source_sha256(name) for name in registry.supported()}
    installed(monkeypatch, tmp_path / "site", "newcomer", MINE.format(name="newcomer"), value)
    assert set(registry.supported()) == {*before, "newcomer"}
    weights = parameters(SMALL["llama"])
    got = registry.oracle_for(SMALL["llama"] | {"model_type": "newcomer"}, weights)
    np.testing.assert_array_equal(got.logits(IDS), registry.oracle_for(SMALL["llama"], weights).logits(IDS))
    assert {name: registry.source_sha256(name) for name in before} == before
    first = registry.source_sha256("newcomer")
    (tmp_path / "site" / "newcomer_oracles.py").write_text(MINE.format(name="newcomer") + "# changed\n")
    registry.source_sha256.cache_clear()
    assert registry.source_sha256("newcomer") != first


def test_another_package_replaces_none_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, tmp_path / "site", "usurper", MINE.format(name="llama"), "usurper_oracles")
    assert registry.architecture_of({"model_type": "llama"}).source.startswith("Touvron")


def test_an_entry_point_that_is_no_architecture_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, tmp_path / "site", "wrong", "ARCHITECTURE = 3\n", "wrong_oracles")
    with pytest.raises(BadInput, match=r"'wrong_oracles'.*an Architecture is wanted"):
        registry.supported()


def test_the_source_of_one_architecture_is_its_own_files_and_what_they_import() -> None:
    files = {name.rpartition(".")[2] for name in registry._files(registry._known()["bloom"][1])}
    assert {"bloom", "attention", "core", "spec", "fields", "norms", "linear", "mlp"} <= files
    assert not files & {"llama", "mixtral", "decoder", "registry", "streamed"}
    hashes = {name: registry.source_sha256(name) for name in registry.supported()}
    assert len(set(hashes.values())) == len(hashes)


@pytest.mark.parametrize("name", sorted(SMALL))
@pytest.mark.parametrize("count", [1, 3, len(IDS)])
def test_the_last_logits_alone_are_those_of_the_whole(name: str, count: int) -> None:
    oracle = registry.oracle_for(SMALL[name], parameters(SMALL[name]))
    whole, heads = oracle.logits(IDS)[-count:], []
    real = oracle.head  # type: ignore[attr-defined]

    def head(x: np.ndarray[Any, Any]) -> Any:
        heads.append(len(x))
        return real(x)

    oracle.head = head  # type: ignore[attr-defined]
    found = registry.last_logits(oracle, IDS, count)
    assert found.shape == whole.shape
    np.testing.assert_allclose(found, whole, rtol=0, atol=1e-12 * np.abs(whole).max())
    assert heads == [count], "the head on these alone"


def test_an_oracle_of_others_making_gives_its_last_logits_too() -> None:
    oracle = TableOracle(table())
    np.testing.assert_array_equal(registry.last_logits(oracle, [3, 1, 2], 2), oracle.table[[1, 2]])
