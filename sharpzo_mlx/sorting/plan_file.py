"""Read and write a plan file: which images of a folder get which labels, made by `sort` or by a review page.

UTF-8 JSON: `{"format": "sharpzo-mlx plan 1", "folder": "/photos", "labels": [{"path": "a.jpg", "label": "cat"}]}`. A
label of null is `unsorted/`. Only listed images are touched, and only inside the folder.

>>> folder, items = read_plan(Path("plan.json"))  # doctest: +SKIP
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from sharpzo_mlx.errors import UserError, shown
from sharpzo_mlx.files import atomic_write, is_inside
from sharpzo_mlx.reading import read_json, reason
from sharpzo_mlx.runs.json_record import JsonRecord, PathText, Text
from sharpzo_mlx.sorting.items import Item
from sharpzo_mlx.sorting.story import inside

FORMAT = "sharpzo-mlx plan 1"


@dataclass(frozen=True)
class Label(JsonRecord):
    """One image of a plan file."""

    path: PathText
    label: Text | None


@dataclass(frozen=True)
class PlanFile(JsonRecord):
    """The content of a plan file; the folder is absolute."""

    format: Text
    folder: PathText
    labels: tuple[Label, ...]


def read_plan(path: Path) -> tuple[Path, tuple[Item, ...]]:
    """Return the folder of a plan file, and its images by folder and name.

    Raises:
        UserError: the file cannot be read or is no plan, its folder is not there, a path is not below it or is there
            twice, or a label is empty.
    """
    try:
        content = read_json(path)
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise ValueError(f'its format is not "{FORMAT}"')
        plan = PlanFile.from_json(content)
        folder = Path(plan.folder)
        if not folder.is_absolute():
            raise ValueError(f"its folder {shown(plan.folder)} is not absolute")
        _check_labels(plan, folder)
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path}: no plan that can be carried out ({reason(error)}); name one that `sort --save-plan` or a review "
            "page wrote"
        ) from error
    if not folder.is_dir():
        raise UserError(f"{path}: its folder {folder} is not there; put it back, or make the plan anew")
    items = (Item(one.path, one.label) for one in plan.labels)
    return folder, tuple(sorted(items, key=lambda item: item.path.rpartition("/")[::2]))


def _check_labels(plan: PlanFile, folder: Path) -> None:
    seen: set[str] = set()
    places: set[str] = set()
    for one in plan.labels:
        place = one.path.rpartition("/")[0]
        if not inside(one.path) or (place not in places and place and not is_inside(folder / place, folder)):
            raise ValueError(f"the path {shown(one.path)} is not below its folder")
        if one.path in seen:
            raise ValueError(f"the path {shown(one.path)} is there twice")
        if one.label is not None and not one.label.strip():
            raise ValueError(f"the label of {shown(one.path)} is empty")
        seen.add(one.path)
        places.add(place)


def write_plan(path: Path, folder: Path, items: Iterable[Item]) -> None:
    """Write a plan file, one image a line.

    Raises:
        UserError: something has the name.
        OSError: it cannot be written.
    """
    if os.path.lexists(path):
        raise UserError(f"{path}: is there already; name another file for the plan")
    lines = ",\n  ".join(json.dumps({"path": item.path, "label": item.label}) for item in items)
    head = f'{{"format": "{FORMAT}", "folder": {json.dumps(os.path.abspath(folder))}'
    atomic_write(path, f'{head}, "labels": [\n  {lines}\n]}}\n')
