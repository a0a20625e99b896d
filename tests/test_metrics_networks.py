"""VBench's dimensions with networks: the plumbing, with small random networks of the same classes and file layouts."""

import json
import math
from pathlib import Path

import known_clips as clips
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F
from transformers import CLIPTokenizer, CLIPVisionConfig, CLIPVisionModelWithProjection, ViTConfig, ViTModel

from moe_pipeline.metrics import measure, networks, preprocess
from moe_pipeline.metrics.amt import AMT, interpolate
from moe_pipeline.metrics.catalogue import METRICS, NETWORK_METRICS
from moe_pipeline.metrics.musiq import MUSIQ, multiscale_patches
from moe_pipeline.metrics.raft import RAFT
from moe_pipeline.metrics.viclip import Shape, ViCLIP, fit_context
from moe_pipeline.metrics.weights import WEIGHTS, available, read_state

PROMPT = "a neon street at night"


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A weights folder in the documented layout, every network random and small."""
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    sizes = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96}
    ViTModel(ViTConfig(**sizes, image_size=224, patch_size=16), add_pooling_layer=False).save_pretrained(
        folder / "dino-vitb16"
    )
    for key, patch, width in (("clip-vit-b-32", 32, 24), ("clip-vit-l-14", 14, 32)):
        config = CLIPVisionConfig(**sizes, image_size=224, patch_size=patch, projection_dim=width)
        CLIPVisionModelWithProjection(config).save_pretrained(folder / key)
    singles = {
        "laion-aesthetic": nn.Linear(32, 1),
        "musiq-spaq": MUSIQ(layers=2, inner=64),
        "raft-things": RAFT(),
        "amt-s": AMT(),
        "viclip": ViCLIP(
            Shape(
                side=56,
                patch=14,
                vision_width=64,
                vision_layers=2,
                vision_heads=1,
                text_width=64,
                text_layers=2,
                text_heads=1,
                vocabulary=60,
                context=8,
                embedding=16,
            )
        ),
    }
    for key, network in singles.items():
        save_file(
            {k: v.contiguous().clone() for k, v in network.state_dict().items()},
            folder / f"{key}.safetensors",
        )
    _tokenizer(folder / "viclip-tokenizer")
    return folder


def _tokenizer(folder):
    """CLIP's tokenizer over single letters: no merges, so a word is its letters."""
    folder.mkdir()
    letters = "abcdefghijklmnopqrstuvwxyz"
    tokens = [*letters, *(c + "</w>" for c in letters), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    (folder / "tokenizer_config.json").write_text(
        json.dumps(
            {"tokenizer_class": "CLIPTokenizer", "bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>"}
        )
    )


@pytest.fixture(scope="module")
def clip():
    return clips.shifted(4, frames=3)


@pytest.fixture(scope="module")
def all_measured(weights, clip):
    return measure(clip, 8.0, names=NETWORK_METRICS, weights=weights, prompt=PROMPT)


def test_all_are_measured_with_weights_and_named_as_what_they_are(all_measured):
    result = all_measured
    assert result.skipped == {} and set(result.values) == set(NETWORK_METRICS)
    for value in result.values.values():
        assert math.isfinite(value.value) and value.exactness == "vbench-definition"
    assert result.dynamic_degree == result.value("dynamic_degree") in (0.0, 1.0)
    lengths = {name: len(value.series) for name, value in result.values.items()}
    assert lengths["subject_consistency"] == 2 and lengths["imaging_quality"] == 3
    assert lengths["motion_smoothness"] == 1 and lengths["dynamic_degree"] == lengths["static_clip"] == 2


def test_without_weights_each_is_a_sentence_and_the_others_go_on(clip, tmp_path):
    result = measure(clip, 8.0, weights=tmp_path, prompt=PROMPT)
    for name in NETWORK_METRICS:
        assert "needs the weights of" in result.skipped[name] and str(tmp_path) in result.skipped[name]
    assert result.temporal_flickering is not None and result.dynamic_degree is not None
    assert not any(available(tmp_path).values())


def test_nothing_is_downloaded(clip, tmp_path, monkeypatch):
    import socket

    def refuse(*_, **__):
        raise AssertionError("a connection was tried")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    skipped = measure(clip, 8.0, names=NETWORK_METRICS, prompt=PROMPT).skipped
    assert set(skipped) == set(NETWORK_METRICS)


def test_broken_and_unfit_files_are_named(weights, clip, tmp_path):
    (tmp_path / "raft-things.safetensors").write_bytes(b"not tensors")
    state = load_file(weights / "musiq-spaq.safetensors")
    state.pop("head.bias")
    save_file(state, tmp_path / "musiq-spaq.safetensors")
    save_file(
        {"weight": torch.zeros(2, 768), "bias": torch.zeros(2)}, tmp_path / "laion-aesthetic.safetensors"
    )
    (tmp_path / "clip-vit-l-14").symlink_to(weights / "clip-vit-l-14")
    (tmp_path / "dino-vitb16").mkdir()
    (tmp_path / "dino-vitb16" / "config.json").write_text("{")
    (tmp_path / "dino-vitb16" / "model.safetensors").write_bytes(b"x")
    skipped = measure(clip, 8.0, names=NETWORK_METRICS, weights=tmp_path, prompt=PROMPT).skipped
    assert "damaged" in skipped["dynamic_degree"]
    assert "head.bias is missing" in skipped["imaging_quality"]
    assert "weight has shape (2, 768)" in skipped["aesthetic_quality"]
    assert "dino-vitb16 cannot be loaded" in skipped["subject_consistency"]


def test_small_clips_get_no_figure_from_networks_that_are_undefined_there(weights):
    small = clips.shifted(2, frames=5, side=96)
    skipped = measure(small, 8.0, names=["dynamic_degree", "motion_smoothness"], weights=weights).skipped
    assert set(skipped) == {"dynamic_degree", "motion_smoothness"}
    assert all("below 128 pixels" in reason for reason in skipped.values())


def test_a_frame_too_large_for_all_pairs_is_a_sentence_and_the_others_go_on(weights, clip, monkeypatch):
    monkeypatch.setattr(networks, "_memory_bytes", lambda: 4 * 16**4)  # 128x128 needs a third more
    names = ["dynamic_degree", "static_clip", "motion_smoothness", "loop_closure"]
    result = measure(clip, 8.0, names=names, weights=weights)
    assert set(result.values) == {"loop_closure"}
    assert all("more than there is" in result.skipped[name] for name in names[:3])

    def exhausted(_):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")

    monkeypatch.setitem(networks.SCORES, "imaging_quality", exhausted)
    result = measure(clip, 8.0, names=["imaging_quality", "loop_closure"], weights=weights)
    assert "ran out of memory at 128x128" in result.skipped["imaging_quality"] and set(result.values) == {
        "loop_closure"
    }


def test_frames_in_small_batches_give_the_same_figures(weights, clip, all_measured, monkeypatch):
    monkeypatch.setattr(networks, "BATCH", 2)
    names = ["background_consistency", "aesthetic_quality"]
    parts = measure(clip, 8.0, names=names, weights=weights)
    for name in names:
        assert parts.values[name].series == pytest.approx(all_measured.values[name].series, abs=1e-5)


def test_a_prompt_is_needed_for_overall_consistency(weights, clip):
    assert (
        "prompt"
        in measure(clip, 8.0, names=["overall_consistency"], weights=weights).skipped["overall_consistency"]
    )


# --------------------------------------------------------------- each figure against its definition, step by step


def test_subject_consistency_is_dino_cls_over_the_formula(weights, clip):
    network = ViTModel.from_pretrained(weights / "dino-vitb16", add_pooling_layer=False)
    for module in network.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = 1e-6
    network.eval()
    images = torch.from_numpy(clip).permute(0, 3, 1, 2).float()
    images = F.interpolate(images, size=(224, 224), mode="bilinear") / 255.0
    images = (images - torch.tensor([0.485, 0.456, 0.406])[:, None, None]) / torch.tensor(
        [0.229, 0.224, 0.225]
    )[:, None, None]
    with torch.no_grad():
        f = F.normalize(network(images).last_hidden_state[:, 0], dim=-1)
    terms = [(max(0.0, float(f[t - 1] @ f[t])) + max(0.0, float(f[0] @ f[t]))) / 2 for t in range(1, len(f))]
    found = measure(clip, 8.0, names=["subject_consistency"], weights=weights)
    assert found.value("subject_consistency") == pytest.approx(np.mean(terms), abs=1e-5)


def test_aesthetic_quality_is_the_head_over_unit_clip_features(weights, clip):
    network = CLIPVisionModelWithProjection.from_pretrained(weights / "clip-vit-l-14").eval()
    head = load_file(weights / "laion-aesthetic.safetensors")
    with torch.no_grad():
        features = F.normalize(network(preprocess.for_clip(clip)).image_embeds, dim=-1)
        expected = (features @ head["weight"].T + head["bias"]).mean() / 10
    found = measure(clip, 8.0, names=["aesthetic_quality"], weights=weights)
    assert found.value("aesthetic_quality") == pytest.approx(float(expected), abs=1e-6)


def test_imaging_quality_is_a_hundredth_of_the_score(weights, clip, all_measured):
    network = MUSIQ(layers=2, inner=64).eval()
    network.load_state_dict(load_file(weights / "musiq-spaq.safetensors"))
    with torch.no_grad():
        second = float(network(preprocess.for_musiq(clip[1:2])))
    series = all_measured.values["imaging_quality"].series
    assert series[1] == pytest.approx(second / 100, abs=1e-6)
    assert all_measured.value("imaging_quality") == pytest.approx(np.mean(series), abs=1e-7)


def test_frozen_clip_is_perfect_for_consistency_networks(weights):
    still = clips.frozen(3)
    names = ["subject_consistency", "background_consistency"]
    beside = ["motion_magnitude", "temporal_flickering"]
    result = measure(still, 8.0, names=[*names, *beside], weights=weights)
    for name in names:
        assert result.value(name) == pytest.approx(1.0, abs=1e-5)
        assert "proves little" in result.values[name].note


def test_overall_consistency_reads_eight_frames_and_the_prompt(weights, clip, all_measured):
    score = all_measured
    other = measure(clip, 8.0, names=["overall_consistency"], weights=weights, prompt="zzz qqq")
    assert -1.0 <= score.value("overall_consistency") <= 1.0
    assert score.value("overall_consistency") != other.value("overall_consistency")
    network = ViCLIP(networks.viclip_shape(load_file(weights / "viclip.safetensors"))).eval()
    network.load_state_dict(load_file(weights / "viclip.safetensors"))
    tokens = CLIPTokenizer.from_pretrained(weights / "viclip-tokenizer")(PROMPT)["input_ids"]
    chosen = clip[[0, 1, 2, 2, 2, 2, 2, 2]]  # three frames: each once, the last repeated
    with torch.no_grad():
        images = preprocess.for_clip(chosen, side=56, whole_levels=True)
        video = F.normalize(network.vision_encoder(images.permute(1, 0, 2, 3)[None]), dim=-1)
        text = F.normalize(network.text_encoder(torch.tensor([fit_context(tokens, 8)])), dim=-1)
    assert score.value("overall_consistency") == pytest.approx(float(video[0] @ text[0]), abs=1e-5)


# -------------------------------------------------------------------------------------------- pre-processing


def test_frame_selection_follows_vbench():
    assert preprocess.middle_frames(16, 8) == [0, 2, 4, 6, 8, 10, 12, 14]
    assert preprocess.middle_frames(81, 8) == [4, 14, 24, 34, 44, 54, 64, 75]
    assert preprocess.middle_frames(3, 8) == [0, 1, 2, 2, 2, 2, 2, 2]
    assert preprocess.middle_frames(1, 8) == [0] * 8


@pytest.mark.parametrize(("height", "width", "resized"), [(480, 832, (224, 388)), (832, 480, (388, 224))])
def test_shorter_side_rule_cuts_the_longer_to_whole_pixels(height, width, resized):
    frames = np.zeros((1, height, width, 3), np.uint8)
    assert preprocess.for_dino(frames).shape == (1, 3, *resized)
    assert preprocess.for_clip(frames).shape == (1, 3, 224, 224)


def test_musiq_reduces_only_long_sides_above_512():
    assert preprocess.for_musiq(np.zeros((1, 300, 512, 3), np.uint8)).shape[-2:] == (300, 512)
    assert preprocess.for_musiq(np.zeros((1, 480, 832, 3), np.uint8)).shape[-2:] == (295, 512)


def test_normalisation_is_that_of_the_networks():
    white = np.full((1, 224, 224, 3), 255, np.uint8)
    assert preprocess.for_clip(white)[0, :, 5, 5] == pytest.approx([1.9303, 2.0749, 2.1459], abs=1e-3)
    assert preprocess.for_dino(white)[0, :, 5, 5] == pytest.approx([2.2489, 2.4286, 2.6400], abs=1e-3)


def test_dino_positions_keep_the_trained_grid_and_follow_a_ramp():
    ramp = torch.arange(14.0)[:, None].expand(14, 14).reshape(1, 196, 1)
    positions = torch.cat([torch.full((1, 1, 1), 9.0), ramp], dim=1)
    assert networks.dino_positions(positions, 224, 224, 16) is positions
    assert networks.dino_positions(positions, 224, 230, 16) is not positions  # same grid, yet not square
    other = networks.dino_positions(positions, 224, 388, 16)
    assert other.shape == (1, 1 + 14 * 24, 1) and other[0, 0, 0] == 9.0
    rows = other[0, 1:, 0].view(14, 24)
    assert torch.allclose(rows[1:-1], torch.arange(1.0, 13.0)[:, None].expand(12, 24), atol=0.2)


def test_musiq_sees_three_scales_with_padding_masked():
    patches, place, scale, mask = multiscale_patches(torch.rand(2, 3, 128, 256))
    assert patches.shape == (2, 49 + 144 + 32, 3072)
    assert mask[0].sum() == 4 * 7 + 6 * 12 + 4 * 8  # 112x224, 192x384, 128x256 in patches of 32
    assert scale[0, mask[0]].unique().tolist() == [0, 1, 2] and place.max() < 100


def test_token_context_keeps_the_end():
    assert fit_context([7, 1, 9], 5) == [7, 1, 9, 0, 0]
    assert fit_context([7, 1, 2, 3, 4, 9], 4) == [7, 1, 2, 9]


# -------------------------------------------------------------------------- what the flow networks must satisfy


def test_raft_loads_weights_of_data_parallel_training(weights, tmp_path, clip, all_measured):
    state = load_file(weights / "raft-things.safetensors")
    save_file({f"module.{k}": v for k, v in state.items()}, tmp_path / "raft-things.safetensors")
    again = measure(clip[:2], 8.0, names=["dynamic_degree"], weights=tmp_path)
    assert again.values["dynamic_degree"].series == pytest.approx(
        all_measured.values["dynamic_degree"].series[:1]
    )


def test_amt_of_a_still_pair_blends_to_the_picture_when_its_heads_are_silent():
    network = AMT().eval()
    for module in (network.decoder1.convblock[2], network.comb_block[2]):
        nn.init.zeros_(module.weight)
        nn.init.zeros_(module.bias)
    for decoder in (network.decoder4, network.decoder3, network.decoder2):
        nn.init.zeros_(decoder.convblock[2].weight)
        nn.init.zeros_(decoder.convblock[2].bias)
    for block in (network.update4, network.update3, network.update2):
        nn.init.zeros_(block.flow_head[2].weight)
        nn.init.zeros_(block.flow_head[2].bias)
    picture = preprocess.to_tensor(clips.scene(130, 140)[None])  # not a multiple of 16
    with torch.no_grad():
        guess = interpolate(network, picture, picture)
    assert guess.shape == (130, 140, 3)
    assert (guess - picture[0].permute(1, 2, 0)).abs().max() <= 1.0  # levels are cut, not rounded


def test_the_flag_follows_raft_where_raft_was_measured(weights, clip, all_measured):
    by_raft = all_measured.value("static_clip")
    assert ("hardly moves" in all_measured.flags) == (by_raft == 1.0)


# ---------------------------------------------------------------------------------------- published checkpoints

# Names, shapes and sizes of the published networks, from their own source: princeton-vl/RAFT core/, VBench
# third_party/amt and third_party/ViCLIP, IQA-PyTorch pyiqa/archs/musiq_arch.py.
PUBLISHED = {
    "raft": (
        RAFT,
        {
            "fnet.conv1.weight": (64, 3, 7, 7),
            "fnet.layer2.0.downsample.0.weight": (96, 64, 1, 1),
            "fnet.conv2.weight": (256, 128, 1, 1),
            "cnet.norm1.running_mean": (64,),
            "cnet.layer3.0.norm3.num_batches_tracked": (),
            "cnet.layer3.0.downsample.1.weight": (128,),
            "update_block.encoder.convc1.weight": (256, 324, 1, 1),
            "update_block.encoder.conv.weight": (126, 256, 3, 3),
            "update_block.gru.convq2.weight": (128, 384, 5, 1),
            "update_block.flow_head.conv2.weight": (2, 256, 3, 3),
            "update_block.mask.2.weight": (576, 256, 1, 1),
        },
    ),
    "amt": (
        AMT,
        {
            "feat_encoder.conv1.weight": (32, 3, 7, 7),
            "feat_encoder.layer3.0.downsample.0.weight": (96, 64, 1, 1),
            "feat_encoder.layer2.0.conv1.weight": (16, 32, 1, 1),
            "feat_encoder.conv2.weight": (84, 96, 1, 1),
            "encoder.pyramid4.1.1.weight": (56,),
            "decoder4.convblock.0.0.weight": (112, 113, 3, 3),
            "decoder4.convblock.1.conv2.0.weight": (20, 20, 3, 3),
            "decoder4.convblock.2.weight": (112, 48, 4, 4),
            "decoder3.convblock.1.prelu.weight": (132,),
            "decoder1.convblock.2.weight": (60, 24, 4, 4),
            "update4.convc1.weight": (64, 392, 1, 1),
            "update3.gru.0.weight": (76, 104, 3, 3),
            "update2.feat_head.2.weight": (20, 76, 3, 3),
            "update2.flow_head.2.weight": (4, 76, 3, 3),
            "comb_block.0.weight": (18, 9, 3, 3),
        },
    ),
    "musiq": (
        MUSIQ,
        {
            "conv_root.weight": (64, 3, 7, 7),
            "block1.conv_proj.weight": (256, 64, 1, 1),
            "block1.gn_proj.bias": (256,),
            "embedding.weight": (384, 16384),
            "transformer_encoder.posembed_input.position_emb": (1, 100, 384),
            "transformer_encoder.scaleembed_input.scale_emb": (3, 384),
            "transformer_encoder.cls": (1, 1, 384),
            "transformer_encoder.transformer.encoderblock_13.attention.query.bias": (384,),
            "transformer_encoder.transformer.encoderblock_13.mlp.fc1.weight": (1152, 384),
            "transformer_encoder.encoder_norm.weight": (384,),
            "head.weight": (1, 384),
        },
    ),
    "viclip": (
        ViCLIP,
        {
            "temp": (),
            "vision_encoder.conv1.weight": (1024, 3, 1, 14, 14),
            "vision_encoder.class_embedding": (1024,),
            "vision_encoder.positional_embedding": (257, 1024),
            "vision_encoder.temporal_positional_embedding": (1, 8, 1024),
            "vision_encoder.transformer.resblocks.23.attn.in_proj_weight": (3072, 1024),
            "vision_encoder.transformer.resblocks.23.mlp.c_proj.weight": (1024, 4096),
            "vision_encoder.proj": (1024, 768),
            "text_encoder.token_embedding.weight": (49408, 768),
            "text_encoder.positional_embedding": (32, 768),
            "text_encoder.transformer.resblocks.11.attn.out_proj.bias": (768,),
            "text_encoder.ln_final.weight": (768,),
            "text_encoder.text_projection": (768, 768),
        },
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_names_and_shapes_are_those_of_the_published_checkpoints(name):
    build, known = PUBLISHED[name]
    with torch.device("meta"):
        network = build()
    shapes = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    assert {key: shapes.get(key) for key in known} == known
    if name == "raft":  # the paper's 5.3 M; the shared norms of the context network stand twice in the file
        assert sum(p.numel() for p in network.parameters()) == 5_257_536
    if name == "viclip":
        shape = networks.viclip_shape(network.state_dict())
        assert shape == Shape()


def test_the_documented_conversion_makes_the_documented_files(tmp_path, monkeypatch):
    document = (Path(__file__).resolve().parent.parent / "docs" / "metrics.md").read_text(encoding="utf-8")
    snippet = document.split("```python\n")[1].split("```")[0]
    tensors = {"head.weight": torch.ones(1, 2)}
    published = {  # MUSIQ's file is the bare dictionary: pyiqa loads it so
        "raft-things.pth": {f"module.{key}": value for key, value in tensors.items()},
        "amt-s.pth": {"epoch": 3, "state_dict": tensors},
        "musiq_spaq_ckpt-358bb6af.pth": tensors,
        "sa_0_4_vit_l_14_linear.pth": tensors,
        "ViClip-InternVid-10M-FLT.pth": {"model": tensors},
    }
    for file, content in published.items():
        torch.save(content, tmp_path / file)
    (tmp_path / "weights").mkdir()
    monkeypatch.chdir(tmp_path)
    exec(compile(snippet, "docs/metrics.md", "exec"), {})
    for key, source in WEIGHTS.items():
        if source.hub is None:
            assert torch.equal(
                read_state(tmp_path / "weights" / f"{key}.safetensors")["head.weight"], torch.ones(1, 2)
            )


def test_every_network_metric_says_which_weights_it_needs():
    for name in NETWORK_METRICS:
        keys = [need.removeprefix("weights:") for need in METRICS[name].needs if need.startswith("weights:")]
        assert keys and all(key in WEIGHTS for key in keys)
