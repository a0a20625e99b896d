"""Small random checkpoints in exactly the layout of hub repositories, saved by diffusers' own `save_pretrained`."""

import json
import string
from pathlib import Path
from typing import Any

import torch

WIDTH = 16  # of the text encoder


def write_clip_tokenizer(folder: Path) -> None:
    """vocab.json and merges.txt as CLIP has them: every printable letter, inside and at the end of a word."""
    letters = string.ascii_lowercase + string.digits + string.punctuation
    pieces = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({piece: index for index, piece in enumerate(pieces)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    special = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}
    (folder / "special_tokens_map.json").write_text(json.dumps(special | {"pad_token": "!"}))
    config = special | {"pad_token": "!", "model_max_length": 77, "tokenizer_class": "CLIPTokenizer"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def clip_text_model() -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel

    config = CLIPTextConfig(
        vocab_size=140, hidden_size=WIDTH, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=77, bos_token_id=136, eos_token_id=137, pad_token_id=0,
    )  # fmt: skip
    return CLIPTextModel(config)


def small_unet() -> Any:
    from diffusers import UNet3DConditionModel

    return UNet3DConditionModel(
        sample_size=8, block_out_channels=(8, 8), norm_num_groups=4, layers_per_block=1,
        cross_attention_dim=WIDTH, attention_head_dim=4,
        down_block_types=("CrossAttnDownBlock3D", "DownBlock3D"), up_block_types=("UpBlock3D", "CrossAttnUpBlock3D"),
    )  # fmt: skip


def small_image_autoencoder() -> Any:
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=(4, 4, 4, 4), down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4, latent_channels=4, norm_num_groups=2, layers_per_block=1,
        sample_size=64,
    )  # fmt: skip


def ddim(**changes: Any) -> Any:
    """The scheduler of the published repository: its scheduler_config.json as it stands."""
    from diffusers import DDIMScheduler

    published = dict(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False,
        set_alpha_to_one=False, steps_offset=1, prediction_type="epsilon",
    )  # fmt: skip
    return DDIMScheduler(**(published | changes))


def write_modelscope(folder: Path, seed: int = 0) -> Path:
    """`ali-vilab/text-to-video-ms-1.7b` with random weights of tiny widths."""
    from diffusers import TextToVideoSDPipeline
    from transformers import CLIPTokenizer

    write_clip_tokenizer(folder / "tokenizer")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        pipeline = TextToVideoSDPipeline(
            vae=small_image_autoencoder(),
            text_encoder=clip_text_model(),
            tokenizer=CLIPTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True),
            unet=small_unet(),
            scheduler=ddim(),
        )
    pipeline.save_pretrained(folder, safe_serialization=True)
    (folder / "tokenizer" / "tokenizer.json").unlink(missing_ok=True)  # the published one has none
    write_clip_tokenizer(folder / "tokenizer")
    return folder
