"""`compare`: the mixture and the single model on the same prompt and seed, side by side."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from moe_pipeline.cli import options as opt
from moe_pipeline.cli.border import results_only

if TYPE_CHECKING:
    from moe_pipeline.schema.record import RunRecord


def compare(
    prompt: opt.Prompt,
    out: Annotated[
        Path,
        typer.Option("--out", help="Folder that gets moe.mp4, single.mp4, side_by_side.mp4 and record.json."),
    ] = Path("out"),
    seed: opt.Seed = None,
    steps: opt.Steps = None,
    guidance: opt.Guidance = None,
    subject_guidance: opt.SubjectGuidance = None,
    fill_details: opt.FillDetails = True,
    top_k: opt.TopK = None,
    frames: opt.Frames = None,
    width: opt.Width = None,
    height: opt.Height = None,
    scenario: opt.Scenario = "campus-mec",
    objective: opt.Objective = "latency",
    pack: opt.PackFolder = None,
    json: opt.Json = False,
) -> None:
    """Mixture and single model from one seed, side by side.

    Writes moe.mp4, single.mp4, side_by_side.mp4 and record.json with runs.moe and runs.single.
    """
    with results_only() as results:
        request = opt.scene_request(
            prompt=prompt,
            seed=seed,
            steps=steps,
            guidance=guidance,
            subject_guidance=subject_guidance,
            fill_details=fill_details,
            top_k=top_k,
            frames=frames,
            width=width,
            height=height,
            scenario=scenario,
            objective=objective,
        )
        opt.check(request, pack)
        from moe_pipeline.runs import output_folder

        with output_folder(out) as draft:
            from moe_pipeline.cli.watch import Watcher, follow
            from moe_pipeline.interfaces import RunControl
            from moe_pipeline.studies.compare import compare as run_both

            control = RunControl()
            pipeline = opt.open_pipeline(pack, scenario=scenario)
            events = run_both(pipeline, request, out=draft, control=control, previews=False)
            clips = follow(events, control, Watcher(labels=True))
        if json:
            print((out / "record.json").read_text(encoding="utf-8").rstrip(), file=results)
            return
        print(comparison_table({label: clip.record for label, clip in clips.items()}), file=results)
        print(out / "side_by_side.mp4", file=results)


def comparison_table(records: dict[str, RunRecord]) -> str:
    """The two runs' headline figures and measured times beside each other."""
    from moe_pipeline.cli.tables import text_table
    from moe_pipeline.metrics import shown

    rows: list[list[str]] = []
    for label, record in records.items():
        metrics, timing = record.metrics, record.timing
        figures = (metrics.temporal_flickering, metrics.warping_error, metrics.dynamic_degree)
        rows.append(
            [
                label,
                *("not defined" if value is None else shown(value) for value in figures),
                f"{timing.denoise_ms:.0f}",
                f"{timing.total_ms:.0f}",
            ]
        )
    head = ["run", "temporal flickering (higher is steadier)", "warping error (lower is better)"]
    head += ["moves or not (flow stand-in)", "denoising ms, measured", "total ms, measured"]
    return text_table(head, rows)
