"""The learned placement policy at run time: a gated mixture of small scorers, in numpy.

Every option of a request is scored by the same networks from its own features and the common context, so one
policy serves any deployment with any number of hosts. M experts score; a gate over the context (the regime:
load, channel, faults, size of the request) mixes the distributions they propose:

    pi(o | s) = sum_m g_m(c) softmax_o(score_m(features_o, c) + beta_m * (estimate_o - best estimate))

The last term starts every expert at the greedy estimate; beta_m is learned. Training is in
`training/placement_ppo.py`. States, rewards and architecture are the project's own design: the paper that
inspired it (arXiv 2405.12472) publishes none.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from moe_pipeline.edge.simulation_batch import CONTEXT, FEATURES, Ledger, Observation
from moe_pipeline.schema.errors import MoEverseError

Array = npt.NDArray[np.float64]

ADVANTAGE = 15  # column of `value - best` in the features
MAX_BYTES = 1_000_000
NAMES = ("w1", "b1", "w2", "b2", "w3", "beta", "gate_w1", "gate_b1", "gate_w2", "gate_b2")


def shipped_policy() -> Path:
    """The policy that comes with the project."""
    return Path(__file__).resolve().parents[2] / "assets" / "policies" / "moe-ppo.safetensors"


def gate_input(features: Array, context: Array, mask: npt.NDArray[np.bool_]) -> Array:
    """(B, CONTEXT + FEATURES): the context and the mean features of the options that are alive."""
    weight = mask[..., None] / np.maximum(mask.sum(axis=1), 1)[:, None, None]
    return np.concatenate([context, (features * weight).sum(axis=1)], axis=1)


@dataclass(frozen=True)
class LearnedPolicy:
    """Weights by name: w1 (M, F + C, H), b1 (M, H), w2 (M, H, H), b2 (M, H), w3 (M, H), beta (M,), and the
    gate's gate_w1 (C + F, G), gate_b1 (G,), gate_w2 (G, M), gate_b2 (M,)."""

    weights: dict[str, Array]

    @classmethod
    def load(cls, path: Path) -> LearnedPolicy:
        """From safetensors.

        Raises:
            MoEverseError: `no_policy_file`, `bad_policy_file`.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        if not path.is_file():
            raise MoEverseError(
                "no_policy_file",
                f"The policy file {path.name} is missing.",
                "Restore it from the repository or train one with runs/moe-ppo.sh.",
            )
        if path.stat().st_size > MAX_BYTES:
            raise MoEverseError(
                "bad_policy_file",
                f"{path.name} is larger than a policy can be.",
                "Restore it from the repository.",
            )
        try:
            weights = {name: np.asarray(w, dtype=np.float64) for name, w in load_file(path).items()}
        except (SafetensorError, OSError) as error:
            raise MoEverseError(
                "bad_policy_file",
                f"{path.name} is not a readable policy file.",
                "Restore it from the repository or train one with runs/moe-ppo.sh.",
            ) from error
        policy = cls(weights)
        policy._check(path.name)
        return policy

    def _check(self, name: str) -> None:
        missing = [key for key in NAMES if key not in self.weights]
        shape = self.weights["w1"].shape if not missing else ()
        if missing or len(shape) != 3 or shape[1] != FEATURES + CONTEXT:
            raise MoEverseError(
                "bad_policy_file",
                f"{name} was made for another version of the observation.",
                "Train it again with runs/moe-ppo.sh.",
            )

    @property
    def experts(self) -> int:
        """M."""
        return len(self.weights["beta"])

    def gate(self, seen: Observation) -> Array:
        """(B, M) weights of the experts."""
        assert seen.features is not None and seen.context is not None
        w = self.weights
        hidden = np.tanh(gate_input(seen.features, seen.context, seen.mask) @ w["gate_w1"] + w["gate_b1"])
        return _softmax(hidden @ w["gate_w2"] + w["gate_b2"])

    def probabilities(self, seen: Observation) -> Array:
        """(B, O) of the mixture."""
        assert seen.features is not None and seen.context is not None
        w, (batch, options, _) = self.weights, seen.features.shape
        common = np.repeat(seen.context[:, None, :], options, axis=1)
        x = np.concatenate([seen.features, common], axis=2).reshape(1, batch * options, -1)
        hidden = np.maximum(x @ w["w1"] + w["b1"][:, None], 0.0)  # (M, B * O, H)
        hidden = np.maximum(hidden @ w["w2"] + w["b2"][:, None], 0.0)
        score = (hidden @ w["w3"][..., None])[..., 0].reshape(-1, batch, options)
        score = score + w["beta"][:, None, None] * seen.features[None, :, :, ADVANTAGE]
        proposals = _softmax(np.where(seen.mask[None], score, -1e9))  # (M, B, O)
        return np.einsum("bm,mbo->bo", self.gate(seen), proposals)

    def choose(self, ledger: Ledger, request: int, t: Array) -> int:
        """The most probable option."""
        return int(self.options(ledger, request, t)[0])

    def options(self, ledger: Ledger, request: int, t: Array) -> npt.NDArray[np.int64]:
        """(B,) the most probable option in every run of the ledger."""
        return self.probabilities(ledger.observe(request, t, features=True)).argmax(axis=1)


def _softmax(x: Array) -> Array:
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)
