"""Download the few files of a model or a run from the hub, into the hub's own cache.

`huggingface_hub` does the work and is imported at the first download. Without a network, the files of an earlier
download in its cache are used. Every failure is one line with a remedy.

>>> folder = fetch("openai/clip-vit-base-patch16", choose)  # doctest: +SKIP
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from sharpzo_mlx import reading
from sharpzo_mlx.clip import catalog
from sharpzo_mlx.errors import UserError, notify, why

Reader: TypeAlias = Callable[[str], Path]  # downloads a small file: its name -> its path
Choice: TypeAlias = Callable[[Collection[str], Reader], list[str]]

OFFLINE = "HF_HUB_OFFLINE"
CONFIGS = {"config.json", "open_clip_config.json"}  # one of them is beside weights of a usual name
USUAL = ("model", "pytorch_model", "weights", "open_clip_")  # beginnings of such names
# errors of a disk that may not be written to; the hub's library passes them on with the path
DISK = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.EISDIR}


@dataclass(frozen=True)
class Kind:
    """What a repository is expected to hold.

    Attributes:
        word: what it is called in errors.
        marks: file names of which one is in every such repository that has a file of a usual name.
        contents: what is read of it, in words.
        most_bytes: the largest file that is downloaded; None for no limit.
        usual: beginnings of usual names.
    """

    word: str
    marks: Collection[str]
    contents: str
    most_bytes: int | None = None
    usual: tuple[str, ...] = ("",)

    @property
    def elsewhere(self) -> str:
        """The remedy that always works."""
        return f"or download the {self.word}'s folder on another machine and give its path"


MODEL = Kind("model", CONFIGS, "its configuration, tokenizer, preprocessing and weights", usual=USUAL)


def fetch(name: str, choose: Choice, *, kind: Kind = MODEL, progress: bool = False) -> Path:
    """Download the files of a model or a run.

    Args:
        name: `owner/name`.
        choose: returns the names to download, from the names of all files and a reader of small ones.
        kind: what the repository holds.
        progress: let the hub's library draw progress bars.

    Returns:
        The folder with these files; it belongs to the hub's cache and must not be changed.

    Raises:
        UserError: the repository is unknown, gated or private, a file of it is too large, there is no network, or
            `choose` raises it.
    """
    try:
        import huggingface_hub
    except ImportError as error:
        raise UserError(f"{name}: downloads need huggingface_hub: pip install huggingface_hub") from error
    with bars(progress):
        try:
            return _download(huggingface_hub, name, choose, kind)
        except UserError as error:
            raise UserError(f"{name}: {error}") from error
        # the hub's library raises those of its HTTP client, which differs from version to version
        except Exception as error:
            cause = "its cache cannot be written" if _is_of_disk(error) else "no network"
            unseen = _is_of_disk(error) or means_no_network(error)
            if unseen and (cached := _cached(huggingface_hub, name, choose, kind)):
                notify(f"{name}: {cause}; using the files of an earlier download")
                return cached
            raise UserError(f"{name}: {_reason(error, name, huggingface_hub, kind)}") from error


def _download(huggingface_hub: Any, name: str, choose: Choice, kind: Kind) -> Path:
    info = huggingface_hub.HfApi().model_info(name, timeout=20, files_metadata=kind.most_bytes is not None)
    sizes = {file.rfilename: getattr(file, "size", None) or 0 for file in info.siblings or ()}
    names = list(sizes)

    def read(file: str) -> Path:
        return Path(huggingface_hub.hf_hub_download(name, file, revision=info.sha))

    files = choose(names, read)
    for file in files:
        if kind.most_bytes is not None and sizes[file] > kind.most_bytes:
            raise UserError(f"{file} takes {sizes[file] >> 20} MiB, more than any {kind.word}'s; not downloaded")
    return Path(huggingface_hub.snapshot_download(name, revision=info.sha, allow_patterns=files))


def _cached(huggingface_hub: Any, name: str, choose: Choice, kind: Kind) -> Path | None:
    """Return the folder of an earlier download that holds all that is read, or None.

    The library itself knows a whole repository by the name of a branch; ours is asked for by its commit, and in part.
    """
    kept = Path(huggingface_hub.constants.HF_HUB_CACHE) / f"models--{name.replace('/', '--')}"
    with suppress(OSError, ValueError):
        branch = _commit_of_main(kept)
        found = [folder for folder in (kept / "snapshots").iterdir() if folder.is_dir()]
        found.sort(key=lambda folder: (folder.name == branch, folder.stat().st_mtime), reverse=True)
        return next((folder for folder in found if _is_whole(folder, choose, kind)), None)
    return None


def _commit_of_main(kept: Path) -> str | None:
    try:
        return reading.read_text(kept / "refs" / "main", 1000).strip()
    except (OSError, ValueError):
        return None


def _is_whole(folder: Path, choose: Choice, kind: Kind) -> bool:
    """Tell whether a folder has all files that would be chosen from those that it has."""
    names = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    try:
        chosen = choose(names, folder.joinpath)
    except UserError:
        return False
    marked = set(kind.marks) & {name.rpartition("/")[2] for name in names}
    if not marked and any(name.rpartition("/")[2].startswith(kind.usual) for name in chosen):
        return False
    return all((folder / name).is_file() for name in chosen)


def _is_of_disk(error: Exception) -> bool:
    """Tell whether an error is of the cache's disk: of the network's errors none names a file."""
    return isinstance(error, OSError) and error.errno in DISK and error.filename is not None


def means_no_network(error: Exception) -> bool:
    """Tell whether an error is neither an answer of the hub, nor a refused name, nor of the disk."""
    refused = any(kind.__name__ == "HFValidationError" for kind in type(error).__mro__)
    full = isinstance(error, OSError) and error.errno == errno.ENOSPC
    return getattr(error, "response", None) is None and not refused and not full and not _is_of_disk(error)


def _reason(error: Exception, name: str, huggingface_hub: Any, kind: Kind) -> str:
    """Return the reason and the remedy, by the class names that all versions of the library share."""
    kinds = {kind.__name__ for kind in type(error).__mro__}
    if "GatedRepoError" in kinds:
        return f"its owner asks for an agreement first: accept it on its page and log in, {kind.elsewhere}"
    if "RepositoryNotFoundError" in kinds:
        near = catalog.nearest(name) if kind is MODEL else None
        known = f" (the nearest known are {', '.join(near)})" if near else ""
        absent = f"no such folder here, and no such {kind.word} on the hub"
        return f"{absent} (or it is private: log in); check the name{known}"
    if "HFValidationError" in kinds:
        return "no such folder here, and no possible name on the hub; check the name"
    answer = getattr(error, "response", None)
    if answer is not None:
        status = getattr(answer, "status_code", "with an error")
        return f"the hub answered {status}; try again later, {kind.elsewhere}"
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return "no space left for the download; free some, or set HF_HOME to a larger disk"
    if isinstance(error, OSError) and _is_of_disk(error):
        place = huggingface_hub.constants.HF_HOME
        return f"the hub's cache, {place}, cannot be written ({why(error)}); set HF_HOME to a folder of yours"
    wanted = f"would have fetched {describe_download(name, kind)}"
    if getattr(huggingface_hub.constants, OFFLINE, False):
        return f"{OFFLINE} is set, and it was not downloaded before; {wanted}: unset the variable, {kind.elsewhere}"
    return f"the hub cannot be reached; {wanted}: check the network, {kind.elsewhere}"


def describe_download(name: str, kind: Kind = MODEL) -> str:
    """Return in words what is downloaded: the repository, its files, and their size where it is known."""
    known = catalog.find(name) if kind is MODEL else None
    if known is None:
        return f"from {name} {kind.contents}"
    size = f" ({known.size})" if known.size else ""
    return f"from {known.name} {', '.join(known.files)}{size}"


@contextmanager
def bars(wanted: bool) -> Iterator[None]:
    """Switch the hub library's progress bars off unless they are wanted, and restore the setting afterwards."""
    from huggingface_hub.utils import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    if wanted or are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()
