"""Train the video autoencoder on rendered clips.

    python -m training.autoencoder --data data/train --held data/held --out checkpoints/autoencoder --minutes 30

Loss: L1 + 2 x MSE on pixels in [-1, 1], with a little noise on the latents so that the decoder forgives a
denoiser's errors. The learning rate falls linearly to 2 % over the budget of running minutes. The run can be
stopped at any time and continued with the same command. A decoder trained on alone is training/decoder.py.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file

from moe_pipeline.diffusion.autoencoder import VideoAutoencoder, to_frames, to_model_range
from training.clips import ClipSet, Frames
from training.optim import Ema, MuonAdamW
from training.session import Checkpoints, Curve, RunningClock


def psnr(a: Frames, b: Frames) -> float:
    """Peak signal-to-noise ratio in dB of uint8 frames."""
    error = float(np.mean((a.astype(np.float32) - b.astype(np.float32)) ** 2))
    return 10.0 * math.log10(255.0**2 / max(error, 1e-6))


@torch.no_grad()
def reconstruct(model: VideoAutoencoder, clip: Frames, device: torch.device) -> Frames:
    """One whole clip through the model: uint8 (T, H, W, 3) -> the same."""
    video = to_model_range(torch.from_numpy(clip.copy())[None].to(device))
    with torch.autocast(device.type, dtype=torch.bfloat16):
        result = model(video)
    return to_frames(result)[0].cpu().numpy()


def validate(model: VideoAutoencoder, held: ClipSet, count: int, device: torch.device) -> dict[str, float]:
    """Held-out PSNR in dB: mean over clips, and by the clip's first domain."""
    by_domain: dict[str, list[float]] = {}
    jumps, wanted = [], []
    for index in range(min(count, len(held))):
        clip = held.clip(index)
        result = reconstruct(model, clip, device)
        by_domain.setdefault(held.facts[index]["domains"][0], []).append(psnr(clip, result))
        jumps.append(step_evenness(result))
        wanted.append(step_evenness(clip))
    figures = {name: float(np.mean(values)) for name, values in sorted(by_domain.items())}
    everything = [value for values in by_domain.values() for value in values]
    evenness = float(
        np.median(jumps) / max(np.median(wanted), 1e-6)
    )  # of the reconstruction over the original's
    return {"psnr": float(np.mean(everything)), "worst": min(figures.values()), "jump": evenness, **figures}


def sample_sheet(model: VideoAutoencoder, held: ClipSet, path: Path, device: torch.device) -> None:
    """Originals above reconstructions, frame 9 of twelve held-out clips."""
    rows = []
    for index in range(min(12, len(held))):
        clip = held.clip(index)
        rows.append(np.concatenate([clip[9], reconstruct(model, clip, device)[9]], axis=0))
    Image.fromarray(np.concatenate(rows, axis=1)).save(path)


def step_evenness(frames: Frames, steps: int = 4) -> float:
    """How evenly a clip moves: the mean change at the borders of latent frames over the mean change elsewhere.

    1 for even motion; a decoder that jumps at every latent frame has more. uint8 (T, H, W, 3).
    """
    change = np.abs(np.diff(frames.astype(np.float32), axis=0)).mean((1, 2, 3))  # (T - 1,)
    border = np.arange(1, len(change) + 1) % steps == 0
    return float(change[border].mean() / max(change[~border].mean(), 1e-6))


def reconstruction_loss(result: torch.Tensor, video: torch.Tensor) -> torch.Tensor:
    """L1 + 2 MSE of a decoded video, float, on pixels in [-1, 1]; both (B, 3, T, H, W)."""
    return F.l1_loss(result, video) + 2.0 * F.mse_loss(result, video)


def train(arguments: argparse.Namespace) -> None:
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    torch.manual_seed(arguments.seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    clips, held = ClipSet([Path(folder) for folder in arguments.data]), ClipSet([Path(arguments.held)])
    out = Path(arguments.out)
    model = VideoAutoencoder().to(device)
    averaged = VideoAutoencoder().to(device)
    optimiser = MuonAdamW(model, lr=arguments.lr)
    ema, store, curve = Ema(model), Checkpoints(out), Curve(out / "curve.csv")
    clock = RunningClock(arguments.minutes, device)
    facts = store.load(model, ema, optimiser) or {}
    clock.spent_s = facts.get("spent_s", 0.0)
    steps, seen, running = int(facts.get("steps", 0)), int(facts.get("samples", 0)), 0.0
    torch.manual_seed(
        1000 * arguments.seed + steps
    )  # a session that goes on must not see the first one's crops again
    rng = np.random.default_rng([arguments.seed, steps])
    parameters = sum(p.numel() for p in model.parameters())
    print(
        f"{parameters / 1e6:.2f} M parameters, {len(clips)} clips, {len(held)} held out, {device}", flush=True
    )
    next_check = clock.spent_s + 60.0 * arguments.validate_every
    figures: dict[str, float] = {}
    clock.tick()
    while not clock.over:
        rate = arguments.lr * max(0.02, 1.0 - clock.fraction) * min(1.0, (steps + 1) / 50)
        video = to_model_range(torch.from_numpy(clips.crops(rng, arguments.batch, arguments.crop)).to(device))
        with torch.autocast(device.type, dtype=torch.bfloat16):
            latents = model.encode(video)
            result = model.decode(latents + arguments.noise * torch.randn_like(latents)).float()
        loss = reconstruction_loss(result, video)
        loss.backward()
        optimiser.step(rate)
        optimiser.zero_grad()
        ema.update(model)
        steps, seen = steps + 1, seen + arguments.batch
        value = loss.item()
        running = value if running == 0.0 else 0.98 * running + 0.02 * value
        clock.tick()
        if clock.spent_s >= next_check or clock.over:
            clips.refresh()
            ema.copy_to(averaged)
            figures = validate(averaged, held, 24 if not clock.over else len(held), device)
            curve.add(minutes=clock.spent_s / 60, steps=steps, clips=len(clips), loss=running, **figures)
            curve.plot("psnr", "held-out PSNR, dB")
            sample_sheet(averaged, held, out / "sheet.png", device)
            store.save(model, ema, optimiser, spent_s=clock.spent_s, steps=steps, samples=seen)
            clock.tick()
            next_check = clock.spent_s + 60.0 * arguments.validate_every
    ema.copy_to(averaged)
    save_file({n: p.detach().contiguous() for n, p in averaged.named_parameters()}, out / "ema.safetensors")
    figures = figures or validate(
        averaged, held, len(held), device
    )  # empty where the budget was spent before
    summary = {"samples": seen, "minutes": clock.spent_s / 60, "validation": figures}
    (out / "summary.json").write_text(json.dumps(summary, indent=1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", required=True, nargs="+", help="folders of rendered shards to train on")
    parser.add_argument("--held", required=True, help="folder of held-out shards")
    parser.add_argument("--out", required=True, help="folder of checkpoints, curve and sheets")
    parser.add_argument("--minutes", type=float, default=30.0, help="budget of running time")
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--crop", type=int, default=64)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--noise", type=float, default=0.05, help="deviation of the noise on the latents")
    parser.add_argument("--validate-every", type=float, default=3.0, help="minutes between validations")
    parser.add_argument("--seed", type=int, default=0)
    train(parser.parse_args())


if __name__ == "__main__":
    main()
