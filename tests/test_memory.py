"""Measured peaks follow allocations."""

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


def test_a_large_parent_does_not_count() -> None:
    """Linux lets a child's `ru_maxrss` begin with its parent's."""
    ballast = bytearray(600_000_000)
    ballast[::4096] = b"x" * len(ballast[::4096])
    code = "from sharpzo_mlx.runtime import memory; print(memory.process_peak())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 1e7 < int(done.stdout) < 4e8
    assert memory.process_peak() > len(ballast)
