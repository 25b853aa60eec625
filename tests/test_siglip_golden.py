"""SigLIP against golden files that transformers and open_clip gave (tests/make_golden_siglip.py), and its full sizes.

These run everywhere: neither torch nor SentencePiece is needed.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten
from siglip_golden import GOLDEN, IDS, pixels
from siglip_tokenizers import train_pairs

from sharpzo_mlx.clip.checkpoint import load_model
from sharpzo_mlx.clip.config import CLIPConfig
from sharpzo_mlx.clip.handle import load
from sharpzo_mlx.clip.model import CLIPModel
from sharpzo_mlx.clip.sentencepiece_file import read_sentencepiece
from sharpzo_mlx.clip.siglip_tokenizer import read_tokenizer
from sharpzo_mlx.clip.tower_config import SigLIPTextConfig
from sharpzo_mlx.convert import convert, siglip_config
from sharpzo_mlx.convert.open_clip_config import translate_config
from sharpzo_mlx.errors import UserError

KINDS = {
    "siglip": ("config.json", "model.safetensors"),
    "siglip_open_clip": ("open_clip_config.json", "open_clip_model.safetensors"),
}


@pytest.mark.parametrize("name", list(KINDS))
def test_features_and_logits_are_the_librarys(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(siglip_config.SIZES, "tiny", (16, 64, 2, 2))
    golden = json.loads((GOLDEN / f"{name}.json").read_text())
    described, weights = KINDS[name]
    source = tmp_path / "theirs"
    source.mkdir()
    shutil.copy(GOLDEN / f"{name}.safetensors", source / weights)
    config = golden["config"] if name == "siglip" else {"model_cfg": golden["config"]}
    (source / described).write_text(json.dumps(config))
    train_pairs(source / "tokenizer.json", 600)
    folder = convert(source, tmp_path / "m").folder
    model, expected = load_model(folder), golden["expected"]
    images, texts = model.image_features(mx.array(pixels(16))), model.text_features(mx.array(IDS))
    logits = mx.exp(model.logit_scale) * images @ texts.T + model.logit_bias
    for ours, theirs in ((images, "images"), (texts, "texts"), (logits, "logits")):
        np.testing.assert_allclose(np.array(ours), expected[theirs], atol=1e-4)
    np.testing.assert_allclose(np.array(load(folder).encode_pixels(pixels(16))), expected["images"], atol=1e-4)
    assert np.ptp(np.array(images), axis=0).max() > 1e-2


def test_ids_are_transformers(tmp_path: Path) -> None:
    shutil.copy(GOLDEN / "siglip_spiece.model", tmp_path / "spiece.model")
    tokenizer = read_tokenizer(tmp_path, SigLIPTextConfig(vocab_size=500))
    golden: dict[str, list[int]] = json.loads((GOLDEN / "siglip_ids.json").read_text())
    for text, ids in golden.items():
        assert tokenizer.encode(text) == ids, text
    rows = tokenizer(list(golden))
    assert rows.shape == (len(golden), 64)
    assert set(np.array(rows)[:, -1].tolist()) == {tokenizer.pad_id}


@pytest.mark.parametrize("cut", [1, 40, 1000, 2570])
def test_a_cut_or_changed_model_is_refused_or_read(tmp_path: Path, cut: int) -> None:
    content = (GOLDEN / "siglip_spiece.model").read_bytes()
    path = tmp_path / "spiece.model"
    path.write_bytes(content[:cut])
    with pytest.raises(UserError, match=r"spiece\.model: [^\n]*$"):
        read_tokenizer(tmp_path, SigLIPTextConfig(vocab_size=500))
    draw, errors = np.random.default_rng(cut), []
    for _ in range(60):  # whatever stands there, the error is one line
        changed = bytearray(content)
        for place in draw.integers(0, len(content), 3):
            changed[place] = draw.integers(256)
        path.write_bytes(bytes(changed))
        try:
            read_tokenizer(tmp_path, SigLIPTextConfig(vocab_size=500)).encode("a photo of a tench")
        except UserError as error:
            errors.append(str(error))
    assert errors
    assert not any("\n" in error for error in errors)


def test_the_pieces_of_a_model_are_read() -> None:
    found = read_sentencepiece(GOLDEN / "siglip_spiece.model")
    assert found.unigram
    assert [piece for piece, _, _ in found.pieces[:3]] == ["<pad>", "</s>", "<unk>"]
    assert 0 < len(found.charsmap) < 2000


BASE = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
LARGE = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}
SO400M = {"hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27, "num_attention_heads": 16}
# the tower, words, positions, patch, pixels; and the parameters that transformers 5.24 counts
SIZES: dict[str, tuple[dict[str, int], tuple[int, int, int, int], int]] = {
    "siglip-base-patch16-224": (BASE, (32_000, 64, 16, 224), 203_155_970),
    "siglip-large-patch16-256": (LARGE, (32_000, 64, 16, 256), 652_150_786),
    "siglip-so400m-patch14-224": (SO400M, (32_000, 16, 14, 224), 877_360_306),
    "siglip-so400m-patch14-384": (SO400M, (32_000, 64, 14, 384), 877_960_498),
    "siglip2-base-patch32-256": (BASE, (256_000, 64, 32, 256), 376_856_066),
    "siglip2-base-patch16-224": (BASE, (256_000, 64, 16, 224), 375_187_970),
    "siglip2-base-patch16-512": (BASE, (256_000, 64, 16, 512), 375_823_874),
    "siglip2-large-patch16-384": (LARGE, (256_000, 64, 16, 384), 881_854_466),
    "siglip2-so400m-patch14-384": (SO400M, (256_000, 64, 14, 384), 1_136_008_498),
    "siglip2-so400m-patch16-512": (SO400M, (256_000, 64, 16, 512), 1_136_555_698),
}


def count(described: dict[str, Any]) -> int:
    parameters: dict[str, mx.array] = dict(tree_flatten(CLIPModel(CLIPConfig.from_dict(described)).parameters()))
    return sum(array.size for array in parameters.values())


@pytest.mark.parametrize("name", list(SIZES))
def test_full_sizes_have_the_parameters_that_transformers_counts(name: str) -> None:
    tower, (words, positions, patch, side), parameters = SIZES[name]
    text = tower | {"vocab_size": words, "max_position_embeddings": positions}
    vision = tower | {"patch_size": patch, "image_size": side}
    assert count({"model_type": "siglip", "text_config": text, "vision_config": vision}) == parameters


OPEN_CLIP: dict[
    str, tuple[dict[str, Any], int, int]
] = {  # the image tower, open_clip's text tower, its words; the same network above
    "vit_base_patch16_siglip_224": ({"width": 768, "heads": 12, "layers": 12}, 256_000, 375_187_970),
    "vit_so400m_patch14_siglip_384": (
        {"width": 1152, "heads": 16, "layers": 27, "mlp_ratio": 3.7362},
        32_000,
        877_960_498,
    ),
}


@pytest.mark.parametrize("name", list(OPEN_CLIP))
def test_full_sizes_of_open_clip(name: str) -> None:
    text, words, parameters = OPEN_CLIP[name]
    rest: dict[str, Any] = {
        "context_length": 64,
        "vocab_size": words,
        "hf_tokenizer_name": "timm/ViT-B-16-SigLIP",
        "proj_bias": True,
    }
    rest |= {"no_causal_mask": True, "pool_type": "last", "norm_kwargs": {"eps": 1e-6}}
    vision: dict[str, Any] = {
        "timm_model_name": name,
        "timm_model_pretrained": False,
        "timm_pool": "map",
        "timm_proj": "none",
    }
    vision |= {"image_size": int(name.rpartition("_")[2])}
    model = {"embed_dim": text["width"], "init_logit_bias": -10, "vision_cfg": vision, "text_cfg": text | rest}
    assert count(translate_config({"model_cfg": model}, name="x")) == parameters


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "naflex": ({"timm_model_name": "naflexvit_base_patch16_siglip"}, "NaFlex"),
    "average pooling": ({"timm_model_name": "vit_base_patch16_siglip_gap_224"}, "not supported"),
    "another pooling": ({"timm_model_name": "vit_base_patch16_siglip_224", "timm_pool": "avg"}, "timm_pool"),
    "roberta": ({"timm_model_name": "vit_base_patch16_siglip_224"}, "not SigLIP's"),
}


@pytest.mark.parametrize("name", list(REFUSED))
def test_other_siglips_of_open_clip_are_refused(name: str) -> None:
    vision, message = REFUSED[name]
    text: dict[str, Any] = {"proj_bias": True, "no_causal_mask": True, "pool_type": "last"}
    text |= {"hf_model_name": "roberta-base"} if name == "roberta" else {}
    model = {"embed_dim": 768, "init_logit_bias": -10, "vision_cfg": {"timm_pool": "map"} | vision, "text_cfg": text}
    with pytest.raises(UserError, match=message):
        translate_config({"model_cfg": model}, name="x")


def test_an_added_token_that_is_no_piece_is_refused(tmp_path: Path) -> None:
    file = {"added_tokens": [{"id": 1_000_000, "content": "</s>", "special": True}]}
    pieces = [["<pad>", 0.0], ["</s>", 0.0], ["<unk>", 0.0], ["a", -1.0]]
    (tmp_path / "tokenizer.json").write_text(json.dumps(file | {"model": {"type": "Unigram", "vocab": pieces}}))
    with pytest.raises(UserError, match=r"tokenizer\.json: names the token 1000000, which it does not have; [^\n]*$"):
        read_tokenizer(tmp_path, SigLIPTextConfig(vocab_size=500))
