"""The loaded embedded pack: components on a torch device in one precision, and the step that the stream drives."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any, cast

import torch
from torch import Tensor, nn

from moe_pipeline.diffusion.autoencoder import VideoAutoencoder, to_frames
from moe_pipeline.diffusion.flow import noise_schedule
from moe_pipeline.diffusion.guidance import SubjectGuidance
from moe_pipeline.diffusion.preview import LatentPreview
from moe_pipeline.diffusion.probe import FrameProbe
from moe_pipeline.engine.base import BaseEngine, Between
from moe_pipeline.engine.config import EngineConfig
from moe_pipeline.experts.cache import ExpertCache
from moe_pipeline.experts.denoiser import VideoDenoiser
from moe_pipeline.experts.mixture import Mixture
from moe_pipeline.gating import GATES
from moe_pipeline.gating.gate import TextSigmaGate
from moe_pipeline.interfaces import Denoiser, Frames, TextFeatures
from moe_pipeline.packs import Pack
from moe_pipeline.prompting.encoder import MiniLMEncoder
from moe_pipeline.schema.errors import MoEverseError
from moe_pipeline.schema.gate import GateDecision
from moe_pipeline.schema.pack import Component, PackManifest
from moe_pipeline.schema.plan import ScenePlan
from moe_pipeline.schema.request import ResolvedRequest

BUILDERS: dict[str, Callable[..., nn.Module]] = {
    "video-autoencoder": VideoAutoencoder,
    "video-denoiser": VideoDenoiser,
    "latent-preview": LatentPreview,
    "frame-probe": FrameProbe,
    **GATES,
}


class Engine(BaseEngine):
    """The engine of an embedded pack."""

    def __init__(self, pack: Pack, config: EngineConfig, cache: ExpertCache | None = None) -> None:
        super().__init__(pack, config, cache)
        self.pack = pack
        self._shells: dict[str, nn.Module] = {}

    @property
    def manifest(self) -> PackManifest:
        return self.pack.manifest

    def _module(self, component: Component, *, load: bool) -> nn.Module:
        """A component from its configuration, with the pack's weights or as its constructor leaves it.

        Raises:
            MoEverseError: `unknown_component`, `pack_mismatch`.
        """
        builder = BUILDERS.get(component.kind)
        name = self.pack.manifest.id
        if builder is None:
            raise MoEverseError(
                "unknown_component",
                f"Pack {name} asks for a component of kind {component.kind!r}.",
                f"Known kinds: {', '.join(sorted(BUILDERS))}.",
            )
        try:
            module = builder(**component.config)
            if load:
                module.load_state_dict(self.pack.tensors(component))
        except (TypeError, ValueError, ArithmeticError, RuntimeError) as error:
            raise MoEverseError(
                "pack_mismatch",
                f"The files of {component.kind} in pack {name} do not fit its configuration.",
                "Restore the pack, for example with a fresh clone of the project.",
            ) from error
        return module

    def _build(self, component: Component, dtype: torch.dtype) -> nn.Module:
        module = self._module(component, load=True)
        # No parameter needs a gradient, so nothing builds a graph even where a consumer advances the stream
        # from another thread.
        return module.to(self.device, dtype).eval().requires_grad_(False)

    @cached_property
    def encoder(self) -> MiniLMEncoder:
        with self._lock:
            return MiniLMEncoder(self.pack.manifest.text_tokens, torch_device="cpu")

    @cached_property
    def autoencoder(self) -> VideoAutoencoder:
        with self._lock:
            return cast(VideoAutoencoder, self._build(self.pack.manifest.autoencoder, self.dtype))

    @cached_property
    def preview_map(self) -> LatentPreview:
        with self._lock:
            return cast(LatentPreview, self._build(self.pack.manifest.preview, torch.float32))

    @cached_property
    def gate(self) -> TextSigmaGate:
        with self._lock:
            return cast(TextSigmaGate, self._build(self.pack.manifest.gate, torch.float32).to("cpu"))

    @cached_property
    def probe(self) -> FrameProbe:
        with self._lock:
            if self.pack.manifest.probe is None:
                raise MoEverseError(
                    "no_probe",
                    f"Pack {self.pack.manifest.id} has no frame probe.",
                    "Measure without features.",
                )
            return cast(FrameProbe, self._build(self.pack.manifest.probe, torch.float32).to("cpu"))

    def denoiser(self, expert: str) -> Denoiser:
        """The denoiser of an expert or of the generalist, by id."""
        entries = {e.id: e for e in (*self.pack.manifest.experts, self.pack.manifest.generalist)}
        entry = entries[expert]
        # The configuration belongs to the key: the same tensors under another number of heads are another model.
        hashes = [file.sha256 for file in entry.files]
        key = "/".join([entry.kind, repr(entry.config), *hashes, str(self.device), str(self.dtype)])
        return cast(Denoiser, self.cache.get(key, lambda: self._build(entry, self.dtype)))

    def shell(self, component: Component) -> nn.Module:
        """A component's architecture on the meta device: shapes without weights, for counting work."""
        key = f"{component.kind} {sorted(component.config.items())}"
        with self._lock:
            if key not in self._shells:
                with torch.device("meta"):
                    self._shells[key] = self._module(component, load=False)
            return self._shells[key]

    def require_weights(self) -> None:
        """Refuse a pack with a missing or truncated file now, not when a step first needs it."""
        self.pack.require_files()

    def noise_levels(self, steps: int) -> list[float]:
        """The flow's own schedule under the pack's shift."""
        return noise_schedule(steps, self.manifest.defaults.shift)

    def velocity(
        self,
        request: ResolvedRequest,
        plan: ScenePlan,
        gate: GateDecision,
        text: TextFeatures,
        between: Between | None = None,
    ) -> GuidedMixture:
        """All experts read the whole prompt; what tells them apart is what they were trained on.

        A scene with subjects in a world gets subject guidance, where the request asks for it.
        """
        weights = [step.weights for step in gate.by_step]
        guider = self.guider(request, plan)
        world = self.encoder([plan.world]) if plan.world is not None and guider.subjects != 1.0 else None
        return GuidedMixture(self, text, weights, guider, between, world)

    @torch.inference_mode()
    def decode(self, latents: Tensor, between: Between | None = None) -> Frames:
        """Latents (1, C, F, H, W) -> frames uint8 (T, H, W, 3), in one go."""
        return to_frames(self.autoencoder.decode(latents.to(self.device, self.dtype)))[0].cpu().numpy()

    @torch.inference_mode()
    def preview(self, clean: Tensor) -> Frames:
        """Predicted clean latents -> uint8 (F, H, W, 3) at latent size, by the linear map."""
        return self.preview_map(clean)[0].cpu().numpy()

    def warm(self, experts: Sequence[str] = ()) -> None:
        """Load the text encoder, gate, autoencoder and the given experts now instead of in the first request."""
        self.encoder(["warm"])
        for part in (self.gate, self.preview_map, self.autoencoder):
            part.eval()
        for expert in experts:
            self.denoiser(expert)


