"""What is decided before the first denoising step: which experts work, where they would run, what deserves a note."""

from __future__ import annotations

import time
from collections.abc import Iterator

from moe_pipeline.edge import ProfileLibrary, place
from moe_pipeline.engine import BaseEngine, Engine, HubEngine
from moe_pipeline.gating.routing import route, single
from moe_pipeline.interfaces import TextFeatures
from moe_pipeline.prompting.complete import complete
from moe_pipeline.prompting.decompose import decompose
from moe_pipeline.recording import since_ms
from moe_pipeline.schema.gate import GateDecision
from moe_pipeline.schema.placement import Placement
from moe_pipeline.schema.plan import ScenePlan
from moe_pipeline.schema.request import ResolvedRequest
from moe_pipeline.workloads import request_workloads


def plan_request(engine: BaseEngine, request: ResolvedRequest) -> ScenePlan:
    """The parts of the prompt, with the details filled in that it leaves open, where pack and request want that."""
    plan = decompose(request.prompt)
    return complete(plan, engine.manifest.details, request.seed) if request.fill_details else plan


def route_request(
    engine: BaseEngine, request: ResolvedRequest, plan: ScenePlan, timing: dict[str, float] | None = None
) -> tuple[GateDecision, TextFeatures, list[float]]:
    """Routing, features of what the experts read (batch of one) and noise levels; fills `timing` where given.

    The gate and its coverage look at what was typed.
    """
    manifest = engine.manifest
    began = time.perf_counter()
    parts = [part.text for part in plan.subtasks]
    texts = list(dict.fromkeys([plan.reading, request.prompt, *parts]))  # often the same text: encoded once
    features = engine.encoder(texts)
    encoded = time.perf_counter()
    text = TextFeatures(features.tokens[:1], features.mask[:1], features.pooled[:1])
    sigmas = engine.noise_levels(request.steps)
    decision = route(
        engine.gate,
        features.pooled[[texts.index(part) for part in parts]],
        plan,
        manifest.expert_ids(),
        sigmas[:-1],
        request.top_k,
        features.pooled[texts.index(request.prompt)],
    )
    if request.mode == "single":
        decision = single(manifest.generalist.id, sigmas[:-1], decision.coverage)
    if timing is not None:
        timing["encode_prompt_ms"] = (encoded - began) * 1000.0
        timing["gate_ms"] = since_ms(encoded)
    return decision, text, sigmas


def place_request(
    engine: Engine | HubEngine,
    profiles: ProfileLibrary,
    request: ResolvedRequest,
    gate: GateDecision,
    killed: frozenset[str],
    bandwidth_scale: float,
) -> Placement:
    """The device of each active expert under the scenario's conditions of this moment."""
    experts, shares = turns(gate)
    return place(
        request_workloads(engine, request),
        experts,
        profiles.scenario(request.scenario),
        profiles,
        objective=request.objective,
        steps=request.steps,
        shares=shares,
        killed=killed,
        bandwidth_scale=bandwidth_scale,
    )


def turns(gate: GateDecision) -> tuple[tuple[str, ...], tuple[int, ...] | None]:
    """The active experts in the order of their first steps, and how many steps each takes.

    The counts are None where experts work in the same step: a hand-over, in which one follows the other, then only
    approximates the run and shares its steps out evenly.
    """
    taken = {e: [step.index for step in gate.by_step if step.weights.get(e, 0.0) > 0.0] for e in gate.active}
    order = tuple(sorted(gate.active, key=lambda expert: taken[expert][:1]))
    counts = tuple(len(taken[expert]) for expert in order)
    return order, counts if sum(counts) == len(gate.by_step) else None


def notes(
    engine: BaseEngine, request: ResolvedRequest, plan: ScenePlan, gate: GateDecision
) -> Iterator[tuple[str, str]]:
    """Code and sentence of everything about this prompt that a person should know before looking at the clip."""
    manifest = engine.manifest
    if gate.low_coverage:
        yield "low_coverage", engine.low_coverage_note()
    if plan.left_out:
        yield "many_parts", left_out_note(plan)
    pieces, limit = engine.count_words(plan.reading), manifest.text_tokens
    if pieces > limit:
        yield "long_prompt", f"The experts read the first {limit} of {pieces} word pieces of this prompt."


def left_out_note(plan: ScenePlan) -> str:
    """The sentence about the parts of a prompt that have no say in the gate."""
    parts, count = len(plan.subtasks), len(plan.subtasks) + len(plan.left_out)
    shown = "; ".join(text if len(text) <= 40 else f"{text[:37]}..." for text in plan.left_out[:3])
    more = "; ..." if len(plan.left_out) > 3 else ""
    return f"The gate weighs the first {parts} of {count} parts of this prompt. Left out: {shown}{more}."
