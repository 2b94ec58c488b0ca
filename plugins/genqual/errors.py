"""The ways genqual says no. Imports the standard library only, so every package may raise them.

Each message is one paragraph for the person who runs the suite: the value at fault, why, and the next step.
"""

from __future__ import annotations

import difflib
import shlex
import sys
from collections.abc import Iterable


class GenqualError(Exception):
    """Base of every error that a user can cause or mend; the message is shown without a traceback."""

    cause: str = ""
    """What two failures have in common when they are one, where their messages differ: which call met it, say."""


class BadInput(GenqualError):
    """An option, path or file is wrong. The plugin turns it into `pytest.UsageError` (exit code 4)."""


class Unsupported(GenqualError):
    """This engine cannot do this here, and the message says why. A status of its own: no failure, no silent skip."""


class NotApplicable(GenqualError):
    """A property that this engine or model cannot have, and the message says why. Counted and listed, never a pass."""


class NotEvident(NotApplicable):
    """The engine's evidence tier does not show what this property needs."""


class OutOfMemory(GenqualError):
    """The device or host memory limit was met while loading or generating. An outcome, not an accident."""


class EngineFailed(GenqualError):
    """Every rank raised, in step, so the group is still usable; the message carries the earliest traceback.

    Of a model that could not be loaded it names the log that has it.
    """


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """` Did you mean X?` with the nearest of `known`; nothing where none is near. A name's first part counts."""
    listed = list(known)
    near = difflib.get_close_matches(name, listed, n=1) or [one for one in listed if one.startswith(f"{name}-")]
    return f" Did you mean {near[0]}?" if near else ""


def pip_install(*packages: str, extra: str = "") -> str:
    """The command that brings `packages`, and those of genqual's `extra`, into this Python: the next step of an error.

    The packages by their names, because no index need have genqual: it works in a checkout and from a wheel alike.
    """
    wanted = [*packages, *(_packages_of(extra) if extra else ())]
    return shlex.join([sys.executable, "-m", "pip", "install", *wanted])


def _packages_of(extra: str) -> list[str]:
    """What the extra asks for, as genqual's metadata has it: `altair>=5.5`."""
    from importlib.metadata import requires

    from packaging.requirements import Requirement

    found = []
    for text in requires("genqual") or []:
        one = Requirement(text)
        if one.marker is not None and one.marker.evaluate({"extra": extra}) and not one.marker.evaluate({"extra": ""}):
            one.marker = None
            found.append(str(one))
    return found