class GuidedMixture:
    """The velocity that the sampler asks for: mixture, all guidance branches in one batch, shared gate weights.

    Args:
        engine: where the experts come from.
        text: features of the prompt, batch of one.
        weights: for each step, the routing weights.
        guider: guidance scales and intervals.
        between: called before each expert; may raise to stop the run.
        world: features of the backgrounds alone, batch of one; needed where the guider asks for them.
    """

    def __init__(
        self,
        engine: Engine,
        text: TextFeatures,
        weights: Sequence[Mapping[str, float]],
        guider: SubjectGuidance,
        between: Callable[[], None] | None = None,
        world: TextFeatures | None = None,
    ) -> None:
        self.device, self.dtype = engine.device, engine.dtype
        self.texts: dict[str, str] = {}  # all read the prompt itself
        tokens = text.tokens.to(self.device, self.dtype)
        mask = text.mask.to(self.device)
        branches = [(tokens, mask), (torch.zeros_like(tokens), torch.zeros_like(mask))]
        if world is not None:
            branches.append((world.tokens.to(self.device, self.dtype), world.mask.to(self.device)))
        self.tokens = torch.cat([t for t, _ in branches])  # (2 or 3, L, D): prompt, no text, backgrounds
        self.mask = torch.cat([m for _, m in branches])
        self.weights, self.guider = weights, guider
        self.mixture = Mixture(engine.denoiser, between=between)

    def forward_passes(self, index: int, sigma: float) -> int:
        """Denoiser evaluations of a step; guidance branches count separately."""
        active = sum(weight > 0.0 for weight in self.weights[index].values())
        return active * self.guider.branches(sigma)

    @torch.inference_mode()
    def __call__(self, x: Tensor, sigma: float, index: int) -> Tensor:
        """x (1, C, F, H, W) float32 at `sigma` -> guided velocity, float32."""
        branches = self.guider.branches(sigma)
        noisy = x.to(self.device, self.dtype).expand(branches, *x.shape[1:])
        level = torch.full((branches,), sigma, device=self.device)
        mixed = self.mixture(
            noisy, level, self.tokens[:branches], self.mask[:branches], self.weights[index]
        ).float()
        empty, world = (mixed[k : k + 1] if branches > k else None for k in (1, 2))
        return self.guider(mixed[:1], empty, world, sigma)


def component_config(module: nn.Module, **config: Any) -> dict[str, Any]:
    """Constructor arguments as they stand in a manifest; checks that they rebuild the same shapes."""
    rebuilt = type(module)(**config)
    shapes = {n: tuple(p.shape) for n, p in module.state_dict().items()}
    if shapes != {n: tuple(p.shape) for n, p in rebuilt.state_dict().items()}:
        raise ValueError(f"{type(module).__name__} is not what {config} builds")
    return config
