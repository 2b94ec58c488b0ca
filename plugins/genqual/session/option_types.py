"""What a command-line option accepts: parsers for argparse. No device, file or network is touched, but to look."""

from __future__ import annotations

import argparse
import math
import shlex
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit, urlunsplit

from genqual.analysis.published.tables import NAME
from genqual.analysis.report import FORMS as PAGE_FORMS
from genqual.cases import PRECISIONS
from genqual.errors import BadInput, GenqualError, pip_install
from genqual.gate.decision import GATED
from genqual.ranks.launchers import launcher
from genqual.storage.sinks.registry import open_sink
from genqual.storage.sources import FORMS


def names(text: str) -> tuple[str, ...]:
    """A comma-separated list of names, at least one, in the order given."""
    found = tuple(part.strip() for part in text.split(",") if part.strip())
    if not found:
        raise argparse.ArgumentTypeError(f"empty list {text!r} (expected names separated by commas)")
    return found


def words(text: str) -> tuple[str, ...]:
    """Words as a shell splits them."""
    try:
        return tuple(shlex.split(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"invalid words {text!r} ({error})") from None


def counts(what: str, example: str) -> Callable[[str], tuple[int, ...]]:
    """A parser for a comma-separated list of whole numbers of at least 1."""

    def parse(text: str) -> tuple[int, ...]:
        try:
            found = tuple(int(part) for part in names(text))
        except ValueError:
            raise argparse.ArgumentTypeError(f"invalid {what} list {text!r} (expected for example {example})") from None
        if min(found) < 1:
            raise argparse.ArgumentTypeError(f"invalid {what} {min(found)} (the smallest is 1)")
        return found

    return parse


def count(what: str) -> Callable[[str], int]:
    """A parser for one whole number of at least 1."""

    def parse(text: str) -> int:
        if not text.strip().isdecimal() or int(text) < 1:
            raise argparse.ArgumentTypeError(f"invalid {what} {text!r} (expected one whole number, at least 1)")
        return int(text)

    return parse


_OTHER_NAMES: Final = {"float32": "fp32", "float16": "fp16", "half": "fp16", "bfloat16": "bf16", "float8": "fp8"}


def dtypes(text: str) -> tuple[str, ...]:
    """A comma-separated list of precisions."""
    for name in names(text):
        if name not in PRECISIONS:
            meant = _OTHER_NAMES.get(name.lower())
            hint = f"did you mean {meant}? " if meant else ""
            raise argparse.ArgumentTypeError(f"unknown dtype {name!r} ({hint}expected one of {', '.join(PRECISIONS)})")
    return names(text)


def gate_metrics(text: str) -> tuple[str, ...]:
    """A comma-separated list of metrics that the latency gate can judge."""
    for name in names(text):
        if name not in GATED:
            raise argparse.ArgumentTypeError(f"the gate judges no {name!r} (expected one of {', '.join(GATED)})")
    return names(text)


def sink(text: str) -> str:
    """A URL that a sink takes; nothing is connected to."""
    try:
        open_sink(text).close()
    except GenqualError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def endpoint(text: str) -> str:
    """The base URL of an OpenAI-compatible server, without anything secret in it. Raises ArgumentTypeError."""
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise argparse.ArgumentTypeError(f"invalid URL {shown(text)!r} (expected for example http://127.0.0.1:8000/v1)")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise argparse.ArgumentTypeError(
            f"invalid URL {shown(text)!r} (expected scheme, host, port and path only; pass a key in the environment "
            "variable GENQUAL_API_KEY, which is never logged)"
        )
    return text


def shown(url: str) -> str:
    """`url` with nothing in it that may be a secret."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, host, parts.path, "", ""))


def records(text: str) -> str:
    """A source of records that can be there; it is read when the run ends."""
    place = text.partition("#")[0]
    if place != NAME and "://" not in place and not Path(place).expanduser().exists():
        raise argparse.ArgumentTypeError(f"{place} does not exist (expected {NAME}, or {FORMS})")
    return text


def page(text: str) -> str:
    """A file that a report can be written to, checked before an hour of measuring."""
    path = Path(text)
    if path.suffix not in PAGE_FORMS:
        raise argparse.ArgumentTypeError(
            f"invalid file name {text!r} (expected one that ends in {', '.join(PAGE_FORMS)})"
        )
    if not path.absolute().parent.is_dir():
        raise argparse.ArgumentTypeError(f"directory {path.absolute().parent} does not exist (create it first)")
    missing = [name for name in ("altair", "vl_convert", "jinja2") if find_spec(name) is None]
    if missing and path.suffix == ".html":
        raise argparse.ArgumentTypeError(f"{text}: a page needs {', '.join(missing)}: {pip_install(extra='report')}")
    return text


def positive(what: str, example: str) -> Callable[[str], float]:
    """A parser for one finite number above 0."""

    def parse(text: str) -> float:
        try:
            found = float(text)
        except ValueError:
            found = math.nan
        if not (math.isfinite(found) and found > 0):
            raise argparse.ArgumentTypeError(f"invalid {what} {text!r} (expected a number above 0, such as {example})")
        return found

    return parse


def share(text: str) -> float:
    """A slowdown, relative: `3%` and `0.03` are the same. From 1 % to 50 %."""
    number = text.strip().removesuffix("%")
    try:
        found = float(number) / (100.0 if number != text.strip() else 1.0)
    except ValueError:
        found = math.nan
    if not 0.01 <= found <= 0.5:
        raise argparse.ArgumentTypeError(f"invalid share {text!r} (expected from 1% to 50%, such as 3% or 0.03)")
    return found


def launcher_name(text: str) -> str:
    """`auto` or a launcher that this host has."""
    if text != "auto":
        try:
            launcher(text)
        except BadInput as reason:
            raise argparse.ArgumentTypeError(str(reason)) from None
    return text
