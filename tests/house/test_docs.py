"""What the pages tell people to type and to read exists: links, commands, options, environments, benchmarks."""

from __future__ import annotations

import configparser
import re
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click
import pytest

from genqual.cli import COMMANDS

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
HAND_WRITTEN = [ROOT / "CHANGELOG.md", *(page for page in PAGES if page.name != "detection.md")]

LINK = re.compile(r"\]\((?!\w+://)([^)#\s]+)")
CODE = re.compile(r"`([^`\n]+)`|^ {4}(\S.*)$", re.MULTILINE)
HEADING = re.compile(r'(docs/[\w/-]+\.md), "([^"\n]+)"')
OPTION = re.compile(r"(?<![\w-])(--[a-z][a-z_-]+)")


def code(page: Path) -> Iterator[str]:
    """What stands as code on a page, spans and indented lines."""
    for span, line in CODE.findall(page.read_text()):
        yield span or line


def named(pattern: str) -> list[tuple[str, Any]]:
    """Each match of the pattern in any page's code, with the page's name."""
    found = {(page.name, match) for page in PAGES for text in code(page) for match in re.findall(pattern, text)}
    return sorted(found)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    dead = [link for link in LINK.findall(page.read_text()) if not (page.parent / link).exists()]
    assert not dead


def test_commands_exist() -> None:
    names = named(r"^genqual ([a-z][a-z-]+)(?=[ `]|$)")
    assert len(names) > 20
    assert not [one for one in names if one[1] not in COMMANDS]


def test_options_of_commands_exist() -> None:
    """Of `genqual NAME [SUBNAME] ... --option`: the option is one of that command's own."""
    unknown = []
    for page, (name, rest) in named(r"^genqual ([a-z][a-z-]+)( [^|&]*)$"):
        known = options_of(name, rest.split())
        unknown += [(page, name, option) for option in OPTION.findall(rest) if option not in known]
    assert not unknown


def options_of(name: str, words: list[str]) -> set[str]:
    """The options of a command, and of the one below it that the words name."""
    module, _, attribute = COMMANDS[name][0].partition(":")
    command: click.Command = getattr(import_module(module), attribute)
    if isinstance(command, click.Group) and words and words[0] in command.commands:
        command = command.commands[words[0]]
    return {
        "--help",
        *(option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)),
    }


def test_options_of_pytest_exist(request: pytest.FixtureRequest) -> None:
    parser = request.config._parser
    groups = (parser._anonymous, *parser._groups)
    known = {name for group in groups for option in group.options for name in option.names()}
    lines = named(r"^pytest (.*)$")
    assert len(lines) > 10
    assert not [(page, option) for page, line in lines for option in OPTION.findall(line) if option not in known]


def test_environments_exist() -> None:
    tox = configparser.ConfigParser(interpolation=None)
    tox.read(ROOT / "tox.ini")
    names = named(r"\btox (?:run )?-e ([a-z-]+)")
    assert len(names) > 5
    assert not [one for one in names if f"testenv:{one[1]}" not in tox]


def test_modules_exist() -> None:
    names = named(r"\bpython -m ((?:tests|genqual)[\w.]+)")
    assert len(names) > 5
    assert not [one for one in names if find_spec(one[1]) is None]


def test_files_exist() -> None:
    """A path in backticks below one of the top level's directories is a file, a directory or a pattern of some."""
    names = named(r"^((?:suites|fixtures|baselines|plugins|tests|docs|constraints)/[\w./*-]+)$")
    assert len(names) > 10
    assert not [one for one in names if not list(ROOT.glob(one[1].rstrip("/")))]


def test_headings_exist() -> None:
    """What is written as `docs/PAGE.md, "Heading"`, in code and on pages, is a heading or a bold lead of that page."""
    files = [path for name in ("plugins", "suites", "tests", "docs", "baselines") for path in (ROOT / name).rglob("*")]
    texts = [path for path in files if path.suffix in (".py", ".toml", ".md") and path != Path(__file__)]
    found = {(path, *match) for path in texts for match in HEADING.findall(path.read_text(encoding="utf-8"))}
    assert len(found) > 15
    assert not [one for one in sorted(found) if not has_heading(ROOT / one[1], one[2])]


def has_heading(page: Path, title: str) -> bool:
    heading = re.compile(rf"^(#+ {re.escape(title)}$|(- )?\*\*{re.escape(title)}\.?\*\*)", re.MULTILINE)
    return page.is_file() and heading.search(page.read_text(encoding="utf-8")) is not None


@pytest.mark.parametrize("page", HAND_WRITTEN, ids=lambda page: page.name)
def test_prose_fits_a_screen(page: Path) -> None:
    """At most 120 columns, but for tables and long commands, which cannot be broken."""
    long = [
        number
        for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1)
        if len(line) > 120 and not line.startswith(("|", "    ")) and not re.search(r"`[^`]{80,}`", line)
    ]
    assert long == []
