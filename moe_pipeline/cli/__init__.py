"""The command line: `python -m moe_pipeline COMMAND`, one module per command family.

Heavy libraries are imported inside the commands, so that help and refusals come at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from moe_pipeline._version import __version__
from moe_pipeline.cli import (
    bench,
    case_study,
    compare,
    devices,
    doctor,
    evaluate,
    generate,
    packs,
    plan,
    simulate,
)
from moe_pipeline.cli.border import PROGRAM, run

app = typer.Typer(
    help="MoEverse: a scene prompt becomes a short clip, by a mixture of expert video-diffusion models.",
    epilog="Exit codes: 0 done, 1 unexpected failure, 2 bad input, 130 cancelled.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command("generate")(generate.generate)
app.command("compare")(compare.compare)
app.command("plan")(plan.plan)
app.command("simulate")(simulate.simulate)
app.command("evaluate")(evaluate.evaluate)
app.command("case-study")(case_study.case_study)
app.command("packs")(packs.packs)
app.command("devices")(devices.devices)
app.command("doctor")(doctor.doctor)
app.command("bench")(bench.bench)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"MoEverse {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def overview(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and leave.")
    ] = False,
    traceback: Annotated[
        bool, typer.Option("--traceback", help="With any command: show where a failure happened.")
    ] = False,
) -> None:
    """MoEverse: a scene prompt becomes a short clip, by a mixture of expert video-diffusion models."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    return run(typer.main.get_command(app), arguments)


__all__ = ["PROGRAM", "app", "main"]
