"""Metrics and policies conform, and the checks refuse what does not. Gates, fusions, packs: beside their rooms."""

from typing import Any

import numpy as np
import pytest

from moe_pipeline.edge.policies import POLICIES, Greedy, make_policy
from moe_pipeline.metrics import METRICS, measure
from moe_pipeline.schema.errors import MoEverseError
from moe_pipeline.schema.metrics import ClipMetrics, MetricValue
from moe_pipeline.testing import check_metric, check_policy, probe_clips

ALONE = sorted(name for name, info in METRICS.items() if not info.needs)


@pytest.mark.parametrize("name", ALONE)
def test_every_metric_that_needs_nothing_conforms(name: str) -> None:
    check_metric(METRICS[name])


@pytest.mark.parametrize("name", sorted(set(METRICS) - set(ALONE)))
def test_a_metric_that_lacks_what_it_needs_says_so(name: str) -> None:
    clip = probe_clips()["panning"]
    result = measure(clip, 8.0, names=[name])
    assert name in result.values or result.skipped[name]


def _flickering(change: Any) -> Any:
    def measured(frames: np.ndarray, fps: float) -> ClipMetrics:
        result = measure(frames, fps, names=["temporal_flickering"])
        value = result.values.get("temporal_flickering")
        return change(result, value, frames) if value is not None else result

    return measured


def _too_high(result: ClipMetrics, value: MetricValue, frames: np.ndarray) -> ClipMetrics:
    value.value += 1.5
    return result


def _silent(result: ClipMetrics, value: MetricValue, frames: np.ndarray) -> ClipMetrics:
    return ClipMetrics()


def _endless(result: ClipMetrics, value: MetricValue, frames: np.ndarray) -> ClipMetrics:
    value.series = value.series * 20
    return result


def _scribbles(result: ClipMetrics, value: MetricValue, frames: np.ndarray) -> ClipMetrics:
    frames[0, 0, 0] += 1
    return result


_calls = iter(range(1000))


def _moody(result: ClipMetrics, value: MetricValue, frames: np.ndarray) -> ClipMetrics:
    value.value = 0.5 + next(_calls) * 1e-4
    return result


@pytest.mark.parametrize(
    ("change", "because"),
    [
        (_too_high, "outside of its range"), (_silent, "neither a value nor a reason"), (_endless, "longer series"),
        (_scribbles, "changes the frames"), (_moody, "the second time"),
    ],
)  # fmt: skip
def test_the_check_refuses_what_is_no_metric(change: Any, because: str) -> None:
    with pytest.raises(MoEverseError, match=because) as refusal:
        check_metric(METRICS["temporal_flickering"], _flickering(change))
    assert refusal.value.code == "nonconforming"


@pytest.mark.parametrize("name", [name for name in POLICIES if name not in ("optimal", "moe-ppo")])
def test_every_simple_policy_conforms(name: str) -> None:
    scenario = "rural-satellite" if name == "local-only" else "object-transfer"  # a user with a strong device
    check_policy(lambda deployment: make_policy(name, deployment, seed=1), scenario=scenario)


class _OutOfRange(Greedy):
    def choose(self, ledger: Any, request: int, t: Any) -> int:
        return 10_000


class _Moody(Greedy):
    calls = 0

    def choose(self, ledger: Any, request: int, t: Any) -> int:
        type(self).calls += 1
        return type(self).calls % 2


@pytest.mark.parametrize(("policy", "because"), [(_OutOfRange, "chooses 10000"), (_Moody, "differently")])
def test_the_check_refuses_what_is_no_policy(policy: type[Greedy], because: str) -> None:
    with pytest.raises(MoEverseError, match=because):
        check_policy(lambda deployment: policy(), requests=31)
