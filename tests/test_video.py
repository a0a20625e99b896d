"""Reading any clip, writing mp4: round trips, and one sentence for each bad file."""

import io
import os

import av
import known_clips as clips
import numpy as np
import pytest
from PIL import Image

from moe_pipeline import video
from moe_pipeline.schema.errors import MoEverseError


def psnr(a, b):
    return 10 * np.log10(255**2 / np.mean((a.astype(float) - b) ** 2))


@pytest.fixture(scope="module")
def clip():
    return clips.shifted(2, frames=12)


@pytest.fixture
def mp4(tmp_path, clip):
    path = tmp_path / "clip.mp4"
    video.write_mp4(clip, path, 8.0)
    return path


def refused(code, call, *arguments, **options):
    with pytest.raises(MoEverseError) as caught:
        call(*arguments, **options)
    assert caught.value.code == code
    assert "\n" not in caught.value.sentence() and caught.value.remedy
    return caught.value.sentence()


def test_round_trip_keeps_frames_rate_and_metadata(tmp_path, clip):
    record = '{"prompt": "a \\"neon\\" city — ünïcode", "numbers": [1, 2]}' + " " * 200_000 + "end"
    path = tmp_path / "clip.mp4"
    video.write_mp4(clip, path, 8.0, {"comment": record, "title": "a clip"})
    back = video.read_video(path)
    assert back.frames.shape == clip.shape and back.frames.dtype == np.uint8 and back.fps == 8.0
    assert psnr(back.frames, clip) > 33 and not back.variable_rate and back.notes == ()
    assert video.read_metadata(path)["comment"] == record
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == "h264" and stream.codec_context.pix_fmt == "yuv420p"
    data = path.read_bytes()
    assert data.find(b"moov") < data.find(b"mdat")  # faststart: a browser can begin before the end has come


def test_colours_survive_the_round_trip(tmp_path):
    flat = np.zeros((4, 64, 64, 3), np.uint8)
    flat[:] = (200, 30, 90)
    video.write_mp4(flat, tmp_path / "flat.mp4", 8.0)
    assert np.abs(video.read_frames(tmp_path / "flat.mp4").astype(int) - flat).max() <= 3


def test_same_frames_give_the_same_bytes(tmp_path, clip):
    for name in ("a.mp4", "b.mp4"):
        video.write_mp4(clip, tmp_path / name, 8.0, {"comment": "x"})
    assert video.sha256_file(tmp_path / "a.mp4") == video.sha256_file(tmp_path / "b.mp4")


def test_limit_stops_early(mp4, clip):
    assert len(video.read_frames(mp4, limit=5)) == 5
    refused("bad_frame_limit", video.read_frames, mp4, limit=0)


@pytest.mark.parametrize(
    ("codec", "suffix", "pixels"), [("libvpx-vp9", "webm", "yuv420p"), ("gif", "gif", "rgb8")]
)
def test_webm_and_gif_are_read(tmp_path, clip, codec, suffix, pixels):
    path = tmp_path / f"clip.{suffix}"
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10)
        stream.width, stream.height, stream.pix_fmt = 128, 128, pixels
        for frame in clip:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    back = video.read_video(path)
    assert back.frames.shape == clip.shape and back.fps == pytest.approx(10, rel=0.01)
    assert psnr(back.frames, clip) > 18


def test_folder_of_frames_is_read_in_number_order(tmp_path):
    for number in (0, 2, 10, 1):
        Image.new("RGB", (20, 10), (number * 20, 0, 0)).save(tmp_path / f"f{number}.png")
    (tmp_path / "notes.txt").write_text("not a frame")
    back = video.read_video(tmp_path)
    assert back.frames[:, 0, 0, 0].tolist() == [0, 20, 40, 200]
    assert back.fps == 8.0 and "8 fps assumed" in back.notes[0]


def test_numbers_in_other_writing_are_ordered_too(tmp_path):
    for level, name in enumerate(("10²5.png", "9²5.png")):  # a superscript is a digit, but no number
        Image.new("RGB", (20, 10), (level * 20, 0, 0)).save(tmp_path / name)
    assert video.read_video(tmp_path).frames[:, 0, 0, 0].tolist() == [20, 0]


