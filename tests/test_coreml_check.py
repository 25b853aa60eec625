"""On a Mac an exported package is compared with this program, here with a stand-in for Core ML."""

from __future__ import annotations

import platform
import sys
from importlib import util
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

import sharpzo_mlx as sz
from sharpzo_mlx.doctor import export_steps
from sharpzo_mlx.doctor.steps import NotHere
from sharpzo_mlx.doctor.workspace import SMALL, open_workspace
from sharpzo_mlx.exporting import coreml_machine

pytest.importorskip("coremltools")
from mil_interpreter import Package

from sharpzo_mlx.exporting import coreml_check

PROBS = "classLabel_probs"


class Stand:
    """A stand-in for Core ML, which answers as the interpreter does, or as it is told."""

    changes: ClassVar[dict[str, Any]] = {}

    def __init__(self, path: str) -> None:
        self._package = Package(Path(path))

    def get_spec(self) -> Any:
        return self._package.spec

    def predict(self, given: dict[str, Any]) -> dict[str, Any]:
        (value,) = given.values()
        taken = np.asarray(value) if "image" in given else value[0]
        return self._package.run(taken) | self.changes


@pytest.fixture
def mac(monkeypatch: pytest.MonkeyPatch) -> None:
    """Core ML is here, and it is the stand-in."""
    monkeypatch.setattr(coreml_machine, "why_not_here", lambda: None)
    monkeypatch.setattr(coreml_check, "load_package", lambda path: Stand(str(path)))


@pytest.mark.parametrize("head_only", [False, True])
def test_on_a_mac_the_package_is_compared(
    finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mac: None, head_only: bool
) -> None:
    """Its answers are compared, and a package that answers otherwise is not written."""
    options = sz.ExportOptions(head_only=head_only)
    checked = sz.export(finished_run, "coreml", tmp_path / "x.mlpackage", options=options).checked
    assert checked is not None
    assert (checked.images, checked.difference < 1e-4) == (8, True)
    names = sz.Run.load(finished_run).prompt.class_names
    wrong = {name: 1 / len(names) for name in names}
    for changes, expected in (
        ({PROBS: wrong}, "gives other probabilities"),
        ({"distance": np.array([1e30], np.float32), "rejected": np.array([0])}, "contradicts itself, rejected is 0"),
        ({PROBS: {}}, "cannot run the exported package"),
    ):
        monkeypatch.setattr(Stand, "changes", changes)
        with pytest.raises(sz.UserError, match=expected):
            sz.export(finished_run, "coreml", tmp_path / "y.mlpackage", options=options)
    assert [path.name for path in tmp_path.iterdir()] == ["x.mlpackage"]


def test_older_systems_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    for release, expected in (("13.6.1", "needs macOS 14, this is 13.6.1"), ("14.0", None), ("26.1", None)):
        monkeypatch.setattr(platform, "mac_ver", lambda release=release: (release, ("", "", ""), "arm64"))
        assert coreml_machine.why_not_here() == expected


def test_step_of_the_full_check(mac: None, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_workspace(SMALL) as workspace:
        answer = export_steps.run_core_ml(workspace)
        assert answer.right
        assert float(answer.numbers["float32_difference"] or 1) < 1e-4
        assert float(answer.numbers["float16_bytes"] or 0) < float(answer.numbers["float32_bytes"] or 0)
        monkeypatch.setattr(util, "find_spec", lambda _: None)
        with pytest.raises(NotHere, match="needs coremltools"):
            export_steps.run_core_ml(workspace)
