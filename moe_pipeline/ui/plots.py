"""Charts that stand still: pure functions from records to plotly figures, for the page, reports and docs.

Text and lines are of a grey that reads on light and on dark; the page recolours them by its own theme. The default
template is left out: it is most of a small figure's size.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import TYPE_CHECKING

from moe_pipeline.schema.metrics import MetricInfo
from moe_pipeline.schema.placement import Placement
from moe_pipeline.schema.record import RunRecord
from moe_pipeline.ui.palette import NEUTRAL, Palette

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

MOE_COLOUR = "#5b6ee1"
SINGLE_COLOUR = "#e08a3c"
TEXT = "#7d828c"
GRID = "rgba(128,132,140,0.25)"
SERIES = {"moe": ("Mixture of experts", MOE_COLOUR), "single": ("Single model", SINGLE_COLOUR)}


def _figure(height: int) -> Figure:
    from plotly.graph_objects import Figure

    figure = Figure()
    figure.update_layout(
        template="none",
        height=height,
        margin={"l": 16, "r": 16, "t": 16, "b": 16},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"family": "IBM Plex Sans, sans-serif", "size": 12, "color": TEXT},
        legend={"orientation": "h", "y": -0.12, "x": 0.5, "xanchor": "center"},
    )
    return figure


def goodness(value: float, info: MetricInfo) -> float:
    """A metric on its catalogue's range as 0 (worst) to 1 (best); needs a direction."""
    share = min(1.0, max(0.0, (value - info.low) / (info.high - info.low)))
    return share if info.direction == "higher" else 1.0 - share


def metric_radar(runs: Mapping[str, RunRecord], catalogue: Mapping[str, MetricInfo]) -> Figure:
    """Every figure that has a better side, on the range the catalogue gives it; further out is better."""
    from plotly.graph_objects import Scatterpolar

    names = [
        name
        for name, info in catalogue.items()
        if info.direction != "none" and all(run.metrics.value(name) is not None for run in runs.values())
    ]
    figure = _figure(420)
    titles = ["<br>".join(textwrap.wrap(catalogue[name].title, 16)) for name in names]
    for mode, run in runs.items():
        label, colour = SERIES.get(mode, (mode, NEUTRAL))
        values = [run.metrics.value(name) or 0.0 for name in names]
        radii = [goodness(value, catalogue[name]) for name, value in zip(names, values, strict=True)]
        figure.add_trace(
            Scatterpolar(
                r=[*radii, *radii[:1]],
                theta=[*titles, *titles[:1]],
                customdata=[f"{value:.4g}" for value in [*values, *values[:1]]],
                name=label,
                fill="toself",
                line={"color": colour, "width": 2},
                opacity=0.75,
                hovertemplate="%{theta}: %{customdata}<extra>" + label + "</extra>",
            )
        )
    figure.update_layout(
        margin={"l": 84, "r": 84, "t": 40, "b": 52},
        polar={
            "bgcolor": "rgba(0,0,0,0)",
            "radialaxis": {
                "range": [0, 1],
                "showticklabels": False,
                "ticks": "",
                "gridcolor": GRID,
                "linecolor": GRID,
            },
            "angularaxis": {"gridcolor": GRID, "linecolor": GRID, "tickfont": {"size": 11}},
        },
    )
    return figure


def _pale(colour: str) -> str:
    """`#rrggbb` at less than half its strength: as a colour of its own, which a legend shows, too."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.45)"


def latency_split(placement: Placement, palette: Palette) -> Figure:
    """Estimated compute and network milliseconds of each active expert, stacked."""
    from plotly.graph_objects import Bar

    names = [f"{palette[a.expert].title}<br>{a.device_title}" for a in placement.assignments]
    colours = [palette[a.expert].colour for a in placement.assignments]
    figure = _figure(120 + 56 * max(1, len(names)))
    for part, title, shades in (
        ("compute", "compute", colours),
        ("network", "network", [_pale(c) for c in colours]),
    ):
        figure.add_trace(
            Bar(
                y=names,
                x=[getattr(a.estimated_ms, part) for a in placement.assignments],
                name=f"{title}, estimated",
                orientation="h",
                marker={"color": shades},
                hovertemplate="%{x:.1f} ms " + title + ", estimated<extra></extra>",
            )
        )
    figure.update_layout(
        barmode="stack",
        margin={"l": 130, "r": 16, "t": 34, "b": 44},
        legend={"y": 1.0, "yanchor": "bottom", "x": 0.0, "xanchor": "left", "traceorder": "normal"},
        xaxis={
            "title": {"text": "ms, estimated", "font": {"size": 12}},
            "gridcolor": GRID,
            "zeroline": False,
        },
        yaxis={"autorange": "reversed"},
    )
    return figure


def energy_split(placement: Placement, palette: Palette) -> Figure:
    """Estimated joules by expert, with the radio's share of the whole."""
    from plotly.graph_objects import Bar

    names = [palette[a.expert].title for a in placement.assignments]
    values = [a.energy_j for a in placement.assignments]
    colours = [palette[a.expert].colour for a in placement.assignments]
    figure = _figure(300)
    figure.add_trace(
        Bar(
            x=[*names, "Radio"],
            y=[*values, placement.totals.energy.radio],
            marker={"color": [*colours, NEUTRAL]},
            hovertemplate="%{x}: %{y:.3g} J, estimated<extra></extra>",
        )
    )
    figure.update_layout(
        showlegend=False,
        margin={"l": 56, "r": 8, "t": 8, "b": 40},
        yaxis={"title": {"text": "J, estimated", "font": {"size": 12}}, "gridcolor": GRID},
    )
    return figure
