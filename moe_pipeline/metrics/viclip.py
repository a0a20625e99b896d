"""ViCLIP, the video-text model of VBench's overall consistency, for the weights "ViClip-InternVid-10M-FLT".

Wang et al., "InternVid", ICLR 2024: CLIP's ViT-L/14 over all patches of eight frames at once, with an embedding of
time, and CLIP's text transformer with a context of 32. Module names follow the published checkpoint.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import torch
from torch import Tensor, nn

FRAMES = 8


@dataclass(frozen=True)
class Shape:
    """Sizes of the two towers; the defaults are the published model's."""

    side: int = 224
    patch: int = 14
    vision_width: int = 1024
    vision_layers: int = 24
    vision_heads: int = 16
    text_width: int = 768
    text_layers: int = 12
    text_heads: int = 12
    vocabulary: int = 49408
    context: int = 32
    embedding: int = 768


class QuickGELU(nn.Module):
    """x sigmoid(1.702 x), CLIP's activation."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


class Block(nn.Module):
    """Pre-norm transformer block over N x L x C."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            OrderedDict(
                c_fc=nn.Linear(width, 4 * width), gelu=QuickGELU(), c_proj=nn.Linear(4 * width, width)
            )
        )

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        y = self.ln_1(x)
        x = x + self.attn(y, y, y, need_weights=False, attn_mask=mask)[0]
        return x + self.mlp(self.ln_2(x))


class Transformer(nn.Module):
    """A stack of blocks under the checkpoint's name."""

    def __init__(self, width: int, layers: int, heads: int) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList(Block(width, heads) for _ in range(layers))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        for block in self.resblocks:
            x = block(x, mask)
        return x


class VisionTower(nn.Module):
    """B x 3 x T x H x W to B x embedding."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        width, patch = shape.vision_width, shape.patch
        self.conv1 = nn.Conv3d(3, width, (1, patch, patch), (1, patch, patch), bias=False)
        self.class_embedding = nn.Parameter(width**-0.5 * torch.randn(width))
        self.positional_embedding = nn.Parameter(
            width**-0.5 * torch.randn((shape.side // patch) ** 2 + 1, width)
        )
        self.temporal_positional_embedding = nn.Parameter(torch.zeros(1, FRAMES, width))
        self.ln_pre, self.ln_post = nn.LayerNorm(width), nn.LayerNorm(width)
        self.transformer = Transformer(width, shape.vision_layers, shape.vision_heads)
        self.proj = nn.Parameter(width**-0.5 * torch.randn(width, shape.embedding))

    def forward(self, video: Tensor) -> Tensor:
        x = self.conv1(video).flatten(3).permute(0, 2, 3, 1)  # B x T x L x C
        batch, frames, places, width = x.shape
        x = x + self.positional_embedding[1:]
        x = x + self.temporal_positional_embedding[:, :, None]
        first = (self.class_embedding + self.positional_embedding[0]).expand(batch, 1, width)
        # the model was trained on tokens ordered by place, then by time
        x = x.transpose(1, 2).reshape(batch, places * frames, width)
        x = self.transformer(self.ln_pre(torch.cat([first, x], dim=1)))
        return self.ln_post(x[:, 0]) @ self.proj


class TextTower(nn.Module):
    """B x context token ids (0 after the end token) to B x embedding, read at the end token, the largest id."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        width = shape.text_width
        self.token_embedding = nn.Embedding(shape.vocabulary, width)
        self.positional_embedding = nn.Parameter(0.01 * torch.randn(shape.context, width))
        self.transformer = Transformer(width, shape.text_layers, shape.text_heads)
        self.ln_final = nn.LayerNorm(width)
        self.text_projection = nn.Parameter(width**-0.5 * torch.randn(width, shape.embedding))

    def forward(self, tokens: Tensor) -> Tensor:
        count = tokens.shape[1]
        causal = torch.full((count, count), float("-inf"), device=tokens.device).triu(1)
        x = self.transformer(self.token_embedding(tokens) + self.positional_embedding, causal)
        ends = tokens.argmax(dim=-1)
        return self.ln_final(x)[torch.arange(len(x)), ends] @ self.text_projection


class ViCLIP(nn.Module):
    """Both towers; `temp` is the training temperature, kept because the checkpoint holds it."""

    def __init__(self, shape: Shape | None = None) -> None:
        super().__init__()
        self.shape = shape or Shape()
        self.vision_encoder, self.text_encoder = VisionTower(self.shape), TextTower(self.shape)
        self.temp = nn.Parameter(torch.tensor(0.01))


def fit_context(tokens: list[int], context: int) -> list[int]:
    """Token ids with start and end, cut to the context (the end token stays) or filled with 0."""
    if len(tokens) > context:
        tokens = [*tokens[: context - 1], tokens[-1]]
    return tokens + [0] * (context - len(tokens))
