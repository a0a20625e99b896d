"""Wan packs on small random checkpoints: flow matching, a video autoencoder, and two experts by noise level."""

import math
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hub_checkpoints import Busy, opened, refusal, write_wan

from moe_pipeline import interfaces as ev
from moe_pipeline.decisions import turns
from moe_pipeline.diffusion.guidance import ClassifierFree, SubjectGuidance
from moe_pipeline.diffusion.levels import flow_levels
from moe_pipeline.diffusion.sampler import initial_noise, sample
from moe_pipeline.engine.hub_velocity import HubVelocity
from moe_pipeline.experts.hub_denoiser import HubDenoiser
from moe_pipeline.pipeline import MoEVideoPipeline
from moe_pipeline.schema.request import SceneRequest

PROMPT = "an avatar dancing in a neon city street at night"


@pytest.fixture(scope="module")
def wan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_wan(tmp_path_factory.mktemp("hub") / "Wan2.1-T2V-1.3B-Diffusers")


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> MoEVideoPipeline:
    return opened(write_wan(tmp_path_factory.mktemp("hub") / "Wan2.2-T2V-A14B-Diffusers", boundary=0.875))


def scene(**changes: object) -> SceneRequest:
    values = {"prompt": PROMPT, "seed": 1, "steps": 4, "frames": 5, "width": 64, "height": 64}
    return SceneRequest.parse(**(values | changes))


def test_the_loop_with_euler_is_the_published_pipeline(wan: Path) -> None:
    """Tokens, padding, text encoder, guidance, transformer: at the same levels the stock pipeline's latents."""
    from diffusers import UniPCMultistepScheduler, WanPipeline

    stock = WanPipeline.from_pretrained(wan, local_files_only=True)
    stock.set_progress_bar_config(disable=True)
    stock.scheduler = UniPCMultistepScheduler.from_config(
        stock.scheduler.config, solver_order=1, disable_corrector=list(range(8))
    )  # first order without its corrector is Euler
    pipeline = opened(wan)
    assert pipeline.manifest.id == "wan-2.1-1.3b"
    request, single = pipeline.resolve(scene(mode="single")), scene(mode="single")
    latents = stock(
        PROMPT, negative_prompt=pipeline.manifest.negative_prompt, height=64, width=64, num_frames=5,
        num_inference_steps=4, guidance_scale=request.guidance, max_sequence_length=512,
        latents=initial_noise((1, 16, 2, 8, 8), request.seed), output_type="latent",
    ).frames  # fmt: skip
    engine = pipeline.engine
    velocity = engine.velocity(
        request, pipeline.plan(single), pipeline.gate(single), engine.encoder([PROMPT])
    )
    sigmas = [float(sigma) for sigma in stock.scheduler.sigmas]
    steps = list(sample(engine.start(request), sigmas, velocity, order=1))
    assert float((steps[-1].x - latents).abs().max() / latents.abs().max()) < 1e-3
    ours = engine.noise_levels(4)
    assert max(abs(a - b) for a, b in zip(ours, sigmas, strict=True)) < 2e-3, (
        "the same schedule but for its floor"
    )


