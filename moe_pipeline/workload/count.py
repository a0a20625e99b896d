"""Counts what a torch module computes, moves and holds, on the meta device: no weights, no arithmetic.

FLOPs are those of matrix products, convolutions and attention (torch's own formulas; a multiply-add counts
two). Bytes are what every operator reads and writes, operator by operator, as eager execution does. Peak
memory follows the life of every tensor. `scaled_dot_product_attention` counts as one fused operator.
"""

from __future__ import annotations

import copy
import math
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.flop_counter import FlopCounterMode

from moe_pipeline.schema.errors import MoEverseError

_ALLOCATIONS = ("empty", "new_empty", "empty_like", "empty_strided", "new_empty_strided")


@dataclass(frozen=True)
class ModuleCost:
    """One call of a module."""

    flops: int
    bytes_moved: int
    weight_bytes: int
    peak_memory_bytes: int  # weights, inputs and the largest set of tensors alive at once
    input_bytes: int
    output_bytes: int
    kernels: int  # operators that touch memory
    flops_by_operator: Mapping[str, int] = field(default_factory=dict)


def on_meta(module: nn.Module) -> nn.Module:
    """The module without its numbers: a copy on the meta device that shares no memory (or itself, if there)."""
    tensors = [*module.parameters(), *module.buffers()]
    if all(tensor.is_meta for tensor in tensors):
        return module
    # deepcopy finds these in its memo and so never copies a weight
    memo: dict[int, Any] = {}
    for tensor in tensors:
        shell = torch.empty_like(tensor, device="meta")
        memo[id(tensor)] = (
            nn.Parameter(shell, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else shell
        )
    return copy.deepcopy(module, memo)


def as_meta(value: Any) -> Any:
    """Every tensor in a nested value as a meta tensor of the same shape and type."""
    return tree_map(lambda item: item.to("meta") if isinstance(item, Tensor) else item, value)


def tensor_bytes(value: Any) -> int:
    """Bytes of all tensors in a nested value."""
    return sum(item.numel() * item.element_size() for item in tree_leaves(value) if isinstance(item, Tensor))


def module_bytes(module: nn.Module) -> int:
    """Bytes of parameters and buffers, shared ones once."""
    seen: dict[int, int] = {}
    for tensor in [*module.parameters(), *module.buffers()]:
        seen[id(tensor)] = tensor.numel() * tensor.element_size()
    return sum(seen.values())


class _Traffic(TorchDispatchMode):
    """Adds up bytes of operators and follows which tensors are alive."""

    def __init__(self, held: Iterable[Tensor]) -> None:
        super().__init__()
        self.bytes_moved = 0
        self.kernels = 0
        self.peak = 0
        self._alive = 0
        self._owners: Counter[int] = Counter()
        self._sizes: dict[int, int] = {}
        self._held = {_storage_key(tensor) for tensor in held}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        outputs = [item for item in tree_leaves(result) if isinstance(item, Tensor)]
        if not _is_view(func) and func.overloadpacket.__name__ not in _ALLOCATIONS:
            inputs = [item for item in tree_leaves((args, kwargs)) if isinstance(item, Tensor)]
            self.add_operator(inputs, outputs)
        for tensor in outputs:
            self._follow(tensor)
        return result

    def add_operator(self, inputs: Iterable[Tensor], outputs: Iterable[Tensor]) -> None:
        """Reads of the inputs, writes of the outputs."""
        self.kernels += 1
        self.bytes_moved += sum(map(_touched_bytes, inputs)) + sum(map(_touched_bytes, outputs))

    def _follow(self, tensor: Tensor) -> None:
        key = _storage_key(tensor)
        if key in self._held:
            return
        if self._owners[key] == 0:
            self._sizes[key] = tensor.untyped_storage().nbytes()
            self._alive += self._sizes[key]
            self.peak = max(self.peak, self._alive)
        self._owners[key] += 1
        weakref.finalize(tensor, self._release, key).atexit = False

    def _release(self, key: int) -> None:
        self._owners[key] -= 1
        if self._owners[key] == 0:
            self._alive -= self._sizes.pop(key)
            del self._owners[key]


class _FusedAttention(TorchFunctionMode):
    """Replaces attention by one operator: the meta device would spell out its score matrix."""

    def __init__(self, traffic: _Traffic) -> None:
        super().__init__()
        self.traffic = traffic
        self.flops = 0

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is not torch.nn.functional.scaled_dot_product_attention:
            return func(*args, **kwargs)
        names = ("query", "key", "value")
        query, key, value = [*args, *[kwargs[name] for name in names[len(args) :] if name in kwargs]][:3]
        out = query.new_empty((*query.shape[:-1], value.shape[-1]))
        pairs = math.prod(query.shape[:-1]) * key.shape[-2]  # batch, heads, queries x keys
        self.flops += 2 * pairs * (query.shape[-1] + value.shape[-1])
        self.traffic.add_operator((query, key, value), (out,))
        return out


def _storage_key(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _touched_bytes(tensor: Tensor) -> int:
    """Bytes an operator reads or writes: an expanded tensor is no larger than its storage."""
    return min(tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes())


def _is_view(func: Any) -> bool:
    """Does the operator only return another look at an input?"""
    aliases = [item.alias_info for item in func._schema.returns]
    return bool(aliases) and all(alias is not None and not alias.is_write for alias in aliases)


def count_call(call: Callable[..., Any], *inputs: Any, module: nn.Module, **named: Any) -> ModuleCost:
    """Counts one call of `call`, a method or function that uses `module`, which must be on meta.

    Raises:
        MoEverseError: `uncountable`, where the code needs the values of its tensors.
    """
    inputs, named = as_meta(inputs), as_meta(named)
    given = [item for item in tree_leaves((inputs, named)) if isinstance(item, Tensor)]
    weights = [*module.parameters(), *module.buffers()]
    traffic = _Traffic([*weights, *given])
    attention = _FusedAttention(traffic)
    flops = FlopCounterMode(display=False)
    try:
        with torch.no_grad(), flops, traffic, attention:
            output = call(*inputs, **named)
    except (NotImplementedError, RuntimeError) as error:
        raise MoEverseError(
            "uncountable",
            f"{type(module).__name__} cannot be counted without weights: {str(error)[:160]}.",
            "Count a module whose forward does not read the values of its tensors.",
        ) from error
    by_operator = {str(name): int(value) for name, value in flops.get_flop_counts().get("Global", {}).items()}
    if attention.flops:
        by_operator["scaled_dot_product_attention"] = attention.flops
    weight_bytes, input_bytes = module_bytes(module), tensor_bytes((inputs, named))
    return ModuleCost(
        flops=int(flops.get_total_flops()) + attention.flops,
        bytes_moved=traffic.bytes_moved,
        weight_bytes=weight_bytes,
        peak_memory_bytes=weight_bytes + input_bytes + traffic.peak,
        input_bytes=input_bytes,
        output_bytes=tensor_bytes(output),
        kernels=traffic.kernels,
        flops_by_operator=by_operator,
    )


def count_module(module: nn.Module, *inputs: Any, **named: Any) -> ModuleCost:
    """Counts `module(*inputs, **named)`; weights and inputs may be anywhere, only shapes and types matter."""
    shell = on_meta(module)
    return count_call(shell, *inputs, module=shell, **named)
