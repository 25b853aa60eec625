"""Find a checkpoint's files: in a folder, beside a weights file, or by a name on the hub.

The files decide the kind of the checkpoint: open_clip's configuration beside open_clip's weights (where `config.json`
is not CLIP's own), Hugging Face's `config.json`, or neither for OpenAI's archives and Meta's files, which describe
themselves. Only the small JSON files are opened here, so that a wrong path or a missing shard is an error before
anything large is read.

>>> find("openai/clip-vit-base-patch16").on_hub  # doctest: +SKIP
True
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from sharpzo_mlx.clip import catalog
from sharpzo_mlx.clip.model_card import read_licence
from sharpzo_mlx.clip.safetensors_file import read_header
from sharpzo_mlx.errors import UserError, notify
from sharpzo_mlx.files import expand
from sharpzo_mlx.hub import download as hub

from . import (
    architectures,
    file_kinds,
    kinds,
    mobileclip,
    open_clip_config,
    perception,
    torch_file,
    training,
    wrapped_names,
)
from .architectures import Told
from .huggingface import TIMM_REMEDY
from .layout import (
    CONFIG,
    OPEN_CLIP,
    OPEN_CLIP_CONFIG,
    SHARD,
    WEIGHTS,
    choose_weights,
    describe_missing,
    files_to_download,
    find_shards,
    is_clip,
    is_open_clip,
    shard_names,
    split_file,
)
from .small_files import has_own_tokenizer, read_json, read_preprocessor

NOTHING_TOLD = Told()


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
        open_clip: whether the network is described as open_clip does.
        named: the option that has named the network, such as "--arch ViT-B-32"; "" where a file describes it.
    """

    name: str
    folder: Path
    weights: tuple[Path, ...]
    config: dict[str, Any] | None
    own_tokenizer: bool
    licence: str | None
    on_hub: bool
    open_clip: bool = False
    named: str = ""


def find(source: str | Path, *, told: Told = NOTHING_TOLD, progress: bool = False) -> Source:
    """Find a checkpoint's files, downloading them where `source` is a name on the hub.

    Args:
        source: a folder, a weights file, `owner/name`, `owner/name/epoch_3.pt`, or a short name such as RN50. The hub
            is asked only for names that do not exist on the disk.
        told: what the user says of a training checkpoint.
        progress: let downloads draw progress bars.

    Raises:
        UserError: the source does not exist, is no CLIP folder or lacks files, or there is no network.
    """
    path = expand(source)
    if path.is_dir():
        return _describe(path, path.resolve().name, on_hub=False, told=told)
    if path.is_file():
        if path.suffix == ".json":
            raise UserError(f"{source}: describes weights, but holds none; give its folder, {path.parent}")
        return _describe(path.parent, path.name, on_hub=False, weights=path, told=told)
    name, file = split_file(str(source))
    name = catalog.resolve(name)
    if refused := catalog.describe_refused(name):
        raise UserError(f"{source}: {refused}")
    if not catalog.HUB_NAME.fullmatch(name):
        raise UserError(f"{source}: no such file or folder, and {catalog.suggest(str(source))}")
    folder = hub.fetch(name, partial(files_to_download, weights=file), progress=progress)
    weights = None if file is None else folder / file
    return _describe(folder if weights is None else weights.parent, name, on_hub=True, weights=weights, told=told)


def _describe(folder: Path, name: str, *, on_hub: bool, weights: Path | None = None, told: Told) -> Source:
    """Describe a folder by its small files; `weights` is the file that the user named, or None for a folder."""
    here = {path.name for path in folder.iterdir()}
    if weights is None and (inner := kinds.find_inner(here)):
        found = _describe(folder / inner, name, on_hub=on_hub, told=told)
        return replace(found, licence=found.licence or read_licence(folder / "README.md"))
    config = read_json(folder / CONFIG) if CONFIG in here else None
    shards = _find_shards(folder, here, config, weights)
    if weights is None and choose_weights(here) is None and not set(OPEN_CLIP) & set(here) and not shards:
        kinds.refuse_folder(folder, here)
        weights = training.find_file(folder, here)
    if weights:
        file_kinds.refuse_other_files(weights)
    if weights and _is_archive(weights, here, told):
        licence = read_licence(folder / "README.md")
        return Source(name, folder, (weights,), None, own_tokenizer=False, licence=licence, on_hub=on_hub)
    if weights and weights.name == WEIGHTS[0] and config and "architecture" in config and not is_clip(config):
        raise UserError(f"{weights}: it is timm's image tower alone; {TIMM_REMEDY}")
    description = _description(folder, here, config, weights, told)
    if description is not None:
        config = _translate(description, folder, name)
        chosen: tuple[Path, ...] = (weights or _open_clip_weights(folder, here),)
        file_kinds.refuse_other_files(chosen[0])
    elif config is None:
        raise UserError(_describe_lone(weights) if weights else f"{folder}: no config.json; {_remedy(here)}")
    else:
        chosen = (weights,) if weights else shards or _local_weights(folder, here)
        for path in chosen:
            file_kinds.refuse_other_files(path)
        _check_kind(folder, config, here)
        if (processor := read_preprocessor(folder, here)) is not None:
            config["preprocessor"] = processor
    return Source(
        name=name,
        folder=folder,
        weights=chosen,
        config=config,
        own_tokenizer=has_own_tokenizer(here, description),
        licence=read_licence(folder / "README.md"),
        on_hub=on_hub,
        open_clip=description is not None,
        named=f"--arch {told.architecture}" if told.architecture else "",
    )


