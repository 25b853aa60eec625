"""Send a parcel to the hub in one commit, so that a repository never holds a part of it.

`huggingface_hub` does the work, with the login of its own command. A repository that is there gets another commit; it
is never made public or private, and no other file of it is touched.

>>> send(pack("runs/pets", "ann/pets"), public=False)  # doctest: +SKIP
'https://HUB/ann/pets'
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sharpzo_mlx.clip.checkpoint import WEIGHTS
from sharpzo_mlx.errors import UserError, notify, one_line
from sharpzo_mlx.hub.download import OFFLINE, bars, means_no_network
from sharpzo_mlx.runs.run import RECORD
from sharpzo_mlx.runtime.loggers import quiet_loggers
from sharpzo_mlx.sharing.parcel import Parcel

LOG_IN = "log in with `hf auth login`, or set HF_TOKEN to a token that may write"
MARKS = {"run": RECORD, "model": WEIGHTS}


def send(parcel: Parcel, *, public: bool = False, progress: bool = False) -> str:
    """Send a parcel.

    Args:
        parcel: what `pack` made.
        public: make a new repository public, and allow that one that is there is.
        progress: let the hub's library draw progress bars.

    Returns:
        The address of the repository.

    Raises:
        UserError: nobody is logged in, the hub refuses, or there is no network. A new repository may be left empty;
            it never holds a part.
    """
    import huggingface_hub
    from huggingface_hub import constants

    if getattr(constants, OFFLINE, False):
        raise UserError(f"{parcel.repository}: {OFFLINE} is set; unset it to send something")
    if not huggingface_hub.get_token():
        raise UserError(f"{parcel.repository}: nobody is logged in at the hub; {LOG_IN}")
    with bars(progress), quiet_loggers("huggingface_hub"):  # it tries again, and what counts becomes an error
        try:
            return _send(huggingface_hub, parcel, public)
        except UserError:
            raise
        # the hub's library raises those of its HTTP client, which differs from version to version
        except Exception as error:
            raise UserError(f"{parcel.repository}: {_reason(error, parcel)}; nothing was sent") from error


def _send(huggingface_hub: Any, parcel: Parcel, public: bool) -> str:
    api = huggingface_hub.HfApi()
    if (found := _find(api, parcel.repository)) is None:
        api.create_repo(parcel.repository, private=not public, exist_ok=False)
    else:
        _check_found(found, parcel, public)
    operations = [
        huggingface_hub.CommitOperationAdd(
            path_in_repo=item.name,
            path_or_fileobj=item.content if isinstance(item.content, bytes) else str(item.content),
        )
        for item in parcel.items
    ]
    api.create_commit(parcel.repository, operations, commit_message=f"Add a {parcel.kind} of sharpzo-mlx")
    return f"{api.endpoint}/{parcel.repository}"


def _find(api: Any, name: str) -> Any:
    """Return what the hub says of a repository, or None where there is none that this user may see."""
    try:
        return api.model_info(name, timeout=20)
    except Exception as error:
        if "RepositoryNotFoundError" in _kinds(error) and "GatedRepoError" not in _kinds(error):
            return None
        raise


def _check_found(found: Any, parcel: Parcel, public: bool) -> None:
    names = {file.rfilename for file in found.siblings or ()}
    other = next((kind for kind, mark in MARKS.items() if mark in names and kind != parcel.kind), None)
    if other:
        raise UserError(f"{parcel.repository}: holds a {other}; choose another name for this {parcel.kind}")
    private = bool(getattr(found, "private", False))
    if not private and not public:
        raise UserError(f"{parcel.repository}: is public on the hub; add --public if this is meant to be, or rename")
    if private and public:
        notify(f"{parcel.repository}: stays private; make it public on its page")


def _reason(error: Exception, parcel: Parcel) -> str:
    """Return the reason and the remedy, by what all versions of the library share."""
    owner = parcel.repository.partition("/")[0]
    answer = next((found for one in _chain(error) if (found := getattr(one, "response", None)) is not None), None)
    status = getattr(answer, "status_code", None)
    if status == 401:
        return f"the hub does not accept the login; {LOG_IN}"
    if status == 403:
        return f"the login may not write to {owner}; {LOG_IN}"
    if status == 404:
        return f"no {owner} on the hub that the login may write to; check the name"
    if status in (409, 412):
        return "it was changed by somebody else at the same time; try again"
    if status in (402, 413, 507):
        return "the hub has no room left for it; see the plan of the account"
    if status is not None:
        return f"the hub answered {status}; try again later"
    if any(means_no_network(one) and not isinstance(one, (ValueError, RuntimeError)) for one in _chain(error)):
        return "the hub cannot be reached; check the network and try again"
    return f"the hub's library refused it ({one_line(str(error), 200)})"


def _chain(error: BaseException | None) -> Iterator[Exception]:
    """Yield an error and those that it came from."""
    while error is not None:
        if isinstance(error, Exception):
            yield error
        error = error.__cause__ or error.__context__


def _kinds(error: Exception) -> set[str]:
    return {kind.__name__ for kind in type(error).__mro__}
