"""Packs in the layout of the hub, on small random checkpoints: our own loop, the mixture, and every refusal."""

import hashlib
import json
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hub_checkpoints import ENGINE, WIDTH, Busy, ddim, drawn, opened, refusal, small_unet, write_modelscope
from safetensors.torch import load_file, save_file

from moe_pipeline import interfaces as ev
from moe_pipeline.cli import main
from moe_pipeline.cli.doctor import examine
from moe_pipeline.decisions import turns
from moe_pipeline.diffusion import flow
from moe_pipeline.diffusion.levels import variance_levels
from moe_pipeline.diffusion.sampler import initial_noise, sample
from moe_pipeline.engine.hub_loading import load_tokenizer
from moe_pipeline.experts.hub_denoiser import HubDenoiser
from moe_pipeline.experts.lora import with_lora
from moe_pipeline.gating.description import DescriptionGate
from moe_pipeline.packs import EMBEDDED, HubPack, open_any_pack, open_pack
from moe_pipeline.pipeline import EngineConfig, MoEVideoPipeline
from moe_pipeline.prompting.expert_text import expert_text
from moe_pipeline.schema.request import SceneRequest
from moe_pipeline.testing import check_gate, check_pack
from moe_pipeline.workloads import request_workloads

PROMPT = "an avatar dancing in a neon city street at night"
MODELSCOPE = EMBEDDED.parent / "modelscope-1.7b"


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_modelscope(tmp_path_factory.mktemp("hub") / "text-to-video-ms-1.7b")


@pytest.fixture
def copy(weights: Path, tmp_path: Path) -> Path:
    """A copy that a test may break."""
    return Path(shutil.copytree(weights, tmp_path / "weights"))


@pytest.fixture(scope="module")
def pipeline(weights: Path) -> MoEVideoPipeline:
    return opened(weights)


def scene(**changes: object) -> SceneRequest:
    values = {
        "prompt": PROMPT,
        "seed": 1,
        "steps": 3,
        "frames": 4,
        "width": 64,
        "height": 64,
        "guidance": 4.0,
    }
    return SceneRequest.parse(**(values | changes))


# ---------------------------------------------------------------------------------------- the loop is DDIM


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("spacing", ["leading", "trailing"])
def test_our_euler_loop_is_ddim_of_diffusers(prediction: str, spacing: str) -> None:
    """The same network, the same noise: x of every step, at the model's length, is DDIM's.

    With 8 steps of 125 timesteps, where diffusers' own idea of the previous timestep is the previous one of the run.
    """
    unet = small_unet().double().eval()
    scheduler = ddim(prediction_type=prediction, timestep_spacing=spacing, set_alpha_to_one=True)
    levels = variance_levels(scheduler.config, "small")
    generator = torch.Generator().manual_seed(3)
    noise = torch.randn(1, 4, 3, 8, 8, generator=generator)
    text = torch.randn(1, 77, WIDTH, generator=generator)
    scheduler.set_timesteps(8)
    theirs, expected = noise.double(), []
    with torch.no_grad():
        for t in scheduler.timesteps:
            output = unet(theirs, t, text.double(), return_dict=False)[0]
            theirs = scheduler.step(output, t, theirs, eta=0.0).prev_sample
            expected.append(theirs)
    denoiser = HubDenoiser(unet, levels, torch.float64)
    mask = torch.ones(1, 77, dtype=torch.bool)
    sigmas = levels.noise_levels(8)

    def velocity(x: torch.Tensor, sigma: float, index: int) -> torch.Tensor:
        return denoiser(x, torch.tensor([sigma], dtype=torch.float64), text, mask)

    ours = list(sample(levels.start(noise, sigmas[0]), sigmas, velocity, order=1))
    scale = expected[-1].abs().max()
    for step, x in zip(ours, expected, strict=True):
        assert float((levels.enter(step.x, step.next_sigma) - x).abs().max() / scale) < 2e-5
    assert sigmas[-1] == 0.0 and ours[-1].x.std() > 0.1


def test_a_perfect_prediction_is_the_velocity_of_the_flow() -> None:
    """At every level and for each kind of prediction, what leaves is noise - data."""
    generator = torch.Generator().manual_seed(0)
    data, noise = (torch.randn(1, 4, 2, 8, 8, generator=generator, dtype=torch.float64) for _ in range(2))
    for prediction in ("epsilon", "v_prediction", "sample"):
        levels = variance_levels(ddim(prediction_type=prediction).config, "small")
        for t in (1, 250, 500, 999):
            sigma = levels.sigmas[t]
            alpha = ddim().alphas_cumprod[t].double()
            a, s = float(alpha.sqrt()), float((1 - alpha).sqrt())
            x = flow.add_noise(data, noise, torch.tensor([sigma], dtype=torch.float64))
            assert torch.allclose(levels.enter(x, sigma), a * data + s * noise, atol=1e-6)
            assert levels.timestep(sigma) == t
            output = {"epsilon": noise, "v_prediction": a * noise - s * data, "sample": data}[prediction]
            assert torch.allclose(levels.leave(x, output, sigma), noise - data, atol=1e-5)


