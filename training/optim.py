"""Muon for matrices, AdamW for the rest, with a state that safetensors can hold.

Muon orthogonalises the momentum of every 2D weight with five Newton-Schulz steps (K. Jordan et al., "Muon: an
optimizer for hidden layers in neural networks", 2024). The step is scaled by 0.2 * sqrt(larger side), so that it
takes the same learning rate as AdamW (Liu et al., "Muon is scalable for LLM training", 2025, arXiv 2502.16982).
"""

from __future__ import annotations

from collections import defaultdict
from typing import Protocol

import torch
from torch import Tensor, nn

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)


def orthogonalise(matrices: Tensor, steps: int = 5) -> Tensor:
    """Nearest semi-orthogonal matrices, approximately: (N, rows, columns) -> same shape, bf16."""
    a, b, c = _COEFFICIENTS
    x = matrices.bfloat16()
    tall = x.shape[-2] > x.shape[-1]
    if tall:
        x = x.mT
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x


class Sharing(Protocol):
    """Processes that share the orthogonalisation: `training.peers.Peers`."""

    rank: int
    world: int

    def sum(self, flat: Tensor) -> None: ...


class MuonAdamW:
    """One optimiser over a module's named parameters.

    Args:
        module: its 2D weights with both sides of at least `smallest` go to Muon, everything else to AdamW.
        lr: learning rate of both.
        sharing: processes with equal weights and gradients; each orthogonalises its part of Muon's matrices.
        weight_decay: decoupled, on Muon's matrices only.
    """

    def __init__(
        self,
        module: nn.Module,
        lr: float = 2e-3,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        betas: tuple[float, float] = (0.9, 0.98),
        smallest: int = 16,
        adam_only: tuple[str, ...] = (),
        sharing: Sharing | None = None,
    ) -> None:
        self.sharing = sharing
        self.parameters = {name: p for name, p in module.named_parameters() if p.requires_grad}
        self.lr, self.momentum, self.weight_decay, self.betas = lr, momentum, weight_decay, betas
        self.step_count = 0
        self.state: dict[str, Tensor] = {}
        self.groups: dict[tuple[int, ...], list[str]] = defaultdict(list)
        self.adam_names: list[str] = []
        for name, p in self.parameters.items():
            matrix = p.ndim == 2 and min(p.shape) >= smallest
            if matrix and not any(part in name for part in adam_only):
                self.groups[tuple(p.shape)].append(name)
            else:
                self.adam_names.append(name)

    def zero_grad(self) -> None:
        for p in self.parameters.values():
            p.grad = None

    @torch.no_grad()
    def step(self, lr: float | None = None) -> None:
        """Apply the gradients at learning rate `lr` (the constructor's if None)."""
        rate = self.lr if lr is None else lr
        self.step_count += 1
        groups = {
            shape: [n for n in names if self.parameters[n].grad is not None]
            for shape, names in self.groups.items()
        }
        directions = self._directions({shape: names for shape, names in groups.items() if names})
        for shape, names in groups.items():
            scale = 0.2 * max(shape) ** 0.5
            for name in names:
                p = self.parameters[name]
                if self.weight_decay:
                    p.mul_(1.0 - rate * self.weight_decay)
                p.add_(directions[name].to(p.dtype), alpha=-rate * scale)
        self._adam([n for n in self.adam_names if self.parameters[n].grad is not None], rate)

    def _slot(self, key: str, like: Tensor) -> Tensor:
        if key not in self.state:
            self.state[key] = torch.zeros_like(like, dtype=torch.float32)
        return self.state[key]

    def _directions(self, groups: dict[tuple[int, ...], list[str]]) -> dict[str, Tensor]:
        """Muon's direction for every matrix, in bf16; with `sharing`, each process computes its part."""
        rank, world = (self.sharing.rank, self.sharing.world) if self.sharing else (0, 1)
        directions: dict[str, Tensor] = {}
        for shape, names in groups.items():
            updates = []
            for name in names:
                gradient = self.parameters[name].grad
                assert gradient is not None
                buffer = self._slot(f"muon.{name}", gradient)
                buffer.lerp_(gradient.float(), 1.0 - self.momentum)
                updates.append(gradient.float().lerp(buffer, self.momentum))  # Nesterov form
            mine = slice(rank, None, world)
            if self.sharing is None or world == 1:
                directions |= zip(names, orthogonalise(torch.stack(updates)), strict=True)
                continue
            everything = torch.zeros(len(names), *shape, dtype=torch.bfloat16, device=updates[0].device)
            if names[mine]:
                everything[mine] = orthogonalise(torch.stack(updates[mine]))
            self.sharing.sum(everything)  # the parts of the others are zero: nothing is rounded
            directions |= zip(names, everything, strict=True)
        return directions

    def _adam(self, names: list[str], rate: float) -> None:
        if not names:
            return
        params: list[Tensor] = [self.parameters[n] for n in names]
        grads = [p.grad.float() for p in params if p.grad is not None]
        first = [self._slot(f"adam1.{n}", p) for n, p in zip(names, params, strict=True)]
        second = [self._slot(f"adam2.{n}", p) for n, p in zip(names, params, strict=True)]
        b1, b2 = self.betas
        torch._foreach_lerp_(first, grads, 1.0 - b1)
        torch._foreach_mul_(second, b2)
        torch._foreach_addcmul_(second, grads, grads, 1.0 - b2)
        correct1, correct2 = 1.0 - b1**self.step_count, 1.0 - b2**self.step_count
        denominators = torch._foreach_div(second, correct2)
        torch._foreach_sqrt_(denominators)
        torch._foreach_add_(denominators, 1e-8)
        torch._foreach_addcdiv_(params, first, denominators, -rate / correct1)


class Ema:
    """Exponential moving average of a module's parameters, in float32.

    The decay warms up as (1 + n) / (10 + n), so that early averages forget the initial weights.
    """

    def __init__(self, module: nn.Module, decay: float = 0.998) -> None:
        self.decay, self.updates = decay, 0
        self.shadow = {name: p.detach().float().clone() for name, p in module.named_parameters()}

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        names = list(self.shadow)
        parameters = dict(module.named_parameters())
        torch._foreach_lerp_(
            [self.shadow[n] for n in names], [parameters[n].detach().float() for n in names], 1.0 - decay
        )

    @torch.no_grad()
    def copy_to(self, module: nn.Module) -> None:
        for name, p in module.named_parameters():
            p.copy_(self.shadow[name])
