"""`case-study`: single model against mixture on complex prompts, with intervals, plots and a report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from moe_pipeline.cli import options as opt
from moe_pipeline.cli.border import results_only

if TYPE_CHECKING:
    from moe_pipeline.studies.case_study import CaseStudyReport


def case_study(
    out: Annotated[
        Path,
        typer.Option("--out", help="Folder that gets clips, figures, report.md and report.json; resumable."),
    ],
    seeds: Annotated[int, typer.Option("--seeds", help="Seeds of each prompt.")] = 3,
    prompt: Annotated[
        list[str] | None,
        typer.Option("--prompt", help="Instead of the study's own prompts; may be repeated."),
    ] = None,
    steps: opt.Steps = None,
    weights: opt.Weights = None,
    pack: opt.PackFolder = None,
    json: opt.Json = False,
) -> None:
    """Mixture against single model on complex prompts.

    Paired over prompts and seeds, with bootstrap intervals, plots and a Markdown report.
    """
    with results_only() as results:
        opt.check_weights(weights)
        for text in prompt or ["any"]:
            opt.check(opt.scene_request(prompt=text, steps=steps), pack)
        from moe_pipeline.cli.items import ItemBar
        from moe_pipeline.studies.case_study import case_study as run

        with ItemBar("clips") as bar:
            report = run(
                out,
                pack=pack,
                prompts=prompt or None,
                seeds=seeds,
                steps=steps,
                weights=weights,
                progress=bar.step,
            )
        if json:
            print(report.model_dump_json(indent=1), file=results)
        else:
            print(report_text(report, out), file=results)


def report_text(report: CaseStudyReport, out: Path) -> str:
    """Every dimension with its paired difference and interval, and where the report is."""
    from moe_pipeline.cli.tables import text_table
    from moe_pipeline.metrics import METRICS

    rows = [
        [
            METRICS[name].title,
            f"{found.single_mean:.4g}",
            f"{found.moe_mean:.4g}",
            f"{found.difference:+.3g}",
            f"{found.low:+.3g} to {found.high:+.3g}",
            f"{found.pairs} of {found.pairs + found.left_out}",
            found.verdict,
        ]
        for name, found in report.comparisons.items()
    ]
    head = ["figure", "single model", "mixture", "difference", "95 % interval", "pairs", "verdict"]
    lines = [
        f"{len(report.prompts)} prompts, {len(report.seeds)} seeds each, {len(report.runs)} clips in "
        f"{report.elapsed_s:.0f} s; differences are mixture minus single model.",
        text_table(head, rows),
        f"Written to {out}: {', '.join(report.written)}",
    ]
    return "\n".join(lines)
