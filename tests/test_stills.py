"""Stills: the short way to the latents of a frame that stands still is the long way, exactly."""

from __future__ import annotations

import torch

from moe_pipeline.engine import Engine, EngineConfig
from moe_pipeline.packs import open_pack


def test_a_still_has_the_latents_of_four_equal_frames() -> None:
    autoencoder = Engine(open_pack(), EngineConfig()).autoencoder
    dtype = next(autoencoder.parameters()).dtype
    stills = (2.0 * torch.rand(2, 3, 1, 64, 96, generator=torch.Generator().manual_seed(0)) - 1.0).to(dtype)
    with torch.inference_mode():
        short = autoencoder.encode_stills(stills)
        assert short.shape == (2, 16, 1, 8, 12)
        assert torch.equal(short, autoencoder.encode(stills.expand(-1, -1, 4, -1, -1)))
