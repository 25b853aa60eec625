"""Quantised models: only matrices change, the summary says how much, and tuning works with them.

The matrices are compared with MLX's own quantisation undone, the features with those before.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from mlx import nn
from mlx.utils import tree_flatten

from sharpzo_mlx import TuneConfig, tune
from sharpzo_mlx.cli.main import run
from sharpzo_mlx.clip.checkpoint import load_config, load_model, save_model
from sharpzo_mlx.clip.handle import load
from sharpzo_mlx.clip.model import CLIPModel
from sharpzo_mlx.convert import Quantisation, convert
from sharpzo_mlx.doctor.networks import make_config
from sharpzo_mlx.errors import UserError


def weights_of(folder: Path) -> dict[str, mx.array]:
    loaded = mx.load(str(folder / "model.safetensors"))
    assert isinstance(loaded, dict)
    return loaded


@pytest.mark.parametrize("vision", [False, True])
@pytest.mark.parametrize("bits", [8, 4])
def test_the_matrices_of_the_layers_change_and_nothing_else(
    tiny_model: Path, tmp_path: Path, bits: int, vision: bool
) -> None:
    quantise = Quantisation(bits, group_size=32, vision=vision)
    report = convert(tiny_model, tmp_path / "q", quantise=quantise)
    before, after = weights_of(tiny_model), weights_of(report.folder)
    towers = ("text_model", "vision_model") if vision else ("text_model",)
    for name, weight in before.items():
        path = name.removesuffix(".weight")
        chosen = name.startswith(tuple(f"{tower}.encoder" for tower in towers)) and weight.ndim == 2
        assert (f"{path}.scales" in after) == chosen, name
        if not chosen:
            assert mx.array_equal(after[name], weight).item(), name
            continue
        undone = mx.dequantize(after[name], after[f"{path}.scales"], after[f"{path}.biases"], group_size=32, bits=bits)
        step = mx.max(mx.abs(after[f"{path}.scales"])).item()
        assert mx.max(mx.abs(undone - weight)).item() <= 1.01 * step, name  # type: ignore[operator]
    assert load_config(report.folder).quantization == {"bits": bits, "group_size": 32}
    assert report.parameters == sum(weight.size for weight in before.values())
    assert report.bits_per_weight == pytest.approx(8 * sum(a.nbytes for a in after.values()) / report.parameters)
    assert report.bytes_after < report.bytes_before


@pytest.mark.parametrize(("bits", "lowest"), [(8, 0.999), (4, 0.8)])
def test_features_stay_near_and_the_report_says_how_near(
    tiny_model: Path, tmp_path: Path, bits: int, lowest: float
) -> None:
    report = convert(tiny_model, tmp_path / "q", quantise=Quantisation(bits, group_size=32, vision=True))
    assert report.text_cosines is not None
    assert report.image_cosines is not None
    for cosines in (report.text_cosines, report.image_cosines):
        assert lowest < cosines.lowest <= cosines.mean < 1
    texts = ["a photo of a dog.", "a plate of noodles with vegetables."]
    before, after = (load(folder).encode_texts(texts) for folder in (tiny_model, report.folder))
    measured = np.array(mx.sum(before * after, axis=-1))
    assert measured.min() >= report.text_cosines.lowest - 1e-5


def test_its_own_output_is_a_fixed_point_and_no_source_for_another(tiny_model: Path, tmp_path: Path) -> None:
    once = convert(tiny_model, tmp_path / "q", quantise=Quantisation(8, group_size=32))
    twice = convert(once.folder, tmp_path / "again")
    assert twice.parameters == once.parameters
    assert all(path.read_bytes() == (once.folder / path.name).read_bytes() for path in twice.folder.iterdir())
    with pytest.raises(UserError, match="quantised already"):
        convert(once.folder, tmp_path / "more", quantise=Quantisation(4, group_size=32))
    assert not (tmp_path / "more").exists()


def test_what_cannot_be_quantised_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="choose 8 or 4"):
        Quantisation(3)
    with pytest.raises(UserError, match="choose 64, 32, 128"):
        Quantisation(4, group_size=48)
    with pytest.raises(UserError, match="groups of 128"):
        convert(tiny_model, tmp_path / "q", quantise=Quantisation(4, group_size=128))
    assert not (tmp_path / "q").exists()


@pytest.mark.parametrize(
    ("backend", "coarse", "warns"), [("numpy", True, False), ("graph", True, True), ("graph", False, False)]
)
def test_tuning_asks_the_device_about_a_quantised_tower(
    tiny_model: Path,
    photos: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    backend: str,
    coarse: bool,
    warns: bool,
) -> None:
    """NumPy uses float32 matrices instead; MLX's graph needs exact quantised products, else tuning warns."""
    monkeypatch.setattr("sharpzo_mlx.objective.objective.choose_backend", lambda: backend)
    monkeypatch.setattr("sharpzo_mlx.runtime.precision.quantised_products_are_coarse", lambda bits, group_size: coarse)
    folder = convert(tiny_model, tmp_path / "q", quantise=Quantisation(8, group_size=32)).folder
    layers = load_model(folder, towers=("text",)).text_model.modules()
    assert sum(isinstance(layer, nn.QuantizedLinear) for layer in layers) == 3 * 6
    config = TuneConfig(shots=4, seed=0, generations=2, steps=3).with_settings(
        {"space.dimension": 8, "stage1.population": 6}
    )
    with caplog.at_level(logging.WARNING, "sharpzo_mlx"):
        tuned = tune(load(folder), photos, config, output=tmp_path / "run")
    assert ("quantised matrices: differences of losses would be noise" in caplog.text) == warns
    assert np.isfinite(tuned.results.val)


