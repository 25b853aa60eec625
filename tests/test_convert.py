"""Conversion from end to end: every form of a checkpoint gives the same folder.

The tests write a small random checkpoint in Hugging Face's layout; where torch and transformers are installed, one of
theirs is read too.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from hf_checkpoint import CONFIG, PATCHES, PREPROCESSOR, contents, random_weights, save_safetensors, write_checkpoint
from mlx import nn
from mlx.utils import tree_flatten

from sharpzo_mlx.clip.checkpoint import load_config, load_model, save_model
from sharpzo_mlx.clip.tokenizer import Tokenizer
from sharpzo_mlx.convert import ConvertReport, convert

FILES = ["README.md", "config.json", "model.safetensors", "tokenizer.json"]


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "clip")


def test_the_folder_that_is_made(checkpoint: Path, tmp_path: Path) -> None:
    report = convert(checkpoint, tmp_path / "m")
    weights = random_weights()
    assert report == ConvertReport(
        folder=tmp_path / "m",
        source=str(checkpoint),
        parameters=sum(value.size for value in weights.values()),
        dtype="float32",
        bytes_before=(checkpoint / "model.safetensors").stat().st_size,
        bytes_after=(tmp_path / "m" / "model.safetensors").stat().st_size,
        quantization=None,
        bits_per_weight=32.0,
    )
    assert sorted(contents(report.folder)) == FILES
    loaded = dict(tree_flatten(load_model(report.folder).parameters()))
    for name, value in weights.items():
        expected = np.moveaxis(np.array(value), 1, -1) if name == PATCHES else np.array(value)
        np.testing.assert_array_equal(np.array(loaded[name]), expected, err_msg=name)
    assert load_config(report.folder).preprocessor.resample == PREPROCESSOR["resample"]
    assert Tokenizer.from_folder(report.folder).encode("an ox.") == [55, 54, 14, 50, 53, 56]
    card = (report.folder / "README.md").read_text()
    assert "license: apache-2.0" in card
    assert "sharpzo-mlx convert clip\n" in card
    assert str(tmp_path) not in card


@pytest.mark.parametrize("dtype", [None, "float16", "bfloat16"])
def test_its_own_output_is_a_fixed_point(checkpoint: Path, tmp_path: Path, dtype: str | None) -> None:
    once = convert(checkpoint, tmp_path / "once", dtype=dtype)
    assert contents(convert(once.folder, tmp_path / "twice").folder) == contents(once.folder)


def test_a_quantised_model_is_a_fixed_point(checkpoint: Path, tmp_path: Path) -> None:
    once = convert(checkpoint, tmp_path / "once").folder
    config = replace(load_config(once), quantization={"group_size": 32, "bits": 4})
    model = load_model(once)
    nn.quantize(model, 32, 4, class_predicate=lambda path, _: path.endswith("mlp.fc2"))
    weights: dict[str, mx.array] = dict(tree_flatten(model.parameters()))
    tokenizer = (once / "tokenizer.json").read_text()
    save_model(tmp_path / "quantised", config, weights, tokenizer, "A quantised CLIP.")
    before = contents(tmp_path / "quantised")
    assert contents(convert(tmp_path / "quantised", tmp_path / "m").folder) == before


def test_dtype_casts_all_but_the_logit_scale(checkpoint: Path, tmp_path: Path) -> None:
    report = convert(checkpoint, tmp_path / "m", dtype="bfloat16")
    assert report.dtype == "bfloat16"
    written = mx.load(str(report.folder / "model.safetensors"))
    assert isinstance(written, dict)
    weights = random_weights()
    assert {name for name, value in written.items() if value.dtype != mx.bfloat16} == {"logit_scale"}
    assert written["logit_scale"].item() == weights["logit_scale"].item()
    name = "text_projection.weight"
    assert mx.array_equal(written[name], weights[name].astype(mx.bfloat16)).item()


def to_shards(folder: Path, save: Callable[[dict[str, mx.array], Path], None], stem: str, ending: str) -> None:
    weights = list(random_weights().items())
    (folder / "model.safetensors").unlink()
    shards = {f"{stem}-0000{part}-of-00002.{ending}": dict(weights[part - 1 :: 2]) for part in (1, 2)}
    for file, shard in shards.items():
        save(shard, folder / file)
    listed = {name: file for file, shard in shards.items() for name in shard}
    (folder / f"{stem}.{ending}.index.json").write_text(json.dumps({"weight_map": listed}))


def torch_saver(*, zipped: bool) -> Callable[[dict[str, mx.array], Path], None]:
    torch = pytest.importorskip("torch")

    def save(weights: dict[str, mx.array], path: Path) -> None:
        tensors = {name: torch.from_numpy(np.array(value)) for name, value in weights.items()}
        ids = {"text_model.embeddings.position_ids": torch.arange(77)[None]} if len(tensors) > 40 else {}
        torch.save(tensors | ids, path, _use_new_zipfile_serialization=zipped)

    return save


@pytest.mark.parametrize("form", ["shards", "bin", "legacy bin", "bin shards", "weights file"])
def test_every_form_gives_the_same_weights(checkpoint: Path, tmp_path: Path, form: str) -> None:
    expected = contents(convert(checkpoint, tmp_path / "m").folder)
    source = checkpoint
    if form == "shards":
        to_shards(checkpoint, save_safetensors, "model", "safetensors")
    elif form == "bin shards":
        to_shards(checkpoint, torch_saver(zipped=True), "pytorch_model", "bin")
    elif form == "weights file":
        source = checkpoint / "model.safetensors"
    else:
        torch_saver(zipped=form == "bin")(random_weights(), checkpoint / "pytorch_model.bin")
        (checkpoint / "model.safetensors").unlink()
    found = contents(convert(source, tmp_path / "other").folder)
    assert found["model.safetensors"] == expected["model.safetensors"]
    assert found["config.json"] == expected["config.json"]


def test_features_equal_those_of_transformers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    with monkeypatch.context() as patch:  # a torchvision that does not fit the torch beside it is not needed
        patch.setattr(transformers.utils.import_utils, "is_torchvision_available", lambda: False)
        patch.setattr(transformers.utils, "is_torchvision_available", lambda: False)
        clip = pytest.importorskip("transformers.models.clip.modeling_clip")
    torch.manual_seed(0)
    folder = write_checkpoint(tmp_path / "clip")
    oracle = clip.CLIPModel(transformers.CLIPConfig(**CONFIG)).eval()
    (folder / "model.safetensors").unlink()
    torch.save(oracle.state_dict(), folder / "pytorch_model.bin")
    model = load_model(convert(folder, tmp_path / "m").folder)
    pixels = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype(np.float32)
    with torch.no_grad():
        found = oracle(torch.tensor([[55, 3, 56]]), torch.tensor(pixels.transpose(0, 3, 1, 2)))
    np.testing.assert_allclose(np.array(model.image_features(mx.array(pixels))), found.image_embeds, atol=1e-5)
    np.testing.assert_allclose(np.array(model.text_features(mx.array([[55, 3, 56]]))), found.text_embeds, atol=1e-5)


def test_missing_preprocessor_is_a_notice(checkpoint: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (checkpoint / "preprocessor_config.json").unlink()
    with caplog.at_level(logging.WARNING, "sharpzo_mlx"):
        folder = convert(checkpoint, tmp_path / "m").folder
        assert "no preprocessor_config.json; using CLIP's own preprocessing at 8 pixels" in caplog.text
        caplog.clear()
        assert load_config(folder).preprocessor.crop == (8, 8)
        convert(folder, tmp_path / "again")
    assert caplog.text == ""


def test_testbed_weights_are_those_of_the_checkpoint(testbed: Path, tmp_path: Path) -> None:
    folder = convert(testbed / "clip-tiny", tmp_path / "m").folder
    written = mx.load(str(folder / "model.safetensors"))
    source = mx.load(str(testbed / "clip-tiny" / "model.safetensors"))
    assert isinstance(written, dict)
    assert isinstance(source, dict)
    source[PATCHES] = source[PATCHES].transpose(0, 2, 3, 1)
    assert written.keys() == source.keys()
    assert all(mx.array_equal(written[name], source[name]).item() for name in source)
    assert all(written[name].dtype == source[name].dtype for name in source)
