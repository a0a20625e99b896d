"""`bench`: what a clip costs on this machine."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from moe_pipeline.cli import options as opt
from moe_pipeline.cli.border import printable, results_only

if TYPE_CHECKING:
    from moe_pipeline.studies.bench import BenchReport


def bench(
    out: Annotated[Path, typer.Option("--out", help="Folder that gets bench.json and bench.md.")] = Path(
        "out/bench"
    ),
    repeats: Annotated[int, typer.Option("--repeats", help="Warm runs of each mode.")] = 5,
    cold: Annotated[
        int, typer.Option("--cold", help="New processes for the cold start; 0 leaves it out.")
    ] = 3,
    pack: opt.PackFolder = None,
    json: opt.Json = False,
) -> None:
    """Measure what a clip costs on this machine.

    Warm, as single model, to the first preview, from a cold start, and in memory; medians of repeated runs.
    """
    with results_only() as results:
        from moe_pipeline.atomic import write_text
        from moe_pipeline.runs import output_folder

        pipeline = opt.open_pipeline(pack)
        pipeline.engine.require_weights()
        with output_folder(out) as draft:
            from moe_pipeline.studies.bench import bench as measure

            report = measure(pipeline, pack, repeats=repeats, cold_repeats=cold, say=_say)
            text = report_text(report)
            write_text(draft / "bench.json", report.model_dump_json(indent=1) + "\n")
            write_text(draft / "bench.md", markdown(report))
        print(report.model_dump_json(indent=1) if json else text, file=results)


def _say(text: str) -> None:
    print(printable(text), file=sys.stderr)


def _rows(report: BenchReport) -> list[list[str]]:
    rows = []
    for figure in report.figures:
        verdict = {None: "", True: "within", False: "missed"}[figure.within]
        rows.append(
            [
                figure.title,
                f"{figure.median:.2f}",
                f"{min(figure.runs):.2f} to {max(figure.runs):.2f}",
                str(len(figure.runs)),
                figure.unit,
                f"{figure.target:g} {verdict}" if figure.target is not None else "",
            ]
        )
    return rows


HEAD = ("measured", "median", "range", "runs", "unit", "target on two quiet cores")


def _circumstances(report: BenchReport) -> list[str]:
    machine, environment = report.machine, report.environment
    memory = f", {machine.memory_gb:.1f} GB" if machine.memory_gb is not None else ""
    load = "" if machine.load_before is None else f"; load {machine.load_before:.1f} before"
    return [
        f"{machine.cpu}, {machine.cores} cores{memory}, {environment.cpu_capability}{load}",
        f"torch {environment.torch} on {environment.torch_device}, {environment.dtype}, {environment.threads} "
        f"threads; {environment.platform}; pack {report.pack.id} {report.pack.version}; {report.created}",
        *report.notes,
    ]


def _stages(report: BenchReport, mode: str) -> str:
    stages = report.stages_ms[mode]
    return ", ".join(
        f"{name.removesuffix('_ms').replace('_', ' ')} {ms:.1f} ms" for name, ms in stages.items()
    )


def report_text(report: BenchReport) -> str:
    """The figures as a table with what they hold for."""
    from moe_pipeline.cli.tables import text_table

    stages = [f"stages, {mode}: {_stages(report, mode)}" for mode in report.stages_ms]
    return "\n".join([text_table(HEAD, _rows(report)), "", *stages, *_circumstances(report)])


def markdown(report: BenchReport) -> str:
    """The same as a Markdown table, for the README."""
    lines = [f"| {' | '.join(HEAD)} |", f"|{' --- |' * len(HEAD)}"]
    lines += [f"| {' | '.join(row)} |" for row in _rows(report)]
    stages = [f"Stages, {mode}: {_stages(report, mode)}." for mode in report.stages_ms]
    rest = [*stages, *_circumstances(report), f"Command: `{report.command}`"]
    return "\n".join(lines) + "\n\n" + "\n\n".join(rest) + "\n"
