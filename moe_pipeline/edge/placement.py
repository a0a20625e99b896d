"""Decides where each expert runs, in which shape, and says why."""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

from moe_pipeline.edge.baselines import baselines
from moe_pipeline.edge.cost import SHAPES, CostTables, Migration, build_problem, build_tables, migration
from moe_pipeline.edge.explain import (
    assignment_reason,
    infeasible,
    joules,
    memory_by_node,
    milliseconds,
    rejections,
)
from moe_pipeline.edge.network import transfer
from moe_pipeline.edge.problem import ENERGY, LATENCY, Problem, Weights, balanced, single_weights
from moe_pipeline.edge.profiles import ProfileLibrary
from moe_pipeline.edge.solver import Solution, solve
from moe_pipeline.edge.ties import quickest_twin
from moe_pipeline.edge.timeline import timeline
from moe_pipeline.schema.errors import MoEverseError
from moe_pipeline.schema.placement import (
    Assignment,
    DeviceLoad,
    EnergySplit,
    LatencySplit,
    Objective,
    Placement,
    Shape,
    ShapeOption,
    StageHost,
    Totals,
)
from moe_pipeline.schema.profiles import EdgeScenario
from moe_pipeline.schema.workload import StageWorkloads

SHAPE_WORDS: dict[str, str] = {
    "exchange_every_step": "exchange of predictions at every step",
    "hand_over_latents": "hand-over of latents from expert to expert",
    "run_alone_merge_once": "experts alone with one merge at the end",
}
DEFAULT_TOLERANCE = 4.0


def place(
    workloads: StageWorkloads,
    experts: Sequence[str],
    scenario: EdgeScenario,
    profiles: ProfileLibrary,
    *,
    objective: Objective = "latency",
    steps: int,
    shares: Sequence[int] | None = None,
    killed: frozenset[str] = frozenset(),
    bandwidth_scale: float = 1.0,
    latency_share: float = 0.5,
    shape: Shape | Literal["auto"] = "auto",
    deadline_ms: float | None = None,
) -> Placement:
    """The optimal placement of `experts` in `scenario`.

    Args:
        workloads: what each stage computes and sends, see `moe_pipeline.workload`.
        experts: names of the active experts, in the order of a hand-over (high sigma first).
        objective: `latency`, `energy`, or `balanced`: the sum of both relative to their own optima,
            weighted by `latency_share` and 1 - `latency_share`.
        steps: denoising steps, at least 1.
        shares: how many of them each expert takes in a hand-over; None shares them out evenly.
        killed: node ids that are switched off.
        bandwidth_scale: factor on the throughput of every link but the loopback, above 0.
        shape: `auto` decides between the three execution shapes; a name forces one.
        deadline_ms: overrides the scenario's.

    Raises:
        MoEverseError: `unknown_device`, `bad_bandwidth`, `bad_steps`, `no_experts`, `infeasible`.
    """
    _check(experts, scenario, steps, shares, killed, bandwidth_scale, latency_share)
    import ortools.sat.python.cp_model  # noqa: F401  (loading the library once is not solving)

    began = time.perf_counter()
    tables = build_tables(
        workloads,
        experts,
        scenario,
        profiles,
        steps=steps,
        shares=shares,
        killed=killed,
        bandwidth_scale=bandwidth_scale,
        deadline_ms=deadline_ms,
    )
    candidates = [_best_of(tables, name, objective, latency_share) for name in SHAPES]
    chosen, reason = _choose(tables, candidates, objective, shape)
    problem, solution, weights = chosen
    return _compose(tables, problem, solution, weights, objective, reason, candidates, bandwidth_scale, began)


Candidate = tuple[Problem, Solution | None, Weights]
Found = tuple[Problem, Solution, Weights]


