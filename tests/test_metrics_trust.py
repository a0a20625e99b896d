"""Every metric against clips whose right answer is known by rule."""

import json
from itertools import pairwise
from pathlib import Path

import known_clips as clips
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moe_pipeline.metrics import DEFAULT_METRICS, METRICS, measure
from moe_pipeline.metrics.consistency import feature_consistency
from moe_pipeline.metrics.dynamics import largest_mean, moves, sampled_indices, static_by_filter
from moe_pipeline.metrics.flickering import temporal_flickering
from moe_pipeline.metrics.flow import FlowField, visible
from moe_pipeline.metrics.frames import Undefined
from moe_pipeline.metrics.imaging import imaging_statistics, noise_sigma
from moe_pipeline.metrics.smoothness import motion_smoothness
from moe_pipeline.schema.errors import MoEverseError

PINNED = Path(__file__).parent / "golden" / "metrics.json"


def strictly_falling(values):
    return all(b < a for a, b in pairwise(values))


def values_along(ladder, name):
    return [measure(clip, 8.0, names=[name]).values[name].value for clip in ladder]


# ------------------------------------------------------------------------------------------- frozen clip


def test_frozen_clip_is_perfect_everywhere_and_flagged_for_it():
    result = measure(clips.frozen(), 8.0)
    perfect = {
        "temporal_flickering": 1.0,
        "warping_error": 0.0,
        "warping_error_8": 0.0,
        "dynamic_degree_flow": 0.0,
        "motion_magnitude": 0.0,
        "motion_smoothness_flow": 1.0,
        "colour_drift": 0.0,
        "loop_closure": 1.0,
    }
    assert {name: result.value(name) for name in perfect} == perfect
    assert "hardly moves" in result.flags and "frozen" in result.flags


def test_consistency_of_a_frozen_clip_carries_the_warning_beside_it():
    class Flat:
        def __call__(self, frames):
            return frames.reshape(len(frames), -1)[:, :64].astype(np.float32) + 1.0

    still = measure(clips.frozen(), 8.0, features=Flat())
    assert still.value("background_consistency_pack") == pytest.approx(1.0)
    assert "proves little" in still.values["background_consistency_pack"].note
    moving = measure(clips.shifted(5), 8.0, features=Flat())
    assert "hardly moves" not in moving.flags
    assert "movement threshold" in moving.values["background_consistency_pack"].note
    assert "proves little" not in moving.values["background_consistency_pack"].note


# ------------------------------------------------------------------------------------------ closed forms


@pytest.mark.parametrize("amplitude", [0, 1, 7, 40, 155])
def test_flickering_equals_its_closed_form(amplitude):
    value, series = temporal_flickering(clips.flicker(amplitude))
    assert value == pytest.approx((255 - amplitude) / 255, abs=1e-6)
    assert len(series) == 15 and np.allclose(series, value, atol=1e-6)


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 6), st.integers(1, 9), st.integers(1, 9), st.integers(0, 2**31))
def test_flickering_equals_the_formula_on_any_clip(frames, height, width, seed):
    clip = np.random.default_rng(seed).integers(0, 256, (frames, height, width, 3), dtype=np.uint8)
    expected = (255 - np.mean([np.abs(a.astype(int) - b).mean() for a, b in pairwise(clip)])) / 255
    value, _ = temporal_flickering(clip)
    assert value == pytest.approx(expected, abs=1e-9)
    assert temporal_flickering(clip[::-1])[0] == pytest.approx(
        value, abs=1e-9
    )  # time reversal changes nothing
    assert temporal_flickering(255 - clip)[0] == pytest.approx(value, abs=1e-9)  # nor does the negative


@pytest.mark.parametrize(("dx", "dy"), [(1, 0), (3, 0), (-2, 0), (0, 4), (3, 2)])
def test_warping_error_of_a_pure_translation_is_near_zero(dx, dy):
    clip = clips.shifted(dx, dy)
    result = measure(clip, 8.0, names=["warping_error", "warping_error_8", "motion_magnitude"])
    unwarped = np.mean((np.diff(clip.astype(float), axis=0) / 255) ** 2)
    assert result.value("warping_error") < 2e-5 < 0.05 * unwarped
    assert result.value("warping_error_8") < 5e-4
    speed = result.value("motion_magnitude") * 6 * 128 / 256  # back to pixels a frame
    assert speed == pytest.approx(np.hypot(dx, dy), rel=0.1)


