"""Clips made by rule, whose right answer is known. uint8, T x H x W x 3, RGB."""

import io

import cv2
import numpy as np
from PIL import Image


def texture(height: int, width: int, seed: int = 0, softness: float = 3.0) -> np.ndarray:
    """A smooth random picture, H x W x 3 float in 0..255."""
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.float32)
    soft = cv2.GaussianBlur(noise, (0, 0), softness)
    return (soft - soft.min()) / (soft.max() - soft.min()) * 255.0


def scene(height: int = 128, width: int = 128, seed: int = 0) -> np.ndarray:
    """A picture with edges and flat parts: sky, ground, towers with windows, a disc. H x W x 3 uint8."""
    rng = np.random.default_rng(seed)
    picture = np.zeros((height, width, 3), np.uint8)
    ramp = np.linspace(0, 1, height)[:, None, None]
    picture[:] = (1 - ramp) * np.array([40, 60, 130]) + ramp * np.array([220, 150, 120])
    for left in range(0, width, 18):
        top = int(rng.integers(height // 4, height // 2))
        colour = tuple(int(c) for c in rng.integers(15, 90, 3))
        cv2.rectangle(picture, (left, top), (left + 13, height), colour, -1)
        for y in range(top + 5, height - 8, 10):
            cv2.rectangle(picture, (left + 4, y), (left + 8, y + 4), (250, 220, 120), -1)
    cv2.circle(picture, (width // 3, height // 4), height // 9, (235, 90, 70), -1, cv2.LINE_AA)
    return picture


def frozen(frames: int = 16, picture: np.ndarray | None = None) -> np.ndarray:
    return np.repeat((scene() if picture is None else picture)[None], frames, axis=0)


def shifted(dx: int, dy: int = 0, frames: int = 16, side: int = 128, seed: int = 0) -> np.ndarray:
    """The camera pans by (dx, dy) whole pixels a frame over a large texture."""
    room = texture(side + abs(dy) * frames + 2, side + abs(dx) * frames + 2, seed)
    rows = [abs(dy) * t if dy >= 0 else abs(dy) * (frames - t) for t in range(frames)]
    columns = [abs(dx) * t if dx >= 0 else abs(dx) * (frames - t) for t in range(frames)]
    crops = [room[y : y + side, x : x + side] for y, x in zip(rows, columns, strict=True)]
    return np.rint(np.stack(crops)).astype(np.uint8)


def flicker(amplitude: int, frames: int = 16, level: int = 100) -> np.ndarray:
    """One grey, and the same plus `amplitude`, in turn."""
    values = np.where(np.arange(frames) % 2 == 0, level, level + amplitude)
    return np.broadcast_to(values[:, None, None, None], (frames, 32, 32, 3)).astype(np.uint8)


def moving_disc(frames: int = 16, side: int = 128, swap_at: int | None = None, speed: int = 4) -> np.ndarray:
    """A disc crosses a still texture; from frame `swap_at` on it is a square of another colour."""
    background = np.rint(texture(side, side, 5)).astype(np.uint8)
    clip = []
    for t in range(frames):
        picture = background.copy()
        x = 24 + speed * t
        if swap_at is not None and t >= swap_at:
            cv2.rectangle(picture, (x - 16, 48), (x + 16, 80), (20, 200, 60), -1)
        else:
            cv2.circle(picture, (x, 64), 16, (230, 40, 40), -1, cv2.LINE_AA)
        clip.append(picture)
    return np.stack(clip)


def hard_cut(frames: int = 16, at: int = 8) -> np.ndarray:
    """A pan that jumps to another place at frame `at`."""
    return np.concatenate([shifted(2, frames=frames)[:at], shifted(2, frames=frames, seed=9)[at:]])


def shuffled(clip: np.ndarray, seed: int = 3) -> np.ndarray:
    return clip[np.random.default_rng(seed).permutation(len(clip))]


def noisy(clip: np.ndarray, sigma: float, seed: int = 1) -> np.ndarray:
    """White noise of its own in every frame."""
    noise = np.random.default_rng(seed).normal(0.0, 1.0, clip.shape) * sigma
    return np.clip(np.rint(clip + noise), 0, 255).astype(np.uint8)


def blurred(clip: np.ndarray, sigma: float) -> np.ndarray:
    return clip.copy() if sigma == 0 else np.stack([cv2.GaussianBlur(f, (0, 0), sigma) for f in clip])


def jpeg(clip: np.ndarray, quality: int) -> np.ndarray:
    """Every frame through JPEG, 4:2:0."""
    pictures = []
    for frame in clip:
        buffer = io.BytesIO()
        Image.fromarray(frame).save(buffer, format="JPEG", quality=quality, subsampling=2)
        pictures.append(np.asarray(Image.open(buffer).convert("RGB")))
    return np.stack(pictures)


def fading(frames: int, by: float) -> np.ndarray:
    """A still scene that loses `by` grey levels over its length."""
    levels = np.linspace(0, by, frames)[:, None, None, None]
    return np.clip(np.rint(frozen(frames) - levels), 0, 255).astype(np.uint8)
