"""VBench's dimensions that need a network, by VBench's definition, when the network's weights are at hand.

Networks are loaded on first use and kept; CUDA is used where there is one. A missing or unfit file is a reason
(`Undefined`), never a download and never another network in its place.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from moe_pipeline.metrics import amt, dynamics, preprocess, raft, smoothness
from moe_pipeline.metrics.consistency import feature_consistency
from moe_pipeline.metrics.correlation import LEAST_SIDE
from moe_pipeline.metrics.frames import Floats, Frames, Undefined, need_frames
from moe_pipeline.metrics.musiq import MUSIQ
from moe_pipeline.metrics.viclip import FRAMES, Shape, ViCLIP, fit_context
from moe_pipeline.metrics.weights import find_file, find_folder, read_state

BATCH = 16  # frames at a time through an image network


@dataclass(frozen=True)
class NetworkScore:
    """A figure, its series and what a point of the series is."""

    value: float
    series: Floats
    label: str
    start: int = 0
    stride: int = 1
    note: str = ""


@dataclass(frozen=True)
class Inputs:
    """One clip for the networks. `lengths` keeps RAFT's flow lengths by pair, for the two rules that read them."""

    frames: Frames
    fps: float
    prompt: str | None
    weights: Path | None
    lengths: dict[tuple[int, int], Floats] = field(default_factory=dict)


@torch.no_grad()
def score(name: str, clip: Inputs) -> NetworkScore:
    """The figure of one of NETWORK_METRICS. Raises Undefined when weights, frames, prompt or memory do not allow it."""
    try:
        return SCORES[name](clip)
    except RuntimeError as error:
        if "memory" not in str(error):  # torch has a class of its own for this on CUDA only
            raise
        height, width = clip.frames.shape[1:3]
        raise Undefined(f"the network ran out of memory at {width}x{height}; scale the clip down") from error


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _fill(network: nn.Module, file: Path) -> Any:
    """The network with the file's weights, ready to run; Undefined names the first key that does not fit."""
    state = read_state(file)
    wanted = network.state_dict()
    for key, value in wanted.items():
        if key not in state:
            raise Undefined(f"{file.name} does not fit the network: {key} is missing")
        if state[key].shape != value.shape:
            raise Undefined(
                f"{file.name} does not fit the network: {key} has shape {tuple(state[key].shape)}"
            )
    for key in state:
        if key not in wanted:
            raise Undefined(f"{file.name} does not fit the network: {key} is not part of it")
    network.load_state_dict(state)
    return network.eval().requires_grad_(False).to(_device())


@contextmanager
def _reading(folder: Path) -> Iterator[None]:
    """Turns what transformers and safetensors raise over a bad folder into a reason."""
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise Undefined(f"the weights in {folder.name} cannot be loaded ({type(error).__name__})") from error


# ----------------------------------------------------------------------------------------------- networks


@lru_cache(maxsize=2)
def _dino(folder: Path) -> Any:
    from transformers import ViTModel

    with _reading(folder):
        network = ViTModel.from_pretrained(folder, add_pooling_layer=False, local_files_only=True)
    for module in network.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = 1e-6  # DINO's own; the hub's conversion says 1e-12
    embeddings = network.embeddings
    embeddings.interpolate_pos_encoding = lambda tokens, height, width: dino_positions(
        embeddings.position_embeddings, height, width, embeddings.patch_size
    )
    return network.eval().requires_grad_(False).to(_device())


def dino_positions(positions: Tensor, height: int, width: int, patch: int) -> Tensor:
    """Position embeddings 1 x (1 + n n) x C for an image, as DINO's `interpolate_pos_encoding` makes them.

    DINO gives `interpolate` a scale with 0.1 added to each side against rounding, and the scale shifts the sampling
    points a little; the published features contain that. Only square images of the trained size keep the embeddings.
    """
    side = math.isqrt(positions.shape[1] - 1)
    rows, columns = height // patch, width // patch
    if rows * columns == side * side and height == width:
        return positions
    grid = positions[:, 1:].reshape(1, side, side, -1).permute(0, 3, 1, 2)
    scale = ((rows + 0.1) / side, (columns + 0.1) / side)
    grid = F.interpolate(grid, scale_factor=scale, mode="bicubic", align_corners=False)
    return torch.cat([positions[:, :1], grid.permute(0, 2, 3, 1).flatten(1, 2)], dim=1)


@lru_cache(maxsize=2)
def _clip(folder: Path) -> Any:
    from transformers import CLIPVisionModelWithProjection

    with _reading(folder):
        network = CLIPVisionModelWithProjection.from_pretrained(folder, local_files_only=True)
    return network.eval().requires_grad_(False).to(_device())


@lru_cache(maxsize=1)
def _aesthetic_head(file: Path) -> Any:
    width = read_state(file).get("weight", torch.zeros(1, 768)).shape[-1]
    return _fill(nn.Linear(width, 1), file)