def test_flow_finds_a_known_shift_and_masks_what_leaves_the_frame():
    flows = FlowField(clips.shifted(4, frames=2))
    forward, backward = flows.between(0, 1), flows.between(1, 0)
    inner = forward[12:-12, 12:-12]
    assert np.abs(inner - np.array([-4.0, 0.0])).mean() < 0.05
    mask = visible(forward, backward)
    assert not mask[:, :3].any()  # the content of the left edge has left the picture
    assert mask[20:-20, 20:-20].mean() > 0.95


def test_colour_drift_of_a_known_fade():
    assert measure(clips.fading(16, 0.0), 8.0).value("colour_drift") == 0.0
    fades = [clips.fading(16, by) for by in (0, 10, 20, 40)]
    assert strictly_falling([-v for v in values_along(fades, "colour_drift")])
    flickering = clips.frozen() ^ np.where(np.arange(16) % 2 == 0, 0, 4).astype(np.uint8)[:, None, None, None]
    assert measure(flickering, 8.0).value("colour_drift") < 1e-6  # flicker is not drift


def test_loop_closure_tells_a_loop_from_a_line():
    angles = np.arange(16) * 2 * np.pi / 16
    room = clips.texture(160, 160, 2)
    circle = np.stack(
        [room[16 + round(12 * np.sin(a)) :, 16 + round(12 * np.cos(a)) :][:128, :128] for a in angles]
    )
    loop = measure(circle.astype(np.uint8), 8.0).values["loop_closure"]
    line = measure(clips.shifted(5, seed=2), 8.0).values["loop_closure"]
    assert loop.value > line.value
    assert loop.series[0] == 1.0 and len(loop.series) == 16


# ------------------------------------------------------------------------------------------- orderings


def test_shuffled_frames_lose_on_everything_temporal():
    order, chaos = measure(clips.shifted(3), 8.0), measure(clips.shuffled(clips.shifted(3)), 8.0)
    assert chaos.value("temporal_flickering") < order.value("temporal_flickering")
    assert chaos.value("motion_smoothness_flow") < order.value("motion_smoothness_flow")
    assert chaos.value("warping_error") > 10 * order.value("warping_error")
    assert chaos.value("imaging_statistics") == pytest.approx(order.value("imaging_statistics"), abs=1e-9)


def test_hard_cut_shows_at_its_frame_and_nowhere_else():
    result = measure(clips.hard_cut(at=8), 8.0)
    for name, sign in (("temporal_flickering", -1), ("warping_error", 1)):
        series = sign * np.asarray(result.values[name].series)
        assert int(series.argmax()) == 7  # the pair of frames 7 and 8
        assert series[7] - np.median(series) > 5 * (np.sort(series)[-2] - np.median(series))


def test_object_swap_shows_at_its_frame():
    steady = measure(clips.moving_disc(), 8.0)
    swapped = measure(clips.moving_disc(swap_at=9), 8.0)
    assert swapped.value("warping_error") > steady.value("warping_error")
    excess = np.subtract(swapped.values["warping_error"].series, steady.values["warping_error"].series)
    assert int(excess.argmax()) == 8
    assert swapped.value("motion_smoothness_flow") < steady.value("motion_smoothness_flow")


def test_noise_ladder():
    ladder = [clips.noisy(clips.shifted(2, frames=10), sigma) for sigma in (0, 2, 4, 8, 16, 32)]
    for name in ("temporal_flickering", "motion_smoothness_flow", "imaging_statistics"):
        assert strictly_falling(values_along(ladder, name)), name
    for name in ("warping_error", "warping_error_8"):
        assert strictly_falling([-v for v in values_along(ladder, name)]), name


def test_noise_level_is_recovered():
    flat = np.full((1, 128, 128, 3), 128, np.uint8)
    for sigma in (3.0, 10.0, 25.0):
        grey = clips.noisy(flat, sigma)[0, ..., 0].astype(np.float32)
        assert noise_sigma(grey) == pytest.approx(sigma, rel=0.1)


