"""`sharpzo-mlx doctor`: what this machine is, whether it is set up well, and the remedy for each problem.

Every check is a function that returns one Finding; none changes anything. A problem slows this program
down or takes something from it; only what keeps it from working at all is broken and makes the exit code
1.

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
from sharpzo_mlx.runtime import startup

_SIDE = 1024  # of the square matrices that are multiplied to measure the speed


@dataclass(frozen=True)
class Finding:
    """What one check saw.

    Attributes:
        name: what was looked at, in a word or two.
        words: what was seen.
        remedy: what to do about it; None where all is well.
        broken: whether this program cannot work so.
    """

    name: str
    words: str
    remedy: str | None = None
    broken: bool = False


@click.command("doctor")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
@click.pass_context
def doctor_command(ctx: click.Context, as_json: bool) -> None:
    """Check this machine and say how to mend what is wrong."""
    findings = [examine(check) for check in CHECKS]
    if as_json:
        wording.echo_json({"findings": [vars(finding) for finding in findings]})
    else:
        click.echo("\n".join(line for finding in findings for line in lines(finding)))
    ctx.exit(1 if any(finding.broken for finding in findings) else 0)


def examine(check: Callable[[], Finding]) -> Finding:
    """Run one check; one that fails itself is a finding too."""
    try:
        return check()
    except Exception as error:  # the doctor must get to the end, whatever is wrong with this machine
        name = check.__name__.replace("_", " ")
        return Finding(name, f"{type(error).__name__}: {error}", "install again: pip install .", broken=True)


def lines(finding: Finding) -> list[str]:
    """A finding as one line, and a second with the remedy where there is a problem."""
    mark = "FAIL" if finding.broken else "note" if finding.remedy else "ok"
    shown = [f"{mark:<5} {finding.name:<14} {finding.words}"]
    return shown + ([f"      {'':<14} -> {finding.remedy}"] if finding.remedy else [])


def python() -> Finding:
    """The interpreter and the machine below it."""
    words = f"{platform.python_version()} on {platform.platform(terse=True)}, {platform.machine()}"
    return Finding("Python", f"{words}, {os.cpu_count()} cores")


def mlx() -> Finding:
    """MLX's version and the device that it computes on."""
    import mlx.core as mx

    name = mx.device_info().get("device_name", "")
    device = f"{mx.default_device().type}".rsplit(".", 1)[-1].upper()
    words = f"{version('mlx')} on the {device} ({name})"
    if sys.platform == "darwin" and not mx.metal.is_available():
        return Finding("MLX", words, "no Metal GPU to be seen: run outside of a virtual machine or container")
    return Finding("MLX", words)


def speed() -> Finding:
    """The library behind float32 products and the rate it reaches."""
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
    """The fastest of three products of square matrices, after one to warm up."""
    import mlx.core as mx

    square = mx.random.normal((_SIDE, _SIDE), key=mx.random.key(0))
    mx.eval(square @ square)
    times = []
    for _ in range(3):
        start = time.perf_counter()
        mx.eval(square @ square)
        times.append(time.perf_counter() - start)
    return min(times)


def precision() -> Finding:
    """Whether float32 products are full float32, as finite differences need."""
    from sharpzo_mlx.runtime import precision

    error = precision.product_error()
    words = f"float32 products err by {error:.0e}; {startup.TF32_SWITCH}={os.environ.get(startup.TF32_SWITCH)}"
    if error <= precision.COARSE:
        return Finding("precision", words)
    return Finding("precision", words, f"set {startup.TF32_SWITCH}=0 before Python starts: tuning needs it")


def memory() -> Finding:
    """Physical memory, and what MLX may use of it."""
    import mlx.core as mx

    from sharpzo_mlx.runtime import memory

    allowed = mx.set_memory_limit(memory.physical())
    mx.set_memory_limit(allowed)
    words = f"{wording.amount(memory.physical())}, of which MLX takes up to {wording.amount(allowed)}"
    return Finding("memory", words)


def caches() -> Finding:
    """Where the caches are, how large, and whether they can be written."""
    folder = files.cache_folder()
    sizes = ", ".join(f"{name} {wording.amount(_size(folder / name))}" for name in ("features", "models"))
    nearest = next(place for place in (folder, *folder.parents) if os.path.lexists(place))
    remedy = f"set {files.CACHE_VARIABLE} to a folder of yours"
    if not nearest.is_dir():
        return Finding("caches", f"{folder}: not usable, {nearest} is not a folder", remedy)
    if not os.access(nearest, os.W_OK):
        return Finding("caches", f"{folder}: not writable", remedy)
    return Finding("caches", f"{folder} ({sizes}; may be deleted, are made again when needed)")


def _size(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_dir())


def default_model() -> Finding:
    """The model that `tune` takes when none is named."""
    folder = files.default_model_folder()
    if (folder / "config.json").is_file():
        return Finding("default model", f"{folder} ({wording.amount(_size(folder))})")
    remedy = f"sharpzo-mlx convert    (downloads {files.DEFAULT_MODEL} once)"
    return Finding("default model", "not here yet", remedy)


def image_streams() -> Finding:
    """mlx-data, which decodes plain JPEG and PNG files in its own threads."""
    if is_importable("mlx.data"):
        return Finding("mlx-data", "decodes images in threads")
    remedy = "pip install mlx-data, where it has a wheel for this Python"
    return Finding("mlx-data", "missing; Pillow decodes instead, with equal results", remedy)


def phone_photos() -> Finding:
    """pillow-heif, which reads HEIC photos."""
    if is_importable("pillow_heif"):
        return Finding("pillow-heif", "reads HEIC photos")
    return Finding("pillow-heif", "missing; HEIC photos are skipped", "pip install pillow-heif")


def is_importable(name: str) -> bool:
    try:
        importlib.import_module(name)
    except Exception:  # a broken installation is as good as none
        return False
    return True


CHECKS: tuple[Callable[[], Finding], ...] = (
    python,
    mlx,
    speed,
    precision,
    memory,
    caches,
    default_model,
    image_streams,
    phone_photos,
)
