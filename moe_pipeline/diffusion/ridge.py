"""Ridge regression with an intercept, for the small linear maps that stand beside the networks."""

from __future__ import annotations

import torch
from torch import Tensor


def ridge(x: Tensor, y: Tensor, penalty: float) -> tuple[Tensor, Tensor]:
    """Weights (D, K) and intercept (K,) from x (N, D) to y (N, K): least squares plus `penalty` times all squares.

    The penalty decides every direction that x leaves open: latents normalised over their channels add up to zero, so
    plain least squares would leave any multiple of their sum free.
    """
    design = torch.cat([x.double(), torch.ones(len(x), 1, dtype=torch.float64, device=x.device)], dim=1)
    gram = design.T @ design + penalty * torch.eye(design.shape[1], dtype=torch.float64, device=x.device)
    solution = torch.linalg.solve(gram, design.T @ y.double()).to(y.dtype)
    return solution[:-1], solution[-1]
