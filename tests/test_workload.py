"""Counts of FLOPs, bytes and memory agree with what can be said by hand, and never touch a weight."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from moe_pipeline.diffusion.autoencoder import VideoAutoencoder
from moe_pipeline.experts.denoiser import VideoDenoiser
from moe_pipeline.schema.errors import MoEverseError
from moe_pipeline.schema.workload import STAGES, StageWorkloads
from moe_pipeline.workload import (
    apply_delta,
    count_call,
    count_module,
    delta_bytes,
    embedded_workloads,
    encode_delta,
    hub_workloads,
    on_meta,
)


class TinyText(nn.Module):
    """Stands where a transformers encoder stands, so that a test need not import one."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.mix = nn.Embedding(100, 384), nn.Linear(384, 384)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        return self.mix(self.words(input_ids))


@pytest.fixture(scope="module")
def modules() -> tuple[VideoDenoiser, VideoAutoencoder, TinyText]:
    return VideoDenoiser(depth=2), VideoAutoencoder(), TinyText()


def request(modules: tuple[VideoDenoiser, VideoAutoencoder, TinyText], **changes: object) -> StageWorkloads:
    values = {"frames": 16, "height": 64, "width": 64, "active": 2, "branches": 2, **changes}
    return embedded_workloads(modules[0], modules[1], text_encoder=modules[2], **values)  # type: ignore[arg-type]


@given(rows=st.integers(1, 40), inner=st.integers(1, 40), columns=st.integers(1, 40))
@settings(max_examples=15, deadline=None)
def test_a_linear_layer_is_counted_exactly(rows: int, inner: int, columns: int) -> None:
    cost = count_module(nn.Linear(inner, columns), torch.zeros(rows, inner))
    weights = 4 * (inner * columns + columns)
    assert cost.flops == 2 * rows * inner * columns
    assert cost.weight_bytes == weights
    assert cost.bytes_moved == weights + 4 * rows * (inner + columns)
    assert cost.peak_memory_bytes == cost.bytes_moved


