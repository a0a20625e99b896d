"""Packs: a folder with `pack.yaml` and safetensors files, checked against their hashes when they are read."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

import yaml
from pydantic import ValidationError

from moe_pipeline.schema.errors import MoEverseError, from_validation
from moe_pipeline.schema.pack import PACK_SCHEMA_VERSION, Component, PackFile, PackManifest

if TYPE_CHECKING:
    from torch import Tensor

MANIFEST = "pack.yaml"
EMBEDDED = Path(__file__).resolve().parents[2] / "assets" / "packs" / "tiny-worlds"
_RESTORE = "Restore the pack, for example with a fresh clone of the project."


class Pack:
    """A pack on disk: the manifest, and the tensors of any component on demand."""

    def __init__(self, folder: Path, manifest: PackManifest, sha256: str) -> None:
        self.folder, self.manifest, self.sha256 = folder, manifest, sha256

    def tensors(self, component: Component) -> dict[str, Tensor]:
        """All tensors of a component, in the precision they are stored in.

        Raises:
            MoEverseError: a file is missing, altered or truncated; the sentence names it.
        """
        from safetensors.torch import load

        tensors: dict[str, Tensor] = {}
        for file in component.files:
            tensors |= load(self._verified(file))
        return tensors

    def _verified(self, file: PackFile) -> bytes:
        path = self.folder / file.path
        name = f"{self.manifest.id}/{file.path}"
        try:
            content = path.read_bytes()
        except OSError as error:
            raise MoEverseError("pack_file_missing", f"Pack file {name} is missing.", _RESTORE) from error
        if len(content) != file.bytes:
            raise MoEverseError(
                "pack_file_truncated",
                f"Pack file {name} has {len(content)} bytes instead of {file.bytes}.",
                _RESTORE,
            )
        if hashlib.sha256(content).hexdigest() != file.sha256:
            raise MoEverseError(
                "pack_file_altered", f"Pack file {name} does not match its checksum.", _RESTORE
            )
        return content

    def verify(self) -> int:
        """Check every file of the pack; the number of bytes read."""
        manifest = self.manifest
        parts = (
            manifest.autoencoder,
            manifest.preview,
            manifest.generalist,
            *manifest.experts,
            manifest.gate,
        )
        return sum(len(self._verified(file)) for part in parts for file in part.files)


def open_pack(folder: Path | None = None) -> Pack:
    """Read a pack's manifest; None opens the embedded pack. Weights are read later, when they are needed.

    Raises:
        MoEverseError: no manifest, not YAML, a key that is missing, wrong or unknown, or a newer version.
    """
    folder = EMBEDDED if folder is None else folder
    path = folder / MANIFEST
    try:
        content = path.read_bytes()
    except OSError as error:
        raise MoEverseError(
            "pack_missing", f"There is no pack in {folder.name or folder}: {MANIFEST} is missing.", _RESTORE
        ) from error
    try:
        data = yaml.safe_load(content)
    except yaml.YAMLError as error:
        raise MoEverseError(
            "pack_broken", f"{folder.name}/{MANIFEST} is not valid YAML.", _RESTORE
        ) from error
    if not isinstance(data, dict):
        raise MoEverseError("pack_broken", f"{folder.name}/{MANIFEST} does not hold a mapping.", _RESTORE)
    version = data.get("schema_version")
    if isinstance(version, int) and version > PACK_SCHEMA_VERSION:
        raise MoEverseError(
            "pack_newer",
            f"{folder.name}/{MANIFEST} has schema_version {version}; this program reads {PACK_SCHEMA_VERSION}.",
            "Update MoEverse to use this pack.",
        )
    try:
        manifest = PackManifest.model_validate(data)
    except ValidationError as error:
        raise from_validation(
            error, code="pack_broken", where=f"{folder.name}/{MANIFEST}", remedy="Correct the key."
        ) from error
    return Pack(folder, manifest, hashlib.sha256(content).hexdigest())
