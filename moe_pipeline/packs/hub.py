"""Hub packs on disk: where the weights of a repository lie, whether they are whole, and which classes they ask for.

Nothing is downloaded, no class is taken by name from a file, and no pickle is opened. What loads is in engine/hub.py.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from moe_pipeline.packs.files import verified
from moe_pipeline.packs.manifest import MANIFEST, read_manifest
from moe_pipeline.schema.errors import MoEverseError
from moe_pipeline.schema.hub_pack import HubLora, HubManifest

MODEL_INDEX = "model_index.json"
# The one name that repositories of a single network or LoRA have for their weights.
ONE_FILE = "diffusion_pytorch_model.safetensors"
# Variance-preserving schedules share alphas and timesteps, which is all that our own sampler takes from them.
DIFFUSION_SCHEDULERS = frozenset(
    {
        "DDIMScheduler", "DDPMScheduler", "DPMSolverMultistepScheduler", "EulerAncestralDiscreteScheduler",
        "EulerDiscreteScheduler", "LMSDiscreteScheduler", "PNDMScheduler",
    }
)  # fmt: skip
FLOW_SCHEDULERS = frozenset({"FlowMatchEulerDiscreteScheduler", "UniPCMultistepScheduler"})
# Parts of a repository that a pipeline lists and this program never loads.
IGNORED = frozenset({"feature_extractor", "image_encoder", "safety_checker"})
_PICKLES = (".bin", ".ckpt", ".pt", ".pth", ".pkl")
_CONFIGS = {"scheduler": "scheduler_config.json", "tokenizer": "tokenizer_config.json"}
_SHARD = re.compile(r"^[\w.-]+\.safetensors$")
_BLOB = re.compile(r"^[0-9a-f]{64}$")


@dataclass(frozen=True)
class ComponentFiles:
    """The weights of one component: the variant in its file names ("" or "fp16"), and the files."""

    variant: str
    files: tuple[Path, ...]


class HubPack:
    """A hub pack: its manifest, and the folder of weights where there is one.

    Args:
        folder: holds pack.yaml (and files of its own, such as LoRAs).
        manifest, manifest_sha256: what it says, and the hash of that file.
        weights: a folder in the hub's layout; None looks into the hub's local cache when weights are needed.
    """

    def __init__(
        self, folder: Path, manifest: HubManifest, manifest_sha256: str, *, weights: Path | None = None
    ) -> None:
        self.folder, self.manifest, self.manifest_sha256 = folder, manifest, manifest_sha256
        self._given = weights
        self.given = weights is not None  # somebody named this folder; else it is looked up in the cache

    # -------------------------------------------------------------------------------------------- where

    @property
    def weights(self) -> Path | None:
        """The folder in the hub's layout, or None where nothing was found."""
        return self._given or _cached_snapshot(self.manifest.repository, self.manifest.revision)

    def place(self, component: str) -> Path | None:
        """The folder of a component: inside the weights, or the cached repository that it is; None where neither is."""
        root = self.weights
        if root is not None and (root / component).is_dir():
            return root / component
        source = self.manifest.sources.get(component)
        if source is None:
            return None
        repository, folder = _split(source)
        snapshot = _cached_snapshot(repository, "main", f"{folder}config.json")
        return None if snapshot is None else snapshot / folder

    def lora_file(self, lora: HubLora) -> Path:
        """The file of an expert's LoRA: beside the manifest, in `loras/` of the weights, or in the hub's cache.

        Raises:
            MoEverseError: `component_missing`.
        """
        if lora.file is not None:
            return self.folder / lora.file.path
        assert lora.repository is not None
        name = lora.repository.rpartition("/")[2]
        local = None if self.weights is None else self.weights / "loras" / name / ONE_FILE
        if local is not None and local.is_file():
            return local
        cached = _cached_snapshot(lora.repository, "main", ONE_FILE)
        if cached is None:
            raise MoEverseError(
                "component_missing",
                f"The LoRA {lora.repository} of {self.manifest.id} is not here.",
                self._remedy(),
            )
        return cached / ONE_FILE

    def get_command(self) -> str:
        """The command that fetches the files of this pack into the hub's cache."""
        manifest = self.manifest
        revision = f" --revision {manifest.revision}" if manifest.revision != "main" else ""
        patterns = " ".join(f'--include "{pattern}"' for pattern in manifest.download)
        commands = [f"hf download {manifest.repository}{revision} {patterns}"]
        for repository, folder in map(_split, manifest.sources.values()):
            commands.append(f"hf download {repository} {folder}config.json {folder}{ONE_FILE}")
        loras = [expert.lora.repository for expert in manifest.experts if expert.lora is not None]
        commands += [f"hf download {name} {ONE_FILE}" for name in dict.fromkeys(loras) if name is not None]
        return " && ".join(commands)

    def missing(self) -> MoEverseError | None:
        """What keeps the pack from being loaded, as the error it would raise; None when all is here."""
        try:
            self.check()
        except MoEverseError as error:
            return error
        return None

    # -------------------------------------------------------------------------------------------- checks

    def check(self) -> Path:
        """The folder of weights, after everything that can be refused without loading was looked at.

        Raises:
            MoEverseError: `weights_missing`, `component_missing`, `pickle_refused`, `unknown_scheduler`,
                `unknown_component`, `weights_mismatch`, `pack_broken`; the sentence names the part and the remedy.
        """
        root = self.weights
        name = self.manifest.id
        if root is None:
            raise MoEverseError(
                "weights_missing",
                f"The weights of {name} are not here: neither a folder in the hub's layout nor the hub's cache has "
                f"{self.manifest.repository}.",
                self._remedy(),
            )
        index = _read_json(root / MODEL_INDEX, name)
        self._check_classes(index)
        for component, wanted in self.manifest.components.items():
            self._check_component(component, wanted)
        for expert in self.manifest.experts:
            if expert.lora is not None:
                self.lora_file(expert.lora)
        return root

    def _remedy(self) -> str:
        return f"Run `{self.get_command()}` (about {self.manifest.download_gb:g} GB)."

    def _check_classes(self, index: dict[str, Any]) -> None:
        manifest = self.manifest
        if index.get("_class_name") != manifest.pipeline:
            raise MoEverseError(
                "weights_mismatch",
                f"{MODEL_INDEX} says {str(index.get('_class_name'))[:60]!r}; the pack {manifest.id} is for "
                f"{manifest.pipeline}.",
                "Name the folder of the repository that the pack is for.",
            )
        self._check_noise_levels(index)
        fine_tunes = {expert.denoiser for expert in manifest.experts} - {manifest.denoiser}
        for name, wanted in manifest.components.items():
            if name in manifest.sources or (name not in index and name in fine_tunes):
                continue  # of another repository: this index does not list it, its own config.json says its class
            entry = index.get(name)
            if not (isinstance(entry, list) and len(entry) == 2 and all(isinstance(e, str) for e in entry)):
                raise MoEverseError(
                    "component_missing", f"{MODEL_INDEX} of {manifest.id} names no {name}.", self._remedy()
                )
            library, found = entry
            if name == "scheduler":
                self._check_scheduler(found)
            elif f"{library}.{found}" not in (wanted, wanted + "Fast"):
                raise MoEverseError(
                    "unknown_component",
                    f"{manifest.id} asks for {library}.{found} as its {name}; this program loads {wanted}.",
                    "Use the published repository; code of a repository is never run.",
                )

    def _check_noise_levels(self, index: dict[str, Any]) -> None:
        """Where a repository hands over from one denoiser to the next, its experts' spans have to meet there."""
        boundary = index.get("boundary_ratio")
        spans = [expert.noise_levels for expert in self.manifest.experts if expert.noise_levels is not None]
        if index.get("expand_timesteps") or (
            isinstance(boundary, int | float) and not any(boundary in span for span in spans)
        ):
            raise MoEverseError(
                "weights_mismatch",
                f"{MODEL_INDEX} hands over between denoisers at {boundary} in a way that the experts of "
                f"{self.manifest.id} do not.",
                "Give the experts in pack.yaml the noise_levels of this repository.",
            )

    def _check_scheduler(self, found: str) -> None:
        flow = self.manifest.components["scheduler"].rpartition(".")[2] in FLOW_SCHEDULERS
        known = FLOW_SCHEDULERS if flow else DIFFUSION_SCHEDULERS
        if found not in known:
            raise MoEverseError(
                "unknown_scheduler",
                f"{self.manifest.id} has the scheduler {found[:60]!r}, whose noise levels are not known here.",
                f"Known: {', '.join(sorted(known))}.",
            )

    def _check_component(self, component: str, wanted: str) -> None:
        folder = self.place(component)
        if folder is None:
            raise MoEverseError(
                "component_missing",
                f"The weights of {self.manifest.id} have no folder {component}/.",
                self._remedy(),
            )
        if component == "scheduler":
            _read_json(folder / _CONFIGS["scheduler"], self.manifest.id)
        elif component.startswith("tokenizer"):
            if not any(
                (folder / name).is_file() for name in ("tokenizer.json", "vocab.json", "spiece.model")
            ):
                raise MoEverseError(
                    "component_missing",
                    f"{component}/ of {self.manifest.id} holds no vocabulary.",
                    self._remedy(),
                )
        else:
            config = _read_json(folder / "config.json", self.manifest.id)
            found = str(config.get("_class_name", wanted.rpartition(".")[2]))
            if wanted.startswith("diffusers.") and found != wanted.rpartition(".")[2]:
                raise MoEverseError(
                    "unknown_component",
                    f"{component}/config.json of {self.manifest.id} is for {found[:60]!r}, not {wanted}.",
                    "Use the repository that the pack names.",
                )
            self.component_files(component, wanted)

    # -------------------------------------------------------------------------------------------- files

    def component_files(self, component: str, wanted: str) -> ComponentFiles:
        """The safetensors of a component: the full-precision ones, or the half-precision variant.

        Raises:
            MoEverseError: `pickle_refused` where there are pickles only, `component_missing` where there is nothing.
        """
        folder = self.place(component)
        if folder is None:
            raise MoEverseError(
                "component_missing", f"The weights of {self.manifest.id} have no {component}.", self._remedy()
            )
        stem = "model" if wanted.startswith("transformers.") else "diffusion_pytorch_model"
        for variant in ("", "fp16"):
            infix = f".{variant}" if variant else ""
            whole = folder / f"{stem}{infix}.safetensors"
            if whole.is_file():
                return ComponentFiles(variant, (whole,))
            for index in (f"{stem}.safetensors.index{infix}.json", f"{stem}{infix}.safetensors.index.json"):
                if (folder / index).is_file():
                    return ComponentFiles(variant, self._shards(folder, index))
        pickles = sorted(path.name for path in folder.iterdir() if path.suffix in _PICKLES)
        if pickles:
            raise MoEverseError(
                "pickle_refused",
                f"{component}/ of {self.manifest.id} holds its weights as a pickle ({pickles[0]}), which can run code "
                "when it is opened; only safetensors are read.",
                self._remedy(),
            )
        raise MoEverseError(
            "component_missing",
            f"{component}/ of {self.manifest.id} holds no weights: {stem}.safetensors is missing.",
            self._remedy(),
        )

    def _shards(self, folder: Path, index: str) -> tuple[Path, ...]:
        table = _read_json(folder / index, self.manifest.id).get("weight_map")
        names = sorted({str(name) for name in table.values()}) if isinstance(table, dict) else []
        for name in names:
            if not _SHARD.match(name) or not (folder / name).is_file():
                raise MoEverseError(
                    "component_missing",
                    f"{folder.name}/{index} of {self.manifest.id} names {name[:80]!r}, which is not there.",
                    self._remedy(),
                )
        if not names:
            raise MoEverseError(
                "pack_broken", f"{folder.name}/{index} of {self.manifest.id} names no file.", self._remedy()
            )
        return tuple(folder / name for name in names)

    def config(self, component: str) -> dict[str, Any] | None:
        """A component's configuration, or None while its weights are not here."""
        folder = self.place(component)
        if folder is None:
            return None
        config = _read_json(folder / _CONFIGS.get(component, "config.json"), self.manifest.id)
        return config | self.manifest.scheduler if component == "scheduler" else config

    def weight_files(self) -> list[Path]:
        """Every file of weights, after `check`."""
        self.check()
        found: list[Path] = []
        for component, wanted in self.manifest.components.items():
            if component != "scheduler" and not component.startswith("tokenizer"):
                found += self.component_files(component, wanted).files
        loras = (expert.lora for expert in self.manifest.experts)
        return [*found, *(self.lora_file(lora) for lora in loras if lora is not None)]

    @cached_property
    def sha256(self) -> str:
        """Hash over the manifest and every file of weights; of the manifest alone while they are not here.

        Files in the hub's cache are named by their hash, and `hf download --local-dir` notes it; others are read once.
        """
        digest = hashlib.sha256(self.manifest_sha256.encode())
        if self.missing() is None:
            root = self.check()
            for path in self.weight_files():
                digest.update(f"{path.parent.name}/{path.name} {_file_hash(path, root)}".encode())
        return digest.hexdigest()

    def verify(self) -> int:
        """Check what can be checked without loading; the bytes of the weights (their sizes, not read)."""
        for expert in self.manifest.experts:
            if expert.lora is not None and expert.lora.file is not None:
                verified(self.folder, expert.lora.file, self.manifest.id)
        return sum(path.stat().st_size for path in self.weight_files())


