"""MobileCLIP's checkpoints convert from open_clip's spelling and are tuned.

open_clip and timm make the random models, where they are installed; `test_convert_apple` has Apple's own spelling.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten
from mobileclip_oracle import TEXT, VISION, check_features, draw_pixels, load_oracle, make_clip
from mobileclip_towers import NAMES, describe, make_tower, tensors_of

import sharpzo_mlx as sz
from sharpzo_mlx.cli import main
from sharpzo_mlx.clip import catalog
from sharpzo_mlx.clip.checkpoint import build_model
from sharpzo_mlx.clip.config import CLIPConfig
from sharpzo_mlx.clip.model import CLIPModel
from sharpzo_mlx.convert import convert
from sharpzo_mlx.convert.open_clip_config import translate_config
from sharpzo_mlx.convert.open_clip_names import rename
from sharpzo_mlx.errors import UserError

PLAIN = {"mean": [0, 0, 0], "std": [1, 1, 1], "interpolation": "bilinear", "resize_mode": "shortest"}
PUBLISHED = {  # image tower, joint width
    "MobileCLIP2-S0": ("fastvit_mci0", 512),
    "MobileCLIP-S1": ("fastvit_mci1", 512),
    "MobileCLIP2-S2": ("fastvit_mci2", 512),
    "MobileCLIP2-B": ("vit_base_mci_224", 512),
    "MobileCLIP2-S3": ("fastvit_mci3", 768),
    "MobileCLIP2-S4": ("fastvit_mci4", 768),
}


@pytest.fixture(scope="module")
def oracle() -> Any:
    return load_oracle()


def torch_features(model: Any, pixels: np.ndarray) -> np.ndarray:
    import torch

    with torch.no_grad():
        found = model(torch.tensor(pixels.transpose(0, 3, 1, 2))).numpy()
    return np.asarray(found / np.linalg.norm(found, axis=1, keepdims=True))


@pytest.mark.parametrize("name", NAMES)
def test_folded_features_are_those_of_timms_branches(oracle: Any, name: str) -> None:
    tower, config = make_tower(name), CLIPConfig.from_dict(describe(name))
    pixels = draw_pixels(config.vision.image_size)
    expected = torch_features(tower, pixels)
    weights = rename(tensors_of(tower, "visual.trunk.")) | {"logit_scale": mx.zeros(())}
    found = build_model(config, weights, towers=("vision",)).image_features(mx.array(pixels))
    np.testing.assert_allclose(np.array(found), expected, atol=1e-4)
    assert np.abs(expected[0] - expected[1]).max() > 1e-2


@pytest.mark.parametrize("name", NAMES[:-1])
def test_a_file_that_is_folded_already_gives_the_same(oracle: Any, name: str) -> None:
    from timm.utils.model import reparameterize_model

    tower = make_tower(name)
    ours = rename(tensors_of(tower, "visual.trunk."))
    theirs = rename(tensors_of(reparameterize_model(tower), "visual.trunk."))
    assert ours.keys() == theirs.keys()
    for key, weight in ours.items():
        np.testing.assert_allclose(np.array(weight), np.array(theirs[key]), atol=2e-6, err_msg=key)


@pytest.mark.parametrize("alias", PUBLISHED)
def test_every_size_has_open_clips_shapes(oracle: Any, alias: str) -> None:
    import timm
    import torch

    name, width = PUBLISHED[alias]
    with torch.device("meta"):
        shapes = {key: value.shape for key, value in timm.create_model(name, num_classes=width).state_dict().items()}
    trunk = {f"visual.trunk.{key}": mx.zeros(tuple(shape)) for key, shape in shapes.items()}
    vit = name.startswith("vit")
    text = {"width": width, "heads": width // 64, "layers": 12, "no_causal_mask": not vit}
    vision = {"timm_model_name": name, "timm_pool": "token" if vit else "avg"}
    described = translate_config(
        {"model_cfg": {"embed_dim": width, "vision_cfg": vision, "text_cfg": text}}, name=alias
    )
    config = CLIPConfig.from_dict(described)
    assert config.vision.image_size == (224 if vit else 256)
    assert config.text.causal == vit
    expected: dict[str, mx.array] = dict(tree_flatten(CLIPModel(config).parameters()))
    images = {key: array.shape for key, array in expected.items() if key.startswith("vis")}
    found = {key: array.shape for key, array in rename(trunk).items()}
    stem = "vision_model.embeddings.patch_embedding"
    assert {key: shape for key, shape in found.items() if not key.startswith(stem)} == {
        key: shape for key, shape in images.items() if not key.startswith(stem)
    }
    assert found.keys() == images.keys()
    known = catalog.find(alias)
    assert known is not None
    assert known.parameters == sum(array.size for array in expected.values())


@pytest.fixture(scope="module")
def clip_model(oracle: Any) -> Any:
    return make_clip(oracle)


@pytest.fixture(scope="module")
def source(clip_model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as timm's repositories on the hub have it."""
    folder = tmp_path_factory.mktemp("source") / "MobileCLIP2-S0-OpenCLIP"
    folder.mkdir()
    model = {"embed_dim": 64, "vision_cfg": VISION, "text_cfg": TEXT, "custom_text": True}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": model, "preprocess_cfg": PLAIN}))
    mx.save_safetensors(str(folder / "open_clip_model.safetensors"), tensors_of(clip_model))
    return folder


