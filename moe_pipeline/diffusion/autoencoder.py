"""The video autoencoder of the embedded pack: 8x in space, 4x in time, 16 channels.

Re-sampling is space-to-depth with a linear layer, and everything between is made of mixing blocks: a depthwise
3x3 convolution over space, a three-tap mix over time and a per-position MLP. On CPUs with bf16 this runs close to
the speed of plain matrix products (docs/log.md).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class MixingBlock(nn.Module):
    """Residual block over (B, T, H, W, C): depthwise space, three taps of time, MLP, learned gate."""

    def __init__(self, width: int, expansion: int = 4) -> None:
        super().__init__()
        self.space = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.time = nn.Parameter(torch.tensor([0.1, 0.8, 0.1]).repeat(width, 1).t().contiguous())  # (3, C)
        self.norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, expansion * width)
        self.down = nn.Linear(expansion * width, width)
        self.gate = nn.Parameter(torch.full((width,), 0.2))

    def forward(self, x: Tensor) -> Tensor:
        batch, frames, height, width, channels = x.shape
        flat = x.reshape(batch * frames, height, width, channels).permute(
            0, 3, 1, 2
        )  # channels last in memory
        y = self.space(flat).permute(0, 2, 3, 1).reshape(batch, frames, height, width, channels)
        taps = self.time.to(y.dtype)
        before = torch.cat([y[:, :1], y[:, :-1]], dim=1)
        after = torch.cat([y[:, 1:], y[:, -1:]], dim=1)
        y = before * taps[0] + y * taps[1] + after * taps[2]
        y = self.down(F.gelu(self.up(self.norm(y))))
        return x + y * self.gate.to(y.dtype)


def fold(x: Tensor, time: int, space: int) -> Tensor:
    """Space-to-depth: (B, T, H, W, C) -> (B, T/time, H/space, W/space, time*space*space*C)."""
    b, t, h, w, c = x.shape
    x = x.reshape(b, t // time, time, h // space, space, w // space, space, c)
    x = x.permute(0, 1, 3, 5, 2, 4, 6, 7)
    return x.reshape(b, t // time, h // space, w // space, time * space * space * c)


def unfold(x: Tensor, time: int, space: int) -> Tensor:
    """Depth-to-space, the inverse of `fold`."""
    b, t, h, w, c = x.shape
    out = c // (time * space * space)
    x = x.reshape(b, t, h, w, time, space, space, out)
    x = x.permute(0, 1, 4, 2, 5, 3, 6, 7)
    return x.reshape(b, t * time, h * space, w * space, out)


class VideoAutoencoder(nn.Module):
    """Deterministic autoencoder between pixels in [-1, 1] and latents of unit variance.

    Latents end in a LayerNorm over the channels without affine, so that they need no statistics of their own:
    the noise schedule can assume a deviation of one.

    Args:
        channels: latent channels.
        fine, coarse: widths at 1/4 (and 1/2 in time) and at 1/8 (and 1/4 in time) of the pixels.
        encoder_blocks, decoder_blocks: mixing blocks at (fine, coarse) resolution.
    """

    def __init__(
        self,
        channels: int = 16,
        fine: int = 96,
        coarse: int = 256,
        encoder_blocks: tuple[int, int] = (2, 2),
        decoder_blocks: tuple[int, int] = (3, 4),
        seam_width: int = 16,
    ) -> None:
        super().__init__()
        self.channels = channels
        patch = 2 * 4 * 4 * 3
        self.encode_in = nn.Linear(patch, fine)
        self.encode_fine = nn.Sequential(*[MixingBlock(fine) for _ in range(encoder_blocks[0])])
        self.encode_fold = nn.Linear(8 * fine, coarse)
        self.encode_coarse = nn.Sequential(*[MixingBlock(coarse) for _ in range(encoder_blocks[1])])
        self.encode_out = nn.Linear(coarse, channels)
        self.decode_in = nn.Linear(channels, coarse)
        self.decode_coarse = nn.Sequential(*[MixingBlock(coarse) for _ in range(decoder_blocks[1])])
        self.decode_unfold = nn.Linear(coarse, 8 * fine)
        self.decode_fine = nn.Sequential(*[MixingBlock(fine) for _ in range(decoder_blocks[0])])
        self.decode_out = nn.Linear(fine, patch)
        self.seam_in = nn.Conv2d(3, seam_width, 3, padding=1)
        self.seam_out = nn.Conv2d(seam_width, 3, 3, padding=1)

    def encode(self, video: Tensor) -> Tensor:
        """(B, 3, T, H, W) in [-1, 1], T divisible by 4, H and W by 8 -> (B, C, T/4, H/8, W/8)."""
        x = video.permute(0, 2, 3, 4, 1)  # (B, T, H, W, 3)
        x = self.encode_fine(self.encode_in(fold(x, 2, 4)))  # (B, T/2, H/4, W/4, fine)
        return self._encode_coarse(x)

    def encode_stills(self, stills: Tensor) -> Tensor:
        """(B, 3, 1, H, W) -> (B, C, 1, H/8, W/8): what `encode` gives for four equal frames, with half of the work.

        Equal frames stay equal through every block, so one of them is carried as far as the next fold over time.
        """
        x = stills.permute(0, 2, 3, 4, 1).expand(-1, 2, -1, -1, -1)  # (B, 2, H, W, 3)
        x = self.encode_fine(self.encode_in(fold(x, 2, 4)))  # (B, 1, H/4, W/4, fine)
        return self._encode_coarse(x.expand(-1, 2, -1, -1, -1))

    def _encode_coarse(self, x: Tensor) -> Tensor:
        x = self.encode_coarse(self.encode_fold(fold(x, 2, 2)))  # (B, T/4, H/8, W/8, coarse)
        latents = F.layer_norm(self.encode_out(x).float(), (self.channels,))
        return latents.permute(0, 4, 1, 2, 3)

    def decode(self, latents: Tensor) -> Tensor:
        """(B, C, T/4, H/8, W/8) -> (B, 3, T, H, W), about [-1, 1], not clipped."""
        x = latents.permute(0, 2, 3, 4, 1)
        x = self.decode_coarse(self.decode_in(x))
        x = unfold(self.decode_unfold(x), 2, 2)
        x = unfold(self.decode_out(self.decode_fine(x)), 2, 4)  # (B, T, H, W, 3)
        b, t, h, w, _ = x.shape
        flat = x.reshape(b * t, h, w, 3).permute(0, 3, 1, 2)
        flat = flat + self.seam_out(F.gelu(self.seam_in(flat)))
        return flat.reshape(b, t, 3, h, w).permute(0, 2, 1, 3, 4)

    def forward(self, video: Tensor) -> Tensor:
        """Reconstruction, same shape as the input."""
        return self.decode(self.encode(video))


def to_model_range(frames: Tensor) -> Tensor:
    """uint8 (B, T, H, W, 3) -> float32 (B, 3, T, H, W) in [-1, 1]; the one normalisation of pixels."""
    return frames.permute(0, 4, 1, 2, 3).float() / 127.5 - 1.0


def to_frames(video: Tensor) -> Tensor:
    """float (B, 3, T, H, W) in about [-1, 1] -> uint8 (B, T, H, W, 3), rounded and clipped."""
    pixels = (video.float().clamp(-1.0, 1.0) + 1.0) * 127.5
    return pixels.round().to(torch.uint8).permute(0, 2, 3, 4, 1).contiguous()
