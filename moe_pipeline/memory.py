"""Measured peak memory of this process."""

from __future__ import annotations

import sys


def peak_rss_bytes() -> int | None:
    """Highest resident set since the process started; None where the platform does not tell."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if sys.platform == "darwin" else peak * 1024)


def peak_cuda_bytes() -> int | None:
    """Highest CUDA memory allocated by torch; None without CUDA."""
    import torch

    return int(torch.cuda.max_memory_allocated()) if torch.cuda.is_available() else None
