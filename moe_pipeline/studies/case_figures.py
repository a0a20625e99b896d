"""Figures of the case study: radar and bars in plotly (HTML, offline) and as PNG, and a sheet of the clips."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from moe_pipeline.metrics import METRICS
from moe_pipeline.video import read_frames

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from moe_pipeline.studies.case_study import CaseComparison, CaseStudyReport

SINGLE_COLOUR, MOE_COLOUR = "#8a8f98", "#2f6fed"
SHEET_TILE = 128  # pixels a side of a tile


def goodness(name: str, value: float) -> float:
    """A figure on 0..1 with 1 the better end of its catalogue range; figures without a better end as they are."""
    info = METRICS[name]
    share = float(np.clip((value - info.low) / (info.high - info.low), 0.0, 1.0))
    return 1.0 - share if info.direction == "lower" else share


def radar_figure(comparisons: dict[str, CaseComparison]) -> go.Figure:
    """Radar of both modes over the metrics that have a better side; outer is better."""
    import plotly.graph_objects as go

    names = [name for name in comparisons if METRICS[name].direction != "none"]
    titles = [METRICS[name].title for name in names]
    figure = go.Figure()
    for label, colour, field in (
        ("single model", SINGLE_COLOUR, "single_mean"), ("mixture", MOE_COLOUR, "moe_mean")
    ):  # fmt: skip
        values = [goodness(name, getattr(comparisons[name], field)) for name in names]
        figure.add_scatterpolar(
            r=[*values, *values[:1]], theta=[*titles, *titles[:1]], name=label, fill="toself", opacity=0.75,
            line={"color": colour},
        )  # fmt: skip
    figure.update_layout(
        title="Mean figures on their catalogue range, outer is better",
        polar={"radialaxis": {"range": [0, 1], "showticklabels": True}},
        template="plotly_white",
        legend={"orientation": "h"},
    )
    return figure


def relative_difference(comparison: CaseComparison) -> tuple[float, float, float]:
    """Difference and interval in per cent of the single model's mean, turned so that positive is better."""
    scale = abs(comparison.single_mean) or 1.0
    sign = -1.0 if METRICS[comparison.name].direction == "lower" else 1.0
    low, high = sorted((sign * comparison.low, sign * comparison.high))
    return 100 * sign * comparison.difference / scale, 100 * low / scale, 100 * high / scale


def bars_figure(comparisons: dict[str, CaseComparison]) -> go.Figure:
    """Bars of the relative differences with their 95 % intervals; right of 0 the mixture is better."""
    import plotly.graph_objects as go

    names = [name for name in comparisons if METRICS[name].direction != "none"][::-1]
    rows = [relative_difference(comparisons[name]) for name in names]
    figure = go.Figure(
        go.Bar(
            x=[row[0] for row in rows],
            y=[METRICS[name].title for name in names],
            orientation="h",
            marker={"color": [_bar_colour(comparisons[name]) for name in names]},
            error_x={
                "type": "data",
                "array": [row[2] - row[0] for row in rows],
                "arrayminus": [row[0] - row[1] for row in rows],
            },
        )
    )
    figure.update_layout(
        title="Mixture against single model, per cent of the single model's mean (95 % intervals)",
        xaxis_title="better with the mixture →",
        template="plotly_white",
        margin={"l": 220},
    )
    return figure


def _bar_colour(comparison: CaseComparison) -> str:
    decided = comparison.verdict in ("mixture better", "single better")
    return (
        MOE_COLOUR
        if decided and comparison.verdict == "mixture better"
        else SINGLE_COLOUR
        if decided
        else "#c9ced6"
    )


def write_figures(report: CaseStudyReport, folder: Path) -> list[str]:
    """Write radar and bars (HTML with a local copy of plotly.js, PNG) and the sheet; names inside the folder."""
    figures = {"radar": radar_figure(report.comparisons), "bars": bars_figure(report.comparisons)}
    written = []
    for name, figure in figures.items():
        figure.write_html(folder / f"{name}.html", include_plotlyjs="directory", full_html=True)
        written.append(f"{name}.html")
    _radar_png(figures["radar"], folder / "radar.png")
    _bars_png(figures["bars"], folder / "bars.png")
    _sheet_png(report, folder)
    return [*written, "radar.png", "bars.png", "sheet.png"]


# ------------------------------------------------------------------------------- PNG, from the plotly figure's data
# plotly itself needs a browser for PNG; these draw the same traces with matplotlib.


def _canvas(width: float, height: float, **options: Any) -> tuple[Any, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.add_subplot(**options)


def _radar_png(source: go.Figure, path: Path) -> None:
    figure, axes = _canvas(8, 7, projection="polar")
    for trace in source.data:
        angles = np.linspace(0, 2 * np.pi, len(trace.r))
        axes.plot(angles, trace.r, color=trace.line.color, label=trace.name)
        axes.fill(angles, trace.r, color=trace.line.color, alpha=0.2)
    titles = list(source.data[0].theta)[:-1]
    axes.set_xticks(np.linspace(0, 2 * np.pi, len(titles), endpoint=False), titles, fontsize=8)
    axes.tick_params(axis="x", pad=18)
    axes.set_ylim(0, 1)
    axes.legend(loc="lower left", bbox_to_anchor=(-0.15, -0.12), frameon=False)
    axes.set_title(source.layout.title.text, fontsize=10)
    figure.savefig(path)


def _bars_png(source: go.Figure, path: Path) -> None:
    trace = source.data[0]
    figure, axes = _canvas(8, 1.2 + 0.38 * len(trace.y))
    low, high = np.asarray(trace.error_x.arrayminus), np.asarray(trace.error_x.array)
    axes.barh(
        list(trace.y), list(trace.x), color=list(trace.marker.color), xerr=np.maximum(0, [low, high]), capsize=3,
        error_kw={"linewidth": 1},
    )  # fmt: skip
    axes.axvline(0, color="#333333", linewidth=0.8)
    axes.set_xlabel(source.layout.xaxis.title.text)
    axes.set_title(source.layout.title.text, fontsize=9)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.savefig(path)


def _sheet_png(report: CaseStudyReport, folder: Path) -> None:
    """One row a prompt (first seed): first, middle and last frame of the single model, then of the mixture."""
    from PIL import Image, ImageDraw

    by_key = {(run.prompt_index, str(run.mode)): run for run in reversed(report.runs)}
    gap, text = 8, 16
    width = 6 * SHEET_TILE + gap
    sheet = Image.new("RGB", (width, len(report.prompts) * (SHEET_TILE + text)), "white")
    draw = ImageDraw.Draw(sheet)
    for row, prompt in enumerate(report.prompts):
        top = row * (SHEET_TILE + text)
        draw.text((2, top + 2), f"{prompt[:110]}   (left: single model, right: mixture)", fill="black")
        for column, mode in enumerate(("single", "moe")):
            frames = read_frames(folder / by_key[row, mode].clip)
            for k, t in enumerate((0, len(frames) // 2, len(frames) - 1)):
                tile = Image.fromarray(frames[t]).resize((SHEET_TILE, SHEET_TILE))
                sheet.paste(tile, (column * (3 * SHEET_TILE + gap) + k * SHEET_TILE, top + text))
    sheet.save(folder / "sheet.png")
