"""What every engine offers to the stream, whatever kind of pack it runs."""

from __future__ import annotations

import platform
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

from moe_pipeline._version import __version__
from moe_pipeline.diffusion.guidance import ClassifierFree, SubjectGuidance
from moe_pipeline.diffusion.regions import subject_columns
from moe_pipeline.diffusion.sampler import initial_noise
from moe_pipeline.engine.config import EngineConfig, choose_device, choose_dtype
from moe_pipeline.experts.cache import ExpertCache
from moe_pipeline.gating.routing import CoveredGate
from moe_pipeline.interfaces import Denoiser, Frames, TextFeatures
from moe_pipeline.packs import HubPack, Pack
from moe_pipeline.prompting.encoder import MiniLMEncoder
from moe_pipeline.schema.gate import GateDecision
from moe_pipeline.schema.pack import Manifest
from moe_pipeline.schema.plan import ScenePlan
from moe_pipeline.schema.record import Environment
from moe_pipeline.schema.request import ResolvedRequest

Between = Callable[[], None]


class RoutedVelocity(Protocol):
    """The velocity that the sampler asks for, what its experts read, and how many model evaluations it costs."""

    @property
    def texts(self) -> Mapping[str, str]:
        """Expert -> its text, where that is more than the prompt."""
        ...

    def forward_passes(self, index: int, sigma: float) -> int:
        """Denoiser evaluations of a step; guidance branches count separately."""
        ...

    def __call__(self, x: Tensor, sigma: float, index: int) -> Tensor:
        """x (1, C, F, H, W) float32 at `sigma` -> guided velocity, float32."""
        ...


class BaseEngine(ABC):
    """Components of one pack, loaded when first used and safe to share between threads and runs."""

    def __init__(self, pack: Pack | HubPack, config: EngineConfig, cache: ExpertCache | None = None) -> None:
        self.config = config
        self.device = choose_device(config.torch_device)
        self.dtype = choose_dtype(config.dtype, self.device)
        if config.threads is not None:
            torch.set_num_threads(config.threads)
        self.cache = cache if cache is not None else ExpertCache(config.cache_bytes)
        self._lock = threading.RLock()

    @property
    @abstractmethod
    def manifest(self) -> Manifest: ...

    @property
    @abstractmethod
    def encoder(self) -> MiniLMEncoder:
        """Sentence features, which the gate reads."""

    @property
    @abstractmethod
    def gate(self) -> CoveredGate: ...

    @abstractmethod
    def denoiser(self, expert: str) -> Denoiser:
        """The denoiser of an expert or of the generalist, by id."""

    @abstractmethod
    def velocity(
        self,
        request: ResolvedRequest,
        plan: ScenePlan,
        gate: GateDecision,
        text: TextFeatures,
        between: Between | None = None,
    ) -> RoutedVelocity:
        """The guided mixture of a run.

        Args:
            plan, gate: parts of the prompt and the routing of every step.
            text: features of the whole prompt, batch of one.
            between: called before each model evaluation; may raise to stop the run.
        """

    def guider(self, request: ResolvedRequest, plan: ScenePlan) -> SubjectGuidance:
        """The guidance of a request; `subjects` is 1 where the plan does not have both a world and subjects."""
        subjects, defaults = (
            request.subject_guidance if plan.world is not None else 1.0,
            self.manifest.defaults,
        )
        where = None
        if defaults.subject_regions and subjects != 1.0:
            where = subject_columns(plan.places, request.width // self.manifest.latents.spatial)
        return SubjectGuidance(ClassifierFree(request.guidance), subjects, defaults.subject_sigma, where)

    @abstractmethod
    def noise_levels(self, steps: int) -> list[float]:
        """`steps` + 1 falling levels of sigma."""

    @abstractmethod
    def decode(self, latents: Tensor, between: Between | None = None) -> Frames:
        """Latents (1, C, F, H, W) -> frames uint8 (T, H, W, 3)."""

    @abstractmethod
    def preview(self, clean: Tensor) -> Frames:
        """Predicted clean latents -> uint8 (F, H, W, 3) at latent size, by a linear map."""

    @abstractmethod
    def warm(self, experts: Sequence[str] = ()) -> None:
        """Load what every request needs, and the given experts, now instead of in the first request."""

    @abstractmethod
    def require_weights(self) -> None:
        """Refuse a run whose weights are not here, before its first event."""

    def count_words(self, text: str) -> int:
        """Pieces of a text as the denoisers' text encoder counts them, compared with the manifest's text_tokens."""
        return self.encoder.count(text)

    def low_coverage_note(self) -> str:
        """What a person should know about a prompt that the gate calls poorly covered."""
        titles = ", ".join(expert.title.lower() for expert in self.manifest.experts)
        return f"This prompt lies outside what the experts were trained on ({titles}); expect a guess."

    def latent_shape(self, request: ResolvedRequest) -> tuple[int, int, int, int, int]:
        """(1, C, F, H, W) of a request's latents."""
        latents = self.manifest.latents
        return (
            1,
            latents.channels,
            request.frames // latents.temporal,
            request.height // latents.spatial,
            request.width // latents.spatial,
        )

    def start(self, request: ResolvedRequest) -> Tensor:
        """x at the first noise level, (1, C, F, H, W) float32 on the engine's device."""
        return initial_noise(self.latent_shape(request), request.seed).to(self.device)

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
