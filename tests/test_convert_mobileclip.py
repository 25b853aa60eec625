"""MobileCLIP's checkpoints convert from open_clip's spelling and from Apple's own, and are tuned.

open_clip and timm make the random models, where they are installed. Apple's spelling is written by renaming theirs;
that timm reads it back proves the renaming.
"""

from __future__ import annotations

import importlib
import json
import re
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten
from mobileclip_towers import NAMES, describe, make_tower, randomise, tensors_of

import sharpzo_mlx as sz
from sharpzo_mlx.cli import main
from sharpzo_mlx.clip import catalog
from sharpzo_mlx.clip.checkpoint import build_model
from sharpzo_mlx.clip.config import CLIPConfig
from sharpzo_mlx.clip.model import CLIPModel
from sharpzo_mlx.convert import apple_names, convert
from sharpzo_mlx.convert.open_clip_config import translate_config
from sharpzo_mlx.convert.open_clip_names import rename
from sharpzo_mlx.errors import UserError

TEXT = {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 2, "no_causal_mask": True}
VISION = {"timm_model_name": "fastvit_mci0", "timm_model_pretrained": False, "timm_pool": "avg", "timm_proj": None}
VISION |= {"timm_drop": 0.0, "timm_drop_path": 0.0, "image_size": 256}
PLAIN = {"mean": [0, 0, 0], "std": [1, 1, 1], "interpolation": "bilinear", "resize_mode": "shortest"}
TEXTS = ["a photo of a tench.", "two dogs!"]
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
    import oracle_open_clip

    library = oracle_open_clip.load()
    pytest.importorskip("timm")
    return library


def torch_features(model: Any, pixels: np.ndarray) -> np.ndarray:
    import torch

    with torch.no_grad():
        found = model(torch.tensor(pixels.transpose(0, 3, 1, 2))).numpy()
    return np.asarray(found / np.linalg.norm(found, axis=1, keepdims=True))


def draw_pixels(side: int) -> np.ndarray:
    draw = np.random.default_rng(1)
    return (draw.normal(size=(3, side, side, 3)) + 3 * draw.normal(size=(3, 1, 1, 3))).astype(np.float32)


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


def make_clip(oracle: Any) -> Any:
    """open_clip's MobileCLIP2-S0 with random weights and a small text tower."""
    return randomise(oracle.CustomTextCLIP(embed_dim=64, vision_cfg=VISION, text_cfg=TEXT))


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


def check_features(folder: Path, model: Any) -> None:
    import torch

    clip = sz.load(folder)
    pixels = draw_pixels(256)
    ids = np.array(clip.tokenizer(TEXTS))
    ids = np.pad(ids, ((0, 0), (0, 77 - ids.shape[1]))).astype(np.int64)
    with torch.no_grad():
        images = model.encode_image(torch.tensor(pixels.transpose(0, 3, 1, 2)), normalize=True).numpy()
        texts = model.encode_text(torch.tensor(ids), normalize=True).numpy()
    ours = np.array(clip.encode_pixels(pixels)), np.array(clip.encode_texts(TEXTS))
    np.testing.assert_allclose(ours[0], images, atol=1e-4)
    np.testing.assert_allclose(ours[1], texts, atol=1e-4)
    np.testing.assert_allclose(ours[0] @ ours[1].T, images @ texts.T, atol=1e-4)
    assert np.abs(images[0] - images[1]).max() > 1e-3
    assert np.abs(texts[0] - texts[1]).max() > 1e-3


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


TO_APPLE = [
    (r"^stem\.", "patch_embed."),
    (r"conv_kxk\.", "rbr_conv."),
    (r"conv_scale\.", "rbr_scale."),
    (r"identity\.", "rbr_skip."),
    (r"^final_conv\.", "conv_exp."),
    (r"large_conv\.", "lkb_origin."),
    (r"blocks\.(\d+)\.mlp\.", r"blocks.\1.convffn."),
    (r"se\.fc1\.", "se.reduce."),
    (r"se\.fc2\.", "se.expand."),
    (r"layer_scale(_[12])?\.gamma", r"layer_scale\1"),
    (r"stages\.0\.blocks", "network.0"),
    (r"stages\.([123])\.downsample", lambda m: f"network.{2 * int(m[1]) - 1}"),
    (r"stages\.([12])\.blocks", lambda m: f"network.{2 * int(m[1])}"),
    (r"stages\.3\.pos_emb\.pos_enc", "network.6.pe"),
    (r"stages\.3\.blocks", "network.7"),
]
TEXT_TO_APPLE = [
    (r"^text\.token_embedding", "text_encoder.embedding_layer"),
    (r"^text\.positional_embedding", "text_encoder.positional_embedding.pos_embed.pos_embed"),
    (r"^text\.ln_final", "text_encoder.final_layer_norm"),
    (r"^text\.text_projection", "text_encoder.projection_layer"),
    (r"^text\.transformer\.resblocks", "text_encoder.transformer"),
    (r"\.ln_1\.", ".pre_norm_mha.0."),
    (r"\.attn\.in_proj_", ".pre_norm_mha.1.qkv_proj."),
    (r"\.attn\.", ".pre_norm_mha.1."),
    (r"\.ln_2\.", ".pre_norm_ffn.0."),
    (r"\.mlp\.c_fc\.", ".pre_norm_ffn.1."),
    (r"\.mlp\.c_proj\.", ".pre_norm_ffn.4."),
]


