"""Reading `pack.yaml` of any kind: YAML, version, schema, and one sentence for whatever is wrong with it."""

from __future__ import annotations

import hashlib
from pathlib import Path

import yaml
from pydantic import ValidationError

from moe_pipeline.schema.errors import MoEverseError, from_validation
from moe_pipeline.schema.hub_pack import HubManifest
from moe_pipeline.schema.pack import PACK_SCHEMA_VERSION, PackManifest

MANIFEST = "pack.yaml"
RESTORE = "Restore the pack, for example with a fresh clone of the project."
# PyYAML lets the errors of its own constructors through: `!!int x`, a 13th month, a thousand open brackets.
_YAML_ERRORS = (yaml.YAMLError, ValueError, LookupError, AttributeError, TypeError, RecursionError)
_KINDS: dict[str, type[PackManifest] | type[HubManifest]] = {"embedded": PackManifest, "hub": HubManifest}


def read_manifest(folder: Path) -> tuple[PackManifest | HubManifest, str]:
    """The manifest in a folder and the hash of its file.

    Raises:
        MoEverseError: no manifest, not YAML, a key that is missing, wrong or unknown, or a newer version.
    """
    path = folder / MANIFEST
    name = f"{folder.resolve().name}/{MANIFEST}"
    try:
        content = path.read_bytes()
    except OSError as error:
        raise MoEverseError(
            "pack_missing",
            f"There is no pack in {(folder.name or str(folder))[:40]}: {MANIFEST} is missing.",
            "Name a pack's folder, a folder of weights with its model_index.json, or an id that `packs` lists; a pack "
            "of the project comes back with a fresh clone.",
        ) from error
    try:
        data = yaml.safe_load(content)
    except _YAML_ERRORS as error:
        raise MoEverseError("pack_broken", f"{name} is not valid YAML.", RESTORE) from error
    if not isinstance(data, dict):
        raise MoEverseError("pack_broken", f"{name} does not hold a mapping.", RESTORE)
    _check_version(data.get("schema_version"), name)
    kind = data.get("kind", "embedded")
    if not isinstance(kind, str) or kind not in _KINDS:
        raise MoEverseError(
            "pack_broken",
            f"{name}: kind must be one of {', '.join(_KINDS)}, got {str(kind)[:40]!r}.",
            "Correct the key.",
        )
    try:
        manifest = _KINDS[kind].model_validate(data)
    except ValidationError as error:
        raise from_validation(error, code="pack_broken", where=name, remedy="Correct the key.") from error
    return manifest, hashlib.sha256(content).hexdigest()


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
