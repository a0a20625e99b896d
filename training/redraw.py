"""Redraw encoded clips with a denoiser, so that a decoder can learn what sampled latents look like.

    python -m training.redraw --latents data/train-latents --denoiser checkpoints/trunk --out data/train-redrawn

Each clip's latents get noise of a level between `--low` and `--high` and are denoised from there under the clip's own
caption: what comes out shows the same clip with a denoiser's errors, and the clip's frames are still what a decoder
should make of it (docs/decisions/0013-decoder-learns-from-redrawn-clips.md). Writes `shard-NNNNN.redrawn.npy` (float16,
n x 16 x 4 x 16 x 16); shards that are there already are kept.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from moe_pipeline.diffusion import flow
from moe_pipeline.diffusion.sampler import sample
from moe_pipeline.experts.denoiser import VideoDenoiser
from training.experts import load_denoiser
from training.latents import LatentSet, write_array


@torch.inference_mode()
def redrawn(
    model: VideoDenoiser, data: Tensor, texts: Tensor, masks: Tensor, level: float, steps: int, seed: int
) -> Tensor:
    """Latents (B, C, F, H, W) noised to `level` and denoised in `steps` steps under their texts."""
    noise = torch.randn(data.shape, generator=torch.Generator().manual_seed(seed))
    sigmas = [level * sigma for sigma in flow.noise_schedule(steps)]
    device = next(model.parameters()).device

    def velocity(x: Tensor, sigma: float, _: int) -> Tensor:
        with torch.autocast(device.type, dtype=torch.bfloat16):
            return model(x.to(device), torch.full((len(x),), sigma, device=device), texts, masks).float()

    texts, masks = texts.to(device), masks.to(device)
    x = flow.add_noise(data, noise, torch.full((len(data),), level)).to(device)
    for step in sample(x, sigmas, velocity):
        x = step.x
    return x.cpu()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--latents", required=True, type=Path, help="folder of encoded shards")
    parser.add_argument("--denoiser", required=True, type=Path, help="training folder")
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--shards", type=int, default=24, help="how many of the shards, the first ones")
    parser.add_argument("--low", type=float, default=0.2)
    parser.add_argument("--high", type=float, default=0.6)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--threads", type=int, default=0)
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = load_denoiser(arguments.denoiser).to(device).eval()
    arguments.out.mkdir(parents=True, exist_ok=True)
    stems = [
        p.name.removesuffix(".latents.npy") for p in sorted(arguments.latents.glob("shard-*.latents.npy"))
    ]
    for stem in tqdm(stems[: arguments.shards], unit="shard"):
        path = arguments.out / f"{stem}.redrawn.npy"
        if path.exists():
            continue
        clips = LatentSet(arguments.latents, shard=stem)
        rng = np.random.default_rng([len(clips), int(stem.split("-")[1])])
        found = []
        for start in range(0, len(clips), 10):
            rows = range(start, min(start + 10, len(clips)))
            items = [clips.item(row, 0, row % clips.captions) for row in rows]
            data, texts, masks = (torch.stack(parts) for parts in zip(*items, strict=True))
            level = float(rng.uniform(arguments.low, arguments.high))
            found.append(redrawn(model, data, texts, masks, level, arguments.steps, int(rng.integers(2**31))))
        write_array(path, torch.cat(found).half().numpy())


if __name__ == "__main__":
    main()
