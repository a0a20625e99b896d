"""Train denoisers: the generalist, the experts branched from it, and the single model of every comparison.

    python -m training.experts --role generalist --data data/train-latents --held data/held-latents \
        --out checkpoints/generalist --minutes 60
    python -m training.experts --role expert --domain city --start checkpoints/generalist \
        --data data/train-latents --held data/held-latents --out checkpoints/expert-city --samples 6000
    python -m training.experts --role single --start checkpoints/generalist ... --samples 36000

The generalist keeps its learning rate, so that branches can go on from it; experts and the single model let theirs
fall linearly to `--lr-end`: the trunk that both branch from ends above zero. `--samples` ends a branch after that
many samples, `--minutes` after that much running time, whichever comes first. Any run can be stopped and continued
with the same command.
"""

from __future__ import annotations

import argparse
import itertools
import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from moe_pipeline.diffusion import flow
from moe_pipeline.diffusion.autoencoder import VideoAutoencoder, to_frames
from moe_pipeline.experts.denoiser import VideoDenoiser
from training.latents import LatentSet, load_autoencoder
from training.optim import Ema, MuonAdamW
from training.peers import Peers
from training.session import Checkpoints, Curve, RunningClock

UNBLENDED = (
    "ema-unblended.safetensors"  # an expert's own weights, beside those that training/blend.py makes of them
)
HELD_SIGMAS = tuple((i + 0.5) / 20 for i in range(20))


def load_denoiser(folder: Path, averaged: bool = True) -> VideoDenoiser:
    """The denoiser of a training folder, float32; `averaged` takes the EMA weights."""
    model = VideoDenoiser()
    if averaged and (folder / "ema.safetensors").exists():  # a finished run, perhaps blended since
        model.load_state_dict(load_file(folder / "ema.safetensors"))
        return model
    everything = load_file(folder / "state.safetensors")
    prefix = "ema." if averaged else "model."
    model.load_state_dict({n[len(prefix) :]: t for n, t in everything.items() if n.startswith(prefix)})
    return model


@torch.inference_mode()
def held_out_error(
    model: VideoDenoiser, held: LatentSet, device: torch.device, limit: int, levels: int = 3
) -> dict[str, float]:
    """Mean squared velocity error over even noise levels with fixed noise: mean, and by domain.

    Every clip is seen at a few noise levels (at most 20), others for each clip; noise is seeded by the clip's index.
    """
    by_domain: dict[str, list[float]] = {}
    total = []
    for start in range(0, min(limit, len(held)), 8):
        xs, texts, masks, sigmas, noises, names = [], [], [], [], [], []
        for index in range(start, min(start + 8, limit, len(held))):
            data, text, mask = held.item(index, 0, index % held.captions)
            for k in range(levels):
                generator = torch.Generator().manual_seed(1000 * index + k)
                noises.append(torch.randn(data.shape, generator=generator))
                sigmas.append(HELD_SIGMAS[(index * 3 + k * 7) % 20])
                xs.append(data)
                texts.append(text)
                masks.append(mask)
                names.append(held.facts[index]["domains"])
        x, noise, sigma = torch.stack(xs), torch.stack(noises), torch.tensor(sigmas)
        with torch.autocast(device.type, dtype=torch.bfloat16):
            velocity = model(
                flow.add_noise(x, noise, sigma).to(device),
                sigma.to(device),
                torch.stack(texts).to(device),
                torch.stack(masks).to(device),
            )
        errors = flow.velocity_loss(velocity.cpu(), x, noise).tolist()
        total += errors
        for error, domains in zip(errors, names, strict=True):
            for domain in domains:
                by_domain.setdefault(domain, []).append(error)
    return {"held": float(np.mean(total)), **{d: float(np.mean(e)) for d, e in sorted(by_domain.items())}}


@torch.inference_mode()
def sample_clips(
    model: VideoDenoiser, texts: torch.Tensor, masks: torch.Tensor, steps: int, guidance: float, seed: int = 0
) -> torch.Tensor:
    """Guided Euler samples in float32: latents (N, 16, 4, 16, 16)."""
    device = texts.device
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(len(texts), 16, 4, 16, 16, generator=generator).to(device)
    both_texts = torch.cat([texts, torch.zeros_like(texts)])
    both_masks = torch.cat([masks, torch.zeros_like(masks)])
    sigmas = flow.noise_schedule(steps, 1.5)
    for sigma, following in itertools.pairwise(sigmas):
        with torch.autocast(device.type, dtype=torch.bfloat16):
            both = model(
                torch.cat([x, x]), torch.full((2 * len(x),), sigma, device=device), both_texts, both_masks
            )
        conditional, unconditional = both.float().chunk(2)
        x = flow.step(x, unconditional + guidance * (conditional - unconditional), sigma, following)
    return x


