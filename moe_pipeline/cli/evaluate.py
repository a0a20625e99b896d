"""`evaluate`: measure any clips, this project's or others'."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from moe_pipeline.cli import options as opt
from moe_pipeline.cli.border import BAD_INPUT, results_only

if TYPE_CHECKING:
    from moe_pipeline.schema.metrics import ClipEvaluation, EvaluationReport


def evaluate(
    paths: Annotated[list[Path], typer.Argument(help="Videos, folders of frames, or folders of clips.")],
    prompt: Annotated[str | None, typer.Option("--prompt", help="One prompt for all clips.")] = None,
    prompts: Annotated[
        Path | None, typer.Option("--prompts", help="JSON file that maps file names to prompts.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Folder for results.json, results.csv and series.csv; resumable."),
    ] = None,
    vbench_layout: Annotated[
        bool,
        typer.Option("--vbench-layout", help="Also write result files in VBench's own layout (needs --out)."),
    ] = False,
    pack_features: Annotated[
        bool,
        typer.Option(
            "--pack-features",
            help="Also the slower stand-ins for consistency and text alignment.",
        ),
    ] = False,
    weights: opt.Weights = None,
    metric: Annotated[
        list[str] | None, typer.Option("--metric", help="Measure only this; may be repeated.")
    ] = None,
    max_frames: Annotated[
        int | None,
        typer.Option(
            "--max-frames", help="Measure only the first so many frames of each clip (long 4K clips)."
        ),
    ] = None,
    workers: Annotated[int | None, typer.Option("--workers", help="Processes. Default: one a core.")] = None,
    json: opt.Json = False,
) -> None:
    """Measure any clips.

    A table here, JSON and CSV in --out. A clip that cannot be read is named and the others are still measured.
    """
    with results_only() as results:
        from moe_pipeline.cli.items import ItemBar
        from moe_pipeline.studies.evaluate import evaluate as measure_all
        from moe_pipeline.studies.pack_features import embedded_features

        opt.check_weights(weights)
        features = embedded_features if pack_features else None
        if features is not None:
            features()  # a pack that cannot serve is refused once, not by every worker
        with ItemBar("clips") as bar:

            def clip_done(done: int, total: int, clip: ClipEvaluation) -> None:
                bar.step(done, total, "" if clip.error is None else not_measured(clip))

            report = measure_all(
                paths,
                prompt=prompt,
                prompts=prompts,
                out=out,
                layout="vbench" if vbench_layout else "plain",
                workers=workers,
                progress=clip_done,
                names=metric or None,
                weights=weights,
                max_frames=max_frames,
                features=features,
            )
        if json:
            print(report.model_dump_json(indent=1), file=results)
        else:
            print(report_text(report, out), file=results)
    if len(report.failed) == len(report.clips):
        raise typer.Exit(BAD_INPUT)


def not_measured(clip: ClipEvaluation) -> str:
    """Why a clip has no figures, with its name once."""
    error = clip.error or ""
    return error if clip.name in error else f"{clip.name}: {error}"


def notes(report: EvaluationReport) -> list[str]:
    """What a reader must know about the clips themselves (variable rate, an assumed rate), alike ones together."""
    by_note: dict[str, list[str]] = {}
    for clip in report.clips:
        for note in clip.notes:
            by_note.setdefault(note, []).append(clip.name)
    return [f"Note: {_named(clips)}: {note}" for note, clips in by_note.items()]


def left_out(report: EvaluationReport) -> list[str]:
    """Why figures are missing of clips that could be read: one sentence for each reason."""
    from moe_pipeline.metrics import METRICS

    by_reason: dict[str, tuple[list[str], list[str]]] = {}
    for clip in report.clips:
        for name, reason in (clip.metrics.skipped if clip.metrics else {}).items():
            titles, clips = by_reason.setdefault(reason, ([], []))
            titles.append(METRICS[name].title)
            clips.append(clip.name)
    return [
        f"Left out of {_named(list(dict.fromkeys(clips)))}: {', '.join(dict.fromkeys(titles))} ({reason})."
        for reason, (titles, clips) in by_reason.items()
    ]


def _named(clips: list[str]) -> str:
    return ", ".join(clips) if len(clips) <= 3 else f"{len(clips)} clips ({clips[0]}, ...)"


def report_text(report: EvaluationReport, out: Path | None) -> str:
    """Clips by figures, then the means with how many clips each is the mean of."""
    from moe_pipeline.cli.tables import text_table
    from moe_pipeline.metrics import METRICS, shown

    names = list(report.summary)
    lines: list[str] = []
    if len(report.clips) <= 50 and names:
        rows = []
        for name in names:
            values = [clip.metrics.value(name) if clip.metrics else None for clip in report.clips]
            rows.append([METRICS[name].title, *("-" if value is None else shown(value) for value in values)])
        # Clips as columns read well for a few clips only.
        if len(report.clips) <= 4:
            lines += [text_table(["figure", *(clip.name for clip in report.clips)], rows), ""]
        else:
            head = ["clip", *(METRICS[name].title for name in names)]
            turned = [[clip.name, *(row[i + 1] for row in rows)] for i, clip in enumerate(report.clips)]
            lines += [text_table(head, turned), ""]
    rows = [
        [
            METRICS[name].title,
            shown(entry.mean),
            shown(entry.std),
            f"{entry.measured} of {entry.of}",
            {"higher": "higher is better", "lower": "lower is better", "none": "neither"}[
                METRICS[name].direction
            ],
            entry.exactness,
        ]
        for name, entry in report.summary.items()
    ]
    if rows:
        head = ["figure", "mean", "deviation", "clips", "direction", "definition"]
        lines.append(text_table(head, rows))
    flags = [f"{c.name}: {', '.join(c.metrics.flags)}" for c in report.clips if c.metrics and c.metrics.flags]
    lines += [f"Note: {flag}." for flag in flags]
    lines += notes(report)
    lines += left_out(report)
    lines += [f"Not measured: {not_measured(clip)}" for clip in report.clips if clip.error is not None]
    measured = len(report.clips) - len(report.failed)
    lines.append(f"{measured} of {len(report.clips)} clips measured in {report.elapsed_s:.1f} s.")
    if report.vbench_quality is not None:
        lines.append(f"VBench Quality: {100 * report.vbench_quality:.2f}")
    elif report.vbench_quality_note:
        lines.append(report.vbench_quality_note)
    if out is not None and report.written:
        lines.append(f"Written to {out}: {', '.join(report.written)}")
    return "\n".join(lines)
