"""Fit the probe that measures how well a clip shows its text.

    python -m training.probe --data data/train --held data/held --autoencoder checkpoints/autoencoder \
        --out checkpoints/probe

Ridge regression from features of single frames to the mean caption feature of their clip. It is checked on
held-out clips by retrieval: how often is a clip's own caption nearer than 99 others'?
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from moe_pipeline.diffusion.autoencoder import VideoAutoencoder, to_model_range
from moe_pipeline.diffusion.probe import FrameProbe, still_features
from moe_pipeline.diffusion.ridge import ridge
from moe_pipeline.prompting.encoder import MiniLMEncoder
from training.clips import ClipSet
from training.latents import TEXT_TOKENS, load_autoencoder


@torch.inference_mode()
def features_of(clips: ClipSet, model: VideoAutoencoder, frames: tuple[int, ...]) -> Tensor:
    """Features of the given frames of every clip: (clips, frames, D)."""
    found = []
    for index in tqdm(range(len(clips)), desc="frame features"):
        stills = np.stack([clips.clip(index)[t] for t in frames])[:, None]  # (N, 1, H, W, 3)
        latents = model.encode_stills(to_model_range(torch.from_numpy(stills)).bfloat16())
        found.append(still_features(latents))
    return torch.stack(found)


def texts_of(clips: ClipSet, encoder: MiniLMEncoder) -> Tensor:
    """Pooled features of every caption: (clips, captions, 384)."""
    return torch.stack([encoder(fact["captions"]).pooled for fact in clips.facts])


def fit(features: Tensor, targets: Tensor, penalty: float = 3.0) -> FrameProbe:
    """Ridge regression of centred targets (N, 384) on features (N, D)."""
    probe = FrameProbe(features.shape[1], targets.shape[1])
    mean = targets.mean(0)
    weight, bias = ridge(features, targets - mean, penalty)
    with torch.no_grad():
        probe.map.weight.copy_(weight.T)
        probe.map.bias.copy_(bias)
        probe.text_mean.copy_(mean)
    return probe


@torch.inference_mode()
def retrieval(probe: FrameProbe, features: Tensor, texts: Tensor) -> dict[str, float]:
    """Over held-out clips: mean alignment with the own caption and with others', and top-1 among 100 captions."""
    clips = torch.nn.functional.normalize(
        probe(features.flatten(0, 1)).unflatten(0, features.shape[:2]).mean(1), dim=-1
    )
    captions = probe.text(texts[:, 0])
    similarity = clips[:100] @ captions[:100].T
    own = similarity.diagonal()
    others = (similarity.sum(1) - own) / (similarity.shape[1] - 1)
    return {
        "own_caption": float(own.mean()),
        "other_captions": float(others.mean()),
        "top1_of_100": float((similarity.argmax(1) == torch.arange(len(similarity))).float().mean()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", required=True)
    parser.add_argument("--held", required=True)
    parser.add_argument("--autoencoder", required=True)
    parser.add_argument("--out", required=True)
    arguments = parser.parse_args()
    model = load_autoencoder(Path(arguments.autoencoder), torch.device("cpu"))
    encoder = MiniLMEncoder(TEXT_TOKENS)
    train_set, held = ClipSet([Path(arguments.data)]), ClipSet([Path(arguments.held)])
    features = features_of(train_set, model, (1, 6, 11))
    texts = texts_of(train_set, encoder).mean(1)
    probe = fit(features.flatten(0, 1), texts.repeat_interleave(features.shape[1], 0))
    figures = retrieval(probe, features_of(held, model, (1, 6, 11)), texts_of(held, encoder))
    out = Path(arguments.out)
    out.mkdir(parents=True, exist_ok=True)
    save_file({n: t.detach().contiguous() for n, t in probe.state_dict().items()}, out / "probe.safetensors")
    summary = {"samples": len(train_set), "minutes": 0.0, "validation": figures}
    (out / "summary.json").write_text(json.dumps(summary, indent=1))
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
