"""Gate and routing: sparse weights that sum to one, shared by the whole run, and a measure of coverage."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from moe_pipeline.gating import GATES
from moe_pipeline.gating.gate import TextSigmaGate
from moe_pipeline.gating.routing import LOW_COVERAGE, WEIGHT_FLOOR, route, single, top_k
from moe_pipeline.interfaces import Gate
from moe_pipeline.schema.errors import MoEverseError
from moe_pipeline.schema.gate import GateDecision
from moe_pipeline.schema.plan import ScenePlan, Subtask
from moe_pipeline.testing import check_gate

EXPERTS = ("city", "landscape", "interior", "space", "object", "avatar")
SIGMAS = (1.0, 0.8, 0.5, 0.2)

rows = st.lists(st.floats(1e-6, 1.0), min_size=2, max_size=8).map(
    lambda values: torch.tensor(values, dtype=torch.float64) / sum(values)
)


@given(weights=rows, k=st.integers(1, 8), floor=st.floats(0.0, 1.0))
def test_top_k_keeps_at_most_k_and_sums_to_one(weights: torch.Tensor, k: int, floor: float) -> None:
    kept = top_k(weights, k, floor)
    assert bool((kept >= 0.0).all())
    assert float(kept.sum()) == pytest.approx(1.0, abs=1e-9)
    assert 1 <= int((kept > 0).sum()) <= min(k, len(weights))
    assert kept[weights.argmax()] == kept.max() > 0.0  # no floor removes the largest
    # Who stays keeps its proportion, and nobody who is left out weighs more than somebody who stays.
    staying, leaving = weights[kept > 0], weights[kept == 0]
    torch.testing.assert_close(kept[kept > 0], staying / staying.sum())
    if len(leaving):
        assert leaving.max() <= staying.min() + 1e-12


@given(weights=rows, order=st.randoms())
def test_top_k_follows_a_permutation_of_the_experts(weights: torch.Tensor, order: object) -> None:
    if len(set(weights.tolist())) < len(weights):
        return  # equal weights are kept in the order of the experts, see below
    turned = list(range(len(weights)))
    order.shuffle(turned)  # type: ignore[attr-defined]
    torch.testing.assert_close(top_k(weights[turned], 2, 0.0), top_k(weights, 2, 0.0)[turned])


def test_equal_weights_are_kept_in_the_order_of_the_experts() -> None:
    assert top_k(torch.full((4,), 0.25), 2).tolist() == [0.5, 0.5, 0.0, 0.0]


def test_one_hot_weights_stay_exactly_one_hot() -> None:
    assert top_k(torch.tensor([0.0, 1.0, 0.0]), 2).tolist() == [0.0, 1.0, 0.0]
    assert top_k(torch.tensor([0.3, 0.6, 0.1]), 1).tolist() == [0.0, 1.0, 0.0]


def test_the_floor_saves_the_forward_pass_of_an_expert_that_hardly_counts() -> None:
    weights = torch.tensor([0.985, 0.015])
    assert top_k(weights, 2).tolist() == [1.0, 0.0]
    assert WEIGHT_FLOOR > 0.015
    assert int((top_k(weights, 2, floor=0.0) > 0).sum()) == 2


def plan(*shares: float) -> ScenePlan:
    parts = tuple(
        Subtask(id=f"part-{i}", role="background" if i else "subject", text="x", span=(0, 1), share=share)
        for i, share in enumerate(shares)
    )
    return ScenePlan(prompt="x", subtasks=parts)


@pytest.fixture
def gate() -> TextSigmaGate:
    """Untrained, but it hears the noise level and covers what lies near its prototypes."""
    made = TextSigmaGate(len(EXPERTS), hidden=32, prototypes=8)
    torch.nn.init.normal_(made.sigma_in.weight)
    made.prototypes.copy_(torch.nn.functional.normalize(torch.randn(8, 384), dim=-1))
    return made.eval()


def texts(count: int) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.randn(count, 384), dim=-1)


def decide(gate: TextSigmaGate, pooled: torch.Tensor, *shares: float, k: int = 2) -> GateDecision:
    return route(gate, pooled, plan(*shares), EXPERTS, SIGMAS, k)


@pytest.mark.parametrize("name", GATES)
def test_every_gate_conforms(name: str) -> None:
    made = GATES[name](experts=len(EXPERTS))
    assert isinstance(made, Gate)
    check_gate(made, len(EXPERTS))


class _Wrong(TextSigmaGate):
    def __init__(self, fault: str) -> None:
        super().__init__(len(EXPERTS))
        self.fault, self.calls = fault, 0

    def forward(self, pooled: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        logits = super().forward(pooled, sigma)
        self.calls += 1
        match self.fault:
            case "shape":
                return logits[:, :-1]
            case "nan":
                return logits * float("nan")
            case "batch":
                return logits - logits.mean(0, keepdim=True)
            case "memory":
                return logits + self.calls
            case "input":
                pooled.mul_(1.5)
        return logits

    def coverage(self, pooled: torch.Tensor) -> torch.Tensor:
        covered = super().coverage(pooled)
        return covered + 2.0 if self.fault == "coverage" else covered


@pytest.mark.parametrize(
    ("fault", "because"),
    [
        ("shape", "logits of shape"), ("nan", "finite"), ("batch", "each other"), ("memory", "differently"),
        ("input", "its own input"), ("coverage", "outside of 0 to 1"),
    ],
)  # fmt: skip
def test_the_conformance_check_refuses_what_is_no_gate(fault: str, because: str) -> None:
    with pytest.raises(MoEverseError, match=because):
        check_gate(_Wrong(fault), len(EXPERTS))


@given(k=st.integers(1, 6), share=st.floats(0.0, 1.0), seed=st.integers(0, 50))
def test_a_decision_adds_up_in_every_view(k: int, share: float, seed: int) -> None:
    torch.manual_seed(seed)
    made = TextSigmaGate(len(EXPERTS), hidden=16, prototypes=4)
    torch.nn.init.normal_(made.out.weight)
    decision = decide(made, texts(2), share, 1.0 - share, k=k)
    assert sum(decision.weights.values()) == pytest.approx(1.0, abs=1e-9)
    assert set(decision.weights) == set(EXPERTS)
    assert [step.sigma for step in decision.by_step] == list(SIGMAS)
    for step in decision.by_step:
        active = [w for w in step.weights.values() if w > 0]
        assert sum(active) == pytest.approx(1.0, abs=1e-6) and 1 <= len(active) <= k
    mean = {e: sum(s.weights[e] for s in decision.by_step) / len(SIGMAS) for e in EXPERTS}
    assert decision.weights == pytest.approx(mean, abs=1e-6)
    used = {e for s in decision.by_step for e, w in s.weights.items() if w > 0}
    assert set(decision.active) == used  # nobody works unseen, nobody idles on the list
    assert list(decision.active) == sorted(decision.active, key=lambda e: -decision.weights[e])
    for part in decision.by_subtask:
        assert sum(part.weights.values()) == pytest.approx(1.0, abs=1e-5)


def test_a_part_without_a_share_does_not_weigh(gate: TextSigmaGate) -> None:
    pooled = texts(2)
    both = decide(gate, pooled, 1.0, 0.0)
    alone = decide(gate, pooled[:1], 1.0)
    assert both.weights == pytest.approx(alone.weights, abs=1e-6)


def test_two_parts_of_two_domains_activate_both_experts() -> None:
    """Even where each part is certain of its expert, top-2 keeps both."""
    made = TextSigmaGate(len(EXPERTS), hidden=8, prototypes=1)

    def certain(pooled: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        return 50.0 * torch.nn.functional.one_hot(pooled.argmax(-1), len(EXPERTS)).float()

    made.forward = certain  # type: ignore[method-assign]
    pooled = torch.eye(384)[[5, 0]]  # the first part is all avatar, the second all city
    decision = route(made, pooled, plan(0.5, 0.5), EXPERTS, SIGMAS, 2)
    assert set(decision.active) == {"avatar", "city"}
    assert decision.weights["avatar"] == pytest.approx(0.5, abs=1e-6)
    assert route(made, pooled, plan(0.9, 0.1), EXPERTS, SIGMAS, 1).active == ("avatar",)


def test_weights_may_change_with_the_noise_level(gate: TextSigmaGate) -> None:
    first, *_, last = decide(gate, texts(1), 1.0, k=6).by_step
    assert first.weights != last.weights


def test_coverage_is_high_near_the_training_texts_and_low_far_from_them(gate: TextSigmaGate) -> None:
    near = decide(gate, gate.prototypes[3:4].clone(), 1.0)
    assert near.coverage == pytest.approx(1.0, abs=1e-5) and not near.low_coverage
    far = decide(gate, -gate.prototypes.sum(0, keepdim=True), 1.0)
    assert far.coverage < LOW_COVERAGE and far.low_coverage


def test_single_mode_runs_one_model_at_every_step() -> None:
    decision = single("generalist", SIGMAS, coverage=0.1)
    assert decision.weights == {"generalist": 1.0} and decision.active == ("generalist",)
    assert [step.weights for step in decision.by_step] == [{"generalist": 1.0}] * len(SIGMAS)
    assert decision.low_coverage and decision.by_subtask == ()
