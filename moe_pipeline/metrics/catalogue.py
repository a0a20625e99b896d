"""The metric catalogue: what cards, tables, plots, the command line and docs/metrics.md say about each figure."""

from __future__ import annotations

from moe_pipeline.schema.metrics import MetricInfo

_VBENCH = "Huang et al., VBench, CVPR 2024"

_EXACT = (
    MetricInfo(
        name="temporal_flickering", title="Temporal flickering", exact="vbench", dimension="temporal_flickering",
        plain_words="How little the picture jumps from one frame to the next; a frozen clip gets a perfect 1.",
        direction="higher", low=0.0, high=1.0,
        formula="(255 − mean over t of mean |F_t − F_t+1|) / 255",
        source=f"{_VBENCH}, vbench/temporal_flickering.py", cost="1 ms", default=True,
    ),
)

_OWN = (
    MetricInfo(
        name="warping_error", title="Warping error", exact="own",
        plain_words="How much surfaces change although their motion is followed; near 0 is steady.",
        direction="lower", low=0.0, high=0.02, open_ended=True, unit="squared intensity, 0..1",
        formula="mean over visible pixels of (F_t − F_t+1 warped by DIS flow)², intensities in 0..1",
        source="Lai et al., ECCV 2018, section 4; flow by OpenCV DIS", cost="60 ms with the shared flow", default=True,
    ),
    MetricInfo(
        name="warping_error_8", title="Warping error over 8 frames", exact="own",
        plain_words="As warping error, between frames eight apart: slow changes of surfaces that neighbours hide.",
        direction="lower", low=0.0, high=0.05, open_ended=True, unit="squared intensity, 0..1",
        formula="as warping_error between t and t + 8",
        source="Lai et al., ECCV 2018, section 4; flow by OpenCV DIS", cost="35 ms", default=True,
    ),
    MetricInfo(
        name="motion_magnitude", title="Amount of motion", exact="own",
        plain_words="How fast the fastest parts move; 1 is the edge between still and moving.",
        direction="none", low=0.0, high=4.0, open_ended=True, unit="× VBench's movement threshold",
        formula="mean over pairs of the largest 5 % of flow lengths / (6 m / 256), m the shorter side",
        source="VBench's dynamic-degree threshold, vbench/dynamic_degree.py; flow by OpenCV DIS",
        cost="shared flow", default=True,
    ),
    MetricInfo(
        name="colour_drift", title="Colour drift", exact="own",
        plain_words="How far the colours of the end have wandered from those of the start; about 2 can just be seen.",
        direction="lower", low=0.0, high=20.0, open_ended=True, unit="CIELAB units",
        formula="‖(mean, std of L*a*b*) of the last quarter − of the first quarter‖",
        source="CIE 1976 L*a*b*; own definition", cost="10 ms", default=True,
    ),
    MetricInfo(
        name="loop_closure", title="Loop closure", exact="own",
        plain_words="How well the last frame leads back to the first when the clip loops; 1 is no seam.",
        direction="higher", low=0.0, high=1.0,
        formula="(255 − mean |F_last − F_first|) / 255", source="own definition, in the scale of temporal flickering",
        cost="1 ms", default=True,
    ),
)

_STAND_INS = (
    MetricInfo(
        name="dynamic_degree_flow", title="Moves or not", exact="stand-in", dimension="dynamic_degree",
        plain_words="1 when enough of the clip moves fast enough, else 0; steady clips that do not move prove nothing.",
        direction="none", low=0.0, high=1.0,
        formula="1 if ≥ round(4n/16) sampled pairs have largest-5 % flow > 6 m/256 px, by DIS flow",
        source="rule of vbench/dynamic_degree.py; flow by OpenCV DIS instead of RAFT", cost="shared flow", default=True,
    ),
    MetricInfo(
        name="motion_smoothness_flow", title="Motion smoothness (flow)", exact="stand-in",
        dimension="motion_smoothness",
        plain_words="How well every second frame can be guessed from its neighbours; jerky motion cannot be guessed.",
        direction="higher", low=0.0, high=1.0,
        formula="(255 − mean |F_odd − half-way warp of its even neighbours|) / 255, by DIS flow",
        source="rule of vbench/motion_smoothness.py; DIS flow instead of AMT-S", cost="40 ms", default=True,
    ),
    MetricInfo(
        name="imaging_statistics", title="Picture quality (statistics)", exact="stand-in", dimension="imaging_quality",
        plain_words="Sharp, free of noise and blocks, with light and dark: plain measurements, no taste.",
        direction="higher", low=0.0, high=1.0,
        formula="√(sharpness · cleanness · smooth blocks · tonal range), mean over frames",
        source="skimage.measure.blur_effect (Crete et al. 2007); Donoho & Johnstone 1994; Wang et al. 2000",
        cost="40 ms", default=True,
    ),
    MetricInfo(
        name="subject_consistency_pack", title="Subject consistency (pack features)", exact="stand-in",
        dimension="subject_consistency",
        plain_words="Whether what moves keeps its looks, seen through the pack's own encoder.",
        direction="higher", low=0.0, high=1.0, needs=("features",),
        formula="VBench's consistency formula over encoder features of the window that moves most",
        source="formula of vbench/subject_consistency.py; the pack's encoder instead of DINO", cost="encoder",
    ),
    MetricInfo(
        name="background_consistency_pack", title="Scene consistency (pack features)", exact="stand-in",
        dimension="background_consistency",
        plain_words="Whether the whole scene keeps its looks, seen through the pack's own encoder.",
        direction="higher", low=0.0, high=1.0, needs=("features",),
        formula="VBench's consistency formula over encoder features of whole frames",
        source="formula of vbench/background_consistency.py; the pack's encoder instead of CLIP", cost="encoder",
    ),
    MetricInfo(
        name="text_alignment_pack", title="Text alignment (pack features)", exact="stand-in",
        dimension="overall_consistency",
        plain_words="How near the clip is to the prompt in the pack's own feature space.",
        direction="higher", low=-1.0, high=1.0, needs=("text_features", "prompt"),
        formula="cosine(mean frame feature, prompt feature)",
        source="form of vbench/overall_consistency.py; the pack's encoders instead of ViCLIP", cost="encoder",
    ),
)