def test_variable_rate_is_noticed(tmp_path, clip):
    path = tmp_path / "variable.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 128, 128, "yuv420p"
        when = 0
        for t, frame in enumerate(clip):
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            picture.pts = when
            when += 1 if t % 2 else 4
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    back = video.read_video(path)
    assert back.variable_rate and "Variable frame rate" in back.notes[0]
    assert len(back.frames) == len(clip) and 2.5 < back.fps < 10


def test_bad_files_are_one_sentence_each(tmp_path, mp4):
    refused("video_not_found", video.read_frames, tmp_path / "absent.mp4")
    long = tmp_path / ("x" * 300 + ".mp4")  # longer than a name may be
    refused("video_not_found", video.read_frames, long)
    refused("video_not_found", video.read_metadata, long)
    (tmp_path / "empty.mp4").touch()
    refused("video_empty", video.read_frames, tmp_path / "empty.mp4")
    (tmp_path / "text.mp4").write_text("this is not a video " * 40)
    refused("video_unreadable", video.read_frames, tmp_path / "text.mp4")
    (tmp_path / "folder").mkdir()
    refused("folder_without_frames", video.read_frames, tmp_path / "folder")
    (tmp_path / "folder" / "0.png").write_bytes(b"\x89PNG broken")
    refused("frame_unreadable", video.read_frames, tmp_path / "folder")
    data = mp4.read_bytes()
    (tmp_path / "cut.mp4").write_bytes(data[: len(data) * 2 // 3])
    refused("video_damaged", video.read_frames, tmp_path / "cut.mp4")
    body = bytearray(data)
    middle = data.find(b"mdat") + (len(data) - data.find(b"mdat")) // 2
    body[middle : middle + 800] = b"\x55" * 800
    (tmp_path / "garbled.mp4").write_bytes(body)
    refused("video_damaged", video.read_frames, tmp_path / "garbled.mp4")


def test_sound_alone_is_no_clip(tmp_path):
    path = tmp_path / "sound.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    refused("video_without_pictures", video.read_frames, path)


def test_frames_of_two_sizes_are_refused(tmp_path):
    Image.new("RGB", (20, 10)).save(tmp_path / "0.png")
    Image.new("RGB", (10, 20)).save(tmp_path / "1.png")
    assert "20x10, then 10x20" in refused("frames_differ_in_size", video.read_frames, tmp_path)


def test_memory_budget_is_named_with_what_would_fit(mp4):
    with pytest.raises(MoEverseError, match="Limit it to 4 frames"):
        video.read_video(mp4, max_bytes=4 * 128 * 128 * 3 + 10)


def test_unwritable_and_unfit_frames_are_refused(tmp_path, clip):
    assert "even sides" in refused("odd_size", video.write_mp4, clip[:, :127], tmp_path / "x.mp4", 8.0)
    refused("frames_shape", video.write_mp4, clip[:0], tmp_path / "x.mp4", 8.0)
    refused("frames_shape", video.write_mp4, clip.astype(np.float32), tmp_path / "x.mp4", 8.0)
    refused("bad_fps", video.write_mp4, clip, tmp_path / "x.mp4", 0.0)
    refused("metadata_key", video.write_mp4, clip, tmp_path / "x.mp4", 8.0, {"moeverse": "lost"})
    (tmp_path / "file").touch()
    refused("unwritable", video.write_mp4, clip, tmp_path / "file" / "x.mp4", 8.0)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file"]


def test_failed_writing_leaves_the_old_file(tmp_path, clip, monkeypatch):
    path = tmp_path / "clip.mp4"
    path.write_bytes(b"old")

    def broken(*_):
        raise RuntimeError("the machine stopped")

    monkeypatch.setattr(video, "_encode", broken)
    with pytest.raises(RuntimeError):
        video.write_mp4(clip, path, 8.0)
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["clip.mp4"]


def test_side_by_side_and_previews(clip):
    pair = video.side_by_side(clip, clip[:, :, ::-1])
    assert pair.shape == (12, 128, 264, 3)
    assert np.array_equal(pair[:, :, :128], clip) and np.array_equal(pair[:, :, 136:], clip[:, :, ::-1])
    refused("clips_differ", video.side_by_side, clip, clip[:5])
    for encode, kind in ((video.encode_webp, "WEBP"), (video.encode_jpeg, "JPEG")):
        image = Image.open(io.BytesIO(encode(clip[0])))
        assert image.format == kind and psnr(np.asarray(image.convert("RGB")), clip[0]) > 28
    refused("frame_shape", video.encode_webp, clip)
