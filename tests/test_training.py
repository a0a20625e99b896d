"""Training: optimiser, average, clock and checkpoints; and, slowly, every trainer from clips to a pack that runs."""

import argparse
import json
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from moe_pipeline.diffusion.autoencoder import VideoAutoencoder
from moe_pipeline.experts.denoiser import VideoDenoiser
from moe_pipeline.prompting.encoder import MiniLMEncoder
from moe_pipeline.schema.errors import MoEverseError
from training import autoencoder as autoencoder_trainer
from training import evaluate as evaluate_trainer
from training import experts as expert_trainer
from training.clips import ClipSet
from training.latents import TEXT_TOKENS, LatentSet, claim, encode_text, mirrored
from training.latents import main as encode
from training.optim import Ema, MuonAdamW, orthogonalise
from training.pack import _shards
from training.session import Checkpoints, Curve, RunningClock
from training.worlds import DOMAINS, captions, sample
from training.worlds.shards import write_shard

CAPTIONS = {
    "city": "a neon city street at night",
    "landscape": "green hills under a blue sky",
    "interior": "a quiet museum hall",
    "space": "a planet with golden rings",
    "object": "a glowing red cube on the left",
    "avatar": "a robot waving on the right",
}


TIMES = ("", ", at dawn", ", at noon", ", at dusk", ", by night", ", in fog", ", in rain")
ENDINGS = [f"{when}{camera}" for when in TIMES for camera in ("", ", slow camera")]


def net(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(24, 32), nn.GELU(), nn.Linear(32, 24))


# ------------------------------------------------------------------------------------------------- the optimiser


@pytest.mark.parametrize("shape", [(3, 24, 24), (2, 64, 16), (1, 16, 64)])
def test_orthogonalising_keeps_directions_and_brings_every_singular_value_near_one(
    shape: tuple[int, int, int],
) -> None:
    u, _, v = torch.linalg.svd(torch.randn(shape), full_matrices=False)
    spread = torch.logspace(0, -1, min(shape[1:]))  # from 1 down to 0.1
    result = orthogonalise(u * spread @ v).float()
    singular = torch.linalg.svdvals(result)
    assert float(singular.min()) > 0.5 and float(singular.max()) < 1.35
    aligned = (u.mT @ result @ v.mT).diagonal(dim1=-2, dim2=-1)
    torch.testing.assert_close(aligned, singular.mean() * torch.ones_like(aligned), atol=0.4, rtol=0)


def test_matrices_go_to_muon_and_the_rest_to_adam() -> None:
    optimiser = MuonAdamW(net(), adam_only=("2.",))
    assert sorted(name for names in optimiser.groups.values() for name in names) == ["0.weight"]
    assert sorted(optimiser.adam_names) == ["0.bias", "2.bias", "2.weight"]


def test_the_adam_half_equals_torch() -> None:
    ours, theirs = net(), net()
    optimiser = MuonAdamW(ours, lr=1e-2, adam_only=("",), betas=(0.9, 0.98))
    reference = torch.optim.AdamW(theirs.parameters(), lr=1e-2, betas=(0.9, 0.98), weight_decay=0.0)
    for step in range(5):
        x = torch.randn(8, 24, generator=torch.Generator().manual_seed(step))
        for model in (ours, theirs):
            model.zero_grad()
            model(x).pow(2).mean().backward()
        optimiser.step()
        reference.step()
    for mine, yours in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, yours, atol=1e-5, rtol=1e-4)


def test_a_muon_step_has_the_size_that_adamw_would_take() -> None:
    """0.2 * sqrt(larger side) on an orthogonal direction is a root mean square of about 0.2."""
    for shape in ((64, 64), (128, 32)):
        layer = nn.Linear(shape[1], shape[0], bias=False)
        before = layer.weight.detach().clone()
        layer.weight.grad = torch.randn(shape)
        MuonAdamW(layer, lr=1e-2).step()
        moved = (layer.weight.detach() - before).pow(2).mean().sqrt() / 1e-2
        assert 0.1 < float(moved) < 0.3


def test_it_learns_and_leaves_what_has_no_gradient_alone() -> None:
    model, generator = net(), torch.Generator().manual_seed(1)
    frozen = model[2].bias.detach().clone()  # type: ignore[index]
    model[2].bias.requires_grad_(False)  # type: ignore[index]
    x = torch.randn(64, 24, generator=generator)
    y = x.roll(1, -1)
    optimiser, losses = MuonAdamW(model, lr=1e-2), []
    for _ in range(60):
        loss = (model(x) - y).pow(2).mean()
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.4 * losses[0]
    assert torch.equal(model[2].bias, frozen)  # type: ignore[index]
    assert all(p.grad is None for p in model.parameters())


