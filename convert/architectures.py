"""The networks that open_clip trains by name: what `--arch NAME` and a run's `params.txt` stand for.

A name gives the sizes of both towers. Names that end in `-quickgelu` have OpenAI's activation; names that have such a
twin leave open which one a checkpoint was trained with, since weights of OpenAI's were loaded under either name.

>>> describe("ViT-B-32-quickgelu", None)["model_cfg"]["quick_gelu"]
True
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sharpzo_mlx import reading
from sharpzo_mlx.errors import UserError, one_line
from sharpzo_mlx.files import expand

from . import timm_networks

QUICK = "-quickgelu"
ACTIVATIONS = ("gelu", "quick_gelu")
TOKENS = {"context_length": 77, "vocab_size": 49408}


@dataclass(frozen=True)
class Told:
    """What the user says of weights whose files do not say it.

    Attributes:
        architecture: a name of open_clip's, or the JSON file of a network of one's own.
        activation: one of ACTIVATIONS.
    """

    architecture: str | None = None
    activation: str | None = None


# name -> width of the joint space; image: layers, width, patch, size, further fields; text: layers, width
_VITS: dict[str, tuple[int, tuple[int, int, int, int], tuple[int, int]]] = {
    "ViT-S-32": (384, (12, 384, 32, 224), (12, 384)),
    "ViT-S-16": (384, (12, 384, 16, 224), (12, 384)),
    "ViT-S-32-alt": (256, (12, 384, 32, 224), (10, 256)),
    "ViT-S-16-alt": (256, (12, 384, 16, 224), (10, 256)),
    "ViT-M-32": (512, (12, 512, 32, 224), (12, 512)),
    "ViT-M-16": (512, (12, 512, 16, 224), (12, 512)),
    "ViT-M-32-alt": (384, (12, 512, 32, 224), (12, 384)),
    "ViT-B-32": (512, (12, 768, 32, 224), (12, 512)),
    "ViT-B-32-256": (512, (12, 768, 32, 256), (12, 512)),
    "ViT-B-16": (512, (12, 768, 16, 224), (12, 512)),
    "ViT-B-16-plus": (640, (12, 896, 16, 224), (12, 640)),
    "ViT-B-16-plus-240": (640, (12, 896, 16, 240), (12, 640)),
    "ViT-B-32-plus-256": (640, (12, 896, 32, 256), (12, 640)),
    "ViT-L-14": (768, (24, 1024, 14, 224), (12, 768)),
    "ViT-L-14-280": (768, (24, 1024, 14, 280), (12, 768)),
    "ViT-L-14-336": (768, (24, 1024, 14, 336), (12, 768)),
    "ViT-L-16": (768, (24, 1024, 16, 224), (12, 768)),
    "ViT-L-16-320": (768, (24, 1024, 16, 320), (12, 768)),
    "ViT-H-14": (1024, (32, 1280, 14, 224), (24, 1024)),
    "ViT-H-14-378": (1024, (32, 1280, 14, 378), (24, 1024)),
    "ViT-H-16": (1024, (32, 1280, 16, 224), (24, 1024)),
    "ViT-g-14": (1024, (40, 1408, 14, 224), (24, 1024)),
    "ViT-bigG-14": (1280, (48, 1664, 14, 224), (32, 1280)),
}
_HEADS = {1280: 80, 1408: 88, 1664: 104}  # width of an image tower -> width of its heads; 64 otherwise
_RATIOS = {"ViT-g-14": 4.3637, "ViT-bigG-14": 4.9231}  # of the hidden layer to the width; 4 otherwise
_RESNETS: dict[str, tuple[int, list[int], int, int, int]] = {  # joint width; blocks, width, size; text width
    "RN50": (1024, [3, 4, 6, 3], 64, 224, 512),
    "RN101": (512, [3, 4, 23, 3], 64, 224, 512),
    "RN50x4": (640, [4, 6, 10, 6], 80, 288, 640),
    "RN50x16": (768, [6, 8, 18, 8], 96, 384, 768),
    "RN50x64": (1024, [3, 15, 36, 10], 128, 448, 1024),
}
_TWINS = ("ViT-B-32", "ViT-B-16", "ViT-L-14", "ViT-L-14-336", "ViT-H-14", "ViT-H-14-378", "ViT-bigG-14", *_RESNETS)
NAMES = (*_VITS, *_RESNETS, *(f"{name}{QUICK}" for name in _TWINS), *timm_networks.NAMES)


def describe(name: str, activation: str | None, *, seen: bool = False) -> dict[str, Any]:
    """Return what an `open_clip_config.json` of a network would hold.

    Args:
        name: a name of open_clip's, such as ViT-B-32, or a JSON file that describes a network as open_clip does.
        activation: one of ACTIVATIONS, or None where the name says it.
        seen: whether the absence of `-quickgelu` means the plain GELU, as in a run's own file.

    Raises:
        UserError: the name is unknown, the file cannot be used, or the activation is open.
    """
    if name.endswith(".json"):
        return _read(expand(name), activation)
    name = name.replace("/", "-").replace("@", "-").removesuffix("px")
    if name not in NAMES:
        raise UserError(f"network {one_line(name)!r}: {_unknown(name)}")
    plain = name.removesuffix(QUICK)
    if plain != name and activation == "gelu":
        raise UserError(f"--arch {name} --activation gelu: contradict each other; leave one out")
    if plain == name and plain in _TWINS and activation is None and not seen:
        raise UserError(
            f"network {name}: its activation cannot be seen in the weights; add --activation quick_gelu if the "
            "training began with OpenAI's weights or was told so, else --activation gelu"
        )
    quick = {"quick_gelu": plain != name or activation == "quick_gelu"}
    if plain in timm_networks.NAMES:
        described = timm_networks.describe(plain)
        return described | {"model_cfg": described["model_cfg"] | quick}
    return {"model_cfg": (_vit(plain) if plain in _VITS else _resnet(plain)) | quick}


def _read(path: Path, activation: str | None) -> dict[str, Any]:
    """Return the description in a file of open_clip's `model_configs`, or in a whole `open_clip_config.json`."""
    try:
        found = reading.read_json(path)
    except (OSError, ValueError) as error:
        raise UserError(f"--arch {path}: cannot be read ({reading.reason(error)}); name a network") from None
    if not isinstance(found, dict) or not ({"vision_cfg", "model_cfg"} & set(found)):
        raise UserError(f"--arch {path}: describes no network as open_clip does (no vision_cfg); name a network")
    whole = found if "model_cfg" in found else {"model_cfg": found}
    if activation and isinstance(whole["model_cfg"], dict):
        whole = whole | {"model_cfg": whole["model_cfg"] | {"quick_gelu": activation == "quick_gelu"}}
    return whole


