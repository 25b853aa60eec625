"""Configurations: CLIP's defaults, old spellings, a fixed point, and refusals in one line."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sharpzo_mlx.clip.config import CLIPConfig
from sharpzo_mlx.clip.fingerprint import fingerprint_of
from sharpzo_mlx.clip.tower_config import VisionConfig
from sharpzo_mlx.errors import UserError
from sharpzo_mlx.images.preprocessor import CLIP_MEAN, CLIP_STD, PreprocessorConfig

SPARSE: dict[str, Any] = {"model_type": "clip", "text_config": {}, "vision_config": {}}


def vision(**values: Any) -> dict[str, Any]:
    return SPARSE | {"vision_config": values}


def text(**values: Any) -> dict[str, Any]:
    return SPARSE | {"text_config": values}


def test_absent_and_null_values_are_clips_defaults() -> None:
    config = CLIPConfig.from_dict(SPARSE | {"text_config": None, "projection_dim": None})
    assert (config.text.hidden_size, config.text.vocab_size, config.text.eos_token_id) == (512, 49408, 49407)
    assert isinstance(config.vision, VisionConfig)
    assert (config.vision.hidden_size, config.vision.patch_size, config.projection_dim) == (768, 32, 512)
    assert config.vision.positions == 50
    assert config.preprocessor == PreprocessorConfig.for_size(224)
    assert config.quantization is None
    assert config.text.causal


def test_the_old_nested_configs_replace_the_plain_ones() -> None:
    old = SPARSE | {
        "text_config": {"hidden_size": 64, "eos_token_id": 2, "num_hidden_layers": 3},
        "text_config_dict": {"hidden_size": 128},
        "vision_config_dict": None,
    }
    config = CLIPConfig.from_dict(old)
    assert (config.text.hidden_size, config.text.eos_token_id, config.text.num_hidden_layers) == (
        128,
        49407,
        12,
    )


def test_defaults_and_old_spellings_are_transformers() -> None:
    transformers = pytest.importorskip("transformers")
    old = text(hidden_size=64, eos_token_id=2) | {"text_config_dict": {"hidden_size": 128}}
    for given_ in (SPARSE, old):
        theirs, ours = transformers.CLIPConfig(**json.loads(json.dumps(given_))), CLIPConfig.from_dict(given_)
        for mine, wanted in ((ours.text, theirs.text_config), (ours.vision, theirs.vision_config)):
            values = {name: value for name, value in vars(mine).items() if name != "causal"}
            assert values == {name: getattr(wanted, name) for name in values}
        assert ours.projection_dim == theirs.projection_dim


def test_a_written_config_means_the_same_to_transformers() -> None:
    transformers = pytest.importorskip("transformers")
    ours = CLIPConfig.from_dict(text(hidden_size=64, num_attention_heads=4) | {"projection_dim": 32})
    theirs = transformers.CLIPConfig(**ours.to_dict())
    assert (theirs.text_config.hidden_size, theirs.projection_dim) == (64, 32)
    assert theirs.vision_config.image_size == ours.vision.image_size


@settings(max_examples=100, deadline=None, database=None, derandomize=True)
@given(
    heads=st.integers(1, 16),
    layers=st.integers(0, 48),
    size=st.integers(1, 512),
    patch=st.integers(4, 64),
    act=st.sampled_from(["quick_gelu", "gelu", "gelu_pytorch_tanh", "gelu_new", "gelu_fast"]),
    eps=st.floats(1e-12, 1, exclude_max=True),
    causal=st.booleans(),
    quantization=st.sampled_from([None, {"group_size": 64, "bits": 4}]),
)
def test_writing_and_reading_is_a_fixed_point(size: int, patch: int, **drawn: Any) -> None:
    tower = {
        "num_attention_heads": drawn["heads"],
        "hidden_size": 8 * drawn["heads"],
        "hidden_act": drawn["act"],
    }
    tower |= {"num_hidden_layers": drawn["layers"], "layer_norm_eps": drawn["eps"]}
    given_ = {
        "model_type": "clip",
        "text_config": tower | {"causal": drawn["causal"]},
        "vision_config": tower | {"image_size": max(size, patch), "patch_size": patch},
        "quantization": drawn["quantization"],
    }
    config = CLIPConfig.from_dict(given_)
    written = json.loads(json.dumps(config.to_dict(), sort_keys=True))
    assert CLIPConfig.from_dict(written) == config
    assert CLIPConfig.from_dict(written).to_dict() == config.to_dict()
    assert config.vision.image_size == max(size, patch)
    assert config.text.layer_norm_eps == drawn["eps"]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({}, "not clip"),
        ({"model_type": "blip", "text_config": {}, "vision_config": {}}, "blip, not clip"),
        ({"model_type": "siglip2", "text_config": {}, "vision_config": {}}, "NaFlex"),
        ({"model_type": "siglip", "text_config": {"projection_size": 5}}, "projection_size is 5; it must be"),
        ({"model_type": "siglip", "preprocessor": {"crop_size": 336, "do_center_crop": True}}, "336x336 pixels"),
        ({"model_type": "clip_vision_model", "hidden_size": 768}, "only CLIP's image tower"),
        ({"model_type": "clip_text_model"}, "only CLIP's text tower"),
        ({"vision_config": {"hidden_size": 768}}, "only vision_config"),
        (SPARSE | {"text_config": [1]}, "text_config is"),
        (text(hidden_size="512"), "text_config.hidden_size is '512'; expected int"),
        (text(hidden_size=True), "text_config.hidden_size is True"),
        (text(hidden_size=512.0), "text_config.hidden_size is 512.0"),
        (text(hidden_size=0), "text_config.hidden_size is 0; it must be 1 or more"),
        (text(eos_token_id=[1, 2]), r"text_config.eos_token_id is \[1, 2\]"),
        (text(layer_norm_eps=float("nan")), "layer_norm_eps is nan"),
        (text(hidden_size=100), "hidden_size 100 is not a multiple of its num_attention_heads 8"),
        (vision(hidden_act="relu"), "hidden_act is 'relu'; supported are quick_gelu"),
        (vision(image_size=[224, 196]), r"image_size is \[224, 196\]"),
        (vision(patch_size=225), "patch_size is 225, more than image_size, 224"),
        (SPARSE | {"projection_dim": -1}, "projection_dim is -1"),
        (SPARSE | {"preprocessor": {"crop_size": 336}}, "336x336 pixels but the image tower takes 224x224"),
    ],
)
def test_what_cannot_be_computed_is_named_in_one_line(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        CLIPConfig.from_dict(wrong)
    assert "\n" not in str(caught.value)


def test_square_sizes_given_as_pairs_are_read() -> None:
    read = CLIPConfig.from_dict(vision(image_size=[32, 32], patch_size=[16, 16])).vision
    assert isinstance(read, VisionConfig)
    assert (read.image_size, read.patch_size) == (32, 16)


def test_preprocessing_of_the_original_files() -> None:
    older = {"size": 224, "crop_size": 224, "do_resize": True, "resample": 3, "image_mean": list(CLIP_MEAN)}
    newer = {
        "size": {"shortest_edge": 224},
        "crop_size": {"height": 224, "width": 224},
        "image_std": CLIP_STD,
    }
    assert PreprocessorConfig.from_dict(older) == PreprocessorConfig.from_dict(newer) == PreprocessorConfig()


@pytest.mark.parametrize(
    ("given_", "expected"),
    [
        ({"do_resize": False}, {"resize": None}),
        ({"do_center_crop": False}, {"crop": None}),
        ({"do_rescale": False}, {"rescale_factor": None}),
        ({"do_normalize": False}, {"mean": None, "std": None}),
        ({"do_convert_rgb": False}, {"do_convert_rgb": False}),
        ({"size": {"height": 30, "width": 40}}, {"resize": (30, 40)}),
        ({"crop_size": {"height": 30, "width": 40}}, {"crop": (30, 40)}),
        ({"resample": 2, "image_mean": [0, 0.5, 1]}, {"resample": 2, "mean": (0.0, 0.5, 1.0)}),
    ],
)
def test_each_preprocessing_step(given_: dict[str, Any], expected: dict[str, Any]) -> None:
    read = PreprocessorConfig.from_dict(given_)
    assert read == PreprocessorConfig(**expected)
    assert PreprocessorConfig.from_dict(json.loads(json.dumps(read.to_dict()))) == read


def test_the_size_that_every_image_will_have() -> None:
    assert PreprocessorConfig.for_size(64).output_size == (64, 64)
    assert PreprocessorConfig(resize=(30, 40), crop=None).output_size == (30, 40)
    assert PreprocessorConfig(resize=30, crop=None).output_size is None


@pytest.mark.parametrize(
    "wrong",
    [
        {"size": {"longest_edge": 224}},
        {"size": "224"},
        {"size": {"shortest_edge": 0}},
        {"crop_size": {"height": 224}},
        {"resample": 9},
        {"image_mean": [0.5]},
        {"rescale_factor": "1/255"},
    ],
)
def test_unknown_preprocessing_is_named(wrong: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=rf"^preprocessor_config\.json: {next(iter(wrong))}"):
        PreprocessorConfig.from_dict(wrong)


@pytest.mark.parametrize(
    ("tower", "causal", "digest"),
    [
        ("clip_vision_model", True, "c33ca6d788e49a09"),
        ("clip_vision_model", False, "b98e0cfa4328b2e7"),
        ("clip_resnet_model", True, "c09b1348701b0024"),
        ("clip_resnet_model", False, "af4f149a22ee837a"),
    ],
)
def test_descriptions_keep_the_fingerprints_of_converted_folders(tower: str, causal: bool, digest: str) -> None:
    described = SPARSE | {"vision_config": {"model_type": tower}, "text_config": {"causal": causal}}
    assert fingerprint_of(CLIPConfig.from_dict(described), {}).startswith(digest)
