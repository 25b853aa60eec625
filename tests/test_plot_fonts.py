"""A plot whose font lacks characters of a name: no warning of matplotlib's, one notice for the PNG, text in the SVG."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from sharpzo_mlx.report.plots import as_svg, save_png


@pytest.mark.parametrize(("name", "complete"), [("dog", True), ("dog \U000f1234", False)])
def test_missing_characters_are_one_notice(
    name: str, complete: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    figure = Figure(figsize=(2, 1))
    figure.text(0.1, 0.5, name)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert name in as_svg(figure)
        (path,) = save_png({"classes": figure}, tmp_path)
    notices = [record.message for record in caplog.records]
    assert len(notices) == (0 if complete else 1)
    assert all(str(path) in notice and "lacks some characters" in notice for notice in notices)