def _check(
    experts: Sequence[str],
    scenario: EdgeScenario,
    steps: int,
    shares: Sequence[int] | None,
    killed: frozenset[str],
    scale: float,
    share: float,
) -> None:
    known = [node.id for node in scenario.nodes]
    for name in sorted(killed):
        if name not in known:
            raise MoEverseError(
                "unknown_device",
                f"Scenario '{scenario.id}' has no device '{name}'.",
                f"Known: {', '.join(known)}.",
            )
    if not experts:
        raise MoEverseError("no_experts", "There is no expert to place.", "Name at least one active expert.")
    if len(set(experts)) != len(experts):
        raise MoEverseError("no_experts", "An expert is named twice.", "Name each active expert once.")
    if steps < 1:
        raise MoEverseError("bad_steps", f"{steps} denoising steps cannot be placed.", "Ask for at least 1.")
    if shares is not None and (len(shares) != len(experts) or sum(shares) != steps or min(shares) < 0):
        raise MoEverseError(
            "bad_steps",
            f"Shares of {', '.join(map(str, shares))} steps do not make {steps} for {len(experts)} experts.",
            "Give each expert its number of steps, or leave the shares out.",
        )
    if not 0 < scale < 1e6:
        raise MoEverseError(
            "bad_bandwidth",
            f"A bandwidth scale of {scale} is not possible.",
            "Give a factor above 0; 1.0 leaves the networks as they are.",
        )
    if not 0 < share < 1:
        raise MoEverseError(
            "bad_share",
            f"A latency share of {share} is not possible.",
            "Give a number between 0 and 1, or choose the objective latency or energy.",
        )


def _best_of(tables: CostTables, shape: Shape, objective: Objective, share: float) -> Candidate:
    """The optimum of one shape."""
    problem = build_problem(tables, shape)
    if objective != "balanced":
        weights = single_weights(objective)
        found = solve(problem, weights)
        if found is not None and objective == "energy":
            found = quickest_twin(problem, found, weights)
        return problem, found, weights
    quickest, thriftiest = solve(problem, LATENCY), solve(problem, ENERGY)
    if quickest is None or thriftiest is None:
        return problem, None, LATENCY
    weights = balanced(quickest.evaluation.latency_us, thriftiest.evaluation.energy_uj, share)
    return problem, solve(problem, weights), weights


def exact_shape(workloads: StageWorkloads) -> Shape:
    """The shape that computes the same mixture as one machine would."""
    return "hand_over_latents" if workloads.noise_level_experts else "exchange_every_step"


def _choose(
    tables: CostTables, candidates: list[Candidate], objective: Objective, wanted: Shape | Literal["auto"]
) -> tuple[Found, str]:
    """The exact shape, unless it is infeasible or an approximate one is better by more than the tolerance."""
    by_shape = {problem.shape: (problem, solution, weights) for problem, solution, weights in candidates}
    exact = exact_shape(tables.workloads)
    if wanted != "auto":
        problem, solution, weights = by_shape[wanted]
        if solution is None:
            raise MoEverseError("infeasible", *infeasible(tables, problem))
        return (problem, solution, weights), f"Asked for: {SHAPE_WORDS[wanted]}."
    feasible: list[Found] = [(p, s, w) for p, s, w in candidates if s is not None]
    if not feasible:
        raise MoEverseError("infeasible", *infeasible(tables, by_shape[exact][0]))

    def price(found: Found) -> float:
        result = found[1].evaluation
        return result.energy_uj if objective == "energy" else result.latency_us

    first = by_shape[exact]
    cheapest = min(feasible, key=price)
    if first[1] is None:
        return cheapest, (
            f"{SHAPE_WORDS[cheapest[0].shape].capitalize()}: the exact {SHAPE_WORDS[exact]} has no "
            f"placement that meets the constraints, this approximation does."
        )
    found: Found = (first[0], first[1], first[2])
    shown = _price_words(found, objective)
    if len(tables.experts) == 1:
        return found, f"One active expert: nothing to exchange, {shown}."
    tolerance = (
        tables.scenario.shape_tolerance.value if tables.scenario.shape_tolerance else DEFAULT_TOLERANCE
    )
    if price(found) > tolerance * price(cheapest):
        return cheapest, (
            f"{SHAPE_WORDS[cheapest[0].shape].capitalize()}: {_price_words(cheapest, objective)}, where the exact "
            f"{SHAPE_WORDS[exact]} takes {shown}, more than {tolerance:g} times as much; it is an approximation."
        )
    others = ", ".join(
        f"{SHAPE_WORDS[f[0].shape]} {_price_words(f, objective)}" for f in feasible if f[0].shape != exact
    )
    return found, (
        f"{SHAPE_WORDS[exact].capitalize()}: it computes the mixture exactly in {shown}, within "
        f"{tolerance:g} times of the approximations ({others})."
    )


def _price_words(found: Found, objective: Objective) -> str:
    result = found[1].evaluation
    return joules(result.energy_uj / 1e6) if objective == "energy" else milliseconds(result.latency_us / 1e3)


