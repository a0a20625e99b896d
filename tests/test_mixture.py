"""The mixture: combining is a weighted mean, one expert alone is that expert, only active experts run."""

import threading

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from moe_pipeline.experts.cache import ExpertCache
from moe_pipeline.experts.denoiser import VideoDenoiser
from moe_pipeline.experts.fusion import FUSIONS, weighted_mean
from moe_pipeline.experts.mixture import Mixture
from moe_pipeline.interfaces import Denoiser, Fusion
from moe_pipeline.schema.errors import MoEverseError
from moe_pipeline.testing import check_fusion

NAMES = ("city", "space", "avatar", "object")


def small_denoiser(seed: int) -> VideoDenoiser:
    """The real architecture, small, with weights that hear text and noise level."""
    torch.manual_seed(seed)
    model = VideoDenoiser(width=32, depth=1, heads=2, hidden=48, text_width=24)
    torch.nn.init.normal_(model.patch_out.weight, std=0.1)
    return model.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def experts() -> dict[str, VideoDenoiser]:
    return {name: small_denoiser(i) for i, name in enumerate(NAMES)}


def inputs(batch: int = 2) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    mask = torch.ones(batch, 6, dtype=torch.bool)
    mask[:, 4:] = False
    return (
        torch.randn(batch, 16, 2, 8, 8, generator=generator),
        torch.full((batch,), 0.6),
        torch.randn(batch, 6, 24, generator=generator),
        mask,
    )


def weights_strategy() -> st.SearchStrategy[list[float]]:
    raw = st.lists(st.floats(0.01, 1.0), min_size=len(NAMES), max_size=len(NAMES))
    return raw.map(lambda values: [v / sum(values) for v in values])


@pytest.mark.parametrize("name", FUSIONS)
def test_every_fusion_conforms(name: str) -> None:
    check_fusion(FUSIONS[name])


def _sum(predictions: list[torch.Tensor], weights: list[float]) -> torch.Tensor:
    return torch.stack(list(predictions)).sum(0)


def _first(predictions: list[torch.Tensor], weights: list[float]) -> torch.Tensor:
    return predictions[0]


def _double(predictions: list[torch.Tensor], weights: list[float]) -> torch.Tensor:
    return weighted_mean(predictions, weights).double()


def _through_zero(predictions: list[torch.Tensor], weights: list[float]) -> torch.Tensor:
    return (
        sum((p * w for p, w in zip(predictions, weights, strict=True)), torch.zeros_like(predictions[0]))
        + 1e-9
    )


@pytest.mark.parametrize(
    ("wrong", "because"),
    [
        (_sum, "has all the weight"),
        (_first, "has all the weight"),
        (_double, "turns"),
        (_through_zero, "all the weight"),
    ],
)
def test_the_conformance_check_refuses_what_is_no_fusion(wrong: Fusion, because: str) -> None:
    with pytest.raises(MoEverseError, match=because) as refusal:
        check_fusion(wrong)
    assert refusal.value.code == "nonconforming"


@given(weights=weights_strategy(), a=st.floats(-3, 3), b=st.floats(-3, 3))
def test_combining_is_linear_in_the_predictions(weights: list[float], a: float, b: float) -> None:
    first = [torch.randn(1, 2, 2, 2, 2) for _ in weights]
    second = [torch.randn(1, 2, 2, 2, 2) for _ in weights]
    both = weighted_mean([a * p + b * q for p, q in zip(first, second, strict=True)], weights)
    apart = a * weighted_mean(first, weights) + b * weighted_mean(second, weights)
    torch.testing.assert_close(both, apart, atol=1e-4, rtol=1e-4)


@given(weights=weights_strategy(), order=st.permutations(range(len(NAMES))))
def test_the_order_of_the_experts_does_not_matter(
    experts: dict[str, VideoDenoiser], weights: list[float], order: list[int]
) -> None:
    mixture = Mixture(experts.__getitem__)
    named = dict(zip(NAMES, weights, strict=True))
    turned = {NAMES[i]: weights[i] for i in order}
    torch.testing.assert_close(mixture(*inputs(1), turned), mixture(*inputs(1), named), atol=1e-5, rtol=1e-5)


def test_one_expert_with_all_the_weight_is_that_expert_bit_for_bit(experts: dict[str, VideoDenoiser]) -> None:
    mixture = Mixture(experts.__getitem__)
    for name in NAMES:
        alone = experts[name](*inputs())
        assert torch.equal(mixture(*inputs(), {n: float(n == name) for n in NAMES}), alone)
        assert torch.equal(mixture(*inputs(), {name: 1.0}), alone)