def test_the_average_follows_and_forgets_the_start() -> None:
    model = net()
    ema = Ema(model, decay=0.9)
    with torch.no_grad():
        for p in model.parameters():
            p.fill_(1.0)
    for _ in range(200):
        ema.update(model)
    other = net(5)
    ema.copy_to(other)
    for p in other.parameters():
        torch.testing.assert_close(p, torch.ones_like(p), atol=1e-4, rtol=0)
    ema.update(model)
    assert ema.updates == 201


# ----------------------------------------------------------------------------------------------- what trainers share


def test_the_clock_counts_work_and_no_pauses() -> None:
    clock = RunningClock(minutes=1.0, device=torch.device("cpu"))
    time.sleep(0.3)
    clock.tick()
    rested = clock.spent_s
    began = time.process_time()
    while time.process_time() - began < 0.1:
        math.sqrt(2.0)
    clock.tick()
    assert rested < 0.1 and clock.spent_s - rested >= 0.09 / torch.get_num_threads()
    assert not clock.over and clock.fraction == pytest.approx(clock.spent_s / 60.0)
    clock.spent_s = 61.0
    assert clock.over and clock.fraction == 1.0


def test_the_clock_of_a_graphics_card_counts_a_stall_as_one_step(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    clock = RunningClock(minutes=1.0, device=torch.device("cuda"))
    for passed in [1.0] * 6 + [100.0, 1.0]:
        now[0] += passed
        clock.tick()
    assert clock.spent_s == pytest.approx(8.0)


def trained(steps: int, store: Checkpoints | None = None) -> tuple[nn.Module, Ema, MuonAdamW]:
    """Steps of the same lesson; with a store, the second half goes on from a checkpoint in fresh objects."""
    model = net()
    ema, optimiser = Ema(model), MuonAdamW(model, lr=1e-2)
    for step in range(steps):
        if store is not None and step == steps // 2:
            store.save(model, ema, optimiser, steps=step, spent_s=1.5)
            model = net(99)
            ema, optimiser = Ema(model), MuonAdamW(model, lr=1e-2)
            assert store.load(model, ema, optimiser) == {
                "steps": step, "spent_s": 1.5, "optimiser_steps": step, "ema_updates": step,
            }  # fmt: skip
        x = torch.randn(8, 24, generator=torch.Generator().manual_seed(step))
        (model(x) - x).pow(2).mean().backward()
        optimiser.step()
        optimiser.zero_grad()
        ema.update(model)
    return model, ema, optimiser


def test_a_run_that_was_stopped_goes_on_as_if_it_had_not_been(tmp_path: Path) -> None:
    whole, resumed = trained(8), trained(8, Checkpoints(tmp_path))
    for mine, yours in zip(whole[0].parameters(), resumed[0].parameters(), strict=True):
        assert torch.equal(mine, yours)
    assert all(torch.equal(whole[1].shadow[n], resumed[1].shadow[n]) for n in whole[1].shadow)
    assert not list(tmp_path.glob("*.part")) and not list(tmp_path.glob("*.pt"))


def test_a_checkpoint_and_its_facts_cannot_come_apart(tmp_path: Path) -> None:
    """Killed between two files, a trainer must not take the old clock for the new weights."""
    store = Checkpoints(tmp_path)
    model = net()
    ema, optimiser = Ema(model), MuonAdamW(model)
    assert store.load(model, ema, optimiser) is None
    store.save(model, ema, optimiser, steps=7)
    (tmp_path / "facts.json").write_text('{"steps": 3}')
    facts = store.load(model, ema, optimiser)
    assert facts is not None and facts["steps"] == 7


def test_a_curve_is_a_table_and_a_picture(tmp_path: Path) -> None:
    curve = Curve(tmp_path / "run" / "curve.csv")
    curve.add(minutes=1.0, loss=0.5)
    Curve(tmp_path / "run" / "curve.csv").add(
        minutes=2.0, loss=0.25
    )  # a resumed run goes on in the same table
    assert (tmp_path / "run" / "curve.csv").read_text().split() == ["minutes,loss", "1,0.5", "2,0.25"]
    curve.plot("loss", "loss")
    assert (tmp_path / "run" / "curve.png").read_bytes().startswith(b"\x89PNG")


# ------------------------------------------------------------------------------------------------------- the data


@pytest.mark.parametrize(
    ("caption", "other"),
    [
        ("a robot on the left", "a robot on the right"),
        ("Left to right", "right to left"),
        ("camera pans leftwards", "camera pans rightwards"),
        ("a bright light", "a bright light"),  # "right" inside of a word is no side
    ],
)
def test_a_mirrored_clip_has_a_mirrored_caption(caption: str, other: str) -> None:
    assert mirrored(caption) == other
    assert mirrored(mirrored(caption)).lower() == caption.lower()


def render(folder: Path, clips: int, shard: int = 0) -> Path:
    """A shard in the renderer's form: soft gradients that move, one domain after the other."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(shard)
    ramp = np.linspace(0, 1, 128)[None, None, :, None] * np.ones((16, 128, 1, 1))
    frames = np.stack(
        [
            (
                40 + 60 * rng.random(3) + 120 * np.roll(ramp, int(rng.integers(128)), axis=2) * rng.random(3)
            ).astype(np.uint8)
            for _ in range(clips)
        ]
    )
    lines = []
    for index in range(clips):
        domain = DOMAINS[index % len(DOMAINS)]
        lines.append({"domains": [domain], "captions": [f"{CAPTIONS[domain]}{more}" for more in ENDINGS]})
    write_shard(folder, shard, frames, lines)
    return folder


def test_clips_are_cropped_mirrored_and_found_while_they_appear(tmp_path: Path) -> None:
    clips = ClipSet([render(tmp_path, 3)])
    crops = clips.crops(np.random.default_rng(0), 5, 64)
    assert crops.shape == (5, 16, 64, 64, 3) and crops.dtype == np.uint8
    assert np.array_equal(crops, clips.crops(np.random.default_rng(0), 5, 64))
    render(tmp_path, 2, shard=1)
    (tmp_path / "shard-00002.npy").write_bytes(b"half")  # without its lines a shard is not finished
    assert clips.refresh() == 5 and len(clips.facts) == 5
    assert clips.clip(4).shape == (16, 128, 128, 3)


def test_large_models_are_cut_into_files_that_a_space_takes() -> None:
    state = {f"layer-{i}": torch.zeros(1_000_000) for i in range(5)}  # 4 MB each
    shards = _shards(state)
    assert [len(shard) for shard in shards] == [2, 2, 1]
    assert {name for shard in shards for name in shard} == set(state)


# ------------------------------------------------------------------------------------- every trainer, from end to end


def run(main: Callable[[], None], monkeypatch: pytest.MonkeyPatch, *words: object) -> None:
    monkeypatch.setattr(sys, "argv", ["trainer", *map(str, words)])
    main()


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_trainer_takes_its_steps_and_the_pack_they_make_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Eight clips, twenty steps, all six experts: nothing to look at, but every link of the chain."""
    from moe_pipeline.pipeline import MoEVideoPipeline
    from moe_pipeline.schema.request import SceneRequest
    from moe_pipeline.testing import check_pack
    from training import decoder as decoder_trainer
    from training import gate as gate_trainer
    from training import pack as packer
    from training import probe as probe_trainer
    from training import redraw
    from training.unpack import unpack

    data, held, made = (
        render(tmp_path / "data", 8),
        render(tmp_path / "held", 6, shard=1),
        tmp_path / "checkpoints",
    )
    run(autoencoder_trainer.main, monkeypatch, "--data", data, "--held", held, "--out", made / "autoencoder",
        "--minutes", 0.05, "--batch", 2)  # fmt: skip
    for source in (data, held):
        run(
            encode,
            monkeypatch,
            "--data",
            source,
            "--autoencoder",
            made / "autoencoder",
            "--out",
            f"{source}-latents",
        )
    latents = LatentSet(Path(f"{data}-latents"))
    assert len(latents) == 8 and len(LatentSet(Path(f"{data}-latents"), domain="avatar")) == 1
    assert latents.item(0, 0, 0)[0].shape == (16, 4, 16, 16)

    def denoise(role: str, out: str, steps: int, *more: object) -> dict[str, float]:
        run(expert_trainer.main, monkeypatch, "--role", role, "--data", f"{data}-latents", "--held", f"{held}-latents",
            "--out", made / out, "--batch", 2, "--samples", 2 * steps, *more)  # fmt: skip
        return dict(json.loads((made / out / "summary.json").read_text()))

    denoise("generalist", "generalist", 20, "--autoencoder", made / "autoencoder")
    assert (made / "generalist" / "sheet.png").exists() and (made / "generalist" / "curve.png").exists()
    first = load_file(made / "generalist" / "state.safetensors")
    resumed = denoise("generalist", "generalist", 24)
    assert resumed["samples"] == 48 and not torch.equal(
        first["model.patch_out.weight"],
        load_file(made / "generalist" / "state.safetensors")["model.patch_out.weight"],
    )
    start = ("--start", made / "generalist")
    single = denoise("single", "single", 4, *start)
    assert single["samples"] == 8 and single["samples_before"] == 48
    assert denoise("single", "routed", 4, *start, "--routed", 0.5)["samples"] == 8
    for domain in DOMAINS:
        denoise("expert", f"expert-{domain}", 2, "--domain", domain, *start)
    run(redraw.main, monkeypatch, "--latents", f"{data}-latents", "--denoiser", made / "single", "--steps", 2,
        "--out", f"{data}-redrawn")  # fmt: skip
    run(decoder_trainer.main, monkeypatch, "--data", data, "--latents", f"{data}-latents", "--redrawn",
        f"{data}-redrawn", "--held", held, "--start", made / "autoencoder", "--out", made / "decoder",
        "--minutes", 0.05)  # fmt: skip
    before, after = (load_file(made / name / "ema.safetensors") for name in ("autoencoder", "decoder"))
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved and all(name.startswith(("decode_", "seam_")) for name in moved)  # latents stay valid
    run(gate_trainer.main, monkeypatch, "--latents", f"{data}-latents", "--held", f"{held}-latents", "--experts", made,
        "--out", made / "gate", "--steps", 20, "--clips", 8)  # fmt: skip
    run(probe_trainer.main, monkeypatch, "--data", data, "--held", held, "--autoencoder", made / "autoencoder",
        "--out", made / "probe")  # fmt: skip
    run(
        packer.main,
        monkeypatch,
        "--checkpoints",
        made,
        "--previews",
        held,
        "--out",
        tmp_path / "pack",
        "--version",
        "0.0.1",
    )
    assert check_pack(tmp_path / "pack")
    pipeline = MoEVideoPipeline.from_pack(tmp_path / "pack")
    clip = pipeline.generate(SceneRequest(prompt="a robot in a city", steps=2, frames=8, width=64, height=64))
    assert clip.frames.shape == (8, 64, 64, 3) and clip.record.pack.version == "0.0.1"
    unpack(tmp_path / "pack", tmp_path / "unpacked")
    shipped, trained = (
        load_file(folder / "single" / "ema.safetensors") for folder in (tmp_path / "unpacked", made)
    )
    assert all(torch.equal(shipped[name], trained[name].bfloat16().float()) for name in trained)
    for name in ("gate", "probe"):
        again, first = (
            load_file(root / name / f"{name}.safetensors") for root in (tmp_path / "unpacked", made)
        )
        assert all(again[key].shape == first[key].shape for key in first)
    onward = denoise("single", "onward", 2, "--start", tmp_path / "unpacked" / "single", "--start-averaged")
    assert onward["samples_before"] == 56


def test_routed_tokens_pass_the_middle_blocks_by_and_all_tokens_are_the_plain_network() -> None:
    torch.manual_seed(0)
    model = VideoDenoiser()
    nn.init.normal_(model.patch_out.weight, std=0.02)
    given = (
        torch.randn(1, 16, 4, 16, 16),
        torch.rand(1),
        torch.randn(1, 32, 384),
        torch.ones(1, 32, dtype=torch.bool),
    )
    plain = model(*given)
    assert torch.equal(plain, model(*given, torch.arange(256)))
    kept = expert_trainer.routed_tokens(given[0], model.patch, 0.5)
    assert kept is not None and len(kept) == 128 and len(kept.unique()) == 128
    assert expert_trainer.routed_tokens(given[0], model.patch, 0.0) is None
    seen: list[int] = []
    hooks = [
        block.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape[1]))
        for block in model.blocks
    ]
    routed = model(*given, kept)
    assert seen == [288] + [160] * 5 + [288] * 2
    assert routed.shape == plain.shape and not torch.equal(routed, plain)
    for hook in hooks:
        hook.remove()


