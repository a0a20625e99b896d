"""Files that are there whole or not at all: whoever reads sees the old file or the whole new one, never a part."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from moe_pipeline.schema.errors import MoEverseError


@contextmanager
def replacing(path: Path | str) -> Iterator[Path]:
    """Yields an empty file beside `path` to write into; it becomes `path` when the block ends, and vanishes when the
    block raises. The folder is made where it is missing; the file ends with the name's own suffix.

    Raises:
        MoEverseError: `unwritable`; what was there before is untouched.
    """
    path = Path(path)
    part: Path | None = None
    try:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_name(f".{path.stem[:32]}-{secrets.token_hex(4)}.part{path.suffix}")
            # An ordinary file with the rights that the person's umask gives, where tempfile makes a private one.
            os.close(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
            yield part
            os.replace(part, path)
        except OSError as error:
            raise unwritable(path, error) from error
    except BaseException:  # a Ctrl-C in the middle, too, leaves nothing half-written
        if part is not None:
            with suppress(OSError):
                part.unlink(missing_ok=True)
        raise


def write_text(path: Path | str, text: str) -> None:
    """Write a text file as UTF-8 with its line ends as they are, on the disk before it takes the name.

    Raises:
        MoEverseError: `unwritable`; what was there before is untouched.
    """
    with replacing(path) as part, part.open("w", encoding="utf-8", newline="") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())


def unwritable(path: Path, error: OSError, code: str = "unwritable") -> MoEverseError:
    """One sentence for a file or folder that takes no writing."""
    reason = (error.strerror or "unknown reason").lower()
    shown = str(path)
    shown = shown if len(shown) <= 120 else f"{shown[:117]}..."
    return MoEverseError(
        code, f"{shown} cannot be written ({reason}).", "Name a folder that you may write to."
    )
