"""Weights as training loops save them: wrapped names, and entries of training checkpoints."""

from __future__ import annotations

import logging
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from hf_checkpoint import contents, random_weights, save_safetensors, write_checkpoint
from torch_files import entries, integer, mapping, state_dict, training_file, zip_file

from sharpzo_mlx.convert import convert, torch_file
from sharpzo_mlx.convert.wrapped_names import unwrap
from sharpzo_mlx.errors import UserError

PREFIXES = ("module.", "_orig_mod.", "model.", "clip.", "base_model.model.", "module._orig_mod.", "net.encoder.clip.")


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "clip")


@pytest.fixture
def expected(tmp_path: Path) -> dict[str, bytes]:
    return contents(convert(write_checkpoint(tmp_path / "plain" / "clip"), tmp_path / "expected").folder)


@pytest.mark.parametrize("prefix", PREFIXES)
def test_a_prefix_of_all_names_is_taken_off(
    checkpoint: Path, expected: dict[str, bytes], caplog: pytest.LogCaptureFixture, prefix: str
) -> None:
    wrapped = {f"{prefix}{name}": value for name, value in random_weights().items()}
    save_safetensors(wrapped, checkpoint / "model.safetensors")
    with caplog.at_level(logging.WARNING, "sharpzo_mlx"):
        assert contents(convert(checkpoint, checkpoint.parent / "m").folder) == expected
    assert f"took '{prefix}' off the names" in caplog.text


def test_layers_that_were_wrapped_one_by_one(checkpoint: Path, expected: dict[str, bytes]) -> None:
    wrapped = {name.replace("encoder.layers", "encoder._orig_mod.layers"): v for name, v in random_weights().items()}
    save_safetensors(wrapped, checkpoint / "model.safetensors")
    assert contents(convert(checkpoint, checkpoint.parent / "m").folder) == expected


def test_a_tower_that_was_wrapped_alone_and_a_scale_of_a_sharded_training(
    checkpoint: Path, expected: dict[str, bytes]
) -> None:
    wrapped = {name.replace("vision_model.", "vision_model.module."): value for name, value in random_weights().items()}
    wrapped["logit_scale"] = wrapped["logit_scale"].reshape(1)
    save_safetensors(wrapped, checkpoint / "model.safetensors")
    assert contents(convert(checkpoint, checkpoint.parent / "m").folder) == expected


@pytest.mark.parametrize("entry", ["state_dict", "model", "model_state_dict", "module", "network"])
def test_the_entry_of_a_training_checkpoint(checkpoint: Path, expected: dict[str, bytes], entry: str) -> None:
    (checkpoint / "model.safetensors").unlink()
    weights = {f"model.{name}": np.array(value) for name, value in random_weights().items()}
    training_file(checkpoint / "pytorch_model.bin", weights, entry, epoch=integer(3), optimizer=entries({}))
    assert contents(convert(checkpoint, checkpoint.parent / "m").folder) == expected


def test_other_names_beside_the_prefix_are_not_dropped(checkpoint: Path) -> None:
    wrapped = {f"model.{name}": value for name, value in random_weights().items()} | {"teacher.weight": mx.ones(3)}
    save_safetensors(wrapped, checkpoint / "model.safetensors")
    said = r"model\.safetensors: its CLIP's names begin with 'model\.', and 'teacher\.weight' is of something else"
    with pytest.raises(UserError, match=said):
        convert(checkpoint, checkpoint.parent / "m")


def test_counters_beside_averaged_weights_are_left_out(checkpoint: Path, expected: dict[str, bytes]) -> None:
    """As torch's AveragedModel saves them."""
    wrapped = {f"module.{name}": value for name, value in random_weights().items()} | {"n_averaged": mx.array(3)}
    save_safetensors(wrapped, checkpoint / "model.safetensors")
    assert contents(convert(checkpoint, checkpoint.parent / "m").folder) == expected


def test_two_wrapped_models_are_named() -> None:
    one = {f"{prefix}.{name}": mx.ones(1) for prefix in ("ema_model", "online_model") for name in ("logit_scale", "a")}
    with pytest.raises(UserError, match=r"it holds several models \(ema_model, online_model\); save the one to use"):
        unwrap(one | {"step": mx.array(1)})


def test_an_adapter_inside_is_named(checkpoint: Path) -> None:
    name = "base_model.model.text_model.encoder.layers.0.self_attn.q_proj.lora_A.default.weight"
    wrapped = {f"base_model.model.{name}": value for name, value in random_weights().items()} | {name: mx.ones((2, 2))}
    save_safetensors(wrapped, checkpoint / "model.safetensors")
    with pytest.raises(UserError, match=r"adapter of PEFT inside: merge it .*merge_and_unload"):
        convert(checkpoint, checkpoint.parent / "m")


def test_several_models_in_one_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Of well-known names one is taken; of others the user has to choose."""
    pushed, storages = state_dict({"a": np.ones((2, 2))})
    zip_file(tmp_path / "x.bin", mapping(student=pushed, teacher=pushed), storages)
    with pytest.raises(UserError, match=r"several models \(student, teacher\)"):
        torch_file.read(tmp_path / "x.bin")
    zip_file(tmp_path / "y.bin", mapping(ema=pushed, model=pushed), storages)
    with caplog.at_level(logging.WARNING, "sharpzo_mlx"):
        assert list(torch_file.read(tmp_path / "y.bin")) == ["a"]
    assert "y.bin: it holds 'ema' too, which is left out; to have it, save it alone" in caplog.text


def test_names_stay_where_no_clip_stands_behind_them() -> None:
    one = mx.ones(1)
    assert list(unwrap({"model.a": one, "model.b": one})) == ["model.a", "model.b"]
    assert list(unwrap({"text_model.a": one, "text_model.b": one})) == ["text_model.a", "text_model.b"]
    assert list(unwrap({"visual.trunk.a": one})) == ["visual.trunk.a"]
    assert list(unwrap({"model.visual.a": one, "model.transformer.b": one})) == ["visual.a", "transformer.b"]
    assert unwrap({}) == {}


def test_two_weights_of_one_name_are_refused() -> None:
    with pytest.raises(UserError, match="wrappers of their names"):
        unwrap({"logit_scale": mx.ones(1), "_orig_mod.logit_scale": mx.ones(1)})


def test_a_clip_trained_with_siglips_loss(checkpoint: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Its bias is the same for all classes, so that it cancels out."""
    save_safetensors(random_weights() | {"logit_bias": mx.array(-10.0)}, checkpoint / "model.safetensors")
    with caplog.at_level(logging.WARNING, "sharpzo_mlx"):
        made = convert(checkpoint, checkpoint.parent / "m").folder
    assert "trained with SigLIP's loss; its logit_bias cancels out" in caplog.text
    plain = write_checkpoint(checkpoint.parent / "plain" / "clip")
    assert contents(made) == contents(convert(plain, checkpoint.parent / "n").folder)