@pytest.mark.parametrize("steps", [10, 25, 50])
def test_the_second_order_rule_is_nearer_to_the_exact_clip_than_ddim(steps: int) -> None:
    """For data of one known deviation the perfect prediction, and so the exact end of every path, is known."""
    levels, deviation = variance_levels(ddim().config, "small"), 0.3

    class Perfect(torch.nn.Module):
        def forward(
            self, x: torch.Tensor, t: torch.Tensor, text: object, return_dict: bool
        ) -> tuple[torch.Tensor]:
            alpha = float(ddim().alphas_cumprod[round(float(t[0]))].double())
            return ((1 - alpha) ** 0.5 * x / (alpha * deviation**2 + 1 - alpha),)

    denoiser, sigmas = HubDenoiser(Perfect(), levels, torch.float64), levels.noise_levels(steps)
    noise = initial_noise((1, 4, 2, 8, 8), 0).double()
    first = float(ddim().alphas_cumprod[round(levels.timestep(sigmas[0]))].double())
    exact = noise * deviation / (first * deviation**2 + 1 - first) ** 0.5
    empty = torch.zeros(1, 1, 1, dtype=torch.float64)

    def velocity(x: torch.Tensor, sigma: float, index: int) -> torch.Tensor:
        return denoiser(x, torch.tensor([sigma], dtype=torch.float64), empty, empty)

    start = levels.start(noise, sigmas[0])
    euler, second = (list(sample(start, sigmas, velocity, order=order))[-1].x for order in (1, 2))
    errors = [float((x - exact).abs().max() / exact.abs().max()) for x in (euler, second)]
    assert errors[1] < 0.5 * errors[0]


def test_levels_between_timesteps_are_interpolated_and_never_leave_the_schedule() -> None:
    levels = variance_levels(ddim().config, "small")
    middle = 0.5 * (levels.sigmas[400] + levels.sigmas[401])
    assert levels.timestep(middle) == pytest.approx(400.5)
    assert levels.timestep(0.0) == 0.0 and levels.timestep(1.0) == 999.0
    assert (
        levels.noise_levels(50)[0] == levels.sigmas[981]
    )  # steps_offset 1, as the published pipeline starts
    assert refusal(lambda: levels.noise_levels(1001)).code == "bad_request"


# --------------------------------------------------------------------------------------------- a whole run


def test_a_folder_in_the_hubs_layout_gives_the_same_stream_of_events(
    pipeline: MoEVideoPipeline, tmp_path: Path
) -> None:
    assert pipeline.manifest.id == "modelscope-1.7b"
    events = list(pipeline.stream(scene(), out=tmp_path))
    kinds = [event.kind for event in events]
    before, after = (
        ["accepted", "planned", "gated", "placed"],
        ["decoded", "measured", "exported", "finished"],
    )
    assert kinds == [*before, *["step"] * 3, *after]
    steps = [event for event in events if isinstance(event, ev.Step)]
    for step in steps:
        assert step.preview is not None and step.preview.shape == (4, 8, 8, 3)
        assert set(name for name, weight in step.weights.items() if weight) == {"city", "avatar"}
    assert steps[0].preview.tolist() != steps[-1].preview.tolist()
    clip = events[-1].clip
    assert clip.frames.shape == (4, 64, 64, 3) and clip.frames.std() > 1.0
    record = clip.record
    assert record.gate.gate == "description" and record.gate.active
    assert {a.expert for a in record.placement.assignments} == {"city", "avatar"}
    assert record.metrics.temporal_flickering is not None
    assert "subject_consistency_pack" in record.metrics.values
    assert record.environment.model_dump()["diffusers"]
    assert set(record.texts) == {"city", "avatar"} and record.texts["avatar"].startswith(
        f"{PROMPT}, an avatar dancing,"
    )
    # Both experts and one empty text share the network's call.
    assert [step.forward_passes for step in record.timing.steps] == [3, 3, 3]
    assert (tmp_path / "clip.mp4").stat().st_size > 0
    assert json.loads((tmp_path / "record.json").read_text())["pack"]["id"] == "modelscope-1.7b"


def test_the_same_request_gives_the_same_frames_and_another_seed_others(pipeline: MoEVideoPipeline) -> None:
    first, again, other = (drawn(pipeline, scene(seed=s))[0] for s in (1, 1, 2))
    assert np.array_equal(first, again) and not np.array_equal(first, other)