def test_features_equal_those_of_open_clip(
    clip_model: Any, source: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = convert(source, tmp_path / "m").folder
    assert "research only (apple-amlr)" in caplog.text
    check_features(folder, clip_model)
    config = sz.load(folder).config
    assert not config.text.causal
    assert config.text.pad_token_id == 0
    assert (config.preprocessor.resize, config.preprocessor.crop, config.preprocessor.resample) == (256, (256, 256), 2)
    assert config.preprocessor.mean == (0.0, 0.0, 0.0)
    card = (folder / "README.md").read_text()
    assert card.startswith("---\nlicense: apple-amlr\n")
    assert "research only" in card
    again = convert(folder, tmp_path / "again").folder
    assert all((folder / path.name).read_bytes() == path.read_bytes() for path in again.iterdir())


def test_a_licence_of_ones_own_is_kept(source: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    own = tmp_path / "own"
    own.mkdir()
    for path in source.iterdir():
        (own / path.name).symlink_to(path)
    (own / "README.md").write_text("---\nlicense: mit\n---\n")
    card = (convert(own, tmp_path / "m").folder / "README.md").read_text()
    assert "license: mit" in card
    assert "research" not in card + caplog.text


def test_half_precision_is_rounded_after_folding(clip_model: Any, source: Path, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    folder = tmp_path / "pickled"
    folder.mkdir()
    for path in source.glob("*.json"):
        (folder / path.name).symlink_to(path)
    torch.save(clip_model.state_dict(), folder / "open_clip_pytorch_model.bin")
    one = convert(folder, tmp_path / "one", dtype="float16").folder
    two = convert(source, tmp_path / "two", dtype="float16").folder
    assert (one / "model.safetensors").read_bytes() == (two / "model.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"timm_model_name": "fastvit_sa12"}, "FastViT network 'fastvit_sa12'"),
        ({"timm_pool": "abs_attn"}, "timm_pool 'abs_attn'"),
        ({"timm_proj": "linear"}, "timm_proj 'linear'"),
    ],
)
def test_other_towers_are_refused_by_name(change: dict[str, Any], message: str) -> None:
    model = {"embed_dim": 64, "vision_cfg": VISION | change, "text_cfg": TEXT}
    with pytest.raises(UserError, match=message):
        translate_config({"model_cfg": model}, name="x")


def test_it_is_tuned_evaluated_and_predicts(source: Path, photos: Path, tmp_path: Path) -> None:
    assert main.run(["convert", str(source), "--output", str(tmp_path / "m"), "--quantize", "8"]) == 0
    run = tmp_path / "run"
    words = ["--shots", "2", "--views", "0", "--steps", "1", "--generations", "0"]
    tune = ["tune", str(photos), "--model", str(tmp_path / "m"), "--output", str(run), *words]
    assert main.run([*tune, "--set", "space.dimension=8"]) == 0
    assert main.run(["evaluate", str(run), str(photos)]) == 0
    assert main.run(["predict", str(run), str(photos / "cat" / "0.png")]) == 0