def spell(name: str, table: list[tuple[str, Any]]) -> str:
    for theirs, apples in table:
        name = re.sub(theirs, apples, name)
    return name


def apples_state(model: Any) -> dict[str, Any]:
    """A state dict of open_clip's in Apple's spelling."""
    state = {}
    for name, value in model.state_dict().items():
        image = name.removeprefix("visual.trunk.")
        if image == "head.fc.weight":
            state["image_encoder.model.head.proj"] = value.T
        elif image != name and image != "head.fc.bias":
            state[f"image_encoder.model.{spell(image, TO_APPLE)}"] = value
        elif image == name:
            position = name == "text.positional_embedding"
            state[spell(name, TEXT_TO_APPLE)] = value[None, None] if position else value
    return state


def test_apples_own_file(oracle: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    import torch

    read_back = importlib.import_module("open_clip.convert").convert_state_dict
    model = make_clip(oracle)
    with torch.no_grad():
        model.visual.trunk.head.fc.bias.zero_()
    state = apples_state(model)
    model.load_state_dict(read_back(model, state))  # what we wrote is what open_clip takes for Apple's
    torch.save(state, tmp_path / "mobileclip2_s0.pt")
    folder = convert(tmp_path / "mobileclip2_s0.pt", tmp_path / "m").folder
    assert "research only" in caplog.text
    check_features(folder, model)
    assert sz.load(folder).config.preprocessor.mean == (0.0, 0.0, 0.0)


def test_open_clips_tensors_under_apples_name(oracle: Any, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    model = make_clip(oracle)
    state = {f"module.{name}": value for name, value in model.state_dict().items()}
    torch.save({"state_dict": state}, tmp_path / "mobileclip2_s0.pt")
    check_features(convert(tmp_path / "mobileclip2_s0.pt", tmp_path / "m").folder, model)


def test_apples_vit_is_renamed(oracle: Any) -> None:
    from timm.models.vision_transformer_hybrid import checkpoint_filter_fn

    tower = make_tower("stem")
    table = [
        (r"^patch_embed\.backbone\.(\d)\.conv", r"patch_emb.\1.block.conv"),
        (r"^patch_embed\.backbone\.(\d)\.bn", r"patch_emb.\1.block.norm"),
        (r"^norm\.", "post_transformer_norm."),
        (r"^blocks\.", "transformer."),
        (r"\.norm1\.", ".pre_norm_mha.0."),
        (r"\.attn\.qkv\.", ".pre_norm_mha.1.qkv_proj."),
        (r"\.attn\.proj\.", ".pre_norm_mha.1.out_proj."),
        (r"\.norm2\.", ".pre_norm_ffn.0."),
        (r"\.mlp\.fc1\.", ".pre_norm_ffn.1."),
        (r"\.mlp\.fc2\.", ".pre_norm_ffn.4."),
        (r"^pos_embed$", "pos_embed.pos_embed.pos_embed"),
    ]
    state = {spell(name, table): value for name, value in tower.state_dict().items()}
    state["pos_embed.pos_embed.pos_embed"] = state["pos_embed.pos_embed.pos_embed"][None]
    state["classifier.proj"] = state.pop("head.weight").T
    del state["head.bias"]
    apples = {f"image_encoder.model.{name}": value for name, value in state.items()}
    expected = checkpoint_filter_fn(apples, tower)
    floating = {name: mx.array(value.numpy()) for name, value in apples.items() if value.is_floating_point()}
    found = apple_names.rename(floating)
    assert found.keys() == {f"visual.trunk.{name}" for name, value in expected.items() if value.is_floating_point()}
    for name, value in found.items():
        np.testing.assert_array_equal(np.array(value), expected[name.removeprefix("visual.trunk.")].numpy())


def test_the_first_s0_is_refused_by_name() -> None:
    mixed = {"text_encoder.transformer.0.token_mixer.mixer.rbr_skip.weight": mx.zeros(1)}
    with pytest.raises(UserError, match=r"MobileCLIP-S0.*use MobileCLIP2-S0"):
        apple_names.rename(mixed)


def test_it_is_tuned_evaluated_and_predicts(source: Path, photos: Path, tmp_path: Path) -> None:
    assert main.run(["convert", str(source), "--output", str(tmp_path / "m"), "--quantize", "8"]) == 0
    run = tmp_path / "run"
    words = ["--shots", "2", "--views", "0", "--steps", "1", "--generations", "0"]
    tune = ["tune", str(photos), "--model", str(tmp_path / "m"), "--output", str(run), *words]
    assert main.run([*tune, "--set", "space.dimension=8"]) == 0
    assert main.run(["evaluate", str(run), str(photos)]) == 0
    assert main.run(["predict", str(run), str(photos / "cat" / "0.png")]) == 0