def test_mixture_and_single_model_start_from_one_noise_and_part(pipeline: MoEVideoPipeline) -> None:
    single = pipeline.generate(scene(mode="single"))
    mixture = pipeline.generate(scene())
    assert single.record.gate.active == ("generalist",) and single.record.texts == {}
    assert [step.forward_passes for step in single.record.timing.steps] == [2, 2, 2]
    assert not np.array_equal(single.frames, mixture.frames)
    start = pipeline.engine.start(pipeline.resolve(scene()))
    assert torch.equal(start, pipeline.engine.start(pipeline.resolve(scene(mode="single"))))


def test_the_whole_loop_with_euler_is_the_published_pipeline(
    pipeline: MoEVideoPipeline, weights: Path
) -> None:
    """Tokens, text encoder, guidance, network, noise levels: from the same noise the stock pipeline's latents."""
    from diffusers import TextToVideoSDPipeline

    stock = TextToVideoSDPipeline.from_pretrained(weights, local_files_only=True)
    stock.set_progress_bar_config(disable=True)
    stock.scheduler = ddim(set_alpha_to_one=True)
    request = pipeline.resolve(scene(mode="single", steps=4))
    latents = stock(
        PROMPT, height=64, width=64, num_frames=4, num_inference_steps=4, guidance_scale=4.0,
        latents=initial_noise((1, 4, 4, 8, 8), request.seed), output_type="latent",
    ).frames  # fmt: skip
    engine, plan, gate = pipeline.engine, pipeline.plan(scene()), pipeline.gate(scene(mode="single", steps=4))
    velocity = engine.velocity(request, plan, gate, engine.encoder([PROMPT]))
    steps = list(sample(engine.start(request), engine.noise_levels(4), velocity, order=1))
    assert float((steps[-1].x - latents).abs().max() / latents.abs().max()) < 1e-4
    with torch.no_grad():
        decoded = stock.decode_latents(latents)[0].permute(1, 2, 3, 0)  # (T, H, W, 3)
    expected = ((decoded.float().clamp(-1, 1) + 1) * 127.5).round().numpy()
    assert np.abs(engine.decode(steps[-1].x).astype(float) - expected).max() <= 1.0


def test_one_network_is_called_once_a_step_for_all_experts(pipeline: MoEVideoPipeline) -> None:
    """Sharing the call changes nothing: each expert asked alone, combined and guided by hand, is the same."""
    engine, request = pipeline.engine, pipeline.resolve(scene())
    plan, gate = pipeline.plan(scene()), pipeline.gate(scene())
    velocity = engine.velocity(request, plan, gate, engine.encoder([PROMPT]))
    x, sigma = engine.start(request), 0.5
    mixed, empty = torch.zeros_like(x), torch.zeros_like(x)
    for name, weight in gate.by_step[0].weights.items():
        if weight:
            denoiser, level = engine.denoiser(name), torch.tensor([sigma])
            mask = torch.ones(1, 77, dtype=torch.bool)
            mixed += weight * denoiser(x, level, velocity.tokens[name], mask)
            empty += weight * denoiser(x, level, velocity.empty, mask)
    expected = empty + request.guidance * (mixed - empty)
    assert torch.allclose(velocity(x, sigma, 0), expected, rtol=1e-3, atol=1e-4)


def test_subject_guidance_adds_the_backgrounds_as_one_more_shared_text(pipeline: MoEVideoPipeline) -> None:
    """u + scale * ((w - u) + subjects * (f - w)) while the layout is decided, plain guidance below."""
    request = scene(subject_guidance=2.0)
    engine, resolved = pipeline.engine, pipeline.resolve(request)
    plan, gate = pipeline.plan(request), pipeline.gate(request)
    velocity = engine.velocity(resolved, plan, gate, engine.encoder([PROMPT]))
    assert [velocity.forward_passes(0, sigma) for sigma in (0.9, 0.3)] == [4, 3]
    x, sigma, mask = engine.start(resolved), 0.9, torch.ones(1, 77, dtype=torch.bool)
    level, weights = torch.tensor([sigma]), gate.by_step[0].weights
    network = engine.denoiser("city")  # the one that all experts run
    world = network(x, level, engine.conditioner(["a neon city street at night"]).tokens, mask)
    empty = network(x, level, velocity.empty, mask)
    mixed = sum(weights[name] * network(x, level, tokens, mask) for name, tokens in velocity.tokens.items())
    expected = empty + 4.0 * ((world - empty) + 2.0 * (mixed - world))
    assert torch.allclose(velocity(x, sigma, 0), expected, rtol=1e-3, atol=1e-3)
    dearer = request_workloads(engine, resolved).expert_step.flops
    plain = request_workloads(engine, pipeline.resolve(scene())).expert_step.flops
    assert 1.0 < dearer / plain < 1.5, "the third branch is counted, in the steps that have it"


