"""The case study's report in Markdown."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moe_pipeline.metrics import METRICS
from moe_pipeline.studies.bootstrap import DRAWS, LEAST_PROMPTS

if TYPE_CHECKING:
    from moe_pipeline.studies.case_study import CaseComparison, CaseStudyReport

_ARROW = {"higher": "↑", "lower": "↓", "none": ""}
_KIND = {"vbench": "VBench", "vbench-definition": "VBench's definition", "stand-in": "stand-in", "own": "own"}


def markdown(report: CaseStudyReport) -> str:
    """The whole report; figures and clips are referred to by their names beside it."""
    parts = [
        "# Case study: one single model against the mixture\n",
        _summary(report),
        _method(report),
        "![clips](sheet.png)\n",
        "## Figures\n\n![radar](radar.png)\n\n![bars](bars.png)\n\n"
        "Interactive: [radar.html](radar.html), [bars.html](bars.html).\n",
        "## All dimensions\n\n" + metric_table(report.comparisons),
        _moving(report),
        "## Cost, measured on this machine\n\n" + latency_table(report.latency),
        _prompts(report),
        _limits(report),
    ]
    return "\n".join(part for part in parts if part)


def _summary(report: CaseStudyReport) -> str:
    by_verdict: dict[str, list[str]] = {}
    for name, comparison in report.comparisons.items():
        by_verdict.setdefault(comparison.verdict, []).append(METRICS[name].title)
    lines = [
        f"{len(report.prompts)} prompts, {len(report.seeds)} seeds each, {len(report.runs)} clips, pack "
        f"`{report.pack.id}` {report.pack.version}.\n"
    ]
    if len(report.prompts) < LEAST_PROMPTS:
        lines.append(
            f"**Fewer than {LEAST_PROMPTS} prompts: nothing is decided here, whatever the intervals look like.**\n"
        )
    for verdict, words in (
        ("mixture better", "The mixture is better on"),
        ("single better", "The single model is better on"),
        ("undecided", "Nothing can be said on"),
        ("differs", "They differ, neither way being better, on"),
    ):
        if verdict in by_verdict:
            lines.append(f"- {words}: {', '.join(by_verdict[verdict])}.")
    return "\n".join(lines) + "\n"


def _method(report: CaseStudyReport) -> str:
    environment = report.environment
    return (
        "## Method\n\n"
        "The same prompt and seed go through both modes: `single` runs the generalist alone, `moe` decomposes the "
        "prompt, gates each part and combines the predictions of the top experts at every denoising step. "
        "Differences are paired (mixture minus single model). Intervals are 95 % percentile intervals of "
        f"{DRAWS} bootstrap draws on two levels: prompts, then seeds within a prompt. They are not corrected for the "
        "number of dimensions looked at; of twenty true nulls one is expected to look decided. With fewer than "
        f"{LEAST_PROMPTS} prompts no verdict is given. Both modes run once before the clock counts; an expert that a "
        "later prompt is the first to need is loaded within its run.\n\n"
        f"Environment: torch {environment.torch} on {environment.torch_device} ({environment.cpu_capability}, "
        f"{environment.threads} threads, {environment.dtype}).\n"
    )


def metric_table(comparisons: dict[str, CaseComparison]) -> str:
    """Markdown table of comparisons, one row a metric."""
    rows = [
        "| dimension | kind | single | mixture | difference (95 %) | mixture wins | verdict |",
        "| --- | --- | ---: | ---: | ---: | ---: | --- |",
    ]
    for name, c in comparisons.items():
        info = METRICS[name]
        counted = f" ({c.pairs} of {c.pairs + c.left_out} pairs)" if c.left_out else ""
        wins = "" if info.direction == "none" else f"{100 * c.wins:.0f} %"
        rows.append(
            f"| {info.title} {_ARROW[info.direction]}{counted} | {_KIND[info.exact]} | {c.single_mean:.4g} "
            f"| {c.moe_mean:.4g} | {c.difference:+.3g} [{c.low:+.3g}, {c.high:+.3g}] | {wins} | {c.verdict} |"
        )
    return "\n".join(rows) + "\n"


def _moving(report: CaseStudyReport) -> str:
    if not report.moving_only:
        flagged = sum("hardly moves" in run.metrics.flags for run in report.runs)
        if not flagged:
            return "Every clip moves, so no clip wins consistency by standing still.\n"
        return "In no pair do both clips move, so consistency is undecided here, whatever its figures.\n"
    pairs = next(iter(report.moving_only.values())).pairs
    return (
        f"### Only pairs in which both clips move ({pairs} pairs)\n\nA clip that stands still wins every consistency "
        "figure without showing anything; this table leaves such pairs out, and its verdicts on consistency are those "
        "of the first table, too.\n\n" + metric_table(report.moving_only)
    )


def latency_table(latency: dict[str, CaseComparison]) -> str:
    """Markdown table of measured cost."""
    from moe_pipeline.studies.case_study import LATENCY_FIGURES

    rows = ["| | single | mixture | difference (95 %) |", "| --- | ---: | ---: | ---: |"]
    for field, c in latency.items():
        scale, unit = (
            (1e-6, "MB") if field.endswith("bytes") else (1.0, "ms" if field.endswith("_ms") else "")
        )
        unit = "J" if field == "energy_j" else unit
        rows.append(
            f"| {LATENCY_FIGURES[field]} | {scale * c.single_mean:.4g} {unit} | {scale * c.moe_mean:.4g} {unit} "
            f"| {scale * c.difference:+.3g} [{scale * c.low:+.3g}, {scale * c.high:+.3g}] |"
        )
    if "energy_j" not in latency:
        rows.append("| energy | no counter | no counter | |")
    return "\n".join(rows) + "\n"


def _prompts(report: CaseStudyReport) -> str:
    rows = ["## Prompts, parts and experts\n", "| prompt | parts | experts |", "| --- | --- | --- |"]
    seen = set()
    for run in report.runs:
        if run.mode == "moe" and run.prompt_index not in seen:
            seen.add(run.prompt_index)
            experts = ", ".join(f"{name} {run.weights.get(name, 0.0):.2f}" for name in run.active)
            rows.append(f"| {run.prompt} | {'; '.join(run.subtasks)} | {experts} |")
    return "\n".join(rows) + "\n"


def _limits(report: CaseStudyReport) -> str:
    alignment = (
        ""
        if report.aligned
        else " No figure here measures whether the clip shows what the prompt says: without ViCLIP's weights (or a "
        "pack encoder that reads text) look at the sheet."
    )
    return (
        "## What this does not show\n\n"
        "The paper publishes neither prompts nor numbers; this repeats its question, not its result. Figures marked "
        "stand-in are not comparable with VBench's. Consistency is to be read beside the amount of motion."
        + alignment
        + "\n"
    )
