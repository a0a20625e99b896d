"""The loaded pack: components on a torch device in one precision, and the numeric step that the stream drives."""

from __future__ import annotations

import platform
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any, Literal, cast

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from moe_pipeline._version import __version__
from moe_pipeline.diffusion.autoencoder import VideoAutoencoder, to_frames
from moe_pipeline.diffusion.guidance import ClassifierFree
from moe_pipeline.diffusion.preview import LatentPreview
from moe_pipeline.diffusion.probe import FrameProbe
from moe_pipeline.experts.cache import ExpertCache
from moe_pipeline.experts.denoiser import VideoDenoiser
from moe_pipeline.experts.mixture import Mixture
from moe_pipeline.gating import GATES
from moe_pipeline.gating.gate import TextSigmaGate
from moe_pipeline.interfaces import Denoiser, Frames, TextFeatures
from moe_pipeline.packs import Pack
from moe_pipeline.prompting.encoder import MiniLMEncoder
from moe_pipeline.schema.errors import MoEverseError
from moe_pipeline.schema.pack import Component
from moe_pipeline.schema.record import Environment
from moe_pipeline.schema.request import ResolvedRequest

BUILDERS: dict[str, Callable[..., nn.Module]] = {
    "video-autoencoder": VideoAutoencoder,
    "video-denoiser": VideoDenoiser,
    "latent-preview": LatentPreview,
    "frame-probe": FrameProbe,
    **GATES,
}


class EngineConfig(BaseModel):
    """Choices fixed at load time: where and in which precision the pack runs.

    Attributes:
        torch_device: `auto` takes CUDA when there is one.
        dtype: `auto` takes bf16 where the processor multiplies it natively, float32 elsewhere.
        threads: torch threads on the CPU; None keeps what torch chose.
        cache_bytes: budget for loaded denoisers.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    torch_device: Literal["auto", "cpu", "cuda"] = "auto"
    dtype: Literal["auto", "bf16", "fp32"] = "auto"
    threads: int | None = Field(default=None, ge=1, le=256)
    cache_bytes: int = Field(default=2 * 1024**3, ge=1)


def _choose_device(wanted: str) -> torch.device:
    if wanted == "cuda" and not torch.cuda.is_available():
        raise MoEverseError(
            "no_cuda", "There is no CUDA device here.", "Use the torch device `cpu` or `auto`."
        )
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(wanted)


def _choose_dtype(wanted: str, device: torch.device) -> torch.dtype:
    if wanted == "auto":
        fast = device.type == "cuda" or torch.ops.mkldnn._is_mkldnn_bf16_supported()
        return torch.bfloat16 if fast else torch.float32
    return {"bf16": torch.bfloat16, "fp32": torch.float32}[wanted]


class Engine:
    """Components of one pack, loaded when first used and safe to share between threads and runs."""

    def __init__(self, pack: Pack, config: EngineConfig, cache: ExpertCache | None = None) -> None:
        self.pack, self.config = pack, config
        self.device = _choose_device(config.torch_device)
        self.dtype = _choose_dtype(config.dtype, self.device)
        if config.threads is not None:
            torch.set_num_threads(config.threads)
        self.cache = cache if cache is not None else ExpertCache(config.cache_bytes)
        self._lock = threading.RLock()
        self._shells: dict[str, nn.Module] = {}

    def _build(self, component: Component, dtype: torch.dtype) -> nn.Module:
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
            module.load_state_dict(self.pack.tensors(component))
        except (TypeError, ValueError, ArithmeticError, RuntimeError) as error:
            raise MoEverseError(
                "pack_mismatch",
                f"The files of {component.kind} in pack {name} do not fit its configuration.",
                "Restore the pack, for example with a fresh clone of the project.",
            ) from error
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
                    self._shells[key] = BUILDERS[component.kind](**component.config)
            return self._shells[key]

    def latent_shape(self, request: ResolvedRequest) -> tuple[int, int, int, int, int]:
        """(1, C, F, H, W) of a request's latents."""
        latents = self.pack.manifest.latents
        return (
            1,
            latents.channels,
            request.frames // latents.temporal,
            request.height // latents.spatial,
            request.width // latents.spatial,
        )

    @torch.inference_mode()
    def decode(self, latents: Tensor) -> Frames:
        """Latents (1, C, F, H, W) -> frames uint8 (T, H, W, 3)."""
        return to_frames(self.autoencoder.decode(latents.to(self.device, self.dtype)))[0].cpu().numpy()

    @torch.inference_mode()
    def preview(self, clean: Tensor) -> Frames:
        """Predicted clean latents -> uint8 (F, H, W, 3) at latent size, by the linear map."""
        return self.preview_map(clean)[0].cpu().numpy()

    def environment(self) -> Environment:
        """What has to be equal for frames to be equal byte for byte."""
        capability = torch.backends.cpu.get_cpu_capability()
        if self.device.type == "cuda":
            capability += f"; {torch.cuda.get_device_name(self.device)}"
        return Environment(
            torch=torch.__version__,
            torch_device=self.device.type,
            cpu_capability=capability,
            threads=torch.get_num_threads(),
            dtype=str(self.dtype).removeprefix("torch."),
            code_version=__version__,
            platform=f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        )

    def warm(self, experts: Sequence[str] = ()) -> None:
        """Load the text encoder, gate, autoencoder and the given experts now instead of in the first request."""
        self.encoder(["warm"])
        for part in (self.gate, self.preview_map, self.autoencoder):
            part.eval()
        for expert in experts:
            self.denoiser(expert)


