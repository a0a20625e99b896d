"""Write the weights of a pack into training folders, so that training goes on where checkpoints are gone.

    python -m training.unpack --pack assets/packs/tiny-worlds --out checkpoints/shipped
    python -m training.experts --role single --start checkpoints/shipped/single --start-averaged ...

The folders carry no state of an optimiser: a run starts from them with `--start` and does not continue them.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from safetensors.torch import save_file
from torch import nn

from moe_pipeline.engine import Engine, EngineConfig
from moe_pipeline.packs import open_pack
from moe_pipeline.schema.pack import TrainingRecord


def _write(folder: Path, module: object, training: TrainingRecord | None) -> None:
    assert isinstance(module, nn.Module)  # a denoiser is a protocol to whoever only calls it
    folder.mkdir(parents=True, exist_ok=True)
    weights = {n: p.detach().float().cpu().contiguous() for n, p in module.named_parameters()}
    save_file(weights, folder / "ema.safetensors")
    seen = training or TrainingRecord(samples=0, minutes=0.0)
    facts = {"samples": seen.samples, "minutes": seen.minutes}
    (folder / "summary.json").write_text(json.dumps(facts, indent=1))
    spent = {"samples": seen.samples, "spent_s": 60.0 * seen.minutes}
    (folder / "facts.json").write_text(json.dumps(spent, indent=1))


def _write_whole(folder: Path, name: str, module: object, training: TrainingRecord | None) -> None:
    """Gate and probe depend on captions and encoder alone, so they may be packed again as they are."""
    assert isinstance(module, nn.Module)
    folder.mkdir(parents=True, exist_ok=True)
    save_file({n: t.detach().cpu().contiguous() for n, t in module.state_dict().items()}, folder / name)
    seen = training or TrainingRecord(samples=0, minutes=0.0)
    (folder / "summary.json").write_text(seen.model_dump_json(indent=1, exclude_defaults=True))


def unpack(pack: Path, out: Path) -> None:
    """`autoencoder`, `single`, `expert-DOMAIN`, `gate` and (where it has one) `probe` folders of a pack, float32."""
    engine = Engine(open_pack(pack), EngineConfig(dtype="fp32", torch_device="cpu"))
    manifest = engine.pack.manifest

    _write(out / "autoencoder", engine.autoencoder, manifest.autoencoder.training)
    _write(out / "single", engine.denoiser(manifest.generalist.id), manifest.generalist.training)
    for expert in manifest.experts:
        _write(out / f"expert-{expert.domain}", engine.denoiser(expert.id), expert.training)
    _write_whole(out / "gate", "gate.safetensors", engine.gate, manifest.gate.training)
    if manifest.probe is not None:
        _write_whole(out / "probe", "probe.safetensors", engine.probe, manifest.probe.training)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--pack", required=True, type=Path)
    parser.add_argument("--out", required=True, type=Path)
    arguments = parser.parse_args()
    unpack(arguments.pack, arguments.out)


if __name__ == "__main__":
    main()
