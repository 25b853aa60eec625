"""Choose the files that a conversion reads, by the names in a folder or in a repository on the hub.

Within a kind of checkpoint safetensors come before pickles, and whole files before shards. Only small JSON files are
opened here.

>>> choose_weights({"config.json", "pytorch_model.bin", "model.safetensors"})
'model.safetensors'
"""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

from sharpzo_mlx.errors import UserError, one_line, shown
from sharpzo_mlx.hub import download as hub
from sharpzo_mlx.reading import is_encodable

from . import kinds, training
from .file_kinds import name_formats
from .huggingface import TIMM_REMEDY
from .small_files import PREPROCESSOR, PROCESSOR, TOKENIZERS, read_json

WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "weights.npz",
)
CONFIG, OPEN_CLIP_CONFIG = "config.json", "open_clip_config.json"
OPEN_CLIP = ("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors", "open_clip_pytorch_model.bin")
SMALL_FILES = (CONFIG, PROCESSOR, PREPROCESSOR, "tokenizer_config.json", "special_tokens_map.json", "README.md")
SHARD = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.(safetensors|bin)")
LONGEST = 255  # characters of a file's name
MOST_LISTED = 5  # weights files that an error names


def choose_weights(names: Collection[str]) -> str | None:
    """Return the weights file, or the index of shards, to use among the names of a folder; None where it has none."""
    return next((name for name in WEIGHTS if name in names), None)


def shard_names(index: Path) -> tuple[str, ...]:
    """Return the files that an index of shards lists, each once, in order of their names.

    Raises:
        UserError: the index is missing, lists no weights, or names files outside of its folder.
    """
    listed = read_json(index).get("weight_map")
    if not isinstance(listed, dict) or not listed or not all(isinstance(name, str) for name in listed.values()):
        raise UserError(f"{index}: lists no weights; download the file again")
    names = tuple(sorted(set(listed.values())))
    for name in names:
        if not is_encodable(name) or len(name) > LONGEST or "\0" in name:
            raise UserError(f"{index}: names the file {shown(name)}, which no folder can have; download the file again")
        if Path(name).name != name or "\\" in name or not name.endswith((".safetensors", ".bin")):
            raise UserError(f"{index}: names the file {name[:80]!r}, which is no weights file beside it")
    return names


def find_shards(names: Collection[str]) -> tuple[str, ...]:
    """Return the shards of a checkpoint whose index is not among the names, in order; none where they are not shards.

    Raises:
        UserError: some of them are missing; the message has no folder.
    """
    found = {name: match for name in sorted(names) if (match := SHARD.fullmatch(name))}
    groups = {(match[1], match[3], match[4]) for match in found.values()}
    if len(groups) != 1:
        return ()
    ((stem, total, ending),) = groups
    wanted = [f"{stem}-{number:05d}-of-{total}.{ending}" for number in range(1, int(total) + 1)]
    if absent := [name for name in wanted if name not in found]:
        raise UserError(
            f"{one_line(absent[0])} of {int(total)} shards is not there, nor their index; download the missing files"
        )
    return tuple(wanted)


def is_open_clip(names: Collection[str], config: dict[str, Any] | None) -> bool:
    """Tell whether a folder is to be read as open_clip's.

    Args:
        names: the names of its files.
        config: its config.json; None where it has none.

    Raises:
        UserError: the folder holds timm's image tower alone.
    """
    if OPEN_CLIP_CONFIG in names and set(OPEN_CLIP) & set(names):
        return config is None or not is_clip(config) or choose_weights(names) is None
    if config is not None and "architecture" in config and not is_clip(config):
        raise UserError(f"its files hold timm's image tower alone; {TIMM_REMEDY}")
    return False


def is_clip(config: dict[str, Any]) -> bool:
    """Tell whether a `config.json` describes a CLIP with both towers in transformers' way."""
    return "text_config" in config or "text_config_dict" in config or config.get("model_type") == "clip"


def split_file(name: str) -> tuple[str, str | None]:
    """Split a name on the hub that ends in a weights file: "owner/name/epoch_3.pt" -> ("owner/name", "epoch_3.pt")."""
    parts = name.split("/", 2)
    if len(parts) == 3 and parts[2].endswith(training.ENDINGS):
        return "/".join(parts[:2]), parts[2]
    return name, None


def files_to_download(names: Collection[str], read: hub.Reader, weights: str | None = None) -> list[str]:
    """Return the names of a hub model's files that a conversion reads.

    Args:
        names: the names of all its files.
        read: downloads a small one.
        weights: the weights file that the user named, or None.

    Raises:
        UserError: there are no weights, or several files of them of which the user has to name one.
    """
    if weights is None and (inner := kinds.find_inner(names)):
        start = f"{inner}/"
        inside = [name.removeprefix(start) for name in names if name.startswith(start)]
        wanted = files_to_download(inside, lambda name: read(f"{start}{name}"))
        return [*(name for name in (kinds.MODULES, "README.md") if name in names), *(f"{start}{n}" for n in wanted)]
    config = read_json(read(CONFIG)) if CONFIG in names and OPEN_CLIP_CONFIG in names else None
    tokenizer = next((files for files in TOKENIZERS if set(files) <= set(names)), ())
    small = [name for name in (*SMALL_FILES, *tokenizer) if name in names]
    if weights is None and is_open_clip(names, config):
        return [*small, OPEN_CLIP_CONFIG, next(name for name in OPEN_CLIP if name in names)]
    chosen = weights or choose_weights(names)
    if chosen is None and CONFIG in names and (shards := find_shards(names)):
        return [*small, *shards]
    if chosen is None and kinds.ADAPTER in names:
        raise UserError(kinds.describe_adapter(read(kinds.ADAPTER)))
    if weights or chosen is None:
        described = [name for name in (OPEN_CLIP_CONFIG, training.PARAMS) if name in names]
        return [*small, *described, _find_own(names, weights)]
    files = shard_names(read(chosen)) if chosen.endswith(".index.json") else (chosen,)
    return [*small, *files]


def _find_own(names: Collection[str], wanted: str | None) -> str:
    """Return the weights file of a repository whose name is none of the usual ones."""
    if wanted and wanted in names:
        return wanted
    found = training.list_files([name for name in names if "/" not in name])
    if len(found) == 1 and not wanted:
        return found[0]
    listed = ", ".join(one_line(name) for name in found[-MOST_LISTED:])
    if wanted:
        raise UserError(
            f"has no weights file {one_line(wanted)}; " + (f"it has {listed}" if found else "check the name")
        )
    if not found:
        raise UserError(describe_missing(names))
    raise UserError(f"{len(found)} weights files ({listed}): put one of them behind the name, as in NAME/{found[-1]}")


def describe_missing(names: Collection[str]) -> str:
    """Return in words that there are no weights among the names of files."""
    if set(OPEN_CLIP) & set(names):
        return f"open_clip's weights, but no {OPEN_CLIP_CONFIG} beside them; put it there, or name it by --arch"
    return f"no weights{name_formats(names)}: one of {', '.join((*WEIGHTS, *OPEN_CLIP))} is needed"