def test_latents_of_another_encoder_are_refused_and_another_decoder_is_not_another_encoder(
    tmp_path: Path,
) -> None:
    torch.manual_seed(0)
    ours = VideoAutoencoder()
    claim(tmp_path, ours)
    with torch.no_grad():
        next(p for n, p in ours.named_parameters() if n.startswith("decode_")).add_(1.0)
    claim(tmp_path, ours)
    with pytest.raises(MoEverseError) as refused:
        claim(tmp_path, VideoAutoencoder())
    assert refused.value.code == "stale_latents" and str(tmp_path) in refused.value.message


def test_captions_that_say_the_place_stand_behind_the_others_and_are_mirrored_with_the_clip(
    tmp_path: Path,
) -> None:
    scene = next(
        found
        for k in range(100)
        if (found := sample(np.random.default_rng(k), "city", 1.0)).position == "left" and not found.companion
    )
    said = captions(scene, np.random.default_rng(0))
    fact = {"seed": 5, "domains": scene.domains, "captions": said, "attributes": scene.as_dict()}
    (tmp_path / "shard-00000.jsonl").write_text(json.dumps(fact))
    encoder = MiniLMEncoder(TEXT_TOKENS)
    (tmp_path / "out").mkdir()
    encode_text(tmp_path / "shard-00000.npy", tmp_path / "out", encoder, places=True)
    facts = json.loads((tmp_path / "out" / "shard-00000.jsonl").read_text())
    texts = np.load(tmp_path / "out" / "shard-00000.text.npy")
    assert facts["captions"][:6] == said and all("left" in text for text in facts["captions"][6:])
    assert texts.shape == (1, 2, 12, TEXT_TOKENS, 384)
    other_side = encoder([facts["captions"][7].replace("left", "right")]).tokens[0]
    np.testing.assert_allclose(texts[0, 1, 7], other_side.half().numpy(), atol=2e-3)