def _compose(
    tables: CostTables,
    problem: Problem,
    solution: Solution,
    weights: Weights,
    objective: Objective,
    reason: str,
    candidates: list[Candidate],
    bandwidth_scale: float,
    began: float,
) -> Placement:
    rejected = rejections(tables, problem, solution, weights, objective)
    exact = exact_shape(tables.workloads)
    mixture = next(p for p, _, _ in candidates if p.shape == exact)
    return Placement(
        scenario=tables.scenario.id,
        objective=objective,
        solver=f"{solution.solver}, {'proven optimal' if solution.optimal else 'best found within the limit'}",
        optimal=solution.optimal,
        steps=tables.steps,
        shape=problem.shape,
        shape_reason=reason,
        shapes=tuple(_shape_option(p, s, exact) for p, s, _ in candidates),
        assignments=tuple(_assignment(tables, problem, solution, e) for e in range(len(problem.experts))),
        stages=tuple(_stages(tables, problem, solution)),
        rejected=tuple(rejected),
        timeline=tuple(timeline(tables, problem, solution)),
        devices=tuple(_devices(tables, problem, solution)),
        totals=_totals(tables, problem, solution),
        baselines=tuple(baselines(tables, mixture, weights)),
        killed=tuple(sorted(tables.killed)),
        bandwidth_scale=bandwidth_scale,
        calibration=CALIBRATION_NOTE,
        solve_ms=round((time.perf_counter() - began) * 1e3, 3),
    )


CALIBRATION_NOTE = (
    "Estimated by the cost model, not measured. Its median error on held-out points, in the middle of 200 random "
    "splits, is 3% against this project's own denoiser on a two-core machine and 13% against published benchmarks "
    "(docs/edge.md)."
)


def _shape_option(problem: Problem, solution: Solution | None, exact: Shape) -> ShapeOption:
    if solution is None:
        return ShapeOption(
            shape=problem.shape,
            exact=problem.shape == exact,
            feasible=False,
            reason=f"No placement meets the constraints: {SHAPE_WORDS[problem.shape]}.",
        )
    result = solution.evaluation
    return ShapeOption(
        shape=problem.shape,
        exact=problem.shape == exact,
        feasible=True,
        total_ms=round(result.latency_us / 1e3, 3),
        energy_j=round(result.energy_uj / 1e6, 6),
        reason=f"{SHAPE_WORDS[problem.shape].capitalize()}, {milliseconds(result.latency_us / 1e3)}, "
        f"{joules(result.energy_uj / 1e6)}.",
    )


def _expert_split(problem: Problem, solution: Solution, expert: int) -> tuple[int, int]:
    """Compute and network microseconds of one expert on its own node."""
    anchor, node = solution.anchor, solution.assignment[expert]
    compute = int(problem.compute_us[expert, node])
    network = int(problem.load_us[expert, node]) + int(problem.conditioning_us[anchor.text, node])
    if problem.shape == "hand_over_latents":
        if expert:
            network += int(problem.handover_us[solution.assignment[expert - 1], node])
    else:
        network += int(
            problem.serial_us[anchor.coordinator, node] + problem.delay_us[anchor.coordinator, node]
        )
    return compute, network


def _expert_energy(problem: Problem, solution: Solution, expert: int) -> int:
    """Microjoules of one expert; what its node shares with other experts is split evenly among them."""
    anchor, node = solution.anchor, solution.assignment[expert]
    own = int(problem.compute_uj[expert, node] + problem.load_uj[expert, node])
    conditioning = int(problem.conditioning_uj[anchor.text, node])
    if problem.shape == "hand_over_latents":
        before = solution.assignment[expert - 1] if expert else node
        return own + conditioning + int(problem.handover_uj[before, node])
    shared = conditioning + int(problem.exchange_uj[anchor.coordinator, node])
    return own + shared // solution.assignment.count(node)


def _assignment(tables: CostTables, problem: Problem, solution: Solution, expert: int) -> Assignment:
    node = solution.assignment[expert]
    site = tables.sites[node]
    compute, network = _expert_split(problem, solution, expert)
    move = migration(tables, node) or Migration("cached", 0.0, 0.0, 0)
    return Assignment(
        expert=problem.experts[expert],
        device=site.node.id,
        device_title=site.title,
        profile=site.device.id,
        estimated_ms=LatencySplit.of(compute / 1e3, network / 1e3),
        energy_j=round(_expert_energy(problem, solution, expert) / 1e6, 6),
        precision=site.expert.precision if site.expert else "fp32",
        memory_bytes=int(problem.weight_kb[expert, node] + problem.working_kb[node]) * 1000,
        migration=move.kind,  # type: ignore[arg-type]
        reason=assignment_reason(tables, problem, solution, expert),
    )


