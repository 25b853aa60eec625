"""Where a checkpoint's files are: a folder, a weights file in its folder, or a name on the hub.

A folder in Hugging Face's layout may hold its weights in four ways; safetensors come before pickles and
whole files before shards. Nothing is opened here but the small JSON files, so that a wrong path or a
missing shard is told before anything large is read.

>>> choose_weights({"config.json", "pytorch_model.bin", "model.safetensors"})
'model.safetensors'
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sharpzo_mlx.errors import UserError

from . import hub

WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
SMALL_FILES = ("config.json", "preprocessor_config.json", "tokenizer_config.json", "README.md")
OPEN_CLIP = ("open_clip_config.json", "open_clip_pytorch_model.bin", "open_clip_model.safetensors")
MAXIMUM_JSON = 64 * 2**20  # bytes; the index of a large model is about one MiB
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


@dataclass(frozen=True)
class Source:
    """A checkpoint's files, found but not read.

    Attributes:
        name: what the user gave; for a folder, its last part.
        folder: where config.json and the tokenizer are.
        weights: the weights file, or its shards in order.
        config: config.json, with preprocessor_config.json under "preprocessor" where there is one.
        licence: as the folder's README.md names it.
        on_hub: whether `name` is one of the hub's.
    """

    name: str
    folder: Path
    weights: tuple[Path, ...]
    config: dict[str, Any]
    licence: str | None
    on_hub: bool


def find(source: str | Path, *, progress: bool = False) -> Source:
    """Find a checkpoint's files, downloading them where `source` is a name on the hub.

    Args:
        source: folder, weights file, or `owner/name`. What exists on the disk is not looked for on the hub.
        progress: whether downloads may draw bars.

    Raises:
        UserError: nothing there, no CLIP folder, files missing, no network.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        return _describe(path, path.resolve().name, on_hub=False)
    if path.is_file():
        return _describe(path.parent, path.name, on_hub=False, weights=path)
    name = str(source)
    if not _HUB_NAME.fullmatch(name):
        raise UserError(
            f"{source}: no such file or folder, and no name on the hub such as openai/clip-vit-base-patch16"
        )
    return _describe(hub.fetch(name, _files_to_download, progress=progress), name, on_hub=True)


def choose_weights(names: Collection[str]) -> str | None:
    """The weights file, or the index of its shards, that is used where a folder has several."""
    return next((name for name in WEIGHTS if name in names), None)


def shard_names(index: Path) -> tuple[str, ...]:
    """The files that an index of shards lists, each once, in order of their names.

    Raises:
        UserError: no such index, or it names files outside of its folder.
    """
    listed = read_json(index).get("weight_map")
    if not isinstance(listed, dict) or not listed or not all(isinstance(name, str) for name in listed.values()):
        raise UserError(f"{index}: lists no weights; download the file again")
    names = tuple(sorted(set(listed.values())))
    for name in names:
        if Path(name).name != name or "\\" in name or not name.endswith((".safetensors", ".bin")):
            raise UserError(f"{index}: names the file {name[:80]!r}, which is no weights file beside it")
    return names


def read_json(path: Path) -> dict[str, Any]:
    """A small JSON file that holds one object.

    Raises:
        UserError: missing, unreadable, or something else.
    """
    try:
        if path.stat().st_size > MAXIMUM_JSON:
            raise UserError(f"{path}: larger than any such file; download it again")
        found = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); give a folder that has this file") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: no JSON; download the file again") from error
    if not isinstance(found, dict):
        raise UserError(f"{path}: not a JSON object; download the file again")
    return found


def _files_to_download(names: Collection[str], read: hub.Reader) -> list[str]:
    """The files of a hub model that a conversion reads; `read` downloads the index of shards."""
    chosen = choose_weights(names)
    if chosen is None:
        raise UserError(_no_weights(names))
    weights = shard_names(read(chosen)) if chosen.endswith(".index.json") else (chosen,)
    tokenizer = ("tokenizer.json",) if "tokenizer.json" in names else ("vocab.json", "merges.txt")
    return [name for name in (*SMALL_FILES, *tokenizer) if name in names] + [*weights]


def _no_weights(names: Collection[str]) -> str:
    if set(OPEN_CLIP) & set(names):
        return "only open_clip's own files; use the same model in Hugging Face's form"
    return f"no weights: one of {', '.join(WEIGHTS)} is needed"


def _describe(folder: Path, name: str, *, on_hub: bool, weights: Path | None = None) -> Source:
    here = {path.name for path in folder.iterdir()}
    if "config.json" not in here:
        remedy = f"; {_no_weights(here)}" if set(OPEN_CLIP) & here else "; give the folder of a CLIP checkpoint"
        raise UserError(f"{folder}: no config.json{remedy}")
    config = read_json(folder / "config.json")
    if "preprocessor_config.json" in here:
        config["preprocessor"] = read_json(folder / "preprocessor_config.json")
    return Source(
        name=name,
        folder=folder,
        weights=(weights,) if weights else _local_weights(folder, here),
        config=config,
        licence=_licence(folder / "README.md"),
        on_hub=on_hub,
    )


def _local_weights(folder: Path, here: Collection[str]) -> tuple[Path, ...]:
    chosen = choose_weights(here)
    if chosen is None:
        raise UserError(f"{folder}: {_no_weights(here)}")
    names = shard_names(folder / chosen) if chosen.endswith(".index.json") else (chosen,)
    if absent := [name for name in names if not (folder / name).is_file()]:
        raise UserError(f"{folder}: {chosen} lists {absent[0]}, which is not there; download the missing files")
    return tuple(folder / name for name in names)


def _licence(card: Path) -> str | None:
    """The `license:` line of the card's front matter."""
    try:
        text = card.read_text("utf-8")[:10_000]
    except (OSError, UnicodeError):
        return None
    front = re.match(r"---\r?\n(.*?)\r?\n---", text, re.DOTALL)
    found = re.search(r"^license:\s*[\"']?([\w.+-]+)", front.group(1), re.MULTILINE) if front else None
    return found.group(1) if found else None