def test_two_interleaved_runs_on_alternating_threads_make_the_same_clips(weights: Path) -> None:
    """Cold, so that both runs also load the pack against each other."""
    pipeline = opened(weights)
    runs = [pipeline.stream(scene(seed=seed)) for seed in (1, 2)]
    last: dict[int, ev.Event] = {}
    with ThreadPoolExecutor(2) as pool:
        open_runs = dict(enumerate(runs))
        while open_runs:
            futures = {index: pool.submit(next, run, None) for index, run in open_runs.items()}
            for index, future in futures.items():
                event = future.result(timeout=60)
                if event is None:
                    del open_runs[index]
                else:
                    last[index] = event
    for index, seed in enumerate((1, 2)):
        finished = last[index]
        assert isinstance(finished, ev.Finished)
        assert np.array_equal(finished.clip.frames, drawn(pipeline, scene(seed=seed))[0])


def test_the_tokenizer_serves_one_thread_at_a_time(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It keeps padding and truncation as state: a count in the middle of a batch would leave the batch unpadded."""
    slow: list[Busy] = []

    def loaded(pack: HubPack, component: str) -> Busy:
        slow.append(Busy(load_tokenizer(pack, component)))
        return slow[0]

    monkeypatch.setattr("moe_pipeline.engine.hub.load_tokenizer", loaded)
    engine = opened(weights).engine
    conditioner = engine.conditioner
    with ThreadPoolExecutor(4) as pool:
        counts = [pool.submit(engine.count_words, "a city") for _ in range(3)]
        states = [pool.submit(conditioner, [PROMPT, "a city"]) for _ in range(3)]
    assert {count.result() for count in counts} == {
        len(load_tokenizer(engine.pack, "tokenizer")("a city").input_ids)
    }
    assert {state.result().tokens.shape for state in states} == {(2, 77, WIDTH)}
    assert [busy.most for busy in slow] == [1]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_cuda_every_part_meets_on_the_device(weights: Path) -> None:
    pipeline = MoEVideoPipeline.from_pack(weights, EngineConfig(torch_device="cuda"))
    events = list(pipeline.stream(scene()))
    assert isinstance(events[-1], ev.Finished) and events[-1].clip.record.environment.dtype == "bfloat16"


def test_a_run_stops_between_two_steps_and_between_decoded_frames(pipeline: MoEVideoPipeline) -> None:
    for last in ("step", "decoding"):
        control = ev.RunControl()
        events = pipeline.stream(scene(frames=8), control=control)
        seen = []
        for event in events:
            seen.append(event.kind)
            if event.kind == "step" and (last == "step" or seen.count("step") == 3):
                control.cancel()
        assert seen[-1] == "cancelled" and "decoded" not in seen


# ---------------------------------------------------------------------------------------- gate and texts


def test_without_weights_the_gate_the_plan_and_the_placement_answer() -> None:
    """The shipped manifest is enough to price and place the published model."""
    pipeline = opened(Path("modelscope-1.7b"))
    request = scene(frames=2, width=64, height=64)
    weights = pipeline.gate(request).weights
    assert set(sorted(weights, key=weights.__getitem__)[-2:]) == {"city", "avatar"}
    work = request_workloads(pipeline.engine, pipeline.resolve(request))
    assert 1.3e9 < work.expert_step.weight_bytes / 4 < 1.5e9, "the published UNet has 1.4 billion parameters"
    assert work.delta_bytes == 0, "an expert that only reads other words moves nothing"
    assert pipeline.place(request).assignments
    shared = turns(pipeline.gate(request))
    assert len(shared[0]) > 1 and shared[1] is None, "in a mixture nobody has a step for himself"
    error = refusal(lambda: pipeline.generate(request))
    assert error.code == "weights_missing" and "hf download ali-vilab/text-to-video-ms-1.7b" in error.remedy


def test_each_expert_reads_the_scene_its_own_parts_and_its_own_words(pipeline: MoEVideoPipeline) -> None:
    text = expert_text(PROMPT, ("an avatar dancing",), "steady face")
    assert text == f"{PROMPT}, an avatar dancing, steady face"
    assert expert_text(PROMPT, (PROMPT,), "") == PROMPT
    engine, request = pipeline.engine, pipeline.resolve(scene())
    velocity = engine.velocity(
        request, pipeline.plan(scene()), pipeline.gate(scene()), engine.encoder([PROMPT])
    )
    expert = engine.manifest.expert("avatar")
    wanted = engine.conditioner([expert_text(PROMPT, ("an avatar dancing",), expert.prompt)]).tokens
    assert torch.allclose(velocity.tokens["avatar"], wanted, atol=1e-5)
    assert not torch.allclose(velocity.tokens["avatar"], velocity.tokens["city"])


def test_the_untrained_gate_names_the_domain_of_most_paraphrases(pipeline: MoEVideoPipeline) -> None:
    """The hand-written sentences that the trained gate is judged by; no phrase of the manifest was written for them."""
    from training.gate import paraphrases

    texts, domains = zip(*paraphrases(), strict=True)
    engine = pipeline.engine
    logits = engine.gate(engine.encoder(list(texts)).pooled, torch.full((len(texts),), 0.5))
    experts = pipeline.manifest.expert_ids()
    right = sum(experts[int(row)] in own for row, own in zip(logits.argmax(-1), domains, strict=True))
    assert len(texts) == 60 and right >= 54


def test_the_description_gate_conforms_and_keeps_to_noise_levels() -> None:
    generator = torch.Generator().manual_seed(0)
    phrases = torch.randn(5, 8, generator=generator)
    gate = DescriptionGate(3, features=8, phrases=5).describe(phrases, [0, 0, 1, 1, 2])
    check_gate(gate, 3, 8)
    near = torch.nn.functional.normalize(phrases[3:4], dim=-1)
    assert int(gate(near, torch.tensor([0.5])).argmax()) == 1
    assert float(gate.coverage(near)) == 1.0
    gate.describe(phrases, [0, 0, 1, 1, 2], [(0.875, 1.0), (0.0, 0.875), None])
    for sigma, inside in ((1.0, {0, 2}), (0.875, {0, 2}), (0.874, {1, 2}), (0.0, {1, 2})):
        weights = gate(near, torch.tensor([sigma])).softmax(-1)[0]
        assert {i for i in range(3) if weights[i] > 0} == inside


# --------------------------------------------------------------------------------------------------- LoRA


@pytest.mark.parametrize("form", ["peft", "processor", "kohya"])
def test_a_lora_is_merged_in_its_layer_and_shares_all_others(form: str) -> None:
    unet = small_unet()
    path = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
    layer = unet.get_submodule(path)
    down, up = torch.randn(2, layer.weight.shape[1]), torch.randn(layer.weight.shape[0], 2)
    stem = {"peft": f"unet.{path}.lora_A", "processor": path.replace(".to_q", ".processor.to_q_lora.down")}
    names = {
        "peft": (f"unet.{path}.lora_A.weight", f"unet.{path}.lora_B.weight"),
        "processor": (f"{stem['processor']}.weight", f"{stem['processor'].replace('down', 'up')}.weight".replace(
            "up_blocks", "down_blocks")),
        "kohya": tuple(f"lora_unet_{path.replace('.', '_')}.lora_{side}.weight" for side in ("down", "up")),
    }[form]  # fmt: skip
    tensors = dict(zip(names, (down, up), strict=True))
    scale = 0.5
    if form == "kohya":
        tensors[f"lora_unet_{path.replace('.', '_')}.alpha"] = torch.tensor(4.0)
        scale *= 4.0 / 2
    merged = with_lora(unet, tensors, 0.5, "test")
    expected = layer.weight + scale * up @ down
    assert torch.allclose(merged.get_submodule(path).weight, expected, atol=1e-6)
    before, after = dict(unet.named_parameters()), dict(merged.named_parameters())
    changed = {name for name in before if before[name].data_ptr() != after[name].data_ptr()}
    assert changed == {f"{path}.weight"}


def test_a_lora_of_another_model_is_refused() -> None:
    unet = small_unet()
    for tensors, code in (
        ({"text_encoder.layers.0.q.weight": torch.zeros(2, 2)}, "lora_unknown"),
        ({"unet.x.lora_A.weight": torch.zeros(2, 8), "unet.x.lora_B.weight": torch.zeros(8, 2)}, "lora_unknown"),
        ({"conv_in.lora_A.weight": torch.zeros(2, 99), "conv_in.lora_B.weight": torch.zeros(8, 2)}, "lora_mismatch"),
        ({"conv_in.lora_A.weight": torch.zeros(2, 36)}, "lora_unknown"),
        ({}, "lora_unknown"),
    ):  # fmt: skip
        assert refusal(lambda tensors=tensors: with_lora(unet, tensors, 1.0, "x")).code == code


def test_an_expert_with_a_lora_runs_a_network_of_its_own(copy: Path) -> None:
    data = small_manifest()
    path = "up_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k"
    shape = load_file(copy / "unet" / "diffusion_pytorch_model.safetensors")[f"{path}.weight"].shape
    tensors = {
        f"unet.{path}.lora_A.weight": torch.full((1, shape[1]), 4.0),
        f"unet.{path}.lora_B.weight": torch.full((shape[0], 1), 4.0),
    }
    save_file(tensors, copy / "avatar.safetensors")
    content = (copy / "avatar.safetensors").read_bytes()
    entry = {
        "path": "avatar.safetensors",
        "sha256": hashlib.sha256(content).hexdigest(),
        "bytes": len(content),
    }
    avatar = next(expert for expert in data["experts"] if expert["id"] == "avatar")
    plain, _ = drawn(opened(write_manifest(copy, data)), scene(steps=1))
    avatar["lora"] = {"file": entry, "scale": 2.0}
    pipeline = opened(write_manifest(copy, data))
    frames, passes = drawn(pipeline, scene(steps=1))
    assert passes == [4], "two networks, each with an empty text"
    assert not np.array_equal(frames, plain)
    assert request_workloads(pipeline.engine, pipeline.resolve(scene())).delta_bytes == len(content)
    for mode, size in (("single", 0), ("moe", len(content))):  # of one shape: a count is kept
        resolved = pipeline.resolve(scene(mode=mode, top_k=1))
        assert request_workloads(pipeline.engine, resolved).delta_bytes == size
    (copy / "avatar.safetensors").write_bytes(content[:-1] + b"x")
    pipeline = opened(copy)
    assert refusal(lambda: pipeline.engine.denoiser("avatar")).code == "pack_file_altered"


# -------------------------------------------------------------------------------------------- fine-tunes


def _with_a_fine_tune(data: dict[str, Any], **changes: Any) -> dict[str, Any]:
    data["components"]["unet_city"] = "diffusers.UNet3DConditionModel"
    next(expert for expert in data["experts"] if expert["id"] == "city")["denoiser"] = "unet_city"
    return data | changes


def _fine_tune(source: Path, place: Path) -> None:
    shutil.copytree(source, place)
    path = place / "diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    tensors["conv_out.weight"] = tensors["conv_out.weight"] + 0.05
    save_file(tensors, path, metadata={"format": "pt"})


def test_an_expert_may_be_a_fine_tune_of_the_whole_network(copy: Path, pipeline: MoEVideoPipeline) -> None:
    _fine_tune(copy / "unet", copy / "unet_city")
    tuned = opened(write_manifest(copy, _with_a_fine_tune(small_manifest())))
    frames, passes = drawn(tuned, scene(steps=1))
    assert passes == [4], "two networks, each with an empty text"
    assert not np.array_equal(frames, drawn(pipeline, scene(steps=1))[0])
    assert request_workloads(tuned.engine, tuned.resolve(scene())).delta_bytes is None, (
        "all of its weights move"
    )
    _edit_json(copy / "unet_city" / "config.json", _class_name="UNet2DConditionModel")
    assert refusal(lambda: opened(copy).stream(scene())).code == "unknown_component"
    shutil.rmtree(copy / "unet_city")
    assert refusal(lambda: opened(copy).stream(scene())).code == "component_missing"


def test_a_fine_tune_may_be_a_folder_of_another_repository(
    copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub.constants

    root = tmp_path / "hub" / "models--someone--city-video"
    (root / "refs").mkdir(parents=True)
    (root / "refs" / "main").write_text("0123abc")
    _fine_tune(copy / "unet", root / "snapshots" / "0123abc" / "unet")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    data = _with_a_fine_tune(small_manifest(), sources={"unet_city": "someone/city-video/unet"})
    pack = open_any_pack(write_manifest(copy, data))
    assert isinstance(pack, HubPack) and pack.missing() is None
    assert pack.place("unet_city") == root / "snapshots" / "0123abc" / "unet"
    wanted = "hf download someone/city-video unet/config.json unet/diffusion_pytorch_model.safetensors"
    assert wanted in pack.get_command()
    assert len(pack.weight_files()) == 4 and drawn(opened(copy), scene(steps=1))[0].std() > 1.0


# ----------------------------------------------------------------------------------------------- refusals


def small_manifest() -> dict[str, Any]:
    """The shipped manifest with a small default clip."""
    data = yaml.safe_load((MODELSCOPE / "pack.yaml").read_text())
    data["defaults"] |= {"width": 64, "height": 64, "frames": 4, "steps": 2}
    return data


def write_manifest(folder: Path, data: dict[str, Any]) -> Path:
    (folder / "pack.yaml").write_text(yaml.safe_dump(data, sort_keys=False))
    return folder


def _edit_json(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def _as_pickle(folder: Path) -> None:
    tensors = load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")
    torch.save(tensors, folder / "unet" / "diffusion_pytorch_model.bin")
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()


def _without_a_tensor(folder: Path) -> None:
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    tensors.pop("conv_in.weight")
    save_file(tensors, path, metadata={"format": "pt"})


BREAKAGES: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "no unet": (lambda f: shutil.rmtree(f / "unet"), "component_missing", "unet/"),
    "no weights of the vae": (
        lambda f: (f / "vae" / "diffusion_pytorch_model.safetensors").unlink(), "component_missing", "vae/"),
    "no configuration": (lambda f: (f / "vae" / "config.json").unlink(), "component_missing", "vae/config.json"),
    "no vocabulary": (lambda f: (f / "tokenizer" / "vocab.json").unlink(), "component_missing", "tokenizer/"),
    "pickle": (_as_pickle, "pickle_refused", "diffusion_pytorch_model.bin"),
    "unknown scheduler": (
        lambda f: _edit_json(f / "model_index.json", scheduler=["diffusers", "TCDScheduler"]),
        "unknown_scheduler", "TCDScheduler"),
    "clipping scheduler": (
        lambda f: _edit_json(f / "scheduler" / "scheduler_config.json", clip_sample=True),
        "unknown_scheduler", "clip_sample"),
    "unknown prediction": (
        lambda f: _edit_json(f / "scheduler" / "scheduler_config.json", prediction_type="score"),
        "unknown_scheduler", "score"),
    "code of its own": (
        lambda f: _edit_json(f / "model_index.json", unet=["models.evil", "UNet3DConditionModel"]),
        "unknown_component", "models.evil"),
    "another pipeline": (
        lambda f: _edit_json(f / "model_index.json", _class_name="FluxPipeline"), "unknown_pipeline", "FluxPipeline"),
    "index is no JSON": (lambda f: (f / "model_index.json").write_text("{"), "pack_broken", "model_index.json"),
    "another latent space": (
        lambda f: _edit_json(f / "vae" / "config.json", latent_channels=16), "weights_mismatch", "channels"),
    "another text width": (
        lambda f: _edit_json(f / "unet" / "config.json", cross_attention_dim=32), "weights_mismatch", "a token"),
}  # fmt: skip


@pytest.mark.parametrize("name", BREAKAGES)
def test_what_is_wrong_with_a_folder_is_named_before_anything_is_loaded(name: str, copy: Path) -> None:
    break_it, code, named = BREAKAGES[name]
    break_it(copy)
    error = refusal(lambda: opened(copy).stream(scene()))
    assert error.code == code and named in error.message and error.remedy


@pytest.mark.parametrize(
    ("break_it", "code"),
    [
        (_without_a_tensor, "weights_mismatch"),
        (lambda f: (f / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"junk"), "pack_broken"),
    ],
)
def test_weights_that_do_not_hold_every_tensor_end_the_run(
    break_it: Callable[[Path], object], code: str, copy: Path
) -> None:
    break_it(copy)
    event = list(opened(copy).stream(scene()))[-1]
    assert isinstance(event, ev.Failed) and event.code == code and "unet/" in event.message


def test_the_half_precision_variant_and_shards_are_read(copy: Path) -> None:
    folder = copy / "unet"
    tensors = load_file(folder / "diffusion_pytorch_model.safetensors")
    (folder / "diffusion_pytorch_model.safetensors").unlink()
    names = sorted(tensors)
    parts = {"diffusion_pytorch_model-00001-of-00002.safetensors": names[::2]}
    parts["diffusion_pytorch_model-00002-of-00002.safetensors"] = names[1::2]
    for file, part in parts.items():
        save_file({name: tensors[name] for name in part}, folder / file, metadata={"format": "pt"})
    table = {name: file for file, part in parts.items() for name in part}
    index = folder / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": table}))
    for place in ("vae/diffusion_pytorch_model", "text_encoder/model"):
        (copy / f"{place}.safetensors").rename(copy / f"{place}.fp16.safetensors")
    pack = open_any_pack(copy)
    assert isinstance(pack, HubPack) and len(pack.weight_files()) == 4
    assert drawn(opened(copy), scene(steps=1))[0].shape == (4, 64, 64, 3)
    index.write_text(json.dumps({"weight_map": {"a": "../../secret.safetensors"}}))
    assert refusal(pack.check).code == "component_missing"


def test_names_that_the_libraries_gave_up_are_still_read(copy: Path, pipeline: MoEVideoPipeline) -> None:
    """The published repository was saved in 2023: other names in the autoencoder's attention and the text encoder."""
    path = copy / "vae" / "diffusion_pytorch_model.safetensors"
    names = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}
    old = {}
    for name, tensor in load_file(path).items():
        for new, before in names.items():
            name = name.replace(new, before)
        old[name] = tensor
    assert any(".proj_attn." in name for name in old)
    save_file(old, path, metadata={"format": "pt"})
    path = copy / "text_encoder" / "model.safetensors"
    states = {f"text_model.{name.removeprefix('text_model.')}": t for name, t in load_file(path).items()}
    states["text_model.embeddings.position_ids"] = torch.arange(77)[None]
    save_file(states, path, metadata={"format": "pt"})
    request = scene(steps=1)
    assert np.array_equal(drawn(opened(copy), request)[0], drawn(pipeline, request)[0])


