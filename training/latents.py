"""Encode rendered clips and their captions once, so that denoisers train from memory maps.

    python -m training.latents --data data/train --autoencoder checkpoints/autoencoder --out data/train-latents

For each shard: `shard-NNNNN.latents.npy` (float16, n x 2 x 16 x 4 x 16 x 16; the second of each pair is the
mirrored clip) and `shard-NNNNN.text.npy` (float16, n x 2 x captions x tokens x 384; the mirrored clip's captions
have left and right exchanged) with `shard-NNNNN.mask.npy`. Shards already encoded are kept.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file
from tqdm import tqdm

from moe_pipeline.atomic import replacing
from moe_pipeline.diffusion.autoencoder import VideoAutoencoder, to_model_range
from moe_pipeline.engine import Engine, EngineConfig
from moe_pipeline.packs import open_pack
from moe_pipeline.prompting.encoder import MiniLMEncoder
from moe_pipeline.schema.errors import MoEverseError
from training.worlds.attributes import SceneAttributes
from training.worlds.captions import captions

TEXT_TOKENS = 32


def mirrored(caption: str) -> str:
    """The caption of the mirrored clip: left and right exchanged."""
    swap = {"left": "right", "right": "left"}

    def exchange(match: re.Match[str]) -> str:
        return match.group(1) + swap[match.group(2).lower()]

    return re.sub(r"(\b)(left|right)(?=\b|wards?\b|-hand\b|most\b)", exchange, caption, flags=re.IGNORECASE)


def load_autoencoder(folder: Path, device: torch.device) -> VideoAutoencoder:
    """The averaged weights of an autoencoder's training folder, in bf16."""
    model = VideoAutoencoder()
    final = folder / "ema.safetensors"
    if final.exists():
        state = load_file(final)
    else:
        everything = load_file(folder / "state.safetensors")
        state = {n[4:]: t for n, t in everything.items() if n.startswith("ema.")}
    model.load_state_dict(state)
    return model.bfloat16().to(device).eval()


def write_array(path: Path, array: npt.NDArray[Any]) -> None:
    """Save an array in one go: a file that is there is whole."""
    with replacing(path) as part, part.open("wb") as file:
        np.save(file, array)


