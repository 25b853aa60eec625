"""MobileCLIP's image towers: folded, they give the features of timm's branches, in MLX and in NumPy.

The golden files hold small random towers of timm's and the features it gave (tests/make_golden_mobileclip.py).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from make_golden_mobileclip import golden_file, golden_pixels
from mlx.utils import tree_flatten
from mobileclip_towers import FASTVITS, NAMES, describe

import sharpzo_mlx as sz
from sharpzo_mlx.clip.batches import image_batch
from sharpzo_mlx.clip.checkpoint import build_model, save_model
from sharpzo_mlx.clip.config import CLIPConfig
from sharpzo_mlx.clip.cpu_convolutions import Depthwise, from_tiles, to_tiles
from sharpzo_mlx.clip.fastvit import Depthwise as GraphDepthwise
from sharpzo_mlx.clip.model import CLIPModel
from sharpzo_mlx.convert import Quantisation, convert
from sharpzo_mlx.convert.open_clip_names import rename
from sharpzo_mlx.errors import UserError
from sharpzo_mlx.prompts.text_features import specialise_text_tower
from sharpzo_mlx.prompts.tokens import tokenise_prompts


def load_golden(name: str) -> tuple[dict[str, mx.array], np.ndarray]:
    """A tower's tensors with our names, and the features that timm gave, of unit norm."""
    tensors = mx.load(str(golden_file(name)))
    assert isinstance(tensors, dict)
    expected = np.array(tensors.pop("expected"))
    named = {f"visual.trunk.{key}": tensor for key, tensor in tensors.items()}
    return rename(named), expected / np.linalg.norm(expected, axis=1, keepdims=True)


def with_texts(config: CLIPConfig, images: dict[str, mx.array]) -> dict[str, mx.array]:
    """The weights of an image tower, and random ones of the text tower."""
    texts: dict[str, mx.array] = dict(tree_flatten(CLIPModel(config, towers=("text",)).parameters()))
    return images | {name: mx.random.normal(array.shape, key=mx.random.key(1)) for name, array in texts.items()}


Golden = tuple[CLIPConfig, dict[str, mx.array], np.ndarray]


@pytest.fixture(params=NAMES)
def golden(request: pytest.FixtureRequest) -> Golden:
    return CLIPConfig.from_dict(describe(request.param)), *load_golden(request.param)


def test_folded_towers_give_the_features_of_the_branches(golden: Golden, tmp_path: Path, tiny_tokenizer: str) -> None:
    config, weights, expected = golden
    pixels = golden_pixels(config.vision.image_size)
    model = build_model(config, weights | {"logit_scale": mx.zeros(())}, towers=("vision",))
    np.testing.assert_allclose(np.array(model.image_features(mx.array(pixels))), expected, atol=1e-5)
    save_model(tmp_path / "m", config, with_texts(config, weights), tiny_tokenizer, "random")
    clip = sz.load(tmp_path / "m")  # on the CPU in NumPy
    np.testing.assert_allclose(np.array(clip.encode_pixels(pixels)), expected, atol=1e-5)
    assert np.abs(expected[0] - expected[1]).max() > 0.05


def test_a_batch_and_single_images_agree(golden: Golden, tmp_path: Path, tiny_tokenizer: str) -> None:
    config, weights, _ = golden
    save_model(tmp_path / "m", config, with_texts(config, weights), tiny_tokenizer, "random")
    clip, side = sz.load(tmp_path / "m"), config.vision.image_size
    pictures = np.random.default_rng(0).integers(0, 256, (11, side, side, 3), dtype=np.uint8)
    at_once = np.array(clip.encode_pixels(pictures))
    for i in (0, 10):
        np.testing.assert_allclose(np.array(clip.encode_pixels(pictures[i : i + 1]))[0], at_once[i], atol=1e-5)
    with pytest.raises(ValueError, match="pixels are"):
        clip.encode_pixels(pictures[:, 1:])


def test_the_description_is_read_back(golden: Golden) -> None:
    config = golden[0]
    assert CLIPConfig.from_dict(config.to_dict()) == config
    assert image_batch(config.vision) == 32


def test_half_weights_are_computed_in_float32(golden: Golden, tmp_path: Path, tiny_tokenizer: str) -> None:
    config, weights, expected = golden
    half = {name: weight.astype(mx.float16) for name, weight in with_texts(config, weights).items()}
    save_model(tmp_path / "m", config, half, tiny_tokenizer, "random")
    clip = sz.load(tmp_path / "m")
    found = np.array(clip.encode_pixels(golden_pixels(config.vision.image_size)))
    assert clip.image_precision == "float32"
    np.testing.assert_allclose(found, expected, atol=5e-3)


@pytest.mark.parametrize("name", FASTVITS)
def test_texts_without_a_mask_are_the_same_in_numpy(name: str, tmp_path: Path, tiny_tokenizer: str) -> None:
    config, weights = CLIPConfig.from_dict(describe(name)), load_golden(name)[0]
    save_model(tmp_path / "m", config, with_texts(config, weights), tiny_tokenizer, "random")
    clip, texts = sz.load(tmp_path / "m"), ["a photo of a cat", "a small dog on the sofa"]
    wanted = np.array(clip.text().text_features(clip.tokenizer(texts)))
    np.testing.assert_allclose(np.array(clip.encode_texts(texts)), wanted, atol=1e-5)
    assert np.abs(wanted[0] - wanted[1]).max() > 1e-3
    tokens = tokenise_prompts(clip.tokenizer, "a photo of a {}", ["cat", "small dog"])
    text = specialise_text_tower(clip.text_model(), clip.text().text_projection, tokens)
    assert text.cpu is not None
    contexts = 0.1 * mx.random.normal((3, len(tokens.prefix), config.text.hidden_size), key=mx.random.key(2))
    graph = np.array(text.class_features(contexts))
    np.testing.assert_allclose(text.cpu.class_features(np.array(contexts)), graph, atol=1e-5)


