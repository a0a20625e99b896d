"""Files of a pack, read whole and checked against their size and hash."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from moe_pipeline.packs.manifest import RESTORE
from moe_pipeline.schema.errors import MoEverseError
from moe_pipeline.schema.pack import PackFile

if TYPE_CHECKING:
    from torch import Tensor


def present(folder: Path, file: PackFile, pack: str) -> None:
    """Refuse a file that is missing or of another size than its manifest says, without reading it.

    Raises:
        MoEverseError: the sentence names the file.
    """
    name = f"{pack}/{file.path}"
    if not (folder / file.path).is_file():
        raise MoEverseError("pack_file_missing", f"Pack file {name} is missing.", RESTORE)
    size = (folder / file.path).stat().st_size
    if size != file.bytes:
        raise MoEverseError(
            "pack_file_truncated", f"Pack file {name} has {size} bytes instead of {file.bytes}.", RESTORE
        )


def verified(folder: Path, file: PackFile, pack: str) -> bytes:
    """The content of a file that is what its manifest says.

    Raises:
        MoEverseError: it is missing, truncated or altered; the sentence names it.
    """
    present(folder, file, pack)
    content = (folder / file.path).read_bytes()
    if hashlib.sha256(content).hexdigest() != file.sha256:
        raise MoEverseError(
            "pack_file_altered", f"Pack file {pack}/{file.path} does not match its checksum.", RESTORE
        )
    return content


def verified_tensors(folder: Path, file: PackFile, pack: str) -> dict[str, Tensor]:
    """All tensors of a safetensors file that is what its manifest says.

    Raises:
        MoEverseError: as `verified`, or the file is no safetensors.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    content = verified(folder, file, pack)
    try:
        return load(content)
    except SafetensorError as error:
        raise MoEverseError(
            "pack_broken", f"Pack file {pack}/{file.path} is not a safetensors file.", RESTORE
        ) from error
