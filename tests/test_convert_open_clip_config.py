"""open_clip's descriptions are translated; models that are no CLIP are refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from open_clip_models import MODELS, TIMM

from sharpzo_mlx.clip.tower_config import ResNetConfig
from sharpzo_mlx.convert import convert
from sharpzo_mlx.convert.open_clip_config import config_from_shapes, translate_config
from sharpzo_mlx.errors import UserError


def test_openai_sizes_are_read_off_the_shapes() -> None:
    shapes: dict[str, tuple[int, ...]] = {
        "ln_final.weight": (640,),
        "positional_embedding": (77, 640),
        "token_embedding.weight": (49408, 640),
        "text_projection": (640, 640),
        "visual.attnpool.positional_embedding": (82, 2560),
    }
    shapes |= {f"transformer.resblocks.{layer}.ln_1.weight": (640,) for layer in range(12)}
    for stage, blocks in enumerate((4, 6, 10, 6), 1):
        shapes |= {f"visual.layer{stage}.{block}.conv1.weight": (80 * 2 ** (stage - 1),) for block in range(blocks)}
    found = config_from_shapes(shapes)  # RN50x4
    vision = ResNetConfig(layers=(4, 6, 10, 6), width=80, num_attention_heads=40, image_size=288)
    assert found["vision_config"] == {
        "model_type": "clip_resnet_model",
        "layers": list(vision.layers),
        "width": vision.width,
        "num_attention_heads": vision.num_attention_heads,
        "image_size": vision.image_size,
    }
    assert (found["projection_dim"], found["text_config"]["num_attention_heads"]) == (640, 10)


def change(**sections: Any) -> dict[str, Any]:
    base = MODELS["vit gelu"]
    changed = {name: base.get(name, {}) | value for name, value in sections.items() if isinstance(value, dict)}
    return base | sections | changed


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "coca": (change(multimodal_cfg={"width": 512}), "CoCa"),
    "siglip": (change(vision_cfg={"timm_model_name": "vit_base_patch16_siglip_224"}), "SigLIP"),
    "fastvit": (change(vision_cfg={"timm_model_name": "fastvit_sa12"}), "FastViT network 'fastvit_sa12'"),
    "eva": (change(vision_cfg={"timm_model_name": "eva02_base_patch16_clip_224"}), "'eva02_base"),
    "other words": (change(text_cfg={"hf_model_name": "roberta-base"}), "'roberta-base'"),
    "average": (change(vision_cfg={"pool_type": "avg"}), "vision_cfg.pool_type is 'avg'"),
    "no first norm": (change(vision_cfg={"no_ln_pre": True}), "vision_cfg.no_ln_pre"),
    "unknown field": (change(text_cfg={"mixture": 3}), "text_cfg.mixture is 3"),
    "no sizes": (change(vision_cfg={"width": "wide"}), "width is 'wide'"),
    "absurd": (change(embed_dim=2**70), "embed_dim is"),
    "activation": (change(quick_gelu=True, text_cfg={"act_kwargs": {"approximate": "tanh"}}), "act_kwargs"),
    "no text": (change(text_cfg=None), "without text_cfg"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_clip_is_named(case: str) -> None:
    description, message = REFUSED[case]
    with pytest.raises(UserError, match=message) as caught:
        translate_config({"model_cfg": description}, name="x")
    assert "\n" not in str(caught.value)


def test_resize_by_the_longest_edge_is_refused() -> None:
    with pytest.raises(UserError, match="resize_mode is 'longest'"):
        translate_config({"model_cfg": MODELS["vit gelu"], "preprocess_cfg": {"resize_mode": "longest"}}, name="x")


@pytest.mark.parametrize(("name", "activation"), [("a", "gelu"), ("vit_base_patch16_clip_224.openai", "quick_gelu")])
def test_openai_weights_have_the_quick_gelu(name: str, activation: str) -> None:
    found = translate_config({"model_cfg": MODELS["vit gelu"]}, name=name)
    assert {found[tower]["hidden_act"] for tower in ("text_config", "vision_config")} == {activation}


@pytest.mark.parametrize("by_file", [False, True])
def test_timms_image_tower_is_refused_with_the_right_name(tmp_path: Path, by_file: bool) -> None:
    (tmp_path / "config.json").write_text(json.dumps(TIMM))
    mx.save_safetensors(str(tmp_path / "model.safetensors"), {"cls_token": mx.zeros((1, 1, 8))})
    source = tmp_path / "model.safetensors" if by_file else tmp_path
    with pytest.raises(UserError, match=r"image tower alone; use open_clip_model\.safetensors"):
        convert(source, tmp_path / "m")


def test_weights_without_a_description_are_refused(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    torch.save({"visual.proj": torch.zeros(2, 2)}, tmp_path / "epoch_3.pt")
    with pytest.raises(UserError, match=r"no TorchScript archive.*put it there"):
        convert(tmp_path / "epoch_3.pt", tmp_path / "m")
