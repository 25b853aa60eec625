"""The tables and curves of a comparison against NumPy."""

from __future__ import annotations

from dataclasses import astuple
from pathlib import Path

import numpy as np
import pytest
from comparison_runs import CONFIG, failure, result

from sharpzo_mlx.comparison.plots import compute_band
from sharpzo_mlx.comparison.record import Comparison, DatasetResult
from sharpzo_mlx.comparison.results import Curve
from sharpzo_mlx.comparison.table_text import as_markdown, as_text, make_table
from sharpzo_mlx.comparison.tables import Spread, make_mean_rows, make_rows


def test_means_spreads_and_gains_are_those_of_numpy() -> None:
    zero, bbt = [0.30, 0.34, 0.29], [0.50, 0.47, 0.62]
    cells = [result("zero-shot", seed, test) for seed, test in enumerate(zero)]
    cells += [result("bbt", seed, test, shift={"sketch": test / 2}) for seed, test in enumerate(bbt)]
    row = make_rows(cells)[1]
    assert row.test is not None
    assert row.gain is not None
    assert astuple(row.test) == pytest.approx((np.mean(bbt), np.std(bbt, ddof=1)))
    gains = np.subtract(bbt, zero)
    assert astuple(row.gain) == pytest.approx((gains.mean(), gains.std(ddof=1)))
    assert row.shift["sketch"].sd == pytest.approx(np.std(bbt, ddof=1) / 2)
    assert row.costs["queries"] == 101
    assert row.costs["seconds"] == 3
    assert row.peak_memory_mb == 62
    only = make_rows(cells[:1] + cells[3:4])[1].test
    assert only == Spread(0.5, None)


def test_the_mean_over_data_sets_takes_seeds_one_by_one_and_leaves_out_what_failed() -> None:
    first = [result("zero-shot", s, 0.2) for s in (0, 1)] + [result("bbt", s, t) for s, t in ((0, 0.4), (1, 0.6))]
    second = [result("zero-shot", s, 0.4) for s in (0, 1)] + [result("bbt", s, t) for s, t in ((0, 0.8), (1, 0.5))]
    second.append(failure("zo", 0, "broken"))
    mean = make_mean_rows([[*first, result("zo", 0, 0.9)], second])
    assert [row.method for row in mean] == ["zero-shot", "bbt"]
    bbt, gain = mean[1].test, mean[1].gain
    assert bbt is not None
    assert gain is not None
    assert astuple(bbt) == pytest.approx((0.575, np.std([0.6, 0.55], ddof=1)))
    assert gain.mean == pytest.approx(0.275)


def test_the_mean_over_data_sets_has_the_shifted_folders_that_all_were_measured_on() -> None:
    first = [result("zero-shot", s, 0.2, shift={"sketch": 0.1 + s, "night": 0.5}) for s in (0, 1)]
    second = [result("zero-shot", s, 0.4, shift={"sketch": 0.3 + s}) for s in (0, 1)]
    (row,) = make_mean_rows([first, second])
    assert set(row.shift) == {"sketch"}
    assert astuple(row.shift["sketch"]) == pytest.approx((0.7, np.std([0.2, 1.2], ddof=1)))


def test_a_mean_over_fewer_seeds_says_so(photos: Path, tmp_path: Path) -> None:
    """What a method lacks on one data set, the mean lacks, and the table shows it."""
    first = [result(name, s, 0.5) for name in ("zero-shot", "bbt") for s in range(3)]
    second = [result("zero-shot", s, 0.5) for s in range(3)] + [result("bbt", 0, 0.5)]
    second += [failure("bbt", s, "broken") for s in (1, 2)]
    results = tuple(DatasetResult(name, photos, 3, {}, tuple(own)) for name, own in (("a", first), ("b", second)))
    *_, mean = as_markdown(Comparison(tmp_path, CONFIG, results)).split("## ")
    assert "3 seeds" in mean
    assert "| Zero-shot | 50.0 ± 0.0 |" in mean
    assert "| BBT (CMA-ES) [2 failed] | 50.0 | +0.0 |" in mean


def test_a_terminal_shows_the_names_that_were_typed(tmp_path: Path, photos: Path) -> None:
    found = tuple(result(name, 0, 0.5) for name in ("zero-shot", "default"))
    comparison = Comparison(tmp_path, CONFIG, (DatasetResult("a", photos, 3, {}, found),))
    shown = [line.split()[0] for line in as_text(comparison, 80).splitlines() if line]
    assert shown[1:4] == ["method", "zero-shot", "default"]
    assert "| Words tuned beside Gaussians + guard |" in as_markdown(comparison)


def test_bands_are_means_of_stairs() -> None:
    curves = [
        Curve(queries=(0, 50, 100), best_accuracy=(0.2, 0.4, 0.6)),
        Curve(queries=(0, 80), best_accuracy=(0.1, 0.9)),
    ]
    grid, mean, sd = compute_band(curves, "queries", "best_accuracy")
    assert (grid[0], grid[-1]) == (0, 100)
    for x, m, s in zip(grid, mean, sd, strict=True):
        own = [0.6 if x >= 100 else 0.4 if x >= 50 else 0.2, 0.9 if x >= 80 else 0.1]
        assert m == pytest.approx(np.mean(own))
        assert s == pytest.approx(np.std(own, ddof=1))


def test_a_row_of_a_method_that_only_failed() -> None:
    rows = make_rows([result("zero-shot", 0, 0.5, shift={"sketch": 0.25}), failure("bbt", 0, "no luck")])
    heading, zero_shot, failed = make_table(rows, 1)
    assert heading[3] == "sketch, %"
    assert zero_shot[:4] == ["Zero-shot", "50.0", "+0.0", "25.0"]
    assert failed == ["BBT (CMA-ES) [1 failed]", *["-"] * 8]
