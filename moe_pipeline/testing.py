"""Conformance: what a gate, a fusion, a metric, a placement policy or a pack must keep, whoever wrote it.

Every check returns in silence when the thing conforms and raises `MoEverseError` with the code `nonconforming` and
one sentence otherwise. The tests run them on everything that ships; authors of packs run `check_pack`, also through
`python -m moe_pipeline doctor --pack FOLDER`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from moe_pipeline.diffusion.sampler import initial_noise
from moe_pipeline.engine import Engine, EngineConfig, HubEngine
from moe_pipeline.features import PackFeatures
from moe_pipeline.interfaces import Frames, Fusion, Gate, TextFeatures
from moe_pipeline.metrics import measure
from moe_pipeline.packs import HubPack, Pack, open_any_pack
from moe_pipeline.schema.errors import MoEverseError
from moe_pipeline.schema.metrics import ClipMetrics, MetricInfo
from moe_pipeline.schema.pack import Manifest
from moe_pipeline.schema.request import DEFAULT_SCENARIO, ResolvedRequest, SceneRequest, resolve

if TYPE_CHECKING:
    from moe_pipeline.edge.policies import Policy
    from moe_pipeline.edge.simulation_batch import Ledger
    from moe_pipeline.edge.simulation_model import Deployment

Measure = Callable[[Frames, float], ClipMetrics]
LARGEST_FILE_BYTES = 9_500_000  # a Hugging Face Space takes larger files only through LFS


def _require(holds: bool, sentence: str, remedy: str = "") -> None:
    if not holds:
        raise MoEverseError("nonconforming", sentence, remedy)


# ------------------------------------------------------------------------------------------------- gates


@torch.inference_mode()
def check_gate(gate: Gate, experts: int, features: int = 384) -> None:
    """A gate answers every text at every noise level with one finite logit an expert, by that text alone.

    Args:
        gate: pooled text (B, `features`) of unit length and sigma (B,) in [0, 1] -> logits (B, `experts`).

    Raises:
        MoEverseError: `nonconforming`, with what was expected and what came.
    """
    name = type(gate).__name__
    generator = torch.Generator().manual_seed(0)
    pooled = torch.nn.functional.normalize(torch.randn(6, features, generator=generator), dim=-1)
    pooled[5] = 0.0  # an empty text
    sigma = torch.tensor([0.0, 1.0, 0.5, 0.25, 0.75, 0.5])
    before = pooled.clone(), sigma.clone()
    logits = gate(pooled, sigma)
    _require(
        tuple(logits.shape) == (6, experts),
        f"{name} gives logits of shape {tuple(logits.shape)} for 6 texts and {experts} experts.",
        f"Return a tensor of (6, {experts}).",
    )
    _require(bool(torch.isfinite(logits).all()), f"{name} gives a logit that is not a finite number.")
    _require(
        torch.equal(pooled, before[0]) and torch.equal(sigma, before[1]), f"{name} changes its own input."
    )
    _require(torch.equal(logits, gate(pooled, sigma)), f"{name} answers the same text differently.")
    weights = logits.softmax(-1)
    order = torch.tensor([4, 2, 0, 5, 1, 3])
    shuffled = gate(pooled[order], sigma[order]).softmax(-1)
    alone = torch.cat([gate(pooled[i : i + 1], sigma[i : i + 1]) for i in range(6)]).softmax(-1)
    independent = torch.allclose(shuffled, weights[order], atol=1e-5) and torch.allclose(
        alone, weights, atol=1e-5
    )
    _require(independent, f"{name} lets the texts of one batch change each other's weights.")
    coverage = getattr(gate, "coverage", None)
    if coverage is not None:
        _check_coverage(name, coverage(pooled))


def _check_coverage(name: str, covered: Tensor) -> None:
    inside = covered.shape == (6,) and bool(((covered >= 0.0) & (covered <= 1.0)).all())
    _require(inside, f"{name} gives a coverage outside of 0 to 1.", "Calibrate its coverage range.")


# ------------------------------------------------------------------------------------------------ fusions


@torch.inference_mode()
def check_fusion(fusion: Fusion) -> None:
    """Combining keeps shape and precision, ignores the order of the experts, and never invents anything.

    One-hot weights give that expert's prediction bit for bit; experts that agree are not changed; where no
    expert has a value, the combination has none either (it stays between the smallest and the largest).
    """
    name = getattr(fusion, "__name__", type(fusion).__name__)
    generator = torch.Generator().manual_seed(0)
    shape = (2, 4, 2, 4, 4)  # (B, C, F, H, W)
    for dtype in (torch.float32, torch.bfloat16):
        predictions = [torch.randn(shape, generator=generator).to(dtype) for _ in range(3)]
        kept = [p.clone() for p in predictions]
        weights = [0.5, 0.3, 0.2]
        combined = fusion(predictions, weights)
        _require(
            combined.shape == shape and combined.dtype == dtype,
            f"{name} turns {dtype} of {shape} into {combined.dtype} of {tuple(combined.shape)}.",
        )
        _require(all(map(torch.equal, predictions, kept)), f"{name} changes the predictions it is given.")
        for place in range(3):
            one_hot = [1.0 if i == place else 0.0 for i in range(3)]
            same = torch.equal(fusion(predictions, one_hot), predictions[place])
            _require(same, f"{name} changes the prediction of an expert that has all the weight.")
        tolerance = 1e-5 if dtype == torch.float32 else 0.05
        turned = fusion(predictions[::-1], weights[::-1])
        _require(
            torch.allclose(turned, combined, atol=tolerance), f"{name} depends on the order of the experts."
        )
        agreed = fusion([predictions[0]] * 3, weights)
        _require(
            torch.allclose(agreed, predictions[0], atol=tolerance),
            f"{name} changes what all experts agree on.",
        )
        stack = torch.stack(predictions)
        low, high = stack.amin(0) - tolerance, stack.amax(0) + tolerance
        _require(
            bool(((combined >= low) & (combined <= high)).all()), f"{name} leaves the range of its experts."
        )


# ------------------------------------------------------------------------------------------------ metrics


def probe_clips() -> dict[str, Frames]:
    """Clips on which every metric must have an answer or a reason: frozen, panning, noise, single, tiny."""
    rng = np.random.default_rng(0)
    rough = rng.integers(0, 256, (10, 10, 3)).astype(np.float64)
    wide = np.kron(rough, np.ones((16, 16, 1))).astype(np.uint8)  # 160 x 160, blocks of 16
    pan = np.stack([wide[:64, 2 * t : 2 * t + 64] for t in range(16)])
    noise = rng.integers(0, 256, (16, 64, 64, 3), dtype=np.uint8)
    return {
        "frozen": np.repeat(pan[:1], 16, axis=0),
        "panning": pan,
        "noise": noise,
        "black": np.zeros((16, 64, 64, 3), dtype=np.uint8),
        "single": pan[:1],
        "tiny": noise[:3, :8, :8],
    }


def check_metric(info: MetricInfo, measured: Measure | None = None) -> None:
    """A metric gives a finite value in its stated range or the reason why there is none, and the same again.

    Args:
        info: the catalogue entry.
        measured: frames (T, H, W, 3) uint8 and frames per second -> `ClipMetrics` that holds `info.name` among its
            `values` or in `skipped`; the project's own `measure` by default.
    """
    run = measured or (lambda frames, fps: measure(frames, fps, names=[info.name]))
    for clip, frames in probe_clips().items():
        kept = frames.copy()
        result, again = run(frames, 8.0), run(frames, 8.0)
        where = f"{info.name} on the {clip} clip"
        _require(np.array_equal(frames, kept), f"{where} changes the frames.")
        value = result.values.get(info.name)
        if value is None:
            _require(bool(result.skipped.get(info.name)), f"{where} gives neither a value nor a reason.")
            continue
        _require(
            math.isfinite(value.value) and all(map(math.isfinite, value.series)),
            f"{where} gives a figure that is not a finite number.",
        )
        _require(
            value.value >= info.low and (info.open_ended or value.value <= info.high),
            f"{where} is {value.value:g}, outside of its range of {info.low:g} to {info.high:g}.",
        )
        _require(len(value.series) <= len(frames), f"{where} has a longer series than the clip has frames.")
        _require(
            again.values[info.name].value == value.value,
            f"{where} is another figure the second time it is asked.",
        )


# ------------------------------------------------------------------------------------------ placement policies


class _Watched:
    """Hands every decision on, after looking at it."""

    def __init__(self, policy: Policy, options: int) -> None:
        self.policy, self.options = policy, options
        self.chosen: list[int] = []

    def choose(self, ledger: Ledger, request: int, t: npt.NDArray[np.float64]) -> int:
        name = type(self.policy).__name__
        before = ledger.observe(request, t)
        option = self.policy.choose(ledger, request, t)
        after = ledger.observe(request, t)
        _require(
            isinstance(option, int) and 0 <= option < self.options,
            f"{name} chooses {option!r} among {self.options} options.",
            f"Return a number from 0 to {self.options - 1}.",
        )
        same = np.array_equal(before.latency, after.latency) and np.array_equal(before.mask, after.mask)
        _require(same, f"{name} changes the ledger that it decides by.")
        self.chosen.append(option)
        return option


def check_policy(
    make: Callable[[Deployment], Policy], scenario: str = DEFAULT_SCENARIO, requests: int = 30
) -> None:
    """A placement policy answers every request with one of its options, and the same run in the same way.

    Args:
        make: a fresh policy for a deployment; two of them must decide alike on the same traffic.
        scenario: a file in `edge_profiles/scenarios/`.
    """
    from moe_pipeline.edge import load_profiles  # the simulator is loaded only where it is needed
    from moe_pipeline.edge.simulation import deployment_of, run_policy
    from moe_pipeline.edge.simulation_traffic import channel_for, draw_traffic

    deployment = deployment_of(scenario, load_profiles())
    traffic, channel = draw_traffic(deployment, requests, [0]), channel_for(deployment, 0)
    courses = []
    for _ in range(2):
        watched = _Watched(make(deployment), len(deployment.options))
        run_policy(deployment, traffic, channel, watched)
        courses.append(watched.chosen)
    _require(
        courses[0] == courses[1], f"{type(watched.policy).__name__} decides differently on the same run."
    )
    _require(
        len(courses[0]) >= requests, f"{type(watched.policy).__name__} left requests without a decision."
    )


# -------------------------------------------------------------------------------------------------- packs


def check_pack(folder: Path, engine: EngineConfig | None = None) -> list[str]:
    """A pack is whole, its manifest is coherent, and every component does its part at its smallest size.

    Args:
        folder: holds `pack.yaml`, or the weights of a hub pack.
        engine: torch device and precision; by default what this machine would take.

    Returns:
        One sentence for each thing that was found in order.

    Raises:
        MoEverseError: what is missing, altered, truncated, wrong in the manifest, or `nonconforming`.
    """
    pack = open_any_pack(folder)
    count = pack.verify()
    if isinstance(pack, HubPack):
        return _check_hub_pack(HubEngine(pack, engine or EngineConfig()), count)
    found = [
        f"{pack.manifest.id} {pack.manifest.version}: every file matches its checksum ({count / 1e6:.1f} MB)."
    ]
    found.append(_check_manifest(pack))
    runner = Engine(pack, engine or EngineConfig())
    _check_parameters(pack, runner)
    request = _smallest(pack.manifest)
    found.append(_check_autoencoder(runner, request))
    experts = len(pack.manifest.experts)
    width = runner.encoder(["a scene"]).pooled.shape[-1]
    check_gate(runner.gate, experts, width)
    found.append(f"The gate weighs {experts} experts and knows how well a text is covered.")
    found.append(_check_denoisers(runner, request))
    if pack.manifest.probe is not None:
        found.append(_check_probe(runner))
    return found


def _check_hub_pack(runner: HubEngine, count: int) -> list[str]:
    """The weights fit the manifest, and text, experts, autoencoder and preview work at the smallest size."""
    manifest = runner.manifest
    runner.require_weights()
    found = [f"{manifest.id} {manifest.version}: all weights are there ({count / 1e9:.3g} GB)."]
    _check_limits(manifest)
    request = _smallest(manifest)
    check_gate(runner.gate, len(manifest.experts), runner.encoder(["a scene"]).pooled.shape[-1])
    found.append(f"The gate weighs {len(manifest.experts)} experts by what they say of themselves.")
    found.append(_check_autoencoder(runner, request))
    x = runner.start(request)
    tokens = runner.conditioner(["a scene", ""]).tokens
    mask = torch.ones(1, tokens.shape[1], dtype=torch.bool)
    sigma = torch.tensor(runner.noise_levels(request.steps)[:1])
    for entry in (*manifest.experts, manifest.generalist):
        velocity, empty = (runner.denoiser(entry.id)(x, sigma, text, mask) for text in tokens.split(1))
        finite = velocity.shape == x.shape and bool(torch.isfinite(velocity).all())
        _require(finite, f"The expert {entry.id} predicts what is not finite or of another shape.")
        _require(not torch.equal(velocity, empty), f"The expert {entry.id} does not hear the text.")
    found.append(f"{len(manifest.experts)} experts and the generalist predict at the smallest size.")
    return found


def _check_limits(manifest: Manifest) -> None:
    """Defaults lie within the limits, limits fit the latents, and every expert can be told apart in a chart."""
    latents, limits = manifest.latents, manifest.limits
    resolve(SceneRequest(prompt="a scene"), manifest)
    _smallest(manifest)
    for what, step, unit in (
        ("frames_multiple", limits.frames_multiple, latents.temporal),
        ("side_multiple", limits.side_multiple, latents.spatial),
    ):
        _require(
            step % unit == 0, f"{what} is {step}, which latents with a factor of {unit} cannot hold.",
            f"Use a multiple of {unit}.",
        )  # fmt: skip
    colours = [expert.colour.lower() for expert in (*manifest.experts, manifest.generalist)]
    distinct = len(set(colours)) == len(colours)
    _require(distinct, "Two models of the pack share a colour, so that charts cannot tell them apart.")


def _check_manifest(pack: Pack) -> str:
    """The manifest is coherent and every file stands for one component."""
    manifest = pack.manifest
    _check_limits(manifest)
    parts = [manifest.autoencoder, manifest.preview, manifest.generalist, *manifest.experts, manifest.gate]
    parts += [manifest.probe] if manifest.probe is not None else []
    names = [file.path for part in parts for file in part.files]
    _require(len(set(names)) == len(names), "One file of the pack stands for two components.")
    largest = max((file for part in parts for file in part.files), key=lambda file: file.bytes)
    note = (
        ""
        if largest.bytes <= LARGEST_FILE_BYTES
        else f" {largest.path} is too large for a Space without LFS."
    )
    return f"The manifest is coherent: {len(manifest.experts)} experts, defaults within the limits.{note}"


def _smallest(manifest: Manifest) -> ResolvedRequest:
    """The smallest clip the limits allow, in two steps."""
    limits = manifest.limits

    def least(low: int, multiple: int) -> int:
        return -(-low // multiple) * multiple

    side = least(limits.min_side, limits.side_multiple)
    frames = least(limits.min_frames - limits.frames_offset, limits.frames_multiple) + limits.frames_offset
    return resolve(SceneRequest(prompt="a scene", steps=2, frames=frames, width=side, height=side), manifest)


def _check_parameters(pack: Pack, runner: Engine) -> None:
    modules = {"autoencoder": runner.autoencoder, "preview": runner.preview_map, "gate": runner.gate}
    entries = {
        "autoencoder": pack.manifest.autoencoder,
        "preview": pack.manifest.preview,
        "gate": pack.manifest.gate,
    }
    for name, module in modules.items():
        held = sum(p.numel() for p in module.parameters())
        stated = entries[name].parameters
        _require(
            held == stated,
            f"The {name} has {held:,} parameters; the manifest says {stated:,}.",
            "Correct the key.",
        )


def _check_autoencoder(runner: Engine | HubEngine, request: ResolvedRequest) -> str:
    latents = initial_noise(runner.latent_shape(request), 0)
    frames, preview = runner.decode(latents), runner.preview(latents.to(runner.device))
    wanted = (request.frames, request.height, request.width, 3)
    _require(
        frames.shape == wanted and frames.dtype == np.uint8,
        f"The autoencoder decodes latents of {tuple(latents.shape)} to {frames.shape} instead of {wanted}.",
    )
    small = (latents.shape[2], latents.shape[3], latents.shape[4], 3)
    _require(preview.shape == small, f"The preview has the shape {preview.shape} instead of {small}.")
    return f"The autoencoder decodes {request.frames} frames of {request.width}x{request.height}."


@torch.inference_mode()
def _check_denoisers(runner: Engine, request: ResolvedRequest) -> str:
    """Every denoiser predicts a finite velocity of the latents' shape and hears the text and the noise level."""
    manifest = runner.pack.manifest
    x = initial_noise(runner.latent_shape(request), 0).to(runner.device, runner.dtype)
    text: TextFeatures = runner.encoder(["a scene"])
    tokens, mask = text.tokens.to(runner.device, runner.dtype), text.mask.to(runner.device)
    level = torch.ones(1, device=runner.device)
    for entry in (*manifest.experts, manifest.generalist):
        denoiser = runner.denoiser(entry.id)
        velocity = denoiser(x, level, tokens, mask)
        _require(
            velocity.shape == x.shape,
            f"The expert {entry.id} predicts {tuple(velocity.shape)} for latents of {tuple(x.shape)}.",
        )
        _require(
            bool(torch.isfinite(velocity).all()),
            f"The expert {entry.id} predicts what is not a finite number.",
        )
        later = denoiser(x, level * 0.1, tokens, mask)
        empty = denoiser(x, level, torch.zeros_like(tokens), torch.zeros_like(mask))
        _require(not torch.equal(velocity, later), f"The expert {entry.id} does not hear the noise level.")
        _require(not torch.equal(velocity, empty), f"The expert {entry.id} does not hear the text.")
    return f"{len(manifest.experts)} experts and the generalist predict at the smallest size."


def _check_probe(runner: Engine) -> str:
    """Frames and texts meet in one space: unit features of one width."""
    features = PackFeatures(runner)
    shape = runner.pack.manifest.defaults
    frames = np.zeros((2, shape.height, shape.width, 3), dtype=np.uint8)
    frames[1] = 200
    seen, text = features(frames), features.encode_text("a scene")
    _require(
        seen.shape == (2, *text.shape),
        f"The probe gives {seen.shape} for 2 frames and {text.shape} for a text.",
        "Fit it to the text encoder's features.",
    )
    _require(
        bool(np.isfinite(seen).all() and np.isfinite(text).all()),
        "The probe gives what is not a finite number.",
    )
    return "The probe brings frames and texts into one space."
