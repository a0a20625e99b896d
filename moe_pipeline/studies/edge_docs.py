"""Writes the tables of docs/edge.md from the profiles and the calibration reports.

python -m moe_pipeline.studies.edge_docs [--check]
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from moe_pipeline.edge.profiles import ProfileLibrary, load_profiles, quantities
from moe_pipeline.schema.profiles import Quantity

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = ROOT / "docs" / "edge.md"
MARKS = {"nominal": "n", "measured": "m", "derived": "d", "assumption": "a"}


def number(quantity: Quantity | None) -> str:
    """A value with the letter of its kind, such as `102 n`."""
    return "" if quantity is None else f"{quantity.value:g} {MARKS[quantity.kind]}"


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A markdown table."""
    lines = ["| " + " | ".join(head) + " |", "| " + " | ".join("---" for _ in head) + " |"]
    return "\n".join(lines + ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows])


def devices(library: ProfileLibrary) -> str:
    """All shipped devices."""
    head = (
        "id",
        "device",
        "fp16 / bf16 TFLOP/s",
        "fp32",
        "8 bit",
        "memory GB",
        "reserved",
        "GB/s",
        "max W",
        "idle W",
        "battery Wh",
    )
    rows = []
    for device in library.devices.values():
        peak = device.peak_tflops
        half = peak.get("fp16") or peak.get("bf16")
        rows.append(
            (
                f"`{device.id}`",
                device.title,
                number(half),
                number(peak.get("fp32")),
                number(peak.get("int8") or peak.get("fp8")),
                number(device.memory_gb),
                number(device.reserved_gb),
                number(device.memory_gbs),
                number(device.power_max_w),
                number(device.power_idle_w),
                number(device.battery_wh),
            )
        )
    modes = [
        f"`{device.id}`: "
        + ", ".join(f"{m.title} {number(m.peak_tflops['fp16'])} TFLOP/s" for m in device.power_modes)
        for device in library.devices.values()
        if device.power_modes
    ]
    return table(head, rows) + "\n\nPower modes: " + "; ".join(modes) + "."


def networks(library: ProfileLibrary) -> str:
    """All shipped networks."""
    head = (
        "id",
        "network",
        "down Mbit/s",
        "up Mbit/s",
        "RTT ms",
        "jitter ms",
        "loss",
        "down nJ/bit",
        "up nJ/bit",
    )
    return table(
        head,
        (
            (
                f"`{n.id}`",
                n.title,
                number(n.down_mbps),
                number(n.up_mbps),
                number(n.rtt_ms),
                number(n.jitter_ms),
                number(n.loss),
                number(n.down_nj_per_bit),
                number(n.up_nj_per_bit),
            )
            for n in library.networks.values()
        ),
    )


def scenarios(library: ProfileLibrary) -> str:
    """All shipped scenarios."""
    head = ("id", "what", "devices", "deadline")
    return table(
        head,
        (
            (
                f"`{s.id}`",
                s.description,
                "; ".join(node.title or node.profile for node in s.nodes),
                f"{s.deadline_ms.value / 1e3:g} s" if s.deadline_ms else "none",
            )
            for s in library.scenarios.values()
        ),
    )


def kinds(library: ProfileLibrary) -> str:
    """How many numbers of each kind the profiles hold."""
    counts = dict.fromkeys(MARKS, 0)
    for group in (library.devices, library.networks, library.scenarios):
        for profile in group.values():
            for _, quantity in quantities(profile):
                counts[quantity.kind] += 1
    total = sum(counts.values())
    words = {
        "nominal": "vendors' figures",
        "measured": "measured",
        "derived": "derived by a formula in the file",
        "assumption": "assumptions, each with its reason",
    }
    shares = [f"{counts[kind]} are {words[kind]} ({MARKS[kind]})" for kind in MARKS]
    return f"Of {total} numbers {', '.join(shares[:-1])} and {shares[-1]}."


def _report(name: str) -> dict[str, Any]:
    return json.loads((ROOT / "docs" / "calibration" / f"{name}.json").read_text(encoding="utf-8"))


def _summary_rows(report: dict[str, Any]) -> list[tuple[str, ...]]:
    figures = report["summary"]
    others = report["other_splits"]
    return [
        (
            "held out",
            f"{figures['held_out_points']:.0f}",
            f"{figures['held_out_median']:.1%}",
            f"{figures['held_out_worst']:.1%}",
        ),
        (
            "fitted",
            f"{figures['fitted_points']:.0f}",
            f"{figures['fitted_median']:.1%}",
            f"{figures['fitted_worst']:.1%}",
        ),
        *(
            (
                f"held out, {others['count']} other random halves: {words}",
                "",
                f"{others['median'][name]:.1%}",
                f"{others['worst'][name]:.1%}",
            )
            for name, words in (("p50", "middle"), ("p95", "95 % stay below"), ("max", "highest"))
        ),
    ]


