"""Small random checkpoints in exactly the layout of hub repositories, saved by diffusers' own `save_pretrained`."""

import json
import string
import time
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch

from moe_pipeline.diffusion.sampler import sample
from moe_pipeline.engine.hub import GATE_WORD_PIECES
from moe_pipeline.pipeline import EngineConfig, MoEVideoPipeline
from moe_pipeline.prompting.encoder import MiniLMEncoder
from moe_pipeline.schema.errors import MoEverseError
from moe_pipeline.schema.request import SceneRequest

ENGINE = EngineConfig(torch_device="cpu", dtype="fp32")
WIDTH = 16  # of the text encoders


def opened(folder: Path) -> MoEVideoPipeline:
    """A pipeline of its own; only the gate's sentence encoder, which is no part of any of these packs, is shared."""
    pipeline = MoEVideoPipeline.from_pack(folder, ENGINE)
    pipeline.engine.parts["encoder"] = sentences()
    return pipeline


def drawn(pipeline: MoEVideoPipeline, request: SceneRequest) -> tuple[Any, list[int]]:
    """Frames of a request and the forward passes of its steps, without placement, metrics and record."""
    engine, resolved = pipeline.engine, pipeline.resolve(request)
    engine.require_weights()
    plan, gate = pipeline.plan(request), pipeline.gate(request)
    velocity = engine.velocity(resolved, plan, gate, engine.encoder([resolved.prompt]))
    steps = list(sample(engine.start(resolved), engine.noise_levels(resolved.steps), velocity))
    return engine.decode(steps[-1].x), [velocity.forward_passes(s.index, s.sigma) for s in steps]


@lru_cache(maxsize=1)
def sentences() -> MiniLMEncoder:
    return MiniLMEncoder(GATE_WORD_PIECES)


def refusal(call: Callable[[], object]) -> MoEverseError:
    with pytest.raises(MoEverseError) as caught:
        call()
    assert "\n" not in caught.value.sentence()
    return caught.value


class Busy:
    """A callable of a model that takes its time and notes how many threads were inside it at once."""

    def __init__(self, call: Callable[..., Any]) -> None:
        self.call, self.inside, self.most = call, 0, 0

    def __call__(self, *values: Any, **options: Any) -> Any:
        self.inside += 1
        self.most = max(self.most, self.inside)
        time.sleep(0.05)
        try:
            return self.call(*values, **options)
        finally:
            self.inside -= 1


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


def write_t5_tokenizer(folder: Path) -> None:
    """tokenizer.json as Wan's repository has it, with one piece a letter."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    pieces = ["<pad>", "</s>", "<unk>", "▁", *string.ascii_letters, *string.digits, *string.punctuation]
    model = models.Unigram([(piece, -float(index)) for index, piece in enumerate(pieces)], unk_id=2)
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    special = {"eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    config = special | {"tokenizer_class": "T5Tokenizer", "model_max_length": 512, "extra_ids": 0}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "special_tokens_map.json").write_text(json.dumps(special))


def umt5() -> Any:
    from transformers import UMT5Config, UMT5EncoderModel

    config = UMT5Config(
        vocab_size=128, d_model=WIDTH, d_kv=8, d_ff=32, num_layers=2, num_heads=2, feed_forward_proj="gated-gelu",
        pad_token_id=0, eos_token_id=1,
    )  # fmt: skip
    return UMT5EncoderModel(config)


def small_transformer() -> Any:
    from diffusers import WanTransformer3DModel

    return WanTransformer3DModel(
        num_attention_heads=2, attention_head_dim=12, num_layers=2, ffn_dim=32, text_dim=WIDTH, freq_dim=32,
        in_channels=16, out_channels=16, cross_attn_norm=True, qk_norm="rms_norm_across_heads", rope_max_seq_len=32,
    )  # fmt: skip


def write_wan(folder: Path, *, boundary: float | None = None, seed: int = 0) -> Path:
    """Wan 2.1 (`boundary` None) or Wan 2.2, in the layout of the `-Diffusers` repositories, at tiny widths."""
    from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanPipeline
    from transformers import T5Tokenizer

    write_t5_tokenizer(folder / "tokenizer")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        pipeline = WanPipeline(
            vae=AutoencoderKLWan(base_dim=4, z_dim=16, num_res_blocks=1, dim_mult=[1, 1, 1, 1]),
            text_encoder=umt5(),
            tokenizer=T5Tokenizer.from_pretrained(folder / "tokenizer", local_files_only=True),
            transformer=small_transformer(),
            transformer_2=None if boundary is None else small_transformer(),
            boundary_ratio=boundary,
            scheduler=UniPCMultistepScheduler(
                prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
            ),
        )
    pipeline.save_pretrained(folder, safe_serialization=True)
    index = json.loads((folder / "model_index.json").read_text())
    index["tokenizer"] = [
        "transformers",
        "T5TokenizerFast",
    ]  # as published, before the two classes became one
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


CAMERA = ("zoom-in", "zoom-out", "pan-left", "pan-right")
LORA_LAYER = "down_blocks.0.motion_modules.0.transformer_blocks.0.attn1.to_q"


def write_animatediff(folder: Path, seed: int = 0) -> Path:
    """Stable Diffusion 1.5 with the motion adapter and the camera LoRAs in folders of their names, at tiny widths."""
    from diffusers import MotionAdapter, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from safetensors.torch import save_file
    from transformers import CLIPTokenizer

    write_clip_tokenizer(folder / "tokenizer")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        unet = UNet2DConditionModel(
            sample_size=8, block_out_channels=(8, 16), norm_num_groups=4, layers_per_block=1,
            cross_attention_dim=WIDTH, attention_head_dim=4,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        )  # fmt: skip
        pipeline = StableDiffusionPipeline(
            vae=small_image_autoencoder(),
            text_encoder=clip_text_model(),
            tokenizer=CLIPTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True),
            unet=unet,
            scheduler=PNDMScheduler(
                beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1
            ),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
        adapter = MotionAdapter(
            block_out_channels=(8, 16), motion_layers_per_block=1, motion_num_attention_heads=2,
            motion_norm_num_groups=4,
        )  # fmt: skip
        # Published adapters move; a fresh one projects to zero and would leave pictures that stand still.
        for name, parameter in adapter.named_parameters():
            if "proj_out" in name:
                torch.nn.init.normal_(parameter, std=0.2)
        pipeline.save_pretrained(folder, safe_serialization=True)
        adapter.save_pretrained(folder / "motion_adapter", safe_serialization=True)
        for name in CAMERA:
            place = folder / "loras" / f"animatediff-motion-lora-{name}"
            place.mkdir(parents=True)
            stem = f"unet.{LORA_LAYER.replace('.to_q', '.processor.to_q_lora')}"
            pair = {f"{stem}.down.weight": torch.randn(2, 8), f"{stem}.up.weight": torch.randn(8, 2)}
            save_file(pair, place / "diffusion_pytorch_model.safetensors")
    return folder
