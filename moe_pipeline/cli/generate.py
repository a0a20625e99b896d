"""`generate`: one prompt, one clip, one record."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from moe_pipeline.cli import options as opt
from moe_pipeline.cli.border import results_only

if TYPE_CHECKING:
    from moe_pipeline.schema.record import RunRecord
    from moe_pipeline.schema.request import SceneRequest

TorchDevice = Annotated[
    str, typer.Option("--torch-device", metavar="auto|cpu|cuda", help="Where the pack runs on this machine.")
]


def generate(
    prompt: opt.Prompt,
    out: Annotated[Path, typer.Option("--out", help="Folder that gets clip.mp4 and record.json.")] = Path(
        "out"
    ),
    seed: opt.Seed = None,
    steps: opt.Steps = None,
    guidance: opt.Guidance = None,
    subject_guidance: opt.SubjectGuidance = None,
    fill_details: opt.FillDetails = True,
    top_k: opt.TopK = None,
    mode: opt.Mode = "moe",
    frames: opt.Frames = None,
    width: opt.Width = None,
    height: opt.Height = None,
    scenario: opt.Scenario = "campus-mec",
    objective: opt.Objective = "latency",
    pack: opt.PackFolder = None,
    torch_device: TorchDevice = "auto",
    json: opt.Json = False,
) -> None:
    """Make a clip from a prompt.

    Writes clip.mp4 (H.264, the record in its metadata) and record.json.
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
            mode=mode,
            frames=frames,
            width=width,
            height=height,
            scenario=scenario,
            objective=objective,
        )
        opt.check(request, pack)
        record = make_clip(request, out, pack, torch_device)
        text = (out / "record.json").read_text(encoding="utf-8") if json else summary(record, out)
        print(text.rstrip(), file=results)


def make_clip(request: SceneRequest, out: Path, pack: Path | None, torch_device: str) -> RunRecord:
    """Run the stream to its end with progress on standard error; a run that does not finish leaves nothing."""
    from moe_pipeline.runs import output_folder

    with output_folder(out) as draft:
        from moe_pipeline.cli.watch import Watcher, follow
        from moe_pipeline.interfaces import RunControl

        control = RunControl()
        pipeline = opt.open_pipeline(pack, torch_device, request.scenario)
        events = pipeline.stream(request, out=draft, control=control, previews=False)
        clips = follow((("", event) for event in events), control, Watcher())
    return clips[""].record


def summary(record: RunRecord, out: Path) -> str:
    """What a person wants to know about a finished run, in a few lines."""
    from moe_pipeline.cli.watch import duration_text, placement_text, weights_text

    timing, clip = record.timing, record.clip
    lines = [
        f"{out / (clip.path or 'clip.mp4')}: {clip.frames} frames of {clip.width}x{clip.height} at {clip.fps} fps, "
        f"seed {record.request.seed}",
        f"gate       {weights_text(record.gate.weights)} (coverage {record.gate.coverage:.2f})",
    ]
    if record.plan.read_as:
        lines.append(f"read as    {record.plan.read_as}")
    if record.placement is not None:
        lines.append(f"estimated  {placement_text(record.placement)} in {record.placement.scenario}")
    lines += [
        f"measured   {duration_text(timing.total_ms)}: text {duration_text(timing.encode_prompt_ms)}, "
        f"{len(timing.steps)} steps {duration_text(timing.denoise_ms)}, decode {duration_text(timing.decode_ms)}, "
        f"metrics {duration_text(timing.metrics_ms)}, export {duration_text(timing.export_ms)}",
        f"metrics    {metrics_text(record)}",
        *(f"note       {warning}" for warning in record.warnings),
    ]
    return "\n".join(lines)


def metrics_text(record: RunRecord) -> str:
    """The three headline figures with their direction."""
    figures = (
        ("temporal flickering", record.metrics.temporal_flickering, "higher is steadier"),
        ("warping error", record.metrics.warping_error, "lower is better"),
        ("moves or not (flow stand-in)", record.metrics.dynamic_degree, "1 moves, 0 hardly moves"),
    )
    shown = [f"{name} {value:.4g} ({words})" for name, value, words in figures if value is not None]
    missing = [name for name, value, _ in figures if value is None]
    return "; ".join([*shown, *(f"{name} not defined for this clip" for name in missing)])
