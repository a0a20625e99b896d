"""Files of an evaluation: JSON, CSV, per-frame series, and VBench's own result layout."""

from __future__ import annotations

import csv
import io
import json
import tempfile
from pathlib import Path
from typing import Any

from moe_pipeline.atomic import unwritable, write_text
from moe_pipeline.metrics.aggregate import DIMENSIONS
from moe_pipeline.schema.metrics import ClipEvaluation, EvaluationReport
from moe_pipeline.studies.clip_sources import prompt_of_name

# A folder of their own, because VBench's score script reads every JSON beside them; VBench names its runs
# results_<date and time>, whose colons break on some disks.
VBENCH_RUN = "vbench/results"


def prepare_folder(folder: Path) -> Path:
    """The output folder, made and proven writable before an hour of work goes into it."""
    try:
        (folder / "clips").mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise unwritable(folder, error) from error
    return folder


def write_report(report: EvaluationReport, folder: Path, *, vbench: bool) -> list[str]:
    """Write all files of a report; returns their names inside the folder."""
    texts = {
        "results.csv": clips_csv(report),
        "series.csv": series_csv(report),
        "results.json": report.model_dump_json(indent=1),
    }
    if vbench:
        full, scores = vbench_documents(report)
        texts[f"{VBENCH_RUN}_full_info.json"] = json.dumps(full, indent=4, ensure_ascii=False)
        texts[f"{VBENCH_RUN}_eval_results.json"] = json.dumps(scores, indent=4, ensure_ascii=False)
    for name, text in texts.items():
        write_text(folder / name, text)
    return list(texts)


def clips_csv(report: EvaluationReport) -> str:
    """One row a clip; a figure that is missing leaves its cell empty, and the last row is the mean with its count."""
    names = list(report.summary)
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    writer.writerow(["clip", "prompt", "frames", "width", "height", "fps", *names, "flags", "error"])
    for clip in report.clips:
        values = [] if clip.metrics is None else [clip.metrics.value(name) for name in names]
        cells = ["" if v is None else repr(v) for v in values] or [""] * len(names)
        flags = "" if clip.metrics is None else "; ".join(clip.metrics.flags)
        size = [clip.frames, clip.width, clip.height, f"{clip.fps:g}"]
        writer.writerow([clip.name, clip.prompt or "", *size, *cells, flags, clip.error or ""])
    writer.writerow(["mean", "", "", "", "", "", *(repr(report.summary[n].mean) for n in names), "", ""])
    counts = (f"{report.summary[n].measured} of {report.summary[n].of}" for n in names)
    writer.writerow(["clips in the mean", "", "", "", "", "", *counts, "", ""])
    return buffer.getvalue()


def series_csv(report: EvaluationReport) -> str:
    """Per-frame series in long form: clip, metric, frame, value."""
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    writer.writerow(["clip", "metric", "frame", "value"])
    for clip in report.clips:
        for value in (clip.metrics.values if clip.metrics else {}).values():
            for k, point in enumerate(value.series):
                writer.writerow(
                    [clip.name, value.name, value.series_start_frame + k * value.series_stride, repr(point)]
                )
    return buffer.getvalue()


# ------------------------------------------------------------------------------------------ VBench's layout


def vbench_documents(report: EvaluationReport) -> tuple[list[dict[str, Any]], dict[str, list[Any]]]:
    """VBench's `*_full_info.json` and `*_eval_results.json` as data, with exact dimensions only.

    Scales are VBench's: imaging quality 0..100 for a clip and 0..1 in the average, dynamic degree a boolean for a
    clip, subject and background consistency averaged over frame pairs (VBench on one GPU), everything else over
    clips. Source: vbench/__init__.py and vbench/*.py.
    """
    exact = [n for n in report.summary if n in DIMENSIONS]  # stand-ins never carry a dimension's name
    measured = [clip for clip in report.clips if clip.metrics is not None]
    by_prompt: dict[str, list[str]] = {}
    for clip in measured:
        by_prompt.setdefault(_vbench_prompt(clip), []).append(clip.path)
    full = [
        {"prompt_en": prompt, "dimension": exact, "video_list": videos}
        for prompt, videos in by_prompt.items()
    ]
    return full, {name: _vbench_dimension(name, measured) for name in exact}


def vbench_average(name: str, clips: list[ClipEvaluation]) -> float:
    """VBench's own average of a dimension over the clips that have it: over frame pairs for the two consistencies."""
    return float(_vbench_dimension(name, clips)[0])


def _vbench_prompt(clip: ClipEvaluation) -> str:
    stem = Path(clip.name).stem
    return clip.prompt or prompt_of_name(stem) or stem


def _vbench_dimension(name: str, clips: list[ClipEvaluation]) -> list[Any]:
    rows: list[dict[str, Any]] = []
    total, weight = 0.0, 0.0
    for clip in clips:
        value = clip.metrics.values.get(name) if clip.metrics else None
        if value is None:
            continue
        row: dict[str, Any] = {"video_path": clip.path, "video_results": value.value}
        share = 1.0
        if name == "imaging_quality":
            row["video_results"] = 100.0 * value.value
        elif name == "dynamic_degree":
            row["video_results"] = bool(value.value)
        elif name in ("subject_consistency", "background_consistency"):
            share = float(len(value.series))
            if name == "background_consistency":
                row |= {"video_sim": value.value * share, "cnt_per_video": len(value.series)}
        rows.append(row)
        total, weight = total + share * value.value, weight + share
    return [total / weight, rows]
