"""Write an image's label into its XMP sidecar, beside the image.

A sidecar that is there is added to: `a.jpg.xmp`, or `a.xmp` if no other image is called `a`. A new one is `a.jpg.xmp`,
which darktable and digiKam read, or `a.xmp` on request, as Lightroom has it beside raw files.

>>> make_tag(order, Item("a.jpg", "cat")).target  # doctest: +SKIP
'a.jpg.xmp'
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import os
from contextlib import suppress
from pathlib import Path

from sharpzo_mlx.reading import read_bytes
from sharpzo_mlx.sorting.copying import sync
from sharpzo_mlx.sorting.items import Item, Order
from sharpzo_mlx.sorting.journal import Step
from sharpzo_mlx.sorting.sidecars import XMP, Sidecar, Sidecars
from sharpzo_mlx.sorting.transfer import place_new, replace_known
from sharpzo_mlx.sorting.xmp import LARGEST, add_keyword


def find_sidecar(order: Order, sidecars: Sidecars, path: str) -> str:
    """Return the path of the sidecar that an image's label is written to, below the folder; it need not exist."""
    place, slash, name = path.rpartition("/")
    own = [one for one in sidecars.find(path) if one.name.lower().endswith(XMP) and one.owners == (name,)]
    own.sort(key=lambda one: _has_stem_alone(one, name) != order.xmp_by_stem)
    new = os.path.splitext(name)[0] if order.xmp_by_stem else name
    return place + slash + (own[0].name if own else new + XMP)


def _has_stem_alone(sidecar: Sidecar, name: str) -> bool:
    return sidecar.ending.lower() == XMP and sidecar.stem == os.path.splitext(name)[0]


def make_tag(order: Order, sidecars: Sidecars, item: Item) -> tuple[Step, bytes] | None:
    """Return the step that tags an image and the sidecar's new content, or None if it has the label already.

    Raises:
        OSError: the sidecar cannot be read.
        ValueError: it cannot be added to; the message is the reason.
    """
    assert item.label is not None
    target = find_sidecar(order, sidecars, item.path)
    path = order.folder / target
    if path.is_symlink():
        raise ValueError(f"its sidecar {target} is a link")
    old = read_bytes(path, LARGEST) if os.path.lexists(path) else None
    try:
        new = add_keyword(old, item.label)
    except ValueError as error:
        raise ValueError(f"its sidecar {target} stays as it is: {error}") from None
    if new == old:
        return None
    step = Step("tag", item.path, target, sha256=hashlib.sha256(new).hexdigest())
    if old is not None:
        before, digest = base64.b64encode(old).decode(), hashlib.sha256(old).hexdigest()
        step = dataclasses.replace(step, old=before, old_sha256=digest, mtime_ns=path.stat().st_mtime_ns)
    return step, new


def write_tag(step: Step, new: bytes, target: Path, part: Path) -> None:
    """Put a sidecar's new content in place.

    Raises:
        FileExistsError: it was changed meanwhile, or a new one has appeared.
        OSError: it cannot be written; the part may be left.
    """
    with part.open("xb") as file:
        file.write(new)
    sync(part)
    if step.old is None:
        place_new(part, target)
        return
    with suppress(OSError):
        os.chmod(part, target.stat().st_mode & 0o7777)
    if not replace_known(target, base64.b64decode(step.old), part):
        raise FileExistsError(str(target))