def test_the_packs_hash_changes_with_any_file_of_weights(copy: Path) -> None:
    before = open_any_pack(copy).sha256
    assert open_any_pack(copy).sha256 == before
    path = copy / "vae" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    first = sorted(tensors)[0]
    save_file(tensors | {first: tensors[first] + 1}, path, metadata={"format": "pt"})
    assert open_any_pack(copy).sha256 != before


def test_the_hash_that_a_download_noted_is_taken_until_the_file_changes(copy: Path) -> None:
    path = copy / "unet" / "diffusion_pytorch_model.safetensors"
    read = open_any_pack(copy).sha256
    note = copy / ".cache" / "huggingface" / "download" / "unet" / f"{path.name}.metadata"
    note.parent.mkdir(parents=True)
    noted = hashlib.sha256(path.read_bytes()).hexdigest()
    note.write_text(f"0123abc\n{noted}\n{path.stat().st_mtime + 1}\n")
    assert open_any_pack(copy).sha256 == read
    note.write_text(f"0123abc\n{'0' * 64}\n{path.stat().st_mtime + 1}\n")
    assert open_any_pack(copy).sha256 != read, "the note is what counts"
    note.write_text(f"0123abc\n{'0' * 64}\n{path.stat().st_mtime - 10}\n")
    assert open_any_pack(copy).sha256 == read, "the file was written after the note"


