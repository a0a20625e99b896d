"""MUSIQ, the image-quality transformer of VBench's imaging quality, for the published weights "musiq-spaq".

Ke et al., "MUSIQ: Multi-scale Image Quality Transformer", ICCV 2021, in the form of the PyTorch port that VBench uses
(IQA-PyTorch), whose module names the checkpoint has. Input B x 3 x H x W in 0..1, output a score in 0..100.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

PATCH, HIDDEN, GRID = 32, 384, 10
LONGER_SIDES = (224, 384)


def pad_same(x: Tensor, kernel: int, stride: int) -> Tensor:
    """TensorFlow's SAME padding with zeros: the output has ceil(size / stride) places, the odd pixel after."""
    pads: list[int] = []
    for size in (x.shape[-1], x.shape[-2]):  # F.pad: last axis first
        total = max(0, (math.ceil(size / stride) - 1) * stride + kernel - size)
        pads += [total // 2, total - total // 2]
    return F.pad(x, pads)


class StandardConv(nn.Conv2d):
    """Convolution with standardised weights and SAME padding, no bias."""

    def __init__(self, inner: int, outer: int, kernel: int, stride: int = 1) -> None:
        super().__init__(inner, outer, kernel, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight - self.weight.mean(dim=(1, 2, 3), keepdim=True)
        weight = weight / (weight.std(dim=(1, 2, 3), keepdim=True) + 1e-5)
        return F.conv2d(pad_same(x, self.kernel_size[0], self.stride[0]), weight, None, self.stride)


class Bottleneck(nn.Module):
    """The one residual block of the patch encoder."""

    def __init__(self, inner: int, outer: int) -> None:
        super().__init__()
        self.conv1, self.gn1 = StandardConv(inner, inner, 1), nn.GroupNorm(32, inner, eps=1e-4)
        self.conv2, self.gn2 = StandardConv(inner, inner, 3), nn.GroupNorm(32, inner, eps=1e-4)
        self.conv3, self.gn3 = StandardConv(inner, outer, 1), nn.GroupNorm(32, outer, eps=1e-4)
        self.conv_proj, self.gn_proj = StandardConv(inner, outer, 1), nn.GroupNorm(32, outer, eps=1e-4)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.gn1(self.conv1(x)))
        y = F.relu(self.gn2(self.conv2(y)))
        return F.relu(self.gn3(self.conv3(y)) + self.gn_proj(self.conv_proj(x)))


class Attention(nn.Module):
    """Multi-head self-attention in which masked tokens get a logit of -1000."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        batch, count, width = x.shape
        q, k, v = (
            part(x).view(batch, count, self.heads, width // self.heads).transpose(1, 2)
            for part in (self.query, self.key, self.value)
        )
        logits = q @ k.transpose(-2, -1) * (width // self.heads) ** -0.5  # B x heads x N x N
        both = mask[:, None, :, None] & mask[:, None, None, :]
        share = logits.masked_fill(~both, -1e3).softmax(dim=-1)
        return self.out((share @ v).transpose(1, 2).reshape(batch, count, width))


class Mlp(nn.Module):
    """Two linear layers with GELU."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, inner), nn.Linear(inner, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    """Pre-norm transformer block."""

    def __init__(self, width: int, inner: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.attention, self.mlp = Attention(width, heads), Mlp(width, inner)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x), mask)
        return x + self.mlp(self.norm2(x))


class _SpatialEmbedding(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.position_emb = nn.Parameter(0.02 * torch.randn(1, GRID * GRID, HIDDEN))


class _ScaleEmbedding(nn.Module):
    def __init__(self, scales: int) -> None:
        super().__init__()
        self.scale_emb = nn.Parameter(0.02 * torch.randn(scales, HIDDEN))


class Encoder(nn.Module):
    """Adds hashed place and scale to the tokens, puts a class token before them, runs the blocks."""

    def __init__(self, layers: int, heads: int, inner: int) -> None:
        super().__init__()
        self.posembed_input = _SpatialEmbedding()
        self.scaleembed_input = _ScaleEmbedding(len(LONGER_SIDES) + 1)
        self.cls = nn.Parameter(torch.zeros(1, 1, HIDDEN))
        self.encoder_norm = nn.LayerNorm(HIDDEN, eps=1e-6)
        self.transformer = nn.ModuleDict(
            {f"encoderblock_{i}": Block(HIDDEN, inner, heads) for i in range(layers)}
        )

    def forward(self, x: Tensor, place: Tensor, scale: Tensor, mask: Tensor) -> Tensor:
        x = x + self.posembed_input.position_emb[0][place] + self.scaleembed_input.scale_emb[scale]
        x = torch.cat([self.cls.expand(len(x), -1, -1), x], dim=1)
        mask = torch.cat([torch.ones_like(mask[:, :1]), mask], dim=1)
        for block in self.transformer.values():
            x = block(x, mask)
        return self.encoder_norm(x)


class MUSIQ(nn.Module):
    """Score of each image, B. Smaller `layers` make a small network of the same class for tests."""

    def __init__(self, layers: int = 14, heads: int = 6, inner: int = 1152) -> None:
        super().__init__()
        self.conv_root, self.gn_root = StandardConv(3, 64, 7, 2), nn.GroupNorm(32, 64, eps=1e-6)
        self.block1 = Bottleneck(64, 256)
        self.embedding = nn.Linear(256 * (PATCH // 4) ** 2, HIDDEN)
        self.transformer_encoder = Encoder(layers, heads, inner)
        self.head = nn.Linear(HIDDEN, 1)

    def forward(self, images: Tensor) -> Tensor:
        patches, place, scale, mask = multiscale_patches(2 * images - 1)
        batch, count = mask.shape
        x = self.gn_root(self.conv_root(patches.reshape(batch * count, 3, PATCH, PATCH)))
        x = F.max_pool2d(pad_same(F.relu(x), 3, 2), 3, 2)
        x = (
            self.block1(x).permute(0, 2, 3, 1).reshape(batch, count, -1)
        )  # channels last, as the weights were trained
        x = self.transformer_encoder(self.embedding(x), place, scale, mask)
        return self.head(x[:, 0])[:, 0]


def multiscale_patches(images: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Patches of the image at two reduced sizes and its own: patches B x N x (3 * 32 * 32), place, scale, mask B x N.

    Reduced sizes keep the aspect ratio (longer side 224, 384; bicubic) and are padded with masked patches to their
    full count of 49 and 144; the image's own patches all count.
    """
    height, width = images.shape[-2:]
    parts: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
    for scale, longer in enumerate(LONGER_SIDES):
        ratio = longer / max(height, width)
        size = (max(1, round(height * ratio)), max(1, round(width * ratio)))
        reduced = F.interpolate(images, size, mode="bicubic", align_corners=False)
        parts.append(_patches(reduced, scale, math.ceil(longer / PATCH) ** 2))
    parts.append(_patches(images, len(LONGER_SIDES), None))
    patches, place, scales, mask = (torch.cat(column, dim=1) for column in zip(*parts, strict=True))
    return patches, place, scales, mask


def _patches(images: Tensor, scale: int, length: int | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    batch, _, height, width = images.shape
    rows, columns = math.ceil(height / PATCH), math.ceil(width / PATCH)
    patches = F.unfold(pad_same(images, PATCH, PATCH), PATCH, stride=PATCH).transpose(1, 2)  # B x N x 3072
    place = (_hashed(rows)[:, None] * GRID + _hashed(columns)[None, :]).reshape(1, -1).to(images.device)
    count = rows * columns
    mask = torch.ones(batch, count, dtype=torch.bool, device=images.device)
    where, which = place.expand(batch, -1), torch.full((batch, count), scale, device=images.device)
    if length is not None and length > count:
        spare = length - count  # padding carries place 0 and scale 0, and is masked
        patches, mask = F.pad(patches, (0, 0, 0, spare)), F.pad(mask, (0, spare))
        where, which = F.pad(where, (0, spare)), F.pad(which, (0, spare))
    return patches, where, which, mask


def _hashed(count: int) -> Tensor:
    """Row or column k of `count` hashed to the grid of 10, by nearest-neighbour resizing of 0..9."""
    grid = torch.arange(GRID, dtype=torch.float32).view(1, 1, GRID)
    return F.interpolate(grid, count, mode="nearest").view(-1).long()