def test_blur_ladder():
    ladder = [clips.blurred(clips.shifted(2, frames=4), sigma) for sigma in (0, 0.5, 1, 2, 4, 8)]
    assert strictly_falling(values_along(ladder, "imaging_statistics"))


def test_compression_ladder():
    scenes = [np.roll(clips.scene(seed=s), 3 + 2 * s, axis=1) for s in range(4)]
    still = np.stack([*scenes, clips.shifted(1, frames=1)[0]])
    quality = (100, 85, 70, 50, 15, 5)
    assert strictly_falling([imaging_statistics(clips.jpeg(still, q))[0] for q in quality])
    ladder = [clips.jpeg(clips.shifted(3, frames=8), q) for q in quality]
    assert strictly_falling(values_along(ladder, "motion_smoothness_flow"))
    assert strictly_falling([-v for v in values_along(ladder, "warping_error")])


def test_motion_ladder_crosses_vbench_threshold_at_three_pixels_for_128():
    still, slow, fast = (measure(clips.shifted(dx), 8.0) for dx in (0, 2, 4))
    assert [r.dynamic_degree for r in (still, slow, fast)] == [0.0, 0.0, 1.0]
    magnitudes = [r.value("motion_magnitude") for r in (still, slow, fast)]
    assert magnitudes == sorted(magnitudes)


# --------------------------------------------------------------------------------- VBench's decision rules


def test_dynamic_degree_rule_on_the_published_examples():
    # shorter side, sampled frames -> pixels, pairs needed (constants of vbench/dynamic_degree.py)
    published = ((256, 16, 6.0, 4), (64, 16, 1.5, 4), (480, 41, 11.25, 10), (720, 41, 16.875, 10))
    for side, sampled, threshold, needed in published:
        above, below = threshold * 1.001, threshold * 0.999
        scores = np.full(sampled - 1, below)
        scores[: needed - 1] = above
        assert not moves(scores, sampled, side)
        scores[needed - 1] = above
        assert moves(scores, sampled, side)
    assert sampled_indices(81, 16.0) == list(range(0, 81, 2)) and len(sampled_indices(121, 24.0)) == 41


@pytest.mark.parametrize("dx", [0, 6])
def test_a_clip_that_leaves_one_sampled_frame_does_not_move_as_vbench_has_it(dx):
    """Two frames at 24 fps: every third is looked at, so one; VBench's loop over pairs never runs and says no."""
    two = clips.shifted(dx, frames=2)
    short = measure(two, 24.0, names=["dynamic_degree_flow", "motion_magnitude"])
    assert short.value("dynamic_degree_flow") == 0.0 and len(short.values["dynamic_degree_flow"].series) == 1
    assert (short.value("motion_magnitude") > 1.0) == (dx == 6)  # the amount of motion is still told
    assert (
        measure(two, 8.0, names=["dynamic_degree_flow"]).value("dynamic_degree_flow") == 1.0
    )  # round(4 * 2 / 16) = 0


def test_static_filter_rule():
    frames = np.zeros((16, 256, 256, 3), np.uint8)

    def flow(speeds, ends):
        return lambda a, b: np.full((256, 256), ends if abs(a - b) > 1 else speeds[min(a, b)])

    assert static_by_filter(frames, flow([2.9] * 15, 0.0))[0]
    assert static_by_filter(frames, flow([9.0] * 2 + [0.0] * 13, 0.0))[0]  # two pairs are allowed
    assert not static_by_filter(frames, flow([9.0] * 3 + [0.0] * 12, 0.0))[0]
    assert not static_by_filter(frames, flow([0.0] * 15, 12.1))[
        0
    ]  # the ends differ by more than 3 * 2 * 2 px
    assert static_by_filter(frames, flow([0.0] * 15, 12.0))[0]


def test_largest_mean_takes_the_largest_share():
    assert largest_mean(np.arange(100.0), 0.05) == pytest.approx(97.0)
    assert largest_mean(np.array([[3.0]]), 0.05) == 3.0


def test_smoothness_rule_looks_at_odd_frames_between_even_ones():
    clip = clips.frozen(7)
    asked = []

    def guess(a, b):
        asked.append((a, b))
        return np.zeros(clip.shape[1:])

    value, series = motion_smoothness(clip, guess)
    assert asked == [(0, 2), (2, 4), (4, 6)] and len(series) == 3
    assert value == pytest.approx((255 - clip[0].mean()) / 255, abs=1e-6)


