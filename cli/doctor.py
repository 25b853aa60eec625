"""`sharpzo-mlx doctor`: describe this machine, and name each problem of its setup with the remedy.

Every check is a function that returns one Finding and changes nothing. The exit code is 1 only if a problem keeps the
program from working; other problems make it slower or poorer.

>>> sharpzo-mlx doctor  # doctest: +SKIP
"""

from __future__ import annotations

import importlib
import os
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import click

from sharpzo_mlx import files
from sharpzo_mlx.cli import wording
from sharpzo_mlx.errors import UserError
from sharpzo_mlx.runtime import startup

NO_GPU = "run it on the Mac itself, outside of virtual machines and containers, or on Linux"
_SIDE = 1024  # the square matrices whose product is timed have this many rows


@dataclass(frozen=True)
class Finding:
    """The result of one check.

    Attributes:
        name: the checked part, in a word or two.
        words: the result in words.
        remedy: what to do about a problem; None if there is none.
        broken: whether the problem keeps the program from working.
    """

    name: str
    words: str
    remedy: str | None = None
    broken: bool = False


@click.command("doctor")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
@click.pass_context
def doctor_command(ctx: click.Context, as_json: bool) -> None:
    """Check this machine and say how to fix what is wrong."""
    findings = [examine(check) for check in CHECKS]
    if as_json:
        wording.echo_json({"findings": [vars(finding) for finding in findings]})
    else:
        click.echo("\n".join(line for finding in findings for line in lines(finding)))
    ctx.exit(1 if any(finding.broken for finding in findings) else 0)


def examine(check: Callable[[], Finding]) -> Finding:
    """Run one check; a check that raises an error is a finding too."""
    name = check.__name__.removeprefix("check_").replace("_", " ")
    try:
        return check()
    except UserError as error:
        problem, _, remedy = str(error).partition("; ")
        return Finding(name, problem, remedy, broken=True)
    except Exception as error:  # the other checks must run, whatever is wrong with this machine
        remedy = NO_GPU if str(error).startswith("[metal") else "install again: pip install ."
        return Finding(name, f"{type(error).__name__}: {error}", remedy, broken=True)


def lines(finding: Finding) -> list[str]:
    """Return a finding as one line, and a second line with the remedy if there is a problem."""
    mark = "FAIL" if finding.broken else "note" if finding.remedy else "ok"
    shown = [f"{mark:<5} {finding.name:<14} {finding.words}"]
    return shown + ([f"      {'':<14} -> {finding.remedy}"] if finding.remedy else [])


def check_python() -> Finding:
    """Name the interpreter and the machine."""
    words = f"{platform.python_version()} on {platform.platform(terse=True)}, {platform.machine()}"
    return Finding("Python", f"{words}, {os.cpu_count()} cores")


def check_mlx() -> Finding:
    """Name MLX's version and the device that it computes on."""
    from sharpzo_mlx.runtime import device

    if not device.on_cpu() and not device.has_gpu():  # a build for GPUs on a machine without one
        return Finding("MLX", f"{version('mlx')}, built for a GPU")
    return Finding("MLX", f"{version('mlx')} on the {'CPU' if device.on_cpu() else 'GPU'} ({device.device_name()})")


def check_gpu() -> Finding:
    """Tell whether there is a GPU that MLX can use, and whether it is used."""
    from sharpzo_mlx.runtime import device

    if device.has_gpu():
        unused = f"there is one, and it is not used ({device.DEVICE_VARIABLE}={os.environ.get(device.DEVICE_VARIABLE)})"
        return Finding("GPU", unused if device.on_cpu() else "used")
    if sys.platform == "darwin":
        return Finding("GPU", "none found, and on a Mac MLX cannot compute without one", NO_GPU, broken=True)
    return Finding("GPU", "none that MLX can use; it computes on the CPU")