def sample_sheet(
    model: VideoDenoiser, autoencoder: VideoAutoencoder, held: LatentSet, path: Path, device: torch.device
) -> None:
    """Twelve held-out captions: frames 2 and 12 of each sample, the captions beside it in a text file."""
    stride = max(1, len(held) // 12)
    chosen = [i * stride for i in range(min(12, len(held)))]
    items = [held.item(i, 0, 0) for i in chosen]
    texts = torch.stack([item[1] for item in items]).to(device)
    masks = torch.stack([item[2] for item in items]).to(device)
    latents = sample_clips(model, texts, masks, steps=12, guidance=3.0)
    rows: list[np.ndarray] = []
    for latent in latents:
        frames = to_frames(autoencoder.decode(latent[None].to(torch.bfloat16)))[0].cpu().numpy()
        rows.append(np.concatenate([frames[2], frames[12]], axis=0))
    half = len(rows) // 2
    sheet = np.concatenate([np.concatenate(rows[:half], 1), np.concatenate(rows[half : 2 * half], 1)], 0)
    Image.fromarray(sheet).save(path)
    path.with_suffix(".txt").write_text("\n".join(held.facts[i]["captions"][0] for i in chosen))


def routed_tokens(data: torch.Tensor, patch: int, share: float) -> torch.Tensor | None:
    """Indices of the video tokens that go through the middle blocks; None where all do, as in sampling."""
    if not share:
        return None
    tokens = data.shape[2] * (data.shape[3] // patch) * (data.shape[4] // patch)
    return torch.randperm(tokens, device=data.device)[round(share * tokens) :].sort().values


def learning_rate(arguments: argparse.Namespace, steps: int, fraction: float) -> float:
    if arguments.role == "generalist":
        return arguments.lr * min(1.0, (steps + 1) / 60)
    # A branch starts from trained weights: it only has to fill its momentum.
    rate = arguments.lr + (arguments.lr_end - arguments.lr) * min(1.0, fraction)
    return rate * min(1.0, (steps + 1) / 10)


def training_before(start: str | None) -> dict[str, float]:
    """Samples and minutes that the weights of a start folder had already seen, its own start included."""
    if not start:
        return {"samples_before": 0, "minutes_before": 0.0}
    facts = json.loads((Path(start) / "facts.json").read_text())
    return {
        "samples_before": int(facts["samples"] + facts.get("samples_before", 0)),
        "minutes_before": facts["spent_s"] / 60 + facts.get("minutes_before", 0.0),
    }


def train(arguments: argparse.Namespace) -> None:
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    peers = Peers(arguments.rank, arguments.world, arguments.rendezvous)
    torch.manual_seed(arguments.seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    domain = arguments.domain if arguments.role == "expert" else None
    folders = [Path(folder) for folder in arguments.data]
    own, everything = LatentSet(*folders, domain=domain), LatentSet(*folders)
    held = LatentSet(Path(arguments.held))
    out = Path(arguments.out)
    model = VideoDenoiser().to(device)
    if arguments.start:
        model.load_state_dict(
            load_denoiser(Path(arguments.start), averaged=arguments.start_averaged).state_dict()
        )
    averaged = VideoDenoiser().to(device)
    optimiser = MuonAdamW(
        model, lr=arguments.lr, adam_only=("table", "modulation", "_in.", "patch_out"), sharing=peers
    )
    ema, store, curve = Ema(model, arguments.ema), Checkpoints(out), Curve(out / "curve.csv")
    clock = RunningClock(arguments.minutes, device)
    facts = store.load(model, ema, optimiser) or {}
    before = training_before(arguments.start)
    clock.spent_s = facts.get("spent_s", 0.0)
    steps, seen = int(facts.get("steps", 0)), int(facts.get("samples", 0))
    compiled = torch.compile(model, dynamic=False) if arguments.compile else model
    print(f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} M, {len(own)} clips, {device}", flush=True)
    losses: list[float] = []
    figures: dict[str, float] = {}
    # The same weights everywhere so far; other clips and noise from here on, in every process and every session.
    torch.manual_seed(1000 * arguments.seed + steps + 7919 * peers.rank)
    rng = np.random.default_rng([arguments.seed, steps, peers.rank])
    next_check = clock.spent_s + 60.0 * arguments.validate_every
    wanted = arguments.samples or 10**12
    clock.tick()
    spent = clock.spent_s  # the leader's time: every process decides by the same number
    ended = clock.over or seen >= wanted
    while not ended:
        progress = max(min(1.0, spent / clock.budget_s), seen / wanted)
        rehearsal = arguments.role == "expert" and rng.random() < arguments.rehearsal
        still = progress < arguments.stills
        count = peers.share(2 * arguments.batch if still else arguments.batch)
        data, texts, masks = (everything if rehearsal else own).batch(rng, count)
        if still:  # one latent frame of each clip: a third of the tokens, so layout and colour come sooner
            frame = torch.from_numpy(rng.integers(data.shape[2], size=count))
            data = data[torch.arange(count), :, frame].unsqueeze(2)
        masks &= torch.from_numpy(rng.random(len(masks)) >= 0.1)[:, None]  # no text in a tenth: for guidance
        data, texts, masks = data.to(device), texts.to(device), masks.to(device)
        noise, sigma = torch.randn_like(data), flow.training_sigmas(len(data), None).to(device)
        kept = None if still else routed_tokens(data, model.patch, arguments.routed)
        with torch.autocast(device.type, dtype=torch.bfloat16):
            forward = model if still else compiled
            velocity = forward(
                flow.add_noise(data, noise, sigma), sigma, texts * masks[..., None], masks, kept
            )
        loss = flow.velocity_loss(velocity, data, noise).mean()
        loss.backward()
        spent = peers.average_gradients(model, clock.spent_s)
        optimiser.step(learning_rate(arguments, steps, progress))
        optimiser.zero_grad()
        ema.update(model)
        steps, seen = steps + 1, seen + len(data) * peers.world
        losses.append(loss.item())
        ended = spent >= clock.budget_s or seen >= wanted
        clock.tick()
        if peers.leads and (clock.spent_s >= next_check or ended):
            own.refresh()
            everything.refresh()
            ema.copy_to(averaged)
            figures = held_out_error(averaged, held, device, len(held) if ended else arguments.held_clips)
            curve.add(
                minutes=clock.spent_s / 60, steps=steps, samples=seen, loss=float(np.mean(losses)), **figures
            )
            curve.plot("held", "held-out velocity error")
            losses.clear()
            progress_now = {"spent_s": clock.spent_s, "steps": steps, "samples": seen}
            store.save(model, ema, optimiser, **progress_now, **before)
            if arguments.autoencoder and (ended or arguments.sheets):
                autoencoder = load_autoencoder(Path(arguments.autoencoder), device)
                sample_sheet(averaged, autoencoder, held, out / "sheet.png", device)
            clock.tick()
            next_check = clock.spent_s + 60.0 * arguments.validate_every
    if not peers.leads:
        return
    ema.copy_to(averaged)
    (out / UNBLENDED).unlink(missing_ok=True)  # of weights before these
    save_file({n: p.detach().contiguous() for n, p in averaged.named_parameters()}, out / "ema.safetensors")
    figures = figures or held_out_error(averaged, held, device, len(held))
    summary = {"samples": seen, "minutes": clock.spent_s / 60, **before, "validation": figures}
    (out / "summary.json").write_text(json.dumps(summary, indent=1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--role", choices=("generalist", "expert", "single"), required=True)
    parser.add_argument("--domain", help="the expert's domain")
    parser.add_argument("--start", help="training folder to branch from")
    parser.add_argument("--start-averaged", action="store_true", help="branch from the averaged weights")
    parser.add_argument("--data", required=True, nargs="+", help="folders of encoded shards")
    parser.add_argument("--held", required=True, help="folder of encoded held-out shards")
    parser.add_argument("--autoencoder", help="training folder of the autoencoder, for sample sheets")
    parser.add_argument("--sheets", action="store_true", help="a sample sheet at each validation")
    parser.add_argument("--out", required=True)
    parser.add_argument("--minutes", type=float, default=60.0, help="budget of running time")
    parser.add_argument("--samples", type=int, help="end after this many samples")
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--lr-end", type=float, default=0.0, help="where a branch's learning rate ends")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--ema", type=float, default=0.998)
    parser.add_argument(
        "--rehearsal", type=float, default=0.1, help="share of an expert's batches from all domains"
    )
    parser.add_argument(
        "--stills", type=float, default=0.0, help="share of the budget spent on single latent frames"
    )
    parser.add_argument(
        "--routed", type=float, default=0.0, help="share of the video tokens that pass the middle blocks by"
    )
    parser.add_argument("--held-clips", type=int, default=48, help="held-out clips in the running validation")
    parser.add_argument("--validate-every", type=float, default=4.0, help="minutes between validations")
    parser.add_argument(
        "--compile", action="store_true", help="torch.compile: a minute first, then 10 %% faster"
    )
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument(
        "--rank", type=int, default=0, help="of this process among --world, see training/peers.py"
    )
    parser.add_argument("--world", type=int, default=1)
    parser.add_argument("--rendezvous", default="", help="file by which the processes find each other")
    parser.add_argument("--seed", type=int, default=0)
    train(parser.parse_args())


if __name__ == "__main__":
    main()
