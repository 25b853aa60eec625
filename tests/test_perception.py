"""Meta's Perception Encoders: a golden image tower of timm's, both spellings, and a run through the command line.

The golden file holds a small random tower of timm's and the features it gave (tests/make_golden_perception.py).
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from perception_towers import MODEL, SIDE, as_meta, know_the_small_tower, load_golden, random_texts, write_open_clip
from siglip_golden import pixels
from torch_files import training_file

import sharpzo_mlx as sz
from sharpzo_mlx.cli import main
from sharpzo_mlx.clip.config import CLIPConfig
from sharpzo_mlx.clip.tower_config import RotaryVisionConfig
from sharpzo_mlx.convert import Quantisation, convert
from sharpzo_mlx.convert.open_clip_config import config_from_shapes, translate_config
from sharpzo_mlx.errors import UserError

FILES = ("model.safetensors", "config.json", "tokenizer.json")
BRIEF = ("--shots", "4", "--generations", "2", "--steps", "2", "--set", "space.dimension=8", "--json")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_open_clip(tmp_path_factory.mktemp("theirs") / "PE-Core-B-16", load_golden()[0])


@pytest.fixture(scope="module")
def model(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        know_the_small_tower(patch)
        return convert(source, tmp_path_factory.mktemp("converted") / "m").folder


def test_features_are_timms_in_mlx_and_in_numpy(model: Path) -> None:
    clip, expected = sz.load(model), load_golden()[1]
    np.testing.assert_allclose(np.array(clip.vision().image_features(mx.array(pixels(SIDE)))), expected, atol=1e-5)
    np.testing.assert_allclose(np.array(clip.encode_pixels(pixels(SIDE))), expected, atol=1e-5)  # on the CPU in NumPy
    assert np.abs(expected[0] - expected[1]).max() > 0.05


def test_places_matter(model: Path) -> None:
    """Mirrored images have other features, and a wrong base of the turns would be seen."""
    clip, given = sz.load(model), pixels(SIDE)
    mirrored = np.array(clip.encode_pixels(np.ascontiguousarray(given[:, :, ::-1])))
    assert np.abs(mirrored - np.array(clip.encode_pixels(given))).max() > 1e-3


def test_a_batch_and_single_images_agree(model: Path) -> None:
    clip = sz.load(model)
    pictures = np.random.default_rng(0).integers(0, 256, (11, SIDE, SIDE, 3), dtype=np.uint8)
    at_once = np.array(clip.encode_pixels(pictures))
    for i in (0, 10):
        np.testing.assert_allclose(np.array(clip.encode_pixels(pictures[i : i + 1]))[0], at_once[i], atol=1e-5)


def test_what_is_converted(model: Path, tmp_path: Path) -> None:
    config = sz.load(model).config
    assert isinstance(config.vision, RotaryVisionConfig)
    assert (config.vision.num_attention_heads, config.vision.num_pooling_heads) == (2, 8)
    assert config.text.causal
    assert config.text.max_position_embeddings == 32
    assert sz.load(model).tokenizer.context_length == 32
    prepared = config.preprocessor
    assert (prepared.resize, prepared.crop, prepared.resample, prepared.mean) == ((24, 24), None, 2, (0.5, 0.5, 0.5))
    assert CLIPConfig.from_dict(config.to_dict()) == config
    again = convert(model, tmp_path / "again").folder
    assert all((again / name).read_bytes() == (model / name).read_bytes() for name in FILES)


def test_metas_own_file_gives_the_same_model(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    know_the_small_tower(monkeypatch)
    texts = {name: np.array(value) for name, value in random_texts().items()}
    path = tmp_path / "PE-Core-B16-224" / "PE-Core-B16-224.pt"
    path.parent.mkdir()
    weights = as_meta(load_golden()[0]) | texts | {"logit_scale": np.array(2.5, np.float32)}
    training_file(path, weights, None)
    (path.parent / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    for number, given in enumerate((path, path.parent)):
        made = convert(given, tmp_path / str(number)).folder
        assert all((made / name).read_bytes() == (model / name).read_bytes() for name in FILES)
        assert "license: apache-2.0" in (made / "README.md").read_text()


def test_a_run_through_the_command_line(
    model: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def answer(*words: str | Path) -> Any:
        assert main.run([str(word) for word in words]) == 0
        return json.loads(capsys.readouterr().out)

    answer("tune", photos, "--model", model, "--output", tmp_path / "run", *BRIEF)
    assert answer("evaluate", tmp_path / "run", photos, "--json")
    (one,) = answer("predict", tmp_path / "run", photos / "cat" / "0.png", "--top", "3", "--json")["predictions"]
    assert sum(label["probability"] for label in one["labels"]) == pytest.approx(1, abs=1e-5)


def test_quantised_layers_stay_near(model: Path, tmp_path: Path) -> None:
    report = convert(model, tmp_path / "q", quantise=Quantisation(bits=8, group_size=32, vision=True))
    assert report.image_cosines is not None
    assert report.image_cosines.lowest > 0.99
    clip = sz.load(tmp_path / "q")
    in_mlx = np.array(clip.vision().image_features(mx.array(pixels(SIDE))))
    np.testing.assert_allclose(np.array(clip.encode_pixels(pixels(SIDE))), in_mlx, atol=1e-4)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "G": ({"timm_model_name": "vit_pe_core_gigantic_patch14_448"}, "gigantic.*Perception Encoder.*supported are PE"),
    "another pooling": ({"timm_model_name": "vit_pe_core_base_patch16_224", "timm_pool": "avg"}, "timm_pool is 'avg'"),
    "another size": ({"timm_model_name": "vit_pe_core_base_patch16_224", "image_size": 448}, "image_size is 448.* 224"),
}


@pytest.mark.parametrize("name", list(REFUSED))
def test_others_are_refused_by_name(name: str) -> None:
    change, message = REFUSED[name]
    vision = {"timm_pool": "map"} | change
    with pytest.raises(UserError, match=message) as caught:
        translate_config({"model_cfg": MODEL | {"vision_cfg": vision}}, name="x")
    assert "\n" not in str(caught.value)


def test_a_file_of_another_size_is_refused(source: Path, tmp_path: Path) -> None:
    shapes = {name: value.shape for name, value in (as_meta(load_golden()[0]) | random_texts()).items()}
    with pytest.raises(UserError, match="names of a Perception Encoder, but the sizes of none"):
        config_from_shapes(shapes)
    other = tmp_path / "other"
    shutil.copytree(source, other)
    with pytest.raises(UserError, match=r"small_patch8_24', a Perception Encoder that is not supported"):
        convert(other, tmp_path / "m")


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("num_attention_heads", 16, r"32 must be a multiple of 64, for num_attention_heads 16"),
        ("num_pooling_heads", 5, r"32 must be a multiple of 5, for num_pooling_heads 5"),
        ("num_pooling_heads", 0, r"num_pooling_heads is 0; it must be 1 or more"),
    ],
)
def test_impossible_sizes_are_refused_by_name(model: Path, field: str, value: int, message: str) -> None:
    changed = sz.load(model).config.to_dict()
    changed["vision_config"][field] = value
    with pytest.raises(UserError, match=message):
        CLIPConfig.from_dict(changed)
