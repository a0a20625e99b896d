"""AMT-S, the frame interpolation of VBench's motion smoothness, for the published weights "amt-s".

Li et al., "AMT: All-Pairs Multi-Field Transforms for Efficient Frame Interpolation", CVPR 2023; the small variant.
Module names follow the published checkpoint.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from moe_pipeline.metrics.correlation import coordinates, correlation, lookup, pad_to_multiple, pyramid, unpad

CHANNELS, SKIP, FLOWS, LEVELS, RADIUS = (20, 32, 44, 56), 20, 3, 4, 3


def scaled(x: Tensor, factor: float) -> Tensor:
    """Bilinear resize by a factor."""
    return F.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False)


def warped(image: Tensor, flow: Tensor) -> Tensor:
    """image(x + flow(x)), bilinear, border repeated; B x C x H x W and B x 2 x H x W pixels."""
    batch, _, height, width = flow.shape
    places = coordinates(batch, height, width, flow.device) + flow
    size = torch.tensor([width - 1, height - 1], device=flow.device, dtype=flow.dtype)
    grid = 2 * places.permute(0, 2, 3, 1) / size - 1
    return F.grid_sample(image, grid, mode="bilinear", padding_mode="border", align_corners=True)


def conv_prelu(inner: int, outer: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inner, outer, 3, stride, 1), nn.PReLU(outer))


class Bottleneck(nn.Module):
    """1 x 1, 3 x 3, 1 x 1 convolutions with instance norm beside a shortcut."""

    def __init__(self, inner: int, outer: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inner, outer // 4, 1)
        self.conv2 = nn.Conv2d(outer // 4, outer // 4, 3, padding=1, stride=stride)
        self.conv3 = nn.Conv2d(outer // 4, outer, 1)
        self.norm1, self.norm2 = nn.InstanceNorm2d(outer // 4), nn.InstanceNorm2d(outer // 4)
        self.norm3 = nn.InstanceNorm2d(outer)
        self.downsample: nn.Sequential | None = None
        if stride != 1:
            self.downsample = nn.Sequential(
                nn.Conv2d(inner, outer, 1, stride=stride), nn.InstanceNorm2d(outer)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm1(self.conv1(x)))
        y = F.relu(self.norm2(self.conv2(y)))
        y = F.relu(self.norm3(self.conv3(y)))
        return F.relu((x if self.downsample is None else self.downsample(x)) + y)


class FeatureEncoder(nn.Module):
    """Features for the correlation: B x 3 x H x W -> B x 84 x H/8 x W/8."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 32, 7, stride=2, padding=3)
        self.norm1 = nn.InstanceNorm2d(32)
        self.layer1 = nn.Sequential(Bottleneck(32, 32, 1), Bottleneck(32, 32, 1))
        self.layer2 = nn.Sequential(Bottleneck(32, 64, 2), Bottleneck(64, 64, 1))
        self.layer3 = nn.Sequential(Bottleneck(64, 96, 2), Bottleneck(96, 96, 1))
        self.conv2 = nn.Conv2d(96, 84, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm1(self.conv1(x)))
        return self.conv2(self.layer3(self.layer2(self.layer1(x))))


class ContextPyramid(nn.Module):
    """Features at 1/2, 1/4, 1/8 and 1/16 of the size."""

    def __init__(self) -> None:
        super().__init__()
        inner = 3
        for level, outer in enumerate(CHANNELS, start=1):
            self.add_module(
                f"pyramid{level}", nn.Sequential(conv_prelu(inner, outer, 2), conv_prelu(outer, outer))
            )
            inner = outer

    def forward(self, x: Tensor) -> list[Tensor]:
        found = []
        for level in range(1, len(CHANNELS) + 1):
            x = self.get_submodule(f"pyramid{level}")(x)
            found.append(x)
        return found


