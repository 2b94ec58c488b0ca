"""Where genqual's data lies, in a checkout and in a wheel alike. The standard library only."""

from __future__ import annotations

from pathlib import Path

import genqual
from genqual.errors import BadInput


def data_dir(name: str) -> Path:
    """The directory `baselines`, `suites` or `fixtures` that came with this genqual. Raises BadInput if it did not."""
    for root in genqual.__path__:
        found = Path(root) / name
        if found.is_dir():
            return found
    raise BadInput(f"{name}/ is missing beside {genqual.__file__}: this installation is incomplete, reinstall genqual")
