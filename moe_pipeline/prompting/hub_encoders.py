"""Text encoders of hub packs: what their denoisers read. The gate reads sentence features (encoder.py) instead."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from moe_pipeline.interfaces import TextFeatures


class SharedTokenizer:
    """A pack's tokenizer, for any number of threads.

    Fast tokenizers keep padding and truncation as state of their own between the two halves of a call: a text that
    is counted on one thread would take the padding from a batch that is encoded on another, without an error.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer, self._lock = tokenizer, threading.Lock()

    def __call__(self, *texts: Any, **options: Any) -> Any:
        """As the tokenizer itself."""
        with self._lock:
            return self._tokenizer(*texts, **options)


class ClipConditioner:
    """CLIP's token states (Radford et al., 2021, arXiv 2103.00020), padded to a fixed length, padding included.

    Stable Diffusion's line of models attends to the padding too, so nothing is masked out, and "no text" is the
    encoding of the empty string.
    """

    def __init__(self, tokenizer: Any, model: nn.Module, tokens: int) -> None:
        self.tokenizer, self.model, self.tokens = tokenizer, model, tokens

    def _ids(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        device = next(self.model.parameters()).device
        batch = self.tokenizer(
            list(texts), padding="max_length", max_length=self.tokens, truncation=True, return_tensors="pt"
        )
        return batch.input_ids.to(device), batch.attention_mask.to(device)

    @torch.inference_mode()
    def __call__(self, texts: Sequence[str]) -> TextFeatures:
        """Encode a batch: tokens (B, L, D) in the model's precision, mask (B, L) all True, pooled (B, D)."""
        ids, _ = self._ids(texts)
        states = self.model(input_ids=ids).last_hidden_state
        mask = torch.ones(states.shape[:2], dtype=torch.bool, device=states.device)
        return TextFeatures(states, mask, torch.nn.functional.normalize(states.float().mean(1), dim=-1))


class T5Conditioner(ClipConditioner):
    """UMT5's token states with zeros in place of the padding, which is what Wan was trained with."""

    @torch.inference_mode()
    def __call__(self, texts: Sequence[str]) -> TextFeatures:
        """Encode a batch: tokens (B, L, D), zero after the text; mask (B, L); pooled (B, D)."""
        ids, present = self._ids(texts)
        states = self.model(input_ids=ids, attention_mask=present).last_hidden_state
        mask = present.bool()
        states = torch.where(mask[..., None], states, torch.zeros_like(states))
        pooled = states.float().sum(1) / mask.sum(1, keepdim=True).clamp(min=1)
        return TextFeatures(states, mask, torch.nn.functional.normalize(pooled, dim=-1))
