"""Write a tuned prompt to one safetensors file and read it back.

The file is a classifier that works without this library: the arrays are tensors, the words and numbers are JSON in the
metadata. docs/reference/files.md has the formula.

    write_prompt(folder / "prompt.safetensors", prompt)
    prompt = read_prompt(folder / "prompt.safetensors")
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx

from sharpzo_mlx.clip.safetensors_file import Header, read_header
from sharpzo_mlx.errors import UserError
from sharpzo_mlx.files import atomic_path
from sharpzo_mlx.heads.guard import Guard
from sharpzo_mlx.heads.head import Head
from sharpzo_mlx.prompts.prompt import Prompt
from sharpzo_mlx.reading import parse_json
from sharpzo_mlx.runs.json_record import Text, checked

ARRAYS = ("context", "w", "class_features", "zero_shot_features")
HEAD_ARRAYS = {"head_weight": "weight", "head_bias": "bias", "head_distances": "distances", "head_scores": "scores"}
GUARD_ARRAYS = {"guard_whitening": "whitening", "guard_means": "means"}
HEAD_NUMBERS = ("text_share", "image_share", "named_share")
GUARD_NUMBERS = {"guard_centre": "centre", "guard_spread": "spread"}
POSITIVE = ("logit_scale", "guard_spread")
RISING = ("head_distances", "head_scores")
DTYPES = ("F32", "F16", "BF16")
LARGEST = 1e12  # of a number: products of three of them are finite in float32


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
    if prompt.logit_bias is not None:
        words["logit_bias"] = repr(prompt.logit_bias)
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
            array has another shape than the others say, or numbers are not finite. The message names what.
    """
    try:
        header = read_header(path)
    except (UserError, ValueError) as error:
        raise UserError(f"{path}: no readable prompt here; is this the folder that `tune` wrote?") from error
    if "head" in header.metadata and "guard_whitening" not in header.shapes:
        raise UserError(f"{path}: its head was written by another version of sharpzo-mlx; tune again")
    try:
        words = _Words.read(header.metadata)
        _check_shapes(header, words)
        loaded: Any = mx.load(str(path), format="safetensors")
        arrays: dict[str, mx.array] = {name: loaded[name] for name in _array_names(words)}
        mx.eval(arrays)
        _check_arrays(arrays)
    except (OSError, RuntimeError) as error:
        raise UserError(f"{path}: no readable prompt here; is this the folder that `tune` wrote?") from error
    except ValueError as error:
        raise UserError(f"{path}: damaged ({error}); tune again") from error
    return Prompt(
        **{name: arrays[name] for name in ARRAYS},
        class_names=words.class_names,
        folders=words.folders,
        logit_scale=words.numbers["logit_scale"],
        template=words.template,
        head=_make_head(arrays, words),
        logit_bias=words.numbers.get("logit_bias"),
    )


@dataclass(frozen=True)
class _Words:
    """The words and numbers of a prompt's file, as read from its metadata."""

    class_names: tuple[str, ...]
    folders: tuple[str, ...]
    template: str
    head: str | None
    numbers: dict[str, float]

    @classmethod
    def read(cls, metadata: Mapping[str, str]) -> _Words:
        """Return them; ValueError names what is missing or wrong."""
        head = metadata.get("head")
        names = ("logit_scale", *(() if head is None else (*HEAD_NUMBERS, *GUARD_NUMBERS)))
        if missing := [name for name in ("class_names", "folders", "template", *names) if name not in metadata]:
            raise ValueError(f"{missing[0]} is missing")
        lists = [_read_list(name, metadata[name]) for name in ("class_names", "folders")]
        if len(lists[0]) != len(lists[1]) or not lists[0]:
            raise ValueError("its class names are not one for each class folder")
        optional = [name for name in ("logit_bias",) if name in metadata]
        numbers = {name: _read_number(name, metadata[name]) for name in (*names, *optional)}
        template = checked(Text, metadata["template"], "template")
        return cls(lists[0], lists[1], template, head, numbers)


def _read_list(name: str, text: str) -> tuple[str, ...]:
    try:
        return checked(tuple[Text, ...], parse_json(text), name)
    except ValueError as error:
        raise ValueError(f"its class names: {error}") from None


def _read_number(name: str, text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        raise ValueError(f"{name} is not a number") from None
    if not abs(number) <= LARGEST or (number <= 0 and name in POSITIVE):
        raise ValueError(f"{name} is {number:g}")
    return number


def _array_names(words: _Words) -> tuple[str, ...]:
    return ARRAYS if words.head is None else (*ARRAYS, *HEAD_ARRAYS, *GUARD_ARRAYS)


def _check_shapes(header: Header, words: _Words) -> None:
    """Check each array's shape against the class names and the width of the class features; ValueError names one."""
    for name in _array_names(words):
        if name not in header.shapes:
            raise ValueError(f"{name} is missing")
        if header.dtypes[name] not in DTYPES:
            raise ValueError(f"{name} is of type {header.dtypes[name]}")
    found = header.shapes
    width = found["class_features"][-1] if found["class_features"] else 0
    classes, lengths = len(words.class_names), {"context": 2, "w": 1, "head_distances": 1, "head_scores": 1}
    expected: dict[str, tuple[int, ...]] = dict.fromkeys(("class_features", "zero_shot_features"), (classes, width))
    expected |= dict.fromkeys(("head_weight", "guard_means"), (classes, width))
    expected |= {"head_bias": (classes,), "guard_whitening": (width, width)}
    for name in _array_names(words):
        if name in lengths and len(found[name]) != lengths[name]:
            raise ValueError(f"{name} has shape {found[name]}, not {lengths[name]} dimensions")
        if name in expected and found[name] != expected[name]:
            raise ValueError(f"{name} has shape {found[name]}, not {expected[name]}")


def _check_arrays(arrays: Mapping[str, mx.array]) -> None:
    """Raise ValueError with the name of an array whose numbers are not finite, or not in order."""
    for name, array in arrays.items():
        if not mx.all(mx.isfinite(array)).item():
            raise ValueError(f"{name} has numbers that are not finite")
        if mx.any(mx.abs(array) > LARGEST).item():
            raise ValueError(f"{name} has numbers beyond {LARGEST:g}")
        if name in RISING and mx.any(array[1:] < array[:-1]).item():
            raise ValueError(f"{name} has numbers that do not rise")


def _make_head(arrays: Mapping[str, mx.array], words: _Words) -> Head | None:
    """Return the head in a prompt's file, or None where it has none."""
    if words.head is None:
        return None
    of_guard: dict[str, Any] = {field: arrays[name] for name, field in GUARD_ARRAYS.items()}
    of_guard |= {field: words.numbers[name] for name, field in GUARD_NUMBERS.items()}
    of_head: dict[str, Any] = {field: arrays[name] for name, field in HEAD_ARRAYS.items()}
    of_head |= {name: words.numbers[name] for name in HEAD_NUMBERS}
    return Head(kind=words.head, guard=Guard(**of_guard), **of_head)
