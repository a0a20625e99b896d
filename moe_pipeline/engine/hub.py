"""The engine of a hub pack: a published video model stepped by our own loop, as a mixture of its experts.

Experts share the denoiser unless one brings its own or a LoRA; what tells them apart otherwise is what they read
(docs/decisions/0011-experts-of-hub-packs.md).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar, cast

import torch
from torch import Tensor, nn

from moe_pipeline.diffusion.autoencoder import to_frames
from moe_pipeline.diffusion.flow import noise_schedule
from moe_pipeline.diffusion.hub_autoencoder import ClipAutoencoder, FrameAutoencoder, fit_hub_preview
from moe_pipeline.diffusion.levels import FlowLevels, NoiseLevels, flow_levels, variance_levels
from moe_pipeline.diffusion.preview import LatentPreview
from moe_pipeline.engine.base import BaseEngine, Between
from moe_pipeline.engine.config import EngineConfig
from moe_pipeline.engine.hub_loading import (
    load_lora,
    load_model,
    load_tokenizer,
    shell_of_config,
    with_motion,
)
from moe_pipeline.engine.hub_velocity import HubVelocity
from moe_pipeline.experts.cache import ExpertCache
from moe_pipeline.experts.hub_denoiser import HubDenoiser
from moe_pipeline.experts.lora import with_lora
from moe_pipeline.gating.description import DescriptionGate
from moe_pipeline.interfaces import Denoiser, Frames, TextFeatures
from moe_pipeline.packs import HubPack
from moe_pipeline.packs.hub import FLOW_SCHEDULERS
from moe_pipeline.prompting.encoder import MiniLMEncoder
from moe_pipeline.prompting.expert_text import expert_text, own_parts
from moe_pipeline.prompting.hub_encoders import ClipConditioner, SharedTokenizer, T5Conditioner
from moe_pipeline.schema.errors import MoEverseError
from moe_pipeline.schema.gate import GateDecision
from moe_pipeline.schema.hub_pack import HubExpert, HubManifest
from moe_pipeline.schema.plan import ScenePlan
from moe_pipeline.schema.record import Environment
from moe_pipeline.schema.request import ResolvedRequest

T = TypeVar("T")
GATE_WORD_PIECES = 128  # what the gate reads of a prompt part


class HubEngine(BaseEngine):
    """Components of a hub pack. The gate, the plan and the placement need no weights; a run does."""

    def __init__(self, pack: HubPack, config: EngineConfig, cache: ExpertCache | None = None) -> None:
        super().__init__(pack, config, cache)
        self.pack = pack
        self.parts: dict[str, object] = {}  # components by name, as they are loaded
        self._shells: dict[str, nn.Module | None] = {}

    @property
    def manifest(self) -> HubManifest:
        return self.pack.manifest

    def require_weights(self) -> None:
        """Refuse what `HubPack.check` refuses, and components that do not fit each other."""
        self.pack.check()
        _ = self.levels
        self._check_shapes()
        _ = self.pack.sha256  # files without a known hash are read once, here and not in the time of a run

    def _once(self, name: str, build: Callable[[], T]) -> T:
        """A component that is built when it is first asked for, by one thread.

        Not `cached_property`: its own lock and the engine's would be taken in either order where one component
        needs another, and two cold runs could wait for each other.
        """
        with self._lock:
            if name not in self.parts:
                self.parts[name] = build()
            return cast(T, self.parts[name])

    # ---------------------------------------------------------------------------------------- the gate's side

    @property
    def encoder(self) -> MiniLMEncoder:
        return self._once("encoder", lambda: MiniLMEncoder(GATE_WORD_PIECES, torch_device="cpu"))

    @property
    def gate(self) -> DescriptionGate:
        """The gate over what the manifest says of each expert."""
        return self._once("gate", self._build_gate)

    def _build_gate(self) -> DescriptionGate:
        phrases: list[str] = []
        owners: list[int] = []
        for index, expert in enumerate(self.manifest.experts):
            own = (expert.description, *expert.examples)
            phrases += own
            owners += [index] * len(own)
        settings = self.manifest.gate
        gate = DescriptionGate(
            len(self.manifest.experts),
            phrases=len(phrases),
            temperature=settings.temperature,
            coverage_low=settings.coverage_low,
            coverage_high=settings.coverage_high,
        )
        spans = [expert.noise_levels for expert in self.manifest.experts]
        return gate.describe(self.encoder(phrases).pooled, owners, spans).eval()

    # --------------------------------------------------------------------------------------------- components

    @property
    def levels(self) -> NoiseLevels:
        """How the model's noise levels read as levels of the flow."""
        return self._once("levels", self._build_levels)

    def _build_levels(self) -> NoiseLevels:
        scheduler = self.manifest.components["scheduler"].rpartition(".")[2]
        config = self.pack.config("scheduler") or {}
        if scheduler in FLOW_SCHEDULERS:
            return flow_levels(config, self.manifest.id, self.manifest.flow_shift)
        return variance_levels(config, self.manifest.id)

    @property
    def tokenizer(self) -> SharedTokenizer:
        """One for the conditioner and for counting words, which different threads may ask at once."""
        return self._once("tokenizer", lambda: SharedTokenizer(load_tokenizer(self.pack, "tokenizer")))

    @property
    def conditioner(self) -> ClipConditioner:
        """The text encoder that the denoisers read."""
        return self._once("conditioner", self._build_conditioner)

    def _build_conditioner(self) -> ClipConditioner:
        t5 = self.manifest.components["text_encoder"] == "transformers.UMT5EncoderModel"
        kind = T5Conditioner if t5 else ClipConditioner
        return kind(self.tokenizer, self._load("text_encoder"), self.manifest.text_tokens)

    @property
    def autoencoder(self) -> FrameAutoencoder | ClipAutoencoder:
        return self._once("autoencoder", self._build_autoencoder)

    def _build_autoencoder(self) -> FrameAutoencoder | ClipAutoencoder:
        model = self._load("vae")
        video = self.manifest.components["vae"] == "diffusers.AutoencoderKLWan"
        return ClipAutoencoder(model) if video else FrameAutoencoder(model)

    @property
    def preview_map(self) -> LatentPreview:
        """Fitted on this pack's own encoder when the first preview is asked for."""

        def fit() -> LatentPreview:
            return fit_hub_preview(self.autoencoder).to(self.device).requires_grad_(False)

        return self._once("preview", fit)

    def network(self, expert: HubExpert) -> nn.Module:
        """The network an expert runs: the pack's own, another component, or a copy with its LoRA merged."""
        component = self.manifest.denoiser_of(expert)
        base = f"{self._identity()}/{component}/{self.device}/{self.dtype}"

        def load() -> nn.Module:
            if self.manifest.motion is None:
                return self._load(component)
            return with_motion(self._load(component), self._load(self.manifest.motion), self.manifest.id)

        if expert.lora is None:
            return self.cache.get(base, load)
        lora, plain = expert.lora, self.cache.get(base, load)
        path = self.pack.lora_file(lora)

        def merge() -> nn.Module:
            source = f"{self.manifest.id}/{path.parent.name}/{path.name}"
            return with_lora(plain, load_lora(self.pack, lora), lora.scale, source)

        return self.cache.get(f"{base}/{path}/{lora.scale}", merge)

    def _load(self, component: str) -> nn.Module:
        whole = component in self.manifest.full_precision
        return load_model(self.pack, component, torch.float32 if whole else self.dtype, self.device)

    def _identity(self) -> str:
        """Which weights these are, without reading them: their place, sizes and times."""
        root = self.pack.check()
        files = [(path, path.stat()) for path in self.pack.weight_files()]
        marks = [f"{path.name}:{stat.st_size}:{stat.st_mtime_ns}" for path, stat in files]
        return f"{root.resolve()}/{','.join(marks)}"

    def denoiser(self, expert: str) -> Denoiser:
        """The denoiser of an expert or of the generalist, by id."""
        network = self.network(self.manifest.expert(expert))
        flow = isinstance(self.levels, FlowLevels)
        # Long sequences of transformers gain nothing from a batch and pay for it in memory.
        return HubDenoiser(
            network,
            self.levels,
            self.dtype,
            largest_batch=1 if flow else 4,
            text_per_frame=self.manifest.motion is not None,
        )

    def shell(self, component: str) -> nn.Module | None:
        """A component's architecture on the meta device; None while its configuration is not here."""
        with self._lock:
            if component not in self._shells:
                shell, motion = shell_of_config(self.pack, component), self.manifest.motion
                if shell is not None and motion is not None and component == self.manifest.denoiser:
                    adapter = shell_of_config(self.pack, motion)
                    shell = None if adapter is None else with_motion(shell, adapter, self.manifest.id)
                self._shells[component] = shell
            return self._shells[component]

    def _check_shapes(self) -> None:
        """The manifest's geometry and widths are those of the components."""
        manifest, latents = self.manifest, self.manifest.latents
        vae = self.pack.config("vae") or {}
        text = self.pack.config("text_encoder") or {}
        for name in {manifest.denoiser, *(manifest.denoiser_of(e) for e in manifest.experts)}:
            config = self.pack.config(name) or {}
            widths = (
                config.get("cross_attention_dim", config.get("text_dim")),
                text.get("hidden_size", text.get("d_model")),
            )
            pairs = (
                (f"{name} reads latents of", config.get("in_channels"), latents.channels, "channels"),
                (f"{name} reads texts of", widths[0], widths[1], "numbers a token"),
            )
            for what, found, wanted, unit in pairs:
                _require_equal(manifest.id, what, found, wanted, unit)
        channels = vae.get("latent_channels", vae.get("z_dim"))
        _require_equal(manifest.id, "vae holds latents of", channels, latents.channels, "channels")
        if "block_out_channels" in vae:
            factor = 2 ** (len(vae["block_out_channels"]) - 1)
            _require_equal(manifest.id, "vae shrinks pictures by", factor, latents.spatial, "times")

    # ---------------------------------------------------------------------------------------------- the run

    def latent_shape(self, request: ResolvedRequest) -> tuple[int, int, int, int, int]:
        """(1, C, F, H, W); video autoencoders keep the first frame apart: 4k + 1 frames are k + 1 latent ones."""
        latents = self.manifest.latents
        length = (request.frames - 1) // latents.temporal + 1
        side = latents.spatial
        return (1, latents.channels, length, request.height // side, request.width // side)

    def noise_levels(self, steps: int) -> list[float]:
        """As the model's scheduler spaces them; while it is not here, evenly, for the gate alone."""
        if self.pack.config("scheduler") is None:
            return noise_schedule(steps, self.manifest.flow_shift or self.manifest.defaults.shift)
        return self.levels.noise_levels(steps)

    def start(self, request: ResolvedRequest) -> Tensor:
        first = self.noise_levels(request.steps)[0]
        return self.levels.start(super().start(request), first)

    def low_coverage_note(self) -> str:
        """The model itself may know the scene well: only the choice between its experts means little."""
        titles = ", ".join(expert.title.lower() for expert in self.manifest.experts)
        return (
            f"No expert of {self.manifest.id} is near this prompt ({titles}); its weights mean little here."
        )

    def count_words(self, text: str) -> int:
        """By the pack's own tokenizer; 0 while that is not here."""
        return 0 if self.pack.missing() is not None else len(self.tokenizer(text).input_ids)

    def velocity(
        self,
        request: ResolvedRequest,
        plan: ScenePlan,
        gate: GateDecision,
        text: TextFeatures,
        between: Between | None = None,
    ) -> HubVelocity:
        """Every expert reads the scene, its own parts of it and its own words; the generalist the prompt alone."""
        parts = own_parts(plan, gate.by_subtask, gate.active)
        texts = {
            name: expert_text(request.prompt, parts[name], self.manifest.expert(name).prompt)
            for name in gate.active
        }
        guider = self.guider(request, plan)
        read, empty, world = list(texts.values()), self.manifest.negative_prompt, plan.world
        shared = [empty] if world is None or guider.subjects == 1.0 else [empty, world]
        encoded = self.conditioner([*read, *shared]).tokens.split(1)
        tokens = dict(zip(texts, encoded, strict=False))
        weights = [step.weights for step in gate.by_step]
        own = {name: text for name, text in texts.items() if text != request.prompt}
        rows = encoded[len(read) :]  # without text, and under the backgrounds alone where that is asked for
        backgrounds = rows[1] if len(rows) == 2 else None
        return HubVelocity(self, tokens, rows[0], weights, guider, between, world=backgrounds, texts=own)

    @torch.inference_mode()
    def decode(self, latents: Tensor, between: Between | None = None) -> Frames:
        """Latents (1, C, F, H, W) -> frames uint8 (T, H, W, 3); may be stopped between frames."""
        return to_frames(self.autoencoder.decode(latents, between))[0].cpu().numpy()

    @torch.inference_mode()
    def preview(self, clean: Tensor) -> Frames:
        return self.preview_map(clean)[0].cpu().numpy()

    def environment(self) -> Environment:
        """With the versions of the libraries whose code computes the components."""
        from importlib.metadata import version

        facts = super().environment().model_dump()
        libraries = {name: version(name) for name in ("diffusers", "transformers")}
        return Environment.model_validate({**facts, **libraries})

    def warm(self, experts: Sequence[str] = ()) -> None:
        self.require_weights()
        self.encoder(["warm"])
        self.conditioner(["warm"])
        self.preview_map.eval()
        for expert in (*experts, self.manifest.generalist.id):
            self.denoiser(expert)


def _require_equal(pack: str, what: str, found: object, wanted: object, unit: str) -> None:
    if found != wanted:
        raise MoEverseError(
            "weights_mismatch",
            f"The weights of {pack} do not fit: {what} {found} instead of {wanted} {unit}.",
            "Use the repository that the pack is for, or correct pack.yaml.",
        )
