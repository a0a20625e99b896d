"""Assemble a pack from training folders, or write a random one for tests.

    python -m training.pack --checkpoints checkpoints --previews data/held --version 0.1.0 \
        --out assets/packs/tiny-worlds

Weights are stored in bf16, in files below 9.5 MB; every file stands in the manifest with its hash.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from moe_pipeline.diffusion.autoencoder import VideoAutoencoder, to_model_range
from moe_pipeline.diffusion.preview import LatentPreview, fit_preview
from moe_pipeline.diffusion.probe import FrameProbe
from moe_pipeline.experts.denoiser import VideoDenoiser
from moe_pipeline.gating.gate import TextSigmaGate
from moe_pipeline.packs import MANIFEST, open_pack
from moe_pipeline.schema.errors import MoEverseError
from moe_pipeline.schema.pack import PACK_SCHEMA_VERSION
from moe_pipeline.workload import delta_bytes
from training.clips import ClipSet
from training.latents import TEXT_TOKENS, load_autoencoder
from training.worlds import DOMAINS
from training.worlds.captions import COLOUR_WORDS

FILE_LIMIT = 9_400_000
EXPERTS: dict[str, tuple[str, str, str]] = {
    "city": ("City", "Streets and skylines, neon by night and sunlit by day.", "#e0457b"),
    "landscape": ("Landscape", "Hills, mountains, coasts, deserts and forests under every sky.", "#2e9e5b"),
    "interior": ("Interior", "Rooms, galleries, halls and portal chambers.", "#c7811f"),
    "space": ("Space", "Planets, rings, moons, nebulae and asteroids.", "#6a5acd"),
    "object": ("Object", "Products, solids, gems and vehicles, alone or placed in a world.", "#1f9fb3"),
    "avatar": ("Avatar", "People and robots that stand, walk, wave, jump and dance.", "#d0542c"),
}


# Colours of lit cities: before pale or yellow facades a figure is lost.
_LIT = ["red", "orange", "green", "teal", "blue", "purple", "pink"]
# What the captions of the worlds know of colours: they name one for nearly every thing.
DETAILS: dict[str, Any] = {
    "colours": {name: sorted(set(words) - {name}) for name, words in COLOUR_WORDS.items()}
    | {"yellow": ["gold", "golden", "lemon"], "blue": ["azure", "navy", "sapphire"]}
    | {"purple": ["indigo", "lavender", "lilac", "violet"], "white": ["ivory", "pale"]},
    "natural": {
        **{key: _LIT for key in ("city", "cities", "cityscape", "street", "streets", "avenue", "boulevard", "alley")},
        **{key: _LIT for key in ("downtown", "skyline", "town", "metropolis", "towers", "skyscrapers", "district")},
        **{key: ["green"] for key in ("forest", "woods", "woodland", "jungle", "park", "garden", "valley")},
        **{key: ["green"] for key in ("hills", "hill", "meadow", "meadows", "countryside", "field", "fields")},
        **{key: ["orange", "yellow"] for key in ("desert", "dunes", "canyon")},
        **{key: ["blue", "teal"] for key in ("sea", "beach", "coast", "shore", "ocean", "seaside", "lake", "river")},
        **{key: ["blue", "purple", "teal"] for key in ("mountains", "mountain", "peaks", "glacier")},
    },
    "uncoloured": [
        "backdrop", "background", "black", "brown", "colourful", "cosmos", "curtain", "gray", "grey", "orbit",
        "pedestal", "plinth", "rainbow", "silver", "sky", "space", "stage", "stand", "stars", "studio", "table",
        "universe",
    ],
    "places": {"left": "on the left", "centre": "in the middle", "right": "on the right"},
}  # fmt: skip


def _shards(state: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
    shards: list[dict[str, Tensor]] = [{}]
    size = 0
    for name, tensor in state.items():
        length = tensor.numel() * tensor.element_size()
        if size + length > FILE_LIMIT and shards[-1]:
            shards.append({})
            size = 0
        shards[-1][name] = tensor
        size += length
    return shards


def _component(
    folder: Path,
    name: str,
    kind: str,
    module: nn.Module,
    config: dict[str, Any],
    dtype: torch.dtype,
    training: Any,
) -> dict[str, Any]:
    state = {
        n: t.detach().to("cpu", dtype if t.is_floating_point() else t.dtype).contiguous()
        for n, t in module.state_dict().items()
    }
    shards = _shards(state)
    files = []
    for index, shard in enumerate(shards):
        path = (
            f"{name}.safetensors" if len(shards) == 1 else f"{name}-{index + 1}-of-{len(shards)}.safetensors"
        )
        save_file(shard, folder / path)
        content = (folder / path).read_bytes()
        files.append({"path": path, "sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)})
    entry: dict[str, Any] = {"kind": kind, "config": config, "files": files}
    entry["parameters"] = sum(p.numel() for p in module.parameters())
    if training is not None:
        entry["training"] = training
    return entry


def write_pack(
    folder: Path,
    parts: Mapping[str, nn.Module],
    *,
    version: str,
    training: Mapping[str, Any],
    pack_id: str = "tiny-worlds",
) -> Path:
    """Write `autoencoder`, `preview`, `gate`, `generalist` and one part a domain; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.safetensors"):
        old.unlink()

    def component(
        name: str, kind: str, config: dict[str, Any], dtype: torch.dtype = torch.bfloat16
    ) -> dict[str, Any]:
        return _component(folder, name, kind, parts[name], config, dtype, training.get(name))

    def denoiser(name: str, title: str, domain: str, description: str, colour: str) -> dict[str, Any]:
        entry = component(name, "video-denoiser", {})
        if name != "generalist":
            base, own = (
                {n: t.to(torch.bfloat16) for n, t in parts[p].state_dict().items()}
                for p in ("generalist", name)
            )
            entry["delta_bytes"] = delta_bytes(base, own)
        return entry | {
            "id": name,
            "title": title,
            "domain": domain,
            "description": description,
            "colour": colour,
        }

    manifest = {
        "schema_version": PACK_SCHEMA_VERSION,
        "id": pack_id,
        "version": version,
        "title": "Tiny Worlds",
        "description": "Six experts for stylised metaverse scenes, trained from scratch on procedural worlds.",
        "licence": "Apache-2.0",
        "text_encoder": "all-MiniLM-L6-v2",
        "text_tokens": TEXT_TOKENS,
        "latents": {"channels": 16, "spatial": 8, "temporal": 4},
        "defaults": {
            "width": 128, "height": 128, "frames": 16, "fps": 8, "steps": 16, "guidance": 3.0, "top_k": 2,
            "shift": 1.5, "subject_guidance": 1.3, "subject_regions": True,
        },
        "details": DETAILS,
        "autoencoder": component("autoencoder", "video-autoencoder", {}),
        "preview": component("preview", "latent-preview", {}, torch.float32),
        "generalist": denoiser(
            "generalist", "Generalist", "all",
            "The single model of every comparison: all domains. The experts were branched from it.", "#8a8f98",
        ),
        "experts": [denoiser(domain, title, domain, text, colour) for domain, (title, text, colour) in EXPERTS.items()],
        "gate": component("gate", "text-sigma", {"experts": len(EXPERTS)}, torch.float32),
        "probe": component("probe", "frame-probe", {}),
    }  # fmt: skip
    text = yaml.safe_dump(manifest, sort_keys=False, allow_unicode=True, width=100)
    (folder / MANIFEST).write_text(text, encoding="utf-8")
    open_pack(folder).verify()
    return folder


