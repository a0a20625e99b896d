"""What every trainer shares: a budget of running time, resumable checkpoints, a curve as CSV and PNG."""

from __future__ import annotations

import csv
import json
import os
import statistics
import time
from collections import deque
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from training.optim import Ema, MuonAdamW


class RunningClock:
    """Minutes that a trainer really had: a pause (SIGSTOP) or a busy machine does not eat its budget.

    On a CPU this is the process's CPU time divided by torch's threads; on CUDA it is wall time, with steps that
    take more than eight times the recent median counted as one median.
    """

    def __init__(self, minutes: float, device: torch.device) -> None:
        self.budget_s = minutes * 60.0
        self.spent_s = 0.0
        self._cpu = device.type == "cpu"
        self._recent: deque[float] = deque(maxlen=50)
        self._last = self._now()

    def _now(self) -> float:
        return time.process_time() / torch.get_num_threads() if self._cpu else time.perf_counter()

    def tick(self) -> None:
        """Count what passed since the last call."""
        now = self._now()
        passed, self._last = now - self._last, now
        if not self._cpu and len(self._recent) >= 5:
            typical = statistics.median(self._recent)
            if passed > 8.0 * typical:
                passed = typical
        self._recent.append(passed)
        self.spent_s += passed

    @property
    def fraction(self) -> float:
        return min(1.0, self.spent_s / self.budget_s)

    @property
    def over(self) -> bool:
        return self.spent_s >= self.budget_s


class Checkpoints:
    """Atomic, pickle-free checkpoints of module, average and optimiser in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def save(self, module: nn.Module, ema: Ema, optimiser: MuonAdamW, **facts: float) -> None:
        tensors: dict[str, Tensor] = {f"model.{n}": p.detach() for n, p in module.named_parameters()}
        tensors |= {f"ema.{n}": p for n, p in ema.shadow.items()}
        tensors |= {f"optim.{n}": p for n, p in optimiser.state.items()}
        tensors = {n: t.contiguous().cpu() for n, t in tensors.items()}
        facts |= {"optimiser_steps": optimiser.step_count, "ema_updates": ema.updates}
        temporary = self.folder / "state.safetensors.part"
        save_file(tensors, temporary, metadata={"facts": json.dumps(facts)})
        os.replace(temporary, self.folder / "state.safetensors")
        (self.folder / "facts.json").write_text(json.dumps(facts, indent=1))

    def load(self, module: nn.Module, ema: Ema, optimiser: MuonAdamW) -> dict[str, float] | None:
        """Restore everything in place; the facts saved with it, or None where there is no checkpoint."""
        path = self.folder / "state.safetensors"
        if not path.exists():
            return None
        with safe_open(path, framework="pt") as file:  # the facts that were saved in one go with the tensors
            facts: dict[str, float] = json.loads(file.metadata()["facts"])
        tensors = load_file(path)
        with torch.no_grad():
            for name, p in module.named_parameters():
                p.copy_(tensors[f"model.{name}"])
                ema.shadow[name].copy_(tensors[f"ema.{name}"])
        device = next(module.parameters()).device
        optimiser.state = {n[6:]: t.to(device) for n, t in tensors.items() if n.startswith("optim.")}
        optimiser.step_count = int(facts["optimiser_steps"])
        ema.updates = int(facts["ema_updates"])
        return facts


class Curve:
    """Rows of named figures, appended to CSV; `plot` draws them as PNG."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)

    def add(self, **row: float) -> None:
        new = not self.path.exists()
        with self.path.open("a", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=list(row))
            if new:
                writer.writeheader()
            writer.writerow({key: f"{value:.6g}" for key, value in row.items()})
        print("  ".join(f"{key} {value:.4g}" for key, value in row.items()), flush=True)

    def plot(self, y: str, title: str) -> None:
        import matplotlib

        matplotlib.use("Agg")
        import matplotlib.pyplot as plt

        rows = list(csv.DictReader(self.path.open()))
        figure, axis = plt.subplots(figsize=(7, 4))
        axis.plot([float(r["minutes"]) for r in rows], [float(r[y]) for r in rows], marker="o", markersize=3)
        axis.set(xlabel="minutes of training", ylabel=y, title=title)
        axis.grid(alpha=0.3)
        figure.tight_layout()
        figure.savefig(self.path.with_suffix(".png"), dpi=110)
        plt.close(figure)
