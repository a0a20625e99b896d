"""All-pairs correlation volumes and their lookup, shared by RAFT and AMT.

Teed and Deng, "RAFT", ECCV 2020, section 3.2: a pyramid of pooled dot products, read at (2 r + 1)^2 points around the
place that the current flow points to. The lookup's order (x offsets vary slowest) is that of the published weights.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

LEAST_SIDE = (
    128  # four levels at an eighth of the size: below, the top level is one pixel and has no coordinates
)


def coordinates(batch: int, height: int, width: int, device: torch.device) -> Tensor:
    """Pixel coordinates B x 2 x H x W, channel 0 is x and channel 1 is y."""
    rows = torch.arange(height, device=device, dtype=torch.float32)
    columns = torch.arange(width, device=device, dtype=torch.float32)
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    return torch.stack([x, y])[None].repeat(batch, 1, 1, 1)


def correlation(first: Tensor, second: Tensor) -> Tensor:
    """Dot products over channels / sqrt(channels): B x C x H x W twice -> B x H x W x H x W."""
    channels = first.shape[1]
    return torch.einsum("bchw,bcij->bhwij", first, second) / math.sqrt(channels)


def pyramid(volume: Tensor, levels: int) -> list[Tensor]:
    """The volume and its 2 x 2 means over the target pixels, each (B H W) x 1 x h x w."""
    batch, height, width = volume.shape[:3]
    level = volume.reshape(batch * height * width, 1, *volume.shape[3:])
    found = [level]
    for _ in range(levels - 1):
        level = F.avg_pool2d(level, 2, stride=2)
        found.append(level)
    return found


def lookup(levels: list[Tensor], points: Tensor, radius: int) -> Tensor:
    """Read every level around `points` (B x 2 x H x W, pixels of level 0): B x (levels (2 r + 1)^2) x H x W."""
    batch, _, height, width = points.shape
    steps = torch.arange(-radius, radius + 1, device=points.device, dtype=torch.float32)
    slow, fast = torch.meshgrid(steps, steps, indexing="ij")
    offsets = torch.stack([slow, fast], dim=-1)[None]  # 1 x (2r+1) x (2r+1) x 2, added to (x, y)
    centre = points.permute(0, 2, 3, 1).reshape(batch * height * width, 1, 1, 2)
    found = []
    for k, level in enumerate(levels):
        places = centre / 2**k + offsets
        size = torch.tensor(
            [level.shape[-1] - 1, level.shape[-2] - 1], device=points.device, dtype=torch.float32
        )
        sampled = F.grid_sample(level, 2 * places / size - 1, align_corners=True)
        found.append(sampled.reshape(batch, height, width, -1))
    return torch.cat(found, dim=-1).permute(0, 3, 1, 2).contiguous()


def pad_to_multiple(images: Tensor, of: int) -> tuple[Tensor, tuple[int, int, int, int]]:
    """Replicate borders so that both sides are multiples of `of`; also the padding (left, right, top, bottom)."""
    height, width = images.shape[-2:]
    tall, wide = -height % of, -width % of
    padding = (wide // 2, wide - wide // 2, tall // 2, tall - tall // 2)
    return F.pad(images, padding, mode="replicate"), padding


def unpad(images: Tensor, padding: tuple[int, int, int, int]) -> Tensor:
    """Undo `pad_to_multiple`."""
    left, right, top, bottom = padding
    return images[..., top : images.shape[-2] - bottom, left : images.shape[-1] - right]
