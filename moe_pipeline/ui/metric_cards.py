"""Metric cards: each figure with what it says, which way is better and how near it is to VBench's."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from moe_pipeline.schema.metrics import ClipMetrics, MetricInfo
from moe_pipeline.schema.record import RunRecord
from moe_pipeline.ui.panel import Panel, View

HEADLINE = ("temporal_flickering", "warping_error", "dynamic_degree", "dynamic_degree_flow")
YES_OR_NO = ("dynamic_degree", "static_filter")  # dimensions whose figure is 1 or 0
WAITING = "Generate a clip: its metrics appear here, each with what it means."
STAGES = (
    ("encode_prompt_ms", "prompt"),
    ("gate_ms", "gate"),
    ("place_ms", "placement"),
    ("denoise_ms", "denoising"),
    ("decode_ms", "decoding"),
    ("metrics_ms", "metrics"),
    ("export_ms", "export"),
)


def empty_metrics(message: str = WAITING) -> View:
    """No clip has been measured yet."""
    return {"message": message, "cards": [], "flags": [], "frames": 1, "stages": [], "facts": []}


def metrics_view(record: RunRecord, catalogue: Mapping[str, MetricInfo]) -> View:
    """Cards of everything measured, the headline figures first, and the measured time of each stage."""
    metrics = record.metrics
    return {
        "message": "",
        "cards": metric_cards(metrics, catalogue),
        "flags": list(metrics.flags),
        "frames": max(1, record.clip.frames),
        "stages": _stages(record),
        "facts": _facts(record),
    }


def metric_cards(metrics: ClipMetrics, catalogue: Mapping[str, MetricInfo]) -> list[View]:
    """One card a figure; a figure that has no value says why instead."""
    order = [*HEADLINE, *(name for name in catalogue if name not in HEADLINE)]
    present = [name for name in order if name in metrics.values or name in metrics.skipped]
    unknown = [name for name in metrics.values if name not in catalogue and name not in present]
    return [_card(name, metrics, catalogue.get(name)) for name in [*present, *unknown]]


def _card(name: str, metrics: ClipMetrics, info: MetricInfo | None) -> View:
    found = metrics.values.get(name)
    card: dict[str, Any] = {
        "name": name,
        "headline": name in HEADLINE,
        "title": info.title if info else name.replace("_", " "),
        "plain_words": info.plain_words if info else "",
        "direction": info.direction if info else "none",
        "exactness": found.exactness if found else (info.exact if info else "own"),
        "unit": info.unit if info else "",
        "low": _number(info.low) if info else "",
        "high": (_number(info.high) + (" +" if info.open_ended else "")) if info else "",
        "display": "",
        "position": None,
        "note": "",
        "skipped": "" if found else metrics.skipped.get(name, "not asked for"),
        "series": [],
        "series_label": "",
        "series_start": 0,
        "series_stride": 1,
    }
    if found is None:
        return card
    card["display"] = display(found.value, info)
    card["note"] = found.note
    card["series"] = [float(f"{point:.4g}") for point in found.series]
    card["series_label"] = found.series_label
    card["series_start"] = found.series_start_frame
    card["series_stride"] = found.series_stride
    if info and info.high > info.low and info.dimension not in YES_OR_NO:
        card["position"] = round(min(1.0, max(0.0, (found.value - info.low) / (info.high - info.low))), 4)
    return card


def display(value: float, info: MetricInfo | None) -> str:
    """A figure for people: three or four digits, or the answer to a question."""
    if info is not None and info.dimension in YES_OR_NO:
        return "yes" if value >= 0.5 else "no"
    return _number(value)


def _number(value: float) -> str:
    """Three digits that matter; four where a figure lives close to 1."""
    if value == 0:
        return "0"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    if abs(value) < 1e-6:
        return f"{value:.1e}"
    digits = 4 if 0.1 <= abs(value) < 1 else 3
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    return f"{value:.{decimals}f}".rstrip("0").rstrip(".") if decimals else f"{value:.0f}"


def _stages(record: RunRecord) -> list[View]:
    timing = record.timing
    return [
        {"title": title, "ms": round(getattr(timing, key), 2)}
        for key, title in STAGES
        if getattr(timing, key) is not None
    ]


def _facts(record: RunRecord) -> list[View]:
    """Measured latency figures in words; the estimates of the cost model never stand here."""
    timing, clip = record.timing, record.clip
    seconds = clip.frames / clip.fps
    steps = [step.ms for step in timing.steps]
    facts = [{"title": "All in all", "text": f"{timing.total_ms / 1000:.2f} s"}]
    if timing.first_preview_ms is not None:
        facts.append({"title": "First preview", "text": f"{timing.first_preview_ms / 1000:.2f} s"})
    facts += [
        {"title": title.capitalize(), "text": f"{getattr(timing, key):.0f} ms"} for key, title in STAGES
    ]
    if steps:
        for title, share in (("A step, median", 50), ("A step, 95th percentile", 95)):
            facts.append({"title": title, "text": f"{np.percentile(steps, share):.0f} ms"})
    facts.append({"title": "Speed", "text": f"{clip.frames / (timing.total_ms / 1000):.1f} frames/s"})
    facts.append(
        {"title": "Real-time factor", "text": f"{timing.total_ms / 1000 / seconds:.2f} × clip length"}
    )
    if timing.peak_rss_bytes:
        facts.append(
            {"title": "Peak memory of the program so far", "text": f"{timing.peak_rss_bytes / 1e9:.2f} GB"}
        )
    return facts


class MetricCards(Panel):
    """The Metrics tab."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(
            "metrics",
            kwargs.pop("value", empty_metrics()),
            label="Metrics of the clip",
            elem_id="metrics",
            **kwargs,
        )