def test_a_learning_rate_warms_up_and_falls_to_its_end() -> None:
    for role, end in (("generalist", 1e-3), ("expert", 0.0), ("single", 0.0), ("single", 4e-4)):
        options = argparse.Namespace(role=role, lr=1e-3, lr_end=end)
        assert expert_trainer.learning_rate(options, 0, 0.0) <= 0.2e-3
        assert expert_trainer.learning_rate(options, 100, 1.0) == pytest.approx(end)


def test_peers_orthogonalise_their_parts_to_the_same_weights() -> None:
    """Two processes that each compute half of Muon's directions end where one alone does."""

    class Half:
        world = 2

        def __init__(self, rank: int, others: dict[int, list[torch.Tensor]]) -> None:
            self.rank, self.mine, self.others, self.calls = rank, others.setdefault(rank, []), others, 0

        def sum(self, flat: torch.Tensor) -> None:
            self.mine.append(flat.clone())
            if self.rank == 1:  # the first one has left its parts already
                flat += self.others[0][self.calls]
            self.calls += 1

    def stepped(sharing: Half | None) -> dict[str, torch.Tensor]:
        torch.manual_seed(0)
        module = torch.nn.Sequential(*[torch.nn.Linear(24, 24) for _ in range(3)])
        optimiser = MuonAdamW(module, lr=0.1, sharing=sharing)
        for parameter in module.parameters():
            parameter.grad = torch.randn_like(parameter)
        optimiser.step()
        return {name: p.detach().clone() for name, p in module.named_parameters()}

    parts: dict[int, list[torch.Tensor]] = {}
    stepped(Half(0, parts))
    alone, together = stepped(None), stepped(Half(1, parts))
    assert all(torch.equal(alone[name], together[name]) for name in alone)


def test_even_motion_has_no_jumps_at_latent_frames() -> None:
    even = np.arange(16, dtype=np.uint8)[:, None, None, None] * np.full((1, 4, 4, 3), 5, np.uint8)
    assert autoencoder_trainer.step_evenness(even) == pytest.approx(1.0)
    held = even[np.arange(16) // 4 * 4]  # one picture for each latent frame
    assert autoencoder_trainer.step_evenness(held) > 100


def test_a_paired_change_knows_its_sign_and_its_doubt() -> None:
    rng = np.random.default_rng(0)
    single = list(rng.uniform(0.2, 0.5, 60))
    better = evaluate_trainer.paired_change([0.95 * e for e in single], single)
    assert better["percent"] == pytest.approx(-5.0) and better["low"] <= -5.0 + 1e-9 <= better["high"] + 1e-6
    doubtful = evaluate_trainer.paired_change(
        [e + d for e, d in zip(single, rng.normal(0, 0.05, 60), strict=True)], single
    )
    assert doubtful["low"] < 0.0 < doubtful["high"]