def check_products() -> Finding:
    """Measure the speed of float32 products, and name the library that computes them."""
    import mlx.core as mx

    rate = f"{2 * _SIDE**3 / _product_seconds() / 1e9:.0f} GFLOP/s in float32"
    if mx.default_device().type == mx.DeviceType.gpu:
        return Finding("products", rate)
    remedy = None
    if startup.blas == "reference":
        switched_off = os.environ.get(startup.BLAS_SWITCH) == "0"
        remedy = f"unset {startup.BLAS_SWITCH}" if switched_off else startup.BLAS_REMEDY
    return Finding("products", f"{rate} by {startup.blas}{' BLAS' if startup.blas == 'reference' else ''}", remedy)


def _product_seconds() -> float:
    """Return the seconds of the fastest of three products, after one to warm up."""
    import mlx.core as mx

    square = mx.random.normal((_SIDE, _SIDE), key=mx.random.key(0))
    mx.eval(square @ square)
    times = []
    for _ in range(3):
        start = time.perf_counter()
        mx.eval(square @ square)
        times.append(time.perf_counter() - start)
    return min(times)


def check_precision() -> Finding:
    """Measure whether float32 products are full float32, as finite differences need."""
    from sharpzo_mlx.runtime import precision

    error = precision.product_error()
    switch = f"{startup.TF32_SWITCH}={os.environ.get(startup.TF32_SWITCH)}"
    words = f"float32 products have an error of {error:.0e}; {switch}"
    if error <= precision.COARSE:
        return Finding("precision", words)
    return Finding("precision", words, f"set {startup.TF32_SWITCH}=0 before Python starts: tuning needs it")


def check_memory() -> Finding:
    """Tell the physical memory, and how much of it MLX may use."""
    import mlx.core as mx

    from sharpzo_mlx.runtime import memory

    allowed = mx.set_memory_limit(memory.physical())
    mx.set_memory_limit(allowed)
    words = f"{wording.amount(memory.physical())}, of which MLX may use {wording.amount(allowed)}"
    return Finding("memory", words)


def check_caches() -> Finding:
    """Tell where the caches are, how large they are, and whether they can be written to."""
    folder = files.cache_folder()
    sizes = ", ".join(f"{name} {wording.amount(_size(folder / name))}" for name in ("features", "models"))
    nearest = next(place for place in (folder, *folder.parents) if os.path.lexists(place))
    remedy = f"set {files.CACHE_VARIABLE} to a folder of yours"
    if not nearest.is_dir():
        return Finding("caches", f"{folder}: not usable, {nearest} is not a folder", remedy)
    if not os.access(nearest, os.W_OK):
        return Finding("caches", f"{folder}: not writable", remedy)
    return Finding("caches", f"{folder} ({sizes}; can be deleted; they are made again when needed)")


def _size(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_dir())


def check_default_model() -> Finding:
    """Find the model that `tune` uses if none is named."""
    folder = files.default_model_folder()
    if (folder / "config.json").is_file():
        return Finding("default model", f"{folder} ({wording.amount(_size(folder))})")
    remedy = f"sharpzo-mlx convert    (downloads {files.DEFAULT_MODEL} once)"
    return Finding("default model", "not here yet", remedy)


def check_mlx_data() -> Finding:
    """Import mlx-data, which decodes plain JPEG files in its own threads."""
    if is_importable("mlx.data"):
        return Finding("mlx-data", "decodes images in threads")
    remedy = "pip install mlx-data, where it has a wheel for this Python"
    return Finding("mlx-data", "missing; Pillow decodes instead, with equal results", remedy)


def check_pillow_heif() -> Finding:
    """Import pillow-heif, which reads HEIC photos."""
    if is_importable("pillow_heif"):
        return Finding("pillow-heif", "reads HEIC photos")
    return Finding("pillow-heif", "missing; HEIC photos are skipped", "pip install pillow-heif")


def is_importable(name: str) -> bool:
    try:
        importlib.import_module(name)
    except Exception:  # a broken installation is of no use either
        return False
    return True


CHECKS: tuple[Callable[[], Finding], ...] = (
    check_python,
    check_mlx,
    check_gpu,
    check_products,
    check_precision,
    check_memory,
    check_caches,
    check_default_model,
    check_mlx_data,
    check_pillow_heif,
)
