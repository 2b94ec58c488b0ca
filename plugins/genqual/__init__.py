"""genqual qualifies hardware and engines for LLM text generation; see docs/architecture.md."""

from __future__ import annotations

from pathlib import Path

from genqual.moved import install

__version__ = "0.1.0"

# A wheel carries suites, fixtures and baselines inside this package. In a checkout they stand at the top level, so the
# checkout's root is searched as well: `genqual.suites` and `genqual.fixtures` have one name in both.
_checkout = Path(__file__).resolve().parents[2]
if (_checkout / "suites" / "profiles").is_dir() and (_checkout / "pyproject.toml").is_file():
    __path__.append(str(_checkout))

install()
