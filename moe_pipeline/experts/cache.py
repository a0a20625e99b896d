"""Loaded denoisers under a byte budget, keyed by the content of their files."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable

from torch import nn


class ExpertCache:
    """Least recently used modules are dropped when the budget is exceeded; the newest always stays.

    One object, owned by whoever builds the pipelines and passed in; safe to share between threads.
    """

    def __init__(self, byte_budget: int = 2 * 1024**3) -> None:
        self.byte_budget = byte_budget
        self._modules: OrderedDict[str, tuple[nn.Module, int]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: str, load: Callable[[], nn.Module]) -> nn.Module:
        """The module under `key`, loaded by `load` if it is not there."""
        with self._lock:
            if key in self._modules:
                self._modules.move_to_end(key)
                return self._modules[key][0]
            module = load()
            size = sum(p.numel() * p.element_size() for p in module.parameters())
            self._modules[key] = (module, size)
            while self.held_bytes > self.byte_budget and len(self._modules) > 1:
                self._modules.popitem(last=False)
            return module

    @property
    def held_bytes(self) -> int:
        """Bytes of the parameters held now."""
        return sum(size for _, size in self._modules.values())