_NETWORKS = (
    MetricInfo(
        name="subject_consistency", title="Subject consistency", exact="vbench-definition",
        dimension="subject_consistency", plain_words="Whether the subject keeps its looks, seen by DINO.",
        direction="higher", low=0.0, high=1.0, needs=("weights:dino-vitb16",),
        formula="mean over t of [cos⁺(f_t−1, f_t) + cos⁺(f_1, f_t)] / 2, DINO ViT-B/16",
        source=f"{_VBENCH}, vbench/subject_consistency.py", cost="network",
    ),
    MetricInfo(
        name="background_consistency", title="Background consistency", exact="vbench-definition",
        dimension="background_consistency", plain_words="Whether the scene keeps its looks, seen by CLIP.",
        direction="higher", low=0.0, high=1.0, needs=("weights:clip-vit-b-32",),
        formula="as subject_consistency, CLIP ViT-B/32", source=f"{_VBENCH}, vbench/background_consistency.py",
        cost="network",
    ),
    MetricInfo(
        name="motion_smoothness", title="Motion smoothness", exact="vbench-definition", dimension="motion_smoothness",
        plain_words="How well a video-interpolation network can guess every second frame.",
        direction="higher", low=0.0, high=1.0, needs=("weights:amt-s",),
        formula="(255 − mean |F_odd − AMT-S(even neighbours)|) / 255",
        source=f"{_VBENCH}, vbench/motion_smoothness.py", cost="network",
    ),
    MetricInfo(
        name="dynamic_degree", title="Dynamic degree", exact="vbench-definition", dimension="dynamic_degree",
        plain_words="1 when the clip moves by VBench's rule, else 0.",
        direction="none", low=0.0, high=1.0, needs=("weights:raft-things",),
        formula="1 if ≥ round(4n/16) sampled pairs have largest-5 % flow > 6 m/256 px, by RAFT",
        source=f"{_VBENCH}, vbench/dynamic_degree.py", cost="network",
    ),
    MetricInfo(
        name="aesthetic_quality", title="Aesthetic quality", exact="vbench-definition", dimension="aesthetic_quality",
        plain_words="How much people who rated pictures would like the frames.",
        direction="higher", low=0.0, high=1.0, needs=("weights:clip-vit-l-14", "weights:laion-aesthetic"),
        formula="mean over frames of LAION head(CLIP ViT-L/14) / 10",
        source=f"{_VBENCH}, vbench/aesthetic_quality.py", cost="network",
    ),
    MetricInfo(
        name="imaging_quality", title="Imaging quality", exact="vbench-definition", dimension="imaging_quality",
        plain_words="Freedom from blur, noise and over-exposure, as a network trained on rated photos sees it.",
        direction="higher", low=0.0, high=1.0, needs=("weights:musiq-spaq",),
        formula="mean over frames of MUSIQ-SPAQ / 100", source=f"{_VBENCH}, vbench/imaging_quality.py",
        cost="network",
    ),
    MetricInfo(
        name="overall_consistency", title="Overall consistency", exact="vbench-definition",
        dimension="overall_consistency", plain_words="How near the clip is to its prompt, as ViCLIP sees it.",
        direction="higher", low=-1.0, high=1.0, needs=("weights:viclip", "prompt"),
        formula="cosine(ViCLIP video, ViCLIP text)", source=f"{_VBENCH}, vbench/overall_consistency.py",
        cost="network",
    ),
)

METRICS: dict[str, MetricInfo] = {info.name: info for info in (*_EXACT, *_NETWORKS, *_STAND_INS, *_OWN)}
DEFAULT_METRICS: tuple[str, ...] = tuple(name for name, info in METRICS.items() if info.default)
HEADLINE_METRICS: tuple[str, ...] = ("temporal_flickering", "warping_error", "dynamic_degree_flow")
NETWORK_METRICS: tuple[str, ...] = tuple(info.name for info in _NETWORKS)
PACK_METRICS: tuple[str, ...] = tuple(name for name, info in METRICS.items() if name.endswith("_pack"))
