"""Write a tuned prompt to one safetensors file and read it back.

The file is a classifier that works without this library: the arrays are tensors, the words and numbers are JSON in the
metadata. docs/reference/files.md has the formula.

    write_prompt(folder / "prompt.safetensors", prompt)
    prompt = read_prompt(folder / "prompt.safetensors")
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import mlx.core as mx

from sharpzo_mlx.errors import UserError
from sharpzo_mlx.files import atomic_path
from sharpzo_mlx.heads.guard import Guard
from sharpzo_mlx.heads.head import Head
from sharpzo_mlx.prompts.prompt import Prompt

ARRAYS = ("context", "w", "class_features", "zero_shot_features")
HEAD_ARRAYS = {"head_weight": "weight", "head_bias": "bias", "head_distances": "distances", "head_scores": "scores"}
GUARD_ARRAYS = {"guard_whitening": "whitening", "guard_means": "means"}
HEAD_NUMBERS = ("text_share", "image_share", "named_share")
GUARD_NUMBERS = {"guard_centre": "centre", "guard_spread": "spread"}


def write_prompt(path: Path, prompt: Prompt) -> None:
    """Write the prompt whole, beside its place, and rename it into place.

    Args:
        path: the file.
        prompt: the prompt; its head, where it has one, is a `Head`.
    """
    arrays = {name: getattr(prompt, name) for name in ARRAYS}
    words = {
        "format": "mlx",
        "class_names": json.dumps(prompt.class_names),
        "folders": json.dumps(prompt.folders),
        "logit_scale": repr(prompt.logit_scale),
        "template": prompt.template,
    }
    if prompt.head is not None:
        assert isinstance(prompt.head, Head), "no other kind of head can be read back"
        head, guard = prompt.head, prompt.head.guard
        arrays |= {name: getattr(head, field) for name, field in HEAD_ARRAYS.items()}
        arrays |= {name: getattr(guard, field) for name, field in GUARD_ARRAYS.items()}
        words |= {"head": head.kind}
        words |= {name: repr(getattr(head, name)) for name in HEAD_NUMBERS}
        words |= {name: repr(getattr(guard, field)) for name, field in GUARD_NUMBERS.items()}
    with atomic_path(path) as temporary:
        mx.save_safetensors(str(temporary), arrays, metadata=words)


def read_prompt(path: Path) -> Prompt:
    """Read a prompt that `write_prompt` wrote.

    Raises:
        UserError: there is no such file, it is not a prompt, an older version wrote its head, or it is damaged: an
            array has another shape than the others say, or numbers are not finite.
    """
    try:
        arrays, words = cast("tuple[dict[str, mx.array], dict[str, str]]", mx.load(str(path), return_metadata=True))
        if "head" in words and "guard_whitening" not in arrays:
            raise UserError(f"{path}: its head was written by another version of sharpzo-mlx; tune again")
        prompt = Prompt(
            **{name: arrays[name] for name in ARRAYS},
            class_names=tuple(json.loads(words["class_names"])),
            folders=tuple(json.loads(words["folders"])),
            logit_scale=float(words["logit_scale"]),
            template=words["template"],
            head=_read_head(arrays, words),
        )
        damage = _find_damage(prompt)
    except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
        raise UserError(f"{path}: no readable prompt here; is this the folder that `tune` wrote?") from error
    if damage:
        raise UserError(f"{path}: damaged ({damage}); tune again")
    return prompt


def _read_head(arrays: Mapping[str, mx.array], words: Mapping[str, str]) -> Head | None:
    """Return the head in a prompt's file, or None where it has none."""
    if "head" not in words:
        return None
    of_guard: dict[str, Any] = {field: arrays[name] for name, field in GUARD_ARRAYS.items()}
    of_guard |= {field: float(words[name]) for name, field in GUARD_NUMBERS.items()}
    of_head: dict[str, Any] = {field: arrays[name] for name, field in HEAD_ARRAYS.items()}
    of_head |= {name: float(words[name]) for name in HEAD_NUMBERS}
    return Head(kind=words["head"], guard=Guard(**of_guard), **of_head)


def _find_damage(prompt: Prompt) -> str | None:
    """Return what is wrong with a prompt's arrays and numbers; None if nothing is."""
    names, folders = prompt.class_names, prompt.folders
    if len(names) != len(folders) or not all(isinstance(one, str) for one in names + folders):
        return "its class names are not one for each class folder"
    shape = (len(names), prompt.class_features.shape[-1] if prompt.class_features.ndim else 0)
    expected: dict[str, tuple[int, ...]] = {"class_features": shape, "zero_shot_features": shape}
    found = {name: getattr(prompt, name) for name in ARRAYS}
    numbers = {"logit_scale": prompt.logit_scale}
    if isinstance(prompt.head, Head):
        head, guard = prompt.head, prompt.head.guard
        expected |= {"head_weight": shape, "head_bias": shape[:1], "guard_means": shape}
        expected |= {"guard_whitening": (shape[1], shape[1])}
        expected |= {name: (getattr(head, HEAD_ARRAYS[name]).size,) for name in ("head_distances", "head_scores")}
        found |= {name: getattr(head, field) for name, field in HEAD_ARRAYS.items()}
        found |= {name: getattr(guard, field) for name, field in GUARD_ARRAYS.items()}
        numbers |= {name: getattr(head, name) for name in HEAD_NUMBERS}
        numbers |= {name: getattr(guard, field) for name, field in GUARD_NUMBERS.items()}
    for name, array in found.items():
        if array.shape != expected.get(name, array.shape):
            return f"{name} has shape {array.shape}, not {expected[name]}"
        if not mx.all(mx.isfinite(array)).item():
            return f"{name} has numbers that are not finite"
    odd = [name for name, number in numbers.items() if not math.isfinite(number)]
    odd += [name for name in ("logit_scale", "guard_spread") if name in numbers and numbers[name] <= 0]
    return f"{odd[0]} is {numbers[odd[0]]:g}" if odd else None
