"""Evaluate a pack against held-out renders: the figures and the sheet that the README shows.

    python -m training.evaluate --held data/held --latents data/held-latents --out docs/evaluation

Writes `evaluation.json` (autoencoder PSNR by domain, gate accuracies, each expert's and the generalist's held-out
denoising error by domain, the mixture's beside the single model's), `sheet.png` and `sheet.webp` (24 held-out
prompts through the whole pipeline). Everything is read from the pack as it ships.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from moe_pipeline.diffusion import flow
from moe_pipeline.engine import Engine
from moe_pipeline.gating.routing import route
from moe_pipeline.interfaces import Frames
from moe_pipeline.pipeline import MoEVideoPipeline
from moe_pipeline.prompting.decompose import decompose
from moe_pipeline.schema.request import Mode, SceneRequest
from training.autoencoder import psnr, reconstruct
from training.clips import ClipSet
from training.experts import HELD_SIGMAS
from training.gate import accuracy, paraphrases
from training.latents import LatentSet
from training.worlds import DOMAINS


def autoencoder_psnr(engine: Engine, clips: ClipSet) -> dict[str, float]:
    """Held-out PSNR in dB, mean and by background domain."""
    by_domain: dict[str, list[float]] = {}
    for index in range(len(clips)):
        clip = clips.clip(index)
        found = psnr(clip, reconstruct(engine.autoencoder, clip, engine.device))
        by_domain.setdefault(clips.facts[index]["domains"][0], []).append(found)
    figures = {d: float(np.mean(v)) for d, v in sorted(by_domain.items())}
    return {"mean": float(np.mean([x for v in by_domain.values() for x in v])), **figures}


@torch.inference_mode()
def denoising_errors(engine: Engine, held: LatentSet) -> dict[str, dict[str, list[float]]]:
    """Mean squared velocity error of each expert, the generalist and the routed mixture, clip by clip.

    Returns {model: {domain: one error a clip}}. A clip counts for each of its domains, for `all`, and for `composed`
    where it has two; its error is the mean over three noise levels with noise seeded by its index, the same for all
    models.
    """
    manifest = engine.pack.manifest
    experts = manifest.expert_ids()
    errors: dict[str, dict[str, list[float]]] = {}

    def note(model: str, domains: list[str], values: list[float]) -> None:
        groups = (*domains, "all", "composed") if len(domains) > 1 else (*domains, "all")
        for group in groups:
            errors.setdefault(model, {}).setdefault(group, []).append(float(np.mean(values)))

    for index in range(len(held)):
        caption = index % held.captions
        data, text, mask = held.item(index, 0, caption)
        sigmas = [HELD_SIGMAS[(index * 3 + k * 7) % 20] for k in range(3)]
        noise = torch.stack(
            [
                torch.randn(data.shape, generator=torch.Generator().manual_seed(1000 * index + k))
                for k in range(3)
            ]
        )
        sigma = torch.tensor(sigmas)
        data = data.expand(3, *data.shape)
        x = flow.add_noise(data, noise, sigma).to(engine.device, engine.dtype)
        tokens = text.expand(3, *text.shape).to(engine.device, engine.dtype)
        masks, level = mask.expand(3, -1).to(engine.device), sigma.to(engine.device)
        velocity = {
            name: engine.denoiser(name)(x, level, tokens, masks).float().cpu()
            for name in (*experts, manifest.generalist.id)
        }
        domains = held.facts[index]["domains"]
        for name, prediction in velocity.items():
            note(name, domains, flow.velocity_loss(prediction, data, noise).tolist())
        plan = decompose(held.facts[index]["captions"][caption])
        pooled = engine.encoder([part.text for part in plan.subtasks]).pooled
        decision = route(engine.gate, pooled, plan, experts, sigmas, manifest.defaults.top_k)
        mixed = torch.stack(
            [
                torch.stack([velocity[e][k] * w for e, w in step.weights.items()]).sum(0)
                for k, step in enumerate(decision.by_step)
            ]
        )
        note("mixture", domains, flow.velocity_loss(mixed, data, noise).tolist())
    return errors


def paired_change(ours: list[float], theirs: list[float]) -> dict[str, float]:
    """Mean of `ours` over `theirs` in percent of the latter's mean, with the 95 % bootstrap interval over clips."""
    a, b = np.asarray(ours), np.asarray(theirs)
    rows = np.random.default_rng(0).integers(len(a), size=(4000, len(a)))
    changes = 100.0 * (a[rows].mean(1) / b[rows].mean(1) - 1.0)
    low, high = np.quantile(changes, (0.025, 0.975))
    return {"percent": 100.0 * float(a.mean() / b.mean() - 1.0), "low": float(low), "high": float(high)}


def against_single(errors: dict[str, dict[str, list[float]]]) -> dict[str, dict[str, dict[str, float]]]:
    """How each expert on its own domain, and the mixture on every group of clips, stand against the generalist."""
    single = errors["generalist"]
    return {
        "expert": {d: paired_change(errors[d][d], single[d]) for d in DOMAINS if d in errors},
        "mixture": {group: paired_change(errors["mixture"][group], single[group]) for group in single},
    }