class SideResidual(nn.Module):
    """Residual block whose last `SKIP` channels get convolutions of their own in between."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = conv_prelu(channels, channels), conv_prelu(SKIP, SKIP)
        self.conv3, self.conv4 = conv_prelu(channels, channels), conv_prelu(SKIP, SKIP)
        self.conv5 = nn.Conv2d(channels, channels, 3, padding=1)
        self.prelu = nn.PReLU(channels)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(x)
        y = self.conv3(torch.cat([y[:, :-SKIP], self.conv2(y[:, -SKIP:])], dim=1))
        y = self.conv5(torch.cat([y[:, :-SKIP], self.conv4(y[:, -SKIP:])], dim=1))
        return self.prelu(x + y)


class Decoder(nn.Module):
    """One level of decoding: a convolution, a residual block, a transposed convolution to twice the size."""

    def __init__(self, inner: int, middle: int, outer: int) -> None:
        super().__init__()
        self.convblock = nn.Sequential(
            conv_prelu(inner, middle), SideResidual(middle), nn.ConvTranspose2d(middle, outer, 4, 2, 1)
        )

    def forward(self, *parts: Tensor) -> Tensor:
        return self.convblock(torch.cat(parts, dim=1))


class UpdateBlock(nn.Module):
    """Refines feature and flows of a level from the correlation, at the correlation's resolution."""

    def __init__(self, channels: int, factor: int | None) -> None:
        super().__init__()
        self.factor = factor
        self.convc1 = nn.Conv2d(2 * LEVELS * (2 * RADIUS + 1) ** 2, 64, 1)
        self.convf1, self.convf2 = nn.Conv2d(4, 40, 7, padding=3), nn.Conv2d(40, 20, 3, padding=1)
        self.conv = nn.Conv2d(64 + 20, 68, 3, padding=1)
        self.gru = self._head(68 + 4 + channels, 76)
        self.feat_head, self.flow_head = self._head(76, channels), self._head(76, 4)

    @staticmethod
    def _head(inner: int, outer: int) -> nn.Sequential:
        return nn.Sequential(
            nn.Conv2d(inner, 76, 3, padding=1), nn.LeakyReLU(0.1), nn.Conv2d(76, outer, 3, padding=1)
        )

    def forward(self, feature: Tensor, flow: Tensor, matches: Tensor) -> tuple[Tensor, Tensor]:
        def leaky(x: Tensor) -> Tensor:
            return F.leaky_relu(x, 0.1)

        if self.factor is not None:
            feature = scaled(feature, 1 / self.factor)
        c = leaky(self.convc1(matches))
        f = leaky(self.convf2(leaky(self.convf1(flow))))
        x = leaky(self.conv(torch.cat([c, f], dim=1)))
        state = self.gru(torch.cat([x, flow, feature], dim=1))
        change, change_flow = self.feat_head(state), self.flow_head(state)
        if self.factor is not None:
            change, change_flow = scaled(change, self.factor), self.factor * scaled(change_flow, self.factor)
        return change, change_flow