def claim(out: Path, model: VideoAutoencoder) -> None:
    """Note in `out` whose latents it holds: shards that are there already are kept, so they must be of this encoder.

    Raises:
        MoEverseError: `stale_latents`; the folder is of another encoder.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        if name.startswith("encode_"):  # the decoder may be trained on: latents stay valid
            digest.update(name.encode() + tensor.to("cpu", torch.float32).numpy().tobytes())
    path, ours = out / "encoder.sha256", digest.hexdigest()
    if path.exists() and path.read_text().strip() != ours:
        raise MoEverseError(
            "stale_latents",
            f"The latents in {out} were made by another autoencoder.",
            "Name another folder, or remove this one.",
        )
    with replacing(path) as part:
        part.write_text(ours + "\n")


@torch.inference_mode()
def encode_text(frames: Path, out: Path, encoder: MiniLMEncoder, places: bool = False) -> None:
    """Captions of one shard, plain and mirrored, beside its facts; kept when they are there already.

    With `places` each clip gets as many captions more, which all say where its subject stands.
    """
    if (out / f"{frames.stem}.mask.npy").exists():
        return
    facts = [json.loads(line) for line in frames.with_suffix(".jsonl").read_text().splitlines()]
    for fact in facts if places else []:
        attributes, rng = (
            SceneAttributes.from_dict(fact["attributes"]),
            np.random.default_rng([fact["seed"], 1]),
        )
        fact["captions"] += captions(attributes, rng, len(fact["captions"]), places=True)
    texts, masks = [], []
    for fact in facts:
        said = fact["captions"]
        both = [*said, *[mirrored(c) for c in said]]
        different = list(
            dict.fromkeys(both)
        )  # most captions name no side, so they are their own mirror image
        features = encoder(different)
        rows = [different.index(text) for text in both]
        shape = (2, len(said), encoder.tokens)
        texts.append(features.tokens[rows].reshape(*shape, -1).half().cpu().numpy())
        masks.append(features.mask[rows].reshape(shape).cpu().numpy())
    (out / f"{frames.stem}.jsonl").write_text("\n".join(json.dumps(fact) for fact in facts))
    write_array(out / f"{frames.stem}.text.npy", np.stack(texts))
    write_array(out / f"{frames.stem}.mask.npy", np.stack(masks))


@torch.inference_mode()
def encode_shard(frames: Path, out: Path, model: VideoAutoencoder) -> None:
    """Latents of one shard, plain and mirrored."""
    device = next(model.parameters()).device
    latents = []
    for clip in np.load(frames, mmap_mode="r"):
        pair = torch.from_numpy(np.stack([clip, clip[:, :, ::-1]])).to(device)
        latents.append(model.encode(to_model_range(pair).bfloat16()).half().cpu().numpy())
    write_array(
        out / f"{frames.stem}.latents.npy", np.stack(latents)
    )  # last: its presence means that all is there


class LatentSet:
    """Encoded clips of one or more folders as memory maps; `refresh` picks up new shards.

    Args:
        folders: where the shards are.
        domain: keep the clips of one domain alone.
        shard: pattern of the shards' stems.
    """

    def __init__(self, *folders: Path, domain: str | None = None, shard: str = "shard-*") -> None:
        self.folders, self.domain, self.shard = folders, domain, shard
        self._latents: list[npt.NDArray[Any]] = []
        self._texts: list[npt.NDArray[Any]] = []
        self._masks: list[npt.NDArray[Any]] = []
        self.facts: list[dict[str, Any]] = []
        self._where: list[tuple[int, int]] = []
        self._seen: set[Path] = set()
        self.refresh()

    def refresh(self) -> int:
        for path in (p for folder in self.folders for p in sorted(folder.glob(f"{self.shard}.latents.npy"))):
            if path in self._seen:
                continue
            self._seen.add(path)
            stem = path.name.removesuffix(".latents.npy")
            facts = [json.loads(line) for line in (path.parent / f"{stem}.jsonl").read_text().splitlines()]
            self._latents.append(np.load(path, mmap_mode="r"))
            self._texts.append(np.load(path.parent / f"{stem}.text.npy", mmap_mode="r"))
            self._masks.append(np.load(path.parent / f"{stem}.mask.npy", mmap_mode="r"))
            for row, fact in enumerate(facts):
                if self.domain is None or self.domain in fact["domains"]:
                    self._where.append((len(self._latents) - 1, row))
                    self.facts.append(fact)
        return len(self)

    def __len__(self) -> int:
        return len(self._where)

    @property
    def captions(self) -> int:
        """Captions that every clip has."""
        return min(int(texts.shape[2]) for texts in self._texts)

    def item(self, index: int, flip: int, caption: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Latents (16, 4, 16, 16), text states (L, 384) and mask (L,) of one clip."""
        shard, row = self._where[index]
        return (
            torch.from_numpy(self._latents[shard][row, flip].astype(np.float32)),
            torch.from_numpy(self._texts[shard][row, flip, caption].astype(np.float32)),
            torch.from_numpy(self._masks[shard][row, flip, caption].copy()),
        )

    def batch(self, rng: np.random.Generator, count: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Random clips, mirrored or not, under a random one of their captions each."""
        items = []
        for i in rng.integers(len(self), size=count):
            captions = self._texts[self._where[int(i)][0]].shape[2]  # some folders have more than others
            items.append(self.item(int(i), int(rng.integers(2)), int(rng.integers(captions))))
        latents, texts, masks = zip(*items, strict=True)
        return torch.stack(latents), torch.stack(texts), torch.stack(masks)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", required=True, help="folder of rendered shards")
    source = parser.add_mutually_exclusive_group()
    source.add_argument(
        "--autoencoder", help="training folder of the autoencoder; without it only texts are encoded"
    )
    source.add_argument("--pack", help="folder of a pack, to use its autoencoder")
    parser.add_argument("--out", required=True)
    parser.add_argument(
        "--places", action="store_true", help="as many captions more, which say where the subject stands"
    )
    parser.add_argument("--part", type=int, default=0, help="which of --parts shares of the shards to encode")
    parser.add_argument("--parts", type=int, default=1, help="processes that share the work")
    arguments = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    out = Path(arguments.out)
    out.mkdir(parents=True, exist_ok=True)
    encoder = MiniLMEncoder(TEXT_TOKENS, torch_device=device.type)
    model = None
    if arguments.pack:
        model = Engine(open_pack(Path(arguments.pack)), EngineConfig(dtype="bf16")).autoencoder
    elif arguments.autoencoder:
        model = load_autoencoder(Path(arguments.autoencoder), device)
    if model is not None:
        try:
            claim(out, model)
        except MoEverseError as error:
            print(error.sentence(), file=sys.stderr)
            return 2
    shards = sorted(Path(arguments.data).glob("shard-*.jsonl"))[arguments.part :: arguments.parts]
    for facts in tqdm(shards, unit="shard"):
        encode_text(facts.with_suffix(".npy"), out, encoder, arguments.places)
        if model is not None and not (out / f"{facts.stem}.latents.npy").exists():
            encode_shard(facts.with_suffix(".npy"), out, model)
    return 0


if __name__ == "__main__":
    sys.exit(main())