def test_attention_is_one_operator_of_known_cost() -> None:
    class Attend(nn.Module):
        def forward(self, q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.scaled_dot_product_attention(q, k, k)

    q, k = torch.zeros(2, 4, 100, 64), torch.zeros(2, 4, 30, 64)
    cost = count_module(Attend(), q, k)
    assert cost.flops == 2 * 2 * 2 * 4 * 100 * 30 * 64
    assert cost.bytes_moved == 4 * (2 * q.numel() + 2 * k.numel())
    assert cost.peak_memory_bytes == 4 * (2 * q.numel() + k.numel())  # no score matrix


def test_peak_memory_follows_the_life_of_tensors() -> None:
    class Chain(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for _ in range(10):
                x = x + 1
            return x

    class Keep(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            kept = [x + i for i in range(10)]
            return kept[0]

    x = torch.zeros(1000)
    assert count_module(Chain(), x).peak_memory_bytes == 3 * 4000  # input, one before, one after
    assert count_module(Keep(), x).peak_memory_bytes == 11 * 4000


def test_counting_copies_no_weight_and_changes_no_module() -> None:
    module = nn.Linear(50, 50)
    before = module.weight.clone()
    shell = on_meta(module)
    assert shell.weight.is_meta and not module.weight.is_meta
    count_module(module, torch.zeros(3, 50))
    assert torch.equal(module.weight, before)


def test_code_that_reads_values_is_refused_in_one_sentence() -> None:
    class Reads(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * float(x.sum())

    with pytest.raises(MoEverseError) as caught:
        count_module(Reads(), torch.zeros(3))
    assert caught.value.code == "uncountable"


def test_denoiser_flops_are_those_of_its_matrices(modules: tuple[VideoDenoiser, ...]) -> None:
    denoiser = modules[0]
    tokens, width, hidden, video = 280, denoiser.width, 704, 256
    x = (
        torch.zeros(1, 16, 4, 16, 16),
        torch.zeros(1),
        torch.zeros(1, 24, 384),
        torch.ones(1, 24, dtype=torch.bool),
    )
    block = 2 * tokens * (4 * width * width + 2 * width * hidden) + 4 * tokens * tokens * width
    ends = 2 * video * 64 * width * 2 + 2 * 24 * 384 * width + 2 * (384 * width + 2 * width**2 + 6 * width**2)
    assert count_module(denoiser, *x).flops == 2 * block + ends


def test_every_stage_is_counted_and_scales(modules: tuple[VideoDenoiser, VideoAutoencoder, TinyText]) -> None:
    base = request(modules)
    assert all(getattr(base, stage).flops > 0 for stage in STAGES)
    larger = request(modules, height=128, width=128)
    assert larger.latent_bytes == 4 * base.latent_bytes
    assert larger.decode.flops == 4 * base.decode.flops
    assert (
        larger.expert_step.flops > 4 * base.expert_step.flops * 0.7
    )  # attention grows faster, text does not
    single = request(modules, branches=1)
    assert base.expert_step.flops == 2 * single.expert_step.flops
    assert base.expert_step.output_bytes == 2 * single.expert_step.output_bytes
    half = request(modules, precision="fp32")
    assert half.expert_step.weight_bytes == 2 * base.expert_step.weight_bytes
    assert half.latent_bytes == 2 * base.latent_bytes
    assert request(modules, precision="int8").expert_step.weight_bytes == base.expert_step.weight_bytes / 2
    assert request(modules) is base  # counted once


def test_sizes_that_do_not_divide_are_refused(
    modules: tuple[VideoDenoiser, VideoAutoencoder, TinyText],
) -> None:
    with pytest.raises(MoEverseError, match="multiples of 4 frames and 8 pixels"):
        request(modules, height=100)
    with pytest.raises(MoEverseError) as caught:
        hub_workloads("wan-2.1-1.3b", frames=80, height=480, width=832)
    assert caught.value.code == "bad_shape"
    with pytest.raises(MoEverseError, match="Known: wan"):
        hub_workloads("wan-9", frames=81, height=480, width=832)


def test_decoding_is_counted_through_a_method() -> None:
    shell = on_meta(VideoAutoencoder())
    cost = count_call(shell.decode, torch.zeros(1, 16, 4, 8, 8), module=shell)
    assert cost.output_bytes == 4 * 3 * 16 * 64 * 64


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_stable_diffusion_has_the_published_flops() -> None:
    """0.803 TFLOP for one pass of the SD 1.5 UNet at 512 px, by a layer count in the literature."""
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        unet = UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8)
    cost = count_module(
        unet,
        torch.zeros(1, 4, 64, 64),
        torch.zeros(1, dtype=torch.long),
        torch.zeros(1, 77, 768),
        return_dict=False,
    )
    assert cost.flops == pytest.approx(0.803e12, rel=0.01)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_hub_pack_is_priced_without_its_weights() -> None:
    work = hub_workloads("wan-2.1-1.3b", frames=17, height=240, width=416)
    assert work.expert_step.weight_bytes == pytest.approx(2 * 1.42e9, rel=0.01)
    assert work.text.weight_bytes == pytest.approx(2 * 5.68e9, rel=0.01)
    assert work.latent_bytes == 2 * 16 * 5 * 30 * 52
    assert hub_workloads("wan-2.2-a14b", frames=5, height=64, width=64).noise_level_experts


def branched(seed: int, change: float) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    base = {
        "up.weight": torch.randn(96, 64, generator=generator),
        "up.bias": torch.randn(96, generator=generator),
        "scale": torch.randn((), generator=generator),
    }
    expert = {name: t + change * torch.randn(t.shape, generator=generator) for name, t in base.items()}
    return ({n: t.bfloat16() for n, t in base.items()}, {n: t.bfloat16() for n, t in expert.items()})


@given(seed=st.integers(0, 100), change=st.sampled_from([0.0, 1e-3, 0.1, 10.0]))
@settings(max_examples=12, deadline=None)
def test_an_expert_comes_back_from_its_difference(seed: int, change: float) -> None:
    base, expert = branched(seed, change)
    found = apply_delta(base, encode_delta(base, expert))
    for name, tensor in expert.items():
        largest = (tensor.float() - base[name].float()).abs().max()
        rounding = (
            tensor.float().abs() / 128 + largest / 254
        )  # bf16 keeps 8 bits, the difference 7 and a sign
        assert found[name].dtype == torch.bfloat16
        assert ((found[name].float() - tensor.float()).abs() <= rounding + 1e-6).all()


def test_a_difference_is_smaller_than_the_weights() -> None:
    base, expert = branched(1, 0.01)
    whole = sum(2 * tensor.numel() for tensor in expert.values())
    assert delta_bytes(base, expert) < 0.6 * whole
    assert delta_bytes(base, base) < 0.1 * whole


def test_a_difference_that_does_not_belong_is_refused() -> None:
    base, expert = branched(2, 0.01)
    blob = encode_delta(base, expert)
    other = {**base, "up.bias": torch.zeros(7)}
    for bad, against in (
        (blob[:-5], base),
        (blob, other),
        (b"", base),
        (b"\x00" * 40, base),
        (blob[::-1], base),
    ):
        with pytest.raises(MoEverseError) as caught:
            apply_delta(against, bad)
        assert caught.value.code == "bad_delta"
    with pytest.raises(MoEverseError) as caught:
        encode_delta(base, other)
    assert caught.value.code == "not_branched"
