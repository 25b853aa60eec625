"""Published layouts are read as they are: CoOp's split files, FGVC-Aircraft's lists, ImageNet in CoOp's folders."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sharpzo_mlx.datasets.folder import read_folder
from sharpzo_mlx.datasets.splits import Split, draw_split
from sharpzo_mlx.datasets.templates import standard_template
from sharpzo_mlx.errors import UserError


def sizes(split: Split) -> tuple[list[int], list[int], list[int] | None]:
    return split.train.counts(), split.val.counts(), split.test.counts() if split.test else None


def published(folder: Path, root: str = "2750") -> Path:
    """A data set with CoOp's split file, its lists in no order."""
    parts: dict[str, list[tuple[str, int, str]]] = {"train": [], "val": [], "test": []}
    for label, name in ((1, "Forest"), (0, "Annual_Crop"), (2, "River")):
        for part, count in (("train", 20), ("val", 9), ("test", 6)):
            for number in reversed(range(count)):
                path = f"{name}/{part}{number}.jpg"
                parts[part].append((path, label, name))
                (folder / root / path).parent.mkdir(parents=True, exist_ok=True)
                (folder / root / path).touch()
    (folder / "split_zhou_EuroSAT.json").write_text(json.dumps(parts))
    return folder


@pytest.mark.parametrize("root", ["2750", "."])
def test_coops_split_files(root: str, tmp_path: Path) -> None:
    split = draw_split(published(tmp_path, root), shots=16, seed=0)
    assert split.train.class_names == ("Annual Crop", "Forest", "River")
    assert split.train.folders == ("Annual_Crop", "Forest", "River")
    assert sizes(split) == ([16] * 3, [4] * 3, [6] * 3)
    assert split.test is not None
    for part, name in ((split.train, "train"), (split.val, "val"), (split.test, "test")):
        assert all(path.is_file() and path.name.startswith(name) for path in part.paths)
        assert all(path.parent.name == part.folders[label] for path, label in zip(part.paths, part.labels, strict=True))
    assert sizes(draw_split(tmp_path, shots=2, seed=0))[1] == [2] * 3
    evaluated = read_folder(tmp_path)
    assert set(evaluated.paths) == set(split.test.paths)


def test_split_files_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    file = published(tmp_path) / "split_zhou_EuroSAT.json"
    good = file.read_text()
    for bad, match in (
        ("[]", "no split file"),
        ('{"train": []}', "no split file"),
        ('{"train": [], "val": [], "test": []}', "no training images"),
        ('{"train": [["a.jpg", 0]], "val": [], "test": []}', "no split file"),
        (good.replace('"Forest"]', '"Wood"]', 1), "label 1 is both"),
        (good.replace("train19.jpg", "gone.jpg", 1), "gone.jpg is neither"),
    ):
        file.write_text(bad)
        with pytest.raises(UserError, match=match):
            draw_split(tmp_path, shots=16, seed=0)
    file.write_text(json.dumps(json.loads(good) | {"test": []}))
    assert draw_split(tmp_path, shots=16, seed=0).test is None
    with pytest.raises(UserError, match=r"EuroSAT\.json: no test images in it"):
        read_folder(tmp_path)
    (tmp_path / "split_zhou_Other.json").write_text(good)
    with pytest.raises(UserError, match="keep the one to use"):
        draw_split(tmp_path, shots=16, seed=0)


def test_a_split_file_may_list_nothing_for_validation(tmp_path: Path) -> None:
    """Then validation is drawn from the training list; with one image a class it stays empty."""
    file = published(tmp_path) / "split_zhou_EuroSAT.json"
    lists = json.loads(file.read_text()) | {"val": []}
    file.write_text(json.dumps(lists))
    assert sizes(draw_split(tmp_path, shots=2, seed=0)) == ([2] * 3, [2] * 3, [6] * 3)
    one = {entry[1]: entry for entry in lists["train"]}
    for tested in (True, False):
        changes = {"train": list(one.values()), "test": lists["test"] if tested else []}
        file.write_text(json.dumps(lists | changes))
        split = draw_split(tmp_path, shots=1, seed=0, needs_validation=False)
        assert sizes(split) == ([1] * 3, [0] * 3, [6] * 3 if tested else None)
        with pytest.raises(UserError, match="no image is left for validation"):
            draw_split(tmp_path, shots=1, seed=0)


