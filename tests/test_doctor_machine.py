"""The doctor's lines about the machine, on a pretended Mac, and the price of a query."""

from __future__ import annotations

import ctypes
import json
import logging
import platform
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from sharpzo_mlx.cli import main
from sharpzo_mlx.doctor import machine, query_cost, setup
from sharpzo_mlx.doctor.networks import make_objective
from sharpzo_mlx.runtime import limits

ANSWERS = {
    "machdep.cpu.brand_string": b"Apple M4 Pro\0",
    "hw.perflevel0.physicalcpu": (10).to_bytes(4, sys.byteorder),
    "hw.perflevel1.physicalcpu": (4).to_bytes(4, sys.byteorder),
    "kern.hv_vmm_present": (0).to_bytes(4, sys.byteorder),
}
GPU = {
    "device_name": "Apple M4 Pro",
    "architecture": "applegpu_g16s",
    "max_recommended_working_set_size": 19_069_665_280,
    "memory_size": 25_769_803_776,
}


@pytest.fixture(autouse=True)
def _quiet_logger() -> Iterator[None]:
    """The handler that the command line installs does not outlive these tests."""
    yield
    logging.getLogger("sharpzo_mlx").handlers.clear()


class Library:
    """A C library with macOS's sysctlbyname, which first tells the size of a value and then the value."""

    def __init__(self, path: str | None) -> None:
        assert path is None

    def sysctlbyname(self, name: bytes, value: Any, size: Any, new: None, length: Any) -> int:
        assert (new, length.value) == (None, 0)
        answer = ANSWERS.get(name.decode())
        if answer is None:
            return -1
        if value is not None:
            ctypes.memmove(value, answer, len(answer))
        ctypes.cast(size, ctypes.POINTER(ctypes.c_size_t))[0] = len(answer)
        return 0


@pytest.fixture
def mac(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Pretend a Mac with a GPU; the test may change what MLX says of it."""
    facts = dict(GPU)
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(ctypes, "CDLL", Library)
    monkeypatch.setattr(platform, "mac_ver", lambda: ("15.5", ("", "", ""), "arm64"))
    monkeypatch.setattr(platform, "machine", lambda: "arm64")
    monkeypatch.setattr(mx, "default_device", lambda: mx.Device(mx.gpu))
    monkeypatch.setattr(mx, "device_count", lambda kind: 1)
    monkeypatch.setattr(mx, "device_info", lambda of: facts)
    return facts


def test_a_mac_is_described(mac: dict[str, Any]) -> None:
    assert setup.check_chip().words.startswith("Apple M4 Pro, ")
    assert setup.check_chip().words.endswith("(10 fast, 4 efficient)")
    assert setup.check_system().words == "macOS 15.5, arm64"
    assert setup.check_mlx().words.endswith("on the GPU (Apple M4 Pro)")
    found = setup.check_gpu()
    assert found.words == "used: Apple M4 Pro applegpu_g16s, working set of 19.1 GB recommended"
    assert found.remedy is None


def test_a_paravirtual_gpu_is_called_so(mac: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    mac["device_name"] = "Apple Paravirtual device"
    monkeypatch.setitem(ANSWERS, "kern.hv_vmm_present", (1).to_bytes(4, sys.byteorder))
    found = setup.check_gpu()
    assert machine.find_gpu().paravirtual
    assert "not a real one" in found.words
    assert found.remedy is not None
    assert not found.broken
    assert setup.check_system().words.endswith("in a virtual machine")


def test_a_mac_that_tells_nothing_is_described_too(mac: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def no_library(path: str | None) -> None:
        raise OSError("no such library")

    monkeypatch.setattr(ctypes, "CDLL", no_library)
    mac.clear()
    assert machine.find_chip() == "arm64"
    assert "fast" not in machine.describe_cores()
    assert machine.find_gpu() == machine.GPU("", "", None)
    assert setup.check_gpu().words == "used"


def test_linux_names_its_processor(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text("processor : 0\nmodel name\t: A Fast One @ 3 GHz\nmodel name\t: A Fast One\n")
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(machine, "CPU_FACTS", tmp_path / "cpuinfo")
    assert machine.find_chip() == "A Fast One @ 3 GHz"
    monkeypatch.setattr(machine, "CPU_FACTS", tmp_path / "none")
    assert machine.find_chip() == platform.machine()


def test_a_query_is_measured_in_the_given_time() -> None:
    objective = make_objective("tiny", classes=3)
    started = time.perf_counter()
    cost = query_cost.measure_query(objective, population=5, seconds=0.3)
    spent = time.perf_counter() - started
    assert 0.2 < spent < 2
    assert cost.batch == 5
    assert cost.batches >= 1
    assert 0 < cost.seconds * cost.batch * cost.batches <= spent
    assert f"{cost.batches} batches of 5" in cost.describe()


def test_a_slow_machine_is_measured_in_one_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock is pretended on which every pass takes ten seconds."""
    objective, now = make_objective("tiny", classes=3), [0.0]
    plain = objective.losses

    def slow(w: mx.array) -> mx.array:
        now[0] += 10
        return plain(w)

    monkeypatch.setattr(objective, "losses", slow)
    monkeypatch.setattr(query_cost, "on_cpu", lambda: True)
    monkeypatch.setattr(query_cost.time, "perf_counter", lambda: now[0])  # type: ignore[attr-defined]
    cost = query_cost.measure_query(objective)
    assert (cost.seconds, cost.batches, now[0]) == (10, 0, 10)
    assert "one pass, not warmed up" in cost.describe()


def test_on_a_gpu_a_query_is_measured_as_a_search_makes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    objective, seen = make_objective("tiny", classes=3), []

    def losses(w: mx.array) -> mx.array:
        seen.append(limits.is_bounded())
        return mx.zeros(len(w))

    monkeypatch.setattr(objective, "losses", losses)
    monkeypatch.setattr(mx, "default_device", lambda: mx.Device(mx.gpu))
    query_cost.measure_query(objective, population=5, seconds=0.01)
    assert set(seen) == {True}


@pytest.mark.parametrize(("kind", "passes"), [(mx.cpu, 1), (mx.gpu, 32)])
def test_products_of_a_gpu_are_timed_in_one_wait(
    kind: mx.DeviceType, passes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every wait takes a pretended second."""
    now, evaluated = [0.0], []

    def wait(products: list[mx.array]) -> None:
        now[0] += 1
        evaluated.append(len(products))

    monkeypatch.setattr(mx, "default_device", lambda: mx.Device(kind))
    monkeypatch.setattr(mx, "eval", wait)
    monkeypatch.setattr(setup.time, "perf_counter", lambda: now[0])  # type: ignore[attr-defined]
    words = setup.check_products().words
    assert evaluated == [passes] * 4
    assert words.startswith(f"{passes * 2 * 1024**3 / 1e9:.0f} GFLOP/s")


def test_doctor_says_what_a_query_and_the_default_tuning_cost(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(query_cost, "USUAL", "tiny")
    monkeypatch.setattr(query_cost, "SECONDS", 0.2)
    monkeypatch.setattr(setup, "CHECKS", (setup.check_query,))
    assert main.run(["doctor", "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)["findings"]
    assert "measured on a random text tower of tiny's size" in found["words"]
    assert f"{query_cost.default_queries()} at most" in found["words"]
    assert query_cost.default_queries() == 864


def test_quick_leaves_the_measurement_out(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(setup, "CHECKS", (setup.check_python, setup.check_query))
    assert main.run(["doctor", "--quick"]) == 0
    assert [line.split()[1] for line in capsys.readouterr().out.splitlines()] == ["Python"]
