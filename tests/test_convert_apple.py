"""Apple's own MobileCLIP files convert like open_clip's.

Apple's spelling is written by renaming a random model of open_clip's; that open_clip and timm read it back proves the
renaming.
"""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mobileclip_oracle import check_features, load_oracle, make_clip
from mobileclip_towers import make_tower

import sharpzo_mlx as sz
from sharpzo_mlx.convert import apple_names, convert
from sharpzo_mlx.errors import UserError


@pytest.fixture(scope="module")
def oracle() -> Any:
    return load_oracle()


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