def _unknown(name: str) -> str:
    lower = {one.lower(): one for one in NAMES}
    near = [lower[one] for one in difflib.get_close_matches(name.lower(), lower, n=4, cutoff=0.6)]
    known = f"the nearest are {', '.join(near)}" if near else f"such names are {', '.join(NAMES[:3])}"
    return f"no CLIP of open_clip's that can be converted; {known}; or name the JSON file that describes it"


def _vit(name: str) -> dict[str, Any]:
    joint, (layers, width, patch, size), text = _VITS[name]
    vision: dict[str, Any] = {"image_size": size, "layers": layers, "width": width, "patch_size": patch}
    vision |= {"head_width": _HEADS.get(width, 64), "mlp_ratio": _RATIOS.get(name, 4.0)}
    return {"embed_dim": joint, "vision_cfg": vision, "text_cfg": _text(*text)}


def _resnet(name: str) -> dict[str, Any]:
    joint, layers, width, size, text = _RESNETS[name]
    vision = {"image_size": size, "layers": layers, "width": width, "patch_size": None}
    return {"embed_dim": joint, "vision_cfg": vision, "text_cfg": _text(12, text)}


def _text(layers: int, width: int) -> dict[str, Any]:
    return TOKENS | {"width": width, "heads": width // 64, "layers": layers}
