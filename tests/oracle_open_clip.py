"""open_clip as an oracle: imported where it is installed, with a stand-in for a torchvision that is not.

open_clip needs torchvision only to prepare images, but imports it at once; a torchvision that does not fit the torch
beside it would keep the networks themselves from being compared.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import pytest

PARTS = ("", ".transforms", ".transforms.functional", ".transforms.v2", ".ops", ".ops.misc", ".datasets", ".models")
FILTERS = {"NEAREST": 0, "LANCZOS": 1, "BILINEAR": 2, "BICUBIC": 3, "BOX": 4, "HAMMING": 5}


class _Anything(ModuleType):
    """A module in which every public name is some class."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), FILTERS)


def load() -> Any:
    """The library, or a skip."""
    pytest.importorskip("torch")
    if "open_clip" in sys.modules:
        return sys.modules["open_clip"]
    stand_ins = {} if _has_torchvision() else {f"torchvision{part}": _stand_in(f"torchvision{part}") for part in PARTS}
    sys.modules.update(stand_ins)
    for name, module in stand_ins.items():
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(stand_ins[parent], child, module)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module("open_clip")
    except ImportError as error:
        pytest.skip(f"no open_clip: {error}")
    finally:
        for name in stand_ins:  # nobody else is to take it for the real one
            sys.modules.pop(name, None)


def _has_torchvision() -> bool:
    try:
        importlib.import_module("torchvision.transforms")
    except (ImportError, RuntimeError):
        return False
    return True


def _stand_in(name: str) -> ModuleType:
    module = _Anything(name)
    module.__spec__ = ModuleSpec(name, None, is_package=True)
    module.__path__ = []
    module.__version__ = "0"  # type: ignore[attr-defined]
    return module
