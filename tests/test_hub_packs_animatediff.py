"""AnimateDiff on a small random checkpoint: a picture model, a motion adapter, and experts by motion LoRA."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hub_checkpoints import CAMERA, LORA_LAYER, drawn, opened, refusal, write_animatediff

from moe_pipeline.diffusion.sampler import initial_noise, sample
from moe_pipeline.packs import open_any_pack
from moe_pipeline.pipeline import MoEVideoPipeline
from moe_pipeline.schema.request import SceneRequest

PROMPT = "an avatar dancing in a neon city street at night"


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_animatediff(tmp_path_factory.mktemp("hub") / "stable-diffusion-v1-5")


@pytest.fixture(scope="module")
def pipeline(weights: Path) -> MoEVideoPipeline:
    return opened(weights)


def scene(**changes: object) -> SceneRequest:
    values = {"prompt": PROMPT, "seed": 1, "top_k": 2, "steps": 4, "frames": 4, "width": 64, "height": 64}
    return SceneRequest.parse(**(values | changes))


def test_the_loop_with_euler_is_the_published_pipeline(pipeline: MoEVideoPipeline, weights: Path) -> None:
    """The base, the adapter and the schedule of the manifest: from the same noise the stock pipeline's latents."""
    from diffusers import AnimateDiffPipeline, DDIMScheduler, MotionAdapter

    adapter = MotionAdapter.from_pretrained(weights / "motion_adapter", local_files_only=True)
    stock = AnimateDiffPipeline.from_pretrained(weights, motion_adapter=adapter, local_files_only=True)
    stock.set_progress_bar_config(disable=True)
    # Leading spacing here, for which diffusers' previous timestep is the previous one of the run.
    stock.scheduler = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="linear", clip_sample=False, steps_offset=1
    )  # fmt: skip
    request, single = pipeline.resolve(scene(mode="single")), scene(mode="single")
    latents = stock(
        PROMPT, negative_prompt=pipeline.manifest.negative_prompt, height=64, width=64, num_frames=4,
        num_inference_steps=4, guidance_scale=request.guidance, output_type="latent",
        latents=initial_noise((1, 4, 4, 8, 8), request.seed),
    ).frames  # fmt: skip
    engine = pipeline.engine
    levels = engine.levels
    velocity = engine.velocity(
        request, pipeline.plan(single), pipeline.gate(single), engine.encoder([PROMPT])
    )
    sigmas = [*(levels.sigmas[int(t)] for t in stock.scheduler.timesteps), 0.0]
    noise = levels.start(initial_noise((1, 4, 4, 8, 8), request.seed), sigmas[0])
    steps = list(sample(noise, sigmas, velocity, order=1))
    assert float((steps[-1].x - latents).abs().max() / latents.abs().max()) < 1e-3
    assert engine.noise_levels(4)[0] == levels.sigmas[999], (
        "the manifest's linspace begins at the noisiest timestep"
    )


def test_camera_words_wake_the_camera_experts_and_their_loras_move_the_picture(
    pipeline: MoEVideoPipeline,
) -> None:
    gate = pipeline.gate(scene(prompt="the camera zooms in, a neon city street at night"))
    assert set(gate.active) == {"zoom-in", "city"}
    frames, passes = drawn(pipeline, scene(prompt="the camera zooms in, a neon city street at night"))
    assert passes == [4] * 4, "two networks, two empty texts"
    plain, _ = drawn(
        pipeline, scene(prompt="the camera zooms in, a neon city street at night", mode="single")
    )
    assert not np.array_equal(frames, plain)
    base = pipeline.engine.network(pipeline.manifest.expert("city"))
    moved = pipeline.engine.network(pipeline.manifest.expert("zoom-in"))
    changed = {
        name
        for (name, one), two in zip(base.named_parameters(), moved.parameters(), strict=True)
        if one.data_ptr() != two.data_ptr()
    }
    assert changed == {f"{LORA_LAYER}.weight"}
    assert {expert.id for expert in pipeline.manifest.experts if expert.lora} == set(CAMERA)


def test_frames_differ_because_of_the_adapter(pipeline: MoEVideoPipeline) -> None:
    clip = pipeline.generate(scene(mode="single"))
    assert clip.record.placement is not None and clip.frames.shape == (4, 64, 64, 3)
    assert type(pipeline.engine.network(pipeline.manifest.generalist)).__name__ == "UNetMotionModel"


def test_every_part_is_asked_for(tmp_path: Path) -> None:
    folder = write_animatediff(tmp_path / "sd")
    lora = folder / "loras" / "animatediff-motion-lora-pan-left" / "diffusion_pytorch_model.safetensors"
    content = lora.read_bytes()
    lora.unlink()
    error = refusal(open_any_pack(folder).check)
    assert error.code == "component_missing" and "pan-left" in error.message
    for repository in ("stable-diffusion-v1-5", "motion-adapter-v1-5-2", "motion-lora-zoom-out"):
        assert repository in error.remedy
    lora.write_bytes(content[:20])
    broken = opened(folder)
    assert refusal(lambda: broken.engine.denoiser("pan-left")).code == "pack_broken"
    lora.write_bytes(content)
    config = folder / "motion_adapter" / "config.json"
    config.write_text(config.read_text().replace("MotionAdapter", "PIA"))
    assert refusal(open_any_pack(folder).check).code == "unknown_component"
    config.write_text(config.read_text().replace("PIA", "MotionAdapter"))
    (folder / "motion_adapter" / "diffusion_pytorch_model.safetensors").unlink()
    assert refusal(open_any_pack(folder).check).code == "component_missing"
    torch.save({}, folder / "motion_adapter" / "diffusion_pytorch_model.bin")
    assert refusal(open_any_pack(folder).check).code == "pickle_refused"
