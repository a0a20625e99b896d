"""Frames as VBench's networks see them: the resizing, cropping and scaling of `vbench/utils.py`, in plain torch.

VBench uses torchvision's transforms with `antialias=False`; on tensors those are `torch.nn.functional.interpolate`
with half-pixel centres, the shorter side given and the longer one truncated to whole pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from moe_pipeline.metrics.frames import Frames

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def to_tensor(frames: Frames, device: torch.device | str = "cpu") -> Tensor:
    """uint8 T x H x W x 3 to float32 T x 3 x H x W, still 0..255."""
    return torch.from_numpy(frames).to(device).permute(0, 3, 1, 2).float()


def resize_shorter(images: Tensor, side: int, mode: str) -> Tensor:
    """Scale T x C x H x W so that the shorter side is `side`; the longer one is cut to whole pixels."""
    height, width = images.shape[-2:]
    if height <= width:
        size = (side, int(side * width / height))
    else:
        size = (int(side * height / width), side)
    if size == (height, width):
        return images
    return F.interpolate(images, size=size, mode=mode, align_corners=False)


def centre_crop(images: Tensor, side: int) -> Tensor:
    """The middle `side` x `side` pixels of T x C x H x W."""
    height, width = images.shape[-2:]
    top, left = round((height - side) / 2.0), round((width - side) / 2.0)
    return images[..., top : top + side, left : left + side]


def normalise(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """(x / 255 - mean) / std per channel."""
    offset = torch.tensor(mean, device=images.device).view(1, 3, 1, 1)
    spread = torch.tensor(std, device=images.device).view(1, 3, 1, 1)
    return (images / 255.0 - offset) / spread


def for_dino(frames: Frames, device: torch.device | str = "cpu", side: int = 224) -> Tensor:
    """`dino_transform`: shorter side to 224, bilinear, no crop."""
    return normalise(resize_shorter(to_tensor(frames, device), side, "bilinear"), IMAGENET_MEAN, IMAGENET_STD)


def for_clip(
    frames: Frames, device: torch.device | str = "cpu", side: int = 224, *, whole_levels: bool = False
) -> Tensor:
    """`clip_transform`: shorter side to 224, bicubic, centre crop.

    `whole_levels` clamps and rounds after the resize, as torchvision does when it is handed uint8 tensors (VBench's
    overall consistency); its other dimensions hand float tensors, whose overshoot stays.
    """
    images = resize_shorter(to_tensor(frames, device), side, "bicubic")
    if whole_levels:
        images = images.clamp(0.0, 255.0).round()
    return normalise(centre_crop(images, side), CLIP_MEAN, CLIP_STD)


def for_musiq(frames: Frames, device: torch.device | str = "cpu", limit: int = 512) -> Tensor:
    """VBench's `longer` mode: a long side above 512 is scaled to 512, bilinear; then 0..1."""
    images = to_tensor(frames, device)
    height, width = images.shape[-2:]
    if max(height, width) > limit:
        scale = limit / max(height, width)
        size = (max(1, int(scale * height)), max(1, int(scale * width)))
        images = F.interpolate(images, size=size, mode="bilinear", align_corners=False)
    return images / 255.0


def middle_frames(frame_count: int, wanted: int) -> list[int]:
    """Indices at the middles of `wanted` equal segments (`get_frame_indices`, sample "middle"), last one repeated."""
    count = min(wanted, frame_count)
    edges = [int(frame_count * k / count) for k in range(count + 1)]
    indices = [(edges[k] + edges[k + 1] - 1) // 2 for k in range(count)]
    return indices + [indices[-1]] * (wanted - count)