def test_the_mixture_is_the_weighted_mean_of_its_experts(experts: dict[str, VideoDenoiser]) -> None:
    combined = Mixture(experts.__getitem__)(*inputs(), {"city": 0.75, "space": 0.0, "avatar": 0.25})
    by_hand = 0.75 * experts["city"](*inputs()) + 0.25 * experts["avatar"](*inputs())
    torch.testing.assert_close(combined, by_hand, atol=1e-6, rtol=1e-6)


def test_only_active_experts_are_loaded_and_run(experts: dict[str, VideoDenoiser]) -> None:
    asked: list[str] = []

    def lookup(name: str) -> Denoiser:
        asked.append(name)
        return experts[name]

    Mixture(lookup)(*inputs(), {"city": 0.6, "space": 0.0, "avatar": 0.4, "object": 0.0})
    assert asked == ["city", "avatar"]


def test_a_run_can_be_stopped_between_two_experts(experts: dict[str, VideoDenoiser]) -> None:
    ran: list[str] = []

    def lookup(name: str) -> Denoiser:
        ran.append(name)
        return experts[name]

    def between() -> None:
        if ran:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        Mixture(lookup, between=between)(*inputs(), {"city": 0.5, "space": 0.5})
    assert ran == ["city"]


def test_a_batch_does_not_change_what_an_expert_says_of_each_clip(experts: dict[str, VideoDenoiser]) -> None:
    """Both guidance branches run in one batch, so rows must not touch each other."""
    x, sigma, tokens, mask = inputs()
    together = experts["city"](x, sigma, tokens, mask)
    for row in range(2):
        alone = experts["city"](x[row : row + 1], sigma[:1], tokens[row : row + 1], mask[row : row + 1])
        torch.testing.assert_close(together[row : row + 1], alone, atol=1e-5, rtol=1e-5)


def test_padding_says_nothing(experts: dict[str, VideoDenoiser]) -> None:
    """What stands in the token states under the mask's False must not reach the prediction."""
    x, sigma, tokens, mask = inputs()
    dirty = torch.where(mask[..., None], tokens, torch.full_like(tokens, 99.0))
    assert torch.equal(experts["city"](x, sigma, tokens, mask), experts["city"](x, sigma, dirty, mask))


def test_a_fresh_denoiser_gets_a_gradient_in_every_block() -> None:
    """Zeroed gates together with zeroed output projections would leave blocks dead for ever."""
    model = VideoDenoiser(width=32, depth=2, heads=2, hidden=48, text_width=24)
    for step in range(
        2
    ):  # the output projection starts at zero, so the blocks' turn comes with the second step
        model.zero_grad()
        (model(*inputs()) - 1.0).pow(2).mean().backward()
        if step == 0:
            with torch.no_grad():
                model.patch_out.weight -= 0.1 * model.patch_out.weight.grad
    dead = [
        name for name, p in model.blocks.named_parameters() if p.grad is None or not p.grad.abs().max() > 0
    ]
    assert not dead


def test_a_model_that_ran_in_inference_mode_can_still_be_trained() -> None:
    model = VideoDenoiser(width=32, depth=1, heads=2, hidden=48, text_width=24)
    with torch.inference_mode():
        model(*inputs())
    model(*inputs()).mean().backward()
    assert model.patch_out.bias.grad is not None


def test_the_cache_keeps_the_newest_within_its_budget_and_loads_each_once() -> None:
    loads: list[str] = []

    def load(name: str) -> torch.nn.Module:
        loads.append(name)
        return torch.nn.Linear(100, 100, bias=False)  # 40,000 bytes

    cache = ExpertCache(byte_budget=100_000)
    for name in ("a", "b", "a", "c", "a", "b"):
        cache.get(name, lambda name=name: load(name))
    assert loads == ["a", "b", "c", "b"]  # c drove b out, because a had been used since
    assert cache.held_bytes == 80_000
    tiny = ExpertCache(byte_budget=1)
    assert tiny.get("a", lambda: load("a")) is tiny.get("a", lambda: load("a"))  # the newest always stays


def test_threads_that_want_one_expert_share_one_load() -> None:
    loads: list[int] = []
    cache, ready = ExpertCache(), threading.Barrier(4)

    def load() -> torch.nn.Module:
        loads.append(1)
        return torch.nn.Linear(4, 4)

    found: list[torch.nn.Module] = []

    def want() -> None:
        ready.wait()
        found.append(cache.get("city", load))

    threads = [threading.Thread(target=want) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(loads) == 1 and len({id(module) for module in found}) == 1