class AMT(nn.Module):
    """The frame at time `when` between two images (B x 3 x H x W, 0..1, sides multiples of 16)."""

    def __init__(self) -> None:
        super().__init__()
        c1, c2, c3, c4 = CHANNELS
        self.feat_encoder = FeatureEncoder()
        self.encoder = ContextPyramid()
        self.decoder4 = Decoder(2 * c4 + 1, 2 * c4, c3 + 4)
        self.decoder3 = Decoder(3 * c3 + 4, 3 * c3, c2 + 4)
        self.decoder2 = Decoder(3 * c2 + 4, 3 * c2, c1 + 4)
        self.decoder1 = Decoder(3 * c1 + 4, 3 * c1, 8 * FLOWS)
        self.update4, self.update3, self.update2 = (
            UpdateBlock(c3, None),
            UpdateBlock(c2, 2),
            UpdateBlock(c1, 4),
        )
        self.comb_block = nn.Sequential(
            nn.Conv2d(3 * FLOWS, 6 * FLOWS, 3, 1, 1), nn.PReLU(6 * FLOWS), nn.Conv2d(6 * FLOWS, 3, 3, 1, 1)
        )

    def forward(self, first: Tensor, second: Tensor, when: float = 0.5) -> Tensor:
        batch, _, height, width = first.shape
        mean = torch.cat([first, second], dim=2).mean(dim=(1, 2, 3), keepdim=True)
        first, second = first - mean, second - mean
        volume = correlation(*self.feat_encoder(torch.cat([first, second])).chunk(2))
        levels = (pyramid(volume, LEVELS), pyramid(volume.permute(0, 3, 4, 1, 2), LEVELS))
        grid = coordinates(batch, height // 8, width // 8, first.device)
        contexts = list(zip(self.encoder(first), self.encoder(second), strict=True))  # 1/2, 1/4, 1/8, 1/16

        def refine(block: UpdateBlock, feature: Tensor, flow: Tensor, factor: int) -> tuple[Tensor, Tensor]:
            coarse = flow if factor == 1 else scaled(flow, 1 / factor) / factor
            to_first, to_second = coarse.chunk(2, dim=1)
            # linear motion: the flow from one frame to the other is the half-way flow over its share of the time
            matches = torch.cat(
                [
                    lookup(levels[0], grid + to_second / when, RADIUS),
                    lookup(levels[1], grid + to_first / (1 - when), RADIUS),
                ],
                dim=1,
            )
            change, change_flow = block(feature, coarse, matches)
            return feature + change, flow + change_flow

        times = torch.full((batch, 1, *contexts[3][0].shape[2:]), when, device=first.device)
        out = self.decoder4(*contexts[3], times)
        feature, flow = refine(self.update4, out[:, 4:], out[:, :4], 1)
        for decoder, block, level, factor in (
            (self.decoder3, self.update3, 2, 2),
            (self.decoder2, self.update2, 1, 4),
        ):
            out = decoder(*self._decoder_inputs(feature, contexts[level], flow))
            feature, flow = refine(block, out[:, 4:], out[:, :4] + 2.0 * scaled(flow, 2.0), factor)
        out = self.decoder1(*self._decoder_inputs(feature, contexts[0], flow))
        return self._combine(out, flow, first, second, mean).clamp(0.0, 1.0)

    @staticmethod
    def _decoder_inputs(feature: Tensor, context: tuple[Tensor, Tensor], flow: Tensor) -> tuple[Tensor, ...]:
        to_first, to_second = flow.chunk(2, dim=1)
        return feature, warped(context[0], to_first), warped(context[1], to_second), to_first, to_second

    def _combine(self, out: Tensor, flow: Tensor, first: Tensor, second: Tensor, mean: Tensor) -> Tensor:
        """Several flow fields, masks and residues merged into one picture."""
        batch, _, height, width = out.shape
        change_first, change_second, mask, residue = out.split(
            [2 * FLOWS, 2 * FLOWS, FLOWS, 3 * FLOWS], dim=1
        )
        to_first, to_second = (2.0 * scaled(f, 2.0).repeat(1, FLOWS, 1, 1) for f in flow.chunk(2, dim=1))
        flows_first = (to_first + change_first).reshape(batch * FLOWS, 2, height, width)
        flows_second = (to_second + change_second).reshape(batch * FLOWS, 2, height, width)
        share = torch.sigmoid(mask).reshape(batch * FLOWS, 1, height, width)
        warp_first = warped(first.repeat_interleave(FLOWS, dim=0), flows_first)
        warp_second = warped(second.repeat_interleave(FLOWS, dim=0), flows_second)
        pictures = share * warp_first + (1 - share) * warp_second + mean.repeat_interleave(FLOWS, dim=0)
        pictures = pictures + residue.reshape(batch * FLOWS, 3, height, width)
        pictures = pictures.view(batch, FLOWS, 3, height, width)
        return pictures.mean(dim=1) + self.comb_block(pictures.view(batch, -1, height, width))


def interpolate(network: AMT, before: Tensor, after: Tensor) -> Tensor:
    """The half-way frame of two frames (1 x 3 x H x W, 0..255), H x W x 3 in whole levels, cut as VBench cuts them."""
    padded, padding = pad_to_multiple(torch.cat([before, after]) / 255.0, 16)
    guess = unpad(network(padded[:1], padded[1:]), padding)
    return (guess[0] * 255.0).clamp(0, 255).floor().permute(1, 2, 0)