def test_an_embedded_pack_is_asked_for_where_only_one_will_do(weights: Path) -> None:
    assert refusal(lambda: open_pack(weights)).code == "pack_kind"


def test_the_hubs_cache_is_looked_at_and_never_filled(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A snapshot as `hf download` leaves it: found by the repository's name, without a request."""
    import huggingface_hub.constants

    cache = tmp_path / "hub"
    root = cache / "models--ali-vilab--text-to-video-ms-1.7b"
    shutil.copytree(weights, root / "snapshots" / "0123abc")
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text("0123abc")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    pack = open_any_pack(MODELSCOPE)
    assert isinstance(pack, HubPack) and pack.missing() is None and pack.weights.name == "0123abc"
    shutil.rmtree(root / "snapshots" / "0123abc" / "vae")
    error = pack.missing()
    assert error is not None and error.code == "component_missing" and "hf download" in error.remedy


def test_the_conformance_check_runs_every_part_of_such_a_pack(copy: Path) -> None:
    found = check_pack(copy, ENGINE)
    assert any("6 experts and the generalist predict" in line for line in found)
    data = small_manifest()
    data["experts"][1]["colour"] = data["experts"][0]["colour"]
    error = refusal(lambda: check_pack(write_manifest(copy, data), ENGINE))
    assert error.code == "nonconforming" and "colour" in error.message


# ------------------------------------------------------------------------------------------ command line


def test_commands_take_such_a_folder(copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(write_manifest(copy, small_manifest()))
    assert main(["packs", folder, "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)["packs"][0]
    assert shown["weights"] == "here" and shown["folder"] == folder and shown["bytes"] > 0
    assert main(["compare", PROMPT, "--pack", folder, "--out", str(tmp_path / "both"), "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["runs"]["moe"]["pack"]["id"] == record["runs"]["single"]["pack"]["id"] == "modelscope-1.7b"
    assert (tmp_path / "both" / "side_by_side.mp4").is_file()


def test_case_study_takes_such_a_folder_as_its_pack(
    copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = str(write_manifest(copy, small_manifest())), tmp_path / "study"
    words = ["case-study", "--pack", folder, "--out", str(out), "--seeds", "1", "--steps", "1", "--json"]
    assert main([*words, "--prompt", PROMPT]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["pack"]["id"] == "modelscope-1.7b"
    assert [run["mode"] for run in report["runs"]] == ["single", "moe"]
    assert report["runs"][0]["active"] == ["generalist"]
    assert report["comparisons"]["temporal_flickering"]["pairs"] == 1
    assert report["comparisons"]["background_consistency_pack"]["pairs"] == 1  # by the pack's own autoencoder
    assert (out / "report.md").is_file() and (out / "clips" / "moe" / f"{PROMPT}-0.mp4").is_file()


def test_packs_and_doctor_say_how_to_get_what_is_not_here(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["packs", "modelscope-1.7b", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)["packs"][0]
    assert shown["weights"] == "missing" and shown["get"].startswith("hf download ali-vilab/")
    assert main(["packs", "modelscope-1.7b"]) == 0
    assert "weights not here (3.7 GB). Get them: hf download" in capsys.readouterr().out
    found = [finding for finding in examine() if finding.what == "hub packs"]
    assert found and all(finding.state == "limited" and "hf download" in finding.remedy for finding in found)
    assert main(["generate", PROMPT, "--pack", "modelscope-1.7b", "--out", "never"]) == 2
    assert "hf download" in capsys.readouterr().err and not Path("never").exists()