def this_machine(library: ProfileLibrary) -> str:
    """The calibration on this machine."""
    report = _report("this-machine")
    setting, model = report["setting"], report["fit"]
    peaks = ", ".join(f"{value * 1e3:.0f} GFLOP/s in {name}" for name, value in setting["tflops"].items())
    parameters = "; ".join(
        f"{group}: eta {model['eta'][group]:.2f}, w_half {model['half_work_ms'][group]:.1f} ms of the peak"
        for group in sorted(model["eta"])
    )
    return (
        f"Machine: {setting['threads']} threads, {setting['cpu_capability']}, torch {setting['torch']}; matrix product "
        f"{peaks}; copy {setting['memory_gbs']:.0f} GB/s. Fitted: {parameters}; eta_m {model['eta_memory']:.2f}, "
        f"t0 {model['launch_ms']:.2f} ms.\n\n"
        + table(("half", "configurations", "median error", "worst"), _summary_rows(report))
        + f"\n\nMedian at most 12 % and worst at most 30 %: both hold in {report['other_splits']['within']:.0%} of the "
        "other halves."
    )


def public(library: ProfileLibrary) -> str:
    """The calibration against published benchmarks, point by point."""
    report = _report("public")
    model = report["fit"]
    shared = next(iter(model["half_work_ms"].values()))
    eta = ", ".join(f"{group} {value:.2f}" for group, value in sorted(model["eta"].items()))
    rows = [
        (
            point["id"],
            point["group"],
            f"{point['flops'] / 1e12:.3g}",
            f"{point['calls']:.1f}",
            f"{point['measured_ms'] / 1e3:.3g}",
            f"{point['predicted_ms'] / 1e3:.3g}",
            f"{point['predicted_ms'] / point['measured_ms'] - 1:+.0%}",
            "held out" if point["held_out"] else "fitted",
        )
        for point in report["points"]
    ]
    outliers = [f"- {item['id']} ({item['error']:+.0%}): {item['why']}." for item in report["outliers"]]
    unused = [f"- {item['id']}: {item['reason']}." for item in report["left_out"]]
    return "\n\n".join(
        (
            f"Fitted eta: {eta}; one w_half for all, {shared:.1f} ms of the peak.",
            table(("half", "points", "median error", "worst"), _summary_rows(report)),
            f"A median of at most 30 % holds in {report['other_splits']['within']:.0%} of the other halves.",
            table(
                ("point", "class", "TFLOP a call", "calls", "published s", "predicted s", "error", "half"),
                rows,
            ),
            "Further off than 30 %:",
            "\n".join(outliers),
            "Not used:",
            "\n".join(unused),
        )
    )


def placement(library: ProfileLibrary) -> str:
    """The solver's check."""
    report = _report("placement")
    tally, large, small = (
        report["brute_force"],
        report["cpu_ms_8_experts_16_devices"],
        report["cpu_ms_2_experts_6_devices"],
    )
    rows = [
        ("8 experts, 16 devices", *(f"{large[k]:.0f} ms" for k in large)),
        ("2 experts, 6 devices", *(f"{small[k]:.0f} ms" for k in small)),
    ]
    return (
        f"{tally['equal']} of {tally['instances']} random instances equal brute force "
        f"({tally['feasible']} feasible; CP-SAT was needed in {tally['searched_by_cp_sat']}, the others are "
        "hand-overs, which are searched by blocks, reach their bound, or have no solution).\n\n"
        + table(("whole placement, CPU time", *large), rows)
        + "\n\n8 experts on 16 devices over random scenarios: device, tree of links, load, free memory, cached "
        "weights and the size of the experts are drawn. CPU time of one thread on a two-core machine, "
        "the lower of two runs.\n\n"
        + table(
            ("objective", "scenarios", "without a placement", "not proven", "p50", "p95", "max"),
            [
                (
                    name,
                    f"{row['instances']:.0f}",
                    f"{row['infeasible']:.0f}",
                    f"{row['unproven']:.0f}",
                    *(f"{row[k]:.0f} ms" for k in ("p50", "p95", "max")),
                )
                for name, row in report["cpu_ms_over_random_scenarios"].items()
            ],
        )
    )


SECTIONS: dict[str, Callable[[ProfileLibrary], str]] = {
    "devices": devices,
    "networks": networks,
    "scenarios": scenarios,
    "kinds": kinds,
    "this-machine": this_machine,
    "public": public,
    "placement": placement,
}


def filled(text: str, library: ProfileLibrary) -> str:
    """The document with every generated part written anew."""
    for name, build in SECTIONS.items():
        pattern = re.compile(rf"(<!-- generated: {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        if not pattern.search(text):
            raise ValueError(f"docs/edge.md has no place for '{name}'")
        body = build(library)
        text = pattern.sub(lambda match, body=body: f"{match[1]}{body}\n{match[2]}", text)  # type: ignore[misc]
    return text


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes the document, or with --check says whether it is current."""
    parser = argparse.ArgumentParser(prog="python -m moe_pipeline.studies.edge_docs")
    parser.add_argument("--check", action="store_true")
    chosen = parser.parse_args(arguments)
    before = DOCUMENT.read_text(encoding="utf-8")
    after = filled(before, load_profiles())
    if chosen.check:
        if before != after:
            print(
                "docs/edge.md is not current: run python -m moe_pipeline.studies.edge_docs", file=sys.stderr
            )
        return int(before != after)
    DOCUMENT.write_text(after, encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