class GuidedMixture:
    """The velocity that the sampler asks for: mixture, both guidance branches in one batch, shared gate weights.

    Args:
        engine: where the experts come from.
        text: features of the prompt, batch of one.
        weights: for each step, the routing weights.
        guider: guidance scale and interval.
        between: called before each expert; may raise to stop the run.
    """

    def __init__(
        self,
        engine: Engine,
        text: TextFeatures,
        weights: Sequence[Mapping[str, float]],
        guider: ClassifierFree,
        between: Callable[[], None] | None = None,
    ) -> None:
        self.device, self.dtype = engine.device, engine.dtype
        tokens = text.tokens.to(self.device, self.dtype)
        mask = text.mask.to(self.device)
        self.tokens = torch.cat([tokens, torch.zeros_like(tokens)])  # (2, L, D): with text, without
        self.mask = torch.cat([mask, torch.zeros_like(mask)])
        self.weights, self.guider = weights, guider
        self.mixture = Mixture(engine.denoiser, between=between)

    def forward_passes(self, index: int, sigma: float) -> int:
        """Denoiser evaluations of a step; the two guidance branches count separately."""
        active = sum(weight > 0.0 for weight in self.weights[index].values())
        return active * (2 if self.guider.needs_unconditional(sigma) else 1)

    @torch.inference_mode()
    def __call__(self, x: Tensor, sigma: float, index: int) -> Tensor:
        """x (1, C, F, H, W) float32 at `sigma` -> guided velocity, float32."""
        branches = 2 if self.guider.needs_unconditional(sigma) else 1
        noisy = x.to(self.device, self.dtype).expand(branches, *x.shape[1:])
        level = torch.full((branches,), sigma, device=self.device)
        both = self.mixture(
            noisy, level, self.tokens[:branches], self.mask[:branches], self.weights[index]
        ).float()
        return self.guider(both[:1], both[1:] if branches == 2 else None, sigma)


def component_config(module: nn.Module, **config: Any) -> dict[str, Any]:
    """Constructor arguments as they stand in a manifest; checks that they rebuild the same shapes."""
    rebuilt = type(module)(**config)
    shapes = {n: tuple(p.shape) for n, p in module.state_dict().items()}
    if shapes != {n: tuple(p.shape) for n, p in rebuilt.state_dict().items()}:
        raise ValueError(f"{type(module).__name__} is not what {config} builds")
    return config
