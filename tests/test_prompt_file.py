"""A prompt's file: what is written is read back, and it is a classifier without this library."""

from __future__ import annotations

import json
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from sharpzo_mlx.errors import UserError
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
