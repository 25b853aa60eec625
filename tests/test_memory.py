"""Measured peaks follow allocations, and memory limits are restored."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import mlx.core as mx
import pytest

from sharpzo_mlx.runtime import memory


def test_mlx_peak_sees_an_array_that_is_gone() -> None:
    memory.reset_mlx_peak()
    before = memory.mlx_peak()
    block = mx.zeros((1024, 1024)) + 1
    mx.eval(block)
    del block
    assert memory.mlx_peak() - before >= 4 * 1024 * 1024


def test_process_peak_is_bytes() -> None:
    """The kernel's own high-water mark, where there is one to compare with."""
    status = Path("/proc/self/status")
    if not status.exists():
        pytest.skip("no /proc")
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
    assert memory.process_peak() == pytest.approx(int(line.split()[1]) * 1024, rel=0.05)
    assert memory.process_peak() < memory.physical()


def test_wired_limit_restores_what_it_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without Metal nothing is wired; with it (pretended here) the old limit returns, also after an error."""
    calls: list[int] = []

    def set_wired(limit: int) -> int:
        calls.append(limit)
        return 77

    monkeypatch.setattr(mx, "set_wired_limit", set_wired)
    monkeypatch.setattr(mx.metal, "is_available", lambda: False)
    with memory.wired_limit():
        assert calls == []
    monkeypatch.setattr(mx.metal, "is_available", lambda: True)
    monkeypatch.setattr(mx, "device_info", lambda: {"max_recommended_working_set_size": 1000})
    with pytest.raises(KeyError), memory.wired_limit():
        raise KeyError
    assert calls == [1000, 77]


def test_overlapping_blocks_restore_the_wired_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Metal is pretended: the first of two blocks to leave changes nothing, the last restores what was first found."""
    limit = 77

    def set_wired(new: int) -> int:
        nonlocal limit
        before, limit = limit, new
        return before

    monkeypatch.setattr(mx, "set_wired_limit", set_wired)
    monkeypatch.setattr(mx.metal, "is_available", lambda: True)
    monkeypatch.setattr(mx, "device_info", lambda: {"max_recommended_working_set_size": 1000})
    first, second = memory.wired_limit(), memory.wired_limit()
    seen = []
    for event in (first.__enter__, second.__enter__, lambda: first.__exit__(None, None, None)):
        event()
        seen.append(limit)
    second.__exit__(None, None, None)
    assert [*seen, limit] == [1000, 1000, 1000, 77]


def test_a_large_parent_does_not_count() -> None:
    """Linux lets a child's `ru_maxrss` begin with its parent's."""
    ballast = bytearray(600_000_000)
    ballast[::4096] = b"x" * len(ballast[::4096])
    code = "from sharpzo_mlx.runtime import memory; print(memory.process_peak())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 1e7 < int(done.stdout) < 4e8
    assert memory.process_peak() > len(ballast)