def test_forward_mode_goes_through_quantised_products(tiny_model: Path, tmp_path: Path) -> None:
    folder = convert(tiny_model, tmp_path / "q", quantise=Quantisation(8, group_size=32)).folder
    text = load_model(folder, towers=("text",)).text_model
    start = text.embed(mx.array([[512, 40, 41, 513]]))
    direction = mx.random.normal(start.shape, key=mx.random.key(0))

    def value(x: mx.array) -> mx.array:
        return mx.sum(text.from_embeddings(x, mx.array([3])))

    _, (slope,) = mx.jvp(value, [start], [direction])
    step = 1e-2
    difference = (value(start + step * direction) - value(start - step * direction)) / (2 * step)
    assert slope.item() == pytest.approx(difference.item(), rel=2e-2, abs=1e-2)


def test_the_command_says_what_was_done(tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["convert", str(tiny_model), "--quantize", "4", "--group-size", "32", "--quantize-vision"]
    assert run([*arguments, "--output", str(tmp_path / "q")]) == 0
    printed = capsys.readouterr().out
    assert "bits a weight" in printed
    assert "text features against those before quantising: cosine 0." in printed
    assert "image features" in printed
    card = (tmp_path / "q" / "README.md").read_text()
    assert "--quantize 4 --group-size 32 --quantize-vision" in card
    assert run([*arguments, "--output", str(tmp_path / "r"), "--json"]) == 0
    read = json.loads(capsys.readouterr().out)
    assert read["quantization"] == {"bits": 4, "group_size": 32}
    assert 0 < read["bits_per_weight"] < 32
    assert run(["convert", str(tiny_model), "--group-size", "32"]) == 2
    assert "need --quantize" in capsys.readouterr().err


def test_the_list_needs_no_source(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["convert", "--list"]) == 0
    printed = capsys.readouterr().out
    assert "openai/clip-vit-base-patch16" in printed
    assert "RN50x4" in printed
    assert run(["convert", "--list", "--json"]) == 0
    models = json.loads(capsys.readouterr().out)["models"]
    assert [model["name"] for model in models if model["alias"] == "ViT-B/16"] == ["openai/clip-vit-base-patch16"]
    assert len(models) == printed.count("\n") - 1


def test_the_number_of_parameters_counts_what_is_packed(tiny_model: Path, tmp_path: Path) -> None:
    folder = convert(tiny_model, tmp_path / "q", quantise=Quantisation(4, group_size=32)).folder
    plain: dict[str, mx.array] = dict(tree_flatten(load_model(tiny_model).parameters()))
    assert convert(folder, tmp_path / "again").parameters == sum(array.size for array in plain.values())


def test_a_resnet_says_that_its_convolutions_stay(
    tmp_path: Path, tiny_tokenizer: str, caplog: pytest.LogCaptureFixture
) -> None:
    config = make_config("tiny-RN", vocabulary=514)
    weights = dict(tree_flatten(CLIPModel(config).parameters()))
    save_model(tmp_path / "m", config, weights, tiny_tokenizer, "random")
    convert(tmp_path / "m", tmp_path / "q", quantise=Quantisation(8, group_size=32, vision=True))
    said = [record.getMessage() for record in caplog.records if "ResNet" in record.getMessage()]
    assert said == ["--quantize-vision: the image tower is a ResNet, whose convolutions are left alone"]
    before, after = weights_of(tmp_path / "m"), weights_of(tmp_path / "q")
    images = [name for name in before if name.startswith("vision_model")]
    assert all(mx.array_equal(before[name], after[name]).item() for name in images)
