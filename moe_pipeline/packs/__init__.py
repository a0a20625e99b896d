"""Packs: a folder with `pack.yaml` and safetensors files, checked against their hashes when they are read.

An `embedded` pack brings all of its files. A `hub` pack (hub.py) describes a repository in the hub's layout, whose
weights lie in a folder or in the hub's local cache.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from moe_pipeline.packs.files import present, verified, verified_tensors
from moe_pipeline.packs.hub import MODEL_INDEX, HubPack, manifest_for
from moe_pipeline.packs.manifest import MANIFEST, read_manifest
from moe_pipeline.schema.errors import MoEverseError
from moe_pipeline.schema.hub_pack import HubManifest
from moe_pipeline.schema.pack import Component, PackFile, PackManifest

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "EMBEDDED",
    "MANIFEST",
    "HubPack",
    "Pack",
    "open_any_pack",
    "open_pack",
    "shipped_packs",
]

SHIPPED = Path(__file__).resolve().parents[2] / "assets" / "packs"
EMBEDDED = SHIPPED / "tiny-worlds"


class Pack:
    """An embedded pack on disk: the manifest, and the tensors of any component on demand."""

    def __init__(self, folder: Path, manifest: PackManifest, sha256: str) -> None:
        self.folder, self.manifest, self.sha256 = folder, manifest, sha256

    def tensors(self, component: Component) -> dict[str, Tensor]:
        """All tensors of a component, in the precision they are stored in.

        Raises:
            MoEverseError: a file is missing, altered, truncated or no safetensors; the sentence names it.
        """
        tensors: dict[str, Tensor] = {}
        for file in component.files:
            tensors |= verified_tensors(self.folder, file, self.manifest.id)
        return tensors

    def verify(self) -> int:
        """Check every file of the pack; the number of bytes read."""
        return sum(len(verified(self.folder, file, self.manifest.id)) for file in self.files())

    def require_files(self) -> None:
        """Refuse a pack that lacks a file or has one of the wrong size; reads none of them."""
        for file in self.files():
            present(self.folder, file, self.manifest.id)

    def files(self) -> list[PackFile]:
        """Every file that the manifest names."""
        manifest = self.manifest
        parts = (
            manifest.autoencoder,
            manifest.preview,
            manifest.generalist,
            *manifest.experts,
            manifest.gate,
            manifest.probe,
        )
        return [file for part in parts if part is not None for file in part.files]


def open_any_pack(folder: Path | None = None) -> Pack | HubPack:
    """Read a pack's manifest; None opens the embedded pack. Weights are read later, when they are needed.

    Args:
        folder: holds `pack.yaml`; or a repository in the hub's layout, which takes the shipped manifest of its
            pipeline; or, where there is no such folder, the id of a pack that ships with the project.

    Raises:
        MoEverseError: no manifest, not YAML, a key that is missing, wrong or unknown, or a newer version.
    """
    folder = EMBEDDED if folder is None else _by_id(folder)
    if not os.path.exists(folder / MANIFEST) and os.path.isfile(folder / MODEL_INDEX):
        return HubPack(*manifest_for(folder, SHIPPED), weights=folder)
    manifest, sha256 = read_manifest(folder)
    if isinstance(manifest, HubManifest):
        return HubPack(folder, manifest, sha256, weights=folder if (folder / MODEL_INDEX).is_file() else None)
    return Pack(folder, manifest, sha256)


def open_pack(folder: Path | None = None) -> Pack:
    """An embedded pack, for what needs its own components (training, conformance).

    Raises:
        MoEverseError: as `open_any_pack`, or the pack is of another kind.
    """
    pack = open_any_pack(folder)
    if isinstance(pack, HubPack):
        raise MoEverseError(
            "pack_kind",
            f"{pack.manifest.id} is a hub pack; this needs a pack that brings its own files.",
            "Name the folder of an embedded pack.",
        )
    return pack


def shipped_packs() -> list[Path]:
    """Folders of the packs that come with the project; the embedded one even when it is missing, to say so."""
    others = sorted(path.parent for path in SHIPPED.glob(f"*/{MANIFEST}"))
    return list(dict.fromkeys([EMBEDDED, *others]))


def _by_id(folder: Path) -> Path:
    """The folder itself, or the shipped pack of that id when nothing stands under this name."""
    # os.path, because the methods of Path raise where a name is too long or may not be looked at.
    shipped = SHIPPED / folder.name
    if len(folder.parts) == 1 and not os.path.exists(folder) and os.path.isfile(shipped / MANIFEST):
        return shipped
    return folder