def manifest_for(weights: Path, shipped: Path) -> tuple[Path, HubManifest, str]:
    """The shipped manifest of a bare folder of weights: (its folder, manifest, hash), found by the pipeline's class.

    Two packs may share a pipeline (Wan 2.1 and 2.2 do): the one with the same components is taken first.

    Raises:
        MoEverseError: `unknown_pipeline` where no shipped manifest is for that class.
    """
    index = _read_json(weights / MODEL_INDEX, weights.name)
    name = str(index.get("_class_name"))
    listed = {
        part
        for part, entry in index.items()
        if isinstance(entry, list) and part not in IGNORED and any(item is not None for item in entry)
    }
    known: dict[str, list[tuple[Path, HubManifest, str]]] = {}
    for path in sorted(shipped.glob(f"*/{MANIFEST}")):
        manifest, sha256 = read_manifest(path.parent)
        if isinstance(manifest, HubManifest):
            known.setdefault(manifest.pipeline, []).append((path.parent, manifest, sha256))
    if name not in known:
        raise MoEverseError(
            "unknown_pipeline",
            f"{weights.name}/{MODEL_INDEX} is for {name[:60]!r}, which no pack here describes.",
            f"Known: {', '.join(sorted(known))}; or write a pack.yaml beside it (docs/packs.md).",
        )
    return min(
        known[name], key=lambda found: len(listed ^ (set(found[1].components) - set(found[1].sources)))
    )


