"""RAFT, the optical flow of VBench's dynamic degree and static filter, for the published weights "raft-things".

Teed and Deng, "RAFT: Recurrent All-Pairs Field Transforms for Optical Flow", ECCV 2020; the large variant. Module
names follow the published checkpoint.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from moe_pipeline.metrics.correlation import coordinates, correlation, lookup, pad_to_multiple, pyramid

HIDDEN, CONTEXT, LEVELS, RADIUS = 128, 128, 4, 4


def _norm(kind: str, channels: int) -> nn.Module:
    return nn.InstanceNorm2d(channels) if kind == "instance" else nn.BatchNorm2d(channels)


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions beside a shortcut, projected when the stride is 2."""

    def __init__(self, inner: int, outer: int, norm: str, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inner, outer, 3, padding=1, stride=stride)
        self.conv2 = nn.Conv2d(outer, outer, 3, padding=1)
        self.norm1, self.norm2 = _norm(norm, outer), _norm(norm, outer)
        self.downsample: nn.Sequential | None = None
        if stride != 1:
            self.norm3 = _norm(norm, outer)  # the checkpoint holds it twice: alone and in the shortcut
            self.downsample = nn.Sequential(nn.Conv2d(inner, outer, 1, stride=stride), self.norm3)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm1(self.conv1(x)))
        y = F.relu(self.norm2(self.conv2(y)))
        shortcut = x if self.downsample is None else self.downsample(x)
        return F.relu(shortcut + y)


class Encoder(nn.Module):
    """Features at an eighth of the size: B x 3 x H x W -> B x output x H/8 x W/8."""

    def __init__(self, output: int, norm: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3)
        self.norm1 = _norm(norm, 64)
        self.layer1 = nn.Sequential(ResidualBlock(64, 64, norm, 1), ResidualBlock(64, 64, norm, 1))
        self.layer2 = nn.Sequential(ResidualBlock(64, 96, norm, 2), ResidualBlock(96, 96, norm, 1))
        self.layer3 = nn.Sequential(ResidualBlock(96, 128, norm, 2), ResidualBlock(128, 128, norm, 1))
        self.conv2 = nn.Conv2d(128, output, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm1(self.conv1(x)))
        return self.conv2(self.layer3(self.layer2(self.layer1(x))))


class MotionEncoder(nn.Module):
    """Correlation and flow to 128 channels, the last two the flow itself."""

    def __init__(self) -> None:
        super().__init__()
        self.convc1 = nn.Conv2d(LEVELS * (2 * RADIUS + 1) ** 2, 256, 1)
        self.convc2 = nn.Conv2d(256, 192, 3, padding=1)
        self.convf1 = nn.Conv2d(2, 128, 7, padding=3)
        self.convf2 = nn.Conv2d(128, 64, 3, padding=1)
        self.conv = nn.Conv2d(64 + 192, 128 - 2, 3, padding=1)

    def forward(self, flow: Tensor, matches: Tensor) -> Tensor:
        c = F.relu(self.convc2(F.relu(self.convc1(matches))))
        f = F.relu(self.convf2(F.relu(self.convf1(flow))))
        return torch.cat([F.relu(self.conv(torch.cat([c, f], dim=1))), flow], dim=1)


class SeparableGRU(nn.Module):
    """A gated recurrent unit along rows, then along columns."""

    def __init__(self) -> None:
        super().__init__()
        wide = HIDDEN + CONTEXT + 128
        for part, kernel, padding in ((1, (1, 5), (0, 2)), (2, (5, 1), (2, 0))):
            for gate in "zrq":
                self.add_module(f"conv{gate}{part}", nn.Conv2d(wide, HIDDEN, kernel, padding=padding))

    def forward(self, state: Tensor, x: Tensor) -> Tensor:
        for part in (1, 2):
            z_conv, r_conv, q_conv = (self.get_submodule(f"conv{gate}{part}") for gate in "zrq")
            both = torch.cat([state, x], dim=1)
            z, r = torch.sigmoid(z_conv(both)), torch.sigmoid(r_conv(both))
            q = torch.tanh(q_conv(torch.cat([r * state, x], dim=1)))
            state = (1 - z) * state + z * q
        return state


class FlowHead(nn.Module):
    """Hidden state to a change of flow."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(HIDDEN, 256, 3, padding=1)
        self.conv2 = nn.Conv2d(256, 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(F.relu(self.conv1(x)))


class UpdateBlock(nn.Module):
    """One iteration: new hidden state, weights of the upsampling, change of flow."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = MotionEncoder()
        self.gru = SeparableGRU()
        self.flow_head = FlowHead()
        self.mask = nn.Sequential(nn.Conv2d(128, 256, 3, padding=1), nn.ReLU(), nn.Conv2d(256, 64 * 9, 1))

    def forward(
        self, state: Tensor, context: Tensor, matches: Tensor, flow: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        state = self.gru(state, torch.cat([context, self.encoder(flow, matches)], dim=1))
        return state, 0.25 * self.mask(state), self.flow_head(state)


class RAFT(nn.Module):
    """Flow between two batches of images (B x 3 x H x W, 0..255, sides multiples of 8): B x 2 x H x W, pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.fnet = Encoder(256, "instance")
        self.cnet = Encoder(HIDDEN + CONTEXT, "batch")
        self.update_block = UpdateBlock()

    def forward(self, first: Tensor, second: Tensor, iterations: int = 20) -> Tensor:
        first, second = 2 * (first / 255.0) - 1.0, 2 * (second / 255.0) - 1.0
        features = self.fnet(torch.cat([first, second])).chunk(2)
        levels = pyramid(correlation(*features), LEVELS)
        state, context = self.cnet(first).split([HIDDEN, CONTEXT], dim=1)
        state, context = torch.tanh(state), torch.relu(context)
        start = coordinates(first.shape[0], first.shape[2] // 8, first.shape[3] // 8, first.device)
        now = start.clone()
        weights = torch.zeros(0)
        for _ in range(iterations):
            matches = lookup(levels, now, RADIUS)
            state, weights, change = self.update_block(state, context, matches, now - start)
            now = now + change
        return upsample(now - start, weights)


def upsample(flow: Tensor, weights: Tensor) -> Tensor:
    """Convex upsampling by 8: each fine pixel is a weighted mean of its 3 x 3 coarse neighbours."""
    batch, _, height, width = flow.shape
    share = weights.view(batch, 1, 9, 8, 8, height, width).softmax(dim=2)
    near = F.unfold(8 * flow, 3, padding=1).view(batch, 2, 9, 1, 1, height, width)
    fine = (share * near).sum(dim=2)  # B x 2 x 8 x 8 x H x W
    return fine.permute(0, 1, 4, 2, 5, 3).reshape(batch, 2, 8 * height, 8 * width)


def flow_length(network: RAFT, first: Tensor, second: Tensor) -> Tensor:
    """Flow length of one pair (1 x 3 x H x W, 0..255) on the padded frame, as VBench takes it: H' x W' pixels."""
    padded, _ = pad_to_multiple(torch.cat([first, second]), 8)
    flow = network(padded[:1], padded[1:])
    return flow[0].square().sum(dim=0).sqrt()