# --------------------------------------------------------------------------------------- consistency formula


def test_consistency_formula_against_a_hand_computation():
    features = np.array([[1.0, 0.0], [0.0, 2.0], [3.0, 0.0]])
    value, series = feature_consistency(features)
    assert series == pytest.approx([0.0, 0.5]) and value == pytest.approx(0.25)
    assert feature_consistency(np.array([[1.0, 0.0], [-1.0, 0.0]]))[0] == 0.0  # cosines below 0 count as 0


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 8), st.integers(1, 6), st.floats(0.1, 100.0), st.integers(0, 2**31))
def test_consistency_is_scale_free_and_bounded(frames, width, scale, seed):
    features = np.random.default_rng(seed).normal(size=(frames, width)) + 1e-3
    value, series = feature_consistency(features)
    assert 0.0 <= value <= 1.0 and len(series) == frames - 1
    assert feature_consistency(features * scale)[0] == pytest.approx(value, abs=1e-9)
    assert feature_consistency(np.repeat(features[:1], frames, axis=0))[0] == pytest.approx(1.0)


class MeanColour:
    """Frames and colour words in one space: the mean colour, and how often frames were encoded."""

    def __init__(self):
        self.calls = 0

    def __call__(self, frames):
        self.calls += 1
        return frames.reshape(len(frames), -1, 3).mean(axis=1).astype(np.float32) - 127.5

    def encode_text(self, text):
        return {"red": np.array([1.0, -1.0, -1.0]), "blue": np.array([-1.0, -1.0, 1.0])}[text].astype(
            np.float32
        )


def test_alignment_ranks_the_right_prompt_first():
    clip = np.zeros((4, 32, 32, 3), np.uint8)
    clip[..., 0] = 230
    encoder = MeanColour()
    right = measure(clip, 8.0, features=encoder, prompt="red")
    assert encoder.calls == 2  # whole frames once for two figures, the subject's window once
    wrong = measure(clip, 8.0, features=encoder, prompt="blue")
    assert right.value("text_alignment_pack") > 0.9 > 0.0 > wrong.value("text_alignment_pack")
    assert len(right.values["text_alignment_pack"].series) == 4
    assert (
        "text_alignment_pack" not in measure(clip, 8.0, features=encoder).skipped
    )  # no prompt, not asked for
    asked = measure(clip, 8.0, names=["text_alignment_pack"], features=encoder)
    assert "prompt" in asked.skipped["text_alignment_pack"]