def _split(source: str) -> tuple[str, str]:
    """`owner/name/folder` -> ("owner/name", "folder/"), with an empty folder for the root."""
    owner, name, *folder = source.split("/")
    return f"{owner}/{name}", f"{folder[0]}/" if folder else ""


def _cached_snapshot(repository: str, revision: str, file: str = MODEL_INDEX) -> Path | None:
    """The snapshot of a repository that holds `file` at its root in the hub's local cache; never a request."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(repository, file, revision=revision)
    return Path(found).parents[file.count("/")] if isinstance(found, str) else None


def _file_hash(path: Path, root: Path) -> str:
    """sha256 of a file: from its name in the hub's cache, from what `hf download --local-dir` noted, or by reading."""
    target = path.resolve()
    if path.is_symlink() and _BLOB.match(target.name):
        return target.name
    if path.is_relative_to(root):
        note = root / ".cache" / "huggingface" / "download" / f"{path.relative_to(root)}.metadata"
        lines = note.read_text(encoding="utf-8").split() if note.is_file() else []
        # commit, hash, time of the download: a file that was written later is another one
        if len(lines) == 3 and _BLOB.match(lines[1]) and target.stat().st_mtime <= float(lines[2]):
            return lines[1]
    with target.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _read_json(path: Path, pack: str) -> dict[str, Any]:
    place = f"{pack}: {path.parent.name}/{path.name}" if path.name != MODEL_INDEX else f"{pack}: {path.name}"
    try:
        data = json.loads(path.read_bytes())
    except OSError as error:
        raise MoEverseError(
            "component_missing", f"{place} is missing.", "Fetch the repository again."
        ) from error
    except (ValueError, RecursionError) as error:
        raise MoEverseError(
            "pack_broken", f"{place} is not valid JSON.", "Fetch the repository again."
        ) from error
    if not isinstance(data, dict):
        raise MoEverseError("pack_broken", f"{place} holds no mapping.", "Fetch the repository again.")
    return data
