"""The table of all scenarios and policies in docs/simulation.md, from what `placement_study scenarios` found."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from moe_pipeline.edge.simulation_report import SimulationReport, interval

DOCUMENT = Path("docs/simulation.md")
MARKED = re.compile(r"(<!-- generated: scenarios -->\n).*?(<!-- end -->)", re.DOTALL)


def utilisation(reports: Sequence[SimulationReport]) -> dict[str, list[float]]:
    """Mean over the shared stations and that of the busiest one, each [mean, half width] over the runs."""
    shared = [[s.utilisation for s in report.stations[:-1]] for report in reports]
    return {
        "utilisation_mean": list(interval([float(np.mean(run)) for run in shared])),
        "utilisation_busiest": list(interval([max(run) for run in shared])),
    }


def scenario_table(result: dict[str, Any]) -> str:
    """Markdown: one row for each scenario and policy, the highest utility first."""
    lines = [
        "| scenario | policy | utility | p50 s | p95 s | p99 s | late or lost | J a request "
        "| utilisation: mean, busiest | fairness |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for scenario, policies in result["scenarios"].items():
        for policy in sorted(policies, key=lambda name: -policies[name]["utility_mean"][0]):
            f = {name: pair[0] for name, pair in policies[policy].items()}
            half = policies[policy]["utility_mean"][1]
            lines.append(
                f"| `{scenario}` | `{policy}` | {f['utility_mean']:.2f} ± {half:.2f} | {f['p50_ms'] / 1e3:.3g} "
                f"| {f['p95_ms'] / 1e3:.3g} | {f['p99_ms'] / 1e3:.3g} | {100 * f['miss_share']:.1f} % "
                f"| {f['energy_mean_j']:.3g} "
                f"| {100 * f['utilisation_mean']:.0f} %, {100 * f['utilisation_busiest']:.0f} % "
                f"| {f['fairness_jain']:.3f} |"
            )
    return "\n".join(lines)


def write_scenarios(result: dict[str, Any], document: Path = DOCUMENT) -> None:
    """Puts the table between its marks in the document."""
    before = document.read_text(encoding="utf-8")
    if not MARKED.search(before):
        raise ValueError(f"{document} has no place for the table of scenarios")
    after = MARKED.sub(lambda match: f"{match[1]}{scenario_table(result)}\n{match[2]}", before)
    document.write_text(after, encoding="utf-8")
