"""`simulate`: users, queues, moving links and dying devices over time, under one or several policies."""

from __future__ import annotations

import json as jsonlib
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from moe_pipeline.cli import options as opt
from moe_pipeline.cli.border import results_only

if TYPE_CHECKING:
    from moe_pipeline.edge.simulation_report import SimulationReport

# greedy, priced-greedy, optimal, random, local-only, cloud-only, moe-ppo; the engine names them where another is asked.
Policies = Annotated[
    list[str] | None,
    typer.Option(
        "--policy", help="Placement policy; repeat it to compare several on the same random numbers."
    ),
]


def simulate(
    scenario: opt.Scenario = "campus-mec",
    policy: Policies = None,
    requests: Annotated[int, typer.Option("--requests", help="Requests to follow to their end.")] = 2000,
    seed: Annotated[int, typer.Option("--seed", help="Fixes traffic, channels and faults.")] = 0,
    seeds: Annotated[
        int, typer.Option("--seeds", help="How many seeds, from --seed on; from two on with intervals.")
    ] = 1,
    load: Annotated[
        float | None,
        typer.Option("--load", help="Offered load as a share of the capacity, instead of the scenario's."),
    ] = None,
    trace: Annotated[
        Path | None,
        typer.Option("--trace", help="CSV of arrival times in seconds, instead of Poisson arrivals."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder that gets report, tables and plot of each run.")
    ] = None,
    json: opt.Json = False,
) -> None:
    """Simulate many users of a scenario over time.

    Latency percentiles, misses, energy, utilisation, fairness: all estimated.
    """
    with results_only() as results:
        from moe_pipeline.schema.errors import MoEverseError

        if not 1 <= seeds <= 1000:
            raise MoEverseError("bad_seeds", f"--seeds must be 1 to 1000, got {seeds}.")
        names = list(dict.fromkeys(policy or ["greedy"]))
        reports = run_all(scenario, names, range(seed, seed + seeds), requests, load, trace, out)
        single = len(names) * seeds == 1
        if json and single:
            print(reports[names[0]][0].model_dump_json(indent=1), file=results)
        elif json:
            print(jsonlib.dumps(comparison_data(reports), indent=1, ensure_ascii=False), file=results)
        else:
            print(report_text(reports[names[0]][0]) if single else comparison_text(reports), file=results)


def run_all(
    scenario: str,
    policies: list[str],
    seeds: range,
    requests: int,
    load: float | None,
    trace: Path | None,
    out: Path | None,
) -> dict[str, list[SimulationReport]]:
    """Every policy on every seed; several runs get a folder each inside `out`."""
    import sys

    from moe_pipeline.cli.border import printable
    from moe_pipeline.cli.devices import profiles
    from moe_pipeline.edge.policies import POLICIES
    from moe_pipeline.edge.simulation import simulate as run
    from moe_pipeline.schema.errors import MoEverseError

    for name in policies:  # before hours of work go into the first ones
        if name not in POLICIES:
            raise MoEverseError(
                "unknown_policy", f"There is no policy '{name}'.", f"Known: {', '.join(POLICIES)}."
            )
    library = profiles()  # with this machine, where it was measured
    several = len(policies) * len(seeds) > 1
    reports: dict[str, list[SimulationReport]] = {name: [] for name in policies}
    for name in policies:
        for seed in seeds:
            folder = out / f"{name}-seed-{seed}" if out is not None and several else out
            if several:
                print(printable(f"{name}, seed {seed}"), file=sys.stderr)
            found = run(
                scenario,
                name,
                requests=requests,
                seed=seed,
                out=folder,
                load=load,
                trace=trace,
                profiles=library,
            )
            reports[name].append(found)
    return reports


def report_text(report: SimulationReport) -> str:
    """One run in words and a table of its stations."""
    from moe_pipeline.cli.tables import text_table

    lines = [
        f"{report.scenario} under {report.policy}, seed {report.seed}: {report.requests} requests over "
        f"{report.simulated_s:.0f} simulated seconds ({report.arrivals} arrivals, "
        f"{report.offered_per_s:.3g} a second, load {report.offered_load:.2f}).",
        *overload_note(report),
        f"latency (estimated)  mean {report.mean_ms:.0f} ms, p50 {report.p50_ms:.0f}, p95 {report.p95_ms:.0f}, "
        f"p99 {report.p99_ms:.0f}; of it waiting {report.wait_mean_ms:.0f}, loading weights {report.load_mean_ms:.0f}",
        f"deadline {report.deadline_ms:.0f} ms missed by {100 * report.miss_share:.1f} %; {report.lost} given up, "
        f"{report.decided_again} decided again after a device died, {report.handed_over} handed over",
        f"energy (estimated)   {report.energy_mean_j:.3g} J a request; fairness (Jain) {report.fairness_jain:.3f}",
        f"simulation speed (measured here)  {report.requests_per_wall_s:.0f} requests a second",
        "",
        text_table(
            ["station", "title", "provider", "utilisation %", "requests"],
            [
                [s.station, s.title, s.provider, f"{100 * s.utilisation:.1f}", str(s.requests)]
                for s in report.stations
            ],
        ),
        *report.notes,
        *knowledge_note([report.policy]),
    ]
    return "\n".join(lines)


def overload_note(report: SimulationReport) -> list[str]:
    """Beyond its capacity a deployment has no steady latency: say so before the figures."""
    if report.offered_load <= 1.0:
        return []
    return [
        f"note: at a load of {report.offered_load:.2f} more work arrives than all devices together can do, so queues "
        "grow without end and the latencies below grow with --requests; --load 0.5 shows a steady state."
    ]


def knowledge_note(policies: Iterable[str]) -> list[str]:
    """What the name `optimal` promises, wherever its figures stand."""
    if "optimal" not in policies:
        return []
    return [
        "note: 'optimal' knows the future and looks some thirty requests ahead; it is the true optimum only in runs "
        "short enough to try every sequence, see docs/simulation.md."
    ]


COLUMNS = (
    ("mean ms", "mean_ms", 0, 1.0),
    ("p50 ms", "p50_ms", 0, 1.0),
    ("p95 ms", "p95_ms", 0, 1.0),
    ("p99 ms", "p99_ms", 0, 1.0),
    ("missed %", "miss_share", 1, 100.0),
    ("energy J", "energy_mean_j", 2, 1.0),
    ("fairness", "fairness_jain", 3, 1.0),
)


def comparison_text(reports: dict[str, list[SimulationReport]]) -> str:
    """Policies beside each other: means over seeds with 95 % intervals where there are two seeds or more."""
    from moe_pipeline.cli.tables import text_table
    from moe_pipeline.edge.simulation_report import compared

    rows = []
    for policy, figures in compared(reports).items():
        cells = []
        for _, name, digits, scale in COLUMNS:
            mean, half = figures[name]
            shown = f"{scale * mean:.{digits}f}"
            cells.append(shown if half != half else f"{shown} ± {scale * half:.{digits}f}")
        rows.append([policy, *cells])
    first = next(iter(reports.values()))
    head = (
        f"{first[0].scenario}: {first[0].requests} requests, {len(first)} seed(s), the same for every policy."
    )
    notes = "".join(f"{note}\n" for note in [*overload_note(first[0]), *knowledge_note(reports)])
    return f"{head} All figures are estimates.\n{notes}" + text_table(
        ["policy", *(c[0] for c in COLUMNS)], rows
    )


def comparison_data(reports: dict[str, list[SimulationReport]]) -> dict[str, object]:
    """All reports, and per policy and figure the mean and the half width of its 95 % interval (null below 2)."""
    from moe_pipeline.edge.simulation_report import compared

    intervals = {
        policy: {
            name: {"mean": mean, "half_width": None if half != half else half}
            for name, (mean, half) in figures.items()
        }
        for policy, figures in compared(reports).items()
    }
    return {
        "intervals": intervals,
        "reports": [report.model_dump(mode="json") for runs in reports.values() for report in runs],
    }