def test_the_autoencoder_brings_back_its_own_frames_and_previews(wan: Path) -> None:
    pipeline = opened(wan)
    events = list(pipeline.stream(scene(frames=9)))
    steps = [event for event in events if isinstance(event, ev.Step)]
    assert all(step.preview is not None and step.preview.shape == (3, 8, 8, 3) for step in steps)
    assert events[-1].clip.frames.shape == (9, 64, 64, 3)
    video = torch.rand(1, 3, 9, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    latents = pipeline.engine.autoencoder.encode(video)
    assert latents.shape == (1, 16, 3, 8, 8)
    model = pipeline.engine.autoencoder.model
    with torch.no_grad():
        mode = model.encode(video).latent_dist.mode()
        expected = model.decode(mode, return_dict=False)[0]
    assert torch.allclose(pipeline.engine.autoencoder.decode(latents), expected, atol=1e-4)


def test_the_video_autoencoder_takes_one_clip_at_a_time(wan: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It keeps the frames that its convolutions still need on itself: two clips at once would mix theirs."""
    autoencoder = opened(wan).engine.autoencoder
    video = torch.rand(1, 3, 5, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    latents = autoencoder.encode(video)
    expected = autoencoder.decode(latents)
    model = autoencoder.model
    busy = {name: Busy(getattr(model, name)) for name in ("encode", "decode")}
    for name, call in busy.items():
        monkeypatch.setattr(model, name, call)
    with ThreadPoolExecutor(2) as pool:
        encoded = [pool.submit(autoencoder.encode, video) for _ in range(2)]
        decoded = [pool.submit(autoencoder.decode, latents) for _ in range(2)]
    assert all(torch.equal(clip.result(), latents) for clip in encoded)
    assert all(torch.equal(clip.result(), expected) for clip in decoded)
    assert {name: call.most for name, call in busy.items()} == {"encode": 1, "decode": 1}


def test_the_frames_of_a_video_autoencoder_are_4k_plus_1(wan: Path) -> None:
    error = refusal(lambda: opened(wan).resolve(scene(frames=8)))
    assert "multiple of 4 plus 1" in error.message and "5" in error.remedy


def test_two_experts_take_turns_by_noise_level(pair: MoEVideoPipeline) -> None:
    """The published rule: sigma of 0.875 and above is the first expert's, under a shift of 12."""
    assert pair.manifest.id == "wan-2.2-a14b"
    sigmas = pair.engine.noise_levels(40)[:-1]
    gate = pair.gate(scene(steps=40))
    for sigma, step in zip(sigmas, gate.by_step, strict=True):
        assert step.weights == {"high-noise": float(sigma >= 0.875), "low-noise": float(sigma < 0.875)}
    assert sum(sigma >= 0.875 for sigma in sigmas) == 26
    assert not gate.low_coverage
    heaviest_last = gate.model_copy(update={"active": gate.active[::-1]})
    assert turns(heaviest_last) == turns(gate) == (("high-noise", "low-noise"), (26, 14))
    bars = [(bar.expert, bar.stage) for bar in pair.place(scene(steps=40)).timeline if bar.expert]
    assert bars == [("high-noise", "steps 1-26"), ("low-noise", "steps 27-40")]
    clip = pair.generate(scene())
    assert clip.record.placement is not None and clip.record.placement.shape == "hand_over_latents"
    assert [step.forward_passes for step in clip.record.timing.steps] == [2, 2, 2, 2]


@pytest.mark.parametrize("shift", [1, 3, 5, 8, 12])
def test_the_network_is_asked_at_the_timestep_of_its_level(shift: int) -> None:
    """Whole thousandths of sigma, cut as in exact arithmetic, for every number of steps."""
    levels, asked = flow_levels({}, "small", float(shift)), []

    def model(
        sample: torch.Tensor, timestep: torch.Tensor, text: torch.Tensor, **_: object
    ) -> list[torch.Tensor]:
        asked.append(float(timestep[0]))
        return [sample]

    denoiser = HubDenoiser(model, levels, torch.float32)
    expert = SimpleNamespace(guidance=1.0, lora=None)
    manifest = SimpleNamespace(expert=lambda name: expert, denoiser_of=lambda expert: "transformer")
    engine = SimpleNamespace(device="cpu", manifest=manifest, denoiser=lambda name: denoiser)
    text, x = torch.zeros(1, 1, 1), torch.zeros(1, 1, 1, 1, 1)
    for steps in range(4, 51):
        velocity = HubVelocity(
            engine, {"one": text}, text, [{"one": 1.0}] * steps, SubjectGuidance(ClassifierFree(1.0), 1.0)
        )
        for index, sigma in enumerate(levels.noise_levels(steps)[:-1]):
            velocity(x, sigma, index)
        even = [Fraction(steps - index, steps) for index in range(steps)]
        assert asked == [math.floor(1000 * shift * s / (1 + (shift - 1) * s)) for s in even]
        asked.clear()


def test_each_expert_has_its_own_guidance(pair: MoEVideoPipeline) -> None:
    """4 above the boundary and 3 below it, with the request's own in proportion."""
    engine, request = pair.engine, scene(steps=40, guidance=4.0)
    velocity = engine.velocity(
        pair.resolve(request), pair.plan(request), pair.gate(request), engine.encoder([PROMPT])
    )
    x = engine.start(pair.resolve(request))
    for index, sigma, expert, scale in ((0, 1.0, "high-noise", 4.0), (39, 0.2, "low-noise", 3.0)):
        level, mask = torch.tensor([sigma]), torch.ones(1, 512, dtype=torch.bool)
        conditional = engine.denoiser(expert)(x, level, velocity.tokens[expert], mask)
        empty = engine.denoiser(expert)(x, level, velocity.empty, mask)
        expected = empty + scale * (conditional - empty)
        assert torch.allclose(velocity(x, sigma, index), expected, atol=1e-4)


def test_a_repository_that_hands_over_elsewhere_is_refused(tmp_path: Path) -> None:
    folder = write_wan(tmp_path / "wan", boundary=0.9)
    error = refusal(lambda: opened(folder).stream(scene()))
    assert error.code == "weights_mismatch" and "0.9" in error.message


def test_schedules_that_are_no_plain_flow_are_refused() -> None:
    for config in (
        {"_class_name": "UniPCMultistepScheduler", "prediction_type": "epsilon", "use_flow_sigmas": False},
        {"_class_name": "FlowMatchEulerDiscreteScheduler", "use_dynamic_shifting": True},
    ):
        assert refusal(lambda config=config: flow_levels(config, "small")).code == "unknown_scheduler"
    assert flow_levels({"shift": 5.0}, "small").shift == 5.0
    assert flow_levels({"flow_shift": 3.0}, "small", 12.0).shift == 12.0
    assert [flow_levels({}, "small").timestep(sigma) for sigma in (1.0, 0.875, 0.8754)] == [
        1000.0,
        875.0,
        875.0,
    ]
