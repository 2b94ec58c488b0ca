"""What has failed and was told already: one cause is told in full once, and named in a line afterwards."""

from __future__ import annotations

from typing import Final

import pytest

from genqual.errors import GenqualError
from genqual.ranks.errors import GroupLost

WHOLE: Final = pytest.StashKey[str]()
"""Of an item: its failure in full, even where its report names it in a line."""

_LINE: Final = 160  # characters of a cause that was told before


class Causes:
    """The causes that the tests of this process met, each with the test that told it."""

    def __init__(self) -> None:
        self._told: dict[object, tuple[str, BaseException]] = {}  # the error too: its identity must not be used again

    def words(self, error: GenqualError | GroupLost, test: str) -> str:
        """What `test` says of `error`: all of it the first time, then one line that names the test that said it.

        Two lost groups are two events, each with stacks and logs of its own, unless they are one error kept: that of a
        case that cannot load.
        """
        whole = f"{type(error).__name__}: {error}"
        key: object = id(error) if isinstance(error, GroupLost) else (type(error).__name__, error.cause or str(error))
        first, _ = self._told.setdefault(key, (test, error))
        if first == test:
            return whole
        line = whole.partition("\n")[0]
        return f"see {first}: {line if len(line) <= _LINE else f'{line[:_LINE]}...'}"