def test_object_swap_lowers_subject_more_than_scene_consistency():
    def cells(frames):  # mean colours of 4 x 4 cells: T x 48
        t, height, width, _ = frames.shape
        tiles = frames[:, : height // 4 * 4, : width // 4 * 4].reshape(t, 4, height // 4, 4, width // 4, 3)
        return tiles.mean(axis=(2, 4)).reshape(t, -1).astype(np.float32)

    steady, swapped = (measure(clips.moving_disc(swap_at=at), 8.0, features=cells) for at in (None, 8))
    drops = {
        name: steady.value(f"{name}_consistency_pack") - swapped.value(f"{name}_consistency_pack")
        for name in ("subject", "background")
    }
    assert drops["subject"] > drops["background"] > 0


def test_consistency_asked_for_alone_still_says_at_which_motion_it_was_reached():
    name = "background_consistency_pack"
    encoder = MeanColour()
    frozen = measure(clips.frozen(4), 8.0, names=[name], features=encoder)
    assert set(frozen.values) == {name} and frozen.flags == ["frozen", "hardly moves"]
    assert "at 0.00 ×" in frozen.values[name].note and "proves little" in frozen.values[name].note
    moving = measure(clips.shifted(6, frames=4), 8.0, names=[name], features=encoder)
    assert moving.flags == [] and "× the movement threshold" in moving.values[name].note
    tiny = measure(clips.shifted(1, frames=4, side=8), 8.0, names=[name], features=encoder)
    assert "unknown amount of motion" in tiny.values[name].note


def test_features_that_break_their_promise_are_named():
    with pytest.raises(Undefined, match="not finite"):
        feature_consistency(np.array([[1.0, np.nan], [1.0, 1.0]]))
    wrong = measure(clips.frozen(), 8.0, features=lambda frames: np.ones((3, 4), np.float32))
    assert "not T x D" in wrong.skipped["background_consistency_pack"]


# ------------------------------------------------------------------------------------------- awkward clips


def test_one_frame_gives_reasons_not_numbers():
    result = measure(clips.frozen(1), 8.0)
    assert (
        result.temporal_flickering is None and result.warping_error is None and result.dynamic_degree is None
    )
    assert "at least 2 frames" in result.skipped["temporal_flickering"]
    assert set(result.values) == {"imaging_statistics"}


def test_one_pixel_video_is_measured_where_it_can_be():
    result = measure(clips.flicker(10)[:, :1, :1], 8.0)
    assert result.temporal_flickering == pytest.approx(245 / 255)
    assert "1x1" in result.skipped["warping_error"]


@pytest.mark.parametrize("shape", [(5, 33, 47), (3, 16, 17), (9, 101, 77), (2, 16, 256), (16, 12, 300)])
def test_odd_sizes_give_finite_values_or_reasons(shape):
    clip = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    result = measure(clip, 12.5)
    assert set(result.values) | set(result.skipped) == set(DEFAULT_METRICS)
    assert all(np.isfinite(v.value) and np.all(np.isfinite(v.series)) for v in result.values.values())


def test_large_clip_says_that_flow_was_computed_smaller():
    clip = np.repeat(np.repeat(clips.shifted(2, frames=3), 9, axis=1), 9, axis=2)  # 1152 pixels a side
    result = measure(clip, 8.0, names=["warping_error", "motion_magnitude"])
    assert "512x512" in result.values["warping_error"].note
    speed = result.value("motion_magnitude") * 6 * 1152 / 256
    assert speed == pytest.approx(18.0, rel=0.15)  # still in pixels of the clip


@pytest.mark.parametrize(
    "bad",
    [
        np.zeros((2, 4, 4), np.uint8),
        np.zeros((2, 4, 4, 3)),
        np.zeros((0, 4, 4, 3), np.uint8),
        np.zeros((2, 4, 4, 4), np.uint8),
    ],
)
def test_wrong_frames_are_refused_in_a_sentence(bad):
    with pytest.raises(MoEverseError) as caught:
        measure(bad, 8.0)
    assert caught.value.code in {"frames_shape", "video_without_frames"}


@pytest.mark.parametrize("fps", [0.0, -1.0, float("nan"), float("inf")])
def test_bad_rate_is_refused(fps):
    with pytest.raises(MoEverseError, match="frame rate"):
        measure(clips.frozen(2), fps)


def test_unknown_metric_is_refused_with_what_is_known():
    with pytest.raises(MoEverseError, match="temporal_flickering"):
        measure(clips.frozen(2), 8.0, names=["flicker"])


# --------------------------------------------------------------------------------------------- catalogue


def test_vbench_names_are_kept_for_vbench_figures():
    from moe_pipeline.metrics.aggregate import DIMENSIONS

    known = {*DIMENSIONS, "static_filter"}
    for name, info in METRICS.items():
        if info.exact in ("stand-in", "own"):
            assert name not in DIMENSIONS, name
        elif info.dimension != "static_filter":
            assert name in DIMENSIONS, name
        if info.exact == "stand-in":
            assert info.dimension in known


def test_every_metric_of_the_catalogue_can_be_asked_for():
    from moe_pipeline.metrics.measure import MEASURES

    assert set(MEASURES) == set(METRICS)


def test_values_stay_within_the_range_the_catalogue_promises():
    for clip in (clips.frozen(), clips.shifted(4), clips.noisy(clips.shifted(1), 40), clips.hard_cut()):
        for name, value in measure(clip, 8.0).values.items():
            info = METRICS[name]
            assert value.value >= info.low and (info.open_ended or value.value <= info.high), name


def test_pinned_figures_of_one_clip():
    """One score of each default metric, so that a change of library or constant cannot pass unseen."""
    pinned = json.loads(PINNED.read_text())
    found = measure(clips.moving_disc(), 8.0)
    assert {name: found.value(name) for name in DEFAULT_METRICS} == pytest.approx(pinned, rel=0.01, abs=1e-6)
