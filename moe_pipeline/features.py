"""The pack's own feature encoder for the metrics: frames and, where the pack has a probe, texts in one space."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from moe_pipeline.diffusion.autoencoder import to_model_range
from moe_pipeline.diffusion.hub_autoencoder import FRAMES_AT_ONCE
from moe_pipeline.diffusion.probe import still_features
from moe_pipeline.engine import Engine, HubEngine
from moe_pipeline.interfaces import Frames

FEATURE_SIDE = 128  # a 4 x 4 grid needs no more of a frame
Floats = npt.NDArray[np.float32]


class PackFeatures:
    """`FeatureEncoder` over the embedded autoencoder: each frame is encoded as if it stood still.

    Where the pack has a probe, features and texts share its space (`AlignedFeatureEncoder`).
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    @torch.inference_mode()
    def __call__(self, frames: Frames) -> Floats:
        """uint8 (T, H, W, 3), any size -> float32 (T, D)."""
        engine = self.engine
        side = (engine.pack.manifest.defaults.height, engine.pack.manifest.defaults.width)
        video = to_model_range(torch.from_numpy(np.ascontiguousarray(frames))[:, None])  # (T, 3, 1, H, W)
        if video.shape[-2:] != side:
            still = torch.nn.functional.interpolate(video[:, :, 0], size=side, mode="area")
            video = still[:, :, None]
        latents = engine.autoencoder.encode_stills(video.to(engine.device, engine.dtype))
        features = still_features(latents)
        return engine.probe(features.to("cpu")).numpy()

    @torch.inference_mode()
    def encode_text(self, text: str) -> Floats:
        """One text -> float32 (D,)."""
        return self.engine.probe.text(self.engine.encoder([text]).pooled)[0].numpy()


class HubFeatures:
    """`FeatureEncoder` over the autoencoder of a hub pack: the mean latents of a 4 x 4 grid. It knows no texts."""

    def __init__(self, engine: HubEngine) -> None:
        self.engine = engine

    @torch.inference_mode()
    def __call__(self, frames: Frames) -> Floats:
        """uint8 (T, H, W, 3), any size -> float32 (T, C * 16)."""
        video = to_model_range(torch.from_numpy(np.ascontiguousarray(frames))[:, None])  # (T, 3, 1, H, W)
        side = (FEATURE_SIDE, FEATURE_SIDE)
        video = torch.nn.functional.interpolate(video[:, :, 0], size=side, mode="area")[:, :, None]
        latents = [self.engine.autoencoder.encode(part) for part in video.split(FRAMES_AT_ONCE)]
        return still_features(torch.cat(latents)).cpu().numpy()


def features_of(engine: Engine | HubEngine) -> PackFeatures | HubFeatures | None:
    """The encoder of a pack; None where an embedded pack brings no probe."""
    if isinstance(engine, HubEngine):
        return HubFeatures(engine)
    return PackFeatures(engine) if engine.manifest.probe is not None else None
