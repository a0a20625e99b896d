"""Autoencoders of hub packs behind one pair of calls: pixels in [-1, 1] to latents of the denoiser's scale and back."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from moe_pipeline.diffusion.preview import LatentPreview, fit_preview

FRAMES_AT_ONCE = 4
PREVIEW_FIELDS, PREVIEW_SIDE = 24, 64


class FrameAutoencoder:
    """An image autoencoder (diffusers' AutoencoderKL) over single frames.

    Latents are the mean of its posterior times `scaling_factor`, the scale that the denoiser was trained on.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self.scale = float(model.config.scaling_factor)
        self.shift = float(getattr(model.config, "shift_factor", None) or 0.0)

    def _like_model(self, x: Tensor) -> Tensor:
        first = next(self.model.parameters())
        return x.to(first.device, first.dtype)

    @torch.inference_mode()
    def encode(self, video: Tensor) -> Tensor:
        """(B, 3, T, H, W) in [-1, 1] -> (B, C, T, H/s, W/s), float32."""
        flat = self._like_model(video.transpose(1, 2).flatten(0, 1))  # (B*T, 3, H, W)
        means = [self.model.encode(part).latent_dist.mode().float() for part in flat.split(FRAMES_AT_ONCE)]
        latents = (torch.cat(means) - self.shift) * self.scale
        return latents.unflatten(0, (video.shape[0], video.shape[2])).transpose(1, 2)

    @torch.inference_mode()
    def decode(self, latents: Tensor, between: Callable[[], None] | None = None) -> Tensor:
        """(B, C, T, h, w) -> (B, 3, T, H, W), a few frames at a time; `between` may raise to stop."""
        flat = latents.float() / self.scale + self.shift
        flat = self._like_model(flat.transpose(1, 2).flatten(0, 1))  # (B*T, C, h, w)
        frames = []
        for part in flat.split(FRAMES_AT_ONCE):
            if between is not None:
                between()
            frames.append(self.model.decode(part, return_dict=False)[0].float())
        return torch.cat(frames).unflatten(0, (latents.shape[0], latents.shape[2])).transpose(1, 2)


class ClipAutoencoder:
    """A causal video autoencoder (diffusers' AutoencoderKLWan): 4k + 1 frames to k + 1 latent ones.

    Latents are normalised by the channel means and deviations in its configuration. The model keeps the frames that
    its convolutions still need on itself while it works, so it takes one clip at a time.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self._lock = threading.Lock()
        first = next(model.parameters())
        shape = (1, -1, 1, 1, 1)
        self.mean = torch.tensor(model.config.latents_mean, device=first.device).reshape(shape)
        self.deviation = torch.tensor(model.config.latents_std, device=first.device).reshape(shape)

    def _like_model(self, x: Tensor) -> Tensor:
        first = next(self.model.parameters())
        return x.to(first.device, first.dtype)

    @torch.inference_mode()
    def encode(self, video: Tensor) -> Tensor:
        """(B, 3, 4k + 1, H, W) in [-1, 1] -> (B, C, k + 1, H/s, W/s), float32."""
        with self._lock:
            mode = self.model.encode(self._like_model(video)).latent_dist.mode().float()
        return (mode - self.mean) / self.deviation

    @torch.inference_mode()
    def decode(self, latents: Tensor, between: Callable[[], None] | None = None) -> Tensor:
        """(B, C, k + 1, h, w) -> (B, 3, 4k + 1, H, W); the model itself works through the frames one by one."""
        own = latents.float().to(self.mean.device) * self.deviation + self.mean
        with self._lock:
            if between is not None:
                between()  # inside: a run that was stopped while it waited for another's clip decodes nothing
            return self.model.decode(self._like_model(own), return_dict=False)[0].float()


def fit_hub_preview(autoencoder: FrameAutoencoder | ClipAutoencoder) -> LatentPreview:
    """The linear map from latents to colour, by least squares over smooth colour fields that the encoder reads.

    Takes no data and no published table: the fields are drawn from a fixed seed, so the map is the same every time.
    """
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(PREVIEW_FIELDS, 3, 4, 4, generator=generator) * 2.0 - 1.0
    fields = F.interpolate(coarse, size=(PREVIEW_SIDE, PREVIEW_SIDE), mode="bilinear", align_corners=False)
    video = fields[:, :, None]  # (N, 3, 1, H, W)
    latents = torch.cat([autoencoder.encode(part) for part in video.split(FRAMES_AT_ONCE)]).cpu()
    return fit_preview(latents.clone(), video)
