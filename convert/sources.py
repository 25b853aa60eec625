"""Find a checkpoint's files: in a folder, beside a weights file, or by a name on the hub.

The files decide the kind of the checkpoint: open_clip's configuration beside open_clip's weights (where `config.json`
is not CLIP's own), Hugging Face's `config.json`, or neither for OpenAI's archives, which describe themselves. Within a
kind safetensors come before pickles and whole files before shards. Only the small JSON files are opened here, so that
a wrong path or a missing shard is an error before anything large is read.

>>> choose_weights({"config.json", "pytorch_model.bin", "model.safetensors"})
'model.safetensors'
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sharpzo_mlx import reading
from sharpzo_mlx.errors import UserError
from sharpzo_mlx.files import open_regular

from . import hub, mobileclip, open_clip_config, torch_file
from .catalog import resolve
from .huggingface import TIMM_REMEDY

WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "weights.npz",
)
CONFIG, OPEN_CLIP_CONFIG = "config.json", "open_clip_config.json"
OPEN_CLIP = ("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors", "open_clip_pytorch_model.bin")
SMALL_FILES = (CONFIG, "preprocessor_config.json", "tokenizer_config.json", "special_tokens_map.json", "README.md")
TOKENIZERS = (("tokenizer.json",), ("vocab.json", "merges.txt"))
CLIP_WORDS = 49408
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


@dataclass(frozen=True)
class Source:
    """A checkpoint's files, found but not read.

    Attributes:
        name: the name that the user gave; for a folder, its last part.
        folder: the folder of config.json and the tokenizer.
        weights: the weights file, or its shards in order.
        config: the configuration in Hugging Face's spelling, the preprocessing under "preprocessor" where it is known;
            None where the weights' shapes give it (OpenAI's archives).
        own_tokenizer: whether to use the folder's tokenizer; else CLIP's own.
        licence: the licence that the folder's README.md names, or None.
        on_hub: whether `name` is a name on the hub.
    """

    name: str
    folder: Path
    weights: tuple[Path, ...]
    config: dict[str, Any] | None
    own_tokenizer: bool
    licence: str | None
    on_hub: bool


def find(source: str | Path, *, progress: bool = False) -> Source:
    """Find a checkpoint's files, downloading them where `source` is a name on the hub.

    Args:
        source: a folder, a weights file, `owner/name`, or a short name such as RN50. The hub is asked only for names
            that do not exist on the disk.
        progress: let downloads draw progress bars.

    Raises:
        UserError: the source does not exist, is no CLIP folder or lacks files, or there is no network.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        return _describe(path, path.resolve().name, on_hub=False)
    if path.is_file():
        if path.suffix == ".json":
            raise UserError(f"{source}: describes weights, but holds none; give its folder, {path.parent}")
        return _describe(path.parent, path.name, on_hub=False, weights=path)
    name = resolve(str(source))
    if not _HUB_NAME.fullmatch(name):
        raise UserError(
            f"{source}: no such file or folder, and no name on the hub such as openai/clip-vit-base-patch16 "
            "(`sharpzo-mlx convert --list` names more)"
        )
    return _describe(hub.fetch(name, files_to_download, progress=progress), name, on_hub=True)


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
        if Path(name).name != name or "\\" in name or not name.endswith((".safetensors", ".bin")):
            raise UserError(f"{index}: names the file {name[:80]!r}, which is no weights file beside it")
    return names


def read_json(path: Path) -> dict[str, Any]:
    """Read a small JSON file that holds one object.

    Raises:
        UserError: the file is missing, unreadable, too large, or holds something else.
    """
    try:
        found = reading.read_json(path)
    except OSError as error:
        why = reading.reason(error)
        raise UserError(f"{path}: cannot be read ({why}); give a folder that has this file") from error
    except ValueError as error:
        raise UserError(f"{path}: {reading.reason(error)}; download the file again") from error
    if not isinstance(found, dict):
        raise UserError(f"{path}: not a JSON object; download the file again")
    return found


def is_open_clip(names: Collection[str], config: dict[str, Any] | None) -> bool:
    """Tell whether a folder is to be read as open_clip's.

    Args:
        names: the names of its files.
        config: its config.json; None where it has none.

    Raises:
        UserError: the folder holds timm's image tower alone.
    """
    if OPEN_CLIP_CONFIG in names and set(OPEN_CLIP) & set(names):
        return config is None or not _is_clip(config) or choose_weights(names) is None
    if config is not None and "architecture" in config and not _is_clip(config):
        raise UserError(f"its files hold timm's image tower alone; {TIMM_REMEDY}")
    return False


def _is_clip(config: dict[str, Any]) -> bool:
    return "text_config" in config or "text_config_dict" in config or config.get("model_type") == "clip"


