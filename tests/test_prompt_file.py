"""A prompt's file: what is written is read back, and it is a classifier without this library."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from sharpzo_mlx.errors import UserError
from sharpzo_mlx.heads.guard import Guard
from sharpzo_mlx.heads.head import Head
from sharpzo_mlx.prompts.prompt import Prompt
from sharpzo_mlx.runs.prompt_file import read_prompt, write_prompt


def prompt() -> Prompt:
    return Prompt(
        context=mx.random.normal((2, 4), key=mx.random.key(0)),
        w=mx.random.normal((5,), key=mx.random.key(1)),
        class_features=mx.random.normal((3, 6), key=mx.random.key(2)),
        zero_shot_features=mx.random.normal((3, 6), key=mx.random.key(3)),
        class_names=("cat", "größe", "猫"),
        folders=("n01", "n02", "n03"),
        logit_scale=12.345678901234567,
        template="a photo of a {}.",
    )


def test_a_prompt_survives_its_file(tmp_path: Path) -> None:
    before = prompt()
    write_prompt(tmp_path / "p.safetensors", before)
    after = read_prompt(tmp_path / "p.safetensors")
    for name in ("context", "w", "class_features", "zero_shot_features"):
        np.testing.assert_array_equal(getattr(after, name), getattr(before, name))
    for name in ("class_names", "folders", "logit_scale", "template"):
        assert getattr(after, name) == getattr(before, name)


def test_the_file_is_a_classifier_without_this_library(tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors.numpy")
    write_prompt(tmp_path / "p.safetensors", prompt())
    arrays = safetensors.load_file(tmp_path / "p.safetensors")
    assert arrays["class_features"].shape == (3, 6)
    header = (tmp_path / "p.safetensors").read_bytes()
    words = json.loads(header[8 : 8 + int.from_bytes(header[:8], "little")])["__metadata__"]
    assert json.loads(words["class_names"]) == ["cat", "größe", "猫"]


@pytest.mark.parametrize("content", [b"", b"not a prompt", b"\x00" * 64])
def test_what_is_no_prompt_is_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "p.safetensors"
    with pytest.raises(UserError, match="no readable prompt"):
        read_prompt(path)
    path.write_bytes(content)
    with pytest.raises(UserError, match="no readable prompt"):
        read_prompt(path)


def headed() -> Prompt:
    guard = Guard(mx.eye(6), mx.ones((3, 6)), centre=2.0, spread=0.5)
    rows, rising = mx.ones((3, 6)), mx.arange(4.0)
    return replace(prompt(), head=Head("gda", rows, mx.zeros((3,)), guard, 0.3, 0.02, 0.004, rising, rising))


def rewrite(path: Path, arrays: dict[str, mx.array | None], words: dict[str, str | None]) -> None:
    write_prompt(path, headed())
    before: Any = mx.load(str(path), return_metadata=True)
    kept = {name: array for name, array in (before[0] | arrays).items() if array is not None}
    mx.save_safetensors(str(path), kept, {name: word for name, word in (before[1] | words).items() if word is not None})


@pytest.mark.parametrize(
    ("arrays", "words", "problem"),
    [
        ({"guard_whitening": None, "guard_means": None, "head_scores": None}, {}, "another version .*tune again"),
        ({"head_scores": None}, {}, "head_scores is missing"),
        ({"head_weight": mx.full((3, 6), mx.nan)}, {}, "head_weight has numbers that are not finite"),
        ({"head_weight": mx.ones((4, 6))}, {}, r"head_weight has shape \(4, 6\), not \(3, 6\)"),
        ({"head_bias": mx.ones((3, 1))}, {}, r"head_bias has shape \(3, 1\), not \(3,\)"),
        ({"guard_whitening": mx.ones((6, 5))}, {}, "guard_whitening has shape"),
        ({"head_distances": mx.ones((2, 2))}, {}, "head_distances has shape"),
        ({"head_distances": mx.array([1.0, mx.inf])}, {}, "head_distances has numbers"),
        ({"class_features": mx.ones((3, 7))}, {}, "zero_shot_features has shape"),
        ({"class_features": mx.array(1.0)}, {}, "damaged"),
        ({"w": mx.array([mx.nan])}, {}, "w has numbers"),
        ({}, {"guard_spread": "0.0"}, "guard_spread is 0"),
        ({}, {"guard_centre": "nan"}, "guard_centre is nan"),
        ({}, {"logit_scale": "inf"}, "logit_scale is inf"),
        ({}, {"text_share": "much"}, "text_share is not a number"),
        ({}, {"class_names": '["a", "b"]'}, "class names"),
        ({}, {"class_names": "[1, 2, 3]"}, "class names"),
        ({}, {"class_names": "3"}, "class_names is not a list"),
        ({}, {"class_names": "[" * 100_000}, "class names: .*nested more than 32 deep"),
        ({}, {"class_names": "[]", "folders": "[]"}, "class names"),
        ({}, {"template": None}, "template is missing"),
        ({}, {"folders": '["a", "b", 3]'}, r"folders\[2\] is not a text"),
        ({"head_distances": mx.array([2.0, 1.0])}, {}, "head_distances has numbers that do not rise"),
        ({"head_bias": mx.array([1, 2, 3])}, {}, "head_bias is of type I32"),
        ({"context": mx.ones((4,))}, {}, r"context has shape \(4,\), not 2 dimensions"),
    ],
)
def test_a_damaged_file_with_a_head_is_one_line(
    arrays: dict[str, mx.array | None], words: dict[str, str | None], problem: str, tmp_path: Path
) -> None:
    path = tmp_path / "p.safetensors"
    rewrite(path, {}, {})
    assert read_prompt(path).head is not None
    rewrite(path, arrays, words)
    with pytest.raises(UserError, match=problem) as caught:
        read_prompt(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
