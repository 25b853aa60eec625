"""Ask the machine what it is: chip, cores, system, and the GPU that MLX sees.

macOS answers by `sysctlbyname`, Linux by files. In a virtual machine on Apple silicon the GPU is called "Apple
Paravirtual device": its results count, its times do not.

>>> find_chip() != ""
True
"""

from __future__ import annotations

import ctypes
import os
import platform
import re
import sys
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx

CPU_FACTS = Path("/proc/cpuinfo")
PARAVIRTUAL = "paravirtual"  # part of the name of such a GPU


@dataclass(frozen=True)
class GPU:
    """The GPU as MLX describes it.

    Attributes:
        name: such as "Apple M4".
        architecture: such as "applegpu_g16g"; empty where MLX does not know it.
        working_set: bytes that the system recommends to hold at most; None where MLX does not know it.
    """

    name: str
    architecture: str
    working_set: int | None

    @property
    def paravirtual(self) -> bool:
        """Whether a virtual machine passes its work on to a real GPU."""
        return PARAVIRTUAL in self.name.lower()


def find_gpu() -> GPU:
    """Return what MLX says of the GPU, whichever device is the default one; there must be one."""
    told = mx.device_info(mx.gpu)
    size = told.get("max_recommended_working_set_size")
    working_set = int(size) if size else None
    return GPU(str(told.get("device_name", "")), str(told.get("architecture", "")), working_set)


def find_chip() -> str:
    """Return the processor's name, such as "Apple M4 Pro"; the architecture where the system does not tell it."""
    if sys.platform == "darwin":
        return _text_of("machdep.cpu.brand_string") or platform.machine()
    told = CPU_FACTS.read_text(errors="replace") if CPU_FACTS.is_file() else ""
    named = re.search(r"^model name\s*:\s*(.+)$", told, re.MULTILINE)
    return named[1].strip() if named else platform.machine()


def describe_cores() -> str:
    """Return the number of cores in words, on Apple silicon the two kinds apart: "10 cores (4 fast, 6 efficient)"."""
    words = f"{os.cpu_count()} cores"
    if sys.platform != "darwin":
        return words
    fast, efficient = (_number_of(f"hw.perflevel{level}.physicalcpu") for level in (0, 1))
    return f"{words} ({fast} fast, {efficient} efficient)" if fast and efficient else words


def describe_system() -> str:
    """Return the system's name and version, such as "macOS 15.5, arm64" or "Debian GNU/Linux 12, x86_64"."""
    if sys.platform == "darwin":
        return f"macOS {platform.mac_ver()[0]}, {platform.machine()}"
    try:
        name = platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        name = platform.platform(terse=True)
    return f"{name}, {platform.machine()}"


def is_virtual() -> bool:
    """Return whether macOS says that it runs in a virtual machine; False on other systems, which are not asked."""
    return sys.platform == "darwin" and _number_of("kern.hv_vmm_present") == 1


def read_sysctl(name: str) -> bytes | None:
    """Return the value that macOS has under a name, such as "hw.memsize"; None if it has none."""
    size = ctypes.c_size_t(0)
    try:
        ask = ctypes.CDLL(None).sysctlbyname
        if ask(name.encode(), None, ctypes.byref(size), None, ctypes.c_size_t(0)):
            return None
        value = ctypes.create_string_buffer(max(1, size.value))
        failed = ask(name.encode(), value, ctypes.byref(size), None, ctypes.c_size_t(0))
    except (OSError, AttributeError):  # no such function
        return None
    return None if failed else value.raw[: size.value]


def _text_of(name: str) -> str:
    return (read_sysctl(name) or b"").rstrip(b"\0").decode(errors="replace").strip()


def _number_of(name: str) -> int:
    return int.from_bytes(read_sysctl(name) or b"", sys.byteorder)
