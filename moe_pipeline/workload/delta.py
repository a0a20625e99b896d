"""An expert as its difference from the generalist: what a node with the generalist has to fetch.

Each row of a matrix is rounded to 8 bits of its own largest difference, then deflated. The error of a weight
is at most 1/254 of the largest difference in its row, far below the rounding of bf16 for typical experts.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Mapping

import torch
from torch import Tensor

from moe_pipeline.schema.errors import MoEverseError

_HEADER = struct.Struct("<I")


def encode_delta(base: Mapping[str, Tensor], expert: Mapping[str, Tensor]) -> bytes:
    """The difference expert - base of two state dicts with the same names and shapes.

    Raises:
        MoEverseError: `not_branched`, where they are not of one architecture.
    """
    if set(base) != set(expert) or any(base[name].shape != expert[name].shape for name in base):
        raise MoEverseError(
            "not_branched",
            "The expert and the generalist do not have the same tensors.",
            "A difference exists only for experts that were branched from the generalist.",
        )
    names, parts = sorted(base), []
    for name in names:
        rows = (expert[name].float() - base[name].float()).reshape(_rows(base[name]), -1)  # (R, C)
        scale = (rows.abs().amax(dim=1, keepdim=True) / 127.0).clamp(min=1e-30)  # (R, 1)
        steps = torch.round(rows / scale).to(torch.int8)
        parts.append(scale.contiguous().numpy().tobytes() + steps.contiguous().numpy().tobytes())
    head = json.dumps({name: list(base[name].shape) for name in names}).encode()
    return _HEADER.pack(len(head)) + head + zlib.compress(b"".join(parts), level=6)


def apply_delta(base: Mapping[str, Tensor], delta: bytes) -> dict[str, Tensor]:
    """The expert's state in the base's formats.

    Raises:
        MoEverseError: `bad_delta`, where the bytes are damaged or belong to another base.
    """
    try:
        (length,) = _HEADER.unpack_from(delta)
        shapes = json.loads(delta[_HEADER.size : _HEADER.size + length])
        limit = sum(4 * _rows(tensor) + tensor.numel() for tensor in base.values())
        stream = zlib.decompressobj()
        body = stream.decompress(delta[_HEADER.size + length :], limit + 1)
        if (
            shapes != {name: list(tensor.shape) for name, tensor in base.items()}
            or len(body) != limit
            or not stream.eof
        ):
            raise ValueError("other tensors")
    except (struct.error, ValueError, zlib.error) as error:
        raise MoEverseError(
            "bad_delta",
            "The difference is damaged or belongs to another generalist.",
            "Fetch the whole expert.",
        ) from error
    state, offset = {}, 0
    for name in sorted(base):
        rows, count = _rows(base[name]), base[name].numel()
        scale = torch.frombuffer(bytearray(body[offset : offset + 4 * rows]), dtype=torch.float32)
        offset += 4 * rows
        steps = torch.frombuffer(bytearray(body[offset : offset + count]), dtype=torch.int8)
        offset += count
        change = steps.reshape(rows, -1).float() * scale[:, None]
        state[name] = (base[name].float() + change.reshape(base[name].shape)).to(base[name].dtype)
    return state


def delta_bytes(base: Mapping[str, Tensor], expert: Mapping[str, Tensor]) -> int:
    """Size of the encoded difference, the figure that a placement's migration uses."""
    return len(encode_delta(base, expert))


def _rows(tensor: Tensor) -> int:
    return tensor.shape[0] if tensor.dim() > 1 else 1
