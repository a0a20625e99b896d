"""The pack's own feature encoder for the metrics: frames and texts in one space."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from moe_pipeline.diffusion.autoencoder import to_model_range
from moe_pipeline.diffusion.probe import still_features
from moe_pipeline.engine import Engine
from moe_pipeline.interfaces import Frames

Floats = npt.NDArray[np.float32]


class PackFeatures:
    """`FeatureEncoder` over the embedded autoencoder: each frame is encoded as a still of four frames.

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
        stills = video.expand(-1, -1, engine.pack.manifest.latents.temporal, -1, -1)
        latents = engine.autoencoder.encode(stills.to(engine.device, engine.dtype))
        features = still_features(latents)
        return engine.probe(features.to("cpu")).numpy()

    @torch.inference_mode()
    def encode_text(self, text: str) -> Floats:
        """One text -> float32 (D,)."""
        return self.engine.probe.text(self.engine.encoder([text]).pooled)[0].numpy()
