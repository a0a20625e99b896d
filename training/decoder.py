"""Train the decoder on: from encoded clips, and from clips that a denoiser has redrawn.

    python -m training.decoder --data data/train --latents data/train-latents --redrawn data/train-redrawn \
        --held data/held --start checkpoints/autoencoder --out checkpoints/decoder --minutes 10

The encoder stays as it is, so latents that are encoded already and every denoiser trained on them stay valid. Half of
the clips come redrawn (training/redraw.py), the others with a little noise on their latents; either way the decoder
should give the frames that were rendered. Loss and schedule are those of training/autoencoder.py; clips are whole,
since latents near the edge of a crop are not those of the crop. The run can be stopped and continued.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from moe_pipeline.diffusion.autoencoder import VideoAutoencoder, to_model_range
from training.autoencoder import reconstruction_loss, sample_sheet, validate
from training.clips import ClipSet
from training.optim import Ema, MuonAdamW
from training.session import Checkpoints, Curve, RunningClock


class RedrawnClips:
    """Frames of whole clips beside their latents, as encoded and as redrawn; memory maps.

    Args:
        data, latents, redrawn: folders of the same shards; those that are not redrawn are left out.
    """

    def __init__(self, data: Path, latents: Path, redrawn: Path) -> None:
        self._shards: list[
            tuple[npt.NDArray[np.uint8], npt.NDArray[np.float16], npt.NDArray[np.float16]]
        ] = []
        for path in sorted(redrawn.glob("shard-*.redrawn.npy")):
            stem = path.name.removesuffix(".redrawn.npy")
            files = (data / f"{stem}.npy", latents / f"{stem}.latents.npy", path)
            frames, encoded, again = (np.load(file, mmap_mode="r") for file in files)
            self._shards.append((frames, encoded, again))
        self._where = [(s, row) for s, shard in enumerate(self._shards) for row in range(len(shard[2]))]

    def __len__(self) -> int:
        return len(self._where)

    def batch(self, rng: np.random.Generator, count: int, noise: float) -> tuple[Tensor, Tensor]:
        """Latents (B, C, F, H, W), redrawn or with noise of deviation `noise`, and video (B, 3, T, Hp, Wp)."""
        found, videos = [], []
        for index in rng.integers(len(self), size=count):
            shard, row = self._where[int(index)]
            frames, encoded, again = self._shards[shard]
            if rng.random() < 0.5:
                latents = np.asarray(again[row], dtype=np.float32)
            else:
                latents = encoded[row, 0] + noise * rng.standard_normal(encoded.shape[2:], dtype=np.float32)
            found.append(torch.from_numpy(latents.astype(np.float32)))
            videos.append(torch.from_numpy(frames[row].copy()))
        return torch.stack(found), to_model_range(torch.stack(videos))


def train(arguments: argparse.Namespace) -> None:
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    clips = RedrawnClips(arguments.data, arguments.latents, arguments.redrawn)
    held = ClipSet([arguments.held])
    model, averaged = VideoAutoencoder().to(device), VideoAutoencoder().to(device)
    model.load_state_dict(load_file(arguments.start / "ema.safetensors"))
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not name.startswith("encode_"))
    optimiser = MuonAdamW(model, lr=arguments.lr)
    ema, store, curve = Ema(model), Checkpoints(arguments.out), Curve(arguments.out / "curve.csv")
    clock = RunningClock(arguments.minutes, device)
    facts = store.load(model, ema, optimiser) or {}
    clock.spent_s = facts.get("spent_s", 0.0)
    steps, seen, losses = int(facts.get("steps", 0)), int(facts.get("samples", 0)), list[float]()
    rng = np.random.default_rng([arguments.seed, steps])
    before = json.loads((arguments.start / "summary.json").read_text())
    print(f"{len(clips)} redrawn clips, {len(held)} held out, {device}", flush=True)
    next_check, figures = clock.spent_s, dict[str, float]()
    clock.tick()
    while not clock.over:
        rate = arguments.lr * max(0.02, 1.0 - clock.fraction) * min(1.0, (steps + 1) / 20)
        latents, video = (part.to(device) for part in clips.batch(rng, arguments.batch, arguments.noise))
        with torch.autocast(device.type, dtype=torch.bfloat16):
            result = model.decode(latents).float()
        loss = reconstruction_loss(result, video)
        loss.backward()
        optimiser.step(rate)
        optimiser.zero_grad()
        ema.update(model)
        steps, seen = steps + 1, seen + arguments.batch
        losses.append(loss.item())
        clock.tick()
        if clock.spent_s >= next_check or clock.over:
            ema.copy_to(averaged)
            figures = validate(averaged, held, len(held) if clock.over else 24, device)
            curve.add(minutes=clock.spent_s / 60, steps=steps, loss=float(np.mean(losses)), **figures)
            curve.plot("psnr", "held-out PSNR, dB")
            losses.clear()
            sample_sheet(averaged, held, arguments.out / "sheet.png", device)
            store.save(model, ema, optimiser, spent_s=clock.spent_s, steps=steps, samples=seen)
            clock.tick()
            next_check = clock.spent_s + 60.0 * arguments.validate_every
    ema.copy_to(averaged)
    weights = {n: p.detach().contiguous() for n, p in averaged.named_parameters()}
    save_file(weights, arguments.out / "ema.safetensors")
    summary = {
        "samples": int(before["samples"]) + seen,
        "minutes": float(before["minutes"]) + clock.spent_s / 60,
        "validation": figures
        or validate(averaged, held, len(held), device),  # empty: the budget was spent before
    }
    (arguments.out / "summary.json").write_text(json.dumps(summary, indent=1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", required=True, type=Path, help="folder of rendered shards")
    parser.add_argument("--latents", required=True, type=Path, help="the same shards, encoded")
    parser.add_argument("--redrawn", required=True, type=Path, help="the same shards, redrawn")
    parser.add_argument("--held", required=True, type=Path, help="folder of held-out shards")
    parser.add_argument("--start", required=True, type=Path, help="training folder of the autoencoder")
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--minutes", type=float, default=10.0, help="budget of running time")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--noise", type=float, default=0.08, help="deviation of the noise on encoded latents")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--validate-every", type=float, default=3.0, help="minutes between validations")
    parser.add_argument("--seed", type=int, default=0)
    train(parser.parse_args())


if __name__ == "__main__":
    main()
