"""Sortings of sorted folders, within and between them, undone in any order: no content is lost at any moment."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path
from typing import Any

import pytest
from sort_trees import LABELS, make_tree, parts_left
from test_sort import plan_of

import sharpzo_mlx as sz

SIDECARS = (".xmp", ".aae", ".mov")
MODES: list[Any] = ["move", "move", "copy", "link"]


def visible(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and ".sharpzo-sort" not in path.parts)


def contents(folder: Path) -> set[str]:
    return {hashlib.sha256(path.read_bytes()).hexdigest() for path in visible(folder)}


def sort_some(folder: Path, into: Path, rng: random.Random) -> str | None:
    """Sort a few images of a folder with random labels, and return the journal."""
    images = [path.relative_to(folder).as_posix() for path in visible(folder) if path.suffix.lower() not in SIDECARS]
    chosen = rng.sample(images, min(8, len(images)))
    plan = plan_of(folder, {path: rng.choice(LABELS) for path in chosen}, into, rng.choice(MODES))
    try:
        return plan.apply().journal
    except sz.UserError:  # such as a file with the name of a class folder
        return None


@pytest.mark.parametrize("seed", range(12))
def test_no_sequence_loses_a_content(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    photos, into = tmp_path / "t" / "p", tmp_path / "t" / "s"
    into.mkdir(parents=True)
    photos.mkdir()
    make_tree(photos, rng)
    whole, journals = contents(photos), list[str]()
    for _ in range(6):
        if journals and rng.random() < 0.4:
            journal = journals.pop(rng.randrange(len(journals)))
            if sz.undo_sort(journal).kept:
                journals.append(journal)
        else:
            folder = rng.choice([photos, into])
            done = sort_some(folder, rng.choice([photos, into, photos / "more"]), rng)
            journals += [done] if done else []
        assert contents(photos) | contents(into) == whole
        assert parts_left(tmp_path) == []
