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
# PyYAML lets the errors of its own constructors through: `!!int x`, a 13th month, a thousand open brackets.
_YAML_ERRORS = (yaml.YAMLError, ValueError, LookupError, AttributeError, TypeError, RecursionError)


class Pack:
    """A pack on disk: the manifest, and the tensors of any component on demand."""

    def __init__(self, folder: Path, manifest: PackManifest, sha256: str) -> None:
        self.folder, self.manifest, self.sha256 = folder, manifest, sha256

    def tensors(self, component: Component) -> dict[str, Tensor]:
        """All tensors of a component, in the precision they are stored in.

        Raises:
            MoEverseError: a file is missing, altered, truncated or no safetensors; the sentence names it.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load

        tensors: dict[str, Tensor] = {}
        for file in component.files:
            content = self._verified(file)
            try:
                tensors |= load(content)
            except SafetensorError as error:
                raise MoEverseError(
                    "pack_broken",
                    f"Pack file {self.manifest.id}/{file.path} is not a safetensors file.",
                    _RESTORE,
                ) from error
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
            manifest.probe,
        )
        return sum(len(self._verified(file)) for part in parts if part is not None for file in part.files)


def open_pack(folder: Path | None = None) -> Pack:
    """Read a pack's manifest; None opens the embedded pack. Weights are read later, when they are needed.

    Raises:
        MoEverseError: no manifest, not YAML, a key that is missing, wrong or unknown, or a newer version.
    """
    folder = EMBEDDED if folder is None else folder
    path = folder / MANIFEST
    name = f"{folder.resolve().name}/{MANIFEST}"
    try:
        content = path.read_bytes()
    except OSError as error:
        raise MoEverseError(
            "pack_missing", f"There is no pack in {folder.name or folder}: {MANIFEST} is missing.", _RESTORE
        ) from error
    try:
        data = yaml.safe_load(content)
    except _YAML_ERRORS as error:
        raise MoEverseError("pack_broken", f"{name} is not valid YAML.", _RESTORE) from error
    if not isinstance(data, dict):
        raise MoEverseError("pack_broken", f"{name} does not hold a mapping.", _RESTORE)
    _check_version(data.get("schema_version"), name)
    try:
        manifest = PackManifest.model_validate(data)
    except ValidationError as error:
        raise from_validation(error, code="pack_broken", where=name, remedy="Correct the key.") from error
    return Pack(folder, manifest, hashlib.sha256(content).hexdigest())


def _check_version(version: object, name: str) -> None:
    """A missing version is left to the manifest's own check, which names the key."""
    if version is None or version == PACK_SCHEMA_VERSION:
        return
    if isinstance(version, int) and version > PACK_SCHEMA_VERSION:
        raise MoEverseError(
            "pack_newer",
            f"{name} has schema_version {version}; this program reads {PACK_SCHEMA_VERSION}.",
            "Update MoEverse to use this pack.",
        )
    raise MoEverseError(
        "pack_broken",
        f"{name}: schema_version must be {PACK_SCHEMA_VERSION}, got {str(version)[:40]!r}.",
        "Correct the key.",
    )
