"""The denoiser of the embedded pack: a small diffusion transformer over video and text tokens.

Text tokens stand in the same sequence as the video tokens, so there are no cross-attention layers; positions of
video tokens are rotary over time, height and width. Noise level and mean text modulate every block through one
shared projection and a small learned table a block (Chen et al., PixArt-alpha, 2023, arXiv 2310.00426). Two wide
heads with plain matrix products are the fastest form on CPUs (docs/log.md).
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def sinusoidal(sigma: Tensor, width: int) -> Tensor:
    """Noise level (B,) in [0, 1] -> (B, width) sines and cosines of 1000 * sigma."""
    half = width // 2
    frequencies = torch.exp(-math.log(10_000.0) * torch.arange(half, device=sigma.device) / half)
    angles = 1000.0 * sigma.float()[:, None] * frequencies[None]
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


@lru_cache(maxsize=16)  # the last few shapes, shared by all denoisers
@torch.inference_mode(False)  # a kept table must serve a later training step too
def rotary_table(frames: int, height: int, width: int, head: int, text: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines (tokens + text, head // 2): a quarter of the pairs turns with time, the rest with space.

    Text tokens stand at the origin: they are not rotated.
    """
    pairs = head // 2
    time_pairs = pairs // 4
    row_pairs = (pairs - time_pairs) // 2
    column_pairs = pairs - time_pairs - row_pairs

    def angles(length: int, count: int) -> Tensor:
        frequencies = 100.0 ** (-torch.arange(count, dtype=torch.float32) / count)
        return torch.arange(length, dtype=torch.float32)[:, None] * frequencies[None]

    t = angles(frames, time_pairs)[:, None, None].expand(frames, height, width, time_pairs)
    y = angles(height, row_pairs)[None, :, None].expand(frames, height, width, row_pairs)
    x = angles(width, column_pairs)[None, None].expand(frames, height, width, column_pairs)
    video = torch.cat([t, y, x], dim=-1).reshape(-1, pairs)
    everything = torch.cat([video, torch.zeros(text, pairs)])
    return everything.cos(), everything.sin()