def test_quantising_the_image_tower_says_that_convolutions_stay(
    tmp_path: Path, tiny_tokenizer: str, caplog: pytest.LogCaptureFixture
) -> None:
    config, weights = CLIPConfig.from_dict(describe("squeezed")), load_golden("squeezed")[0]
    save_model(tmp_path / "m", config, with_texts(config, weights), tiny_tokenizer, "random")
    report = convert(tmp_path / "m", tmp_path / "q", quantise=Quantisation(bits=8, group_size=32, vision=True))
    said = [record.getMessage() for record in caplog.records if "FastViT" in record.getMessage()]
    assert said == ["--quantize-vision: the image tower is a FastViT, whose convolutions are left alone"]
    assert report.image_cosines is None
    assert report.text_cosines is not None


def test_quantising_leaves_convolutions_alone() -> None:
    weights = load_golden("squeezed")[0]
    layer = {"text_model.encoder.layers.0.mlp.fc1.weight": mx.ones((64, 64))}
    made = Quantisation(bits=8, vision=True).apply(weights | layer)
    assert {name: made[name] for name in weights} == weights
    assert len(made) == len(weights) + 3


@pytest.mark.parametrize(
    ("channels", "repeats", "shape", "side", "stride"),
    [(3, 1, (2, 7), 3, 1), (4, 2, (3, 20), 7, 2), (5, 1, (2, 17), 3, 2), (2, 1, (1, 3), 7, 1), (3, 1, (2, 8), 7, 1)],
)
def test_convolutions_of_each_channel(
    channels: int, repeats: int, shape: tuple[int, int], side: int, stride: int
) -> None:
    draw = np.random.default_rng(0)
    images, pixels = shape
    x = draw.standard_normal((images, pixels, pixels, channels)).astype(np.float32)
    graph = GraphDepthwise(channels, channels * repeats, side, stride)
    graph.weight = mx.array(draw.standard_normal(graph.weight.shape).astype(np.float32))
    graph.bias = mx.array(draw.standard_normal(graph.bias.shape).astype(np.float32))
    layer = Depthwise(np.array(graph.weight)[..., 0], np.array(graph.bias), side=pixels, stride=stride)
    found = from_tiles(layer(to_tiles(x.transpose(3, 1, 2, 0))), -(-pixels // stride))
    np.testing.assert_allclose(found.transpose(3, 1, 2, 0), np.array(graph(mx.array(x))), atol=2e-5)


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"layers": [1, 2, 1]}, "3 stages, but widths has 4"),
    ({"layers": [1]}, "the length of vision_config.layers is 1; it must be 2 or more"),
    ({"layers": [1] * 9}, "the length of vision_config.layers is 9; it must be 8 or less"),
    ({"layers": [1, 2, 1, 10**6]}, "vision_config.layers is 1000000; it must be 200 or less"),
    ({"layers": "many"}, "vision_config.layers is 'many'; expected whole numbers"),
    ({"widths": [8, 16, 16, 33]}, "widths has 33, which is no multiple of head_width"),
    ({"attention_stages": 4}, "attention_stages and squeezed_stages must be fewer"),
    ({"squeezed_stages": -1}, "squeezed_stages is -1; it must be 0 or more"),
    ({"image_size": 10**5}, "image_size is 100000"),
    ({"layer_norm_eps": 0.0}, "must lie between 0 and 1"),
]


@pytest.mark.parametrize(("change", "message"), WRONG)
def test_impossible_sizes_are_refused_by_name(change: dict[str, Any], message: str) -> None:
    described = describe("squeezed")
    described["vision_config"] = FASTVITS["squeezed"] | {"model_type": "fastvit_mci_model"} | change
    with pytest.raises(UserError, match=message):
        CLIPConfig.from_dict(described)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("widths", [8, 16, 32, 32], r"widths\[2\] is 32, but vision_model.stages.2.blocks.0.mlp.fc2.bias in the file"),
        ("layers", [1, 3, 1, 1], r"layers\[1\] is 3, but the file has 2 layers"),
        ("mlp_ratio", 4, r"mlp_ratio times widths\[0\] is 32, but"),
    ],
)
def test_sizes_are_compared_with_the_file_before_a_network_is_built(field: str, value: Any, message: str) -> None:
    described = describe("squeezed")
    described["vision_config"] |= {field: value}
    weights = load_golden("squeezed")[0]
    with pytest.raises(UserError, match=message):
        build_model(CLIPConfig.from_dict(described), weights, towers=("vision",))


LOST = ("stem.0.conv_kxk.0.bn.running_var", "stages.1.blocks.0.layer_scale.gamma", "head.fc.bias")


@pytest.mark.parametrize("lost", LOST)
def test_a_missing_tensor_is_named(lost: str) -> None:
    tensors = mx.load(str(golden_file("squeezed")))
    assert isinstance(tensors, dict)
    kept = {f"visual.trunk.{name}": tensor for name, tensor in tensors.items() if name not in (lost, "expected")}
    with pytest.raises(UserError, match=f"{lost} is missing"):
        rename(kept)


def test_an_unknown_tensor_is_kept_for_the_strict_check() -> None:
    tensors = mx.load(str(golden_file("squeezed")))
    assert isinstance(tensors, dict)
    del tensors["expected"]
    named = {f"visual.trunk.{name}": tensor for name, tensor in tensors.items()}
    assert "visual.trunk.stem.3.weight" in rename(named | {"visual.trunk.stem.3.weight": mx.zeros(3)})
