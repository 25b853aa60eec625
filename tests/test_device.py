"""The device that the user names is used, and a wrong name is one line; doctor tells whether there is a GPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import mlx.core as mx
import pytest

import sharpzo_mlx
from sharpzo_mlx.cli import main
from sharpzo_mlx.doctor import findings, setup
from sharpzo_mlx.runtime import device
from sharpzo_mlx.runtime.device import DEVICE_VARIABLE

ACCESS = """
import sys, sharpzo_mlx as sz
try:
    sz.{name}
except sz.UserError as error:
    print(error)
else:
    print("mlx" if "mlx.core" in sys.modules else "no mlx")
"""


def run_python(code: str, wanted: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, DEVICE_VARIABLE: wanted}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=60)


@pytest.mark.parametrize("name", sharpzo_mlx.__all__)
def test_no_public_name_computes_on_another_device_than_the_named_one(name: str) -> None:
    """The first use of every name that loads MLX reads the variable: a wrong value is refused there."""
    answer = run_python(ACCESS.format(name=name), "tpu").stdout.strip()
    assert answer in ("no mlx", f"{DEVICE_VARIABLE}=tpu: no such device; set it to cpu or gpu, or unset it")


def test_the_cpu_can_be_named() -> None:
    code = "import sharpzo_mlx as sz; sz.load; import mlx.core as mx; print(mx.default_device() == mx.Device(mx.cpu))"
    assert run_python(code, "cpu").stdout == "True\n"


def test_wrong_device_is_one_line_on_the_command_line() -> None:
    found = run_python(
        "import sys; from sharpzo_mlx.cli.main import run; sys.exit(run(['predict', 'RUN', 'a']))", "tpu"
    )
    assert (found.returncode, found.stdout) == (2, "")
    assert found.stderr.splitlines()[-1].startswith(f"error: {DEVICE_VARIABLE}=tpu: ")


def test_gpu_is_refused_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(DEVICE_VARIABLE, "gpu")
    monkeypatch.setattr(mx, "device_count", lambda kind: 0)
    with pytest.raises(sharpzo_mlx.UserError, match="MLX finds no GPU here"):
        device.choose_device()


def test_gpu_is_taken_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """The GPU is pretended."""
    taken: list[mx.DeviceType] = []
    monkeypatch.setenv(DEVICE_VARIABLE, "gpu")
    monkeypatch.setattr(mx, "device_count", lambda kind: 1)
    monkeypatch.setattr(mx, "set_default_device", taken.append)
    device.choose_device()
    assert taken == [mx.gpu]


def ask_doctor(capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, dict[str, object]]]:
    code = main.run(["doctor", "--quick", "--json"])
    return code, {finding["name"]: finding for finding in json.loads(capsys.readouterr().out)["findings"]}


def test_doctor_says_that_a_mac_has_no_gpu(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A Mac is pretended on which `mx.metal.is_available()` is true, as it always is, and the GPU is missing."""
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(os, "uname", lambda: os.uname_result(("Darwin", "", "", "", "arm64")))
    monkeypatch.setattr(mx.metal, "is_available", lambda: True)
    monkeypatch.setattr(mx, "default_device", lambda: mx.Device(mx.gpu))
    monkeypatch.setattr(mx, "device_count", lambda kind: 0)
    monkeypatch.setattr(setup, "CHECKS", (setup.check_mlx, setup.check_gpu))
    code, found = ask_doctor(capsys)
    assert code == 1
    assert "built for a GPU" in str(found["MLX"]["words"])
    assert (found["GPU"]["broken"], found["GPU"]["remedy"]) == (True, findings.NO_GPU)


def test_doctor_sees_an_unused_gpu(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A Mac is pretended whose default device is the CPU, of which MLX knows two facts only."""
    monkeypatch.setenv(DEVICE_VARIABLE, "cpu")
    monkeypatch.setattr(mx, "default_device", lambda: mx.Device(mx.cpu))
    monkeypatch.setattr(mx, "device_count", lambda kind: 1)
    monkeypatch.setattr(mx, "device_info", lambda of: {"device_name": "Apple M4", "architecture": "arm64"})
    code, found = ask_doctor(capsys)
    assert code == 0
    assert "on the CPU (Apple M4)" in str(found["MLX"]["words"])
    assert f"not used ({DEVICE_VARIABLE}=cpu)" in str(found["GPU"]["words"])


def test_doctor_names_the_cause_where_metal_refuses(capsys: pytest.CaptureFixture[str]) -> None:
    def check_products() -> findings.Finding:
        raise RuntimeError("[metal::load_device] Failed to load device")

    assert findings.examine(check_products).remedy == findings.NO_GPU


def test_no_block_of_code_changes_the_default_device() -> None:
    """MLX's default device belongs to the process, its streams to threads.

    `with mx.stream(mx.cpu)` in one thread makes the CPU the default device of all, and two such blocks that overlap in
    two threads leave it so for good. An operation that belongs on the CPU is given `stream=mx.cpu`.
    """
    package = Path(sharpzo_mlx.__file__).parent
    sources = {path: path.read_text(encoding="utf-8") for path in sorted(package.rglob("*.py"))}
    assert len(sources) > 100
    assert [path.name for path, text in sources.items() if "with mx.stream(" in text] == []
    assert [path.name for path, text in sources.items() if "set_default_device(mx" in text] == ["device.py"]
