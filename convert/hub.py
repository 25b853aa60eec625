"""Download the few files of a hub model that a conversion reads, into the hub's own cache.

`huggingface_hub` does the work and is imported only here, at the first download. Without a network, the files of an
earlier download in its cache are used. Every failure is one line with a remedy.

>>> folder = fetch("openai/clip-vit-base-patch16", choose)  # doctest: +SKIP
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

from sharpzo_mlx.errors import UserError

Reader: TypeAlias = Callable[[str], Path]  # downloads a small file: its name -> its path
Choice: TypeAlias = Callable[[Collection[str], Reader], list[str]]

ELSEWHERE = "or download the model's folder on another machine and give its path"


def fetch(name: str, choose: Choice, *, progress: bool = False) -> Path:
    """Download a model's files.

    Args:
        name: `owner/name`.
        choose: returns the names to download, from the names of all files and a reader of small ones.
        progress: let the hub's library draw progress bars.

    Returns:
        The folder with these files; it belongs to the hub's cache and must not be changed.

    Raises:
        UserError: the model is unknown, gated or private, there is no network, or `choose` raises it.
    """
    try:
        import huggingface_hub
    except ImportError as error:
        raise UserError(f"{name}: downloads need huggingface_hub: pip install huggingface_hub") from error
    with _bars(progress):
        try:
            return _download(huggingface_hub, name, choose)
        except UserError as error:
            raise UserError(f"{name}: {error}") from error
        # the hub's library raises those of its HTTP client, which differs from version to version
        except Exception as error:
            if _means_no_network(error) and (cached := _cached(huggingface_hub, name)):
                notice = f"{name}: no network; using the files of an earlier download"
                logging.getLogger("sharpzo_mlx").warning(notice)
                return cached
            raise UserError(f"{name}: {_reason(error)}") from error


def _download(huggingface_hub: Any, name: str, choose: Choice) -> Path:
    info = huggingface_hub.HfApi().model_info(name, timeout=20)
    names = [file.rfilename for file in info.siblings or ()]

    def read(file: str) -> Path:
        return Path(huggingface_hub.hf_hub_download(name, file, revision=info.sha))

    files = choose(names, read)
    return Path(huggingface_hub.snapshot_download(name, revision=info.sha, allow_patterns=files))


def _cached(huggingface_hub: Any, name: str) -> Path | None:
    """Return the folder of an earlier download, which may be incomplete, or None."""
    try:
        return Path(huggingface_hub.snapshot_download(name, local_files_only=True))
    except Exception:  # whatever the reason, there are no files to use
        return None


def _means_no_network(error: Exception) -> bool:
    """Tell whether an error is neither an answer of the hub, nor a refused name, nor a full disk."""
    refused = any(kind.__name__ == "HFValidationError" for kind in type(error).__mro__)
    full = isinstance(error, OSError) and error.errno == errno.ENOSPC
    return getattr(error, "response", None) is None and not refused and not full


def _reason(error: Exception) -> str:
    """Return the reason and the remedy, by the class names that all versions of the library share."""
    kinds = {kind.__name__ for kind in type(error).__mro__}
    if "GatedRepoError" in kinds:
        return f"its owner asks for an agreement first: accept it on the model's page and log in, {ELSEWHERE}"
    if "RepositoryNotFoundError" in kinds:
        return "no such folder here, and no such model on the hub (or it is private: log in); check the name"
    if "HFValidationError" in kinds:
        return "no such folder here, and no possible name on the hub; check the name"
    answer = getattr(error, "response", None)
    if answer is not None:
        status = getattr(answer, "status_code", "with an error")
        return f"the hub answered {status}; try again later, {ELSEWHERE}"
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return "no space left for the download; free some, or set HF_HOME to a larger disk"
    return f"the hub cannot be reached; check the network, {ELSEWHERE}"


@contextmanager
def _bars(wanted: bool) -> Iterator[None]:
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