def measure_pack(engine: Engine, clips: ClipSet, latents: LatentSet) -> dict[str, Any]:
    """Every figure of the README that is about quality."""
    captions = [c for fact in clips.facts for c in fact["captions"]]
    owners = [fact["domains"] for fact in clips.facts for _ in fact["captions"]]
    texts, domains = zip(*paraphrases(), strict=True)
    pack = engine.pack
    errors = denoising_errors(engine, latents)
    return {
        "pack": {"id": pack.manifest.id, "version": pack.manifest.version, "sha256": pack.sha256},
        "held_out_clips": len(clips),
        "autoencoder_psnr_db": autoencoder_psnr(engine, clips),
        "gate": {
            "held_out_captions": accuracy(engine.gate, engine.encoder, captions, owners),
            "held_out_captions_count": len(captions),
            "paraphrases": accuracy(engine.gate, engine.encoder, texts, domains),
            "paraphrases_count": len(texts),
        },
        "denoising_error": {
            model: {group: float(np.mean(values)) for group, values in sorted(groups.items())}
            for model, groups in errors.items()
        },
        "against_single": against_single(errors),
        "environment": engine.environment().model_dump(),
    }


def chosen_prompts(held: ClipSet, each: int = 4) -> list[dict[str, Any]]:
    """`each` held-out captions a domain, background and subject domains mixed, in a fixed order."""
    chosen: list[dict[str, Any]] = []
    for domain in DOMAINS:
        facts = [f for f in held.facts if f["domains"][0] == domain]
        chosen += [{"prompt": f["captions"][1], "domains": f["domains"]} for f in facts[:each]]
    return chosen


def _caption(draw: ImageDraw.ImageDraw, x: int, y: int, text: str, width: int) -> None:
    font = ImageFont.load_default(size=10)
    words, line, lines = text.split(), "", []
    for word in words:
        if draw.textlength(f"{line} {word}".strip(), font=font) > width:
            lines.append(line)
            line = word
        else:
            line = f"{line} {word}".strip()
    for i, shown in enumerate([*lines, line][:3]):
        draw.text((x, y + 11 * i), shown, fill=(40, 44, 52), font=font)


def sheet_png(clips: list[Frames], prompts: list[str], path: Path, columns: int = 6) -> None:
    """Frames 2 and 13 of each clip above its prompt."""
    side, gap, text = clips[0].shape[1], 8, 36
    rows = -(-len(clips) // columns)
    cell = (2 * side + text + gap, side + gap)
    sheet = Image.new("RGB", (columns * cell[1] + gap, rows * cell[0] + gap), (250, 250, 250))
    draw = ImageDraw.Draw(sheet)
    for i, (clip, prompt) in enumerate(zip(clips, prompts, strict=True)):
        x, y = gap + i % columns * cell[1], gap + i // columns * cell[0]
        sheet.paste(Image.fromarray(clip[2]), (x, y))
        sheet.paste(Image.fromarray(clip[13]), (x, y + side))
        _caption(draw, x, y + 2 * side + 1, prompt, side)
    sheet.save(path, optimize=True)


def sheet_animation(clips: list[Frames], path: Path, columns: int = 8, fps: int = 8) -> None:
    """All clips playing side by side, as an animated WebP."""
    frames = []
    for t in range(len(clips[0])):
        rows = [
            np.concatenate([c[t] for c in clips[i : i + columns]], 1) for i in range(0, len(clips), columns)
        ]
        frames.append(Image.fromarray(np.concatenate(rows, 0)))
    frames[0].save(
        path, save_all=True, append_images=frames[1:], duration=1000 // fps, loop=0, quality=80, method=4
    )


def generate(pipeline: MoEVideoPipeline, prompts: list[str], mode: Mode) -> list[Frames]:
    """One clip a prompt, seed by its place in the list."""
    clips = []
    for seed, prompt in enumerate(prompts):
        clips.append(pipeline.generate(SceneRequest.parse(prompt=prompt, seed=seed, mode=mode)).frames)
        print(f"{mode} {seed + 1}/{len(prompts)} {prompt}", flush=True)
    return clips


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--pack", help="folder of the pack; the embedded one by default")
    parser.add_argument("--held", required=True, help="held-out rendered shards")
    parser.add_argument("--latents", required=True, help="held-out shards encoded by this pack's autoencoder")
    parser.add_argument("--out", required=True)
    parser.add_argument("--only", choices=("figures", "sheets"), help="one half of the work")
    arguments = parser.parse_args()
    out = Path(arguments.out)
    out.mkdir(parents=True, exist_ok=True)
    pipeline = MoEVideoPipeline.from_pack(Path(arguments.pack) if arguments.pack else None)
    clips = ClipSet([Path(arguments.held)])
    if arguments.only != "sheets":
        engine = pipeline.engine
        assert isinstance(engine, Engine)  # what is trained here brings its own files
        figures = measure_pack(engine, clips, LatentSet(Path(arguments.latents)))
        (out / "evaluation.json").write_text(json.dumps(figures, indent=1) + "\n")
        print(json.dumps(figures, indent=1))
    if arguments.only != "figures":
        prompts = [entry["prompt"] for entry in chosen_prompts(clips)]
        modes: tuple[Mode, ...] = ("moe", "single")
        for mode in modes:
            made = generate(pipeline, prompts, mode)
            sheet_png(made, prompts, out / f"sheet-{mode}.png")
            sheet_animation(made, out / f"sheet-{mode}.webp")


if __name__ == "__main__":
    main()
