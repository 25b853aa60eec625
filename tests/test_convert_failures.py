"""A conversion that fails says so in one line and leaves nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from hf_checkpoint import CONFIG, random_weights, save_safetensors, write_checkpoint

from sharpzo_mlx.convert import convert
from sharpzo_mlx.errors import UserError


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "clip")


def drop(weights: dict[str, mx.array], prefix: str) -> dict[str, mx.array]:
    return {name: value for name, value in weights.items() if not name.startswith(prefix)}


def rewrite(change: Callable[[dict[str, mx.array]], dict[str, mx.array]]) -> Callable[[Path], object]:
    return lambda folder: save_safetensors(change(random_weights()), folder / "model.safetensors")


def cut(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def reconfigure(**change: Any) -> Callable[[Path], object]:
    return lambda folder: (folder / "config.json").write_text(json.dumps(CONFIG | change))


def index(listed: Any) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        (folder / "model.safetensors").unlink()
        (folder / "model.safetensors.index.json").write_text(json.dumps(listed))

    return change


def remove(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).unlink()


def open_clip(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "open_clip_model.safetensors")


NAN = mx.full((8, 16), float("nan"))
FAILURES: dict[str, tuple[Callable[[Path], object], str]] = {
    "image only": (rewrite(lambda weights: drop(weights, "text_")), "only CLIP's image tower"),
    "missing": (rewrite(lambda weights: drop(weights, "logit")), r"1 tensors are missing \(logit_scale\)"),
    "unused": (rewrite(lambda weights: weights | {"extra": mx.ones(1)}), r"1 are not of the CLIP.*\(extra\)"),
    "nan": (rewrite(lambda weights: weights | {"text_projection.weight": NAN}), "holds NaN or infinity"),
    "integers": (
        rewrite(lambda weights: weights | {"text_projection.weight": mx.ones((8, 16), mx.int8)}),
        "not floating numbers",
    ),
    "truncated": (cut, r"model\.safetensors: .*cut short"),
    "siglip": (reconfigure(model_type="siglip2"), "NaFlex"),
    "vision model": (reconfigure(model_type="clip_vision_model"), "image tower"),
    "config of another": (reconfigure(projection_dim=9), "config.json asks for"),
    "no config": (remove("config.json"), "no config.json"),
    "broken config": (lambda folder: (folder / "config.json").write_text("{"), "no JSON"),
    "no weights": (remove("model.safetensors"), "no weights"),
    "no tokenizer": (remove("vocab.json"), "no tokenizer.json"),
    "open_clip": (open_clip, "open_clip's weights, but no open_clip_config.json"),
    "missing shard": (index({"weight_map": {"a": "model-1.safetensors"}}), "model-1.safetensors, which is not there"),
    "shard outside": (index({"weight_map": {"a": "../x.safetensors"}}), "no weights file beside it"),
    "empty index": (index({"weight_map": {}}), "lists no weights"),
    "another ending": (
        lambda folder: (folder / "model.safetensors").rename(folder / "pytorch_model.bin"),
        r"pytorch_model\.bin: it is a safetensors file by its content: rename it",
    ),
}


@pytest.mark.parametrize("case", FAILURES)
def test_a_failure_is_one_line_and_leaves_nothing(checkpoint: Path, tmp_path: Path, case: str) -> None:
    spoil, message = FAILURES[case]
    spoil(checkpoint)
    with pytest.raises(UserError, match=message) as caught:
        convert(checkpoint, tmp_path / "m")
    assert "\n" not in str(caught.value)
    assert str(checkpoint) in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["clip"]


def test_float16_that_overflows_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    rewrite(lambda weights: weights | {"text_projection.weight": mx.full((8, 16), 1e6)})(checkpoint)
    with pytest.raises(UserError, match="choose --dtype bfloat16"):
        convert(checkpoint, tmp_path / "m", dtype="float16")


@pytest.mark.parametrize("source", ["absent", "./absent/folder", "owner/name/more"])
def test_no_such_source(source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"no such file or folder"):
        convert(source, "m")


def test_an_empty_source_is_refused(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is mostly a variable that is not set, and would be the current folder."""
    monkeypatch.chdir(checkpoint)
    with pytest.raises(UserError, match="an empty path was given"):
        convert("", "m")
    assert not (checkpoint / "m").exists()


def test_arguments_are_checked_before_anything_is_read(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"dtype 'int4': choose one of float32, float16, bfloat16"):
        convert("owner/unknown", tmp_path / "m", dtype="int4")
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="is a file; choose another"):
        convert("owner/unknown", tmp_path / "file", force=True)
