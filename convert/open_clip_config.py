"""Translate open_clip's description of a CLIP into our `config.json`, or derive one from an archive's tensors.

open_clip describes the network in `open_clip_config.json`. Each of its fields is either understood or at a value that
changes nothing; otherwise the model is refused and the error names the field. OpenAI's archives describe nothing, so
their sizes are derived from the tensors' shapes.

>>> shapes = {"ln_final.weight": (512,)}
>>> config_from_shapes(shapes)
Traceback (most recent call last):
sharpzo_mlx.errors.UserError: it holds no CLIP of OpenAI's; give one of their archives, such as ViT-B-16.pt
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from sharpzo_mlx.clip.config import SIGLIP
from sharpzo_mlx.clip.tower_config import RESNET, ROTARY
from sharpzo_mlx.errors import UserError, one_line, shown
from sharpzo_mlx.images.preprocessor import CLIP_MEAN, CLIP_STD

from . import mobileclip, perception, siglip_config

HEAD = 64  # width of an attention head in all of OpenAI's models, and open_clip's default
POOLED = 32  # how much smaller the last stage of a ResNet is than the image, and how much wider than the first
SUPPORTED = "supported are CLIP's ViT and ResNet towers, such as timm/vit_base_patch16_clip_224.openai"
HALF = [0.5, 0.5, 0.5]  # mean and standard deviation of SigLIP's pixels
SIGLIP_FIELDS = ("no_causal_mask", "pool_type", "proj_bias")  # checked by `siglip_config`

# the values of fields where any other value is another network; training's own fields have no effect here
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "ls_init_value": (None,),
    "attentional_pool": (False,),
    "no_ln_pre": (False,),
    "pos_embed_type": ("learnable",),
    "final_ln_after_pool": (False,),
    "embed_cls": (False,),
    "proj_bias": (False,),
    "proj_type": ("linear",),
    "block_type": (None, "default"),
    "qk_norm": (False,),
    "scaled_cosine_attn": (False,),
    "scale_heads": (False,),
    "scale_attn_inner": (False,),
    "scale_attn": (False,),
    "scale_fc": (False,),
}
_READ = {"layers", "width", "head_width", "heads", "mlp_ratio", "patch_size", "image_size", "context_length"} | {
    "vocab_size", "act_kwargs", "norm_kwargs", "pool_type", "pad_id", "eos_id", "no_causal_mask", "hf_tokenizer_name"
}  # fmt: skip
_IGNORED = {"patch_dropout", "output_tokens", "attn_pooler_queries", "attn_pooler_heads", "tokenizer_kwargs"} | {
    "timm_model_name", "timm_model_pretrained", "timm_pool", "timm_proj", "timm_proj_bias", "timm_drop",
    "timm_drop_path", "hf_model_name", "hf_model_pretrained", "hf_proj_type", "hf_pooler_type", "tokenizer_mode",
}  # fmt: skip


def config_from_shapes(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """Derive the configuration of an archive of OpenAI's, or a file of Meta's, from its tensors' names and shapes.

    Raises:
        UserError: the tensors are neither those of a CLIP of OpenAI's nor those of a Perception Encoder.
    """
    try:
        rotary = perception.vision_from_shapes(shapes)
        width = shapes["ln_final.weight"][0]
        text_layers = _count(shapes, r"transformer\.resblocks\.(\d+)\.ln_1\.weight")
        resnet = "visual.layer1.0.conv1.weight" in shapes
        vision = rotary or (_resnet_from_shapes(shapes) if resnet else _vit_from_shapes(shapes))
        text = {"context_length": shapes["positional_embedding"][0], "vocab_size": shapes["token_embedding.weight"][0]}
        text |= {"width": width, "heads": max(1, width // HEAD), "layers": text_layers}
        model = {"embed_dim": shapes["text_projection"][1], "vision_cfg": vision, "text_cfg": text}
    except (LookupError, TypeError, ValueError):
        raise UserError("it holds no CLIP of OpenAI's; give one of their archives, such as ViT-B-16.pt") from None
    return translate_config({"model_cfg": model | {"quick_gelu": rotary is None}}, name="")


def _count(shapes: Iterable[str], pattern: str) -> int:
    return len({match[1] for name in shapes if (match := re.fullmatch(pattern, name))})


def _vit_from_shapes(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    width, _, patch, _ = shapes["visual.conv1.weight"]
    side = round((shapes["visual.positional_embedding"][0] - 1) ** 0.5)
    layers = _count(shapes, r"visual\.transformer\.resblocks\.(\d+)\.ln_1\.weight")
    return {"width": width, "layers": layers, "patch_size": patch, "image_size": patch * side}


def _resnet_from_shapes(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    layers = [_count(shapes, rf"visual\.layer{stage}\.(\d+)\.conv1\.weight") for stage in (1, 2, 3, 4)]
    side = round((shapes["visual.attnpool.positional_embedding"][0] - 1) ** 0.5)
    width = shapes["visual.layer1.0.conv1.weight"][0]
    return {"width": width, "layers": layers, "image_size": POOLED * side}


def translate_config(given: Mapping[str, Any], *, name: str) -> dict[str, Any]:
    """Translate an `open_clip_config.json` into our `config.json`.

    Args:
        given: the parsed file.
        name: the model's name. OpenAI's own weights in timm's repositories end in ".openai", and their activation is
            the quick GELU whether the file says so or not.

    Raises:
        UserError: the model is a CoCa, or has a tower that we do not have; the error names it.
    """
    model = _section(given, "model_cfg")
    vision, text = _section(model, "vision_cfg"), _section(model, "text_cfg")
    if siglip_config.is_siglip(vision, text):
        return _translate_siglip(given, model, vision, text)
    _refuse_others(model, vision, text)
    quick = bool(model.get("quick_gelu")) or name.endswith(".openai")
    for kind, section in (("vision_cfg", vision), ("text_cfg", text)):
        _refuse_fields(kind, section)
    described = {
        "model_type": "clip",
        "projection_dim": _number(model, "embed_dim", None),
        "text_config": _text(text, quick),
        "vision_config": _vision(vision, quick),
    }
    size = described["vision_config"]["image_size"]
    pixels = perception.PIXELS if described["vision_config"].get("model_type") == ROTARY else {}
    return described | {"preprocessor": _preprocessor(pixels | _optional(given, "preprocess_cfg"), size)}


def _translate_siglip(
    given: Mapping[str, Any], model: Mapping[str, Any], vision: Mapping[str, Any], text: Mapping[str, Any]
) -> dict[str, Any]:
    siglip_config.check_text(text)
    siglip_config.check_vision(vision)
    _refuse_fields("text_cfg", {name: value for name, value in text.items() if name not in SIGLIP_FIELDS})
    tower = siglip_config.find_tower(str(vision.get("timm_model_name") or ""))
    tower["image_size"] = _square(vision.get("image_size", tower["image_size"]))
    prepared = {"mean": HALF, "std": HALF, "resize_mode": "squash"} | _optional(given, "preprocess_cfg")
    return {
        "model_type": SIGLIP,
        "text_config": _text(text, quick=False) | {"projection_size": _number(model, "embed_dim", None)},
        "vision_config": tower,
        "preprocessor": _preprocessor(prepared, tower["image_size"]),
    }


def _section(given: Mapping[str, Any], name: str) -> dict[str, Any]:
    section = given.get(name)
    if not isinstance(section, dict):
        raise UserError(f"open_clip_config.json: without {name}; download the file again")
    return section


def _optional(given: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return an object of named values, which may be absent."""
    section = given.get(name) or {}
    if not isinstance(section, dict):
        raise UserError(f"open_clip_config.json: {name} is {shown(section)}; it must be an object of named values")
    return section


