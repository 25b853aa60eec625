"""Describe a training checkpoint of open_clip (`epoch_32.pt`) by what its training has left beside it.

open_clip writes `params.txt` into the folder of a run, one option a line, and the checkpoints into `checkpoints/` below
it. The file names the network, the activation and what was done to images.

>>> read_params("model: ViT-B-32\\nforce_quick_gelu: True\\n")["model"]
'ViT-B-32'
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from sharpzo_mlx import reading
from sharpzo_mlx.errors import UserError, shown
from sharpzo_mlx.images.preprocessor import CLIP_MEAN, CLIP_STD

from .architectures import Told, describe

PARAMS = "params.txt"
LARGEST = 2**20  # bytes of params.txt
ENDINGS = (".pt", ".pth", ".ckpt", ".bin", ".safetensors")
NO_WEIGHTS = ("training_args.bin", "optimizer", "scheduler", "scaler", "rng_state")  # beginnings of other files' names
_IMAGES = {
    "image_mean": "mean",
    "image_std": "std",
    "image_interpolation": "interpolation",
    "image_resize_mode": "resize_mode",
}


def find_file(folder: Path, here: Collection[str]) -> Path | None:
    """Return the one weights file of a folder whose name is none of the usual ones; None where there is none.

    Raises:
        UserError: there are several.
    """
    names = list_files(here)
    if len(names) > 1:
        raise UserError(f"{folder}: {len(names)} weights files: name one of them, such as {folder / names[-1]}")
    return folder / names[0] if names else None


def list_files(names: Collection[str]) -> list[str]:
    """Return the names of weights files among the names of a folder, the one with the largest number last."""
    found = (name for name in names if name.endswith(ENDINGS) and not name.startswith((*NO_WEIGHTS, ".")))
    return sorted(found, key=lambda name: ([int(digits) for digits in re.findall(r"\d{1,9}", name)], name))


def find_params(folder: Path) -> Path | None:
    """Return the `params.txt` of the run that a folder of checkpoints belongs to, or None."""
    places = (folder, folder.absolute().parent) if folder.absolute().name == "checkpoints" else (folder,)
    return next((place / PARAMS for place in places if (place / PARAMS).is_file()), None)


def describe_run(path: Path, said: Told) -> dict[str, Any]:
    """Return what an `open_clip_config.json` of a run's model would hold.

    Args:
        path: the run's `params.txt`.
        said: what the user says; an architecture is used in place of the file's.

    Raises:
        UserError: the file cannot be read, names no network that can be converted, or leaves the activation open.
    """
    try:
        params = read_params(reading.read_text(path, LARGEST))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({reading.reason(error)}); say --arch NAME") from None
    name = said.architecture or params.get("model", "")
    if not name:
        raise UserError(f"{path}: names no model; say --arch NAME")
    forced = params.get("force_quick_gelu") == "True" and not said.architecture
    # older versions gave OpenAI's weights their own activation whatever the name
    seen = params.get("pretrained", "").lower() != "openai" and not said.architecture
    try:
        described = describe(name, said.activation or ("quick_gelu" if forced else None), seen=seen)
        if isinstance(described["model_cfg"], dict):  # of a file of the user's; the translation refuses another
            _override(described["model_cfg"], params)
        return described | {"preprocess_cfg": _beginning(params, described) | describe_images(params)}
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def read_params(text: str) -> dict[str, str]:
    """Return the options of a `params.txt`: name -> value, as text."""
    lines = (line.partition(":") for line in text.splitlines())
    return {name.strip(): value.strip() for name, colon, value in lines if colon}


def describe_images(params: Mapping[str, str]) -> dict[str, Any]:
    """Return open_clip's `preprocess_cfg` of a run; what it leaves to CLIP is not there."""
    given = {ours: _value(params, name) for name, ours in _IMAGES.items()}
    # a run may draw the filter at random while it trains; bicubic is what open_clip looks with
    return {name: value for name, value in given.items() if value not in (None, "random")}


def _beginning(params: Mapping[str, str], described: Mapping[str, Any]) -> dict[str, Any]:
    """Return what was done to images unless the run says otherwise.

    Published weights, which are named by a tag, bring their own preprocessing; a run without them, or from a file, has
    OpenAI's, also with a network whose published weights have another.
    """
    if re.fullmatch(r"\w[\w-]*", params.get("pretrained", "")):
        found = described.get("preprocess_cfg")
        return dict(found) if isinstance(found, dict) else {}
    return {"mean": CLIP_MEAN, "std": CLIP_STD, "interpolation": "bicubic", "resize_mode": "shortest"}


def _override(model: dict[str, Any], params: Mapping[str, str]) -> None:
    """Change a description as the run's options changed it."""
    for option, section, field in (
        ("force_image_size", "vision_cfg", "image_size"),
        ("force_context_length", "text_cfg", "context_length"),
    ):
        if (value := _value(params, option)) is not None and isinstance(model.get(section), dict):
            model[section][field] = value


def _value(params: Mapping[str, str], name: str) -> Any:
    """Return a value of Python's that is written as text: None, numbers, lists of them, and words."""
    text = params.get(name, "None")
    if text == "None":
        return None
    if text[:1] not in "[(0123456789":
        return text
    try:
        return reading.parse_json(text.replace("(", "[").replace(")", "]"))
    except ValueError:
        raise UserError(f"{name} is {shown(text)}; correct it") from None
