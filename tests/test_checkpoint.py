"""Model folders: a fixed point, strict loading of the named towers, fingerprints, damage as one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx import nn
from mlx.utils import tree_flatten

from sharpzo_mlx.clip.checkpoint import fingerprint, load_config, load_model, save_model
from sharpzo_mlx.clip.config import CLIPConfig
from sharpzo_mlx.clip.model import CLIPModel
from sharpzo_mlx.clip.safetensors_file import read_header
from sharpzo_mlx.errors import UserError
from sharpzo_mlx.runtime.device import on_cpu

IDS = mx.array([[0, 3, 4, 9], [0, 5, 9, 9]])


def config(**values: Any) -> CLIPConfig:
    tower = {"hidden_size": 64, "intermediate_size": 64, "num_attention_heads": 2, "num_hidden_layers": 1}
    ids = {"vocab_size": 10, "max_position_embeddings": 6, "bos_token_id": 0, "eos_token_id": 9}
    given = {"model_type": "clip", "text_config": tower | ids, "projection_dim": 64}
    return CLIPConfig.from_dict(given | {"vision_config": tower | {"image_size": 8, "patch_size": 4}} | values)


def weights_of(model: CLIPModel) -> dict[str, mx.array]:
    return dict(tree_flatten(model.parameters()))


def random_weights(dtype: mx.Dtype = mx.float32) -> dict[str, mx.array]:
    draw = np.random.default_rng(1)
    return {
        name: mx.array(0.3 * draw.standard_normal(weight.shape)).astype(dtype)
        for name, weight in sorted(weights_of(CLIPModel(config())).items())
    }


def save(folder: Path, weights: dict[str, mx.array], described: CLIPConfig | None = None) -> Path:
    save_model(folder, described or config(), weights, '{"model": {}}', "# A model\n")
    return folder


@pytest.fixture
def model_folder(tmp_path: Path) -> Path:
    return save(tmp_path / "m", random_weights())


def test_saving_and_loading_is_a_fixed_point(model_folder: Path, tmp_path: Path) -> None:
    loaded, written = weights_of(load_model(model_folder)), random_weights()
    assert loaded.keys() == written.keys()
    for name, weight in written.items():
        np.testing.assert_array_equal(np.array(loaded[name]), np.array(weight))
    again = save(tmp_path / "again", loaded, load_config(model_folder))
    for name in ("config.json", "model.safetensors", "tokenizer.json", "README.md"):
        assert (again / name).read_bytes() == (model_folder / name).read_bytes()
    assert sorted(path.name for path in model_folder.iterdir()) == sorted(path.name for path in again.iterdir())


def test_the_folder_is_written_as_documented(model_folder: Path) -> None:
    text = (model_folder / "config.json").read_text()
    assert text == json.dumps(json.loads(text), indent=4, sort_keys=True) + "\n"
    header = read_header(model_folder / "model.safetensors")
    assert header.metadata["format"] == "mlx"
    assert header.shapes["text_projection.weight"] == (64, 64)
    assert load_config(model_folder) == config()


@pytest.mark.parametrize(("tower", "other"), [("text", "vis"), ("vision", "text")])
def test_only_the_tower_asked_for_is_built_and_read(model_folder: Path, tower: str, other: str) -> None:
    both, one = load_model(model_folder), load_model(model_folder, towers=(tower,))
    assert not any(name.startswith(other) for name in weights_of(one))
    if tower == "text":
        np.testing.assert_array_equal(np.array(one.text_features(IDS)), np.array(both.text_features(IDS)))
    else:
        pixels = mx.ones((1, 8, 8, 3))
        np.testing.assert_array_equal(np.array(one.image_features(pixels)), np.array(both.image_features(pixels)))
    assert one.logit_scale.item() == both.logit_scale.item()


def test_the_weights_of_the_other_tower_need_not_be_there(model_folder: Path) -> None:
    """A file without the image tower loads for the text tower, so loading reads nothing of the image tower."""
    kept = {name: weight for name, weight in random_weights().items() if not name.startswith("vis")}
    mx.save_safetensors(str(model_folder / "model.safetensors"), kept)
    assert load_model(model_folder, towers=("text",)).text_features(IDS).shape == (2, 64)
    with pytest.raises(UserError, match=r"lacks .* more; "):
        load_model(model_folder)


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16])
def test_half_weights_stay_half_on_disk_and_become_float32_on_the_cpu(tmp_path: Path, dtype: mx.Dtype) -> None:
    folder = save(tmp_path / "m", random_weights(dtype))
    on_disk = mx.load(str(folder / "model.safetensors"))
    assert isinstance(on_disk, dict)
    assert {weight.dtype for weight in on_disk.values()} == {dtype}
    expected = mx.float32 if on_cpu() else dtype
    assert {weight.dtype for weight in weights_of(load_model(folder)).values()} == {expected}
    assert {weight.dtype for weight in weights_of(load_model(folder, dtype=dtype)).values()} == {dtype}
    assert {weight.dtype for weight in weights_of(load_model(folder, dtype=mx.float32)).values()} == {mx.float32}


@pytest.mark.parametrize("settings", [{"group_size": 64, "bits": 4}, {"group_size": 32, "bits": 8, "mode": "affine"}])
def test_quantisation_is_applied_again_where_there_are_scales(tmp_path: Path, settings: dict[str, Any]) -> None:
    model = CLIPModel(config())
    model.load_weights(list(random_weights().items()))
    own = {"text_model.encoder.layers.0.mlp.fc2": {"group_size": 32, "bits": 8}}

    def text_only(path: str, module: nn.Module) -> bool | dict[str, int]:
        return own.get(path, path.startswith("text_model.encoder") and hasattr(module, "to_quantized"))

    nn.quantize(model, class_predicate=text_only, **settings)
    described = config(quantization=settings | own)
    folder = save(tmp_path / "m", weights_of(model), described)
    loaded = load_model(folder)
    assert isinstance(loaded.text_model.encoder.layers[0].self_attn.q_proj, nn.QuantizedLinear)
    assert loaded.text_model.encoder.layers[0].mlp.fc1.bits == settings["bits"]
    assert loaded.text_model.encoder.layers[0].mlp.fc2.bits == 8
    assert isinstance(loaded.vision_model.encoder.layers[0].self_attn.q_proj, nn.Linear)
    np.testing.assert_array_equal(np.array(loaded.text_features(IDS)), np.array(model.text_features(IDS)))


def test_the_fingerprint_is_of_everything_that_changes_features(model_folder: Path, tmp_path: Path) -> None:
    first = fingerprint(model_folder)
    assert len(first) == 64
    assert first == read_header(model_folder / "model.safetensors").metadata["fingerprint"]
    changed = random_weights()
    changed["logit_scale"] = changed["logit_scale"] + 1
    assert fingerprint(save(tmp_path / "other", changed)) != first
    assert fingerprint(save(tmp_path / "half", random_weights(mx.float16))) != first
    renamed = json.loads(json.dumps(config().to_dict()).replace("quick_gelu", "gelu"))
    assert fingerprint(save(tmp_path / "act", random_weights(), CLIPConfig.from_dict(renamed))) != first


def test_a_file_without_a_fingerprint_is_hashed(model_folder: Path) -> None:
    written = fingerprint(model_folder)
    mx.save_safetensors(str(model_folder / "model.safetensors"), random_weights())
    assert read_header(model_folder / "model.safetensors").metadata.get("fingerprint") is None
    assert fingerprint(model_folder) == written


def test_missing_unused_and_misshapen_weights_are_named(model_folder: Path, tmp_path: Path) -> None:
    whole = random_weights()
    few = {name: weight for name, weight in whole.items() if not name.endswith("bias")}
    more = whole | {"text_model.embeddings.position_ids": mx.arange(6)}
    other = whole | {"text_projection.weight": mx.zeros((64, 32))}
    for weights, message in (
        (few, r"lacks text_model\.\S+, text_model\.\S+, text_model\.\S+ and \d+ more;"),
        (more, r"unused text_model\.embeddings\.position_ids;"),
        (other, r"of another shape text_projection\.weight;"),
    ):
        with pytest.raises(UserError, match=message):
            save(tmp_path / "never", weights)
        mx.save_safetensors(str(model_folder / "model.safetensors"), weights)
        with pytest.raises(UserError, match=message) as caught:
            load_model(model_folder)
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "never" / "model.safetensors").exists()


def test_a_damaged_weight_file_is_refused_before_it_is_used(model_folder: Path) -> None:
    path = model_folder / "model.safetensors"
    whole = path.read_bytes()
    for damaged, message in (
        (whole[:-1], "cut short"),
        (whole[:300], "cut short"),
        (b"", "cut short"),
        (b"<!DOCTYPE html><html></html>", "no safetensors file"),
        (len(b"[1]").to_bytes(8, "little") + b"[1]", "no safetensors file"),
        (len(b'{"a": 1}').to_bytes(8, "little") + b'{"a": 1}', "no safetensors file"),
    ):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=rf"model\.safetensors: .*{message}"):
            load_model(model_folder)
        with pytest.raises(UserError, match=message):
            fingerprint(model_folder)
    path.unlink()
    with pytest.raises(UserError, match=r"model\.safetensors: cannot be read"):
        load_model(model_folder)


def test_a_folder_that_is_none_or_no_model_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such model folder; make one with `sharpzo-mlx convert`"):
        load_model(tmp_path / "absent")
    with pytest.raises(UserError, match=r"config\.json: no such file"):
        load_config(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(UserError, match=f"{tmp_path}.*bert, not clip"):
        load_config(tmp_path)
