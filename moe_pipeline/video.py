"""Ground floor: read frames from any video, write mp4 with a record inside, previews, checksums.

Frames are uint8 arrays T x H x W x 3, RGB. Heavy imports (PyAV, Pillow) happen inside the functions. Every bad
file, size or path becomes one `MoEverseError`.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from moe_pipeline.atomic import replacing
from moe_pipeline.schema.errors import MoEverseError

if TYPE_CHECKING:
    from numpy.typing import NDArray

VIDEO_SUFFIXES = (".mp4", ".webm", ".gif", ".mov", ".mkv", ".avi", ".m4v")
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
FOLDER_FPS = 8.0  # a folder of frames carries no rate; VBench takes every frame of it, as it does at 8 fps
MAX_DECODED_BYTES = 2 * 1024**3  # beyond this a clip is refused instead of filling the memory
# The keys that the mp4 container keeps; anything else would vanish without a word.
MP4_METADATA_KEYS = (
    "title",
    "artist",
    "album",
    "date",
    "genre",
    "comment",
    "description",
    "synopsis",
    "copyright",
)


@dataclass(frozen=True)
class VideoClip:
    """Decoded frames with what the file says about their timing."""

    frames: NDArray[np.uint8]  # T x H x W x 3, RGB
    fps: float  # average rate; FOLDER_FPS for a folder of frames
    variable_rate: bool = False  # gaps between frames differ by more than a fifth
    notes: tuple[str, ...] = field(default_factory=tuple)  # sentences a reader of results must see


def read_frames(path: str | os.PathLike[str], limit: int | None = None) -> NDArray[np.uint8]:
    """Frames of a video file (mp4, webm, gif, mov, mkv, avi) or of a folder of images, T x H x W x 3 uint8 RGB.

    `limit` stops after that many frames. Raises MoEverseError for anything that is not a readable clip.
    """
    return read_video(path, limit).frames


def read_video(
    path: str | os.PathLike[str], limit: int | None = None, *, max_bytes: int = MAX_DECODED_BYTES
) -> VideoClip:
    """As `read_frames`, with frame rate and notes."""
    source = Path(path)
    if limit is not None and limit < 1:
        raise MoEverseError(
            code="bad_frame_limit",
            message=f"A limit of {limit} frames leaves nothing to read.",
            remedy="Give a limit of at least 1, or none.",
        )
    if not os.path.exists(
        source
    ):  # unlike Path.exists, also where a name is too long or may not be looked at
        raise MoEverseError(
            code="video_not_found",
            message=f"There is no file or folder {source}.",
            remedy="Check the path.",
        )
    if source.is_dir():
        return _read_folder(source, limit, max_bytes)
    if not source.is_file():
        raise MoEverseError(
            code="video_not_a_file",
            message=f"{source} is neither a regular file nor a folder.",
            remedy="Give a video file or a folder of frames.",
        )
    if source.stat().st_size == 0:
        raise MoEverseError(
            code="video_empty", message=f"{source.name} is empty (0 bytes).", remedy=_OTHER_FILE
        )
    return _read_file(source, limit, max_bytes)


_OTHER_FILE = "Give an mp4, webm or gif that plays, or a folder of frames."


def _read_file(source: Path, limit: int | None, max_bytes: int) -> VideoClip:
    import av

    frames: list[NDArray[np.uint8]] = []
    times: list[float] = []
    opened = False
    try:
        with av.open(str(source), mode="r") as container:
            if not container.streams.video:
                raise MoEverseError(
                    code="video_without_pictures",
                    message=f"{source.name} holds no video stream.",
                    remedy=_OTHER_FILE,
                )
            stream = container.streams.video[0]
            opened = True
            rate = float(stream.average_rate) if stream.average_rate else 0.0
            declared = stream.frames
            for frame in container.decode(stream):
                if frame.is_corrupt:
                    raise _damaged(source, len(frames))
                picture = frame.to_ndarray(format="rgb24")  # H x W x 3
                _check_same_size(source.name, frames, picture)
                _check_budget(source.name, picture, len(frames) + 1, max_bytes)
                frames.append(picture)
                if frame.time is not None:
                    times.append(float(frame.time))
                if limit is not None and len(frames) >= limit:
                    break
    except av.FFmpegError as error:
        if opened:
            raise _damaged(source, len(frames)) from error
        raise MoEverseError(
            code="video_unreadable",
            message=f"{source.name} is not a video that can be decoded.",
            remedy=_OTHER_FILE,
        ) from error
    if not frames:
        raise MoEverseError(
            code="video_without_frames", message=f"{source.name} holds 0 frames.", remedy=_OTHER_FILE
        )
    return _finish(np.stack(frames), times, rate, declared if limit is None else 0)


def _damaged(source: Path, good: int) -> MoEverseError:
    return MoEverseError(
        code="video_damaged",
        message=f"{source.name} is damaged: {good or 'no'} frames of it can be decoded.",
        remedy="Copy or export the file again; figures of half a clip would mislead.",
    )


def _finish(frames: NDArray[np.uint8], times: list[float], rate: float, declared: int) -> VideoClip:
    """Frame rate, variable rate and notes from time stamps (seconds) and what the container declares."""
    notes: list[str] = []
    gaps = np.diff(np.asarray(times)) if len(times) == len(frames) else np.zeros(0)
    gaps = gaps[gaps > 0]
    variable = bool(gaps.size > 1 and gaps.max() > 1.2 * gaps.min() and gaps.max() - gaps.min() > 0.002)
    fps = rate
    if gaps.size and (variable or fps <= 0):
        fps = float(1.0 / gaps.mean())
    if fps <= 0:
        fps = FOLDER_FPS
        notes.append(f"The file gives no frame rate; {FOLDER_FPS:g} fps assumed.")
    if variable:
        notes.append(
            f"Variable frame rate ({1 / gaps.max():.3g} to {1 / gaps.min():.3g} fps): frames are taken as evenly "
            f"spaced at the mean of {fps:.3g} fps."
        )
    if declared and len(frames) < declared:
        notes.append(f"The file declares {declared} frames and gave {len(frames)}.")
    return VideoClip(frames, fps, variable, tuple(notes))


def _read_folder(folder: Path, limit: int | None, max_bytes: int) -> VideoClip:
    from PIL import Image, UnidentifiedImageError

    try:
        images = [p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file()]
    except OSError as error:
        raise MoEverseError(
            code="folder_unreadable",
            message=f"The folder {folder} cannot be read ({(error.strerror or 'error').lower()}).",
            remedy="Check its permissions.",
        ) from error
    files = sorted(images, key=_natural_key)[:limit]
    if not files:
        raise MoEverseError(
            code="folder_without_frames",
            message=f"The folder {folder} holds no frames.",
            remedy="A folder of frames holds "
            + ", ".join(s[1:] for s in IMAGE_SUFFIXES)
            + " files in order.",
        )
    frames: list[NDArray[np.uint8]] = []
    for file in files:
        try:
            with Image.open(file) as image:
                picture = np.asarray(image.convert("RGB"), dtype=np.uint8)
        except (UnidentifiedImageError, OSError, ValueError, Image.DecompressionBombError) as error:
            raise MoEverseError(
                code="frame_unreadable",
                message=f"Frame {file.name} in {folder.name} cannot be decoded.",
                remedy="Replace or remove that image.",
            ) from error
        _check_same_size(folder.name, frames, picture)
        _check_budget(folder.name, picture, len(frames) + 1, max_bytes)
        frames.append(picture)
    note = f"A folder of frames has no frame rate; {FOLDER_FPS:g} fps assumed."
    return VideoClip(np.stack(frames), FOLDER_FPS, False, (note,))


def _natural_key(path: Path) -> list[tuple[int, int | str]]:
    """Sort key under which frame 10 follows frame 9."""
    parts = re.split(r"(\d+)", path.name)
    return [(0, int(part)) if part.isdecimal() else (1, part) for part in parts]


def _check_same_size(name: str, frames: list[NDArray[np.uint8]], picture: NDArray[np.uint8]) -> None:
    if frames and frames[0].shape != picture.shape:
        first, now = frames[0].shape, picture.shape
        raise MoEverseError(
            code="frames_differ_in_size",
            message=f"{name} changes size at frame {len(frames)}: {first[1]}x{first[0]}, then {now[1]}x{now[0]}.",
            remedy="Give a clip whose frames all have one size.",
        )


def _check_budget(name: str, picture: NDArray[np.uint8], count: int, max_bytes: int) -> None:
    if picture.nbytes * count > max_bytes:
        raise MoEverseError(
            code="video_too_large",
            message=f"{name} does not fit: {count} frames of {picture.shape[1]}x{picture.shape[0]} already exceed "
            f"{max_bytes / 1024**3:.1f} GiB decoded.",
            remedy=f"Limit it to {max(1, max_bytes // picture.nbytes)} frames, or scale it down.",
        )


# ---------------------------------------------------------------------------------------------- writing


def write_mp4(
    frames: NDArray[np.uint8],
    path: str | os.PathLike[str],
    fps: float,
    metadata: Mapping[str, str] | None = None,
    *,
    crf: int = 14,
) -> None:
    """Write T x H x W x 3 uint8 RGB as H.264, yuv420p, BT.709, faststart; atomic (temporary name, then rename).

    One encoder thread, so the same frames give the same bytes. `metadata` keys are those of MP4_METADATA_KEYS; a
    record's JSON goes into `comment`. Odd sizes, other array types and an unwritable place are refused.
    """
    _check_writable_frames(frames, fps)
    tags = dict(metadata or {})
    unknown = sorted(set(tags) - set(MP4_METADATA_KEYS))
    if unknown:
        raise MoEverseError(
            code="metadata_key",
            message=f"An mp4 would not keep the metadata key {unknown[0]!r}.",
            remedy="Use one of: " + ", ".join(MP4_METADATA_KEYS) + ".",
        )
    target = Path(path)
    with replacing(target) as temporary:
        _encode(frames, temporary, fps, tags, crf)


def _check_writable_frames(frames: NDArray[np.uint8], fps: float) -> None:
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or frames.shape[0] == 0:
        raise MoEverseError(
            code="frames_shape",
            message=f"Frames must be uint8 of T x H x W x 3 with at least one frame, not {frames.dtype} of "
            f"{' x '.join(str(n) for n in frames.shape)}.",
            remedy="Convert the frames first.",
        )
    height, width = frames.shape[1:3]
    if height % 2 or width % 2 or height < 2 or width < 2:
        raise MoEverseError(
            code="odd_size",
            message=f"H.264 in yuv420p needs even sides, not {width}x{height}.",
            remedy="Crop or pad the frames to even width and height.",
        )
    if not 0 < fps <= 240:
        raise MoEverseError(
            code="bad_fps",
            message=f"{fps:g} frames per second cannot be written.",
            remedy="Give a rate above 0 and at most 240.",
        )


def _encode(frames: NDArray[np.uint8], path: Path, fps: float, tags: dict[str, str], crf: int) -> None:
    import av

    try:
        with av.open(str(path), mode="w", format="mp4", options={"movflags": "+faststart"}) as container:
            container.metadata.update(tags)
            rate = Fraction(fps).limit_denominator(1001)
            stream = container.add_stream("libx264", rate=rate)
            stream.width, stream.height = frames.shape[2], frames.shape[1]
            stream.pix_fmt = "yuv420p"
            stream.options = {"crf": str(crf), "preset": "medium"}
            context = stream.codec_context
            context.thread_count = 1
            # limited range, BT.709: said, so that no player guesses
            context.color_range, context.colorspace = 1, 1
            context.color_primaries, context.color_trc = 1, 1
            for picture in _pictures(frames):
                for packet in stream.encode(picture):
                    container.mux(packet)
            for packet in stream.encode():
                container.mux(packet)
    except (av.FFmpegError, OSError) as error:
        raise MoEverseError(
            code="encoding_failed",
            message=f"The clip could not be encoded ({error}).",
            remedy="Check free space and that PyAV was built with libx264.",
        ) from error


def _pictures(frames: NDArray[np.uint8]) -> Iterator[Any]:
    import av
    from av.video.reformatter import ColorRange, Colorspace

    for array in frames:
        picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(array), format="rgb24")
        yield picture.reformat(
            format="yuv420p",
            src_colorspace=Colorspace.ITU709,
            dst_colorspace=Colorspace.ITU709,
            src_color_range=ColorRange.JPEG,
            dst_color_range=ColorRange.MPEG,
        )


def read_metadata(path: str | os.PathLike[str]) -> dict[str, str]:
    """The container's metadata (title, comment, ...) of a video file."""
    import av

    source = Path(path)
    if not os.path.isfile(source):
        raise MoEverseError(
            code="video_not_found", message=f"There is no file {source}.", remedy="Check the path."
        )
    try:
        with av.open(str(source), mode="r") as container:
            return {str(key): str(value) for key, value in container.metadata.items()}
    except av.FFmpegError as error:
        raise MoEverseError(
            code="video_unreadable",
            message=f"{source.name} is not a video that can be decoded.",
            remedy=_OTHER_FILE,
        ) from error