def files_to_download(names: Collection[str], read: hub.Reader) -> list[str]:
    """Return the names of a hub model's files that a conversion reads; `read` downloads small files."""
    config = read_json(read(CONFIG)) if CONFIG in names and OPEN_CLIP_CONFIG in names else None
    tokenizer = next((files for files in TOKENIZERS if set(files) <= set(names)), ())
    small = [name for name in (*SMALL_FILES, *tokenizer) if name in names]
    if is_open_clip(names, config):
        return [*small, OPEN_CLIP_CONFIG, next(name for name in OPEN_CLIP if name in names)]
    chosen = choose_weights(names)
    if chosen is None:
        raise UserError(_no_weights(names))
    weights = shard_names(read(chosen)) if chosen.endswith(".index.json") else (chosen,)
    return [*small, *weights]


def _no_weights(names: Collection[str]) -> str:
    if archives := sorted(name for name in names if name.endswith(".pt")):
        return f"name the archive itself, such as {archives[0]}"
    if set(OPEN_CLIP) & set(names):
        return f"open_clip's weights, but no {OPEN_CLIP_CONFIG} beside them"
    return f"no weights: one of {', '.join((*WEIGHTS, *OPEN_CLIP))} is needed"


def _describe(folder: Path, name: str, *, on_hub: bool, weights: Path | None = None) -> Source:
    """Describe a folder by its small files; `weights` is the file that the user named, or None for a folder."""
    here = {path.name for path in folder.iterdir()}
    config = read_json(folder / CONFIG) if CONFIG in here else None
    if weights and _is_archive(weights, here):
        return Source(name, folder, (weights,), None, own_tokenizer=False, licence=None, on_hub=False)
    if weights and weights.name == WEIGHTS[0] and config and "architecture" in config and not _is_clip(config):
        raise UserError(f"{weights}: it is timm's image tower alone; {TIMM_REMEDY}")
    try:
        foreign = OPEN_CLIP_CONFIG in here if weights and weights.name in OPEN_CLIP else is_open_clip(here, config)
    except UserError as error:
        raise UserError(f"{folder}: {error}") from None
    if foreign:
        config = _open_clip_config(folder, name)
        chosen: tuple[Path, ...] = (weights or folder / next(name for name in OPEN_CLIP if name in here),)
    elif config is None:
        raise UserError(f"{folder}: no config.json; {_remedy(here)}")
    else:
        chosen = (weights,) if weights else _local_weights(folder, here)
        if "preprocessor_config.json" in here:
            config["preprocessor"] = read_json(folder / "preprocessor_config.json")
    return Source(
        name=name,
        folder=folder,
        weights=chosen,
        config=config,
        own_tokenizer=not foreign or _needs_own_tokenizer(folder),
        licence=_licence(folder / "README.md"),
        on_hub=on_hub,
    )


def _remedy(here: Collection[str]) -> str:
    reason = _no_weights(here)
    return "give the folder of a CLIP checkpoint" if reason.startswith("no weights") else reason


def _is_archive(weights: Path, here: Collection[str]) -> bool:
    """Tell whether a file is one of OpenAI's archives, which need no configuration beside them."""
    if weights.suffix == ".safetensors" or weights.name in WEIGHTS:
        return False
    if torch_file.is_torchscript(weights) or mobileclip.may_be_one(weights):
        return OPEN_CLIP_CONFIG not in here or torch_file.is_torchscript(weights)
    if not {CONFIG, OPEN_CLIP_CONFIG} & set(here):
        raise UserError(
            f"{weights}: it is no TorchScript archive of OpenAI's, and no config.json or {OPEN_CLIP_CONFIG} beside "
            "it says which network these weights belong to; put it there"
        )
    return False


def _open_clip_config(folder: Path, name: str) -> dict[str, Any]:
    try:
        return open_clip_config.translate_config(read_json(folder / OPEN_CLIP_CONFIG), name=name)
    except UserError as error:
        message = str(error)
        raise UserError(message if str(folder) in message else f"{folder}: {message}") from None


def _needs_own_tokenizer(folder: Path) -> bool:
    """Tell whether open_clip's file names another vocabulary than CLIP's, or one of another size."""
    text = read_json(folder / OPEN_CLIP_CONFIG)["model_cfg"]["text_cfg"]
    return bool(text.get("hf_tokenizer_name")) or text.get("vocab_size", CLIP_WORDS) != CLIP_WORDS


def _local_weights(folder: Path, here: Collection[str]) -> tuple[Path, ...]:
    chosen = choose_weights(here)
    if chosen is None:
        raise UserError(f"{folder}: {_no_weights(here)}")
    names = shard_names(folder / chosen) if chosen.endswith(".index.json") else (chosen,)
    if absent := [name for name in names if not (folder / name).is_file()]:
        raise UserError(f"{folder}: {chosen} lists {absent[0]}, which is not there; download the missing files")
    return tuple(folder / name for name in names)


def _licence(card: Path) -> str | None:
    """Return the value of `license:` in the card's front matter, or None."""
    try:
        with open_regular(card) as file:
            text = file.read(10_000).decode("utf-8", "replace")
    except OSError:
        return None
    front = re.match(r"---\r?\n(.*?)\r?\n---", text, re.DOTALL)
    found = re.search(r"^license:\s*[\"']?([\w.+-]+)", front.group(1), re.MULTILINE) if front else None
    return found.group(1) if found else None
