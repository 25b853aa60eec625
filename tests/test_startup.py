"""What import does to the process, seen from fresh interpreters."""

from __future__ import annotations

import ctypes.util
import os
import subprocess
import sys

import pytest

from sharpzo_mlx.runtime import startup

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="only the Linux wheel needs OpenBLAS")


def python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh interpreter with `environment` and otherwise neither of the two switches."""
    clean = {k: v for k, v in os.environ.items() if k not in (startup.BLAS_SWITCH, startup.TF32_SWITCH)}
    return subprocess.run(
        [sys.executable, "-c", code], env={**clean, **environment}, capture_output=True, text=True, check=True
    )


def test_tf32_is_off_unless_the_user_set_it() -> None:
    code = "import os, sharpzo_mlx; print(os.environ['MLX_ENABLE_TF32'])"
    assert python(code).stdout == "0\n"
    assert python(code, MLX_ENABLE_TF32="1").stdout == "1\n"


@LINUX
def test_openblas_is_used_when_it_is_there() -> None:
    code = "import sharpzo_mlx; from sharpzo_mlx.runtime import startup; print(startup.blas)"
    found = python(code)
    if ctypes.util.find_library("openblas"):
        assert (found.stdout, found.stderr) == ("OpenBLAS\n", "")
    else:
        assert found.stdout == "reference\n"
        assert found.stderr.count("libopenblas0-pthread") == 1


@LINUX
def test_switch_leaves_the_reference_blas_in_silence() -> None:
    code = "import sharpzo_mlx; from sharpzo_mlx.runtime import startup; print(startup.blas)"
    found = python(code, SHARPZO_MLX_OPENBLAS="0")
    assert (found.stdout, found.stderr) == ("reference\n", "")


@LINUX
def test_missing_library_is_one_warning_with_the_remedy() -> None:
    code = (
        "import ctypes\n"
        "def missing(*arguments): raise OSError\n"
        "ctypes.CDLL = missing\n"
        "import sharpzo_mlx\n"
        "from sharpzo_mlx.runtime import startup\n"
        "startup.prepare()\n"
        "import mlx.core as mx\n"
        "print((mx.ones((2, 3)) @ mx.ones((3, 2))).sum().item())"
    )
    found = python(code)
    assert found.stdout == "12.0\n"
    assert found.stderr.splitlines() == [startup.BLAS_REMEDY]


@LINUX
def test_mlx_before_us_is_one_warning() -> None:
    found = python("import mlx.core, sharpzo_mlx; from sharpzo_mlx.runtime import startup; print(startup.blas)")
    assert found.stdout == "reference\n"
    assert found.stderr.count("\n") == 1
    assert "import sharpzo_mlx first" in found.stderr


@pytest.mark.parametrize(
    ("platform", "machine", "words"),
    [("darwin", "x86_64", "Apple silicon"), ("win32", "AMD64", "win32"), ("darwin", "arm64", None)],
)
def test_machines_without_mlx_get_one_line(
    monkeypatch: pytest.MonkeyPatch, platform: str, machine: str, words: str | None
) -> None:
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(os, "uname", lambda: os.uname_result(("", "", "", "", machine)))
    line = startup.unsupported()
    if words is None:
        assert line is None
    else:
        assert line is not None
        assert words in line
        assert "\n" not in line