VARIANTS = ("707-320", "F/A-18", "DC-9-30")  # in no alphabetic order, one of them no possible folder


def aircraft(folder: Path) -> Path:
    """FGVC-Aircraft's layout: images by number, a list for each part."""
    (folder / "images").mkdir(parents=True)
    (folder / "variants.txt").write_text("".join(f"{variant}\n" for variant in VARIANTS))
    for part, number, count in (("train", 1000000, 20), ("val", 2000000, 6), ("test", 3000000, 5)):
        rows = [(number + row, VARIANTS[row % 3]) for row in range(3 * count)]
        for name, _ in rows:
            (folder / "images" / f"{name}.jpg").touch()
        (folder / f"images_variant_{part}.txt").write_text("".join(f"{name} {variant}\n" for name, variant in rows))
    return folder


def test_fgvc_aircraft_by_its_own_lists(tmp_path: Path) -> None:
    split = draw_split(aircraft(tmp_path / "planes"), shots=16, seed=0)
    assert split.train.class_names == split.train.folders == VARIANTS
    assert sizes(split) == ([16] * 3, [4] * 3, [5] * 3)
    assert split.test is not None
    for part, first in ((split.train, 1000000), (split.val, 2000000), (split.test, 3000000)):
        assert all(path.is_file() and path.parent.name == "images" for path in part.paths)
        # the fixture deals the variants out in turn, so a number tells its class
        assert [(int(path.stem) - first) % 3 for path in part.paths] == list(part.labels)
    assert set(read_folder(tmp_path / "planes").paths) == set(split.test.paths)
    assert standard_template(tmp_path / "planes") == "a photo of a {}, a type of aircraft."


def test_aircraft_lists_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    folder = aircraft(tmp_path / "planes")
    order = folder / "variants.txt"
    for bad, match in (("707-320\nF/A-18\n", "DC-9-30' names no variant"), (order.read_text() * 2, "a variant twice")):
        order.write_text(bad)
        with pytest.raises(UserError, match=match):
            draw_split(folder, shots=16, seed=0)
    order.unlink()
    with pytest.raises(UserError, match=r"variants\.txt: missing"):
        draw_split(folder, shots=16, seed=0)


def test_imagenet_as_coop_lays_it_out(tmp_path: Path) -> None:
    """`images/` between the data set and its splits, the names beside it."""
    root = tmp_path / "imagenet"
    for part, count in (("train", 20), ("val", 5)):
        for wnid in ("n01440764", "n01443537"):
            (root / "images" / part / wnid).mkdir(parents=True)
            for number in range(count):
                (root / "images" / part / wnid / f"{number}.JPEG").touch()
    (root / "classnames.txt").write_text("n01440764 tench fish\nn01443537 goldfish\nn99999999 not here\n")
    split = draw_split(root, shots=16, seed=0)
    assert split.train.class_names == ("tench fish", "goldfish")
    assert sizes(split) == ([16] * 2, [4] * 2, [5] * 2)
    assert split == draw_split(root / "images", shots=16, seed=0)
    assert read_folder(root / "images" / "val").class_names == split.train.class_names
    with pytest.raises(UserError, match=r"holds train, val; name one of them, such as .*images/train"):
        read_folder(root)
    (root / "images" / "train" / "n01440764").rename(root / "images" / "train" / "n00000000")
    with pytest.raises(UserError, match=r"classnames\.txt: does not name .* n00000000"):
        draw_split(root, shots=16, seed=0)