def _number(given: Mapping[str, Any], name: str, default: int | float | None) -> Any:
    value = default if given.get(name) is None else given[name]
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 2**31:
        raise UserError(f"open_clip_config.json: {name} is {shown(value)}; expected a number")
    return value


def _refuse_others(model: Mapping[str, Any], vision: Mapping[str, Any], text: Mapping[str, Any]) -> None:
    """Refuse other kinds of models, by their names."""
    tower, words = str(vision.get("timm_model_name") or ""), str(text.get("hf_model_name") or "")
    if "multimodal_cfg" in model:
        raise UserError(f"it is a CoCa, not a CLIP; {SUPPORTED}")
    if tower and tower not in mobileclip.TOWERS and not tower.startswith(perception.START):
        kind = "FastViT" if tower.startswith("fastvit") else "timm"
        raise UserError(f"its image tower is the {kind} network {tower[:60]!r}, which is not supported; {SUPPORTED}")
    if words:
        raise UserError(f"its text tower is {words[:60]!r}, not CLIP's; {SUPPORTED}")


def _refuse_fields(kind: str, section: Mapping[str, Any]) -> None:
    """Refuse fields that would make another network, and unknown fields, which might."""
    for field, value in section.items():
        if (field in _NEUTRAL and value in _NEUTRAL[field]) or field in _READ | _IGNORED:
            continue
        raise UserError(
            f"open_clip_config.json: {kind}.{one_line(field)} is {shown(value)}, not supported; {SUPPORTED}"
        )
    pools = {"vision_cfg": ("tok",), "text_cfg": ("argmax", "eos")}[kind]
    if section.get("pool_type", pools[0]) not in pools:
        raise UserError(
            f"open_clip_config.json: {kind}.pool_type is {shown(section['pool_type'])}; supported is {pools[0]}"
        )


