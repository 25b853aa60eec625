"""The checks of the setup: what the machine is, what works, what a query costs, and the remedy of each problem.

Every check is a function that returns one Finding and changes nothing.

>>> check_python().name
'Python'
"""

from __future__ import annotations

import importlib
import os
import platform
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from sharpzo_mlx import files
from sharpzo_mlx.doctor.findings import NO_GPU, Finding
from sharpzo_mlx.report.formatting import amount, duration
from sharpzo_mlx.runtime import startup

_SIDE = 1024  # the square matrices whose product is timed have this many rows
_GPU_PRODUCTS = 32  # of a pass: 5 ms on a GPU of 13 TFLOP/s, which answers in 0.35 ms or so
_REAL_MAC = "times measured here say nothing of a Mac itself; results do"


def check_chip() -> Finding:
    """Name the processor and its cores."""
    from sharpzo_mlx.doctor import machine

    return Finding("chip", f"{machine.find_chip()}, {machine.describe_cores()}")


def check_system() -> Finding:
    """Name the system."""
    from sharpzo_mlx.doctor import machine

    return Finding("system", machine.describe_system() + (", in a virtual machine" if machine.is_virtual() else ""))


def check_python() -> Finding:
    """Name the versions of the interpreter and of NumPy."""
    return Finding("Python", f"{platform.python_version()}, NumPy {version('numpy')}")


def check_mlx() -> Finding:
    """Name MLX's version and the device that it computes on."""
    from sharpzo_mlx.runtime import device

    if not device.on_cpu() and not device.has_gpu():  # a build for GPUs on a machine without one
        return Finding("MLX", f"{version('mlx')}, built for a GPU")
    return Finding("MLX", f"{version('mlx')} on the {'CPU' if device.on_cpu() else 'GPU'} ({device.device_name()})")


def check_gpu() -> Finding:
    """Tell whether there is a GPU that MLX can use, what it is, and whether it is used."""
    from sharpzo_mlx.doctor import machine
    from sharpzo_mlx.runtime import device

    if device.has_gpu():
        gpu = machine.find_gpu()
        words = f"used: {gpu.name} {gpu.architecture}".rstrip(" :")
        if device.on_cpu():
            words = (
                f"there is one, and it is not used ({device.DEVICE_VARIABLE}={os.environ.get(device.DEVICE_VARIABLE)})"
            )
        if gpu.working_set:
            words += f", working set of {amount(gpu.working_set)} recommended"
        if gpu.paravirtual:
            return Finding("GPU", f"{words}; a virtual machine's, not a real one", _REAL_MAC)
        return Finding("GPU", words)
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
    """Return the seconds of one product: the fastest of three passes, after one to warm up.

    A pass on a GPU is many products, because one is done sooner than a fast GPU answers.
    """
    import mlx.core as mx

    from sharpzo_mlx.runtime.device import on_cpu

    square = mx.random.normal((_SIDE, _SIDE), key=mx.random.key(0))
    count = 1 if on_cpu() else _GPU_PRODUCTS
    mx.eval([square @ square for _ in range(count)])
    times = []
    for _ in range(3):
        start = time.perf_counter()
        mx.eval([square @ square for _ in range(count)])
        times.append((time.perf_counter() - start) / count)
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


def check_query() -> Finding:
    """Measure what a query costs, and say what follows for the default tuning; it takes two to four seconds."""
    from sharpzo_mlx.doctor import query_cost

    cost = query_cost.measure_query(query_cost.make_usual_objective())
    words = f"{1000 * cost.seconds:.3g} ms: {cost.describe()}"
    queries = query_cost.default_queries()
    return Finding(
        "a query",
        f"{words}; the queries of the default tuning, {queries} at most, take about "
        f"{duration(queries * cost.seconds)}. Encoding images and the rest of a step come on top",
    )


def check_memory() -> Finding:
    """Tell the physical memory, and how much of it MLX may use."""
    import mlx.core as mx

    from sharpzo_mlx.runtime import memory

    allowed = mx.set_memory_limit(memory.physical())
    mx.set_memory_limit(allowed)
    return Finding("memory", f"{amount(memory.physical())}, of which MLX may use {amount(allowed)}")


def check_caches() -> Finding:
    """Tell where the caches are, how large they are, and whether they can be written to."""
    folder = files.cache_folder()
    sizes = ", ".join(f"{name} {amount(_size(folder / name))}" for name in ("features", "models"))
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
        return Finding("default model", f"{folder} ({amount(_size(folder))})")
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
    """Return whether a module can be imported."""
    try:
        importlib.import_module(name)
    except Exception:  # a broken installation is of no use either
        return False
    return True


CHECKS: tuple[Callable[[], Finding], ...] = (
    check_chip,
    check_system,
    check_python,
    check_mlx,
    check_gpu,
    check_products,
    check_precision,
    check_query,
    check_memory,
    check_caches,
    check_default_model,
    check_mlx_data,
    check_pillow_heif,
)
LONG_CHECKS = (check_query,)  # what takes seconds, and `--quick` leaves out
