"""Sizes of memory and durations are read as users write them, and anything else is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sharpzo_mlx.errors import UserError
from sharpzo_mlx.runtime.units import parse_bytes, parse_seconds


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1", 1),
        ("512MB", 512_000_000),
        ("512 mb", 512_000_000),
        ("1.5GB", 1_500_000_000),
        ("2GiB", 2 * 1024**3),
        (".5k", 500),
        ("3T", 3 * 10**12),
        ("7b", 7),
    ],
)
def test_sizes(text: str, expected: int) -> None:
    assert parse_bytes(text) == expected


@pytest.mark.parametrize("text", ["", "MB", "-1GB", "1XB", "0", "0.1", "1e9", "nan", "1 2", "GiB2"])
def test_what_is_not_a_size_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(UserError, match="512MB") as caught:
        parse_bytes(text)
    assert repr(text) in str(caught.value)
    assert "\n" not in str(caught.value)


@given(st.floats(0, 1e6), st.sampled_from([("", 1), ("s", 1), ("m", 60), ("min", 60), ("h", 3600)]))
def test_durations(number: float, unit: tuple[str, int]) -> None:
    assert parse_seconds(f"{number:.6f}{unit[0]}") == pytest.approx(number * unit[1], abs=1e-2)


@pytest.mark.parametrize("text", ["", "s", "5 d", "1h30m", "-3s", "1e3"])
def test_what_is_not_a_duration_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="90s"):
        parse_seconds(text)
