"""The footprint of a process on macOS, asked of a pretended libproc, and MLX's cached memory in a run's results."""

from __future__ import annotations

import ctypes
import json
import os
import sys
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

import sharpzo_mlx as sz
from sharpzo_mlx.cli.tune import format_summary
from sharpzo_mlx.runs.run import Run
from sharpzo_mlx.runtime import footprint, memory

FIELDS = """
user_time system_time pkg_idle_wkups interrupt_wkups pageins wired_size resident_size phys_footprint
proc_start_abstime proc_exit_abstime
child_user_time child_system_time child_pkg_idle_wkups child_interrupt_wkups child_pageins child_elapsed_abstime
diskio_bytesread diskio_byteswritten
cpu_time_qos_default cpu_time_qos_maintenance cpu_time_qos_background cpu_time_qos_utility cpu_time_qos_legacy
cpu_time_qos_user_initiated cpu_time_qos_user_interactive billed_system_time serviced_system_time
logical_writes lifetime_max_phys_footprint instructions cycles billed_energy serviced_energy
interval_max_phys_footprint runnable_time
"""


class Rusage(ctypes.Structure):
    """`struct rusage_info_v4` as Apple's <sys/resource.h> lists its fields."""

    _fields_ = (
        ("uuid", ctypes.c_uint8 * 16),
        *((name, ctypes.c_uint64) for name in FIELDS.split()),
    )


class Library:
    """A libproc that knows this process alone."""

    def __init__(self, path: str, answer: int = 0) -> None:
        assert path == "/usr/lib/libproc.dylib"
        self.answer = answer

    def proc_pid_rusage(self, process: int, version: int, buffer: Any) -> int:
        assert (process, version) == (os.getpid(), 4)
        filled = Rusage(resident_size=3, phys_footprint=5, lifetime_max_phys_footprint=7_000_000_000, instructions=11)
        ctypes.memmove(buffer, ctypes.byref(filled), ctypes.sizeof(filled))
        return self.answer


def test_macos_tells_the_largest_footprint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(ctypes, "CDLL", Library)
    assert footprint.largest_footprint() == 7_000_000_000
    monkeypatch.setattr(Path, "is_file", lambda self: False)  # /proc, which a Mac has not
    assert memory.process_peak() == 7_000_000_000


def test_where_macos_does_not_tell_the_resident_set_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(Path, "is_file", lambda self: False)

    def absent(path: str) -> None:
        raise OSError(path)

    for library in (absent, lambda path: object(), lambda path: Library(path, answer=-1)):
        monkeypatch.setattr(ctypes, "CDLL", library)
        assert footprint.largest_footprint() is None
        assert memory.process_peak() > 10_000


def test_results_have_the_memory_that_mlx_keeps(
    tiny_model: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mx, "get_cache_memory", lambda: 300 * 2**20)
    config = sz.TuneConfig(shots=2, generations=1, steps=1).with_settings({"space.dimension": 4})
    run = sz.tune(sz.load(tiny_model), photos, config, output=tmp_path / "run", report=False)
    assert run.results.cache_memory_mb == Run.load(run.folder).results.cache_memory_mb == 300
    assert " of MLX memory (and 315 MB kept for reuse)\n" in format_summary(run, photos)


def test_results_of_older_runs_have_none(finished_run: Path, photos: Path, tmp_path: Path) -> None:
    content = json.loads((finished_run / "run.json").read_text())
    del content["results"]["cache_memory_mb"]
    (tmp_path / "run.json").write_text(json.dumps(content))
    run = Run.load(tmp_path)
    assert run.results.cache_memory_mb is None
    assert "kept for reuse" not in format_summary(run, photos)