@lru_cache(maxsize=1)
def _musiq(file: Path) -> Any:
    names = read_state(file)
    layers = len({key.split(".")[2] for key in names if key.startswith("transformer_encoder.transformer.")})
    inner = names.get(
        "transformer_encoder.transformer.encoderblock_0.mlp.fc1.weight", torch.zeros(1152, 1)
    ).shape[0]
    return _fill(MUSIQ(layers=layers or 14, inner=inner), file)


@lru_cache(maxsize=1)
def _raft(file: Path) -> Any:
    return _fill(raft.RAFT(), file)


@lru_cache(maxsize=1)
def _amt(file: Path) -> Any:
    return _fill(amt.AMT(), file)


@lru_cache(maxsize=1)
def _viclip(file: Path) -> Any:
    return _fill(ViCLIP(viclip_shape(read_state(file))), file)


def viclip_shape(state: dict[str, Tensor]) -> Shape:
    """Sizes of a ViCLIP checkpoint; heads are 64 wide in every CLIP."""
    try:
        patches = state["vision_encoder.conv1.weight"]
        places = state["vision_encoder.positional_embedding"]
        words = state["text_encoder.token_embedding.weight"]
        context = state["text_encoder.positional_embedding"].shape[0]
        embedding = state["vision_encoder.proj"].shape[1]
    except KeyError as error:
        raise Undefined(f"viclip.safetensors does not fit the network: {error.args[0]} is missing") from error

    def layers(tower: str) -> int:
        prefix = f"{tower}.transformer.resblocks."
        return len({key.removeprefix(prefix).split(".")[0] for key in state if key.startswith(prefix)})

    vision, text = patches.shape[0], words.shape[1]
    return Shape(
        side=math.isqrt(places.shape[0] - 1) * patches.shape[-1],
        patch=patches.shape[-1],
        vision_width=vision,
        vision_layers=layers("vision_encoder"),
        vision_heads=max(1, vision // 64),
        text_width=text,
        text_layers=layers("text_encoder"),
        text_heads=max(1, text // 64),
        vocabulary=words.shape[0],
        context=context,
        embedding=embedding,
    )


# ------------------------------------------------------------------------------------------------- scores


def _features(frames: Frames, run: Callable[[Frames], Tensor]) -> Tensor:
    """Pre-processing and network over a few frames at a time, so that a long 4K clip is never whole in float32."""
    return torch.cat([run(frames[t : t + BATCH]) for t in range(0, len(frames), BATCH)])


def _subject_consistency(clip: Inputs) -> NetworkScore:
    need_frames(clip.frames, 2)
    network = _dino(find_folder("dino-vitb16", clip.weights))

    def run(frames: Frames) -> Tensor:
        images = preprocess.for_dino(frames, _device())
        return network(images, interpolate_pos_encoding=True).last_hidden_state[:, 0]

    return _consistency(_features(clip.frames, run))


def _background_consistency(clip: Inputs) -> NetworkScore:
    need_frames(clip.frames, 2)
    network = _clip(find_folder("clip-vit-b-32", clip.weights))
    return _consistency(_clip_features(clip.frames, network))


def _clip_features(frames: Frames, network: Any) -> Tensor:
    side = network.config.image_size
    return _features(frames, lambda x: network(preprocess.for_clip(x, _device(), side)).image_embeds)


def _consistency(features: Tensor) -> NetworkScore:
    value, series = feature_consistency(features.float().cpu().numpy())
    return NetworkScore(value, series, "likeness to the frame before and to the first", start=1)


def _motion_smoothness(clip: Inputs) -> NetworkScore:
    need_frames(clip.frames, 3)
    _need_side(clip.frames)
    network = _amt(find_file("amt-s", clip.weights))

    def guess(before: int, after: int) -> Floats:
        pair = preprocess.to_tensor(clip.frames[[before, after]], _device())
        return amt.interpolate(network, pair[:1], pair[1:]).cpu().numpy()

    value, series = smoothness.motion_smoothness(clip.frames, guess)
    return NetworkScore(value, series, "likeness of dropped frame to its guess", start=1, stride=2)


def _raft_lengths(clip: Inputs) -> dynamics.Magnitude:
    """RAFT's flow length of a pair, each pair computed once."""
    need_frames(clip.frames, 2)
    _need_side(clip.frames)
    network = _raft(find_file("raft-things", clip.weights))

    def magnitude(source: int, target: int) -> Floats:
        key = (source, target)
        if key not in clip.lengths:
            pair = preprocess.to_tensor(clip.frames[[source, target]], _device())
            clip.lengths[key] = raft.flow_length(network, pair[:1], pair[1:]).cpu().numpy()
        return clip.lengths[key]

    return magnitude


def _dynamic_degree(clip: Inputs) -> NetworkScore:
    value, series = dynamics.dynamic_degree(clip.frames, clip.fps, _raft_lengths(clip))
    return NetworkScore(value, series, "largest 5 % of flow, pixels", stride=max(1, round(clip.fps / 8.0)))


def _static_clip(clip: Inputs) -> NetworkScore:
    value, series = dynamics.static_by_filter(clip.frames, _raft_lengths(clip))
    return NetworkScore(float(value), series, "largest 2 % of flow, pixels")


def _memory_bytes() -> int:
    """Memory of the device that the networks run on, all of it."""
    if torch.cuda.is_available():
        return int(torch.cuda.mem_get_info()[1])
    import psutil

    return int(psutil.virtual_memory().total)


def _need_side(frames: Frames) -> None:
    """VBench's flow networks divide by zero on clips below this size; there is no figure of VBench's to give.

    Nor is there one where the products of all pairs of places (an eighth of the size, float32, and the pyramid over
    them, 4/3) exceed the whole memory: a 4K frame takes 90 GB, and asking for that can end the process.
    """
    places = math.prod(math.ceil(side / 8) for side in frames.shape[1:3])
    needed = 4 * places * places * 4 // 3
    if needed > _memory_bytes():
        size = f"{frames.shape[2]}x{frames.shape[1]}"
        raise Undefined(
            f"VBench's network takes {needed / 1e9:.0f} GB of memory at {size}, more than there is; scale the clip "
            "down"
        )
    if min(frames.shape[1:3]) < LEAST_SIDE:
        size = f"{frames.shape[2]}x{frames.shape[1]}"
        raise Undefined(
            f"VBench's network is undefined below {LEAST_SIDE} pixels a side, the clip has {size}"
        )


def _aesthetic_quality(clip: Inputs) -> NetworkScore:
    network = _clip(find_folder("clip-vit-l-14", clip.weights))
    head = _aesthetic_head(find_file("laion-aesthetic", clip.weights))
    features = _clip_features(clip.frames, network)
    if features.shape[1] != head.in_features:
        raise Undefined(
            f"the aesthetic head takes {head.in_features} numbers, CLIP gives {features.shape[1]}"
        )
    series = (head(F.normalize(features.float(), dim=-1))[:, 0] / 10.0).cpu().numpy()
    return NetworkScore(float(series.mean()), series, "aesthetic quality of frame")


def _imaging_quality(clip: Inputs) -> NetworkScore:
    network = _musiq(find_file("musiq-spaq", clip.weights))
    one_by_one = [network(preprocess.for_musiq(clip.frames[[t]], _device())) for t in range(len(clip.frames))]
    series = torch.cat(one_by_one).cpu().numpy() / 100.0
    return NetworkScore(float(np.mean(series)), series, "imaging quality of frame")


def _overall_consistency(clip: Inputs) -> NetworkScore:
    if not clip.prompt:
        raise Undefined("needs the clip's prompt, none was given")
    network = _viclip(find_file("viclip", clip.weights))
    chosen = clip.frames[preprocess.middle_frames(len(clip.frames), FRAMES)]
    images = preprocess.for_clip(chosen, _device(), network.shape.side, whole_levels=True)
    video = F.normalize(network.vision_encoder(images.permute(1, 0, 2, 3)[None]).float(), dim=-1)
    tokens = fit_context(_tokens(clip.prompt, clip.weights), network.shape.context)
    text = F.normalize(network.text_encoder(torch.tensor([tokens], device=_device())).float(), dim=-1)
    return NetworkScore(float(video[0] @ text[0]), np.zeros(0), "")


def _tokens(prompt: str, weights: Path | None) -> list[int]:
    """CLIP's byte-pair tokens of a prompt with start and end; ViCLIP uses CLIP's vocabulary."""
    from transformers import CLIPTokenizer

    folder = None if weights is None else weights / "viclip-tokenizer"
    if folder is None or not folder.is_dir():
        try:
            folder = find_folder("clip-vit-l-14", weights)
        except Undefined as error:
            raise Undefined(
                "needs CLIP's tokenizer: put vocab.json and merges.txt of openai/clip-vit-large-patch14 into "
                "viclip-tokenizer/ of the weights folder"
            ) from error
    with _reading(folder):
        return list(CLIPTokenizer.from_pretrained(folder, local_files_only=True)(prompt)["input_ids"])


SCORES: dict[str, Callable[[Inputs], NetworkScore]] = {
    "subject_consistency": _subject_consistency,
    "background_consistency": _background_consistency,
    "motion_smoothness": _motion_smoothness,
    "dynamic_degree": _dynamic_degree,
    "static_clip": _static_clip,
    "aesthetic_quality": _aesthetic_quality,
    "imaging_quality": _imaging_quality,
    "overall_consistency": _overall_consistency,
}
