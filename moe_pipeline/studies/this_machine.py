"""Measures the machine that runs the project with real expert steps, and puts it among a pipeline's devices."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from moe_pipeline.edge.calibration import Probe, this_machine
from moe_pipeline.schema.request import SceneRequest

if TYPE_CHECKING:
    from moe_pipeline.pipeline import MoEVideoPipeline
    from moe_pipeline.schema.profiles import DeviceProfile

PROMPT = "a neon street at night"
SHRINK = (1, 2)  # the default picture and one of half the side: two sizes tell peak and small-work loss apart


def step_probes(pipeline: MoEVideoPipeline) -> list[Probe]:
    """One denoising step of one expert, guidance included, at the default size and at a quarter of its pixels."""
    from moe_pipeline.workloads import request_workloads

    defaults, limits = pipeline.manifest.defaults, pipeline.manifest.limits
    found = []
    for factor in SHRINK:
        sides = {
            name: max(limits.min_side, side // factor // limits.side_multiple * limits.side_multiple)
            for name, side in (("width", defaults.width), ("height", defaults.height))
        }
        request = SceneRequest.parse(
            prompt=PROMPT, mode="single", guidance=max(1.5, defaults.guidance), **sides
        )
        work = request_workloads(pipeline.engine, pipeline.resolve(request)).expert_step
        found.append(Probe(work, _step(pipeline, request)))
    return found


def _step(pipeline: MoEVideoPipeline, request: SceneRequest) -> Callable[[], object]:
    """A call that takes one guided step of the generalist and returns when it is done."""
    import torch

    from moe_pipeline.gating.routing import single

    engine, resolved = pipeline.engine, pipeline.resolve(request)
    text = engine.encoder([resolved.prompt])
    alone = single(pipeline.manifest.generalist.id, [0.5], 1.0)
    velocity = engine.velocity(resolved, pipeline.plan(request), alone, text)
    x = engine.start(resolved)

    def run() -> object:
        found = velocity(x, 0.5, 0)
        if engine.device.type == "cuda":
            torch.cuda.synchronize()
        return found

    run()  # weights are loaded and kernels chosen outside of the measurement
    return run


def calibrate(pipeline: MoEVideoPipeline) -> DeviceProfile:
    """Measure now, keep the result in the user's cache, and let the pipeline place experts on this machine."""
    kind = pipeline.engine.device.type
    profile = this_machine(probes=step_probes(pipeline), refresh=True, torch_device=kind)
    assert profile is not None  # refresh always measures
    pipeline.profiles = pipeline.profiles.with_device(profile)
    return profile


def attach_known(pipeline: MoEVideoPipeline) -> bool:
    """Give the pipeline the profile that was measured earlier; False where there is none."""
    known = this_machine(measure_if_missing=False, torch_device=pipeline.engine.device.type)
    if known is not None:
        pipeline.profiles = pipeline.profiles.with_device(known)
    return known is not None


def attach(pipeline: MoEVideoPipeline, scenario: str) -> None:
    """As `attach_known`; measures now where nothing is known and the scenario needs it."""
    needed = any(node.profile == "this-machine" for node in pipeline.profiles.scenario(scenario).nodes)
    if not attach_known(pipeline) and needed:
        calibrate(pipeline)
