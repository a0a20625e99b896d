"""Where the weights of VBench's networks are looked for: a given folder, then the hub's cache. Never a download.

Only safetensors are read. Most of these networks are published as pickles; docs/metrics.md says how to convert each
once, on a machine and from a file that you trust.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from moe_pipeline.metrics.frames import Undefined

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class WeightSource:
    """One network's weights: its key (also its name in a weights folder) and where they come from."""

    key: str
    title: str
    hub: str | None  # repository in the hub's layout, or None for a single converted file
    origin: str

    @property
    def wanted(self) -> str:
        """What a weights folder must hold."""
        return f"{self.key}/ (config.json, model.safetensors)" if self.hub else f"{self.key}.safetensors"


WEIGHTS: dict[str, WeightSource] = {
    source.key: source
    for source in (
        WeightSource(
            "dino-vitb16", "DINO ViT-B/16", "facebook/dino-vitb16", "huggingface.co/facebook/dino-vitb16"
        ),
        WeightSource(
            "clip-vit-b-32",
            "CLIP ViT-B/32",
            "openai/clip-vit-base-patch32",
            "huggingface.co/openai/clip-vit-base-patch32",
        ),
        WeightSource(
            "clip-vit-l-14",
            "CLIP ViT-L/14",
            "openai/clip-vit-large-patch14",
            "huggingface.co/openai/clip-vit-large-patch14",
        ),
        WeightSource(
            "laion-aesthetic",
            "LAION aesthetic head",
            None,
            "github.com/LAION-AI/aesthetic-predictor, sa_0_4_vit_l_14_linear.pth",
        ),
        WeightSource(
            "musiq-spaq",
            "MUSIQ (SPAQ)",
            None,
            "github.com/chaofengc/IQA-PyTorch releases, musiq_spaq_ckpt-358bb6af.pth",
        ),
        WeightSource("raft-things", "RAFT (things)", None, "github.com/princeton-vl/RAFT, raft-things.pth"),
        WeightSource("amt-s", "AMT-S", None, "huggingface.co/lalala125/AMT, amt-s.pth"),
        WeightSource("viclip", "ViCLIP", None, "InternVid, ViClip-InternVid-10M-FLT.pth"),
    )
}


def find_folder(key: str, weights: Path | None) -> Path:
    """Folder with config.json and model.safetensors of a network in the hub's layout; Undefined when it is nowhere."""
    source = WEIGHTS[key]
    repository = source.hub or ""
    candidates = [] if weights is None else [weights / key, weights / repository.split("/")[-1]]
    for folder in candidates:
        if (folder / "config.json").is_file() and (folder / "model.safetensors").is_file():
            return folder
    cached = _cached(repository, "config.json")
    if cached is not None and _cached(repository, "model.safetensors") is not None:
        return cached.parent
    if cached is not None:
        raise Undefined(
            f"the hub's cache has {repository} without model.safetensors, and pickles are not read"
        )
    raise Undefined(missing_sentence(key, weights))


def find_file(key: str, weights: Path | None) -> Path:
    """A converted single-file network `<key>.safetensors`; Undefined when it is not in the folder."""
    if weights is not None and (weights / f"{key}.safetensors").is_file():
        return weights / f"{key}.safetensors"
    raise Undefined(missing_sentence(key, weights))


def missing_sentence(key: str, weights: Path | None) -> str:
    """Why there is no figure, and what to put where."""
    source = WEIGHTS[key]
    place = "no weights folder was given" if weights is None else f"{weights} has no {source.wanted}"
    also = f" and the hub's cache has no {source.hub}" if source.hub else ""
    return f"needs the weights of {source.title}: {place}{also} (from {source.origin})"


def _cached(repository: str, name: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(repository, name)
    return Path(found) if isinstance(found, str) else None


def read_state(file: Path) -> dict[str, Tensor]:
    """Tensors of a safetensors file; a "module." prefix of data-parallel training is dropped."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        state = load_file(file)
    except (OSError, SafetensorError) as error:
        raise Undefined(f"{file.name} is damaged or not a safetensors file") from error
    return {name.removeprefix("module."): value for name, value in state.items()}


def available(weights: Path | None) -> dict[str, bool]:
    """Which networks' weights are at hand, by key."""
    return {key: found is not None for key, found in _places(weights).items()}


def state_of(weights: Path | None) -> list[str]:
    """Which weights are at hand, with size and time of each file: a result belongs to these and to no others."""
    lines = []
    for key, place in _places(weights).items():
        if place is not None:
            about = (place / "model.safetensors" if place.is_dir() else place).stat()
            lines.append(f"{key}:{about.st_size}:{about.st_mtime_ns}")
    tokenizer = weights is not None and (weights / "viclip-tokenizer").is_dir()
    return [*lines, "viclip-tokenizer"] if tokenizer else lines


def _places(weights: Path | None) -> dict[str, Path | None]:
    found: dict[str, Path | None] = {}
    for key, source in WEIGHTS.items():
        try:
            found[key] = (find_folder if source.hub else find_file)(key, weights)
        except Undefined:
            found[key] = None
    return found