def _description(
    folder: Path, here: Collection[str], config: dict[str, Any] | None, weights: Path | None, told: Told
) -> dict[str, Any] | None:
    """Return open_clip's description of the network, from the user, its own file or its run; None for another kind."""
    params = training.find_params(folder)
    if told.architecture and params is None:
        described = architectures.describe(told.architecture, told.activation)
        if "preprocess_cfg" in described and not told.architecture.endswith(".json"):
            notify(
                f"{weights or folder}: no {training.PARAMS} says what was done to images; they are prepared as for the "
                f"published weights of {told.architecture}"
            )
        return described
    if told.architecture or (config is None and OPEN_CLIP_CONFIG not in here and params):
        assert params is not None
        return training.describe_run(params, told)
    try:
        foreign = OPEN_CLIP_CONFIG in here if weights and weights.name in OPEN_CLIP else is_open_clip(here, config)
    except UserError as error:
        raise UserError(f"{folder}: {error}") from None
    if told.activation:
        raise UserError(f"{folder}: --activation is for weights whose network --arch or params.txt names; leave it out")
    foreign |= OPEN_CLIP_CONFIG in here and (config is None or (weights is not None and not is_clip(config)))
    return read_json(folder / OPEN_CLIP_CONFIG) if foreign else None


def _check_kind(folder: Path, config: Mapping[str, Any], here: Collection[str]) -> None:
    """Refuse relatives of CLIP by their names, and say that an adapter beside whole weights is not applied."""
    if words := kinds.describe_config(config):
        raise UserError(f"{folder}: {words}")
    if kinds.ADAPTER in here:
        notify(f"{folder}: its adapter is left out ({kinds.ADAPTER}); to have it, {wrapped_names.MERGE}")


def _open_clip_weights(folder: Path, here: Collection[str]) -> Path:
    found = next((name for name in (*OPEN_CLIP, *WEIGHTS) if name in here and not name.endswith(".json")), None)
    if found is None:
        raise UserError(f"{folder}: {describe_missing(here)}")
    return folder / found


def _remedy(here: Collection[str]) -> str:
    reason = describe_missing(here)
    return "give the folder of a CLIP checkpoint" if reason.startswith("no weights") else reason


def _is_archive(weights: Path, here: Collection[str], told: Told) -> bool:
    """Tell whether a file is one of OpenAI's archives, which need no configuration beside them."""
    if weights.suffix == ".safetensors" or weights.name in WEIGHTS:
        return False
    if torch_file.is_torchscript(weights):
        if told != NOTHING_TOLD:
            raise UserError(f"{weights}: an archive of OpenAI's describes itself; leave out --arch and --activation")
        return True
    params = training.find_params(weights.parent)
    described = {CONFIG, OPEN_CLIP_CONFIG} & set(here) or told.architecture or params
    own = mobileclip.may_be_one(weights) or perception.may_be_one(weights)
    if own and OPEN_CLIP_CONFIG not in here and not told.architecture and not params:
        return True
    if not described:
        raise UserError(_describe_lone(weights))
    return False


def _describe_lone(weights: Path) -> str:
    """Return what to do with a weights file that nothing describes."""
    if weights.name.startswith(kinds.ADAPTER_WEIGHTS):
        return f"{weights}: {kinds.describe_adapter(weights.parent / kinds.ADAPTER)}"
    if weights.suffix == ".safetensors" and any("lora_" in name for name in read_header(weights).shapes):
        return f"{weights}: an adapter (LoRA), no whole model: {wrapped_names.MERGE}"
    archive = "" if weights.suffix == ".safetensors" else "it is no TorchScript archive of OpenAI's, and "
    return (
        f"{weights}: {archive}no config.json or {OPEN_CLIP_CONFIG} beside it says which network these weights belong "
        "to; put it there, or name the network of open_clip's that was trained: --arch ViT-B-32-quickgelu"
    )


def _find_shards(
    folder: Path, here: Collection[str], config: Mapping[str, Any] | None, weights: Path | None
) -> tuple[Path, ...]:
    """Return the shards of a folder that has neither their index nor other weights.

    Raises:
        UserError: some are missing, or the file that the user named is one of several.
    """
    if weights:
        match = SHARD.fullmatch(weights.name)
        if match and int(match[3]) > 1:
            raise UserError(f"{weights}: one of {int(match[3])} shards of a checkpoint; give their folder, {folder}")
        return ()
    if config is None or choose_weights(here) or set(OPEN_CLIP) & set(here):
        return ()
    try:
        return tuple(folder / name for name in find_shards(here))
    except UserError as error:
        raise UserError(f"{folder}: {error}") from None


def _translate(description: Mapping[str, Any], folder: Path, name: str) -> dict[str, Any]:
    try:
        if words := kinds.describe_open_clip(description):
            raise UserError(words)
        return open_clip_config.translate_config(description, name=name)
    except UserError as error:
        message = str(error)
        raise UserError(message if str(folder) in message else f"{folder}: {message}") from None


def _local_weights(folder: Path, here: Collection[str]) -> tuple[Path, ...]:
    chosen = choose_weights(here)
    if chosen is None:
        raise UserError(f"{folder}: {describe_missing(here)}")
    if not chosen.endswith(".index.json"):
        return (folder / chosen,)
    names = shard_names(folder / chosen)
    if absent := [name for name in names if not (folder / name).is_file()]:
        raise UserError(f"{folder}: {chosen} lists {absent[0]}, which is not there; download the missing files")
    return tuple(folder / name for name in names)