# --------------------------------------------------------------------------- frames side by side, previews


def side_by_side(
    left: NDArray[np.uint8], right: NDArray[np.uint8], *, gap: int = 8, background: int = 24
) -> NDArray[np.uint8]:
    """Two clips of equal length and height beside each other, T x H x (Wl + gap + Wr) x 3."""
    if left.shape[:2] != right.shape[:2] or left.shape[-1:] != right.shape[-1:]:
        raise MoEverseError(
            code="clips_differ",
            message=f"Clips of {left.shape[0]} frames at height {left.shape[1]} and {right.shape[0]} frames at height "
            f"{right.shape[1]} cannot stand side by side.",
            remedy="Compare clips of one length and height.",
        )
    bar = np.full((left.shape[0], left.shape[1], gap, 3), background, dtype=np.uint8)
    return np.concatenate([left, bar, right], axis=2)


def encode_webp(frame: NDArray[np.uint8], quality: int = 80) -> bytes:
    """One H x W x 3 uint8 frame as WebP bytes (fastest setting: previews are thrown away)."""
    return _encode_image(frame, "WEBP", quality=quality, method=0)


def encode_jpeg(frame: NDArray[np.uint8], quality: int = 85) -> bytes:
    """One H x W x 3 uint8 frame as JPEG bytes."""
    return _encode_image(frame, "JPEG", quality=quality)


def _encode_image(frame: NDArray[np.uint8], kind: str, **options: int) -> bytes:
    from PIL import Image

    if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[-1] != 3:
        raise MoEverseError(
            code="frame_shape",
            message="A preview is made from one uint8 frame of H x W x 3.",
            remedy="Convert the frame first.",
        )
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, format=kind, **options)
    return buffer.getvalue()


def sha256_file(path: str | os.PathLike[str]) -> str:
    """Hex SHA-256 of a file, read in pieces."""
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as stream:
            while piece := stream.read(1 << 20):
                digest.update(piece)
    except OSError as error:
        raise MoEverseError(
            code="unreadable", message=f"{path} cannot be read ({error.strerror}).", remedy="Check the path."
        ) from error
    return digest.hexdigest()