def rotate(x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Rotate pairs (first half, second half) of x (B, heads, N, head) by the table."""
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cosines - b * sines, a * sines + b * cosines], dim=-1)


class Attention(nn.Module):
    """Self-attention over all tokens with RMS-normed queries and keys."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.head = heads, width // heads
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.query_scale = nn.Parameter(torch.ones(self.head))
        self.key_scale = nn.Parameter(torch.ones(self.head))

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, self.head)).transpose(1, 2)  # (B, heads, N, head)

    def forward(self, x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
        q = F.rms_norm(self._heads(self.query(x)), (self.head,)) * self.query_scale.to(x.dtype)
        k = F.rms_norm(self._heads(self.key(x)), (self.head,)) * self.key_scale.to(x.dtype)
        v = self._heads(self.value(x))
        q, k = rotate(q, cosines, sines), rotate(k, cosines, sines)
        if x.is_cuda:
            mixed = F.scaled_dot_product_attention(q, k, v)
        else:  # on CPUs the fused kernel is slower at this size
            scores = (q @ k.mT) * self.head**-0.5
            mixed = scores.softmax(-1).to(v.dtype) @ v
        return self.out(mixed.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Attention and MLP, each modulated by shift, scale and gate."""

    def __init__(self, width: int, heads: int, hidden: int, depth: int) -> None:
        super().__init__()
        self.attention = Attention(width, heads)
        self.up = nn.Linear(width, hidden)
        self.down = nn.Linear(hidden, width)
        # Gates start small but not at zero, and the output projections are not zero either: zeroing both
        # leaves a block without any gradient.
        table = torch.zeros(6, width)
        table[2], table[5] = (2 * depth) ** -0.5, (2 * depth) ** -0.5
        self.table = nn.Parameter(table)

    def forward(self, x: Tensor, modulation: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = (modulation + self.table.to(x.dtype)).unbind(-2)
        width = (x.shape[-1],)
        y = torch.addcmul(shift1[:, None], F.layer_norm(x, width), 1 + scale1[:, None])
        x = torch.addcmul(x, self.attention(y, cosines, sines), gate1[:, None])
        y = torch.addcmul(shift2[:, None], F.layer_norm(x, width), 1 + scale2[:, None])
        return torch.addcmul(x, self.down(F.gelu(self.up(y))), gate2[:, None])


# Blocks between which a training step may let a part of the video tokens pass by (Krause et al., "TREAD: token routing
# for efficient architecture-agnostic diffusion training", 2025, arXiv 2501.04765): the first and the last two see all.
ROUTED_FROM, ROUTED_TO = 1, -2


class VideoDenoiser(nn.Module):
    """Predicts the velocity of noisy latents under a text.

    Args:
        channels: latent channels.
        width, depth, heads, hidden: of the transformer.
        text_width: width of the text encoder's token states.
        patch: side of the square patches of latent positions that become one token.
    """

    def __init__(
        self,
        channels: int = 16,
        width: int = 256,
        depth: int = 8,
        heads: int = 2,
        hidden: int = 704,
        text_width: int = 384,
        patch: int = 2,
    ) -> None:
        super().__init__()
        self.channels, self.width, self.patch = channels, width, patch
        self.head = width // heads
        self.patch_in = nn.Linear(channels * patch * patch, width)
        self.text_in = nn.Linear(text_width, width)
        self.null_token = nn.Parameter(torch.zeros(width))
        self.pooled_in = nn.Linear(text_width, width)
        self.time_up = nn.Linear(width, width)
        self.time_down = nn.Linear(width, width)
        self.modulation = nn.Linear(width, 6 * width)
        self.blocks = nn.ModuleList(Block(width, heads, hidden, depth) for _ in range(depth))
        self.out_table = nn.Parameter(torch.zeros(2, width))
        self.patch_out = nn.Linear(width, channels * patch * patch)
        nn.init.normal_(self.modulation.weight, std=0.01)
        nn.init.zeros_(self.modulation.bias)
        nn.init.zeros_(self.patch_out.weight)
        nn.init.zeros_(self.patch_out.bias)

    def _rotary(self, frames: int, height: int, width: int, text: int, like: Tensor) -> tuple[Tensor, Tensor]:
        cosines, sines = rotary_table(frames, height, width, self.head, text)
        return cosines.to(like), sines.to(like)

    def _routed(
        self, h: Tensor, kept: Tensor, video: int, modulation: Tensor, cosines: Tensor, sines: Tensor
    ) -> Tensor:
        """All blocks over h (B, N + L, width), the middle ones over the kept video tokens and the text alone."""
        blocks = list(self.blocks)
        rows = torch.cat([kept, torch.arange(video, h.shape[1], device=h.device)])
        for block in blocks[:ROUTED_FROM]:
            h = block(h, modulation, cosines, sines)
        part = h[:, rows]
        for block in blocks[ROUTED_FROM:ROUTED_TO]:
            part = block(part, modulation, cosines[rows], sines[rows])
        h = h.index_copy(1, rows, part)
        for block in blocks[ROUTED_TO:]:
            h = block(h, modulation, cosines, sines)
        return h

    def forward(
        self, x: Tensor, sigma: Tensor, tokens: Tensor, mask: Tensor, kept: Tensor | None = None
    ) -> Tensor:
        """x (B, C, F, H, W), sigma (B,), tokens (B, L, text_width), mask (B, L) bool -> velocity like x.

        Where the mask is False a learned null token stands: an empty text is all null tokens. `kept` (K,) is for
        training alone: indices of the video tokens that go through the middle blocks, all others pass them by.
        """
        batch, channels, frames, height, width = x.shape
        p, rows, columns = self.patch, height // self.patch, width // self.patch
        patches = x.reshape(batch, channels, frames, rows, p, columns, p).permute(0, 2, 3, 5, 1, 4, 6)
        video = self.patch_in(
            patches.reshape(batch, frames * rows * columns, channels * p * p)
        )  # (B, N, width)
        text = torch.where(
            mask[..., None], self.text_in(tokens), self.null_token.to(video.dtype)
        )  # (B, L, width)
        weight = mask.to(tokens.dtype)[..., None]
        mean = (tokens * weight).sum(1) / weight.sum(1).clamp(min=1.0)  # (B, text_width)
        condition = sinusoidal(sigma, self.width).to(video.dtype)
        condition = self.time_down(F.silu(self.time_up(condition))) + self.pooled_in(mean)
        modulation = self.modulation(F.silu(condition)).unflatten(-1, (6, self.width))  # (B, 6, width)
        cosines, sines = self._rotary(frames, rows, columns, text.shape[1], video)
        h = torch.cat([video, text], dim=1)
        if kept is None:
            for block in self.blocks:
                h = block(h, modulation, cosines, sines)
        else:
            h = self._routed(h, kept, video.shape[1], modulation, cosines, sines)
        h = h[:, : video.shape[1]]
        shift, scale = (modulation[:, :2] + self.out_table.to(h.dtype)).unbind(1)
        h = torch.addcmul(shift[:, None], F.layer_norm(h, (self.width,)), 1 + scale[:, None])
        out = self.patch_out(h).reshape(batch, frames, rows, columns, channels, p, p)
        return out.permute(0, 4, 1, 2, 5, 3, 6).reshape(batch, channels, frames, height, width)
