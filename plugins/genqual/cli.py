"""The `genqual` command: names its subcommands, imports one only when it is used. No torch, device or network."""

from __future__ import annotations

import errno
import gc
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Final, cast

import click

import genqual as package
from genqual.errors import GenqualError, did_you_mean

USAGE_ERROR: Final = 4  # as pytest's own, so that a CI needs to know one number

_ROOM: Final = (
    "free some, or name another place: --out and --state, GENQUAL_CACHE for the cache, TMPDIR for logs; an interrupted "
    "run goes on where its help says so"
)
_CLOSED: Final = "mend who may read and write it, or name another place: --out and --state, GENQUAL_CACHE for the cache"
_OF_THE_PLACE: Final = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), _ROOM),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), _CLOSED),
}
"""The next step after an error of the system that lies in a place, and in no program."""

COMMANDS: Final[dict[str, tuple[str, str]]] = {
    "bisect": ("genqual.commands.bisect:bisect", "Find the first layer whose output differs from the oracle."),
    "compare": ("genqual.commands.compare:compare", "Hardware classes, nodes, runs or files side by side."),
    "db": ("genqual.commands.db:db", "Make or migrate the tables of a database that results go to."),
    "doctor": ("genqual.commands.doctor:doctor", "What is here, what is missing, and what to do about it."),
    "engines": (
        "genqual.commands.engines:engines",
        "List the engines, the options they take, and what they cannot do.",
    ),
    "export": ("genqual.commands.export:export", "Copy records from any source into a Parquet or JSON lines file."),
    "faults": ("genqual.commands.faults:faults", "Faults to inject, and the matrix of what finds them."),
    "hpu-command": ("genqual.commands.hpu:hpu_command", "The published Gaudi command that runs a case the old way."),
    "hpu-import": ("genqual.commands.hpu:hpu_import", "Bring in what optimum-habana's scripts and tests measured."),
    "hpu-metrics": (
        "genqual.commands.hpu_metrics:hpu_metrics",
        "Judge the compilations and fallbacks that Habana's bridge wrote to a file.",
    ),
    "links": ("genqual.commands.links:links", "Check the links between hosts: right to the bit, and none slow."),
    "models": (
        "genqual.commands.models:models",
        "Explain a checkpoint of yours, list those that have a name, fetch a real one.",
    ),
    "node": ("genqual.commands.node:node", "Check this node for a given time: fit or unfit, one JSON document."),
    "published": ("genqual.commands.published:group", "The posts' tables as records, and their claims recomputed."),
    "push": ("genqual.commands.results:push", "Send spooled records to a database, again if need be."),
    "quorum": ("genqual.commands.quorum:quorum", "Name the node whose numbers are not those of most of its class."),
    "rebase": ("genqual.commands.rebase:rebase", "Measure latency baselines that the gate judges by."),
    "schema": ("genqual.commands.schema:schema", "The JSON Schema of a record, for readers in any language."),
    "sign": ("genqual.commands.trust:sign", "Sign what a run recorded: a DSSE envelope over its manifest."),
    "verify": ("genqual.commands.trust:verify", "Check a run: signatures, hashes, completeness, audits."),
    "reference": ("genqual.commands.reference:reference", "Make the oracle's reference of a model."),
    "report": ("genqual.commands.report:report", "One page, without a network, to decide from."),
}
"""Subcommand -> where it is, and the line that `--help` shows without importing it."""

_EPILOG = """\b
A first run, on this machine:
  genqual doctor
  pytest -m xeon --benchmark
  genqual compare .genqual/results.db other.db
  genqual report --published

\b
A model of your own:
  genqual models explain DIRECTORY       # by what it would be judged, and how long that takes
  genqual reference DIRECTORY
  pytest -m xeon --model=DIRECTORY

The suite itself is pytest; `pytest --help` lists its options under "genqual".
"""


class LazyGroup(click.Group):
    """A group whose commands are strings until one is called, so that help is fast and none can break another's."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            ctx.fail(f"No such command {cmd_name!r}.{did_you_mean(cmd_name, COMMANDS)}")
        module, _, name = COMMANDS[cmd_name][0].partition(":")
        try:
            return cast("click.Command", getattr(import_module(module), name))
        except ImportError as error:
            raise GenqualError(
                f"this installation cannot run `genqual {cmd_name}` ({error}). Reinstall genqual, with the extra that"
                " holds what is missing"
            ) from None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, COMMANDS[name][1]) for name in self.list_commands(ctx)])


@click.group(cls=LazyGroup, name="genqual", epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package.__version__, prog_name="genqual")
def genqual() -> None:
    """Qualify hardware and engines for LLM text generation: is it right, and is it slower?

    The tests are run by pytest (`pytest -m xeon --benchmark`); this command does what comes before and after a run.
    """


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command and exit: 0 done, 1 it failed, 4 the command line or a file that it names is wrong."""
    # A command lives for seconds and makes no cycles worth finding: without this a tenth of `genqual compare`, and a
    # fifth of a report, is the collector walking what was just read.
    gc.disable()
    try:
        code = genqual.main(args=arguments, prog_name="genqual", standalone_mode=False)
    except click.UsageError as error:
        error.show()
        # `genqual node` keeps 1 and 2 as health checks of schedulers have them.
        code = 2 if error.ctx is not None and error.ctx.info_name == "node" else USAGE_ERROR
    except click.ClickException as error:
        error.show()
        code = 1
    except GenqualError as error:
        click.echo(f"genqual: {error}", err=True)
        code = USAGE_ERROR
    except OSError as error:
        if error.errno not in _OF_THE_PLACE:
            raise
        where = f" ({error.filename})" if error.filename else ""
        click.echo(f"genqual: {error.strerror}{where}: {_OF_THE_PLACE[error.errno]}", err=True)
        code = 2 if (sys.argv[1:] if arguments is None else arguments)[:1] == ["node"] else 1
    except click.Abort:
        click.echo("genqual: interrupted", err=True)
        code = 130
    sys.exit(code if isinstance(code, int) else 0)


if __name__ == "__main__":
    main()
