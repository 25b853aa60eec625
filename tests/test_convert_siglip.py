"""SigLIPs that transformers and open_clip wrote give the features and logits that these libraries give.

The models are random and small; the libraries make them where they are installed.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from siglip_tokenizers import train_pairs, train_unigram
from test_clip_parity import import_oracle

from sharpzo_mlx.clip.checkpoint import load_config, load_model
from sharpzo_mlx.clip.handle import load
from sharpzo_mlx.convert import convert, siglip_config

WORDS = 700
TEXTS = ["a photo of a tench.", "Two dogs!", "a satellite image of farmland"]
TOWER = {"hidden_size": 32, "intermediate_size": 80, "num_attention_heads": 4, "num_hidden_layers": 3}
RANDOM: dict[str, dict[str, Any]] = {
    "siglip": {},
    "another activation": {"hidden_act": "gelu"},
    "a short text": {"text": {"max_position_embeddings": 16}},
    "patches that do not fill the image": {"vision": {"image_size": 29, "patch_size": 6}},
    "unequal towers": {"text": {"hidden_size": 24, "num_attention_heads": 3, "projection_size": 32}},
}
OPEN_CLIP_TEXT = {"context_length": 16, "vocab_size": WORDS, "hf_tokenizer_name": "x/SigLIP2", "width": 24} | {
    "heads": 3, "layers": 2, "mlp_ratio": 3.7362, "no_causal_mask": True, "proj_bias": True, "pool_type": "last",
    "norm_kwargs": {"eps": 1e-6}, "tokenizer_kwargs": {"clean": "canonicalize"},
}  # fmt: skip


def shake(torch: Any, model: Any) -> Any:
    """Make every part of a network matter."""
    torch.manual_seed(3)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) * (0.2 if weight.ndim > 1 else 0.1))
        model.logit_scale.fill_(2.0)
        model.logit_bias.fill_(-3.5)
    return model.eval()


def write_hugging_face(folder: Path, name: str, kind: str = "pairs") -> Any:
    """Let transformers write a random small SigLIP, with its preprocessing and a tokenizer; return the network."""
    torch, transformers = import_oracle()
    own = dict(RANDOM[name])
    text, vision = own.pop("text", {}), own.pop("vision", {})
    config = transformers.SiglipConfig(
        text_config=TOWER | own | {"vocab_size": WORDS} | text,
        vision_config=TOWER | own | {"image_size": 24, "patch_size": 8} | vision,
    )
    model = shake(torch, transformers.SiglipModel(config))
    model.save_pretrained(folder)
    side = config.vision_config.image_size
    prepared = {"size": {"height": side, "width": side}, "resample": 2, "image_processor_type": "SiglipImageProcessor"}
    (folder / "preprocessor_config.json").write_text(json.dumps(prepared))
    if kind == "pairs":
        train_pairs(folder / "tokenizer.json", WORDS)
    else:
        train_unigram(folder / "spiece.model")
    return model


def some_pixels(side: int) -> np.ndarray:
    return np.random.default_rng(4).standard_normal((3, side, side, 3), dtype=np.float32)


def compare(folder: Path, images: Any, texts: Any, logits: Any, *, pixels: np.ndarray, ids: np.ndarray) -> None:
    """Compare a converted folder, on both paths of the image tower, with what the library gave."""
    model = load_model(folder)
    ours, words = model.image_features(mx.array(pixels)), model.text_features(mx.array(ids))
    np.testing.assert_allclose(np.array(ours), images, atol=1e-4, rtol=0)
    np.testing.assert_allclose(np.array(words), texts, atol=1e-4, rtol=0)
    both = mx.exp(model.logit_scale) * (ours @ words.T) + model.logit_bias
    np.testing.assert_allclose(np.array(both), logits, atol=1e-4, rtol=0)
    clip = load(folder)
    np.testing.assert_allclose(np.array(clip.encode_pixels(pixels)), images, atol=1e-4, rtol=0)
    assert clip.logit_bias == pytest.approx(-3.5)
    assert np.ptp(images, axis=0).max() > 1e-2  # the images differ
    assert np.ptp(texts, axis=0).max() > 1e-2


@pytest.mark.parametrize("name", list(RANDOM))
def test_features_and_logits_equal_transformers(tmp_path: Path, name: str) -> None:
    model = write_hugging_face(tmp_path / "siglip", name)
    torch, _ = import_oracle()
    folder = convert(tmp_path / "siglip", tmp_path / "m").folder
    clip = load(folder)
    pixels, ids = some_pixels(clip.config.vision.image_size), np.array(clip.tokenizer(TEXTS))
    assert ids.shape == (3, clip.config.text.max_position_embeddings)
    assert clip.config.text.pad_token_id == 0
    with torch.no_grad():
        out = model(torch.tensor(ids), torch.tensor(pixels.transpose(0, 3, 1, 2).copy()))
    found = [part.numpy() for part in (out.image_embeds, out.text_embeds, out.logits_per_image)]
    compare(folder, *found, pixels=pixels, ids=ids)
    again = convert(folder, tmp_path / "again").folder
    assert all((again / path.name).read_bytes() == path.read_bytes() for path in folder.iterdir())


def test_the_first_siglip_pads_with_its_end(tmp_path: Path) -> None:
    write_hugging_face(tmp_path / "siglip", "siglip", kind="unigram")
    clip = load(convert(tmp_path / "siglip", tmp_path / "m").folder)
    assert clip.tokenizer.pad_id == clip.tokenizer.eos_id == clip.config.text.pad_token_id == 1
    assert clip.config.preprocessor.resize == (24, 24)
    assert clip.config.preprocessor.crop is None
    assert clip.config.preprocessor.mean == clip.config.preprocessor.std == (0.5, 0.5, 0.5)
    assert clip.config.preprocessor.resample == 2


@pytest.fixture
def open_clip(monkeypatch: pytest.MonkeyPatch) -> Any:
    """open_clip, for which an image tower of SigLIP's in a size of its own is known to timm and to us."""
    spec = importlib.util.spec_from_file_location("oracle_open_clip", Path(__file__).with_name("oracle_open_clip.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    library = module.load()
    monkeypatch.setitem(siglip_config.SIZES, "tiny", (32, 128, 3, 4))
    return library


@pytest.mark.parametrize("form", ["open_clip_model.safetensors", "open_clip_pytorch_model.bin"])
def test_features_and_logits_equal_open_clip(open_clip: Any, tmp_path: Path, form: str) -> None:
    import torch
    from timm.models.vision_transformer import VisionTransformer

    vision = {"image_size": 24, "timm_model_name": "vit_tiny_patch8_siglip_24", "timm_pool": "map", "timm_proj": "none"}
    described = {"embed_dim": 32, "init_logit_bias": -10, "custom_text": True, "vision_cfg": vision}
    small = {
        "embed_dim": 32,
        "vision_cfg": {"image_size": 24, "layers": 1, "width": 32, "head_width": 8, "patch_size": 8},
    }
    model = open_clip.CustomTextCLIP(text_cfg=OPEN_CLIP_TEXT, init_logit_bias=-10, **small)
    trunk = VisionTransformer(
        img_size=24,
        patch_size=8,
        embed_dim=32,
        depth=3,
        num_heads=4,
        class_token=False,
        global_pool="map",
        num_classes=0,
    )
    model.visual = torch.nn.Module()
    model.visual.trunk = trunk
    shake(torch, model)
    source = tmp_path / "siglip"
    source.mkdir()
    train_pairs(source / "tokenizer.json", WORDS)
    (source / "open_clip_config.json").write_text(
        json.dumps(
            {"model_cfg": described | {"text_cfg": OPEN_CLIP_TEXT}, "preprocess_cfg": {"interpolation": "bicubic"}}
        )
    )
    if form.endswith(".bin"):
        torch.save(model.state_dict(), source / form)
    else:
        arrays = {name: mx.array(value.numpy()) for name, value in model.state_dict().items()}
        mx.save_safetensors(str(source / form), arrays, metadata={"format": "pt"})
    folder = convert(source, tmp_path / "m").folder
    config = load_config(folder)
    assert (config.vision.hidden_act, config.text.hidden_act) == ("gelu", "gelu")  # type: ignore[union-attr]
    assert config.preprocessor.resample == 3
    pixels, ids = some_pixels(24), np.array(load(folder).tokenizer(TEXTS))
    with torch.no_grad():
        images = torch.nn.functional.normalize(trunk(torch.tensor(pixels.transpose(0, 3, 1, 2).copy())), dim=-1)
        texts = model.encode_text(torch.tensor(ids, dtype=torch.long), normalize=True)
        logits = model.logit_scale.exp() * images @ texts.T + model.logit_bias
    compare(folder, images.numpy(), texts.numpy(), logits.numpy(), pixels=pixels, ids=ids)