def _activation(section: Mapping[str, Any], quick: bool) -> str:
    arguments = section.get("act_kwargs") or {}
    if arguments and (quick or arguments != {"approximate": "tanh"}):
        raise UserError(f"open_clip_config.json: act_kwargs is {shown(arguments)}, not supported; {SUPPORTED}")
    return "gelu_pytorch_tanh" if arguments else "quick_gelu" if quick else "gelu"


def _tower(section: Mapping[str, Any], width: int, quick: bool) -> dict[str, Any]:
    return {
        "hidden_size": width,
        "intermediate_size": int(width * _number(section, "mlp_ratio", 4.0)),
        "num_hidden_layers": _number(section, "layers", 12),
        "hidden_act": _activation(section, quick),
        "layer_norm_eps": float(_number(_optional(section, "norm_kwargs"), "eps", 1e-5)),
    }


def _text(section: Mapping[str, Any], quick: bool) -> dict[str, Any]:
    words = _number(section, "vocab_size", 49408)
    end = section.get("eos_id", 2) if section.get("pool_type") == "eos" else words - 1  # argmax: the largest id
    return _tower(section, _number(section, "width", 512), quick) | {
        "num_attention_heads": _number(section, "heads", 8),
        "max_position_embeddings": _number(section, "context_length", 77),
        "vocab_size": words,
        "bos_token_id": words - 2,
        "eos_token_id": end,
        "pad_token_id": section.get("pad_id", 0),
        "causal": not section.get("no_causal_mask", False),
    }


def _square(size: Any) -> int:
    size = size[0] if isinstance(size, list) and len(set(map(str, size))) == 1 else size
    pixels: int = _number({"image_size": size}, "image_size", None)
    return pixels


def _vision(section: Mapping[str, Any], quick: bool) -> dict[str, Any]:
    name = str(section.get("timm_model_name") or "")
    family = perception if name.startswith(perception.START) else mobileclip
    timm = family.translate_vision(section) if name else {}
    size, layers = _square(section.get("image_size", timm.get("image_size", 224))), section.get("layers", 12)
    if timm:
        return timm | {"image_size": size}
    width, head = _number(section, "width", 768), max(1, _number(section, "head_width", HEAD))
    if isinstance(layers, list):
        heads = width * POOLED // head
        return {
            "model_type": RESNET,
            "layers": layers,
            "width": width,
            "num_attention_heads": heads,
            "image_size": size,
        }
    patch = _number(section, "patch_size", 16)
    heads = {"num_attention_heads": width // head, "patch_size": patch, "image_size": size}
    return _tower(section, width, quick) | heads


def _preprocessor(given: Mapping[str, Any], size: int) -> dict[str, Any]:
    """Translate open_clip's `preprocess_cfg`, which knows two filters and three ways to resize."""
    mode = given.get("resize_mode") or "shortest"
    if mode not in ("shortest", "squash"):
        raise UserError(f"open_clip_config.json: resize_mode is {shown(mode)}; supported are shortest and squash")
    square = {"height": size, "width": size}
    return {
        "size": square if mode == "squash" else {"shortest_edge": size},
        "crop_size": square,
        "do_center_crop": mode == "shortest",
        "resample": 2 if given.get("interpolation") == "bilinear" else 3,
        "image_mean": given.get("mean") or CLIP_MEAN,
        "image_std": given.get("std") or CLIP_STD,
    }
