"""A plot whose font lacks characters of a name: no warning of matplotlib's, one notice for the PNG, text in the SVG."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from sharpzo_mlx.report import plots
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
    assert all(str(tmp_path) in notice and path.name in notice and "no font here" in notice for notice in notices)


def test_one_notice_for_all_plots(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    figures = {name: Figure(figsize=(2, 1)) for name in ("classes", "confusion")}
    for figure in figures.values():
        figure.text(0.1, 0.5, "dog \U000f1234")
    save_png(figures, tmp_path)
    assert [record.message for record in caplog.records] == [
        f"{tmp_path}: classes.png, confusion.png: no font here has some characters of the names; the SVG shows them"
    ]


def test_a_font_of_the_system_is_asked_for_letters_that_matplotlibs_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """DejaVu Sans plays the system's CJK font: the first family lacks the letter, and no raw warning is given."""
    monkeypatch.setattr(plots, "FONTS", ("STIXGeneral", "No Such Font"))
    assert plots.choose_fonts() == ["DejaVu Sans", "STIXGeneral"]
    figure = Figure(figsize=(2, 1))
    figure.text(0.1, 0.5, "\u1d81")  # a letter that STIX has and DejaVu Sans has not
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        save_png({"classes": figure}, tmp_path)
    assert caplog.records == []