def _stages(tables: CostTables, problem: Problem, solution: Solution) -> list[StageHost]:
    anchor, work = solution.anchor, tables.workloads
    combines = 1 if problem.shape == "run_alone_merge_once" else tables.steps
    privacy = tables.scenario.raw_prompt_stays_on_user_device
    text, centre, decoder = (tables.sites[i] for i in (anchor.text, anchor.coordinator, anchor.decoder))
    clip = tables.path(anchor.decoder, tables.user)
    sending_ms = transfer(work.export.output_bytes, clip).total_ms if clip else 0.0
    hosts = [
        (
            "text",
            text,
            anchor.text_compute_us,
            anchor.text_network_us,
            text.text.energy_j if text.text else 0.0,
            "the raw prompt stays on the user's device"
            if privacy and anchor.text == tables.user
            else "the cheapest node that may read the prompt",
        ),
        (
            "exchange",
            centre,
            anchor.combine_us,
            0,
            combines * centre.exchange.energy_j if centre.exchange else 0.0,
            "the latents live here: the sum of its messages and its own steps is the least",
        ),
        (
            "decode",
            decoder,
            anchor.tail_compute_us,
            anchor.tail_network_us,
            (decoder.decode.energy_j if decoder.decode else 0.0)
            + (decoder.export.energy_j if decoder.export else 0.0),
            f"decoding and sending the clip ({milliseconds(sending_ms)}) is cheapest here",
        ),
    ]
    return [
        StageHost(
            stage=name,
            device=site.node.id,
            device_title=site.title,  # type: ignore[arg-type]
            estimated_ms=LatencySplit.of(compute / 1e3, network / 1e3),
            energy_j=round(energy, 6),
            reason=f"{site.title}: {why}.",
        )
        for name, site, compute, network, energy, why in hosts
    ]


def _devices(tables: CostTables, problem: Problem, solution: Solution) -> list[DeviceLoad]:
    needed = memory_by_node(problem, solution)
    loads = []
    for index, site in enumerate(tables.sites):
        mine = [e for e, d in enumerate(solution.assignment) if d == index]
        stages = [host for host in _stages(tables, problem, solution) if host.device == site.node.id]
        busy = sum(int(problem.compute_us[e, index]) for e in mine) / 1e3
        loads.append(
            DeviceLoad(
                device=site.node.id,
                device_title=site.title,
                profile=site.device.id,
                category=site.device.category,
                experts=tuple(problem.experts[e] for e in mine),
                busy_ms=round(busy + sum(host.estimated_ms.compute for host in stages), 3),
                energy_j=round(
                    sum(int(problem.compute_uj[e, index]) for e in mine) / 1e6
                    + sum(host.energy_j for host in stages),
                    6,
                ),
                memory_needed_bytes=needed.get(index, 0),
                memory_free_bytes=site.free_bytes,
                available=site.node.available and site.node.id not in tables.killed,
            )
        )
    return loads


def _totals(tables: CostTables, problem: Problem, solution: Solution) -> Totals:
    result = solution.evaluation
    compute, radio = result.compute_uj / 1e6, result.radio_uj / 1e6
    deadline = tables.deadline_ms
    return Totals(
        latency=LatencySplit.of(result.compute_us / 1e3, result.network_us / 1e3),
        energy=EnergySplit(compute=compute, radio=radio, total=result.energy_uj / 1e6),
        transferred_bytes=_transferred(tables, problem, solution),
        meets_deadline=deadline is None or result.latency_us <= round(deadline * 1e3),
        deadline_ms=deadline,
    )


def _transferred(tables: CostTables, problem: Problem, solution: Solution) -> int:
    """Bytes that cross a network, a message over several hops counted once."""
    work, anchor = tables.workloads, solution.anchor
    nodes = set(solution.assignment)
    total = work.prompt_bytes if anchor.text != tables.user else 0
    total += sum(work.text.output_bytes for node in nodes if node != anchor.text)
    for node in solution.assignment:
        move = migration(tables, node)
        total += move.size_bytes if move else 0
    if problem.shape == "hand_over_latents":
        total += sum(work.latent_bytes for a, b in pairwise(solution.assignment) if a != b)
    else:
        rounds = tables.steps if problem.shape == "exchange_every_step" else 1
        message = work.expert_step.input_bytes + work.expert_step.output_bytes
        total += sum(rounds * message for node in nodes if node != anchor.coordinator)
    total += work.latent_bytes if anchor.decoder != anchor.coordinator else 0
    return total + (work.export.output_bytes if anchor.decoder != tables.user else 0)
