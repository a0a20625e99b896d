"""Protocols between the rooms and the frozen dataclasses that carry arrays between them.

The events here are the in-process form of `moe_pipeline.schema.events`: the same kinds, but a `Step` may hold a
preview array and `Finished` holds the clip. They are plain dataclasses: nothing validates an array in the loop.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias, runtime_checkable

import numpy as np
import numpy.typing as npt
from torch import Tensor

from moe_pipeline.schema.gate import GateDecision
from moe_pipeline.schema.metrics import ClipMetrics
from moe_pipeline.schema.placement import Placement
from moe_pipeline.schema.plan import ScenePlan
from moe_pipeline.schema.record import RunRecord
from moe_pipeline.schema.request import ResolvedRequest

Frames: TypeAlias = npt.NDArray[np.uint8]  # (T, H, W, 3), RGB


@dataclass(frozen=True, slots=True)
class TextFeatures:
    """A batch of encoded texts.

    Attributes:
        tokens: (B, L, D) token states, zero where there is no token.
        mask: (B, L) bool, True on tokens.
        pooled: (B, D) mean over tokens, unit length.
    """

    tokens: Tensor
    mask: Tensor
    pooled: Tensor


@runtime_checkable
class TextEncoder(Protocol):
    """Texts to features of a fixed number of tokens."""

    def __call__(self, texts: Sequence[str]) -> TextFeatures: ...


@runtime_checkable
class Denoiser(Protocol):
    """Velocity prediction: x (B, C, F, H, W) at noise level sigma (B,) in [0, 1] -> (B, C, F, H, W)."""

    def __call__(self, x: Tensor, sigma: Tensor, tokens: Tensor, mask: Tensor) -> Tensor: ...


@runtime_checkable
class Gate(Protocol):
    """Dense routing logits: pooled text (B, D) and sigma (B,) -> (B, experts).

    `id` is the name under which records say which gate decided.
    """

    id: str

    def __call__(self, pooled: Tensor, sigma: Tensor) -> Tensor: ...


@runtime_checkable
class Guider(Protocol):
    """Combines the conditional and the unconditional prediction at one sigma."""

    def needs_unconditional(self, sigma: float) -> bool: ...

    def __call__(self, conditional: Tensor, unconditional: Tensor | None, sigma: float) -> Tensor: ...


@runtime_checkable
class Fusion(Protocol):
    """Combines predictions (K, B, C, F, H, W) of the active experts under weights (K,)."""

    def __call__(self, predictions: Sequence[Tensor], weights: Sequence[float]) -> Tensor: ...


@runtime_checkable
class Autoencoder(Protocol):
    """Pixels in [-1, 1] (B, 3, T, H, W) to latents (B, C, T/t, H/s, W/s) and back."""

    def encode(self, video: Tensor) -> Tensor: ...

    def decode(self, latents: Tensor) -> Tensor: ...


@dataclass(frozen=True, slots=True)
class Clip:
    """A finished clip: frames and everything they came from."""

    frames: Frames
    record: RunRecord
    path: str | None = None


@dataclass(frozen=True, slots=True)
class Accepted:
    run_id: str
    seq: int
    t_ms: float
    request: ResolvedRequest
    kind: Literal["accepted"] = "accepted"


@dataclass(frozen=True, slots=True)
class Planned:
    run_id: str
    seq: int
    t_ms: float
    plan: ScenePlan
    kind: Literal["planned"] = "planned"


@dataclass(frozen=True, slots=True)
class Gated:
    run_id: str
    seq: int
    t_ms: float
    gate: GateDecision
    kind: Literal["gated"] = "gated"


@dataclass(frozen=True, slots=True)
class Placed:
    run_id: str
    seq: int
    t_ms: float
    placement: Placement
    kind: Literal["placed"] = "placed"


@dataclass(frozen=True, slots=True)
class Replanned:
    run_id: str
    seq: int
    t_ms: float
    placement: Placement
    reason: str
    kind: Literal["replanned"] = "replanned"


@dataclass(frozen=True, slots=True)
class RunWarning:
    run_id: str
    seq: int
    t_ms: float
    code: str
    message: str
    kind: Literal["warning"] = "warning"


@dataclass(frozen=True, slots=True)
class Step:
    """One denoising step; `preview` is the predicted clean clip, uint8 (T', h, w, 3) at latent size, or None."""

    run_id: str
    seq: int
    t_ms: float
    index: int
    total: int
    sigma: float
    weights: dict[str, float]
    step_ms: float
    remaining_ms: float
    preview: Frames | None
    kind: Literal["step"] = "step"


@dataclass(frozen=True, slots=True)
class Decoded:
    run_id: str
    seq: int
    t_ms: float
    frames: Frames
    decode_ms: float
    kind: Literal["decoded"] = "decoded"


@dataclass(frozen=True, slots=True)
class Measured:
    run_id: str
    seq: int
    t_ms: float
    metrics: ClipMetrics
    metrics_ms: float
    kind: Literal["measured"] = "measured"


@dataclass(frozen=True, slots=True)
class Exported:
    run_id: str
    seq: int
    t_ms: float
    path: str
    export_ms: float
    kind: Literal["exported"] = "exported"


@dataclass(frozen=True, slots=True)
class Finished:
    run_id: str
    seq: int
    t_ms: float
    clip: Clip
    kind: Literal["finished"] = "finished"


@dataclass(frozen=True, slots=True)
class Failed:
    run_id: str
    seq: int
    t_ms: float
    code: str
    message: str
    kind: Literal["failed"] = "failed"


@dataclass(frozen=True, slots=True)
class Cancelled:
    run_id: str
    seq: int
    t_ms: float
    after_steps: int
    kind: Literal["cancelled"] = "cancelled"


Event: TypeAlias = (
    Accepted
    | Planned
    | Gated
    | Placed
    | Replanned
    | RunWarning
    | Step
    | Decoded
    | Measured
    | Exported
    | Finished
    | Failed
    | Cancelled
)


class RunControl:
    """What a person may do to a run while it goes on; safe to call from any thread.

    The stream looks at it between experts and between denoising steps.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._cancelled = False
        self._killed: frozenset[str] = frozenset()
        self._bandwidth_scale = 1.0
        self._changes: list[str] = []

    def cancel(self) -> None:
        """Stop at the next chance; the stream ends with `Cancelled`."""
        self._cancelled = True

    @property
    def cancelled(self) -> bool:
        return self._cancelled

    def kill(self, device: str) -> None:
        """An edge device fails: the stream re-plans without it and says so with `Replanned`."""
        with self._lock:
            self._killed |= {device}
            self._changes.append(f"{device} failed")

    def revive(self, device: str) -> None:
        """A failed edge device is back: the stream re-plans with it."""
        with self._lock:
            if device in self._killed:
                self._killed -= {device}
                self._changes.append(f"{device} is back")

    def restore(self) -> None:
        """All devices and links are again as the scenario describes them."""
        with self._lock:
            self._killed, self._bandwidth_scale = frozenset(), 1.0
            self._changes.append("all devices and links are as they were")

    def scale_bandwidth(self, scale: float) -> None:
        """All links now carry `scale` times their nominal throughput (0.01 to 10)."""
        with self._lock:
            self._bandwidth_scale = min(10.0, max(0.01, scale))
            self._changes.append(f"bandwidth is now {self._bandwidth_scale:g} of nominal")

    def conditions(self) -> tuple[frozenset[str], float]:
        """Failed devices and the bandwidth scale as they are now."""
        with self._lock:
            return self._killed, self._bandwidth_scale

    def take_change(self) -> str:
        """What changed since the last call, in words; empty when nothing did."""
        with self._lock:
            changes, self._changes = self._changes, []
            return "; ".join(dict.fromkeys(changes))