def write_random_pack(folder: Path, seed: int = 0) -> Path:
    """A pack of the same architecture with random weights: for tests and for timing, never for looking at."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        parts: dict[str, nn.Module] = {
            "autoencoder": VideoAutoencoder(),
            "preview": LatentPreview(),
            "gate": TextSigmaGate(len(EXPERTS)),
            "probe": FrameProbe(),
            "generalist": VideoDenoiser(),
            **{domain: VideoDenoiser() for domain in EXPERTS},
        }
        for name, part in parts.items():
            if name in ("generalist", *EXPERTS):
                nn.init.normal_(part.get_parameter("patch_out.weight"), std=0.02)
        nn.init.normal_(parts["preview"].get_parameter("weight"), std=0.2)
    return write_pack(folder, parts, version="0.0.0", training={}, pack_id="random-worlds")


def _preview(autoencoder: VideoAutoencoder, clips: ClipSet, count: int = 120) -> LatentPreview:
    latents, videos = [], []
    with torch.inference_mode():
        for index in range(min(count, len(clips))):
            video = to_model_range(torch.from_numpy(clips.clip(index).copy())[None])
            latents.append(autoencoder.encode(video.bfloat16()).float())
            videos.append(video)
    return fit_preview(torch.cat(latents), torch.cat(videos))


def _averaged(folder: Path) -> tuple[VideoDenoiser, dict[str, Any]]:
    model = VideoDenoiser()
    model.load_state_dict(load_file(folder / "ema.safetensors"))
    return model, json.loads((folder / "summary.json").read_text())


def _decoder_or_autoencoder(root: Path) -> Path:
    """The folder of the decoder that was trained on alone, where there is one; its encoder must be the autoencoder's.

    Raises:
        MoEverseError: another encoder, so the denoisers' latents would not be this decoder's.
    """
    decoder, autoencoder = root / "decoder", root / "autoencoder"
    if not (decoder / "ema.safetensors").exists():
        return autoencoder
    ours, theirs = (load_file(folder / "ema.safetensors") for folder in (decoder, autoencoder))
    if any(not torch.equal(ours[name], theirs[name]) for name in theirs if name.startswith("encode_")):
        raise MoEverseError(
            "pack_mismatch",
            f"{decoder} was trained from another autoencoder than {autoencoder}.",
            "Train the decoder again, or remove its folder.",
        )
    return decoder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--checkpoints", required=True, help="folder of autoencoder, single, expert-*, gate")
    parser.add_argument("--previews", required=True, help="rendered shards to fit the preview map on")
    parser.add_argument("--out", required=True)
    parser.add_argument("--version", required=True)
    arguments = parser.parse_args()
    root = Path(arguments.checkpoints)
    source = _decoder_or_autoencoder(root)
    autoencoder = load_autoencoder(source, torch.device("cpu"))
    gate = TextSigmaGate(len(EXPERTS))
    gate.load_state_dict(load_file(root / "gate" / "gate.safetensors"))
    probe = FrameProbe()
    probe.load_state_dict(load_file(root / "probe" / "probe.safetensors"))
    parts: dict[str, nn.Module] = {
        "autoencoder": autoencoder,
        "preview": _preview(autoencoder, ClipSet([Path(arguments.previews)])),
        "gate": gate,
        "probe": probe,
    }
    training: dict[str, Any] = {}
    for name, branch in {"generalist": "single", **{d: f"expert-{d}" for d in DOMAINS}}.items():
        parts[name], own = _averaged(root / branch)
        for key in ("samples", "minutes"):
            own[key] += own.pop(f"{key}_before", 0)  # a folder that was unpacked has all in one figure
        training[name] = own
    for name, folder in {"autoencoder": source, "gate": root / "gate", "probe": root / "probe"}.items():
        if (folder / "summary.json").exists():
            training[name] = json.loads((folder / "summary.json").read_text())
    pack = write_pack(Path(arguments.out), parts, version=arguments.version, training=training)
    total = sum(p.stat().st_size for p in pack.iterdir())
    print(f"{pack}: {total / 1e6:.1f} MB in {len(list(pack.iterdir()))} files")


if __name__ == "__main__":
    main()
