"""`plan`: plan, gate and placement of a prompt, without making the clip."""

from __future__ import annotations

import json as jsonlib
from typing import TYPE_CHECKING, Any

from moe_pipeline.cli import options as opt
from moe_pipeline.cli.border import results_only

if TYPE_CHECKING:
    from moe_pipeline.schema.placement import Placement


def plan(
    prompt: opt.Prompt,
    scenario: opt.Scenario = "campus-mec",
    objective: opt.Objective = "latency",
    kill: opt.Killed = None,
    bandwidth: opt.Bandwidth = 1.0,
    steps: opt.Steps = None,
    top_k: opt.TopK = None,
    mode: opt.Mode = "moe",
    frames: opt.Frames = None,
    width: opt.Width = None,
    height: opt.Height = None,
    pack: opt.PackFolder = None,
    json: opt.Json = False,
) -> None:
    """Plan, gate and placement of a prompt, without a clip.

    Says which experts a prompt needs, where each would run, what that is estimated to cost, and why.
    """
    with results_only() as results:
        request = opt.scene_request(
            prompt=prompt,
            scenario=scenario,
            objective=objective,
            steps=steps,
            top_k=top_k,
            mode=mode,
            frames=frames,
            width=width,
            height=height,
        )
        check_conditions(bandwidth)
        opt.check(request, pack)
        pipeline = opt.open_pipeline(pack, scenario=scenario)
        scene = pipeline.plan(request)
        gate = pipeline.gate(request)
        notes = pipeline.notes(request, scene, gate)
        placement = pipeline.place(request, killed=frozenset(kill or ()), bandwidth_scale=bandwidth)
        if json:
            answer: dict[str, Any] = {
                "request": pipeline.resolve(request).model_dump(mode="json"),
                "plan": scene.model_dump(mode="json"),
                "gate": gate.model_dump(mode="json"),
                "notes": list(notes),
                **placement.model_dump(mode="json"),
            }
            print(jsonlib.dumps(answer, indent=1, ensure_ascii=False), file=results)
            return
        from moe_pipeline.cli.watch import weights_text

        for part in scene.subtasks:
            print(f"{part.role:<10} '{part.text}'", file=results)
        print(f"gate       {weights_text(gate.weights)} (coverage {gate.coverage:.2f})", file=results)
        for note in notes:
            print(f"note       {note}", file=results)
        print(placement_report(placement), file=results)


def check_conditions(bandwidth: float) -> None:
    """The same range as a running request allows."""
    from moe_pipeline.schema.errors import MoEverseError

    if not 0.01 <= bandwidth <= 10:
        raise MoEverseError("bad_bandwidth", f"--bandwidth must be 0.01 to 10, got {bandwidth:g}.")


def placement_report(placement: Placement) -> str:
    """Assignments, stages, totals, alternatives and reasons of a placement; every figure is an estimate."""
    from moe_pipeline.cli.tables import text_table

    rows = [
        [
            assignment.expert,
            assignment.device_title,
            f"{assignment.estimated_ms.compute:.1f}",
            f"{assignment.estimated_ms.network:.1f}",
            f"{assignment.estimated_ms.total:.1f}",
            f"{assignment.energy_j:.3g}",
            assignment.reason,
        ]
        for assignment in placement.assignments
    ]
    rows += [
        [
            stage.stage,
            stage.device_title,
            f"{stage.estimated_ms.compute:.1f}",
            f"{stage.estimated_ms.network:.1f}",
            f"{stage.estimated_ms.total:.1f}",
            f"{stage.energy_j:.3g}",
            stage.reason,
        ]
        for stage in placement.stages
    ]
    totals = placement.totals
    head = ["expert or stage", "device", "compute ms", "network ms", "total ms", "energy J", "why"]
    lines = [
        f"\nPlacement in {placement.scenario}, least {placement.objective} "
        f"({placement.solver}, solved in {placement.solve_ms:.0f} ms here). All figures below are estimates.",
        f"Whole request: {totals.latency.total:.1f} ms = {totals.latency.compute:.1f} compute + "
        f"{totals.latency.network:.1f} network; {totals.energy.total:.3g} J; "
        f"{totals.transferred_bytes / 1e6:.2f} MB over networks.",
        f"Execution: {placement.shape_reason}",
        "",
        text_table(head, rows),
    ]
    if placement.rejected:
        lines += ["", "Not used:", *(f"  {rejection.reason}" for rejection in placement.rejected)]
    if placement.baselines:
        lines += ["", "Simpler policies under the same cost model:"]
        lines += [
            f"  {base.policy}: {base.total_ms:.1f} ms, {base.energy_j:.3g} J. {base.reason}"
            if base.total_ms is not None and base.energy_j is not None
            else f"  {base.policy}: {base.reason}"
            for base in placement.baselines
        ]
    if placement.calibration:
        lines += ["", placement.calibration]
    return "\n".join(lines)
