"""A pretended GPU: MLX names one as its default device and still computes on the CPU."""

from __future__ import annotations

import mlx.core as mx
import pytest

SMALL, LARGE = "applegpu_g14g", "applegpu_g14s"  # architectures of an M2 and an M2 Max


class Pool:
    """Stands in for MLX's pool of freed arrays: it notes each limit that it is given, and how often it is emptied."""

    def __init__(self, limit: int = 2**40) -> None:
        self.limit, self.limits, self.emptied = limit, [limit], 0

    def set_limit(self, limit: int) -> int:
        before, self.limit = self.limit, limit
        self.limits.append(limit)
        return before

    def empty(self) -> None:
        self.emptied += 1


def pretend_gpu(monkeypatch: pytest.MonkeyPatch, architecture: str = SMALL) -> Pool:
    """Pretend a GPU of that architecture with a pool."""
    pool = Pool()
    monkeypatch.setattr(mx, "default_device", lambda: mx.Device(mx.gpu))
    monkeypatch.setattr(mx, "device_info", lambda *_: {"device_name": "a GPU", "architecture": architecture})
    monkeypatch.setattr(mx, "set_cache_limit", pool.set_limit)
    monkeypatch.setattr(mx, "clear_cache", pool.empty)
    return pool
